"""Names of the integer and floating-point registers: ABI names, architectural names, and what may be typed.

Owned here once, for the assembler, the disassembler and `hart`.
"""
from __future__ import annotations

X_NAMES: tuple[str, ...] = (
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5",
    "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
)
F_NAMES: tuple[str, ...] = (
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5",
    "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11",
)
X_REGS: dict[str, int] = {
    **{name: n for n, name in enumerate(X_NAMES)}, **{f"x{n}": n for n in range(32)}, "fp": 8,
}
F_REGS: dict[str, int] = {**{name: n for n, name in enumerate(F_NAMES)}, **{f"f{n}": n for n in range(32)}}
# What fli loads, by its number: unprivileged manual, "Zfa", table of immediates. 1 is the smallest normal number.
FLI: tuple[str, ...] = (
    "-1.0", "min", "1.52587890625e-05", "3.0517578125e-05", "0.00390625", "0.0078125", "0.0625", "0.125", "0.25",
    "0.3125", "0.375", "0.4375", "0.5", "0.625", "0.75", "0.875", "1.0", "1.25", "1.5", "1.75", "2.0", "2.5", "3.0",
    "4.0", "8.0", "16.0", "128.0", "256.0", "32768.0", "65536.0", "inf", "nan",
)
# Rounding modes as operands: unprivileged manual, "Floating-Point Control and Status Register".
ROUNDING: dict[str, int] = {"rne": 0, "rtz": 1, "rdn": 2, "rup": 3, "rmm": 4, "dyn": 7}
