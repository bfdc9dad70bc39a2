"""The behaviour tests of the machine, with its whole state sent through a snapshot before every run."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tests

HERE = Path(tests.__file__).parent
# And what each leaves out: that counts frames which a machine owns, and it owns none of those that it was given.
MODULES = {
    "api/test_machine_run.py": "",
    "api/test_hart.py": "",
    "api/test_sbi.py": "not memory_that_is_not_there",
    "devices/test_on_a_machine.py": "",
    "hyp/test_levels.py": "",
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("rung", ["restored", "forked", "loaded"])
def test_behaviour_is_the_same(rung: str, module: str) -> None:
    left_out = MODULES[module]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "tests.snapshot.rungs",
         "--timeout=250", "-m", "not soak", *(["-k", left_out] if left_out else []), HERE / module],
        cwd=HERE.parent, env={**os.environ, "PYVIRT_TEST_RUNG": rung}, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout[-3000:]
