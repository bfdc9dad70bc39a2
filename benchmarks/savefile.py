"""Measure saved machines: a booted Debian in 256 MiB, saved, loaded, gone on with: `python benchmarks/savefile.py`.

Prints a table of medians and the bounds that hold for them; --docs writes it into docs/savefile.md. Loading is measured
in processes of their own, from the call to the first instruction, and from the start of the process. The size is
compared with what zstd -3 makes of all non-zero pages in one piece.
"""
from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zstandard
from report import table
from run import Refused, check_build
from workloads import HERE, WORKLOADS, Boot, GuestMissing, images

TREE = HERE.parent
BEGIN, END = "<!-- numbers: written by benchmarks/savefile.py -->", "<!-- end of numbers -->"
PAGE = 4096

LOAD = """
import sys, time
import pyvirt as pv
from pyvirt import machine
from pyvirt.files import savefile
began = time.perf_counter()
snap = pv.Snapshot.load(sys.argv[1])
vm = snap.fork()
vm.run(instructions=1)
print(time.perf_counter() - began)
"""


def median(times: list[float]) -> str:
    """Return the median in milliseconds, with the least and the largest."""
    low, middle, high = (1000 * x for x in (min(times), statistics.median(times), max(times)))
    return f"{middle:.3g} ms ({low:.3g}–{high:.3g})"


def measure(rounds: int) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table, and facts about the run."""
    import pyvirt as pv

    boot = next(w for w in WORKLOADS if isinstance(w, Boot) and not w.packages)
    found = images(boot)
    with tempfile.TemporaryDirectory() as folder, pv.Machine(ram="256M") as vm:
        path, second = Path(folder) / "a.pyvm", Path(folder) / "b.pyvm"
        vm.load(kernel=str(found.kernel), initrd=str(found.initrd), cmdline="console=ttyS0 cryptomgr.notests")
        vm.run(until="# ", timeout=300)
        snap = vm.snapshot("prompt")
        root = snap._held().root
        data = b"".join(root.read(page << 12, PAGE) for page in root.pages())
        began = time.perf_counter()
        one = len(zstandard.ZstdCompressor(level=3).compress(data))
        zstd = time.perf_counter() - began
        saves, loads, starts, wholes, increments = [], [], [], [], []
        with snap.fork() as busy:
            busy.console.send("echo busy; ls -l /bin | tail -3\n")
            busy.run(instructions=10_000_000)
            later = busy.snapshot()
        for _ in range(rounds):
            began = time.perf_counter()
            snap.save(path)
            saves.append(time.perf_counter() - began)
            began = time.perf_counter()
            later.save(second, parent=path)
            increments.append(time.perf_counter() - began)
            began = time.perf_counter()
            ran = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=True,
                                 env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
            starts.append(time.perf_counter() - began)
            loads.append(float(ran.stdout))
            began = time.perf_counter()
            pv.Snapshot.load(path).verify()
            wholes.append(time.perf_counter() - began)
        size, more = path.stat().st_size, second.stat().st_size
        rows = [
            ["full save", median(saves), "800 ms"],
            ["size / `zstd -3` of non-zero RAM in one piece", f"{size / one:.3f}", "1.1"],
            ["load to the first instruction", median(loads), "150 ms"],
            ["the same, with Python's start and imports", median(starts), ""],
            ["load, all pages fetched, hashed and checked", median(wholes), ""],
            ["increment, 10 M instructions later", median(increments), ""],
        ]
        facts = [
            f"host: {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, "
            f"load {', '.join(f'{x:.1f}' for x in os.getloadavg())}; Python {platform.python_version()}; "
            f"{rounds} rounds, median (least–largest)",
            f"guest: {found.kernel.name}, at its prompt; {len(data) // PAGE:,} pages that are not zero, "
            f"{len(data) / 1e6:.1f} MB; the file {size / 1e6:.1f} MB, the increment {more / 1e3:.0f} kB; zstd in one "
            f"piece takes {1000 * zstd:.0f} ms",
        ]
        return rows, facts


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each is measured")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the table between the marks of this page")
    options = parser.parse_args()
    try:
        check_build()
        rows, facts = measure(options.rounds)
    except (Refused, GuestMissing) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    text = table(["what", "measured", "must hold"], rows) + "\n\n" + "\n".join(f"- {fact}" for fact in facts)
    print(text)
    if options.docs is not None:
        page = options.docs.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, mark, after = rest.partition(END)
        if not mark:
            print(f"benchmarks: {options.docs} lacks the marks {BEGIN} and {END}", file=sys.stderr)
            return 2
        options.docs.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
