"""Translations explained: held against the core over random tables, by address and by trap; read for their words."""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

import pyvirt as pv
from pyvirt.board import RAM_BASE
from pyvirt.explain.walk import RULES, Rule

RAM = 1 << 20
ROOT, G_ROOT, CODE = RAM_BASE + 0x4000, RAM_BASE + 0x8000, RAM_BASE + 0x3_0000
TABLES = [ROOT, *(RAM_BASE + 0x1_0000 + 0x1000 * n for n in range(6))]
G_TABLES = [G_ROOT, *(RAM_BASE + 0x2_0000 + 0x1000 * n for n in range(6))]
NUMBER = {"fetch": 0, "load": 1, "store": 2}
SLOTS = [0, 1, 2, 511, *range(0x80, 0x84)]
V, R, W, X, U, A, D, N = 1, 2, 4, 8, 16, 64, 128, 1 << 63
ALL = V | R | W | X | U | A | D
PMP_ALL = (1 << 54) - 1
LB, SB, HLVX = 0x0005_8503, 0x00A5_8023, 0x6435_C573    # lb a0, 0(a1); sb a0, 0(a1); hlvx.hu a0, (a1)


@pytest.fixture
def vm() -> Iterator[pv.Machine]:
    with pv.Machine(board="bare", ram=RAM) as machine:
        machine.hart.csr.pmpaddr0 = PMP_ALL
        machine.hart.csr.pmpcfg0 = 0x1F
        yield machine


class Tables:
    """Random tables, status and protection of one machine, right more often than not."""

    def __init__(self, vm: pv.Machine, seed: int) -> None:
        self.vm, self.rng = vm, random.Random(seed)

    def entry(self, tables: list[int]) -> int:
        rng = self.rng
        flags = ALL
        for bit in (R, W, X, U, A, D):
            if rng.random() < 0.15:
                flags &= ~bit
        target = rng.choice(tables)
        kind = rng.random()
        if kind < 0.5:
            flags = V | (rng.choice((A, D, U)) if rng.random() < 0.05 else 0)
        elif kind < 0.55:
            flags &= ~V
        if rng.random() < 0.05:
            flags |= rng.choice((1 << 54, 1 << 60, 1 << 61, 2 << 61, 3 << 61, N))
        if rng.random() < 0.05:
            target = rng.choice((0, RAM_BASE + RAM, 1 << 55, RAM_BASE + 0x1000, target | 0x8000))
        if rng.random() < 0.1:
            target &= ~((1 << 21) - 1)
        return target >> 12 << 10 | flags

    def shuffle(self) -> None:
        rng, csr = self.rng, self.vm.hart.csr
        for table in (*TABLES, *G_TABLES, G_ROOT + 0x1000, G_ROOT + 0x2000, G_ROOT + 0x3000):
            for slot in SLOTS:
                self.vm.mem.u64[table + 8 * slot] = self.entry(G_TABLES if table in G_TABLES else TABLES)
        csr.satp = rng.choice((0, 8, 9, 10)) << 60 | ROOT >> 12
        csr.vsatp = rng.choice((0, 8, 9, 10)) << 60 | ROOT >> 12
        csr.hgatp = rng.choice((0, 8, 9, 10)) << 60 | rng.randrange(4) << 44 | G_ROOT >> 12
        csr.menvcfg = rng.choice((0, 1 << 61, 1 << 62, 3 << 61))
        csr.henvcfg = rng.choice((0, 1 << 61, 1 << 62, 3 << 61))
        csr.vsstatus = rng.getrandbits(64) & 3 << 18
        # Entry 0 leaves the code of this test alone; entry 1 refuses something of the tables, now and then.
        csr.pmpcfg0 = 0
        csr.pmpaddr0, csr.pmpaddr2 = CODE + 0x7FF >> 2, PMP_ALL
        csr.pmpaddr1 = rng.choice((TABLES[2] + 0x800 >> 2, TABLES[3] >> 2 | 0x1FF, G_TABLES[3] >> 2 | 0x1FF))
        csr.pmpcfg0 = 0x1F << 16 | (rng.choice((0x19, 0x1C, 0x18)) << 8 if rng.random() < 0.2 else 0) | 0x1F

    def status(self) -> int:
        return self.rng.getrandbits(64) & 3 << 18

    def address(self) -> int:
        rng, va = self.rng, 0
        for _ in range(5):
            va = va << 9 | rng.choice(SLOTS)
        va = va << 12 & (1 << rng.choice((39, 39, 48, 57))) - 1 | rng.randrange(4096)
        if rng.random() < 0.3:
            va = RAM_BASE + rng.randrange(RAM)
        elif va >> 38 & 1 and rng.random() < 0.7:
            va |= -1 << 39 & (1 << 64) - 1
        return va & ~1


@pytest.mark.parametrize("seed", range(4))
def test_the_explanation_is_what_the_core_translates(vm: pv.Machine, seed: int) -> None:
    tables = Tables(vm, seed)
    core, causes, allowed = vm._board.core, set(), 0
    for _ in range(120):
        tables.shuffle()
        vm.hart.world = tables.rng.choice(("M", "HS", "U", "VS", "VU"))
        vm.hart.csr.mstatus = tables.status() | tables.rng.getrandbits(64) & (1 << 17 | 3 << 11 | 1 << 39)
        core.evict()
        for access, number in NUMBER.items():
            va = tables.address()
            before = core.state
            walk = vm.hart.walk(va, access=access)
            assert core.state == before
            try:
                verdict = core.hart(0).translate(va, number)
            except LookupError as error:
                verdict = -int(error.args[0])
            assert (-(walk.cause or 0) if walk.pa is None else walk.pa) == verdict, walk
            causes.add(walk.cause)
            allowed += walk.pa is not None
    assert allowed > 30
    assert len(causes) > 6


def execute(vm: pv.Machine, va: int, access: str, world: str) -> tuple[int, int, int, int, bool] | None:
    """Make the access and return cause, tval, tval2, tinst and GVA of the trap into M-mode, or None."""
    hart = vm.hart
    hart.csr.mtvec, hart.csr.mcause = CODE + 0x100, 0
    status = int(hart.csr.mstatus) & 3 << 18
    if access == "fetch":
        hart.csr.mstatus = status
        hart.pc, hart.world = va, world
    else:
        # MPRV makes M-mode's data accesses those of the world; HLVX takes its privilege from SPVP.
        virt = world in ("VS", "VU")
        priv = {"HS": 1, "U": 0, "VS": 1, "VU": 0, "M": 3}[world]
        hart.csr.hstatus = priv << 8 if virt else 0
        hart.csr.mstatus = status | (0 if access == "hlvx" else 1 << 17) | priv << 11 | virt << 39
        vm.mem.u32[CODE] = {"load": LB, "store": SB, "hlvx": HLVX}[access]
        hart.pc, hart.world, hart.a1 = CODE, "M", va
    vm.step()
    if hart.pc != CODE + 0x100 or hart.world != "M":
        return None
    csr = hart.csr
    return int(csr.mcause), int(csr.mtval), int(csr.mtval2), int(csr.mtinst), bool(csr.mstatus.GVA)


@pytest.mark.parametrize("seed", range(4))
def test_the_trap_is_what_the_core_takes(vm: pv.Machine, seed: int) -> None:
    tables = Tables(vm, seed)
    rules: Counter[Rule | None] = Counter()
    traps: Counter[int | None] = Counter()
    implicit = 0
    for _ in range(120):
        tables.shuffle()
        vm.hart.csr.mstatus = tables.status()
        for access in ("fetch", "load", "store", "hlvx"):
            world = tables.rng.choice(("VS", "VU") if access == "hlvx" else ("VS", "VS", "VU", "HS", "U"))
            va = tables.address()
            vm.hart.csr.mstatus = int(vm.hart.csr.mstatus) & 3 << 18
            walk = vm.hart.walk(va, access=access, world=world)
            pages = [bytes(vm.mem[at:at + 0x1000]) for at in (*TABLES, *G_TABLES)]
            found = execute(vm, va, access, world)
            rules[walk.rule] += 1
            traps[walk.cause] += 1
            if walk.trap is None:
                # Executing what stands at the address may trap for another reason.
                assert found is None or (access == "fetch" and found[0] not in (1, 12, 20)), (walk, found)
            else:
                t = walk.trap
                assert found == (t.cause, t.tval, t.tval2, t.tinst, t.gva), walk
                assert t.world_from == world
                implicit += t.tinst != 0
            for at, page in zip((*TABLES, *G_TABLES), pages, strict=True):
                vm.mem[at:at + 0x1000] = page  # what the access stored, A and D among it
    assert implicit > 20
    assert {1, 5, 7, 12, 13, 15, 20, 21, 23, None} <= set(traps)
    assert len(rules) > 12


def test_every_rule_refuses_something(vm: pv.Machine) -> None:
    """Each rule has a table of its own making here, so that no rule is only words."""
    seen: set[Rule] = set()
    middle, leaf = RAM_BASE + 0x1_0000, RAM_BASE + 0x1_1000
    page = RAM_BASE + 0x5000 >> 12 << 10
    csr = vm.hart.csr
    csr.menvcfg = csr.henvcfg = 0

    def check(name: str, pte: int = page | ALL, *, va: int = 0, access: str = "load", world: str = "HS",
              level: int = 0) -> None:
        vm.mem.u64[ROOT] = middle >> 12 << 10 | V if level < 2 else pte
        vm.mem.u64[middle] = leaf >> 12 << 10 | V if level < 1 else pte
        vm.mem.u64[leaf] = pte
        csr.satp = csr.vsatp = 8 << 60 | ROOT >> 12
        walk = vm.hart.walk(va, access=access, world=world)
        assert walk.rule is RULES[name], walk
        seen.add(walk.rule)

    own = ALL & ~U
    check("canonical", va=1 << 39)
    check("memory", 1 << 40 | V, level=1)
    check("invalid", page | ALL & ~V)
    check("write_only", page | V | W)
    check("reserved", page | own | 1 << 57)
    check("pbmt", page | own | 3 << 61)
    check("pbmt_off", page | own | 1 << 61)
    check("pointer_bits", leaf >> 12 << 10 | V | A, level=1)
    check("too_deep", page | V)
    check("misaligned", page | own, level=1)
    check("napot", page | own | N)
    check("user_only", page | own, world="U")
    check("sum", page | ALL)
    check("user_code", page | ALL, access="fetch")
    check("readable", page | V | X | A)
    check("writable", page | V | R | A | D, access="store")
    check("executable", page | V | R | A, access="fetch")
    check("accessed", page | V | R)
    check("dirty", page | V | R | W | A, access="store")
    check("nothing", (1 << 30) >> 12 << 10 | own)
    csr.pmpcfg0, csr.pmpaddr0, csr.pmpaddr1 = 0, RAM_BASE + 0x5000 >> 2 | 0x1FF, PMP_ALL
    csr.pmpcfg0 = 0x1F << 8 | 0x18
    check("pmp", page | own)
    csr.pmpcfg0, csr.pmpaddr0 = 0, leaf >> 2 | 0x1FF
    csr.pmpcfg0 = 0x1F << 8 | 0x18
    check("pmp_entry", page | own)
    csr.pmpcfg0 = 0x1F << 8 | 0x19
    csr.menvcfg = 1 << 61
    check("pmp_update", page | own & ~A)
    csr.menvcfg, csr.pmpcfg0, csr.pmpaddr0 = 0, 0, PMP_ALL
    csr.pmpcfg0 = 0x1F
    csr.hgatp = 8 << 60 | G_ROOT >> 12
    vm.mem.u64[G_ROOT + 16] = RAM_BASE >> 12 << 10 | ALL
    check("wide", (1 << 45) >> 2 | own, world="VS")
    vm.mem.u64[G_ROOT + 16] = RAM_BASE >> 12 << 10 | own
    check("g_user", page | own, world="VS")
    with pv.Machine(board="bare", ram=RAM, isa="rv64gch_sv39") as vm:
        vm.hart.csr.pmpaddr0, vm.hart.csr.pmpcfg0 = PMP_ALL, 0x1F
        csr = vm.hart.csr
        check("napot_off", page | own | N)
    assert seen == set(RULES.values())


def small(vm: pv.Machine) -> None:
    """Map va 0x1000 to gpa RAM_BASE + 0x5000 by three levels, under a G-stage of gigapages but for no gpa below it."""
    middle, leaf = RAM_BASE + 0x1_0000, RAM_BASE + 0x1_1000
    vm.mem.u64[G_ROOT + 16] = RAM_BASE >> 12 << 10 | ALL
    vm.mem.u64[ROOT] = middle >> 12 << 10 | V
    vm.mem.u64[middle] = leaf >> 12 << 10 | V
    vm.mem.u64[leaf + 8] = RAM_BASE + 0x5000 >> 12 << 10 | V | R | A
    vm.hart.csr.vsatp = vm.hart.csr.satp = 8 << 60 | ROOT >> 12
    vm.hart.csr.hgatp = 8 << 60 | 3 << 44 | G_ROOT >> 12
    vm.hart.csr.medeleg = 0xF0B1FF


def test_one_stage_in_words(vm: pv.Machine) -> None:
    small(vm)
    walk = vm.hart.walk(0x1123, world="HS")
    assert (walk.pa, walk.cause, walk.ok, walk.loads, walk.size) == (RAM_BASE + 0x5123, None, True, 3, 4096)
    assert str(walk).splitlines() == [
        "load of 0x1123 in HS: satp Sv39, root at pa 0x80004000",
        "  S-stage level 2: table at pa 0x80004000, entry 0 at 0x80004000 is 0x20004001: valid; "
        "points to pa 0x80010000",
        "  S-stage level 1: table at pa 0x80010000, entry 0 at 0x80010000 is 0x20004401: valid; "
        "points to pa 0x80011000",
        "  S-stage level 0: table at pa 0x80011000, entry 1 at 0x80011008 is 0x20001443: valid, readable, accessed; "
        "maps pa 0x80005123",
        "  memory: pa 0x80005123 is RAM, PMP allows the load",
        "allowed: pa 0x80005123, 3 entries read",
    ]
    assert repr(walk) == "<Walk load of 0x1123 in HS: pa 0x80005123, 3 entries read>"
    store = vm.hart.walk(0x1000, access="store", world="HS")
    assert (store.pa, store.cause, store.rule) == (None, 15, RULES["writable"])
    assert str(store).splitlines()[-2].endswith(
        '<-- fails: the page is not writable (manual, "Virtual Address Translation Process", step 8)')
    assert str(store).endswith("trap: store page fault (cause 15), tval 0x1000, from HS to HS")
    assert vm.hart.walk(0x4000_0000, world="M").trap is not None
    assert vm.hart.walk(RAM_BASE, world="M").pa == RAM_BASE


def test_two_stages_in_words(vm: pv.Machine) -> None:
    small(vm)
    walk = vm.hart.walk(0x1123, world="VS")
    assert (walk.pa, walk.gpa, walk.loads, walk.size) == (RAM_BASE + 0x5123, RAM_BASE + 0x5123, 7, 4096)
    assert [(depth, step.stage) for depth, step in walk.lines] == [
        (1, "G"), (0, "VS"), (1, "G"), (0, "VS"), (1, "G"), (0, "VS"), (0, "G"), (0, "memory")]
    vm.mem.u64[G_ROOT + 16] = RAM_BASE >> 12 << 10 | ALL & ~X
    walk = vm.hart.walk(0x1000, access="fetch", world="VS")
    assert (walk.cause, walk.rule) == (12, RULES["executable"])  # the guest's own table decides first
    vm.mem.u64[RAM_BASE + 0x1_1008] |= X
    walk = vm.hart.walk(0x1000, access="fetch", world="VS")
    assert walk.trap is not None
    assert (walk.cause, walk.trap.tval2, walk.trap.tinst, walk.trap.gva) == (20, RAM_BASE + 0x5000 >> 2, 0, True)
    vm.mem.u64[G_ROOT + 16] = 0
    walk = vm.hart.walk(0x1000, world="VS")
    assert walk.trap is not None
    assert walk.failed is walk.steps[0].steps[0]
    assert (walk.trap.tval2, walk.trap.tinst) == (ROOT >> 2, 0x3000)
    assert str(walk).splitlines()[1:] == [
        "    G-stage level 2: table at pa 0x80008000, entry 2 at 0x80008010 is 0x0: not valid  <-- fails: V is 0 "
        '(manual, "Virtual Address Translation Process", step 3)',
        "  VS-stage: the G-stage does not let the hart read the entry at gpa 0x80004000",
        "trap: load guest-page fault (cause 21), tval 0x1000, tval2 0x20001000 (gpa 0x80004000 >> 2), tinst 0x3000, "
        "from VS to HS",
    ]


def test_a_guest_without_tables_and_a_hart_that_would_set_a_and_d(vm: pv.Machine) -> None:
    small(vm)
    vm.hart.csr.vsatp = 0
    walk = vm.hart.walk(RAM_BASE + 0x123, world="VU", access="store")
    assert (walk.pa, walk.size) == (RAM_BASE + 0x123, 1 << 30)
    assert str(walk).splitlines()[1] == "  VS-stage: vsatp is Bare, so that addresses are guest physical"
    vm.mem.u64[G_ROOT + 16] = RAM_BASE >> 12 << 10 | V | R | W | U
    vm.hart.csr.menvcfg = 1 << 61
    walk = vm.hart.walk(RAM_BASE, world="VS", access="store")
    assert "the hart sets accessed and dirty in the entry at 0x80008010" in str(walk)
    assert vm.mem.u64[G_ROOT + 16] == RAM_BASE >> 12 << 10 | V | R | W | U


def test_a_table_for_jupyter(vm: pv.Machine) -> None:
    small(vm)
    vm.mem.u64[RAM_BASE + 0x1_1008] = 0
    html = vm.hart.walk(0x1000, world="VS")._repr_html_()
    assert html.count("<tr") == 7
    assert html.count("background:#fdd") == 1
    assert "fails: V is 0" in html
    assert "load page fault (cause 13)" in html


def test_devices_are_named() -> None:
    with pv.Machine() as vm:
        assert str(vm.hart.walk(0x1000_0000)).splitlines()[-2] == "  memory: pa 0x10000000 is uart, PMP allows the load"
        walk = vm.hart.walk(0x5000_0000, access="store")
        assert (walk.cause, walk.rule, walk.pa) == (7, RULES["nothing"], 0x5000_0000)


def test_wrong_arguments_are_named(vm: pv.Machine) -> None:
    with pytest.raises(pv.ConfigError, match="walk: access: 'read' is not allowed; allowed: 'fetch', 'load'"):
        vm.hart.walk(0, access="read")
    with pytest.raises(pv.ConfigError, match="walk: world: 'L2' is not allowed; allowed: 'M', 'HS'"):
        vm.hart.walk(0, world="L2")
    with pytest.raises(pv.ConfigError, match="walk: world of access 'hlvx': 'HS' is not allowed"):
        vm.hart.walk(0, world="HS", access="hlvx")
