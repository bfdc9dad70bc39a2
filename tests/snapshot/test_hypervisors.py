"""Snapshots of machines whose HS-mode software is a class in Python: each fork has one of its own, with its state."""
from __future__ import annotations

import pickle
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.devices.base import Device, Region
from tests.hyp.nested_programs import Program
from tests.hyp.test_nested import as_a_guest

pytestmark = pytest.mark.usefixtures("no_leaks")
RAM = 0x8000_0000
OFF = "\nli a7, 8; ecall"
# Touches 200 pages of a guest whose pages are mapped on demand, and calls its hypervisor for each.
TOUCH = """
        li t0, 0x80100000; li t1, 200; li t2, 4096; li a7, 0x1000
1:      sd t1, 0(t0); mv a0, t1; ecall; add s1, s1, a1
        add t0, t0, t2; addi t1, t1, -1; bnez t1, 1b
""" + OFF


class Keeps(pv.Hypervisor):
    """Keeps a sum of what its guest called with."""

    def __init__(self, vm: pv.Machine, start: int, **options: Any) -> None:
        super().__init__(vm, **options)
        self.sum = start

    def on_ecall(self, vcpu: pv.Vcpu, ext: int, fid: int, args: list[int]) -> tuple[int, int] | None:
        if ext == 0x1000:
            self.sum += args[0]
            return 0, self.sum
        return super().on_ecall(vcpu, ext, fid, args)

    def save(self) -> dict[str, Any]:
        return {"sum": self.sum}

    def restore(self, state: Any) -> None:
        self.sum = state["sum"]


class Forgetful(Keeps):
    save = pv.Hypervisor.save


class Register(Device):
    """A register of a guest's."""

    NAME = "register"
    REGIONS = (Region("register", 0x1000),)
    value = 0

    def read(self, offset: int, width: int) -> int:
        return self.value

    def write(self, offset: int, width: int, value: int) -> None:
        self.value += value

    def _save(self) -> dict[str, Any]:
        return {"value": self.value}

    def _load(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def start(**options: Any) -> pv.Machine:
    vm = pv.Machine(ram="16M")
    Keeps(vm, 5, **{"memory": "4M", "demand": True, **options}).load(pv.asm(TOUCH, at=RAM))
    return vm


def test_a_fork_has_a_hypervisor_of_its_own() -> None:
    with start() as vm, start() as plain:
        for machine in (vm, plain):
            machine.run(instructions=500)
        snap = vm.snapshot("middle")
        (own, digest) = (vm.hypervisor, vm.digest())
        assert isinstance(own, Keeps)
        middle = own.sum
        with snap.fork() as fork, fork.fork() as second:
            other = fork.hypervisor
            assert isinstance(other, Keeps)
            assert other is not own
            assert (other.machine, other.sum, fork.digest(), snap.digest) == (fork, middle, digest, digest)
            assert fork.run().kind == "poweroff"
            assert other.sum > middle == own.sum
            assert vm.digest() == digest
            assert plain.run().kind == "poweroff"
            assert second.run().kind == vm.run().kind == "poweroff"
            assert fork.digest() == second.digest() == vm.digest() == plain.digest()
            assert fork.hart.s1 == plain.hart.s1 > 0
            late = vm.snapshot()
        assert vm.restore(snap).digest() == digest
        assert (vm.hypervisor, own.sum) == (own, middle)
        assert vm.run().kind == "poweroff"
        assert vm.digest() == late.digest
        changed = snap.diff(late)
        assert changed.devices["Keeps.own.sum"][0] == middle
        assert any(name.startswith("Keeps.memory") for name in changed.devices)
        assert [vm.hypervisor.sum for vm in snap.forks(2)] == [middle] * 2  # type: ignore[union-attr]
        assert len(set(snap.map(finished, range(4), workers=2))) == 1
        del own, other, fork, second


def finished(vm: pv.Machine, n: int) -> tuple[int, str]:
    vm.run()
    assert isinstance(vm.hypervisor, Keeps)
    return vm.hypervisor.sum, vm.digest()


def test_snapshots_every_hundred_instructions_change_nothing() -> None:
    with start() as vm, start() as plain:
        plain.run()
        kept: list[pv.Snapshot] = []
        stop = vm.run(instructions=100)
        while stop.reason is not pv.StopReason.EXIT:
            kept.append(vm.snapshot())
            if len(kept) % 5 == 4:
                vm.restore(kept[-3])
            stop = vm.run(instructions=150)
        assert vm.digest() == plain.digest()
        assert len(kept) > 10
        kept.clear()


def test_the_devices_that_it_emulates_are_part_of_it() -> None:
    device = Register()
    with pv.Machine(ram="16M") as vm:
        pv.Hypervisor(vm, memory="2M", devices=[pv.Placed(device, (0x3000_0000,))]).load(
            pv.asm("li t0, 0x30000000; li t1, 3; sw t1, 0(t0); li t2, 50\n1: addi t2, t2, -1; bnez t2, 1b\n"
                   "sw t1, 0(t0); lw s1, 0(t0)" + OFF, at=RAM))
        vm.run(instructions=60)
        assert device.value == 3
        with vm.fork() as fork:
            assert fork.run().kind == "poweroff"
            assert (fork.hart.s1, device.value) == (6, 3)
        assert vm.run().kind == "poweroff"
        assert device.value == 6


def test_a_hypervisor_under_it_is_part_of_it_too() -> None:
    """Three levels: cut where the guest's guest runs and where its hypervisor does, fork, and run on."""
    whole = as_a_guest(Program(7, 12), {})
    whole.run_guest()
    wanted, levels = whole.machine.digest(), set()
    with as_a_guest(Program(7, 12), {}).machine as vm:
        while vm.icount < 2100:
            vm.run(instructions=97)
            with vm.fork() as fork:
                assert fork.hypervisor is not None
                levels.add(fork.hypervisor.vcpus[0].world[:2])
                assert fork.digest() == vm.digest()
                assert fork.run().kind == "poweroff"
                assert fork.digest() == wanted
    assert levels >= {"VS", "L2"}
    whole.machine.close()
    del whole, fork


def test_a_pickled_snapshot_has_it() -> None:
    with start() as vm:
        vm.run(instructions=500)
        snap = vm.snapshot()
        again = pickle.loads(pickle.dumps(snap))
        assert again.digest == snap.digest
        with again.fork() as fork, snap.fork() as other:
            assert finished(fork, 0) == finished(other, 0)
        del again, fork, other


def test_refused_by_name(tmp_path: Any) -> None:
    with pv.Machine(ram="16M") as vm:
        before = vm.snapshot()
        guest = Forgetful(vm, 1, memory="1M")
        guest.load(pv.asm("nop" + OFF, at=RAM))
        for act in (vm.snapshot, vm.fork):
            with pytest.raises(pv.SnapshotError, match=r"Forgetful keeps sum and has no save\(\)"):
                act()
        assert guest.run_guest().kind == "poweroff"
        with pytest.raises(pv.SnapshotError, match="restore: the snapshot has no hypervisor written in Python"):
            vm.restore(before)
        del guest
    with start() as vm, start(memory="2M") as small, pv.Machine(ram="16M") as plain:
        snap = vm.snapshot()
        for machine in (small, plain):
            with pytest.raises(pv.SnapshotError, match="restore: the snapshot has Keeps, the machine"):
                machine.restore(snap)
        with pytest.raises(pv.SnapshotError, match="save: Keeps stands in the place of HS-mode software"):
            snap.save(tmp_path / "x.pyvm")
        assert list(tmp_path.iterdir()) == []
