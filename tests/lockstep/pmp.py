"""Programs about physical memory protection: random entries over a region, accesses at their edges, from each mode.

Entry 0 keeps the code reachable. Entries 1 to 14 are rewritten before each test: OFF, TOR, NA4, NAPOT, with or without
lock; entry 15 opens what is left, or not. Half of the accesses of S and U are translated by a table that itself lies
under the entries, so that walks fault too. No cbo.zero: Spike stores what comes before an edge inside the block.
"""
from __future__ import annotations

import random

CODE, DATA = 0x8000_0000, 0x8008_0000
U, S, M = 0, 1, 3
OFF, TOR, NA4, NAPOT = 0, 8, 16, 24
R, W, X, LOCK = 1, 2, 4, 0x80
ALIAS = 0x4000_0000

ACCESSES = (
    "lb t2, 0(t0)", "lhu t2, 0(t0)", "lw t2, 0(t0)", "ld t2, 0(t0)", "sb t1, 0(t0)", "sh t1, 0(t0)", "sw t1, 0(t0)",
    "sd t1, 0(t0)", "fld f1, 0(t0)", "fsw f1, 0(t0)", "lr.w t2, (t0)", "amoadd.w t2, t1, (t0)", "amoxor.d t2, t1, (t0)",
    "sc.w t2, t1, (t0)", "cbo.clean (t0)", "jr t0",
)


def napot(base: int, size: int) -> int:
    """Return the pmpaddr of an aligned region of a power of two, at least 8 bytes."""
    return base >> 2 | ((size >> 3) - 1)


class Protection:
    """The random choices of one program."""

    def __init__(self, seed: int, *, locks: bool, tests: int = 120) -> None:
        self.rng = random.Random(seed)
        self.locks, self.tests = locks, tests
        self.edges = [DATA]

    def entry(self) -> tuple[int, int]:
        """Return (cfg, pmpaddr) of a random entry over the data."""
        rng = self.rng
        mode = rng.choice((OFF, TOR, TOR, NA4, NAPOT, NAPOT))
        if mode == NAPOT:
            size = 1 << rng.choice((3, 3, 4, 5, 6, 8, 12, 12, 14))
            base = DATA + rng.randrange(0, 0x4000, size)
            address = napot(base, size)
            self.edges += [base, base + size]
        else:
            base = DATA + rng.choice((rng.randrange(0, 0x4000, 4), rng.randrange(0, 0x4000, 0x1000)))
            address = base >> 2
            self.edges += [base, base + 4]
        permissions = rng.choice((0, R, R | W, R | W | X, R | X, X, R | W | X, W))
        lock = LOCK if self.locks and rng.random() < 0.02 else 0
        return mode | permissions | lock, address

    def rewrite(self) -> str:
        """Return the text that sets entries 1 to 15."""
        rng = self.rng
        self.edges = [DATA, DATA + 0x1000]
        cfgs = [0x1F]
        lines = ["csrw pmpcfg2, x0", "li t0, 0x1f", "csrw pmpcfg0, t0"]
        used = rng.randrange(0, 15)
        for i in range(1, 15):
            cfg, address = self.entry() if i <= used else (0, 0)
            cfgs.append(cfg)
            lines += [f"li t0, {address}", f"csrw pmpaddr{i}, t0"]
        cfgs.append(rng.choice((NAPOT | R | W | X, NAPOT | R | W | X, NAPOT | R, OFF)))
        lines += ["li t0, -1", "csrw pmpaddr15, t0"]
        low, high = (sum(c << 8 * k for k, c in enumerate(cfgs[at : at + 8])) for at in (0, 8))
        lines += [f"li t0, {low}", "csrw pmpcfg0, t0", f"li t0, {high}", "csrw pmpcfg2, t0", "sfence.vma"]
        return "\n".join(lines)

    def test(self, i: int) -> str:
        """Return the text of one access."""
        rng = self.rng
        mode = rng.choice((S, S, U, M, M))
        access = rng.choice(ACCESSES)
        paged = mode != M and rng.random() < 0.5
        address = rng.choice(self.edges) + rng.choice((-8, -4, -2, -1, 0, 0, 0, 1, 2, 4, 8, 0x40))
        address = max(DATA, address)
        if access[:2] in ("lr", "sc", "am"):
            address &= ~7
        elif access.startswith("jr"):
            address &= ~1
            mode = S if mode == M else mode
        setup = self.rewrite() if i % 4 == 0 else ""
        mprv = mode == M and rng.random() < 0.6
        body = access
        if mprv:
            on = f"li t2, 0x1800\n csrc mstatus, t2\n li t2, {0x2_0000 | rng.choice((0, 0x800))}\n csrs mstatus, t2"
            body = f"{on}\n {access}\n li t2, 0x20000\n csrc mstatus, t2"
        satp = "root" if paged else None
        shift = ALIAS if paged and mode == U else 0
        translate = "la t0, root\n srli t0, t0, 12\n li t2, 8\n slli t2, t2, 60\n or t0, t0, t2" if satp else "li t0, 0"
        mpp = {S: 0x800, U: 0, M: 0x1800}[mode]
        return f"""
test_{i}:
  la s11, test_{i + 1}
  {setup}
  {translate}
  csrw satp, t0
  sfence.vma
  li t0, 0x1800
  csrc mstatus, t0
  li t0, {mpp}
  csrs mstatus, t0
  la t0, body_{i}
  li t2, {shift}
  add t0, t0, t2
  csrw mepc, t0
  li t0, {address + shift}
  mret
body_{i}:
  {body}
  ecall
"""

    def text(self) -> str:
        """Return the text of the program."""
        tests = "".join(self.test(i) for i in range(self.tests))
        return f"""
  la t0, m_trap
  csrw mtvec, t0
  li t0, {napot(CODE, 0x8_0000)}
  csrw pmpaddr0, t0
  li t0, 0xf0
  csrw menvcfg, t0
  csrw senvcfg, t0
  li t0, 0x6000
  csrs mstatus, t0
  li t1, 0x0000007300000073
{tests}
test_{self.tests}:
done: j done
.balign 64
m_trap:
  csrr t0, mcause
  csrr t2, mtval
  li t2, 0x20000
  csrc mstatus, t2
  jr s11
.org {DATA - CODE:#x}
  .rept 0xc00
  .word 0x73
  .endr
.balign 4096
root:                     # under the entries, as the rest of the data
  .dword 0, 0
  .dword {(CODE >> 2) | 0xCF:#x}
  .dword {(CODE >> 2) | 0xDF:#x}
  .zero {4096 - 32}
"""
