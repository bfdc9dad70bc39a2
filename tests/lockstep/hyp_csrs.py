"""Programs that read and write every CSR number from every world, and the table of which was reached from where.

Both stages are bare, so that a guest reaches its code. A block of a world swaps extremes and random values into each
CSR, reads back, sets and clears bits, and puts the old value back; what traps is skipped by M's handler, which the
comparison sees with its cause: illegal instruction or virtual instruction.
"""
from __future__ import annotations

import random
from collections.abc import Iterable

from tests.lockstep import csrs
from tests.lockstep.harness import Result
from tests.lockstep.hyp_machines import HS, VS, VU, M, U

HYP_NAMES = {
    0x600: "hstatus", 0x602: "hedeleg", 0x603: "hideleg", 0x604: "hie", 0x605: "htimedelta", 0x606: "hcounteren",
    0x607: "hgeie", 0x60A: "henvcfg", 0x643: "htval", 0x644: "hip", 0x645: "hvip", 0x64A: "htinst", 0x680: "hgatp",
    0xE12: "hgeip", 0x200: "vsstatus", 0x204: "vsie", 0x205: "vstvec", 0x240: "vsscratch", 0x241: "vsepc",
    0x242: "vscause", 0x243: "vstval", 0x244: "vsip", 0x24D: "vstimecmp", 0x280: "vsatp", 0x34A: "mtinst",
    0x34B: "mtval2", **{0x30C + i: f"mstateen{i}" for i in range(4)}, **{0x60C + i: f"hstateen{i}" for i in range(4)},
    **{0x10C + i: f"sstateen{i}" for i in range(4)},
}
NAMES = csrs.NAMES | HYP_NAMES
SPIKE_ONLY = csrs.SPIKE_ONLY | {0x6A8}  # hcontext
WORLDS = {M: "m", HS: "hs", U: "u", VS: "vs", VU: "vu"}
RANKS = {M: 3, HS: 2, VS: 1, U: 0, VU: 0}
TIMERS = (0x14D, 0x24D)


def values(number: int, world: int, rng: random.Random) -> list[int]:
    """Return values to write to a CSR in a world's block, without those that end the program."""
    if number in TIMERS:
        return csrs.values(0x14D, rng)
    chosen = csrs.values(number, rng)
    if number in (0x680, 0x280):
        chosen += [mode << 60 | rng.getrandbits(60) for mode in range(16)]
    if number == 0x600:
        chosen += [vgein << 12 | rng.getrandbits(64) & ~0x3F000 for vgein in (1, 5, 63)]
    if number == 0x205:
        chosen += [*range(8), 0x8000_0002]
    if number == 0x605:  # all-ones would make a timer due that Spike looks at only when it is written
        chosen = [v for v in chosen if v != (1 << 64) - 1]
    if number == 0x180 and world in (HS, VS):
        chosen = [v for v in chosen if v >> 60 not in (8, 9, 10)]
    return chosen


# Settings under which the worlds look at the CSRs: lines run in M first.
SETTINGS = {
    "open": """
  li t0, -1
  csrw mstateen0, t0
  csrw mstateen1, t0
  csrw mstateen2, t0
  csrw mstateen3, t0
  csrw hstateen0, t0
  csrw hstateen1, t0
  csrw hstateen2, t0
  csrw hstateen3, t0
  csrw mcounteren, t0
  csrw hcounteren, t0
  csrw scounteren, t0
  li t0, 0x6000
  csrs mstatus, t0
  csrs vsstatus, t0
""",
    "closed": """
  csrw mcounteren, x0
  csrw hcounteren, x0
  csrw scounteren, x0
  li t0, 0x106000
  csrc mstatus, t0
  li t0, 0x100000
  csrs mstatus, t0
  csrs hstatus, t0
""",
    "delegated": """
  li t0, -1
  csrw mstateen0, t0
  csrw mstateen1, t0
  csrw mstateen3, t0
  csrw hstateen1, t0
  li t0, 0x222
  csrw mideleg, t0
  li t0, 0x444
  csrw hideleg, t0
  li t0, 7
  csrw mcounteren, t0
  li t0, 6
  csrw hcounteren, t0
  li t0, 2
  csrw scounteren, t0
  li t0, 0x106000
  csrc mstatus, t0
  li t0, 0x2000
  csrs mstatus, t0
  li t0, 0x4000
  csrs vsstatus, t0
  li t0, -1
  csrw stimecmp, t0
  slli t0, t0, 63
  csrw menvcfg, t0
  csrw henvcfg, t0
""",
    "half": """
  li t0, 1
  slli t0, t0, 62
  csrw mstateen0, t0
  csrw hstateen0, t0
  li t0, 0x20
  csrw mideleg, t0
  li t0, 0x40
  csrw hideleg, t0
  li t0, -1
  csrw mcounteren, t0
  csrw scounteren, t0
  li t0, 5
  csrw hcounteren, t0
  li t0, 0x6000
  csrs mstatus, t0
  csrc vsstatus, t0
  li t0, -1
  csrw stimecmp, t0
  slli t0, t0, 61
  csrw menvcfg, t0
""",
}


def text(seed: int, setting: str, *, absent: Iterable[int] = ()) -> str:
    """Return the text of a program that goes through all CSRs in the five worlds under one of the settings.

    `absent` are the worlds that also try all numbers that no CSR has.
    """
    rng = random.Random(seed)
    numbers = [n for n in range(4096) if n not in SPIKE_ONLY]

    def make_block(world: int) -> str:
        return csrs.block(numbers, rng, names=NAMES, rank=RANKS[world], chosen=lambda n: values(n, world, rng),
                          absent=world in absent)

    return csrs.program_text(f"li t0, -1\n csrw vstimecmp, t0\n{SETTINGS[setting]}", WORLDS, make_block)


def reached(result: Result, symbols: dict[str, int]) -> dict[tuple[int, int], list[int]]:
    """Return {(CSR, world): [reads, writes]} of attempts, from the addresses that a run executed."""
    return csrs.reached(result, symbols, WORLDS)


def show(counts: dict[tuple[int, int], list[int]]) -> str:
    """Return the table of accesses to the hypervisor's CSRs, reads/writes by world."""
    head = f"{'reads/writes':<15}" + "".join(f"{name.upper():>9}" for name in WORLDS.values())
    lines = [head]
    for number, name in sorted(HYP_NAMES.items()):
        cells = ("/".join(str(v) for v in counts.get((number, world), [0, 0])) for world in WORLDS)
        lines.append(f"{name:<15}" + "".join(f"{c:>9}" for c in cells))
    return "\n".join(lines)
