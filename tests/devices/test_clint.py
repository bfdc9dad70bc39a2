"""The CLINT's registers (SiFive FU540 manual, chapter 9)."""

from __future__ import annotations

import pytest

from pyvirt.devices.base import BusFault, Wiring
from pyvirt.devices.clint import Clint
from pyvirt.errors import ConfigError, DeviceError
from tests.devices.fakes import Bench


def test_msip_drives_its_hart() -> None:
    bench = Bench(Clint(harts=3))
    bench.write(4, 0xFFFF_FFFF)
    assert bench.levels == [False, True, False]
    assert (bench.read(0), bench.read(4), bench.read(0, 8)) == (0, 1, 1 << 32)
    bench.write(0, 1, 8)
    assert bench.levels == [True, False, False]


def test_mtime_and_mtimecmp_by_halves_and_whole() -> None:
    bench = Bench(Clint(harts=2))
    bench.write(0x4008, 0x1122_3344_5566_7788, 8)
    assert bench.clock.timers == {1: 0x1122_3344_5566_7788}
    bench.write(0x400C, 0xAABB_CCDD)
    assert bench.read(0x4008, 8) == 0xAABB_CCDD_5566_7788
    assert bench.read(0x400C) == 0xAABB_CCDD
    bench.write(0x4008, 1)
    assert bench.read(0x4008, 8) == 0xAABB_CCDD_0000_0001
    bench.clock.now = 0x1_0000_0002
    assert (bench.read(0xBFF8), bench.read(0xBFFC), bench.read(0xBFF8, 8)) == (2, 1, 0x1_0000_0002)
    bench.write(0xBFFC, 5)
    assert bench.clock.now == 0x5_0000_0002


@pytest.mark.parametrize(
    ("offset", "width"),
    [
        (8, 4),
        (0x3FFC, 4),
        (0x4010, 8),
        (0xBFF4, 4),
        (0xC000, 4),
        (0xFFF8, 8),
        (0x1_0000, 4),
        (2**64 - 4, 4),
        (0, 1),
        (0, 2),
        (2, 4),
        (4, 8),
        (0x4004, 8),
        (0, 3),
    ],
)
def test_what_is_no_register_faults(offset: int, width: int) -> None:
    bench = Bench(Clint(harts=2))
    with pytest.raises(BusFault):
        bench.read(offset, width)
    with pytest.raises(BusFault):
        bench.write(offset, 0, width)


def test_state_and_packed_restore_levels() -> None:
    bench = Bench(Clint(harts=2))
    bench.write(4, 1)
    state, packed = bench.device.state, bench.device.packed
    assert state == {"class": "clint", "version": 1, "msip": [0, 1]}
    for attribute, value in (("state", state), ("packed", packed)):
        other = Bench(Clint(harts=2))
        setattr(other.device, attribute, value)
        assert other.levels == [False, True]
        assert other.device.packed == packed
        other.device.reset()
        assert other.levels == [False, False]


def test_wrong_state_is_refused_by_name() -> None:
    clint = Clint(harts=2)
    for state, words in (
        ({"class": "plic", "version": 1, "msip": [0, 0]}, "'plic', expected 'clint'"),
        ({"class": "clint", "version": 9, "msip": [0, 0]}, "version 9, this one reads 1"),
        ({"class": "clint", "version": 1}, r"keys \[\], expected \['msip'\]"),
    ):
        with pytest.raises(ConfigError, match=words):
            clint.state = state
    with pytest.raises(ValueError, match=r"\[0, 2\], expected 2 values of 0 or 1"):
        clint.state = {"class": "clint", "version": 1, "msip": [0, 2]}
    with pytest.raises(ValueError, match="has 3 bytes, expected 72"):
        clint.packed = b"abc"
    with pytest.raises(ValueError, match="for 1 harts, expected version 1 for 2"):
        clint.packed = Clint(harts=1).packed


def test_wrong_construction_names_what_is_allowed() -> None:
    for harts in (0, 65, "two", -1):
        with pytest.raises(ConfigError, match=r"clint: harts is .*, expected 1\.\.64"):
            Clint(harts=harts)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="has 1 interrupt lines, was given 0"):
        Clint().attach(Wiring())
