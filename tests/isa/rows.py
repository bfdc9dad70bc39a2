"""Instruction words at the extremes of their operands, for every row of the table."""
from __future__ import annotations

import random

from pyvirt._isa import ISA, Insn
from pyvirt.assembly.disasm import find

RM_RESERVED = (5, 6)


def words(row: Insn, extra: int = 4) -> list[int]:
    """Return words of a row: every field at its ends while the others are low, high or mixed, and some random ones.

    Words that are another row's (a hint's, or reserved) are left out, as are reserved rounding modes and settings of
    the fence fields that assembly has no text for.
    """
    rng = random.Random(row.name)
    fields = row.fields
    masks = {name: sum(((1 << width) - 1) << lsb for lsb, width, _ in field.pieces) for name, field in fields.items()}
    found: list[int] = [row.match, row.match | sum(masks.values())]
    for name in fields:
        others = sum(mask for other, mask in masks.items() if other != name)
        found += [row.match | masks[name], row.match | others]
        for lsb, width, _ in fields[name].pieces:
            found += [row.match | 1 << lsb, row.match | 1 << lsb + width - 1]
    found += [row.match | rng.getrandbits(32) & sum(masks.values()) for _ in range(extra)]
    return [word for word in dict.fromkeys(found) if usable(row, word)]


def usable(row: Insn, word: int) -> bool:
    """Say whether a word is this row's and can be written as text."""
    if row.name == "fence" and any(row.fields[f].extract(word) for f in ("fm", "rs1", "rd")):
        return False
    if row.name == "fence.i" and word != row.match:
        return False
    if "rm" in row.fields and row.fields["rm"].extract(word) in RM_RESERVED:
        return False
    return find(word) is row


EVERY: list[tuple[Insn, int]] = [(row, word) for row in ISA for word in words(row)]
