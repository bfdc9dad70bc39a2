"""What the tests of snapshots and forks share: the check that nothing is left behind."""
from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pyvirt._memory import counters


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Check that a test gives back every frame, node and note on a page table that it took."""
    def alive() -> dict[str, int]:
        gc.collect()
        return {name: counters()[name] for name in ("frames", "nodes", "pts")}

    before = alive()
    yield
    assert alive() == before
