"""A pytest plugin: before every run a machine's whole state goes the way that PYVIRT_TEST_RUNG names."""
from __future__ import annotations

import contextlib
import os
from typing import Any

import pytest

import pyvirt as pv
from tests.snapshot.ladder import move


@pytest.fixture(autouse=True)
def rung(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, moving = pv.Machine.run, False

    def run(self: pv.Machine, **options: Any) -> pv.Stop:
        nonlocal moving
        if not moving and not self.closed and self._tenant.thread is None:
            moving = True
            # What can't be in a snapshot, such as a disk in direct mode, stays as it is.
            with contextlib.suppress(pv.SnapshotError):
                move(os.environ["PYVIRT_TEST_RUNG"], self)
            moving = False
        return plain(self, **options)

    monkeypatch.setattr(pv.Machine, "run", run)
    monkeypatch.setattr(os, "fsync", lambda fd: None)   # thousands of files that nobody keeps
