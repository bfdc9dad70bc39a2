"""Translations explained: held against the core's walk over random tables, and read for their words."""
from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import pyvirt as pv
from pyvirt.board import RAM_BASE
from pyvirt.walk import ACCESSES

RAM = 1 << 20
ROOT, G_ROOT = RAM_BASE + 0x4000, RAM_BASE + 0x8000
NUMBER = {"fetch": 0, "load": 1, "store": 2}
V, R, W, X, U, A, D = 1, 2, 4, 8, 16, 64, 128
ALL = V | R | W | X | U | A | D


@pytest.fixture
def vm() -> Iterator[pv.Machine]:
    with pv.Machine(board="bare", ram=RAM) as machine:
        machine.hart.csr.pmpaddr0 = (1 << 54) - 1
        machine.hart.csr.pmpcfg0 = 0x1F
        yield machine


def verdict(vm: pv.Machine, va: int, access: str) -> int:
    """Return what the core says: the pa, or the cause, negative."""
    try:
        return vm._board.core.hart(0).translate(va, NUMBER[access])
    except LookupError as error:
        return -int(error.args[0])


def random_entry(rng: random.Random, tables: list[int]) -> int:
    """Return an entry that is right more often than not."""
    flags = ALL
    for bit in (R, W, X, U, A, D):
        if rng.random() < 0.15:
            flags &= ~bit
    target = rng.choice(tables)
    kind = rng.random()
    if kind < 0.5:
        flags = V | (rng.choice((A, D, U)) if rng.random() < 0.05 else 0)
    elif kind < 0.6:
        flags &= ~V
    if rng.random() < 0.05:
        flags |= rng.choice((1 << 54, 1 << 60, 1 << 61, 2 << 61, 3 << 61, 1 << 63))
    if rng.random() < 0.05:
        target = rng.choice((0, RAM_BASE + RAM, 1 << 55, RAM_BASE + 0x1000, target | 0x8000))
    if rng.random() < 0.1:
        target &= ~((1 << 21) - 1)
    return target >> 12 << 10 | flags


@pytest.mark.parametrize("seed", range(12))
def test_the_explanation_is_what_the_core_does(vm: pv.Machine, seed: int) -> None:
    rng = random.Random(seed)
    tables = [ROOT, *(RAM_BASE + 0x1_0000 + 0x1000 * n for n in range(6))]
    g_tables = [G_ROOT, *(RAM_BASE + 0x2_0000 + 0x1000 * n for n in range(6))]
    csr, core, causes, agreed = vm.hart.csr, vm._board.core, set(), 0
    slots = [0, 1, 2, 511, *range(0x80, 0x84)]
    for _ in range(150):
        for table in (*tables, *g_tables, G_ROOT + 0x1000, G_ROOT + 0x2000, G_ROOT + 0x3000):
            for slot in slots:
                vm.mem.u64[table + 8 * slot] = random_entry(rng, g_tables if table in g_tables else tables)
        csr.satp = rng.choice((0, 8, 9, 10)) << 60 | ROOT >> 12
        csr.vsatp = rng.choice((0, 8, 9, 10)) << 60 | ROOT >> 12
        csr.hgatp = rng.choice((0, 8, 9, 10)) << 60 | G_ROOT >> 12
        csr.menvcfg = rng.choice((0, 1 << 61, 1 << 62, 3 << 61))
        csr.henvcfg = rng.choice((0, 1 << 61, 1 << 62, 3 << 61))
        vm.hart.world = rng.choice(("M", "HS", "U", "VS", "VU"))
        csr.mstatus = rng.getrandbits(64) & (1 << 17 | 3 << 18 | 3 << 11 | 1 << 39)
        csr.vsstatus = rng.getrandbits(64) & 3 << 18
        if rng.random() < 0.2:
            csr.pmpaddr0 = rng.choice((tables[2] + 0x800 >> 2, (tables[3] >> 2) | 0x1FF))
            csr.pmpcfg0 = rng.choice((0x0B, 0x19, 0x0C, 0x18))
            csr.pmpaddr1 = (1 << 54) - 1
            csr.pmpcfg0 = int(csr.pmpcfg0) & 0xFF | 0x1F00
        else:
            csr.pmpcfg0 = 0
            csr.pmpaddr0 = (1 << 54) - 1
            csr.pmpcfg0 = 0x1F
        core.evict()
        for access in ACCESSES:
            va = 0
            for _ in range(5):
                va = va << 9 | rng.choice(slots)
            va = va << 12 & (1 << rng.choice((39, 39, 48, 57))) - 1 | rng.randrange(4096)
            if rng.random() < 0.3:
                va = RAM_BASE + rng.randrange(RAM)
            elif va >> 38 & 1 and rng.random() < 0.7:
                va |= -1 << 39 & (1 << 64) - 1
            before = core.state
            walk = vm.hart.walk(va, access=access)
            found = walk.pa if walk.pa is not None else -(walk.cause or 0)
            assert found == verdict(vm, va, access), walk
            assert core.state == before
            causes.add(walk.cause)
            agreed += walk.pa is not None
    assert agreed > 30
    assert len(causes) > 6


def test_a_walk_in_words(vm: pv.Machine) -> None:
    middle, leaf = RAM_BASE + 0x1_0000, RAM_BASE + 0x1_1000
    vm.mem.u64[ROOT + 8] = middle >> 12 << 10 | V
    vm.mem.u64[middle] = leaf >> 12 << 10 | V
    vm.mem.u64[leaf] = RAM_BASE + 0x5000 >> 12 << 10 | V | R | A
    vm.hart.csr.satp = 8 << 60 | ROOT >> 12
    vm.hart.world = "HS"
    walk = vm.hart.walk(0x4000_0123)
    assert (walk.pa, walk.cause, len(walk.steps)) == (RAM_BASE + 0x5123, None, 3)
    assert str(walk).splitlines() == [
        "load of 0x40000123 in HS",
        "   S level 2  entry at 0x80004008: 0x0000000020004001 -------V  points to the table at 0x80010000",
        "   S level 1  entry at 0x80010000: 0x0000000020004401 -------V  points to the table at 0x80011000",
        "   S level 0  entry at 0x80011000: 0x0000000020001443 -A----RV  maps 0x80005123",
        "  pa 0x80005123: allowed",
    ]
    store = vm.hart.walk(0x4000_0000, access="store")
    assert (store.pa, store.cause, store.reason) == (None, 15, "Sv39 level 0: W is clear")
    assert str(store).endswith("store page fault: Sv39 level 0: W is clear")
    assert vm.hart.walk(0x4000_0000, world="U").reason == "Sv39 level 0: U is clear"
    assert vm.hart.walk(0x4000_0000, world="M").pa == 0x4000_0000
    assert vm.hart.walk(1 << 39).reason == "bits 63 to 39 are not copies of bit 38, as Sv39 asks"


def test_both_stages_in_words(vm: pv.Machine) -> None:
    vm.mem.u64[G_ROOT + 16] = RAM_BASE >> 12 << 10 | ALL
    vm.mem.u64[ROOT] = RAM_BASE >> 12 << 10 | V | R | A
    vm.hart.csr.vsatp = 8 << 60 | ROOT >> 12
    vm.hart.csr.hgatp = 8 << 60 | G_ROOT >> 12
    vm.hart.world = "VS"
    walk = vm.hart.walk(0x1234)
    assert walk.pa == RAM_BASE + 0x1234
    assert [step.stage for step in walk.steps] == ["G", "VS", "G"]
    vm.mem.u64[G_ROOT + 16] = 0
    walk = vm.hart.walk(0x1234, access="fetch")
    assert (walk.cause, walk.reason) == (20, "Sv39x4 level 2: V is clear")


def test_wrong_arguments_are_named(vm: pv.Machine) -> None:
    with pytest.raises(pv.ConfigError, match="walk: access: 'read' is not allowed; allowed: 'fetch', 'load', 'store'"):
        vm.hart.walk(0, access="read")
    with pytest.raises(pv.ConfigError, match="walk: world: 'L2' is not allowed; allowed: 'M', 'HS'"):
        vm.hart.walk(0, world="L2")
