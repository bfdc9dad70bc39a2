"""New code is visible to the next instruction, always (rules 1-3): random self-modifying programs."""
from __future__ import annotations

import pytest

from tests.isa.selfmod import SelfMod
from tests.support import VARIANTS, Bare, Variant, difference, run, same

LIMIT = 30_000


def check(program: SelfMod) -> Bare:
    """Compare all variants with one another, and with the machine that decodes every instruction anew."""
    bare = program.make(Variant())
    stop = run(bare, Variant(), LIMIT)
    assert stop in ("idle", "limit", "trap_loop")  # some destroy their driver: then all must do so alike
    same(program.make, limit=bare.core.icount if stop == "limit" else LIMIT, stop=stop, variants=VARIANTS)
    anew = program.make(Variant(), anew=True)
    assert run(anew, Variant(), LIMIT) == stop
    for end in (bare, anew):
        end.set(csr_3a0=0, csr_3b0=0, csr_3b1=0)
    assert anew.digest() == bare.digest(), difference(bare, anew)
    return bare


@pytest.mark.parametrize("paged", [False, True], ids=["bare", "paged"])
@pytest.mark.parametrize("seed", range(8))
def test_random_programs(seed: int, paged: bool) -> None:
    check(SelfMod(seed, paged=paged))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("paged", [False, True], ids=["bare", "paged"])
def test_many_random_programs(paged: bool) -> None:
    for seed in range(1000, 2500):
        check(SelfMod(seed, paged=paged))
