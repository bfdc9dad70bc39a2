"""Programs that patch their own code: other pages, the very next instruction; by every width and by atomics.

New code is visible to the next instruction in pyvirt, and so it is in a Spike that logs, so the programs fence only now
and then.
"""
from __future__ import annotations

import random

from tests.lockstep.programs import HANDLER
from tests.oracle.zigasm import compressed

REGISTERS = (8, 9, 10, 11, 12, 13, 14, 15)
SLOTS = 96


def instruction(rng: random.Random) -> str:
    """Return a 4-byte instruction that changes one of the registers by another."""
    a, b, c = (rng.choice(REGISTERS) for _ in range(3))
    kind = rng.randrange(5)
    if kind == 0:
        return f"addi x{a}, x{b}, {rng.randrange(-2048, 2048)}"
    if kind == 1:
        return f"lui x{a}, {rng.randrange(1 << 20)}"
    if kind == 2:
        return f"ld x{a}, {8 * rng.randrange(64)}(x4)"
    return f"{rng.choice(('add', 'sub', 'xor', 'mul', 'sltu', 'andn', 'ror', 'divuw'))} x{a}, x{b}, x{c}"


def pair(rng: random.Random) -> str:
    """Return two compressed instructions."""
    a, b = (rng.choice(REGISTERS) for _ in range(2))
    first = f"c.addi x{a}, {rng.choice((-32, -1, 1, 5, 31))}"
    return "; ".join(compressed(t) for t in (first, f"{rng.choice(('c.xor', 'c.sub', 'c.addw', 'c.and'))} x{a}, x{b}"))


def patch(rng: random.Random, i: int) -> str:
    """Return lines that move an instruction of the pool over a slot, or over what follows at once."""
    entry = 4 * rng.randrange(64)
    lines = [f"lwu x6, {entry}(x31)"]
    inline = rng.random() < 0.4
    slot = rng.randrange(SLOTS)
    lines.append(f"lla x7, inline_{i}" if inline else f"addi x7, x30, {4 * slot}")
    kind = rng.randrange(6)
    if kind == 0:
        lines += ["sh x6, 0(x7)", "srli x6, x6, 16", "sh x6, 2(x7)"]
    elif kind == 1:
        for k in range(4):
            lines += [f"sb x6, {k}(x7)", "srli x6, x6, 8"]
    elif kind == 2:
        lines.append("amoswap.w x0, x6, (x7)")
    elif kind == 3:
        lines += ["lr.w x5, (x7)", "sc.w x5, x6, (x7)"]
    elif kind == 4 and not inline:  # two at once, misaligned for a doubleword
        lines += ["addi x7, x30, " + str(4 * rng.randrange(SLOTS - 1)), f"lwu x5, {entry}(x31)", "slli x5, x5, 32"]
        lines += ["or x5, x5, x6", "sd x5, 0(x7)"]
    else:
        lines.append("sw x6, 0(x7)")
    if rng.random() < 0.2:
        lines.append("fence.i")
    if inline:
        lines += [".balign 4", f"inline_{i}: nop"]
    if rng.random() < 0.6:
        lines += [rng.choice(("jalr x1, 0(x30)", f"jalr x1, {4 * rng.randrange(SLOTS)}(x30)"))]
    return "\n".join(lines)


def text(seed: int, *, loops: int = 20, patches: int = 60) -> str:
    """Return the text of one program. Its slots lie across a page boundary."""
    rng = random.Random(seed)
    body = "\n".join(patch(rng, i) for i in range(patches))
    pool = "\n".join(instruction(rng) if rng.random() < 0.7 else pair(rng) for _ in range(64))
    words = ", ".join(f"{rng.getrandbits(64):#x}" for _ in range(64))
    return f"""
  la t0, m_trap
  csrw mtvec, t0
  la t0, save
  csrw mscratch, t0
  la x31, pool
  la x30, slots
  la x4, words
  li x29, {loops}
  li x28, 0
again:
{body}
  lw x6, 252(x31)         # rotate the pool, so that each round patches other instructions in
  li x5, 63
1:
  slli x7, x5, 2
  add x7, x7, x31
  lw x28, -4(x7)
  sw x28, 0(x7)
  addi x5, x5, -1
  bnez x5, 1b
  sw x6, 0(x31)
  addi x29, x29, -1
  beqz x29, done
  j again
done: j done
{HANDLER}
.balign 8
words: .dword {words}
pool:
{pool}
.balign 4096
.zero {4096 - 4 * SLOTS // 2}
slots:
.rept {SLOTS}
  nop
.endr
  ret
"""
