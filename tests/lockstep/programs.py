"""What the generated programs share: interesting values, the handler that skips, and the frame around a body.

A program is text for the independent assembler; nothing here knows an encoding. Its frame gives the body: x3 = middle
of three pages of data, x4 = middle of a table of integers, x26 = middle of a table of floating-point values, x27 = the
loop counter; bodies leave these four alone. The M-mode handler skips what trapped (of any length), or goes to the
address in its save area where fetching itself failed, and makes every ecall return to M. S-mode code runs under an
open PMP entry.
"""
from __future__ import annotations

import random

RESERVED = frozenset({3, 4, 26, 27})
TABLE = 512  # values in reach of a 12-bit offset from the table's middle
M64 = (1 << 64) - 1

INTEGERS = (
    0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000,
    0xFFFF_FFFF, 0x1_0000_0000, 0x7FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000, 0x8000_0000_0000_0001, M64, M64 - 1,
    M64 - 62, 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_7FFF_FFFF, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA,
    0x0101_0101_0101_0101, 0x00FF_00FF_00FF_00FF, 0x8080_8080_8080_8080, 0x0000_0000_8000_0000,
    0xFFFF_FFFF_0000_0000,
)
_S = (
    0, 1, 2, 0x007F_FFFF, 0x0080_0000, 0x0080_0001, 0x3F80_0000, 0x3F7F_FFFF, 0x3F80_0001, 0x3F00_0000, 0x3FC0_0000,
    0x4B00_0000, 0x4B7F_FFFF, 0x4B80_0001, 0x4EFF_FFFF, 0x4F00_0000, 0x4F80_0000, 0x5EFF_FFFF, 0x5F00_0000,
    0x5F80_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x7FBF_FFFF, 0x7FC0_0000, 0x7FC0_0001, 0x7FFF_FFFF,
    0x2000_0000, 0x1F80_0000, 0x0040_0000,
)
_D = (
    0, 1, 2, 0x000F_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000, 0x3FF0_0000_0000_0000, 0x3FEF_FFFF_FFFF_FFFF,
    0x3FF0_0000_0000_0001, 0x3FE0_0000_0000_0000, 0x3FF8_0000_0000_0000, 0x41DF_FFFF_FFC0_0000,
    0x41E0_0000_0000_0000, 0x41EF_FFFF_FFE0_0000, 0x41F0_0000_0000_0000, 0x43DF_FFFF_FFFF_FFFF,
    0x43E0_0000_0000_0000, 0x43F0_0000_0000_0000, 0x4330_0000_0000_0001, 0x7FEF_FFFF_FFFF_FFFF,
    0x7FF0_0000_0000_0000, 0x7FF0_0000_0000_0001, 0x7FF8_0000_0000_0000, 0x7FF8_0000_0000_0001,
    0x47EF_FFFF_E000_0000, 0x47EF_FFFF_F000_0000, 0x3810_0000_0000_0000, 0x380F_FFFF_FFFF_FFFF,
    0x36A0_0000_0000_0000, 0x3690_0000_0000_0000, 0x2000_0000_0000_0000, 0x3CA0_0000_0000_0000,
)


def integer(rng: random.Random) -> int:
    """Return a 64-bit value: an extreme, one next to an extreme, a small, or a random one of random length."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(INTEGERS)
    if kind == 1:
        return (rng.choice(INTEGERS) + rng.randrange(-2, 3)) & M64
    value = rng.getrandbits(rng.randrange(1, 65))
    return value if kind == 2 else -value & M64


def floating(rng: random.Random) -> int:
    """Return an f register's 64 bits: a double, a boxed single, or now and then a single that is not boxed."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(_D) | rng.getrandbits(1) << 63
    if kind < 5:
        near = rng.randrange(0x3C0, 0x440) << 52 | rng.getrandbits(52)
        return (near if rng.random() < 0.7 else rng.getrandbits(63)) | rng.getrandbits(1) << 63
    single = rng.choice(_S) if kind < 8 else rng.randrange(0x60, 0xA0) << 23 | rng.getrandbits(23)
    single |= rng.getrandbits(1) << 31
    return single | (0xFFFF_FFFF << 32 if rng.random() < 0.95 else rng.getrandbits(32) << 32)


# Save area, from mscratch: 0 t5, 8 t4, 16 where to go on when fetching failed, 24 the number of traps.
HANDLER = """
.balign 64
m_trap:
  csrrw t6, mscratch, t6
  sd t5, 0(t6)
  sd t4, 8(t6)
  ld t5, 24(t6)
  addi t5, t5, 1
  sd t5, 24(t6)
  csrr t5, mcause
  bltz t5, 4f
  li t4, 0x1003           # causes 0, 1, 12: there is no instruction to skip
  srl t4, t4, t5
  andi t4, t4, 1
  bnez t4, 3f
  li t4, 0xb00            # ecalls return to M
  srl t4, t4, t5
  andi t4, t4, 1
  csrr t5, mepc
  beqz t4, 1f
  li t4, 0x1800
  csrs mstatus, t4
  addi t5, t5, 4
  j 2f
1:
  lhu t4, 0(t5)
  andi t4, t4, 3
  addi t4, t4, -3
  addi t5, t5, 2
  bnez t4, 2f
  addi t5, t5, 2
2:
  csrw mepc, t5
5:
  ld t5, 0(t6)
  ld t4, 8(t6)
  csrrw t6, mscratch, t6
  mret
3:
  ld t5, 16(t6)
  li t4, 0x1800
  csrs mstatus, t4
  j 2b
4:                        # interrupts: switch the source off
  li t4, 1
  sll t4, t4, t5
  csrc mie, t4
  j 5b
.balign 8
save: .zero 64
"""


def table(rng: random.Random, make: object, count: int) -> str:
    """Return data directives of `count` values from a generator function."""
    return "".join(f".dword {make(rng):#x}\n" for _ in range(count))  # type: ignore[operator]


def frame(body: str, rng: random.Random, loops: int, *, before: str = "") -> str:
    """Return the text of a program that runs `body` in M mode `loops` times, each time with other values in reach."""
    return f"""
  la t0, m_trap
  csrw mtvec, t0
  la t0, save
  csrw mscratch, t0
  la t1, done
  sd t1, 16(t0)
  li t0, -1
  csrw pmpaddr0, t0
  li t0, 0x1f
  csrw pmpcfg0, t0
  li t0, 0x6000
  csrs mstatus, t0
  la x3, data + 6144
  la x4, integers + 2048
  la x26, floats + 2048
  li x27, {loops}
{before}
again:
{body}
  addi x4, x4, 8
  addi x26, x26, 8
  addi x27, x27, -1
  beqz x27, 1f
  j again
1:
done: j done
{HANDLER}
.balign 8
integers: {table(rng, integer, TABLE + loops)}
floats: {table(rng, floating, TABLE + loops)}
.balign 4096
data: {table(rng, integer, 1536)}
end:
"""
