"""Directives of the assembler: data, space and alignment, sections, symbols, options.

Owns what each directive takes and does; the state it acts on is the Assembler's.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvirt.assembly.asmexpr import U64, Token, error, unescape
from pyvirt.assembly.encode import Operand, shown

if TYPE_CHECKING:
    from pyvirt.assembly.asm import Assembler

SIZES = {
    ".byte": 1, ".half": 2, ".2byte": 2, ".short": 2, ".word": 4, ".4byte": 4, ".long": 4, ".int": 4,
    ".dword": 8, ".8byte": 8, ".quad": 8,
}
NOP, C_NOP = 0x13.to_bytes(4, "little"), 0x1.to_bytes(2, "little")
MOST = 256 << 20
# What only matters to a linker or debugger; there is none here.
ACCEPTED = (".globl", ".global", ".local", ".weak", ".type", ".size", ".file", ".ident")
OPTIONS = ("rvc", "norvc", "push", "pop", "relax", "norelax", "pic", "nopic")
_Handler = Callable[["Assembler", Token, list[Operand]], None]


def _need(head: Token, operands: list[Operand], least: int, most: int) -> None:
    if not least <= len(operands) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise error(head, f"{head.text} takes {wanted} operands; found {len(operands)}")


def _bits(asm: Assembler, head: Token, operand: Operand, size: int) -> bytes:
    """Return a value as `size` bytes; signed and unsigned values fit."""
    value = asm.value(operand, head)
    if not asm.strict:
        return bytes(size)
    low, high = -(1 << 8 * size - 1), (1 << 8 * size) - 1
    if not low <= value <= high:
        raise error(operand[0], f"{head.text}: value {value:#x} is out of range {low}..{high:#x}")
    return (value & high).to_bytes(size, "little")


def _count(asm: Assembler, head: Token, operand: Operand) -> int:
    """Return a size in bytes or a repeat count; what is out of range counts as 0 until symbols are known."""
    value = asm.value(operand, head)
    if 0 <= value <= MOST:
        return value
    if asm.strict:
        raise error(operand[0], f"{head.text}: {value} is out of range 0..{MOST}")
    return 0


def _data(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    _need(head, operands, 1, 1 << 20)
    asm.lines.append((asm.here, head.line))
    for operand in operands:
        asm.emit(_bits(asm, head, operand, SIZES[head.text]))


def _text(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    _need(head, operands, 1, 1 << 20)
    asm.lines.append((asm.here, head.line))
    for operand in operands:
        if len(operand) != 1 or operand[0].kind != "str":
            where = operand[0] if operand else head
            raise error(where, f"{head.text} takes strings in double quotes; found {shown(operand)!r}")
        asm.emit(unescape(operand[0], operand[0].text[1:-1]) + (b"" if head.text == ".ascii" else b"\0"))


def _space(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    _need(head, operands, 1, 2)
    fill = _bits(asm, head, operands[1], 1) if len(operands) == 2 else b"\0"
    asm.lines.append((asm.here, head.line))
    asm.emit(fill * _count(asm, head, operands[0]))


def _fill(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    _need(head, operands, 1, 3)
    times = _count(asm, head, operands[0])
    size = asm.value(operands[1], head) if len(operands) > 1 else 1
    if not 1 <= size <= 8:
        if asm.strict:
            raise error(operands[1][0], f".fill: size {size} is out of range 1..8")
        size = 1
    unit = _bits(asm, head, operands[2], size) if len(operands) > 2 else bytes(size)
    if times * size > MOST:
        raise error(operands[0][0], f".fill: {times} times {size} bytes is out of range 0..{MOST}")
    asm.lines.append((asm.here, head.line))
    asm.emit(unit * times)


def _align(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    """Pad to a boundary: .align and .p2align count in powers of two, .balign in bytes; code is padded with nops."""
    _need(head, operands, 1, 3)
    value = asm.value(operands[0], head)
    power = head.text != ".balign"
    allowed = "0..24" if power else "powers of two, 1..16777216"
    if (power and not 0 <= value <= 24) or (not power and (not 1 <= value <= 1 << 24 or value & value - 1)):
        if asm.strict:
            raise error(operands[0][0], f"{head.text}: {value} is not allowed; allowed are {allowed}")
        return
    boundary = 1 << value if power else value
    pad = -asm.here % boundary
    if len(operands) == 3 and pad > asm.value(operands[2], head):
        return
    asm.section.align = max(asm.section.align, boundary)
    if len(operands) > 1 and operands[1]:
        asm.emit(_bits(asm, head, operands[1], 1) * pad)
    elif asm.section.is_code:
        asm.emit(bytes(pad & 1) + C_NOP * (pad >> 1 & 1) + NOP * (pad >> 2))
    else:
        asm.emit(bytes(pad))


def _org(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    """Advance to an offset from the section's start, or to an address in it when the value is not below the start."""
    _need(head, operands, 1, 2)
    value = asm.value(operands[0], head)
    base = asm.section.base
    offset = value - base if base and value >= base else value
    gap = offset - len(asm.section.data)
    fill = _bits(asm, head, operands[1], 1) if len(operands) == 2 else b"\0"
    if not 0 <= gap <= MOST:
        if asm.strict:
            raise error(operands[0][0], f".org {value:#x} moves by {gap} bytes from {asm.here:#x}; "
                        f"allowed are 0..{MOST}")
        gap = 0
    asm.emit(fill * gap)


def _set(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    _need(head, operands, 2, 2)
    if len(operands[0]) != 1:
        raise error(head, f"{head.text}: {shown(operands[0])!r} can't be set; expected a symbol's name")
    asm.assign(operands[0][0], asm.value(operands[1], head) & U64, again=head.text != ".equiv")


def _section(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    name = head.text
    if name == ".section":
        _need(head, operands, 1, 4)
        token = operands[0][0] if operands[0] else head
        if len(operands[0]) != 1 or token.kind not in ("name", "str"):
            raise error(token, f".section: name {shown(operands[0])!r} is malformed; "
                        "expected a name such as .data.table")
        name = token.text.strip('"')
    else:
        _need(head, operands, 0, 0)
    asm.enter(name)


def _option(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    _need(head, operands, 1, 1)
    name = shown(operands[0])
    if name not in OPTIONS:
        where = operands[0][0] if operands[0] else head
        raise error(where, f".option {name} is not known; allowed are {', '.join(OPTIONS)}")
    if name == "push":
        asm.options.append(asm.compress)
    elif name == "pop":
        if not asm.options:
            raise error(head, ".option pop has no .option push before it")
        asm.compress = asm.options.pop()
    elif name in ("rvc", "norvc"):
        asm.compress = name == "rvc"


def _accept(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    _need(head, operands, 1, 64)


DIRECTIVES: dict[str, _Handler] = {
    **dict.fromkeys(SIZES, _data),
    **dict.fromkeys((".ascii", ".asciz", ".string"), _text),
    **dict.fromkeys((".space", ".zero", ".skip"), _space), ".fill": _fill,
    **dict.fromkeys((".align", ".p2align", ".balign"), _align), ".org": _org,
    **dict.fromkeys((".equ", ".set", ".equiv"), _set),
    **dict.fromkeys((".text", ".data", ".rodata", ".bss", ".section"), _section),
    **dict.fromkeys(ACCEPTED, _accept), ".option": _option,
}


def directive(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    """Carry out one directive."""
    DIRECTIVES[head.text](asm, head, operands)
