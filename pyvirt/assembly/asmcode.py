"""Statements with a mnemonic: pseudo-instructions expanded, addresses made, rows of the table encoded.

Owns the choice between a pseudo-instruction and a row, and the sequences that need several instructions. The state it
acts on is the Assembler's; the words themselves come from `encode.py`.
"""
from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pyvirt._isa import BY_NAME, Insn
from pyvirt.assembly.asmexpr import Token, error, evaluate, high20, scan, signed12, signed64
from pyvirt.assembly.encode import ORDERINGS, Operand, encode, nearest, shown, split_memory
from pyvirt.assembly.pseudo import BY_SHAPE, IMMEDIATE_FORMS, NAMES, SEQUENCES, SHIFT_PAIRS, load_constant

if TYPE_CHECKING:
    from pyvirt.assembly.asm import Assembler


def instruction(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    """Assemble a mnemonic: a pseudo-instruction of this many operands if there is one, else a row of the table."""
    name = head.text.lower()
    pseudo = BY_SHAPE.get((name, len(operands)))
    if name in SHIFT_PAIRS and asm.extensions is not None and len(operands) == 2:
        needed = "Zba" if name == "zext.w" else "Zbb"
        if needed not in asm.extensions:
            return shift_pair(asm, head, name, operands)
    if operands and name in IMMEDIATE_FORMS and _is_number(asm, operands[-1]):
        return instruction(asm, head._replace(text=IMMEDIATE_FORMS[name]), operands)
    if name == "jalr" and len(operands) == 1 and operands[0] and split_memory(operands[0]):
        return put_row(asm, "jalr", head, [[head._replace(kind="name", text="ra")], operands[0]])
    if name == "jalr" and len(operands) == 2 and operands[1] and split_memory(operands[1]):
        return put_row(asm, "jalr", head, operands)
    if name == "jr" and operands and operands[0] and split_memory(operands[0]):
        return put_row(asm, "jalr", head, [[head._replace(kind="name", text="zero")], operands[0]])
    if pseudo is not None and name != "li":
        made = [fill(asm, head, part, operands) for part in pseudo.operands]
        return put_row(asm, pseudo.base, head, made)
    if name in SEQUENCES:
        return sequence(asm, head, name, operands)
    if name == "fence.tso":
        return put_word(asm, head, 0x8330000F, 4)
    if name == "c.unimp":
        return put_word(asm, head, 0, 2)
    row = BY_NAME.get(name)
    if row and row.kind in ("load", "store", "fload", "fstore") and len(operands) in (2, 3) and operands[1] \
            and (len(operands) == 3 or split_memory(operands[1]) is None):
        return at_symbol(asm, head, row, operands)
    return put_row(asm, name, head, operands)


def _is_number(asm: Assembler, operand: Operand) -> bool:
    """Say whether what stands where a register or an immediate may stand is an immediate."""
    if len(operand) == 1 and operand[0].kind == "name" and operand[0].text != ".":
        return operand[0].text in asm.symbols or operand[0].text in asm.old
    return bool(operand)


@cache
def _template(part: str) -> tuple[Token, ...]:
    return tuple(scan(part)[:-1])


def fill(asm: Assembler, head: Token, part: str, operands: list[Operand]) -> Operand:
    """Return a template's operand with its $1, $2 ... replaced."""
    made: Operand = []
    for token in _template(part):
        if token.text.startswith("$"):
            operand = operands[int(token.text[1:]) - 1]
            if not operand:
                raise error(head, f"{head.text}: operand {token.text[1:]} is empty")
            made += operand
        else:
            made.append(token._replace(line=head.line, column=head.column))
    return made


def put_row(asm: Assembler, name: str, head: Token, operands: list[Operand]) -> None:
    """Assemble one row of the table, with the .aq and .rl suffixes of atomics."""
    ordering = ""
    row = BY_NAME.get(name)
    if row is None:
        stem, dot, suffix = name.rpartition(".")
        if dot + suffix in ORDERINGS and stem in BY_NAME and "aq" in BY_NAME[stem].fields:
            row, ordering = BY_NAME[stem], dot + suffix
        else:
            raise error(head, f"instruction {name!r} is not known{nearest(name, [*BY_NAME, *NAMES])}")
    if asm.extensions is not None and not asm.extensions.issuperset(row.ext.split()):
        raise error(head, f"{row.name} needs the extension {' and '.join(row.ext.split())}; the isa here is {asm.isa}")
    if row.length == 2 and not asm.compress:
        raise error(head, f"{row.name} is compressed, and .option norvc is in force")
    word = 0
    if asm.strict:
        word = encode(row, head, operands, asm, ordering=ordering)
    else:
        for operand in operands:
            if any(token.text == "pcrel_hi" for token in operand):
                evaluate(operand, asm)  # a %pcrel_lo before this place will want its distance
    put_word(asm, head, word, row.length)


def put_word(asm: Assembler, head: Token, word: int, length: int) -> None:
    """Append an instruction word; 32-bit instructions may start at any halfword."""
    if asm.here & 1:
        raise error(head, f"{head.text}: address {asm.here:#x} is odd; use .align before code")
    asm.emit(word.to_bytes(length, "little"))


def shift_pair(asm: Assembler, head: Token, name: str, operands: list[Operand]) -> None:
    """Extend by two shifts, where the extension with the instruction is not there."""
    right, amount = SHIFT_PAIRS[name]
    count = [head._replace(kind="int", text=str(amount), value=amount)]
    put_row(asm, "slli", head, [operands[0], operands[1], count])
    put_row(asm, right, head, [operands[0], operands[0], count])


def sequence(asm: Assembler, head: Token, name: str, operands: list[Operand]) -> None:
    """Assemble what makes a constant or an address."""
    def name_token(text: str) -> Operand:
        return [head._replace(kind="name", text=text)]

    counts = {"call": (1, 2), "tail": (1,), "jump": (2,)}.get(name, (2,))
    if len(operands) not in counts or not all(operands):
        raise error(head, f"{name} takes {' or '.join(map(str, counts))} operands; found {len(operands)}")
    if name == "li":
        return load(asm, head, operands)
    if name in ("la", "lla"):
        return pcrel_pair(asm, head, operands[0], operands[1], "addi", [operands[0], operands[0], []])
    if name == "call":
        link = operands[0] if len(operands) == 2 else name_token("ra")
        return pcrel_pair(asm, head, link, operands[-1], "jalr", [link, link])
    temp = operands[1] if name == "jump" else name_token("t1")
    return pcrel_pair(asm, head, temp, operands[0], "jalr", [name_token("zero"), temp])


def load(asm: Assembler, head: Token, operands: list[Operand]) -> None:
    """Assemble `li`."""
    rd = operands[0]
    for step, value in load_constant(evaluate(operands[1], asm)):
        number = [head._replace(kind="int", text=str(value), value=value)]
        if step == "li":
            put_row(asm, "addi", head, [rd, [head._replace(kind="name", text="zero")], number])
        elif step == "lui":
            put_row(asm, "lui", head, [rd, number])
        else:
            put_row(asm, step, head, [rd, rd, number])


def pcrel_pair(asm: Assembler, head: Token, temp: Operand, target: Operand, name: str, operands: list[Operand]) -> None:
    """Assemble auipc and the instruction that adds the low bits: as its last operand, or as its offset."""
    distance = signed64(evaluate(target, asm) - asm.here) if asm.strict else 0
    if not -(1 << 31) - 0x800 <= distance < (1 << 31) - 0x800:
        raise error(target[0], f"{head.text}: {shown(target)} is {distance} bytes away, which is out of its reach "
                    "-0x80000800..0x7ffff7ff")
    high, low = high20(distance, target[0], shown(target)), signed12(distance)
    put_row(asm, "auipc", head, [temp, [head._replace(kind="int", text=hex(high), value=high)]])
    number = [head._replace(kind="int", text=str(low), value=low)]
    if name == "addi":
        put_row(asm, name, head, [*operands[:-1], number])
    else:
        paren = [head._replace(kind="op", text="("), *operands[-1], head._replace(kind="op", text=")")]
        put_row(asm, name, head, [*operands[:-1], number + paren])


def at_symbol(asm: Assembler, head: Token, row: Insn, operands: list[Operand]) -> None:
    """Assemble a load or store whose address is a symbol: through its own rd, or the register named last."""
    if row.kind == "load" and len(operands) == 2:
        temp = operands[0]
    elif len(operands) == 3 and operands[2]:
        temp = operands[2]
    else:
        raise error(head, f"{row.name}: {shown(operands[1])} needs a register to hold its address: "
                    f"{row.name} {shown(operands[0])}, {shown(operands[1])}, t0")
    pcrel_pair(asm, head, temp, operands[1], row.name, [operands[0], temp])
