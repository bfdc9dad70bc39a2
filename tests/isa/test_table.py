"""The table of instructions: no two rows claim one word, and fields put their values where they take them from."""
from __future__ import annotations

import itertools

import pytest

from pyvirt._isa import BY_NAME, HINT_OF, ISA, Insn, find, parse_pattern
from pyvirt.assembly.disasm import find as indexed_find
from tests.isa.rows import words


def excluded(row: Insn, mask: int, match: int) -> bool:
    """Say whether a row forbids every word that has these bits fixed."""
    for name, value in row.forbidden:
        field = row.fields[name]
        bits = sum(((1 << width) - 1) << lsb for lsb, width, _ in field.pieces)
        if bits & ~mask == 0 and field.extract(match) == value:
            return True
    return False


def overlaps(a: Insn, b: Insn) -> bool:
    """Say whether some word is both rows'."""
    if a.length != b.length or (a.match ^ b.match) & a.mask & b.mask:
        return False
    mask, match = a.mask | b.mask, a.match | b.match
    return not excluded(a, mask, match) and not excluded(b, mask, match)


def test_no_two_rows_overlap_but_hints() -> None:
    found = {(a.name, b.name) for a, b in itertools.combinations(ISA, 2) if overlaps(a, b)}
    allowed = {tuple(sorted(pair)) for pair in HINT_OF.items()}
    assert {tuple(sorted(pair)) for pair in found} == allowed


def test_every_halfword_has_at_most_one_row() -> None:
    short = [row for row in ISA if row.length == 2]
    claimed = dict.fromkeys(short, 0)
    for word in range(1 << 16):
        if word & 3 == 3:
            continue
        rows = [row for row in short if row.matches(word)]
        hinted = {HINT_OF[row.name] for row in rows if row.name in HINT_OF}
        rows = [row for row in rows if row.name not in hinted]
        assert len(rows) <= 1, (hex(word), rows)
        for row in rows:
            claimed[row] += 1
    assert min(claimed.values()) >= 1


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ISA)
    assert len({row.ident for row in ISA}) == len(ISA)


@pytest.mark.parametrize("row", ISA, ids=lambda row: row.name)
def test_fields_tile_the_word(row: Insn) -> None:
    seen = row.mask
    for field in row.fields.values():
        for lsb, width, _ in field.pieces:
            bits = ((1 << width) - 1) << lsb
            assert not seen & bits, field
            seen |= bits
    assert seen == (1 << 8 * row.length) - 1
    assert row.match & ~row.mask == 0
    assert (row.match & 3 == 3) == (row.length == 4)


@pytest.mark.parametrize("row", ISA, ids=lambda row: row.name)
def test_insert_and_extract_are_inverse(row: Insn) -> None:
    for field in row.fields.values():
        values = {field.lo, field.hi, field.lo + field.step, field.hi - field.step, 0} | {
            1 << n for n in range(field.width) if field.lo <= 1 << n <= field.hi and not (1 << n) % field.step
        }
        for value in values:
            if field.lo <= value <= field.hi:
                assert field.extract(field.insert(value)) == value
                assert field.extract(field.insert(value) | row.match) == value
        for value in (field.lo - field.step, field.hi + field.step):
            with pytest.raises(ValueError, match="out of range"):
                field.insert(value)
        if field.step > 1:
            with pytest.raises(ValueError, match="multiple"):
                field.insert(field.step // 2 if field.lo <= 0 <= field.hi - field.step else field.lo + 1)


@pytest.mark.parametrize("row", ISA, ids=lambda row: row.name)
def test_operands_name_fields(row: Insn) -> None:
    named = {part for operand in row.operands for part in operand.replace("(", " ").replace(")", " ").split()}
    assert named - {"sp", "rtz"} <= set(row.fields)
    unnamed = set(row.fields) - named - {"aq", "rl"}
    silent = {"fence": {"fm", "rs1", "rd"}, "fence.i": {"imm", "rs1", "rd"}, "c.nop": {"cimm"}}
    assert unnamed <= silent.get(row.name, set())


@pytest.mark.parametrize("row", [row for row in ISA if row.expand], ids=lambda row: row.name)
def test_compressed_rows_name_what_they_stand_for(row: Insn) -> None:
    base = BY_NAME[row.expand]
    constants = {"x0", "x1", "x2", "0", "255", "-1"}
    assert set(row.expand_operands) <= set(row.fields) | constants
    assert len(row.expand_operands) == sum(operand.count("(") + 1 for operand in base.operands)


def test_find_agrees_with_the_index() -> None:
    for row in ISA:
        for word in words(row):
            assert find(word) is row
            assert indexed_find(word) is row
    for word in (0, 0xFFFF, 0xFFFFFFFF, 0x7F, 0x9C79, 0x6001, 0x4002):
        assert find(word) is None
        assert indexed_find(word) is None


def test_patterns_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="31 bits"):
        parse_pattern("short", "imm[11:0] rs1 000 rd 001001")
    with pytest.raises(ValueError, match="bad token"):
        parse_pattern("odd", "imm[11:0] rs1 000 rd 001001 !")
