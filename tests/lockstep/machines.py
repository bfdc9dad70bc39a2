"""The two sides of a lock-step run, behind one protocol: Spike by its oracle, pyvirt by its compiled core.

What the harness may ask of a machine is here and nowhere else, so a change of the core's private API is met in this
file.
"""
from __future__ import annotations

from typing import Any, Protocol

from tests.oracle.spike import DRAM, ISA, SpikeOracle, trap_cause

CLINT = 0x200_0000


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
        self.has_csr = hart.has_csr
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


# Bits of arch.pxd's ext_t by the names that an ISA string uses; Zicclsm has none, misaligned accesses always work.
EXTENSIONS = {
    "a": 0, "f": 1, "d": 2, "c": 3, "m": 4, "zba": 5, "zbb": 6, "zbs": 7, "zicond": 8, "zicbom": 9, "zicboz": 10,
    "zicbop": 11, "sstc": 12, "svinval": 13, "svnapot": 14, "svpbmt": 15, "svadu": 16, "zihpm": 17, "zicntr": 18,
    "h": 19, "smstateen": 28, "zihintpause": 24, "zicsr": 25, "zifencei": 26, "i": 27,
    "zbc": 29, "zbkb": 30, "zbkx": 31, "zcb": 32, "zimop": 33, "zcmop": 34, "zihintntl": 35, "zawrs": 36, "zabha": 37,
    "zacas": 38, "zfa": 39, "zfhmin": 40, "zfh": 41,
}
ALWAYS = 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23  # Sv48, Sv57, S, U


def extension_mask(isa: str) -> int:
    """Return the core's mask of an ISA string such as "rv64imac_zba"."""
    first, *rest = isa.removeprefix("rv64").split("_")
    return ALWAYS | sum(1 << EXTENSIONS[n] for n in (*first, *rest) if n != "zicclsm")


class PyvirtMachine:
    """pyvirt's core without a board: RAM and a hart, nothing else."""

    def __init__(self, code: bytes, *, at: int = DRAM, ram: int = 1 << 20, isa: str = ISA, **options: Any) -> None:
        from pyvirt import _bus, _device_clint, _hart, _memory

        self.ram = _memory.Ram(at, ram)
        self.core = _hart.Core(self.ram, exts=extension_mask(isa), **options)
        self.core.mem_write(at, code)
        self.hart = self.core.hart(0)
        self.hart.pc = at
        self.csr_read = self.hart.csr_read
        self.csr_write = self.hart.csr_write
        self.set_x = self.hart.set_x
        self.set_f = self.hart.set_f
        self.read = self.core.mem_read
        self._x, self._f = self.hart.x, self.hart.f
        # MSIP and mtimecmp through a CLINT where Spike has its own; MEIP by its wire.
        clint = _device_clint.ClintRegs()
        clint.connect_clock(self.core.clock())
        clint.connect_line(0, self.core.irq_line(0, 3))
        self.core.map(CLINT, 0x10000, clint)
        self._external = _bus.IrqLine(self.core.irq_line(0, 11))

    def advance(self, n: int) -> None:
        """Run for n instructions attempted."""
        goal = self.core.icount + n
        before, stop = self.core.icount, self.core.run(goal)
        while stop == "trap_loop" and self.core.icount > before:  # a diagnosis, which Spike does not make
            before, stop = self.core.icount, self.core.run(goal)
        if stop != "limit":
            raise AssertionError(f"pyvirt stopped with {stop!r} at {self.hart.pc:#x}, {goal - self.core.icount} short")

    def registers(self) -> tuple[int, ...]:
        """Return pc, x0..x31, f0..f31."""
        x, f = self._x, self._f
        return (self.hart.pc, *[x(i) for i in range(32)], *[f(i) for i in range(32)])

    def priv(self) -> int:
        """Return the privilege level."""
        return int(self.hart.priv)

    def set_interrupt(self, bit: int, level: bool) -> None:
        """Drive a bit of mip: by its wire, by the timer, or as M-mode software sets it."""
        if bit == 3:
            self.core.bus_write(CLINT, 4, int(level))
        elif bit == 7:
            self.core.bus_write(CLINT + 0x4000, 8, 0 if level else (1 << 64) - 1)
        elif bit == 11:
            self._external.set(level)
        else:
            old = self.csr_read(0x344)
            self.csr_write(0x344, old | 1 << bit if level else old & ~(1 << bit))
