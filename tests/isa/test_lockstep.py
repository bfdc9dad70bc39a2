"""pyvirt's hart against Spike: every row, CSR and cause, page tables, protection, control flow, self-modifying code."""
from __future__ import annotations

import time
from types import ModuleType

import pytest

from tests.lockstep import campaign as campaign_module
from tests.lockstep import causes, checks, csrs
from tests.lockstep.campaign import Campaign

LEAST_STEPS = 1_000_000
LEAST_PER_ROW = 100


@pytest.fixture(scope="module")
def campaign(spike: ModuleType, zig: ModuleType) -> Campaign:
    """Return the campaign of this run of the tests: each subject is executed once, by the first test that asks."""
    return Campaign()


@pytest.mark.parametrize("subject", checks.subjects(campaign_module.plan()))
def test_spike_and_pyvirt_agree(campaign: Campaign, subject: str) -> None:
    assert not (failures := campaign.failures(subject)), failures


def test_every_row_is_compared_often_enough(campaign: Campaign) -> None:
    counts = campaign.rows("rows")
    rare = {row.name: counts[row.name] for row in campaign_module.table() if counts[row.name] < LEAST_PER_ROW}
    assert not rare, f"rows executed less than {LEAST_PER_ROW} times: {rare}"


@pytest.mark.slow
def test_every_cause_is_taken_from_and_to_each_mode(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    table = checks.every_cause(campaign, causes)
    with capsys.disabled():
        print(f"\n{table}")


@pytest.mark.slow
def test_every_csr_is_read_and_written_in_each_mode(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    table = checks.every_csr(campaign, csrs, csrs.MODES)
    with capsys.disabled():
        print(f"\n{table}")


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
    assert checks.csrs_present(ours) == set(csrs.NAMES)
    assert {n for n in csrs.NAMES if not theirs.has_csr(n)} == set()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak(spike: ModuleType, zig: ModuleType) -> None:
    """Go on with new seeds for PYVIRT_SOAK seconds."""
    checks.soak(campaign_module.endless(int(time.time())), campaign_module.run)
