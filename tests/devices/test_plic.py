"""The PLIC (RISC-V PLIC specification 1.0)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirt.devices.base import BusFault, IrqLine
from pyvirt.devices.plic import Plic
from pyvirt.errors import ConfigError
from tests.devices.fakes import Bench

M, S = 0, 1


def claim(ctx: int) -> int:
    return 0x20_0004 + 0x1000 * ctx


class PlicBench(Bench):
    device: Plic

    def __init__(self, harts: int = 1) -> None:
        super().__init__(Plic(harts=harts))
        self.sources: dict[int, IrqLine] = {}

    def source(self, number: int, level: bool) -> None:
        self.sources.setdefault(number, self.device.source(number)).set(level)

    def enable(self, number: int, *, ctx: int = S, priority: int = 1) -> None:
        self.write(4 * number, priority)
        register = 0x2000 + 0x80 * ctx + 4 * (number // 32)
        self.write(register, self.read(register) | 1 << number % 32)


def test_claim_and_complete_of_a_level() -> None:
    bench = PlicBench()
    bench.enable(10)
    bench.source(10, True)
    assert bench.levels == [False, True]
    assert bench.read(0x1000) == 1 << 10
    assert bench.read(claim(S)) == 10
    assert bench.levels == [False, False]
    assert bench.read(0x1000) == 0
    assert bench.read(claim(S)) == 0
    bench.write(claim(S), 10)  # still high: comes again
    assert bench.levels == [False, True]
    assert bench.read(claim(S)) == 10
    bench.source(10, False)
    bench.write(claim(S), 10)
    assert bench.levels == [False, False]


def test_gateway_latches_a_request_that_falls() -> None:
    bench = PlicBench()
    bench.enable(3)
    bench.source(3, True)
    bench.source(3, False)
    assert bench.read(claim(S)) == 3
    bench.write(claim(S), 3)
    assert bench.read(claim(S)) == 0


def test_priorities_then_lowest_number_then_threshold() -> None:
    bench = PlicBench()
    for number, priority in ((5, 2), (9, 7), (40, 7), (96, 1)):
        bench.enable(number, priority=priority)
        bench.source(number, True)
    bench.write(0x20_1000, 7)
    assert bench.levels == [False, False]
    bench.write(0x20_1000, 6)
    assert bench.levels == [False, True]
    assert [bench.read(claim(S)) for _ in range(5)] == [9, 40, 5, 96, 0]


def test_priority_zero_never_interrupts() -> None:
    bench = PlicBench()
    bench.enable(7, priority=0)
    bench.source(7, True)
    assert (bench.levels, bench.read(claim(S)), bench.read(0x1000)) == ([False, False], 0, 1 << 7)


def test_completion_by_a_context_without_the_source_is_ignored() -> None:
    bench = PlicBench()
    bench.enable(4)
    bench.source(4, True)
    assert bench.read(claim(S)) == 4
    for number in (0, 5, 97, 0xFFFF_FFFF):
        bench.write(claim(S), number)
    bench.write(claim(M), 4)
    assert bench.read(claim(S)) == 0
    bench.write(claim(S), 4)
    assert bench.read(claim(S)) == 4


def test_warl_registers() -> None:
    bench = PlicBench()
    bench.write(0, 7)
    bench.write(4 * 96, 0xFFFF_FFFF)
    bench.write(4 * 97, 7)
    assert [bench.read(4 * n) for n in (0, 96, 97, 1023)] == [0, 7, 0, 0]
    for word, expected in ((0, 0xFFFF_FFFE), (1, 0xFFFF_FFFF), (3, 1), (4, 0), (31, 0)):
        bench.write(0x2080 + 4 * word, 0xFFFF_FFFF)
        assert bench.read(0x2080 + 4 * word) == expected
    bench.write(0x20_0000, 0xFF)
    assert bench.read(0x20_0000) == 7
    bench.write(0x1000, 0xFFFF_FFFF)
    assert bench.read(0x1000) == 0


@pytest.mark.parametrize(
    ("offset", "width"),
    [
        (0x1080, 4),
        (0x2100, 4),
        (0x1F_2000, 4),
        (0x20_0008, 4),
        (0x20_2000, 4),
        (0x5F_FFFC, 4),
        (0x60_0000, 4),
        (2**64 - 4, 4),
        (0, 1),
        (0, 8),
        (2, 4),
    ],
)
def test_what_is_no_register_faults(offset: int, width: int) -> None:
    bench = PlicBench()
    with pytest.raises(BusFault):
        bench.read(offset, width)
    with pytest.raises(BusFault):
        bench.write(offset, 0, width)


def test_state_round_trip_in_the_middle_of_a_claim() -> None:
    bench = PlicBench(harts=2)
    bench.enable(10, ctx=3, priority=5)
    bench.enable(33, ctx=3)
    bench.source(10, True)
    bench.source(33, True)
    assert bench.read(claim(3)) == 10
    bench.source(96, True)
    assert bench.device.state["level"] == 1 << 96 | 1 << 33 | 1 << 10
    for attribute in ("state", "packed"):
        other = PlicBench(harts=2)
        setattr(other.device, attribute, getattr(bench.device, attribute))
        assert other.device.state == bench.device.state
        assert other.levels == [False, False, False, True]
        assert other.read(claim(3)) == 33
        other.write(claim(3), 10)
        assert other.read(claim(3)) == 10  # its wire was high in the state


@given(st.binary(min_size=0, max_size=4096))
def test_no_packed_state_escapes_the_rules(data: bytes) -> None:
    bench = PlicBench()
    good = bench.device.packed
    made_up = good[:12] + (data + bytes(len(good)))[: len(good) - 12]
    bench.device.packed = made_up
    assert bench.device.state["priority"][0] == 0
    assert max(bench.device.state["threshold"]) <= 7
    assert bench.read(claim(S)) <= 96
    again = bench.device.state
    bench.device.state = again
    assert bench.device.state == again


def test_bad_states_leave_the_old_one() -> None:
    bench = PlicBench()
    bench.enable(10)
    before = bench.device.state
    with pytest.raises(ValueError, match=r"'priority'\] has 1 values, expected 97"):
        bench.device.state = {**before, "priority": [0]}
    with pytest.raises(ConfigError, match="plic: state is refused"):
        bench.device.state = {**before, "threshold": [0, -1]}
    with pytest.raises(ValueError, match="2 contexts, expected version 1 of 96 and 4"):
        Plic(harts=2).packed = bench.device.packed
    assert bench.device.state == before


def test_wrong_construction_names_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"plic: harts is 65, expected 1\.\.64"):
        Plic(harts=65)
    with pytest.raises(ConfigError, match=r"plic: sources is 128, expected 1\.\.127"):
        Plic(sources=128)
    with pytest.raises(ConfigError, match=r"plic: source is 97, expected 1\.\.96"):
        Plic().source(97)
