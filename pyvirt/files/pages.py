"""Tables that say which record of a file is which page of RAM or block of a disk, and what reads through them.

A table is two arrays of 64-bit little-endian numbers: pages, ascending, and the record of each. In a file that stands
on a parent a table holds what differs from it, and ZERO stands for a page of zeros.
"""
from __future__ import annotations

import operator
import os
import sys
from array import array
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec
from blake3 import blake3

from pyvirt.disks.disk import BaseFile
from pyvirt.files.container import PAGE, Reader

ZERO = (1 << 64) - 1
_ZEROS = bytes(PAGE)


class Packed(msgspec.Struct, frozen=True):
    """A table as it is stored."""

    pages: bytes
    records: bytes


class Table(msgspec.Struct, frozen=True):
    """A table in memory: two arrays of equal length."""

    pages: array[int]
    records: array[int]

    @classmethod
    def of(cls, entries: Iterable[tuple[int, int]]) -> Table:
        """Make one of pages, ascending, and their records."""
        pages, records = array("Q"), array("Q")
        for page, record in entries:
            pages.append(page)
            records.append(record)
        return cls(pages, records)

    @property
    def packed(self) -> Packed:
        return Packed(_swapped(self.pages).tobytes(), _swapped(self.records).tobytes())


def _swapped(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers


def read_table(reader: Reader, packed: Packed, *, first: int, count: int, delta: bool, limit: int, what: str) -> Table:
    """Return a stored table whose pages are to be `count` from `first` on; LoadError says what of it is wrong."""
    size = len(packed.pages)
    if size % 8 or size != len(packed.records):
        raise reader.wrong(f"{what}: its tables have {size} and {len(packed.records)} bytes, expected the same "
                           "multiple of 8")
    if size // 8 > limit:
        raise reader.wrong(f"{what}: holds {size // 8} pages; allowed: up to {limit}, see limit=")
    pages, records = array("Q"), array("Q")
    pages.frombytes(packed.pages)
    records.frombytes(packed.records)
    pages, records = _swapped(pages), _swapped(records)
    if pages:
        if pages[0] < first or pages[-1] >= first + count or not all(map(operator.lt, pages, islice(pages, 1, None))):
            raise reader.wrong(f"{what}: its pages are not ascending in {first:#x}..{first + count - 1:#x}")
        for record in set(records) if delta or max(records) >= reader.index.records else ():
            if record >= reader.index.records and not (delta and record == ZERO):
                raise reader.wrong(f"{what}: names record {record}; the file has {reader.index.records}")
    return Table(pages, records)


class Layers:
    """Tables of a chain of files, the parent's first: what is found where."""

    def __init__(self) -> None:
        self.layers: list[tuple[Reader, Table]] = []

    def resolved(self) -> list[tuple[Reader, Table]]:
        """Return tables in which no page is hidden by a later one, and none is of zeros."""
        if len(self.layers) == 1:
            return self.layers
        found = []
        hidden: set[int] = set()
        for reader, table in reversed(self.layers):
            pairs = zip(table.pages, table.records, strict=True)
            found.append((reader, Table.of(pair for pair in pairs if pair[1] != ZERO and pair[0] not in hidden)))
            hidden.update(table.pages)
        return found[::-1]


class StoredBase(BaseFile):
    """The base of a disk inside a file: blocks are fetched when they are read, and absent ones are zeros."""

    def __init__(self, layers: list[tuple[Reader, Table]], size: int) -> None:
        super().__init__(layers[0][0].dup())
        self._size = size
        self._where: dict[int, tuple[Reader, int]] = {}
        for reader, table in layers:
            self._where.update((page, (reader, record)) for page, record in
                               zip(table.pages, table.records, strict=True))

    @property
    def identity(self) -> tuple[int, int]:
        return self._size, 0

    def differs(self, other: BaseFile, blocks: int) -> Iterable[int]:
        if not isinstance(other, StoredBase):
            return range(blocks)

        def places(base: StoredBase) -> dict[int, tuple[bytes, int]]:
            return {number: (reader.id, record) for number, (reader, record) in base._where.items()}

        mine, others = places(self), places(other)
        return [number for number in {**mine, **others} if mine.get(number) != others.get(number)]

    @property
    def present(self) -> Iterable[int]:
        """The numbers of the blocks that are not absent."""
        return self._where

    def pread(self, n: int, offset: int) -> bytes:
        parts = []
        end = min(offset + n, self._size)
        while offset < end:
            number, skip = divmod(offset, PAGE)
            found = self._where.get(number)
            page = _ZEROS if found is None else found[0].page(found[1])
            parts.append(page[skip:skip + end - offset])
            offset += len(parts[-1])
        return b"".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        blocks = {number: reader.page(record) for number, (reader, record) in sorted(self._where.items())}
        return HeldBase, (blocks, self._size)


class HeldBase(BaseFile):
    """The base of a disk whose blocks are in memory: what a StoredBase is in another process."""

    def __init__(self, blocks: Mapping[int, bytes], size: int) -> None:
        super().__init__(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        self._blocks, self._size = blocks, size

    @property
    def identity(self) -> tuple[int, int]:
        return self._size, 0

    def differs(self, other: BaseFile, blocks: int) -> Iterable[int]:
        return range(blocks)

    def pread(self, n: int, offset: int) -> bytes:
        parts = []
        end = min(offset + n, self._size)
        while offset < end:
            number, skip = divmod(offset, PAGE)
            parts.append(self._blocks.get(number, _ZEROS)[skip:skip + end - offset])
            offset += len(parts[-1])
        return b"".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return HeldBase, (self._blocks, self._size)


def base_digest(base: BaseFile) -> bytes:
    """Return the digest of an image file's content."""
    total = blake3()
    at = 0
    while True:
        data = base.pread(1 << 20, at)
        if not data:
            return total.digest()
        total.update(data)
        at += len(data)
