"""One debugger's session: what each packet of GDB's remote serial protocol does to the machine.

The machine is at rest while packets are answered. Breakpoints are the run loop's own: guest memory is never changed for
one, so that software and hardware breakpoints are the same. A step executes one instruction of the hart chosen.
Source: "Debugging with GDB", appendix "GDB Remote Serial Protocol", "Packets", "Stop Reply Packets".
"""
from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvirt.errors import ClosedError, ConfigError, GuestAddressError, MachineBusy, PyvirtError
from pyvirt.gdb import monitor
from pyvirt.gdb.packets import SIZE_MAX
from pyvirt.gdb.registers import TARGET, RegisterFile
from pyvirt.hart import Hart
from pyvirt.stop import Access, Condition, Stop, StopReason, access, at

if TYPE_CHECKING:
    from pyvirt.machine import Machine

U64 = (1 << 64) - 1
OK, UNKNOWN, BAD = b"OK", b"", b"E16"       # done; no such packet; EINVAL
FAULT = b"E0e"                              # EFAULT: memory that is not there
READ_MAX = SIZE_MAX // 2 - 8
BREAKS_MAX = 1024
STEP_TRIES = 100_000                        # turns of other harts while one of several is stepped
SIGINT, SIGILL, SIGTRAP, SIGSEGV = 2, 4, 5, 11
WATCH_KINDS = {2: ("store", "watch"), 3: ("load", "rwatch"), 4: ("any", "awatch")}
SIGNALS = {StopReason.TRAP_LOOP: SIGSEGV, StopReason.FIRMWARE: SIGILL, StopReason.STOPPED: SIGINT}


class RunRaised(Exception):
    """A callback of the user's raised out of a run; `__cause__` is what it raised."""


class Session:
    """Answers packets. `stop_reply` is what the debugger is told last of why the machine stands."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.registers = RegisterFile(vm.hart)
        self.hart, self.resume_hart = vm.hart, vm.hart
        self.breaks: dict[tuple[int, int, int], Condition] = {}     # kind, address, size
        self.stop_reply = b"T05thread:1;"
        self.detached = self.killed = False
        self.physical = False
        self.cancelled: Callable[[], bool] = lambda: False  # a stop was asked for before the run began
        self._threads: list[int] = []

    # -- dispatch
    def handle(self, packet: bytes) -> bytes | None:
        """Return the answer to a packet, None for one that wants none. A mistake of the peer's is an error answer."""
        try:
            for name, handler in _NAMED:
                if packet.startswith(name):
                    return handler(self, packet[len(name):])
            handler_ = _LETTERS.get(packet[:1])
            return UNKNOWN if handler_ is None else handler_(self, packet[1:])
        except ClosedError:
            raise
        except GuestAddressError:
            return FAULT
        except (PyvirtError, AttributeError, ValueError):
            return BAD

    # -- what it can do
    def supported(self, rest: bytes) -> bytes:
        return (b"PacketSize=%x;qXfer:features:read+;swbreak+;hwbreak+;vContSupported+;QStartNoAckMode+"
                % SIZE_MAX)

    def features(self, rest: bytes) -> bytes:
        annex, _, span = rest.partition(b":")
        offset, length = (int(part, 16) for part in span.split(b","))
        if annex != TARGET.encode():
            return b"E00"
        text = self._description
        part = text[offset:offset + min(length, SIZE_MAX - 8)]
        return (b"m" if offset + len(part) < len(text) else b"l") + part

    @functools.cached_property
    def _description(self) -> bytes:
        return self.registers.describe()

    # -- threads: one for each hart, numbered from 1
    def first_threads(self, rest: bytes) -> bytes:
        self._threads = [hart.index + 1 for hart in self.vm.harts]
        return self.more_threads(rest)

    def more_threads(self, rest: bytes) -> bytes:
        if not self._threads:
            return b"l"
        listed, self._threads = self._threads, []
        return b"m" + b",".join(b"%x" % number for number in listed)

    def thread_info(self, rest: bytes) -> bytes:
        hart = self._thread(rest)
        waiting = ", waits" if hart.waiting else ""
        return f"hart {hart.index}, {hart.world}{waiting}".encode().hex().encode()

    def current_thread(self, rest: bytes) -> bytes:
        if rest:
            return UNKNOWN  # qCRC and others
        return b"QC%x" % (self.hart.index + 1)

    def alive(self, rest: bytes) -> bytes:
        self._thread(rest)
        return OK

    def choose(self, rest: bytes) -> bytes:
        hart = self._thread(rest[1:])
        if rest[:1] == b"g":
            self.hart = hart
        elif rest[:1] == b"c":
            self.resume_hart = hart
        else:
            return BAD
        return OK

    def _thread(self, text: bytes) -> Hart:
        number = int(text, 16)
        if number in (-1, 0):
            return self.hart
        if not 1 <= number <= len(self.vm.harts):
            raise ConfigError(f"gdb: thread {number} does not exist; allowed: 1...{len(self.vm.harts)}")
        return self.vm.harts[number - 1]

    # -- registers and memory
    def read_all(self, rest: bytes) -> bytes:
        values = (self.registers.read(self.hart, number) for number in self.registers.main)
        return b"".join(value.hex().encode() for value in values if value is not None)

    def write_all(self, rest: bytes) -> bytes:
        data = bytes.fromhex(rest.decode("ascii"))
        for slot, number in enumerate(self.registers.main):
            if part := data[8 * slot:8 * slot + 8]:
                self.registers.write(self.hart, number, part)
        return OK

    def read_one(self, rest: bytes) -> bytes:
        value = self.registers.read(self.hart, int(rest, 16))
        return BAD if value is None else value.hex().encode()

    def write_one(self, rest: bytes) -> bytes:
        number, _, value = rest.partition(b"=")
        data = bytes.fromhex(value.decode("ascii"))[:8]
        return OK if self.registers.write(self.hart, int(number, 16), data) else BAD

    def read_memory(self, rest: bytes) -> bytes:
        address, size = (int(part, 16) for part in rest.split(b","))
        size = min(size, READ_MAX)
        memory = self.vm.mem if self.physical else self.hart.mem
        try:
            return memory.read(address, size).hex().encode()
        except GuestAddressError:
            # Part of it may be there: up to the next page.
            inside = min(size, 4096 - address % 4096)
            return memory.read(address, inside).hex().encode()

    def write_memory(self, rest: bytes) -> bytes:
        where, _, content = rest.partition(b":")
        return self._store(where, bytes.fromhex(content.decode("ascii")))

    def write_binary(self, rest: bytes) -> bytes:
        where, _, content = rest.partition(b":")
        return self._store(where, content)

    def _store(self, where: bytes, content: bytes) -> bytes:
        address, size = (int(part, 16) for part in where.split(b","))
        if size != len(content):
            return BAD
        if content:
            (self.vm.mem if self.physical else self.hart.mem).write(address, content)
        return OK

    # -- breakpoints
    def insert(self, rest: bytes) -> bytes:
        key = self._key(rest)
        if len(self.breaks) >= BREAKS_MAX:
            return BAD
        kind, address, size = key
        if kind in (0, 1):
            self.breaks[key] = at(address)
        elif kind in WATCH_KINDS:
            pa = address if self.physical else self.hart.translate(address)
            self.breaks[key] = access(pa, size, WATCH_KINDS[kind][0])
        else:
            return UNKNOWN
        return OK

    def remove(self, rest: bytes) -> bytes:
        return OK if self.breaks.pop(self._key(rest), None) is not None else BAD

    @staticmethod
    def _key(rest: bytes) -> tuple[int, int, int]:
        found = re.match(rb"(\d+),([0-9a-fA-F]{1,16}),([0-9a-fA-F]{1,4})(?:;|$)", rest)
        if found is None:
            raise ConfigError(f"gdb: breakpoint {rest[:40]!r} is malformed")
        return int(found[1]), int(found[2], 16), int(found[3], 16)

    # -- running
    def cont(self, rest: bytes) -> bytes:
        self._go_from(rest)
        return self._resume()

    def step(self, rest: bytes) -> bytes:
        self._go_from(rest)
        return self._step(self.resume_hart)

    def _go_from(self, rest: bytes) -> None:
        if rest:
            self.resume_hart.pc = int(rest, 16)

    def actions(self, rest: bytes) -> bytes:
        if rest == b"?":
            return b"vCont;c;C;s;S"
        for action in rest.lstrip(b";").split(b";"):
            what, _, thread = action.partition(b":")
            if what[:1] in (b"s", b"S"):
                return self._step(self._thread(thread) if thread else self.resume_hart)
        return self._resume()

    def _resume(self) -> bytes:
        until = functools.reduce(operator.or_, self.breaks.values()) if self.breaks else None
        return self._stopped(self._run(until, None))

    def _run(self, until: Condition | None, count: int | None) -> Stop:
        try:
            return self.vm._run(until, count, None, False, self.cancelled)
        except (ClosedError, MachineBusy):
            raise
        except Exception as error:
            raise RunRaised from error

    def _step(self, hart: Hart) -> bytes:
        before, stop = hart.count, None
        for _ in range(STEP_TRIES):
            stop = self._run(None, 1)
            if hart.count != before or stop.reason is not StopReason.INSTRUCTIONS:
                break
        assert stop is not None
        return self._stopped(stop, hart)

    def _stopped(self, stop: Stop, hart: Hart | None = None) -> bytes:
        if stop.reason is StopReason.EXIT:
            self.stop_reply = b"W%02x" % ((stop.exit_code or 0) & 0xFF)
            return self.stop_reply
        self.hart = self.resume_hart = hart or self.vm.harts[stop.hart]
        signal = SIGNALS.get(stop.reason, SIGTRAP)
        why = b""
        if stop.address is not None and stop.reason is StopReason.UNTIL:
            why = self._watched(stop.address)
        elif stop.reason is StopReason.UNTIL:
            kinds = {kind for kind, address, _ in self.breaks if address == stop.pc}
            why = b"hwbreak:;" if 1 in kinds else b"swbreak:;"
        self.stop_reply = b"T%02xthread:%x;%s" % (signal, self.hart.index + 1, why)
        return self.stop_reply

    def _watched(self, pa: int) -> bytes:
        for (kind, address, _), test in self.breaks.items():
            if isinstance(test, Access) and test.touches(pa):
                return b"%s:%x;" % (WATCH_KINDS[kind][1].encode(), address)
        return b""

    def why(self, rest: bytes) -> bytes:
        return self.stop_reply

    # -- the end
    def detach(self, rest: bytes) -> bytes:
        self.breaks.clear()
        self.detached = True
        return OK

    def kill(self, rest: bytes) -> None:
        self.breaks.clear()
        self.killed = True

    def kill_process(self, rest: bytes) -> bytes:
        self.kill(rest)
        return OK

    def monitor(self, rest: bytes) -> bytes:
        line = bytes.fromhex(rest.decode("ascii")).decode("utf-8", "replace")
        return monitor.answer(self, line).encode().hex().encode() or OK


Handler = Callable[[Session, bytes], bytes | None]
_NAMED: tuple[tuple[bytes, Handler], ...] = (
    (b"qSupported", Session.supported), (b"qXfer:features:read:", Session.features),
    (b"qfThreadInfo", Session.first_threads), (b"qsThreadInfo", Session.more_threads),
    (b"qThreadExtraInfo,", Session.thread_info), (b"qC", Session.current_thread),
    (b"qAttached", lambda session, rest: b"1"), (b"qSymbol", lambda session, rest: OK),
    (b"qRcmd,", Session.monitor), (b"vCont", Session.actions),
    (b"vKill", Session.kill_process),
)
_LETTERS: dict[bytes, Handler] = {
    b"?": Session.why, b"H": Session.choose, b"T": Session.alive, b"g": Session.read_all, b"G": Session.write_all,
    b"p": Session.read_one, b"P": Session.write_one, b"m": Session.read_memory, b"M": Session.write_memory,
    b"X": Session.write_binary, b"Z": Session.insert, b"z": Session.remove, b"c": Session.cont, b"s": Session.step,
    b"D": Session.detach, b"k": Session.kill,
}
