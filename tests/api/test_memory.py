"""The view of guest memory: what may be asked of it, what it says when it refuses, and that its slices keep still."""
from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirt._memory import Ram
from pyvirt.errors import ConfigError, GuestAddressError
from pyvirt.memory import FIND_CHUNK, Memory, Region, View, hexdump

ROM, RAM, KIB = 0x1000, 0x8000_0000, 1024
MIB = KIB * KIB


class Board:
    """A ROM and two RAMs that touch, each its own Ram: a backend that refuses what crosses a border."""

    def __init__(self) -> None:
        self.parts = [Ram(ROM, 8 * KIB), Ram(RAM, MIB), Ram(RAM + MIB, MIB)]
        self.parts[0].write(ROM, b"\x97\x02\x00\x00")

    def part(self, address: int) -> Ram:
        return next(ram for ram in self.parts if ram.base <= address < ram.base + ram.size or address == ram.base)

    def read(self, address: int, n: int) -> bytes:
        return self.part(address).read(address, n)

    def write(self, address: int, data: bytes) -> None:
        self.part(address).write(address, data)


class Translated:
    """A backend like a virtual address space: one page mapped near the top, and it refuses by itself."""

    BASE = 0xFFFF_FFFF_8000_0000

    def __init__(self) -> None:
        self.data = bytearray(4 * KIB)

    def offset(self, address: int, n: int) -> int:
        if not self.BASE <= address <= address + n <= self.BASE + len(self.data):
            raise GuestAddressError(f"{address:#x} has no translation")
        return address - self.BASE

    def read(self, address: int, n: int) -> bytes:
        at = self.offset(address, n)
        return bytes(self.data[at:at + n])

    def write(self, address: int, data: bytes) -> None:
        at = self.offset(address, len(data))
        self.data[at:at + len(data)] = data


@pytest.fixture
def mem() -> Memory:
    return Memory(Board(), [(RAM, MIB, "ram", True), (ROM, 8 * KIB, "rom", False), (RAM + MIB, MIB, "more", True)])


@pytest.fixture
def virtual() -> Memory:
    return Memory(Translated())


def test_bytes_and_slices(mem: Memory) -> None:
    mem[RAM:RAM + 4] = b"abcd"
    mem[RAM + 1] = 0x7A
    mem[RAM + 2] = -1
    assert mem[RAM + 1] == 0x7A
    assert mem[RAM:RAM + 5] == b"az\xffd\0"
    assert mem[RAM:RAM] == b""
    assert mem[ROM] == 0x97
    assert mem.read(ROM, 2) == b"\x97\x02"
    mem.write(RAM, bytearray(b"xy"))
    mem[RAM + 2:RAM + 4] = memoryview(b"_1_2")[1::2]
    assert mem[RAM:RAM + 4] == b"xy12"


def test_a_slice_keeps_its_moment_and_is_read_only(mem: Memory) -> None:
    mem[RAM:RAM + 4] = b"abcd"
    view = mem[RAM:RAM + 4]
    mem[RAM:RAM + 4] = b"wxyz"
    assert view == b"abcd"
    assert (type(view), view.address) == (View, RAM)
    with pytest.raises(TypeError):
        view[0] = 1  # type: ignore[index]
    assert view.hexdump() == hexdump(b"abcd", RAM)
    for twin in (pickle.loads(pickle.dumps(view)), copy.copy(view), copy.deepcopy(view)):
        assert (type(twin), twin, twin.address) == (View, view, RAM)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("address", [RAM, RAM + 3, RAM + 4093, RAM + MIB - 1])
def test_words_are_little_endian_and_read_unsigned(mem: Memory, width: int, address: int) -> None:
    words = getattr(mem, f"u{8 * width}")
    value = 0xF1E2_D3C4_B5A6_9788 & (1 << 8 * width) - 1
    words[address] = value
    assert words[address] == value
    assert mem.read(address, width) == value.to_bytes(width, "little")
    words[address] = -1
    assert words[address] == (1 << 8 * width) - 1
    words[address] = -(1 << 8 * width - 1)
    assert words[address] == 1 << 8 * width - 1


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_words_that_do_not_fit(mem: Memory, width: int) -> None:
    words = getattr(mem, f"u{8 * width}")
    for value in (1 << 8 * width, -(1 << 8 * width - 1) - 1):
        with pytest.raises(ConfigError, match=f"{value:#x} does not fit {8 * width} bits; allowed: -0x80"):
            words[RAM] = value
    assert words[RAM] == 0


def test_ranges_may_cross_regions_that_touch(mem: Memory) -> None:
    at = RAM + MIB - 3
    mem[at:at + 6] = b"abcdef"
    assert mem[at:at + 6] == b"abcdef"
    assert mem.find(b"cde") == at + 2


@given(at=st.integers(0, 2 * MIB - 9000), data=st.binary(max_size=9000))
def test_what_is_written_is_read(at: int, data: bytes) -> None:
    mem = Memory(Board(), [(RAM, MIB, "ram", True), (RAM + MIB, MIB, "more", True)])
    mem.write(RAM + at, data)
    assert mem.read(RAM + at, len(data)) == data
    assert mem.read(RAM, at) == bytes(at)


REFUSED: list[tuple[str, Callable[[Memory], object], type[Exception], list[str]]] = [
    ("read", lambda m: m.read(0x500, 4), GuestAddressError,
     ["0x500 is not mapped", "reading 0x500...0x504", "rom 0x1000...0x3000, ram 0x80000000...0x80100000, more 0x8010"]),
    ("index", lambda m: m[0x3000], GuestAddressError, ["0x3000 is not mapped", "reading 0x3000...0x3001"]),
    ("index as IndexError", lambda m: m[0x3000], IndexError, ["0x3000"]),
    ("partly", lambda m: m[0x2FFE:0x3002], GuestAddressError, ["0x3000 is not mapped", "reading 0x2ffe...0x3002"]),
    ("negative", lambda m: m[-1], GuestAddressError, ["-0x1 is not mapped"]),
    ("beyond", lambda m: m[1 << 70], GuestAddressError, ["0x400000000000000000 is not mapped"]),
    ("empty", lambda m: m[0:0], GuestAddressError, ["0x0 is not mapped"]),
    ("word", lambda m: m.u64[RAM + 2 * MIB - 4], GuestAddressError,
     ["0x80200000 is not mapped", "reading 0x801ffffc...0x80200004"]),
    ("write", lambda m: m.write(RAM + 2 * MIB - 1, b"ab"), GuestAddressError, ["0x80200000 is not mapped", "writing"]),
    ("store", lambda m: m.__setitem__(0x500, 1), GuestAddressError, ["0x500 is not mapped", "writing"]),
    ("rom", lambda m: m.write(ROM, b"a"), GuestAddressError,
     ["0x1000 is in rom 0x1000...0x3000, which is read-only", "writing 0x1000...0x1001", "writable: ram 0x80000000"]),
    ("dump", lambda m: m.hexdump(0), GuestAddressError, ["0x0 is not mapped", "reading 0x0...0x100"]),
    ("count", lambda m: m.read(RAM, -1), ConfigError, ["-1 is not a number of bytes", "0 and up"]),
    ("step", lambda m: m[RAM:RAM + 8:2], ConfigError, ["takes no step, found 2", "mem[start:end]"]),
    ("step of one", lambda m: m[RAM:RAM + 8:1], ConfigError, ["takes no step, found 1"]),
    ("step on store", lambda m: m.__setitem__(slice(RAM, RAM + 8, 2), b"abcd"), ConfigError, ["no step, found 2"]),
    ("open start", lambda m: m[:RAM], ConfigError, ["both addresses", "no start"]),
    ("open end", lambda m: m[RAM:], ConfigError, ["both addresses", "no end"]),
    ("backwards", lambda m: m[RAM + 2:RAM], ConfigError, ["ends at 0x80000000, before its start 0x80000002"]),
    ("length", lambda m: m.__setitem__(slice(RAM, RAM + 4), b"abc"), ConfigError,
     ["3 bytes can't be stored in 0x80000000...0x80000004, which has 4"]),
    ("byte", lambda m: m.__setitem__(RAM, 256), ConfigError, ["0x100 does not fit 8 bits", "-0x80 to 0xff"]),
    ("pattern", lambda m: m.find(b""), ConfigError, ["at least one byte"]),
    ("address type", lambda m: m["pc"], TypeError, ["an address is an int, not str ('pc')"]),
    ("float", lambda m: m.u32[1.5], TypeError, ["an address is an int, not float (1.5)"]),
    ("value type", lambda m: m.u32.__setitem__(RAM, "1"), TypeError, ["32-bit word is an int, not str ('1')"]),
    ("word slice", lambda m: m.u32[RAM:RAM + 8], TypeError, ["u32 takes one address, not a slice"]),
    ("data type", lambda m: m.write(RAM, "text"), TypeError, ["memory holds bytes; found str ('text')"]),
    ("number as data", lambda m: m.write(RAM, 5), TypeError, ["memory holds bytes; found int (5)"]),
    ("iterate", lambda m: list(m), TypeError, ["not iterable", "mem[start:end]"]),
    ("iterate words", lambda m: list(m.u16), TypeError, ["u16 is not iterable"]),
    ("bytes in", lambda m: b"abc" in m, TypeError, ["find()"]),
]


@pytest.mark.parametrize(("act", "error", "texts"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refusals_name_what_was_found_and_what_is_allowed(
    mem: Memory, act: Callable[[Any], object], error: type[Exception], texts: list[str],
) -> None:
    with pytest.raises(error) as caught:
        act(mem)
    for text in texts:
        assert text in str(caught.value)


def test_a_refused_write_stores_nothing(mem: Memory) -> None:
    with pytest.raises(GuestAddressError):
        mem.write(RAM + 2 * MIB - 2, b"abcd")
    assert mem[RAM + 2 * MIB - 2:RAM + 2 * MIB] == b"\0\0"


def test_the_host_and_the_quota_may_refuse(mem: Memory) -> None:
    board = Board()
    board.parts[1].limit = 1
    limited = Memory(board, [(RAM, MIB, "ram", True)])
    limited[RAM] = 1
    with pytest.raises(MemoryError, match="limit of 1 frames"):
        limited[RAM + 4095:RAM + 4097] = b"ab"
    assert limited.read(RAM + 4095, 2) == b"\0\0"


def test_membership_is_of_addresses(mem: Memory, virtual: Memory) -> None:
    assert ROM in mem
    assert RAM + 2 * MIB - 1 in mem
    assert RAM + 2 * MIB not in mem
    assert -1 not in mem
    assert Translated.BASE in virtual
    assert 0 not in virtual


def test_find(mem: Memory) -> None:
    assert mem.find(b"needle") is None
    for at in (RAM + 5, RAM + FIND_CHUNK - 3, RAM + 2 * MIB - 6):
        mem.write(at, b"needle")
    assert mem.find(b"needle") == RAM + 5
    assert mem.find(b"needle", RAM + 6) == RAM + FIND_CHUNK - 3
    assert mem.find(bytearray(b"needle"), start=RAM + FIND_CHUNK - 2) == RAM + 2 * MIB - 6
    assert mem.find(b"needle", RAM + FIND_CHUNK, RAM + 2 * MIB - 1) is None
    assert mem.find(b"needle", 0, RAM + 10) is None
    assert mem.find(b"needle", 0, RAM + 11) == RAM + 5
    assert mem.find(b"\x97\x02") == ROM
    assert mem.find(b"a", 10, 5) is None
    assert mem.find(b"a" * 3 * MIB) is None


def test_find_in_virtual_memory_needs_a_range(virtual: Memory) -> None:
    with pytest.raises(ConfigError, match="start= and end="):
        virtual.find(b"a")
    base = Translated.BASE
    virtual[base + 100:base + 103] = b"abc"
    assert virtual.find(b"bc", base, base + 4096) == base + 101
    with pytest.raises(GuestAddressError, match="no translation"):
        virtual.find(b"bc", 0, 4096)


def test_virtual_memory_leaves_the_map_to_its_backend(virtual: Memory) -> None:
    base = Translated.BASE
    virtual.u64[base + 8] = 0x1122_3344_5566_7788
    assert virtual[base + 8] == 0x88
    with pytest.raises(GuestAddressError, match="0x0 has no translation"):
        virtual.read(0, 1)
    for address, n in ((-1, 1), ((1 << 64) - 1, 2)):
        with pytest.raises(GuestAddressError, match="what the page tables say"):
            virtual.read(address, n)
    assert virtual.regions == ()
    assert repr(virtual) == "<Memory what the page tables say>"


def test_regions_and_repr(mem: Memory) -> None:
    assert mem.regions[0] == Region(ROM, 8 * KIB, "rom", False)
    assert [region.name for region in mem.regions] == ["rom", "ram", "more"]
    assert repr(mem).startswith("<Memory rom 0x1000...0x3000, ram 0x80000000...0x80100000, more ")
    assert "nothing" in repr(Memory(Board(), []))


def test_hexdump(mem: Memory) -> None:
    mem[RAM:RAM + 20] = bytes(range(0x30, 0x44))
    assert mem.hexdump(RAM, 18) == (
        "80000000  30 31 32 33 34 35 36 37  38 39 3a 3b 3c 3d 3e 3f  |0123456789:;<=>?|\n"
        "80000010  40 41                                             |@A|")
    assert len(mem.hexdump(RAM).splitlines()) == 16
    assert mem.hexdump(RAM, 0) == ""
    assert hexdump(b"\x7f\x80", 0xFFFF_FFFF_8000_0000).startswith("ffffffff80000000  7f 80 ")
