"""Measure snapshots and forks of a booted Debian kernel: `python benchmarks/history.py --kernel IMAGE --initrd INITRD`.

The guest is busy: its shell starts one program after the other, so that whatever is measured writes memory, changes
page tables and takes interrupts. Times are medians of single calls, with quartiles; sizes are the process's resident
memory. `--docs` writes the table into docs/history.md, with what it was measured on.
"""
from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
if str(TREE) not in sys.path:
    sys.path.append(str(TREE))

from report import table, write_docs  # noqa: E402

import pyvirt as pv  # noqa: E402 - of the clone, where it is not installed

BEGIN, END = "<!-- numbers: written by benchmarks/history.py -->", "<!-- end of numbers -->"
CMDLINE = "console=ttyS0 quiet cryptomgr.notests"
BUSY = "while :; do ls / > /tmp/ls; done\n"
BETWEEN = 10_000        # instructions before each thing that is timed
DIRTY = 50              # pages that a restore is to find changed
FORKS = 10_000


@dataclass
class Row:
    """One line of the table: what was measured, in which unit, and what it must not exceed."""

    what: str
    values: list[float]
    unit: str
    limit: float

    @property
    def ok(self) -> bool:
        return statistics.median(self.values) <= self.limit

    def cells(self) -> list[str]:
        """Return the cells."""
        shown = f"{statistics.median(self.values):,.1f} {self.unit}"
        if len(self.values) > 1:
            low, _, high = statistics.quantiles(self.values, n=4)
            shown += f" ({low:,.1f}...{high:,.1f})"
        return [self.what, shown, f"{self.limit:,.0f} {self.unit}"]


def booted(kernel: Path, initrd: Path, ram: str) -> pv.Machine:
    """Return a machine that has booted and is busy."""
    vm = pv.Machine(ram=ram).load(kernel=kernel, initrd=initrd, cmdline=CMDLINE)
    vm.run(until="# ")
    vm.console.send(BUSY)
    vm.run(instructions=30_000_000)
    return vm


def times(repeat: int, prepare: Callable[[], object], timed: Callable[[], object]) -> list[float]:
    """Return microseconds of single calls; what they return is dropped outside of what is timed."""
    taken = []
    for _ in range(repeat):
        prepare()
        started = time.perf_counter()
        kept = timed()
        taken.append((time.perf_counter() - started) * 1e6)
        del kept
    return taken


def resident() -> float:
    """Return the process's resident memory in KiB."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmRSS; expected Linux")


def snapshots(vm: pv.Machine, repeat: int) -> list[float]:
    """Time snapshots of a machine that runs a little between two of them; each is deleted again."""
    taken = times(repeat, lambda: vm.run(instructions=BETWEEN), vm.snapshot)
    for node in list(vm.history):
        node.delete()
    return taken


def ready(snap: pv.Snapshot) -> pv.Machine:
    """Fork, and go as far as the first instruction."""
    fork = snap.fork()
    fork.run(instructions=0)
    return fork


def short(snap: pv.Snapshot) -> None:
    """Fork, run, drop."""
    snap.fork().run(instructions=1000)


def dirtying(vm: pv.Machine, snap: pv.Snapshot) -> tuple[int, int]:
    """Return how many instructions behind a snapshot change about DIRTY pages, and how many pages exactly."""
    instructions = 1000
    while True:
        vm.restore(snap).run(instructions=instructions)
        node = vm.snapshot()
        pages = len(snap.diff(node).pages)
        node.delete()
        if pages >= DIRTY:
            vm.restore(snap)
            return instructions, pages
        instructions += 1000


def measure(options: argparse.Namespace) -> list[Row]:
    """Return the rows."""
    repeat = options.repeat
    with booted(options.kernel, options.initrd, "16G") as vm:
        large = snapshots(vm, repeat)
    with booted(options.kernel, options.initrd, "256M") as vm:
        rows = [Row("snapshot of the running machine", snapshots(vm, repeat), "µs", 100),
                Row("the same with 16 GiB declared", large, "µs", 100)]
        snap = vm.snapshot()
        rows += [Row("fork to a machine ready to run", times(repeat, lambda: None, lambda: ready(snap)), "µs", 50),
                 Row("fork, run 1,000 instructions, drop", times(repeat, lambda: None, lambda: short(snap)), "µs", 150)]
        instructions, pages = dirtying(vm, snap)
        rows.append(Row(f"restore with {pages} dirty pages", times(
            repeat, lambda: vm.run(instructions=instructions), lambda: vm.restore(snap)), "µs", 60))
        before = resident()
        forks = snap.forks(FORKS)
        rows.append(Row("resident memory of an idle fork", [(resident() - before) / FORKS], "KiB", 8))
        del forks
        before = resident()
        forks = snap.forks(FORKS)
        for fork in forks:
            fork.run(instructions=10_000)
        rows.append(Row(f"{FORKS:,} forks alive, each having run 10,000 instructions",
                        [(resident() - before) / (1 << 20)], "GiB", 2))
    return rows


def host() -> str:
    """Return what it is measured on."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]
    return (f"{models[0] if models else platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} "
            f"{platform.release()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}, load "
            f"{os.getloadavg()[0]:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", type=Path, required=True)
    parser.add_argument("--initrd", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=500)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/history.md")
    options = parser.parse_args()
    known = host()
    rows = measure(options)
    text = f"{table(['what', 'median (quartiles)', 'must hold'], [row.cells() for row in rows])}\n\n{known}."
    print(text)
    if options.docs:
        write_docs(TREE / "docs/history.md", text + "\n", begin=BEGIN, stop=END)
    for row in rows:
        if not row.ok:
            print(f"not held: {row.what}", file=sys.stderr)
    return int(not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(main())
