"""The run loop in Python: slices of the core, and between them input, output, device events and conditions.

Everything a guest can notice happens at an icount that does not depend on how the run is sliced: conditions on the
console stop at the instruction that sent the last byte, device events are taken when they are due, callables are asked
at multiples of their `every`. Slices aim at 10 ms of host time, so that stop(), Ctrl-C and timeouts act soon.
"""
from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from pyvirt._bus import Mmio
from pyvirt.board import Board
from pyvirt.console import Console, Matcher
from pyvirt.hart import PRIVS
from pyvirt.sbi import Sbi
from pyvirt.stop import At, Condition, OnTrap, Stop, StopReason, Trap, When
from pyvirt.stop import Console as ConsoleCondition

SLICE_SECONDS = 0.01
SLICE_MIN, SLICE_MAX = 10_000, 4_000_000
UART_LSR = 5
ANY_BYTE = bytes(range(256))


class Input(NamedTuple):
    """What entered the machine from outside: `kind` is "console" (bytes) or "clock" (ticks)."""

    icount: int
    kind: str
    data: Any


class Interrupts:
    """Holds back Ctrl-C while Python code of the run loop works, so that it comes between two instructions."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop, self._seen, self._old = stop, False, None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            old = signal.getsignal(signal.SIGINT)
            if callable(old):
                self._old = old
                signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self._seen = True
        self._stop()

    def check(self) -> None:
        """Let the handler that was there before act: normally it raises KeyboardInterrupt."""
        if self._seen:
            self._seen = False
            assert callable(self._old)
            self._old(signal.SIGINT, None)

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            seen, self._seen = self._seen, False
            if seen:
                self._old(signal.SIGINT, None)


class Runner:
    """Drives the core of one board; `sbi` is set while the built-in firmware serves."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board, self.core, self.console = board, board.core, console
        self.sbi: Sbi | None = None
        self.ended: tuple[str, int] | None = None
        self.inputs: list[Input] = []
        self.stop_asked = False
        self.slice = 1_000_000
        self.timed = board.timed
        self.pending: deque[bytes] = deque()
        self.clock_origin: tuple[float, int] | None = None
        if board.uart is not None:
            board.uart.regs.set_notify(board.core.notify())

    # -- from devices and other threads
    def on_exit(self, kind: str, code: int) -> None:
        """End the guest behind the current instruction."""
        if self.ended is None:
            self.ended = (kind, code)
        self.core.request_exit()

    def on_schedule(self) -> None:
        """Have `next_event` of the devices looked at again behind the current instruction."""
        self.core.request_exit()

    def ask_stop(self) -> None:
        self.stop_asked = True
        self.core.stop()

    # -- input and output
    def accept_input(self) -> None:
        """Hand over what was typed, stamped with the present icount."""
        while self.pending:
            data = self.pending.popleft()
            self.inputs.append(Input(self.core.icount, "console", data))
            if self.board.uart is not None:
                self.board.uart.send(data)

    def collect(self) -> None:
        """Take the output that is there."""
        if self.board.uart is not None:
            data = self.board.uart.drain()
            if data:
                self.console.feed(data)

    def write_console(self, data: bytes) -> None:
        self.collect()
        self.console.feed(data)

    def read_console(self, n: int) -> bytes:
        """Return input as firmware would get it: byte by byte from the UART's receive register."""
        if self.board.uart is None:
            return b""
        port, data = Mmio(self.board.uart), bytearray()
        while len(data) < n and port.read(UART_LSR, 1) & 1:
            data.append(port.read(0, 1))
        return bytes(data)

    # -- the loop
    def run(self, *, until: Condition | None, limit: int | None, seconds: float | None, machine: Any,
            cancelled: Callable[[], bool] | None = None) -> Stop:
        """Run to a stop. `limit` is an icount; `cancelled` tells of a stop asked for before the run began."""
        deadline = None if seconds is None else time.monotonic() + seconds
        wait = Waiting(until, self, machine)
        self.stop_asked = cancelled is not None and cancelled()
        with Interrupts(self.core.stop) as interrupts, wait:
            self.accept_input()
            self.collect()
            self.console.restart()
            while True:
                interrupts.check()
                stop = wait.check()
                if stop is None:
                    stop = self._ready(limit, deadline)
                if stop is not None:
                    return stop
                stop = self._slice(limit, wait)
                if stop is not None:
                    return stop

    def _ready(self, limit: int | None, deadline: float | None) -> Stop | None:
        if self.ended is not None:
            kind, code = self.ended
            return self.stopped(StopReason.EXIT, kind=kind, exit_code=code)
        if self.stop_asked:
            return self.stopped(StopReason.STOPPED)
        if limit is not None and self.core.icount >= limit:
            return self.stopped(StopReason.INSTRUCTIONS)
        if deadline is not None and time.monotonic() >= deadline:
            return self.stopped(StopReason.TIMEOUT)
        return None

    def _slice(self, limit: int | None, wait: Waiting) -> Stop | None:
        """Run the core once, up to the next moment at which something is to be looked at."""
        core = self.core
        self.accept_input()
        event = self._due()
        begin = core.icount
        target = begin + self.slice
        for other in (limit, event, wait.next_poll(begin)):
            if other is not None and other < target:
                target = other
        started = time.perf_counter()
        try:
            status = core.run(target)
        finally:
            self.collect()
        taken = time.perf_counter() - started
        self._adapt(core.icount - begin, taken)
        return self._after(status, limit, event)

    def _adapt(self, ran: int, taken: float) -> None:
        if taken > 2 * SLICE_SECONDS:
            self.slice = max(int(self.slice * SLICE_SECONDS / taken), SLICE_MIN)
        elif taken < SLICE_SECONDS / 2 and ran >= self.slice:
            self.slice = min(2 * self.slice, SLICE_MAX)

    def _due(self) -> int | None:
        """Let devices act on events that are due, and return the icount of the next one."""
        core, nearest = self.core, None
        for device in self.timed:
            ticks = device.next_event
            if ticks is not None and ticks <= core.time:
                device.on_event()
                ticks = device.next_event
            if ticks is not None:
                when = (core.icount // core.ratio + max(ticks - core.time, 1)) * core.ratio
                nearest = when if nearest is None else min(nearest, when)
        return nearest

    def _after(self, status: str, limit: int | None, event: int | None) -> Stop | None:
        if status in ("limit", "slice", "notify", "exit", "request"):
            return None
        if status == "sbi":
            assert self.sbi is not None
            self.sbi.handle(self.core.current)
            return None
        if status == "idle":
            if event is not None and (limit is None or event <= limit):
                self.core.idle_until(event)
                return None
            if event is not None and limit is not None:
                self.core.idle_until(limit)
                return None
            return None if self.pending else self.stopped(StopReason.IDLE)
        if status == "memory":
            return self.stopped(StopReason.MEMORY, address=self.core.stop_addr)
        if status == "trap_loop":
            return self.stopped(StopReason.TRAP_LOOP, trap=self.last_trap())
        if status == "firmware":
            return self.stopped(StopReason.FIRMWARE, trap=self.last_trap())
        raise RuntimeError(f"the core stopped with {status!r}, which the run loop does not know")

    # -- records
    def stopped(self, reason: StopReason, **more: Any) -> Stop:
        core = self.core
        return Stop(reason=reason, pc=core.hart(core.current).pc, icount=core.icount, hart=core.current, **more)

    def last_trap(self) -> Trap:
        """Read the trap that was just delivered from the CSRs of the hart that took it."""
        core = self.core
        hart = core.hart(core.current)
        level = hart.priv
        if self.sbi is not None and level < 3 and hart.csr_read(0x141) != hart.pc and level == 0:
            level = 3
        if level == 1:
            cause, tval, pc, before = hart.csr_read(0x142), hart.csr_read(0x143), hart.csr_read(0x141), \
                hart.csr_read(0x100) >> 8 & 1
        else:
            cause, tval, pc, before = hart.csr_read(0x342), hart.csr_read(0x343), hart.csr_read(0x341), \
                hart.csr_read(0x300) >> 11 & 3
        return Trap(cause=cause, tval=tval, pc=pc, priv_from=PRIVS.get(before, "U"), priv_to=PRIVS[hart.priv],
                    icount=core.icount)


class Waiting:
    """The conditions of one run, armed in the core and the UART while it lasts."""

    def __init__(self, until: Condition | None, runner: Runner, machine: Any) -> None:
        self.runner, self.machine = runner, machine
        parts = until.parts if until is not None else ()
        self.matchers = {Matcher(part.pattern): part for part in parts if isinstance(part, ConsoleCondition)}
        self.places = [part for part in parts if isinstance(part, At)]
        self.traps = [part for part in parts if isinstance(part, OnTrap)]
        self.tests = [part for part in parts if isinstance(part, When)]

    def __enter__(self) -> Waiting:
        uart = self.runner.board.uart
        if uart is not None:
            last = {matcher.last for matcher in self.matchers}
            uart.regs.interesting = ANY_BYTE if None in last else bytes(sorted(b for b in last if b is not None))
        return self

    def __exit__(self, *_: object) -> None:
        uart = self.runner.board.uart
        if uart is not None:
            uart.regs.interesting = b""

    def next_poll(self, icount: int) -> int | None:
        if not self.tests:
            return None
        return min((icount // test.every + 1) * test.every for test in self.tests)

    def check(self) -> Stop | None:
        """Return the stop when a condition is met now."""
        runner = self.runner
        if self.matchers:
            found = runner.console.match(self.matchers)
            if found is not None:
                matcher, text = found
                return runner.stopped(StopReason.UNTIL, match=text, condition=str(self.matchers[matcher]))
        for test in self.tests:
            if runner.core.icount % test.every == 0 and self.machine._ask(test.test):
                return runner.stopped(StopReason.UNTIL, condition=str(test))
        return None
