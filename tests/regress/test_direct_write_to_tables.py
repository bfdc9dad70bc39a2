"""Ram.write to a page of live page tables: what was derived from its entries goes, though the guest stored nothing."""
from __future__ import annotations

import pytest

from tests.support import BASE, HANDLER, RWX, Bare, PageTables, pte

VA = 0x40_0000


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("level", [0, 1])
def test_next_access_walks(level: int, shared: bool) -> None:
    bare = Bare("start: ld a1, 0(t0)\n sd a1, 8(t0)\n j start\n" + HANDLER)
    tables = PageTables(bare, start=BASE + 0x8_0000)
    tables.map(BASE, BASE, RWX, level=2)
    tables.map(VA, BASE + 0x4000)
    other = PageTables(bare, start=BASE + 0x9_0000)
    other.map(VA, BASE + 0x5000)
    bare.u64(BASE + 0x4000, 4)
    bare.u64(BASE + 0x5000, 5)
    bare.supervisor(tables.satp(), BASE)
    bare.set(t0=VA)
    bare.core.run(30)
    assert bare.x("a1") == 4
    root = bare.ram.share() if shared else None
    entry = pte(BASE + 0x5000, RWX) if level == 0 else bare.u64(other.slot(VA, 1))
    bare.ram.write(tables.slot(VA, level), entry.to_bytes(8, "little"))
    bare.core.run(60)
    assert bare.x("a1") == 5
    assert bare.u64(BASE + 0x5008) == 5
    del root
