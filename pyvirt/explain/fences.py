"""Missing fences as values: what the core noted while `Machine(fences="check")` ran."""
from __future__ import annotations

from dataclasses import dataclass

from pyvirt._hart import Core

_FLAGS = "vrwxugad"


def show_entry(entry: int) -> str:
    """Return a page-table entry in words: its page number and its flags.

    >>> show_entry(0x200100C7)
    '0x80040000 vrw---ad'
    """
    flags = "".join(name if entry >> bit & 1 else "-" for bit, name in enumerate(_FLAGS))
    return f"{(entry >> 10 & (1 << 44) - 1) << 12:#x} {flags}"


@dataclass(frozen=True, kw_only=True)
class MissingFence:
    """A translation was used although its page-table entry had changed and the hart had not fenced.

    `entry` is the entry's physical address, `old` and `new` its values; `stage` is "S" (with V=0), "VS" or "G", and
    `level` that of its page table, 0 for one that maps pages. `va` and `size` are what it covers: `size` is 0 where
    that is not known, for the G-stage and for a table that is used at several places.
    The store was made by `store_hart` at `store_pc`, the use by `use_hart` at `use_pc` for `use_va`.
    """

    entry: int
    old: int
    new: int
    va: int
    size: int
    stage: str
    level: int
    store_pc: int
    store_icount: int
    store_hart: int
    use_va: int
    use_pc: int
    use_icount: int
    use_hart: int

    def __str__(self) -> str:
        change = f"changed from {show_entry(self.old)} to {show_entry(self.new)}"
        return (f"entry {self.entry:#x} ({self.stage}-stage, level {self.level}) {change} by "
                f"hart {self.store_hart} at pc {self.store_pc:#x}, icount {self.store_icount}; hart {self.use_hart} "
                f"used it unfenced for {self.use_va:#x} at pc {self.use_pc:#x}, icount {self.use_icount}")


def take(core: Core) -> list[MissingFence]:
    """Return what the core noted since the last call."""
    found = []
    for at, old, new, va, size, stage, level, *rest in core.take_missing_fences():
        store_pc, store_icount, store_hart, use_va, use_pc, use_icount, use_hart = rest
        found.append(MissingFence(
            entry=at, old=old, new=new, va=va, size=size, stage=("S", "VS", "G")[stage], level=level,
            store_pc=store_pc, store_icount=store_icount, store_hart=store_hart, use_va=use_va, use_pc=use_pc,
            use_icount=use_icount, use_hart=use_hart))
    return found
