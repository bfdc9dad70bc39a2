"""The benchmark runner: it checks what it measures, refuses what it must, and counts right. Nothing here is timed."""
from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyvirt import _build
from tests import needs

# A debug build is refused before anything else is looked at: its times mean nothing.
release = pytest.mark.skipif(_build.DEBUG, reason="the runner refuses a debug build")
MODULES = ("measure", "peers", "report", "run", "toolchain", "workloads")


@pytest.fixture
def bench(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The runner's modules, which import each other by bare name as scripts do."""
    monkeypatch.syspath_prepend(str(source / "benchmarks"))
    assert not any(name in sys.modules for name in MODULES)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        sys.modules.pop(name, None)


def runner(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the runner of the clone at `tree`, on the pyvirt that these tests import."""
    spec = importlib.util.find_spec("pyvirt")
    assert spec is not None
    assert spec.submodule_search_locations
    env = {**os.environ, "PYTHONPATH": str(Path(spec.submodule_search_locations[0]).parent), **environment}
    command = [sys.executable, str(tree / "benchmarks/run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, env=env)


def need_compilers() -> None:
    if not shutil.which("riscv64-unknown-elf-gcc"):
        needs.need_module("zig", "ziglang")


@pytest.mark.slow
@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_every_program_prints_what_the_host_computes(source: Path, tmp_path: Path, core: str) -> None:
    need_compilers()
    done = runner(source, "--only", "integer,system,fp,heldout", "--scale", "1", "--runs", "1", "--peers", "pyvirt",
                  "--cache", str(tmp_path), "--json", str(tmp_path / "r.json"), PYVIRT_CORE=core)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "r.json").read_text())["runs"]
    named = {path.stem for path in source.glob("benchmarks/*/*.c")} - {"native", "target"}
    assert {r["workload"] for r in runs} == named
    assert all(r["peer"] == "pyvirt" and r["instructions"] >= 1 and len(r["samples"]) == 1 for r in runs)


@release
def test_spike_prints_the_same(source: Path, tmp_path: Path) -> None:
    need_compilers()
    needs.need_module("spike", "riscv")
    needs.need_program("dtc", "dtc")
    done = runner(source, "--only", "sort,chase,ecall", "--scale", "1", "--runs", "2", "--peers", "spike",
                  "--cache", str(tmp_path), "--json", str(tmp_path / "r.json"))
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert {(r["workload"], r["peer"]) for r in runs} == {
        (name, peer) for name in ("startup", "sort", "chase", "ecall") for peer in ("pyvirt", "spike")}
    assert all(len(r["samples"]) == 2 for r in runs)
    assert "× Spike" in done.stdout


def test_a_stale_build_is_refused(source: Path, tmp_path: Path) -> None:
    for name in ("ext", "benchmarks"):
        shutil.copytree(source / name, tmp_path / name, ignore=shutil.ignore_patterns("generated", "__pycache__"))
    (tmp_path / "pyvirt").mkdir()
    for name in ("setup.py", "pyvirt/_digest.py"):
        shutil.copy(source / name, tmp_path / name)
    changed = tmp_path / "ext/isa.py"
    changed.write_text(changed.read_text() + "\n")
    done = runner(tmp_path, "--only", "intmix", "--cache", str(tmp_path / "cache"))
    assert done.returncode == 2
    assert "ext/isa.py" in done.stderr
    assert "pip install" in done.stderr


@pytest.mark.parametrize(("arguments", "said"), [
    (("--only", "sorting"), ("'sorting'", "sort", "heldout")),
    (("--peers", "bochs"), ("'bochs'", "pyvirt, spike, qemu")),
    (("--runs", "0"), ("--runs 0", "at least 1")),
])
@release
def test_wrong_options_are_named(source: Path, arguments: tuple[str, ...], said: tuple[str, ...]) -> None:
    done = runner(source, *arguments)
    assert done.returncode == 2
    for text in said:
        assert text in done.stderr


def test_wrong_output_fails_the_run(bench: Any) -> None:
    it = bench.run.Bench(tools=None, peers=(), scale=100, rounds=1, timeout=60, environment=dict(os.environ), say=print)
    command = [sys.executable, "-c", "print('sort 0123')"]
    assert it._run(bench.run.Job(command, "sort 0123")).output == "sort 0123\n"
    with pytest.raises(bench.measure.RunFailed, match="'sort 4567'"):
        it._run(bench.run.Job(command, "sort 4567"))


def test_a_failed_or_endless_command_is_an_error(bench: Any) -> None:
    with pytest.raises(bench.measure.RunFailed, match=r"ended with 3[\s\S]*last words"):
        bench.measure.run([sys.executable, "-c", "print('last words'); raise SystemExit(3)"], timeout=60)
    with pytest.raises(bench.measure.RunFailed, match=r"more than 0\.2 s"):
        bench.measure.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)


def test_cpu_time_and_memory_are_the_childs(bench: Any) -> None:
    # By a small parent, as the runner is: until it executes a program, a child is as large as its parent.
    text = ("import sys, measure; sample = measure.run([sys.executable, '-c', \"x = bytearray(300 << 20); "
            "x[::4096] = b'1' * len(x[::4096])\"], timeout=60); print(sample.rss, sample.cpu)")
    folder = str(Path(bench.measure.__file__).parent)
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=True)
    rss, cpu = done.stdout.split()
    assert 300 << 10 < int(rss) < 400 << 10
    assert float(cpu) > 0


def measured(bench: Any, name: str, seconds: dict[str, list[float]], factor: dict[str, float] | None = None) -> Any:
    workload = next(w for w in bench.workloads.WORKLOADS if w.name == name)
    samples = {peer: [bench.measure.Sample(s, s, 1024, f"{name} 1\ninstret 1000000000\n") for s in row]
               for peer, row in seconds.items()}
    return bench.report.Measured(workload, samples, factor or {})


def test_ratios_are_by_round_and_less_start_up(bench: Any) -> None:
    results = bench.report.Results([
        measured(bench, "startup", {"pyvirt": [0.5, 0.5, 0.9], "spike": [0.1, 0.1, 0.1]}),
        measured(bench, "sort", {"pyvirt": [1.5, 3.0, 1.5], "spike": [3.0, 9.0, 4.5]}),
        measured(bench, "nbody", {"pyvirt": [1.5] * 3, "spike": [0.3] * 3}, {"pyvirt": 1.0, "spike": 10.0}),
    ])
    assert results.ratios("sort", "spike") == bench.measure.Spread(3.0, 2.0, 3.0)
    net = results.ratios("sort", "spike", net=True)
    assert (net.low, net.high) == pytest.approx((2.9, 4.4))
    # A tenth of the length: 0.1 s of start-up and ten times 0.2 s.
    assert results.ratios("nbody", "spike").median == pytest.approx(2.1 / 1.5)
    assert results.ratios("sort", "qemu") is None
    assert results.mean(("sort", "nbody"), "spike") == pytest.approx((3.0 * 1.4) ** 0.5)
    assert results.mean(("sort", "hash"), "spike") is None
    text = bench.report.markdown(results, {"host": "here"}, ["pyvirt", "spike"])
    assert "| 3.00 (2.00–3.00) " in text
    assert "| 1000 M " in text


def test_the_report_goes_between_the_marks(bench: Any, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.md"
    path.write_text(f"before\n{bench.report.BEGIN}\nold\n{bench.report.END}\nafter\n")
    bench.report.write_docs(path, "new\n")
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "new" in text
    assert "old" not in text
    (tmp_path / "none.md").write_text("nothing\n")
    with pytest.raises(ValueError, match=r"none\.md"):
        bench.report.write_docs(tmp_path / "none.md", "new")
    shipped = (source / "docs/benchmarks.md").read_text()
    assert shipped.count(bench.report.BEGIN) == shipped.count(bench.report.END) == 1


@pytest.mark.slow
def test_the_worlds_are_compared(source: Path, tmp_path: Path) -> None:
    document = tmp_path / "d.md"
    document.write_text("a\n<!-- worlds: written by benchmarks/worlds.py -->\n<!-- end of worlds -->\nb\n")
    command = [sys.executable, str(source / "benchmarks/worlds.py"), "--rounds", "1", "--instructions", "100000"]
    done = subprocess.run([*command, "--docs", str(document)], capture_output=True, text=True, timeout=110)
    assert done.returncode in (0, 1), done.stderr
    rows = [line for line in document.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 12
    counted = [line for line in rows if "walks" in line]
    assert len(counted) == 2
    assert all(line.endswith("| yes   |") for line in counted)
    wrong = subprocess.run([*command, "--only", "nothing"], capture_output=True, text=True, timeout=110)
    assert wrong.returncode == 2
    assert "nothing" in wrong.stderr
