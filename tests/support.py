"""A machine without a board, and one way to run a program under every choice that must not matter.

`Bare` is RAM, harts and nothing else. `PageTables` builds translations in it. `Variants` runs the same program on the
threaded core, on the switch core, with small TLBs, in random slices, with evictions and shared memory between them, and
insists on one outcome: the digest of all state and RAM.
"""
from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pyvirt._device_clint import ClintRegs
from pyvirt._hart import Core
from pyvirt._memory import Ram, Root
from pyvirt._view import Hart
from pyvirt.assembly.asm import Assembled, asm
from pyvirt.assembly.regnames import X_NAMES

BASE = 0x8000_0000
CLINT = 0x200_0000
EXTS = (1 << 28) - 1 & ~(1 << 19)  # everything but the hypervisor extension
V, R, W, X, U, G, A, D = (1 << i for i in range(8))
N = 1 << 63
RWX, RW, RX = V | R | W | X | A | D, V | R | W | A | D, V | R | X | A
MODES = {39: 8, 48: 9, 57: 10}

# A handler for M-mode. It leaves `cause | tval << 8` in a0 and goes on behind the instruction (4 bytes), or, where the
# fetch itself failed, at ra. A call from S (cause 9) ends the program: nothing can ever happen again.
HANDLER = """
    .balign 4
handler:
    csrrw t6, mscratch, t6
    csrr a0, mcause
    addi a0, a0, -9
    beqz a0, halt
    addi a0, a0, -3
    beqz a0, refused
    addi a0, a0, 11
    beqz a0, refused
    csrr t6, mepc
    addi t6, t6, 4
    csrw mepc, t6
record:
    csrr a0, mtval
    slli a0, a0, 8
    csrr t6, mcause
    or a0, a0, t6
    csrrw t6, mscratch, t6
    mret
refused:
    csrw mepc, ra
    j record
halt:
    wfi
    j halt
"""


@dataclass(frozen=True)
class Variant:
    """Choices of the implementation: the core, how much it caches, how the run is cut (seed None: not at all)."""

    core: str = "threaded"
    tlb_limit: int = 0
    code_limit: int = 0
    seed: int | None = None
    longest: int = 200
    evict: bool = False
    share: bool = False


VARIANTS = (
    Variant(),
    Variant(core="switch"),
    Variant(tlb_limit=1),
    Variant(tlb_limit=16),
    Variant(core="switch", tlb_limit=64),
    Variant(seed=1, longest=1),
    Variant(seed=2, longest=150),
    Variant(seed=3, longest=40, evict=True),
    Variant(seed=4, longest=60, share=True),
    Variant(core="switch", seed=5, longest=30, evict=True, share=True),
    Variant(tlb_limit=3, seed=6, longest=90, share=True),
    Variant(code_limit=1),
    Variant(code_limit=3, seed=7, longest=80, share=True),
)


class Bare:
    """RAM at BASE with `text` assembled at its start, and hart 0 in M-mode at its first instruction."""

    def __init__(
        self, text: str | Assembled = "", *, size: int = 1 << 20, variant: Variant = Variant(), at: int = BASE,
        limit: int = 0, **options: Any,
    ) -> None:
        self.ram = Ram(BASE, size, limit)
        options.setdefault("exts", EXTS)
        if variant.code_limit:
            options["code_limit"] = variant.code_limit
        self.core = Core(self.ram, core=variant.core, tlb_limit=variant.tlb_limit, **options)
        self.program = text if isinstance(text, Assembled) else asm(text, at=at)
        at = self.program.base
        self.symbols = self.program.symbols
        self.core.mem_write(at, self.program)
        self.roots: list[Root] = []
        for i in range(self.core.harts):
            self.core.hart(i).pc = at

    @property
    def hart(self) -> Hart:
        """Hart 0."""
        return self.core.hart(0)

    def set(self, **registers: int) -> None:
        """Set registers of hart 0 by ABI name or csr_<number in hex>."""
        for name, value in registers.items():
            if name.startswith("csr_"):
                self.hart.csr_write(int(name[4:], 16), value)
            else:
                self.hart.set_x(X_NAMES.index(name), value)

    def x(self, name: str) -> int:
        """Return a register of hart 0."""
        return self.hart.x(X_NAMES.index(name))

    def u64(self, pa: int, value: int | None = None) -> int:
        """Read, or write as DMA does, eight bytes of RAM."""
        if value is not None:
            self.core.mem_write(pa, value.to_bytes(8, "little"))
        return int.from_bytes(self.core.mem_read(pa, 8), "little")

    def clint(self) -> None:
        """Map a CLINT at CLINT, wired to every hart."""
        regs = ClintRegs(self.core.harts)
        regs.connect_clock(self.core.clock())
        for i in range(self.core.harts):
            regs.connect_line(i, self.core.irq_line(i, 3))
        self.core.map(CLINT, 0x1_0000, regs)

    def open_pmp(self) -> None:
        """Let S and U reach everything."""
        self.set(csr_3b0=(1 << 54) - 1, csr_3a0=0x1F)

    def supervisor(self, satp: int, pc: int) -> None:
        """Go to S-mode at pc, with traps to `handler`, whose entries M-mode leaves in a0."""
        self.open_pmp()
        self.set(csr_305=self.symbols["handler"], csr_180=satp)
        self.hart.priv = 1
        self.hart.pc = pc

    def digest(self) -> str:
        """Return the digest of the core's state and of RAM."""
        return hashlib.sha256(self.core.state + self.ram.digest()).hexdigest()




class PageTables:
    """Tables of one mode in a machine's RAM, taken page by page from `start` on."""

    def __init__(self, bare: Bare, *, sv: int = 39, start: int) -> None:
        self.bare, self.sv = bare, sv
        self.levels = (sv - 12) // 9
        self.next = start
        self.root = self.page()

    def page(self) -> int:
        """Take a page of zeros and return its address."""
        self.next += 0x1000
        return self.next - 0x1000

    def satp(self, asid: int = 0, root: int | None = None) -> int:
        """Return the value of satp for these tables."""
        return MODES[self.sv] << 60 | asid << 44 | (root or self.root) >> 12

    def slot(self, va: int, level: int = 0, *, root: int | None = None) -> int:
        """Return the address of the entry for va at a level, making the tables above it."""
        table = root or self.root
        for above in range(self.levels - 1, level, -1):
            at = table + (va >> 12 + 9 * above & 511) * 8
            entry = self.bare.u64(at)
            if not entry & V:
                entry = self.bare.u64(at, self.page() >> 12 << 10 | V)
            table = entry >> 10 << 12
        return table + (va >> 12 + 9 * level & 511) * 8

    def map(self, va: int, pa: int, flags: int = RWX, level: int = 0, *, root: int | None = None) -> int:
        """Map va to pa by a leaf at a level and return the address of the entry."""
        at = self.slot(va, level, root=root)
        self.bare.u64(at, pte(pa, flags))
        return at


def pte(pa: int, flags: int) -> int:
    """Return an entry."""
    return pa >> 12 << 10 | flags


def run(bare: Bare, variant: Variant, limit: int, between: Callable[[Bare], None] | None = None) -> str:
    """Run to `limit` or a stop, cut as the variant says, and return the stop's name."""
    if variant.seed is None:
        return bare.core.run(limit)
    rng = random.Random(variant.seed)
    while True:
        at = min(limit, bare.core.icount + rng.randint(1, variant.longest))
        stop = bare.core.run(at)
        if stop != "limit" or bare.core.icount >= limit:
            return stop
        assert bare.core.icount == at
        if variant.evict and rng.random() < 0.3:
            bare.core.evict()
        if variant.share and rng.random() < 0.2:
            bare.roots = [*bare.roots[-3:], bare.ram.share()]
        if between is not None:
            between(bare)


@dataclass
class Outcome:
    """What a program came to: the machine at its end, and why it stopped."""

    bare: Bare
    stop: str
    icount: int
    digest: str


def same(
    make: Callable[[Variant], Bare], *, limit: int = 1_000_000, stop: str = "idle",
    variants: Iterable[Variant] = VARIANTS,
) -> Bare:
    """Run what `make` makes under every variant, assert that nothing differs, and return the first machine."""
    first: Outcome | None = None
    for variant in variants:
        bare = make(variant)
        why = run(bare, variant, limit)
        assert why == stop, f"{variant} stopped with {why!r} at {bare.hart.pc:#x}, icount {bare.core.icount}"
        now = Outcome(bare, why, bare.core.icount, bare.digest())
        if first is None:
            first = now
        elif (first.icount, first.digest) != (now.icount, now.digest):
            raise AssertionError(f"{variant} differs: {difference(first.bare, bare)}")
    assert first is not None
    return first.bare


def difference(a: Bare, b: Bare) -> str:
    """Say where two machines differ."""
    found = [f"icount {a.core.icount} {b.core.icount}"] if a.core.icount != b.core.icount else []
    for i in range(a.core.harts):
        p, q = a.core.hart(i), b.core.hart(i)
        found += [f"hart {i} {n} {p.x(k):#x} {q.x(k):#x}" for k, n in enumerate(X_NAMES) if p.x(k) != q.x(k)]
        if (p.pc, p.priv) != (q.pc, q.priv):
            found.append(f"hart {i} pc {p.pc:#x} {q.pc:#x} priv {p.priv} {q.priv}")
        for number in (0x300, 0x341, 0x342, 0x343, 0x141, 0x142, 0x143, 0x180, 0xB00, 0xB02):
            if p.csr_read(number) != q.csr_read(number):
                found.append(f"hart {i} CSR {number:#x} {p.csr_read(number):#x} {q.csr_read(number):#x}")
    for page in a.ram.share().diff(b.ram.share()) if a.ram.size == b.ram.size else ():
        one, two = a.ram.read(page << 12, 4096), b.ram.read(page << 12, 4096)
        at = next(k for k in range(4096) if one[k] != two[k]) & ~7
        found.append(f"RAM {(page << 12) + at:#x} {one[at:at + 8][::-1].hex()} {two[at:at + 8][::-1].hex()}")
    state = [k for k, (p, q) in enumerate(zip(a.core.state, b.core.state, strict=True)) if p != q]
    return "; ".join(found) + f"; state bytes {state[:12]}"
