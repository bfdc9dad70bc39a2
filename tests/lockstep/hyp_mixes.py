"""Random programs with control flow in a guest: blocks in VS or VU, whose traps go to M, HS or VS, with interrupts."""
from __future__ import annotations

import random
from typing import Any

from tests.lockstep.hyp_machines import ALIAS, VS, VU, WORLDS
from tests.lockstep.mixes import ROOT, Mix, data, handler, start


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
{start(alias, fuel, body)}
{handler("m", "machine", "m_trap")}
{handler("s", "host", "s_trap")}
{handler("s", "guest", "vs_trap")}
.balign 8
save: .zero 192
lines: .dword 0
{data(rng, blocks)}
.balign 16384
g_root:
  .dword 0, 0, {0x8000_0000 >> 2 | 0xDF:#x}
  .zero {16384 - 24}
{ROOT}
"""


TAKERS = ("machine", "host", "guest")
COMBINATIONS = [(world, taker) for world in (VS, VU) for taker in TAKERS]
NAMES = {(world, taker): f"{WORLDS[world]}-{taker}" for world, taker in COMBINATIONS}
