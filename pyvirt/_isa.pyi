"""Types of the compiled table of instructions (ext/isa.py)."""

WIDTHS: dict[str, int]
SIGNED: set[str]
SLOTS: dict[str, str]

class Field:
    name: str
    pieces: list[tuple[int, int, int]]
    signed: bool
    width: int
    step: int
    lo: int
    hi: int
    def __init__(self, name: str, pieces: list[tuple[int, int, int]]) -> None: ...
    def extract(self, word: int) -> int: ...
    def insert(self, value: int) -> int: ...

class Insn:
    name: str
    pattern: str
    operands: tuple[str, ...]
    ext: str
    kind: str
    expand: str
    expand_operands: tuple[str, ...]
    forbidden: list[tuple[str, int]]
    mask: int
    match: int
    length: int
    fields: dict[str, Field]
    def __init__(
        self, name: str, pattern: str, operands: str, ext: str, kind: str, expand: str, forbidden: str
    ) -> None: ...
    @property
    def ident(self) -> str: ...
    def matches(self, word: int) -> bool: ...

def parse_pattern(name: str, pattern: str) -> tuple[int, int, int, dict[str, Field]]: ...
def row(
    name: str, pattern: str, operands: str, ext: str, kind: str, expand: str = "", forbidden: str = ""
) -> None: ...
def rows(ext: str, kind: str, operands: str, text: str) -> None: ...
def compressed(
    name: str, pattern: str, operands: str, expand: str, forbidden: str = "", ext: str = "C"
) -> None: ...
def find(word: int) -> Insn | None: ...

ISA: list[Insn]
BY_NAME: dict[str, Insn]
HINT_OF: dict[str, str]
__test__: dict[str, str]
