"""htinst and mtinst of explicit accesses, where the machine transforms: derived again from the instruction itself.

Privileged manual, "H", "Transformed Instruction or Pseudoinstruction for mtinst or htinst". Every load, store, atomic
and hypervisor access faults in the G-stage, at its address and where it reaches over the border of a page.
"""
from __future__ import annotations

import re

import pytest

from tests.hyp.test_sha import CODE, DATA, FAR, GPA, HANDLER, VA, H, trapped
from tests.support import RWX, Bare, PageTables, U, Variant

LOADS = [f"l{k} a2, 16(a0)" for k in ("b", "h", "w", "d", "bu", "hu", "wu")]
STORES = [f"s{k} a2, 16(a0)" for k in "bhwd"]
FLOATS = ["flw f10, 16(a0)", "fld f31, 16(a0)", "fsw f10, 16(a0)", "fsd f31, 16(a0)"]
ATOMICS = [f"{name}.{k} a2, a3, (a0)" for k in "wd"
           for name in ("amoadd", "amoswap", "amoxor", "amomaxu", "sc")] + ["lr.w a2, (a0)", "lr.d.aq a2, (a0)",
                                                                           "amoand.w.aqrl t6, s11, (a0)"]
COMPRESSED = ["c.lw a2, 4(a0)", "c.ld a5, 8(a0)", "c.sw a2, 4(a0)", "c.sd s1, 8(a0)", "c.fld f8, 8(a0)",
              "c.fsd f15, 8(a0)", "c.lwsp t6, 4(sp)", "c.ldsp ra, 8(sp)", "c.swsp t6, 4(sp)", "c.sdsp x0, 8(sp)",
              "c.fldsp f31, 8(sp)", "c.fsdsp f31, 8(sp)"]
CROSSING = ["ld a2, -4(a0)", "lw a2, -1(a0)", "lhu a2, -1(a0)", "sd a2, -7(a0)", "sw a2, -2(a0)", "fsd f3, -4(a0)",
            "fld f3, -1(a0)", "ld a2, 3(a0)", "sh a2, 1(a0)"]
HYPER = [f"hlv.{k} a2, (a0)" for k in ("b", "bu", "h", "hu", "w", "wu", "d")] + \
    ["hlvx.hu a2, (a0)", "hlvx.wu t6, (a0)"] + [f"hsv.{k} a2, (a0)" for k in "bhwd"]
OVER = ["hlv.d a2, (a4)", "hlvx.wu a2, (a4)", "hsv.d a2, (a4)", "hsv.w t6, (a4)"]  # a4 = VA - 2


def transformed(word: int, offset: int) -> int:
    """Return what the manual makes of an instruction word whose fault is `offset` bytes behind its address."""
    if word & 3 != 3:
        return wide(word) & ~2 | offset << 15
    opcode = word & 0x7F
    if opcode in (0x03, 0x07):
        return word & 0x7FFF | offset << 15  # rd, funct3, opcode
    if opcode in (0x23, 0x27):
        return word & 0x1F0_707F | offset << 15  # rs2, funct3, opcode
    return word & ~(31 << 15) | offset << 15  # atomics and hypervisor accesses: all but rs1


def wide(word: int) -> int:
    """Return the load or store that a compressed one stands for, without address."""
    quadrant, funct3 = word & 3, word >> 13
    by_stack = quadrant == 2
    store = funct3 >= 4
    floating = funct3 in (1, 5)
    width = 3 if floating or funct3 in (3, 7) else 2
    if by_stack:
        register = word >> 2 & 31 if store else word >> 7 & 31
    else:
        register = 8 + (word >> 2 & 7)
    opcode = (0x27 if floating else 0x23) if store else (0x07 if floating else 0x03)
    return register << (20 if store else 7) | width << 12 | opcode


def faulting(text: str, core: str, *, guest: bool, priv: int = 1) -> Bare:
    """Return a machine at an instruction that faults at VA in the G-stage; the page before it is there."""
    bare = Bare(text, exts=H, variant=Variant(core=core), transform=True)
    bare.open_pmp()
    first, second = PageTables(bare, start=0x8004_0000), PageTables(bare, start=0x8008_0000)
    for _ in range(3):
        second.page()
    user = U if priv == 0 else 0
    for va, pa in ((CODE, CODE), (VA, GPA), (VA - 0x1000, DATA)):
        first.map(va, pa, RWX | user)
    bare.u64(first.slot(FAR, 1), 0x1_7777_7000 >> 2 | 1)
    for page in range(CODE, CODE + 0x10_0000, 0x1000):
        second.map(page, page, RWX | U)
    bare.set(csr_302=0xF0_B5FF, csr_105=HANDLER, csr_280=first.satp(), csr_680=second.satp(), a0=VA, sp=VA, a4=VA - 2,
             a1=FAR, csr_300=0x6000, csr_200=0x6000, csr_600=0x100)
    bare.hart.priv, bare.hart.virt = priv, int(guest)
    return bare


def check(text: str, bare: Bare) -> None:
    """Let the instruction fault and compare what HS-mode finds with what the instruction itself says."""
    word = int.from_bytes(bare.core.mem_read(bare.hart.pc, 4), "little")
    word &= 0xFFFF if word & 3 != 3 else 0xFFFF_FFFF
    found = re.search(r"(-?\d*)\((\w+)\)", text)
    assert found is not None
    begin = bare.x(found[2]) + int(found[1] or 0)
    at = max(begin, VA)
    cause, tval, tval2, tinst = trapped(bare)
    assert (cause in (21, 23), tval, tval2) == (True, at, GPA + (at - VA) >> 2)
    assert f"{tinst:#x}" == f"{transformed(word, at - begin):#x}"


CORES = pytest.mark.parametrize("core", ["threaded", "switch"])


@CORES
@pytest.mark.parametrize("text", LOADS + STORES + FLOATS + ATOMICS + COMPRESSED)
def test_accesses_of_a_guest(core: str, text: str) -> None:
    for priv in (1, 0):
        check(text, faulting(text, core, guest=True, priv=priv))


@CORES
@pytest.mark.parametrize("text", CROSSING)
def test_the_offset_of_a_misaligned_access(core: str, text: str) -> None:
    check(text, faulting(text, core, guest=True))


@CORES
@pytest.mark.parametrize("text", HYPER + OVER)
def test_accesses_of_a_hypervisor(core: str, text: str) -> None:
    check(text, faulting(text, core, guest=False))


@CORES
def test_implicit_accesses_have_their_pseudoinstruction_and_fetches_none(core: str) -> None:
    bare = faulting("ld a2, 0(a1)", core, guest=True)
    assert trapped(bare) == (21, FAR, 0x1_7777_7000 + (FAR >> 12 & 511) * 8 >> 2, 0x3000)
    bare = faulting("nop", core, guest=True)
    bare.hart.pc = VA + 4
    assert trapped(bare) == (20, VA + 4, GPA + 4 >> 2, 0)


@CORES
@pytest.mark.parametrize("text", ["ld a2, 16(a0)", "c.sd s1, 8(a0)", "amoadd.w a2, a3, (a0)"])
def test_machine_mode_finds_the_same_in_mtinst(core: str, text: str) -> None:
    one, two = (faulting(text, core, guest=True) for _ in range(2))
    two.set(csr_302=0, csr_305=HANDLER)
    trapped(one)
    assert two.core.run(two.core.icount + 1) == "limit"
    assert two.hart.priv == 3
    assert two.hart.csr_read(0x34A) == one.hart.csr_read(0x64A) != 0
    assert two.hart.csr_read(0x34B) == one.hart.csr_read(0x643) != 0
