"""Tokens and expressions of assembly text.

Owns the scanner (numbers, characters, strings, names, comments) and the evaluation of expressions with GNU as's
precedence: `* / % << >>` bind tightest, then `& | ^`, then `+ -`. Values are 64-bit: `/` and `%` truncate towards
zero, `>>` fills with zeros, anything past 64 bits is an error where it is used. Knows nothing of instructions.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from pyvirt.errors import AsmError

U64 = (1 << 64) - 1
DEPTH = 60  # nesting of parentheses and unary operators: far past real code, far below Python's recursion limit
ESCAPES = {"n": 10, "t": 9, "r": 13, "b": 8, "f": 12, "v": 11, "a": 7, "e": 27, "\\": 92, '"': 34, "'": 39}
RELOCATIONS = ("hi", "lo", "pcrel_hi", "pcrel_lo")


class Token(NamedTuple):
    """One token: `kind` is name, int, real, local (1b, 1f), str, op or end; `text` as written, positions from 1."""

    kind: str
    text: str
    value: int
    line: int
    column: int


class Env(Protocol):
    """What an expression may ask its surroundings."""

    here: int
    strict: bool  # False while sizes are being found and symbols may still read as 0
    pcrel: dict[int, int]  # the distance that the %pcrel_hi at an address was made of

    def symbol(self, token: Token) -> int:
        """Return the value of a name or a numeric label."""
        ...

    def pcrel_of(self, address: int, token: Token) -> int:
        """Return the distance that the %pcrel_hi at an address was made of."""
        ...


_SCAN = re.compile(
    r"""(?P<space>[ \t\r\f]+|/\*.*?\*/|(?:\#|//)[^\n]*)
    |(?P<end>[\n;])
    |(?P<local>[0-9]+[bf](?![\w.]))
    |(?P<real>[0-9]+(?:\.[0-9]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)(?![\w.]))
    |(?P<int>[0-9]\w*)
    |(?P<char>'(?:\\(?:[0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)|[^\\\n])'?)
    |(?P<str>"(?:\\.|[^"\\\n])*")
    |(?P<name>[A-Za-z_.$][\w.$]*)
    |(?P<op><<|>>|[-+*/%&|^~(),:=@])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


def error(token: Token, message: str) -> AsmError:
    """Make the exception for something wrong at a token."""
    return AsmError(message, token.line, token.column)


def unescape(token: Token, text: str) -> bytes:
    """Return the bytes of a string or character body; AsmError names an escape that is not known."""
    out = bytearray()
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char != "\\":
            out += char.encode()
            continue
        found = re.compile(r"[0-7]{1,3}|x[0-9a-fA-F]{1,2}").match(text, at)
        if found:
            digits = found.group()
            out.append((int(digits[1:], 16) if digits[0] == "x" else int(digits, 8)) & 0xFF)
            at = found.end()
        elif text[at] in ESCAPES:
            out.append(ESCAPES[text[at]])
            at += 1
        else:
            known = " ".join("\\" + name for name in ESCAPES)
            raise error(token, f"escape \\{text[at]} is not known; known are {known} \\NNN \\xHH")
    return bytes(out)


def number(text: str) -> int | None:
    """Return the value of a number as assemblers write it (0x, 0b, leading 0 for octal), or None if it is none."""
    low = text.lower()
    for prefix, base in (("0x", 16), ("0b", 2), ("0", 8)):
        if low.startswith(prefix) and len(low) > len(prefix):
            digits = "0123456789abcdef"[:base]
            body = low[len(prefix):]
            return int(body, base) if all(c in digits for c in body) else None
    return int(text) if text.isdigit() else None


def scan(text: str) -> list[Token]:
    """Cut assembly text into tokens, without comments; each line or `;` ends in an `end` token."""
    tokens: list[Token] = []
    at, line, start = 0, 1, 0
    while at < len(text):
        found = _SCAN.match(text, at)
        here = Token("op", text[at], 0, line, at - start + 1)
        if found is None or (text.startswith("/*", at) and found.lastgroup != "space"):
            if text.startswith("/*", at):
                raise error(here, "comment /* has no end */")
            if text[at] in "\"'":
                raise error(here, f"string has no closing {text[at]}")
            raise error(here, f"character {text[at]!r} is not allowed here; allowed are names, numbers, strings "
                        "and + - * / % << >> & | ^ ~ ( ) , : = @")
        kind, body = found.lastgroup or "", found.group()
        if kind != "space":
            value = 0
            if kind == "int":
                known = number(body)
                if known is None:
                    raise error(here, f"number {body!r} is malformed; "
                                "allowed are decimal, 0x hexadecimal, 0b binary, 0 octal")
                value = known
            elif kind == "char":
                inner = body[1:-1] if len(body) > 2 and body[-1] == "'" and body != "'\\'" else body[1:]
                raw = unescape(here, inner)
                value, kind = int.from_bytes(raw, "little"), "int"
            tokens.append(Token(kind, body, value, line, at - start + 1))
        newlines = body.count("\n")
        at = found.end()
        if newlines:
            line += newlines
            start = at - (len(body) - body.rindex("\n") - 1)
    tokens.append(Token("end", "", 0, line, at - start + 1))
    return tokens


def _divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _shift_left(a: int, b: int) -> int:
    return (a << b) & U64 if 0 <= b < 64 else 0


def _shift_right(a: int, b: int) -> int:
    return (a & U64) >> b if 0 <= b < 64 else 0


_TIGHT: dict[str, Callable[[int, int], int]] = {
    "*": lambda a, b: a * b, "/": _divide, "%": lambda a, b: a - b * _divide(a, b),
    "<<": _shift_left, ">>": _shift_right,
}
_MIDDLE: dict[str, Callable[[int, int], int]] = {
    "&": lambda a, b: a & b, "|": lambda a, b: a | b, "^": lambda a, b: a ^ b,
}
_LOOSE: dict[str, Callable[[int, int], int]] = {"+": lambda a, b: a + b, "-": lambda a, b: a - b}
_LEVELS = (_LOOSE, _MIDDLE, _TIGHT)


class _Evaluation:
    """One expression being evaluated: the tokens, the place in them, and the surroundings."""

    def __init__(self, tokens: list[Token], env: Env) -> None:
        self.tokens, self.env, self.at, self.depth = tokens, env, 0, 0

    def peek(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def expect(self, text: str) -> None:
        if self.peek() != text:
            token = self.tokens[min(self.at, len(self.tokens) - 1)]
            found = f"found {self.peek()!r}" if self.peek() else "the expression ends"
            raise error(token, f"expected {text!r}, but {found}")
        self.at += 1

    def binary(self, level: int) -> int:
        if level == len(_LEVELS):
            return self.unary()
        value = self.binary(level + 1)
        while self.at < len(self.tokens) and self.tokens[self.at].kind == "op" and self.peek() in _LEVELS[level]:
            token = self.tokens[self.at]
            self.at += 1
            right = self.binary(level + 1)
            if token.text in "/%" and right == 0:
                if self.env.strict:
                    raise error(token, f"{token.text} by zero")
                right = 1
            value = _LEVELS[level][token.text](value, right)
            if value.bit_length() > 128:  # wraps are found where the value is used; this only bounds the work
                raise error(token, f"result of {token.text} does not fit 64 bits")
        return value

    def unary(self) -> int:
        if self.at >= len(self.tokens):
            raise error(self.tokens[-1], "the expression ends where a value is expected")
        token = self.tokens[self.at]
        self.at += 1
        self.depth += 1
        if self.depth > DEPTH:
            raise error(token, f"expression is nested deeper than {DEPTH}")
        value = self.primary(token)
        self.depth -= 1
        return value

    def primary(self, token: Token) -> int:
        if token.kind == "int":
            return token.value
        if token.kind == "name":
            return self.env.here if token.text == "." else self.env.symbol(token)
        if token.kind == "local":
            return self.env.symbol(token)
        if token.kind == "op":
            if token.text in "-+~":
                value = self.unary()
                return {"-": -value, "+": value, "~": ~value}[token.text]
            if token.text == "(":
                value = self.binary(0)
                self.expect(")")
                return value
            if token.text == "%":
                return self.relocation(token)
        raise error(token, f"expected a number, symbol or '(', but found {token.text!r}")

    def relocation(self, token: Token) -> int:
        name = self.peek()
        if name not in RELOCATIONS:
            raise error(token, f"relocation %{name} is not known; known are %{' %'.join(RELOCATIONS)}")
        self.at += 1
        self.expect("(")
        value = signed64(self.binary(0))
        self.expect(")")
        if name == "lo":
            return signed12(value)
        if name == "pcrel_lo":
            return signed12(self.env.pcrel_of(value, token))
        if name == "pcrel_hi":
            value = signed64(value - self.env.here)
            self.env.pcrel[self.env.here] = value
        return high20(value, token, f"%{name}") if self.env.strict else 0


def signed64(value: int) -> int:
    """Return a value of 64 bits as a signed number."""
    value &= U64
    return value - (1 << 64) if value >> 63 else value


def signed12(value: int) -> int:
    """Return the low 12 bits of a value, sign-extended: what an addi, load or store adds."""
    return ((value & 0xFFF) ^ 0x800) - 0x800


def high20(value: int, token: Token, what: str) -> int:
    """Return the 20 bits that with the sign-extended low 12 make a value; AsmError when it needs over 32 bits."""
    if not -(1 << 31) - 0x800 <= value < (1 << 31) - 0x800:
        raise error(token, f"{what} of {value:#x} is out of range -0x80000800..0x7ffff7ff")
    return ((value + 0x800) >> 12) & 0xFFFFF


def evaluate(tokens: list[Token], env: Env) -> int:
    """Return the value of a whole expression, -2^63..2^64-1; AsmError says what is wrong and where."""
    run = _Evaluation(tokens, env)
    value = run.binary(0)
    if run.at < len(tokens):
        raise error(tokens[run.at], f"unexpected {tokens[run.at].text!r} after the expression")
    if not -(1 << 63) <= value <= U64:
        raise error(tokens[0], f"value {value} is out of range -2^63..2^64-1")
    return value
