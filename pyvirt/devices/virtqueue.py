"""The split virtqueue, device side (virtio 1.2, section 2.7): descriptor chains out, used elements in.

Rings live in guest memory and may say anything: every address is checked by the memory it is read from, every length
and index here, and no loop is longer than the ring or an indirect table. What breaks a rule raises VirtqueueError, on
which the transport sets DEVICE_NEEDS_RESET.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from pyvirt.devices.base import DmaMemory

QUEUE_MAX = 256
TABLE_MAX = 1024          # descriptors of an indirect table
CHAIN_BYTES_MAX = 16 << 20  # of one direction of one chain; bounds the work of a notification
ADDRESS_END = 1 << 64

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
AVAIL_NO_INTERRUPT = 1


class VirtqueueError(Exception):
    """The driver broke a rule of the ring."""


@dataclass
class Chain:
    """One buffer of the driver: pieces the device reads, then pieces it writes, as (address, length)."""

    memory: DmaMemory
    head: int
    readable: list[tuple[int, int]] = field(default_factory=list)
    writable: list[tuple[int, int]] = field(default_factory=list)

    @property
    def read_size(self) -> int:
        return sum(n for _, n in self.readable)

    @property
    def write_size(self) -> int:
        return sum(n for _, n in self.writable)

    def read(self, offset: int = 0, n: int | None = None) -> bytes:
        """Gather up to `n` bytes of the readable pieces from `offset` on."""
        left = self.read_size - offset if n is None else n
        out = []
        for address, size in self.readable:
            if offset >= size:
                offset -= size
                continue
            take = min(size - offset, left)
            if take <= 0:
                break
            out.append(dma_read(self.memory, address + offset, take))
            left, offset = left - take, 0
        return b"".join(out)

    def write(self, data: bytes, offset: int = 0) -> int:
        """Scatter `data` over the writable pieces from `offset` on; return how much fitted."""
        done = 0
        for address, size in self.writable:
            if offset >= size:
                offset -= size
                continue
            piece = data[done:done + size - offset]
            if not piece:
                break
            dma_write(self.memory, address + offset, piece)
            done, offset = done + len(piece), 0
        return done


def dma_read(memory: DmaMemory, address: int, n: int) -> bytes:
    """Read guest memory, or raise VirtqueueError where there is none."""
    if address + n > ADDRESS_END:
        raise VirtqueueError(f"address {address:#x} + {n} wraps around")
    try:
        return memory.mem_read(address, n)
    except IndexError as error:
        raise VirtqueueError(f"no memory at {address:#x}..{address + n:#x}") from error


def dma_write(memory: DmaMemory, address: int, data: bytes) -> None:
    """Write guest memory, or raise VirtqueueError where there is none."""
    if address + len(data) > ADDRESS_END:
        raise VirtqueueError(f"address {address:#x} + {len(data)} wraps around")
    try:
        memory.mem_write(address, data)
    except IndexError as error:
        raise VirtqueueError(f"no memory at {address:#x}..{address + len(data):#x}") from error


class Virtqueue:
    """One queue: its three areas, its size, and how far the device has come.

    `size` and the addresses are what the driver wrote; `enable` checks them. `event_idx` and `indirect` follow the
    negotiated features.
    """

    FIELDS = ("size", "ready", "desc", "avail", "used", "next_avail", "next_used", "signalled")

    def __init__(self, size_max: int = QUEUE_MAX) -> None:
        self.size_max = size_max
        self.event_idx = self.indirect = False
        self._taken = False
        self.reset()

    def reset(self) -> None:
        self.size = self.size_max
        self.ready = False
        self.desc = self.avail = self.used = 0
        self.next_avail = self.next_used = 0
        self.signalled = 0  # used index at the last interrupt decision

    def enable(self) -> None:
        """Take the queue into service, or raise VirtqueueError (2.7: sizes and alignments)."""
        if not 0 < self.size <= self.size_max or self.size & (self.size - 1):
            raise VirtqueueError(f"queue size {self.size}, expected a power of two up to {self.size_max}")
        if self.desc % 16 or self.avail % 2 or self.used % 4:
            raise VirtqueueError(
                f"queue areas {self.desc:#x}, {self.avail:#x}, {self.used:#x} are not aligned to 16, 2, 4")
        self.next_avail = self.next_used = self.signalled = 0
        self.ready = True

    def _u16(self, memory: DmaMemory, address: int) -> int:
        return int.from_bytes(dma_read(memory, address, 2), "little")

    def pending(self, memory: DmaMemory) -> int:
        """How many chains the driver has made available; raises when that is more than the ring holds."""
        count = (self._u16(memory, self.avail + 2) - self.next_avail) & 0xFFFF
        if count > self.size:
            raise VirtqueueError(f"avail index is {count} ahead, the ring holds {self.size}")
        return count

    def pop(self, memory: DmaMemory) -> Chain | None:
        """Take the next chain, or None when there is none."""
        if not self.ready or not self.pending(memory):
            return None
        head = self._u16(memory, self.avail + 4 + 2 * (self.next_avail % self.size))
        chain = self._walk(memory, head)
        self.next_avail = (self.next_avail + 1) & 0xFFFF
        self._taken = True
        return chain

    def unpop(self) -> None:
        """Leave the chain taken last, if it was not handed back, for the next `pop`."""
        if self._taken:
            self.next_avail = (self.next_avail - 1) & 0xFFFF
            self._taken = False

    def _walk(self, memory: DmaMemory, head: int) -> Chain:
        if head >= self.size:
            raise VirtqueueError(f"descriptor {head}, the table holds {self.size}")
        chain = Chain(memory, head)
        table, entries, index, nested, left = self.desc, self.size, head, False, self.size
        totals = [0, 0]
        while True:
            if left == 0:
                raise VirtqueueError(f"chain of descriptor {head} is longer than its table of {entries}")
            left -= 1
            address, size, flags, following = struct.unpack("<QIHH", dma_read(memory, table + 16 * index, 16))
            if flags & DESC_INDIRECT:
                # 2.7.5.3.1: needs the feature, is never nested, and ends the chain.
                if not self.indirect or nested or flags & DESC_NEXT or size % 16 or not 0 < size // 16 <= TABLE_MAX:
                    raise VirtqueueError(f"indirect descriptor {index}: flags {flags:#x}, {size} bytes, "
                                         f"{'nested' if nested else 'not nested'}")
                table, entries, index, nested, left = address, size // 16, 0, True, size // 16
                continue
            writes = bool(flags & DESC_WRITE)
            if not writes and chain.writable:
                raise VirtqueueError(f"descriptor {index}: a readable piece after a writable one")
            totals[writes] += size
            if totals[writes] > CHAIN_BYTES_MAX:
                raise VirtqueueError(f"chain of descriptor {head} has more than {CHAIN_BYTES_MAX} bytes one way")
            if size:
                (chain.writable if writes else chain.readable).append((address, size))
            if not flags & DESC_NEXT:
                return chain
            if following >= entries:
                raise VirtqueueError(f"descriptor {index}: next is {following}, the table holds {entries}")
            index = following

    def push(self, chain: Chain, written: int) -> None:
        """Return a chain with the number of bytes written to it."""
        slot = self.used + 4 + 8 * (self.next_used % self.size)
        dma_write(chain.memory, slot, struct.pack("<II", chain.head, written))
        self.next_used = (self.next_used + 1) & 0xFFFF
        self._taken = False
        dma_write(chain.memory, self.used + 2, struct.pack("<H", self.next_used))

    def ask_notify(self, memory: DmaMemory) -> None:
        """Under event index: ask for a notification at the next chain."""
        if self.event_idx and self.ready:
            dma_write(memory, self.used + 4 + 8 * self.size, struct.pack("<H", self.next_avail))

    def wants_interrupt(self, memory: DmaMemory) -> bool:
        """Whether the driver wants to hear of what was used since this was last asked."""
        old, new = self.signalled, self.next_used
        self.signalled = new
        if old == new:
            return False
        if self.event_idx:
            event = self._u16(memory, self.avail + 4 + 2 * self.size)
            return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._u16(memory, self.avail) & AVAIL_NO_INTERRUPT

    def save(self) -> dict[str, int | bool]:
        return {name: getattr(self, name) for name in self.FIELDS}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])
