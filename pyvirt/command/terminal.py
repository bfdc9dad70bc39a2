"""The user's keyboard as a guest's serial line: raw mode that is always undone, Ctrl-A keys, pipes, and pacing.

Owns standard input while a guest runs. A guest that idles does not let its clock run ahead of the host's as long as
somebody may type: the process sleeps until there is input or the guest's next moment has come.
"""
from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from pyvirt.command.script import INTERRUPTED, Budget, Outcome, conclude
from pyvirt.devices.uart import Uart
from pyvirt.machine import Machine
from pyvirt.stop import Stop, StopReason

CTRL_A = 0x01
HELP = ("\r\n"
        "Ctrl-A x  leave\r\n"
        "Ctrl-A h  this help\r\n"
        "Ctrl-A s  show where the machine is\r\n"
        "Ctrl-A a  send Ctrl-A to the guest\r\n")

SLICE_SECONDS = 0.02            # what a key may have to wait for, of a guest that is busy
SLICE_TICKS = 500_000           # 50 ms of guest time: how often a guest that idles is looked at
READ_MAX = 4096
WAIT_SECONDS = 0.25             # until a signal that select(2) did not see is acted upon
BACKLOG = 4096                  # bytes the guest has not read, from which on no more is taken from a pipe
TICKS_PER_SECOND = 10_000_000


class Terminated(BaseException):
    """A signal asks the process to end; `signal` is its number. Not an Exception: nothing but an exit handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class Signals:
    """Within it SIGTERM and SIGHUP raise Terminated, so that everything on the way out is undone."""

    def __init__(self) -> None:
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._old[number] = signal.signal(number, self._raise)
        return self

    @staticmethod
    def _raise(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)


class Keys:
    """Tells what is typed for the guest from what is typed for pyvirt."""

    def __init__(self, *, show: Callable[[str], None] = lambda what: None) -> None:
        self._show = show
        self._prefix = False
        self.leave = False      # Ctrl-A x was typed

    def feed(self, data: bytes) -> bytes:
        """Return what goes to the guest; `leave` is set by Ctrl-A x, and what follows is dropped."""
        out = bytearray()
        for byte in data:
            if self.leave:
                break
            if not self._prefix:
                self._prefix = byte == CTRL_A
                if not self._prefix:
                    out.append(byte)
                continue
            self._prefix = False
            if byte in (CTRL_A, ord("a")):
                out.append(CTRL_A)
            elif byte in b"xX":
                self.leave = True
            elif byte in b"hH?":
                self._show("help")
            elif byte in b"sS":
                self._show("state")
        return bytes(out)


class Input:
    """Bytes for the guest from a file descriptor; at a terminal, in raw mode from `with` to its end.

    `fd` of None is input that has ended. `keys` is None when it is no terminal: then every byte is the guest's.
    """

    def __init__(self, fd: int | None, *, show: Callable[[str], None] = lambda what: None) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None
        self._old_cont: Any = None
        terminal = fd is not None and os.isatty(fd)
        if fd is not None and terminal and _in_background(fd):
            # Reading or setting it would stop the whole process: a job in the background has no keyboard.
            self._fd, terminal = None, False
        self.keys = Keys(show=show) if terminal else None
        self.hung_up = False

    @classmethod
    def standard(cls, *, show: Callable[[str], None] = lambda what: None) -> Input:
        """Return standard input, which may be closed or replaced by something without a descriptor."""
        try:
            return cls(sys.stdin.fileno(), show=show)
        except (AttributeError, OSError, ValueError):
            return cls(None)

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return self._fd is not None

    @property
    def left(self) -> str:
        """How a person left, or an empty text."""
        if self.hung_up:
            return "the terminal was hung up"
        return "left by Ctrl-A x" if self.keys is not None and self.keys.leave else ""

    def __enter__(self) -> Input:
        if self.keys is not None and self._fd is not None:
            self._saved = termios.tcgetattr(self._fd)
            self._set_raw()
            if threading.current_thread() is threading.main_thread():
                self._old_cont = signal.signal(signal.SIGCONT, lambda number, frame: self._set_raw())
        return self

    def _set_raw(self) -> None:
        if self._saved is None or self._fd is None:
            return
        iflag, oflag, cflag, lflag, ispeed, ospeed, chars = self._saved
        iflag &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
                   | termios.ICRNL | termios.IXON)
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        # Output stays processed: programs that print bare newlines would leave a staircase.
        chars = list(chars)
        chars[termios.VMIN], chars[termios.VTIME] = 1, 0
        self._apply([iflag, oflag, cflag, lflag, ispeed, ospeed, chars])

    def _apply(self, settings: list[Any]) -> None:
        assert self._fd is not None
        with contextlib.suppress(termios.error):  # a terminal that was hung up has no settings any more
            termios.tcsetattr(self._fd, termios.TCSANOW, settings)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        saved, self._saved = self._saved, None
        if saved is None:
            return
        if self._old_cont is not None:
            signal.signal(signal.SIGCONT, self._old_cont)
        if self._fd is not None:
            self._apply(saved)

    def read(self, seconds: float | None) -> bytes:
        """Return what there is for the guest, waiting for at most `seconds` (None: as long as it takes)."""
        if self._fd is None:
            if seconds:
                time.sleep(seconds)
            return b""
        if not self._ready(self._fd, seconds):
            return b""
        try:
            data = os.read(self._fd, READ_MAX)
        except BlockingIOError:
            return b""
        except OSError:  # a terminal that was hung up reads as EIO: the end of input, like an empty read
            data = b""
        if not data:
            self._end()
            return b""
        return data if self.keys is None else self.keys.feed(data)

    @staticmethod
    def _ready(fd: int, seconds: float | None) -> bool:
        """Wait for input. A signal that comes just before select(2) does not end it: so it never waits for long."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = WAIT_SECONDS if end is None else min(max(end - time.monotonic(), 0.0), WAIT_SECONDS)
            if select.select([fd], [], [], left)[0]:
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def _end(self) -> None:
        if self.keys is None:
            self._fd = None
        else:
            self.hung_up = True     # the descriptor stays, for the terminal's settings


def _in_background(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        return True  # not this process's terminal


class Pace:
    """How far a guest's clock is ahead of the host's, not counting how far it was behind."""

    def __init__(self, vm: Machine) -> None:
        self._vm = vm
        self._restart()

    def _restart(self) -> None:
        self._ticks, self._host = self._vm.time, time.monotonic()

    def ahead(self) -> float:
        """Return the seconds to wait; a guest that is behind is not hurried later."""
        guest = (self._vm.time - self._ticks) / TICKS_PER_SECOND
        host = time.monotonic() - self._host
        if guest <= host:
            self._restart()
            return 0.0
        return guest - host


def interact(vm: Machine, source: Input, budget: Budget, *, matched: bool = False) -> Outcome:
    """Run with a keyboard or a pipe at the console until the guest ends, a limit is reached, or Ctrl-A x.

    `source` is inside its `with`. When a pipe ends the guest runs on at full speed.
    """
    uart = next((device for device in vm.devices if isinstance(device, Uart)), None)
    pace = Pace(vm)
    slice_icount = SLICE_TICKS * vm.config.ratio
    while source.open and uart is not None:
        stop = budget.run(instructions=slice_icount, seconds=SLICE_SECONDS)
        sliced = stop.reason in (StopReason.INSTRUCTIONS, StopReason.TIMEOUT)
        if (sliced and budget.used_up) or not (sliced or stop.reason is StopReason.IDLE):
            return conclude(stop, matched=matched)
        if uart.regs.rx_pending < BACKLOG:
            data = source.read(_patience(stop, pace, budget))
            if data:
                vm.console.send(data)
            if source.left:
                return Outcome(INTERRUPTED, stop, source.left)
        elif stop.reason is StopReason.IDLE:
            return conclude(stop, matched=matched)  # it will never read what waits for it
    return conclude(budget.run(), matched=matched)


def _patience(stop: Stop, pace: Pace, budget: Budget) -> float | None:
    """Return how long to wait for input: not at all for a guest that is busy, for ever when it only waits."""
    left = budget.seconds
    if stop.reason is StopReason.IDLE:
        return left
    wait = pace.ahead()
    return wait if left is None else min(wait, left)
