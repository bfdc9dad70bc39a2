"""pyvirt's hart against Spike with V=1: every cause between worlds, CSR, privileged instruction and pair of modes."""
from __future__ import annotations

import time
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from tests.lockstep import hyp_campaign, hyp_causes, hyp_csrs
from tests.lockstep.campaign import Campaign, soak_seconds

LEAST_STEPS = 300_000
SLOW = ("causes", "csrs", "mixes")


@pytest.fixture(scope="module")
def campaign(spike: ModuleType, zig: ModuleType) -> Campaign:
    """Return the campaign of this run of the tests: each subject is executed once, by the first test that asks."""
    return Campaign(hyp_campaign.plan(), hyp_campaign.run)


def subjects() -> list[Any]:
    """Return the plan's subjects, those of many programs marked as slow."""
    return [pytest.param(s, marks=pytest.mark.slow) if s in SLOW else s for s in sorted(hyp_campaign.plan())]


@pytest.mark.parametrize("subject", subjects())
def test_spike_and_pyvirt_agree(campaign: Campaign, subject: str) -> None:
    assert not (failures := campaign.failures(subject)), failures


@pytest.mark.slow
def test_every_cause_is_taken_from_and_to_each_world(
    campaign: Campaign, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: Counter[tuple[int, int, int]] = Counter()
    for _, result, _ in campaign.subject("causes"):
        if result is not None:
            counts += result.traps
    with capsys.disabled():
        print("\n" + hyp_causes.show(counts))
    missing = hyp_causes.expected() - set(counts)
    assert not missing, f"never taken: {sorted(missing)}\n{hyp_causes.show(counts)}"


@pytest.mark.slow
def test_every_csr_is_read_and_written_from_each_world(
    campaign: Campaign, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: dict[tuple[int, int], list[int]] = {}
    for program, result, _ in campaign.subject("csrs"):
        if result is not None:
            for key, (reads, writes) in hyp_csrs.reached(result, program.symbols).items():
                cell = counts.setdefault(key, [0, 0])
                cell[0] += reads
                cell[1] += writes
    with capsys.disabled():
        print("\n" + hyp_csrs.show(counts))
    cells = ((n, world) for n in hyp_csrs.NAMES for world in hyp_csrs.WORLDS)
    missing = [(hyp_csrs.NAMES[n], world) for n, world in cells if 0 in counts.get((n, world), [0, 0])]
    assert not missing, f"(CSR, world) never read or never written: {missing}"


@pytest.mark.slow
def test_enough_instructions_are_compared(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    steps = campaign.steps()
    with capsys.disabled():
        print(f"\nlock-step with V=1: {steps:,} instructions compared")
    assert steps >= LEAST_STEPS


def test_the_list_of_csrs_is_the_hart(spike: ModuleType) -> None:
    """What the programs take for existing exists in both, and nothing else does in pyvirt."""
    from tests.lockstep.hyp_machines import HYP_ISA, HypPyvirt, HypSpike

    isa = HYP_ISA + "_smstateen"
    ours, theirs = HypPyvirt(b"\x13\0\0\0", isa=isa), HypSpike(b"\x13\0\0\0", isa=isa)
    present = set()
    for n in range(4096):
        try:
            ours.csr_read(n)
        except KeyError:
            continue
        present.add(n)
    assert present == set(hyp_csrs.NAMES)
    assert {n for n in hyp_csrs.NAMES if not theirs.has_csr(n)} == set()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak(spike: ModuleType, zig: ModuleType) -> None:
    """Go on with new seeds for PYVIRT_SOAK seconds; the seed is in the failing program's name."""
    end, steps, programs = time.monotonic() + soak_seconds(), 0, 0
    for program, way in hyp_campaign.endless(int(time.time())):
        steps += hyp_campaign.run(program, way).steps
        programs += 1
        if time.monotonic() > end:
            break
    print(f"\n{programs} programs, {steps} instructions compared")
    assert programs
