"""A translation explained, as values: the steps of a walk, the rule that ended it, and how they are shown.

walker.py makes them. Rules cite the privileged manual 1.13, whose steps of "Virtual Address Translation Process" are
numbered as there.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pyvirt.show import html_table
from pyvirt.stop import Trap, cause_name

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
N, PBMT, RESERVED, PPN = 1 << 63, 3 << 61, 0x7F << 54, (1 << 44) - 1
FLAGS = ((V, "valid"), (R, "readable"), (W, "writable"), (X, "executable"), (U, "user"), (G, "global"), (A, "accessed"),
         (D, "dirty"))
PBMT_NAMES = {1: "PBMT NC", 2: "PBMT IO", 3: "PBMT 3"}
GUEST_PAGE_FAULTS = (20, 21, 23)


class Rule(NamedTuple):
    """A rule that can refuse a translation, in words, and where the manual has it."""

    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.text} (manual, {self.source})"


_STEP = '"Virtual Address Translation Process", step '
_G_STAGE = '"H", "Guest Physical Address Translation"'
RULES = {
    "canonical": Rule("the bits above the mode's width are not copies of its top bit",
                      '"Addressing and Memory Protection" of Sv39, Sv48, Sv57'),
    "wide": Rule("the guest physical address has bits above the mode's width", _G_STAGE),
    "memory": Rule("there is no RAM at the entry's address", _STEP + "2"),
    "pmp_entry": Rule("PMP does not let the hart read the entry", _STEP + "2"),
    "invalid": Rule("V is 0", _STEP + "3"),
    "write_only": Rule("W is 1 while R is 0, which is reserved", _STEP + "3"),
    "reserved": Rule("bits 60 to 54 are reserved and not all 0", _STEP + "3"),
    "pbmt": Rule("PBMT is 3, which is reserved", '"Svpbmt"'),
    "pbmt_off": Rule("PBMT is set while PBMTE of menvcfg, or in a guest's own tables of henvcfg, is 0", '"Svpbmt"'),
    "napot_off": Rule("N is 1 without Svnapot", '"Svnapot"'),
    "pointer_bits": Rule("A, D, U, N or PBMT is set in a pointer, where they are reserved", _STEP + "3"),
    "too_deep": Rule("the lowest table holds a pointer", _STEP + "4"),
    "misaligned": Rule("the low bits of a superpage's PPN are not 0", _STEP + "5"),
    "napot": Rule("N is 1 and this is no 64 KiB page at the lowest level", '"Svnapot"'),
    "user_only": Rule("U is 0: no page for U-mode", _STEP + "6"),
    "g_user": Rule("U is 0, and the G-stage takes every access for one of U-mode", _G_STAGE),
    "sum": Rule("U is 1, and S-mode's loads and stores reach such a page only while SUM is 1", _STEP + "6"),
    "user_code": Rule("U is 1, and S-mode never executes from such a page", _STEP + "6"),
    "readable": Rule("the page is not readable", _STEP + "8"),
    "writable": Rule("the page is not writable", _STEP + "8"),
    "executable": Rule("the page is not executable", _STEP + "8"),
    "accessed": Rule("A is 0, and ADUE does not let the hart set it", _STEP + "9"),
    "dirty": Rule("D is 0 on a store, and ADUE does not let the hart set it", _STEP + "9"),
    "pmp_update": Rule("PMP does not let the hart set A or D in the entry", _STEP + "9"),
    "pmp": Rule("PMP does not allow the access", '"Physical Memory Protection"'),
    "nothing": Rule("there is neither RAM nor a device at the address", '"Physical Memory Attributes"'),
}


def pte_words(value: int) -> str:
    """Return a page-table entry's bits in words.

    >>> pte_words(0x200000d7)
    'valid, readable, writable, user, accessed, dirty'
    """
    words = ["not valid"] if not value & V else []
    words += [word for bit, word in FLAGS if value & bit]
    if value & N:
        words.append("NAPOT")
    if value & PBMT:
        words.append(PBMT_NAMES[value >> 61 & 3])
    if value & RESERVED:
        words.append(f"reserved bits {value >> 54 & 0x7F:#x}")
    return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a walk.

    `stage` is "S", "VS", "G" or "memory"; `kind` is "entry" (of a table), "bare" (the stage is off), "address" (the
    stage refuses what it was asked for), "update" (A or D is set) or "access". An entry has `level` (0 is the lowest),
    `table` (address of its table), `index` and `address` in it, its value `pte` (None where it can't be read) and
    `words`. In the VS-stage `table` and `address` are guest physical, `pa` is where the entry is, and `steps` are
    those of the G-stage that found it. `result` is the address that the step leads to, `rule` what refused it.
    """

    stage: str
    kind: str
    level: int | None = None
    table: int | None = None
    index: int | None = None
    address: int | None = None
    pa: int | None = None
    pte: int | None = None
    words: str = ""
    result: int | None = None
    rule: Rule | None = None
    steps: tuple[Step, ...] = ()

    @property
    def leaf(self) -> bool:
        """True for an entry that maps a page."""
        return self.pte is not None and bool(self.pte & V) and bool(self.pte & (R | X))

    def __str__(self) -> str:
        name = self.stage if self.stage == "memory" else f"{self.stage}-stage"
        space = "gpa" if self.stage == "VS" else "pa"
        if self.kind != "entry":
            shown = f"{name}: {self.words}"
        else:
            shown = (f"{name} level {self.level}: table at {space} {self.table:#x}, "
                     f"entry {self.index} at {self.address:#x}")
            if self.pte is not None:
                where = f" (pa {self.pa:#x})" if self.stage == "VS" else ""
                shown += f"{where} is {self.pte:#x}: {self.words}"
        if self.result is not None and self.kind == "entry":
            shown += f"; {'maps' if self.leaf else 'points to'} {space} {self.result:#x}"
        return shown + (f"  <-- fails: {self.rule}" if self.rule is not None else "")


@dataclass(frozen=True, kw_only=True, repr=False)
class Walk:
    """A translation of `va`, step by step; `print(walk)` shows it, Jupyter as a table.

    `access` is "load", "store", "fetch" or "hlvx"; `world` is whose rules hold. `pa` is the result, None if a rule of
    translation or PMP refused it, and `gpa` what the first of two stages came to. `size` is how many bytes around the
    address every stage's leaf maps alike. `trap` is what the hart would take instead of making the access, or None.
    """

    va: int
    access: str
    world: str
    regime: str
    steps: tuple[Step, ...]
    pa: int | None = None
    gpa: int | None = None
    size: int = 0
    trap: Trap | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """True when the access would be made."""
        return self.trap is None

    @property
    def cause(self) -> int | None:
        """The trap's cause as in mcause, None without one."""
        return None if self.trap is None else self.trap.cause

    @property
    def lines(self) -> Iterator[tuple[int, Step]]:
        """Every step with its depth, as a hart takes them: the G-stage's steps come before the entry they find."""
        yield from _flat(self.steps, 0)

    @property
    def failed(self) -> Step | None:
        """The step that was refused, the innermost one."""
        return next((step for _, step in self.lines if step.rule is not None), None)

    @property
    def rule(self) -> Rule | None:
        """The rule that refused the access."""
        return None if self.failed is None else self.failed.rule

    @property
    def loads(self) -> int:
        """How many entries the hart reads when no cache helps."""
        return sum(step.pte is not None for _, step in self.lines)

    @property
    def result(self) -> str:
        """How it ended, in one line."""
        if self.trap is None:
            via = f" by gpa {self.gpa:#x}" if self.gpa is not None else ""
            return f"pa {self.pa:#x}{via}, {self.loads} entries read"
        t = self.trap
        more = ""
        if t.cause in GUEST_PAGE_FAULTS:
            more = f", tval2 {t.tval2:#x} (gpa {t.tval2 << 2:#x} >> 2), tinst {t.tinst:#x}"
        return f"{cause_name(t.cause)} (cause {t.cause}), tval {t.tval:#x}{more}, from {t.world_from} to {t.world_to}"

    def __str__(self) -> str:
        lines = [f"{self.access} of {self.va:#x} in {self.world}: {self.regime}"]
        lines += ["  " * (depth + 1) + str(step) for depth, step in self.lines]
        note = f"; {self.note}" if self.note else ""
        return "\n".join([*lines, f"{'allowed' if self.ok else 'trap'}: {self.result}{note}"])

    def __repr__(self) -> str:
        return f"<Walk {self.access} of {self.va:#x} in {self.world}: {self.result}>"

    def _repr_html_(self) -> str:
        rows: list[list[object]] = []
        styles = []
        for depth, step in self.lines:
            table, address, pa, pte, result = ("" if value is None else f"{value:#x}" for value in (
                step.table, step.address, step.pa, step.pte, step.result))
            rows.append(["\N{NO-BREAK SPACE}" * 4 * depth + step.stage, "" if step.level is None else step.level, table,
                         "" if step.index is None else step.index, address, pa, pte,
                         f"fails: {step.rule}" if step.rule else step.words, result])
            styles.append("background:#fdd" if step.rule else "color:#888" if depth else "")
        head = ("stage", "level", "table", "index", "entry at", "pa", "entry", "in words", "leads to")
        title = f"{self.access} of {self.va:#x} in {self.world}: {self.regime}. {self.result}"
        return html_table(head, rows, caption=title, styles=styles)


def _flat(steps: tuple[Step, ...], depth: int) -> Iterator[tuple[int, Step]]:
    for step in steps:
        yield from _flat(step.steps, depth + 1)
        yield depth, step
