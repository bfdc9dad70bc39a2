"""The container of saved machines: header, named sections, groups of pages, an index, and digests over all of it.

Knows bytes and sizes, no machine; docs/savefile.md is the format's reference. Every size is checked against the file's
own before anything of that size is allocated, and every digest before what it covers is parsed or decompressed.
Files may be hostile: LoadError says what is wrong with one, naming it.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import msgspec
import zstandard
from blake3 import blake3

from pyvirt.errors import HostError, LoadError

MAGIC = b"\x89PYVM\r\n\x1a"
VERSION = (1, 0, 0)
HEADER = 256
# magic, version (3), 0, index: offset, length, digest; length of the file; zeros: this is what names and signs a file
_HEAD = struct.Struct("<8sHHHHQQ32sQ24x")
# kind of signature, public key, signature, zeros
_SIGNATURE = struct.Struct("<B7x32s64s24x")
UNSIGNED, ED25519 = 0, 1
PAGE = 4096
GROUP_PAGES = 64            # pages of a group in files that are written
GROUP_PAGES_MAX = 256       # and at most in those that are read
SECTIONS_MAX = 256
SECTION_MAX = 1 << 28       # bytes of one section, unpacked
RATIO_MAX = 64              # of a section unpacked to packed: more is stored unpacked

_Place = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Section(msgspec.Struct, array_like=True, frozen=True):
    """Where a named section lies. `packed` is zstd; `size` is that of the content, `digest` of what is stored."""

    name: _Name
    version: Annotated[int, msgspec.Meta(ge=1, lt=1 << 16)]
    mandatory: bool
    offset: _Place
    length: _Place
    packed: bool
    size: _Place
    digest: _Digest


class Group(msgspec.Struct, array_like=True, frozen=True):
    """Where a group of pages lies, compressed."""

    offset: _Place
    length: _Place
    digest: _Digest


class Index(msgspec.Struct, array_like=True, frozen=True):
    """What a file holds. Records are pages by number: all groups but the last have `group_pages` of them."""

    sections: Annotated[list[Section], msgspec.Meta(max_length=SECTIONS_MAX)]
    group_pages: Annotated[int, msgspec.Meta(ge=1, le=GROUP_PAGES_MAX)]
    records: _Place
    groups: list[Group]


class Kept(NamedTuple):
    """A section that this version does not know, carried along."""

    name: str
    version: int
    content: bytes


class Signature(NamedTuple):
    """Who signed a file."""

    kind: int
    key: bytes
    value: bytes


def file_id(head: bytes) -> bytes:
    """Return what names a file by its content: the digest of the first half of its header."""
    return blake3(b"pyvirt saved machine\0" + head).digest()


# ---- writing ------------------------------------------------------------------------------------------------------
class Writer:
    """Writes a container to an empty file: records and sections in any order, then `finish`.

    Pages of equal content are stored once. Groups are compressed in threads, and written in their order.
    """

    def __init__(self, file: IO[bytes], *, level: int = 3, group_pages: int = GROUP_PAGES) -> None:
        self._file, self._level, self._group_pages = file, level, group_pages
        self._sections: list[Section] = []
        self._groups: list[Group] = []
        self._known: dict[bytes, int] = {}
        self._pages: list[bytes] = []
        self._records = 0
        self._pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 4))
        self._waiting: list[Future[tuple[bytes, bytes]]] = []
        file.write(bytes(HEADER))
        self._at = HEADER

    def record(self, page: bytes) -> int:
        """Return the number of the record that holds a page of 4096 bytes."""
        digest = blake3(page).digest()
        number = self._known.get(digest)
        if number is None:
            number = self._known[digest] = self._records
            self._records += 1
            self._pages.append(page)
            if len(self._pages) == self._group_pages:
                self._close_group()
        return number

    def _close_group(self) -> None:
        pages, self._pages = self._pages, []
        self._waiting.append(self._pool.submit(self._compress, pages))
        if len(self._waiting) > 8:
            self._write_group()

    def _compress(self, pages: list[bytes]) -> tuple[bytes, bytes]:
        data = zstandard.ZstdCompressor(level=self._level).compress(b"".join(pages))
        return data, blake3(data).digest()

    def _write_group(self) -> None:
        data, digest = self._waiting.pop(0).result()
        self._groups.append(Group(self._put(data), len(data), digest))

    def _put(self, data: bytes) -> int:
        at = self._at
        self._file.write(data)
        self._at += len(data)
        return at

    def section(self, name: str, content: bytes, *, version: int = 1, mandatory: bool = True) -> None:
        """Store a section; a name may be used once."""
        if any(section.name == name for section in self._sections):
            raise ValueError(f"section {name} is written twice")
        if len(content) > SECTION_MAX:
            raise LoadError(f"section {name} has {len(content)} bytes; allowed: up to {SECTION_MAX}")
        stored = zstandard.ZstdCompressor(level=self._level).compress(content)
        packed = len(stored) < len(content) <= RATIO_MAX * len(stored)
        stored = stored if packed else content
        self._sections.append(Section(name, version, mandatory, self._put(stored), len(stored), packed, len(content),
                                      blake3(stored).digest()))

    def finish(self, *, sign: Callable[[bytes], Signature] | None = None) -> bytes:
        """Write the index and the header; returns the file's id."""
        if self._pages:
            self._close_group()
        while self._waiting:
            self._write_group()
        self.close()
        index = msgspec.msgpack.encode(Index(self._sections, self._group_pages, self._records, self._groups))
        at = self._put(index)
        head = _HEAD.pack(MAGIC, *VERSION, 0, at, len(index), blake3(index).digest(), self._at)
        signature = Signature(UNSIGNED, bytes(32), bytes(64)) if sign is None else sign(head)
        rest = head + _SIGNATURE.pack(*signature)
        self._file.seek(0)
        self._file.write(rest + blake3(rest).digest())
        self._file.seek(0, os.SEEK_END)
        return file_id(head)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


# ---- reading ------------------------------------------------------------------------------------------------------
class Reader:
    """An open container. Header and index are checked at once, sections and groups when they are asked for."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = -1
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.length = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            self.close()
            raise HostError(error.errno, f"{self.path}: cannot be read: {error.strerror}") from error
        self._last: tuple[int, bytes] = (-1, b"")
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        head = self._read(0, min(HEADER, self.length), "header")
        if head[:8] != MAGIC:
            raise self.wrong(f"is no saved machine: it begins with {head[:8]!r}, expected {MAGIC!r}")
        if len(head) < HEADER:
            raise self.wrong(f"has {self.length} bytes, a header alone has {HEADER}")
        _, major, minor, patch, _, at, length, digest, total = _HEAD.unpack_from(head)
        self.version = major, minor, patch
        if major != VERSION[0]:
            raise self.wrong(f"has format version {major}.{minor}.{patch}; this pyvirt reads {VERSION[0]}.x")
        if blake3(head[:224]).digest() != head[224:]:
            raise self.wrong("has a header that is not what was written: its digest differs")
        if total != self.length:
            raise self.wrong(f"has {self.length} bytes, was written with {total}: it is cut or has grown")
        self.head = head[:_HEAD.size]
        self.id = file_id(self.head)
        self.signature = Signature(*_SIGNATURE.unpack_from(head, _HEAD.size))
        data = self._checked(at, length, digest, "index")
        try:
            self.index = msgspec.msgpack.decode(data, type=Index)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise self.wrong(f"has a wrong index: {error}") from error
        if len(self.index.groups) != -(-self.index.records // self.index.group_pages):
            raise self.wrong(f"has {len(self.index.groups)} groups for {self.index.records} pages by "
                             f"{self.index.group_pages}")
        self.sections = {section.name: section for section in self.index.sections}
        if len(self.sections) != len(self.index.sections):
            raise self.wrong("has two sections of one name")

    def wrong(self, what: str) -> LoadError:
        """Return the error that says what is wrong with the file."""
        return LoadError(f"{self.path}: {what}")

    def _read(self, offset: int, length: int, what: str) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.length:
            raise self.wrong(f"{what} lies at {offset}..{offset + length}, beyond the file's {self.length} bytes")
        if self._fd < 0:
            raise self.wrong("is closed")
        parts = []
        while length:
            try:
                part = os.pread(self._fd, length, offset)
            except OSError as error:
                raise HostError(error.errno, f"{self.path}: cannot be read: {error.strerror}") from error
            if not part:
                raise self.wrong(f"{what} lies at {offset}..{offset + length}, but the file was cut since")
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _checked(self, offset: int, length: int, digest: bytes, what: str) -> bytes:
        data = self._read(offset, length, what)
        found = blake3(data).digest()
        if found != digest:
            raise self.wrong(f"{what} is not what was written: its digest is {found.hex()}, expected {digest.hex()}")
        return data

    def section(self, name: str) -> bytes:
        """Return a section's content."""
        section = self.sections.get(name)
        if section is None:
            raise self.wrong(f"lacks the section {name}")
        if section.size > SECTION_MAX or section.length > SECTION_MAX or \
                (section.size > RATIO_MAX * section.length if section.packed else section.size != section.length):
            raise self.wrong(f"section {name} of {section.length} bytes says that it has {section.size}; allowed: up "
                             f"to {RATIO_MAX} times as many, and {SECTION_MAX}")
        data = self._checked(section.offset, section.length, section.digest, f"section {name}")
        return self._unpacked(data, section.size, f"section {name}") if section.packed else data

    def _unpacked(self, data: bytes, size: int, what: str) -> bytes:
        try:
            if zstandard.frame_content_size(data) != size:
                raise self.wrong(f"{what} does not unpack to {size} bytes")
            # What comes behind the frame, and what the frame says of itself, is checked before memory is taken.
            content = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise self.wrong(f"{what} cannot be unpacked: {error}") from error
        if len(content) != size:
            raise self.wrong(f"{what} unpacks to {len(content)} bytes, expected {size}")
        return content

    def group(self, number: int) -> bytes:
        """Return the pages of a group, one behind the other."""
        last, data = self._last
        if number == last:
            return data
        group = self.index.groups[number]
        pages = min(self.index.group_pages, self.index.records - number * self.index.group_pages)
        if group.length > 2 * pages * PAGE:
            raise self.wrong(f"group {number} of {pages} pages has {group.length} bytes, compressed")
        data = self._unpacked(self._checked(group.offset, group.length, group.digest, f"group {number} of pages"),
                              pages * PAGE, f"group {number} of pages")
        self._last = number, data
        return data

    def page(self, record: int) -> bytes:
        """Return the page of a record."""
        number, at = divmod(record, self.index.group_pages)
        return self.group(number)[at * PAGE:(at + 1) * PAGE]

    def refuse_unknown(self, known: Mapping[str, int]) -> list[Kept]:
        """Raise LoadError naming a mandatory section that is not `known` (names to versions); returns the others."""
        kept = []
        for section in self.index.sections:
            if known.get(section.name) == section.version:
                continue
            if section.mandatory:
                has = f"reads version {known[section.name]}" if section.name in known else "does not know it"
                raise self.wrong(f"needs section {section.name!r} version {section.version} to be understood; this "
                                 f"pyvirt {has}")
            kept.append(Kept(section.name, section.version, self.section(section.name)))
        return kept

    def dup(self) -> int:
        """Return another descriptor of the file."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Reader {str(self.path)!r} {len(self.sections)} sections, {self.index.records} pages>"


def is_saved(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is a saved machine, by its first bytes."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise HostError(error.errno, f"{path}: cannot be read: {error.strerror}") from error
