"""The digest of a machine: 32 bytes over everything that decides what it does next, and nothing else.

| covered | not covered |
|---|---|
| board, resolved ISA, harts, RAM size, clock, seed, time ratio, quantum | host facts, paths, limits, which core runs |
| clock and harts: all of the packed state | translations, decoded code |
| RAM: content (an absent, a zero and an untouched page are equal) | which pages are resident |
| every device: its `state` | output not yet drained, transcripts |
| disks: content (an overlay block equal to the file's is no change) | mode, which blocks an overlay holds |
| whether the guest has ended, and how | |
"""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pyvirt.board import Board
from pyvirt.devices.virtio_blk import VirtioBlk
from pyvirt.disks.disk import BLOCK, Disk

CHUNK = 1 << 20


def encode(value: Any) -> bytes:
    """Return plain values as bytes, one way only: equal values and no others give equal bytes."""
    if value is None or isinstance(value, bool):
        return b"n" if value is None else b"t" if value else b"f"
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, str):
        data = value.encode()
        return b"s%d:%s" % (len(data), data)
    if isinstance(value, (bytes, bytearray)):
        return b"b%d:%s" % (len(value), bytes(value))
    if isinstance(value, (list, tuple)):
        return b"l%d:%s" % (len(value), b"".join(map(encode, value)))
    if isinstance(value, Mapping):
        return b"d%d:%s" % (len(value), b"".join(encode(k) + encode(value[k]) for k in sorted(value)))
    raise TypeError(f"{type(value).__name__} {value!r} has no place in a state")


def _chunk_digests(disk: Disk, wanted: list[int]) -> dict[int, bytes]:
    import blake3

    zero = blake3.blake3(bytes(CHUNK)).digest()
    found = {}
    for number in wanted:
        data = disk.read(number * CHUNK, min(CHUNK, disk.size - number * CHUNK))
        found[number] = zero if len(data) == CHUNK and not any(data[:64]) and data.count(0) == CHUNK else \
            blake3.blake3(data).digest()
    return found


def disk_digest(disk: Disk) -> bytes:
    """Return the digest of a disk's content, in chunks of 1 MiB; what an overlay leaves alone is read once."""
    import blake3

    chunks = range(-(-disk.size // CHUNK))
    if disk.mode == "direct":
        digests = _chunk_digests(disk, list(chunks))
    else:
        # Base digests hold where the overlay has nothing; they are asked for before anything else changes them.
        changed = {number * BLOCK // CHUNK for number in disk.overlay}
        base = disk.base_digests
        base.update(_chunk_digests(disk, [n for n in chunks if n not in changed and n not in base]))
        digests = {**base, **_chunk_digests(disk, sorted(changed))}
    total = blake3.blake3(encode(disk.size))
    for number in chunks:
        total.update(digests[number])
    return total.digest()


def machine_digest(board: Board, *, ended: tuple[Any, ...] | None, extra: Mapping[str, Any]) -> bytes:
    """Return the digest of a machine at rest; `extra` are further plain values of its configuration."""
    import blake3

    board.core.evict()
    total = blake3.blake3(b"pyvirt machine 1\n")
    total.update(encode(dataclasses.asdict(board.config)))
    total.update(encode(dict(extra)))
    total.update(encode(board.core.state))
    total.update(encode(board.ram.digest()))
    for placed in board.placed:
        total.update(encode([list(placed.bases), list(placed.irqs), placed.device.state]))
        if isinstance(placed.device, VirtioBlk):
            total.update(encode(disk_digest(placed.device.disk)))
    total.update(encode(ended))
    return total.digest()
