"""A guest that jumps to every halfword of many pages must not make the host keep a block for each: see code_limit."""
from __future__ import annotations

import resource

import pytest

from pyvirt.assembly.asm import asm
from tests.support import BASE, Bare, Variant, run

PAGES = 24
# At every halfword of the pages a block begins: c.addi a0, 1, and a jump back in every 64th.
SWEEP = f"""
    li s1, {PAGES}
    li s2, {BASE + 0x1_0000}
page:
    li s3, 2000
at: slli t0, s3, 1
    add t0, t0, s2
    jalr ra, -2(t0)
    addi s3, s3, -1
    bnez s3, at
    li t0, 4096
    add s2, s2, t0
    addi s1, s1, -1
    bnez s1, page
9:  wfi
    j 9b
"""


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_memory_of_the_host_and_the_outcome(core: str) -> None:
    digests = []
    for limit in (40, 0):
        variant = Variant(core=core, code_limit=limit)
        bare = Bare(SWEEP, size=1 << 20, variant=variant)
        page = (asm("c.addi a0, 1") * 63 + asm("c.jr ra")) * 32
        for k in range(PAGES):
            bare.core.mem_write(BASE + 0x1_0000 + 0x1000 * k, page)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert run(bare, variant, 300_000_000) == "idle"
        if limit:
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 6_000  # KiB; 60,000 without a bound
        digests.append(bare.digest())
        assert bare.x("a0") == PAGES * sum(63 - k % 64 for k in range(2000))
    assert digests[0] == digests[1]
