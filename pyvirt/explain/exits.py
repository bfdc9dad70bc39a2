"""Exits counted: how often a guest was left for its hypervisor, why, and what it cost until it went on.

An exit of level 2 is a trap from VS or VU into HS or M, one of level 1 a trap from HS or U into M. Its cost is the
icount from there to the return into that level on the same hart: all that ran between, other harts and idle time
included. The built-in firmware is no guest code, so that its calls cost nothing and have no return.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvirt.explain.perfetto import guest_name
from pyvirt.show import html_table, text_table
from pyvirt.stop import cause_name

if TYPE_CHECKING:
    from pyvirt.explain.trace import Raw, Taps

VIRT, PRIV_M = 4, 3
HEAD = ("level", "cause", "from", "to", "count", "icount", "mean", "max")


@dataclass(frozen=True, kw_only=True)
class ExitRow:
    """Exits of one kind. `icount` is what those that came back cost together, `longest` the dearest of them."""

    level: int
    cause: int
    world_from: str
    world_to: str
    count: int
    returned: int
    icount: int
    longest: int

    @property
    def name(self) -> str:
        """The cause's name."""
        return cause_name(self.cause)

    @property
    def mean(self) -> float:
        """Mean cost of those that came back."""
        return self.icount / self.returned if self.returned else 0.0


@dataclass
class _Tally:
    count: int = 0
    returned: int = 0
    icount: int = 0
    longest: int = 0


@dataclass
class Seen:
    """What was seen of one guest: the icounts of its first and last entry or exit, and how often it was entered."""

    first: int
    last: int
    entries: int = 0

    def joined(self, others: Iterable[Seen]) -> Seen:
        """Return what was seen of several together."""
        every = [self, *others]
        return Seen(min(one.first for one in every), max(one.last for one in every), sum(one.entries for one in every))


class Exits:
    """A histogram of exits: `print(vm.exits)`, or a table in Jupyter; `rows` has the numbers.

    Counting begins with `start()`, or while a `vm.trace()` goes on; `with vm.exits:` counts inside.
    """

    def __init__(self, taps: Taps) -> None:
        self._taps = taps
        self._started, self._traces = False, 0
        self.clear()

    def clear(self) -> None:
        """Forget what was counted."""
        self._tallies: dict[tuple[int, int, int, int, int], _Tally] = {}
        # The exits not come back from, of each hart and level.
        self._open: dict[tuple[int, int], tuple[_Tally, int]] = {}
        self.seen: dict[int, Seen] = {}

    def start(self) -> Exits:
        """Count from now on."""
        self._started = True
        self._arm()
        return self

    def stop(self) -> None:
        """Count no more, unless a trace goes on; what was counted stays."""
        self._started = False
        self._arm()

    def hold(self, traces: int) -> None:
        """Count while traces go on: one more, or one less."""
        self._traces += traces
        self._arm()

    def _arm(self) -> None:
        if self._started or self._traces:
            self._taps.add(self)
        else:
            self._taps.remove(self)

    @property
    def on(self) -> bool:
        """True while it counts."""
        return self in self._taps.sinks

    def __enter__(self) -> Exits:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def feed(self, records: list[Raw]) -> None:
        """Take the records of a slice."""
        for icount, _, cause, _, _, _, hgatp, from_, to, _, kind, hart in records:
            inside = from_ & VIRT
            if kind == 0:
                if inside and to & VIRT:
                    continue
                if inside:
                    level, seen = 2, self._see(hgatp, icount)
                    seen.last = icount
                elif to == PRIV_M != from_:
                    level, hgatp = 1, 0
                else:
                    continue
                key = level, cause, from_, to, hgatp
                tally = self._tallies.get(key)
                if tally is None:
                    tally = self._tallies[key] = _Tally()
                tally.count += 1
                self._open[hart, level] = tally, icount
            elif to & VIRT:
                if not inside:
                    seen = self._see(hgatp, icount)
                    seen.entries += 1
                    seen.last = icount
                    self._close(hart, 2, icount)
            elif from_ == PRIV_M != to:
                self._close(hart, 1, icount)

    def _see(self, hgatp: int, icount: int) -> Seen:
        seen = self.seen.get(hgatp)
        if seen is None:
            seen = self.seen[hgatp] = Seen(icount, icount)
        return seen

    def _close(self, hart: int, level: int, icount: int) -> None:
        found = self._open.pop((hart, level), None)
        if found is not None:
            tally, since = found
            cost = icount - since
            tally.returned += 1
            tally.icount += cost
            tally.longest = max(tally.longest, cost)

    def rows_of(self, *, level: int | None = None, hgatp: int | Collection[int] | None = None) -> list[ExitRow]:
        """Return the rows of one level or of one guest by its hgatp, the dearest first."""
        guests = (hgatp,) if isinstance(hgatp, int) else hgatp
        if self.on and not self._taps.core.running:
            self._taps.drain()
        merged: dict[tuple[int, int, int, int], _Tally] = {}
        for (depth, cause, from_, to, guest), tally in self._tallies.items():
            if level not in (None, depth) or (guests is not None and (depth != 2 or guest not in guests)):
                continue
            into = merged.setdefault((depth, cause, from_, to), _Tally())
            into.count += tally.count
            into.returned += tally.returned
            into.icount += tally.icount
            into.longest = max(into.longest, tally.longest)
        worlds = self._taps.names.worlds
        rows = [ExitRow(level=depth, cause=cause, world_from=worlds[from_], world_to=worlds[to], count=t.count,
                        returned=t.returned, icount=t.icount, longest=t.longest)
                for (depth, cause, from_, to), t in merged.items()]
        return sorted(rows, key=lambda row: (-row.level, -row.icount, -row.count, row.cause))

    @property
    def rows(self) -> list[ExitRow]:
        """Every kind of exit, the deepest level first, in it the dearest."""
        return self.rows_of()

    def count(self, cause: int | None = None, *, level: int | None = None) -> int:
        """Return how many exits there were, of a cause and a level or of any."""
        return sum(row.count for row in self.rows_of(level=level) if cause in (None, row.cause))

    @property
    def total(self) -> int:
        """All exits."""
        return self.count()

    def _cells(self) -> list[tuple[object, ...]]:
        return [(f"L{row.level}", row.name, row.world_from, row.world_to, row.count, row.icount, f"{row.mean:.0f}",
                 row.longest) for row in self.rows]

    def __repr__(self) -> str:
        return f"<Exits {self.total} of {len(self.seen)} guests, {'counting' if self.on else 'off'}>"

    def __str__(self) -> str:
        if not self._tallies and not self.total:
            return "no exits" + ("" if self.on else "; vm.exits.start() counts from then on")
        return text_table(HEAD, self._cells())

    def _repr_html_(self) -> str:
        guests = ", ".join(map(guest_name, self.seen)) or "none"
        return html_table(HEAD, self._cells(), caption=f"{self.total} exits; guests: {guests}")
