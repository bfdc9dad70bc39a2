"""Syscon, RTC, and what all devices have in common."""

from __future__ import annotations

import pytest

from pyvirt.devices.base import BusFault, Device
from pyvirt.devices.rtc import EPOCH_NS, Rtc
from pyvirt.devices.syscon import Syscon
from pyvirt.errors import ConfigError
from tests.devices.fakes import Bench


@pytest.mark.parametrize(
    ("value", "exits"),
    [
        (0x5555, [("poweroff", 0)]),
        (0x7777, [("reboot", 0)]),
        (0x0001_3333, [("fail", 1)]),
        (0x3333, [("fail", 0)]),
        (0x1234, []),
        (0, []),
    ],
)
def test_syscon_ends_the_machine(value: int, exits: list[tuple[str, int]]) -> None:
    bench = Bench(Syscon())
    bench.write(0, value)
    assert bench.exits == exits
    assert bench.read(0) == 0


def test_syscon_takes_opensbis_half_word_and_no_byte() -> None:
    bench = Bench(Syscon())
    bench.write(0, 0x5555, 2)
    assert bench.exits == [("poweroff", 0)]
    for offset, width in ((0, 1), (4, 4), (0xFFC, 4)):
        with pytest.raises(BusFault):
            bench.write(offset, 0x5555, width)
        with pytest.raises(BusFault):
            bench.read(offset, width)


class RtcBench(Bench):
    device: Rtc

    def __init__(self, **options: int) -> None:
        super().__init__(Rtc(**options))

    def time(self) -> int:
        low = self.read(0)
        return self.read(4) << 32 | low

    def alarm(self, ns: int) -> None:
        self.write(0x0C, ns >> 32)
        self.write(0x08, ns & 0xFFFF_FFFF)


def test_rtc_shows_epoch_plus_machine_time() -> None:
    bench = RtcBench()
    assert bench.time() == EPOCH_NS == 1704067200 * 10**9
    bench.clock.now = 10_000_000
    assert bench.time() == EPOCH_NS + 10**9
    bench.read(0)
    bench.clock.now = 1 << 60
    assert bench.read(4) == (EPOCH_NS + 10**9) >> 32  # the high half is latched by the low one


def test_rtc_can_be_set() -> None:
    bench = RtcBench()
    bench.clock.now = 5
    bench.write(4, 1)
    bench.write(0, 1000)
    assert bench.time() == (1 << 32) + 1000
    bench.clock.now = 15
    assert bench.time() == (1 << 32) + 2000


def test_rtc_alarm_fires_at_its_event() -> None:
    bench = RtcBench(epoch_ns=1000)
    bench.write(0x10, 1)
    bench.alarm(2050)
    assert (bench.read(0x18), bench.levels, bench.device.next_event) == (1, [False], 11)
    bench.clock.now = 10
    bench.device.on_event()
    assert bench.levels == [False]
    bench.clock.now = 11
    bench.device.on_event()
    assert (bench.levels, bench.read(0x18), bench.device.next_event) == ([True], 0, None)
    bench.write(0x1C, 1)
    assert bench.levels == [False]
    bench.alarm(5)  # in the past: at once
    assert bench.levels == [True]
    bench.write(0x10, 0)
    assert bench.levels == [False]
    bench.write(0x1C, 1)
    bench.alarm(10**9)
    bench.write(0x14, 1)
    assert (bench.read(0x18), bench.device.next_event) == (0, None)


def test_rtc_registers_and_state() -> None:
    bench = RtcBench()
    bench.alarm(EPOCH_NS + 12345)
    bench.write(0x10, 1)
    assert (bench.read(8), bench.read(12)) == ((EPOCH_NS + 12345) & 0xFFFF_FFFF, (EPOCH_NS + 12345) >> 32)
    other = RtcBench(epoch_ns=0)
    other.device.state = bench.device.state
    assert other.device.state == bench.device.state
    assert (other.time(), other.read(0x10), other.read(0x18)) == (EPOCH_NS, 1, 1)
    for offset, width in ((0x20, 4), (0xFFC, 4), (0, 8), (0, 1)):
        with pytest.raises(BusFault):
            bench.read(offset, width)
    with pytest.raises(BusFault):
        bench.write(0x20, 0)
    with pytest.raises(ConfigError, match=r"state\['armed'\] is 2, expected an integer in 0\.\.0x1"):
        other.device.state = {**bench.device.state, "armed": 2}
    with pytest.raises(ConfigError, match="epoch_ns is -1, expected"):
        Rtc(epoch_ns=-1)
    bench.device.reset()
    assert bench.device.state == Rtc().state


def test_a_device_of_ones_own_is_one_class() -> None:
    class Counter(Device):
        NAME = "counter"
        WIDTHS = (4,)

        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def read(self, offset: int, width: int) -> int:
            self.count += 1
            return self.count

        def _save(self) -> dict[str, int]:
            return {"count": self.count}

        def _load(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    bench = Bench(Counter())
    assert [bench.read(0), bench.read(4)] == [1, 2]
    with pytest.raises(BusFault, match="no register of width 4 at offset 0x0"):
        bench.write(0, 1)
    other = Counter()
    other.state = bench.device.state
    assert other.count == 2
    assert other.take() is None


def test_an_exception_in_a_python_device_waits_to_be_taken() -> None:
    class Broken(Device):
        def read(self, offset: int, width: int) -> int:
            raise ZeroDivisionError("mine")

    bench = Bench(Broken())
    with pytest.raises(ZeroDivisionError, match="mine"):
        bench.read(0)
    assert bench.device.take() is None
    try:
        bench.device.read(0, 4)
    except ZeroDivisionError as error:
        bench.device.mmio.pending = error
    assert isinstance(bench.device.take(), ZeroDivisionError)
