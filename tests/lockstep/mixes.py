"""Random programs with control flow: blocks that jump, branch, call and return among each other, with interrupts.

A counter of fuel ends every program. Blocks hold random rows of the table (arithmetic, memory, atomics, FP), so
registers, addresses and conditions depend on all that went before. The blocks run in M, S or U; S and U translated.
"""
from __future__ import annotations

import random
from typing import Any

from tests.lockstep.programs import RESERVED, TABLE, floating, integer, table
from tests.lockstep.rows import Rows
from tests.oracle.zigasm import compressed

U, S, M = 0, 1, 3
ALIAS = 0x4000_0000
PLAIN = {"rr", "ri", "r1", "upper", "load", "store", "amo", "lr", "sc", "fload", "fstore", "fp", "c", "csr", "cbo"}
UNPRIVILEGED_CSRS = ("fflags", "frm", "fcsr")

NAMED = {"m": ("mscratch", "mcause", "mepc", "mip", "mret"), "s": ("sscratch", "scause", "sepc", "sip", "sret")}


def handler(level: str, name: str, label: str) -> str:
    """Return a handler that skips what trapped, lowers and masks what interrupted, and ends the program on an ecall.

    `level` names its CSRs; the guest's is the one of S. Only M-mode can end the program, so others call it.
    """
    scratch, cause, epc, ip, xret = NAMED[level]
    # M-mode and the host have lines to lower; the guest's one interrupt is its own bit.
    lower = "la t4, lines\n andi t5, t5, 63\n sd t5, 0(t4)" if name != "guest" else "andi t5, t5, 63"
    last = "la t4, done\n csrw mepc, t4\n li t4, 0x1800\n csrs mstatus, t4\n j 5b" if name == "machine" else "ecall"
    return f"""
.balign 64
{label}:
  csrrw t6, {scratch}, t6
  sd t5, 0(t6)
  sd t4, 8(t6)
  csrr t5, {cause}
  bltz t5, 4f
  addi t5, t5, -8
  li t4, 4
  bltu t5, t4, 9f
  csrr t4, {epc}
  li t5, 0xc0000000       # VU runs on an alias; its instruction is at the address without it
  bltu t4, t5, 2f
  li t5, {ALIAS}
  sub t4, t4, t5
2:
  lhu t5, 0(t4)
  andi t5, t5, 3
  addi t5, t5, -3
  csrr t4, {epc}
  addi t4, t4, 2
  bnez t5, 3f
  addi t4, t4, 2
3:
  csrw {epc}, t4
5:
  ld t5, 0(t6)
  ld t4, 8(t6)
  csrrw t6, {scratch}, t6
  {xret}
4:
  {lower}
  li t4, 1
  sll t4, t4, t5
  csrc {ip}, t4
  {"csrc hvip, t4" if name == "host" else ""}
  j 5b
9:
  {last}
  j 9b
"""


def start(alias: int, fuel: int, body: str) -> str:
    """Return the lines that give the blocks' registers their values and enter the first by mret, and the blocks."""
    return f"""
  la t0, block_0
  li t1, {alias}
  add t0, t0, t1
  csrw mepc, t0
  la x3, data + 6144
  la x4, integers + 2048
  la x26, floats + 2048
  add x3, x3, t1
  add x4, x4, t1
  add x26, x26, t1
  li x27, {fuel}
  li x1, 0
  mret
{body}
  j block_0
done: j done
"""


def data(rng: random.Random, blocks: int) -> str:
    """Return what the blocks jump by, load and store."""
    return f"""
.balign 8
offsets: .word {", ".join(f"block_{i} - block_0" for i in range(blocks))}
.balign 8
integers: {table(rng, integer, TABLE)}
floats: {table(rng, floating, TABLE)}
.balign 4096
data: {table(rng, integer, 1536)}
"""


ROOT = f"""
root:
  .dword 0, 0
  .dword {(0x8000_0000 >> 2) | 0xCF:#x}
  .dword {(0x8000_0000 >> 2) | 0xDF:#x}
  .zero {4096 - 32}
end:
"""


class Mix(Rows):
    """Writes one program; `mode` is where its blocks run."""

    def __init__(self, rng: random.Random, rows: list[Any], mode: int, blocks: int) -> None:
        super().__init__(rng, RESERVED | {1})  # only calls write ra, so returns end up in a block
        self.mode, self.blocks = mode, blocks
        self.rows = [r for r in rows if r.kind in PLAIN and r.name not in ("c.j", "c.jr", "c.jalr", "c.beqz", "c.bnez")]

    def kind_csr(self, row: Any) -> list[str]:
        if self.mode == M:
            return super().kind_csr(row)
        csr = self.rng.choice(UNPRIVILEGED_CSRS)
        operand = str(self.rng.randrange(4)) if row.name.endswith("i") else "x0"
        return [f"{row.name} x{self.x()}, {csr}, {operand}"]

    def end(self, i: int) -> list[str]:
        """Return how a block leaves: on to the next one, to any, by a branch, a call, a return, an indirect jump."""
        rng = self.rng
        target = f"block_{rng.randrange(self.blocks)}"
        kind = rng.randrange(10)
        a, b = rng.sample([k for k in self.free if k], 2)
        if kind == 0:
            return []
        if kind == 1:
            return [f"j {target}"]
        if kind == 2:
            return [f"jal x{rng.choice((1, 1, 5, self.x()))}, {target}"]
        if kind == 3:  # to wherever the last call came from, if anything was called
            return ["beqz ra, 1f", "mv x6, ra", "li ra, 0", "jr x6", "1:"]
        if kind == 4:
            return [f"lla x{a}, {target}", f"jalr x{rng.choice((0, 1, 5, self.x()))}, {rng.randrange(2)}(x{a})"]
        if kind in (5, 6):  # by a table, so that no short cycle lasts
            lines = [f"lla x{a}, offsets", f"andi x{b}, x27, {(1 << self.blocks.bit_length() - 1) - 1}"]
            lines += [f"slli x{b}, x{b}, 2", f"add x{a}, x{a}, x{b}", f"lw x{a}, 0(x{a})", f"lla x{b}, block_0"]
            return [*lines, f"add x{a}, x{a}, x{b}", f"jr x{a}"]
        branch = rng.choice(("beq", "bne", "blt", "bge", "bltu", "bgeu"))
        return [f"{branch} x{a}, x{b}, {target}"]

    def block(self, i: int) -> str:
        """Return one block: the test of the fuel, some rows, and its end."""
        rng = self.rng
        lines = [f"block_{i}:", "addi x27, x27, -1", "bgtz x27, 1f", "ecall", "1:"]
        if rng.random() < 0.2:
            a, b = rng.sample([k for k in self.free if k], 2)
            lines += [f"lla x{a}, lines", f"li x{b}, {rng.choice((1, 3, 5, 7, 9, 11)) | 0x100}", f"sd x{b}, 0(x{a})"]
        for _ in range(rng.choice((1, 2, 3, 5, 8, 13, 30))):
            lines += [compressed(line) for line in self.lines(rng.choice(self.rows))]
        return "\n".join(lines + self.end(i))


def text(rows: list[Any], seed: int, *, mode: int, fuel: int = 1500, blocks: int = 40) -> str:
    """Return the text of a random program whose blocks run in one of the modes until `fuel` blocks have run."""
    rng = random.Random(seed)
    mix = Mix(rng, rows, mode, blocks)
    body = "\n".join(mix.block(i) for i in range(blocks))
    alias = {M: 0, S: 0, U: ALIAS}[mode]
    satp = 0 if mode == M else 8 << 60
    return f"""
  la t0, m_trap
  csrw mtvec, t0
  la t0, save
  csrw mscratch, t0
  li t0, -1
  csrw pmpaddr0, t0
  csrw mcounteren, t0
  csrw scounteren, t0
  li t0, 0x1f
  csrw pmpcfg0, t0
  li t0, 0x1800
  csrc mstatus, t0
  li t0, {mode << 11 | 0x6080}
  csrs mstatus, t0
  li t0, 0xaaa
  csrw mie, t0
  li t0, 0xf0
  csrw menvcfg, t0
  csrw senvcfg, t0
  la t0, root
  srli t0, t0, 12
  li t1, {satp}
  or t0, t0, t1
  {"csrw satp, t0" if satp else ""}
  sfence.vma
{start(alias, fuel, body)}
{handler("m", "machine", "m_trap")}
.balign 8
save: .zero 64
lines: .dword 0
{data(rng, blocks)}
.balign 4096
{ROOT}
"""
