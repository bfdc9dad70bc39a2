"""`snap.map` on threads and on process pools, and the page store by which snapshots cross to other processes."""
from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.history import pagestore
from pyvirt.history.snapmap import Shared
from tests.snapshot.guests import busy, sectors, writer

PAGE = 4096
# Of Python 3.12 and up, where a process with threads forks: the pools here do before they start any.
pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def snap() -> Iterator[pv.Snapshot]:
    with busy() as vm:
        vm.run(instructions=40_000)
        found = vm.snapshot("busy")
        yield found
        found.delete()      # pytest still holds it when leaks are counted


def typed(vm: pv.Machine, text: str) -> tuple[str, str]:
    vm.console.send(text)
    vm.run(until=f"[{text[-1]}]")
    return vm.console.text, vm.digest()


def crossed(vm: pv.Machine, wait: float) -> tuple[int, int, str]:
    """Return who ran it, how many pages have come to that process, and the digest."""
    time.sleep(wait)
    return os.getpid(), pagestore.crossed(), vm.digest()


class Trouble(Exception):
    pass


def odd(vm: pv.Machine, n: int) -> int:
    if n % 2:
        raise Trouble(n)
    vm.run(instructions=1000)
    return n


# -- threads
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_results_come_in_the_order_of_the_inputs(snap: pv.Snapshot, workers: int | None) -> None:
    before = snap.digest
    inputs = [f"{chr(97 + k)}{k % 10}" for k in range(12)]
    found = snap.map(typed, iter(inputs), workers=workers)
    assert [text for text, _ in found] == [f"UP\n[{a}][{b}]" for a, b in inputs]
    for text, (_, digest) in zip(inputs, found, strict=True):
        with snap.fork() as fork:
            assert typed(fork, text)[1] == digest
    assert snap.digest == before
    assert snap.map(typed, []) == []


def test_machines_are_closed_after_use(snap: pv.Snapshot) -> None:
    machines: list[pv.Machine] = []
    snap.map(lambda vm, n: machines.append(vm), range(5))
    assert len(machines) == 5
    assert all(vm.closed for vm in machines)
    machines.clear()


def test_the_first_input_that_fails_is_told_and_the_rest_does_not_run(snap: pv.Snapshot) -> None:
    started: list[int] = []
    machines: list[pv.Machine] = []
    late = threading.Event()

    def work(vm: pv.Machine, n: int) -> int:
        started.append(n)
        machines.append(vm)
        if n == 0:
            assert late.wait(30)    # fails after input 1 has
            raise Trouble("zero")
        if n == 1:
            late.set()
            raise Trouble("one")
        vm.run()                    # never ends by itself
        return n

    with pytest.raises(Trouble, match="zero") as caught:
        snap.map(work, range(100), workers=3)
    assert caught.value.__notes__ == ["snap.map: raised for input 0: 0"]
    assert len(started) < 10
    assert all(vm.closed for vm in machines)
    machines.clear()
    del caught


def test_stopping_waits_for_no_one_who_runs_again_and_again(snap: pv.Snapshot) -> None:
    ready = threading.Event()

    def work(vm: pv.Machine, n: int) -> None:
        if n == 0:
            assert ready.wait(30)
            raise Trouble
        for _ in range(5):
            ready.set()
            vm.run()

    with pytest.raises(Trouble):
        snap.map(work, range(2), workers=2)


def test_an_exception_is_the_one_that_was_raised(snap: pv.Snapshot) -> None:
    error = Trouble("mine")

    def work(vm: pv.Machine, text: str) -> None:
        raise error

    with pytest.raises(Trouble) as caught:
        snap.map(work, ["x" * 1000])
    assert caught.value is error
    assert caught.value.__notes__[0].startswith("snap.map: raised for input 0: 'xxx")
    assert len(caught.value.__notes__[0]) < 100
    del caught


def test_ctrl_c_stops_the_machines(snap: pv.Snapshot) -> None:
    class Interrupted(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if args[0] == 3:
                raise KeyboardInterrupt
            return super().submit(fn, *args, **kwargs)

    with Interrupted(2) as executor, pytest.raises(KeyboardInterrupt):
        snap.map(lambda vm, n: vm.run(), range(9), executor=executor)


def test_entropy_of_its_own_for_each_input(snap: pv.Snapshot) -> None:
    def identity(vm: pv.Machine, n: int) -> int:
        return vm.bus.read(0x10_2000, 8)

    assert len(set(snap.map(identity, range(4)))) == 1
    assert len(set(snap.map(identity, range(4), entropy="fresh"))) == 4
    seeded = snap.map(identity, range(4), entropy=5)
    assert snap.map(identity, range(4), entropy=5, workers=1) == seeded
    assert len(set(seeded)) == 4
    forks = snap.forks(4, entropy=5)
    assert [identity(fork, 0) for fork in forks] == seeded
    for fork in forks:
        fork.close()


def test_refused(snap: pv.Snapshot) -> None:
    with pytest.raises(pv.ConfigError, match="map: fn is 7; allowed: a callable"):
        snap.map(7, [])  # type: ignore[arg-type]
    with pytest.raises(pv.ConfigError, match="map: executor is 'x'; allowed: None for threads, or an Executor"):
        snap.map(odd, [], executor="x")  # type: ignore[arg-type]
    with pytest.raises(pv.ConfigError, match="map: workers: 0 is not allowed"):
        snap.map(odd, [], workers=0)
    with ThreadPoolExecutor(1) as executor, pytest.raises(pv.ConfigError, match="map: workers is 2 beside an executor"):
        snap.map(odd, [], executor=executor, workers=2)
    with pytest.raises(pv.ConfigError, match="entropy: 'other'"):
        snap.map(odd, [], entropy="other")
    snap.delete()
    for act in (lambda: snap.map(odd, [1]), lambda: snap.share()):
        with pytest.raises(pv.ClosedError, match="snapshot busy was deleted"):
            act()


# -- processes
@pytest.fixture(params=["spawn", "fork"])
def pool(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(request.param)) as executor:
        yield executor


def test_on_a_process_pool_a_page_crosses_once(snap: pv.Snapshot, pool: Executor) -> None:
    wanted = snap.digest
    pages = len({snap._held().root.read(page << 12, PAGE) for page in snap._held().root.pages()})
    resident = len(list(snap._held().root.pages()))
    found = snap.map(crossed, [0.05] * 12, executor=pool)
    assert {digest for _, _, digest in found} == {wanted}
    assert {count for _, count, _ in found} == {resident}       # of each worker, all of the time
    assert 1 <= len({pid for pid, _, _ in found}) <= 2
    assert snap._shared is not None
    store = snap._shared.store
    assert store.pages == pages
    # Another snapshot of the same machine: what differs crosses, once.
    with snap.fork() as vm:
        vm.run(instructions=5000)
        later = vm.snapshot()
    changed = len(snap._held().root.diff(later._held().root))
    assert 0 < changed < resident
    found = later.map(crossed, [0.05] * 12, executor=pool)
    assert {digest for _, _, digest in found} == {later.digest}
    assert {count for _, count, _ in found} <= {resident, resident + changed}   # the first: who had nothing before
    assert later._shared is not None
    assert later._shared.store is store
    assert store.pages <= pages + changed
    del later


def test_the_same_results_as_in_threads(snap: pv.Snapshot, pool: Executor) -> None:
    inputs = ["a", "bc", "def", "a"]
    assert snap.map(typed, inputs, executor=pool) == snap.map(typed, inputs)
    with pytest.raises(Trouble, match="3") as caught:
        snap.map(odd, [0, 2, 3, 4, 5], executor=pool)
    assert caught.value.__notes__[-1] == "snap.map: raised for input 2: 3"
    del caught


def test_a_machine_with_a_disk_on_a_process_pool(tmp_path: Path, pool: Executor) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 20))
    with writer(path) as vm:
        vm.run(instructions=50_000)
        snap, content = vm.snapshot(), sectors(vm._disks[0])
    found = snap.map(_sectors, [0, 10_000], executor=pool)
    assert found[0] == content
    with snap.fork() as fork:
        assert found[1] == _sectors(fork, 10_000)
    del snap


def _sectors(vm: pv.Machine, instructions: int) -> list[tuple[int, int]]:
    vm.run(instructions=instructions)
    return sectors(vm._disks[0])


# -- the store
def test_the_store_goes_with_the_last_snapshot_in_it() -> None:
    with busy() as vm:
        vm.run(instructions=10_000)
        first, second = vm.snapshot(), vm.snapshot()
        paths = {first.share().path, second.share().path}
        (path,) = paths
        assert Path(path).exists()
        first.delete()
        gc.collect()
        assert Path(path).exists()
        again = pickle.loads(pickle.dumps(second.share()))
        assert again.digest == second.digest
        _forget()
    gc.collect()
    assert Path(path).exists()
    ticket = pickle.dumps(second.share())
    del second, first
    gc.collect()
    assert not Path(path).exists()
    assert again.digest         # what was mapped stays
    with pytest.raises(pv.HostError, match="the snapshot or the process that owns it is gone"):
        pickle.loads(ticket)
    del again


def _forget() -> None:
    """Let go what this process has as a worker."""
    from pyvirt.history import snapmap

    snapmap._arrived.clear()
    pagestore._stores.clear()


def test_a_pickle_of_the_snapshot_itself_needs_no_store(snap: pv.Snapshot) -> None:
    shared = snap.share()
    assert isinstance(shared, Shared)
    small, full = len(pickle.dumps(shared)), len(pickle.dumps(snap))
    assert small < 1000
    assert full > snap.size.shared
    assert "busy" in repr(shared)


def test_what_arrives_is_checked(snap: pv.Snapshot) -> None:
    ticket = snap.share().snapshot._shared
    assert ticket is not None
    _forget()
    for changes, message in (
            ({"ram": bytes(32)}, "does not hold the pages of the snapshot any more"),
            ({"key": bytes(16)}, "is another's"), ({"path": "/nowhere/at/all"}, "cannot be opened")):
        with pytest.raises(pv.HostError, match=message):
            pagestore.fetch(ticket.ticket._replace(**changes))
    arrived = pickle.loads(pickle.dumps(snap.share()))
    assert (arrived.digest, arrived.name, arrived.parent) == (snap.digest, "busy", None)
    _forget()
    del arrived
