"""Programs that walk both stages: every first-stage mode over every G-stage mode, each with every kind of entry.

Guest physical memory has the RAM where it is physically, mapped well, and above 4 GiB windows that the G-stage maps by
random entries: pages by its lowest level, superpages by the levels above. The tables of the first stage are reached
well, or through such a window, so that the walk itself meets what the G-stage refuses. A test is one access from one
world: by a guest, by HLV and HSV, by MPRV with MPV. Between tests entries of both stages are rewritten and fenced.
"""
from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.lockstep import paging
from tests.lockstep.hyp_machines import HS, VS, VU, M, U
from tests.lockstep.paging import ACCESSES, LEVELS, SATP, A, D, R, V, W, X

CODE, TABLES, G_TABLES, DATA = 0x8000_0000, 0x8005_0000, 0x8005_8000, 0x8007_0000
RAM = 1 << 19
USER, HOLE = paging.USER, paging.HOLE
WINDOW = 4 << 30  # guest physical: 32 pages by entries of G level 0, and on superpages above
PAGES, FREE, VIA = 32, 24, 8  # G level 0: random data pages, then pages that lead to first-stage tables
BARE = 0
ALIAS = paging.ALIAS

HYPER = {
    "hlv.b": "hlv.b t2, (t0)", "hlv.hu": "hlv.hu t2, (t0)", "hlv.w": "hlv.w t2, (t0)", "hlv.d": "hlv.d t2, (t0)",
    "hlvx.hu": "hlvx.hu t2, (t0)", "hlvx.wu": "hlvx.wu t2, (t0)", "hsv.b": "hsv.b t1, (t0)", "hsv.h": "hsv.h t1, (t0)",
    "hsv.w": "hsv.w t1, (t0)", "hsv.d": "hsv.d t1, (t0)",
}


def g_entry(rng: random.Random, level: int, page: int) -> int:
    """Return a G-stage entry to a page, or at a higher level to RAM: good, or with one or two things changed."""
    ppn = (page if level == 0 else CODE if level < 3 else 0) >> 12
    if level == 0 and rng.random() < 0.15:
        return 1 << 63 | (ppn & ~0xF | 8) << 10 | V | R | W | X | A | D | USER  # one of a good 64 KiB page
    bits = V | rng.choice((R, R | W, R | X, X, R | W | X, R | W | X, R | W | X)) | A | D | USER
    bits |= paging.G if rng.random() < 0.2 else 0
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        kind = rng.randrange(10)
        if kind == 0:
            bits ^= A
        elif kind == 1:
            bits ^= D
        elif kind == 2:
            bits &= ~(V if rng.random() < 0.5 else USER)
        elif kind == 3:
            bits = bits & ~(R | X) | W
        elif kind == 4:
            bits |= 1 << rng.randrange(54, 61)
        elif kind == 5:
            bits |= rng.randrange(1, 4) << 61
        elif kind == 6:
            bits |= 1 << 63
            if level == 0:
                ppn = ppn & ~0xF | rng.choice((8, 8, 8, 0, 4, 12, 15))
        elif kind == 7 and level:
            ppn |= 1 << rng.randrange(9 * level)
        elif kind == 8:
            bits |= rng.randrange(4) << 8
        else:
            return rng.choice((V | ppn << 10, V | USER | ppn << 10, V | HOLE >> 2, bits & 0x3FF | HOLE >> 2))
    return bits | ppn << 10


@dataclass
class TwoStages:
    """The random choices of one program; a stage of 0 is bare.

    A warm program keeps to few pages and changes neither menvcfg nor henvcfg: what was cached for one access is there
    for the next, and an edit must take it away.
    """

    sv: int
    svx4: int
    seed: int
    tests: int = 120
    warm: bool = False
    rng: random.Random = field(init=False)
    tables: dict[int, list[int]] = field(init=False)
    g_tables: dict[int, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed * 10000 + self.sv * 100 + self.svx4)
        top = LEVELS.get(self.sv, 0)
        self.tables = {level: [self.entry(level) for _ in range(24)] for level in range(top)}
        self.g_tables = {0: [g_entry(rng, 0, self.page(i)) for i in range(PAGES)]}
        for level in range(1, LEVELS.get(self.svx4, 0)):
            self.g_tables[level] = [g_entry(rng, level, 0) for _ in range(24)]

    def page(self, i: int) -> int:
        """Return what page i of the window is meant for: data, or a table of the first stage."""
        return DATA + 0x1000 * (i % 16) if i < FREE else TABLES + 0x1000 * (i - FREE >> 2)

    def entry(self, level: int) -> int:
        """Return a first-stage entry: its target is RAM as it lies, or a window, or beyond what the G-stage has."""
        rng = self.rng
        found = paging.entry(rng, level)
        if rng.random() < 0.6 and self.svx4:
            ppn = WINDOW >> 12
            if level == 0:
                ppn += rng.randrange(2 if self.warm else FREE)
            elif rng.random() < 0.3:
                ppn = 1 << rng.randrange(27, 44)
            found = found & ~(((1 << 44) - 1) << 10) | ppn >> 9 * level << 9 * level << 10
        return found

    def place(self, levels: int) -> tuple[int, int]:
        """Return a level and an index of an entry in its table."""
        rng = self.rng
        return rng.choice((0, 0, 0, *range(levels))), rng.randrange(2 if self.warm else FREE)

    def window(self, offset: int) -> tuple[int, int, int]:
        """Return (level, index, guest physical address) of a byte that an entry of the G-stage governs."""
        rng, top = self.rng, LEVELS.get(self.svx4, 1)
        level, index = self.place(top)
        if level == 0:
            gpa = WINDOW + (index << 12) + offset
        else:
            gpa = paging.in_superpage(rng, DATA, level, index, offset)
        if rng.random() < 0.05:
            gpa ^= 1 << rng.randrange(38, 64)
        return level, index, gpa

    def address(self, offset: int) -> tuple[int, int, int]:
        """Return (level, index, virtual address) of a byte that an entry of the first stage governs."""
        rng, top = self.rng, LEVELS[self.sv]
        level, index = self.place(top)
        if level == 0:
            # By which table: 0 is the one as it lies, the others lead to it through pages of the window.
            way = rng.choice((0, 0, *range(1, 7)))
            va = ((4 if way < 4 else way) << 30) + ((way if way < 4 else 0) << 21) + (index << 12) + offset
        else:
            va = paging.in_superpage(rng, DATA, level, index, offset)
        return level, index, paging.canonical(rng, self.sv, va)

    def edit(self) -> str:
        """Return lines that rewrite an entry of either stage and fence, or nothing."""
        rng = self.rng
        if rng.random() < 0.5:
            return ""
        if self.sv and (not self.svx4 or rng.random() < 0.5):
            level, index = self.place(LEVELS[self.sv])
            value = self.tables[level][index] = self.entry(level)
            slot = TABLES + 0x1000 * level + 8 * (index if level == 0 else 8 + index)
            fence = rng.choice(("hfence.vvma", "hfence.vvma x0, x0", "hfence.gvma"))
        elif self.svx4:
            level, index = self.place(LEVELS[self.svx4])
            if level == 0 and rng.random() < 0.3:
                index = rng.randrange(FREE, PAGES)
            value = self.g_tables[level][index] = g_entry(rng, level, self.page(index))
            slot = self.g_slot(level, index)
            fence = "hfence.gvma"
        else:
            return ""
        return f"li t0, {slot}\n li t2, {value}\n sd t2, 0(t0)\n {fence}"

    def g_slot(self, level: int, index: int) -> int:
        """Return the address of a random entry of the G-stage."""
        return self.g_base(level) + 8 * (index if level == 0 else 8 + index)

    def g_base(self, level: int) -> int:
        """Return where a table of the G-stage is: the root has four pages, and comes first."""
        return G_TABLES if level == LEVELS[self.svx4] - 1 else G_TABLES + 0x4000 + 0x1000 * level

    def test(self, i: int) -> str:
        """Return the text of one test."""
        rng = self.rng
        world = rng.choice((VS, VS, VU, VU, HS, M, U))
        name = rng.choice((*ACCESSES, "fetch", "fetch", "fetch") if world in (VS, VU) else tuple(HYPER))
        mprv = world == M and rng.random() < 0.5
        if mprv:
            name = rng.choice([n for n in ACCESSES if n != "fetch"])
        offset = paging.some_offset(rng)
        _, _, va = self.address(offset) if self.sv else self.window(offset)
        va = paging.fitting(rng, name, va)
        body = (ACCESSES | HYPER)[name]
        if mprv:
            mpp = rng.choice((0x800, 0))
            on = f"li t2, 0x1800\n csrc mstatus, t2\n li t2, {0x80_0002_0000 | mpp:#x}\n csrs mstatus, t2"
            body = f"{on}\n {body}\n li t2, 0x20000\n csrc mstatus, t2"
        sum_mxr, guest_sum_mxr = (rng.choice((0, 0x4_0000, 0x8_0000, 0xC_0000)) for _ in range(2))
        menvcfg, henvcfg = (rng.choice((0, 1 << 61, 1 << 62, 3 << 61, 3 << 61)) | 0xF0 for _ in range(2))
        if self.warm:
            menvcfg = henvcfg = 0xF0 | (self.seed & 3) << 61
        hstatus = rng.choice((0x200, 0x300)) if world == U or rng.random() < 0.5 else rng.choice((0, 0x100))
        medeleg = rng.choice((0, 0xF0_B1FF))
        status = sum_mxr | (world & 3) << 11 | (world >> 2) << 39
        alias = f"li t2, {ALIAS}\n add t0, t0, t2" if world == VU and self.sv else ""  # U runs bare
        hedeleg = rng.choice((0, 0, 0xB1FF))
        return f"""
test_{i}:
  la s11, test_{i + 1}
  {self.edit()}
  li t0, {0x80_000C_1800:#x}
  csrc mstatus, t0
  li t0, {status:#x}
  csrs mstatus, t0
  li t0, {guest_sum_mxr | 0x6000:#x}
  csrw vsstatus, t0
  li t0, {menvcfg:#x}
  csrw menvcfg, t0
  li t0, {henvcfg:#x}
  csrw henvcfg, t0
  li t0, {hstatus:#x}
  csrw hstatus, t0
  li t0, {medeleg:#x}
  csrw medeleg, t0
  li t0, {hedeleg:#x}
  csrw hedeleg, t0
  hfence.gvma
  la t0, body_{i}
  {alias}
  csrw mepc, t0
  li t0, {va:#x}
  mret
body_{i}:
  {body}
  ecall
"""

    def text(self) -> str:
        """Return the text of the program."""
        first = TwoStages(self.sv, self.svx4, self.seed, self.tests, self.warm)
        tests = [self.test(i) for i in range(self.tests)]
        vsatp = hgatp = 0
        if self.sv:
            vsatp = SATP[self.sv] << 60 | self.rng.getrandbits(16) << 44 | TABLES + 0x1000 * (LEVELS[self.sv] - 1) >> 12
        if self.svx4:
            hgatp = SATP[self.svx4] << 60 | self.rng.getrandbits(14) << 44 | G_TABLES >> 12
        return f"""
  la t0, m_trap
  csrw mtvec, t0
  la t0, s_trap
  csrw stvec, t0
  csrw vstvec, t0
  li t0, -1
  csrw pmpaddr0, t0
  csrw vstimecmp, t0
  li t0, 0x1f
  csrw pmpcfg0, t0
  li t0, 0x6000
  csrs mstatus, t0
  li t0, 0xf0
  csrw senvcfg, t0
  fmv.d.x f1, x0
  li t0, {vsatp:#x}
  csrw vsatp, t0
  li t0, {hgatp:#x}
  csrw hgatp, t0
  hfence.gvma
  li t1, 0x0000007300000073
{"".join(tests)}
test_{self.tests}:
done: j done
.balign 64
m_trap:
  csrr t0, mcause
  csrr t2, mtval
  csrr t2, mtval2
  li t2, 0x20000
  csrc mstatus, t2
  jr s11
.balign 64
s_trap:
  csrr t0, scause
  csrr t2, stval
  ecall
.org {TABLES - CODE:#x}
{first.first_stage()}
.org {G_TABLES - CODE:#x}
{first.g_stage()}
.org {DATA - CODE:#x}
data:
{paging.DATA_PAGES}
"""

    def first_stage(self) -> str:
        """Return the tables of the first stage, the lowest first."""
        out, top = [], LEVELS.get(self.sv, 0) - 1
        for level in range(top + 1):
            below = TABLES + 0x1000 * (level - 1) >> 2 | V
            ways = [WINDOW + 0x1000 * (FREE + 4 * (level - 1) + k) >> 2 | V for k in range(4)]
            ways = ways if self.svx4 else [below] * 4
            fixed = [] if level == 0 else [0] * 8
            if level == 1:
                fixed[:4] = [below, ways[0], ways[1], ways[2]]
            elif level == 2:
                fixed[2:7] = [CODE >> 2 | 0xCF, CODE >> 2 | 0xDF, below, ways[0], ways[1]]
            elif level:
                fixed[0] = below
            out.append(paging.Walks.dwords(fixed, self.tables[level]))
        return "".join(out)

    def g_stage(self) -> str:
        """Return the tables of the G-stage: the root of 16 KiB, then the others from the lowest on."""
        if not self.svx4:
            return ""
        top, parts = LEVELS[self.svx4] - 1, {}
        for level in range(top + 1):
            below = self.g_base(level - 1) >> 2 | V
            fixed = [] if level == 0 else [0] * 8
            if level == 1:
                fixed[0] = below
            elif level == 2:
                fixed[1], fixed[2], fixed[4] = HOLE >> 2 | 0xDF, CODE >> 2 | 0xDF, below
            elif level:
                fixed[0] = below
            parts[level] = paging.Walks.dwords(fixed, self.g_tables[level])
        return parts[top] + ".zero 12288\n" + "".join(parts[level] for level in range(top))
