"""The assembler: syntax, pseudo-instructions, directives, layout, and what it says when the text is wrong."""
from __future__ import annotations

import copy
import pickle
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirt._isa import BY_NAME
from pyvirt.assembly.asm import Assembled, asm
from pyvirt.assembly.csrnames import CSRS
from pyvirt.assembly.disasm import disasm
from pyvirt.assembly.pseudo import load_constant
from pyvirt.errors import AsmError, PyvirtError
from tests import needs

BASE = 0x8000_0000
U64 = (1 << 64) - 1


def texts(text: str, at: int = BASE, **options: str) -> list[str]:
    return [line.text for line in disasm(asm(text, at, **options), at)]


# ---- syntax --------------------------------------------------------------------------------------------------------
def test_comments_separators_and_labels() -> None:
    code = asm("""
        # a comment
        a: b: nop ; nop   // two labels, two statements
        /* over
           lines */ c: addi a0, a0, 1 /* inside */ # tail
        .asciz "# not a comment // nor this"
    """)
    assert code.symbols == {"a": BASE, "b": BASE, "c": BASE + 8}
    assert code[12:] == b"# not a comment // nor this\0"
    assert [line for _, line in code.lines] == [3, 3, 5, 6]


def test_numeric_labels_go_to_the_nearest() -> None:
    assert texts("1: j 1f; 1: j 1b; j 1f; 1: j 1b; 0: j 0b") == [
        "jal zero,0x80000004", "jal zero,0x80000004", "jal zero,0x8000000c", "jal zero,0x8000000c",
        "jal zero,0x80000010",
    ]


@pytest.mark.parametrize(("expression", "value"), [
    ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("0x10 | 0b11", 0x13), ("~0 & 0xff", 0xFF), ("-7 / 2", -3), ("-7 % 3", -1),
    ("1 << 4 + 1", 17), ("2 + 3 & 1", 3), ("1 << 63 >> 63", 1), ("-1 >> 60", 15), ("'a'", 97), ("'\\n'", 10),
    ("'\\''", 39), ("'a + 1", 98), ("010", 8), ("end - start", 12), (". - start", 12), ("2 ^ 3", 1), ("- - 3", 3),
    ("1 << 64", 0),
    ("'\\x41'", 65), ("'\\101'", 65), ("' '", 32),
])
def test_expressions(expression: str, value: int) -> None:
    code = asm(f"start: nop; nop; nop; end: .8byte {expression}")
    assert int.from_bytes(code[12:], "little", signed=True) == value


def test_numbers_of_64_bits_fit_signed_fields() -> None:
    assert texts("addi a0, a0, 0xffffffffffffffff; andi a0, a0, ~7; addi a0, a0, -2048") == [
        "addi a0,a0,-1", "andi a0,a0,-8", "addi a0,a0,-2048"]


def test_registers_have_three_names() -> None:
    assert asm("add x8, x0, x31; fadd.d f10, f0, f31") == asm("add fp, zero, t6; fadd.d fa0, ft0, ft11")
    assert asm("mv s0, s1") == asm("MV fp, x9")


def test_relocations() -> None:
    code = asm("""
        lui a0, %hi(value)
        addi a0, a0, %lo(value)
        ld a1, %lo(value)(a0)
    here: auipc a2, %pcrel_hi(there)
        addi a2, a2, %pcrel_lo(here)
        sd a2, %pcrel_lo(here)(a2)
        .equ value, 0x12345fff
        .space 0x1ff0
    there: nop
    """)
    lines = [line.text for line in disasm(code[:24], BASE)]
    assert lines[:3] == ["lui a0,0x12346", "addi a0,a0,-1", "ld a1,-1(a0)"]
    assert lines[3:] == ["auipc a2,0x2", "addi a2,a2,-4", "sd a2,-4(a2)"]
    assert code.symbols["there"] - code.symbols["here"] == 0x2000 - 4


def test_the_low_half_may_come_before_the_high_one() -> None:
    code = asm("j 2f; 1: addi a0, a0, %pcrel_lo(2f); ret; 2: auipc a0, %pcrel_hi(x); j 1b; .space 0x1000; x:")
    lines = [line.text for line in disasm(code[:20], BASE)]
    assert (lines[1], lines[3]) == ("addi a0,a0,8", "auipc a0,0x1")


# ---- pseudo-instructions -------------------------------------------------------------------------------------------
PSEUDO = {
    "nop": "addi zero,zero,0", "mv a0,a1": "addi a0,a1,0", "not a0,a1": "xori a0,a1,-1", "neg a0,a1": "sub a0,zero,a1",
    "negw a0,a1": "subw a0,zero,a1", "sext.w a0,a1": "addiw a0,a1,0", "seqz a0,a1": "sltiu a0,a1,1",
    "snez a0,a1": "sltu a0,zero,a1", "sltz a0,a1": "slt a0,a1,zero", "sgtz a0,a1": "slt a0,zero,a1",
    "beqz a0,.": "beq a0,zero,0x80000000", "bnez a0,.": "bne a0,zero,0x80000000",
    "blez a0,.": "bge zero,a0,0x80000000", "bgez a0,.": "bge a0,zero,0x80000000",
    "bltz a0,.": "blt a0,zero,0x80000000", "bgtz a0,.": "blt zero,a0,0x80000000",
    "bgt a0,a1,.": "blt a1,a0,0x80000000", "ble a0,a1,.": "bge a1,a0,0x80000000",
    "bgtu a0,a1,.": "bltu a1,a0,0x80000000", "bleu a0,a1,.": "bgeu a1,a0,0x80000000", "j .": "jal zero,0x80000000",
    "jal .": "jal ra,0x80000000",
    "jr a0": "jalr zero,0(a0)", "jr 8(a0)": "jalr zero,8(a0)", "jalr a0": "jalr ra,0(a0)",
    "jalr 4(a0)": "jalr ra,4(a0)",
    "jalr a0,a1": "jalr a0,0(a1)", "jalr a0,a1,4": "jalr a0,4(a1)", "jalr a0,4(a1)": "jalr a0,4(a1)",
    "ret": "jalr zero,0(ra)", "csrr a0,mepc": "csrrs a0,mepc,zero", "csrw mepc,a0": "csrrw zero,mepc,a0",
    "csrs mie,a0": "csrrs zero,mie,a0", "csrc mie,a0": "csrrc zero,mie,a0", "csrwi mie,3": "csrrwi zero,mie,3",
    "csrsi mie,3": "csrrsi zero,mie,3", "csrci mie,3": "csrrci zero,mie,3", "csrw mie,3": "csrrwi zero,mie,3",
    "csrrw a0,mie,3": "csrrwi a0,mie,3", "rdcycle a0": "csrrs a0,cycle,zero", "rdtime a0": "csrrs a0,time,zero",
    "rdinstret a0": "csrrs a0,instret,zero", "fmv.s fa0,fa1": "fsgnj.s fa0,fa1,fa1",
    "fmv.d fa0,fa1": "fsgnj.d fa0,fa1,fa1", "fabs.d fa0,fa1": "fsgnjx.d fa0,fa1,fa1",
    "fneg.s fa0,fa1": "fsgnjn.s fa0,fa1,fa1",
    "frcsr a0": "csrrs a0,fcsr,zero", "fscsr a0": "csrrw zero,fcsr,a0", "fscsr a0,a1": "csrrw a0,fcsr,a1",
    "frrm a0": "csrrs a0,frm,zero",
    "fsrm a0": "csrrw zero,frm,a0", "frflags a0": "csrrs a0,fflags,zero", "fsflags a0": "csrrw zero,fflags,a0",
    "fence": "fence iorw,iorw", "fence rw,w": "fence rw,w", "fence.tso": "fence.tso", "unimp": "csrrw zero,cycle,zero",
    "sfence.vma": "sfence.vma zero,zero", "sfence.vma a0": "sfence.vma a0,zero", "sfence.vma a0,a1": "sfence.vma a0,a1",
    "hfence.vvma": "hfence.vvma zero,zero", "hfence.gvma a0": "hfence.gvma a0,zero",
    "add a0,a1,5": "addi a0,a1,5", "sll a0,a1,5": "slli a0,a1,0x5", "sgt a0,a1,a2": "slt a0,a2,a1",
    "fgt.d a0,fa1,fa2": "flt.d a0,fa2,fa1", "zext.w a0,a1": "add.uw a0,a1,zero", "zext.b a0,a1": "andi a0,a1,255",
    "lr.w a0,(a1)": "lr.w a0,(a1)", "lr.d.aq a0,0(a1)": "lr.d.aq a0,(a1)", "sc.w.rl a0,a1,(a2)": "sc.w.rl a0,a1,(a2)",
    "amoswap.d.aqrl a0,a1,(a2)": "amoswap.d.aqrl a0,a1,(a2)", "fadd.s fa0,fa1,fa2": "fadd.s fa0,fa1,fa2",
    "fadd.s fa0,fa1,fa2,rmm": "fadd.s fa0,fa1,fa2,rmm", "fcvt.w.d a0,fa0,rtz": "fcvt.w.d a0,fa0,rtz",
    "li a0,-1": "addi a0,zero,-1",
    "lw a0,(a1)": "lw a0,0(a1)", "csrr a0,0x7c0": "csrrs a0,0x7c0,zero", "scall": "ecall", "pause": "pause",
    "lui a0,0xfffff": "lui a0,0xfffff", "c.lui a0,0xfffe0": "c.lui a0,0xfffe0", "c.nop 3": "c.nop 3",
    "prefetch.r -32(a0)": "prefetch.r -32(a0)", "cbo.zero (a0)": "cbo.zero (a0)", "c.unimp": ".2byte 0x0000",
}


@pytest.mark.parametrize("text", PSEUDO)
def test_each_form_stands_for_one_instruction(text: str) -> None:
    assert texts(text) == [PSEUDO[text]]


def run_constant(value: int) -> int:
    """Compute what the steps of `li` leave in the register."""
    reg = 0
    for step, number in load_constant(value):
        if step == "lui":
            reg = ((number << 12) ^ 1 << 31) - (1 << 31)
        elif step == "slli":
            reg <<= number
        else:
            reg += number
            if step == "addiw":
                reg = (reg & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)
        reg &= U64
    return reg


@given(st.integers(-(1 << 63), U64) | st.integers(0, 63).map(lambda n: 1 << n) | st.integers(-5000, 5000)
       | st.tuples(st.integers(-4097, 4097), st.integers(0, 63)).map(lambda p: (p[0] << p[1]) & U64))
def test_li_makes_any_constant(value: int) -> None:
    steps = load_constant(value)
    assert run_constant(value) == value & U64
    assert len(steps) <= 8
    assert len(asm(f"li a0, {value}")) == 4 * len(steps)


def test_addresses_are_made_from_pc() -> None:
    assert texts("la a0, target; call target; tail target; lla a1, target; target: nop")[:8] == [
        "auipc a0,0x0", "addi a0,a0,32", "auipc ra,0x0", "jalr ra,24(ra)", "auipc t1,0x0", "jalr zero,16(t1)",
        "auipc a1,0x0", "addi a1,a1,8"]
    assert texts("lw a0, x; sd a1, x, t0; fld fa0, x, t1; jump x, t2; .equ x, 0x80001800") == [
        "auipc a0,0x2", "lw a0,-2048(a0)", "auipc t0,0x1", "sd a1,2040(t0)", "auipc t1,0x1", "fld fa0,2032(t1)",
        "auipc t2,0x1", "jalr zero,2024(t2)"]


def test_extensions_change_what_may_be_used() -> None:
    assert texts("zext.h a0,a1; sext.b a2,a3", isa="rv64i") == [
        "slli a0,a1,0x30", "srli a0,a0,0x30", "slli a2,a3,0x38", "srai a2,a2,0x38"]
    assert texts("zext.h a0,a1", isa="rv64gc_zbb") == ["zext.h a0,a1"]
    assert texts("c.fld fa0,0(a0); fcvt.d.l fa0,a0; csrr a0,fcsr", isa="rv64gc")
    with pytest.raises(AsmError, match=r"mul needs the extension M; the isa here is rv64i"):
        asm("mul a0,a0,a0", isa="rv64i")
    with pytest.raises(AsmError, match=r"c\.fld needs the extension C and D"):
        asm("c.fld fa0,0(a0)", isa="rv64imac")
    with pytest.raises(AsmError, match="isa 'rv32gc' is not known; allowed are rv64"):
        asm("nop", isa="rv32gc")


# ---- directives and layout -----------------------------------------------------------------------------------------
def test_data_directives() -> None:
    code = asm("""
        .byte 1, -1, 0xff ; .half 0x1234 ; .2byte -2 ; .word x, 0xffffffff ; .dword -1 ; .8byte x ;
        .quad 0x8000000000000000
        .ascii "ab", "c\\0" ; .asciz "\\x41\\101\\n" ; .string "é" ; .zero 2 ; .space 3, 0xaa ; .fill 2, 2, 0x1234
        x = 0x01020304
    """)
    assert code == bytes.fromhex(
        "01ffff 3412 feff 04030201ffffffff ffffffffffffffff 0403020100000000 0000000000000080"
        "61626300 41410a00 c3a900 0000 aaaaaa 34123412")


def test_alignment() -> None:
    assert asm(".byte 1; .align 2; .byte 2; .balign 2; .p2align 3, 0xee").hex() == "01000100" "0200" "eeee"
    assert asm("c.nop; .align 3; nop")[2:8] == bytes.fromhex("0100 13000000")
    assert asm(".data; .byte 1; .align 2; .byte 2").hex() == "01000000" "02"
    assert asm(".byte 1; .align 4, 0, 3; .byte 2") == b"\1\2"
    assert asm("nop; .align 3; x:", at=0x1004).symbols["x"] == 0x1008


def test_org_takes_offsets_and_addresses() -> None:
    code = asm("nop; .org 0x10; a: nop; .org 0x1020, 0xff; b:", at=0x1000)
    assert code.symbols == {"a": 0x1010, "b": 0x1020}
    assert code[0x14:] == b"\xff" * 12


def test_sections_are_laid_out_one_after_another() -> None:
    code = asm("""
        .bss
        buffer: .space 16
        .data
        word: .dword text
        .section .rodata.names, "a", @progbits
        name: .asciz "x"
        .section .note
        note: .byte 7
        .text
        text: la a0, buffer
        ld a1, word
        .rodata
        .align 4
        table: .byte 1
    """)
    symbols = code.symbols
    assert symbols["text"] == BASE
    order = ["text", "name", "table", "word", "note", "buffer"]
    assert sorted(order, key=symbols.__getitem__) == order
    assert symbols["table"] % 16 == 0
    assert all(symbols[n] % 8 == 0 for n in ("name", "word", "note", "buffer"))
    assert len(code) == symbols["buffer"] + 16 - BASE
    assert code[symbols["word"] - BASE:][:8] == BASE.to_bytes(8, "little")


def test_symbols_given_and_set() -> None:
    code = asm(".set n, 1; .byte n; .set n, n + 1; .byte n; .equiv m, 5; .byte m, uart; k = m", symbols={"uart": 0x10})
    assert code == b"\1\2\5\x10"
    assert code.symbols == {"n": 2, "m": 5, "k": 5}
    assert asm(".balign n; .space 8 / n; n = 4") == bytes(2)
    assert texts("li a0, later; later = 0x12345678") == ["lui a0,0x12345", "addiw a0,a0,1656"]


def test_options_and_what_only_linkers_need() -> None:
    asm(".globl x; .type x, @function; .option push; .option norvc; .option pop; x: c.nop; .size x, .-x")
    with pytest.raises(AsmError, match=r"c\.nop is compressed, and .option norvc is in force"):
        asm(".option norvc; c.nop")


def test_the_result_is_bytes_with_more() -> None:
    code = asm("a: nop", 0x1000)
    assert isinstance(code, bytes)
    assert isinstance(code, Assembled)
    assert type(code.code) is bytes
    assert code.base == 0x1000
    assert repr(code) == "<Assembled 4 bytes at 0x1000, 1 symbols>"
    for twin in (pickle.loads(pickle.dumps(code)), copy.deepcopy(code), copy.copy(code)):
        assert (twin, twin.base, twin.symbols, twin.lines) == (code, 0x1000, {"a": 0x1000}, [(0x1000, 1)])
    assert asm("") == b""


def test_sizes_that_depend_on_what_follows_settle() -> None:
    code = asm("li a0, size; .space size; end: size = end - start + 0x7f0 - (end - start) ; start:")
    assert code.symbols["size"] == 0x7F0
    with pytest.raises(AsmError, match="does not settle in 16 passes"):
        asm("start: .space end - start + 1; end:")


# ---- errors --------------------------------------------------------------------------------------------------------
ERRORS = {
    "addd a0, a0, a1": "1:1 instruction 'addd' is not known; did you mean add",
    "nop\n  add a0, a0, b1": "2:15 'b1' is not an integer register; allowed are x0-x31",
    "add a0, a0": "1:1 add takes 3 operands (rd, rs1, rs2); found 2",
    "add a0,, a1": "1:1 operand 2 (rs1) is empty",
    "fadd.s fa0, a1, fa2": "1:13 'a1' is not a floating-point register; allowed are f0-f31",
    "addi a0, a0, 2048": "1:14 addi: immediate 2048 is out of range -2048..2047",
    "slli a0, a0, 64": "1:14 slli: immediate 64 is out of range 0..63",
    "lui a0, 0x100000": "1:9 lui: immediate 0x100000 is out of range 0..0xfffff",
    "lw a0, 4(a1": "1:9 unexpected '(' after the expression",
    "lw a0, 4(5)": "1:9 unexpected '(' after the expression",
    "lr.w a0, 4(a1)": "1:10 lr.w: offset 4 is not allowed; allowed is (register)",
    "c.lw a0, 2(a1)": "1:10 c.lw: immediate 2 is out of range 0..124 in steps of 4",
    "c.add a0, zero": "1:11 c.add: zero is reserved here; allowed is any other register",
    "c.lw t0, 0(a1)": "1:6 c.lw: t0 can't be used here; allowed are x8-x15 (s0, s1, a0-a5)",
    "c.addi16sp a0, 16": "1:12 'a0' can't be used here; allowed is sp (x2)",
    "c.addi16sp sp, 0": "1:16 c.addi16sp: immediate 0 is reserved",
    "csrr a0, mstatsu": "1:10 'mstatsu' is not a CSR; did you mean mstatus",
    "csrr a0, 0x1000": "1:10 CSR number 0x1000 is out of range 0..0xfff",
    "csrr a0, a1": "1:10 a1 is a register; a CSR's name or number 0..0xfff is expected",
    "csrwi mie, 32": "1:12 csrrwi: immediate 32 is out of range 0..31",
    "fence wr, r": "1:7 fence: set 'wr' is malformed; allowed are the letters i, o, r, w in this order, or 0",
    "fadd.s fa0, fa1, fa2, up": "1:23 rounding mode 'up' is not known; allowed are rne, rtz, rdn, rup, rmm, dyn",
    "x: .space 5000; beq a0, a1, x": "1:29 beq: x is -5000 bytes away, which is out of its reach -4096..4094",
    "x: nop; jal x + 1": "1:13 jal: x+1 is -3 bytes away, which is odd",
    "j nowhere": "1:3 symbol nowhere is not defined",
    "start: j strat": "1:10 symbol strat is not defined; did you mean start?",
    "j 1b": "1:3 label 1: is not defined before this line",
    "1: j 1f": "1:6 label 1: is not defined after this line",
    "x: nop\nx: nop": "2:1 symbol x is already defined",
    ".equiv x, 1; .equiv x, 2": "1:21 symbol x is already defined",
    "x: .set x, 1": "1:9 symbol x is already defined",
    "li a0": "1:1 li takes 2 operands; found 1",
    "call": "1:1 call takes 1 or 2 operands; found 0",
    "sw a0, x; x:": "1:1 sw: x needs a register to hold its address: sw a0, x, t0",
    "la a0, 1 << 40": "1:8 la: 1<<40 is 1097364144128 bytes away, which is out of its reach",
    "lui a0, %hi(0x80000000)": "1:9 %hi of 0x80000000 is out of range",
    "lui a0, %high(1)": "1:9 relocation %high is not known; known are %hi %lo %pcrel_hi %pcrel_lo",
    "addi a0, a0, %pcrel_lo(.)": "1:14 no %pcrel_hi at 0x80000000",
    ".byte 256": "1:7 .byte: value 0x100 is out of range -128..0xff",
    ".byte 1 +": "1:9 the expression ends where a value is expected",
    ".byte 1 / 0": "1:9 / by zero",
    ".byte (1": "1:8 expected ')', but the expression ends",
    ".byte 0x": "1:7 number '0x' is malformed; allowed are decimal, 0x hexadecimal, 0b binary, 0 octal",
    ".byte 089": "1:7 number '089' is malformed",
    ".byte a0": "1:7 a0 is a register; a number or symbol is expected",
    ".dword 1 << 63 << 1 | 0x10000000000000000": "1:8 value 18446744073709551616 is out of range -2^63..2^64-1",
    ".asciz x": "1:8 .asciz takes strings in double quotes; found 'x'",
    '.asciz "x': "1:8 string has no closing \"",
    '.asciz "\\q"': "1:8 escape \\q is not known; known are \\n",
    "/* x": "1:1 comment /* has no end */",
    "nop !": "1:5 character '!' is not allowed here",
    ".allign 3": "1:1 directive .allign is not known; did you mean .align",
    ".align 30": "1:8 .align: 30 is not allowed; allowed are 0..24",
    ".balign 3": "1:9 .balign: 3 is not allowed; allowed are powers of two",
    ".space -1": "1:8 .space: -1 is out of range 0..268435456",
    ".fill 1, 9": "1:10 .fill: size 9 is out of range 1..8",
    "nop; .org 2": "1:11 .org 0x2 moves by -2 bytes from 0x80000004",
    ".option fast": "1:9 .option fast is not known; allowed are rvc, norvc",
    ".option pop": "1:1 .option pop has no .option push before it",
    ".section 5": "1:10 .section: name '5' is malformed",
    ".text 1": "1:1 .text takes 0 operands; found 1",
    ".byte 1; nop": "1:10 nop: address 0x80000001 is odd; use .align before code",
    "5 nop": "1:1 expected a label, mnemonic or directive, but found '5'",
    "add.aq a0, a0, a1": "1:1 instruction 'add.aq' is not known",
    ".byte " + "(" * 80 + "1" + ")" * 80: "1:67 expression is nested deeper than 60",
    ". = 5": "1:1 '.' can't be set",
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors_say_where_and_what(text: str) -> None:
    place, _, message = ERRORS[text].partition(" ")
    with pytest.raises(AsmError) as caught:
        asm(text)
    error = caught.value
    assert f"{error.line}:{error.column}" == place, str(error)
    assert message in error.message
    assert isinstance(error, PyvirtError)
    assert isinstance(error, ValueError)


def test_odd_addresses_and_huge_images_are_refused() -> None:
    with pytest.raises(AsmError, match="at=0x1 is not allowed; allowed are even addresses"):
        asm("nop", 1)
    with pytest.raises(AsmError, match="larger than 268435456 bytes"):
        asm(".space 1 << 28; nop")


@given(st.text(alphabet="ab0129x:;,()+-*/%&|^~.'\"\\ \n#=<>@_lisw", max_size=60))
def test_any_text_assembles_or_says_why(text: str) -> None:
    try:
        code = asm(text)
    except AsmError as e:
        assert e.message  # noqa: PT017  most texts are wrong, some are not
    else:
        assert isinstance(code, Assembled)


# ---- other assemblers ----------------------------------------------------------------------------------------------
# LLVM and GNU as expand these the same way; li of 64 bits may differ, and is computed above instead.
COMPARED = """
    start: nop; mv a0,a1; not a0,a1; neg a0,a1; negw a0,a1; sext.w a0,a1; seqz a0,a1; snez a0,a1; sltz a0,a1
    1: sgtz a0,a1; beqz a0,1b; bnez a0,1f; blez a0,1b; bgez a0,1f; bltz a0,1b; bgtz a0,1f; bgt a0,a1,1b; ble a0,a1,1f
    bgtu a0,a1,1b; bleu a0,a1,1f; j 1b; jal 1f; jr a0; jalr a0; ret
    1: csrr a0,mstatus; csrw stvec,a0; csrs sie,a0; csrc sip,a0; csrwi sie,2; csrsi sie,2; csrci sie,2
    rdcycle a0; rdtime a0; rdinstret a0; fmv.s fa0,fa1; fmv.d fa0,fa1; fabs.s fa0,fa1; fabs.d fa0,fa1; fneg.s fa0,fa1
    fneg.d fa0,fa1; frcsr a0; fscsr a0; fscsr a0,a1; frrm a0; fsrm a0; fsrm a0,a1; frflags a0; fsflags a0; fsrmi 2
    fsflagsi 3; fence; fence rw,w; fence.tso; pause; unimp; sfence.vma; sfence.vma a0; sfence.vma a0,a1; wfi; sret; mret
    fgt.s a0,fa1,fa2; fge.d a0,fa1,fa2; sgt a0,a1,a2; sgtu a0,a1,a2; add a0,a1,5; and a0,a1,-1; srl a0,a1,3; csrw sie,3
    li a0,0; li a0,-1; li a0,2047; li a0,-2048; li a0,0x7fffffff; li a0,-0x80000000; li a0,0x12345000
    lr.w.aq a0,(a1); sc.d.aqrl a0,a1,(a2); amoadd.w.rl a0,a1,(a2); fcvt.d.w fa0,a0; fcvt.w.d a0,fa0,rtz
    fadd.d fa0,fa1,fa2; jalr a0,4(a1); lw a0,(a1); lui a0,%hi(0x12345fff); addi a0,a0,%lo(0x12345fff)
    fcvt.d.s fa0,fa1; fsqrt.s fa0,fa1,rup
    slli a0,a0,1+2*3; addi a0,a0,1<<4+1; addi a0,a0,(7|8)&~1; addi a0,a0,-7%3+'a'; zext.b a0,a1; lui a0,0xfffff
    .word start-., 1f-start, 0x12345678; .byte 'a','\\n',-1,255; .asciz "a\\tb\\x41"; .balign 8; .half 0xffff,-2
    .p2align 3
    1: .dword -1, 1<<63, ~0; .fill 3,2,0x1234; .zero 3; .space 3,0xaa; .ascii "wxyz"; .balign 4; .quad 1f-1b
    1:
"""


def test_llvm_expands_the_same(zig: ModuleType) -> None:
    text = COMPARED.replace("; ", "\n")
    assert asm(text).hex() == zig.assemble(text).code.hex()


def test_llvm_knows_the_same_csrs(zig: ModuleType) -> None:
    names = list(CSRS)
    lines = [f"csrr a0, {name}" for name in names]
    made = zig.encodings(lines)
    wrong = [name for name, code in zip(names, made, strict=True) if int.from_bytes(code, "little") >> 20 != CSRS[name]]
    assert wrong == []


def test_csrs_have_the_numbers_of_the_core(source: Path) -> None:
    found = re.findall(r"^    CSR_(\w+) = (0x[0-9A-Fa-f]+)$", (source / "ext" / "arch.pxd").read_text(), re.MULTILINE)
    assert len(found) > 40
    assert {name.lower(): int(number, 16) for name, number in found}.items() <= CSRS.items()


@pytest.fixture(scope="module")
def gnu_as() -> str:
    found = shutil.which("riscv64-unknown-elf-as")
    if found is None:
        needs.missing("binutils", "the program riscv64-unknown-elf-as is not on PATH")
    return found


def test_gnu_as_expands_the_same(gnu_as: str, tmp_path: Path) -> None:
    text = COMPARED.replace("; ", "\n")
    source, made, flat = tmp_path / "a.s", tmp_path / "a.o", tmp_path / "a.bin"
    source.write_text(".option norelax\n" + text)
    march = "rv64imafd_zicsr_zifencei_zba_zbb_zbs_svinval_zihintpause"
    subprocess.run([gnu_as, f"-march={march}", "-o", str(made), str(source)], check=True)
    linked = tmp_path / "a.elf"
    tool = gnu_as.removesuffix("as")
    subprocess.run([tool + "ld", f"-Ttext={BASE:#x}", "-e", "0", "-o", str(linked), str(made)], check=True)
    subprocess.run([tool + "objcopy", "-O", "binary", str(linked), str(flat)], check=True)
    assert asm(text).hex() == flat.read_bytes().hex()


def test_every_row_is_named_in_an_error_when_it_has_too_many_operands() -> None:
    for name, row in BY_NAME.items():
        with pytest.raises(AsmError, match=re.escape(row.name)):
            asm(f"{name} " + ", ".join(["a0"] * 9))
