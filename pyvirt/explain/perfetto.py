"""Traps as a timeline: the JSON trace format that ui.perfetto.dev and chrome://tracing open.

One process a hart. Its tracks: a level each (the hypervisor's, and one for every hgatp), and below them a world each.
A slice begins with the trap or return that led there and is named after it; traps are marked in the track they left.
Time is the guest's: with 100 instructions a tick of 10 MHz one instruction is a nanosecond.
"""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from pyvirt.stop import cause_name

VIRT = 4


class Perfetto:
    """Writes events as records come; `finish` closes what is open, and the file's list."""

    def __init__(self, file: TextIO, *, worlds: Mapping[int, str], ns: float, begin: int) -> None:
        self._file, self._worlds, self._ns = file, worlds, ns
        self._first = True
        self._tracks: dict[tuple[int, str], int] = {}
        # Of each hart: world, hgatp, since, name of the open slice; the same of its level.
        self._world: dict[int, tuple[int, int, int, str]] = {}
        self._level: dict[int, tuple[int, int]] = {}
        self._begin = begin
        file.write('{"displayTimeUnit":"ns","traceEvents":[\n')

    def _put(self, **event: Any) -> None:
        self._file.write(("" if self._first else ",\n") + json.dumps(event, separators=(",", ":")))
        self._first = False

    def _time(self, icount: int) -> float:
        return round(icount * self._ns / 1000, 3)

    def _track(self, hart: int, name: str, rank: int) -> int:
        """Return a track's number, naming it on first use."""
        known = self._tracks.get((hart, name))
        if known is None:
            if not any(other == hart for other, _ in self._tracks):
                self._put(ph="M", pid=hart + 1, name="process_name", args={"name": f"hart {hart}"})
            known = self._tracks[hart, name] = len(self._tracks) + 1
            self._put(ph="M", pid=hart + 1, tid=known, name="thread_name", args={"name": name})
            self._put(ph="M", pid=hart + 1, tid=known, name="thread_sort_index", args={"sort_index": rank})
        return known

    def _world_track(self, hart: int, world: int, hgatp: int) -> int:
        """Return the track of a world; every guest has its own."""
        if world & VIRT:
            return self._track(hart, f"L2 {guest_name(hgatp)} {self._worlds[world]}", 20 + (world & 3 == 0))
        return self._track(hart, f"L1 {self._worlds[world]}", 10 + 3 - world)

    def _level_track(self, hart: int, hgatp: int) -> int:
        return self._track(hart, f"level 2, {guest_name(hgatp - 1)}" if hgatp else "level 1", 2 if hgatp else 1)

    def feed(self, records: list[tuple[int, ...]]) -> None:
        """Take records in the order in which they happened."""
        for icount, pc, cause, tval, tval2, tinst, hgatp, from_, to, gva, kind, hart in records:
            world = self._world.get(hart)
            if world is None:
                world = from_, hgatp if from_ & VIRT else 0, self._begin, "run"
                self._level[hart] = (hgatp + 1 if from_ & VIRT else 0, self._begin)
            if world[0] != from_:
                # The built-in firmware came back, which is no instruction, or the host changed the world.
                world = from_, hgatp if from_ & VIRT else 0, world[2], "run"
            track = self._world_track(hart, world[0], world[1])
            self._slice(hart, track, world[3], world[2], icount)
            name = "run"
            if kind == 0:
                name = cause_name(cause)
                self._put(ph="i", s="t", pid=hart + 1, tid=track, ts=self._time(icount), name=name, cat="trap", args={
                    "cause": hex(cause), "pc": hex(pc), "tval": hex(tval), "tval2": hex(tval2), "tinst": hex(tinst),
                    "gva": bool(gva), "from": self._worlds[from_], "to": self._worlds[to], "icount": icount})
            self._world[hart] = to, hgatp if to & VIRT else 0, icount, name
            level = hgatp + 1 if to & VIRT else 0   # one more than hgatp, so that a guest with a bare G-stage is one
            if level != self._level[hart][0]:
                self._close_level(hart, icount)
                self._level[hart] = level, icount

    def _slice(self, hart: int, track: int, name: str, since: int, until: int) -> None:
        self._put(ph="X", pid=hart + 1, tid=track, ts=self._time(since), dur=self._time(until - since), name=name,
                  args={"icount": since, "instructions": until - since})

    def _close_level(self, hart: int, icount: int) -> None:
        level, since = self._level[hart]
        self._slice(hart, self._level_track(hart, level), "run", since, icount)

    def finish(self, icount: int) -> None:
        """Close what is open at the end."""
        for hart, (world, hgatp, since, name) in self._world.items():
            self._slice(hart, self._world_track(hart, world, hgatp), name, since, icount)
            self._close_level(hart, icount)
        self._file.write("\n]}\n")


def guest_name(hgatp: int) -> str:
    """Return what a guest is called by its hgatp: VMID and root."""
    if not hgatp >> 60:
        return "guest without G-stage"
    return f"VMID {hgatp >> 44 & 0x3FFF} @{(hgatp & (1 << 44) - 1) << 12 & ~0x3FFF:#x}"


def write_aside(target: Path, write: Callable[[TextIO], Any]) -> None:
    """Write a text file beside its place and move it there: whole or not at all."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
