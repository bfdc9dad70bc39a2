"""Programs that walk page tables: Sv39, Sv48 and Sv57 with every kind of entry at every level.

The code runs on an identity map (S) or an alias with the U bit (U), or in M with MPRV. Beside these hang tables of
random entries: permissions, U, A and D, reserved bits, N and PBMT, misaligned superpages, pointers with bits that only
leaves may have, pointers to where nothing is. Each test is one access, in one mode, under one setting of SUM, MXR, ADUE
and PBMTE; between tests entries are rewritten and fenced, often the one that the last access went through.
"""
from __future__ import annotations

import random
from dataclasses import dataclass, field

CODE, TABLES, DATA = 0x8000_0000, 0x8003_0000, 0x8004_0000
HOLE = 0x4000_0000
V, R, W, X, USER, G, A, D = (1 << i for i in range(8))
LEVELS = {39: 3, 48: 4, 57: 5}
SATP = {39: 8, 48: 9, 57: 10}
ALIAS = 0x4000_0000
U, S, M = 0, 1, 3

ACCESSES = {
    "lb": "lb t2, 0(t0)", "lw": "lw t2, 0(t0)", "ld": "ld t2, 0(t0)", "fld": "fld f1, 0(t0)",
    "sb": "sb t1, 0(t0)", "sw": "sw t1, 0(t0)", "sd": "sd t1, 0(t0)", "fsd": "fsd f1, 0(t0)",
    "lr": "lr.d t2, (t0)", "sc": "sc.d t2, t1, (t0)", "amo": "amoadd.d t2, t1, (t0)", "zero": "cbo.zero (t0)",
    "clean": "cbo.clean (t0)", "flush": "cbo.flush (t0)", "prefetch": "prefetch.w 0(t0)", "fetch": "jr t0",
}
ALIGNED = {"lr", "sc", "amo"}
# Sixteen pages of data and of calls to come back from, each of which tells which one it is.
DATA_PAGES = "".join(
    f".rept 256\n.dword {0x5A5A_A5A5_DEAD_BE00 + i:#x}\n.endr\n.rept 511\n.word 0x73\n.endr\n.half 0, 0x73\n"
    for i in range(16)
)


def entry(rng: random.Random, level: int) -> int:
    """Return an entry for a level (0 maps pages): as a rule a good leaf with up to two things changed."""
    if level and rng.random() < 0.15:
        return pointer(rng)
    base = {0: DATA + 0x1000 * rng.randrange(16), 1: CODE, 2: CODE}.get(level, 0)
    ppn = base >> 12
    bits = V | R | A | D
    permissions = rng.choice((R, R | W, R | X, R | W | X, X, R | W | X, R | W | X))
    bits = V | permissions | A | D | (USER if rng.random() < 0.5 else 0) | (G if rng.random() < 0.2 else 0)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        kind = rng.randrange(10)
        if kind == 0:
            bits ^= A
        elif kind == 1:
            bits ^= D
        elif kind == 2:
            bits &= ~V
        elif kind == 3:
            bits = bits & ~(R | X) | W
        elif kind == 4:
            bits |= 1 << rng.randrange(54, 61)
        elif kind == 5:
            bits |= rng.randrange(1, 4) << 61
        elif kind == 6:  # N: a 64 KiB page where the low bits of the number say so, else reserved
            bits |= 1 << 63
            if level == 0:
                ppn = ppn & ~0xF | rng.choice((8, 8, 8, 0, 4, 12, 15))
        elif kind == 7 and level:
            ppn |= 1 << rng.randrange(9 * level)
        elif kind == 8:
            bits |= rng.randrange(4) << 8
        else:
            ppn = HOLE >> 12
    return bits | ppn << 10


def pointer(rng: random.Random) -> int:
    """Return an entry that points on: to a bad table, or with bits that only leaves may have."""
    target = rng.choice((HOLE >> 12, TABLES >> 12, TABLES >> 12, (1 << 44) - 1))
    odd = rng.choice((0, 0, USER, A, D, G, 1 << 61, 1 << 62, 1 << 63, 1 << 54))
    return V | odd | target << 10


def some_offset(rng: random.Random) -> int:
    """Return an offset in a page of data: in its words, or where an access reaches over its end."""
    return rng.choice((rng.randrange(8, 0x7F0), rng.randrange(8, 0x7F0), rng.randrange(0xFF1, 0x1000)))


def in_superpage(rng: random.Random, data: int, level: int, index: int, offset: int) -> int:
    """Return an address that a random entry of a level above 0 leads to the data, which are at `data`."""
    inside = data + 0x1000 * rng.randrange(16) + offset
    va = (8 + index << 12 + 9 * level) + (inside & (1 << 12 + 9 * level) - 1)
    return va + (4 << 30 if level == 1 else 0)


def canonical(rng: random.Random, sv: int, va: int) -> int:
    """Return an address with the sign that its mode wants, or seldom with one bit wrong."""
    if rng.random() < 0.03:
        return va ^ 1 << rng.randrange(sv - 1, 64)
    return va | (1 << 64) - (1 << sv) if va >> (sv - 1) & 1 else va


def fitting(rng: random.Random, name: str, va: int) -> int:
    """Return the address that an access can use: aligned, or where the page has code."""
    if name in ALIGNED:
        return va & ~7
    if name == "zero":  # Spike's tval is the block's address; it must be rs1 (unprivileged manual, "CMO", "Traps")
        return va & ~63
    return va & ~0xFFF | rng.choice((0x800, 0xC00, 0xA10, 0xFFC, 0xFFE)) if name == "fetch" else va


@dataclass(frozen=True)
class Access:
    """One access and its setting: `level` and `index` say which entry it goes through, `prv` is MPP under MPRV."""

    name: str
    mode: int
    level: int
    index: int
    va: int
    sum_mxr: int
    envcfg: int
    prv: int


@dataclass
class Walks:
    """The random choices of one program."""

    sv: int
    seed: int
    tests: int = 150
    rng: random.Random = field(init=False)
    tables: dict[int, list[int]] = field(init=False)
    last: Access | None = None

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed * 1000 + self.sv)
        # Upper tables hold random entries from index 8 on, and below it what the program needs.
        self.tables = {level: [entry(self.rng, level) for _ in range(24)] for level in range(LEVELS[self.sv])}

    def address(self) -> tuple[int, int, int]:
        """Return (level, index, virtual address) of an access to some byte of the data."""
        rng, top = self.rng, LEVELS[self.sv]
        level = rng.choice((0, 0, 0, *range(top)))
        index = rng.randrange(24)
        offset = some_offset(rng)
        if level == 0:
            va = (4 << 30) + (rng.randrange(2) << 21) + (index << 12) + offset
        else:
            va = in_superpage(rng, DATA, level, index, offset)
        return level, index, canonical(rng, self.sv, va)

    def access(self) -> Access:
        """Return a new access, chosen at random."""
        rng = self.rng
        name = rng.choice(tuple(ACCESSES))
        mode = rng.choice((S, U)) if name == "fetch" else rng.choice((S, S, U, M))
        level, index, va = self.address()
        va = fitting(rng, name, va)
        sum_mxr = rng.choice((0, 0x4_0000, 0x8_0000, 0xC_0000))
        envcfg = rng.choice((0, 1 << 61, 1 << 62, 3 << 61)) | 0xF0
        return Access(name, mode, level, index, va, sum_mxr, envcfg, rng.choice((0x800, 0)))

    def edit(self, level: int, index: int, va: int) -> str:
        """Return the text that rewrites an entry and fences."""
        rng = self.rng
        self.tables[level][index] = entry(rng, level)
        fence = rng.choice(("sfence.vma", "sfence.vma", f"li t0, {va}\n sfence.vma t0, x0"))
        if level:
            fence = "sfence.vma"
        slot = TABLES + 0x1000 * level + 8 * (index if level == 0 else 8 + index)
        return f"li t0, {slot}\n li t2, {self.tables[level][index]}\n sd t2, 0(t0)\n {fence}"

    def test(self, i: int) -> str:
        """Return the text of one test: a new access, or the last one again, as a rule with its entry rewritten."""
        rng = self.rng
        again = self.last is not None and rng.random() < 0.45
        chosen = self.last if self.last is not None and again else self.access()
        self.last = chosen
        name, mode, va = chosen.name, chosen.mode, chosen.va
        edit = self.edit(chosen.level, chosen.index, va) if rng.random() < (0.8 if again else 0.2) else ""
        sum_mxr, envcfg, prv = chosen.sum_mxr, chosen.envcfg, chosen.prv
        mpp = {S: 0x800, U: 0, M: 0x1800}[mode]
        body = ACCESSES[name]
        if mode == M:
            on = f"li t2, 0x1800\n csrc mstatus, t2\n li t2, {0x2_0000 | prv}\n csrs mstatus, t2"
            body = f"{on}\n {body}\n li t2, 0x20000\n csrc mstatus, t2"
        alias = f"li t2, {ALIAS}\n add t0, t0, t2" if mode == U else ""
        return f"""
test_{i}:
  la s11, test_{i + 1}
  {edit}
  li t0, {0xC_1800}
  csrc mstatus, t0
  li t0, {sum_mxr | mpp}
  csrs mstatus, t0
  li t0, {envcfg}
  csrw menvcfg, t0
  la t0, body_{i}
  {alias}
  csrw mepc, t0
  li t0, {va}
  mret
body_{i}:
  {body}
  ecall
"""

    def text(self) -> str:
        """Return the text of the program."""
        tests = [self.test(i) for i in range(self.tests)]
        # The image holds the entries as they were before the edits.
        first = Walks(self.sv, self.seed, self.tests)
        top = LEVELS[self.sv] - 1
        tables = [self.dwords([], first.tables[0])]
        for level in range(1, top + 1):
            below = (TABLES + 0x1000 * (level - 1)) >> 2 | V
            fixed = [0] * 8
            if level == 1:
                fixed[0] = fixed[1] = below
            elif level == 2:
                fixed[2], fixed[3], fixed[4] = CODE >> 2 | 0xCF, CODE >> 2 | 0xDF, below
            else:
                fixed[0] = below
            tables.append(self.dwords(fixed, first.tables[level]))
        return f"""
  la t0, m_trap
  csrw mtvec, t0
  li t0, -1
  csrw pmpaddr0, t0
  li t0, 0x1f
  csrw pmpcfg0, t0
  li t0, 0x6000
  csrs mstatus, t0
  li t0, 0xf0
  csrw senvcfg, t0
  li t1, 0x0000007300000073
  li t0, {SATP[self.sv] << 60 | self.rng.getrandbits(16) << 44 | (TABLES >> 12) + top}
  csrw satp, t0
  sfence.vma
  li t1, 0x0000007300000073
{"".join(tests)}
test_{self.tests}:
done: j done
.balign 64
m_trap:
  csrr t0, mcause
  csrr t2, mtval
  li t2, 0x20000
  csrc mstatus, t2
  jr s11
.org {TABLES - CODE:#x}
{"".join(tables)}
.org {DATA - CODE:#x}
data:
{DATA_PAGES}
"""

    @staticmethod
    def dwords(fixed: list[int], values: list[int]) -> str:
        count = len(fixed) + len(values)
        return "".join(f".dword {v:#x}\n" for v in (*fixed, *values)) + f".zero {4096 - 8 * count}\n"
