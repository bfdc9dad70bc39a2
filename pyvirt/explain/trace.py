"""Traps as values for whoever wants them: hooks, traces kept or streamed, counts of exits.

`Taps` is the one user of the core's trap records: it turns them on while somebody listens, and takes them behind every
slice. A hook asks the core to come back right behind the trap; traces and counts need no stop. With no listener the
core keeps nothing, so that nothing is paid. All of this is the host's: no state of the machine, in no digest.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from pyvirt.config import choice, integer
from pyvirt.errors import ConfigError
from pyvirt.explain.perfetto import Perfetto, write_aside
from pyvirt.show import html_table, text_table
from pyvirt.stop import CAUSE_NAMES, INTERRUPT, U64, Trap, cause_name

if TYPE_CHECKING:
    from pyvirt._hart import Core
    from pyvirt.explain.exits import Exits

# A record as the core gives it: icount, pc, cause, tval, tval2, tinst, hgatp, from, to, gva, kind, hart.
Raw = tuple[int, ...]
ICOUNT, PC, CAUSE, HGATP, FROM, TO, KIND, HART = 0, 1, 2, 6, 7, 8, 10, 11
TRAP, RETURN = 0, 1
VIRT, PRIV_M = 4, 3
CAPACITY = 4096
WORLDS = {0: "U", 1: "HS", 3: "M", 4: "VU", 5: "VS"}


@dataclass(frozen=True, kw_only=True)
class Return:
    """An mret or sret, to `pc`; `hgatp` where it entered a guest."""

    pc: int
    world_from: str
    world_to: str
    icount: int
    hart: int = 0
    hgatp: int = 0

    def __str__(self) -> str:
        return f"return to pc {self.pc:#x}, from {self.world_from} to {self.world_to}"


class Sink(Protocol):
    """Takes every record, in order."""

    def feed(self, records: list[Raw]) -> None:
        """Take the records of a slice."""


class Names:
    """Makes values of raw records; worlds have their names under the ISA."""

    def __init__(self, *, hyp: bool) -> None:
        self.worlds = WORLDS if hyp else {**WORLDS, 1: "S"}

    def value(self, raw: Raw) -> Trap | Return:
        icount, pc, cause, tval, tval2, tinst, hgatp, from_, to, gva, kind, hart = raw
        worlds = self.worlds
        if kind == RETURN:
            return Return(pc=pc, world_from=worlds[from_], world_to=worlds[to], icount=icount, hart=hart,
                          hgatp=hgatp if to & VIRT else 0)
        return Trap(cause=cause, tval=tval, tval2=tval2, tinst=tinst, gva=bool(gva), pc=pc, world_from=worlds[from_],
                    world_to=worlds[to], icount=icount, hart=hart, hgatp=hgatp if from_ & VIRT else 0)


# ---- which traps --------------------------------------------------------------------------------------------------
def cause_of(value: object, *, name: str) -> int:
    """Return a cause as mcause holds it, from a number or the manual's name."""
    if isinstance(value, str):
        if value in CAUSE_NAMES:
            return CAUSE_NAMES[value]
        close = get_close_matches(value, CAUSE_NAMES, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"{name}: cause is {value!r}{hint}; allowed: a number as in mcause, or a name such as "
                          "'ecall from VS'")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= U64 or value & ~INTERRUPT > 63:
        raise ConfigError(f"{name}: cause is {value!r}; allowed: 0...63, for interrupts with bit 63, or a name")
    return value


@dataclass(frozen=True)
class Filter:
    """Which traps are wanted: every condition that is not None must hold."""

    causes: frozenset[int] | None
    level: int | None
    hgatp: int | None
    from_: frozenset[str] | None
    to: frozenset[str] | None

    @classmethod
    def of(cls, *, level: object, cause: object, from_: object, to: object, hyp: bool, name: str) -> Filter:
        """Check what the user gave: single values or lists."""
        causes = None if cause is None else frozenset(cause_of(one, name=name) for one in _several(cause))
        hgatp, depth = getattr(level, "hgatp", None), getattr(level, "depth", level)
        if depth is not None:
            depth = integer(depth, name=f"{name}: level", low=1, high=2)
        allowed = ("M", "HS", "S", "U", "VS", "VU") if hyp else ("M", "S", "U")
        worlds: list[frozenset[str] | None] = []
        for label, value in (("from_", from_), ("to", to)):
            for world in () if value is None else _several(value):
                choice(world, name=f"{name}: {label}", allowed=allowed)
            worlds.append(None if value is None else frozenset(
                "HS" if world == "S" and hyp else world for world in _several(value)))
        return cls(causes, depth, hgatp if depth == 2 else None, *worlds)

    @property
    def masks(self) -> tuple[int, int]:
        """The causes as two masks for the core: exceptions, interrupts."""
        if self.causes is None:
            return U64, U64
        return (sum(1 << cause for cause in self.causes if not cause & INTERRUPT),
                sum(1 << (cause & 63) for cause in self.causes if cause & INTERRUPT))

    def __call__(self, trap: Trap) -> bool:
        return ((self.causes is None or trap.cause in self.causes) and (self.level is None or trap.level == self.level)
                and (self.hgatp is None or trap.hgatp == self.hgatp)
                and (self.from_ is None or trap.world_from in self.from_)
                and (self.to is None or trap.world_to in self.to))


def _several(value: Any) -> Iterable[Any]:
    return (value,) if isinstance(value, (str, int)) or not isinstance(value, Iterable) else value


class Hook:
    """A function that is called with every Trap that passes a filter, right behind its delivery.

    `remove()` ends it; so does leaving `with hook:`. `calls` counts.
    """

    def __init__(self, taps: Taps, wanted: Filter, function: Callable[[Trap], object]) -> None:
        self._taps, self.wanted, self.function = taps, wanted, function
        self.calls = 0
        self.active = True

    def remove(self) -> None:
        """Call the function no more; removing twice is fine."""
        if self.active:
            self.active = False
            self._taps.hooks.remove(self)
            self._taps.arm()

    def __call__(self, trap: Trap) -> object:
        return self.function(trap)

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", repr(self.function))
        return f"<Hook {name} {self.calls} calls{'' if self.active else ' removed'}>"


class Taps:
    """Everybody who listens to one core's traps."""

    def __init__(self, core: Core, *, hyp: bool) -> None:
        self.core, self.hyp, self.names = core, hyp, Names(hyp=hyp)
        self.hooks: list[Hook] = []
        self.sinks: list[Sink] = []
        self.pending: deque[tuple[Hook, Trap]] = deque()
        self.until = (0, 0)     # causes that a run waits for
        self.on = False

    @property
    def busy(self) -> bool:
        """Whether somebody listens, or has not been told everything yet."""
        return bool(self.on or self.hooks or self.sinks or self.pending)

    def hook(self, wanted: Filter, function: Callable[[Trap], object]) -> Hook:
        """Call a function from now on."""
        self.drain()
        hook = Hook(self, wanted, function)
        self.hooks.append(hook)
        self.arm()
        return hook

    def arm(self) -> None:
        """Tell the core what is wanted now."""
        masks = [self.until, *(hook.wanted.masks for hook in self.hooks)]
        exceptions = interrupts = 0
        for first, second in masks:
            exceptions, interrupts = exceptions | first, interrupts | second
        self.core.stop_on_traps(exceptions, interrupts)
        on = bool(self.sinks or exceptions or interrupts)
        if on != self.on:
            self.core.record_traps(CAPACITY if on else 0)
            self.on = on

    def wait_for(self, masks: tuple[int, int]) -> None:
        """Stop on causes as long as a run waits for them."""
        self.until = masks
        self.arm()

    def add(self, sink: Sink) -> None:
        """Feed a sink from now on."""
        self.drain()
        if sink not in self.sinks:
            self.sinks.append(sink)
        self.arm()

    def remove(self, sink: Sink) -> None:
        """Feed a sink no more."""
        self.drain()
        if sink in self.sinks:
            self.sinks.remove(sink)
        self.arm()

    def drain(self) -> list[Raw]:
        """Give the records that wait to the sinks, and return them."""
        if not self.on:
            return []
        records = self.core.take_traps()
        if records:
            for sink in tuple(self.sinks):
                sink.feed(records)
        return records

    def call(self, records: list[Raw], machine: Any) -> None:
        """Call the hooks. Those that an exception left uncalled are called first the next time."""
        if self.hooks and records:
            causes = {cause for hook in self.hooks for cause in hook.wanted.causes or ()}
            every = any(hook.wanted.causes is None for hook in self.hooks)
            for raw in records:
                if raw[KIND] == TRAP and (every or raw[CAUSE] in causes):
                    trap = self.names.value(raw)
                    assert isinstance(trap, Trap)
                    self.pending.extend((hook, trap) for hook in self.hooks if hook.wanted(trap))
        while self.pending:
            hook, trap = self.pending.popleft()
            if hook.active:
                hook.calls += 1
                machine._ask(lambda _, hook=hook, trap=trap: hook.function(trap))

    def traps(self, records: list[Raw]) -> list[Trap]:
        """Return the traps among records as values."""
        found = (self.names.value(raw) for raw in records if raw[KIND] == TRAP)
        return [trap for trap in found if isinstance(trap, Trap)]


# ---- traces -------------------------------------------------------------------------------------------------------
class Trace:
    """Traps and returns as they come: the last `keep` of them in memory, all of them in a file when it has a path.

    `records` are Traps and Returns; `save(path)` writes a Perfetto trace (.json) or a record a line (.jsonl); so does
    the file of a stream. Begin it by `vm.trace()`, end it by `stop()` or by leaving `with`.
    """

    def __init__(self, taps: Taps, *, exits: Exits, keep: int, path: Path | None, ns: float) -> None:
        self._taps, self._exits, self._ns, self.path = taps, exits, ns, path
        self._kept: deque[Raw] = deque(maxlen=keep)
        self.begin = taps.core.icount
        self.end: int | None = None
        self.total = 0
        self._count: dict[tuple[int, int, int], int] = {}
        self._stream: TextIO | None = None
        self._writer: Perfetto | None = None
        if path is not None:
            self._stream = path.open("w", encoding="utf-8")
            if path.suffix != ".jsonl":
                self._writer = self._perfetto(self._stream, self.begin)
        taps.add(self)
        exits.hold(1)

    def _perfetto(self, file: TextIO, begin: int) -> Perfetto:
        return Perfetto(file, worlds=self._taps.names.worlds, ns=self._ns, begin=begin)

    def feed(self, records: list[Raw]) -> None:
        """Take the records of a slice."""
        self._kept.extend(records)
        self.total += len(records)
        count = self._count
        for raw in records:
            if raw[KIND] == TRAP:
                key = raw[CAUSE], raw[FROM], raw[TO]
                count[key] = count.get(key, 0) + 1
        if self._writer is not None:
            self._writer.feed(records)
        elif self._stream is not None:
            self._stream.writelines(_line(self._taps.names.value(raw)) for raw in records)

    def stop(self) -> None:
        """End it; what was kept stays. Stopping twice is fine."""
        if self.end is None:
            self._taps.remove(self)
            self._exits.hold(-1)
            self.end = self._taps.core.icount
            if self._writer is not None:
                self._writer.finish(self.end)
            if self._stream is not None:
                self._stream.close()

    @property
    def records(self) -> list[Trap | Return]:
        """The Traps and Returns that are kept, oldest first."""
        self._current()
        return [self._taps.names.value(raw) for raw in self._kept]

    def _current(self) -> None:
        if self.end is None and not self._taps.core.running:
            self._taps.drain()

    @property
    def dropped(self) -> int:
        """How many records are kept no longer, since newer ones took their place."""
        return self.total - len(self._kept)

    def __len__(self) -> int:
        self._current()
        return len(self._kept)

    def __iter__(self) -> Any:
        return iter(self.records)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def save(self, path: str | Path) -> Path:
        """Write what is kept: Perfetto's JSON, for ui.perfetto.dev, or with the suffix .jsonl a record a line.

        The file appears whole or not at all.
        """
        target = Path(path)
        self._current()
        if target.suffix == ".jsonl":
            write_aside(target, lambda file: file.writelines(_line(self._taps.names.value(raw)) for raw in self._kept))
            return target
        begin = self._kept[0][ICOUNT] if self.dropped and self._kept else self.begin

        def write(file: TextIO) -> None:
            writer = self._perfetto(file, begin)
            writer.feed(list(self._kept))
            writer.finish(self._taps.core.icount if self.end is None else self.end)

        write_aside(target, write)
        return target

    @property
    def table(self) -> list[tuple[str, str, str, int]]:
        """Cause, world it came from, world that took it, and count, of all traps seen, most frequent first."""
        self._current()
        worlds = self._taps.names.worlds
        return [(cause_name(cause), worlds[from_], worlds[to], count)
                for (cause, from_, to), count in sorted(self._count.items(), key=lambda item: (-item[1], item[0]))]

    def _title(self) -> str:
        state = "" if self.end is None else "stopped, "
        where = f", in {self.path}" if self.path is not None else ""
        return f"<Trace {state}{self.total} records, {len(self._kept)} kept{where}>"

    def __repr__(self) -> str:
        self._current()
        return self._title()

    def __str__(self) -> str:
        self._current()
        return f"{self._title()}\n{text_table(('cause', 'from', 'to', 'count'), self.table)}"

    def _repr_html_(self) -> str:
        self._current()
        return html_table(("cause", "from", "to", "count"), self.table, caption=self._title().strip("<>"))


def _line(record: Trap | Return) -> str:
    import json

    kind = "trap" if isinstance(record, Trap) else "return"
    more = {"name": record.name} if isinstance(record, Trap) else {}
    return json.dumps({"kind": kind, **more, **record.__dict__}) + "\n"
