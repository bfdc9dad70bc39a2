"""Running one command to its end, and what it cost; medians and ratios of several runs.

CPU time is user + system time of the whole process and the children it waited for, from wait4(2): what other load of
the host changes least. Peak memory is the process's own; a parent that is larger than its child would hide the child's,
so the runner stays small.
"""
from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass


class RunFailed(RuntimeError):
    """A command did not end by itself with exit code 0, or did not print what it must."""


@dataclass(frozen=True)
class Sample:
    """One run. Times in seconds, memory in KiB."""

    cpu: float
    wall: float
    rss: int
    output: str


def run(command: Sequence[str], *, timeout: float, env: dict[str, str] | None = None) -> Sample:
    """Run a command with no input. Raises RunFailed with its output when it fails or takes longer than `timeout` s."""
    with tempfile.TemporaryFile() as out:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env,
                                   start_new_session=True)
        late = threading.Event()

        def kill() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(timeout, kill)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            timer.cancel()
            timer.join()
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, so that Popen does not try to
        out.seek(0)
        output = out.read().decode(errors="replace")
    if late.is_set() or process.returncode:
        what = f"took more than {timeout:g} s" if late.is_set() else f"ended with {process.returncode}"
        raise RunFailed(f"{' '.join(command)}\n{what}; its output ends:\n{output[-2000:]}")
    return Sample(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss, output)


@dataclass(frozen=True)
class Spread:
    """A median, and the least and the largest of what it is the median of."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))
