"""The check of fences: what is reported, and what is not."""
from __future__ import annotations

import pytest

import pyvirt as pv
from tests.support import BASE, HANDLER, RW, RWX, Bare, PageTables, pte

TABLES = BASE + 0x8_0000
ONE, TWO = BASE + 0x4_0000, BASE + 0x4_1000
VA = 0x4000_0000

# s0 holds an address, s1 that of its page-table entry, s2 another value for the entry.
PROGRAM = f"""
    j start
{HANDLER}
start:
    ld t0, 0(s0)
    {{fence_before}}
store:
    sd s2, 0(s1)
    {{fence}}
use:
    {{use}} t1, 0(s0)
    wfi
"""


def edited(fence: str, *, new: int = pte(TWO, RW), use: str = "ld", before: str = "nop") -> Bare:
    """Run a program that reads through an entry, changes it to `new`, does `fence`, and uses the entry again."""
    bare = Bare(PROGRAM.format(fence=fence, fence_before=before, use=use))
    tables = PageTables(bare, start=TABLES)
    tables.map(BASE, BASE, RWX, 2)
    entry = tables.map(VA, ONE, RW)
    bare.supervisor(tables.satp(), bare.symbols["start"])
    bare.set(s0=VA, s1=entry, s2=new)
    bare.core.check_fences = True
    assert bare.core.run(10_000) == "idle"
    return bare


def test_a_use_before_the_fence_is_reported_with_both_places() -> None:
    bare = edited("nop")
    [report] = bare.core.take_missing_fences()
    at, old, new, va, span, stage, level, store_pc, _, store_hart, use_va, use_pc, _, use_hart = report
    assert (at, old, new) == (bare.x("s1"), pte(ONE, RW), pte(TWO, RW))
    assert (va, span, stage, level) == (VA, 4096, 0, 0)
    assert (store_pc, use_pc, use_va) == (bare.symbols["store"], bare.symbols["use"], VA)
    assert (store_hart, use_hart) == (0, 0)
    assert bare.core.take_missing_fences() == []


@pytest.mark.parametrize("fence", ["sfence.vma", "sfence.vma s0", "sfence.vma s0, zero", "sinval.vma s0, zero"])
def test_a_fence_that_covers_the_address_is_enough(fence: str) -> None:
    assert edited(fence).core.take_missing_fences() == []


@pytest.mark.parametrize("fence", ["sfence.vma s1", "fence.i", "fence rw, rw"])
def test_a_fence_of_something_else_is_none(fence: str) -> None:
    assert len(edited(fence).core.take_missing_fences()) == 1


def test_a_fence_before_the_store_does_not_count() -> None:
    assert len(edited("nop", before="sfence.vma").core.take_missing_fences()) == 1


def test_an_entry_that_only_gains_permissions_needs_no_fence() -> None:
    assert edited("nop", new=pte(ONE, RWX)).core.take_missing_fences() == []


def test_a_use_that_the_old_entry_would_have_served_alike_is_none() -> None:
    lost_write = pte(ONE, RW & ~4)
    assert edited("nop", new=lost_write).core.take_missing_fences() == []
    [report] = edited("nop", new=lost_write, use="sd").core.take_missing_fences()
    assert report[10] == VA


def test_an_invalid_entry_is_reported_though_the_use_faults() -> None:
    assert len(edited("nop", new=0).core.take_missing_fences()) == 1


def test_checking_changes_nothing_a_guest_can_notice() -> None:
    checked = edited("nop")
    plain = Bare(PROGRAM.format(fence="nop", fence_before="nop", use="ld"))
    tables = PageTables(plain, start=TABLES)
    tables.map(BASE, BASE, RWX, 2)
    entry = tables.map(VA, ONE, RW)
    plain.supervisor(tables.satp(), plain.symbols["start"])
    plain.set(s0=VA, s1=entry, s2=pte(TWO, RW))
    assert plain.core.run(10_000) == "idle"
    assert plain.digest() == checked.digest()


def test_a_machine_shows_what_is_missing() -> None:
    with pv.Machine(board="bare", ram="1M", fences="check") as vm:
        program = PROGRAM.format(fence="nop", fence_before="nop", use="ld")
        vm.load(pv.asm(program))
        symbols = pv.asm(program).symbols
        root, middle, leaf = TABLES, TABLES + 0x1000, TABLES + 0x2000
        entries = {root + 16: pte(BASE, RWX), root + 8: pte(middle, 1), middle: pte(leaf, 1), leaf: pte(ONE, RW)}
        for at, entry in entries.items():
            vm.mem.u64[at] = entry
        vm.hart.csr.pmpaddr0, vm.hart.csr.pmpcfg0 = (1 << 54) - 1, 0x1F
        vm.hart.csr.satp = 8 << 60 | root >> 12
        vm.hart.world, vm.hart.pc = "HS", symbols["start"]
        vm.hart.s0, vm.hart.s1, vm.hart.s2 = VA, leaf, pte(TWO, RW)
        vm.run(instructions=100)
        [missing] = vm.missing_fences
        assert (missing.stage, missing.level, missing.va, missing.use_pc) == ("S", 0, VA, symbols["use"])
        assert "(S-stage, level 0)" in str(missing)
        assert "unfenced for 0x40000000" in str(missing)
        assert vm.missing_fences == [missing]


def test_the_option_is_checked() -> None:
    with pytest.raises(pv.ConfigError, match=r"fences: 'chek' is not allowed.*'check'"):
        pv.Machine(fences="chek")
