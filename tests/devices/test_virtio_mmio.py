"""The virtio transport: registers, negotiation and status (virtio 1.2, sections 3.1 and 4.2)."""

from __future__ import annotations

import pytest

from pyvirt.devices.base import BusFault
from pyvirt.devices.virtio_mmio import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioMmio
from pyvirt.devices.virtio_rng import VirtioRng
from pyvirt.errors import ConfigError
from tests.devices.fakes import RAM_BASE, Bench, Driver


def test_identity_and_empty_slot() -> None:
    bench = Bench(VirtioRng())
    assert [bench.read(r) for r in (0, 4, 8, 0xC)] == [0x74726976, 2, 4, 0x54565950]
    empty = Bench(VirtioMmio())
    assert [empty.read(r) for r in (0, 4, 8, 0x10, 0x34)] == [0x74726976, 2, 0, 0, 0]


def test_features_are_offered_by_halves() -> None:
    bench = Bench(VirtioRng())
    seen = []
    for half in (0, 1, 2, 0xFFFF_FFFF):
        bench.write(0x14, half)
        seen.append(bench.read(0x10))
    assert seen == [(F_INDIRECT_DESC | F_EVENT_IDX) & 0xFFFF_FFFF, F_VERSION_1 >> 32, 0, 0]


@pytest.mark.parametrize(
    ("features", "accepted"),
    [
        (F_VERSION_1, True),
        (F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC, True),
        (0, False),
        (F_EVENT_IDX, False),
        (F_VERSION_1 | 1, False),
        (F_VERSION_1 | 1 << 63, False),
    ],
)
def test_features_ok_needs_version_1_and_nothing_unknown(features: int, accepted: bool) -> None:
    bench = Bench(VirtioRng())
    Driver(bench, features=features)
    assert bench.read(0x70) == (0xF if accepted else 0x3)


def test_status_only_grows_until_reset() -> None:
    bench = Bench(VirtioRng())
    Driver(bench)
    bench.write(0x70, 1)
    assert bench.read(0x70) == 0xF
    bench.write(0x70, 0x80 | 0x40 | 0x30)
    assert bench.read(0x70) == 0x8F  # NEEDS_RESET is the device's alone
    bench.write(0x70, 0)
    assert (bench.read(0x70), bench.read(0x44)) == (0, 0)


def test_features_are_frozen_by_features_ok() -> None:
    bench = Bench(VirtioRng())
    Driver(bench)
    bench.write(0x24, 0)
    bench.write(0x20, 0xFFFF_FFFF)
    assert bench.device.driver_features == F_VERSION_1


def test_queue_registers() -> None:
    bench = Bench(VirtioRng())
    driver = Driver(bench, start=False)
    assert (bench.read(0x34), bench.read(0x44)) == (256, 1)
    queue = bench.device.queues[0]
    assert (queue.desc, queue.avail, queue.used) == driver.areas(0)
    bench.write(0x80, 0xDEAD_0000)  # in service: not to be touched
    assert queue.desc == driver.areas(0)[0]
    bench.write(0x44, 0)
    bench.write(0x84, 0x12)
    bench.write(0x80, 0x3450)
    assert (bench.read(0x44), queue.desc) == (0, 0x12_0000_3450)
    bench.write(0x30, 1)
    assert (bench.read(0x34), bench.read(0x44)) == (0, 0)
    bench.write(0x44, 1)
    bench.write(0x50, 7)
    assert bench.read(0x70) == 0xB


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (0x38, 0),
        (0x38, 3),
        (0x38, 512),
        (0x38, 2**32 - 1),
        (0x80, RAM_BASE + 8),
        (0x90, RAM_BASE + 1),
        (0xA0, RAM_BASE + 2),
    ],
)
def test_a_bad_queue_needs_reset(register: int, value: int) -> None:
    bench = Bench(VirtioRng())
    Driver(bench, start=False)
    bench.write(0x44, 0)
    bench.write(register, value)
    bench.write(0x44, 1)
    assert (bench.read(0x70) & 0x40, bench.read(0x44)) == (0x40, 0)
    assert "queue 0: queue" in bench.device.error
    bench.write(0x70, 0)
    assert (bench.read(0x70), bench.device.error) == (0, "")


def test_interrupt_status_drives_the_line() -> None:
    bench = Bench(VirtioRng())
    driver = Driver(bench)
    driver.chain(0, [], [4])
    assert (bench.read(0x60), bench.levels) == (1, [True])
    bench.write(0x64, 2)
    assert bench.levels == [True]
    bench.write(0x64, 1)
    assert (bench.read(0x60), bench.levels) == (0, [False])
    generation = bench.read(0xFC)
    bench.device.config_changed()
    assert (bench.read(0xFC), bench.read(0x60), bench.levels) == (generation + 1, 2, [True])


def test_widths() -> None:
    bench = Bench(VirtioRng())
    for offset, width in ((0, 1), (0, 2), (0, 8), (0x102, 4), (0x1000, 4)):
        with pytest.raises(BusFault):
            bench.read(offset, width)
        with pytest.raises(BusFault):
            bench.write(offset, 0, width)
    assert [bench.read(0x100, w) for w in (1, 2, 4)] == [0, 0, 0]
    assert bench.read(0xFFC) == 0
    bench.write(0x100, 5)  # read-only configuration
    assert [bench.read(r) for r in (0xB0, 0xB4)] == [0xFFFF_FFFF] * 2
    assert bench.read(0x20) == 0  # write-only


def test_state_moves_a_device_in_service() -> None:
    bench = Bench(VirtioRng(seed=3))
    driver = Driver(bench)
    driver.chain(0, [], [16])
    state = bench.device.state
    other = Bench(VirtioRng(), memory=bench.memory)
    other.device.state = state
    assert other.device.state == state
    assert other.levels == [True]
    (address,) = driver.chain(0, [], [16], notify=False)
    other.write(0x50, 0)
    moved = bench.memory.mem_read(address, 16)
    bench.write(0x50, 0)
    assert bench.memory.mem_read(address, 16) == moved != bytes(16)
    assert len(driver.used(0)) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": 256}, r"state\['status'\] is 256"),
        ({"interrupts": -1}, r"state\['interrupts'\] is -1"),
        ({"queues": []}, "expected a list of 1"),
        ({"queues": [{"size": 3}]}, "expected the keys"),
        (
            {
                "queues": [
                    {
                        "size": 3,
                        "ready": True,
                        "desc": 0,
                        "avail": 0,
                        "used": 0,
                        "next_avail": 0,
                        "next_used": 0,
                        "signalled": 0,
                    }
                ]
            },
            "size 3, expected a power of two up to 256",
        ),
        ({"seed": b""}, "expected 32 bytes"),
        ({"extra": 1}, "state has keys"),
    ],
)
def test_hostile_states_are_refused(change: dict[str, object], words: str) -> None:
    rng = VirtioRng()
    before = rng.state
    with pytest.raises(ConfigError, match=words):
        rng.state = {**before, **change}
    assert rng.state == before


def test_reset_of_the_machine() -> None:
    bench = Bench(VirtioRng())
    driver = Driver(bench)
    driver.chain(0, [], [4])
    bench.device.reset()
    assert (bench.levels, bench.read(0x70), bench.read(0x44)) == ([False], 0, 0)
