"""Rules 7 and 11 of the design: switches of worlds and guests and all fences flush nothing; the G-stage has a cache.

Counted by the walks of page tables that the core does: what is cached needs none.
"""
from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support import BASE, EXTS, RW, RWX, Bare, PageTables, U, Variant

H = EXTS | 1 << 19
VA, PAGES = 0x4000_0000, 64
DATA = BASE + 0x10_0000
PROGRAM = f"""
guest:
    li t1, {PAGES}
    mv t2, a0
next:
    ld t3, 0(t2)
    add t2, t2, a1
    addi t1, t1, -1
    bnez t1, next
    ecall
    j guest
    .balign 4
trap:
    {{switch}}
    csrr s0, sepc
    addi s0, s0, 4
    csrw sepc, s0
    sret
"""
CORES = pytest.mark.parametrize("core", ["threaded", "switch"])


def rounds(switch: str, core: str, *, stages: int = 2) -> tuple[Bare, list[tuple[int, int]]]:
    """Run a guest that reads its pages and calls its hypervisor; returns the walks of each of ten rounds behind two."""
    bare = Bare(PROGRAM.format(switch=switch), size=1 << 21, exts=H, variant=Variant(core=core))
    bare.open_pmp()
    first, other = PageTables(bare, start=BASE + 0x8_0000), PageTables(bare, start=BASE + 0x9_0000)
    second = PageTables(bare, start=BASE + 0xA_0000)
    for _ in range(3):
        second.page()
    for tables in (first, other):
        tables.map(BASE, BASE, RWX)
        for i in range(PAGES):
            tables.map(VA + (i << 12), DATA + (i << 12), RW)
            bare.u64(DATA + (i << 12), i)  # a page that was never written has nothing to be found
    for page in range(BASE, BASE + (2 << 20), 0x1000):
        second.map(page, page, RWX | U)
    hgatp = second.satp() if stages == 2 else 0
    bare.set(csr_302=1 << 10, csr_105=bare.symbols["trap"], csr_280=first.satp(), csr_680=hgatp, a0=VA, a1=4096)
    bare.set(s1=hgatp, s2=hgatp | 7 << 44, s3=first.satp(), s4=other.satp(), s5=first.satp() | 5 << 44)
    bare.hart.priv, bare.hart.virt = 1, 1
    seen = []
    for _ in range(13):
        seen.append(bare.core.walks)
        while bare.hart.virt:
            bare.core.run(bare.core.icount + 1)
        while not bare.hart.virt:
            bare.core.run(bare.core.icount + 1)
    pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(seen)]
    assert pairs[0][0] >= PAGES  # the first round has everything to find
    return bare, pairs[2:]


SWITCHES = {
    "worlds": "nop",
    "hgatp": "csrw hgatp, s2; hfence.gvma; csrw hgatp, s1",
    "vsatp": "csrw vsatp, s4; csrw vsatp, s5; csrw vsatp, s3",
    "fences": "hfence.gvma; hfence.vvma; sfence.vma; hinval.gvma x0, x0; hinval.vvma a0, x0; fence.i",
    "modes": "li s6, 0x80000; csrs sstatus, s6; csrc sstatus, s6; csrs vsstatus, s6; csrc vsstatus, s6",
}


@CORES
@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_switches_and_fences_flush_nothing(core: str, switch: str) -> None:
    _, walks = rounds(switch, core)
    assert walks == [(0, 0)] * 10


@CORES
def test_two_guests_that_take_turns_find_their_translations_again(core: str) -> None:
    _, walks = rounds("xor s7, s1, s2; csrr s8, hgatp; xor s8, s8, s7; csrw hgatp, s8", core)
    assert walks == [(0, 0)] * 10


@CORES
def test_a_new_address_space_of_a_guest_finds_its_memory_in_the_cache_of_the_g_stage(core: str) -> None:
    """Each round has a new ASID: everything is walked again, and of the G-stage only what collides in its cache."""
    _, walks = rounds("li s7, 1; slli s7, s7, 44; add s3, s3, s7; csrw vsatp, s3", core)
    assert all(first >= PAGES for first, _ in walks)
    assert max(second for _, second in walks) <= 4
