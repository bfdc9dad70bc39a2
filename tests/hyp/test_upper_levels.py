"""A change above the last level is seen by the next access to a page that was never touched before (rule 8).

A walk starts where the one before it in the same region ended. What led there are entries of either stage, and PMP.
"""
from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import EXTS, RWX, Bare, PageTables, U, Variant

H = EXTS | 1 << 19
CODE, HANDLER, OLD, NEW = 0x8000_0000, 0x8000_8000, 0x8001_0000, 0x8002_0000
VA = 0x40_0000
PAGES = 8
SVS = pytest.mark.parametrize("sv", [39, 48, 57])
CORES = pytest.mark.parametrize("core", ["threaded", "switch"])


class Guest:
    """A guest in VS that maps PAGES pages at VA to OLD; a second set of tables beside each maps them to NEW."""

    def __init__(self, sv: int, core: str) -> None:
        bare = self.bare = Bare("1: ld a1, 0(a0)\n j 1b", exts=H, variant=Variant(core=core))
        bare.open_pmp()
        self.first = PageTables(bare, sv=sv, start=0x8004_0000)
        self.other = PageTables(bare, sv=sv, start=0x8006_0000)
        self.second = PageTables(bare, sv=sv, start=0x8008_0000)
        self.beside = PageTables(bare, sv=sv, start=0x800A_0000)
        for tables in (self.second, self.beside):
            for _ in range(3):
                tables.page()  # the root has four pages
        for k in range(PAGES):
            self.first.map(VA + k * 0x1000, OLD + k * 0x1000)
            self.other.map(VA + k * 0x1000, NEW + k * 0x1000)
            bare.u64(OLD + k * 0x1000, 100 + k)
            bare.u64(NEW + k * 0x1000, 200 + k)
        self.first.map(CODE, CODE)
        self.other.map(CODE, CODE)
        for page in range(CODE, CODE + 0x10_0000, 0x1000):
            self.second.map(page, page, RWX | U)
            self.beside.map(page, page + NEW - OLD if OLD <= page < NEW else page, RWX | U)
        bare.set(csr_302=0xF0_B5FF, csr_105=HANDLER, csr_280=self.first.satp(), csr_680=self.second.satp())
        bare.hart.priv, bare.hart.virt = 1, 1

    def load(self, page: int) -> int:
        """Return what the guest loads from a page at VA, or -cause of its trap."""
        self.bare.hart.pc = CODE
        self.bare.hart.priv, self.bare.hart.virt = 1, 1
        self.bare.set(a0=VA + page * 0x1000)
        self.bare.core.run(self.bare.core.icount + 1)
        return -self.bare.hart.csr_read(0x142) if self.bare.hart.pc == HANDLER else self.bare.x("a1")


EDITS: dict[str, tuple[Callable[[Guest, int], tuple[int, int]], tuple[int, ...]]] = {
    "first stage": (lambda g, level: (g.first.slot(VA, level), g.bare.u64(g.other.slot(VA, level))), ()),
    "G-stage": (lambda g, level: (g.second.slot(OLD, level), g.bare.u64(g.beside.slot(OLD, level))), ()),
    "first stage, invalid": (lambda g, level: (g.first.slot(VA, level), 0), (12, 13)),
    "G-stage, invalid": (lambda g, level: (g.second.slot(OLD, level), 0), (20, 21)),
}


@SVS
@CORES
@pytest.mark.parametrize("edit", EDITS)
def test_an_upper_entry_changes(sv: int, core: str, edit: str) -> None:
    find, causes = EDITS[edit]
    for level in range(1, (sv - 12) // 9):
        guest = Guest(sv, core)
        assert [guest.load(k) for k in range(4)] == [100, 101, 102, 103]
        guest.bare.u64(*find(guest, level))
        found = [guest.load(k) for k in (5, 0, 6)]
        if causes:
            assert all(-f in causes for f in found), (level, found)
        else:
            assert found == [205, 200, 206], level


@CORES
@pytest.mark.parametrize("stage", ["first", "second"])
def test_pmp_closes_over_a_table(core: str, stage: str) -> None:
    guest = Guest(39, core)
    assert guest.load(0) == 100
    table = getattr(guest, stage).slot(VA if stage == "first" else OLD)
    guest.bare.set(csr_3b1=(1 << 54) - 1, csr_3a0=0x1F18)  # entry 0 off, entry 1 all
    guest.bare.set(csr_3b0=(table & ~4095) >> 2 | 0x1FF, csr_3a0=0x1F18)
    assert guest.load(1) in (-1, -5)  # of the fetch where the G-stage's table serves the code too
    guest.bare.set(csr_3a0=0x1F00)
    assert guest.load(1) == 101


@CORES
def test_a_table_moves_between_contexts(core: str) -> None:
    guest = Guest(39, core)
    for _ in range(3):
        assert [guest.load(k) for k in (0, 1)] == [100, 101]
        guest.bare.set(csr_280=guest.other.satp())
        assert [guest.load(k) for k in (0, 2)] == [200, 202]
        guest.bare.set(csr_280=guest.first.satp(), csr_680=guest.beside.satp())
        assert [guest.load(k) for k in (1, 3)] == [201, 203]
        guest.bare.set(csr_680=guest.second.satp())


def test_a_shared_table_is_changed_by_one_machine_only() -> None:
    guest = Guest(48, "threaded")
    assert guest.load(0) == 100
    root = guest.bare.ram.share()
    held = root.digest()
    guest.bare.u64(guest.first.slot(VA, 1), guest.bare.u64(guest.other.slot(VA, 1)))
    assert [guest.load(k) for k in (1, 0)] == [201, 200]
    assert root.digest() == held
