"""Random instructions, page tables and CSRs: no crash, no hang, and the same under every variant."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.isa.hostile import Hostile


@pytest.mark.parametrize("hyper", [False, True], ids=["msu", "h"])
@pytest.mark.parametrize("seed", range(12))
def test_noise(seed: int, hyper: bool) -> None:
    Hostile(seed, hyper=hyper).check()


def test_noise_with_frames_that_malloc_guards() -> None:
    """Frames from malloc: what writes beyond one, or into one that was freed, is more likely to be noticed."""
    code = "from tests.isa.hostile import main; main(100, 4)"
    env = {**os.environ, "PYVIRT_FRAME_MALLOC": "1", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("hyper", [False, True], ids=["msu", "h"])
def test_much_noise(hyper: bool) -> None:
    for seed in range(1000, 2500):
        Hostile(seed, hyper=hyper).check()
