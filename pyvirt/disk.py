"""Disks: raw image files, either never written (what changed is kept in memory) or written in place.

A disk knows nothing of virtio; offsets and sizes are in bytes. Changed blocks of an overlay are immutable `bytes` by
block number, so that a copy of the mapping is a snapshot that shares them all.
"""
from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

from pyvirt.errors import ClosedError, ConfigError, HostError

SECTOR = 512
BLOCK = 4096
_ZERO = bytes(BLOCK)


class Disk:
    """A raw disk image.

    `mode="overlay"` (the default) never writes the file: changed blocks of 4 KiB are kept in memory, at most
    `overlay_limit` bytes of them (None: no bound but the disk's size). `mode="direct"` locks the file exclusively,
    writes it, and `flush` is fsync. The size must be a multiple of 512. Usable in `with`; closing twice is fine.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(bytes(1024)); f.flush()
    ...     with Disk(f.name) as disk:
    ...         disk.write(512, b"changed")
    ...         disk.read(512, 7), disk.changed_blocks
    (b'changed', 1)
    """

    def __init__(self, path: str | os.PathLike[str], mode: Literal["overlay", "direct"] = "overlay", *,
                 read_only: bool = False, overlay_limit: int | None = None) -> None:
        self._fd = -1
        self._overlay: dict[int, bytes] = {}
        self.path = Path(path)
        if mode not in ("overlay", "direct"):
            raise ConfigError(f"disk {path}: mode is {mode!r}, expected 'overlay' or 'direct'")
        if overlay_limit is not None and (not isinstance(overlay_limit, int) or overlay_limit < 0):
            raise ConfigError(f"disk {path}: overlay_limit is {overlay_limit!r}, expected None or a number of bytes")
        self.mode, self.read_only, self.overlay_limit = mode, bool(read_only), overlay_limit
        writes = mode == "direct" and not read_only
        try:
            self._fd = os.open(path, (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(error.errno, f"disk {path}: cannot be opened {'for writing' if writes else 'for reading'}: "
                            f"{error.strerror}") from error
        try:
            self.size = self._check_size()
            if mode == "direct":
                self._lock(fcntl.LOCK_SH if read_only else fcntl.LOCK_EX)
        except BaseException:
            self.close()
            raise

    def _check_size(self) -> int:
        if stat.S_ISDIR(os.fstat(self._fd).st_mode):
            raise ConfigError(f"disk {self.path}: is a directory, expected a raw image file")
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size == 0 or size % SECTOR:
            raise ConfigError(f"disk {self.path}: its size is {size} bytes, expected a positive multiple of {SECTOR}")
        if os.pread(self._fd, 4, 0) == b"QFI\xfb":
            raise ConfigError(
                f"disk {self.path}: found a qcow2 image, expected a raw one; qemu-img convert -O raw makes one")
        return size

    def _lock(self, kind: int) -> None:
        # A lock of the open file description, where there is one: record locks of a process would not keep a second
        # disk of the same process out, and would go when any descriptor of the file is closed.
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            raise HostError(error.errno, f"disk {self.path}: is locked by another machine or process; mode='overlay' "
                            "needs no lock") from error

    @property
    def closed(self) -> bool:
        return self._fd < 0

    @property
    def sectors(self) -> int:
        """The size in sectors of 512 bytes."""
        return self.size // SECTOR

    @property
    def changed_blocks(self) -> int:
        """How many blocks of 4 KiB the overlay holds."""
        return len(self._overlay)

    @property
    def overlay(self) -> dict[int, bytes]:
        """A copy of the overlay: changed blocks by number. Assigning replaces what changed."""
        return dict(self._overlay)

    @overlay.setter
    def overlay(self, blocks: Mapping[int, bytes]) -> None:
        self._check_open()
        if self.mode != "overlay":
            raise ConfigError(f"disk {self.path}: mode is {self.mode!r} and has no overlay to replace")
        count = -(-self.size // BLOCK)
        for number, data in blocks.items():
            if not isinstance(number, int) or not 0 <= number < count:
                raise ConfigError(f"disk {self.path}: overlay block {number!r}, expected 0..{count - 1}")
            if not isinstance(data, bytes) or len(data) != BLOCK:
                raise ConfigError(f"disk {self.path}: overlay block {number} is not {BLOCK} bytes")
        self._overlay = dict(blocks)

    def _check_open(self) -> None:
        if self._fd < 0:
            raise ClosedError(f"disk {self.path}: is closed")

    def _check_range(self, offset: int, n: int) -> None:
        self._check_open()
        if offset < 0 or n < 0 or offset + n > self.size:
            raise ConfigError(f"disk {self.path}: range {offset}..{offset + n} is outside 0..{self.size}")

    def _file(self, offset: int, n: int) -> bytes:
        """Read the file itself; what lies past its end (a last, partial block, or a file cut since) is zeros."""
        parts, got = [], 0
        while got < n:
            try:
                part = os.pread(self._fd, n - got, offset + got)
            except OSError as error:
                raise HostError(error.errno, f"disk {self.path}: cannot read {n} bytes at {offset}: {error.strerror}"
                                ) from error
            if not part:
                parts.append(bytes(n - got))
                break
            parts.append(part)
            got += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read(self, offset: int, n: int) -> bytes:
        """Return `n` bytes from `offset`. Raises ConfigError outside the disk, HostError when the host cannot."""
        self._check_range(offset, n)
        if not self._overlay:
            return self._file(offset, n)
        out = bytearray()
        end = offset + n
        while offset < end:
            number, skip = divmod(offset, BLOCK)
            changed = self._overlay.get(number)
            if changed is not None:
                piece = changed[skip:skip + end - offset]
            else:
                stop = number + 1
                while stop * BLOCK < end and stop not in self._overlay:
                    stop += 1
                piece = self._file(offset, min(stop * BLOCK, end) - offset)
            out += piece
            offset += len(piece)
        return bytes(out)

    def write(self, offset: int, data: bytes) -> None:
        """Write `data` at `offset`.

        Raises ConfigError outside the disk or when it is read-only, HostError when the host or the overlay is full.
        """
        self._check_range(offset, len(data))
        if self.read_only:
            raise ConfigError(f"disk {self.path}: is read-only")
        if self.mode == "direct":
            self._write_file(offset, data)
            return
        at = 0
        while at < len(data):
            number, skip = divmod(offset + at, BLOCK)
            piece = bytes(data[at:at + BLOCK - skip])
            at += len(piece)
            if len(piece) < BLOCK:
                old = self._overlay.get(number)
                if old is None:
                    old = self._file(number * BLOCK, BLOCK)
                piece = old[:skip] + piece + old[skip + len(piece):]
            self._put(number, piece)

    def _put(self, number: int, block: bytes) -> None:
        if number not in self._overlay and self.overlay_limit is not None:
            needed = (len(self._overlay) + 1) * BLOCK
            if needed > self.overlay_limit:
                raise HostError(28, f"disk {self.path}: the overlay needs {needed} bytes, overlay_limit allows "
                                f"{self.overlay_limit}")
        # Zeroed blocks are common (mkfs, discard) and share one object.
        self._overlay[number] = _ZERO if block == _ZERO else block

    def _write_file(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._fd, view, offset)
            except OSError as error:
                raise HostError(error.errno, f"disk {self.path}: cannot write {len(view)} bytes at {offset}: "
                                f"{error.strerror}") from error
            view, offset = view[done:], offset + done

    def zero(self, offset: int, n: int) -> None:
        """Write `n` zero bytes at `offset`, in pieces of bounded size."""
        self._check_range(offset, n)
        while n:
            step = min(n, 1 << 20)
            self.write(offset, bytes(step))
            offset, n = offset + step, n - step

    def flush(self) -> None:
        """Make what was written durable: fsync in direct mode, nothing in an overlay."""
        self._check_open()
        if self.mode == "direct" and not self.read_only:
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise HostError(error.errno, f"disk {self.path}: cannot flush: {error.strerror}") from error

    def close(self) -> None:
        """Release the file and the lock. What an overlay holds is lost."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Disk:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        status = "closed" if self.closed else f"{self.changed_blocks} blocks changed" if self._overlay else "unchanged"
        return f"<Disk {str(self.path)!r} mode={self.mode!r} size={getattr(self, 'size', 0)} {status}>"
