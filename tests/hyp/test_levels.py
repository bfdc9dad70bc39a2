"""The nest as the machine's state shows it: levels, their memory and registers, what is unknown, what is published."""
from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import pyvirt as pv
from pyvirt.board import RAM_BASE
from pyvirt.explain.levels import UNKNOWN
from tests.hyp.nest import HYPERVISOR, ROUNDS, hgatp, machine


@pytest.fixture
def vm() -> Iterator[pv.Machine]:
    with machine() as vm:
        yield vm


def test_before_there_is_a_guest(vm: pv.Machine) -> None:
    ground, first = vm.levels
    assert (ground.depth, first.depth) == (0, 1)
    assert ground.guests == (first,)
    assert first.guests == ()
    assert first.running
    assert first.registers["pc"] == RAM_BASE
    assert first.csrs["satp"] == 0
    assert (ground.registers, ground.hgatp, ground.vmid, ground.mode, ground.root) == (UNKNOWN, None, None, None, None)
    assert first.mem.u32[RAM_BASE] == vm.mem.u32[RAM_BASE]
    assert repr(first) == "<Level L1 on the machine running>"


def test_a_guest_that_runs_and_one_that_is_loaded(vm: pv.Machine) -> None:
    vm.run(until=pv.at(vm.symbols["two"]))
    guest, = vm.levels.guests
    assert (guest.depth, guest.hgatp, guest.vmid, guest.mode, guest.root) == (
        2, hgatp(vm, 2), 2, "Sv39x4", vm.symbols["root"])
    assert guest.running
    assert (guest.registers["pc"], guest.registers["a0"]) == (vm.symbols["two"], 1)
    assert guest.csrs["vsatp"].MODE == 0
    assert guest.guests is UNKNOWN
    assert (guest.exits, guest.seen) == (UNKNOWN, UNKNOWN)
    first = vm.levels[1]
    assert (first.running, first.registers, first.vcpus[0].state) == (False, UNKNOWN, "loaded")
    assert first.csrs["stvec"] == vm.symbols["trap"]
    vm.run(until=pv.trap(21))
    guest, = vm.levels.guests
    assert (guest.running, guest.registers, guest.vcpus[0].state) == (False, UNKNOWN, "loaded")
    assert guest.csrs["vsatp"] == 0
    assert repr(guest) == f"<Level L2 VMID 2 @{vm.symbols['root']:#x} loaded>"


def test_harts_are_told_apart_and_guests_of_two_harts_are_one() -> None:
    with machine(harts=2) as vm:
        vm.run(until=pv.trap(21))
        assert [hart.csr.hgatp.VMID for hart in vm.harts] == [2, 0]
        vm.harts[1].csr.hgatp = hgatp(vm, 2)
        vm.harts[1].world = "VU"
        guest, = vm.levels.guests
        assert [(vcpu.hart, vcpu.state) for vcpu in guest.vcpus] == [(0, "loaded"), (1, "running")]
        assert guest.registers["pc"] == vm.harts[1].pc
        vm.harts[1].csr.hgatp = 0
        names = [(level.name, level.mode) for level in vm.levels.guests]
        assert names == [(f"VMID 2 @{vm.symbols['root']:#x}", "Sv39x4"), ("guest without G-stage", "Bare")]


def test_memory_by_guest_physical_address(vm: pv.Machine) -> None:
    vm.run(until=pv.at(vm.symbols["one"]))
    root = vm.symbols["root"]
    middle, leaf = RAM_BASE + 0x2_0000, RAM_BASE + 0x2_1000
    # gpa 0x40000000: two pages that lie the other way round, the second for executing only, then nothing, then no RAM.
    vm.mem.u64[root + 8] = middle >> 2 | 1
    vm.mem.u64[middle] = leaf >> 2 | 1
    pages = RAM_BASE + 0x2_3000 >> 2 | 0x53, RAM_BASE + 0x2_2000 >> 2 | 0x59, 0, 0x1000_0000 >> 2 | 0xDF
    for number, entry in enumerate(pages):
        vm.mem.u64[leaf + 8 * number] = entry
    memory = vm.levels[2].mem
    memory[0x4000_0FF8:0x4000_1008] = bytes(range(16))
    assert vm.mem.u64[RAM_BASE + 0x2_3FF8] == 0x0706_0504_0302_0100
    assert vm.mem.u64[RAM_BASE + 0x2_2000] == 0x0F0E_0D0C_0B0A_0908
    assert memory.u64[0x4000_0FFC] == 0x0B0A_0908_0706_0504
    with pytest.raises(pv.GuestAddressError, match=r"gpa 0x40002000 is not mapped under hgatp 0x8.*: V is 0 \(manual"):
        memory.read(0x4000_1FF8, 16)
    with pytest.raises(pv.GuestAddressError, match="gpa 0x40003000 is pa 0x10000000, which is not RAM"):
        memory.u8[0x4000_3000] = 1
    with pytest.raises(pv.GuestAddressError, match=r"gpa 0x20000000000 .*: the guest physical address has"):
        memory.u8[1 << 41]
    before = bytes(memory[0x4000_0FF8:0x4000_1000])
    with pytest.raises(pv.GuestAddressError):
        memory[0x4000_1FF8:0x4000_2008] = bytes(16)
    assert memory[0x4000_0FF8:0x4000_1000] == before


def test_statistics_while_exits_are_counted(vm: pv.Machine) -> None:
    with vm.exits:
        vm.run()
        guests = {level.vmid: level for level in vm.levels.guests}
        assert set(guests) == {1, 2}
        for vmid, level in guests.items():
            assert level.hgatp == hgatp(vm, vmid)
            seen = level.seen
            assert seen
            assert seen.entries == sum(row.count for row in level.exits)
            assert 0 < seen.first < seen.last < vm.icount
        assert [(row.cause, row.count) for row in guests[1].exits] == [(10, ROUNDS // 2)]
        assert sorted((row.cause, row.count) for row in guests[2].exits) == [(10, ROUNDS // 2), (21, ROUNDS // 2)]
        assert [(row.cause, row.count) for row in vm.levels[1].exits] == [(9, ROUNDS)]
        assert sorted(bool(level.vcpus) for level in guests.values()) == [False, True]
        gone = next(level for level in guests.values() if not level.vcpus)
        assert (gone.registers, gone.csrs) == (UNKNOWN, UNKNOWN)
        assert gone.mem.u32[RAM_BASE] == vm.mem.u32[RAM_BASE]
        assert str(vm.levels).splitlines()[0].split() == ["level", "what", "G-stage", "harts", "pc", "entries", "exits"]
        assert str(vm.levels).count("unknown") == 2
        assert vm.levels._repr_html_().count("<tr") == 5
        assert repr(vm.levels).startswith("<Levels 4: L0 Machine bare")


def test_levels_come_from_state_alone(vm: pv.Machine) -> None:
    """A machine that takes over state and memory shows the same levels: nothing of them is kept beside the state."""
    vm.run(until=pv.at(vm.symbols["two"]))
    with pv.Machine(board="bare", ram="256K") as other:
        other.mem[RAM_BASE:RAM_BASE + (256 << 10)] = bytes(vm.mem[RAM_BASE:RAM_BASE + (256 << 10)])
        other._board.core.state = vm._board.core.state
        assert str(other.levels) == str(vm.levels)
        assert other.levels[2].registers == vm.levels[2].registers


def test_deeper_levels_are_what_is_published(vm: pv.Machine) -> None:
    vm.run(until=pv.at(vm.symbols["two"]))

    def reader(level: pv.Level) -> Iterable[pv.Guest]:
        if level.depth == 2:
            yield pv.Guest(name="inner", registers={"pc": 0x1234},
                           read=lambda gpa, n: level.mem.read(RAM_BASE + gpa, n))
            yield pv.Guest(name="asleep")

    vm.publish_levels(reader)
    names = [(level.depth, level.name) for level in vm.levels]
    assert names[2:] == [(2, f"VMID 2 @{vm.symbols['root']:#x}"), (3, "inner"), (3, "asleep")]
    inner, asleep = vm.levels[3:]
    assert vm.levels[2].guests[0].name == "inner"
    assert (inner.registers, inner.csrs, inner.guests, inner.exits) == ({"pc": 0x1234}, UNKNOWN, (), UNKNOWN)
    assert inner.mem[0:4] == vm.mem[RAM_BASE:RAM_BASE + 4]
    assert "L3     inner" in str(vm.levels)
    for access in (lambda: asleep.mem[0:4], lambda: inner.mem.write(0, b"x")):
        with pytest.raises(pv.GuestAddressError, match="publisher gives no"):
            access()
    vm.publish_levels(lambda level: ["L4"])  # type: ignore[arg-type, return-value]
    with pytest.raises(pv.ConfigError, match="returned 'L4'; allowed: Guests"):
        vm.levels  # noqa: B018
    with pytest.raises(pv.ConfigError, match="publish_levels: 5 is not allowed"):
        vm.publish_levels(5)  # type: ignore[arg-type]


def test_a_hypervisor_in_python_tells_of_its_guests_guests() -> None:
    at = RAM_BASE + 0x20_0000
    with pv.Machine(ram="32M") as vm:
        python = pv.Hypervisor(vm, memory="8M", nested=True)
        program = pv.asm(HYPERVISOR, at=at, symbols={"RAM": RAM_BASE, "ROUNDS": ROUNDS})
        python.load(program)
        assert [(level.depth, level.name) for level in vm.levels][1:] == [
            (1, "Hypervisor, written in Python"), (2, "guest of Hypervisor")]
        assert vm.levels[2].running
        assert vm.levels[2].registers["pc"] == at
        assert vm.levels[2].guests == ()
        vm.exits.start()
        vm.run(until=pv.at(program.symbols["two"]))
        outer, inner = vm.levels[2:]
        assert outer.guests[0].name == inner.name == f"VMID 2 @{program.symbols['root']:#x}"
        assert (outer.running, outer.registers, outer.csrs, inner.running) == (False, UNKNOWN, UNKNOWN, True)
        assert inner.registers["pc"] == program.symbols["two"]
        assert (inner.depth, inner.vmid, inner.mode) == (3, 2, "Sv39x4")
        # By the guest's own addresses, through the tables of its hypervisor, and those of Python's.
        assert inner.mem.read(at, 64) == outer.mem.read(at, 64) == bytes(program)[:64]
        inner.mem.u64[RAM_BASE + 0x40_0000] = 77
        assert outer.mem.u64[RAM_BASE + 0x40_0000] == 77
        with pytest.raises(pv.GuestAddressError, match="gpa 0x40 is not mapped under hgatp"):
            inner.mem.read(64, 4)
        vm.run()
        inner, = (level for level in vm.levels if level.depth == 3)
        assert inner.vcpus[0].state == "loaded"
        seen = inner.seen
        assert seen
        assert seen.entries > 0
        assert {row.cause for row in inner.exits} >= {10}


def test_a_publisher_without_end_comes_to_one(vm: pv.Machine) -> None:
    vm.run(until=pv.at(vm.symbols["two"]))
    vm.publish_levels(lambda level: [pv.Guest(name="one more")])
    assert vm.levels[-1].depth == 16


def test_unknown_is_false_and_one() -> None:
    assert not UNKNOWN
    assert repr(UNKNOWN) == "unknown"
    assert pickle.loads(pickle.dumps(UNKNOWN)) is copy.deepcopy(UNKNOWN) is UNKNOWN


@pytest.mark.slow
def test_kvm_in_linux(guest: Callable[[str], Path], tmp_path: Path) -> None:
    """Debian's KVM with a small guest: its exits by cause, and the guest among the levels."""
    with pv.Machine() as vm:
        vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-nest.cpio.zst"),
                cmdline="console=ttyS0 quiet cryptomgr.notests mods=kvm run=/root/kvmrun.sh")
        faults: list[pv.Trap] = []
        vm.on_trap(faults.append, from_=["VS", "VU"], cause="store guest-page fault")
        with vm.trace() as trace:
            vm.run(until=pv.trap(10), timeout=100)
            level, = vm.levels.guests
            assert (level.vmid, level.mode, level.running) == (1, "Sv57x4", False)
            trap = trace.records[-1]
            assert isinstance(trap, pv.Trap)
            assert (trap.level, trap.hgatp, trap.name) == (2, level.hgatp, "ecall from VS")
            # The guest's code, by its own addresses: the instruction that trapped.
            assert level.mem.u32[vm.hart.walk(trap.pc, world="VS", access="fetch").gpa or 0] == 0x73
            vm.run(until="KVMRUN-OK", timeout=100)
        rows = {row.name: row for row in vm.exits.rows if row.level == 2}
        assert set(rows) == {"store guest-page fault", "ecall from VS", "supervisor timer interrupt",
                             "virtual instruction", "instruction guest-page fault"}
        assert rows["ecall from VS"].count > 1000
        assert rows["store guest-page fault"].count == len(faults) > 1000
        assert all(300 < row.mean < 200_000 for row in rows.values())
        assert {trap.hgatp for trap in faults} == {level.hgatp}
        path = trace.save(tmp_path / "kvm.json")
        assert "level 2, VMID 1" in path.read_text()
