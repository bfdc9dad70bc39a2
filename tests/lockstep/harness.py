"""Run one program on two machines and compare them after every instruction.

Compared after each step: pc, x, f, privilege, fcsr, mstatus and the trap CSRs of M and S; the bytes of every store,
or all of RAM where stores are translated. Compared every CHECK steps and at the end: all of RAM, and the CSRs that
configure the hart. Reads of counters that depend on time are taken over from Spike, so a program may use them.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.lockstep.machines import Machine, SpikeMachine
from tests.oracle.spike import DRAM, ISA

CHECK = 256
EACH_STEP = (0x001, 0x002, 0x300, 0x341, 0x342, 0x343, 0x141, 0x142, 0x143)
NOW_AND_THEN = (
    0x302, 0x303, 0x304, 0x305, 0x306, 0x30A, 0x340, 0x104, 0x105, 0x106, 0x10A, 0x140, 0x180,
    0x3A0, 0x3A2, *range(0x3B0, 0x3C0), 0x320,
)
# Bits of CSRs that are each implementation's own: identity; time, which does not pass in this Spike; and WARL choices:
# misa (Spike can switch extensions off), delegation of causes that neither takes (0, 18, 19), FIOM (none in Spike), and
# inhibition of counters that only read zero.
ALL = (1 << 64) - 1
OWN_BITS = {
    0xF11: ALL, 0xF12: ALL, 0xF13: ALL, 0xC00: ALL, 0xC01: ALL, 0xB00: ALL, 0x301: ALL, 0x302: 0xC_0001,
    0x10A: 1, 0x30A: 1, 0x320: 0xFFFF_FFF8,
}

# Where each world that takes traps keeps tvec, epc, cause and tval: M, S (HS), VS.
TAKERS = {3: (0x305, 0x341, 0x342, 0x343), 1: (0x105, 0x141, 0x142, 0x143), 5: (0x205, 0x241, 0x242, 0x243)}

NAMES = ("pc", *(f"x{i}" for i in range(32)), *(f"f{i}" for i in range(32)))


@dataclass
class Program:
    """A flat program and how to run it.

    `done` is the address at which the run ends (absent: after `steps`). `x`, `f` and `csrs` are set on both machines
    first. `paged` says that stores may be translated. A store of 8 bytes to one of the virtual addresses `lines`
    drives a bit of mip: its number, plus 0x100 to raise it.
    """

    name: str
    code: bytes
    at: int = DRAM
    ram: int = 1 << 18
    steps: int = 1_000_000
    done: int | None = None
    x: dict[int, int] = field(default_factory=dict)
    f: dict[int, int] = field(default_factory=dict)
    csrs: dict[int, int] = field(default_factory=dict)
    paged: bool = False
    lines: tuple[int, ...] = ()
    isa: str = ISA
    symbols: dict[str, int] = field(default_factory=dict)


@dataclass
class Result:
    """What a run covered: steps, attempts by address, traps by (cause, from, to), and if `done` was reached.

    With the hypervisor extension also: the steps with V=1, and traps by (cause, from, medeleg's bit, hedeleg's bit).
    """

    program: Program
    steps: int = 0
    traps: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    guest_steps: int = 0
    delegated: Counter[tuple[int, int, int, int]] = field(default_factory=Counter)
    finished: bool = False

    def words(self) -> Counter[int]:
        """Return executions by instruction word, for code that runs where it was loaded."""
        p, counts = self.program, Counter[int]()
        for pc, n in self.attempts.items():
            offset = pc - p.at
            if 0 <= offset < len(p.code):
                word = int.from_bytes(p.code[offset : offset + 4], "little")
                counts[word if word & 3 == 3 else word & 0xFFFF] += n
        return counts


class Divergence(AssertionError):
    """The machines differ; the message says where and in what, and ends with the last instructions."""


def run(
    program: Program, spike: SpikeMachine, other: Machine, *, strides: Callable[[], int] | None = None,
    lockstep: type[LockStep] | None = None,
) -> Result:
    """Run a program on both machines in lock-step.

    Without `strides` the machines are compared after every instruction. With it they are compared after as many
    instructions as each call returns, which is what makes a core run whole blocks. `lockstep` is a class that compares
    more. Raises Divergence at the first difference.
    """
    for m in (spike, other):
        for i, v in program.x.items():
            m.set_x(i, v)
        for i, v in program.f.items():
            m.set_f(i, v)
        for n, v in program.csrs.items():
            m.csr_write(n, v)
    return (lockstep or LockStep)(program, spike, other, strides or (lambda: 1)).go()


class LockStep:
    """One run: what is compared when, and what is put right on either side."""

    each_step: tuple[int, ...] = EACH_STEP
    now_and_then: tuple[int, ...] = NOW_AND_THEN
    own_bits: dict[int, int] = OWN_BITS

    def __init__(self, program: Program, spike: SpikeMachine, other: Machine, strides: Callable[[], int]) -> None:
        self.p, self.a, self.b, self.strides = program, spike, other, strides
        self.result = Result(program)
        self.recent: list[int] = []
        self.words: dict[int, int] = {}
        self.since = 0
        self.half_stored = False

    def go(self) -> Result:
        p, a, b, result = self.p, self.a, self.b, self.result
        pc, priv = a.pc_and_priv()
        self.compare(a.registers(), priv)
        self.compare_rest()
        while result.steps < p.steps and pc != p.done:
            stores: list[tuple[int, int, int]] = []
            want, n, word = min(self.strides(), p.steps - result.steps), 0, 0
            while n < want and pc != p.done:
                word = self.word(pc)
                pc, priv = self.spike_step(pc, priv)
                n += 1
                new = a.stores()
                if new:
                    stores += new
                # What the harness must put right, or hand to both machines, ends the slice.
                if (word & 0x7F == 0x73 and word >> 20 in self.own_bits) or any(s[0] in p.lines for s in new):
                    break
            b.advance(n)
            after = a.registers()
            if word & 0x7F == 0x73 and word >> 20 in self.own_bits and word >> 7 & 31:
                self.take_over(word >> 7 & 31, self.own_bits[word >> 20], after)
            result.steps += n
            self.compare(after, priv)
            if self.p.paged and self.half_stored:
                self.undo_half()
            if stores:
                self.compare_stores(stores)
                self.drive(stores)
            self.since += n
            if self.since >= CHECK:
                self.since = 0
                self.compare_rest()
        self.compare_rest()
        result.finished = pc == p.done
        if p.done is not None and not result.finished:
            self.fail([f"the program did not reach its end {p.done:#x} in {p.steps} steps"])
        return result

    def take_over(self, rd: int, bits: int, after: tuple[int, ...]) -> None:
        """Give pyvirt Spike's value of a register, where they differ in nothing but bits that may."""
        got = self.b.registers()[1 + rd]
        if got != after[1 + rd] and not (got ^ after[1 + rd]) & ~bits:
            self.b.set_x(rd, after[1 + rd])

    def spike_step(self, pc: int, priv: int) -> tuple[int, int]:
        """Step Spike by one instruction as pyvirt counts, where an interrupt is no step of its own; return pc, priv."""
        a = self.a
        while True:
            self.recent.append(pc)
            if len(self.recent) > 200:
                del self.recent[:150]
            a.step()
            now, mode = a.pc_and_priv()
            interrupt = not pc < now <= pc + 4 and self.trap(pc, priv, mode, now) >> 63
            if not interrupt:
                self.result.attempts[pc] += 1
                return now, mode
            pc, priv = now, mode

    def word(self, pc: int) -> int:
        """Return the instruction word at an address, if it is one of RAM; what the code was when first executed."""
        known = self.words.get(pc)
        if known is None:
            inside = 0 <= pc - self.p.at <= self.p.ram - 4
            known = self.words[pc] = int.from_bytes(self.a.read(pc, 4), "little") if inside else 0
        return known

    def trap(self, pc: int, before: int, now: int, next_pc: int) -> int:
        """Record and return the cause of a trap, if this step ended in one, else return 0.

        The signs of one: pc stands at the handler's entry, and xepc is the old pc.
        """
        a = self.a
        if now not in TAKERS:
            return 0
        tvec, epc, cause, tval = TAKERS[now]
        vector, code = a.csr_read(tvec), a.csr_read(cause)
        entry = (vector & ~3) + (4 * (code & 0x3FF) if vector & 3 == 1 and code >> 63 else 0)
        if next_pc != entry or a.csr_read(epc) != pc:
            return 0
        self.result.traps[code, before, now] += 1
        if code in (7, 15, 23) and self.p.paged and not a.csr_read(tval) & 0xFFF:
            self.half_stored = True
        return code

    def compare(self, want: tuple[int, ...], priv: int) -> None:
        got = self.b.registers()
        wrong = []
        if got != want:
            wrong += [f"{n}: Spike {w:#x}, pyvirt {g:#x}" for n, w, g in zip(NAMES, want, got, strict=True) if w != g]
        if priv != self.b.priv():
            wrong.append(f"privilege: Spike {priv}, pyvirt {self.b.priv()}")
        wrong += self.csrs(self.each_step)
        if wrong:
            self.fail(wrong)

    def compare_stores(self, stores: list[tuple[int, int, int]]) -> None:
        if self.p.paged:
            self.compare_ram()
            return
        for va, _, n in stores:
            if self.p.at <= va <= self.p.at + self.p.ram - n and self.a.read(va, n) != self.b.read(va, n):
                self.compare_ram()

    def undo_half(self) -> None:
        """Take back what Spike stored in the first page before the second one faulted.

        The manual leaves open how much of a misaligned store is done then; pyvirt does none of it.
        """
        self.half_stored = False
        at, size = self.p.at, self.p.ram
        want, got = self.a.read(at, size), self.b.read(at, size)
        differ = [i for i in range(size) if want[i] != got[i]] if want != got else []
        if differ and differ[0] % 4096 >= 4096 - 7 and differ[-1] // 4096 == differ[0] // 4096:
            self.a.oracle.write(at + differ[0], got[differ[0] : differ[-1] + 1])

    def drive(self, stores: list[tuple[int, int, int]]) -> None:
        """Drive interrupt lines as the program asks."""
        for va, value, _ in stores:
            if va in self.p.lines:
                for m in (self.a, self.b):
                    m.set_interrupt(value & 63, bool(value & 0x100))

    def compare_ram(self) -> None:
        at, size = self.p.at, self.p.ram
        want, got = self.a.read(at, size), self.b.read(at, size)
        if want != got:
            off = next(i for i in range(size) if want[i] != got[i])
            off &= -8
            w, g = (int.from_bytes(m[off : off + 8], "little") for m in (want, got))
            self.fail([f"RAM at {at + off:#x}: Spike {w:#018x}, pyvirt {g:#018x}"])

    def compare_rest(self) -> None:
        wrong = self.csrs(self.now_and_then)
        if wrong:
            self.fail(wrong)
        self.compare_ram()

    def csrs(self, numbers: tuple[int, ...]) -> list[str]:
        a, b = self.a.csr_read, self.b.csr_read
        want, got = [a(n) for n in numbers], [b(n) for n in numbers]
        if want == got:
            return []
        both = zip(numbers, want, got, strict=True)
        differ = [(n, w, g) for n, w, g in both if (w ^ g) & ~self.own_bits.get(n, 0)]
        return [f"CSR {n:#x}: Spike {w:#x}, pyvirt {g:#x}" for n, w, g in differ]

    def fail(self, wrong: list[str]) -> None:
        lines = [f"{self.p.name}: after {self.result.steps} steps", *wrong, "last instructions:"]
        for pc in self.recent[-12:]:
            word = self.word(pc)
            lines.append(f"  {pc:#x}: {word:08x} {self.a.disassemble(word)}")
        raise Divergence("\n".join(lines))
