"""Faults planted in a copy of the core are found by the lock-step campaign, each of them."""
from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests import needs
from tests.lockstep import planted


@pytest.mark.parametrize("fault", planted.FAULTS, ids=lambda f: f.name)
def test_a_fault_has_its_place_in_the_source(fault: planted.Fault, source: Path) -> None:
    assert planted.occurrences(source, fault) == 1


@pytest.fixture(scope="module")
def copied(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the clone to plant faults in."""
    needs.need_module("source", "Cython")
    tree = tmp_path_factory.mktemp("planted")
    planted.copy(source, tree)
    return tree


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("fault", planted.FAULTS, ids=lambda f: f.name)
def test_a_planted_fault_is_found(fault: planted.Fault, copied: Path, spike: ModuleType, zig: ModuleType) -> None:
    found = planted.try_fault(copied, fault)
    assert found, f"{fault.name} was not found"
    print(f"\n{fault.name}: {found}")
