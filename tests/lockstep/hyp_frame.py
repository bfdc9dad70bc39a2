"""What programs with worlds share: the maps of each world, handlers at three levels, ways into a world, and the reset.

A program is a list of blocks. Each resets every register that an earlier block may have changed, sets up, enters a
world, does one thing and comes back to M-mode: M's handler goes on to the next block, and the handlers of HS and VS
(one text, since a guest's S CSRs are its own) leave by a trap that the block does not delegate.

HS and VS run on an identity map of RAM, U and VU on an alias of it with the U bit. HS and VS share one root, of which
some entries make sense for a guest only.
"""
from __future__ import annotations

import random

from tests.lockstep.causes import HANDLERS, LOWER_LINES
from tests.lockstep.hyp_machines import ALIAS, HS, VS, VU, M, U

UNMAPPED = 4 << 30  # by the first stage
HOLE, HOLE_U = 5 << 30, 6 << 30  # where nothing is, for HS and VS, and for U and VU
GUEST_GONE, GUEST_GONE_U = 7 << 30, 8 << 30  # mapped by the first stage, not by the G-stage
TABLE_GONE = 9 << 30  # by a table that the G-stage does not map
TABLE_FIXED, TABLE_FIXED_U = 10 << 30, (10 << 30) + (1 << 21)  # lacks A in a table that the G-stage won't write
SHARED, SHARED_U = (10 << 30) + (2 << 21), (10 << 30) + (3 << 21)  # RAM by way of that table
G_ONLY_X = 11 << 30  # execute-only in the G-stage, everything in the first
NO_GPA = 0x1_0000_0000

RETURN_BY = {8: 2, 9: 2, 10: 2}  # the way back to M where ecalls are the subject; else it is an ecall
EVERY_EXCEPTION = 0xF0_B5FF
HEDELEG = 0xB1FF         # what there is to delegate further
MEDELEG = EVERY_EXCEPTION | 1 << 9


def leaf(pa: int, flags: int) -> int:
    """Return a leaf entry."""
    return pa >> 2 | flags


ROOT = f"""
.balign 16384
g_root:                                    # Sv39x4
  .dword 0, {leaf(0x4000_0000, 0xDF):#x}, {leaf(0x8000_0000, 0xDF):#x}, 0
  .dword 0, {leaf(0x8000_0000, 0x5B):#x}, {leaf(0x8000_0000, 0xD9):#x}
  .zero {16384 - 56}
root:                                      # Sv39, of HS and of VS
  .dword 0, 0
  .dword {leaf(0x8000_0000, 0xCF):#x}, {leaf(0x8000_0000, 0xDF):#x}
  .dword 0
  .dword {leaf(0x4000_0000, 0xCF):#x}, {leaf(0x4000_0000, 0xDF):#x}
  .dword {leaf(NO_GPA, 0xCF):#x}, {leaf(NO_GPA, 0xDF):#x}
  .dword {NO_GPA >> 2 | 1:#x}
table_entry: .dword 0
  .dword {leaf(6 << 30, 0xCF):#x}
  .zero {4096 - 96}
table:
  .dword {leaf(0x8000_0000, 0x0F):#x}, {leaf(0x8000_0000, 0x1F):#x}
  .dword {leaf(0x8000_0000, 0xCF):#x}, {leaf(0x8000_0000, 0xDF):#x}
  .zero {4096 - 32}
"""

RESET = f"""
reset:
  csrw mie, x0
  csrw mip, x0
  csrw hvip, x0
  li t0, 0x7e19aa
  csrc mstatus, t0
  li t0, 0xc000000000
  csrc mstatus, t0
  li t0, 0x6000
  csrs mstatus, t0
  csrw vsstatus, t0
  csrw hstatus, x0
  li t0, -1
  csrr t1, mip              # the one in the past first: a write to either makes Spike forget the other's interrupt
  andi t1, t1, 0x20
  bnez t1, 1f
  csrw vstimecmp, t0
1:
  csrw stimecmp, t0
  csrw vstimecmp, t0
  csrw mcounteren, t0
  csrw hcounteren, t0
  csrw scounteren, t0
  csrw pmpaddr0, t0
  li t0, 0xf0
  csrw menvcfg, t0
  csrw henvcfg, t0
  csrw senvcfg, t0
  li t0, 0x1f
  csrw pmpcfg0, t0
  csrw htimedelta, x0
{LOWER_LINES}  la sp, data
  la t0, table              # by its address in the G-stage's read-only view
  li t1, 0xc0000000
  add t0, t0, t1
  srli t0, t0, 2
  ori t0, t0, 1
  la t1, table_entry
  sd t0, 0(t1)
  la t0, root
  srli t0, t0, 12
  li t1, 8
  slli t1, t1, 60
  or t0, t0, t1
  csrw satp, t0
  csrw vsatp, t0
  la t0, g_root
  srli t0, t0, 12
  or t0, t0, t1
  csrw hgatp, t0
  sfence.vma
  hfence.gvma
  csrwi sepc, 0
  csrwi vsepc, 0
  csrwi mepc, 0
  ret
"""

STATUS_BITS = {HS: (0x800, 0), U: (0, 0), VS: (0x800, 1), VU: (0, 1)}


def enter(world: int, index: int, body: str, rng: random.Random, *, direct: bool = False) -> str:
    """Return text for M-mode that enters a world at `body`: by mret, or unless `direct` also by sret on the way."""
    if world == M:
        return body
    lines = [f"la t0, body_{index}"]
    if world in (U, VU):
        lines += [f"li t1, {ALIAS}", "add t0, t0, t1", "add sp, sp, t1"]
    ways = ["mret"]
    if not direct and world != HS:
        ways += ["hs"] + (["vs"] if world == VU else [])
    way = rng.choice(ways)
    lines += ["li t1, 0x8000001800", "csrc mstatus, t1"]
    if way == "mret":
        mpp, mpv = STATUS_BITS[world]
        lines += [f"li t1, {mpp | mpv << 39}", "csrs mstatus, t1", "csrw mepc, t0", "mret"]
    elif way == "hs":
        spp, spv = (0x100 if world == VS else 0), (0x80 if world in (VS, VU) else 0)
        lines += ["csrw sepc, t0", f"li t1, {0x800 | spp}", "csrs mstatus, t1", f"li t1, {spv}", "csrs hstatus, t1"]
        lines += [f"la t0, way_{index}", "csrw mepc, t0", "mret", f"way_{index}: sret"]
    else:
        lines += ["csrw vsepc, t0", "li t1, 0x8000000800", "csrs mstatus, t1"]
        lines += [f"la t0, way_{index}", "csrw mepc, t0", "mret", f"way_{index}: sret"]
    return "\n".join((*lines, f"body_{index}:", body))


def block(index: int, world: int, setup: str, body: str, rng: random.Random, *, direct: bool = False) -> str:
    """Return one block of a program."""
    m, s, vs = (rng.random() < 0.5 for _ in range(3))
    return f"""
case_{index}:
  la s11, case_{index + 1}
  call reset
  la t0, {'m_vector + 1' if m else 'm_trap'}
  csrw mtvec, t0
  la t0, {'s_vector + 1' if s else 's_trap'}
  csrw stvec, t0
  la t0, {'s_vector + 1' if vs else 's_trap'}
  csrw vstvec, t0
  {setup}
  {enter(world, index, body, rng, direct=direct)}
  ecall
  .word 0
  j .
"""


FLOATS = "\n".join(f"  fmv.d.x f{i}, x0" for i in range(32))  # at reset Spike's are no doubles


def program_text(blocks: list[str]) -> str:
    """Return the text of a program of blocks numbered from 0."""
    return f"""
  li t0, -1
  csrw vstimecmp, t0
  li t0, 0x6000
  csrs mstatus, t0
{FLOATS}
  j case_0
{RESET}
{"".join(blocks)}
case_{len(blocks)}:
done: j done
{HANDLERS}
{ROOT}
.balign 4096
data:
  .zero 4032
lines: .dword 0
"""


def delegate(medeleg: int, hedeleg: int, mideleg: int, hideleg: int) -> str:
    """Return the lines that set all four delegation registers."""
    return "\n".join(
        f"li t0, {value:#x}\n csrw {name}, t0"
        for name, value in (("medeleg", medeleg), ("hedeleg", hedeleg), ("mideleg", mideleg), ("hideleg", hideleg))
    )
