"""A store that changes the translation of the running page: the next instruction already comes from the new one.

Blocks of one page are linked directly, so the code ran on from the old frame until it left the page.
"""
from __future__ import annotations

import pytest

from tests.support import BASE, HANDLER, RWX, A, Bare, D, PageTables, R, V, Variant, W, asm, pte, same

CODE, OLD, NEW, VA = BASE + 0x2000, BASE + 0x4000, BASE + 0x5000, 0x40_0000


def page(value: int) -> str:
    """Return a page of code that remaps itself at once and then counts up in the page it runs from."""
    return f"""
        sd t1, 0(t0)
        addi a1, a1, {value}
        j 1f
        nop
    1:  addi a2, a2, {value}
        addi s1, s1, -1
        bnez s1, 1b
        ecall
    """


def make(variant: Variant, entry: int, level: int) -> Bare:
    bare = Bare("j start\n" + HANDLER + "start: nop", variant=variant)
    tables = PageTables(bare, start=BASE + 0x8_0000)
    tables.map(BASE, BASE, RWX, level=2)
    at = tables.map(VA, OLD)
    bare.core.mem_write(OLD, asm(page(1), at=VA))
    bare.core.mem_write(NEW, asm(page(100), at=VA))
    if level:
        # The pointer above the leaf changes: to a table that maps the new frame.
        other = PageTables(bare, start=BASE + 0x9_0000)
        other.map(VA, NEW)
        at, entry = tables.slot(VA, level), bare.u64(other.slot(VA, level))
    bare.supervisor(tables.satp(), VA)
    bare.set(t0=at, t1=entry, s1=5)
    return bare


@pytest.mark.parametrize("level", [0, 1, 2])
def test_next_instruction_comes_from_the_new_frame(level: int) -> None:
    bare = same(lambda v: make(v, pte(NEW, RWX), level))
    assert (bare.x("a1"), bare.x("a2")) == (100, 500)


def test_next_instruction_is_refused_when_execution_is() -> None:
    def halting(variant: Variant) -> Bare:
        bare = make(variant, pte(OLD, V | R | W | A | D), 0)
        bare.set(csr_305=bare.symbols["halt"])
        return bare

    bare = same(halting)
    assert bare.x("a1") == 0
    assert bare.hart.csr_read(0x342) == 12
    assert bare.hart.csr_read(0x343) == VA + 4


def test_same_by_a_device_that_writes_memory() -> None:
    class Dma:
        core = None

        def read(self, offset: int, width: int) -> int:
            return 0

        def write(self, offset: int, width: int, value: int) -> None:
            self.core.mem_write(value, pte(NEW, RWX).to_bytes(8, "little"))

    def with_device(variant: Variant) -> Bare:
        bare = make(variant, 0, 0)
        tables = PageTables(bare, start=BASE + 0xA_0000)
        dma = Dma()
        dma.core = bare.core
        bare.core.map(0x1000_0000, 0x1000, dma)
        tables.root = (bare.hart.csr_read(0x180) & (1 << 44) - 1) << 12
        tables.map(0x1000_0000, 0x1000_0000, V | R | W | A | D)
        bare.set(t1=bare.x("t0"), t0=0x1000_0000)
        return bare

    bare = same(with_device)
    assert (bare.x("a1"), bare.x("a2")) == (100, 500)
