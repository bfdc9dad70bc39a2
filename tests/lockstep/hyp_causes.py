"""Programs that take every cause from every world to every world that delegation can send it to, and their table."""
from __future__ import annotations

import random
from collections.abc import Callable

from tests.lockstep import hyp_frame as frame
from tests.lockstep.causes import NAMES as BASE_NAMES
from tests.lockstep.causes import Case
from tests.lockstep.hyp_machines import HS, VS, VU, WORLDS, M, U

INTERRUPT = 1 << 63
EVERYWHERE = (M, HS, U, VS, VU)
NAMES = {
    **{n: s.replace("ecall S", "ecall HS").replace("ecall U", "ecall U, VU") for n, s in BASE_NAMES.items()},
    10: "ecall VS", 20: "fetch guest page", 21: "load guest page", 22: "virtual", 23: "store guest page",
    INTERRUPT | 2: "VSSI", INTERRUPT | 6: "VSTI", INTERRUPT | 10: "VSEI",
}
HOLES = {M: 0x4000_0000, HS: frame.HOLE, U: frame.HOLE_U, VS: frame.HOLE, VU: frame.HOLE_U}
AS_GUEST = "li t1, 0x21800\n csrc mstatus, t1\n li t1, 0x8000020800\n csrs mstatus, t1"  # MPRV, MPV, MPP = S
AS_HS = "li t1, 0x21800\n csrc mstatus, t1\n li t1, 0x20800\n csrs mstatus, t1"
HU = "li t0, 0x200\n csrs hstatus, t0"
SPVP = "li t0, 0x100\n csrs hstatus, t0"
ADUE = "li t0, 1\n slli t0, t0, 61\n csrs menvcfg, t0\n csrs henvcfg, t0"


def expected() -> set[tuple[int, int, int]]:
    """Return every (cause, from, to) that can be. Cause 0 is not there: with C every even address is aligned."""
    keys: set[tuple[int, int, int]] = set()
    for cause in (1, 2, 3, 4, 5, 6, 7, 12, 13, 15):
        keys |= {(cause, w, M) for w in EVERYWHERE if cause != 12 or w != M}
        keys |= {(cause, w, HS) for w in (HS, U, VS, VU)} | {(cause, w, VS) for w in (VS, VU)}
    keys |= {(8, U, M), (8, U, HS), (8, VU, M), (8, VU, HS), (8, VU, VS), (9, HS, M), (9, HS, HS)}
    keys |= {(10, VS, M), (10, VS, HS), (11, M, M)}
    for cause, worlds in ((20, (VS, VU)), (21, EVERYWHERE), (22, (VS, VU)), (23, EVERYWHERE)):
        keys |= {(cause, w, M) for w in worlds} | {(cause, w, HS) for w in worlds if w != M}
    for n in (3, 7, 11):  # never delegated
        keys |= {(INTERRUPT | n, w, M) for w in EVERYWHERE}
    for n in (1, 5, 9):
        keys |= {(INTERRUPT | n, w, M) for w in EVERYWHERE} | {(INTERRUPT | n, w, HS) for w in (HS, U, VS, VU)}
    for n in (2, 6, 10):  # always delegated; a guest sees them under the number before
        keys |= {(INTERRUPT | n, w, HS) for w in (HS, U, VS, VU)} | {(INTERRUPT | n - 1, w, VS) for w in (VS, VU)}
    return keys


def expected_delegations() -> set[tuple[int, int, int, int]]:
    """Return every (cause, from, bit of medeleg or mideleg, bit of hedeleg or hideleg) under which it is taken."""
    keys: set[tuple[int, int, int, int]] = set()
    for cause, world, _ in expected():
        n = cause & 63
        if not cause & INTERRUPT:
            bits = [(m, h) for m in range(1 + (frame.MEDELEG >> n & 1)) for h in range(1 + (frame.HEDELEG >> n & 1))]
        elif n in (2, 6, 10):  # what goes to VS is taken there only
            bits = [(1, 0), (1, 1)] if world in (VS, VU) else [(1, 0)]
        else:
            bits = [(0, 0), (1, 0)] if n in (1, 5, 9) and world != M else [(0, 0)]
        keys |= {(cause, world, m, h) for m, h in bits}
    return keys


def exceptions() -> list[Case]:
    """Return the cases of every exception, from each world that can take it."""
    cases: list[Case] = []

    def add(cause: int, worlds: tuple[int, ...], body: str, setup: str = "") -> None:
        cases.extend(Case(cause, world, body, setup) for world in worlds)

    low, high = (HS, VS), (U, VU)
    for world, hole in HOLES.items():
        add(1, (world,), f"li t0, {hole}\n jr t0")
        add(5, (world,), f"li t0, {hole + 0x120}\n ld t1, 8(t0)")
        add(5, (world,), f"li t0, {hole}\n lr.w t1, (t0)")
        add(5, (world,), f"li t0, {hole + 0xFF8}\n fld f1, 0(t0)")
        add(7, (world,), f"li t0, {hole + 0xffc}\n sw t1, 0(t0)")
        add(7, (world,), f"li t0, {hole}\n amoadd.d t1, t1, (t0)")
        add(7, (world,), f"li t0, {hole}\n cbo.zero (t0)")
    add(5, (M, HS), f"li t0, {frame.HOLE}\n hlv.w t1, (t0)", SPVP)
    add(7, (M, HS, U), f"li t0, {frame.HOLE_U}\n hsv.w t1, (t0)", HU)
    add(5, (M,), f"{AS_GUEST}\n li t0, {frame.HOLE}\n lw t1, (t0)")
    for body in (".word 0xffffffff", ".half 0", "csrr t0, 0x7ff", "csrw cycle, t0", ".half 0x8002"):
        add(2, EVERYWHERE, body)
    for body in ("csrr t0, mscratch", "mret", "csrw mtval2, t0"):
        add(2, (HS, U, VS, VU), body)
    add(2, (U,), "hlv.w t0, (sp)")
    add(2, (U,), "hfence.vvma")
    add(2, (VS, VU), "csrr t0, time", "csrw mcounteren, x0")
    add(2, (VS, VU), "fadd.d f1, f2, f3", "li t0, 0x6000\n csrc vsstatus, t0")
    add(2, (VS, VU), "fmv.x.d t0, f1", "li t0, 0x6000\n csrc mstatus, t0")
    add(2, EVERYWHERE, "fsrmi 5\n fadd.s f1, f2, f3")
    add(22, (VS, VU), "hlv.w t0, (sp)")
    add(22, (VS, VU), "csrr t0, hstatus")
    add(22, (VS, VU), "csrw vsscratch, t0")
    add(22, (VU,), "csrr t0, sscratch")
    add(22, (VU,), "sret")
    add(22, (VS, VU), "csrr t0, time", "csrw hcounteren, x0")
    add(3, EVERYWHERE, "ebreak")
    add(3, EVERYWHERE, ".option rvc\n c.ebreak\n .option norvc")
    for offset in (1, 2, 3):
        add(4, EVERYWHERE, f"addi t0, sp, {offset}\n lr.w t1, (t0)")
        add(6, EVERYWHERE, f"addi t0, sp, {offset}\n amoor.w t1, t2, (t0)")
        add(6, EVERYWHERE, f"addi t0, sp, {offset}\n sc.w t1, t2, (t0)")
    add(8, high, "ecall")
    add(9, (HS,), "ecall")
    add(10, (VS,), "ecall")
    add(11, (M,), "ecall")
    add(12, (HS, U, VS, VU), f"li t0, {frame.UNMAPPED + 0x10}\n jr t0")
    add(12, (HS, U, VS, VU), f"li t0, {1 << 45}\n jr t0")
    add(12, low, f"auipc t0, 0\n li t1, {frame.ALIAS}\n add t0, t0, t1\n jr t0")
    add(12, high, f"auipc t0, 0\n li t1, {frame.ALIAS}\n sub t0, t0, t1\n jr t0")
    for cause, body in ((13, "lbu t1, 5(t0)"), (13, "lr.d t1, (t0)"), (15, "sh t1, 2(t0)"), (15, "sc.w t1, t1, (t0)"),
                        (15, "amoswap.w t1, t1, (t0)"), (15, "cbo.zero (t0)")):
        add(cause, (HS, U, VS, VU), f"li t0, {frame.UNMAPPED + 0x100}\n {body}")
        add(cause, (M,), f"{AS_HS}\n li t0, {frame.UNMAPPED}\n {body}")
        add(cause, (M,), f"{AS_GUEST}\n li t0, {frame.UNMAPPED}\n {body}")
        add(cause, low, f"li t1, {frame.ALIAS}\n add t0, sp, t1\n {body}")
        add(cause, high, f"li t1, {frame.ALIAS}\n sub t0, sp, t1\n {body}")
    add(13, (M, HS), f"li t0, {frame.UNMAPPED}\n hlvx.hu t1, (t0)", SPVP)
    add(15, (M, HS, U), f"li t0, {frame.UNMAPPED}\n hsv.b t1, (t0)", HU)
    guest_pages(add)
    return cases


def guest_pages(put: Callable[..., None]) -> None:
    """Add the cases of guest page faults: explicit, by a table that is not mapped, by one that can't be written."""
    views = ((VS, frame.GUEST_GONE, frame.TABLE_FIXED), (VU, frame.GUEST_GONE_U, frame.TABLE_FIXED_U))
    for world, gone, fixed in views:
        for where, setup in ((gone + 0x1240, ""), (frame.TABLE_GONE + 0x5680, ""), (fixed + 0x1240, ADUE)):
            put(20, (world,), f"li t0, {where}\n jr t0", setup)
            for body in ("ld t1, 0(t0)", "lr.w t1, (t0)", "fld f1, 8(t0)", "lhu t1, 6(t0)"):
                put(21, (world,), f"li t0, {where}\n {body}", setup)
            for body in ("sd t1, 0(t0)", "amoadd.w t1, t1, (t0)", "cbo.zero (t0)", "cbo.clean (t0)", "sb t1, -1(t0)"):
                put(23, (world,), f"li t0, {where}\n {body}", setup)
    for where, setup in ((frame.GUEST_GONE, SPVP), (frame.TABLE_GONE, HU), (frame.TABLE_FIXED_U, f"{HU}\n {ADUE}"),
                         (frame.GUEST_GONE_U, HU)):
        worlds = (M, HS) if setup == SPVP else (M, HS, U)
        put(21, worlds, f"li t0, {where + 0x770}\n hlv.d t1, (t0)", setup)
        put(21, worlds, f"li t0, {where + 0x770}\n hlvx.wu t1, (t0)", setup)
        put(23, worlds, f"li t0, {where + 0x778}\n hsv.d t1, (t0)", setup)
    put(21, (M,), f"{AS_GUEST}\n li t0, {frame.GUEST_GONE + 0x770}\n lw t1, 4(t0)")
    put(23, (M,), f"{AS_GUEST}\n li t0, {frame.GUEST_GONE + 0x770}\n sw t1, 4(t0)")
    # Execute-only in the G-stage: the guest's MXR does not help, the host's does.
    put(21, (VS,), f"li t0, {frame.G_ONLY_X + 0x770}\n lw t1, 4(t0)", "li t0, 0x80000\n csrs vsstatus, t0")


def interrupts() -> list[Case]:
    """Return the cases of every interrupt from each world: by wire, by each register that raises it."""
    cases = []
    stce = "li t0, 1\n slli t0, t0, 63\n csrs menvcfg, t0\n csrs henvcfg, t0\n"
    ways = {n: [f"li t0, {n | 0x100}\n la t1, lines\n sd t0, 0(t1)\n"] for n in (1, 3, 5, 7, 9, 11)}
    for n in (1, 5, 9):
        ways[n].append(f"li t0, {1 << n}\n csrs mip, t0\n")
    ways[5].append(f"{stce} csrw stimecmp, x0\n")
    for n in (2, 6, 10):
        ways[n] = [f"li t0, {1 << n}\n csrs hvip, t0\n"]
    ways[2] += ["csrsi mip, 4\n", "csrsi hip, 4\n", "csrsi vsip, 2\n"]
    ways[6].append(f"{stce} csrw vstimecmp, x0\n")
    for n, raised in ways.items():
        enable = [f"li t0, {1 << n}\n csrs mie, t0\n"]
        if n in (2, 6, 10):
            enable += [f"li t0, {1 << n}\n csrs hie, t0\n", f"li t0, {1 << n - 1}\n csrs vsie, t0\n"]
        on = "li t0, 0x22\n csrs mstatus, t0\n csrs vsstatus, t0\n"
        for k, way in enumerate(raised):
            setup = way + enable[k % len(enable)]
            cases.append(Case(INTERRUPT | n, M, "csrsi mstatus, 8\n nop\n nop", setup))
            for world in (HS, VS):
                cases.append(Case(INTERRUPT | n, world, "nop\n nop\n nop", setup + on))
                cases.append(Case(INTERRUPT | n, world, "csrsi sstatus, 2\n nop\n nop", setup))
            for world in (U, VU):
                cases.append(Case(INTERRUPT | n, world, "nop\n nop\n nop", setup))
        if n in (2, 6, 10):  # raised inside, by the guest itself where it can
            inside = "csrsi sip, 2" if n == 2 else "nop"
            cases.append(Case(INTERRUPT | n, VS, f"{inside}\n nop\n csrsi sie, 2\n nop", enable[0] + on))
    return cases


def storms(rng: random.Random, count: int) -> list[Case]:
    """Return cases with several interrupts pending at once: priorities, masks and delegation at random."""
    cases = []
    for _ in range(count):
        pend = "".join(f"li t0, {bit | 0x100}\n sd t0, 0(t1)\n" for bit in (1, 3, 5, 7, 9, 11) if rng.random() < 0.4)
        pend += f"li t0, {rng.getrandbits(12) & 0x444}\n csrw hvip, t0\n"
        enable = f"li t0, {rng.getrandbits(13)}\n csrw mie, t0\n"
        sie = "".join(f"li t0, {rng.choice((0, 0x22))}\n csrs {csr}, t0\n" for csr in ("mstatus", "vsstatus"))
        body = "nop\n nop\n csrsi sstatus, 2\n nop\n csrwi sie, 31\n nop"
        cases.append(Case(INTERRUPT, rng.choice((HS, U, VS, VU)), body, f"la t1, lines\n {pend}{enable}{sie}"))
    return cases


def delegations(cause: int, rng: random.Random) -> list[tuple[int, int, int, int]]:
    """Return the (medeleg, hedeleg, mideleg, hideleg) under which a case can be run."""
    back = frame.RETURN_BY.get(cause)
    all_m = frame.EVERY_EXCEPTION & ~(0x600 if back is None else 1 << back)
    all_h = frame.HEDELEG
    if cause == INTERRUPT:
        return [(rng.getrandbits(24) & ~0x600, rng.getrandbits(16), rng.getrandbits(13), rng.getrandbits(13))]
    if cause & INTERRUPT:
        bit = 1 << (cause & 63)
        pairs = ((0, 0), (bit, 0), (bit, bit), (0x222, 0), (0x222, 0x444), (0, 0x444))
        return [(rng.choice((0, all_m)), rng.choice((0, all_h)), m, h) for m, h in pairs]
    bit = 1 << cause
    pairs = ((0, 0), (bit, 0), (bit, bit), (0, bit), (all_m, 0), (all_m, all_h))
    return [(m, h, rng.choice((0, 0x222)), rng.choice((0, 0x444))) for m, h in pairs]


def text(cases: list[Case], seed: int) -> str:
    """Return a program of the cases. Each runs under one delegation, the first of each cause and world under all."""
    rng = random.Random(seed)
    chosen = [(case, rng.choice(delegations(case.cause, rng)), False) for case in cases]
    firsts = {(case.cause, case.mode): case for case in reversed(cases) if case.cause != INTERRUPT}
    chosen += [(case, option, True) for case in firsts.values() for option in delegations(case.cause, rng)]
    rng.shuffle(chosen)
    blocks: list[str] = []
    for case, option, direct in chosen:
        setup = f"{frame.delegate(*option)}\n {case.setup}"
        blocks.append(frame.block(len(blocks), case.mode, setup, case.body, rng, direct=direct))
    return frame.program_text(blocks)


def show(counts: dict[tuple[int, int, int], int]) -> str:
    """Return the table of causes by (from, to): zeros where something is missing, dashes where nothing can be."""
    columns = [(w, M) for w in EVERYWHERE] + [(w, HS) for w in (HS, U, VS, VU)] + [(w, VS) for w in (VS, VU)]
    lines = [f"{'cause':<18}" + "".join(f"{WORLDS[a]}->{WORLDS[b]}".rjust(8) for a, b in columns)]
    wanted = expected()
    for cause, name in NAMES.items():
        cells = [str(counts.get((cause, a, b), 0)) if (cause, a, b) in wanted else "-" for a, b in columns]
        lines.append(f"{name:<18}" + "".join(c.rjust(8) for c in cells))
    return "\n".join(lines)


def show_delegations(counts: dict[tuple[int, int, int, int], int]) -> str:
    """Return the table of causes by (from, m, h), the bits of medeleg and hedeleg or of mideleg and hideleg."""
    columns = [(w, m, h) for w in EVERYWHERE for m, h in ((0, 0), (1, 0), (0, 1), (1, 1))]
    lines = [f"{'cause':<18}" + "".join(f"{WORLDS[w]}:{m}{h}".rjust(6) for w, m, h in columns)]
    wanted = expected_delegations()
    for cause, name in NAMES.items():
        cells = [str(counts.get((cause, *c), 0)) if (cause, *c) in wanted else "-" for c in columns]
        lines.append(f"{name:<18}" + "".join(c.rjust(6) for c in cells))
    return "\n".join(lines)
