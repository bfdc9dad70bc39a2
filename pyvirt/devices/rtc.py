"""Goldfish's real-time clock: nanoseconds since 1970 and one alarm, on the machine's own time.

The date at power-on is a constant of the device and never the host's, so that two runs see the same time.
"""
from __future__ import annotations

from typing import Any

from pyvirt.devices.base import BusFault, Device, FdtContext, FdtNode, Region, state_int
from pyvirt.errors import ConfigError

EPOCH_NS = 1_704_067_200_000_000_000  # 2024-01-01T00:00:00Z
NS_PER_TICK = 100
MASK64 = (1 << 64) - 1

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH = 0x00, 0x04, 0x08, 0x0C
IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = 0x10, 0x14, 0x18, 0x1C


class Rtc(Device):
    """A goldfish-rtc that shows `epoch_ns` (nanoseconds since 1970) at time 0; a guest may set it.

    The alarm fires at a register access or at `on_event`, which whoever runs the machine calls at `next_event`.

    >>> Rtc(epoch_ns=5_000_000_000).now_ns
    5000000000
    """

    NAME = "rtc"
    REGIONS = (Region("rtc", 0x1000),)
    WIDTHS = (4,)
    IRQS = 1

    def __init__(self, *, epoch_ns: int = EPOCH_NS) -> None:
        super().__init__()
        if not isinstance(epoch_ns, int) or not 0 <= epoch_ns <= MASK64:
            raise ConfigError(f"rtc: epoch_ns is {epoch_ns!r}, expected 0..2^64-1 nanoseconds since 1970")
        self._epoch_ns = epoch_ns
        self._clear()

    def _clear(self) -> None:
        self._offset_ns = self._epoch_ns
        self._time_high = self._alarm_high = self._set_high = 0
        self._alarm_ns = 0
        self._armed = self._enabled = self._pending = False

    @property
    def now_ns(self) -> int:
        """The time shown, in nanoseconds since 1970."""
        ticks = self._wiring.clock.now if self._wiring.clock is not None else 0
        return (self._offset_ns + ticks * NS_PER_TICK) & MASK64

    @property
    def next_event(self) -> int | None:
        if not self._armed:
            return None
        ticks = -((self._offset_ns - self._alarm_ns) // NS_PER_TICK)
        return max(ticks, 0)

    def on_event(self) -> None:
        if self._armed and self.now_ns >= self._alarm_ns:
            self._armed, self._pending = False, True
        self._drive()

    def _drive(self) -> None:
        for line in self._wiring.lines:
            line.set(self._pending and self._enabled)

    def read(self, offset: int, width: int) -> int:
        self.on_event()
        if offset == TIME_LOW:
            now = self.now_ns
            self._time_high = now >> 32
            return now & 0xFFFF_FFFF
        if offset == TIME_HIGH:
            return self._time_high
        if offset == ALARM_LOW:
            return self._alarm_ns & 0xFFFF_FFFF
        if offset == ALARM_HIGH:
            return self._alarm_ns >> 32
        if offset == IRQ_ENABLED:
            return int(self._enabled)
        if offset == ALARM_STATUS:
            return int(self._armed)
        if offset in (CLEAR_ALARM, CLEAR_INTERRUPT):
            return 0
        raise BusFault(f"rtc: no register at {offset:#x}")

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == TIME_HIGH:
            self._set_high = value
        elif offset == TIME_LOW:
            ticks = self._wiring.clock.now if self._wiring.clock is not None else 0
            self._offset_ns = ((self._set_high << 32 | value) - ticks * NS_PER_TICK) & MASK64
        elif offset == ALARM_HIGH:
            self._alarm_high = value
        elif offset == ALARM_LOW:
            self._alarm_ns = self._alarm_high << 32 | value
            self._armed = True
        elif offset == IRQ_ENABLED:
            self._enabled = bool(value & 1)
        elif offset == CLEAR_ALARM:
            self._armed = False
        elif offset == CLEAR_INTERRUPT:
            self._pending = False
        elif offset != ALARM_STATUS:
            raise BusFault(f"rtc: no register at {offset:#x}")
        self.on_event()
        if offset in (TIME_LOW, ALARM_LOW, CLEAR_ALARM) and self._wiring.on_schedule is not None:
            self._wiring.on_schedule()

    @property
    def bare(self) -> bool:
        return True

    def reset(self) -> None:
        self._clear()
        self._drive()

    def _save(self) -> dict[str, Any]:
        return {
            "offset_ns": self._offset_ns, "alarm_ns": self._alarm_ns, "time_high": self._time_high,
            "alarm_high": self._alarm_high, "set_high": self._set_high, "armed": self._armed,
            "enabled": self._enabled, "pending": self._pending,
        }

    def _load(self, state: dict[str, Any]) -> None:
        values = {k: state_int("rtc", state, k, high=MASK64) for k in ("offset_ns", "alarm_ns")}
        values |= {k: state_int("rtc", state, k, high=0xFFFF_FFFF) for k in ("time_high", "alarm_high", "set_high")}
        values |= {k: bool(state_int("rtc", state, k, high=1)) for k in ("armed", "enabled", "pending")}
        for key, value in values.items():
            setattr(self, "_" + key, value)
        self._drive()

    def fdt(self, ctx: FdtContext) -> list[FdtNode]:
        return [FdtNode(f"rtc@{ctx.bases[0]:x}", {
            "compatible": "google,goldfish-rtc", "reg": ctx.reg(*self.regions), **ctx.interrupts(),
        })]
