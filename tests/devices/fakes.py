"""A board in miniature: memory by page, recorded lines, a clock that stands still, and a driver for split rings."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pyvirt._bus import IrqLine, Mmio, PyClock, PyIrqLine
from pyvirt.devices.base import Clock, Device, Wiring

RAM_BASE, RAM_SIZE = 0x8000_0000, 1 << 20


class FakeMemory:
    """RAM from RAM_BASE on, page by page; counts what was moved, so that tests can see bounds kept."""

    def __init__(self, base: int = RAM_BASE, size: int = RAM_SIZE) -> None:
        self.base, self.size = base, size
        self.pages: dict[int, bytearray] = {}
        self.accesses = 0

    def _check(self, pa: int, n: int) -> None:
        self.accesses += 1
        if not 0 <= pa < 1 << 64:
            raise OverflowError(pa)  # as a conversion to uint64_t would
        if pa < self.base or pa + n > self.base + self.size:
            raise IndexError(f"{pa:#x}")

    def mem_read(self, pa: int, n: int) -> bytes:
        self._check(pa, n)
        out = bytearray()
        while n:
            page, at = divmod(pa, 4096)
            piece = self.pages.get(page, bytes(4096))[at : at + n]
            out += piece
            pa, n = pa + len(piece), n - len(piece)
        return bytes(out)

    def mem_write(self, pa: int, data: bytes) -> None:
        self._check(pa, len(data))
        for i, byte in enumerate(data):
            page, at = divmod(pa + i, 4096)
            self.pages.setdefault(page, bytearray(4096))[at] = byte


class Bench:
    """One device on its own: its register file, its lines' levels, its memory and clock."""

    def __init__(self, device: Device, *, memory: FakeMemory | None = None) -> None:
        self.device = device
        self.memory = memory or FakeMemory()
        self.clock = PyClock()
        self.levels = [False] * device.irqs
        self.exits: list[tuple[str, int]] = []
        device.attach(
            Wiring(
                lines=tuple(IrqLine(PyIrqLine(self._drive, i)) for i in range(device.irqs)),
                clock=Clock(self.clock),
                memory=self.memory,
                on_exit=lambda kind, code: self.exits.append((kind, code)),
            )
        )
        self.mmio = Mmio(device)

    def _drive(self, pin: int, level: bool) -> None:
        self.levels[pin] = level

    def read(self, offset: int, width: int = 4) -> int:
        return self.mmio.read(offset, width)

    def write(self, offset: int, value: int, width: int = 4) -> None:
        self.mmio.write(offset, width, value)


class Driver:
    """The guest's side of a virtio-mmio device: negotiation and split rings at fixed places."""

    def __init__(self, bench: Bench, *, features: int = 1 << 32, size: int = 8, start: bool = True) -> None:
        self.bench, self.size, self.features = bench, size, features
        self.free = RAM_BASE + 0x8_0000
        self.index: dict[int, int] = {}
        self.seen: dict[int, int] = {}
        bench.write(0x70, 0)
        bench.write(0x70, 1)
        bench.write(0x70, 3)
        for half in (0, 1):
            bench.write(0x24, half)
            bench.write(0x20, features >> 32 * half & 0xFFFF_FFFF)
        bench.write(0x70, 0xB)
        for queue in range(bench.device.QUEUES):  # type: ignore[attr-defined]
            self.setup(queue)
        if start:
            bench.write(0x70, 0xF)

    def areas(self, queue: int) -> tuple[int, int, int]:
        base = RAM_BASE + 0x1_0000 * (queue + 1)
        return base, base + 0x4000, base + 0x8000

    def setup(self, queue: int) -> None:
        desc, avail, used = self.areas(queue)
        self.bench.write(0x30, queue)
        self.bench.write(0x38, self.size)
        for register, address in ((0x80, desc), (0x90, avail), (0xA0, used)):
            self.bench.write(register, address & 0xFFFF_FFFF)
            self.bench.write(register + 4, address >> 32)
        self.bench.write(0x44, 1)
        self.index[queue] = self.seen[queue] = 0

    def alloc(self, n: int) -> int:
        at = self.free
        self.free += -(-n // 16) * 16
        return at

    def describe(self, queue: int, number: int, address: int, size: int, flags: int, following: int = 0) -> None:
        desc = self.areas(queue)[0]
        self.bench.memory.mem_write(desc + 16 * number, struct.pack("<QIHH", address, size, flags, following))

    def offer(self, queue: int, head: int, *, notify: bool = True) -> None:
        avail = self.areas(queue)[1]
        slot = self.index[queue] % self.size
        self.bench.memory.mem_write(avail + 4 + 2 * slot, struct.pack("<H", head))
        self.index[queue] = (self.index[queue] + 1) & 0xFFFF
        self.bench.memory.mem_write(avail + 2, struct.pack("<H", self.index[queue]))
        if notify:
            self.bench.write(0x50, queue)

    def chain(
        self,
        queue: int,
        out: Sequence[bytes],
        room: Sequence[int],
        *,
        head: int = 0,
        notify: bool = True,
        indirect: bool = False,
    ) -> list[int]:
        """Offer a chain of pieces to read, then pieces to write; return the addresses of the latter."""
        pieces: list[tuple[int, int, int]] = []
        for data in out:
            address = self.alloc(len(data))
            self.bench.memory.mem_write(address, data)
            pieces.append((address, len(data), 0))
        for size in room:
            pieces.append((self.alloc(size), size, 2))
        entries = [
            (a, n, f | (1 if i + 1 < len(pieces) else 0), (0 if indirect else head) + i + 1)
            for i, (a, n, f) in enumerate(pieces)
        ]
        if indirect:
            table = self.alloc(16 * len(entries))
            self.bench.memory.mem_write(table, b"".join(struct.pack("<QIHH", *e) for e in entries))
            self.describe(queue, head, table, 16 * len(entries), 4)
        else:
            for i, (address, size, flags, following) in enumerate(entries):
                self.describe(queue, head + i, address, size, flags, following)
        self.offer(queue, head, notify=notify)
        return [a for a, _, f in pieces if f]

    def used(self, queue: int) -> list[tuple[int, int]]:
        """Return the elements used since the last call, as (head, written)."""
        used = self.areas(queue)[2]
        index = int.from_bytes(self.bench.memory.mem_read(used + 2, 2), "little")
        out = []
        while self.seen[queue] != index:
            slot = used + 4 + 8 * (self.seen[queue] % self.size)
            out.append(struct.unpack("<II", self.bench.memory.mem_read(slot, 8)))
            self.seen[queue] = (self.seen[queue] + 1) & 0xFFFF
        return out
