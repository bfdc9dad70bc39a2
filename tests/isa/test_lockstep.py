"""pyvirt's hart against Spike: every row, CSR and cause, page tables, protection, control flow, self-modifying code."""
from __future__ import annotations

import time
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from tests.lockstep import campaign as campaign_module
from tests.lockstep import causes, csrs
from tests.lockstep.campaign import Campaign

LEAST_STEPS = 1_000_000
LEAST_PER_ROW = 100
SLOW = ("causes", "csrs", "mixes")


@pytest.fixture(scope="module")
def campaign(spike: ModuleType, zig: ModuleType) -> Campaign:
    """Return the campaign of this run of the tests: each subject is executed once, by the first test that asks."""
    return Campaign()


def subjects() -> list[Any]:
    """Return the plan's subjects, those of many programs marked as slow."""
    return [pytest.param(s, marks=pytest.mark.slow) if s in SLOW else s for s in sorted(campaign_module.plan())]


@pytest.mark.parametrize("subject", subjects())
def test_spike_and_pyvirt_agree(campaign: Campaign, subject: str) -> None:
    assert not (failures := campaign.failures(subject)), failures


def test_every_row_is_compared_often_enough(campaign: Campaign) -> None:
    counts = campaign.rows("rows")
    rare = {row.name: counts[row.name] for row in campaign_module.table() if counts[row.name] < LEAST_PER_ROW}
    assert not rare, f"rows executed less than {LEAST_PER_ROW} times: {rare}"


@pytest.mark.slow
def test_every_cause_is_taken_from_and_to_each_mode(
    campaign: Campaign, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: Counter[tuple[int, int, int]] = Counter()
    for _, result, _ in campaign.subject("causes"):
        if result is not None:
            counts += result.traps
    with capsys.disabled():
        print("\n" + causes.show(counts))
    missing = causes.expected() - set(counts)
    assert not missing, f"never taken: {sorted(missing)}\n{causes.show(counts)}"


@pytest.mark.slow
def test_every_csr_is_read_and_written_in_each_mode(
    campaign: Campaign, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: dict[tuple[int, int], list[int]] = {}
    for program, result, _ in campaign.subject("csrs"):
        if result is not None:
            for key, (reads, writes) in csrs.reached(result, program.symbols).items():
                cell = counts.setdefault(key, [0, 0])
                cell[0] += reads
                cell[1] += writes
    with capsys.disabled():
        print("\n" + csrs.show(counts))
    cells = ((n, mode) for n in csrs.NAMES for mode in csrs.MODES)
    missing = [(csrs.NAMES[n], mode) for n, mode in cells if 0 in counts.get((n, mode), [0, 0])]
    assert not missing, f"(CSR, mode) never read or never written: {missing}"


@pytest.mark.slow
def test_enough_instructions_are_compared(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    steps = campaign.steps()
    with capsys.disabled():
        print(f"\nlock-step: {steps:,} instructions compared")
    assert steps >= LEAST_STEPS


def test_the_list_of_csrs_is_the_hart(spike: ModuleType) -> None:
    """What the programs take for existing exists in both, and nothing else does in pyvirt."""
    from tests.lockstep.machines import PyvirtMachine, SpikeMachine

    ours, theirs = PyvirtMachine(b"\x13\0\0\0"), SpikeMachine(b"\x13\0\0\0")
    present = set()
    for n in range(4096):
        try:
            ours.csr_read(n)
        except KeyError:
            continue
        present.add(n)
    assert present == set(csrs.NAMES)
    assert {n for n in csrs.NAMES if not theirs.has_csr(n)} == set()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak(spike: ModuleType, zig: ModuleType) -> None:
    """Go on with new seeds for PYVIRT_SOAK seconds; the seed is in the failing program's name."""
    end, steps, programs = time.monotonic() + campaign_module.soak_seconds(), 0, 0
    for program, way in campaign_module.endless(int(time.time())):
        steps += campaign_module.run(program, way).steps
        programs += 1
        if time.monotonic() > end:
            break
    print(f"\n{programs} programs, {steps} instructions compared")
    assert programs
