"""Random programs that rewrite the code they run, jump into the middle of it, and run it under several addresses.

A small area across a page boundary holds instructions of both lengths. A driver stores into it and calls it at any
halfword; instructions of the area store into it too. Whatever goes wrong in there traps or loops, and a handler or a
timer brings the driver back. The oracle is the same core made to fetch every instruction anew: protection finer than a
page forbids it to keep what it decoded.
"""
from __future__ import annotations

import functools
import random

from pyvirt.assembly.asm import Assembled, asm
from tests.support import BASE, CLINT, RWX, A, Bare, D, PageTables, R, V, Variant, W

AREA = BASE + 0x2_0000 - 64     # 128 bytes, half in each of two pages
CODE, DATA, LOG, BACK = BASE + 0x1000, BASE + 0x3_0000, BASE + 0x4_0000, BASE + 0x5_0000
ALIAS, SWAPPED = 0x4000_0000 - 64, 0x5000_0000  # the same pages elsewhere; and the other way round
PATIENCE = 300                  # instructions after which the timer ends a call

# A handler for M-mode. Where to go on, 0 for nowhere, lies at BACK: what the area does to registers does not reach it.
HANDLER = f"""
    .balign 4
handler:
    csrw mscratch, t6
    li t6, {BACK}
    csrr gp, mcause
    sd gp, 8(t6)
    ld gp, 16(t6)
    addi gp, gp, 1
    sd gp, 16(t6)
    ld gp, 0(t6)
    csrw mepc, gp
    beqz gp, halt
    li t6, {CLINT + 0xBFF8}
    ld gp, 0(t6)
    addi gp, gp, {PATIENCE}
    li t6, {CLINT + 0x4000}
    sd gp, 0(t6)
    li gp, 0x80
    csrw mie, gp
    csrr t6, mscratch
    mret
halt:
    csrw mie, x0
    wfi
    j halt
"""


class SelfMod:
    """One program: its text, its area, and the machines that run it."""

    def __init__(self, seed: int, *, paged: bool, steps: int = 150) -> None:
        self.rng = random.Random(f"{seed} {paged}")
        self.paged = paged
        self.bases = [AREA, ALIAS, SWAPPED] if paged else [AREA]
        self.area = bytearray()
        while len(self.area) < 124:
            self.area += self.word()
        self.area = self.area[:124] + b"\x82\x80\x82\x80"   # ret, twice
        self.lines: list[str] = []
        for number in range(steps):
            self.step(number)

    # ---- instructions of the area
    def word(self) -> bytes:
        """Return an instruction of two or four bytes."""
        rng = self.rng
        a, b = f"a{rng.randrange(6)}", f"a{rng.randrange(6)}"
        near = rng.randrange(4, 40, 2)
        back = rng.randrange(-100, 100)
        line = rng.choice((
            f"addi {a}, {b}, {rng.randrange(-2048, 2048)}", f"c.addi {a}, {rng.randrange(1, 32)}", f"c.mv {a}, {b}",
            f"c.add {a}, {b}", f"c.li {a}, {rng.randrange(-32, 32)}", f"xor {a}, {a}, {b}", f"auipc {a}, 1",
            f"beq {a}, {b}, . + {near}", f"bltu {a}, {b}, . + {near}", f"c.j . + {near}", f"j . + {near}",
            f"c.beqz {a}, . + {near}", "c.jr ra", f"bne {a}, {b}, . - {near}", "c.nop",
            f"sw t1, {back}(t0)", f"sh t1, {back}(t0)", f"sd t1, {back}(t0)", f"sb t1, {back}(t0)",
            "amoswap.w t1, t1, (t0)", "cbo.zero (t0)", "lr.w a0, (t0)", "sc.w a0, t1, (t0)", "fsw f1, 4(t0)",
            f"lw {a}, {back}(t0)", "jalr a5, 8(ra)", "ecall" if self.rng.random() < 0.05 else "fence.i",
        ))
        return bytes(asm(line, at=AREA))

    # ---- the driver
    def step(self, number: int) -> None:
        """Add a store to the area, or a call into it with registers that its stores use."""
        rng = self.rng
        at = rng.choice(self.bases) + rng.randrange(0, 126, 2)
        if rng.random() < 0.45:
            value = int.from_bytes((self.word() + self.word() + self.word() + self.word())[:8], "little")
            store = rng.choice(("sd", "sw", "sw", "sh", "sb"))
            if at - self.bases[-1] in range(118, 126) or (at & 0xFFF) > 0xFF8:
                store = "sh"
            self.lines += [f"li t0, {at}", f"li t1, {value}", f"{store} t1, 0(t0)"]
            return
        place = rng.choice(self.bases) + rng.randrange(0, 120, rng.choice((2, 4, 4)))
        value = int.from_bytes((self.word() + self.word())[:4], "little")
        self.lines += [f"li t0, {place}", f"li t1, {value}", f"li t2, {at}"]
        self.lines += ["auipc t4, 0", "addi t4, t4, 32", f"li t5, {BACK}", "sd t4, 0(t5)", "jalr ra, t2", "nop", "nop"]
        self.lines += [f"li t3, {LOG + 64 * number}"]
        self.lines += [f"sd a{k}, {8 * k}(t3)" for k in range(6)]

    @functools.cached_property
    def program(self) -> Assembled:
        """The driver and its handler."""
        return asm("\n".join([*self.lines, f"li t5, {BACK}", "sd x0, 0(t5)", "ecall", HANDLER]), at=CODE)

    def make(self, variant: Variant, *, anew: bool = False) -> Bare:
        """Return a machine; `anew` makes it fetch every instruction of the area anew."""
        bare = Bare(self.program, size=1 << 19, variant=variant, ratio=1)
        bare.clint()
        bare.core.bus_write(CLINT + 0x4000, 8, PATIENCE)
        bare.core.mem_write(AREA, self.area)
        for k, at in enumerate((AREA & ~0xFFF, AREA + 64 + 0xC00) if anew else (DATA, DATA + 0x1000)):
            bare.hart.csr_write(0x3B0 + k, at >> 2 | 0x7F)  # 1 KiB, beyond what stores may reach
        bare.set(csr_3b2=(1 << 54) - 1, csr_3a0=0x1F_1F_1F, csr_305=bare.symbols["handler"], csr_304=0x80, csr_30a=0xF0,
                 csr_300=3 << 13, sp=DATA + 0x100, s0=DATA)
        if self.paged:
            self.map(bare)
        else:
            bare.set(csr_300=3 << 13 | 8)
        return bare

    def map(self, bare: Bare) -> None:
        """Go to S-mode, with the area's two pages under three addresses."""
        tables = PageTables(bare, start=BASE + 0x6_0000)
        tables.map(BASE, BASE, RWX, level=2)
        tables.map(CLINT, CLINT, V | R | W | A | D)
        low, high = AREA & ~0xFFF, AREA + 64
        for va, pa in ((ALIAS & ~0xFFF, low), (ALIAS + 64, high), (SWAPPED, high), (SWAPPED + 0x1000, low)):
            tables.map(va, pa)
        bare.set(csr_180=tables.satp())
        bare.hart.priv = 1
