"""Several harts take turns by a quantum of icount (rule 13), whatever the slices of run()."""
from __future__ import annotations

import pytest

from tests.support import BASE, CLINT, VARIANTS, Bare, Variant, run, same

COUNT = BASE + 0x8000
# Each hart: 200 times a spin lock by LR/SC around a plain increment, an atomic increment, and an IPI to the next hart.
LOCKS = f"""
    csrr s0, mhartid
    la t0, handler
    csrw mtvec, t0
    li t0, 8
    csrw mie, t0
    li s1, 200
    li s2, {COUNT}
    li s3, {CLINT}
    addi s4, s0, 1
    remu s4, s4, s11
    slli s4, s4, 2
    add s4, s4, s3
    slli s5, s0, 2
    add s5, s5, s3
    li s6, 1
    csrsi mstatus, 8
loop:
    lr.w t0, 0(s2)
    bnez t0, loop
    sc.w t0, s6, 0(s2)
    bnez t0, loop
    ld t1, 8(s2)
    addi t1, t1, 1
    sd t1, 8(s2)
    amoadd.d x0, s6, (s7)
    amoswap.w x0, x0, (s2)
    andi t2, s1, 15
    bnez t2, 1f
    sw s6, 0(s4)
1:  addi s1, s1, -1
    bnez s1, loop
    amoadd.d x0, s6, (s8)
2:  ld t0, 0(s8)
    bne t0, s11, 2b
    csrw mie, x0
9:  wfi
    j 9b
    .balign 4
handler:
    sw x0, 0(s5)
    amoadd.d x0, s6, (s9)
    mret
"""


def locks(variant: Variant, harts: int, quantum: int) -> Bare:
    bare = Bare(LOCKS, variant=variant, harts=harts, quantum=quantum)
    bare.clint()
    for i in range(harts):
        for register, value in ((27, harts), (23, COUNT + 16), (24, COUNT + 24), (25, COUNT + 32)):
            bare.core.hart(i).set_x(register, value)
    return bare


@pytest.mark.parametrize("quantum", [1000, 2000, 3001])
@pytest.mark.parametrize("harts", [2, 3, 5])
def test_locks_and_interrupts_between_harts(harts: int, quantum: int) -> None:
    variants = [v for v in VARIANTS if v.longest > 1] if harts < 5 else VARIANTS[:4]
    bare = same(lambda v: locks(v, harts, quantum), variants=variants)
    assert bare.u64(COUNT + 8) == bare.u64(COUNT + 16) == 200 * harts
    assert bare.u64(COUNT) & 0xFFFF_FFFF == 0
    assert bare.u64(COUNT + 32) > 0


def test_slices_do_not_move_turns() -> None:
    one = locks(Variant(), 2, 1000)
    turns = []
    while one.core.icount < 30_000 and run(one, Variant(), one.core.icount + 1) == "limit":
        turns.append((one.core.current, one.core.hart(0).count, one.core.hart(1).count))
    other = locks(Variant(), 2, 1000)
    for at in range(97, len(turns), 97):
        assert other.core.run(at) == "limit"
        assert (other.core.current, other.core.hart(0).count, other.core.hart(1).count) == turns[at - 1]
    assert len(turns) > 5000
    # Turns end where the quantum does, to the instruction.
    assert [t[1] for t in turns[:1002]] == [*range(1, 1001), 1000, 1000]


def test_reservation_is_lost_with_the_turn() -> None:
    text = f"""
        csrr s0, mhartid
        li s2, {COUNT}
        bnez s0, spin
        lr.d t0, (s2)
        li t1, 3000
    1:  addi t1, t1, -1
        bnez t1, 1b
        li t2, 7
        sc.d a0, t2, (s2)
        lr.d t0, (s2)
        sc.d a1, t2, (s2)
    9:  wfi
        j 9b
    spin:
        li t1, 6000
    2:  addi t1, t1, -1
        bnez t1, 2b
        j 9b
    """
    bare = same(lambda v: Bare(text, variant=v, harts=2), variants=[v for v in VARIANTS if v.longest > 1])
    assert (bare.x("a0"), bare.x("a1")) == (1, 0)


def test_reservation_is_lost_to_dma() -> None:
    bare = Bare("lr.d t0, (s2)\n nop\n sc.d a0, s2, (s2)\n lr.w t0, (s2)\n nop\n sc.w a1, s2, (s2)\n nop\n j .")
    bare.set(s2=COUNT)
    bare.core.run(2)
    bare.core.mem_write(COUNT + 7, b"x")
    bare.core.run(4)
    assert bare.x("a0") == 1
    bare.core.mem_write(COUNT + 8, b"x")
    bare.core.run(7)
    assert bare.x("a1") == 0


def test_one_hart_waits_for_another_and_time_jumps_when_all_wait() -> None:
    text = f"""
        csrr s0, mhartid
        li s3, {CLINT}
        li t0, 0x88
        csrw mie, t0
        bnez s0, second
        wfi
        rdtime a0
        li t0, 1
        csrw mie, x0
    9:  wfi
        j 9b
    second:
        li t1, 500
    1:  addi t1, t1, -1
        bnez t1, 1b
        wfi
        rdtime a1
        li t0, 1
        sw t0, 0(s3)
        csrw mie, x0
        j 9b
    """

    def make(variant: Variant) -> Bare:
        bare = Bare(text, variant=variant, harts=2, ratio=10)
        bare.clint()
        bare.core.bus_write(CLINT + 0x4008, 8, 7777)
        return bare

    bare = same(make)
    assert bare.core.hart(1).x(11) == 7777
    assert bare.x("a0") in (7777, 7778)
