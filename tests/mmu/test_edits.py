"""Translation behaves as if every access walked (rule 8): programs that edit page tables and never fence."""
from __future__ import annotations

import pytest

from tests.mmu.model import LOG, SIZE, Edits
from tests.support import BASE, same


@pytest.mark.parametrize("adue", [False, True], ids=["svade", "svadu"])
@pytest.mark.parametrize("sv", [39, 48, 57])
@pytest.mark.parametrize("seed", range(2))
def test_every_edit_is_seen_at_once(sv: int, adue: bool, seed: int) -> None:
    check(Edits(seed, sv=sv, adue=adue, steps=100))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("adue", [False, True], ids=["svade", "svadu"])
@pytest.mark.parametrize("sv", [39, 48, 57])
def test_many_programs_of_edits(sv: int, adue: bool) -> None:
    for seed in range(100, 400):
        check(Edits(seed, sv=sv, adue=adue, steps=350, passes=3))


def check(program: Edits) -> None:
    """Compare a program's end with the model's, under every variant."""
    ram = program.expect()
    bare = same(program.make)
    got = bare.core.mem_read(BASE, SIZE)
    if got == bytes(ram):
        return
    at = next(k for k in range(0, SIZE, 8) if got[k : k + 8] != ram[k : k + 8])
    step = (at + BASE - LOG) // 8
    what = "RAM"
    if 0 <= step < 2000:
        block, index = divmod(step, 200)
        per = -(-len(program.actions) // 200)
        number = block % per * 200 + index
        what = f"pass {block // per}, step {number} {program.actions[number]}"
    want, found = ram[at : at + 8][::-1].hex(), got[at : at + 8][::-1].hex()
    raise AssertionError(f"{what} at {at + BASE:#x}: expected {want}, found {found}")
