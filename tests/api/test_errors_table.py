"""Wrong input, one row each: the message holds the name of the thing, the value found, and what is allowed.

Constructor, loader, running, views and assembler; the command line has a table of its own in test_cli.py.
"""
from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pyvirt as pv
from pyvirt.devices.clint import Clint
from pyvirt.devices.rtc import Rtc
from pyvirt.fdt import Placed

RAM_BASE = 0x8000_0000


class Row(NamedTuple):
    """What is done, the error expected, and what its message holds: name, value, allowed."""

    do: Callable[[Path], object]
    error: type[Exception]
    parts: tuple[str, ...]


def make(**options: Any) -> Callable[[Path], object]:
    def do(folder: Path) -> object:
        for key, value in options.items():
            if isinstance(value, str) and value.startswith("FOLDER"):
                options[key] = [folder / value.partition("/")[2]]
        return pv.Machine(**options)
    return do


def load(*args: Any, board: str = "virt-1", ram: str = "16M", **options: Any) -> Callable[[Path], object]:
    def do(folder: Path) -> object:
        given = [folder / a[7:] if isinstance(a, str) and a.startswith("FOLDER/") else a for a in args]
        named = {k: folder / v[7:] if isinstance(v, str) and v.startswith("FOLDER/") else v for k, v in options.items()}
        with pv.Machine(board=board, ram=ram) as vm:
            before = vm.digest()
            try:
                return vm.load(*given, **named)
            finally:
                assert (vm.ranges, vm.digest()) == ((), before), "what was refused left something behind"
    return do


def using(act: Callable[[pv.Machine], object], **options: Any) -> Callable[[Path], object]:
    def do(folder: Path) -> object:
        with pv.Machine(**{"board": "bare", "ram": "1M", **options}) as vm:
            return act(vm)
    return do


def image(**fields: int) -> bytes:
    """Return a Linux Image header followed by nothing much."""
    v = {"text_offset": 0x20_0000, "image_size": 0x1000, "version": 2, "magic2": 0x0543_5352, **fields}
    return struct.pack("<IIQQQIIQ8sII", 0x13, 0, v["text_offset"], v["image_size"], 0, v["version"], 0, 0,
                       b"RISCV\0\0\0", v["magic2"], 0) + bytes(64)


def elf(**fields: int) -> bytes:
    v = {"bits": 2, "order": 1, "type": 2, "machine": 243, "entry": RAM_BASE, "paddr": RAM_BASE, "filesz": 4, **fields}
    ident = b"\x7fELF" + bytes([v["bits"], v["order"], 1]) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", v["type"], v["machine"], 1, v["entry"], 64, 0, 0, 64, 56, 1, 64,
                                 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 120, v["paddr"], v["paddr"], v["filesz"], 4, 4) + b"\x13\0\0\0"


CONSTRUCTOR = [
    Row(make(isa="rv32gc"), pv.ConfigError, ("isa", "'rv32gc'", "expected rv64i or rv64g")),
    Row(make(isa="rv64gq"), pv.ConfigError, ("isa", "'q' at position 5", "allowed: g, i, m, a, f, d, c")),
    Row(make(isa="rv64gc_zbx"), pv.ConfigError, ("isa", "'zbx'", "did you mean", "allowed: zicbom")),
    Row(make(isa=64), pv.ConfigError, ("isa", "64", "expected one such as 'rv64gc'")),
    Row(make(harts=0), pv.ConfigError, ("harts", "0", "allowed: an int in 1...64")),
    Row(make(harts=65), pv.ConfigError, ("harts", "65", "1...64")),
    Row(make(harts="2"), pv.ConfigError, ("harts", "'2'", "allowed: an int")),
    Row(make(harts=True), pv.ConfigError, ("harts", "True", "allowed: an int")),
    Row(make(ram=0), pv.ConfigError, ("ram", "0", "allowed: 4K to 16T in steps of 4K")),
    Row(make(ram="1000"), pv.ConfigError, ("ram", "'1000'", "in steps of 4K")),
    Row(make(ram="lots"), pv.ConfigError, ("ram", "'lots'", "optional K, M, G or T")),
    Row(make(ram="32T"), pv.ConfigError, ("ram", "'32T'", "4K to 16T")),
    Row(make(ram=1.5), pv.ConfigError, ("ram", "1.5", "int of bytes or text such as '256M'")),
    Row(make(ram=-4096), pv.ConfigError, ("ram", "-4096", "4K to 16T")),
    Row(make(board="virt"), pv.ConfigError, ("board", "'virt'", "did you mean 'virt-1'", "allowed: 'virt-1', 'bare'")),
    Row(make(core="jit"), pv.ConfigError, ("core", "'jit'", "allowed: None, 'threaded', 'switch'")),
    Row(make(clock="real"), pv.ConfigError, ("clock", "'real'", "allowed: 'virtual', 'host'")),
    Row(make(seed="x"), pv.ConfigError, ("seed", "'x'", "allowed: an int")),
    Row(make(memory_limit="1"), pv.ConfigError, ("memory_limit", "'1'", "allowed: 4K to")),
    Row(make(disks="root.ext4"), pv.ConfigError, ("disks", "'root.ext4'", "allowed: a list")),
    Row(make(disks=[5]), pv.ConfigError, ("disks", "5", "allowed: a path or a Disk")),
    Row(make(disks="FOLDER/none.img"), pv.HostError, ("none.img", "No such file", "cannot be opened for reading")),
    Row(make(disks="FOLDER/odd.img"), pv.ConfigError, ("odd.img", "1000 bytes", "expected a positive multiple of 512")),
    Row(make(disks="FOLDER/qcow2.img"), pv.ConfigError, ("qcow2.img", "qcow2", "expected a raw one")),
    Row(make(devices=["uart"]), pv.ConfigError, ("devices", "'uart'", "allowed: a Device or Placed")),
    Row(make(devices=pv.VirtioRng()), pv.ConfigError, ("devices", "VirtioRng", "allowed: a list")),
    Row(make(devices=[pv.VirtioRng() for _ in range(9)]), pv.ConfigError, ("devices", "9 virtio", "allowed: 8")),
    Row(make(board="bare", devices=[pv.VirtioRng()]), pv.ConfigError, ("board", "1 devices", "allowed: none, or")),
    Row(make(devices=[Placed(Rtc(), (0x1000_0000,), (40,))]), pv.ConfigError,
        ("rtc 0x10000000", "overlaps uart 0x10000000", "another address")),
    Row(make(devices=[Placed(Rtc(), (0x8000_1000,), (40,))]), pv.ConfigError,
        ("rtc 0x80001000", "overlaps ram 0x80000000..0x90000000", "another address")),
    Row(make(devices=[Placed(Rtc(), (0x3000_0000,), (10,))]), pv.ConfigError,
        ("rtc", "source 10 is taken by uart", "allowed: a free one in 1...96")),
    Row(make(devices=[Placed(Rtc(), (0x3000_0000,), (97,))]), pv.ConfigError, ("rtc", "97", "allowed: 1...96")),
    Row(make(devices=[Placed(Rtc(), (0x3000_0000,))]), pv.ConfigError, ("rtc", "0 interrupt sources", "allowed: 1")),
    Row(make(devices=[Placed(Rtc(), (), (40,))]), pv.ConfigError, ("rtc", "0 addresses", "allowed: 1")),
    Row(make(devices=[Placed(Rtc(), (-4096,), (40,))]), pv.ConfigError, ("rtc", "-4096", "allowed: 0 to 2^56")),
    Row(lambda _: Clint(harts=65), pv.ConfigError, ("clint: harts", "65", "expected 1..64")),
    Row(lambda _: pv.VirtioRng(seed="x"), pv.ConfigError,
        ("virtio-rng: seed", "'x'", "expected")),  # type: ignore[arg-type]
    Row(make(log="/no/such/log"), pv.HostError, ("log /no/such/log", "No such file", "cannot be written")),
]

LOADER = [
    Row(load(), pv.ConfigError, ("load", "nothing to start", "allowed: a program, kernel=, or firmware=")),
    Row(load("FOLDER/none"), pv.LoadError, ("none", "No such file", "cannot be opened")),
    Row(load(b""), pv.LoadError, ("program", "empty file", "expected a program")),
    Row(load(b"\x13\0\0\0", kernel=b"\x13\0\0\0"), pv.ConfigError,
        ("load", "a program is given with kernel=", "allowed")),
    Row(load(firmware=b"\x13\0\0\0", initrd=b"x"), pv.ConfigError, ("initrd=", "without kernel=", "allowed: both")),
    Row(load(kernel=b"\x13\0\0\0", cmdline="a\0b"), pv.ConfigError,
        ("cmdline", r"'a\x00b'", "allowed: str without NUL")),
    Row(load(kernel=b"\x13\0\0\0", board="bare"), pv.ConfigError, ("board 'bare'", "no firmware", "board='virt-1'")),
    Row(load(b"\x13\0\0\0", at=-1), pv.ConfigError, ("at", "-1", "allowed: an address in RAM")),
    Row(load(b"\x13\0\0\0", at="0x80000000"), pv.ConfigError, ("at", "'0x80000000'", "allowed: an address")),
    Row(load(b"\x13\0\0\0", at=0x1000), pv.LoadError,
        ("program 0x1000", "4 bytes", "outside RAM 0x80000000..0x81000000")),
    Row(load(bytes(32 << 20)), pv.LoadError, ("program", "33554432 bytes", "outside RAM 0x80000000..0x81000000")),
    Row(load(elf(), at=RAM_BASE), pv.LoadError, ("program", "at= is 0x80000000", "leave at= out")),
    Row(load(elf(bits=1)), pv.LoadError, ("program: offset 4", "ELF class is 1", "expected 2 (64-bit)")),
    Row(load(elf(machine=62)), pv.LoadError, ("program: offset 18", "e_machine is 62", "expected 243 (EM_RISCV)")),
    Row(load(elf(type=1)), pv.LoadError, ("offset 16", "e_type is 1", "expected 2 (ET_EXEC) or 3 (ET_DYN)")),
    Row(load(elf(entry=5)), pv.LoadError, ("offset 0x18", "entry is 0x5", "expected an even address inside a segment")),
    Row(load(elf(filesz=5000)), pv.LoadError, ("segment 0", "p_filesz is 0x1388", "p_memsz 0x4")),
    Row(load(elf(paddr=0, entry=0)), pv.LoadError, ("program 0x0..0x4", "outside RAM", "0x80000000..0x81000000")),
    Row(load(elf()[:40]), pv.LoadError, ("program", "40 bytes", "ELF header of 64")),
    Row(load(kernel=image(magic2=0)), pv.LoadError, ("offset 0x38", r"b'\x00\x00\x00\x00'", "expected b'RSC")),
    Row(load(kernel=image(version=1 << 16)), pv.LoadError, ("offset 0x20", "version 1.0", "expected 0.x")),
    Row(load(kernel=image(text_offset=5)), pv.LoadError, ("offset 8", "text_offset is 0x5", "expected a multiple of")),
    Row(load(kernel=gzip.compress(b"x" * 100)[:-10]), pv.LoadError, ("program: offset", "gzip", "end-of-stream")),
    Row(load(kernel=b"\xfd7zXZ\0" + bytes(100)), pv.LoadError, ("offset 0x0", "xz data", "expected ELF")),
    Row(load(kernel=b"\x13\0\0\0", initrd=b""), pv.LoadError, ("initrd", "empty file", "expected an initial RAM disk")),
    Row(load(kernel=b"\x13\0\0\0", initrd=bytes(20 << 20)), pv.LoadError, ("initrd", "20971520 bytes", "largest free")),
    Row(load(kernel=b"\x13\0\0\0", dtb=b"nonsense"), pv.LoadError,
        ("dtb", "6e6f6e73", "expected the device-tree magic")),
    Row(load(kernel=b"\x13\0\0\0", dtb=b"\xd0\x0d\xfe\xed" + bytes(4)), pv.LoadError,
        ("dtb", "total size is 0", "40..")),
    Row(load(firmware=bytes(3 << 20), kernel=b"\x13\0\0\0"), pv.LoadError,
        ("program 0x80200000..0x80200004", "overlaps", "0x80000000..0x80300000")),
    Row(using(lambda vm: (vm.load(b"\x13\0\0\0"), vm.step(), vm.load(b"\x13\0\0\0"))), pv.LoadError,
        ("load", "has run to icount 1", "allowed: before the first run")),
    Row(using(lambda vm: vm.load(pv.asm("tohost = 0x80000004\nnop"))), pv.LoadError,
        ("tohost", "0x80000004", "expected a multiple of 8")),
]

RUNNING = [
    Row(using(lambda vm: vm.run(instructions=-1)), pv.ConfigError, ("instructions", "-1", "allowed: an int in 0...")),
    Row(using(lambda vm: vm.run(instructions=1e6)), pv.ConfigError, ("instructions", "1000000.0", "allowed: an int")),
    Row(using(lambda vm: vm.step(-5)), pv.ConfigError, ("step: n", "-5", "allowed: an int")),
    Row(using(lambda vm: vm.run(timeout=-1)), pv.ConfigError, ("timeout", "-1", "allowed: host seconds, 0 and up")),
    Row(using(lambda vm: vm.run(timeout=float("nan"))), pv.ConfigError, ("timeout", "nan", "allowed: host seconds")),
    Row(using(lambda vm: vm.run(timeout="1")), pv.ConfigError, ("timeout", "'1'", "allowed: host seconds")),
    Row(using(lambda vm: vm.run(until=5)), pv.ConfigError, ("until", "5", "allowed: str, a compiled regular")),
    Row(using(lambda vm: vm.run(until="")), pv.ConfigError, ("until", "''", "allowed: text that is not empty")),
    Row(using(lambda vm: vm.run(until=re.compile(b"x"))), pv.ConfigError,
        ("until", "b'x'", "regular expression of str")),
    Row(using(lambda vm: vm.run(until=pv.at("main"))), pv.ConfigError, ("at", "'main'", "0 symbols were loaded")),
    Row(lambda _: pv.at(3), pv.ConfigError, ("at", "0x3", "allowed: even addresses")),
    Row(lambda _: pv.at(1 << 64), pv.ConfigError, ("at", "0x10000000000000000", "allowed: -2^63 to 2^64-1")),
    Row(lambda _: pv.at(1.5), pv.ConfigError,
        ("at", "1.5", "allowed: an address or the name")),  # type: ignore[arg-type]
    Row(lambda _: pv.trap(64), pv.ConfigError, ("trap: cause", "0x40", "allowed: 0...63")),
    Row(lambda _: pv.trap("ecall"), pv.ConfigError, ("trap: cause", "'ecall'", "0...63")),  # type: ignore[arg-type]
    Row(lambda _: pv.when(5), pv.ConfigError, ("when", "5", "allowed: a callable")),  # type: ignore[arg-type]
    Row(lambda _: pv.when(len, every=0), pv.ConfigError, ("when: every", "0", "allowed: 1 and up")),
]

VIEWS = [
    Row(using(lambda vm: setattr(vm.hart, "a0", 1 << 64)), pv.ConfigError,
        ("a0", "0x10000000000000000", "-2^63...2^64-1")),
    Row(using(lambda vm: setattr(vm.hart, "pc", 1)), pv.ConfigError, ("pc", "0x1", "allowed: even addresses")),
    Row(using(lambda vm: vm.hart.a11), AttributeError,
        ("register", "'a11'", "did you mean")),  # type: ignore[attr-defined]
    Row(using(lambda vm: vm.hart.csr.mstat), AttributeError,
        ("CSR", "'mstat'", "'mstatus'")),  # type: ignore[attr-defined]
    Row(using(lambda vm: vm.hart.csr.set("satp", MODE=16)), pv.ConfigError, ("satp.MODE", "16", "allowed: 0...0xf")),
    Row(using(lambda vm: vm.mem[0]), pv.GuestAddressError,
        ("0x0", "not mapped", "mapped: ram 0x80000000...0x80100000")),
    Row(using(lambda vm: vm.mem[RAM_BASE:RAM_BASE + 2 << 20]), pv.GuestAddressError, ("not mapped", "mapped: ram")),
    Row(using(lambda vm: vm.mem.u16.__setitem__(RAM_BASE, 1 << 16)), pv.ConfigError,
        ("0x10000", "16 bits", "to 0xffff")),
    Row(using(lambda vm: vm.bus.read(0, 3)), pv.ConfigError, ("bus: width", "3", "allowed: 1, 2, 4, 8")),
    Row(using(lambda vm: vm.bus.read(0, 4)), pv.GuestAddressError, ("bus", "0x0", "mapped: ram")),
    Row(using(lambda vm: setattr(vm, "memory_limit", "big")), pv.ConfigError, ("memory_limit", "'big'", "optional K")),
]

ASSEMBLER = [
    Row(lambda _: pv.asm("nop\nadd a0, a1"), pv.AsmError, ("line 2", "add", "operands")),
    Row(lambda _: pv.asm("addi a0, a1, 5000"), pv.AsmError, ("line 1", "5000", "-2048")),
    Row(lambda _: pv.asm("addd a0, a1, a2"), pv.AsmError, ("line 1", "addd", "did you mean")),
    Row(lambda _: pv.asm("lw a0, 4(q1)"), pv.AsmError, ("line 1", "q1", "register")),
    Row(lambda _: pv.asm("j nowhere"), pv.AsmError, ("line 1", "nowhere")),
    Row(lambda _: pv.asm(".align 99"), pv.AsmError, ("line 1", "99")),
]

TABLE = [*CONSTRUCTOR, *LOADER, *RUNNING, *VIEWS, *ASSEMBLER]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "odd.img").write_bytes(bytes(1000))
    (tmp_path / "qcow2.img").write_bytes(b"QFI\xfb" + bytes(508))
    return tmp_path


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.parts[0] + " " + row.parts[1][:20])
def test_wrong_input_is_named_with_its_value_and_what_is_allowed(row: Row, folder: Path) -> None:
    with pytest.raises(row.error) as caught:
        row.do(folder)
    message = str(caught.value)
    for part in row.parts:
        assert part in message
    assert "\n" not in message
    if isinstance(caught.value, pv.PyvirtError):
        # Callers may catch what Python would raise for it.
        assert isinstance(caught.value, (ValueError, IndexError, OSError, RuntimeError))


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 40
