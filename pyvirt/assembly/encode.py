"""Operands to bits: one row of the table of instructions and its operands as tokens become an instruction word.

Owns how each kind of operand is written and what is said when it is wrong. Knows no labels, sections or directives:
the surroundings come in as an `asmexpr.Env`.
"""
from __future__ import annotations

import difflib
from collections.abc import Iterable

from pyvirt._isa import Insn
from pyvirt.assembly.asmexpr import Env, Token, error, evaluate, signed64
from pyvirt.assembly.csrnames import CSRS
from pyvirt.assembly.regnames import F_REGS, FLI, ROUNDING, X_REGS
from pyvirt.errors import AsmError

Operand = list[Token]
X_ALLOWED = "x0-x31, zero, ra, sp, gp, tp, fp, t0-t6, s0-s11, a0-a7"
F_ALLOWED = "f0-f31, ft0-ft11, fs0-fs11, fa0-fa7"
TARGETS = frozenset({"bimm", "jimm", "cbimm", "cjimm"})  # pc-relative: written as the address they go to
UPPERS = {"uimm": "0..0xfffff", "cuimm": "1..31 and 0xfffe0..0xfffff"}  # written as bits 31:12
# Conversions that can't round were given rne when the assembler was first written, and stay so (riscv-asm-manual).
RNE_BY_DEFAULT = frozenset({"fcvt.d.w", "fcvt.d.wu", "fcvt.d.s", "fcvt.s.h", "fcvt.d.h"})
FENCE_SETS = "iorw"
ORDERINGS = {".aq": (1, 0), ".rl": (0, 1), ".aqrl": (1, 1)}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known names nearest to a name, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(known), 3, 0.6)
    return f"; did you mean {', '.join(close)}?" if close else ""


def shown(operand: Operand) -> str:
    """Return an operand as it was written, give or take blanks."""
    return "".join(token.text for token in operand)


def register(row: str, kind: str, operand: Operand) -> int:
    """Return the number of a register operand; 3-bit kinds (rdc, fs2c) count from register 8."""
    floating = kind[0] == "f"
    known, letter = (F_REGS, "f") if floating else (X_REGS, "x")
    name = operand[0].text if len(operand) == 1 and operand[0].kind == "name" else ""
    if name not in known:
        wanted = "a floating-point" if floating else "an integer"
        allowed = F_ALLOWED if floating else X_ALLOWED
        hint = nearest(name, known) if name else ""
        raise error(operand[0], f"{row}: {shown(operand)!r} is not {wanted} register; allowed are {allowed}{hint}")
    value = known[name]
    if not kind.endswith("c"):
        return value
    if not 8 <= value <= 15:
        allowed = "fs0, fs1, fa0-fa5" if floating else "s0, s1, a0-a5"
        raise error(operand[0], f"{row}: {name} can't be used here; allowed are {letter}8-{letter}15 ({allowed})")
    return value - 8


def split_memory(operand: Operand) -> tuple[Operand, Operand] | None:
    """Split "offset(register)" into its two parts, or return None when the operand has no "(register)" at its end."""
    if len(operand) >= 3 and operand[-1].text == ")" and operand[-3].text == "(" and operand[-2].kind == "name":
        return operand[:-3], [operand[-2]]
    return None


def csr_number(row: str, operand: Operand, env: Env) -> int:
    """Return the number of a CSR operand: a name, or an expression from 0 to 0xfff."""
    token = operand[0]
    if len(operand) == 1 and token.kind == "name":
        if token.text in CSRS:
            return CSRS[token.text]
        if token.text not in X_REGS and token.text not in F_REGS:
            try:
                value = env.symbol(token)
            except AsmError:
                raise error(token, f"{row}: {token.text!r} is not a CSR{nearest(token.text, CSRS)} "
                            "(allowed are the names of pyvirt.assembly.csrnames and numbers 0..0xfff)") from None
        else:
            raise error(token, f"{row}: {token.text} is a register; a CSR's name or number 0..0xfff is expected")
    else:
        value = evaluate(operand, env)
    if not 0 <= value <= 0xFFF:
        raise error(token, f"{row}: CSR number {value:#x} is out of range 0..0xfff")
    return value


def fence_set(row: str, operand: Operand) -> int:
    """Return the four bits of a fence's set, written as a subset of "iorw" in that order, or 0 for none."""
    text = shown(operand)
    if text == "0":
        return 0
    if not text or any(c not in FENCE_SETS for c in text) or text != "".join(c for c in FENCE_SETS if c in text):
        raise error(operand[0], f"{row}: set {text!r} is malformed; "
                    "allowed are the letters i, o, r, w in this order, or 0")
    return sum(8 >> FENCE_SETS.index(c) for c in text)


def rounding(row: str, operand: Operand) -> int:
    """Return the three bits of a rounding mode's name."""
    text = shown(operand)
    if text not in ROUNDING:
        raise error(operand[0], f"{row}: rounding mode {text!r} is not known; allowed are {', '.join(ROUNDING)}")
    return ROUNDING[text]


def constant(row: str, operand: Operand) -> int:
    """Return the number of a floating-point constant that fli loads, written as a number, min, inf or nan."""
    text = shown(operand)
    if text in FLI:
        return FLI.index(text)
    try:
        return [float(known) if known != "min" else None for known in FLI].index(float(text))
    except ValueError:
        raise error(operand[0], f"{row}: constant {text!r} can't be loaded; allowed are {', '.join(FLI)}") from None


def immediate(row: Insn, kind: str, operand: Operand, env: Env) -> int:
    """Return the instruction bits of an immediate operand, in range of its field."""
    field = row.fields[kind]
    value = signed64(evaluate(operand, env)) if field.signed else evaluate(operand, env)
    if kind in TARGETS:
        distance = signed64(value - env.here)
        if not field.lo <= distance <= field.hi or distance % field.step:
            wrong = "odd" if distance % field.step else f"out of its reach {field.lo}..{field.hi}"
            raise error(operand[0], f"{row.name}: {shown(operand)} is {distance} bytes away, which is {wrong}")
        return field.insert(distance)
    if kind in UPPERS:
        wide = ((value << 12) ^ 1 << 31) - (1 << 31)
        if not 0 <= value <= 0xFFFFF or not field.lo <= wide <= field.hi:
            raise error(operand[0], f"{row.name}: immediate {value:#x} is out of range {UPPERS[kind]} (bits 31:12)")
        value = wide
    try:
        bits = field.insert(value)
    except ValueError:
        step = f" in steps of {field.step}" if field.step > 1 else ""
        raise error(operand[0], f"{row.name}: immediate {value} is out of range {field.lo}..{field.hi}{step}") from None
    if (kind, value) in row.forbidden:
        raise error(operand[0], f"{row.name}: immediate {value} is reserved; "
                    f"allowed are {field.lo}..{field.hi} without it")
    return bits


def _memory(row: Insn, kind: str, operand: Operand, env: Env) -> int:
    name, base = kind[:-1].split("(")
    parts = split_memory(operand)
    if parts is None:
        raise error(operand[0], f"{row.name}: {shown(operand)!r} is not a memory operand; "
                    f"expected {name + '(register)' if name else '(register)'}")
    offset, reg = parts
    bits = 0
    if name:
        bits = immediate(row, name, offset, env) if offset else immediate(row, name, [ZERO], env)
    elif offset and evaluate(offset, env):
        raise error(offset[0], f"{row.name}: offset {shown(offset)} is not allowed; allowed is (register)")
    return bits | _plain(row, base, reg, env)


def _plain(row: Insn, kind: str, operand: Operand, env: Env) -> int:
    if kind == "sp":
        if shown(operand) not in ("sp", "x2"):
            raise error(operand[0], f"{row.name}: {shown(operand)!r} can't be used here; allowed is sp (x2)")
        return 0
    if kind == "rtz":
        if shown(operand) != "rtz":
            raise error(operand[0], f"{row.name}: {shown(operand)!r} can't be used here; allowed is rtz")
        return 0
    if kind == "fli":
        return row.fields["fli"].insert(constant(row.name, operand))
    if kind == "csr":
        return row.fields["csr"].insert(csr_number(row.name, operand, env))
    if kind in ("pred", "succ"):
        return row.fields[kind].insert(fence_set(row.name, operand))
    if kind == "rm":
        return row.fields["rm"].insert(rounding(row.name, operand))
    if kind[0] in "rf":
        value = register(row.name, kind, operand)
        if (kind, value) in row.forbidden:
            raise error(operand[0], f"{row.name}: {shown(operand)} is reserved here; allowed is any other register")
        return row.fields[kind].insert(value)
    return immediate(row, kind, operand, env)


ZERO = Token("int", "0", 0, 0, 0)


def encode(row: Insn, head: Token, operands: list[Operand], env: Env, *, ordering: str = "") -> int:
    """Return the instruction word of a row with its operands; AsmError when their number or one of them is wrong."""
    kinds = row.operands
    if row.name == "c.nop" and operands:
        kinds = ("cimm",)  # the hint forms, as GNU as writes them
    optional = 1 if kinds and kinds[-1] == "rm" else 0
    if not len(kinds) - optional <= len(operands) <= len(kinds):
        least = f"{len(kinds) - 1} or " if optional else ""
        raise error(head, f"{row.name} takes {least}{len(kinds)} operands ({', '.join(kinds) or 'none'}); "
                    f"found {len(operands)}")
    word = row.match
    if ordering:
        word |= row.fields["aq"].insert(ORDERINGS[ordering][0]) | row.fields["rl"].insert(ORDERINGS[ordering][1])
    if optional and len(operands) < len(kinds):
        word |= row.fields["rm"].insert(0 if row.name in RNE_BY_DEFAULT else ROUNDING["dyn"])
    for kind, operand in zip(kinds, operands, strict=False):
        if not operand:
            raise error(head, f"{row.name}: operand {kinds.index(kind) + 1} ({kind}) is empty")
        word |= _memory(row, kind, operand, env) if "(" in kind else _plain(row, kind, operand, env)
    return word
