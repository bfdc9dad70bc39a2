"""A walk of five levels over five, whose last table gets an A bit, notes 35 entries of the G-stage.

There was room for 32.
"""
from __future__ import annotations

import pytest

from tests.support import EXTS, RWX, A, Bare, D, PageTables, U, Variant, pte

BASE, HANDLER, DATA = 0x8000_0000, 0x8000_8000, 0x8001_0000
VA = 0x5555_5555_5000
ADUE = 1 << 61


@pytest.mark.parametrize("fences", [False, True])
@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("text", ["ld a2, 8(a0)", "sd a2, 8(a0)", "jr a0"])
def test_all_of_its_entries_are_noted(core: str, text: str, fences: bool) -> None:
    bare = Bare(text, exts=EXTS | 1 << 19, variant=Variant(core=core))
    bare.open_pmp()
    bare.core.check_fences = fences
    first, second = PageTables(bare, sv=57, start=0x8004_0000), PageTables(bare, sv=57, start=0x8008_0000)
    for _ in range(3):
        second.page()  # the root has four pages
    first.map(BASE, BASE, RWX)
    entry = first.map(VA, DATA, RWX & ~(A | D))
    for page in range(BASE, BASE + 0x10_0000, 0x1000):
        second.map(page, page, (RWX | U) & ~D)
    bare.set(csr_302=0xF0_B5FF, csr_105=HANDLER, csr_280=first.satp(), csr_680=second.satp(), csr_30a=ADUE,
             csr_60a=ADUE, a0=VA, a2=7)
    bare.hart.priv, bare.hart.virt = 1, 1
    bare.core.run(bare.core.icount + 1)
    assert (bare.hart.priv, bare.hart.virt, bare.hart.pc) == (1, 1, VA if text == "jr a0" else BASE + 4)
    if text == "jr a0":
        bare.core.run(bare.core.icount + 1)
    assert bare.u64(entry) == pte(DATA, RWX & ~D | (D if text.startswith("sd") else 0))
    for page in (DATA, entry & ~0xFFF):
        found = bare.u64(second.slot(page))
        assert found & A
        assert bool(found & D) == (page != DATA or text.startswith("sd"))
