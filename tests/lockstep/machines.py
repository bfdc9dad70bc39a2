"""The two sides of a lock-step run, behind one protocol: Spike by its oracle, pyvirt by its compiled core.

What the harness may ask of a machine is here and nowhere else, so a change of the core's private API is met in this
file.
"""
from __future__ import annotations

from typing import Any, Protocol

from tests.oracle.spike import DRAM, ISA, SpikeOracle, trap_cause

REGISTERS = 65  # pc, x0..x31, f0..f31


class Machine(Protocol):
    """One hart and its RAM, stepped from outside."""

    def advance(self, n: int) -> None: ...
    def registers(self) -> tuple[int, ...]: ...
    def priv(self) -> int: ...
    def csr_read(self, number: int) -> int: ...
    def csr_write(self, number: int, value: int) -> None: ...
    def set_x(self, i: int, value: int) -> None: ...
    def set_f(self, i: int, bits: int) -> None: ...
    def set_interrupt(self, bit: int, level: bool) -> None: ...
    def read(self, pa: int, n: int) -> bytes: ...


class SpikeMachine:
    """Spike. A pending interrupt is a step of its own here, and `stores` says what the last step wrote."""

    def __init__(self, code: bytes, *, at: int = DRAM, ram: int = 1 << 20, isa: str = ISA) -> None:
        self.oracle = SpikeOracle(code, at=at, isa=isa, ram=ram)
        hart = self.oracle.hart
        self.step = hart.step
        self.registers = hart.registers
        self.pc_and_priv = hart.pc_and_priv
        self.csr_read = hart.csr_read
        self.csr_write = hart.csr_write
        self.set_x = hart.set_x
        self.set_f = hart.set_f
        self.set_interrupt = hart.set_interrupt
        self.stores = hart.stores
        self.read = self.oracle.read
        self._hart = hart

    def priv(self) -> int:
        """Return the privilege level."""
        return self._hart.priv

    def disassemble(self, word: int) -> str:
        """Return Spike's text of an instruction word."""
        import riscv.decode
        import riscv.disasm
        import riscv.isa_parser

        parser = riscv.isa_parser.isa_parser_t(self.oracle.isa, "msu")
        return str(riscv.disasm.disassembler_t(parser).disassemble(riscv.decode.insn_t(word)))


class MergedSpike(SpikeMachine):
    """Spike in pyvirt's manner, where taking an interrupt is part of the step of the next instruction.

    It takes pyvirt's place when the harness itself is under test.
    """

    def __init__(self, code: bytes, *, at: int = DRAM, ram: int = 1 << 20, isa: str = ISA) -> None:
        super().__init__(code, at=at, ram=ram, isa=isa)

    def advance(self, n: int) -> None:
        """Execute n instructions, with the interrupts before them."""
        hart = self._hart
        while n:
            pc = hart.pc
            hart.step()
            if (trap_cause(hart, pc) or 0) >> 63 == 0:
                n -= 1


class PyvirtMachine:
    """pyvirt's core without a board: RAM and a hart, nothing else."""

    def __init__(self, code: bytes, *, at: int = DRAM, ram: int = 1 << 20, **options: Any) -> None:
        from pyvirt import _hart, _memory

        self.ram = _memory.Ram(at, ram)
        self.core = _hart.Core(self.ram, **options)
        self.core.mem_write(at, code)
        self.hart = self.core.hart(0)
        self.hart.pc = at
        self.csr_read = self.hart.csr_read
        self.csr_write = self.hart.csr_write
        self.set_x = self.hart.set_x
        self.set_f = self.hart.set_f
        self.read = self.core.mem_read
        self._x, self._f = self.hart.x, self.hart.f
        self._lines: dict[int, Any] = {}

    def advance(self, n: int) -> None:
        """Run for n instructions attempted."""
        self.core.run(self.core.icount + n)

    def registers(self) -> tuple[int, ...]:
        """Return pc, x0..x31, f0..f31."""
        x, f = self._x, self._f
        return (self.hart.pc, *[x(i) for i in range(32)], *[f(i) for i in range(32)])

    def priv(self) -> int:
        """Return the privilege level."""
        return int(self.hart.priv)

    def set_interrupt(self, bit: int, level: bool) -> None:
        """Drive a bit of mip from outside."""
        self.core.set_irq(0, bit, level)
