"""Programs that read and write every CSR number in every mode, and the table of which CSR was reached from where.

For a CSR that exists, the block of a mode swaps in extremes and random values, reads back, sets and clears bits, and
puts the old value back. Numbers that do not exist are read and written once in each mode, and must trap.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from tests.lockstep.harness import Result

U, S, M = 0, 1, 3
# Every CSR of the machine (privileged manual, "CSR Listing"): M, S, U without H, 16 PMP entries, 29 event counters.
NAMES: dict[int, str] = {
    0x001: "fflags", 0x002: "frm", 0x003: "fcsr", 0xC00: "cycle", 0xC01: "time", 0xC02: "instret",
    **{0xC00 + i: f"hpmcounter{i}" for i in range(3, 32)},
    0x100: "sstatus", 0x104: "sie", 0x105: "stvec", 0x106: "scounteren", 0x10A: "senvcfg", 0x140: "sscratch",
    0x141: "sepc", 0x142: "scause", 0x143: "stval", 0x144: "sip", 0x14D: "stimecmp", 0x180: "satp",
    0xF11: "mvendorid", 0xF12: "marchid", 0xF13: "mimpid", 0xF14: "mhartid", 0xF15: "mconfigptr",
    0x300: "mstatus", 0x301: "misa", 0x302: "medeleg", 0x303: "mideleg", 0x304: "mie", 0x305: "mtvec",
    0x306: "mcounteren", 0x30A: "menvcfg", 0x320: "mcountinhibit",
    **{0x320 + i: f"mhpmevent{i}" for i in range(3, 32)},
    0x340: "mscratch", 0x341: "mepc", 0x342: "mcause", 0x343: "mtval", 0x344: "mip",
    0x3A0: "pmpcfg0", 0x3A2: "pmpcfg2", **{0x3B0 + i: f"pmpaddr{i}" for i in range(16)},
    0xB00: "mcycle", 0xB02: "minstret", **{0xB00 + i: f"mhpmcounter{i}" for i in range(3, 32)},
}
# What Spike has and pyvirt does not: debug triggers and contexts (Sdtrig), the security configuration, and PMP entries
# 16 to 63, which read as zero in Spike.
SPIKE_ONLY = frozenset({0x5A8, *range(0x7A0, 0x7B0), 0x747, *range(0x3A4, 0x3B0, 2), *range(0x3C0, 0x3F0)})
MODES = {M: "m", S: "s", U: "u"}
MPV = 1 << 39
# Swapped only: what csrrs makes of satp, vsatp, hgatp, pmpcfg, the timers and htimedelta could end the program.
BLUNT = (0x180, 0x280, 0x680, 0x3A0, 0x3A2, 0x14D, 0x24D, 0x605)


def values(number: int, rng: random.Random) -> list[int]:
    """Return values to write to a CSR in the M block, without those that end the program."""
    some = [0, (1 << 64) - 1, 0xAAAA_AAAA_AAAA_AAAA, 0x5555_5555_5555_5555]
    some += [rng.getrandbits(64), rng.getrandbits(64) & rng.getrandbits(64)]
    if number in (0x3A0, 0x3A2):
        return [v & 0x7F7F_7F7F_7F7F_7F7F for v in some]  # a locked entry could never be opened again
    if number == 0x14D:
        return [0, (1 << 64) - 1, 0xAAAA_AAAA_AAAA_AAAA]  # time passes in one machine only
    if number == 0x301:
        return []  # which extensions may be switched off is an implementation's choice
    if number == 0x180:
        return [*some, *(mode << 60 | rng.getrandbits(60) for mode in range(16))]
    if number == 0x300:
        return [*some, *(mpp << 11 | rng.getrandbits(64) & ~0x1800 for mpp in range(4))]
    if number in (0x305, 0x105, 0x341, 0x141):
        return [*some, *range(8), 0x8000_0001, 0x8000_0002, 0x8000_0003]
    return some


def block(
    numbers: Iterable[int], rng: random.Random, *, names: dict[int, str], rank: int, chosen: Callable[[int], list[int]],
    absent: bool,
) -> str:
    """Return the lines of one world's block; `rank` is the highest level of CSRs that it may reach."""
    lines = []
    for n in numbers:
        if n not in names:
            if absent:
                lines += [f"csrrs t2, {n:#x}, x0", f"csrrw t3, {n:#x}, t4"]
            continue
        lines += [f"csrrs t2, {n:#x}, x0", f"csrrs t5, {n:#x}, x0"]
        some = chosen(n)
        if n >> 8 & 3 > rank or n >> 10 == 3:
            some = some[:2]  # they all trap alike
        for v in some:
            lines += [f"li t3, {v}", f"csrrw t4, {n:#x}, t3", f"csrrs t4, {n:#x}, x0"]
            # mtvec, mstatus and such are wrong now, but nothing traps before the old value is back.
            if n not in BLUNT:
                op = rng.choice(("csrrs", "csrrc"))
                lines += [f"{op} t4, {n:#x}, t3", f"csrrs t4, {n:#x}, x0"]
                op = rng.choice(("csrrwi", "csrrsi", "csrrci"))
                lines += [f"{op} t4, {n:#x}, {rng.randrange(32)}", f"csrrs t4, {n:#x}, x0"]
            lines += [f"csrrw x0, {n:#x}, t2"]
        lines += [f"csrrw t4, {n:#x}, t2", f"csrrs x0, {n:#x}, x0", f"csrrci x0, {n:#x}, 0"]
    return "\n".join(lines)


def program_text(start: str, worlds: dict[int, str], make_block: Callable[[int], str]) -> str:
    """Return the text of a program that runs the block of each world in turn, entered from M-mode, after `start`."""
    parts = []
    for world, name in worlds.items():
        parts.append(f"""
  la s11, after_{name}
  li t0, {MPV | 0x1800:#x}
  csrc mstatus, t0
  li t0, {(world & 3) << 11 | (MPV if world & 4 else 0):#x}
  csrs mstatus, t0
  la t0, block_{name}
  csrw mepc, t0
  mret
block_{name}:
{make_block(world)}
block_{name}_end:
  ecall
after_{name}:
""")
    return f"""
  la t0, m_trap
  csrw mtvec, t0
  li t0, -1
  csrw pmpaddr0, t0
  li t0, 0x1f
  csrw pmpcfg0, t0
  {start}
{"".join(parts)}
done: j done
.balign 64
m_trap:                   # illegal and virtual instructions are skipped, anything else ends the block
  csrr t0, mepc
  csrr t1, mcause
  addi t1, t1, -2
  beqz t1, 2f
  addi t1, t1, -20
  bnez t1, 1f
2:
  addi t0, t0, 4
  csrw mepc, t0
  mret
1:
  jr s11
"""


# Settings under which S and U look at the CSRs: lines run in M first.
SETTINGS = {
    "open": """
  li t0, -1
  csrw mcounteren, t0
  csrw scounteren, t0
  li t0, 0x6000
  csrs mstatus, t0
""",
    "closed": """
  csrw mcounteren, x0
  csrw scounteren, x0
  li t0, 0x106000
  csrc mstatus, t0
  li t0, 0x100000
  csrs mstatus, t0
""",
    "delegated": """
  li t0, 0x222
  csrw mideleg, t0
  li t0, 5
  csrw mcounteren, t0
  li t0, 2
  csrw scounteren, t0
  li t0, 0x106000
  csrc mstatus, t0
  li t0, 0x2000
  csrs mstatus, t0
  li t0, -1
  csrw stimecmp, t0
  slli t0, t0, 63
  csrw menvcfg, t0
""",
}


def text(seed: int, setting: str, *, absent: bool) -> str:
    """Return the text of a program that goes through all CSRs in M, S and U under one of the settings."""
    rng = random.Random(seed)
    numbers = [n for n in (range(4096) if absent else sorted(NAMES)) if n not in SPIKE_ONLY]

    def chosen(number: int, mode: int) -> list[int]:
        found = values(number, rng)
        return [v for v in found if v >> 60 not in (8, 9, 10)] if mode != M and number == 0x180 else found

    def make_block(mode: int) -> str:
        return block(numbers, rng, names=NAMES, rank=mode, chosen=lambda n: chosen(n, mode), absent=absent)

    return program_text(SETTINGS[setting], MODES, make_block)


def reached(
    result: Result, symbols: dict[str, int], worlds: dict[int, str] = MODES
) -> dict[tuple[int, int], list[int]]:
    """Return {(CSR, world): [reads, writes]} of attempts, from the addresses that a run executed."""
    counts: dict[tuple[int, int], list[int]] = {}
    code, at = result.program.code, result.program.at
    for mode, name in worlds.items():
        start, end = symbols[f"block_{name}"], symbols[f"block_{name}_end"]
        for pc, n in result.attempts.items():
            if not start <= pc < end:
                continue
            word = int.from_bytes(code[pc - at : pc - at + 4], "little")
            if word & 0x7F != 0x73 or not word >> 12 & 3:
                continue
            cell = counts.setdefault((word >> 20, mode), [0, 0])
            swap = word >> 12 & 3 == 1
            if not swap or word >> 7 & 31:
                cell[0] += n
            if swap or word >> 15 & 31:
                cell[1] += n
    return counts


def show(counts: dict[tuple[int, int], list[int]]) -> str:
    """Return the table of accesses, reads/writes by mode."""
    cells = []
    for number, name in sorted(NAMES.items()):
        by_mode = ("/".join(str(v) for v in counts.get((number, mode), [0, 0])) for mode in (M, S, U))
        cells.append(f"{name:<15}" + "".join(f"{c:>9}" for c in by_mode))
    head = f"{'reads/writes':<15}{'M':>9}{'S':>9}{'U':>9}"
    columns = 3
    cells += [""] * (-len(cells) % columns)
    rows = zip(*(cells[i :: columns] for i in range(columns)), strict=True)
    return "\n".join(("    ".join([head] * columns), *("    ".join(row) for row in rows)))
