"""Split rings: honest ones, each broken rule, and random hostile ones (virtio 1.2, section 2.7)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvirt.devices.virtio_console import VirtioConsole
from pyvirt.devices.virtio_mmio import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1
from pyvirt.devices.virtio_rng import VirtioRng
from pyvirt.devices.virtqueue import CHAIN_BYTES_MAX, Chain
from tests.devices.fakes import RAM_BASE, RAM_SIZE, Bench, Driver, FakeMemory

TX = 1
ALL = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC


def console(features: int = ALL, **options: int) -> tuple[Bench, Driver]:
    bench = Bench(VirtioConsole())
    return bench, Driver(bench, features=features, **options)


def broken(bench: Bench) -> bool:
    return bool(bench.read(0x70) & 0x40)


def test_chain_gathers_and_scatters_across_pieces() -> None:
    memory = FakeMemory()
    memory.mem_write(RAM_BASE, b"abcdefghij")
    chain = Chain(memory, 0, [(RAM_BASE, 3), (RAM_BASE + 5, 4)], [(RAM_BASE + 100, 2), (RAM_BASE + 200, 5)])
    assert (chain.read(), chain.read(2, 3), chain.read(5), chain.read(7), chain.read(0, 0)) == (
        b"abcfghi",
        b"cfg",
        b"hi",
        b"",
        b"",
    )
    assert chain.write(b"0123456789") == 7
    assert (memory.mem_read(RAM_BASE + 100, 2), memory.mem_read(RAM_BASE + 200, 5)) == (b"01", b"23456")
    assert chain.write(b"XY", 1) == 2
    assert (memory.mem_read(RAM_BASE + 100, 2), memory.mem_read(RAM_BASE + 200, 5)) == (b"0X", b"Y3456")


def test_direct_and_indirect_chains_and_wrap_of_indices() -> None:
    bench, driver = console()
    sent = b""
    for n in range(40):
        text = bytes([n]) * (n + 1)
        driver.chain(TX, [text[:1], text[1:]] if n else [text], [], indirect=bool(n % 2), head=n % 6)
        sent += text
        assert driver.used(TX) == [(n % 6, 0)]
    assert bench.device.drain() == sent
    queue = bench.device.queues[TX]
    queue.next_avail = queue.next_used = queue.signalled = 0xFFFE
    driver.index[TX] = driver.seen[TX] = 0xFFFE
    for n in range(5):
        driver.chain(TX, [b"w"], [], head=n)
    assert (bench.device.drain(), [h for h, _ in driver.used(TX)], broken(bench)) == (b"wwwww", [0, 1, 2, 3, 4], False)


def test_interrupts_without_event_index_follow_the_flag() -> None:
    bench, driver = console(F_VERSION_1)
    driver.chain(TX, [b"a"], [])
    assert bench.levels == [True]
    bench.write(0x64, 1)
    bench.memory.mem_write(driver.areas(TX)[1], struct.pack("<H", 1))
    driver.chain(TX, [b"b"], [])
    assert bench.levels == [False]


def test_interrupts_with_event_index() -> None:
    bench, driver = console()
    _, avail, used = driver.areas(TX)
    bench.memory.mem_write(avail + 4 + 2 * driver.size, struct.pack("<H", 2))  # used_event: after the third
    for expected in (False, False, True):
        driver.chain(TX, [b"a"], [])
        assert bench.levels == [expected]
    assert bench.memory.mem_read(used + 4 + 8 * driver.size, 2) == struct.pack("<H", 3)  # avail_event


def test_a_queue_out_of_service_is_left_alone() -> None:
    bench, driver = console(start=False)
    driver.chain(TX, [b"early"], [])
    assert bench.device.drain() == b""
    bench.write(0x70, 0xF)
    bench.write(0x50, TX)
    assert bench.device.drain() == b"early"


def rule_head(d: Driver) -> None:
    d.offer(TX, 8)


def rule_next(d: Driver) -> None:
    d.describe(TX, 0, RAM_BASE, 1, 1, 8)
    d.offer(TX, 0)


def rule_loop(d: Driver) -> None:
    d.describe(TX, 0, RAM_BASE, 1, 1, 1)
    d.describe(TX, 1, RAM_BASE, 1, 1, 0)
    d.offer(TX, 0)


def rule_order(d: Driver) -> None:
    d.describe(TX, 0, RAM_BASE, 1, 3, 1)
    d.describe(TX, 1, RAM_BASE, 1, 0)
    d.offer(TX, 0)


def rule_outside(d: Driver) -> None:
    d.describe(TX, 0, RAM_BASE + RAM_SIZE - 4, 5, 0)
    d.offer(TX, 0)


def rule_wrap(d: Driver) -> None:
    d.describe(TX, 0, 2**64 - 4, 5, 0)
    d.offer(TX, 0)


def rule_far(d: Driver) -> None:
    d.bench.memory.mem_write(d.areas(TX)[1] + 2, struct.pack("<H", 9))
    d.bench.write(0x50, TX)


def rule_total(d: Driver) -> None:
    d.describe(TX, 0, RAM_BASE, CHAIN_BYTES_MAX, 1, 1)
    d.describe(TX, 1, RAM_BASE, 1, 0)
    d.offer(TX, 0)


def indirect(d: Driver, size: int, flags: int, *entries: tuple[int, int, int, int]) -> None:
    table = d.alloc(16 * len(entries))
    d.bench.memory.mem_write(table, b"".join(struct.pack("<QIHH", *e) for e in entries))
    d.describe(TX, 0, table, size, flags)
    d.offer(TX, 0)


def rule_indirect_size(d: Driver) -> None:
    indirect(d, 17, 4, (RAM_BASE, 1, 0, 0))


def rule_indirect_empty(d: Driver) -> None:
    indirect(d, 0, 4, (RAM_BASE, 1, 0, 0))


def rule_indirect_huge(d: Driver) -> None:
    indirect(d, 16 * 1025, 4, (RAM_BASE, 1, 0, 0))


def rule_indirect_next(d: Driver) -> None:
    indirect(d, 16, 5, (RAM_BASE, 1, 0, 0))


def rule_indirect_nested(d: Driver) -> None:
    indirect(d, 16, 4, (RAM_BASE, 16, 4, 0))


def rule_indirect_loop(d: Driver) -> None:
    indirect(d, 16, 4, (RAM_BASE, 1, 1, 0))


def rule_indirect_index(d: Driver) -> None:
    indirect(d, 16, 4, (RAM_BASE, 1, 1, 1))


@pytest.mark.parametrize(
    "rule", [v for k, v in sorted(globals().items()) if k.startswith("rule_")], ids=lambda rule: rule.__name__[5:]
)
def test_each_broken_rule_needs_reset(rule) -> None:  # type: ignore[no-untyped-def]
    bench, driver = console()
    rule(driver)
    assert broken(bench)
    assert (bench.read(0x60) & 2, bench.levels) == (2, [True])
    assert bench.device.error.startswith("queue 1: ")
    accesses = bench.memory.accesses
    bench.write(0x50, TX)
    assert bench.memory.accesses == accesses  # nothing is served until a reset
    Driver(bench, features=ALL).chain(TX, [b"again"], [])
    assert (bench.device.drain()[-5:], broken(bench)) == (b"again", False)


def test_indirect_without_its_feature_needs_reset() -> None:
    bench, driver = console(F_VERSION_1)
    driver.chain(TX, [b"x"], [], indirect=True)
    assert broken(bench)


@pytest.mark.parametrize("register", [0x84, 0x94, 0xA4])
def test_rings_outside_memory_need_reset(register: int) -> None:
    bench = Bench(VirtioConsole())
    driver = Driver(bench, features=ALL, start=False)
    bench.write(0x30, TX)
    bench.write(0x44, 0)
    bench.write(register, 0xFFFF_FFFF)
    bench.write(0x44, 1)
    bench.write(0x70, 0xF)
    driver.chain(TX, [b"x"], [])
    assert broken(bench)


def test_the_hosts_own_trouble_leaves_the_chain_for_later() -> None:
    said: list[bytes] = []
    trouble = [RuntimeError("host")]

    def sink(data: bytes) -> None:
        if trouble:
            raise trouble.pop()
        said.append(data)

    bench = Bench(VirtioConsole(sink=sink))
    driver = Driver(bench)
    with pytest.raises(RuntimeError, match="host"):
        driver.chain(TX, [b"one"], [])
    assert driver.used(TX) == []
    bench.write(0x50, TX)
    assert (said, driver.used(TX), broken(bench)) == ([b"one"], [(0, 0)], False)


def test_work_of_one_notification_is_bounded() -> None:
    # A full ring whose chains all point at one table of 1,024 pieces over the same memory.
    memory = FakeMemory(size=4 << 20)
    bench = Bench(VirtioRng(), memory=memory)
    driver = Driver(bench, features=ALL)
    table = RAM_BASE + (1 << 20)
    memory.mem_write(table, struct.pack("<QIHH", RAM_BASE + (2 << 20), 4096, 3, 0) * 1024)
    for head in range(8):
        driver.describe(0, head, table, 16 * 1024, 4)
        driver.offer(0, head, notify=False)
    bench.write(0x50, 0)
    assert broken(bench)
    assert memory.accesses < 8 * 1024 * 3


addresses = st.one_of(
    st.integers(RAM_BASE, RAM_BASE + 256),
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 2**64 - 1, 2**64 - 16, RAM_BASE + RAM_SIZE - 1, RAM_BASE + RAM_SIZE]),
)
lengths = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1))
descriptors = st.lists(st.tuples(addresses, lengths, st.integers(0, 7), st.integers(0, 9)), min_size=8, max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    queue=st.integers(0, 1),
    table=descriptors,
    inner=descriptors,
    avail=st.lists(st.integers(0, 9), min_size=8, max_size=8),
    index=st.integers(0, 0xFFFF),
    flags=st.integers(0, 0xFFFF),
    points=st.sets(st.integers(0, 7)),
)
def test_no_ring_raises_or_runs_away(queue, table, inner, avail, index, flags, points) -> None:  # type: ignore[no-untyped-def]
    bench, driver = console()
    bench.device.send(b"input")
    inner_at = RAM_BASE + 0x4_0000
    bench.memory.mem_write(inner_at, b"".join(struct.pack("<QIHH", *d) for d in inner))
    for number, (address, size, kind, following) in enumerate(table):
        if number in points:
            address, size = inner_at, 16 * (size % 9)
        driver.describe(queue, number, address, size, kind, following)
    bench.memory.mem_write(driver.areas(queue)[1], struct.pack("<HH8H", flags, index, *avail))
    before = bench.memory.accesses
    bench.write(0x50, queue)
    # Each of at most 8 chains walks at most 8 + 8 descriptors and moves at most as many pieces.
    assert bench.memory.accesses - before < 8 * 50 + 10
    assert len(bench.device._output) <= 8 * CHAIN_BYTES_MAX
    restored = Bench(VirtioConsole(), memory=bench.memory)
    restored.device.state = bench.device.state
    assert restored.levels == bench.levels


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 0x11F), st.sampled_from([1, 2, 4]), st.one_of(st.none(), st.integers(0, 2**32 - 1))),
        max_size=40,
    )
)
def test_no_register_sequence_raises(steps: list[tuple[int, int, int | None]]) -> None:
    device = VirtioConsole()
    bench = Bench(device)
    Driver(bench)
    for offset, width, value in steps:
        offset -= offset % width
        if offset < 0x100:
            offset, width = offset & ~3, 4
        if value is None:
            assert 0 <= bench.read(offset, width) < 1 << 8 * width
        else:
            bench.write(offset, value, width)
