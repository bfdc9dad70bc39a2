"""Block, console and entropy devices, driven through their rings (virtio 1.2, sections 5.2 to 5.4)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pyvirt.devices.virtio_blk import SEG_MAX, SIZE_MAX, VirtioBlk
from pyvirt.devices.virtio_console import OUTPUT_MAX, VirtioConsole
from pyvirt.devices.virtio_rng import VirtioRng
from pyvirt.devices.virtqueue import CHAIN_BYTES_MAX
from pyvirt.disks.disk import Disk
from pyvirt.errors import ClosedError, ConfigError
from tests.devices.fakes import Bench, Driver

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
SECTORS = 64


class Block:
    """A block device with a driver: `request` returns status and data."""

    def __init__(self, path: Path, **options: object) -> None:
        if not path.exists():
            path.write_bytes(b"".join(bytes([n]) * 512 for n in range(SECTORS)))
        self.disk = Disk(path, **options)  # type: ignore[arg-type]
        self.bench = Bench(VirtioBlk(self.disk, serial="disk-0"))
        self.driver = Driver(self.bench)

    def request(self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0) -> tuple[int, bytes]:
        header = struct.pack("<IIQ", kind, 0, sector)
        places = self.driver.chain(0, [header, data] if data else [header], [room, 1] if room else [1])
        ((_, self.written),) = self.driver.used(0)
        status = self.bench.memory.mem_read(places[-1], 1)[0]
        return status, self.bench.memory.mem_read(places[0], room) if room else b""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def test_configuration(path: Path) -> None:
    block = Block(path)
    read = block.bench.read
    assert (read(0x100), read(0x104), read(0x108), read(0x10C), read(0x114)) == (SECTORS, 0, SIZE_MAX, SEG_MAX, 512)
    assert [read(0x124 + 4 * n) for n in range(5)] == [8192, 1, 8, 8192, 1]
    assert read(0x122, 2) == 1
    assert len(block.bench.device.config()) == 60
    assert SEG_MAX * SIZE_MAX + 1 <= CHAIN_BYTES_MAX


def test_read_write_flush_and_id(path: Path) -> None:
    block = Block(path)
    assert block.request(IN, 3, room=1024) == (OK, b"\x03" * 512 + b"\x04" * 512)
    assert block.written == 1025
    assert block.request(OUT, 4, b"N" * 512) == (OK, b"")
    assert block.written == 1
    assert block.request(IN, 3, room=1024)[1] == b"\x03" * 512 + b"N" * 512
    assert block.request(FLUSH) == (OK, b"")
    assert block.request(GET_ID, room=20) == (OK, b"disk-0".ljust(20, b"\0"))
    assert block.request(99, room=8)[0] == UNSUPP
    assert path.read_bytes()[4 * 512 : 5 * 512] == b"\x04" * 512


def test_direct_mode_reaches_the_file(path: Path) -> None:
    block = Block(path, mode="direct")
    assert block.request(OUT, 1, b"W" * 1024)[0] == OK
    assert block.request(FLUSH)[0] == OK
    assert path.read_bytes()[512:1536] == b"W" * 1024


@pytest.mark.parametrize(
    ("kind", "sector", "data", "room"),
    [
        (IN, SECTORS, b"", 512),
        (IN, SECTORS - 1, b"", 1024),
        (IN, 2**64 - 1, b"", 512),
        (IN, 0, b"", 100),
        (OUT, SECTORS, bytes(512), 0),
        (OUT, 2**55, bytes(512), 0),
        (OUT, 0, bytes(511), 0),
        (DISCARD, 0, struct.pack("<QII", SECTORS, 8, 0), 0),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 2**32 - 1, 0), 0),
        (WRITE_ZEROES, 0, bytes(15), 0),
        (WRITE_ZEROES, 0, bytes(32), 0),
    ],
)
def test_requests_outside_the_disk_are_io_errors(path: Path, kind: int, sector: int, data: bytes, room: int) -> None:
    block = Block(path)
    assert block.request(kind, sector, data, room)[0] == IOERR
    assert block.disk.changed_blocks == 0
    assert block.bench.read(0x70) == 0xF


def test_discard_and_write_zeroes(path: Path) -> None:
    block = Block(path)
    assert block.request(WRITE_ZEROES, 0, struct.pack("<QII", 2, 3, 0))[0] == OK
    assert block.request(IN, 1, room=2560)[1] == b"\1" * 512 + bytes(3 * 512) + b"\5" * 512
    assert block.request(DISCARD, 0, struct.pack("<QII", 8, 8, 0))[0] == OK
    assert block.request(IN, 8, room=4096)[1] == bytes(4096)
    assert block.request(DISCARD, 0, struct.pack("<QII", 8, 8, 1))[0] == UNSUPP


def test_read_only_disk(path: Path) -> None:
    block = Block(path, read_only=True)
    assert block.bench.read(0x10) & 1 << 5
    assert block.request(OUT, 0, bytes(512))[0] == IOERR
    assert block.request(WRITE_ZEROES, 0, struct.pack("<QII", 2, 3, 0))[0] == IOERR
    assert block.request(IN, 1, room=512)[0] == OK


def test_a_full_overlay_is_an_io_error_of_the_guest(path: Path) -> None:
    block = Block(path, overlay_limit=4096)
    assert block.request(OUT, 0, bytes(4096))[0] == OK
    assert block.request(OUT, 8, bytes(4096))[0] == IOERR
    assert "overlay_limit allows 4096" in block.bench.device.error


def test_malformed_requests(path: Path) -> None:
    block = Block(path)
    places = block.driver.chain(0, [b"short"], [1])
    assert block.bench.memory.mem_read(places[0], 1) == bytes([IOERR])
    block.driver.chain(0, [bytes(16)], [])
    assert block.bench.read(0x70) & 0x40
    assert "no byte for its status" in block.bench.device.error


def test_a_closed_disk_is_the_hosts_mistake(path: Path) -> None:
    block = Block(path)
    block.disk.close()
    with pytest.raises(ClosedError, match="is closed"):
        block.driver.chain(0, [struct.pack("<IIQ", IN, 0, 0)], [512, 1])


def test_block_state_belongs_to_a_disk_of_its_size(path: Path, tmp_path: Path) -> None:
    block = Block(path)
    state = block.bench.device.state
    block.bench.device.state = state
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1024))
    with pytest.raises(ConfigError, match="a disk of 64 sectors, this one has 2"):
        VirtioBlk(Disk(other)).state = state
    with pytest.raises(ConfigError, match="expected at most 20 bytes"):
        VirtioBlk(Disk(other), serial="x" * 21)


def test_console_output_and_its_bound() -> None:
    bench = Bench(VirtioConsole())
    driver = Driver(bench)
    driver.chain(1, [b"hello ", b"world"], [])
    assert bench.device.drain() == b"hello world"
    bench.device._output += bytes(OUTPUT_MAX - 3)
    driver.chain(1, [b"12345"], [])
    assert (bench.device.drain()[-4:], bench.device.dropped) == (b"\x00123", 2)
    said: list[bytes] = []
    bench = Bench(VirtioConsole(sink=said.append))
    Driver(bench).chain(1, [b"direct"], [])
    assert said == [b"direct"]


def test_console_input_waits_for_buffers() -> None:
    bench = Bench(VirtioConsole())
    bench.device.send(b"before start ")
    driver = Driver(bench, start=False)
    (first,) = driver.chain(0, [], [6])
    bench.write(0x70, 0xF)
    assert (bench.memory.mem_read(first, 6), driver.used(0)) == (b"before", [(0, 6)])
    state = bench.device.state
    assert state["input"] == b" start "
    (second,) = driver.chain(0, [], [64])
    bench.device.send(b"and after")
    assert bench.memory.mem_read(second, 7) == b" start "
    (third,) = driver.chain(0, [], [64])
    assert bench.memory.mem_read(third, 9) == b"and after"
    assert bench.levels == [True]
    with pytest.raises(ConfigError, match="expected bytes"):
        bench.device.state = {**state, "input": "text"}


def test_rng_repeats_by_seed() -> None:
    def draw(seed: int | bytes) -> list[bytes]:
        bench = Bench(VirtioRng(seed=seed))
        driver = Driver(bench)
        out = []
        for size in (8, 32, 8):
            (place,) = driver.chain(0, [], [size])
            out.append(bench.memory.mem_read(place, size))
            assert driver.used(0) == [(0, size)]
        return out

    assert draw(1) == draw(1)
    assert draw(1) != draw(-1) != draw(b"seed")
    assert len(set(draw(1))) == 3
    with pytest.raises(ConfigError, match="seed is 'x', expected an int or bytes"):
        VirtioRng(seed="x")  # type: ignore[arg-type]


def test_rng_delivers_at_most_64_kib() -> None:
    bench = Bench(VirtioRng())
    driver = Driver(bench)
    driver.chain(0, [], [100_000])
    assert driver.used(0) == [(0, 65536)]
