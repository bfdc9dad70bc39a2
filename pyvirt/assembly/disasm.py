"""The disassembler: bytes to text that `asm` turns into the same bytes again.

The text is like objdump's with `-M no-aliases`: ABI register names, targets of jumps as absolute addresses.
`aliases=True` shows pseudo-instructions instead (the templates of `pseudo.py`, matched backwards). What is no
instruction of the table, or sets bits the text has no place for, is shown as `.2byte` or `.4byte`.
"""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pyvirt._isa import HINT_OF, ISA, Insn
from pyvirt.assembly.csrnames import CSR_NAMES
from pyvirt.assembly.encode import FENCE_SETS, RNE_BY_DEFAULT, TARGETS, UPPERS
from pyvirt.assembly.pseudo import PSEUDOS, Pseudo
from pyvirt.assembly.regnames import F_NAMES, FLI, ROUNDING, X_NAMES

_U64 = (1 << 64) - 1
_ROUNDING_NAMES = {value: name for name, value in ROUNDING.items()}
_HEX = frozenset({"shamt", "cshamt"})


class Line(NamedTuple):
    """One instruction: its address, its bits as a number, their length in bytes, and the text."""

    address: int
    word: int
    length: int
    text: str

    def __str__(self) -> str:
        return f"{self.address:>12x}:  {self.word:0{2 * self.length}x}{'':<{9 - 2 * self.length}} {self.text}"


def _bucket(word: int, length: int) -> int:
    """Return a small number that every word of one row shares: its opcode, or quadrant and funct3."""
    return word & 0x7F if length == 4 else 0x80 | word >> 11 & 0x1C | word & 3


def _index() -> dict[int, list[Insn]]:
    found: dict[int, list[Insn]] = {}
    for row in sorted(ISA, key=lambda r: r.name not in HINT_OF):  # hints before the instructions they are hints of
        found.setdefault(_bucket(row.match, row.length), []).append(row)
    return found


_ROWS = _index()
_ALIASES: dict[str, list[Pseudo]] = {}
for _pseudo in PSEUDOS:
    if _pseudo.shown:
        _ALIASES.setdefault(_pseudo.base, []).append(_pseudo)


def find(word: int) -> Insn | None:
    """Return the row of an instruction word, hints before the instruction they are hints of; None if there is none."""
    length = 4 if word & 3 == 3 else 2
    return next((row for row in _ROWS.get(_bucket(word, length), ()) if row.matches(word)), None)


def _unshown(row: Insn, word: int) -> bool:
    """Say whether a word sets fields that the row's text has no place for, or a reserved rounding mode."""
    if row.name == "fence":
        return any(row.fields[f].extract(word) for f in ("fm", "rs1", "rd")) and word != 0x8330000F
    if row.name == "fence.i":
        return any(row.fields[f].extract(word) for f in ("imm", "rs1", "rd"))
    return "rm" in row.fields and row.fields["rm"].extract(word) not in _ROUNDING_NAMES


def _operand(row: Insn, kind: str, word: int, address: int) -> str:
    if "(" in kind:
        offset, base = kind[:-1].split("(")
        return (_operand(row, offset, word, address) if offset else "") + f"({_operand(row, base, word, address)})"
    if kind in ("sp", "rtz"):
        return kind
    value = row.fields[kind].extract(word)
    if kind == "fli":
        return FLI[value]
    if kind[0] == "r" and kind != "rm":
        return X_NAMES[value + 8 if kind.endswith("c") else value]
    if kind[0] == "f":
        return F_NAMES[value + 8 if kind.endswith("c") else value]
    if kind in TARGETS:
        return hex(address + value & _U64)
    if kind in UPPERS:
        return hex(value >> 12 & 0xFFFFF)
    if kind == "csr":
        return CSR_NAMES.get(value, hex(value))
    if kind in ("pred", "succ"):
        return "".join(c for i, c in enumerate(FENCE_SETS) if value & 8 >> i) or "0"
    if kind == "rm":
        return _ROUNDING_NAMES[value]
    return hex(value) if kind in _HEX else str(value)


def _render(row: Insn, word: int, address: int) -> tuple[str, list[str]]:
    name = row.name
    if word == 0x8330000F:
        return "fence.tso", []
    kinds = list(row.operands)
    if name == "c.nop" and row.fields["cimm"].extract(word):
        kinds = ["cimm"]
    operands = [_operand(row, kind, word, address) for kind in kinds]
    if "aq" in row.fields:
        name += ("", ".rl", ".aq", ".aqrl")[2 * row.fields["aq"].extract(word) + row.fields["rl"].extract(word)]
    if kinds and kinds[-1] == "rm" and operands[-1] == ("rne" if name in RNE_BY_DEFAULT else "dyn"):
        operands.pop()
    return name, operands


def _match(pseudo: Pseudo, operands: list[str]) -> list[str] | None:
    """Return the operands of a pseudo-instruction that stands for these operands of its base, or None."""
    if len(operands) != len(pseudo.operands):
        return None
    bound: dict[str, str] = {}
    for part, text in zip(pseudo.operands, operands, strict=True):
        before, dollar, rest = part.partition("$")
        if not dollar:
            if part != text:
                return None
            continue
        number, after = rest[:1], rest[1:]
        if not (text.startswith(before) and text.endswith(after)) or len(text) < len(before) + len(after):
            return None
        inner = text[len(before):len(text) - len(after)]
        if bound.setdefault(number, inner) != inner:
            return None
    return [bound[str(n + 1)] for n in range(pseudo.arity)]


def _alias(name: str, operands: list[str]) -> tuple[str, list[str]]:
    for pseudo in _ALIASES.get(name, ()):
        found = _match(pseudo, operands)
        if found is not None:
            return pseudo.name, found
    return name, operands


class _Symbols:
    """Names by address, for the comments beside targets."""

    def __init__(self, symbols: Mapping[str, int] | None) -> None:
        pairs = sorted((value, name) for name, value in (symbols or {}).items())
        self.addresses, self.names = [value for value, _ in pairs], [name for _, name in pairs]

    def near(self, address: int) -> str:
        """Return "name" or "name+0x4" for an address, or nothing when no symbol within 64 KiB is before it."""
        at = bisect_right(self.addresses, address) - 1
        if at < 0 or address - self.addresses[at] > 0xFFFF:
            return ""
        gap = address - self.addresses[at]
        return self.names[at] + (f"+{gap:#x}" if gap else "")


def disasm_word(word: int, at: int = 0, *, aliases: bool = False, symbols: Mapping[str, int] | None = None) -> str:
    """Return the text of one instruction word (its low two bits say whether it has 16 or 32 bits)."""
    return _text(word, 4 if word & 3 == 3 else 2, at, aliases, _Symbols(symbols))


def _text(word: int, length: int, address: int, aliases: bool, symbols: _Symbols) -> str:
    row = find(word)
    if row is None or row.length != length or _unshown(row, word):
        return f".{length}byte 0x{word:0{2 * length}x}"
    name, operands = _render(row, word, address)
    if aliases:
        name, operands = _alias(name, operands)
    text = f"{name} {','.join(operands)}" if operands else name
    target = next((kind for kind in row.operands if kind in TARGETS), None)
    if target:
        near = symbols.near(address + row.fields[target].extract(word) & _U64)
        text += f" # <{near}>" if near else ""
    return text


def disasm(
    data: bytes, at: int = 0x8000_0000, *, symbols: Mapping[str, int] | None = None, aliases: bool = False,
) -> list[Line]:
    """Disassemble bytes that lie at address `at`; a lone last byte or half comes as `.byte` or `.2byte`.

    `symbols` (name to address) are named in comments beside the targets of jumps.

    >>> [line.text for line in disasm(bytes.fromhex("1305a002"), aliases=True)]
    ['li a0,42']
    """
    return list(_lines(bytes(data), at, aliases, _Symbols(symbols)))


def _lines(data: bytes, at: int, aliases: bool, symbols: _Symbols) -> Iterable[Line]:
    offset = 0
    while offset < len(data):
        address = at + offset & _U64
        left = len(data) - offset
        length = 4 if data[offset] & 3 == 3 else 2
        if length > left:
            length = 2 if left >= 2 else 1
        word = int.from_bytes(data[offset:offset + length], "little")
        if length == 1 or (word & 3 == 3 and length == 2):
            text = f".{'2byte' if length == 2 else 'byte'} 0x{word:0{2 * length}x}"
        else:
            text = _text(word, length, address, aliases, symbols)
        yield Line(address, word, length, text)
        offset += length
