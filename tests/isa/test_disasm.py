"""The disassembler: its text assembles to the same bytes, and other assemblers agree about them."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirt._isa import HINT_OF, ISA
from pyvirt.assembly.asm import asm
from pyvirt.assembly.disasm import disasm, disasm_word
from pyvirt.assembly.pseudo import PSEUDOS
from tests import needs
from tests.isa.rows import EVERY

BASE = 0x8000_0000
HINTS = frozenset(HINT_OF)
# Jumps are written by their distance for LLVM, which takes a bare number as one.
JUMPS = re.compile(r"^(c\.)?(j|jal|beq|bne|blt|bge|bltu|bgeu|beqz|bnez) (.*,)?(0x[0-9a-f]+)$")


def image() -> bytes:
    return b"".join(word.to_bytes(row.length, "little") for row, word in EVERY)


def relative(text: str, address: int) -> str:
    found = JUMPS.match(text)
    if not found:
        return text
    distance = (int(found[4], 16) - address + (1 << 63)) % (1 << 64) - (1 << 63)
    return f"{text[:found.start(4)]}{distance}"


@pytest.mark.parametrize("aliases", [False, True])
def test_every_row_round_trips(aliases: bool) -> None:
    lines = disasm(image(), BASE, aliases=aliases)
    assert [line.word for line in lines] == [word for _, word in EVERY]
    text = "\n".join(line.text for line in lines)
    assert asm(text, BASE).code == image()
    assert ".4byte" not in text
    assert ".2byte" not in text


def test_every_row_shows_its_own_name() -> None:
    for row, word in EVERY:
        name = disasm_word(word, BASE).split()[0]
        assert name in (row.name, *(row.name + suffix for suffix in (".aq", ".rl", ".aqrl")))
    assert {row.name for row, _ in EVERY} == {row.name for row in ISA}


@given(st.binary(min_size=0, max_size=64), st.booleans())
def test_any_bytes_round_trip(data: bytes, aliases: bool) -> None:
    lines = disasm(data, BASE, aliases=aliases)
    assert sum(line.length for line in lines) == len(data)
    assert asm("\n".join(line.text for line in lines), BASE).code == data


@given(st.integers(0, (1 << 32) - 1))
def test_any_word_round_trips(word: int) -> None:
    data = (word | 3).to_bytes(4, "little")
    (line,) = disasm(data, BASE)
    assert asm(line.text, BASE).code == data


def test_llvm_agrees_about_every_row(zig: ModuleType) -> None:
    """LLVM makes the same words of the text, for every row at the extremes of its operands."""
    lines = [relative(disasm_word(word, BASE), BASE) for _, word in EVERY]
    made = zig.encodings(lines)
    wrong = [(line, hex(word), code.hex()) for line, (_, word), code in zip(lines, EVERY, made, strict=True)
             if int.from_bytes(code, "little") != word]
    print(f"LLVM: {len(lines)} words of {len(ISA)} rows compared")
    assert wrong == []


def test_every_shown_alias_is_reached() -> None:
    seen = {line.text.split()[0] for line in disasm(image(), BASE, aliases=True)}
    extra = """
        mv a0,a1; not a0,a1; neg a0,a1; negw a0,a1; sext.w a0,a1; zext.b a0,a1; zext.w a0,a1; seqz a0,a1; snez a0,a1
        sltz a0,a1; sgtz a0,a1; beqz a0,.; bnez a0,.; blez a0,.; bgez a0,.; bltz a0,.; bgtz a0,.; j .; jal .; ret; jr a0
        jalr a0; fence; unimp; sfence.vma; sfence.vma a0; rdcycle a0; rdtime a0; rdinstret a0; frcsr a0; frrm a0
        frflags a0; fscsr a0; fscsr a0,a1; fsrm a0; fsrm a0,a1; fsflags a0; fsflags a0,a1; fsrmi 1; fsrmi a0,1
        fsflagsi 1; fsflagsi a0,1; csrr a0,satp; csrw satp,a0; csrs satp,a0; csrc satp,a0; csrwi satp,1; csrsi satp,1
        csrci satp,1; fmv.s fa0,fa1; fmv.d fa0,fa1; fabs.s fa0,fa1; fabs.d fa0,fa1; fneg.s fa0,fa1; fneg.d fa0,fa1
        nop; li a0,1"""
    code = asm(extra)
    seen |= {line.text.split()[0] for line in disasm(code, aliases=True)}
    assert {pseudo.name for pseudo in PSEUDOS if pseudo.shown} <= seen


def test_targets_are_absolute_and_named() -> None:
    code = asm("start: nop; loop: addi a0,a0,-1; bnez a0,loop; j start+2; .word 0xffffffff; c.j loop", 0x1000)
    lines = disasm(code, 0x1000, symbols=code.symbols)
    assert [line.text for line in lines] == [
        "addi zero,zero,0", "addi a0,a0,-1", "bne a0,zero,0x1004 # <loop>", "jal zero,0x1002 # <start+0x2>",
        ".4byte 0xffffffff", "c.j 0x1004 # <loop>",
    ]
    assert [line.address for line in lines] == [0x1000, 0x1004, 0x1008, 0x100C, 0x1010, 0x1014]
    assert str(lines[0]) == "        1000:  00000013  addi zero,zero,0"


def test_reserved_settings_are_data() -> None:
    for word in (0x0000A00F | 1 << 7, 0x0FF0000F | 1 << 15, 0x0000100F | 1 << 20, 0x00005053 | 5 << 12, 0):
        assert disasm_word(word).startswith((".4byte", ".2byte"))
    assert disasm_word(0x8330000F) == "fence.tso"


@pytest.fixture(scope="module")
def objdump() -> str:
    found = shutil.which("riscv64-unknown-elf-objdump")
    if found is None:
        needs.missing("binutils", "the program riscv64-unknown-elf-objdump is not on PATH")
    return found


def test_objdump_agrees_about_what_it_knows(objdump: str, tmp_path: Path) -> None:
    """GNU objdump names the same instruction; it is old where it knows fewer extensions than the table."""
    path = tmp_path / "image.bin"
    path.write_bytes(image())
    options = ["-D", "-b", "binary", "-m", "riscv:rv64", "-M", "no-aliases", f"--adjust-vma={BASE:#x}"]
    listing = subprocess.run([objdump, *options, str(path)], capture_output=True, text=True, check=True).stdout
    theirs = {}
    for line in listing.splitlines():
        found = re.match(r"^\s*([0-9a-f]+):\s+([0-9a-f]+)\s+(\S+)\s*([^#<]*)", line)
        if found:
            theirs[int(found[1], 16)] = (found[3], found[4].strip())
    compared, wrong, names = 0, [], set()
    for line in disasm(image(), BASE):
        name, operands = theirs.get(line.address, ("", ""))
        if name.startswith(".") or not name:
            continue
        mine, _, mine_operands = line.text.partition(" ")
        compared += 1
        names.add(mine)
        if mine in HINTS:
            mine, mine_operands = name, operands  # an older objdump names the instruction they are hints of
        elif mine == "c.nop":
            mine, mine_operands = "c.addi", f"zero,{mine_operands or 0}"
        if (mine, plain(mine_operands)) != (name.replace("i64", "i"), plain(operands + ",0" * ("i64" in name))):
            wrong.append((line.text, name, operands))
    print(f"objdump: {compared} words of {len(EVERY)} compared, {len(names)} mnemonics")
    assert compared > len(EVERY) // 2
    assert wrong == []


def plain(operands: str) -> list[str]:
    """Return operands with numbers in one form."""
    parts = re.split(r"[,()]", operands.replace("unknown", "0"))
    return [str(int(p, 16)) if re.fullmatch(r"0x[0-9a-f]+|[0-9a-f]{8,16}", p) else p for p in parts]
