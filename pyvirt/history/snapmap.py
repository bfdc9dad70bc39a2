"""`snap.map`: a function called with a fork per input, on threads or on any executor of concurrent.futures.

In threads the forks share the snapshot's pages. To another process goes a `Shared`: a ticket for the page store of this
process, from which a worker maps what it lacks.
"""
from __future__ import annotations

import os
import pickle
import reprlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from pyvirt.config import integer
from pyvirt.errors import ConfigError
from pyvirt.history import pagestore
from pyvirt.history.snapshot import Entropy, Snapshot, derived, entropy_bytes

if TYPE_CHECKING:
    from pyvirt.machine import Machine

POLL = 0.02     # seconds between two looks at whether stopped machines' functions have come back


class Shared:
    """A snapshot on its way to other processes of this host: `Snapshot` there, once unpickled.

    Its pickle is small, and good while this process has the snapshot. A Snapshot's own holds all pages and can be kept.
    """

    def __init__(self, snap: Snapshot) -> None:
        self.snapshot = snap
        if snap._shared is None:
            content = snap._held()
            outside = content.outside._replace(inputs=snap.inputs)
            state = pickle.dumps((snap._recipe, snap._build, content._replace(root=None, outside=outside),  # type: ignore[arg-type]
                                  snap._labels()))
            with _put_lock:
                if snap._shared is None:
                    snap._shared = pagestore.store().put(content.root, state)

    @property
    def path(self) -> str:
        """Where the page store is, for as long as the snapshot is."""
        self.snapshot._held()
        assert self.snapshot._shared is not None
        return self.snapshot._shared.ticket.path

    def __reduce__(self) -> tuple[Any, ...]:
        self.snapshot._held()
        assert self.snapshot._shared is not None
        return _arrive, (self.snapshot._shared.ticket,)

    def __repr__(self) -> str:
        return f"<Shared {self.snapshot!r}>"


_put_lock = threading.Lock()
_arrived: dict[pagestore.Ticket, Snapshot] = {}


def _arrive(ticket: pagestore.Ticket) -> Snapshot:
    """Return the snapshot of a ticket; the last few are kept, since tasks come one by one."""
    snap = _arrived.get(ticket)
    if snap is None:
        root, state = pagestore.fetch(ticket)
        recipe, build, content, labels = pickle.loads(state)
        snap = Snapshot._made(recipe, build, content._replace(root=root), labels)
        while len(_arrived) >= pagestore.KEPT:
            _arrived.pop(next(iter(_arrived)), None)
        _arrived[ticket] = snap
    return snap


class Task:
    """What an executor calls: a fork, the function, the end of the fork. Knows the machines of this process."""

    def __init__(self, snap: Snapshot, fn: Callable[[Machine, Any], Any], seed: bytes | str | None) -> None:
        self._snap, self._fn, self._seed = snap, fn, seed
        self._live: dict[int, Machine] = {}
        self._limit: int | None = None

    def __call__(self, index: int, item: Any) -> Any:
        entropy: Entropy = self._seed if isinstance(self._seed, str) else derived(self._seed, index) \
            if self._seed is not None else "same"
        with self._snap.fork(entropy=entropy) as vm:
            self._live[index] = vm
            try:
                return self._fn(vm, item)
            finally:
                del self._live[index]

    def stop(self, after: int) -> None:
        """Stop the machines of this process that run for inputs after this one."""
        for index, vm in list(self._live.items()):
            if index > after:
                vm.stop()

    def __reduce__(self) -> tuple[Any, ...]:
        return Task, (Shared(self._snap), self._fn, self._seed)


def run(snap: Snapshot, fn: Callable[[Machine, Any], Any], inputs: Iterable[Any], *, executor: Executor | None,
        workers: int | None, entropy: Entropy) -> list[Any]:
    """Do what `Snapshot.map` says."""
    if not callable(fn):
        raise ConfigError(f"map: fn is {fn!r}; allowed: a callable that takes a machine and an input")
    if executor is not None and not isinstance(executor, Executor):
        raise ConfigError(f"map: executor is {executor!r}; allowed: None for threads, or an Executor of "
                          "concurrent.futures")
    if executor is not None and workers is not None:
        raise ConfigError(f"map: workers is {workers!r} beside an executor; allowed: None, since the executor has its "
                          "own number of workers")
    seed = entropy if isinstance(entropy, str) and entropy in ("same", "fresh") else entropy_bytes(entropy)
    count = os.cpu_count() or 1 if workers is None else integer(workers, name="map: workers", low=1, high=1024)
    task = Task(snap, fn, seed)
    snap._proven()
    items = list(inputs)
    if executor is not None:
        return _collect(executor, task, items)
    with ThreadPoolExecutor(count, thread_name_prefix="pyvirt-map") as threads:
        return _collect(threads, task, items)


def _collect(executor: Executor, task: Task, items: list[Any]) -> list[Any]:
    futures: list[Future[Any]] = []
    failed = len(items)
    try:
        for index, item in enumerate(items):
            futures.append(executor.submit(task, index, item))
        todo = set(futures)
        while todo:
            # The first input that fails, in their order, is the one that is told: those before it run to their end.
            done, _ = wait(todo, timeout=None if failed == len(items) else POLL, return_when=FIRST_EXCEPTION)
            todo -= done
            broken = [i for i in range(failed) if futures[i] in done and futures[i].exception() is not None]
            if broken:
                failed = broken[0]
            if failed < len(items):
                todo -= {future for future in futures[failed + 1:] if future.cancel()}
                task.stop(failed)
    except BaseException:
        _abandon(futures, task)
        raise
    if failed == len(items):
        return [future.result() for future in futures]
    error = futures[failed].exception()
    assert error is not None
    error.add_note(f"snap.map: raised for input {failed}: {reprlib.repr(items[failed])}")
    try:
        raise error
    finally:
        del error, futures      # the traceback holds this frame


def _abandon(futures: list[Future[Any]], task: Task) -> None:
    todo = {future for future in futures if not future.cancel()}
    while todo and (task._live or any(future.running() for future in todo)):
        task.stop(-1)
        done, _ = wait(todo, timeout=POLL)
        todo -= done
