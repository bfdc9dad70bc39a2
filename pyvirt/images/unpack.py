"""Program files as streams: opened, recognised by their first bytes, decompressed in bounded pieces."""
from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pyvirt.errors import LoadError

Source = str | os.PathLike[str] | bytes

CHUNK = 1 << 20
HEADER = 64
ZSTD_WINDOW_MAX = 128 << 20

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# What would be loaded as a flat binary by mistake: (offset, bytes, name).
FOREIGN = (
    (0, b"\xfd7zXZ\0", "xz data"),
    (4, b"1AY&SY", "bzip2 data"),
    (0, b"\x04\x22\x4d\x18", "lz4 data"),
    (0, b"\x02\x21\x4c\x18", "lz4 data"),
    (0, b"\x89LZO", "lzo data"),
    (0, b"PK\x03\x04", "a zip archive"),
    (4, b"zimg", "an EFI zboot image"),
    (0x38, b"ARM\x64", "a Linux Image for arm64"),
)


def open_source(source: Source, name: str) -> IO[bytes]:
    if isinstance(source, (bytes, bytearray)):
        return io.BytesIO(source)
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise LoadError(f"{name}: cannot be opened: {error.strerror}") from error


def source_name(source: Source, name: str | None) -> str:
    if name is not None:
        return name
    return "program" if isinstance(source, (bytes, bytearray)) else Path(source).name


class _Plain:
    """Chunks of an uncompressed file."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file, self.name = file, name

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.file.read(CHUNK):
            yield chunk


class _Gunzip(_Plain):
    """Chunks of a gzip file's content, of one or more members."""

    def __iter__(self) -> Iterator[bytes]:
        inflate = zlib.decompressobj(wbits=31)
        data, produced, first = b"", 0, True
        while True:
            data = data or self.file.read(CHUNK)
            if not data:
                if first or not inflate.eof:
                    raise LoadError(f"{self.name}: offset {self.file.tell()}: the gzip data ends after {produced} "
                                    "decompressed bytes, expected its end-of-stream mark (the file is truncated)")
                return
            try:
                out = inflate.decompress(data, CHUNK)
            except zlib.error as error:
                raise LoadError(f"{self.name}: near offset {self.file.tell() - len(data)}: {error}; "
                                "expected intact gzip data") from error
            first, produced = False, produced + len(out)
            data = inflate.unconsumed_tail
            if inflate.eof:
                data = inflate.unused_data.lstrip(b"\0")  # padding between and after members is allowed
                if data:
                    inflate = zlib.decompressobj(wbits=31)
                elif not (data := self.file.read(CHUNK).lstrip(b"\0")):
                    if out:
                        yield out
                    return
                else:
                    inflate = zlib.decompressobj(wbits=31)
            if out:
                yield out


class _Unzstd(_Plain):
    """Chunks of a zstd file's content, of one or more frames."""

    # A compressed block of 4 bytes can stand for 128 KiB, so this much input makes at most 16 MiB of output.
    STEP = 512

    def __iter__(self) -> Iterator[bytes]:
        try:
            import zstandard
        except ImportError as error:
            raise LoadError(
                f"{self.name}: is compressed with zstd; install the package zstandard to read it") from error
        data, produced, out, started = b"", 0, bytearray(), False
        inflate: Any = None
        while True:
            data = data or self.file.read(self.STEP)
            if not data:
                break
            if inflate is None:
                inflate = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX).decompressobj()
                started = True
            try:
                out += inflate.decompress(data)
            except zstandard.ZstdError as error:
                raise LoadError(f"{self.name}: near offset {self.file.tell() - len(data)}: {error}; "
                                "expected intact zstd data") from error
            data = b""
            if inflate.eof:
                data, inflate = inflate.unused_data, None
            if len(out) >= CHUNK:
                produced += len(out)
                yield bytes(out)
                out = bytearray()
        if inflate is not None or not started:
            raise LoadError(f"{self.name}: offset {self.file.tell()}: the zstd data ends after {produced + len(out)} "
                            "decompressed bytes, inside a frame (the file is truncated)")
        if out:
            yield bytes(out)


class Stream:
    """The content of a program file, decompressed; looks at the start without consuming it."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        start = file.read(HEADER)
        file.seek(0)
        self.compressed = start.startswith((GZIP, ZSTD))
        self.file = file
        kind = _Gunzip if start.startswith(GZIP) else _Unzstd if start.startswith(ZSTD) else _Plain
        self._chunks = iter(kind(file, name))
        self.head = b""
        while len(self.head) < HEADER and (chunk := next(self._chunks, b"")):
            self.head += chunk
        if not self.head:
            raise LoadError(f"{name}: found an empty file, expected a program")
        for offset, magic, what in FOREIGN:
            if self.head[offset:offset + len(magic)] == magic:
                raise LoadError(f"{name}: offset {offset:#x}: found {what}, expected ELF, a Linux Image for RISC-V or "
                                "a flat binary, plain or compressed with gzip or zstd")

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        yield from self._chunks

    def seekable(self, limit: int) -> IO[bytes]:
        """Return the content as a seekable file, in memory if it is compressed and then at most `limit` bytes."""
        if not self.compressed:
            return self.file
        content = io.BytesIO()
        for chunk in self:
            content.write(chunk)
            if content.tell() > limit:
                raise LoadError(
                    f"{self.name}: more than {limit} bytes when decompressed, expected no more than RAM has")
        return content

    def size(self) -> int | None:
        """The size of the content, where it can be told without decompressing."""
        if self.compressed:
            return None
        at = self.file.tell()
        end = self.file.seek(0, io.SEEK_END)
        self.file.seek(at)
        return end
