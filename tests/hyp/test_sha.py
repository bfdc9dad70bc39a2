"""The pieces of Sha, the hypervisor extension's profile of options: what each promises, one test each.

Profiles, "Sha": Shcounterenw, Shgatpa, Shtvala, Shvsatpa, Shvstvala, Shvstvecd, and Ssstateen (tested beside the other
CSRs). They say which of the manual's freedoms an implementation may not take.
"""
from __future__ import annotations

import pytest

from tests.support import EXTS, MODES, RWX, Bare, PageTables, U, Variant

H = EXTS | 1 << 19
HANDLER, CODE, DATA = 0x8000_8000, 0x8000_0000, 0x8001_0000
VA, GPA = 0x4000_0000, 0x1_2345_6000  # a page of the guest, and what its table makes of it
FAR = 0x7000_0000  # a page behind a table of the guest that the G-stage does not map
TABLE_GPA = 0x1_7777_7000
HTVAL, HTINST, STVAL, SCAUSE = 0x643, 0x64A, 0x143, 0x142
CORES = pytest.mark.parametrize("core", ["threaded", "switch"])


def guest(text: str, core: str, *, priv: int = 1, sv: int = 39) -> Bare:
    """Return a machine in VS or VU under both stages, whose traps go to HS; GPA is in no table of the G-stage."""
    bare = Bare(text, exts=H, variant=Variant(core=core))
    bare.open_pmp()
    first, second = PageTables(bare, sv=sv, start=0x8004_0000), PageTables(bare, sv=sv, start=0x8008_0000)
    for _ in range(3):
        second.page()  # the root has four pages
    flags = RWX | (U if priv == 0 else 0)
    first.map(CODE, CODE, flags)
    first.map(VA, GPA, flags)
    first.map(VA - 0x1000, DATA, flags)
    bare.u64(first.slot(FAR, 1), TABLE_GPA >> 2 | 1)
    for page in range(CODE, CODE + 0x10_0000, 0x1000):
        second.map(page, page, RWX | U)
    bare.set(csr_302=0xF0_B5FF, csr_105=HANDLER, csr_280=first.satp(), csr_680=second.satp(), a0=VA, a1=FAR)
    bare.hart.priv, bare.hart.virt = priv, 1
    return bare


def trapped(bare: Bare) -> tuple[int, int, int, int]:
    """Execute one instruction and return scause, stval, htval and htinst of its trap into HS."""
    assert bare.core.run(bare.core.icount + 1) == "limit"
    assert (bare.hart.pc, bare.hart.priv, bare.hart.virt) == (HANDLER, 1, 0)
    return tuple(bare.hart.csr_read(n) for n in (SCAUSE, STVAL, HTVAL, HTINST))  # type: ignore[return-value]


@CORES
@pytest.mark.parametrize("sv", [39, 48, 57])
@pytest.mark.parametrize(("text", "cause", "offset"), [
    ("lw a2, 16(a0)", 21, 16), ("lb a2, 7(a0)", 21, 7), ("ld a2, 3(a0)", 21, 3), ("lr.w a2, (a0)", 21, 0),
    ("sd a2, 8(a0)", 23, 8), ("sh a2, 1(a0)", 23, 1), ("amoadd.w a2, a3, (a0)", 23, 0), ("sc.d a2, a3, (a0)", 23, 0),
    ("ld a2, -4(a0)", 21, 0), ("sd a2, -1(a0)", 23, 0),  # over the border: the part that faults
])
def test_shtvala_explicit_accesses(core: str, sv: int, text: str, cause: int, offset: int) -> None:
    assert trapped(guest(text, core, sv=sv)) == (cause, VA + offset, GPA + offset >> 2, 0)


@CORES
def test_shtvala_fetch(core: str) -> None:
    bare = guest("nop", core)
    bare.hart.pc = VA + 0x124
    assert trapped(bare) == (20, VA + 0x124, GPA + 0x124 >> 2, 0)


@CORES
@pytest.mark.parametrize(("text", "cause"), [("lw a2, 16(a1)", 21), ("sw a2, 16(a1)", 23)])
def test_shtvala_implicit_accesses(core: str, text: str, cause: int) -> None:
    slot = TABLE_GPA + 8 * (FAR >> 12 & 511)
    assert trapped(guest(text, core)) == (cause, FAR + 16, slot >> 2, 0x3000)


@CORES
@pytest.mark.parametrize(("text", "cause", "offset"), [
    ("hlv.w a2, (a0)", 21, 0), ("hlvx.hu a2, (a0)", 21, 0), ("hsv.b a2, (a0)", 23, 0),
])
def test_shtvala_accesses_of_the_hypervisor(core: str, text: str, cause: int, offset: int) -> None:
    bare = guest(text, core)
    bare.hart.virt = 0
    bare.set(csr_600=1 << 8)
    assert trapped(bare) == (cause, VA + offset, GPA + offset >> 2, 0)
    assert bare.hart.csr_read(0x600) >> 6 & 3 == 1  # GVA without SPV


@CORES
@pytest.mark.parametrize(("text", "priv", "cause", "value"), [
    ("lw a2, 16(a3)", 1, 13, 0x5000_0010), ("sd a2, 7(a3)", 1, 15, 0x5000_0007), ("lr.w a2, (a4)", 1, 4, 0x5000_0001),
    ("sc.w a2, a2, (a4)", 1, 6, 0x5000_0001), ("jalr a2, 2(a3)", 1, 12, 0x5000_0002), (".word 0xffffffff", 1, 2, None),
    ("mret", 0, 2, None),
])
def test_shvstvala_vstval_is_written(core: str, text: str, priv: int, cause: int, value: int | None) -> None:
    bare = guest(text, core, priv=priv)
    bare.set(csr_602=0xB1FF, csr_205=CODE + 0x800, a3=0x5000_0000, a4=0x5000_0001)
    word = int.from_bytes(bare.core.mem_read(CODE, 4), "little")
    steps = 2 if cause == 12 else 1
    assert bare.core.run(bare.core.icount + steps) == "limit"
    assert (bare.hart.priv, bare.hart.virt, bare.hart.csr_read(0x242)) == (1, 1, cause)
    assert bare.hart.csr_read(0x243) == (word if value is None else value)


def test_shcounterenw_every_counter_can_be_given_to_a_guest() -> None:
    bare = Bare(exts=H)
    for bit in range(32):
        bare.hart.csr_write(0x606, 1 << bit)
        assert bare.hart.csr_read(0x606) == 1 << bit


@pytest.mark.parametrize("sv", [39, 48, 57])
def test_shvsatpa_and_shgatpa_every_mode_of_satp_is_one_of_both_stages(sv: int) -> None:
    bare = Bare(exts=H)
    for number in (0x180, 0x280, 0x680):
        bare.hart.csr_write(number, MODES[sv] << 60 | 4)
        assert bare.hart.csr_read(number) == MODES[sv] << 60 | 4
        bare.hart.csr_write(number, 0)
        assert bare.hart.csr_read(number) == 0


def test_shvstvecd_direct_mode_takes_any_aligned_address() -> None:
    bare = Bare(exts=H)
    for value in (0, 4, 0x8000_0004, 0xFFFF_FFFF_FFFF_FFFC, 0x5555_5555_5555_5554):
        bare.hart.csr_write(0x205, value)
        assert bare.hart.csr_read(0x205) == value
