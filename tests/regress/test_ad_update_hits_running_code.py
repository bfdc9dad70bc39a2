"""Svadu's store to an entry is a store: where it changes an instruction of the running block, the new one is executed.

The entry 0x2000002f (V, R, W, X, G, page 0x80000) is an illegal atomic as an instruction; with A it is `jal x0, 512`,
with A and D `jal ra, 512`. A load in front of it in the block ran on to the old one.
"""
from __future__ import annotations

import pytest

from tests.support import BASE, HANDLER, RWX, Bare, PageTables, Variant, asm, same

VA, SLOT = 0x40_0000, 9
ENTRY = 0x2000_002F


def make(variant: Variant, access: str) -> Bare:
    bare = Bare("j start\n" + HANDLER + "start: nop", variant=variant, at=BASE + 0x1_0000)
    tables = PageTables(bare, start=BASE + 0x8_0000)
    tables.map(BASE, BASE, RWX, level=2)
    at = tables.slot(VA + 0x1000 * SLOT)
    bare.u64(at, ENTRY)
    bare.core.mem_write(at - 8, asm(f"{access}\n nop"))
    bare.core.mem_write(at + 512, asm("addi a1, a1, 1\n ecall"))
    bare.supervisor(tables.satp(), at - 8)
    bare.set(csr_30a=1 << 61 | 0xF0, t0=VA + 0x1000 * SLOT)
    return bare


@pytest.mark.parametrize("access", [
    "ld t1, 0(t0)", "lw t1, 3(t0)", "lr.d t1, (t0)", "fld f1, 0(t0)", "cbo.clean (t0)", "sd t1, 8(t0)",
    "sd t1, 9(t0)", "amoadd.d t1, t1, (t0)", "sc.d t1, t1, (t0)", "cbo.zero (t0)",
])
def test_entry_that_is_the_next_instruction(access: str) -> None:
    def floating(variant: Variant) -> Bare:
        bare = make(variant, access)
        bare.set(csr_300=3 << 13)
        bare.hart.priv = 1
        return bare

    bare = same(floating, limit=10_000)
    assert bare.x("a1") == 1
    stores = access.startswith(("s", "amo", "cbo.zero"))
    assert (bare.x("ra") != 0) == stores
