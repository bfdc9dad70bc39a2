"""The assembler: RISC-V assembly text in GNU syntax to one flat image.

Instructions come from the table (`pyvirt._isa`), pseudo-instructions from `pseudo.py`, data directives from
`asmdata.py`. Nothing is relaxed and nothing is compressed unasked: `c.*` mnemonics give 16-bit encodings. Sizes can
depend on symbols (`li`, `.space`), so the text is laid out again until no address moves, and encoded once after that.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pyvirt.assembly.asmcode import instruction
from pyvirt.assembly.asmdata import DIRECTIVES, directive
from pyvirt.assembly.asmexpr import U64, Token, error, evaluate, scan
from pyvirt.assembly.encode import Operand, nearest
from pyvirt.assembly.regnames import F_REGS, X_REGS
from pyvirt.errors import AsmError

PASSES = 16  # layouts settle in two or three; what has not settled by now depends on itself
LIMIT = 256 << 20  # bytes of an image: a wrong .space or .org must not eat the host's memory
RANKS = {".text": 0, ".rodata": 1, ".data": 2, ".bss": 4}  # other sections lie between .data and .bss


class Assembled(bytes):
    """The image: the bytes themselves, with `base`, `symbols` (name to address or value) and `lines`.

    `lines` holds (address, line of the source) for each instruction and data directive, in order of address.
    """

    base: int
    symbols: dict[str, int]
    lines: list[tuple[int, int]]

    def __new__(cls, code: bytes, base: int, symbols: dict[str, int], lines: list[tuple[int, int]]) -> Assembled:
        made = super().__new__(cls, code)
        made.base, made.symbols, made.lines = base, symbols, lines
        return made

    @property
    def code(self) -> bytes:
        """The image as plain bytes."""
        return bytes(self)

    def __getnewargs__(self) -> tuple[bytes, int, dict[str, int], list[tuple[int, int]]]:  # type: ignore[override]
        return bytes(self), self.base, self.symbols, self.lines

    def __repr__(self) -> str:
        return f"<Assembled {len(self)} bytes at {self.base:#x}, {len(self.symbols)} symbols>"

    __str__ = __repr__


@dataclass
class Section:
    """One section while it is filled: where it begins, its bytes so far, the largest alignment asked for in it."""

    name: str
    order: int
    base: int
    data: bytearray = field(default_factory=bytearray)
    align: int = 8

    @property
    def here(self) -> int:
        """The address of the next byte."""
        return self.base + len(self.data)

    @property
    def is_code(self) -> bool:
        """Whether alignment is filled with nops."""
        return self.name == ".text" or self.name.startswith(".text.")

    @property
    def place(self) -> tuple[int, int]:
        """The key by which sections are laid out: text, rodata, data, others, bss; then order of appearance."""
        return RANKS.get("." + self.name.removeprefix(".").split(".")[0], 3), self.order


class Statement(NamedTuple):
    """Labels, then a mnemonic or directive with its operands; `NAME = value` comes as `.set`."""

    labels: list[Token]
    head: Token | None
    operands: list[Operand]


def split(tokens: Iterable[Token]) -> list[Statement]:
    """Group tokens into statements."""
    statements: list[Statement] = []
    line: list[Token] = []
    for token in tokens:
        if token.kind != "end":
            line.append(token)
            continue
        labels = []
        while len(line) > 1 and line[1].text == ":" and line[0].kind in ("name", "int"):
            labels.append(line[0])
            line = line[2:]
        if line and line[0].kind != "name":
            raise error(line[0], f"expected a label, mnemonic or directive, but found {line[0].text!r}")
        if len(line) > 1 and line[1].text == "=":
            statements.append(Statement(labels, line[0]._replace(text=".set"), [[line[0]], line[2:]]))
        elif line or labels:
            statements.append(Statement(labels, line[0] if line else None, _operands(line[1:])))
        line = []
    return statements


def _operands(tokens: list[Token]) -> list[Operand]:
    operands: list[Operand] = [[]] if tokens else []
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "op" else 0
        if token.text == "," and depth == 0:
            operands.append([])
        else:
            operands[-1].append(token)
    return operands


def parse_isa(isa: str) -> frozenset[str]:
    """Return the extensions of an ISA string such as "rv64gc_zba"; AsmError when it is malformed."""
    low = isa.lower()
    if not low.startswith("rv64"):
        raise AsmError(f"isa {isa!r} is not known; allowed are rv64i or rv64g with extensions, as in rv64gc_zba_zbb")
    single, *long = low[4:].split("_")
    found = {"I", "S"} | {name.capitalize() for name in long}
    for letter in single:
        found |= {"I", "M", "A", "F", "D", "Zicsr", "Zifencei"} if letter == "g" else {letter.upper()}
    if "D" in found:
        found.add("F")
    if "F" in found:
        found.add("Zicsr")
    return frozenset(found)


class Assembler:
    """One text being assembled. Each pass fills sections anew; what lies ahead has its value of the pass before."""

    def __init__(self, text: str, *, at: int, isa: str | None, symbols: Mapping[str, int]) -> None:
        self.at = at
        self.isa = isa
        self.extensions = None if isa is None else parse_isa(isa)
        self.given = dict(symbols)
        self.statements = split(scan(text))
        self.bases: dict[str, int] = {}
        self.old: dict[str, int] = {}
        self.old_locals: dict[int, list[int]] = {}
        self.old_pcrel: dict[int, int] = {}
        self.start(strict=False)

    def start(self, *, strict: bool) -> None:
        """Begin a pass; only a strict one encodes, and complains about values."""
        self.strict = strict
        self.symbols = dict(self.given)
        self.constants: dict[str, bool] = {}  # names set by directives: whether they may be set again
        self.locals: dict[int, list[int]] = {}
        self.pcrel: dict[int, int] = {}
        self.lines: list[tuple[int, int]] = []
        self.sections: dict[str, Section] = {}
        self.compress = True
        self.options: list[bool] = []
        self.enter(".text")

    def enter(self, name: str) -> None:
        """Go on in a section, made on first use."""
        if name not in self.sections:
            self.sections[name] = Section(name, len(self.sections), self.bases.get(name, self.at))
        self.section = self.sections[name]
        self.here = self.section.here

    def run(self) -> Assembled:
        """Lay out until nothing moves, then encode."""
        for _ in range(PASSES):
            self.start(strict=False)
            self.one_pass()
            before = (self.old, self.old_locals, self.old_pcrel, self.bases)
            self.old, self.old_locals, self.old_pcrel, self.bases = self.symbols, self.locals, self.pcrel, self.layout()
            if before == (self.old, self.old_locals, self.old_pcrel, self.bases):
                break
        else:
            moving = sorted(n for n in self.old if before[0].get(n) != self.old[n]) or ["a numeric label"]
            raise AsmError(f"the layout does not settle in {PASSES} passes: {moving[0]} depends on itself")
        self.start(strict=True)
        self.one_pass()
        image = bytearray()
        for section in sorted(self.sections.values(), key=lambda s: s.place):
            image += bytes(section.base - self.at - len(image)) + section.data
        symbols = {name: value for name, value in self.symbols.items() if name not in self.given}
        return Assembled(bytes(image), self.at, symbols, sorted(self.lines))

    def layout(self) -> dict[str, int]:
        """Return where each section begins, given how long they came out."""
        bases: dict[str, int] = {}
        end = self.at
        for section in sorted(self.sections.values(), key=lambda s: s.place):
            if section.data and bases:
                end = -(-end // section.align) * section.align
            bases[section.name] = end
            end += len(section.data)
        return bases

    def one_pass(self) -> None:
        """Go through all statements once."""
        for labels, head, operands in self.statements:
            self.here = self.section.here
            for label in labels:
                self.define(label)
            if head is None:
                continue
            if head.text in DIRECTIVES:
                directive(self, head, operands)
            elif head.text.startswith("."):
                raise error(head, f"directive {head.text} is not known{nearest(head.text, DIRECTIVES)}")
            else:
                self.lines.append((self.here, head.line))
                instruction(self, head, operands)

    # ---- symbols -------------------------------------------------------------------------------------------------
    def define(self, label: Token) -> None:
        """Give a label the current address."""
        if label.kind == "int":
            self.locals.setdefault(label.value, []).append(self.here)
        elif label.text in self.symbols or label.text == ".":
            raise error(label, f"symbol {label.text} is already defined")
        else:
            self.symbols[label.text] = self.here

    def assign(self, name: Token, value: int, *, again: bool) -> None:
        """Give a name a value, as `.set` (again) or `.equiv` (once)."""
        if name.kind != "name" or name.text == ".":
            raise error(name, f"{name.text!r} can't be set; expected a symbol's name")
        if name.text in self.symbols and not (again and self.constants.get(name.text, False)):
            raise error(name, f"symbol {name.text} is already defined")
        self.symbols[name.text] = value
        self.constants[name.text] = again

    def symbol(self, token: Token) -> int:
        """Return the value of a name or numeric label; while sizes are being found, 0 for what is not known yet."""
        if token.kind == "local":
            return self.local(token)
        value = self.symbols.get(token.text)
        if value is None:
            value = self.old.get(token.text)
        if value is not None:
            return value
        if not self.strict:
            return 0
        if token.text in X_REGS or token.text in F_REGS:
            raise error(token, f"{token.text} is a register; a number or symbol is expected")
        raise error(token, f"symbol {token.text} is not defined{nearest(token.text, self.symbols)}")

    def local(self, token: Token) -> int:
        """Return the address of the nearest numeric label before (1b) or after (1f) this place."""
        number = int(token.text[:-1])
        seen = self.locals.get(number, [])
        if token.text[-1] == "b" and seen:
            return seen[-1]
        ahead = self.old_locals.get(number, [])
        if token.text[-1] == "f" and len(ahead) > len(seen):
            return ahead[len(seen)]
        if not self.strict:
            return 0
        where = "before" if token.text[-1] == "b" else "after"
        raise error(token, f"label {number}: is not defined {where} this line")

    def pcrel_of(self, address: int, token: Token) -> int:
        """Return the distance that the %pcrel_hi at an address was made of."""
        value = self.pcrel.get(address, self.old_pcrel.get(address))
        if value is None:
            if not self.strict:
                return 0
            raise error(token, f"no %pcrel_hi at {address:#x}: %pcrel_lo takes the label of the auipc that has it")
        return value

    def value(self, operand: Operand, head: Token) -> int:
        """Return the value of an operand that must be there."""
        if not operand:
            raise error(head, f"{head.text}: an operand is empty; expected a value")
        return evaluate(operand, self)

    def emit(self, data: bytes) -> None:
        """Append bytes to the section."""
        if sum(len(s.data) for s in self.sections.values()) + len(data) > LIMIT:
            raise AsmError(f"the image is larger than {LIMIT} bytes")
        self.section.data += data
        self.here = self.section.here


def asm(
    text: str, at: int = 0x8000_0000, *, isa: str | None = None, symbols: Mapping[str, int] | None = None,
) -> Assembled:
    """Assemble text in GNU syntax to a flat image that is to be placed at address `at`.

    `isa` ("rv64gc_zba") limits the instructions; by default every instruction of the table may be used. `symbols` are
    names the text may use. Sections are laid out in the order .text, .rodata, .data, others, .bss, the first at
    `at`, each other one at a multiple of 8 or of the largest alignment asked for in it. Raises AsmError, with line and
    column.

    >>> asm("li a0, 42").hex()
    '1305a002'
    """
    if not 0 <= at <= U64 or at & 1:
        raise AsmError(f"at={at:#x} is not allowed; allowed are even addresses from 0 to 2^64-2")
    return Assembler(text, at=at, isa=isa, symbols=symbols or {}).run()
