"""The check of fences under two stages: which stage and level is reported, which fence is enough, and which is none.

Privileged manual, "H", "Hypervisor Memory-Management Fence Instructions". The hypervisor reads its guest's memory by
HLV, changes an entry of one of the stages, does a fence or none, and reads again.
"""
from __future__ import annotations

import pytest

import pyvirt as pv
from tests.support import BASE, EXTS, RW, RWX, Bare, PageTables, R, U, Variant, pte

H = EXTS | 1 << 19
ONE, TWO = BASE + 0x4_0000, BASE + 0x4_1000
VA, GPA = 0x4000_0000, 0x1_2345_6000
S, VS, G = 0, 1, 2
PROGRAM = """
    hlv.d t0, (s0)
store:
    sd s2, 0(s1)
    {fence}
use:
    {use}
    wfi
"""
OF_VS = ("hfence.vvma", "hfence.vvma s0", "hfence.vvma s0, zero", "hinval.vvma s0, zero")
OF_G = ("hfence.gvma", "hfence.gvma s3", "hfence.gvma s3, zero", "hinval.gvma s3, zero")
OTHERS = ("nop", "sfence.w.inval", "fence.i", "fence rw, rw")


def edited(stage: int, level: int, fence: str, *, use: str = "hlv.d t1, (s0)", new: int | None = None,
           core: str = "threaded") -> Bare:
    """Run the program; the entry edited is the one of `level` for VA in a stage."""
    bare = Bare(PROGRAM.format(fence=fence, use=use), exts=H, variant=Variant(core=core))
    bare.open_pmp()
    first, second = PageTables(bare, start=BASE + 0x8_0000), PageTables(bare, start=BASE + 0xA_0000)
    for _ in range(3):
        second.page()
    for page in range(BASE, BASE + 0x10_0000, 0x1000):
        second.map(page, page, RWX | U)
    first.map(VA, GPA, RW)
    second.map(GPA, ONE, RW | U)
    at = first.slot(VA, level) if stage == VS else second.slot(GPA, level)
    if new is None:
        new = pte(GPA + 0x1000, RW) if stage == VS else pte(TWO, RW | U)
        new = 0 if level else new
    bare.set(csr_280=first.satp(), csr_680=second.satp(), csr_600=0x100, csr_305=BASE + 0x100, s0=VA, s1=at, s2=new,
             s3=GPA >> 2)
    bare.core.mem_write(BASE + 0x100, bytes.fromhex("73005010"))  # wfi: faults end the run too
    bare.hart.priv = 1
    bare.core.check_fences = True
    assert bare.core.run(10_000) == "idle"
    return bare


@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("stage", [VS, G], ids=["VS", "G"])
def test_the_report_says_where(stage: int, level: int, core: str) -> None:
    bare = edited(stage, level, "nop", core=core)
    [report] = bare.core.take_missing_fences()
    at, _, new, va, size, found, depth, store_pc, _, _, use_va, use_pc, _, _ = report
    assert (at, new, found, depth) == (bare.x("s1"), bare.x("s2"), stage, level)
    assert (store_pc, use_pc, use_va) == (bare.symbols["store"], bare.symbols["use"], VA)
    assert (va, size) == ((VA, 1 << 12 + 9 * level) if stage == VS else (0, 0))


@pytest.mark.parametrize("fence", [*OF_VS, *OF_G, *OTHERS])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("stage", [VS, G], ids=["VS", "G"])
def test_each_stage_has_its_fences(stage: int, level: int, fence: str) -> None:
    enough = fence in (OF_VS if stage == VS else OF_G)
    assert len(edited(stage, level, fence).core.take_missing_fences()) == (0 if enough else 1)


def test_a_fence_of_another_address_is_none() -> None:
    assert len(edited(VS, 0, "hfence.vvma s1").core.take_missing_fences()) == 1


def test_what_the_old_entry_would_have_done_alike_is_none() -> None:
    read_only = pte(GPA, RW & ~4)
    assert edited(VS, 0, "nop", new=read_only).core.take_missing_fences() == []
    assert len(edited(VS, 0, "nop", new=read_only, use="hsv.d t1, (s0)").core.take_missing_fences()) == 1
    assert edited(VS, 0, "nop", new=pte(GPA, RWX)).core.take_missing_fences() == []
    assert edited(G, 0, "nop", new=pte(ONE, RWX | U)).core.take_missing_fences() == []


def test_a_table_used_at_two_places_is_fenced_as_a_table_of_its_stage() -> None:
    """One page table, reached from two entries above: a fence of the first stage is enough, also for one address."""
    for fence, missing in (("nop", 1), ("sfence.vma", 0), ("sfence.vma s0", 0), ("hfence.gvma", 1)):
        bare = Bare(f"ld t0, 0(s0)\n ld t0, 0(s3)\n sd s2, 0(s1)\n {fence}\n ld t1, 0(s0)\n wfi", exts=H)
        bare.open_pmp()
        tables = PageTables(bare, start=BASE + 0x8_0000)
        tables.map(BASE, BASE, RWX, 2)
        entry = tables.map(VA, ONE, RW)
        bare.u64(tables.slot(VA + (1 << 21), 1), bare.u64(tables.slot(VA, 1)))
        bare.set(csr_180=tables.satp(), s0=VA, s1=entry, s2=pte(TWO, RW), s3=VA + (1 << 21))
        bare.hart.priv = 1
        bare.core.check_fences = True
        assert bare.core.run(10_000) == "idle"
        assert [report[5:7] for report in bare.core.take_missing_fences()] == [(S, 0)] * missing


def test_a_guest_that_forgets_its_own_fence_is_told() -> None:
    with pv.Machine(board="bare", ram="1M", fences="check") as vm:
        program = pv.asm("ld t0, 0(s0)\nstore: sd s2, 0(s1)\nuse: ld t1, 0(s0)\n wfi", at=BASE)
        vm.load(program)
        root, middle, leaf, g_root = BASE + 0x8_0000, BASE + 0x8_1000, BASE + 0x8_2000, BASE + 0x8_4000
        for at, entry in {root + 16: pte(BASE, RWX), root + 8: pte(middle, 1), middle: pte(leaf, 1), leaf: pte(ONE, RW),
                          g_root + 16: pte(BASE, RWX | U)}.items():
            vm.mem.u64[at] = entry
        csr = vm.hart.csr
        csr.pmpaddr0, csr.pmpcfg0 = (1 << 54) - 1, 0x1F
        csr.vsatp, csr.hgatp = 8 << 60 | root >> 12, 8 << 60 | g_root >> 12
        vm.hart.world, vm.hart.pc = "VS", BASE
        vm.hart.s0, vm.hart.s1, vm.hart.s2 = VA, leaf, pte(TWO, R | 0xC0)
        vm.run(instructions=100)
        [missing] = vm.missing_fences
        assert (missing.stage, missing.level, missing.entry, missing.va) == ("VS", 0, leaf, VA)
        assert (missing.store_pc, missing.use_pc) == (program.symbols["store"], program.symbols["use"])
        assert "(VS-stage, level 0)" in str(missing)
