"""requirements.toml: each line of it is shown by tests or benchmarks that exist."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
LINES = tomllib.loads((HERE / "requirements.toml").read_text(encoding="utf-8"))["line"]
KEYS = {"says", "shown", "measured"}


def node(name: str) -> str:
    return f"tests/{name}"


@cache
def collected(files: tuple[str, ...]) -> frozenset[str]:
    """Return the node ids that pytest finds in some files of tests, of all marks."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, timeout=110)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return frozenset(line for line in done.stdout.splitlines() if "::" in line)


def missing(names: set[str], found: frozenset[str]) -> list[str]:
    """Return those names that are no node id, with or without a parameter, and no test with parameters."""
    known = found | {name.partition("[")[0] for name in found}
    return sorted(names - known)


def is_benchmark(folder: Path, name: str) -> bool:
    """Say whether `file::name` is a benchmark: a string in that file, where benchmarks are listed."""
    file, _, wanted = name.partition("::")
    path = folder / file
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(n, ast.Constant) and n.value == wanted for n in ast.walk(tree))


def test_every_line_is_shown_by_what_there_is() -> None:
    assert len(LINES) > 60
    unshown = [line["says"] for line in LINES if not line.get("shown") and not line.get("measured")]
    assert not unshown, f"nothing shows: {unshown}"
    assert all(set(line) <= KEYS for line in LINES)
    says = [line["says"] for line in LINES]
    assert len(set(says)) == len(says)
    names = {node(name) for line in LINES for name in line.get("shown", ())}
    wrong = missing(names, collected(tuple(sorted({name.partition("::")[0] for name in names}))))
    assert not wrong, f"no such tests: {wrong}"


def test_every_benchmark_exists(source: Path) -> None:
    names = {name for line in LINES for name in line.get("measured", ())}
    assert names
    wrong = sorted(name for name in names if not is_benchmark(source / "benchmarks", name))
    assert not wrong, f"no such benchmarks: {wrong}"
    assert not is_benchmark(source / "benchmarks", "workloads.py::no such thing")
    assert not is_benchmark(source / "benchmarks", "nothing.py::nested")


@pytest.mark.parametrize("name", ["test_nothing", "test_the_width_of_vmid[15]"])
def test_a_test_that_is_not_there_is_seen(name: str) -> None:
    file = node("hyp/test_options.py")
    found = collected((file,))
    assert missing({f"{file}::{name}"}, found) == [f"{file}::{name}"]
    assert missing({f"{file}::test_the_width_of_vmid[14]"}, found) == []


def test_ci_compares_five_million_instructions(source: Path) -> None:
    """The number that CI asks of test_more_instructions_are_compared, and that tox lets it through."""
    asked = re.search(r"^export PYVIRT_LOCKSTEP_STEPS=(\d+)$", (source / ".ci/run").read_text(), re.MULTILINE)
    assert asked is not None
    assert int(asked[1]) >= 5_000_000
    assert "PYVIRT_LOCKSTEP_STEPS" in (source / "tox.ini").read_text()


def test_the_guide_for_other_hypervisors_says_what_the_machine_offers(source: Path) -> None:
    guide = (source / "docs/hypervisors.md").read_text(encoding="utf-8")
    for word in ("Xvisor", "Bao", "hvisor", "PLIC", "HSM", "RFENCE", "timer", "--kernel", "--firmware", "AIA"):
        assert word in guide, word
