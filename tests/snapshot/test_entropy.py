"""What `entropy=` reaches: the generation ID of the board, Linux's random numbers, the random source of virtio."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyvirt as pv
from pyvirt.devices.base import BusFault
from pyvirt.devices.vmgenid import VmGenId
from pyvirt.errors import ConfigError
from tests.devices.fakes import Bench
from tests.snapshot.linux import DISK_MODULES, boot, shell

VMGENID, IRQ = 0x10_2000, 12
URANDOM = "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '"
Choice = int | str | bytes


# -- the device
def test_the_registers_are_sixteen_bytes_that_only_a_fork_changes() -> None:
    bench = Bench(VmGenId(seed=3))
    device = bench.device
    assert isinstance(device, VmGenId)
    before = device.id
    assert b"".join(bench.read(at, 4).to_bytes(4, "little") for at in range(0, 16, 4)) == before
    assert bench.read(0, 8).to_bytes(8, "little") == before[:8]
    assert bench.read(15, 1) == before[15]
    for at, width in ((16, 1), (12, 8), (0xFF8, 8)):
        with pytest.raises(BusFault):
            bench.read(at, width)
    with pytest.raises(BusFault):
        bench.write(0, 1)
    assert device.reseed(b"one") is True
    after = device.id
    assert after != before
    state = device.state
    device.reset()
    assert device.id == before
    device.state = state
    assert device.id == after
    for bad in (b"short", 7):
        with pytest.raises(ConfigError, match=r"state\['id'\] is .*, expected 16 bytes"):
            device.state = {**state, "id": bad}
    assert device.id == after
    with pytest.raises(ConfigError, match="seed is 'x', expected an int"):
        VmGenId(seed="x")  # type: ignore[arg-type]


def pending(vm: pv.Machine) -> bool:
    return bool(vm.bus.read(0xC00_1000, 4) >> IRQ & 1)


def test_a_fork_with_entropy_has_another_id_and_an_interrupt_waiting() -> None:
    with pv.Machine(ram="1M", seed=5) as vm, pv.Machine(ram="1M", seed=6) as other:
        assert vm.bus.read(VMGENID, 8) != other.bus.read(VMGENID, 8)
        snap = vm.snapshot()
        choices: list[Choice] = ["same", "same", 1, 1, 2, b"x", "fresh", "fresh"]
        seen = []
        for choice in choices:
            with snap.fork(entropy=choice) as fork, fork.snapshot().fork() as twin:
                seen.append(fork.bus.read(VMGENID, 8) | fork.bus.read(VMGENID + 8, 8) << 64)
                assert pending(fork) is (choice != "same")
                assert pending(twin) is pending(fork)
                assert (fork.digest() == vm.digest()) is (choice == "same")
                assert twin.digest() == fork.digest()
        assert seen[0] == seen[1] == vm.bus.read(VMGENID, 8) | vm.bus.read(VMGENID + 8, 8) << 64
        assert seen[2] == seen[3]
        assert len(set(seen)) == 6
        with pytest.raises(pv.GuestAddressError):
            vm.bus.write(VMGENID, 4, 1)


def test_a_bare_board_has_no_way_for_entropy() -> None:
    with pv.Machine(board="bare", ram="1M") as vm, pytest.raises(ConfigError, match="no device by which other entropy"):
        vm.fork(entropy="fresh")


# -- Linux
@pytest.fixture(scope="module")
def prompt(guest: Callable[[str], Path]) -> Iterator[pv.Snapshot]:
    """A guest at its prompt whose numbers were asked for already, with virtio's random source as its hwrng."""
    with boot(guest, mods=DISK_MODULES, devices=[pv.VirtioRng(seed=1)]) as vm:
        shell(vm, URANDOM)
        yield vm.snapshot("prompt")


def test_linux_binds_its_driver(prompt: pv.Snapshot) -> None:
    with prompt.fork() as vm:
        assert "102000.rng" in shell(vm, "ls /sys/bus/platform/drivers/vmgenid")
        assert "vmgenid" in shell(vm, "grep vmgenid /proc/interrupts")


def test_linux_reseeds_at_once(prompt: pv.Snapshot) -> None:
    with prompt.fork(entropy=7) as vm:
        assert "crng reseeded due to virtual machine fork" in shell(vm, "dmesg")
        assert shell(vm, "grep vmgenid /proc/interrupts").split()[1] == "1"
    with prompt.fork() as vm:
        assert "virtual machine fork" not in shell(vm, "dmesg")


def test_two_forks_print_the_same_numbers_or_others(prompt: pv.Snapshot) -> None:
    choices: dict[str, Choice] = {
        "twin": "same", "twin 2": "same", "fresh": "fresh", "fresh 2": "fresh", "seed": 7, "seed again": 7, "other": 8}
    printed, digests = {}, {}
    for name, choice in choices.items():
        with prompt.fork(entropy=choice) as vm:
            # Linux asks virtio-rng for a buffer ahead: what it had before the fork comes first.
            printed[name] = shell(vm, URANDOM), shell(vm, "head -c 500 /dev/hwrng | tail -c 8 | od -An -tx1")
            digests[name] = vm.digest()
    assert printed["twin"] == printed["twin 2"]
    assert printed["seed"] == printed["seed again"]
    assert {digests["twin"]} == {digests["twin 2"]}
    assert {digests["seed"]} == {digests["seed again"]}
    assert len(set(digests.values())) == 5
    for column in (0, 1):       # the kernel's own, and the device's
        assert len({found[column] for found in printed.values()}) == 5


def test_forks_from_one_seed_are_all_different_and_repeat(prompt: pv.Snapshot) -> None:
    runs = []
    for _ in range(2):
        forks = prompt.forks(3, entropy=b"series")
        runs.append([shell(fork, URANDOM) for fork in forks])
        for fork in forks:
            fork.close()
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3
