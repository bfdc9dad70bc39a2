"""The demo: a machine that runs the monitor, pyvirt's own guest, which checks the machine from inside.

Without a terminal it is a check: a session is typed, all of it printed, and what the machine ends as compared with the
golden digest. `python -m pyvirt.command.demo` prints what belongs in guests/golden.json; a change of the guest, of the
device tree or of the machine's state changes it.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.resources import files
from typing import Any, TextIO

from pyvirt.guests import monitor
from pyvirt.machine import Machine
from pyvirt.stop import Stop, StopReason

PROMPT = "pyvirt> "
# What is typed when nobody is at the keyboard. The last line ends the machine.
SESSION = (
    "help", "info", "regs", "mem 80202000", "walk 80200000", "trap", "ticks", "primes 100000", "selftest", "halt",
)
PASSED = "SELFTEST-OK"
TIMEOUT = 60.0  # host seconds for one command: a hundred times what the slowest takes


def boot(**options: Any) -> Machine:
    """Return a machine that runs the monitor, not started; `options` are Machine's."""
    return Machine(**options).load(kernel=monitor())


def play(vm: Machine, out: TextIO | None = None) -> Stop:
    """Type the session, print what the guest says, and return the Stop after the last line."""
    def show(text: str) -> None:
        if out is not None:
            out.write(text)
            out.flush()

    for line in SESSION:
        before = len(vm.console.text)
        vm.run(until=PROMPT, timeout=TIMEOUT)
        show(vm.console.text[before:])
        vm.console.send(f"{line}\r")
    before = len(vm.console.text)
    stop = vm.run(timeout=TIMEOUT)
    show(vm.console.text[before:])
    return stop


def golden() -> dict[str, Any]:
    """Return what the session must end with: board, digest, icount."""
    return dict(json.loads((files("pyvirt.guests") / "golden.json").read_text("utf-8")))


def result(vm: Machine) -> dict[str, Any]:
    """Return what a session ended with, in the form of golden.json."""
    return {"board": vm.config.board, "instructions": vm.icount, "digest": vm.digest()}


def run_demo(interactive: bool, *, attach: Callable[[Machine], int] | None = None, out: TextIO | None = None) -> int:
    """Run the demo and return the exit status.

    `interactive` leaves the user at the monitor's prompt: `attach` connects the terminal to the machine and returns the
    exit status. Otherwise the session is printed to `out` (default: stdout), and the status is 0 only if the guest's
    self-test passed, the guest powered off, and the machine's digest is the golden one.
    """
    out = sys.stdout if out is None else out
    if interactive and attach is not None:
        with boot() as vm:
            return attach(vm)
    with boot() as vm:
        stop = play(vm, out)
        problems = judge(vm, stop)
    for problem in problems:
        out.write(f"demo: {problem}\n")
    return 1 if problems else 0


def judge(vm: Machine, stop: Stop) -> list[str]:
    """Return what is wrong with a session that was played: nothing, if all is well."""
    problems = []
    if PASSED not in vm.console.text:
        problems.append(f"the guest's self-test did not print {PASSED}")
    if stop.reason is not StopReason.EXIT or stop.exit_code != 0:
        problems.append(f"the guest did not power off: {stop}")
    found, wanted = result(vm), golden()
    problems += [f"{name} is {value}, golden is {wanted.get(name)}" for name, value in found.items()
                 if value != wanted.get(name)]
    return problems


def main() -> None:
    """Play the session and print its golden.json."""
    with boot() as vm:
        play(vm, sys.stderr)
        print(json.dumps(result(vm), indent=2))


if __name__ == "__main__":
    main()
