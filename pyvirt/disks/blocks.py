"""Changed blocks of a disk as a persistent tree: a copy takes constant time, and shares all until one side writes.

The Python twin of the tree of guest memory: nodes of 64 children over immutable blocks. A node carries the stamp of the
one tree that may change it in place; copying a tree gives both sides new stamps, so that what they share is copied path
by path when it is written.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BITS = 6
FANOUT = 1 << BITS
STAMP = FANOUT      # where a node keeps its stamp, behind its children


class Blocks:
    """Blocks by number, 0 to `count` - 1; those that were never set are absent.

    >>> one = Blocks(1000)
    >>> one[7] = b"old"
    >>> two = one.copy()
    >>> two[7] = b"new"
    >>> one[7], two[7], two.get(8), one.diff(two)
    (b'old', b'new', None, [7])
    """

    def __init__(self, count: int, content: Mapping[int, bytes] | None = None) -> None:
        self.count = count
        levels = 1
        while count > 1 << BITS * levels:
            levels += 1
        self._shifts = tuple(BITS * level for level in range(levels - 1, -1, -1))
        self._root: list[Any] | None = None
        self._stamp = object()
        self._len = 0
        for number, block in (content or {}).items():
            self[number] = block

    def __len__(self) -> int:
        return self._len

    def get(self, number: int) -> bytes | None:
        """Return a block, or None when it is absent."""
        node: Any = self._root
        for shift in self._shifts:
            if node is None:
                return None
            node = node[number >> shift & FANOUT - 1]
        return node  # type: ignore[no-any-return]

    def __contains__(self, number: int) -> bool:
        return self.get(number) is not None

    def __getitem__(self, number: int) -> bytes:
        block = self.get(number)
        if block is None:
            raise KeyError(number)
        return block

    def __setitem__(self, number: int, block: bytes) -> None:
        stamp = self._stamp
        node = self._root
        if node is None or node[STAMP] is not stamp:
            node = self._root = self._owned(node)
        for shift in self._shifts[:-1]:
            at = number >> shift & FANOUT - 1
            below = node[at]
            if below is None or below[STAMP] is not stamp:
                below = node[at] = self._owned(below)
            node = below
        at = number & FANOUT - 1
        self._len += node[at] is None
        node[at] = block

    def _owned(self, node: list[Any] | None) -> list[Any]:
        copy = [None] * (FANOUT + 1) if node is None else node.copy()
        copy[STAMP] = self._stamp
        return copy

    def copy(self) -> Blocks:
        """Return another tree of the same content, in constant time."""
        other = Blocks.__new__(Blocks)
        other.count, other._shifts, other._root, other._len = self.count, self._shifts, self._root, self._len
        self._stamp, other._stamp = object(), object()
        return other

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Iterate over numbers and blocks, by number."""
        return self._walk(self._root, 0, 0)

    def __iter__(self) -> Iterator[int]:
        return (number for number, _ in self.items())

    def _walk(self, node: list[Any] | None, depth: int, first: int) -> Iterator[tuple[int, bytes]]:
        if node is None:
            return
        for at in range(FANOUT):
            child = node[at]
            if child is None:
                continue
            number = first | at << self._shifts[depth]
            if depth + 1 == len(self._shifts):
                yield number, child
            else:
                yield from self._walk(child, depth + 1, number)

    def diff(self, other: Blocks) -> list[int]:
        """Return the numbers of blocks that differ, absent ones included; what both trees share is not visited."""
        if self.count != other.count:
            raise ValueError(f"{self.count} blocks can't be compared with {other.count}")
        found: list[int] = []
        self._diff(self._root, other._root, 0, 0, found)
        return found

    def _diff(self, a: list[Any] | None, b: list[Any] | None, depth: int, first: int, found: list[int]) -> None:
        if a is b:
            return
        for at in range(FANOUT):
            x, y = None if a is None else a[at], None if b is None else b[at]
            if x is y:
                continue
            number = first | at << self._shifts[depth]
            if depth + 1 < len(self._shifts):
                self._diff(x, y, depth + 1, number, found)
            elif x != y:
                found.append(number)
