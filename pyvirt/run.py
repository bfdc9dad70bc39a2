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
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from types import FrameType
from typing import Any, Protocol

from pyvirt._bus import Mmio
from pyvirt._hart import EXTENSIONS
from pyvirt.assembly.csrnames import CSRS
from pyvirt.board import Board
from pyvirt.console import Console, Matcher
from pyvirt.errors import ConfigError
from pyvirt.explain.trace import Taps
from pyvirt.firmware.htif import Htif
from pyvirt.firmware.sbi import Sbi
from pyvirt.hart import world_name
from pyvirt.stop import INTERRUPT, U64, Access, At, Condition, Input, OnTrap, Stop, StopReason, Trap, When
from pyvirt.stop import Console as ConsoleCondition

SLICE_SECONDS = 0.01
SLICE_MIN, SLICE_MAX = 10_000, 4_000_000
UART_LSR = 5
TICKS_PER_SECOND = 10_000_000
ANY_BYTE = bytes(range(256))
KINDS = {"load": 1, "store": 2, "any": 3}   # of accesses, as the core counts them


class Inputs:
    """The inputs of one machine: the first `count` of `items`, which it shares with others until it adds one.

    A machine appends to the list that it made, so that whoever holds that and a count has its inputs until then.
    """

    __slots__ = ("_own", "count", "items")

    def __init__(self, items: Sequence[Input] = (), count: int = 0) -> None:
        self.items, self.count, self._own = items, count, False

    def append(self, new: Input) -> None:
        if not self._own:
            self.items, self._own = list(self.items[:self.count]), True
        self.items.append(new)  # type: ignore[attr-defined]
        self.count += 1

    def __iter__(self) -> Iterator[Input]:
        return iter(self.items[:self.count])


class Driver(Protocol):
    """What runs the core in the place of `core.run`: a hypervisor written in Python."""

    def drive(self, target: int, *, each_trap: bool) -> str: ...

    @property
    def state(self) -> dict[str, Any]: ...


class Interrupts:
    """Holds back Ctrl-C while Python code of the run loop works, so that it comes between two instructions."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop, self._seen = stop, False
        self._old: Callable[[int, FrameType | None], Any] | None = None

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
            assert self._old is not None
            self._old(signal.SIGINT, None)

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            seen, self._seen = self._seen, False
            if seen:
                self._old(signal.SIGINT, None)


class Runner:
    """Drives the core of one board; `sbi` and `htif` are set while a built-in firmware or a program asks for them."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board, self.core, self.console = board, board.core, console
        self.sbi: Sbi | None = None
        self.htif: Htif | None = None
        self.hypervisor: Driver | None = None
        self.ended: tuple[str, int] | None = None
        self.inputs = Inputs()
        self.typed = bytearray()  # input of a board without a UART
        self.stop_asked = False
        self.slice = 1_000_000
        self.timed = board.timed
        self.pending: deque[bytes] = deque()
        self.host_clock: HostClock | None = None
        self.deferred: deque[Callable[[], None]] = deque()
        self.taps = Taps(self.core, hyp=bool(board.isa.exts & EXTENSIONS["h"]))
        if board.uart is not None:
            board.uart.regs.set_notify(board.core.notify())

    # -- from devices and other threads
    def on_exit(self, kind: str, code: int) -> None:
        """End the guest behind the current instruction."""
        if self.ended is None:
            self.ended = (kind, code)
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
            else:
                self.typed += data

    def collect(self) -> None:
        """Take the output that is there."""
        if self.board.uart is not None:
            data = self.board.uart.drain()
            if data:
                self.console.feed(data)

    def write_console(self, data: bytes) -> None:
        """Take output of firmware or HTIF, behind what the UART already sent."""
        self.collect()
        self.console.feed(data)

    def read_console(self, n: int) -> bytes:
        """Return input as firmware would get it: byte by byte from the UART's receive register."""
        if self.board.uart is None:
            data = self.typed[:n]
            del self.typed[:n]
            return bytes(data)
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
        if cancelled is not None and cancelled():
            self.stop_asked = True
        if self.board.config.clock == "host":
            self.host_clock = HostClock(self)
        with Interrupts(self.core.stop) as interrupts, wait:
            self.accept_input()
            self.collect()
            self.console.restart()
            self.taps.call([], machine)
            stop: Stop | None = None
            try:
                while stop is None:
                    interrupts.check()
                    self._serve()
                    stop = wait.check() or self._ready(limit, deadline) or self._slice(limit, wait)
            finally:
                self._serve()
            return stop

    def defer(self, action: Callable[[], None]) -> None:
        """Do something at the next instruction boundary: a callback asked for it in the middle of an instruction."""
        self.deferred.append(action)
        self.core.request_exit()

    def _serve(self) -> None:
        while self.deferred:
            self.deferred.popleft()()

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
        if self.host_clock is not None:
            self.host_clock.sync()
        if self.htif is not None:
            self.htif.serve()
            if self.ended is not None:
                return None
        event = self._due()
        begin = core.icount
        target = begin + self.slice
        for other in (limit, event, wait.next_poll(begin)):
            if other is not None and other < target:
                target = other
        started = time.perf_counter()
        try:
            if self.hypervisor is None:
                status = core.run(target)
            else:
                status = self.hypervisor.drive(target, each_trap=bool(wait.traps or self.taps.hooks))
        except MemoryError as error:
            # A device could not store: its access is not done, and is done again when there is memory.
            return self.stopped(StopReason.MEMORY, address=getattr(error, "address", core.stop_addr))
        finally:
            self.collect()
        self._adapt(core.icount - begin, time.perf_counter() - started)
        if not self.taps.on:
            return self._after(status, limit, event, wait, None)
        records = self.taps.drain()
        caught = wait.caught(self.taps.traps(records)) if wait.traps else None
        try:
            self.taps.call(records, wait.machine)
        finally:
            # Also when a hook raises: the firmware's answer is part of what was begun.
            stop = self._after(status, limit, event, wait, caught)
        return stop

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
                device.touch()
                device.on_event()
                ticks = device.next_event
            if ticks is not None:
                when = (core.icount // core.ratio + max(ticks - core.time, 1)) * core.ratio
                nearest = when if nearest is None else min(nearest, when)
        return nearest

    def _after(self, status: str, limit: int | None, event: int | None, wait: Waiting,
               caught: Trap | None) -> Stop | None:
        if status in ("limit", "slice", "notify", "exit", "request", "trap"):
            return None if caught is None else wait.trapped(caught)
        if status == "sbi":
            return self._firmware_call(wait, caught)
        if status == "idle":
            return self._idle(limit, event, wait)
        if status == "at":
            return wait.reached()
        if status == "watch":
            return wait.accessed(self.core.stop_addr)
        if status == "memory":
            return self.stopped(StopReason.MEMORY, address=self.core.stop_addr)
        if status == "trap_loop":
            return self.stopped(StopReason.TRAP_LOOP, trap=self.last_trap())
        if status == "firmware":
            return self.stopped(StopReason.FIRMWARE, trap=self.firmware_trap())
        raise RuntimeError(f"the core stopped with {status!r}, which the run loop does not know")

    def _firmware_call(self, wait: Waiting, caught: Trap | None) -> Stop | None:
        assert self.sbi is not None
        try:
            self.sbi.handle(self.core.current)
        except MemoryError:
            return self.stopped(StopReason.MEMORY, address=self.core.stop_addr)
        return None if caught is None else wait.trapped(caught)

    def _idle(self, limit: int | None, event: int | None, wait: Waiting) -> Stop | None:
        """Let time jump to the next event of a device; with none, nothing can ever happen again."""
        if self.pending:
            return None
        if event is None:
            return self.stopped(StopReason.IDLE)
        polls = wait.next_poll(self.core.icount)
        self.core.idle_until(min(at for at in (event, limit, polls) if at is not None))
        return None

    # -- records
    def stopped(self, reason: StopReason, **more: Any) -> Stop:
        core = self.core
        return Stop(reason=reason, pc=core.hart(core.current).pc, icount=core.icount, hart=core.current, **more)

    def last_trap(self) -> Trap:
        """Read the trap that was just delivered from the CSRs of the mode that took it."""
        hart = self.core.hart(self.core.current)
        hyp = bool(self.board.isa.exts & EXTENSIONS["h"])
        prefix = "m" if hart.priv == 3 else "vs" if hart.virt else "s"
        cause, tval, pc, status = (hart.csr_read(CSRS[prefix + name]) for name in ("cause", "tval", "epc", "status"))
        priv, virt = (status >> 11 & 3, status >> 39 & 1) if hart.priv == 3 else (status >> 8 & 1, hart.virt)
        more: dict[str, Any] = {}
        if hyp and not hart.virt:
            second = {"tval2": "mtval2", "tinst": "mtinst"} if hart.priv == 3 else {"tval2": "htval", "tinst": "htinst"}
            more = {name: hart.csr_read(CSRS[csr]) for name, csr in second.items()}
            if hart.priv == 1:
                status = hart.csr_read(CSRS["hstatus"])
                virt = status >> 7 & 1
            more["gva"] = bool(status >> (38 if hart.priv == 3 else 6) & 1)
        return Trap(cause=cause, tval=tval, pc=pc, world_from=world_name(priv, virt, hyp=hyp),
                    world_to=world_name(hart.priv, hart.virt, hyp=hyp), icount=self.core.icount, **more)

    def firmware_trap(self) -> Trap:
        """Return the trap with which the built-in firmware was called: the hart still stands at it."""
        hart = self.core.hart(self.core.current)
        return Trap(cause=hart.csr_read(CSRS["mcause"]), tval=hart.csr_read(CSRS["mtval"]), pc=hart.pc,
                    world_from=world_name(hart.priv, hart.virt, hyp=bool(self.board.isa.exts & EXTENSIONS["h"])),
                    world_to="M", icount=self.core.icount)


class HostClock:
    """Lets the guest's time follow the host's while a run lasts; every change of it is logged as input."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._begin, self._ticks = time.monotonic(), runner.core.time

    def sync(self) -> None:
        """Move the guest's time up to the host's, or wait a little for the host's when idling made it run ahead."""
        core = self._runner.core
        now = self._ticks + int((time.monotonic() - self._begin) * TICKS_PER_SECOND)
        if now > core.time:
            core.time = now
            self._runner.inputs.append(Input(core.icount, "clock", now))
        elif core.time - now > TICKS_PER_SECOND // 1000:
            time.sleep(min((core.time - now) / TICKS_PER_SECOND, SLICE_SECONDS))


class Waiting:
    """The conditions of one run, armed in the core and the UART while it lasts."""

    def __init__(self, until: Condition | None, runner: Runner, machine: Any) -> None:
        self.runner, self.machine = runner, machine
        parts = until.parts if until is not None else ()
        self.matchers = {Matcher(part.pattern): part for part in parts if isinstance(part, ConsoleCondition)}
        self.places = {self._address(part.where): part for part in parts if isinstance(part, At)}
        self.traps = [part for part in parts if isinstance(part, OnTrap)]
        self.accesses = [self._in_ram(part) for part in parts if isinstance(part, Access)]
        self.tests = [part for part in parts if isinstance(part, When)]

    def _in_ram(self, part: Access) -> Access:
        ram = self.runner.core.ram
        if not ram.base <= part.pa or part.pa + part.size > ram.base + ram.size:
            raise ConfigError(f"access: {part.pa:#x}...{part.pa + part.size:#x} is not RAM; allowed: "
                              f"{ram.base:#x}...{ram.base + ram.size:#x}")
        return part

    def _address(self, where: int | str) -> int:
        if isinstance(where, int):
            return where
        symbols = self.machine.symbols
        if where not in symbols:
            close = get_close_matches(where, symbols, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; {len(symbols)} symbols were loaded"
            raise ConfigError(f"at: symbol {where!r} is not known{hint}")
        return int(symbols[where])

    def __enter__(self) -> Waiting:
        core, uart = self.runner.core, self.runner.board.uart
        if uart is not None:
            last = {matcher.last for matcher in self.matchers}
            uart.regs.interesting = ANY_BYTE if None in last else bytes(sorted(b for b in last if b is not None))
        if self.places:
            core.stop_at(list(self.places))
        if self.accesses:
            core.stop_on_access([(part.pa, part.size, KINDS[part.kind]) for part in self.accesses])
        if self.traps:
            masks = [0, 0]
            for part in self.traps:
                if part.cause is None:
                    masks[0] = U64
                else:
                    masks[part.cause >> 63] |= 1 << (part.cause & 63)
            self.runner.taps.wait_for((masks[0], masks[1]))
        return self

    def __exit__(self, *_: object) -> None:
        core, uart = self.runner.core, self.runner.board.uart
        if uart is not None:
            uart.regs.interesting = b""
        if self.places:
            core.stop_at([])
        if self.accesses:
            core.stop_on_access([])
        if self.traps:
            self.runner.taps.wait_for((0, 0))

    def next_poll(self, icount: int) -> int | None:
        """Return the next icount at which a callable is to be asked."""
        if not self.tests:
            return None
        return min((icount // test.every + 1) * test.every for test in self.tests)

    def check(self) -> Stop | None:
        """Return the stop when text or a callable is met now."""
        runner = self.runner
        if self.matchers:
            found = runner.console.match(self.matchers)
            if found is not None:
                matcher, text = found
                return runner.stopped(StopReason.UNTIL, match=text, condition=str(self.matchers[matcher]))
        for test in self.tests:
            if runner.core.icount % test.every == 0 and self.machine._ask(test.test, at_boundary=True):
                return runner.stopped(StopReason.UNTIL, condition=str(test))
        return None

    def reached(self) -> Stop | None:
        """Return the stop of a hart that stands at an address asked for."""
        place = self.places.get(self.runner.core.hart(self.runner.core.current).pc)
        return None if place is None else self.runner.stopped(StopReason.UNTIL, condition=str(place))

    def accessed(self, pa: int) -> Stop:
        """Return the stop of an access that was asked for, which began at `pa`."""
        part = next((part for part in self.accesses if part.touches(pa)), self.accesses[0])
        return self.runner.stopped(StopReason.UNTIL, condition=str(part), address=pa)

    def caught(self, traps: list[Trap]) -> Trap | None:
        """Return the first trap that was asked for."""
        return next((trap for trap in traps if any(self._is(part, trap) for part in self.traps)), None)

    @staticmethod
    def _is(part: OnTrap, trap: Trap) -> bool:
        return part.cause == trap.cause or (part.cause is None and not trap.cause & INTERRUPT)

    def trapped(self, trap: Trap) -> Stop:
        """Return the stop of a trap that was asked for."""
        part = next(part for part in self.traps if self._is(part, trap))
        return self.runner.stopped(StopReason.UNTIL, condition=str(part), trap=trap)
