"""What the lock-step tests of the base and those of the hypervisor extension ask of a campaign.

A kind of machine says what it expects by a module: `causes` and `csrs` for the base, `hyp_causes` and `hyp_csrs` with
worlds. Every count that is zero fails, and the tables of counts are printed for whoever reads the run.
"""
from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from tests.lockstep import hyp_campaign, hyp_causes
from tests.lockstep.campaign import Campaign, Way, soak_seconds
from tests.lockstep.harness import Program, Result

SLOW = ("causes", "csrs", "mixes")
PAGE_FAULTS, GUEST_PAGE_FAULTS = (12, 13, 15), (20, 21, 23)
Run = Callable[[Program, Way], Result]


def subjects(plan: Iterable[str]) -> list[Any]:
    """Return a plan's subjects as parameters, those of many programs marked as slow."""
    return [pytest.param(s, marks=pytest.mark.slow) if s in SLOW else s for s in sorted(plan)]


def every_cause(campaign: Campaign, module: Any) -> str:
    """Return the table of (cause, from, to); AssertionError where one that can be was never taken."""
    counts: Counter[tuple[int, int, int]] = Counter()
    for result in campaign.results("causes"):
        counts += result.traps
    missing = module.expected() - set(counts)
    assert not missing, f"never taken: {sorted(missing)}\n{module.show(counts)}"
    return str(module.show(counts))


def every_csr(campaign: Campaign, module: Any, worlds: Iterable[int]) -> str:
    """Return the table of reads and writes by world; AssertionError where a CSR was never read or never written."""
    counts: dict[tuple[int, int], list[int]] = {}
    for result in campaign.results("csrs"):
        for key, (reads, writes) in module.reached(result, result.program.symbols).items():
            cell = counts.setdefault(key, [0, 0])
            cell[0] += reads
            cell[1] += writes
    cells = ((n, world) for n in module.NAMES for world in worlds)
    missing = [(module.NAMES[n], world) for n, world in cells if 0 in counts.get((n, world), [0, 0])]
    assert not missing, f"(CSR, world) never read or never written: {missing}"
    return str(module.show(counts))


def csrs_present(machine: Any) -> set[int]:
    """Return the numbers of the CSRs that a machine has."""
    present = set()
    for n in range(4096):
        try:
            machine.csr_read(n)
        except KeyError:
            continue
        present.add(n)
    return present


def every_delegation(campaign: Campaign) -> str:
    """Return the table of (cause, from, delegated once, delegated twice); AssertionError where one was never taken."""
    counts: Counter[tuple[int, int, int, int]] = Counter()
    for result in campaign.results("causes"):
        counts += result.delegated
    missing = hyp_causes.expected_delegations() - set(counts)
    assert not missing, f"never taken: {sorted(missing)}\n{hyp_causes.show_delegations(counts)}"
    return hyp_causes.show_delegations(counts)


def every_walk(campaign: Campaign) -> str:
    """Return the table of faults of each pair of modes; AssertionError where a stage that is on never refused."""
    lines = [f"{'VS-stage over G-stage':<24}" + "".join(f"{n:>7}" for n in (*PAGE_FAULTS, *GUEST_PAGE_FAULTS))]
    missing = []
    for (sv, svx4), result in zip(hyp_campaign.WALKS, campaign.results("walks"), strict=True):
        counts: Counter[int] = Counter()
        for (cause, _, _), n in result.traps.items():
            counts[cause] += n
        name = f"{f'Sv{sv}' if sv else 'bare'} over {f'Sv{svx4}x4' if svx4 else 'bare'}"
        expected = (PAGE_FAULTS if sv else ()) + (GUEST_PAGE_FAULTS if svx4 else ())
        missing += [f"{name}: {cause}" for cause in expected if not counts[cause]]
        lines.append(f"{name:<24}" + "".join(f"{counts[n]:>7}" for n in (*PAGE_FAULTS, *GUEST_PAGE_FAULTS)))
    assert not missing, f"never taken: {missing}\n" + "\n".join(lines)
    return "\n".join(lines)


def guest_steps_wanted() -> int:
    """Return how many instructions with V=1 a run is to compare beyond the plan: PYVIRT_LOCKSTEP_STEPS."""
    return int(os.environ.get("PYVIRT_LOCKSTEP_STEPS", "0"))


def go_on(programs: Iterator[tuple[Program, Way]], run: Run, wanted: int) -> tuple[int, int, int]:
    """Run programs until so many instructions with V=1 were compared; returns (programs, instructions, with V=1)."""
    count = steps = guest = 0
    while guest < wanted:
        result = run(*next(programs))
        count, steps, guest = count + 1, steps + result.steps, guest + result.guest_steps
    return count, steps, guest


def soak(programs: Iterator[tuple[Program, Way]], run: Run) -> None:
    """Go on with new seeds for PYVIRT_SOAK seconds; the seed is in the failing program's name."""
    end, steps, count = time.monotonic() + soak_seconds(), 0, 0
    for program, way in programs:
        steps += run(program, way).steps
        count += 1
        if time.monotonic() > end:
            break
    print(f"\n{count} programs, {steps} instructions compared")
    assert count
