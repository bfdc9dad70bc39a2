"""Taking what an overlay holds out of memory: into the file under it (commit), or to a file of its own (export).

A commit changes the file that other disks and snapshots may stand on. Those of this process that would notice are found
first; they refuse it, or are given the old blocks. It survives the death of the process at any moment: the blocks are
written to a journal beside the file, which is whole or not there, before the file is touched, and the journal goes when
the file is durable. A disk whose journal is there is not opened before `Disk.recover(path)` has finished the job.
"""
from __future__ import annotations

import fcntl
import gc
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pyvirt.disks.blocks import Blocks
from pyvirt.disks.disk import BLOCK, DISKS, IMAGES, BaseFile, Disk, DiskImage
from pyvirt.errors import ConfigError, HostError
from pyvirt.files.aside import aside

MAGIC = b"pyvirt disk journal 1\n"
HEADER = struct.Struct("<22sQQQ32s")     # magic, size of the disk, inode of its file, blocks, digest of what follows
CHUNK = 1 << 20


def journal(path: Path) -> Path:
    """Return where the journal of a disk's file is while a commit lasts."""
    return path.with_name(f".{path.name}.commit")


def commit(disk: Disk, *, copy: bool) -> int:
    """Do what `Disk.commit` says."""
    if disk.mode == "direct":
        disk.flush()
        return 0
    base = disk._base
    if disk.read_only:
        raise ConfigError(f"disk {disk.path}: is read-only; allowed for commit: one opened with read_only=False")
    if type(base) is not BaseFile:
        raise ConfigError(f"disk {disk.path}: stands on no file of its own, but on a saved machine's; allowed: "
                          "disk.export(path), which makes one")
    handle = _open(disk.path, base)
    try:
        changed = {n: block for n, block in disk._overlay.items() if block != disk._read_block(n)}
        needing = [user for user in _others(disk, base) if any(n not in _blocks(user) for n in changed)]
        if needing and not copy:
            gc.collect()        # what nobody holds any more needs nothing
            needing = [user for user in _others(disk, base) if any(n not in _blocks(user) for n in changed)]
            if needing:
                raise ConfigError(
                    f"disk {disk.path}: {len(needing)} snapshots or disks of this process need what its file holds "
                    f"now, such as {needing[0]!r}; allowed: to delete the snapshots and close the machines, or "
                    "commit(copy=True), which copies the old blocks into them first")
        old = {n: disk._read_block(n) for n in changed} if needing else {}
        _write_journal(disk, changed, base)
        for user in needing:
            _keep(user, old)
        _write_blocks(handle, changed.items(), disk.path)
        _settle(disk, base, changed)
        journal(disk.path).unlink()
        return len(changed)
    finally:
        os.close(handle)


def _open(path: Path, base: BaseFile | None) -> int:
    """Open a disk's file for writing, locked; it must be the one that `base` reads."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(error.errno, f"disk {path}: cannot be opened for writing: {error.strerror}") from error
    try:
        if base is not None and not os.path.sameopenfile(handle, base.fd):
            raise HostError(2, f"disk {path}: another file is there now than the one that was opened")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, HostError):
            raise
        raise HostError(error.errno, f"disk {path}: is locked by a machine that writes it in place") from error
    return handle


def _same(a: BaseFile | None, b: BaseFile) -> bool:
    return a is b or (type(a) is BaseFile and a.fd >= 0 and os.path.sameopenfile(a.fd, b.fd))


def _others(disk: Disk, base: BaseFile) -> list[Disk | DiskImage]:
    """Return the other disks, and the images, that stand on the same file."""
    users: list[Disk | DiskImage] = [user for user in DISKS if user is not disk]
    users += IMAGES
    return [user for user in users if _same(user._base, base)]


def _blocks(user: Disk | DiskImage) -> Blocks:
    return user._overlay if isinstance(user, Disk) else user._blocks


def _keep(user: Disk | DiskImage, old: dict[int, bytes]) -> None:
    """Let a disk or image hold by itself the blocks that it read from the file; its content stays."""
    blocks = _blocks(user)
    for number, block in old.items():
        if number not in blocks:
            blocks[number] = block


def _settle(disk: Disk, base: BaseFile, changed: Iterable[int]) -> None:
    """Let everybody who stands on the file know it as it is now."""
    now = base.identity
    for user in [disk, *_others(disk, base)]:
        assert user._base is not None
        for number in changed:
            user._base.digests.pop(number * BLOCK // CHUNK, None)
        if isinstance(user, DiskImage):
            user._identity = now
    disk._overlay = Blocks(disk._overlay.count)
    disk._image = None


# ---- the journal -------------------------------------------------------------------------------------------------
def _write_journal(disk: Disk, changed: dict[int, bytes], base: BaseFile) -> None:
    from blake3 import blake3

    digest = blake3()
    with aside(journal(disk.path), what=f"disk {disk.path}: journal") as file:
        file.seek(HEADER.size)
        for number, block in changed.items():
            piece = number.to_bytes(8, "little") + block
            digest.update(piece)
            file.write(piece)
        file.seek(0)
        file.write(HEADER.pack(MAGIC, disk.size, os.fstat(base.fd).st_ino, len(changed), digest.digest()))


def recover(path: Path) -> bool:
    """Do what `Disk.recover` says."""
    place = journal(path)
    if not place.exists():
        return False
    handle = _open(path, None)
    try:
        size, inode, count, digest = _read_header(place)
        if (os.fstat(handle).st_size, os.fstat(handle).st_ino) != (size, inode):
            raise HostError(5, f"disk {path}: its journal {place} is of another file; it belongs to one of {size} "
                            "bytes. Bring that back, or remove the journal")
        with place.open("rb") as file:
            if _digest(file, count) != digest:
                raise HostError(5, f"disk {path}: its journal {place} is damaged")
            _write_blocks(handle, _records(file, count), path)
    finally:
        os.close(handle)
    place.unlink()
    return True


def _read_header(place: Path) -> tuple[int, int, int, bytes]:
    with place.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) != HEADER.size or not head.startswith(MAGIC):
        raise HostError(5, f"disk: {place} is no journal of a commit")
    _, size, inode, count, digest = HEADER.unpack(head)
    if place.stat().st_size != HEADER.size + count * (8 + BLOCK) or count > -(-size // BLOCK):
        raise HostError(5, f"disk: {place} is damaged: {count} blocks do not fit into its size")
    return size, inode, count, digest


def _records(file: Any, count: int) -> Iterator[tuple[int, bytes]]:
    file.seek(HEADER.size)
    for _ in range(count):
        yield int.from_bytes(file.read(8), "little"), file.read(BLOCK)


def _digest(file: Any, count: int) -> bytes:
    from blake3 import blake3

    total = blake3()
    for number, block in _records(file, count):
        total.update(number.to_bytes(8, "little") + block)
    return total.digest()


def _write_blocks(handle: int, blocks: Iterable[tuple[int, bytes]], path: Path) -> None:
    size = os.fstat(handle).st_size
    try:
        for number, block in blocks:
            view, offset = memoryview(block)[:max(size - number * BLOCK, 0)], number * BLOCK
            while view:
                done = os.pwrite(handle, view, offset)
                view, offset = view[done:], offset + done
        os.fsync(handle)
    except OSError as error:
        raise HostError(error.errno, f"disk {path}: cannot be written: {error.strerror}; its journal "
                        f"{journal(path)} holds what is missing: Disk.recover(path) writes it") from error


# ---- export ------------------------------------------------------------------------------------------------------
def export(disk: Disk, path: Path) -> None:
    """Do what `Disk.export` says."""
    if path.exists() and disk.path.exists() and path.samefile(disk.path):
        raise ConfigError(f"disk {disk.path}: can't be exported to its own file; allowed: another path, or commit()")
    zero = bytes(BLOCK)
    with aside(path, what=f"disk {disk.path}: export") as file:
        for start in range(0, disk.size, CHUNK):
            data = disk.read(start, min(CHUNK, disk.size - start))
            if data.count(0) == len(data):
                continue
            for at in range(0, len(data), BLOCK):
                piece = data[at:at + BLOCK]
                if piece != zero[:len(piece)]:
                    file.seek(start + at)
                    file.write(piece)
        file.truncate(disk.size)
