"""Blocks, links and their death, case by case: what the random programs of test_core_selfmod meet only by luck."""
from __future__ import annotations

import pytest

from pyvirt.assembly.asm import asm
from tests.support import BASE, HANDLER, RWX, Bare, PageTables, Variant, same

END = "li t0, 0\n csrw mtvec, t0\n 9: wfi\n j 9b\n"


def word(text: str) -> int:
    """Return the encoding of one instruction."""
    return int.from_bytes(asm(text), "little")


@pytest.mark.parametrize("store", ["sw t1, 0(t0)", "sd t1, 0(t0)", "amoswap.w x0, t1, (t0)", "sh t1, 0(t0)",
                                   "lr.w t3, (t0)\n sc.w t3, t1, (t0)", "fsw f1, 0(t0)", "cbo.zero (t0)"])
def test_store_to_the_next_instruction(store: str) -> None:
    new = word("addi a0, a0, 64") if store != "sh t1, 0(t0)" else word("c.addi a0, 1")
    text = f"""
        li t1, {new | word("nop") << 32}
        fmv.w.x f1, t1
        la t0, target
        j 1f
        .balign 64
    1:  {store}
        .balign 64
    target:
        addi a0, a0, 1
        nop
        .balign 64
        {END}
    """

    def make(variant: Variant) -> Bare:
        bare = Bare(text, variant=variant)
        bare.set(csr_300=3 << 13, csr_305=bare.symbols["target"] + 64)
        return bare

    bare = same(make)
    want = {"sh t1, 0(t0)": 1, "cbo.zero (t0)": 0}.get(store, 64)
    assert bare.x("a0") == want
    if store == "cbo.zero (t0)":
        assert bare.hart.csr_read(0x342) == 2
        assert bare.hart.csr_read(0x343) == 0


@pytest.mark.parametrize("half", [0, 2])
def test_store_to_either_half_of_an_instruction_across_pages(half: int) -> None:
    new = word("addi a1, a0, 64")
    text = f"""
        li s1, 3
    again:
        la t0, target + {half}
        li t1, {new >> 8 * half & 0xFFFF}
        addi s2, s2, 1
        li t2, 2
        bne s2, t2, 1f
        sh t1, 0(t0)
    1:  j before
        .org 0xFFE - 8
    before:
        addi a1, a1, 1
        addi a1, a1, 1
    target:
        addi a0, a0, 1
        addi s1, s1, -1
        beqz s1, end
        la t0, again
        jr t0
    end:
        {END}
    """
    bare = same(lambda v: Bare(text, variant=v))
    # First pass: the old one. Then, by halves: addi a1, a0, 1 or addi a0, a0, 64 (the immediate and rs1 lie high).
    low = {0: 1, 2: 1 + 64 * 2}[half]
    assert bare.x("a0") == low
    assert bare.program[0xFFE : 0x1002] == asm("addi a0, a0, 1")


def test_killed_block_that_others_lead_to() -> None:
    text = f"""
        li s1, 20000
        li s3, 1
    loop:
        la t0, leaf
        slli t1, s1, 53
        srli t1, t1, 33
        li t2, 0x513
        or t1, t1, t2
        sw t1, 0(t0)
        j middle
        .balign 4
    middle:
        beq s3, x0, leaf
        bne s3, x0, leaf
    leaf:
        addi a0, x0, 0
        add a1, a1, a0
        addi s1, s1, -1
        bnez s1, loop
        {END}
    """

    bare = same(lambda v: Bare(text, variant=v), variants=[
        Variant(), Variant(core="switch"), Variant(tlb_limit=2), Variant(seed=1, longest=3000),
    ])
    assert bare.x("a1") == sum(k & 0x7FF for k in range(1, 20001))
    assert bare.core.icount > 200_000


def test_code_killed_until_its_page_is_decoded_anew() -> None:
    # Each round kills the block that runs: more than DEAD_MAX ops die in one page, several times over.
    text = f"""
        li s1, 12000
        la t0, here
        la t2, words
        j here
        .balign 8
    words:
        addi a0, a0, 1
        addi a0, a0, 2
    here:
        nop
        addi a1, a1, 1
        andi t3, s1, 1
        slli t3, t3, 2
        add t3, t3, t2
        lw t3, 0(t3)
        sw t3, 0(t0)
        addi s1, s1, -1
        bnez s1, here
        {END}
    """
    bare = same(lambda v: Bare(text, variant=v), variants=[
        Variant(), Variant(core="switch"), Variant(seed=1, longest=5000, share=True), Variant(seed=2, longest=700),
    ])
    assert bare.x("a1") == 12000
    assert bare.x("a0") == 6000 * 1 + 5999 * 2


def test_code_in_a_page_that_also_holds_data() -> None:
    text = f"""
        li s1, 3000
        la t0, data
    loop:
        ld t1, 0(t0)
        add t1, t1, s1
        sd t1, 0(t0)
        sb s1, 9(t0)
        sw s1, 13(t0)
        addi s1, s1, -1
        bnez s1, loop
        {END}
        .balign 8
    data:
        .space 64
    """
    bare = same(lambda v: Bare(text, variant=v), variants=[
        Variant(), Variant(core="switch"), Variant(tlb_limit=1), Variant(seed=1, longest=100, share=True, evict=True),
    ])
    assert bare.u64(bare.symbols["data"]) == 3000 * 3001 // 2


def test_jump_into_the_middle_of_an_instruction() -> None:
    middle = word("c.addi a0, 5") << 16 | 0x0537 & 0xF000 | 0x537  # lui a0, whose upper half is c.addi a0, 5
    text = f"""
        li s1, 50
    loop:
        la t0, odd
        andi t1, s1, 1
        slli t1, t1, 1
        add t0, t0, t1
        jr t0
    odd:
        .word {middle}
        add a1, a1, a0
        addi s1, s1, -1
        bnez s1, loop
        {END}
    """
    bare = same(lambda v: Bare(text, variant=v))
    upper = middle & 0xFFFF_F000
    total = a0 = 0
    for k in range(50, 0, -1):
        a0 = a0 + 5 if k & 1 else upper
        total += a0
    assert bare.x("a1") == total & (1 << 64) - 1


class Board:
    """A device whose stores write memory as DMA does."""

    def __init__(self, bare: Bare, writes: list[tuple[int, bytes]]) -> None:
        self.bare, self.writes = bare, writes

    def read(self, offset: int, width: int) -> int:
        return self.write(offset, width, 0) or 0

    def write(self, offset: int, width: int, value: int) -> None:
        for at, data in self.writes:
            self.bare.core.mem_write(at, data)


@pytest.mark.parametrize("access", ["sw t1, 0(t0)", "lw t1, 0(t0)"])
def test_dma_to_the_next_instruction(access: str) -> None:
    text = f"li t0, 0x10000000\n j 1f\n 1: {access}\n target: addi a0, a0, 1\n {END}"

    def make(variant: Variant) -> Bare:
        bare = Bare(text, variant=variant)
        bare.core.map(0x1000_0000, 0x1000, Board(bare, [(bare.symbols["target"], bytes(asm("addi a0, a0, 64")))]))
        return bare

    assert same(make).x("a0") == 64


@pytest.mark.parametrize("where", ["alias", "identity"])
def test_code_under_two_addresses(where: str) -> None:
    # A function runs under both; it is changed under one of them, and pc-relative values follow the address.
    page, one, two = BASE + 0x8000, 0x40_0000, 0x4123_4000
    text = f"""
        j start
        {HANDLER}
    start:
        li s1, 30
    loop:
        jalr ra, s2
        add a1, a1, a0
        xor a3, a3, a2
        jalr ra, s3
        add a1, a1, a0
        xor a3, a3, a2
        lw t1, 0(t0)
        lui t2, 0x100
        add t1, t1, t2
        sw t1, 0(t0)
        addi s1, s1, -1
        bnez s1, loop
        ecall
    """

    def make(variant: Variant) -> Bare:
        bare = Bare(text, variant=variant)
        tables = PageTables(bare, start=BASE + 0x8_0000)
        tables.map(BASE, BASE, RWX, level=2)
        tables.map(one, page)
        tables.map(two, page)
        bare.core.mem_write(page, asm("addi a0, x0, 0\n auipc a2, 0\n j 1f\n 1: ret"))
        bare.supervisor(tables.satp(), bare.symbols["start"])
        bare.set(s2=one, s3=two, t0=page if where == "identity" else one)
        return bare

    bare = same(make)
    assert bare.x("a1") == 2 * sum(range(30))
    assert bare.x("a3") == 0
