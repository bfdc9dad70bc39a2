"""Forks: twins to the bit, apart from then on, alive on their own, in parallel, and with entropy of their own."""
from __future__ import annotations

import gc
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyvirt as pv
from pyvirt._memory import counters
from tests.snapshot.guests import busy, sectors, writer

RNG = 0x1000_1000
STAGES = ["booted", "restored", "forked", "fork of a fork", "loaded", "loaded from an increment"]


def at_stage(stage: str, boot: Callable[[], pv.Machine]) -> pv.Machine:
    """Return a machine at the same moment, come by in one of several ways."""
    vm = boot()
    if stage == "restored":
        snap = vm.snapshot()
        vm.console.send("something else\n")
        vm.run(instructions=50_000)
        vm.restore(snap)
    elif stage == "forked":
        fork = vm.fork()
        vm.run(instructions=10_000)
        vm.close()
        vm = fork
    elif stage.startswith("loaded"):
        with tempfile.TemporaryDirectory() as folder:
            path, parent = Path(folder) / "a.pyvm", None
            if stage != "loaded":
                parent = Path(folder) / "parent.pyvm"
                with vm.fork() as fork:
                    fork.run(instructions=20_000)
                    fork.snapshot().save(parent)
            vm.snapshot().save(path, parent=parent)
            vm.close()
            vm = pv.Snapshot.load(path).fork()      # the file is open, and may go
    elif stage == "fork of a fork":
        fork = vm.snapshot().fork()
        vm.close()
        vm = fork.snapshot().fork()
        fork.console.send("something else\n")
        fork.run(instructions=10_000)
        fork.close()
    return vm


def boot() -> pv.Machine:
    vm = busy()
    vm.run(instructions=40_000)
    return vm


@pytest.fixture(params=STAGES)
def vm(request: pytest.FixtureRequest) -> Iterator[pv.Machine]:
    with at_stage(request.param, boot) as machine:
        yield machine


@pytest.fixture(scope="module")
def plain() -> Iterator[pv.Machine]:
    with boot() as machine:
        yield machine


# -- the ladder
def test_the_digest_is_the_same_on_every_rung(vm: pv.Machine, plain: pv.Machine) -> None:
    assert (vm.digest(), vm.icount, vm.console.text) == (plain.digest(), plain.icount, plain.console.text)


def test_every_rung_behaves_alike(vm: pv.Machine) -> None:
    with boot() as other:
        for machine in (vm, other):
            machine.console.send("hi")
            machine.run(until="[i]")
            machine.run(instructions=30_000)
        assert vm.digest() == other.digest()
        assert vm.console.text == other.console.text == "UP\n[h][i]"
        assert vm.inputs == other.inputs
        assert vm.hart.s7 > 10          # the timer goes on
        vm.mem[0x8000_0000:0x8000_0004] = bytes.fromhex("6f000000")
        vm.hart.pc = 0x8000_0000
        vm.hart.csr.mie = 0
        vm.run(instructions=100)
        assert vm.hart.pc == 0x8000_0000


# -- apart
def test_each_fork_answers_its_own_and_the_parent_stays() -> None:
    with boot() as vm:
        before = vm.digest()
        snap = vm.snapshot()
        forks = snap.forks(20)
        for k, fork in enumerate(forks):
            fork.console.send(f"{chr(97 + k)}.")
        for k, fork in enumerate(forks):
            fork.run(until="[.]")
            assert fork.console.text == f"UP\n[{chr(97 + k)}][.]"
        assert len({fork.digest() for fork in forks}) == 20
        assert vm.digest() == before == snap.digest
        for fork in forks:
            fork.close()


def test_forks_and_snapshots_outlive_their_machine(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    with writer(path) as vm:
        vm.run(instructions=30_000)
        snap, fork, digest, content = vm.snapshot(), vm.fork(), vm.digest(), sectors(vm._disks[0])
    del vm
    gc.collect()
    path.unlink()
    with fork, snap.fork() as other:
        assert fork.digest() == other.digest() == digest == snap.digest
        assert sectors(fork._disks[0]) == content
        fork.run(instructions=30_000)
        assert sectors(fork._disks[0]) != content
        assert sectors(other._disks[0]) == content
        other.run(instructions=30_000)
        assert other.digest() == fork.digest()


def test_what_is_dropped_comes_back() -> None:
    gc.collect()
    before = {name: counters()[name] for name in ("frames", "nodes", "pts")}
    with boot() as vm:
        snap = vm.snapshot()
        held = counters()["frames"]
        for _ in range(30):
            with snap.fork() as fork:
                fork.run(instructions=2000)
        for _ in range(5):
            snap.fork().run(instructions=2000)     # not closed
        gc.collect()
        assert counters()["frames"] == held
        forks = snap.forks(3)
        for fork in forks:
            fork.run(instructions=2000)
        snap.delete()
        assert len({fork.digest() for fork in forks}) == 1
        for fork in forks:
            fork.close()
    del fork, forks
    gc.collect()
    assert {name: counters()[name] for name in before} == before


def test_a_fork_has_the_options_of_its_machine() -> None:
    with busy(core="switch", memory_limit="4M", isa="rv64gc", harts=2, seed=7) as vm:
        vm.run(instructions=10_000)
        with vm.fork() as fork:
            assert (fork.core, fork.memory_limit, fork.config) == (vm.core, 4 << 20, vm.config)
            for machine in (vm, fork):
                machine.run(instructions=20_000)
            assert vm.digest() == fork.digest()


# -- entropy
def draw(vm: pv.Machine) -> bytes:
    """Have the rng device, whose queue the host sets up as a driver would, fill 32 bytes."""
    at = 0x8070_0000
    vm.mem[at:at + 0x3000] = bytes(0x3000)
    vm.mem.u64[at], vm.mem.u32[at + 8], vm.mem.u16[at + 12] = at + 0x2800, 32, 2
    vm.mem.u16[at + 0x1002] = 1
    for offset, value in ((0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x38, 8), (0x80, at),
                          (0x90, at + 0x1000), (0xA0, at + 0x2000), (0x44, 1), (0x70, 15), (0x50, 0)):
        vm.bus.write(RNG + offset, 4, value)
    return bytes(vm.mem[at + 0x2800:at + 0x2820])


def test_entropy() -> None:
    with busy(devices=[pv.VirtioRng(seed=5)]) as vm:
        snap = vm.snapshot()
        numbers = {}
        choices: dict[str, int | str | bytes] = {
            "twin": "same", "twin 2": "same", "fresh": "fresh", "fresh 2": "fresh", "seed": 7, "seed again": 7,
            "other seed": 8, "bytes": b"x"}
        for name, entropy in choices.items():
            with snap.fork(entropy=entropy) as fork:
                assert [i.kind for i in fork.inputs] == ([] if entropy == "same" else ["entropy"])
                numbers[name] = draw(fork)
        assert draw(vm) == numbers["twin"] == numbers["twin 2"]
        assert numbers["seed"] == numbers["seed again"]
        assert len(set(numbers.values())) == 6
        several: tuple[tuple[int | str, int], ...] = (("same", 1), (3, 4), ("fresh", 4))
        for entropy, different in several:
            forks = snap.forks(4, entropy=entropy)
            assert len({draw(fork) for fork in forks}) == different
            for fork in forks:
                fork.close()


# -- in parallel
def parallel(snap: pv.Snapshot, instructions: int, *, times: int = 3) -> list[str]:
    """Run forks in two threads, several in each, and return their digests."""
    digests: list[str] = []

    def work() -> None:
        for _ in range(times):
            with snap.fork() as fork:
                fork.run(instructions=instructions)
                digests.append(fork.digest())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return digests


def test_forks_run_in_parallel_threads() -> None:
    """Forks of one parent decode, link and modify the code they share, at the same time."""
    with boot() as vm:
        snap = vm.snapshot()
        with snap.fork() as fork:
            fork.run(instructions=300_000)
            wanted = fork.digest()
        for _ in range(4):
            assert parallel(snap, 300_000) == [wanted] * 6
            with snap.fork() as fork:
                snap = fork.snapshot()      # now with what they decoded
