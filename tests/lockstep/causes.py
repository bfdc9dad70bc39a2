"""Programs that take every cause from every mode, under every setting of delegation, and the table of what must be
seen.

One program is a list of cases. A case sets delegation, enters a mode through mret (or mret and sret) and does one
thing that traps. M's handler goes on to the next case; S's handler returns to M by a trap that the case leaves
undelegated. Translation is on: S runs on an identity map of RAM, U on an alias of it with the U bit.
"""
from __future__ import annotations

import random
from dataclasses import dataclass

U, S, M = 0, 1, 3
INTERRUPT = 1 << 63
MODES = {U: "U", S: "S", M: "M"}
ALIAS = 0x4000_0000  # U's view of RAM is this much above S's
UNMAPPED, HOLE, HOLE_U = 0x1_0000_0000, 0x1_4000_0000, 0x1_8000_0000
NAMES = {
 1: "fetch access", 2: "illegal", 3: "breakpoint", 4: "load misaligned", 5: "load access",
    6: "store misaligned", 7: "store access", 8: "ecall U", 9: "ecall S", 11: "ecall M", 12: "fetch page",
    13: "load page", 15: "store page",
    INTERRUPT | 1: "SSI", INTERRUPT | 3: "MSI", INTERRUPT | 5: "STI", INTERRUPT | 7: "MTI", INTERRUPT | 9: "SEI",
    INTERRUPT | 11: "MEI",
}


def expected() -> set[tuple[int, int, int]]:
    """Return every (cause, from, to) of a machine with M, S and U and with C, without H.

    Cause 0 is not there: with C every even address is aligned (unprivileged manual, "C", "Overview").
    """
    keys: set[tuple[int, int, int]] = set()
    for cause in (1, 2, 3, 4, 5, 6, 7, 13, 15, INTERRUPT | 1, INTERRUPT | 5, INTERRUPT | 9):
        keys |= {(cause, U, M), (cause, S, M), (cause, M, M), (cause, U, S), (cause, S, S)}
    for cause in (3, 7, 11):  # never delegated
        keys |= {(INTERRUPT | cause, mode, M) for mode in (U, S, M)}
    keys |= {(12, mode, to) for mode in (U, S) for to in (M, S)}  # M fetches untranslated
    return keys | {(8, U, M), (8, U, S), (9, S, M), (9, S, S), (11, M, M)}


@dataclass(frozen=True)
class Case:
    """One trap to take: `setup` runs in M, `body` in the mode; both may use t0 to t3."""

    cause: int
    mode: int
    body: str
    setup: str = ""


def exceptions() -> list[Case]:
    """Return the cases of every exception, from each mode that can take it."""
    cases = []

    def add(cause: int, modes: tuple[int, ...], body: str, setup: str = "") -> None:
        cases.extend(Case(cause, mode, body, setup) for mode in modes)

    everywhere = (M, S, U)
    for mode, hole in ((M, 0x4000_0000), (S, HOLE), (U, HOLE_U)):
        add(1, (mode,), f"li t0, {hole}\n jr t0")
        add(1, (mode,), f"li t0, {hole + 0x802}\n jalr t1, 1(t0)")
        add(5, (mode,), f"li t0, {hole + 0x120}\n ld t1, 8(t0)")
        add(5, (mode,), f"li t0, {hole}\n lr.w t1, (t0)")
        add(5, (mode,), f"li t0, {hole}\n fld f1, 8(t0)", "li t0, 0x6000\n csrs mstatus, t0")
        add(7, (mode,), f"li t0, {hole + 0xffc}\n sw t1, 0(t0)")
        add(7, (mode,), f"li t0, {hole}\n amoadd.d t1, t1, (t0)")
        add(7, (mode,), f"li t0, {hole}\n sc.d t1, t1, (t0)")
        add(7, (mode,), f"li t0, {hole}\n cbo.zero (t0)", "li t0, 0xf0\n csrw menvcfg, t0\n csrw senvcfg, t0")
    illegal = (".word 0xffffffff", ".half 0", ".word 0x0000707f", "csrr t0, 0x7ff", "csrw cycle, t0", "csrr t0, 0x8c0",
               ".word 0x0000302f", ".half 0x8002", ".half 0x2001")
    for body in illegal:
        add(2, everywhere, body)
    for body in ("csrr t0, mscratch", "csrw mepc, t0", "mret", "csrsi mstatus, 0", "csrr t0, pmpcfg0"):
        add(2, (S, U), body)
    for body in ("csrr t0, sscratch", "sret", "sfence.vma", "wfi", "csrw satp, x0", "sinval.vma x0, x0",
                 "sfence.w.inval"):
        add(2, (U,), body, "li t0, 0x200000\n csrs mstatus, t0")
    add(2, (S,), "sret", "li t0, 0x400000\n csrs mstatus, t0")
    add(2, (S,), "wfi", "li t0, 0x200000\n csrs mstatus, t0")
    for body in ("csrr t0, satp", "csrw satp, t1", "sfence.vma t0, t1", "sinval.vma t0, t1"):
        add(2, (S,), body, "li t0, 0x100000\n csrs mstatus, t0")
    for body in ("fadd.d f1, f2, f3", "flw f1, 0(t0)", "csrr t0, fcsr", "fmv.x.d t0, f1", "fsd f1, 0(sp)",
                 "csrwi frm, 1"):
        add(2, everywhere, body, "li t0, 0x6000\n csrc mstatus, t0")
    add(2, everywhere, "fsrmi 5\n fadd.s f1, f2, f3", "li t0, 0x6000\n csrs mstatus, t0")
    add(2, everywhere, ".word 0x0000d0d3", "li t0, 0x6000\n csrs mstatus, t0")  # fadd.s with rounding mode 5
    for counter in ("cycle", "time", "instret", "hpmcounter3"):
        add(2, (S, U), f"csrr t0, {counter}", "csrw mcounteren, x0")
        add(2, (U,), f"csrr t0, {counter}", "csrw scounteren, x0")
    for body in ("cbo.zero (sp)", "cbo.clean (sp)", "cbo.inval (sp)", "cbo.flush (sp)"):
        add(2, (S, U), body, "csrw menvcfg, x0")
        add(2, (U,), body, "csrw senvcfg, x0")
    add(2, (S,), "csrr t0, stimecmp", "csrw menvcfg, x0")
    add(3, everywhere, "ebreak")
    add(3, everywhere, ".option rvc\n c.ebreak\n .option norvc")
    for offset in (1, 2, 3):
        add(4, everywhere, f"addi t0, sp, {offset}\n lr.w t1, (t0)")
        add(6, everywhere, f"addi t0, sp, {offset}\n amoor.w t1, t2, (t0)")
        add(6, everywhere, f"addi t0, sp, {offset}\n sc.w t1, t2, (t0)")
    add(4, everywhere, "addi t0, sp, 4\n lr.d.aq t1, (t0)")
    add(6, everywhere, "addi t0, sp, 4\n amomaxu.d.aqrl t1, t2, (t0)")
    add(8, (U,), "ecall")
    add(9, (S,), "ecall")
    add(11, (M,), "ecall")
    add(12, (S, U), f"li t0, {UNMAPPED + 0x10}\n jr t0")
    add(12, (S, U), f"li t0, {1 << 45}\n jr t0")  # not canonical
    add(12, (S,), f"auipc t0, 0\n li t1, {ALIAS}\n add t0, t0, t1\n jr t0")  # S never executes U's pages
    add(12, (U,), f"auipc t0, 0\n li t1, {ALIAS}\n sub t0, t0, t1\n jr t0")
    for cause, body in ((13, "lbu t1, 5(t0)"), (13, "ld t1, 24(t0)"), (13, "lr.d t1, (t0)"), (15, "sh t1, -2(t0)"),
                        (15, "amoswap.w t1, t1, (t0)"), (15, "sc.w t1, t1, (t0)"), (15, "cbo.zero (t0)")):
        setup = "li t0, 0xf0\n csrw menvcfg, t0\n csrw senvcfg, t0"
        add(cause, (S, U), f"li t0, {UNMAPPED + 0x100}\n {body}", setup)
        add(cause, (S, U), f"li t0, {(1 << 63) + 0x100}\n {body}", setup)
        as_s = "li t1, 0x21800\n csrc mstatus, t1\n li t1, 0x20800\n csrs mstatus, t1"  # MPRV, MPP = S
        add(cause, (M,), f"{as_s}\n li t0, {UNMAPPED}\n {body}", setup)
        add(cause, (S,), f"li t1, {ALIAS}\n add t0, sp, t1\n {body}", setup)  # SUM is clear
        add(cause, (U,), f"li t1, {ALIAS}\n sub t0, sp, t1\n {body}", setup)
    return cases


def interrupts() -> list[Case]:
    """Return the cases of every interrupt from each mode: by a wire, and by software where it can."""
    cases = []
    for bit in (1, 3, 5, 7, 9, 11):
        wire = f"li t0, {bit | 0x100}\n la t1, lines\n sd t0, 0(t1)\n"
        enable = f"li t0, {1 << bit}\n csrw mie, t0\n"
        ways = [wire + enable]
        if bit in (1, 5, 9):
            ways.append(f"li t0, {1 << bit}\n csrs mip, t0\n" + enable)
        if bit == 5:
            ways.append("li t0, -1\n slli t0, t0, 63\n csrw menvcfg, t0\n csrw stimecmp, x0\n" + enable)
        for way in ways:
            cases.append(Case(INTERRUPT | bit, M, "csrsi mstatus, 8\n nop\n nop", way))
            cases.append(Case(INTERRUPT | bit, S, "nop\n nop\n nop", way + "li t0, 0x20\n csrs mstatus, t0\n"))
            cases.append(Case(INTERRUPT | bit, S, "csrsi sstatus, 2\n nop\n nop", way))
            cases.append(Case(INTERRUPT | bit, U, "nop\n nop\n nop", way))
    return cases


def storms(rng: random.Random, count: int) -> list[Case]:
    """Return cases with several interrupts pending at once: priorities, masks and delegation at random."""
    cases = []
    for _ in range(count):
        pend = "".join(f"li t0, {bit | 0x100}\n sd t0, 0(t1)\n" for bit in (1, 3, 5, 7, 9, 11) if rng.random() < 0.5)
        enable = f"li t0, {rng.getrandbits(12)}\n csrw mie, t0\n li t0, {rng.choice((0, 0x20))}\n csrs mstatus, t0\n"
        setup = f"la t1, lines\n {pend}{enable}"
        cases.append(Case(INTERRUPT, rng.choice((S, U)), "nop\n nop\n csrsi 0x100, 2\n nop", setup))
        cases.append(Case(INTERRUPT, M, "csrsi mstatus, 8\n nop\n nop", setup))
    return cases


# S's handler comes back to M by an ecall, or by an illegal instruction where ecalls are the subject.
RETURN_BY = {8: 2, 9: 2}


def delegations(case: Case, rng: random.Random) -> list[tuple[int, int]]:
    """Return the (medeleg, mideleg) under which a case is run: none, just it, all but the way back."""
    everything = 0xB3FF & ~(1 << RETURN_BY.get(case.cause, 9))
    if case.cause == INTERRUPT:
        return [(rng.getrandbits(16) & ~0x200, rng.getrandbits(12))]
    if case.cause & INTERRUPT:
        return [(0, 0), (0, 1 << (case.cause & 63)), (0xB1FF, 0x222)]
    return [(0, 0), (1 << case.cause, 0), (everything, 0x222)]


def _enter(case: Case, index: int, rng: random.Random) -> str:
    """Return the text that enters a case's mode at its body, and the body."""
    through_s = rng.random() < 0.5
    if case.mode == M:
        return case.body
    lines = [f"la t0, body_{index}"]
    if case.mode == U:
        lines += [f"li t1, {ALIAS}", "add t0, t0, t1", "add sp, sp, t1"]
    if rng.random() < 0.3:
        lines.append("li t1, 0x20000\n csrs mstatus, t1")  # MPRV, which both returns must clear
    if case.mode == U and through_s:  # mret to an sret with SPP clear
        lines += ["csrw sepc, t0", "li t0, 0x1900", "csrc mstatus, t0", "li t0, 0x800", "csrs mstatus, t0"]
        lines += [f"la t0, s_{index}", "csrw mepc, t0", "mret", f"s_{index}: sret"]
    else:
        mpp = 0x800 if case.mode == S else 0
        lines += ["csrw mepc, t0", "li t0, 0x1800", "csrc mstatus, t0", f"li t0, {mpp}", "csrs mstatus, t0", "mret"]
    return "\n".join((*lines, f"body_{index}:", case.body))


LOWER_LINES = "  la t0, lines\n" + "".join(f"  li t1, {bit}\n  sd t1, 0(t0)\n" for bit in (1, 3, 5, 7, 9, 11))
# M's handler goes on to the next case. That of S and of VS, whose S CSRs are its own, leaves by a trap that the case
# does not delegate.
HANDLERS = f"""
.balign 64
m_vector:
{chr(10).join("  j m_trap" for _ in range(16))}
.balign 64
m_trap:
  csrr t0, mcause
  csrr t1, mepc
  csrr t2, mtval
  li t3, 0x20000
  csrc mstatus, t3
  jr s11
.balign 64
s_vector:
{chr(10).join("  j s_trap" for _ in range(16))}
.balign 64
s_trap:
  csrr t0, scause
  csrr t1, sepc
  csrr t2, stval
  addi t3, t0, -8
  li t1, 3
  bltu t3, t1, 1f
  ecall
1:
  .word 0
  j .
"""


def text(cases: list[Case], seed: int) -> str:
    """Return the text of a program that runs the cases in order, each under all its delegations."""
    rng = random.Random(seed)
    parts = []
    index = 0
    for case in cases:
        for medeleg, mideleg in delegations(case, rng):
            vectored = rng.random() < 0.5
            parts.append(f"""
case_{index}:
  la s11, case_{index + 1}
  call reset
  la t0, {'m_vector + 1' if vectored else 'm_trap'}
  csrw mtvec, t0
  la t0, {'s_vector + 1' if vectored else 's_trap'}
  csrw stvec, t0
  li t0, {medeleg}
  csrw medeleg, t0
  li t0, {mideleg}
  csrw mideleg, t0
  {case.setup}
  {_enter(case, index, rng)}
  ecall
  .word 0
  j .
""")
            index += 1
    return f"""
  j case_0
reset:                    # everything that a case may have left behind
  csrw mie, x0
  csrw mip, x0
  li t0, 0x7e19aa
  csrc mstatus, t0
  li t0, 0xf0
  csrw menvcfg, t0
  csrw senvcfg, t0
  li t0, -1
  csrw mcounteren, t0
  csrw scounteren, t0
  csrw pmpaddr0, t0
  li t0, 0x1f
  csrw pmpcfg0, t0
{LOWER_LINES}  la sp, data
  la t0, root
  srli t0, t0, 12
  li t1, 8
  slli t1, t1, 60
  or t0, t0, t1
  csrw satp, t0
  sfence.vma
  csrwi sepc, 0
  csrwi mepc, 0
  ret
{"".join(parts)}
case_{index}:
done: j done
{HANDLERS}
.balign 4096
root:
  .dword 0, 0
  .dword {(0x8000_0000 >> 2) | 0xCF:#x}    # RAM for S
  .dword {(0x8000_0000 >> 2) | 0xDF:#x}    # RAM for U
  .dword 0                                 # unmapped
  .dword {(0x4000_0000 >> 2) | 0xCF:#x}    # where nothing is, for S
  .dword {(0x4000_0000 >> 2) | 0xDF:#x}    # and for U
  .zero {4096 - 56}
data:
  .zero 4032
lines: .dword 0
"""


def show(counts: dict[tuple[int, int, int], int]) -> str:
    """Return the table of causes by (from, to): zeros where something is missing, dashes where nothing can be."""
    columns = [(U, M), (S, M), (M, M), (U, S), (S, S)]
    lines = [f"{'cause':<18}" + "".join(f"{MODES[a]}->{MODES[b]:<6}" for a, b in columns)]
    wanted = expected()
    for cause, name in NAMES.items():
        cells = [str(counts.get((cause, a, b), 0)) if (cause, a, b) in wanted else "-" for a, b in columns]
        lines.append(f"{name:<18}" + "".join(f"{c:<9}" for c in cells))
    return "\n".join(lines)
