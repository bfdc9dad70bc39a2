"""Random programs with control flow in a guest: blocks in VS or VU, whose traps go to M, HS or VS, with interrupts."""
from __future__ import annotations

import random
from typing import Any

from tests.lockstep.hyp_machines import ALIAS, VS, VU, WORLDS
from tests.lockstep.mixes import Mix
from tests.lockstep.programs import TABLE, floating, integer, table

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


class GuestMix(Mix):
    """Writes the blocks; a guest may also raise an interrupt of its own, and look at its registers."""

    def __init__(self, rng: random.Random, rows: list[Any], world: int, blocks: int) -> None:
        super().__init__(rng, rows, world & 3, blocks)
        self.world = world

    def block(self, i: int) -> str:
        """Return one block."""
        rng = self.rng
        text = super().block(i)
        extra = []
        if rng.random() < 0.15:
            extra = ["csrwi sip, 2"] if rng.random() < 0.5 else ["csrsi sstatus, 2", f"csrsi sie, {rng.choice((2, 0))}"]
        if rng.random() < 0.1:
            extra.append(rng.choice(("sfence.vma", "csrr x5, satp", "hfence.gvma", "hlv.w x5, (x3)", "csrr x5, hstatus",
                                     "csrr x5, sstatus", "csrr x5, instret", "csrr x5, scause")))
        first, _, rest = text.partition("1:\n")
        return f"{first}1:\n" + "\n".join([*extra, rest])


def text(rows: list[Any], seed: int, *, world: int, taker: str, fuel: int = 600, blocks: int = 40) -> str:
    """Return the text of a random program whose blocks run in VS or VU until `fuel` blocks have run.

    `taker` is who takes what can be delegated: "machine", "host" or "guest".
    """
    rng = random.Random(seed)
    body = "\n".join(GuestMix(rng, rows, world, blocks).block(i) for i in range(blocks))
    alias = ALIAS if world == VU else 0
    medeleg = {"machine": 0, "host": 0xF0_B1FF, "guest": 0xF0_B1FF}[taker]
    hedeleg = 0xB1FF if taker == "guest" else 0
    return f"""
  la t0, m_trap
  csrw mtvec, t0
  la t0, s_trap
  csrw stvec, t0
  la t0, vs_trap
  csrw vstvec, t0
  la t0, save
  csrw mscratch, t0
  addi t0, t0, 64
  csrw sscratch, t0
  addi t0, t0, 64
  csrw vsscratch, t0
  li t0, -1
  csrw pmpaddr0, t0
  csrw vstimecmp, t0
  csrw mcounteren, t0
  csrw hcounteren, t0
  csrw scounteren, t0
  li t0, 0x1f
  csrw pmpcfg0, t0
  li t0, {(world & 3) << 11 | 0x80_0000_6080:#x}
  csrs mstatus, t0
  li t0, {rng.choice((0x6000, 0x6002, 0x2002, 0x4000))}
  csrw vsstatus, t0
  li t0, {medeleg:#x}
  csrw medeleg, t0
  li t0, {hedeleg:#x}
  csrw hedeleg, t0
  li t0, {0 if taker == "machine" else 0x222}
  csrw mideleg, t0
  li t0, {4 if taker == "guest" else 0}
  csrw hideleg, t0
  li t0, 0xeee
  csrw mie, t0
  li t0, 0xf0
  csrw menvcfg, t0
  csrw henvcfg, t0
  csrw senvcfg, t0
  la t0, root
  srli t0, t0, 12
  li t1, {8 << 60:#x}
  or t0, t0, t1
  csrw vsatp, t0
  la t0, g_root
  srli t0, t0, 12
  or t0, t0, t1
  csrw hgatp, t0
  hfence.gvma
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
{handler("m", "machine", "m_trap")}
{handler("s", "host", "s_trap")}
{handler("s", "guest", "vs_trap")}
.balign 8
save: .zero 192
lines: .dword 0
.balign 8
offsets: .word {", ".join(f"block_{i} - block_0" for i in range(blocks))}
.balign 8
integers: {table(rng, integer, TABLE)}
floats: {table(rng, floating, TABLE)}
.balign 4096
data: {table(rng, integer, 1536)}
.balign 16384
g_root:
  .dword 0, 0, {0x8000_0000 >> 2 | 0xDF:#x}
  .zero {16384 - 24}
root:
  .dword 0, 0
  .dword {(0x8000_0000 >> 2) | 0xCF:#x}
  .dword {(0x8000_0000 >> 2) | 0xDF:#x}
  .zero {4096 - 32}
end:
"""


TAKERS = ("machine", "host", "guest")
COMBINATIONS = [(world, taker) for world in (VS, VU) for taker in TAKERS]
NAMES = {(world, taker): f"{WORLDS[world]}-{taker}" for world, taker in COMBINATIONS}
