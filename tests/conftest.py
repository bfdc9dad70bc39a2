"""Fixtures that every subject uses, and the refusal to test a stale build."""
from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import needs

HERE = Path(__file__).resolve().parent
pytest_plugins = ["tests.oracle.fixtures"] if (HERE / "oracle" / "fixtures.py").exists() else []


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"_conftest_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to start when the pyvirt under test was not built from the clone's sources."""
    tree = Path(os.environ.get("PYVIRT_SOURCE") or HERE.parent)
    if not (tree / "setup.py").exists():
        return  # tests of an installed package with no clone at hand: there is nothing to compare with
    spec = importlib.util.find_spec("pyvirt")  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise pytest.UsageError("pyvirt is not installed: run `python -m pip install -e '.[test]'` in the clone")
    digest = _load(tree / "pyvirt" / "_digest.py")
    package = Path(spec.submodule_search_locations[0])
    reason = digest.unbuilt(package) or digest.stale(tree, digest.load(package))
    if reason is not None:
        raise pytest.UsageError(reason)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take what was collected out of garbage collection: tests that count what is alive collect often."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """Show what decides which tests can run."""
    names = ("PYVIRT_REQUIRE", "PYVIRT_CORE", "PYVIRT_GUESTS", "PYVIRT_SOURCE")
    return "pyvirt: " + ", ".join(f"{n}={os.environ.get(n, '')}" for n in names)


@pytest.fixture(scope="session")
def guest() -> Callable[[str], Path]:
    """Return a function from the name of a guest image, such as "Image-7.2.zst", to its path."""
    return needs.guest_image


@pytest.fixture(scope="session")
def source() -> Path:
    """Return the clone's folder; tests that use it read its files, and run its tools."""
    return needs.source_tree()
