"""Scripts around a console: `--expect` and `--send` in order, limits, and what all of it means as an exit code.

Owns the steps, the budget of a run and the outcome. Reads no terminal: input that people type is terminal.py's.
"""
from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyvirt.errors import ConfigError
from pyvirt.machine import Machine
from pyvirt.stop import Stop, StopReason

FAILED, USAGE, LIMIT, INTERRUPTED = 1, 2, 124, 130
TAIL_LINES = 20

# A guest that waits for input no step will send idles for ever, woken only by timers of its own. That is an end too:
# after so many guest seconds in a row without output and with less than a twentieth of the time spent on instructions.
QUIET_SECONDS = 300
QUIET_SHARE = 20

_SPECIAL = re.compile(r"[\\.^$*+?{}\[\]|()]")
_ESCAPE = re.compile(r"\\(?:x(?P<hex>[0-9a-fA-F]{1,2})|u(?P<point>[0-9a-fA-F]{4})|(?P<octal>[0-7]{1,3})|(?P<char>.)|$)",
                     re.DOTALL)
_CHARS = {"n": b"\n", "r": b"\r", "t": b"\t", "a": b"\a", "b": b"\b", "f": b"\f", "v": b"\v", "e": b"\x1b",
          "\\": b"\\", "'": b"'", '"': b'"', "?": b"?"}


def unescape(text: str) -> bytes:
    r"""Return the bytes that a text with C escapes means; raises ConfigError for escapes that C does not have.

    >>> unescape(r"echo \x41\101\n")
    b'echo AA\n'
    """
    out, at = bytearray(), 0
    while (slash := text.find("\\", at)) >= 0:
        out += text[at:slash].encode("utf-8", "surrogateescape")
        found = _ESCAPE.match(text, slash)
        assert found is not None  # the pattern's last branches take whatever follows
        piece = _one_escape(found)
        if piece is None:
            raise ConfigError(f"--send: {text!r} has {found[0]!r} at position {slash}; allowed: \\n \\r \\t \\a \\b "
                              "\\f \\v \\e \\\\ \\' \\\" \\? \\ooo (up to \\377) \\xhh \\uhhhh")
        out += piece
        at = found.end()
    return bytes(out + text[at:].encode("utf-8", "surrogateescape"))


def _one_escape(found: re.Match[str]) -> bytes | None:
    if found["hex"]:
        return bytes([int(found["hex"], 16)])
    if found["octal"]:
        value = int(found["octal"], 8)
        return bytes([value]) if value < 256 else None
    if found["point"]:
        point = int(found["point"], 16)
        return None if 0xD800 <= point < 0xE000 else chr(point).encode()
    return _CHARS.get(found["char"] or "")


@dataclass(frozen=True)
class Expect:
    """Wait for text on the console, after what was matched before."""

    text: str

    @property
    def until(self) -> str | re.Pattern[str]:
        """The condition for `run`: text without special characters is searched as such, which is cheaper."""
        return re.compile(self.text, re.MULTILINE) if _SPECIAL.search(self.text) else self.text


@dataclass(frozen=True)
class Send:
    """Type to the guest."""

    data: bytes


Step = Expect | Send


def parse_step(option: str, value: str) -> Step:
    """Make a step of `--expect RE` or `--send TEXT`; raises ConfigError naming the option, the value and why."""
    if option == "send":
        return Send(unescape(value))
    try:
        empty = re.compile(value, re.MULTILINE).search("") is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"--expect: {value!r} is no regular expression: {error}; allowed: those of Python's re"
                          ) from error
    if empty:
        raise ConfigError(f"--expect: {value!r} matches an empty text; allowed: expressions that match something")
    return Expect(value)


class Budget:
    """What is left of `--max-instructions` and `--timeout`; time counts from here."""

    def __init__(self, vm: Machine, *, instructions: int | None = None, timeout: float | None = None) -> None:
        self._vm = vm
        self._end = None if instructions is None else vm.icount + instructions
        self._deadline = None if timeout is None else time.monotonic() + timeout

    @property
    def seconds(self) -> float | None:
        """Host seconds left, None for no limit."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    @property
    def used_up(self) -> bool:
        return (self._end is not None and self._vm.icount >= self._end) or self.seconds == 0.0

    def run(self, *, until: Any = None, instructions: int | None = None, seconds: float | None = None) -> Stop:
        """Run within what is left, and for no more than `instructions` and `seconds`."""
        left = None if self._end is None else max(self._end - self._vm.icount, 0)
        counts = [n for n in (left, instructions) if n is not None]
        times = [s for s in (self.seconds, seconds) if s is not None]
        return self._vm.run(until=until, instructions=min(counts, default=None), timeout=min(times, default=None),
                            check=False)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the process's exit code, the last stop, and what to tell people, if anything."""

    exit_code: int
    stop: Stop
    message: str = ""
    tail: bool = False
    quiet: bool = False


def guest_code(stop: Stop) -> int:
    """Return a guest's exit code as a process can give it: what does not fit in 0...255 is 255, never success."""
    code = stop.exit_code or 0
    return code if 0 <= code <= 255 else 255


def conclude(stop: Stop, *, matched: bool, quiet: bool = False) -> Outcome:
    """Say what an end means when nothing is waited for; `matched`: there were expectations, and all were met."""
    if stop.reason in (StopReason.INSTRUCTIONS, StopReason.TIMEOUT) and not quiet:
        return Outcome(LIMIT, stop, f"a limit was reached: {stop}")
    if stop.reason is StopReason.EXIT:
        note = f"{stop}; `pyvirt run` starts nothing again" if stop.kind == "reboot" else ""
        return Outcome(0 if matched else guest_code(stop), stop, note)
    if matched:
        return Outcome(0, stop, "" if quiet else str(stop), quiet=quiet)
    return Outcome(FAILED, stop, _quiet(stop) if quiet else str(stop), tail=True, quiet=quiet)


def _quiet(stop: Stop) -> str:
    return (f"the guest waits for input: for {QUIET_SECONDS} of its seconds it idled and printed nothing, at pc "
            f"{stop.pc:#x}, icount {stop.icount}")


class Script:
    """Steps, played to a machine in order."""

    def __init__(self, vm: Machine, steps: Sequence[Step], budget: Budget) -> None:
        self.vm, self.steps, self.budget = vm, tuple(steps), budget

    @property
    def expects(self) -> bool:
        return any(isinstance(step, Expect) for step in self.steps)

    @property
    def goes_on(self) -> bool:
        """Whether the guest runs on after the last step: it would not see a last `--send` otherwise."""
        return not self.steps or isinstance(self.steps[-1], Send)

    def play(self) -> Outcome | None:
        """Play the steps. Returns None when the guest is to run on, else the outcome."""
        done = 0
        stop = None
        for step in self.steps:
            if isinstance(step, Send):
                self.vm.console.send(step.data)
                continue
            stop, quiet = self.wait(step.until)
            if stop.reason is not StopReason.UNTIL:
                total = sum(isinstance(s, Expect) for s in self.steps)
                what = f"--expect {step.text!r} ({done + 1} of {total}) was not met"
                if stop.reason in (StopReason.INSTRUCTIONS, StopReason.TIMEOUT) and not quiet:
                    return Outcome(LIMIT, stop, f"{what}: {stop}", tail=True)
                return Outcome(FAILED, stop, f"{what}: {_quiet(stop) if quiet else stop}", tail=True, quiet=quiet)
            done += 1
        if self.goes_on or stop is None:
            return None
        return Outcome(0, stop)

    def finish(self) -> Outcome:
        """Run on behind the last step until the guest ends, or waits for more."""
        stop, quiet = self.wait(None) if self.steps else (self.budget.run(), False)
        return conclude(stop, matched=self.expects, quiet=quiet)

    def wait(self, until: str | re.Pattern[str] | None) -> tuple[Stop, bool]:
        """Run until a match or the guest's end; the second value says that it has only been waiting for input."""
        still = 0
        second = 10_000_000 * self.vm.config.ratio  # in icount
        while True:
            before, printed = self._retired(), self.vm.console.unmatched
            step = second - self.vm.icount % second
            stop = self.budget.run(until=until, instructions=step)
            if stop.reason is not StopReason.INSTRUCTIONS or self.budget.used_up:
                return stop, False
            idle = (self._retired() - before) * QUIET_SHARE < step
            still = still + 1 if idle and self.vm.console.unmatched == printed else 0
            if still >= QUIET_SECONDS:
                return stop, True

    def _retired(self) -> int:
        return sum(int(hart.csr.minstret) for hart in self.vm.harts)
