"""The kinds of programs, how each is made from a seed, and how one is run on a fresh Spike and a fresh pyvirt.

A way says how pyvirt runs: one instruction at a time, or in slices of random length on one of its two cores. Stepping
sees the effect of each instruction; slices are what makes the threaded core run whole blocks.
"""
from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.lockstep import causes, csrs, harness, machines, mixes, paging, pmp, rows, selfmod
from tests.lockstep.harness import Program, Result
from tests.oracle import zigasm
from tests.oracle.spike import ISA

STRIDES = (1, 2, 5, 70, 150, 300, 1000)
HYPERVISOR_ISA = ISA.replace("imafdc", "imafdch")
TRAPPING_ISA = ISA.replace("_zicclsm", "")  # Spike's misaligned atomics trap as pyvirt's do only in such a machine


@dataclass(frozen=True)
class Way:
    """How pyvirt runs a program: `core` None is the default; `sliced` or instruction by instruction."""

    name: str
    sliced: bool
    core: str | None = None


STEP, SLICES, SWITCH = Way("step", False), Way("slices", True), Way("switch", True, "switch")
Ways = tuple[Way, ...]


def table() -> list[Any]:
    """Return pyvirt's table of instructions."""
    from pyvirt import _isa

    return list(_isa.ISA)


def program(name: str, text: str, **options: Any) -> Program:
    """Assemble a text; RAM is the power of two that holds the program, at least 64 KiB."""
    image = zigasm.assemble(text)
    ram = options.pop("ram", max(1 << 16, 1 << (len(image.code) - 1).bit_length()))
    return Program(name, image.code, done=image.symbols["done"], ram=ram, symbols=image.symbols, **options)


def make_rows(seed: int, loops: int) -> Program:
    """Every row of the table, `loops` times or more."""
    return program(f"rows-{seed}", rows.text(table(), seed, loops=loops), isa=HYPERVISOR_ISA)


def make_atomics(seed: int, loops: int) -> Program:
    """The atomic rows, also misaligned."""
    atomic = [r for r in table() if r.kind in ("amo", "lr", "sc")]
    text = rows.text(atomic, seed, loops=loops, repeat=12, misaligned_atomics=True)
    return program(f"atomics-{seed}", text, isa=TRAPPING_ISA)


def make_causes(kind: str, seed: int) -> Program:
    """Exceptions, interrupts, or several interrupts at once."""
    cases = {
        "exceptions": causes.exceptions,
        "interrupts": causes.interrupts,
        "storms": lambda: causes.storms(random.Random(seed), 100),
    }[kind]()
    image_options: dict[str, Any] = {"paged": True, "isa": TRAPPING_ISA}
    p = program(f"{kind}-{seed}", causes.text(cases, seed), **image_options)
    p.lines = (p.symbols["lines"],)
    return p


def make_csrs(setting: str, seed: int) -> Program:
    """Every CSR number in every mode."""
    return program(f"csrs-{setting}-{seed}", csrs.text(seed, setting, absent=setting == "open"))


def make_paging(sv: int, seed: int) -> Program:
    """Page tables of one of the three depths."""
    return program(f"sv{sv}-{seed}", paging.Walks(sv, seed).text(), ram=1 << 19, paged=True)


def make_pmp(seed: int) -> Program:
    """Physical memory protection; odd seeds lock entries."""
    return program(f"pmp-{seed}", pmp.Protection(seed, locks=bool(seed & 1)).text(), ram=1 << 20, paged=True)


def make_mix(mode: int, seed: int) -> Program:
    """Random control flow with interrupts."""
    p = program(f"mix-{'US-M'[mode]}-{seed}", mixes.text(table(), seed, mode=mode), paged=mode != 3)
    p.lines = (p.symbols["lines"], p.symbols["lines"] + mixes.ALIAS)
    return p


def make_selfmod(seed: int) -> Program:
    """Code that patches itself."""
    return program(f"selfmod-{seed}", selfmod.text(seed))


def run(p: Program, way: Way) -> Result:
    """Run a program on both machines. Raises harness.Divergence where they differ."""
    rng = random.Random(p.name)
    strides: Callable[[], int] | None = (lambda: rng.choice(STRIDES)) if way.sliced else None
    spike = machines.SpikeMachine(p.code, at=p.at, ram=p.ram, isa=p.isa)
    other = machines.PyvirtMachine(p.code, at=p.at, ram=p.ram, isa=p.isa, core=way.core)
    return harness.run(p, spike, other, strides=strides)


def plan() -> dict[str, list[tuple[Callable[[], Program], Ways]]]:
    """Return what the default run of the tests executes, by subject."""
    return {
        "rows": [
            (lambda: make_rows(1, 50), (STEP, SLICES, SWITCH)),
            (lambda: make_rows(2, 50), (SLICES,)),
            (lambda: make_atomics(1, 5), (STEP, SLICES)),
        ],
        "causes": [
            (lambda k=k: make_causes(k, 1), (STEP, SLICES))  # type: ignore[misc]
            for k in ("exceptions", "interrupts", "storms")
        ],
        "csrs": [
            (lambda s=s: make_csrs(s, 1), (SLICES,) if s == "open" else (STEP, SLICES))  # type: ignore[misc]
            for s in csrs.SETTINGS
        ],
        "paging": [
            (lambda v=v, s=s: make_paging(v, s), (STEP, SLICES))  # type: ignore[misc]
            for v in (39, 48, 57) for s in range(4)
        ],
        "pmp": [(lambda s=s: make_pmp(s), (STEP, SLICES)) for s in range(4)],  # type: ignore[misc]
        "mixes": [
            (lambda m=m, s=s: make_mix(m, s), (STEP, SLICES) if s else (SLICES, SWITCH))  # type: ignore[misc]
            for m in (3, 1, 0) for s in range(2)
        ],
        "selfmod": [(lambda s=s: make_selfmod(s), (STEP, SLICES) if s else (SWITCH, SLICES))  # type: ignore[misc]
                    for s in range(2)],
    }


def endless(first: int) -> Iterator[tuple[Program, Way]]:
    """Yield programs of all kinds with ever new seeds, for campaigns limited by time."""
    seed = first
    while True:
        way = (STEP, SLICES, SWITCH)[seed % 3]
        yield make_rows(seed, 20), way
        yield make_atomics(seed, 5), way
        yield make_causes("storms", seed), way
        for sv in (39, 48, 57):
            yield make_paging(sv, seed), way
        yield make_pmp(seed), way
        for mode in (3, 1, 0):
            yield make_mix(mode, seed), way
        yield make_selfmod(seed), way
        seed += 1


class Campaign:
    """Runs subjects of the plan once each and keeps what they covered and where they failed."""

    def __init__(
        self, subjects: dict[str, list[tuple[Callable[[], Program], Ways]]] | None = None,
        runner: Callable[[Program, Way], Result] = run,
    ) -> None:
        self.plan = plan() if subjects is None else subjects
        self._run = runner
        self._done: dict[str, list[tuple[Program, Result | None, str]]] = {}

    def subject(self, name: str) -> list[tuple[Program, Result | None, str]]:
        """Return (program, result or None, failure) of each run of a subject, running it at the first call."""
        if name not in self._done:
            outcomes = []
            for maker, ways in self.plan[name]:
                p = maker()
                for way in ways:
                    try:
                        outcomes.append((p, self._run(p, way), ""))
                    except AssertionError as e:
                        outcomes.append((p, None, f"[{way.name}] {e}"))
            self._done[name] = outcomes
        return self._done[name]

    def failures(self, name: str) -> str:
        """Return the first failures of a subject, or an empty string."""
        return "\n\n".join([failure for _, _, failure in self.subject(name) if failure][:3])

    def results(self, *names: str) -> list[Result]:
        """Return what the runs of some subjects, all without names, covered where they did not fail."""
        return [r for name in names or self.plan for _, r, _ in self.subject(name) if r is not None]

    def steps(self) -> int:
        """Return the instructions compared over all subjects."""
        return sum(r.steps for r in self.results())

    def rows(self, *names: str) -> Counter[str]:
        """Return executions by row of the table, over some subjects."""
        from pyvirt import _isa

        found: dict[int, str] = {}
        counts: Counter[str] = Counter()
        for result in self.results(*names):
            for word, n in result.words().items():
                if word not in found:
                    row = _isa.find(word)
                    found[word] = row.name if row is not None else ""
                counts[found[word]] += n
        return counts


def soak_seconds() -> int:
    """Return how long a long campaign runs: PYVIRT_SOAK, 600 seconds where it is not set."""
    return int(os.environ.get("PYVIRT_SOAK", "600"))

