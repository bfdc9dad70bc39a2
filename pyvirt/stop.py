"""Records of a run: what entered (Input), why it came back (Stop, StopReason, Trap), the conditions of `until=`.

Conditions are plain values, combined with `|`; the run loop interprets them. Nothing here knows a machine.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, SupportsIndex

from pyvirt.errors import ConfigError

U64 = (1 << 64) - 1


class Input(NamedTuple):
    """What entered the machine from outside: `kind` is "console" (bytes), "clock" (ticks) or "entropy" (bytes)."""

    icount: int
    kind: str
    data: Any


class StopReason(StrEnum):
    """Why a run ended."""

    UNTIL = "until"                 # the condition is met
    INSTRUCTIONS = "instructions"   # the count given is used up
    TIMEOUT = "timeout"             # host seconds given are over
    STOPPED = "stopped"             # stop() was called
    EXIT = "exit"                   # the guest powered off, rebooted or failed; exit_code says how
    IDLE = "idle"                   # every hart waits and nothing can ever happen again
    TRAP_LOOP = "trap_loop"         # a thousand traps without an instruction retired between them
    MEMORY = "memory"               # memory_limit or the host's memory is used up; raise the limit and run on
    FIRMWARE = "firmware"           # the guest trapped to M-mode, where the built-in firmware has no answer


CAUSES = (
    "instruction address misaligned", "instruction access fault", "illegal instruction", "breakpoint",
    "load address misaligned", "load access fault", "store address misaligned", "store access fault",
    "ecall from U", "ecall from S", "ecall from VS", "ecall from M", "instruction page fault", "load page fault", "",
    "store page fault", "", "", "", "", "instruction guest-page fault", "load guest-page fault", "virtual instruction",
    "store guest-page fault",
)
INTERRUPTS = {1: "supervisor software interrupt", 2: "VS software interrupt", 3: "machine software interrupt",
              5: "supervisor timer interrupt", 6: "VS timer interrupt", 7: "machine timer interrupt",
              9: "supervisor external interrupt", 10: "VS external interrupt", 11: "machine external interrupt",
              12: "supervisor guest external interrupt"}
INTERRUPT = 1 << 63
CAUSE_NAMES = {**{name: number for number, name in enumerate(CAUSES) if name},
               **{name: number | INTERRUPT for number, name in INTERRUPTS.items()}}


def cause_name(cause: int) -> str:
    """Return the manual's name of a cause as mcause holds it."""
    if cause & INTERRUPT:
        return INTERRUPTS.get(cause & ~INTERRUPT, f"interrupt {cause & ~INTERRUPT}")
    return (CAUSES[cause] if cause < len(CAUSES) else "") or f"cause {cause}"


@dataclass(frozen=True, kw_only=True)
class Trap:
    """A trap as delivered: `cause` as in mcause, `pc` where it happened, `world_from` and `world_to` as `hart.world`.

    `tval2`, `tinst` and `gva` (whether tval is a guest virtual address) belong to the hypervisor extension. `hgatp`
    says which guest a trap came from, 0 for none.
    """

    cause: int
    tval: int
    pc: int
    world_from: str
    world_to: str
    icount: int
    tval2: int = 0
    tinst: int = 0
    gva: bool = False
    hart: int = 0
    hgatp: int = 0

    @property
    def name(self) -> str:
        """The cause's name in the manual."""
        return cause_name(self.cause)

    @property
    def level(self) -> int:
        """The level that trapped, as far as the hart knows: 2 from VS and VU, else 1."""
        return 2 if self.world_from in ("VS", "VU") else 1

    def __str__(self) -> str:
        return (f"{cause_name(self.cause)} (cause {self.cause:#x}) at pc {self.pc:#x}, tval {self.tval:#x}, "
                f"from {self.world_from} to {self.world_to}")


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where and why a run ended. `icount` is the machine's position, `hart` the one whose turn it was.

    `exit_code` and `kind` ("poweroff", "reboot", "fail", "htif") belong to EXIT; `match` is the console text that met
    `until`, `condition` says which part of it was met; `trap` belongs to TRAP_LOOP, FIRMWARE and trap conditions;
    `address` to MEMORY and to accesses that were waited for.
    """

    reason: StopReason
    pc: int
    icount: int
    hart: int = 0
    exit_code: int | None = None
    kind: str | None = None
    match: str | None = None
    condition: str | None = None
    trap: Trap | None = None
    address: int | None = None

    def __repr__(self) -> str:
        parts = [f"reason={self.reason.name}", f"pc={self.pc:#x}", f"icount={self.icount}"]
        for name in ("exit_code", "kind", "match", "condition"):
            if (value := getattr(self, name)) is not None:
                parts.append(f"{name}={value!r}")
        if self.hart:
            parts.append(f"hart={self.hart}")
        if self.address is not None:
            parts.append(f"address={self.address:#x}")
        if self.trap is not None:
            parts.append(f"trap=<{self.trap}>")
        return f"Stop({', '.join(parts)})"

    def __str__(self) -> str:
        """Say it in a sentence's middle: "the guest ended (poweroff, exit code 0)"."""
        words = {
            StopReason.UNTIL: f"{self.condition} was met",
            StopReason.INSTRUCTIONS: "the count of instructions was used up",
            StopReason.TIMEOUT: "the timeout was over",
            StopReason.STOPPED: "stop() was called",
            StopReason.EXIT: f"the guest ended ({self.kind}, exit code {self.exit_code})",
            StopReason.IDLE: "every hart waits and nothing can ever happen again",
            StopReason.TRAP_LOOP: f"the guest loops in traps: {self.trap}",
            StopReason.MEMORY: f"memory was used up at {self.address or 0:#x}: raise memory_limit to go on",
            StopReason.FIRMWARE: f"the built-in firmware has no answer to {self.trap}",
        }
        return f"{words[self.reason]} at pc {self.pc:#x}, icount {self.icount}"


class Condition:
    """Something a run waits for; `a | b` waits for either."""

    @property
    def parts(self) -> tuple[Condition, ...]:
        return (self,)

    def __or__(self, other: object) -> Condition:
        return AnyOf(self.parts + condition(other).parts)

    def __ror__(self, other: object) -> Condition:
        return condition(other) | self


@dataclass(frozen=True)
class AnyOf(Condition):
    """Several conditions of which one is enough."""

    several: tuple[Condition, ...]

    @property
    def parts(self) -> tuple[Condition, ...]:
        return self.several

    def __str__(self) -> str:
        return " or ".join(map(str, self.several))


@dataclass(frozen=True)
class Console(Condition):
    """Text on the console, after the last match: a literal string or a compiled regular expression."""

    pattern: str | re.Pattern[str]

    def __str__(self) -> str:
        if isinstance(self.pattern, str):
            return f"console text {self.pattern!r}"
        return f"console text matching {self.pattern.pattern!r}"


@dataclass(frozen=True)
class At(Condition):
    """The next instruction of a hart is at an address; not counting where the run begins."""

    where: int | str

    def __str__(self) -> str:
        return f"pc at {self.where if isinstance(self.where, str) else hex(self.where)}"


@dataclass(frozen=True)
class Access(Condition):
    """Memory at a physical address was loaded ("load"), stored to ("store"), or either ("any")."""

    pa: int
    size: int
    kind: str

    def touches(self, pa: int) -> bool:
        """Say whether an access of a doubleword that began at `pa` reaches it."""
        return self.pa < pa + 8 and pa < self.pa + self.size

    def __str__(self) -> str:
        return f"{'access' if self.kind == 'any' else self.kind} of {self.pa:#x}...{self.pa + self.size:#x}"


@dataclass(frozen=True)
class OnTrap(Condition):
    """A trap of a cause (as in mcause, interrupts with bit 63) was delivered; None is any exception."""

    cause: int | None

    def __str__(self) -> str:
        return "any exception" if self.cause is None else f"trap {cause_name(self.cause)}"


@dataclass(frozen=True)
class When(Condition):
    """A callable, given the machine, returns true; asked at every icount that is a multiple of `every`."""

    test: Callable[[Any], object]
    every: int

    def __str__(self) -> str:
        return f"{getattr(self.test, '__name__', repr(self.test))}() true"


WHEN_EVERY = 100_000


def at(where: SupportsIndex | str) -> Condition:
    """Wait until a hart is about to execute at a virtual address, or at a symbol of what was loaded."""
    if isinstance(where, str):
        return At(where)
    if isinstance(where, bool) or not isinstance(where, SupportsIndex):
        raise ConfigError(f"at: {where!r} is not allowed; allowed: an address or the name of a symbol")
    address = where.__index__()
    if not -(1 << 63) <= address <= U64:
        raise ConfigError(f"at: {address:#x} is not allowed; allowed: -2^63 to 2^64-1")
    if address & 1:
        raise ConfigError(f"at: {address:#x} is not allowed; allowed: even addresses")
    return At(address & U64)


ACCESS_KINDS = ("store", "load", "any")


def access(pa: SupportsIndex, size: int = 8, kind: str = "store") -> Condition:
    """Wait until RAM at a physical address is stored to, loaded ("load"), or either ("any"); `Stop.address` says where.

    The run ends behind the instruction, also where a device did it. `hart.translate(va)` gives physical addresses.
    """
    if isinstance(pa, bool) or not isinstance(pa, SupportsIndex):
        raise ConfigError(f"access: {pa!r} is not allowed; allowed: a physical address")
    address = pa.__index__()
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1 << 20:
        raise ConfigError(f"access: size is {size!r}; allowed: 1...{1 << 20:#x} bytes")
    if not 0 <= address <= (1 << 56) - size:
        raise ConfigError(f"access: {address:#x} is not allowed; allowed: 0...{(1 << 56) - size:#x}")
    if kind not in ACCESS_KINDS:
        raise ConfigError(f"access: kind is {kind!r}; allowed: {', '.join(map(repr, ACCESS_KINDS))}")
    return Access(address, size, kind)


def trap(cause: int | None = None, *, interrupt: bool = False) -> Condition:
    """Wait until a trap is delivered: an exception's number, an interrupt's with interrupt=True, or any exception."""
    if cause is None:
        if interrupt:
            raise ConfigError("trap: interrupt=True is not allowed without a cause; allowed: 0...63")
        return OnTrap(None)
    if isinstance(cause, bool) or not isinstance(cause, int):
        raise ConfigError(f"trap: cause is {cause!r}; allowed: an int in 0...63")
    number = cause & ~INTERRUPT
    if cause < 0 or number > 63:
        raise ConfigError(f"trap: cause is {cause:#x}; allowed: 0...63")
    return OnTrap(number | (INTERRUPT if interrupt or cause & INTERRUPT else 0))


def when(test: Callable[[Any], object], *, every: int = WHEN_EVERY) -> Condition:
    """Wait until `test(machine)` is true, asked whenever icount is a multiple of `every`; it may read the machine."""
    if not callable(test):
        raise ConfigError(f"when: {test!r} is not allowed; allowed: a callable that takes the machine")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ConfigError(f"when: every is {every!r}; allowed: 1 and up (instructions)")
    return When(test, every)


def condition(value: object) -> Condition:
    """Make a condition of what `until=` was given: text, a regular expression, a callable, or a condition."""
    if isinstance(value, Condition):
        return value
    if isinstance(value, str):
        if not value:
            raise ConfigError("until: '' is not allowed; allowed: text that is not empty")
        return Console(value)
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        return Console(value)
    if callable(value):
        return When(value, WHEN_EVERY)
    raise ConfigError(f"until: {value!r} is not allowed; allowed: str, a compiled regular expression of str, at(...), "
                      "access(...), trap(...), when(...), a callable, or several joined by |")
