"""A quota of frames, or the host's memory, used up: the run stops before the store, and goes on to the same end."""
from __future__ import annotations

import pytest

from tests.support import BASE, CLINT, HANDLER, RWX, Bare, PageTables, R, V, Variant, W, run

SCATTER = """
    j start
{handler}
start:
    li s1, 40
    li s2, {area}
1:  sd s1, 0(s2)
    amoadd.d t0, s1, (s3)
    sd s1, -4(s3)
    lr.d t0, (s4)
    sc.d t0, s1, (s4)
    cbo.zero (s5)
    fsd f1, 64(s5)
    li t0, 0x3000
    add s2, s2, t0
    add s3, s3, t0
    add s4, s4, t0
    add s5, s5, t0
    addi s1, s1, -1
    bnez s1, 1b
    ecall
"""
AREA = BASE + 0x10_0000


def scatter(variant: Variant, *, paged: bool, fine: bool = False) -> Bare:
    """Return a machine whose program touches a hundred pages by every kind of store."""
    bare = Bare(SCATTER.format(handler=HANDLER, area=AREA), size=8 << 20, variant=variant)
    tables = PageTables(bare, start=BASE + 0x8_0000)
    tables.map(BASE, BASE, RWX, level=2)
    if paged:  # entries to be marked as accessed and dirty in frames of their own, and shared ones
        for k in range(0x200):
            tables.map(AREA + 0x4000_0000 + 0x1000 * k, AREA + 0x1000 * k, V | R | W)
    bare.supervisor(tables.satp(), bare.symbols["start"])
    bare.set(csr_300=3 << 13, csr_30a=1 << 61 | 0xF0)
    bare.hart.priv = 1
    high = 0x4000_0000 if paged else 0
    bare.set(s3=AREA + high + 0x1000, s4=AREA + high + 0x2008, s5=AREA + high + 0x2F00)
    if fine:  # protection finer than a page
        bare.set(csr_3b0=AREA + 0x7F0 >> 2, csr_3b1=(1 << 54) - 1, csr_3a0=0x1F17)
    return bare


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_quota(core: str, paged: bool, share: bool) -> None:
    variant = Variant(core=core)
    free = scatter(variant, paged=paged)
    assert run(free, variant, 100_000) == "idle"
    bare = scatter(variant, paged=paged)
    root = bare.ram.share() if share else None
    bare.ram.limit = bare.ram.owned + 1
    stops = 0
    while True:
        stop = run(bare, variant, 100_000)
        if stop == "idle":
            break
        assert stop == "memory"
        assert bare.core.icount < free.core.icount
        before = bare.digest()
        assert run(bare, variant, 100_000) == "memory"
        assert bare.digest() == before
        assert bare.ram.owned <= bare.ram.limit
        assert paged or bare.core.stop_addr >= AREA
        bare.ram.limit += 1
        stops += 1
    assert stops > 50
    assert bare.digest() == free.digest()
    del root


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("fine", [False, True])
def test_host_memory_fails_at_every_allocation(paged: bool, fine: bool) -> None:
    variant = Variant()
    free = scatter(variant, paged=paged, fine=fine)
    assert run(free, variant, 100_000) == "idle"
    bare = scatter(variant, paged=paged, fine=fine)
    root = bare.ram.share()
    stops, allocations = 0, 0
    while True:
        bare.ram.fail_after = allocations
        stop = run(bare, variant, 100_000)
        if stop == "idle":
            break
        assert stop == "memory"
        stops += 1
        allocations = stops % 3
    assert stops > 20
    assert bare.digest() == free.digest()
    del root


def test_a_store_over_two_pages_is_made_whole_or_not_at_all() -> None:
    bare = Bare("sd t0, 0(t1)\n j .", size=1 << 20)
    bare.set(t0=0x1122334455667788, t1=BASE + 0x4FFC)
    bare.ram.limit = bare.ram.owned + 1
    assert bare.core.run(10) == "memory"
    assert bare.core.icount == 0
    assert bare.core.mem_read(BASE + 0x4FF8, 16) == bytes(16)
    bare.ram.limit += 1
    assert bare.core.run(10) == "limit"
    assert bare.core.mem_read(BASE + 0x4FFC, 8) == (0x1122334455667788).to_bytes(8, "little")


def test_a_store_over_two_pages_under_fine_protection_is_made_whole_or_not_at_all() -> None:
    bare = Bare("sd t0, 0(t1)\n j .", size=1 << 20)
    bare.set(t0=0x1122334455667788, t1=BASE + 0x4FFC)
    bare.set(csr_3b0=BASE + 0x4F00 >> 2, csr_3b1=BASE + 0x5F00 >> 2, csr_3a0=0x1717)
    bare.ram.limit = bare.ram.owned + 1
    assert bare.core.run(10) == "memory"
    assert bare.core.mem_read(BASE + 0x4FF8, 16) == bytes(16)
    bare.ram.limit += 1
    assert bare.core.run(10) == "limit"
    assert bare.core.mem_read(BASE + 0x4FFC, 8) == (0x1122334455667788).to_bytes(8, "little")


def test_interrupts_wait_for_memory_too() -> None:
    bare = Bare("sd t0, 0(t1)\n addi a0, a0, 1\n 1: j 1b\n .balign 4\n handler: addi a1, a1, 1\n 2: j 2b", ratio=1)
    bare.clint()
    bare.core.bus_write(CLINT + 0x4000, 8, 1)
    bare.set(t1=BASE + 0x4000, csr_304=0x80, csr_305=bare.symbols["handler"], csr_300=8)
    bare.ram.limit = bare.ram.owned
    assert bare.core.run(10) == "memory"
    assert bare.core.icount == 0
    bare.ram.limit = 0
    assert bare.core.run(10) == "limit"
    assert (bare.x("a0"), bare.x("a1")) == (0, 1)


@pytest.mark.parametrize("more", [0, 1, 2])
def test_python_writes_refuse_and_change_nothing(more: int) -> None:
    bare = Bare("j .")
    bare.ram.limit = bare.ram.owned + more
    digest = bare.digest()
    with pytest.raises(MemoryError, match="limit"):
        bare.core.mem_write(BASE + 0x5000, b"x" * 12288)
    assert bare.digest() == digest
    assert bare.core.run(10) == "limit"
