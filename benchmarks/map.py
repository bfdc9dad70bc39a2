"""Measure `snap.map` on a busy machine: two threads against one, and a process pool: `python benchmarks/map.py`.

The machine is a booted Debian kernel that counts in its shell (--kernel, --initrd), else a small program. Times are
medians of rounds in one run; the ratio is of those, round by round, so that what else the host does falls on both. A
hash in C that needs no interpreter's lock says what two threads could gain on this host at this moment.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
if str(TREE) not in sys.path:
    sys.path.append(str(TREE))

import pyvirt as pv  # noqa: E402 - of the clone, where it is not installed

CMDLINE = "console=ttyS0 quiet cryptomgr.notests"
COUNT = """
        li   s1, 0x80100000
        li   s2, 0x1fff8
1:      addi s0, s0, 1
        slli t0, s0, 5
        and  t0, t0, s2
        add  t0, t0, s1
        ld   t1, 0(t0)
        add  t1, t1, s0
        sd   t1, 0(t0)
        j    1b
"""


def work(vm: pv.Machine, instructions: int) -> int:
    """Run a fork for some instructions."""
    return vm.run(instructions=instructions).icount


def machine(kernel: Path | None, initrd: Path | None) -> pv.Machine:
    """Return a machine that is busy."""
    if kernel is None or initrd is None:
        vm = pv.Machine().load(pv.asm(COUNT))
        vm.run(instructions=1_000_000)
        return vm
    vm = pv.Machine().load(kernel=kernel, initrd=initrd, cmdline=CMDLINE)
    vm.run(until="# ")
    vm.console.send("i=0; while :; do i=$((i+1)); done\n")
    vm.run(instructions=20_000_000)
    return vm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", type=Path)
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--instructions", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--inputs", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with machine(options.kernel, options.initrd) as vm:
        snap = vm.snapshot()
        print(f"{os.cpu_count()} processors, {snap.size.shared >> 20} MiB of pages, {options.inputs} inputs")
        print(f"two threads that hash, against one: {control(options.rounds):.2f}")
        print("| instructions | 1 thread | 2 threads | 2 / 1 | 2 processes | 2 processes / 1 thread |\n"
              "|---|---|---|---|---|---|")
        for instructions in options.instructions:
            with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two, ProcessPoolExecutor(2) as pool:
                rounds = [[measure(snap, executor, instructions, options.inputs) for executor in (one, two, pool)]
                          for _ in range(options.rounds + 1)][1:]
            single, double, processes = (statistics.median(column) for column in zip(*rounds, strict=True))
            threads, pools = (statistics.median(r[0] / r[k] for r in rounds) for k in (1, 2))
            print(f"| {instructions:,} | {single * 1e6:,.0f} µs | {double * 1e6:,.0f} µs | {threads:.2f} | "
                  f"{processes * 1e6:,.0f} µs | {pools:.2f} |")


def control(rounds: int) -> float:
    """Return how much faster two threads hash than one."""
    data, ratios = bytes(1 << 20), []
    for _ in range(rounds):
        taken = []
        for threads in (1, 2):
            with ThreadPoolExecutor(threads) as executor:
                started = time.perf_counter()
                list(executor.map(lambda _: hashlib.sha256(data).digest(), range(100)))
                taken.append(time.perf_counter() - started)
        ratios.append(taken[0] / taken[1])
    return statistics.median(ratios)


def measure(snap: pv.Snapshot, executor: Executor, instructions: int, inputs: int) -> float:
    """Return seconds for an input."""
    started = time.perf_counter()
    snap.map(work, [instructions] * inputs, executor=executor)
    return (time.perf_counter() - started) / inputs


if __name__ == "__main__":
    main()
