"""The built-in firmware: the SBI that a supervisor calls when no M-mode image is loaded.

An ecall from S-mode ends the core's run with stop "sbi"; `Sbi.handle` answers it and the machine goes on. Owns the
M-mode state that firmware would set up, and keeps none of its own: everything is in the harts. What a guest gives is
checked, addresses above all. Source: RISC-V SBI specification 2.0; numbers in brackets are its chapters.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvirt._hart import EXTENSIONS
from pyvirt.assembly.csrnames import CSRS

if TYPE_CHECKING:
    from pyvirt._hart import Core
    from pyvirt._view import Hart

SUCCESS, FAILED, NOT_SUPPORTED, INVALID_PARAM, DENIED = 0, -1, -2, -3, -4
INVALID_ADDRESS, ALREADY_AVAILABLE, ALREADY_STARTED, ALREADY_STOPPED = -5, -6, -7, -8

BASE, TIME, IPI, RFENCE = 0x10, 0x54494D45, 0x735049, 0x52464E43
HSM, SRST, DBCN, PMU = 0x48534D, 0x53525354, 0x4442434E, 0x504D55
LEGACY_SET_TIMER, LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN = 0, 1, 2, 8

SPEC_VERSION = 2 << 24
IMPL_ID, IMPL_VERSION = 0x7079, 1  # not registered; "py"
MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1

# What OpenSBI leaves an S-mode payload with: all but the payload's own ecall is delegated.
MEDELEG = 0xF0B5FF
MIDELEG = 0x222
MENVCFG = 1 << 63 | 1 << 62 | 0xF0
PMP_ALL = (1 << 54) - 1

STARTED, STOPPED, SUSPENDED = 0, 1, 4
RETENTIVE, NON_RETENTIVE = 0, 0x8000_0000
DBCN_MAX = 1 << 16

# PMU [11]: counters 0 and 2 are mcycle and minstret, 1 is time, which is no counter of this extension.
COUNTERS = {0: "mcycle", 2: "minstret"}
COUNTER_OF_EVENT = {0x00001: 0, 0x00002: 2}  # hardware general events: CPU cycles, instructions
SKIP_MATCH, CLEAR_VALUE, AUTO_START = 1, 2, 4

Answer = tuple[int, int]


def prepare(hart: Hart) -> None:
    """Set up a hart's M-mode state as firmware does for a supervisor: delegation, counters, extensions, memory."""
    for name, value in (("medeleg", MEDELEG), ("mideleg", MIDELEG), ("mcounteren", MASK32), ("menvcfg", MENVCFG),
                        ("pmpaddr0", PMP_ALL), ("pmpcfg0", 0x1F)):
        hart.csr_write(CSRS[name], value)
    if hart.core.exts & EXTENSIONS["smstateen"]:
        for n in range(4):
            hart.csr_write(CSRS[f"mstateen{n}"], MASK64)


class Sbi:
    """Answers SBI calls for one core.

    `console_write(data)` takes what the guest prints through DBCN, `console_read(n)` gives pending input, and
    `on_exit(kind, code)` ends the machine (kinds as in `devices.base.Wiring`).
    """

    def __init__(self, core: Core, *, console_write: Callable[[bytes], None], console_read: Callable[[int], bytes],
                 on_exit: Callable[[str, int], None]) -> None:
        self.core = core
        self._console_write, self._console_read, self._on_exit = console_write, console_read, on_exit
        self._extensions: dict[int, Callable[[Hart, int, list[int]], Answer]] = {
            BASE: self._base, TIME: self._time, IPI: self._ipi, RFENCE: self._rfence, HSM: self._hsm, SRST: self._srst,
            DBCN: self._dbcn, PMU: self._pmu,
        }

    def start(self, *, entry: int, dtb: int) -> None:
        """Put hart 0 at `entry` in S-mode with a1 = `dtb`; the others wait for hart_start."""
        for i in range(self.core.harts):
            hart = self.core.hart(i)
            prepare(hart)
            hart.hsm = STOPPED
        self._enter(self.core.hart(0), entry, dtb)

    def _enter(self, hart: Hart, entry: int, opaque: int) -> None:
        """Put a hart at a supervisor's entry [9, "Hart start"]: no translation, no interrupts, a0 and a1 set."""
        hart.csr_write(CSRS["satp"], 0)
        hart.csr_write(CSRS["sstatus"], hart.csr_read(CSRS["sstatus"]) & ~2)
        hart.priv = 1
        hart.pc = entry
        hart.set_x(10, hart.id)
        hart.set_x(11, opaque)
        hart.waiting = False
        hart.hsm = STARTED

    def handle(self, index: int) -> None:
        """Answer the ecall that hart `index` stopped at. MemoryError leaves the hart there, to ask again."""
        hart = self.core.hart(index)
        extension, function = hart.x(17) & MASK32, hart.x(16) & MASK32
        args = [hart.x(10 + i) for i in range(6)]
        resume = hart.pc + 4
        if extension in (LEGACY_SET_TIMER, LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN):
            hart.set_x(10, self._legacy(hart, extension, args) & MASK64)
            hart.pc = resume & MASK64
            return
        if extension == HSM and function == 3:
            self._suspend(hart, args, resume)
            return
        serve = self._extensions.get(extension)
        error, value = serve(hart, function, args) if serve else (NOT_SUPPORTED, 0)
        hart.set_x(10, error & MASK64)
        hart.set_x(11, value & MASK64)
        hart.pc = resume & MASK64

    def _in_ram(self, address: int, size: int) -> bool:
        ram = self.core.ram
        return ram.base <= address and address + size <= ram.base + ram.size

    def _legacy(self, hart: Hart, extension: int, args: list[int]) -> int:
        if extension == LEGACY_SET_TIMER:
            hart.set_sbi_timer(args[0])
        elif extension == LEGACY_PUTCHAR:
            self._console_write(bytes([args[0] & 0xFF]))
        elif extension == LEGACY_GETCHAR:
            data = self._console_read(1)
            return data[0] if data else -1
        else:
            self._on_exit("poweroff", 0)
        return 0

    # -- Base [4]
    def _base(self, hart: Hart, function: int, args: list[int]) -> Answer:
        if function == 3:
            legacy = args[0] in (LEGACY_SET_TIMER, LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN)
            return SUCCESS, int(legacy or args[0] in self._extensions)
        ids = {4: "mvendorid", 5: "marchid", 6: "mimpid"}
        if function in ids:
            return SUCCESS, hart.csr_read(CSRS[ids[function]])
        values = {0: SPEC_VERSION, 1: IMPL_ID, 2: IMPL_VERSION}
        return (SUCCESS, values[function]) if function in values else (NOT_SUPPORTED, 0)

    # -- TIME [6]
    def _time(self, hart: Hart, function: int, args: list[int]) -> Answer:
        if function != 0:
            return NOT_SUPPORTED, 0
        hart.set_sbi_timer(args[0])
        return SUCCESS, 0

    # -- IPI [7] and RFENCE [8]
    def _targets(self, mask: int, base: int) -> list[Hart] | None:
        """Return the harts of a mask; None when it names one that is not there."""
        if base == MASK64:
            return [self.core.hart(i) for i in range(self.core.harts)]
        ids = [base + i for i in range(64) if mask >> i & 1]
        return [self.core.hart(i) for i in ids] if all(i < self.core.harts for i in ids) else None

    def _ipi(self, hart: Hart, function: int, args: list[int]) -> Answer:
        if function != 0:
            return NOT_SUPPORTED, 0
        targets = self._targets(args[0], args[1])
        if targets is None:
            return INVALID_PARAM, 0
        for target in targets:
            target.set_soft_pending(True)
        return SUCCESS, 0

    def _rfence(self, hart: Hart, function: int, args: list[int]) -> Answer:
        # Translation behaves as if every access walked, and new code is visible at once: no hart has anything to flush.
        # Functions 3 to 6 are the hypervisor's fences.
        if function > (6 if hart.has_h else 2):
            return NOT_SUPPORTED, 0
        targets = self._targets(args[0], args[1])
        if targets is None:
            return INVALID_PARAM, 0
        for target in targets:
            target.fenced()
        return SUCCESS, 0

    # -- HSM [9]
    def _hsm(self, hart: Hart, function: int, args: list[int]) -> Answer:
        if function == 0:
            if args[0] >= self.core.harts:
                return INVALID_PARAM, 0
            if args[1] & 1 or not self._in_ram(args[1], 2):
                return INVALID_ADDRESS, 0
            target = self.core.hart(args[0])
            if target.hsm != STOPPED:
                return ALREADY_AVAILABLE, 0
            self._enter(target, args[1], args[2])
            return SUCCESS, 0
        if function == 1:
            hart.hsm = STOPPED
            return SUCCESS, 0
        if function == 2:
            return (SUCCESS, self.core.hart(args[0]).hsm) if args[0] < self.core.harts else (INVALID_PARAM, 0)
        return NOT_SUPPORTED, 0

    def _suspend(self, hart: Hart, args: list[int], resume: int) -> None:
        """Suspend the calling hart until an interrupt that it enables is pending; the core wakes it as it ends WFI."""
        kind, address, opaque = args[0] & MASK32, args[1], args[2]
        error = SUCCESS
        if kind not in (RETENTIVE, NON_RETENTIVE):
            platform = 0x1000_0000 <= kind < 0x8000_0000 or kind >= 0x9000_0000
            error = NOT_SUPPORTED if platform else INVALID_PARAM
        elif kind == NON_RETENTIVE and (address & 1 or not self._in_ram(address, 2)):
            error = INVALID_ADDRESS
        if error or kind == RETENTIVE:
            hart.set_x(10, error & MASK64)
            hart.set_x(11, 0)
            hart.pc = resume & MASK64
        else:
            self._enter(hart, address, opaque)
        if not error:
            hart.hsm = SUSPENDED
            hart.waiting = True

    # -- SRST [10]
    def _srst(self, hart: Hart, function: int, args: list[int]) -> Answer:
        if function != 0:
            return NOT_SUPPORTED, 0
        kind, reason = args[0] & MASK32, args[1] & MASK32
        if kind > 2 or reason > 1:
            return NOT_SUPPORTED if kind >= 0xF000_0000 else INVALID_PARAM, 0
        self._on_exit("poweroff" if kind == 0 else "reboot", int(reason != 0))
        return SUCCESS, 0

    # -- DBCN [12]
    def _dbcn(self, hart: Hart, function: int, args: list[int]) -> Answer:
        if function == 2:
            self._console_write(bytes([args[0] & 0xFF]))
            return SUCCESS, 0
        if function > 2:
            return NOT_SUPPORTED, 0
        size, address = args[0], args[1] | args[2] << 64
        if not self._in_ram(address, size):
            return INVALID_PARAM, 0
        size = min(size, DBCN_MAX)  # the caller asks again for the rest
        if function == 0:
            self._console_write(self.core.mem_read(address, size))
            return SUCCESS, size
        if size:
            # Whether there is memory shows before input is taken, which could not be given back.
            size = min(size, 4096)
            self.core.mem_write(address, self.core.mem_read(address, size))
        data = self._console_read(size)
        self.core.mem_write(address, data)
        return SUCCESS, len(data)

    # -- PMU [11]
    def _pmu(self, hart: Hart, function: int, args: list[int]) -> Answer:
        if function == 0:
            return SUCCESS, max(COUNTERS) + 1
        if function == 1:
            if args[0] not in COUNTERS:
                return INVALID_PARAM, 0
            return SUCCESS, 0xC00 + args[0] | 63 << 12  # its CSR; 64 bits wide, less one; a hardware counter
        if function == 2:
            return self._pmu_match(hart, args)
        if function in (3, 4):
            return self._pmu_switch(hart, args, start=function == 3)
        if function in (5, 6):
            return INVALID_PARAM, 0  # there are no firmware counters
        return NOT_SUPPORTED, 0

    def _pmu_match(self, hart: Hart, args: list[int]) -> Answer:
        """Find a counter among those of (base, mask) for an event."""
        base, mask, flags, event = args[:4]
        among = [base + i for i in range(64) if mask >> i & 1]
        if not among or any(index > max(COUNTERS) for index in among):
            return INVALID_PARAM, 0
        if flags & SKIP_MATCH:
            index: int | None = among[0] if among[0] in COUNTERS else None
        else:
            index = COUNTER_OF_EVENT.get(event & 0xF_FFFF)
        if index is None or index not in among:
            return NOT_SUPPORTED, 0
        if flags & CLEAR_VALUE:
            hart.csr_write(CSRS[COUNTERS[index]], 0)
        inhibit = hart.csr_read(CSRS["mcountinhibit"])
        hart.csr_write(CSRS["mcountinhibit"], inhibit & ~(1 << index) if flags & AUTO_START else inhibit | 1 << index)
        return SUCCESS, index

    def _pmu_switch(self, hart: Hart, args: list[int], *, start: bool) -> Answer:
        """Start or stop counters of (base, mask), all of them or, with an error, those before the one that is wrong."""
        base, mask, flags, value = args[:4]
        chosen = [base + i for i in range(64) if mask >> i & 1]
        if not chosen or any(index not in COUNTERS for index in chosen):
            return INVALID_PARAM, 0
        error = SUCCESS
        for index in chosen:
            inhibit = hart.csr_read(CSRS["mcountinhibit"])
            running = not inhibit >> index & 1
            if running == start:
                error = ALREADY_STARTED if start else ALREADY_STOPPED
                continue
            if start and flags & 1:
                hart.csr_write(CSRS[COUNTERS[index]], value)
            hart.csr_write(CSRS["mcountinhibit"], inhibit ^ 1 << index)
        return error, 0
