"""Compare the stub of every compiled module with the module: what `tox -e types` runs after mypy."""
from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pyvirt
from pyvirt import _build

# What Cython adds to modules, and the loop variables that building the table of instructions leaves behind.
ALLOWED = r"""
.*\.__test__
.*\.__(reduce|setstate)_cython__
pyvirt\._isa\.[a-z][a-z0-9_]*
"""


def main() -> int:
    package = Path(pyvirt.__file__).parent
    lacking = [m for m in _build.MODULES if not (package / f"{m.rpartition('.')[2]}.pyi").exists()]
    if lacking:
        print(f"compiled modules without a stub beside them: {', '.join(lacking)}")
        return 1
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as allowed:
        allowed.write(ALLOWED)
        allowed.flush()
        command = [sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-unused-allowlist"]
        return subprocess.run([*command, "--allowlist", allowed.name, *_build.MODULES], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
