"""Berkeley SoftFloat as the judge of F and D, from the wheel `softfloatpy`.

Operands and results are bit patterns of the precision; NaN boxing is the caller's. The wheel is built with
SoftFloat's RISC-V specialisation (canonical NaN 0x7fc00000, tininess after rounding, saturating conversions), which
`check` proves before any test trusts it. What SoftFloat does not have (min, max, sign injection, classification) is
written here after the unprivileged manual, chapters "F" and "D".
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

VERSION = "1.2.3.post1"
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM = range(5)
ROUNDING = (RNE, RTZ, RDN, RUP, RMM)

QNAN = {16: 0x7E00, 32: 0x7FC0_0000, 64: 0x7FF8_0000_0000_0000}
_EXPONENT = {16: 0x7C00, 32: 0x7F80_0000, 64: 0x7FF0_0000_0000_0000}
_QUIET = {16: 0x0200, 32: 0x0040_0000, 64: 0x0008_0000_0000_0000}
_SIGN = {16: 1 << 15, 32: 1 << 31, 64: 1 << 63}

Result = tuple[int, int]


class SoftFloatUnavailable(RuntimeError):
    """The wheel is missing, is another version, or is not specialised for RISC-V."""


@cache
def _module() -> Any:
    # Spike's library exports functions of the same names to the whole process; without DEEPBIND the wheel would call
    # those.
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_NOW | os.RTLD_DEEPBIND)
    try:
        import softfloatpy
    except ImportError as e:
        raise SoftFloatUnavailable(f"softfloatpy cannot be imported ({e}): pip install softfloatpy=={VERSION}") from e
    finally:
        sys.setdlopenflags(flags)
    return softfloatpy


def _box(width: int, bits: int) -> Any:
    sf = _module()
    return {16: sf.Float16, 32: sf.Float32, 64: sf.Float64}[width].from_bytes(bits.to_bytes(width // 8, "big"))


def _call(rm: int, function: Callable[..., Any], *args: Any) -> tuple[Any, int]:
    sf = _module()
    sf.set_rounding_mode(sf.RoundingMode(rm))
    sf.set_exception_flags(sf.ExceptionFlag(0))
    result = function(*args)
    return result, int(sf.get_exception_flags())


def is_nan(width: int, bits: int) -> bool:
    """Return whether a bit pattern is a NaN."""
    return bits & ~_SIGN[width] > _EXPONENT[width]


def is_snan(width: int, bits: int) -> bool:
    """Return whether a bit pattern is a signaling NaN."""
    return is_nan(width, bits) and not bits & _QUIET[width]


def arithmetic(op: str, width: int, rm: int, *operands: int) -> Result:
    """Return (bits, flags) of add, sub, mul, div, sqrt, or of fmadd, fmsub, fnmsub, fnmadd, at 32 or 64 bits."""
    sf = _module()
    prefix = f"f{width}_"
    if op in ("fmadd", "fmsub", "fnmsub", "fnmadd"):
        a, b, c = operands
        if op in ("fnmsub", "fnmadd"):
            a ^= _SIGN[width]
        if op in ("fmsub", "fnmadd"):
            c ^= _SIGN[width]
        name, operands = "mul_add", (a, b, c)
    else:
        name = op.removeprefix("f")
    value, flags = _call(rm, getattr(sf, prefix + name), *(_box(width, o) for o in operands))
    return int.from_bytes(value.to_bytes(), "big"), flags


def compare(op: str, width: int, a: int, b: int) -> Result:
    """Return (0 or 1, flags) of feq, fltq and fleq (quiet), flt and fle (signaling)."""
    sf = _module()
    name = {"feq": "eq", "flt": "lt", "fle": "le", "fltq": "lt_quiet", "fleq": "le_quiet"}[op]
    value, flags = _call(RNE, getattr(sf, f"f{width}_{name}"), _box(width, a), _box(width, b))
    return int(bool(value)), flags


def minmax(op: str, width: int, a: int, b: int) -> Result:
    """Return (bits, flags) of fmin and fmax, and of fminm and fmaxm, whose NaN stays: -0 is below +0."""
    flags = NV if is_snan(width, a) or is_snan(width, b) else 0
    if is_nan(width, a) or is_nan(width, b):
        if op.endswith("m") or (is_nan(width, a) and is_nan(width, b)):
            return QNAN[width], flags
        return (b if is_nan(width, a) else a), flags
    sign = _SIGN[width]

    def key(v: int) -> int:  # order of magnitudes with sign, -0 before +0
        return -(v & ~sign) - 1 if v & sign else v

    lower, upper = sorted((a, b), key=key)
    return (lower if op.startswith("fmin") else upper), flags


def sign_inject(op: str, width: int, a: int, b: int) -> Result:
    """Return (bits, 0) of fsgnj, fsgnjn, fsgnjx."""
    sign = _SIGN[width]
    bit = {"fsgnj": b, "fsgnjn": ~b, "fsgnjx": a ^ b}[op] & sign
    return a & ~sign | bit, 0


def classify(width: int, bits: int) -> Result:
    """Return (mask of one bit, 0) of fclass."""
    negative, magnitude = bool(bits & _SIGN[width]), bits & ~_SIGN[width]
    if is_nan(width, bits):
        return (1 << 8 if is_snan(width, bits) else 1 << 9), 0
    if magnitude == _EXPONENT[width]:
        return 1 << (0 if negative else 7), 0
    if magnitude == 0:
        return 1 << (3 if negative else 4), 0
    subnormal = magnitude & _EXPONENT[width] == 0
    return 1 << ((2 if subnormal else 1) if negative else (5 if subnormal else 6)), 0


_INT = {"w": ("i32", 32, True), "wu": ("ui32", 32, False), "l": ("i64", 64, True), "lu": ("ui64", 64, False)}


def to_int(kind: str, width: int, rm: int, bits: int) -> Result:
    """Return (what the x register gets, flags) of fcvt.{w,wu,l,lu}.{h,s,d}: 32-bit results are sign-extended."""
    sf = _module()
    name, size, _ = _INT[kind]
    value, flags = _call(rm, getattr(sf, f"f{width}_to_{name}"), _box(width, bits))
    raw = int.from_bytes(value.to_bytes(), "big")
    if size == 32 and raw >> 31:
        raw |= 0xFFFF_FFFF_0000_0000
    return raw, flags


def from_int(kind: str, width: int, rm: int, value: int) -> Result:
    """Return (bits, flags) of fcvt.{h,s,d}.{w,wu,l,lu} of the low bits of an x register."""
    sf = _module()
    name, size, _ = _INT[kind]
    cls = {"i32": sf.Int32, "ui32": sf.UInt32, "i64": sf.Int64, "ui64": sf.UInt64}[name]
    operand = cls.from_bytes((value & ((1 << size) - 1)).to_bytes(size // 8, "big"))
    result, flags = _call(rm, getattr(sf, f"{name}_to_f{width}"), operand)
    return int.from_bytes(result.to_bytes(), "big"), flags


def integral(width: int, rm: int, bits: int, *, inexact: bool) -> Result:
    """Return (bits, flags) of froundnx, or of fround, which is never inexact."""
    sf = _module()
    function = getattr(sf, f"f{width}_round_to_int")
    result, flags = _call(rm, lambda value: function(value, sf.RoundingMode(rm), inexact), _box(width, bits))
    return int.from_bytes(result.to_bytes(), "big"), flags


def resize(source: int, to: int, rm: int, bits: int) -> Result:
    """Return (bits, flags) of a conversion between the formats of these widths."""
    sf = _module()
    result, flags = _call(rm, getattr(sf, f"f{source}_to_f{to}"), _box(source, bits))
    return int.from_bytes(result.to_bytes(), "big"), flags


def check() -> None:
    """Raise SoftFloatUnavailable unless the wheel is the pinned version and follows RISC-V's rules."""
    from importlib.metadata import version

    _module()
    if (found := version("softfloatpy")) != VERSION:
        raise SoftFloatUnavailable(f"softfloatpy {found} is installed, the pinned version is {VERSION}")
    facts = (
        (arithmetic("fadd", 32, RNE, 0xFFC1_2345, 0x3F80_0000), (QNAN[32], 0)),  # no payload survives
        (arithmetic("fadd", 32, RNE, 0x7FA0_0001, 0x3F80_0000), (QNAN[32], NV)),
        (arithmetic("fmadd", 64, RNE, 0x7FF0 << 48, 0, QNAN[64]), (QNAN[64], NV)),  # inf * 0 + qNaN is invalid
        (to_int("w", 64, RNE, 0xFFF8 << 48), (0x7FFF_FFFF, NV)),  # NaN converts to the largest
        (to_int("wu", 64, RNE, 0x7FF8 << 48), (0xFFFF_FFFF_FFFF_FFFF, NV)),
        # Tiny before rounding and not after: no underflow where tininess is detected after rounding.
        (arithmetic("fmul", 32, RNE, 0x3F7F_FFFF, 0x0080_0001), (0x0080_0000, NX)),
    )
    for i, (got, want) in enumerate(facts):
        if got != want:
            raise SoftFloatUnavailable(f"fact {i} of RISC-V's rules: got {got}, want {want}")
