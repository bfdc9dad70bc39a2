"""Shells: whichever a machine gets, new, recycled or taken from another, nothing that it does depends on it."""
from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt._memory import counters
from pyvirt.devices.base import Device, Region
from pyvirt.devices.rtc import Rtc
from pyvirt.history import pool
from pyvirt.history.pool import POOL
from tests.snapshot.guests import busy, caller, mapper, sectors, writer

Make = Callable[[Path], pv.Machine]

RECIPES: dict[str, Make] = {
    "busy": lambda _: busy(),
    "busy, switch": lambda _: busy(core="switch"),
    "4 harts": lambda _: busy(harts=4),
    "4 harts, switch": lambda _: busy(harts=4, core="switch"),
    "noise": lambda _: busy(devices=[pv.VirtioRng(seed=3)]),
    "disk and noise": lambda path: writer(path, ram="8M", devices=[pv.VirtioRng(seed=3)], harts=2),
    "disk": lambda path: writer(path, ram="8M"),
    "tables": lambda _: mapper(),
    "tables, switch": lambda _: mapper(core="switch"),
    "calls": lambda _: caller(),
    "calls, switch, 2 harts": lambda _: caller(core="switch", harts=2),
    "VS-mode": lambda _: mapper(virt=True),
    "VS-mode, 2 harts": lambda _: mapper(virt=True, harts=2),
}


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Begin without shells; see that a test gives back every frame and node, though idle shells stay."""
    POOL.clear()
    gc.collect()
    before = {name: counters()[name] for name in ("frames", "nodes", "pts")}
    yield
    gc.collect()
    assert {name: counters()[name] for name in before} == before
    assert len(POOL.idle) <= pool.IDLE_MAX
    POOL.clear()


@pytest.fixture(params=RECIPES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], pv.Machine]:
    """Return what makes machines of one recipe, all alike."""
    path = tmp_path / "disk"
    path.write_bytes(random.Random(0).randbytes(1 << 20))
    return lambda: RECIPES[request.param](path)


def act(vm: pv.Machine, seed: int) -> None:
    """Do a random row of things to a machine; the same to each for one seed."""
    rng = random.Random(seed)
    for _ in range(rng.randrange(2, 7)):
        what = rng.randrange(8)
        if what < 4:
            vm.run(instructions=rng.choice((1, 50, 300, 1000, 3000, 20_000)))
        elif what == 4:
            vm.console.send(f"{rng.randrange(10)}")
        elif what == 5:
            vm.mem.u64[0x8000_0000 + 8 * rng.randrange(0x7_0000, 0x7_4000)] = rng.getrandbits(64)
        elif what == 6:
            vm.hart.s9 = rng.getrandbits(63)
            vm.hart.csr.mscratch = rng.getrandbits(63)
        else:
            vm.bus.write(0x10_1008, 4, rng.getrandbits(32))     # the alarm of the RTC: a Python device with events
            vm.bus.write(0x1000_0007, 1, rng.getrandbits(8))    # the UART's scratch register


def look(vm: pv.Machine) -> tuple[Any, ...]:
    """Return all that shows of a machine."""
    disks = [sectors(disk) for disk in vm._tenant.pin().disks] if vm.config.board != "bare" else []
    return vm.digest(), vm.icount, vm.console.text, vm.inputs, vm.ranges, vm.symbols, vm.hart.registers, disks


def home(vm: pv.Machine) -> int | None:
    """Return which shell a machine has."""
    shell = vm._tenant.shell
    return None if shell is None else id(shell)


# -- nothing shows
@pytest.mark.parametrize("seed", range(6))
def test_new_recycled_parked_and_restored_are_alike(make: Callable[[], pv.Machine], seed: int) -> None:
    with make() as plain:
        plain.run(instructions=30_000)
        act(plain, seed)
        act(plain, seed + 1)
        wanted = look(plain)
    with make() as vm:
        vm.run(instructions=30_000)
        snap = vm.snapshot()
        new = snap.fork()
        act(new, seed)
        act(new, seed + 1)
        assert look(new) == wanted
        other = snap.fork()
        act(other, seed + 50)
        shell = home(other)
        other.close()
        recycled = snap.fork()
        act(recycled, seed)
        assert home(recycled) == shell
        assert recycled._tenant.park()
        assert home(recycled) is None
        between = snap.fork()       # takes the shell, and leaves other traces in it
        act(between, seed + 60)
        assert home(between) == shell
        del between
        act(recycled, seed + 1)
        assert home(recycled) == shell
        again = recycled.fork()
        assert look(again) == look(recycled) == wanted
        act(vm, seed + 70)
        vm.restore(snap)
        act(vm, seed)
        act(vm, seed + 1)
        assert look(vm) == wanted
        for machine in (new, recycled, again):
            machine.close()


@pytest.mark.parametrize("name", ["busy", "4 harts, switch", "VS-mode"])
def test_many_machines_share_few_shells(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool, "SHELLS_MAX", 0)
    with RECIPES[name](tmp_path) as vm:
        vm.run(instructions=20_000)
        snap = vm.snapshot()
        wanted = []
        for k in range(12):
            POOL.clear()
            with snap.fork() as fork:
                for step in range(4):
                    act(fork, 10 * k + step)
                wanted.append(look(fork))
        forks = snap.forks(12)
        steps = [(k, step) for k in range(12) for step in range(4)]
        random.Random(name).shuffle(steps)
        done = dict.fromkeys(range(12), 0)
        for k, _ in steps:
            act(forks[k], 10 * k + done[k])
            done[k] += 1
        assert len(POOL.awake) <= 5
        assert sum(home(fork) is not None for fork in forks) <= 5
        assert [look(fork) for fork in forks] == wanted
        for fork in forks:
            fork.close()


@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("virt", [False, True])
@pytest.mark.parametrize("every", [16, 4096])
def test_no_translation_outlives_its_tables(core: str, virt: bool, every: int) -> None:
    """A shell goes back from detours of many lengths."""
    for warm in (6000, 9000, 30_000):       # early on there are entries that were never used
        with mapper(core=core, virt=virt, every=every) as vm:
            vm.run(instructions=warm)
            snap = vm.snapshot()
            new = snap.fork()
            digests = [(new.run(instructions=1500), new.digest()) for _ in range(3)]
            new.close()
            vm.run(instructions=20_000)
            for detour in range(50, 2000, 150):
                with snap.fork() as other:
                    other.run(instructions=detour)
                    shell = home(other)
                with snap.fork() as fork:
                    assert [(fork.run(instructions=1500), fork.digest()) for _ in range(3)] == digests
                    assert home(fork) == shell
                vm.restore(snap).run(instructions=detour)
                vm.restore(snap)
                assert [(vm.run(instructions=1500), vm.digest()) for _ in range(3)] == digests


@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("guest", [caller, mapper, busy])
def test_going_from_any_moment_to_any_other(guest: Callable[..., pv.Machine], core: str) -> None:
    """Moments of two branches, visited at random, by a machine and by forks in one shell."""
    rng = random.Random(core)
    with guest(core=core) as vm:
        vm.run(instructions=8000)
        snaps, wanted = [], []
        for k in range(12):
            if k == 6:
                vm.restore(snaps[1])
                vm.hart.s5 = 1234567
            snaps.append(vm.snapshot())
            POOL.clear()
            digests = []
            with snaps[-1].fork() as fork:
                for _ in range(4):
                    fork.run(instructions=250)
                    digests.append(fork.snapshot().digest)
                    fork._tenant.park()
            del fork
            wanted.append(digests)
            vm.run(instructions=rng.randrange(100, 900))
        for _ in range(150):
            k, step = rng.randrange(12), rng.randrange(4)
            vm.restore(snaps[k]).run(instructions=250 * (step + 1))
            with snaps[k].fork() as fork:
                fork.run(instructions=250 * (step + 1))
                if rng.randrange(3) == 0:
                    assert vm.digest() == fork.digest() == wanted[k][step]
            if rng.randrange(4) == 0:
                assert vm.digest() == wanted[k][step]
        del fork


def test_going_to_a_saved_moment_whose_tables_are_still_in_the_file(tmp_path: Path) -> None:
    with mapper() as vm:
        vm.run(instructions=20_000)
        vm.snapshot().save(tmp_path / "saved")
        vm.run(instructions=1500)
        wanted = vm.digest()
        for detour in (0, 100, 700):
            vm.run(instructions=detour)
            vm.restore(pv.Snapshot.load(tmp_path / "saved"))
            vm.run(instructions=1500)
            assert vm.digest() == wanted


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_no_code_outlives_its_tables(core: str) -> None:
    with caller(core=core) as vm:
        vm.run(instructions=6000)
        for moment in range(12):
            vm.run(instructions=333)
            snap = vm.snapshot()
            new = snap.fork()
            digests = [(new.run(instructions=400), new.hart.s6) for _ in range(6)]
            new.close()
            for detour in range(50, 1500, 97):
                with snap.fork() as other:
                    other.run(instructions=detour)
                with snap.fork() as fork:
                    assert [(fork.run(instructions=400), fork.hart.s6) for _ in range(6)] == digests, (moment, detour)


CALLER = """
1:      li a7, 1                # SBI: put a character
        li a0, 'k'
        ecall
        addi s4, s4, 1
        andi t0, s4, 7
        bnez t0, 1b
        rdtime a0
        addi a0, a0, 5
        li a7, 0                # and set the timer
        ecall
        j 1b
"""
HOST = """
        la t0, tohost
        li t1, 0x101000000000041
1:      sd t1, 0(t0)            # print "A"
        addi s4, s4, 1
        j 1b
        .balign 8
tohost: .dword 0
"""


def test_strangers_of_one_recipe_share_shells() -> None:
    """Machines that firmware, a host interface or nobody serves are made alike, but for what serves them."""
    machines = [busy(), pv.Machine(ram="8M").load(kernel=pv.asm(CALLER, at=0x8020_0000)),
                pv.Machine(ram="8M").load(pv.asm(HOST))]
    snaps, wanted = [], []
    for vm in machines:
        vm.run(instructions=5000)
        snaps.append(vm.snapshot())
        vm.run(instructions=3000)
        wanted.append(look(vm))
    with snaps[0].fork() as first:
        first.run(instructions=1)
        shell = home(first)
    for k in [1, 2, 1, 0, 2, 0, 1]:
        with snaps[k].fork() as fork:
            fork.run(instructions=3000)
            assert home(fork) == shell
            found = fork.digest(), fork.icount, fork.console.text, fork.inputs, fork.ranges, fork.symbols
            assert found == wanted[k][:6]
    for vm in machines:
        vm.close()
    del fork, first, vm


def test_a_fork_that_nobody_looks_at_has_no_shell() -> None:
    with busy() as vm:
        vm.run(instructions=10_000)
        snap = vm.snapshot()
        forks = snap.forks(50)
        assert all(home(fork) is None for fork in forks)
        assert {repr(fork) for fork in forks} == {repr(vm)}
        assert {fork.console.text for fork in forks} == {"UP\n"}
        twin = forks[0].fork()              # of one that has no shell either
        node = forks[0].snapshot("node")
        assert (home(twin), home(forks[0])) == (None, None)
        assert node.digest == twin.digest() == vm.digest()
        assert forks[1].hart.pc == vm.hart.pc
        assert home(forks[1]) is not None
        for fork in (*forks, twin):
            fork.close()


# -- what stays with its machine
class Notes(Device):
    """A device that keeps more than its state."""

    NAME = "notes"
    REGIONS = (Region("notes", 0x1000),)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.value = 0

    def read(self, offset: int, width: int) -> int:
        return self.value

    def write(self, offset: int, width: int, value: int) -> None:
        self.value = value
        self.seen.append(value)

    def _save(self) -> dict[str, Any]:
        return {"value": self.value}

    def _load(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def test_objects_in_the_users_hands_stay_with_their_machine() -> None:
    with busy() as vm:
        snap = vm.snapshot()
        fork = snap.fork()
        uart = fork.devices[5]
        shell = home(fork)
        assert not fork._tenant.park()
        del fork
        with snap.fork() as other:
            other.run(instructions=1000)
            assert home(other) != shell
            assert all(device is not uart for device in other.devices)
        hooked = snap.fork()
        hook = hooked.on_trap(lambda trap: None)
        hooked.run(instructions=5000)
        assert hook.calls > 0
        assert not hooked._tenant.park()
        hooked.close()


def test_a_device_that_holds_more_than_its_state_keeps_it() -> None:
    with busy(devices=[Notes(), pv.VirtioConsole()]) as vm:
        snap = vm.snapshot()
        fork = snap.fork()
        fork.bus.write(0x1100_0000, 4, 7)
        assert not fork._tenant.park()
        notes = fork.devices[-1]
        assert isinstance(notes, Notes)
        assert notes.seen == [7]
        shell = home(fork)
        fork.close()
        with snap.fork() as other:
            other.run(instructions=10)
            assert home(other) != shell


def test_output_of_a_virtio_console_waits_for_whoever_drains_it() -> None:
    with pv.Machine(ram="8M", devices=[pv.VirtioConsole()]) as vm:
        snap = vm.snapshot()
        with snap.fork() as fork:
            fork.run(instructions=1)
            card = next(device for device in fork._tenant.shell.board.devices  # type: ignore[union-attr]
                        if isinstance(device, pv.VirtioConsole))
            card._emit(b"said")
            assert not fork._tenant.park()
            assert card.drain() == b"said"
            assert fork._tenant.park()


def test_python_devices_that_changed_are_put_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    puts: list[int] = []

    def put(self: Rtc, state: dict[str, Any], load: Any = Rtc._load) -> None:
        puts.append(1)
        load(self, state)

    monkeypatch.setattr(Rtc, "_load", put)
    with busy() as vm:
        vm.run(instructions=10_000)
        snap = vm.snapshot()

        def count(use: Callable[[pv.Machine], object]) -> int:
            del puts[:]
            with snap.fork() as fork:
                use(fork)
            return len(puts)

        assert count(lambda fork: fork.run(instructions=1000)) == 1     # in a shell made for it
        assert count(lambda fork: fork.run(instructions=1000)) == 0
        assert count(lambda fork: fork.bus.write(0x10_1008, 4, 200)) == 0
        assert count(lambda fork: fork.run(instructions=1000)) == 1     # what the last one did
        alarm = vm.fork()
        alarm.bus.write(0x10_1010, 4, 1)
        when = alarm.bus.read(0x10_1000, 4) + (alarm.bus.read(0x10_1004, 4) << 32) + 10_000     # in 10,000 instructions
        alarm.bus.write(0x10_100C, 4, when >> 32)
        alarm.bus.write(0x10_1008, 4, when & 0xFFFF_FFFF)
        armed = alarm.snapshot()
        for _ in range(3):      # the alarm goes off in the shell: by an event, not an access
            with armed.fork() as fork:
                assert fork.bus.read(0x10_1018, 4) == 1
                fork.run(instructions=20_000)
                assert fork.bus.read(0x10_1018, 4) == 0
            with armed.fork() as fork:
                fork.run(instructions=20_000)
        alarm.close()


# -- failures
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, ValueError])
def test_a_failure_in_the_middle_of_waking_leaves_the_fork_as_it_was(error: type[BaseException],
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    with busy() as vm:
        vm.run(instructions=10_000)
        snap = vm.snapshot()
        with snap.fork() as first:
            act(first, 1)
            wanted = first.digest()

        def fail(self: Rtc, state: dict[str, Any]) -> None:
            raise error("planted")

        with snap.fork() as fork:
            act(fork, 1)
            fork.bus.write(0x10_1008, 4, 99)
        fork = snap.fork()
        with monkeypatch.context() as patch:
            patch.setattr(Rtc, "_load", fail)
            for use in (lambda: fork.run(instructions=5), lambda: fork.hart.pc, lambda: fork.mem[0x8000_0000],
                        lambda: fork.console.send("x")):
                with pytest.raises(error, match="planted"):
                    use()
                assert home(fork) is None
        assert fork.inputs == ()
        act(fork, 1)
        assert fork.digest() == wanted
        fork.close()


@pytest.mark.parametrize("pinned", [False, True])
def test_a_failure_in_the_middle_of_a_restore_changes_nothing(pinned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with busy() as vm:
        vm.run(instructions=10_000)
        snap = vm.snapshot()
        vm.console.send("y")
        vm.run(instructions=10_000)
        vm.bus.write(0x10_1008, 4, 99)
        if pinned:
            assert vm.devices
        before = look(vm) if pinned else (vm.digest(), vm.icount, vm.console.text, vm.inputs)
        calls = []

        def fail(self: Rtc, state: dict[str, Any], load: Any = Rtc._load) -> None:
            calls.append(state)
            if len(calls) == 1:
                raise KeyboardInterrupt("planted")
            load(self, state)

        with monkeypatch.context() as patch:
            patch.setattr(Rtc, "_load", fail)
            with pytest.raises(KeyboardInterrupt, match="planted"):
                vm.restore(snap)
        assert (look(vm) if pinned else (vm.digest(), vm.icount, vm.console.text, vm.inputs)) == before
        assert vm.restore(snap).digest() == snap.digest


def test_a_machine_that_can_be_neither_here_nor_there_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with busy() as vm:
        snap = vm.snapshot()
        vm.bus.write(0x10_1008, 4, 99)
        assert vm.devices
        monkeypatch.setattr(Rtc, "_load", lambda self, state: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            vm.restore(snap)
        with pytest.raises(pv.ClosedError):
            vm.run()


def test_a_device_whose_state_fails_is_not_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SHELLS_MAX", 0)
    with busy() as vm:
        snap = vm.snapshot()
        forks = snap.forks(10)
        for fork in forks:
            fork.run(instructions=100)
        forks[-1].bus.write(0x10_1008, 4, 99)
        shell = forks[-1]._tenant.shell
        card = next(device for device in shell.board.devices if isinstance(device, Rtc))  # type: ignore[union-attr]
        with monkeypatch.context() as patch:
            patch.setattr(Rtc, "_save", lambda self, save=Rtc._save: 1 // 0 if self is card else save(self))
            for fork in forks[:9]:
                fork.run(instructions=100)
            assert home(forks[-1]) is not None
            with pytest.raises(ZeroDivisionError):
                forks[-1].snapshot()
        forks[-1].run(instructions=100)
        for fork in forks:
            fork.close()


# -- lives
def test_forks_outlive_parent_and_snapshots_in_shells_of_others() -> None:
    with busy() as vm:
        vm.run(instructions=10_000)
        snap = vm.snapshot()
        forks = snap.forks(6)
        for k, fork in enumerate(forks[:3]):
            act(fork, k)
        with vm.fork() as twin:
            act(twin, 5)
            wanted = twin.digest()
        snap.delete()
    del vm, snap, twin
    gc.collect()
    for k, fork in enumerate(forks[3:]):
        act(fork, k)
    assert [fork.digest() for fork in forks[:3]] == [fork.digest() for fork in forks[3:]]
    late = forks[0].fork()
    for fork in forks:
        fork.close()
    del forks, fork
    assert late.digest()
    act(late, 6)
    assert late.digest() != wanted
    late.close()


def test_thousands_of_forks_come_and_go() -> None:
    with busy() as vm:
        vm.run(instructions=20_000)
        snap = vm.snapshot()
        held = counters()
        for k in range(3000):
            fork = snap.fork()
            if k % 3:
                fork.run(instructions=300)
            if k % 2:
                fork.close()
            del fork
            if k % 500 == 0:
                gc.collect()
                assert {n: counters()[n] for n in ("frames", "nodes")} == {n: held[n] for n in ("frames", "nodes")}
        for _ in range(300):
            vm.fork().run(instructions=300)
            vm.run(instructions=10)
        assert len(POOL.awake) <= 1 + len(POOL.idle)
        own = snap.size.own
        assert own > 0      # though idle shells hold its pages as well, until it goes
        frames = counters()["frames"]
        snap.delete()
        assert frames - counters()["frames"] == own // 4096


def test_an_idle_shell_keeps_no_disk_open(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    before = set(open_files())
    with writer(path) as vm:
        vm.run(instructions=5000)
        with vm.snapshot().fork() as fork:
            fork.run(instructions=5000)
        assert set(open_files()) != before
    del vm, fork
    gc.collect()
    assert POOL.idle
    assert set(open_files()) == before


def open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except OSError:
            continue    # the folder's own
    return [name for name in found if "disk" in name]


def test_a_memory_limit_goes_with_its_machine() -> None:
    with busy(memory_limit="100K") as vm:
        snap = vm.snapshot()
        with busy() as unlimited:
            assert unlimited.run(instructions=40_000).reason is pv.StopReason.INSTRUCTIONS
        stops = []
        for _ in range(3):
            with snap.fork() as fork:
                stops.append(fork.run(instructions=40_000))
                if stops[-1].reason is pv.StopReason.MEMORY:
                    assert fork._tenant.park()
                    assert fork.run(instructions=40_000) == stops[-1]
                    fork.memory_limit = None
                    assert fork._tenant.park()
                    assert fork.run(instructions=100).reason is pv.StopReason.INSTRUCTIONS
        assert {stop.reason for stop in stops} == {pv.StopReason.MEMORY}
        assert len(set(stops)) == 1


# -- threads
def test_two_threads_fork_look_and_drop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SHELLS_MAX", 0)
    with busy() as vm:
        vm.run(instructions=20_000)
        snap = vm.snapshot()
        wanted = {}
        for k in range(8):
            with snap.fork() as fork:
                act(fork, k)
                wanted[k] = fork.digest(), fork.hart.a0, fork.mem.u64[0x8010_0000]
        wrong: list[object] = []
        shared = snap.forks(24)

        def work(number: int) -> None:
            rng = random.Random(number)
            try:
                for _ in range(60):
                    k = rng.randrange(8)
                    fork = snap.fork()
                    act(fork, k)
                    twin = fork.fork()
                    for machine in (twin, fork):
                        found = machine.digest(), machine.hart.a0, machine.mem.u64[0x8010_0000]
                        if found != wanted[k]:
                            wrong.append((k, found))
                    if rng.randrange(2):
                        fork.close()
                    # Machines that the other thread looks at too: they lose and get shells all the time.
                    for machine in rng.sample(shared, 6):
                        if machine.hart.s4 != vm.hart.s4 or machine.icount != snap.icount:
                            wrong.append(machine)
                        machine.mem.u32[0x8070_0000 + 4 * number] = 5
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert {fork.mem.u32[0x8070_0000] for fork in shared} <= {0, 5}
        assert {fork.hart.registers["pc"] for fork in shared} == {vm.hart.pc}
        while shared:
            shared.pop().close()


def test_stop_and_close_reach_the_machine_they_are_meant_for() -> None:
    loop = pv.asm("1: addi a0, a0, 1\nj 1b")
    with pv.Machine(ram="8M").load(loop) as vm:
        snap = vm.snapshot()
        fork = snap.fork()
        thread = threading.Thread(target=fork.run)
        thread.start()
        while fork._tenant.thread is None:
            time.sleep(0.001)
        with pytest.raises(pv.MachineBusy, match="running"):
            fork.close()
        with pytest.raises(pv.MachineBusy, match="only stop"):
            fork.hart.a0  # noqa: B018
        assert not fork._tenant.park()
        fork.stop()
        thread.join()
        fork.stop()         # at rest: no notice
        fork.close()
        with snap.fork() as other:
            assert other.run(instructions=1000).reason is pv.StopReason.INSTRUCTIONS


def test_typing_to_a_machine_that_is_gone() -> None:
    console = busy().console
    gc.collect()
    with pytest.raises(pv.ClosedError, match="this machine is gone"):
        console.send("x")


def test_a_shell_whose_run_was_broken_off_serves_nobody_else() -> None:
    with busy() as vm:
        vm.run(instructions=5_000)
        here = vm.snapshot()
    fork = here.fork()
    with pytest.raises(LookupError, match="mine"):
        fork.run(until=pv.when(_raise, every=1_000))
    with fork._tenant as shell:
        assert not shell.bare
    fork.run(instructions=5_000)
    other = here.fork()
    other.run(instructions=fork.icount - here.icount)
    assert fork.digest() == other.digest()      # the machine itself goes on as it should
    fork.close()
    assert shell not in POOL.idle.values()
    other.close()
    here.delete()


def _raise(vm: pv.Machine) -> bool:
    raise LookupError("mine")
