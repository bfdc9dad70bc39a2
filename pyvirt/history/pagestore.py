"""A file of pages that other processes map: how snapshots cross to the workers of a process pool.

The store lives in memory (memfd) under a path of its owner, and is gone when the owner's last use of it goes or the
process ends, however it ends. It holds each content of a page once; a snapshot in it is an index from pages to slots,
and the rest of its state as bytes. What crosses in a pipe is a `Ticket`. A worker copies the slots that it lacks out of
the mapped file: a second snapshot costs it what differs from the first.
"""
from __future__ import annotations

import mmap
import os
import pickle
import secrets
import threading
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyvirt._memory import Ram, Root
from pyvirt.errors import HostError

PAGE = 4096
KEY = 16
BATCH = 256         # pages in one write
KEPT = 4            # snapshots, and stores, that a worker remembers


class Ticket(NamedTuple):
    """A snapshot in a store: the store's path and key, where its index is, and the digest of its RAM."""

    path: str
    key: bytes
    at: int
    size: int
    ram: bytes


class Entry:
    """What the owner of a store remembers of a snapshot in it, for as long as the snapshot is used."""

    def __init__(self, store: PageStore, root: Root, index: dict[int, int], ticket: Ticket) -> None:
        self.store, self.root, self.index, self.ticket = store, root, index, ticket


class PageStore:
    """The owner's end. `pages` counts what was written; pages of equal content are written once."""

    def __init__(self) -> None:
        self._fd = -1
        try:
            self._fd = os.memfd_create("pyvirt-pages", os.MFD_CLOEXEC)
        except OSError as error:
            raise HostError(error.errno, f"page store: the host gives no memory file: {error.strerror}") from error
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        self.pages = 0
        self._key = secrets.token_bytes(KEY)
        self._lock = threading.Lock()
        self._known: dict[bytes, int] = {}
        self._entries: weakref.WeakSet[Entry] = weakref.WeakSet()
        self._end = PAGE
        self._write(0, self._key)

    def _write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._fd, view, offset)
            except OSError as error:
                raise HostError(error.errno, f"page store: cannot write {len(view)} bytes: {error.strerror}") from error
            view, offset = view[done:], offset + done

    def put(self, root: Root, state: bytes) -> Entry:
        """Add a snapshot, writing the pages that are not there yet. HostError when the host has no room."""
        with self._lock:
            near = max((e for e in self._entries if (e.root.base, e.root.size) == (root.base, root.size)),
                       key=lambda entry: entry.ticket.at, default=None)
            index = {} if near is None else dict(near.index)
            self._add(root, list(root.pages()) if near is None else root.diff(near.root), index)
            pages = sorted(index)
            blob = pickle.dumps((root.base, root.size, array("Q", pages).tobytes(),
                                 array("Q", [index[page] for page in pages]).tobytes(), state))
            ticket = Ticket(self.path, self._key, self._end, len(blob), root.digest())
            self._write(self._end, blob)
            self._end += -(-len(blob) // PAGE) * PAGE
            entry = Entry(self, root, index, ticket)
            self._entries.add(entry)
            return entry

    def _add(self, root: Root, pages: list[int], index: dict[int, int]) -> None:
        """Write pages, and note in the index where each is; those of zeros are absent."""
        from blake3 import blake3  # not before there is something to hash: importing it takes a millisecond

        batch: list[bytes] = []
        start = self._end
        for page in pages:
            data = root.read(page << 12, PAGE)
            if data.count(0) == PAGE:
                index.pop(page, None)
                continue
            name = blake3(data).digest()
            slot = self._known.get(name)
            if slot is None:
                slot = self._known[name] = start // PAGE + len(batch)
                batch.append(data)
                self.pages += 1
            index[page] = slot
            if len(batch) == BATCH:
                start = self._flush(start, batch)
        self._flush(start, batch)

    def _flush(self, start: int, batch: list[bytes]) -> int:
        self._write(start, b"".join(batch))
        self._end = start + PAGE * len(batch)
        batch.clear()
        return self._end

    def close(self) -> None:
        """Give the store back; who has mapped it keeps what it has."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


_shared: weakref.ref[PageStore] | None = None
_shared_lock = threading.Lock()
_shared_pid = 0


def store() -> PageStore:
    """Return the store of this process, which lasts as long as anybody holds it."""
    global _shared, _shared_pid
    with _shared_lock:
        found = _shared() if _shared is not None and _shared_pid == os.getpid() else None
        if found is None:
            found = PageStore()
            _shared, _shared_pid = weakref.ref(found), os.getpid()
        return found


# ---- the worker's end --------------------------------------------------------------------------------------------
class _Held(NamedTuple):
    root: Root
    slots: dict[int, int]
    state: bytes


class _Mapped:
    """A store as a worker sees it: the file mapped, and the last snapshots taken out of it."""

    def __init__(self, ticket: Ticket) -> None:
        try:
            self._fd = os.open(ticket.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(error.errno, f"page store {ticket.path}: cannot be opened ({error.strerror}): the snapshot "
                            "or the process that owns it is gone") from error
        self._map: mmap.mmap | None = None
        self.held: OrderedDict[int, _Held] = OrderedDict()
        if os.pread(self._fd, KEY, 0) != ticket.key:
            raise HostError(2, f"page store {ticket.path}: is another's: the process that owned it is gone")

    def view(self, at: int, size: int) -> memoryview:
        if self._map is None or at + size > len(self._map):
            self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size, prot=mmap.PROT_READ)
        return memoryview(self._map)[at:at + size]

    def __del__(self) -> None:
        fd = getattr(self, "_fd", -1)
        if fd >= 0:
            os.close(fd)


_stores: OrderedDict[tuple[str, bytes], _Mapped] = OrderedDict()
_stores_lock = threading.Lock()
_crossed = 0


def crossed() -> int:
    """Return how many pages this process has copied out of stores."""
    return _crossed


def fetch(ticket: Ticket) -> tuple[Root, bytes]:
    """Return the RAM and the state of a snapshot in another process's store; what this one has is shared.

    HostError when the store is gone, or does not hold what it should.
    """
    with _stores_lock:
        name = ticket.path, ticket.key
        mapped = _stores.get(name)
        if mapped is None:
            mapped = _stores[name] = _Mapped(ticket)
            while len(_stores) > KEPT:
                _stores.popitem(last=False)
        held = mapped.held.get(ticket.at)
        if held is None:
            held = mapped.held[ticket.at] = _copy(mapped, ticket)
            while len(mapped.held) > KEPT:
                mapped.held.popitem(last=False)
        return held.root, held.state


def _copy(mapped: _Mapped, ticket: Ticket) -> _Held:
    global _crossed
    base, size, numbers, places, state = pickle.loads(mapped.view(ticket.at, ticket.size))
    pages, slots = array("Q", numbers), array("Q", places)
    near = next((h for h in reversed(mapped.held.values()) if (h.root.base, h.root.size) == (base, size)), None)
    have: dict[int, int] = {} if near is None else near.slots
    ram = Ram(base, size) if near is None else Ram.from_root(near.root)
    index = dict(zip(pages, slots, strict=True))
    for page in have.keys() - index.keys():
        ram.zero(page << 12, PAGE)
    for page, slot, count in _runs((page, slot) for page, slot in index.items() if have.get(page) != slot):
        ram.write(page << 12, mapped.view(slot * PAGE, count * PAGE))
        _crossed += count
    root = ram.share()
    ram.close()
    if root.digest() != ticket.ram:
        raise HostError(5, f"page store {ticket.path}: does not hold the pages of the snapshot any more")
    return _Held(root, index, state)


def _runs(pairs: Any) -> Iterator[tuple[int, int, int]]:
    """Join pairs of page and slot that follow each other: (page, slot, count)."""
    first = last = (-2, -2)
    count = 0
    for pair in pairs:
        if count and pair == (last[0] + 1, last[1] + 1) and count < BATCH:
            count += 1
        else:
            if count:
                yield first[0], first[1], count
            first, count = pair, 1
        last = pair
    if count:
        yield first[0], first[1], count
