"""The view of a hart: registers, CSRs with fields, virtual memory, disassembly, and names that are none."""
from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

import pyvirt as pv
from pyvirt.assembly.csrfields import FIELDS
from pyvirt.assembly.csrnames import CSRS
from pyvirt.assembly.regattrs import CsrAttributes, Registers
from pyvirt.assembly.regnames import F_REGS, X_REGS
from pyvirt.board import RAM_BASE

U64 = (1 << 64) - 1


@pytest.fixture
def vm() -> Iterator[pv.Machine]:
    with pv.Machine(board="bare", ram="1M") as machine:
        yield machine


# -- registers
def test_registers_by_every_name(vm: pv.Machine) -> None:
    for name, number in X_REGS.items():
        setattr(vm.hart, name, number * 3)
        assert getattr(vm.hart, name) == number * 3
    for name, number in F_REGS.items():
        setattr(vm.hart, name, number | 1 << 63)
        assert getattr(vm.hart, name) == number | 1 << 63
    assert vm.hart.x8 == vm.hart.s0 == vm.hart.fp
    vm.hart.zero = 5
    assert vm.hart.zero == 0
    assert vm.hart.registers["t6"] == 93
    assert vm.hart.registers["pc"] == vm.hart.pc


def test_registers_take_signed_and_read_unsigned(vm: pv.Machine) -> None:
    vm.hart.a0 = -1
    assert vm.hart.a0 == U64
    vm.hart.a0 = -(1 << 63)
    assert vm.hart.a0 == 1 << 63
    for value in (1 << 64, -(1 << 63) - 1, 1.0, "1", True):
        with pytest.raises(pv.ConfigError, match=r"a0: .* is not allowed; allowed: .*-2\^63...2\^64-1"):
            vm.hart.a0 = value  # type: ignore[assignment]


def test_unknown_names_suggest_the_nearest(vm: pv.Machine) -> None:
    for name, hint in (("a9", "'a"), ("wrold", "'world'"), ("mstatus", "hart.csr.mstatus"),
                       ("disassemble", "register")):
        with pytest.raises(AttributeError, match=hint):
            getattr(vm.hart, name)
        with pytest.raises(AttributeError, match=hint):
            setattr(vm.hart, name, 1)
    with pytest.raises(AttributeError, match="'mstats' does not exist; did you mean 'mstatus'"):
        vm.hart.csr.mstats  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean 'mstatus'"):
        vm.hart.csr.mstats = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="field of mstatus 'MPPP' does not exist; did you mean 'MPP'"):
        vm.hart.csr.mstatus.MPPP  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean 'MPP'"):
        vm.hart.csr.set("mstatus", MPPP=1)


def test_completion_finds_registers_and_csrs(vm: pv.Machine) -> None:
    assert {"a0", "ft11", "x31", "pc", "csr", "disasm"} <= set(dir(vm.hart))
    assert {"mstatus", "satp", "set"} <= set(dir(vm.hart.csr))
    assert "mtopi" not in dir(vm.hart.csr)
    assert "MPP" in dir(vm.hart.csr.mstatus)


def test_names_for_type_checkers_are_those_of_the_tables() -> None:
    assert list(Registers.__annotations__) == [*X_REGS, *F_REGS]
    assert list(CsrAttributes.__annotations__) == list(CSRS)
    assert set(FIELDS) <= set(CSRS)


def test_privilege_and_pc(vm: pv.Machine) -> None:
    assert vm.hart.world == "M"
    for world in ("U", "HS", "VS", "VU", "M"):
        vm.hart.world = world
        assert vm.hart.world == world
    with pytest.raises(pv.ConfigError, match="world: 'H' is not allowed; allowed: 'M', 'HS', 'U', 'VS', 'VU', 'S'"):
        vm.hart.world = "H"
    with pv.Machine(board="bare", ram="1M", isa="rv64gc") as plain:
        plain.hart.world = "S"
        assert plain.hart.world == "S"
        with pytest.raises(pv.ConfigError, match="world: 'VS' is not allowed; allowed: 'M', 'S', 'U'"):
            plain.hart.world = "VS"
    with pytest.raises(pv.ConfigError, match="pc: 0x80000001 is not allowed; allowed: even"):
        vm.hart.pc = RAM_BASE + 1


# -- CSRs
def test_csrs_are_ints_with_fields_in_hex(vm: pv.Machine) -> None:
    csr = vm.hart.csr
    csr.mstatus = 0x1880
    assert csr.mstatus == 0x1880 | 2 << 32 | 2 << 34
    assert (csr.mstatus.MPP, csr.mstatus.MPIE, csr.mstatus.SIE) == (3, 1, 0)
    assert csr.mstatus.fields["UXL"] == 2
    assert repr(csr.mstatus) == "0xa00001880 <UXL=2 MPIE=1 MPP=3 SXL=2>"
    assert f"{csr.mstatus:x}" == "a00001880"
    csr.set("mstatus", MPP=0, SUM=True)
    assert (csr.mstatus.MPP, csr.mstatus.SUM, csr.mstatus.MPIE) == (0, 1, 1)
    csr["mscratch"] = -1
    assert csr[0x340] == csr.mscratch == U64
    assert repr(csr.mscratch) == "0xffffffffffffffff"
    with pytest.raises(pv.ConfigError, match=r"mstatus.MPP: 4 is not allowed; allowed: 0...0x3"):
        csr.set("mstatus", MPP=4)
    with pytest.raises(AttributeError, match="no named fields"):
        csr.mscratch.XYZ  # noqa: B018


def test_warl_rules_hold_for_writes_from_python(vm: pv.Machine) -> None:
    vm.hart.csr.mepc = RAM_BASE + 3
    assert vm.hart.csr.mepc == RAM_BASE + 2
    vm.hart.csr.satp = 5 << 60
    assert vm.hart.csr.satp == 0


def test_csrs_that_the_hart_has_not() -> None:
    with pv.Machine(board="bare", ram="1M", isa="rv64imac") as vm:
        with pytest.raises(AttributeError, match=r"hart 0 has no CSR fcsr \(0x3\) under ISA rv64imac"):
            vm.hart.csr.fcsr  # noqa: B018
        with pytest.raises(AttributeError, match="stimecmp"):
            vm.hart.csr.stimecmp = 1
        assert "fcsr" not in vm.hart.csr
        assert "satp" in vm.hart.csr
        with pytest.raises(pv.ConfigError, match=r"CSR number 0x1000 is not allowed; allowed: 0...0xfff"):
            vm.hart.csr[0x1000]


# -- virtual memory
def paged(vm: pv.Machine) -> None:
    """Map 0x4000_0000 to RAM + 0x8000 for S-mode, read and write; 0x4000_1000 execute only; 0x4000_2000 the UART."""
    root, middle, leaf = RAM_BASE + 0x1000, RAM_BASE + 0x2000, RAM_BASE + 0x3000
    vm.mem.u64[root + 8] = middle >> 12 << 10 | 1
    vm.mem.u64[middle] = leaf >> 12 << 10 | 1
    vm.mem.u64[leaf] = RAM_BASE + 0x8000 >> 12 << 10 | 0xC7
    vm.mem.u64[leaf + 8] = RAM_BASE + 0x9000 >> 12 << 10 | 0xC9
    vm.mem.u64[leaf + 16] = 0x1000_0000 >> 12 << 10 | 0xC7
    vm.hart.csr.pmpaddr0 = (1 << 54) - 1
    vm.hart.csr.pmpcfg0 = 0x1F
    vm.hart.csr.satp = 8 << 60 | root >> 12
    vm.hart.world = "HS"


def test_virtual_memory_is_what_the_hart_sees(vm: pv.Machine) -> None:
    paged(vm)
    mem = vm.hart.mem
    mem[0x4000_0FFC:0x4000_1004] = b"abcdefgh"
    assert vm.mem[RAM_BASE + 0x8FFC:RAM_BASE + 0x9004] == b"abcdefgh"
    assert mem[0x4000_0FFC:0x4000_1004] == b"abcdefgh"
    assert vm.hart.translate(0x4000_0FFC) == RAM_BASE + 0x8FFC
    with pytest.raises(pv.GuestAddressError, match=r"va 0x40003000 is not mapped .* HS-mode: load page fault .*MODE=8"):
        mem[0x4000_3000]
    with pytest.raises(pv.GuestAddressError, match=r"va 0x40002000 is pa 0x10000000, which is not RAM .*vm.bus"):
        mem[0x4000_2000]
    assert 0x4000_0000 in mem
    assert 0x5000_0000 not in mem
    # A write that can't all be done is not done at all.
    with pytest.raises(pv.GuestAddressError):
        mem[0x4000_1FFC:0x4000_2004] = b"12345678"
    assert vm.mem[RAM_BASE + 0x9FFC:RAM_BASE + 0xA000] == bytes(4)


def test_looking_changes_nothing(vm: pv.Machine) -> None:
    paged(vm)
    vm.mem.u64[RAM_BASE + 0x3000] &= ~0xC0
    before = vm.digest()
    with pytest.raises(pv.GuestAddressError):
        vm.hart.mem[0x4000_0000]
    assert 0x4000_0000 not in vm.hart.mem
    vm.hart.csr.menvcfg = 1 << 61  # ADUE: accesses of the guest would set A and D
    vm.hart.csr.menvcfg = 0
    assert vm.digest() == before


# -- disassembly
def test_disassembly_at_pc_and_anywhere(vm: pv.Machine) -> None:
    vm.load(pv.asm("start: li a0, 1\nc.addi a0, 1\nj start"))
    listing = vm.hart.disasm(count=3)
    assert [line.text for line in listing] == ["li a0,1", "c.addi a0,1", "j 0x80000000 # <start>"]
    assert str(listing).count("\n") == 2
    assert vm.hart.disasm(RAM_BASE + 4, 1)[0].address == RAM_BASE + 4
    assert len(vm.hart.disasm(RAM_BASE + (1 << 20) - 4, 8)) < 8
    with pytest.raises(pv.GuestAddressError):
        vm.hart.disasm(0)
    with pytest.raises(pv.ConfigError, match="count is 0"):
        vm.hart.disasm(count=0)


# -- physical memory and the bus
def test_physical_memory_has_ram_and_rom_and_no_registers() -> None:
    with pv.Machine(ram="1M") as vm:
        assert vm.mem.u32[0x1000] == 0xF1402573
        assert vm.mem[0x1000:0x1008] == struct.pack("<II", 0xF1402573, 0x10500073)
        with pytest.raises(pv.GuestAddressError, match="read-only"):
            vm.mem[0x1000] = 1
        with pytest.raises(pv.GuestAddressError, match="not mapped"):
            vm.mem[0x1000_0000]
        view = vm.mem[RAM_BASE:RAM_BASE + 4]
        vm.mem[RAM_BASE:RAM_BASE + 4] = b"abcd"
        assert (view, vm.mem[RAM_BASE:RAM_BASE + 4]) == (b"\0\0\0\0", b"abcd")


def test_the_bus_reaches_registers_only() -> None:
    with pv.Machine(ram="1M") as vm:
        vm.bus.write(0x1000_0007, 1, 0x5A)
        assert vm.bus.read(0x1000_0007, 1) == 0x5A
        vm.bus.write(0x200_4000, 8, -1)
        assert vm.bus.read(0x200_4000, 8) == U64
        for address, width in ((0x1000_0007, 4), (0x5000_0000, 4), (RAM_BASE, 8)):
            with pytest.raises(pv.GuestAddressError, match=rf"bus: .*width {width} at {address:#x}; mapped: .*uart"):
                vm.bus.read(address, width)
        with pytest.raises(pv.ConfigError, match="width is 3; allowed: 1, 2, 4, 8"):
            vm.bus.read(0x1000_0007, 3)
        with pytest.raises(pv.ConfigError, match=r"value is 256; allowed: -0x80...0xff"):
            vm.bus.write(0x1000_0007, 1, 256)
