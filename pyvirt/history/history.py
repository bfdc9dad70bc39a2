"""The tree of snapshots: who stands below whom, labels, what is kept alive by whom, and the tree as people see it.

A node holds its parent, so that ancestors stay as long as anybody needs them; a parent only knows its children. The
machine that took a node holds it in its history until it is deleted there or the machine is closed; after that
whoever has a handle does. Machines forked from a node share its tree.
"""
from __future__ import annotations

import datetime
import html
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

from pyvirt.errors import ClosedError, ConfigError

_numbers = itertools.count(1)
_lock = threading.Lock()    # of the lists of children: forks in several threads have one parent


class Node:
    """A place in the tree, with its labels: `name`, `note` (both settable) and tags."""

    def __init__(self, *, parent: Self | None, name: str | None) -> None:
        self.number = next(_numbers)
        self.host_time = datetime.datetime.now(datetime.UTC)
        self.note = ""
        self.deleted = False
        self._tags: set[str] = set()
        self._children: list[weakref.ref[Self]] = []
        self._parent = parent
        self.name = name
        if parent is not None:
            parent._join(self)

    @property
    def name(self) -> str | None:
        """What it is called, or None."""
        return self._name

    @name.setter
    def name(self, name: str | None) -> None:
        if name is not None and (not isinstance(name, str) or not name or "\n" in name):
            raise ConfigError(f"snapshot: name is {name!r}; allowed: None, or a line of text")
        self._name = name

    @property
    def label(self) -> str:
        """The name, or "#" and the number in the process."""
        return self._name or f"#{self.number}"

    @property
    def tags(self) -> frozenset[str]:
        return frozenset(self._tags)

    def tag(self, *tags: str) -> Self:
        """Add tags, and return the node."""
        for tag in tags:
            if not isinstance(tag, str) or not tag or "\n" in tag:
                raise ConfigError(f"snapshot: tag is {tag!r}; allowed: a line of text")
        self._tags.update(tags)
        return self

    def untag(self, *tags: str) -> Self:
        """Take tags away, and return the node."""
        self._tags.difference_update(tags)
        return self

    # -- where it stands
    def _join(self, child: Self) -> None:
        with _lock:
            self._children = [ref for ref in self._children if ref() is not None]
            self._children.append(weakref.ref(child))

    @property
    def parent(self) -> Self | None:
        """The node that the machine had come from, None for a first one."""
        return self._parent

    @property
    def children(self) -> tuple[Self, ...]:
        """The nodes taken by machines that came from here, oldest first."""
        with _lock:
            found = [ref() for ref in self._children]
        return tuple(node for node in found if node is not None)

    @property
    def ancestors(self) -> tuple[Self, ...]:
        """The way to the first node, the parent first."""
        found = []
        node = self._parent
        while node is not None:
            found.append(node)
            node = node._parent
        return tuple(found)

    @property
    def root(self) -> Self:
        """The first node of the tree."""
        node = self
        while node._parent is not None:
            node = node._parent
        return node

    @property
    def descendants(self) -> tuple[Self, ...]:
        """All nodes below, each before its children."""
        return tuple(walk(self))[1:]

    def delete(self) -> None:
        """Take the node out of the tree, its children becoming its parent's; gives back what no one else uses."""
        if self.deleted:
            return
        self.deleted = True
        parent = self._parent
        with _lock:
            children = self._children
            self._children = []
            for ref in children:
                child = ref()
                if child is not None:
                    child._parent = parent
            if parent is not None:
                # They take its place.
                refs: list[weakref.ref[Self]] = []
                for ref in parent._children:
                    refs.extend(children if ref() is self else [ref])
                parent._children = refs

    def _alive(self) -> None:
        if self.deleted:
            raise ClosedError(f"snapshot {self.label} was deleted")

    def _line(self) -> str:
        """Describe the node in one line."""
        tags = "".join(f" [{tag}]" for tag in sorted(self._tags))
        note = f"  {self.note.splitlines()[0]}" if self.note else ""
        return f"{self.label}  {self.host_time.astimezone():%H:%M:%S}{tags}{note}"


N = TypeVar("N", bound=Node)


def walk(top: N) -> Iterator[N]:
    """Iterate over a node and all below it, each before its children."""
    todo = [top]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(reversed(node.children))


class History(Generic[N]):
    """The tree that a machine is part of: iterate over it, look nodes up by name, print it.

    `current` is the node that the machine comes from. `history["name"]` is the newest node of a name.
    """

    def __init__(self, *, origin: N | None = None) -> None:
        self._own: dict[int, N] = {}
        self._at = origin

    @property
    def current(self) -> N | None:
        """The node that the machine comes from, None before the first."""
        while self._at is not None and self._at.deleted:
            self._at = self._at.parent
        return self._at

    def add(self, node: N) -> None:
        """Keep a node of this machine, and go on from it."""
        self._own[node.number] = node
        self._at = node

    def go(self, node: N) -> None:
        """Go on from a node."""
        self._at = node

    def clear(self) -> None:
        """Keep no node alive any more."""
        self._own.clear()
        self._at = None

    @property
    def roots(self) -> tuple[N, ...]:
        """The first nodes: several when the machine was snapshotted before it had any, or a first one was deleted."""
        found: dict[int, N] = {}
        for node in (*self._held(), *((self.current,) if self.current is not None else ())):
            top = node.root
            found[top.number] = top
        return tuple(found[number] for number in sorted(found))

    def _held(self) -> list[N]:
        for number in [number for number, node in self._own.items() if node.deleted]:
            del self._own[number]
        return list(self._own.values())

    def __iter__(self) -> Iterator[N]:
        for top in self.roots:
            yield from walk(top)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, what: object) -> bool:
        return any(node is what or (node.name is not None and node.name == what) for node in self)

    def __getitem__(self, name: str) -> N:
        found = [node for node in self if node.name == name]
        if not found:
            names = sorted({node.name for node in self if node.name is not None})
            raise KeyError(f"no snapshot is named {name!r}; named are: {', '.join(names) or 'none'}")
        return max(found, key=lambda node: node.number)

    def tagged(self, tag: str) -> tuple[N, ...]:
        """Return the nodes with a tag."""
        return tuple(node for node in self if tag in node.tags)

    def compact(self, keep: Callable[[N], bool] | None = None) -> int:
        """Delete the nodes of this machine that are a mere step between two others, and return how many those were.

        A node stays when it has a name, a tag or a note, when the tree branches there, when it is the first or the
        machine comes from it, or when `keep(node)` says so.
        """
        gone = 0
        for node in self._held():
            if node.name or node.tags or node.note or node is self.current or node.parent is None or \
                    len(node.children) != 1 or (keep is not None and keep(node)):
                continue
            node.delete()
            gone += 1
        self._held()
        return gone

    # -- the tree for people
    def _rows(self) -> list[tuple[str, N]]:
        """Return every node with what is drawn before it; only where the tree branches it moves to the right."""
        rows: list[tuple[str, N]] = []
        todo: list[tuple[str, str, N]] = [("", "", top) for top in reversed(self.roots)]
        while todo:
            first, rest, node = todo.pop()
            rows.append((first, node))
            children = node.children
            if len(children) == 1:
                todo.append((rest, rest, children[0]))
            else:
                for at, child in reversed(list(enumerate(children))):
                    last = at + 1 == len(children)
                    todo.append((rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "), child))
        return rows

    def __str__(self) -> str:
        here = self.current
        return "\n".join(f"{before}{'*' if node is here else 'o'} {node._line()}" for before, node in self._rows()) \
            or "(no snapshots)"

    def __repr__(self) -> str:
        here = self.current
        return f"<History {len(self)} snapshots, at {here.label if here is not None else 'none'}>"

    def _repr_html_(self) -> str:
        return picture(self)


def picture(history: History[N]) -> str:
    """Return the tree as an SVG: time to the right, a row for each branch."""
    columns: dict[int, int] = {}
    rows: dict[int, int] = {}
    nodes = [node for _, node in history._rows()]
    row = -1
    for node in nodes:
        parent = node.parent
        if parent is not None and parent.number in columns and parent.children[0] is node:
            rows[node.number] = rows[parent.number]
        else:
            row += 1
            rows[node.number] = row
        columns[node.number] = 0 if parent is None or parent.number not in columns else columns[parent.number] + 1
    parts = []
    for node in nodes:
        x, y = 20 + 110 * columns[node.number], 20 + 46 * rows[node.number]
        parent = node.parent
        if parent is not None and parent.number in columns:
            px, py = 20 + 110 * columns[parent.number], 20 + 46 * rows[parent.number]
            parts.append(f'<path d="M{px} {py} C{px + 50} {py} {x - 50} {y} {x} {y}" fill="none" stroke="#888"/>')
    for node in nodes:
        x, y = 20 + 110 * columns[node.number], 20 + 46 * rows[node.number]
        fill = "#d33" if node is history.current else "#36c"
        parts.append(f'<circle cx="{x}" cy="{y}" r="6" fill="{fill}"><title>{html.escape(node._line())}</title>'
                     f'</circle><text x="{x}" y="{y + 20}" font-size="11" text-anchor="middle">'
                     f'{html.escape(node.label[:16])}</text>')
    width = 60 + 110 * max(columns.values(), default=0)
    height = 50 + 46 * max(row, 0)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'font-family="sans-serif">{"".join(parts)}</svg>')
