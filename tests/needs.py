"""What tests need from outside, and the one place that decides between skipping and failing.

PYVIRT_REQUIRE is a comma-separated list of names. A test whose need is missing skips and says what was missing; where
the name is listed it fails instead, so that a run which claims to have an oracle can't pass without it. Names in use:
spike, softfloat, zig, dtc, binutils, gdb, guests, nested, opensbi, e2fsprogs, apt, index, build, source,
sign.
"""
from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def required() -> frozenset[str]:
    """Return the names that must be present in this run."""
    return frozenset(n for n in os.environ.get("PYVIRT_REQUIRE", "").replace(" ", "").split(",") if n)


def missing(name: str, why: str) -> NoReturn:
    """Skip the running test because `name` is missing, or fail it where PYVIRT_REQUIRE lists the name."""
    if name in required():
        pytest.fail(f"{name} is listed in PYVIRT_REQUIRE, but {why}", pytrace=False)
    pytest.skip(f"needs {name}: {why}")


def need_module(name: str, module: str) -> None:
    """Skip or fail unless the Python module `module` is installed."""
    if importlib.util.find_spec(module) is None:
        missing(name, f"the Python module {module} is not installed")


def need_program(name: str, program: str) -> str:
    """Return the path of a host program, or skip or fail; /sbin is searched too."""
    found = shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        missing(name, f"the program {program} is not on PATH")
    return found


def guest_image(name: str) -> Path:
    """Return a guest image: from $PYVIRT_GUESTS, else what `pyvirt pull debian` cached, else skip or fail."""
    folder = os.environ.get("PYVIRT_GUESTS")
    if folder:
        path = Path(folder) / name
        if path.exists():
            return path
        missing("guests", f"{name} is not in PYVIRT_GUESTS={folder}")
    pulled = _pulled(name)
    if pulled is None:
        missing("guests", f"{name}: PYVIRT_GUESTS is not set and `pyvirt pull debian` has cached nothing")
    return pulled


def _pulled(name: str) -> Path | None:
    if importlib.util.find_spec("pyvirt.fetch.pull") is None:
        return None
    from pyvirt.fetch.pull import cached

    found = cached()
    if found is None:
        return None
    if name.startswith("Image"):
        return found.kernel
    if name.startswith("opensbi"):
        return found.opensbi
    if name.startswith("initramfs"):
        return found.initrd
    return None


def source_tree() -> Path:
    """Return the clone: $PYVIRT_SOURCE where tests run outside it, else the folder above tests/."""
    tree = Path(os.environ.get("PYVIRT_SOURCE") or Path(__file__).resolve().parent.parent)
    if not (tree / "setup.py").exists():
        missing("source", f"{tree} is not a clone of pyvirt; set PYVIRT_SOURCE")
    return tree
