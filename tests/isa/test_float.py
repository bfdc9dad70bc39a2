"""F, D, Zfh and Zfa bodies against SoftFloat: values at every border, all rounding modes, all paths, flags."""
from __future__ import annotations

import math
import random
import struct
import threading
from collections.abc import Iterable, Iterator
from itertools import product
from types import ModuleType

import pytest

from pyvirt import _fpcheck as fp

BOX = {16: 0xFFFF_FFFF_FFFF_0000, 32: 0xFFFF_FFFF_0000_0000, 64: 0}
MASK = (1 << 64) - 1
RNE, RTZ, RDN, RUP, RMM = range(5)
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
PATHS = (("native", (RNE, RTZ, RDN, RUP)), ("soft", (RNE, RTZ, RDN, RUP, RMM)), ("fallback", (RNE, RTZ, RDN, RUP, RMM)))
BODIES = fp.names()
Operands = tuple[int, int, int]

PRECISION = {16: 11, 32: 24, 64: 53}
EXPONENT_BITS = {16: 5, 32: 8, 64: 11}
WIDTHS = {"h": 16, "s": 32, "d": 64}
INTEGER_NAMES = {"w", "wu", "l", "lu"}


def encode(width: int, value: float) -> int:
    """Return the image of a number that the format holds exactly."""
    return int.from_bytes(struct.pack({16: "<e", 32: "<f", 64: "<d"}[width], value), "little")


def magnitudes(width: int) -> list[int]:
    """Return positive images at the borders of the format, of the integer types, and of rounding."""
    p, bias = PRECISION[width], (1 << EXPONENT_BITS[width] - 1) - 1
    inf, one, ulp = (2 * bias + 1) << (p - 1), bias << (p - 1), 1
    quiet, least = 1 << (p - 2), 1 << (p - 1)
    found = [0, 1, 2, 3, least // 2, least - 1, least, least + 1, 2 * least - 1, 2 * least, one - ulp, one, one + ulp]
    found += [encode(width, v) for v in (0.25, 0.5, 0.75, 1.5, 2.0, 2.5, 3.0, 3.5, 10.0, 255.0)]
    for power in (10, 11, 15) if width == 16 else (31, 32, 52, 53, 62, 63, 64):
        edge = (bias + power) << (p - 1)
        found += [edge - 1, edge, edge + 1]
    if width == 64:
        found += [encode(64, 2**31 + off) for off in (-1.5, -1.0, -0.5, 0.5, 1.0)]
        found += [encode(64, 2**32 + off) for off in (-1.5, -1.0, -0.5, 0.5)]
        # for fcvt.s.d: the borders of single precision, and halves of its steps
        for v in (2.0**-126, 2.0**-149, 2.0**-150, 2.0**128, 2.0**128 - 2.0**103, 1 + 2.0**-24, 1 + 3 * 2.0**-24):
            found += [encode(64, v) - 1, encode(64, v), encode(64, v) + 1]
    if width > 16:
        # for fcvt.h.s and fcvt.h.d: the same of half precision
        for v in (2.0**-14, 2.0**-24, 2.0**-25, 2.0**16, 2.0**16 - 2.0**4, 1 + 2.0**-11, 1 + 3 * 2.0**-11):
            found += [encode(width, v) - 1, encode(width, v), encode(width, v) + 1]
    found += [inf - least, inf - 2, inf - 1, inf, inf | quiet, inf | quiet | 5, inf | 1, inf | quiet - 1]
    return sorted(set(found))


def registers(width: int, images: Iterable[int]) -> list[int]:
    """Return register values: both signs, halves and singles boxed, and some that are not."""
    both = [v | s for v in images for s in (0, 1 << (width - 1))]
    if width == 64:
        return both
    unboxed = [0, 0x3F80_0000, 0xFFFF_FFFE_3F80_0000, 0x7FFF_FFFF_3F80_0000, 0x3FF0_0000_0000_0000, 0xFFFF_FFFF << 31]
    if width == 16:
        unboxed = [0, 0x3C00, 0xFFFF_FFFF_FFFE_3C00, 0x7FFF_FFFF_FFFF_3C00, 0xFFFF_FFFF_3F80_0000, MASK << 17 & MASK]
    return [v | BOX[width] for v in both] + unboxed


def some(width: int, count: int) -> list[int]:
    """Return `count` magnitudes spread over the list, the special ones always among them."""
    every = magnitudes(width)
    p, bias = PRECISION[width], (1 << EXPONENT_BITS[width] - 1) - 1
    inf, least = (2 * bias + 1) << (p - 1), 1 << (p - 1)
    one = bias << (p - 1)
    special = [0, 1, least - 1, least, one, one + 1, inf - 1, inf, inf | 1 << (p - 2), inf | 1]
    rest = [v for v in every if v not in special]
    return special + rest[:: max(1, len(rest) // max(1, count - len(special)))][: max(0, count - len(special))]


def draw(rng: random.Random, width: int) -> int:
    """Return a random register value: exponents crowd around the borders, fractions are sparse, dense or random."""
    p, bias = PRECISION[width], (1 << EXPONENT_BITS[width] - 1) - 1
    top = 2 * bias + 1
    around = rng.choice([0, 1, bias // 2, bias - p, bias, bias, bias, bias + 31, bias + 63, bias + bias // 2, top - 1])
    exponent = min(top, max(0, around + rng.randint(-3, 3)))
    bits = rng.getrandbits(p - 1)
    kind = rng.randrange(5)
    if kind == 0:
        bits &= rng.getrandbits(p - 1) & rng.getrandbits(p - 1)
    elif kind == 1:
        bits |= rng.getrandbits(p - 1) | rng.getrandbits(p - 1)
    elif kind == 2:
        bits = (1 << p - 1) - 1 - (bits >> rng.randrange(p - 1))
    elif kind == 3:
        bits = (bits >> rng.randrange(p)) & ((1 << p - 1) - 1)
    image = rng.getrandbits(1) << (width - 1) | exponent << (p - 1) | bits
    return image | BOX[width]


def judged(softfloat: ModuleType, name: str, rm: int, operands: Operands) -> tuple[int, int]:
    """Return what the manual wants of one instruction, by SoftFloat: (register, flags)."""
    op, *types = name.split(".")
    if op == "fmv":
        width = {**WIDTHS, "w": 32}[types[1] if types[0] == "x" else types[0]]
        low = operands[0] & (1 << width) - 1
        if types[0] == "x":
            return low | BOX[width] if low >> width - 1 else low, 0
        return low | BOX[width], 0
    if op == "fli":
        return fli(WIDTHS[types[0]], operands[0]), 0

    def image(kind: str, v: int) -> int:
        box = BOX[WIDTHS[kind]]
        return v ^ box if v & box == box else int(softfloat.QNAN[WIDTHS[kind]])

    def as_is(result: tuple[int, int]) -> tuple[int, int]:
        return result

    def register(kind: str, result: tuple[int, int]) -> tuple[int, int]:
        return result[0] | BOX[WIDTHS[kind]], result[1]

    if op == "fcvt":
        to, source = types
        if to in INTEGER_NAMES:
            return as_is(softfloat.to_int(to, WIDTHS[source], rm, image(source, operands[0])))
        width = WIDTHS[to]
        if source in INTEGER_NAMES:
            return register(to, softfloat.from_int(source, width, rm, operands[0]))
        return register(to, softfloat.resize(WIDTHS[source], width, rm, image(source, operands[0])))
    kind = types[0]
    width = WIDTHS[types[-1]]
    if op == "fcvtmod":
        return modular(softfloat, operands[0])
    a, b, c = (image(kind, v) for v in operands)
    if op in ("feq", "flt", "fle", "fltq", "fleq"):
        return as_is(softfloat.compare(op, width, a, b))
    if op in ("fround", "froundnx"):
        return register(kind, softfloat.integral(width, rm, a, inexact=op == "froundnx"))
    if op in ("fmin", "fmax", "fminm", "fmaxm"):
        return register(kind, softfloat.minmax(op, width, a, b))
    if op.startswith("fsgnj"):
        return register(kind, softfloat.sign_inject(op, width, a, b))
    if op == "fclass":
        return as_is(softfloat.classify(width, a))
    values = (a, b, c)[: BODIES[name][0]]
    return register(kind, softfloat.arithmetic(op, width, rm, *values))


def fli(width: int, number: int) -> int:
    """Return the register that fli loads."""
    from pyvirt.assembly.regnames import FLI

    text = FLI[number]
    if text == "min":
        return 1 << PRECISION[width] - 1 | BOX[width]
    if text == "nan":
        return {16: 0x7E00, 32: 0x7FC0_0000, 64: 0x7FF8 << 48}[width] | BOX[width]
    if width == 16 and text == "65536.0":
        text = "inf"
    return encode(width, float(text)) | BOX[width]


def modular(softfloat: ModuleType, bits: int) -> tuple[int, int]:
    """Return what fcvtmod.w.d makes of a double: its integer part modulo 2^32, and the flags of fcvt.w.d."""
    value = struct.unpack("<d", bits.to_bytes(8, "little"))[0]
    low = int(value) & 0xFFFF_FFFF if math.isfinite(value) else 0
    return low | 0xFFFF_FFFF_0000_0000 if low >> 31 else low, softfloat.to_int("w", 64, RTZ, bits)[1]


def compare(softfloat: ModuleType, name: str, operands: list[Operands]) -> int:
    """Check each path in each mode; return how many results were compared."""
    rounds, done, wrong = BODIES[name][1], 0, []
    for rm in (RNE, RTZ, RDN, RUP, RMM):
        paths = [path for path, modes in PATHS if rm in modes and (rounds or path == "native")]
        if not paths or (not rounds and rm != RNE):
            continue
        wanted = [judged(softfloat, name, rm, abc) for abc in operands]
        for path in paths:
            got = fp.sweep(name, operands, rm, path=path)
            done += len(got)
            if got == wanted:
                continue
            for abc, g, w in zip(operands, got, wanted, strict=True):
                if g != w:
                    shown = ", ".join(f"{v:#018x}" for v in abc[: BODIES[name][0]])
                    want = f"want {w[0]:#x} flags {w[1]}"
                    wrong.append(f"{name} rm={rm} {path} of {shown}: {g[0]:#x} flags {g[1]}, {want}")
    assert not wrong, f"{len(wrong)} of {done} differ:\n" + "\n".join(wrong[:20])
    return done


def source_width(name: str) -> int:
    """Return the width of a floating operand, 0 for an integer operand."""
    kind = name.split(".")[-1]
    if name.startswith("fli"):
        return 0
    return WIDTHS.get(kind, 0) if name.startswith("fcvt") or kind in WIDTHS else 0


def integers() -> list[int]:
    """Return x-register values at the borders of the integer types and of both precisions."""
    found = {0, 1, 2, 3}
    for power in (22, 23, 24, 25, 31, 32, 33, 52, 53, 54, 55, 62, 63, 64):
        for off in (-3, -2, -1, 0, 1, 2, 3):
            found.add((1 << power) + off & MASK)
            found.add(-(1 << power) + off & MASK)
    for power in (31, 32, 63, 64):  # ties of both precisions just below and above half a step
        for p in (11, 24, 53):
            half = 1 << max(0, power - p - 1)
            found |= {((1 << power) - half + off) & MASK for off in (-1, 0, 1)}
            found |= {((1 << power - 1) + half + off) & MASK for off in (-1, 0, 1)}
    return sorted(found)


def borders(name: str) -> list[Operands]:
    """Return the cross product of interesting values for one instruction."""
    count, width = BODIES[name][0], source_width(name)
    if count == 1 and width == 16:
        return [(v | BOX[16], 0, 0) for v in range(1 << 16)] + [(v, 0, 0) for v in registers(16, [1])]
    if count == 1:
        values = registers(width, magnitudes(width)) if width else integers()
        if name.startswith("fmv"):
            values = registers(16, magnitudes(16)) + registers(32, magnitudes(32)) + integers()
        if name.startswith("fli"):
            values = list(range(32)) * 4
        return [(v, 0, 0) for v in values]
    if count == 2:
        return [(a, b, 0) for a, b in product(registers(width, magnitudes(width)), repeat=2)]
    values = registers(width, some(width, 15 if name.startswith("fmadd") else 10))[:30]
    return [(a, b, c) for a, b, c in product(values, repeat=3)]


def drawn(name: str, count: int) -> Iterator[Operands]:
    """Yield random operands; a third aims at exact cancellation, at the smallest normal number, or at ties."""
    rng = random.Random(f"{name}:{count}")
    width = source_width(name)
    for i in range(count):
        if name.startswith("fli"):
            yield i % 32, 0, 0
            continue
        if not width:
            yield rng.getrandbits(64) >> rng.randrange(64) ^ (MASK if rng.getrandbits(1) else 0), 0, 0
            continue
        a, b, c = (draw(rng, width) for _ in range(3))
        if i % 3 == 0:
            a, b, c = aimed(rng, width, a, b, c)
        yield a, b, c


def aimed(rng: random.Random, width: int, a: int, b: int, c: int) -> Operands:
    """Change b or c so that the operation ends at a border: a × b, a / b at the smallest normal, c near -(a × b)."""
    p, bias = PRECISION[width], (1 << EXPONENT_BITS[width] - 1) - 1
    top, low, box = 2 * bias + 1, (1 << p - 1) - 1, BOX[width]
    ea = a >> (p - 1) & top
    fraction = rng.choice([low - rng.randrange(4), rng.randrange(4), rng.getrandbits(p - 1)])
    kind = rng.randrange(4)
    if kind == 0:  # product at the border of the normal range
        eb = 1 + bias - ea + rng.randint(-2, 1)
    elif kind == 1:  # quotient there
        eb = ea - 1 + bias + rng.randint(-2, 1)
    elif kind == 2:  # sums that cancel
        eb = ea + rng.randint(-1, 1)
    else:
        eb = b >> (p - 1) & top
    eb = min(top - 1, max(0, eb))
    b = (b >> width - 1 & 1) << width - 1 | eb << p - 1 | fraction
    ec = min(top - 1, max(0, ea + eb - bias + rng.randint(-1, 1)))
    c = (~(a ^ b) >> width - 1 & 1) << width - 1 | ec << p - 1 | rng.choice([0, c & low])
    return a, b | box, c | box


def test_every_instruction_has_a_body() -> None:
    from pyvirt import _isa

    wanted = {i.name for i in _isa.ISA if i.kind == "fp"}
    assert wanted == set(BODIES)


def test_rm_fields_match_the_table() -> None:
    from pyvirt import _isa

    for name, (_, rounds) in BODIES.items():
        assert ("rm" in _isa.BY_NAME[name].fields) == rounds, name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BODIES))
def test_borders(softfloat: ModuleType, name: str) -> None:
    assert compare(softfloat, name, borders(name)) >= 100


@pytest.mark.parametrize("name", sorted(BODIES))
def test_random(softfloat: ModuleType, name: str) -> None:
    assert compare(softfloat, name, list(drawn(name, 2_000))) >= 2_000


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", sorted(BODIES))
def test_random_at_length(softfloat: ModuleType, name: str) -> None:
    assert compare(softfloat, name, list(drawn(name, 300_000))) >= 300_000


def test_last_bit_of_a_product_breaks_a_tie(softfloat: ModuleType) -> None:
    """(2^25 + 1) × (2^50 - 2^25 + 1) = 2^75 + 1: the one is 128 bits below the top of a sum with 2^128."""
    a, b = encode(64, 2.0**25 + 1), encode(64, 2.0**50 - 2.0**25 + 1)
    minus = 1 << 63
    starts = [2.0**power * odd for power in (127, 128, 129) for odd in (1.0, 1 + 2.0**-52)]
    addends = [encode(64, v) | sign for v in starts for sign in (0, minus)]
    cases = [(a | sign, b, c) for c in addends for sign in (0, minus)]
    assert compare(softfloat, "fmadd.d", cases) > 0
    assert fp.call("fmadd.d", a, b, encode(64, 2.0**128)) == (encode(64, 2.0**128 + 2.0**76), NX)


# ---- facts of the manual, without an oracle

ONE, INF_D, QNAN_D, SNAN_D = 0x3FF0 << 48, 0x7FF0 << 48, 0x7FF8 << 48, (0x7FF0 << 48) | 1


@pytest.mark.parametrize("path", [p for p, _ in PATHS])
def test_inf_times_zero_plus_quiet_nan_is_invalid(path: str) -> None:
    for a, b in ((INF_D, 0), (0, INF_D)):
        assert fp.call("fmadd.d", a, b, QNAN_D | 7, path=path) == (QNAN_D, NV)
    assert fp.call("fmadd.d", INF_D, ONE, QNAN_D | 7, path=path) == (QNAN_D, 0)


def test_comparisons_differ_in_what_a_quiet_nan_raises() -> None:
    assert fp.call("feq.d", QNAN_D, ONE) == (0, 0)
    assert fp.call("feq.d", SNAN_D, ONE) == (0, NV)
    assert fp.call("flt.d", QNAN_D, ONE) == (0, NV)
    assert fp.call("fle.s", ONE, ONE) == (0, NV)  # not boxed: the canonical NaN


def test_minimum_orders_zeros_and_prefers_numbers() -> None:
    minus = 1 << 63
    assert fp.call("fmin.d", 0, minus) == fp.call("fmin.d", minus, 0) == (minus, 0)
    assert fp.call("fmax.d", 0, minus) == fp.call("fmax.d", minus, 0) == (0, 0)
    assert fp.call("fmax.d", SNAN_D, ONE) == (ONE, NV)
    assert fp.call("fmin.d", QNAN_D | 3, QNAN_D | 9) == (QNAN_D, 0)


@pytest.mark.parametrize("path", [p for p, _ in PATHS])
def test_tininess_is_found_after_rounding(path: str) -> None:
    # (1 - 2^-53) × (2^-1022 × (1 + 2^-52)) rounds up to the smallest normal: inexact, not underflow
    assert fp.call("fmul.d", ONE - 1, (1 << 52) + 1, path=path) == (1 << 52, NX)
    # (1 - 2^-53) × 2^-1022 fits 53 bits if the exponent had no end, and so is tiny although it rounds to a normal
    assert fp.call("fmul.d", ONE - 1, 1 << 52, path=path) == (1 << 52, NX | UF)


# ---- flags and modes

@pytest.mark.parametrize("path", [p for p, _ in PATHS])
def test_flags_accumulate(path: str) -> None:
    """No body clears a flag, and none adds one for the sake of another."""
    for name, operands, own in (
        ("fdiv.d", (ONE, 0, 0), DZ),
        ("fadd.d", (ONE, ONE, 0), 0),
        ("fsqrt.d", (ONE | 1 << 63, 0, 0), NV),
        ("fcvt.w.d", (0xC1F0 << 48, 0, 0), NV),  # -2^32: invalid, not inexact
        ("fcvt.wu.d", (0xBFE0 << 48, 0, 0), NX),  # -0.5 rounds to 0
    ):
        for raised in range(32):
            assert fp.call(name, *operands, path=path, raised=raised)[1] == raised | own, (name, raised)


@pytest.mark.parametrize("frm", [RNE, RTZ, RDN, RUP])
def test_soft_bodies_ignore_the_mode_of_the_host(frm: int) -> None:
    rng = random.Random(5)
    for name, (_, rounds) in BODIES.items():
        if not rounds:
            continue
        for _ in range(40):
            a, b, c = (draw(rng, source_width(name) or 64) for _ in range(3))
            for rm in range(5):
                for path in ("soft", "fallback"):
                    here = fp.call(name, a, b, c, rm=rm, path=path, frm=frm)
                    assert here == fp.call(name, a, b, c, rm=rm, path=path), (name, rm, path)


def test_environment_is_given_back() -> None:
    before = fp.environment()
    third = 1.0 / 3.0
    for rm in range(5):
        fp.call("fdiv.d", ONE, 0, rm=rm)
        fp.call("fadd.d", ONE, 1, rm=rm)
        assert fp.environment() == before
        assert float("1.0") / float("3.0") == third


def test_modes_and_flags_round_trip() -> None:
    assert fp.walk([("read", 0)]) == [(RNE, 0)]
    for rm, host in ((RNE, RNE), (RTZ, RTZ), (RDN, RDN), (RUP, RUP), (RMM, RNE), (5, RNE), (7, RNE)):
        for flags in range(32):
            steps = [("raise", flags), ("round", rm), ("read", 0), ("raise", 0), ("read", 0), ("clear", 0), ("read", 0)]
            assert fp.walk(steps) == [(host, flags), (host, flags), (host, 0)]


def test_each_thread_has_its_own_environment() -> None:
    seen: list[object] = []

    def other() -> None:
        seen.append(fp.environment()[0])
        fp.call("fdiv.d", ONE, 0, rm=RUP)
        seen.append(fp.call("fadd.d", ONE, 1, rm=RUP))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [RNE, (ONE + 1, NX)]


def test_bodies_without_rm_have_no_soft_path() -> None:
    with pytest.raises(ValueError, match=r"path='soft': fmin\.d has no rm field, allowed is 'native'"):
        fp.call("fmin.d", 0, 0, path="soft")
