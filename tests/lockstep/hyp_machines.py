"""Both machines with the hypervisor extension, and the comparison of what it adds.

A world is the privilege plus 4 when V=1: M 3, HS 1, U 0, VS 5, VU 4; it stands wherever the harness speaks of a
privilege. Time does not pass on either side: Spike's CLINT is never ticked, and pyvirt's ratio puts the first tick
beyond any program, so timers are due or not by what is written to them.
"""
from __future__ import annotations

import ctypes
from typing import Any

from tests.lockstep.harness import EACH_STEP, NOW_AND_THEN, OWN_BITS, LockStep
from tests.lockstep.machines import PyvirtMachine, SpikeMachine
from tests.oracle.spike import DRAM, ISA

M, HS, U, VS, VU = 3, 1, 0, 5, 4
WORLDS = {M: "M", HS: "HS", U: "U", VS: "VS", VU: "VU"}
HYP_ISA = ISA.replace("imafdc", "imafdch").replace("_zicclsm", "")
ALIAS = 0x4000_0000  # U's and VU's view of RAM is this much above that of HS and VS
NO_TIME = 0xFFFF_FFFF  # instructions per tick

# hstatus, htval, htinst, mtval2, mtinst, vsstatus, vsepc, vscause, vstval, mip; and the others.
HYP_EACH_STEP = (0x600, 0x643, 0x64A, 0x34B, 0x34A, 0x200, 0x241, 0x242, 0x243, 0x344)
HYP_NOW_AND_THEN = (
    0x602, 0x603, 0x604, 0x605, 0x606, 0x607, 0x60A, 0x644, 0x645, 0x680, 0x204, 0x205, 0x240, 0x244, 0x24D, 0x280,
    0xE12,
)
GVA, MPV, MPRV, MPP = 1 << 38, 1 << 39, 1 << 17, 3 << 11
_V = 832 + 18  # state_t.v behind prv: prev_prv (8 bytes), prv_changed, v_changed


class HypSpike(SpikeMachine):
    """Spike with H. Its binding reads S CSRs as the world it is in would, so V is put aside while they are read."""

    def __init__(self, code: bytes, *, at: int = DRAM, ram: int = 1 << 20, isa: str = HYP_ISA) -> None:
        super().__init__(code, at=at, ram=ram, isa=isa)
        hart = self._hart
        self._v = ctypes.c_uint8.from_address(hart._at + _V)
        if self._v.value not in (0, 1):
            raise AssertionError("state_t has another layout: v is neither 0 nor 1")
        self._read, self._where = hart.csr_read, hart.pc_and_priv
        self.csr_read = self._csr_read
        self.pc_and_priv = self._pc_and_priv
        self.csr_write(0x24D, (1 << 64) - 1)

    def _csr_read(self, number: int) -> int:
        v, self._v.value = self._v.value, 0
        try:
            return self._read(number)
        finally:
            self._v.value = v

    def csrs(self, numbers: tuple[int, ...]) -> list[int]:
        """Return several CSRs as M-mode would read them."""
        read = self._read
        v, self._v.value = self._v.value, 0
        try:
            return [read(n) for n in numbers]
        finally:
            self._v.value = v

    def _pc_and_priv(self) -> tuple[int, int]:
        pc, priv = self._where()
        return pc, priv | self._v.value << 2

    def priv(self) -> int:
        """Return the world."""
        return self._pc_and_priv()[1]


class HypPyvirt(PyvirtMachine):
    """pyvirt with H and without time."""

    def __init__(
        self, code: bytes, *, at: int = DRAM, ram: int = 1 << 20, isa: str = HYP_ISA, **options: Any
    ) -> None:
        from pyvirt import _bus

        super().__init__(code, at=at, ram=ram, isa=isa, ratio=NO_TIME, **options)
        self._supervisor = _bus.IrqLine(self.core.irq_line(0, 9))

    def set_interrupt(self, bit: int, level: bool) -> None:
        """Drive a bit of mip; SEIP by its wire, since software's SEIP is another one in Spike too."""
        wire = self._supervisor
        if bit == 9:
            wire.set(level)
            return
        up = wire.level
        wire.set(False)  # so that reading mip and writing it back does not make software's SEIP of the wire's
        super().set_interrupt(bit, level)
        wire.set(up)

    def priv(self) -> int:
        """Return the world."""
        return int(self.hart.priv | self.hart.virt << 2)


# Delegation of causes that neither takes (0, 18, 19), and FIOM, which Spike does not have.
# In the stateen registers, custom state and indirect CSRs (Sscsrind), of which pyvirt has none.
HYP_OWN_BITS = {0x602: 0xC_0001, 0x60A: 1, 0x30C: 1 << 60 | 1, 0x60C: 1 << 60 | 1, 0x10C: 1}


class HypLockStep(LockStep):
    """Compares the hypervisor's and the guest's registers too."""

    each_step = EACH_STEP + HYP_EACH_STEP
    now_and_then = NOW_AND_THEN + HYP_NOW_AND_THEN
    own_bits = OWN_BITS | HYP_OWN_BITS
    a: HypSpike

    def word(self, pc: int) -> int:
        """Return the instruction word at an address, also where U and VU run on their alias of RAM."""
        inside = 0 <= pc - ALIAS - self.p.at <= self.p.ram - 4
        return super().word(pc - ALIAS if inside else pc)

    def csrs(self, numbers: tuple[int, ...]) -> list[str]:
        """Return where CSRs differ, in words."""
        read = self.b.csr_read
        want, got = self.a.csrs(numbers), [read(n) for n in numbers]
        if want == got:
            return []
        both = zip(numbers, want, got, strict=True)
        differ = [(n, w, g) for n, w, g in both if (w ^ g) & ~self.own_bits.get(n, 0)]
        return [f"CSR {n:#x}: Spike {w:#x}, pyvirt {g:#x}" for n, w, g in differ]

    def trap(self, pc: int, before: int, now: int, next_pc: int) -> int:
        """Record a trap also by what was delegated of it."""
        code = super().trap(pc, before, now, next_pc)
        if code:
            interrupt = code >> 63
            cause = code + 1 if interrupt and now == VS else code  # a guest sees its interrupts under the number before
            registers = (0x303, 0x603) if interrupt else (0x302, 0x602)
            m, h = (self.a.csr_read(n) >> (cause & 63) & 1 for n in registers)
            self.result.delegated[cause, before, m, h] += 1
        return code

    def spike_step(self, pc: int, priv: int) -> tuple[int, int]:
        """Step Spike; set GVA where it forgets it: MPRV made an access of M-mode a guest's, and it faulted.

        Spike forgets it for access faults of LR, SC and cache-block operations only; the manual ("H", "mstatus") makes
        no such difference.
        """
        self.result.guest_steps += priv >> 2
        word = self.word(pc) if priv == M else 0
        block, reserved = word & 0x707F == 0x200F, word & 0x7F == 0x2F and word >> 28 == 1
        status = self.a.csr_read(0x300) if block or reserved else 0
        found = super().spike_step(pc, priv)
        as_guest = status & MPRV and status & MPV and status & MPP != MPP
        if as_guest and self.a.csr_read(0x341) == pc and self.a.csr_read(0x342) in (5, 7):
            self.a.csr_write(0x300, self.a.csr_read(0x300) | GVA)
        return found
