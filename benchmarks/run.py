"""Measure pyvirt against its peers, in turn, in one run: `python benchmarks/run.py`.

Each workload runs on every peer, round after round, so that what else the host does falls on all alike. Every run's
output is checked against a build of the same program for the host. Prints a table; --docs writes it into
docs/benchmarks.md, --json keeps every sample. Refuses to measure a build that is older than ext/.
"""
from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import report
import toolchain
from measure import RunFailed, Sample, run
from peers import PEERS, Peer, Qemu
from report import Measured, Results
from workloads import GROUPS, HERE, WORKLOADS, Boot, GuestMissing, Images, Workload, images

TREE = HERE.parent


class Refused(RuntimeError):
    """There is nothing that should be measured: a stale build, a missing peer, an unknown name."""


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_bench_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_build() -> tuple[Path, Any]:
    """Return the folder of the pyvirt that will be measured, and the record of its build.

    Raises Refused when it is not built from this clone's sources, naming the file and the command.
    """
    spec = importlib.util.find_spec("pyvirt")  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        sys.path.append(str(TREE))  # not installed: the clone's own
        spec = importlib.util.find_spec("pyvirt")
    if spec is None or not spec.submodule_search_locations:
        raise Refused(f"pyvirt is not installed: run `python -m pip install -e .` in {TREE}")
    package = Path(spec.submodule_search_locations[0])
    digest = _module(TREE / "pyvirt" / "_digest.py")
    record = digest.load(package)
    reason = digest.unbuilt(package) or digest.stale(TREE, record)
    if reason is not None:
        raise Refused(reason)
    if record.DEBUG:
        raise Refused(f"pyvirt in {package} is a debug build: run `{digest.COMMAND}` in {TREE}")
    return package, record


@dataclass(frozen=True)
class Job:
    """One workload on one peer: the command, and what its output must hold."""

    command: list[str]
    wanted: str
    factor: float = 1.0


class Bench:
    """Options turned into runs."""

    def __init__(self, *, tools: toolchain.Toolchain, peers: Sequence[Peer], scale: int, rounds: int, timeout: float,
                 environment: dict[str, str], say: Callable[[str], None]) -> None:
        self.tools, self.peers, self.scale, self.rounds, self.timeout = tools, peers, scale, rounds, timeout
        self.environment, self.say = environment, say
        self._kernels: dict[Path, Path] = {}

    def job(self, workload: Workload, peer: Peer) -> Job:
        """Return what to run, building what is missing."""
        if isinstance(workload, Boot):
            found = images(workload)
            return Job(peer.boot(workload, found, self._plain(found)), workload.marker)
        part = max(1, self.scale * workload.short.get(peer.name, 100) // 100)
        line = self.tools.expected(workload, part)
        return Job(peer.program(self.tools.target(workload, part)), line, self.scale / part)

    def _plain(self, found: Images) -> Path:
        """Return the kernel as QEMU loads it: not compressed."""
        with found.kernel.open("rb") as source:
            magic = source.read(4)
        if magic[:2] != b"\x1f\x8b" and magic != b"\x28\xb5\x2f\xfd":
            return found.kernel
        if found.kernel not in self._kernels:
            import zstandard

            target = self.tools.folder / f"{found.kernel.stem}.plain"
            self.tools.folder.mkdir(parents=True, exist_ok=True)
            aside = target.with_suffix(f".{os.getpid()}")
            with found.kernel.open("rb") as source, aside.open("wb") as plain:
                if magic[:2] == b"\x1f\x8b":
                    shutil.copyfileobj(gzip.GzipFile(fileobj=source), plain)
                else:
                    zstandard.ZstdDecompressor().copy_stream(source, plain)
            aside.replace(target)
            self._kernels[found.kernel] = target
        return self._kernels[found.kernel]

    def measure(self, workload: Workload) -> Measured:
        """Run a workload on every peer in turn. Raises RunFailed when one fails or prints something else."""
        peers = [p for p in self.peers if p.runs(workload)]
        jobs = {p.name: self.job(workload, p) for p in peers}
        if workload.group == "start":
            for name in jobs:
                self._run(jobs[name])  # fills the host's file cache, and Python's of byte code
        result = Measured(workload, {name: [] for name in jobs}, {name: j.factor for name, j in jobs.items()})
        for turn in range(self.rounds):
            for peer in peers if turn % 2 == 0 else reversed(peers):
                sample = self._run(jobs[peer.name])
                result.samples[peer.name].append(sample)
                self.say(f"{workload.name:9} {peer.name:7} {turn + 1}/{self.rounds}  {sample.cpu:7.3f} s CPU")
        return result

    def _run(self, job: Job) -> Sample:
        sample = run(job.command, timeout=self.timeout, env=self.environment)
        if job.wanted not in sample.output:
            what = f"did not print {job.wanted!r}; it printed:\n{sample.output[-2000:]}"
            raise RunFailed(f"{' '.join(job.command)}\n{what}")
        # The console of a boot is long, and checked; a program's own lines are two.
        return replace(sample, output=sample.output if len(sample.output) < 500 else job.wanted)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def facts(options: argparse.Namespace, tools: toolchain.Toolchain, peers: Sequence[Peer], build: Any) -> dict[str, str]:
    """Return what a reader needs to judge the numbers."""
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return {
        "host": f"{_cpu()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, load at the start {load}",
        "peers": "; ".join(p.version() for p in peers),
        "pyvirt's build": f"sources {build.DIGEST[:12]}, {build.FLAGS}",
        "guest compiler": f"{tools.version}, rv64gc -O2",
        "rounds": f"{options.runs}, length {options.scale} %, {time.strftime('%Y-%m-%d')}",
    }


def select(only: Sequence[str], *, heldout: bool) -> list[Workload]:
    """Return the workloads of these names or groups, in the table's order; start-up is always one of them."""
    known = {w.name for w in WORKLOADS} | set(GROUPS) | {"heldout"}
    if unknown := [n for n in only if n not in known]:
        raise Refused(f"--only: {unknown[0]!r} is no workload or group; allowed: {', '.join(sorted(known))}")
    chosen = []
    for w in WORKLOADS:
        if not only:
            wanted = heldout or not w.heldout
        else:
            wanted = w.name in only or (w.group in only and not w.heldout) or ("heldout" in only and w.heldout)
        if wanted or w.group == "start":
            chosen.append(w)
    return chosen


def usable(names: Sequence[str], qemus: Sequence[str], say: Callable[[str], None]) -> list[Peer]:
    """Return the peers of these names, or all that are here, and every QEMU whose path is given.

    Raises Refused when a named one is missing.
    """
    known = {p.name: p for p in PEERS}
    if unknown := [n for n in names if n not in known]:
        raise Refused(f"--peers: {unknown[0]!r} is no peer; allowed: {', '.join(known)}")
    found = []
    for peer in PEERS:
        if names and peer.name not in names and peer.name != "pyvirt":
            continue
        if (reason := peer.missing()) is None:
            found.append(peer)
        elif names or peer.name == "pyvirt":
            raise Refused(reason)
        else:
            say(f"without {peer.name}: {reason}")
    try:
        return [*found, *(Qemu.at(path) for path in qemus)]
    except ValueError as e:
        raise Refused(f"--qemu: {e}") from e


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--only", default="", metavar="A,B", help=f"workloads or groups ({', '.join(GROUPS)}, heldout)")
    p.add_argument("--peers", default="", metavar="A,B", help="besides pyvirt; default: all there are")
    p.add_argument("--qemu", action="append", default=[], metavar="PATH", help="another QEMU as a further peer")
    p.add_argument("--no-heldout", action="store_true", help="leave out the programs that tuning must not look at")
    p.add_argument("--runs", type=int, default=5, metavar="N", help="rounds (5)")
    p.add_argument("--scale", type=int, default=100, metavar="PERCENT", help="length of the programs (100)")
    p.add_argument("--compiler", choices=toolchain.COMPILERS, help="for the guest; default: gcc, else zig")
    p.add_argument("--cache", type=Path, default=TREE / "build/benchmarks", metavar="DIR", help="of binaries")
    p.add_argument("--timeout", type=float, default=900, metavar="S", help="seconds of wall time for one run (900)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    p.add_argument("--docs", type=Path, metavar="FILE", help="write the report between the marks of this document")
    p.add_argument("--list", action="store_true", help="list the workloads and end")
    options = p.parse_args(arguments)
    if options.runs < 1 or options.scale < 1:
        p.error(f"--runs {options.runs}, --scale {options.scale}: both must be at least 1")
    return options


def _names(text: str) -> list[str]:
    return [n for n in text.replace(" ", "").split(",") if n]


def _write_json(path: Path, measured: Sequence[Measured], known: dict[str, str]) -> None:
    rows = [{"workload": m.workload.name, "group": m.workload.group, "heldout": m.workload.heldout, "peer": peer,
             "factor": m.factor[peer], "instructions": m.instructions,
             "samples": [{"cpu": s.cpu, "wall": s.wall, "rss_kib": s.rss} for s in samples]}
            for m in measured for peer, samples in m.samples.items()]
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps({"facts": known, "runs": rows}, indent=1) + "\n")
    aside.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for a failed run, 2 for what is refused."""
    options = _options(arguments)
    if options.list:
        rows = [[w.name, w.group, "held out" if w.heldout else "", w.about] for w in WORKLOADS]
        print(report.table(["name", "group", "", "what"], rows))
        return 0

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)  # so that the emulator that runs is ended too

    signal.signal(signal.SIGTERM, end)
    try:
        package, record = check_build()
        chosen = select(_names(options.only), heldout=not options.no_heldout)
        peers = usable(_names(options.peers), options.qemu, say)
        tools = toolchain.find(options.cache, options.compiler)
        known = facts(options, tools, peers, record)
        # Python keeps its byte code, as it does for users, whatever the environment of this run says.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPATH"] = str(package.parent)
        bench = Bench(tools=tools, peers=peers, scale=options.scale, rounds=options.runs, timeout=options.timeout,
                      environment=environment, say=say)
        measured = []
        for workload in chosen:
            try:
                measured.append(bench.measure(workload))
            except GuestMissing as e:
                if options.only:
                    raise Refused(str(e)) from e
                say(f"without {workload.name}: {e}")
    except (Refused, toolchain.ToolMissing) as e:
        say(f"benchmarks: {e}")
        return 2
    except RunFailed as e:
        say(f"benchmarks: {e}")
        return 1
    text = report.markdown(Results(measured), known, [p.name for p in peers])
    print(text)
    if options.json:
        _write_json(options.json, measured, known)
    if options.docs:
        report.write_docs(options.docs, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
