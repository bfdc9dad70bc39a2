"""Turning samples into tables: what each workload took on each peer, ratios with their spread, geometric means."""
from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from measure import Sample, Spread
from workloads import MEANS, Boot, Program, Workload

BEGIN, END = "<!-- results: written by benchmarks/run.py -->", "<!-- end of results -->"
NAMES = {"spike": "Spike", "qemu": "QEMU"}      # others are "qemu-VERSION"
RETIRED = re.compile(r"^instret (\d+)\s*$", re.MULTILINE)


@dataclass
class Measured:
    """The runs of one workload: for each peer, one sample a round. `factor` says how much shorter a peer's run was."""

    workload: Workload
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    factor: dict[str, float] = field(default_factory=dict)

    @property
    def instructions(self) -> int | None:
        """What pyvirt's guest counted between start and end of the program, or None."""
        for sample in self.samples.get("pyvirt", ()):
            if found := RETIRED.search(sample.output):
                return int(found[1])
        return None

    def seconds(self, peer: str, start: float) -> list[float]:
        """CPU seconds of each round at full length; start-up, which is `start` seconds, counts once."""
        factor = self.factor.get(peer, 1.0)
        return [s.cpu if factor == 1.0 else start + (s.cpu - start) * factor for s in self.samples.get(peer, ())]


class Results:
    """All that was measured, and the questions asked of it."""

    def __init__(self, measured: Iterable[Measured]) -> None:
        self.of = {m.workload.name: m for m in measured}

    def start(self, peer: str) -> float:
        """Return a peer's start-up in CPU seconds, or 0.0 where it was not measured."""
        m = self.of.get("startup")
        return Spread.of([s.cpu for s in m.samples[peer]]).median if m and m.samples.get(peer) else 0.0

    def ratios(self, name: str, peer: str, *, net: bool = False) -> Spread | None:
        """Return peer's time / pyvirt's time over the rounds, less start-up if `net`; None where either did not run."""
        m = self.of.get(name)
        if m is None or not m.samples.get(peer) or not m.samples.get("pyvirt"):
            return None
        mine, theirs = (m.seconds(p, self.start(p)) for p in ("pyvirt", peer))
        if net:
            mine, theirs = ([max(1e-3, t - self.start(p)) for t in ts] for p, ts in (("pyvirt", mine), (peer, theirs)))
        return Spread.of([b / a for a, b in zip(mine, theirs, strict=True)])

    def mean(self, names: Iterable[str], peer: str, *, net: bool = False) -> float | None:
        """Return the geometric mean of the median ratios, or None unless every program has one."""
        found = [self.ratios(name, peer, net=net) for name in names]
        return None if not found or None in found else statistics.geometric_mean(r.median for r in found if r)


def called(peer: str) -> str:
    """Return what a peer is called in tables."""
    name, _, version = peer.partition("-")
    return f"{NAMES[name]} {version}".rstrip()


def _spread(s: Spread | None, *, digits: int = 2) -> str:
    if s is None:
        return "–"
    return f"{s.median:.{digits}f} ({s.low:.{digits}f}–{s.high:.{digits}f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; its columns are aligned, so that it also reads well in a terminal."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    line = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in [header, *rows]]
    return "\n".join([line[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *line[1:]])


def programs(results: Results, peers: list[str], *, heldout: bool) -> str:
    """Return the table of programs: pyvirt's time and rate, and how many times faster it is than each peer."""
    header = ["program", "instructions", "pyvirt, s", "MIPS"]
    for peer in peers:
        header += [f"× {called(peer)}", "less start-up"]
    rows = []
    for name, m in results.of.items():
        if not isinstance(m.workload, Program) or m.workload.heldout is not heldout:
            continue
        own, n = m.seconds("pyvirt", 0.0), m.instructions
        time = Spread.of(own) if own else None
        net = time.median - results.start("pyvirt") if time else 0.0
        rate = f"{n / net / 1e6:.0f}" if n and net > 0.05 else "–"
        mark = "*" if any(f != 1.0 for f in m.factor.values()) else ""
        row = [name + mark, f"{n / 1e6:.0f} M" if n else "–", _spread(time), rate]
        for peer in peers:
            row.append(_spread(results.ratios(name, peer)))
            row.append("–" if name == "startup" else _spread(results.ratios(name, peer, net=True)))
        rows.append(row)
    return table(header, rows) if rows else ""


def means(results: Results, peers: list[str]) -> str:
    """Return the table of geometric means of the sets that were run whole."""
    header = ["geometric mean of", "programs"]
    for peer in peers:
        header += [f"× {called(peer)}", "less start-up"]
    rows = []
    for title, names in MEANS.items():
        values = [results.mean(names, peer, net=net) for peer in peers for net in (False, True)]
        if any(v is not None for v in values):
            rows.append([title, ", ".join(names), *map(_number, values)])
    return table(header, rows) if rows else ""


def boots(results: Results) -> str:
    """Return the table of boots: CPU time, the quotient of both, and peak memory."""
    rows = []
    for name, m in results.of.items():
        if not isinstance(m.workload, Boot):
            continue
        for peer, samples in m.samples.items():
            over = "1"
            if peer != "pyvirt" and (r := results.ratios(name, peer)) is not None:
                over = f"{1 / r.median:.2f} ({1 / r.high:.2f}–{1 / r.low:.2f})"
            memory = max(s.rss for s in samples) / 1024
            cpu, wall = (Spread.of([getattr(s, what) for s in samples]) for what in ("cpu", "wall"))
            rows.append([f"{name}: {m.workload.about}", peer, _spread(cpu), _spread(wall), over, f"{memory:.0f} MiB"])
    header = ["boot", "on", "CPU, s", "wall, s", "pyvirt's CPU time / its", "peak memory"]
    return table(header, rows) if rows else ""


def markdown(results: Results, facts: Mapping[str, str], peers: list[str]) -> str:
    """Return the whole report."""
    others = [p for p in peers if p != "pyvirt"]
    parts = ["\n".join(f"- {k}: {v}" for k, v in facts.items())]
    titled = (("", boots(results)), ("", means(results, others)), ("", programs(results, others, heldout=False)),
              ("Held out of tuning:", programs(results, others, heldout=True)))
    for title, text in titled:
        if text:
            parts.append(f"{title}\n\n{text}".strip())
    short = [f"{name} {100 / factor:.0f} % on {called(peer)}" for name, m in results.of.items()
             for peer, factor in m.factor.items() if factor != 1.0]
    if short:
        parts.append(f"\\* Run in part, its time less start-up scaled up: {', '.join(short)}.")
    return "\n\n".join(parts) + "\n"


def write_docs(path: Path, text: str, begin: str = BEGIN, stop: str = END) -> None:
    """Put a report between two marks of a document. Raises ValueError when it has none."""
    document = path.read_text()
    head, mark, rest = document.partition(begin)
    _, end, tail = rest.partition(stop)
    if not mark or not end:
        raise ValueError(f"{path} has no {begin} ... {stop} to write between")
    aside = path.with_suffix(".tmp")
    aside.write_text(f"{head}{begin}\n\n{text}\n{stop}{tail}")
    aside.replace(path)
