"""Programs that execute each privileged instruction in each world under every setting of what may trap it."""
from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.lockstep import hyp_frame as frame
from tests.lockstep.hyp_machines import HS, VS, VU, M, U

EVERYWHERE = (M, HS, U, VS, VU)
TVM, TW, TSR = ("mstatus", 1 << 20), ("mstatus", 1 << 21), ("mstatus", 1 << 22)
VTVM, VTW, VTSR = ("hstatus", 1 << 20), ("hstatus", 1 << 21), ("hstatus", 1 << 22)
HU, SPVP = ("hstatus", 1 << 9), ("hstatus", 1 << 8)
STCE_M, STCE_H = ("menvcfg", 1 << 63), ("henvcfg", 1 << 63)
HLV = ("hlv.b t1, (t0)", "hlv.bu t1, (t0)", "hlv.h t1, (t0)", "hlv.hu t1, (t0)", "hlv.w t1, (t0)", "hlv.wu t1, (t0)",
       "hlv.d t1, (t0)", "hlvx.hu t1, (t0)", "hlvx.wu t1, (t0)", "hsv.b t1, (t0)", "hsv.h t1, (t0)", "hsv.w t1, (t0)",
       "hsv.d t1, (t0)")
# Where sret and mret lead when they are let through, so that the block goes on behind them in U or VU.
GO_ON = f"la t0, go_on_%d\n li t1, {frame.ALIAS}\n add t0, t0, t1\n csrw sepc, t0\n csrw vsepc, t0\n csrw mepc, t0"
PENDING = "csrwi hvip, 4\n csrwi mie, 4"  # WFI ends at once: an interrupt is pending and not taken


@dataclass(frozen=True)
class Subject:
    """An instruction, and the bits that may trap it; each is set or cleared. `values` are (register, its choices)."""

    body: str
    bits: tuple[tuple[str, int], ...] = ()
    values: tuple[tuple[str, tuple[int, ...]], ...] = ()
    setup: str = ""
    worlds: tuple[int, ...] = field(default=EVERYWHERE)

    def settings(self) -> Iterator[str]:
        """Yield the lines of every setting."""
        options = [[f"li t0, {bit:#x}\n {op} {csr}, t0" for op in ("csrc", "csrs")] for csr, bit in self.bits]
        options += [[f"li t0, {v:#x}\n csrw {csr}, t0" for v in vs] for csr, vs in self.values]
        for lines in itertools.product(*options):
            yield "\n".join(lines)


def counters() -> list[Subject]:
    """Return reads of counters under the three counter-enable registers, and stimecmp under what Sstc adds."""
    found = []
    for name, bit in (("cycle", 0), ("time", 1), ("instret", 2), ("hpmcounter3", 3), ("hpmcounter31", 31)):
        bits = tuple((csr, 1 << bit) for csr in ("mcounteren", "hcounteren", "scounteren"))
        found.append(Subject(f"csrr t0, {name}", bits))
    bits = (("mcounteren", 2), ("hcounteren", 2), STCE_M, STCE_H)
    for body in ("csrr t0, stimecmp", "csrw stimecmp, t1", "csrr t0, vstimecmp", "csrw vstimecmp, t1"):
        found.append(Subject(f"li t1, -1\n {body}", bits))
    return found


def cache_blocks() -> list[Subject]:
    """Return the operations on cache blocks under the three envcfg registers."""
    found = []
    for body, choices in (("cbo.zero (sp)", (0, 0x80)), ("cbo.clean (sp)", (0, 0x40)), ("cbo.flush (sp)", (0, 0x40)),
                          ("cbo.inval (sp)", (0, 0x10, 0x30))):
        values = tuple((csr, choices) for csr in ("menvcfg", "henvcfg", "senvcfg"))
        found.append(Subject(body, values=values))
    return found


def floats() -> list[Subject]:
    """Return uses of the floating-point unit under both FS fields: clean ones, dirty ones, those that raise flags."""
    values = (("vsstatus", (0, 0x2000, 0x4000, 0x6000)),)
    bits = (("mstatus", 0x2000), ("mstatus", 0x4000))
    bodies = ("fadd.d f1, f2, f3", "fld f1, 0(sp)", "fsd f1, 0(sp)", "csrr t0, fcsr", "csrwi frm, 1", "csrwi fflags, 0",
              "fmv.x.d t0, f1", "fmv.d.x f1, t0", "fdiv.s f1, f2, f3", "feq.d t0, f1, f1", ".half 0x2002")
    return [Subject(body, bits, values) for body in bodies]


def subjects() -> list[Subject]:
    """Return all instructions with what they depend on."""
    found = [
        Subject("sret", (TSR, VTSR), setup=GO_ON),
        Subject("mret", (TSR, VTSR), setup=GO_ON),
        Subject("wfi", (TW, VTW), setup=PENDING),
        Subject("ecall"), Subject("ebreak"), Subject("fence.i"), Subject("fence"), Subject("pause"),
        Subject("sfence.w.inval", (TVM, VTVM)), Subject("sfence.inval.ir", (TVM, VTVM)),
    ]
    for body in ("sfence.vma", "sfence.vma t0, t1", "sinval.vma t0, t1", "hfence.vvma", "hfence.vvma t0, t1",
                 "hfence.gvma", "hfence.gvma t0, t1", "hinval.vvma t0, t1", "hinval.gvma t0, t1"):
        found.append(Subject(body, (TVM, VTVM)))
    for csr in ("satp", "vsatp", "hgatp"):
        found.append(Subject(f"csrr t0, {csr}", (TVM, VTVM)))
        found.append(Subject(f"li t1, {7 << 60}\n csrw {csr}, t1", (TVM, VTVM)))  # a mode that there is not
        found.append(Subject(f"csrrs t0, {csr}, x0\n csrrw t1, {csr}, t0", (TVM, VTVM)))
    for i, body in enumerate(HLV):
        where = frame.GUEST_GONE if i % 4 == 3 else 0
        address = f"li t0, {where}" if where else f"la t0, data + {8 * i}"
        found.append(Subject(f"{address}\n {body}", (HU, SPVP), worlds=(M, HS, VS, VU)))
        # U's own pc is on the alias, and so is what la gives there: the view that SPVP = 0 may use.
        found.append(Subject(f"{address}\n {body}", (HU, SPVP), worlds=(U,)))
    for csr in ("sstatus", "sie", "stvec", "scounteren", "senvcfg", "sscratch", "sepc", "scause", "stval", "sip",
                "hstatus", "hedeleg", "hgeip", "htinst", "vsstatus", "vsip", "mscratch", "mtval2", "0x6ff", "0x5ff",
                "0x2ff", "0x5a7", "0xeff", "henvcfg", "hcounteren"):
        found.append(Subject(f"csrrs t0, {csr}, x0"))
        found.append(Subject(f"csrrs t0, {csr}, t1" if csr != "stvec" else "csrrci t0, stvec, 0", setup="li t1, 0"))
    return found + counters() + cache_blocks() + floats()


def text(seed: int, part: int = 0, parts: int = 1) -> str:
    """Return a program of every subject in every world under every setting; or one of `parts` of it."""
    rng = random.Random(seed)
    blocks: list[str] = []
    everything = [(s, w, lines) for s in subjects() for w in s.worlds for lines in s.settings()]
    rng.shuffle(everything)
    for subject, world, lines in everything[part::parts]:
        i = len(blocks)
        medeleg, hedeleg = rng.choice(((0, 0), (0x40_0004, 0), (0x40_0004, 4), (0x40_0000, 4), (0xF0_B1FF, 0xB1FF)))
        extra = subject.setup.replace("%d", str(i))
        if subject.setup == PENDING:
            lines += f"\nli t0, {4 if world == VS else 0}\n csrw hideleg, t0"
        setup = f"{frame.delegate(medeleg, hedeleg, 0, 0)}\n {extra}\n {lines}"
        body = f"{subject.body}\ngo_on_{i}:"
        blocks.append(frame.block(i, world, setup, body, rng, direct=True))
    return frame.program_text(blocks)
