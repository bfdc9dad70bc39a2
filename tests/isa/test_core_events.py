"""Events at an exact instruction (rule 12): timers, WFI, what is unmasked, and runs that get nowhere."""
from __future__ import annotations

import random

import pytest

from tests.support import BASE, CLINT, VARIANTS, Bare, Variant, run, same

MTI, STI, SSI, MSI = 1 << 63 | 7, 1 << 63 | 5, 1 << 63 | 1, 1 << 63 | 3
# Blocks of several lengths, branches within and across pages, loads and stores.
WORK = """
    .balign 64
work:
    addi a0, a0, 1
    slli a1, a0, 3
    andi a1, a1, 0x7F8
    la t0, area
    add t0, t0, a1
    ld t1, 0(t0)
    add t1, t1, a0
    sd t1, 0(t0)
    andi t2, a0, 7
    beqz t2, far
    c.addi a2, 1
    bltu a2, a0, work
    j work
    .balign 4096
far:
    addi a3, a3, 1
    c.nop
    jr s0
    .balign 64
handler:
    csrr s2, mepc
    rdtime s3
rest:
    wfi
    j rest
    .balign 8
area:
    .space 0x800
"""


def timer(variant: Variant, *, ratio: int, ticks: int, sstc: bool) -> Bare:
    """Return a machine in which a timer fires at `ticks` while WORK runs."""
    bare = Bare("la s0, work\n j work\n" + WORK, variant=variant, ratio=ratio)
    bare.clint()
    bare.set(csr_305=bare.symbols["handler"], csr_300=8)
    if sstc:
        # In S-mode, not delegated: it goes to M at once.
        bare.open_pmp()
        bare.set(csr_30a=1 << 63, csr_306=7, csr_14d=ticks, csr_304=1 << 5)
        bare.hart.priv = 1
    else:
        bare.core.bus_write(CLINT + 0x4000, 8, ticks)
        bare.set(csr_304=1 << 7)
    return bare


@pytest.mark.parametrize("sstc", [False, True], ids=["mtimecmp", "stimecmp"])
@pytest.mark.parametrize("ratio", [1, 10])
def test_timer_at_every_offset(ratio: int, sstc: bool) -> None:
    reference = timer(Variant(core="switch"), ratio=ratio, ticks=1 << 60, sstc=sstc)
    pcs = []
    for _ in range(420):
        pcs.append(reference.hart.pc)
        reference.core.run(reference.core.icount + 1)
    for ticks in range(1, 400 // ratio + 1, 1 if ratio > 1 else 3):
        for variant in (VARIANTS[0], VARIANTS[1], VARIANTS[2 + ticks % 9]):
            bare = timer(variant, ratio=ratio, ticks=ticks, sstc=sstc)
            assert run(bare, variant, 600) in ("idle", "limit")
            assert bare.hart.csr_read(0x342) == (STI if sstc else MTI)
            assert (bare.x("s2"), bare.x("s3")) == (pcs[ticks * ratio], (ticks * ratio + 1) // ratio), (variant, ticks)


@pytest.mark.parametrize("seed", range(6))
def test_periodic_timer_in_ten_thousand_slices(seed: int) -> None:
    text = f"""
        la s0, work
        j work
        {WORK.replace("wfi", "j again", 1)}
    again:
        add s4, s4, s3
        addi s5, s5, 1
        li t3, {CLINT + 0x4000}
        ld t4, 0(t3)
        addi t4, t4, 37
        sd t4, 0(t3)
        mret
    """

    def make(variant: Variant) -> Bare:
        bare = Bare(text, variant=variant, ratio=3)
        bare.clint()
        bare.core.bus_write(CLINT + 0x4000, 8, 50)
        bare.set(csr_305=bare.symbols["handler"], csr_300=8, csr_304=1 << 7)
        return bare

    longest = random.Random(seed).choice((1, 7, 20, 60))
    limit = 10_000 * longest // 6
    bare = same(make, limit=limit, stop="limit", variants=[
        Variant(), Variant(core="switch"), Variant(seed=seed, longest=longest),
        Variant(core="switch", seed=seed, longest=9), Variant(seed=seed + 10, longest=longest, evict=True, share=True),
    ])
    assert bare.x("s5") == (limit // 3 - 50) // 37 + 1


UNMASK = {
    "csrsi mstatus, 8": (0, SSI), "csrw mstatus, s6": (0, SSI), "csrrs x0, mie, s7": (8, SSI), "csrw mip, s7": (8, SSI),
    "mret": (0x1880, SSI), "csrw mideleg, x0": (8, SSI), "sd s8, 0(s9)": (8, MSI),
}


@pytest.mark.parametrize("how", UNMASK)
def test_what_unmasks_is_followed_by_the_interrupt(how: str) -> None:
    status, cause = UNMASK[how]
    text = f"""
        j start
        .balign 4
    handler:
        csrr s2, mepc
        csrw mie, x0
    9:  wfi
        j 9b
    start:
        nop
        {how}
    next:
        addi a0, a0, 1
        addi a0, a0, 1
        csrw mie, x0
        j 9b
    """

    def make(variant: Variant) -> Bare:
        bare = Bare(text, variant=variant)
        bare.clint()
        bare.set(csr_305=bare.symbols["handler"], s6=8, s7=2, s8=1, s9=CLINT, csr_341=bare.symbols["next"])
        bare.set(csr_344=0 if "mip" in how or "sd" in how else 2, csr_304=0 if "mie, s7" in how else 10)
        if "mideleg" in how:
            bare.set(csr_303=2)
        bare.set(csr_300=status)
        return bare

    bare = same(make)
    assert bare.hart.csr_read(0x342) == cause
    assert bare.x("s2") == bare.symbols["next"]
    assert bare.x("a0") == 0


def test_sret_unmasks_for_supervisor() -> None:
    text = "j start\n .balign 4\n handler: csrr s2, sepc\n csrw sie, x0\n 9: wfi\n j 9b\n start: nop\n sret\n next: nop"

    def make(variant: Variant) -> Bare:
        bare = Bare(text, variant=variant)
        bare.open_pmp()
        bare.set(csr_303=2, csr_304=2, csr_344=2, csr_105=bare.symbols["handler"], csr_141=bare.symbols["next"])
        bare.set(csr_300=0x120)
        bare.hart.priv = 1
        bare.hart.pc = bare.symbols["start"]
        return bare

    bare = same(make)
    assert (bare.x("s2"), bare.hart.csr_read(0x142)) == (bare.symbols["next"], SSI)


@pytest.mark.parametrize("taken", [False, True])
def test_wfi_wakes_at_the_tick_and_time_jumps(taken: bool) -> None:
    text = "li s1, 5\n 1: wfi\n rdtime s2\n add s3, s3, s2\n ld t0, 0(s4)\n addi t0, t0, 100\n sd t0, 0(s4)\n" \
           " addi s1, s1, -1\n bnez s1, 1b\n csrw mie, x0\n 9: wfi\n j 9b\n .balign 4\n handler: addi s5, s5, 1\n" \
           " csrr t1, mepc\n csrci mstatus, 8\n li t2, 0x80\n csrc mstatus, t2\n mret"

    def make(variant: Variant) -> Bare:
        bare = Bare(text, variant=variant, ratio=7)
        bare.clint()
        bare.core.bus_write(CLINT + 0x4000, 8, 1000)
        bare.set(csr_304=0x80, csr_305=bare.symbols["handler"], csr_300=8 if taken else 0, s4=CLINT + 0x4000)
        return bare

    bare = same(make)
    assert bare.x("s3") == sum(range(1000, 1500, 100))
    assert bare.x("s5") == taken


@pytest.mark.parametrize("variant", [
    Variant(), Variant(core="switch"), Variant(seed=1, longest=30), Variant(tlb_limit=1),
])
class TestRunsThatGetNowhere:
    def test_idle(self, variant: Variant) -> None:
        bare = Bare("wfi\n j .", variant=variant)
        assert run(bare, variant, 1_000_000) == "idle"
        assert (bare.core.icount, bare.hart.pc, bare.hart.waiting) == (1, BASE + 4, True)
        assert run(bare, variant, 1_000_000) == "idle"
        bare.clint()
        bare.set(csr_304=8)
        bare.core.bus_write(CLINT, 4, 1)
        assert run(bare, variant, 100) == "limit"

    def test_idle_with_a_timer_beyond_the_limit(self, variant: Variant) -> None:
        bare = Bare("wfi\n nop", variant=variant, ratio=10)
        bare.clint()
        bare.core.bus_write(CLINT + 0x4000, 8, 1000)
        bare.set(csr_304=0x80)
        assert run(bare, variant, 5000) == "limit"
        assert (bare.core.icount, bare.hart.waiting, bare.hart.count) == (5000, True, 1)
        assert run(bare, variant, 10_001) == "limit"
        assert (bare.hart.pc, bare.hart.count) == (BASE + 8, 2)

    @pytest.mark.parametrize("vector", [0, 0x4000_0000, BASE + 0x100])
    def test_trap_loop(self, variant: Variant, vector: int) -> None:
        bare = Bare("nop\n nop\n ecall", variant=variant)
        bare.set(csr_305=vector)  # nothing there, or zeros: an illegal instruction
        assert run(bare, variant, 1_000_000) == "trap_loop"
        assert bare.core.icount == 2 + 1000
        assert bare.hart.csr_read(0xB02) == 2
        assert bare.hart.pc == vector
        assert run(bare, variant, 1_000_000) == "trap_loop"

    def test_many_calls_are_no_trap_loop(self, variant: Variant) -> None:
        bare = Bare("""
            li s1, 100000
            la t0, handler
            csrw mtvec, t0
        1:  ecall
            addi s1, s1, -1
            bnez s1, 1b
        9:  wfi
            j 9b
            .balign 4
        handler:
            csrr t1, mepc
            addi t1, t1, 4
            csrw mepc, t1
            mret
        """, variant=variant)
        assert run(bare, variant, 10_000_000) == "idle"
        assert bare.x("s1") == 0

    def test_handler_of_one_instruction_is_no_trap_loop(self, variant: Variant) -> None:
        bare = Bare("la t0, 1f\n csrw mtvec, t0\n .balign 4\n 1: addi s1, s1, 1\n ecall", variant=variant)
        assert run(bare, variant, 50_000) == "limit"


class TestCounters:
    def test_what_is_written_is_read_next(self) -> None:
        text = """
            li t0, 1000
            csrw minstret, t0
            csrr a0, minstret
            csrw mcycle, t0
            csrr a1, mcycle
            nop
            csrr a2, mcycle
            csrr a3, minstret
            li t1, 4
            csrw mcountinhibit, t1
            csrr a4, minstret
            nop
            csrr a5, minstret
            csrw minstret, x0
            nop
            csrw mcountinhibit, x0
            nop
            csrr a6, minstret
            csrr a7, cycle
            csrw mie, x0
        9:  wfi
            j 9b
        """
        bare = same(lambda v: Bare(text, variant=v))
        values = [bare.x(f"a{k}") for k in range(8)]
        assert values[:4] == [1000, 1000, 1002, 1005]
        assert values[4] == values[5]
        assert values[6] == 1
        assert values[7] == 1000 + 2 + 12

    def test_traps_are_attempted_and_not_retired(self) -> None:
        text = """
            la t0, handler
            csrw mtvec, t0
            csrw minstret, x0
            csrw mcycle, x0
            ecall
            .word 0
            lw a0, 1(x0)
            lr.w a0, (a0)
            csrr a0, minstret
            csrr a1, mcycle
        9:  wfi
            j 9b
            .balign 4
        handler:
            csrr t1, mepc
            addi t1, t1, 4
            csrw mepc, t1
            mret
        """
        bare = same(lambda v: Bare(text, variant=v))
        assert bare.x("a0") == 1 + 4 * 4
        assert bare.x("a1") == 1 + 5 * 4
