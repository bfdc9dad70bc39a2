"""The built-in firmware: the SBI that a supervisor calls when no M-mode image is loaded.

An ecall from S-mode ends the core's run with stop "sbi"; `Sbi.handle` answers it and the machine goes on. Owns the M-mode
state that firmware would set up. Source: RISC-V SBI specification 2.0.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvirt._hart import Core, Hart

SUCCESS, FAILED, NOT_SUPPORTED, INVALID_PARAM = 0, -1, -2, -3
INVALID_ADDRESS, ALREADY_AVAILABLE, ALREADY_STARTED = -5, -6, -7

BASE, TIME, IPI, RFENCE = 0x10, 0x54494D45, 0x735049, 0x52464E43
HSM, SRST, DBCN = 0x48534D, 0x53525354, 0x4442434E
LEGACY_SET_TIMER, LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN = 0, 1, 2, 8

SPEC_VERSION = 2 << 24
IMPL_ID = 0x7079  # not registered; "py"
MASK64 = (1 << 64) - 1

# What OpenSBI leaves an S-mode payload with: all but the payload's own ecall is delegated.
MEDELEG = 0xB1FF
MIDELEG = 0x222
MENVCFG = (1 << 63) | (1 << 62) | 0xF0
PMP_ALL = (1 << 54) - 1
CSR_MEDELEG, CSR_MIDELEG, CSR_MCOUNTEREN, CSR_MENVCFG = 0x302, 0x303, 0x306, 0x30A
CSR_PMPCFG0, CSR_PMPADDR0, CSR_SATP, CSR_SSTATUS = 0x3A0, 0x3B0, 0x180, 0x100


class Sbi:
    """Answers SBI calls for one core.

    `console_write(data)` takes what the guest prints through DBCN, `console_read(n)` gives pending input, and
    `on_exit(kind, code)` ends the machine (kinds as in `devices.base.Wiring`).
    """

    def __init__(self, core: Core, *, console_write: Callable[[bytes], None], console_read: Callable[[int], bytes],
                 on_exit: Callable[[str, int], None]) -> None:
        self.core = core
        self._console_write, self._console_read, self._on_exit = console_write, console_read, on_exit
        self._extensions: dict[int, Callable[[Hart, int, list[int]], tuple[int, int]]] = {
            BASE: self._base, TIME: self._time, IPI: self._ipi, RFENCE: self._rfence, HSM: self._hsm, SRST: self._srst,
            DBCN: self._dbcn,
        }

    def start(self, *, entry: int, dtb: int) -> None:
        """Put hart 0 at `entry` in S-mode with a1 = `dtb`; the others wait for hart_start."""
        for i in range(self.core.harts):
            hart = self.core.hart(i)
            hart.csr_write(CSR_MEDELEG, MEDELEG)
            hart.csr_write(CSR_MIDELEG, MIDELEG)
            hart.csr_write(CSR_MCOUNTEREN, 0xFFFF_FFFF)
            hart.csr_write(CSR_MENVCFG, MENVCFG)
            hart.csr_write(CSR_PMPADDR0, PMP_ALL)
            hart.csr_write(CSR_PMPCFG0, 0x1F)
            hart.hsm = 1
        self._enter(self.core.hart(0), entry, dtb)

    def _enter(self, hart: Hart, entry: int, opaque: int) -> None:
        hart.csr_write(CSR_SATP, 0)
        hart.csr_write(CSR_SSTATUS, 0)
        hart.priv = 1
        hart.pc = entry
        hart.set_x(10, hart.id)
        hart.set_x(11, opaque)
        hart.waiting = False
        hart.hsm = 0

    def handle(self, index: int) -> None:
        """Answer the ecall that hart `index` stopped at."""
        hart = self.core.hart(index)
        extension, function = hart.x(17), hart.x(16) & 0xFFFF_FFFF
        args = [hart.x(10 + i) for i in range(6)]
        hart.pc = hart.pc + 4
        if extension in (LEGACY_SET_TIMER, LEGACY_PUTCHAR, LEGACY_GETCHAR, LEGACY_SHUTDOWN):
            hart.set_x(10, self._legacy(hart, extension, args) & MASK64)
            return
        serve = self._extensions.get(extension)
        error, value = serve(hart, function, args) if serve else (NOT_SUPPORTED, 0)
        hart.set_x(10, error & MASK64)
        hart.set_x(11, value & MASK64)

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

    def _base(self, hart: Hart, function: int, args: list[int]) -> tuple[int, int]:
        if function == 3:
            return SUCCESS, int(args[0] in self._extensions)
        values = {0: SPEC_VERSION, 1: IMPL_ID, 2: 1, 4: 0, 5: 0, 6: 0}
        return (SUCCESS, values[function]) if function in values else (NOT_SUPPORTED, 0)

    def _time(self, hart: Hart, function: int, args: list[int]) -> tuple[int, int]:
        if function != 0:
            return NOT_SUPPORTED, 0
        hart.set_sbi_timer(args[0])
        return SUCCESS, 0

    def _targets(self, mask: int, base: int) -> list[Hart] | None:
        if base == MASK64:
            return [self.core.hart(i) for i in range(self.core.harts)]
        ids = [base + i for i in range(64) if mask >> i & 1]
        return [self.core.hart(i) for i in ids] if all(i < self.core.harts for i in ids) else None

    def _ipi(self, hart: Hart, function: int, args: list[int]) -> tuple[int, int]:
        if function != 0:
            return NOT_SUPPORTED, 0
        targets = self._targets(args[0], args[1])
        if targets is None:
            return INVALID_PARAM, 0
        for target in targets:
            target.set_soft_pending(True)
        return SUCCESS, 0

    def _rfence(self, hart: Hart, function: int, args: list[int]) -> tuple[int, int]:
        # Translation behaves as if every access walked, and new code is visible at once: no hart has anything to flush.
        if function > 2:
            return NOT_SUPPORTED, 0
        return (INVALID_PARAM, 0) if self._targets(args[0], args[1]) is None else (SUCCESS, 0)

    def _hsm(self, hart: Hart, function: int, args: list[int]) -> tuple[int, int]:
        if function == 0:
            if args[0] >= self.core.harts:
                return INVALID_PARAM, 0
            target = self.core.hart(args[0])
            if target.hsm != 1:
                return ALREADY_AVAILABLE, 0
            self._enter(target, args[1], args[2])
            return SUCCESS, 0
        if function == 1:
            hart.hsm = 1
            return SUCCESS, 0
        if function == 2:
            return (SUCCESS, self.core.hart(args[0]).hsm) if args[0] < self.core.harts else (INVALID_PARAM, 0)
        if function == 3 and args[0] == 0:
            hart.waiting = True
            return SUCCESS, 0
        return NOT_SUPPORTED, 0

    def _srst(self, hart: Hart, function: int, args: list[int]) -> tuple[int, int]:
        if function != 0:
            return NOT_SUPPORTED, 0
        if args[0] > 2 or args[1] > 1:
            return INVALID_PARAM, 0
        self._on_exit("poweroff" if args[0] == 0 else "reboot", int(args[1] != 0))
        return SUCCESS, 0

    def _dbcn(self, hart: Hart, function: int, args: list[int]) -> tuple[int, int]:
        if function == 2:
            self._console_write(bytes([args[0] & 0xFF]))
            return SUCCESS, 0
        if function > 2:
            return NOT_SUPPORTED, 0
        size, address = min(args[0], 65536), args[1] | args[2] << 64
        try:
            if function == 0:
                self._console_write(self.core.mem_read(address, size))
                return SUCCESS, size
            data = self._console_read(size)
            self.core.mem_write(address, data)
            return SUCCESS, len(data)
        except (IndexError, OverflowError):
            return INVALID_PARAM, 0
