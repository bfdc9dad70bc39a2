"""The oracles judge themselves: where two of them know the same thing, they must agree."""
from __future__ import annotations

import random
import struct
from collections.abc import Callable
from types import ModuleType

import pytest


def test_spike_reports_what_a_step_did(spike: ModuleType, zig: ModuleType) -> None:
    code = zig.assemble("auipc x3, 0\n addi x1, x1, 1\n sd x1, 0x100(x3)\n fmv.d.x f5, x1\n ecall\n")
    oracle = spike.SpikeOracle(code.code)
    oracle.hart.csr_write(0x300, 0x6000)
    oracle.hart.csr_write(0x305, 0x8000_0040)
    c = oracle.run(5)
    assert (c[0].x, c[1].x, c[1].next_pc) == ({3: 0x8000_0000}, {1: 1}, 0x8000_0008)
    assert c[2].stores == [(0x8000_0100, 1, 8)]
    assert oracle.read(0x8000_0100, 8) == struct.pack("<Q", 1)
    assert c[3].f == {5: 1}
    assert (c[4].trap, c[4].next_pc, c[4].csr[0x341], c[4].csr[0x342]) == (11, 0x8000_0040, 0x8000_0010, 11)


def test_spike_reset_is_the_manuals(spike: ModuleType) -> None:
    hart = spike.SpikeOracle(b"\x13\0\0\0", at=0x8000_0000, ram=1 << 16).hart
    assert (hart.pc, hart.priv, hart.csr_read(0x3A0), hart.csr_read(0xF14)) == (0x8000_0000, 3, 0, 0)


def test_spike_has_several_harts(spike: ModuleType) -> None:
    oracle = spike.SpikeOracle(b"\x13\0\0\0", harts=3)
    assert [h.csr_read(0xF14) for h in oracle.harts] == [0, 1, 2]


def test_spike_interrupt_lines_reach_mip(spike: ModuleType) -> None:
    hart = spike.SpikeOracle(b"\x13\0\0\0").hart
    for bit in (1, 3, 5, 7, 9, 11):
        hart.set_interrupt(bit, True)
        assert hart.csr_read(0x344) == 1 << bit
        hart.set_interrupt(bit, False)
        assert hart.csr_read(0x344) == 0


def test_spike_refuses_addresses_outside_ram(spike: ModuleType) -> None:
    oracle = spike.SpikeOracle(b"\x13\0\0\0", ram=1 << 16)
    with pytest.raises(IndexError, match="0x80010000"):
        oracle.read(0x8000_FFFF, 2)
    with pytest.raises(ValueError, match="65536"):
        spike.SpikeOracle(bytes(65537), ram=1 << 16)


def test_zig_encodes_one_by_one(zig: ModuleType) -> None:
    assert [e.hex() for e in zig.encodings(["addi x1,x2,3", "c.addi x1,3", "beq x1,x2,.+8"])] == [
        "93003100", "8d00", "63842000"]
    with pytest.raises(zig.AssemblyError, match="frobnicate"):
        zig.encodings(["nop", "frobnicate x1"])


def test_zig_places_labels(zig: ModuleType) -> None:
    image = zig.assemble("start: nop\n la x5, data\n data: .dword start\n", at=0x8020_0000)
    assert image.symbols["data"] == 0x8020_000C
    assert image.code[12:20] == struct.pack("<Q", 0x8020_0000)


INTERESTING = {
    32: (0, 1, 0x0080_0000, 0x007F_FFFF, 0x3F80_0000, 0x3F80_0001, 0x7F7F_FFFF, 0x7F80_0000, 0x7FC0_0000, 0x7F80_0001,
         0x4F00_0000, 0x5F00_0000, 0x3F00_0000),
    64: (0, 1, 0x10 << 48, (0x10 << 48) - 1, 0x3FF0 << 48, (0x3FF0 << 48) + 1, 0x7FEF_FFFF_FFFF_FFFF, 0x7FF0 << 48,
         0x7FF8 << 48, (0x7FF0 << 48) + 1, 0x41E0 << 48, 0x43E0 << 48, 0x3FE0 << 48),
}
Judge = Callable[[int, int, int], tuple[int, int]]


def float_cases(sf: ModuleType) -> list[tuple[str, int, Judge]]:
    """Return (text, width, judge of f1, f2, f3, with x11 = f1) of the F and D instructions that compute."""
    cases: list[tuple[str, int, Judge]] = []

    def add(text: str, width: int, judge: Callable[..., tuple[int, int]], *fixed: object, count: int) -> None:
        cases.append((text, width, lambda *abc: judge(*fixed, *abc[:count])))

    for w, s in ((32, "s"), (64, "d")):
        for op in ("fmin", "fmax"):
            add(f"{op}.{s} f10,f1,f2", w, sf.minmax, op, w, count=2)
        for op in ("fsgnj", "fsgnjn", "fsgnjx"):
            add(f"{op}.{s} f10,f1,f2", w, sf.sign_inject, op, w, count=2)
        for op in ("feq", "flt", "fle"):
            add(f"{op}.{s} x10,f1,f2", w, sf.compare, op, w, count=2)
        add(f"fclass.{s} x10,f1", w, sf.classify, w, count=1)
        for rm, r in enumerate(("rne", "rtz", "rdn", "rup", "rmm")):
            for op in ("fadd", "fsub", "fmul", "fdiv"):
                add(f"{op}.{s} f10,f1,f2,{r}", w, sf.arithmetic, op, w, rm, count=2)
            add(f"fsqrt.{s} f10,f1,{r}", w, sf.arithmetic, "fsqrt", w, rm, count=1)
            for op in ("fmadd", "fmsub", "fnmadd", "fnmsub"):
                add(f"{op}.{s} f10,f1,f2,f3,{r}", w, sf.arithmetic, op, w, rm, count=3)
            for k in ("w", "wu", "l", "lu"):
                add(f"fcvt.{k}.{s} x10,f1,{r}", w, sf.to_int, k, w, rm, count=1)
                inexact = w == 32 or k in ("l", "lu")  # every 32-bit integer is a double: no rounding mode to give
                add(f"fcvt.{s}.{k} f10,x11{',' + r if inexact else ''}", w, sf.from_int, k, w, rm, count=1)
    return cases


def test_spike_and_softfloat_agree(spike: ModuleType, softfloat: ModuleType, zig: ModuleType) -> None:
    """Both contain SoftFloat, but are reached on different ways: this proves our min, max, classify and saturation."""
    cases = float_cases(softfloat)
    oracle = spike.SpikeOracle(b"".join(zig.encodings([text for text, _, _ in cases])), log=False)
    hart, rng, wrong = oracle.hart, random.Random(7), []
    hart.csr_write(0x300, 0x6000)
    for i, (text, width, judge) in enumerate(cases):
        mask = (1 << width) - 1
        values = [v | s for v in INTERESTING[width] for s in (0, 1 << (width - 1))]
        for _ in range(60):
            abc = [rng.choice(values) for _ in range(3)]
            for n, v in enumerate(abc, 1):
                hart.set_f(n, v | (1 << 64) - 1 - mask)
            hart.set_x(11, abc[0])
            hart.csr_write(1, 0)
            hart.pc = 0x8000_0000 + 4 * i
            hart.step()
            regs = hart.registers()
            got = regs[11] if " x10" in text else regs[33 + 10] & mask
            want = judge(*abc)
            if (got, hart.csr_read(1)) != want:
                operands = ", ".join(f"{v:#x}" for v in abc)
                wrong.append(f"{text} of {operands}: Spike {got:#x} {hart.csr_read(1)}, not {want[0]:#x} {want[1]}")
    assert not wrong, "\n".join(wrong[:20])
