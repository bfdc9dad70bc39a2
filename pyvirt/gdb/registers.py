"""A hart's registers as GDB numbers, describes and transfers them.

Numbers are those of gdb's RISC-V target: x0 to x31, pc, f0 to f31, then CSRs at 65 + their number, and the privilege
mode. Source: "Debugging with GDB", appendix "Target Descriptions", "RISC-V Features".
"""
from __future__ import annotations

from xml.sax.saxutils import quoteattr

from pyvirt.assembly.csrnames import CSRS
from pyvirt.assembly.regnames import F_NAMES, X_NAMES
from pyvirt.hart import Hart

PC, F0, CSR0, PRIV = 32, 33, 65, 4161
FLOAT_CSRS = ("fflags", "frm", "fcsr")
MODES = {0: "U", 1: "S", 3: "M"}
TARGET = "target.xml"
# How gdb shows an integer register; others are plain integers.
TYPES = {"ra": "code_ptr", "sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr", "s0": "data_ptr"}


class RegisterFile:
    """The registers of machines of one kind: their numbers, and how each is read and written in a hart."""

    def __init__(self, hart: Hart) -> None:
        self._hyp = hart._hyp
        self.csrs = {CSR0 + CSRS[name]: name for name in hart.csr}
        self.floats = any(name in FLOAT_CSRS for name in self.csrs.values())
        self.main = [*range(33), *(range(F0, F0 + 32) if self.floats else ())]

    def read(self, hart: Hart, number: int) -> bytes | None:
        """Return a register's bytes, little-endian, or None for one that the hart does not have."""
        value: int | None = None
        if number < 32:
            value = getattr(hart, f"x{number}")
        elif number == PC:
            value = hart.pc
        elif F0 <= number < F0 + 32 and self.floats:
            value = getattr(hart, f"f{number - F0}")
        elif number in self.csrs:
            value = int(hart.csr[self.csrs[number]])
        elif number == PRIV:
            value = {"U": 0, "VU": 4, "S": 1, "HS": 1, "VS": 5, "M": 3}[hart.world]
        return None if value is None else value.to_bytes(self.width(number), "little")

    def write(self, hart: Hart, number: int, data: bytes) -> bool:
        """Write a register; False for one that the hart does not have, or a value that it can't hold."""
        value = int.from_bytes(data, "little")
        if number < 32:
            if number:
                setattr(hart, f"x{number}", value)
        elif number == PC and value & 1 == 0:
            hart.pc = value
        elif F0 <= number < F0 + 32 and self.floats:
            setattr(hart, f"f{number - F0}", value)
        elif number in self.csrs:
            hart.csr[self.csrs[number]] = value
        elif number == PRIV and value & ~4 in MODES and (value < 2 or value == 3 or (self._hyp and value < 6)):
            hart.world = f"V{MODES[value & 3]}" if value & 4 else "HS" if value == 1 and self._hyp else MODES[value]
        else:
            return False
        return True

    def describe(self) -> bytes:
        """Return the target description."""
        features = [("cpu", [(X_NAMES[n], n, TYPES.get(X_NAMES[n], "int")) for n in range(32)]
                     + [("pc", PC, "code_ptr")])]
        if self.floats:
            rows = [(F_NAMES[n], F0 + n, "ieee_double") for n in range(32)]
            rows += [(name, CSR0 + CSRS[name], "int") for name in FLOAT_CSRS]
            features.append(("fpu", rows))
        features.append(("csr", [(name, number, "int") for number, name in sorted(self.csrs.items())
                                 if name not in FLOAT_CSRS]))
        features.append(("virtual", [("priv", PRIV, "int")]))
        lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', '<target version="1.0">',
                 "<architecture>riscv:rv64</architecture>"]
        for feature, rows in features:
            lines.append(f'<feature name="org.gnu.gdb.riscv.{feature}">')
            lines += [f'<reg name={quoteattr(name)} bitsize="{8 * self.width(number)}" type="{type_}" '
                      f'regnum="{number}"/>' for name, number, type_ in rows]
            lines.append("</feature>")
        return "\n".join([*lines, "</target>", ""]).encode()

    def width(self, number: int) -> int:
        """Return how many bytes of a register are transferred."""
        return 4 if self.csrs.get(number) in FLOAT_CSRS else 8
