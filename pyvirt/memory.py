"""Guest memory as Python sees it: slices, words, searches and dumps over a machine's RAM and ROM.

Owns the argument checks and the messages; where the bytes are is the backend's business. The same class serves physical
memory (`vm.mem`, a list of regions) and virtual memory (`hart.mem`, a backend that translates and refuses by itself).
Device registers are not memory: reading them has effects, so they are reached through the bus only.
"""
from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn, Protocol, SupportsIndex, overload

from pyvirt.errors import ConfigError, GuestAddressError

Buffer = bytes | bytearray | memoryview

TOP = 1 << 64
FIND_CHUNK = 1 << 20


class Backend(Protocol):
    """What a Memory reads and writes through. Ranges never cross the border of a region."""

    def read(self, address: int, n: int, /) -> bytes:
        """Return `n` bytes from `address` on."""

    def write(self, address: int, data: bytes, /) -> None:
        """Store `data` at `address`: all of it or, with an exception, nothing."""


class Region(NamedTuple):
    """A mapped range of addresses."""

    base: int
    size: int
    name: str
    writable: bool = True

    @property
    def end(self) -> int:
        """First address after it."""
        return self.base + self.size

    def __str__(self) -> str:
        return f"{self.name} {self.base:#x}...{self.end:#x}"


class View(bytes):
    """Bytes of guest memory as they were when the view was taken; `address` is where the first one was."""

    address: int

    def __new__(cls, data: Buffer = b"", address: int = 0) -> View:
        self = super().__new__(cls, data)
        self.address = address
        return self

    def hexdump(self) -> str:
        """Return the bytes in rows of sixteen, with addresses and printable characters."""
        return hexdump(self, self.address)


class Words:
    """Little-endian words of one width at any byte address: `mem.u32[a]`, `mem.u32[a] = v`.

    Values read unsigned; negative ones may be written down to the lowest of the width.
    """

    def __init__(self, memory: Memory, width: int) -> None:
        self._memory, self._width = memory, width

    def __getitem__(self, address: SupportsIndex) -> int:
        return int.from_bytes(self._memory.read(self._address(address), self._width), "little")

    def __setitem__(self, address: SupportsIndex, value: SupportsIndex) -> None:
        bits = 8 * self._width
        number = _integer(value, f"the value of a {bits}-bit word")
        if not -(1 << bits - 1) <= number < 1 << bits:
            raise ConfigError(f"{number:#x} does not fit {bits} bits; allowed: "
                              f"{-(1 << bits - 1):#x} to {(1 << bits) - 1:#x}")
        self._memory.write(self._address(address), (number % (1 << bits)).to_bytes(self._width, "little"))

    def __iter__(self) -> NoReturn:
        raise TypeError(f"u{8 * self._width} is not iterable: read mem[start:end] and unpack that")

    def _address(self, address: object) -> int:
        if isinstance(address, slice):
            raise TypeError(f"u{8 * self._width} takes one address, not a slice: read mem[start:end] and unpack that")
        return _integer(address, "an address")

    def __repr__(self) -> str:
        return f"<u{8 * self._width} of {self._memory!r}>"


class Memory:
    """Memory by address.

    `mem[a]` is an int, `mem[a:b]` a read-only View that keeps the bytes of this moment; `mem[a:b] = data` and
    `mem.u64[a] = value` write. `regions` lists what is mapped, sorted or not; None leaves that to the backend, which
    then raises GuestAddressError itself. Addresses are never negative and never relative to the end.

    >>> class Page:
    ...     def __init__(self): self.data = bytearray(4096)
    ...     def read(self, address, n): return bytes(self.data[address:address + n])
    ...     def write(self, address, data): self.data[address:address + len(data)] = data
    >>> mem = Memory(Page(), [(0, 4096, "ram", True)])
    >>> mem.u32[0x10] = 0xdeadbeef
    >>> mem[0x10:0x14]
    b'\\xef\\xbe\\xad\\xde'
    >>> mem.find(b"\\xad\\xde")
    18
    >>> mem[0x1000]
    Traceback (most recent call last):
        ...
    pyvirt.errors.GuestAddressError: 0x1000 is not mapped (reading 0x1000...0x1001); mapped: ram 0x0...0x1000
    """

    def __init__(self, backend: Backend, regions: Sequence[tuple[int, int, str, bool]] | None = None) -> None:
        self._backend = backend
        self._regions: list[Region] | None = None
        if regions is not None:
            self._regions = sorted(Region(*region) for region in regions)

    # Made when asked for: a view that its memory held would keep both, and the machine, until garbage is collected.
    @property
    def u8(self) -> Words:
        """Words of 8 bits."""
        return Words(self, 1)

    @property
    def u16(self) -> Words:
        """Words of 16 bits."""
        return Words(self, 2)

    @property
    def u32(self) -> Words:
        """Words of 32 bits."""
        return Words(self, 4)

    @property
    def u64(self) -> Words:
        """Words of 64 bits."""
        return Words(self, 8)

    @property
    def regions(self) -> tuple[Region, ...]:
        """What is mapped, in the order of addresses; empty where the backend decides."""
        return tuple(self._regions or ())

    def read(self, address: int, n: int) -> bytes:
        """Return `n` bytes from `address` on; GuestAddressError if any of them is not mapped."""
        pieces = [self._backend.read(at, size) for at, size, _ in self._split(address, n, "reading")]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, address: int, data: Buffer) -> None:
        """Store a bytes-like object; GuestAddressError, before anything is stored, if it can't all be."""
        content = _content(data)
        pieces = self._split(address, len(content), "writing")
        for at, _, region in pieces:
            if region is not None and not region.writable:
                raise GuestAddressError(
                    f"{at:#x} is in {region}, which is read-only (writing {address:#x}...{address + len(content):#x}); "
                    f"writable: {', '.join(str(r) for r in self.regions if r.writable) or 'nothing'}")
        for at, size, _ in pieces:
            self._backend.write(at, content[at - address:at - address + size])

    def find(self, pattern: Buffer, start: int | None = None, end: int | None = None) -> int | None:
        """Return the lowest address from `start` on where `pattern` lies wholly before `end`, or None.

        Without a start or an end all that is mapped is searched; holes are skipped. Virtual memory needs both.
        """
        wanted = _content(pattern)
        if not wanted:
            raise ConfigError("find() needs a pattern of at least one byte, not an empty one")
        if self._regions is None and (start is None or end is None):
            raise ConfigError("find() in virtual memory needs start= and end=")
        low = 0 if start is None else _integer(start, "start")
        high = TOP if end is None else _integer(end, "end")
        for first, last in self._spans(low, high):
            at = first
            while at + len(wanted) <= last:
                size = min(FIND_CHUNK + len(wanted) - 1, last - at)
                found = self.read(at, size).find(wanted)
                if found >= 0:
                    return at + found
                at += FIND_CHUNK
        return None

    def hexdump(self, address: int, n: int = 256) -> str:
        """Return `n` bytes from `address` on in rows of sixteen, with addresses and printable characters."""
        return hexdump(self.read(address, n), _integer(address, "an address"))

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> View: ...

    def __getitem__(self, key: SupportsIndex | slice) -> int | View:
        if isinstance(key, slice):
            start, stop = self._bounds(key)
            return View(self.read(start, stop - start), start)
        return self.u8[key]

    @overload
    def __setitem__(self, key: SupportsIndex, value: SupportsIndex) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Buffer) -> None: ...

    def __setitem__(self, key: SupportsIndex | slice, value: SupportsIndex | Buffer) -> None:
        if not isinstance(key, slice):
            self.u8[key] = value  # type: ignore[assignment]  # Words says what it takes
            return
        start, stop = self._bounds(key)
        content = _content(value)
        if len(content) != stop - start:
            raise ConfigError(f"{len(content)} bytes can't be stored in {start:#x}...{stop:#x}, "
                              f"which has {stop - start}: memory has a fixed size")
        self.write(start, content)

    def __contains__(self, address: object) -> bool:
        """Say whether a byte can be read at an address."""
        if isinstance(address, Buffer):
            raise TypeError("memory is searched by find(); `in` takes an address")
        try:
            self.read(_integer(address, "an address"), 1)
        except GuestAddressError:
            return False
        return True

    def __iter__(self) -> NoReturn:
        raise TypeError("Memory is not iterable: it is mostly holes. Take a slice, as in mem[start:end]")

    def __repr__(self) -> str:
        return f"<Memory {_listed(self._regions)}>"

    @staticmethod
    def _bounds(key: slice) -> tuple[int, int]:
        if key.step is not None:
            raise ConfigError(f"a slice of memory takes no step, found {key.step!r}: slice what mem[start:end] returns")
        if key.start is None or key.stop is None:
            raise ConfigError(f"a slice of memory needs both addresses, as in mem[start:end]; found "
                              f"{'no end' if key.stop is None else 'no start'}")
        start, stop = _integer(key.start, "an address"), _integer(key.stop, "an address")
        if stop < start:
            raise ConfigError(f"a slice of memory ends at {stop:#x}, before its start {start:#x}")
        return start, stop

    def _split(self, address: int, n: int, doing: str) -> list[tuple[int, int, Region | None]]:
        """Cut a range at the borders of regions; refuse it if a byte of it is not mapped."""
        address, n = _integer(address, "an address"), _integer(n, "a number of bytes")
        if n < 0:
            raise ConfigError(f"{n} is not a number of bytes; allowed: 0 and up")
        end = address + n
        if self._regions is None:
            if address < 0 or end > TOP:
                self._refuse(address if address < 0 else TOP, address, end, doing)
            return [(address, n, None)]
        pieces: list[tuple[int, int, Region | None]] = []
        at = address
        while at < end or not pieces:
            region = next((r for r in self._regions if r.base <= at < r.end or (n == 0 and at == r.end)), None)
            if region is None:
                self._refuse(at, address, end, doing)
            size = min(end, region.end) - at
            pieces.append((at, size, region))
            at += size
        return pieces

    def _refuse(self, at: int, start: int, end: int, doing: str) -> NoReturn:
        raise GuestAddressError(f"{at:#x} is not mapped ({doing} {start:#x}...{end:#x}); "
                                f"mapped: {_listed(self._regions)}")

    def _spans(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield the mapped parts of a range; regions that touch are one part."""
        first = last = -1
        for region in self._regions if self._regions is not None else [Region(low, high - low, "asked")]:
            start, stop = max(low, region.base), min(high, region.end)
            if start >= stop:
                continue
            if start != last:
                if last > first:
                    yield first, last
                first = start
            last = stop
        if last > first:
            yield first, last


def hexdump(data: Buffer, address: int = 0) -> str:
    """Return bytes in rows of sixteen: address, hexadecimal, printable characters.

    >>> print(hexdump(b"pyvirt\\0\\1", 0x80000000))
    80000000  70 79 76 69 72 74 00 01                           |pyvirt..|
    """
    content = bytes(data)
    digits = max(8, len(f"{address + len(content):x}"))
    rows = []
    for at in range(0, len(content), 16):
        row = content[at:at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        halves = f"{row[:8].hex(' ')}  {row[8:].hex(' ')}"
        rows.append(f"{address + at:0{digits}x}  {halves:<48}  |{text}|")
    return "\n".join(rows)


def _integer(value: object, what: str) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} is an int, not {type(value).__name__} ({value!r})") from None


def _content(data: object) -> bytes:
    try:
        return memoryview(data).tobytes()  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"memory holds bytes; found {type(data).__name__} ({data!r:.60})") from None


def _listed(regions: list[Region] | None) -> str:
    if regions is None:
        return "what the page tables say"
    return ", ".join(map(str, regions)) or "nothing"
