"""The few instructions that a hypervisor decodes: loads and stores that met a device, CSR accesses, HLV and HSV.

Source: unprivileged manual, chapters "RV32I", "RV64I" and "C"; privileged manual, "H", "Hypervisor Instructions".
"""
from __future__ import annotations

from typing import NamedTuple

LOAD, STORE, SYSTEM = 0x03, 0x23, 0x73
SRET, WFI = 0x1020_0073, 0x1050_0073
HFENCE_VVMA, HINVAL_VVMA, HFENCE_GVMA, HINVAL_GVMA, SFENCE_VMA, SINVAL_VMA = 0x11, 0x13, 0x31, 0x33, 0x09, 0x0B


class MemoryAccess(NamedTuple):
    """A load or a store of an x register: `width` in bytes, `length` of the instruction."""

    store: bool
    width: int
    signed: bool
    reg: int
    length: int

    def extended(self, value: int) -> int:
        """Return a value loaded as the register shows it."""
        bits = 8 * self.width
        value &= (1 << bits) - 1
        if self.signed and value >> bits - 1:
            value |= (1 << 64) - (1 << bits)
        return value


class HyperAccess(NamedTuple):
    """HLV, HLVX or HSV: `reg` is rd or rs2, `base` is rs1."""

    store: bool
    width: int
    signed: bool
    execute: bool
    reg: int
    base: int


# Compressed ones by quadrant and funct3: whether it stores, width.
_COMPRESSED = {(0, 2): (False, 4), (0, 3): (False, 8), (0, 6): (True, 4), (0, 7): (True, 8),
               (2, 2): (False, 4), (2, 3): (False, 8), (2, 6): (True, 4), (2, 7): (True, 8)}


def decode_access(word: int) -> MemoryAccess | None:
    """Return what a load or store of an x register does; None for anything else (floating point, atomics)."""
    funct3 = word >> 12 & 7
    if word & 3 == 3:
        if word & 0x7F == LOAD and funct3 < 7:
            return MemoryAccess(False, 1 << (funct3 & 3), funct3 < 4, word >> 7 & 31, 4)
        if word & 0x7F == STORE and funct3 < 4:
            return MemoryAccess(True, 1 << funct3, False, word >> 20 & 31, 4)
        return None
    found = _COMPRESSED.get((word & 3, word >> 13 & 7))
    if found is None:
        return None
    store, width = found
    if word & 3 == 0:
        reg = 8 + (word >> 2 & 7)
    else:
        reg = word >> 2 & 31 if store else word >> 7 & 31
    return MemoryAccess(store, width, not store, reg, 2)


def decode_transformed(tinst: int) -> MemoryAccess | None:
    """Return the access that a transformed instruction in htinst stands for; None for 0 and pseudoinstructions."""
    if not tinst & 1:
        return None
    access = decode_access(tinst | 2)
    return None if access is None else access._replace(length=4 if tinst & 2 else 2)


def decode_hyper(word: int) -> HyperAccess | None:
    """Return what HLV, HLVX and HSV do; None for anything else."""
    funct7, rs2, rd = word >> 25, word >> 20 & 31, word >> 7 & 31
    if word & 0x707F != 4 << 12 | SYSTEM or funct7 >> 3 != 0b0110:
        return None
    width = 1 << (funct7 >> 1 & 3)
    if funct7 & 1:
        return HyperAccess(True, width, False, False, rs2, word >> 15 & 31) if rd == 0 else None
    allowed = {1: (0, 1), 2: (0, 1, 3), 4: (0, 1, 3), 8: (0,)}[width]
    return HyperAccess(False, width, rs2 == 0, rs2 == 3, rd, word >> 15 & 31) if rs2 in allowed else None
