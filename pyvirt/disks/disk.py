"""Disks: raw image files, either never written (what changed is kept in memory) or written in place.

A disk knows nothing of virtio; offsets and sizes are in bytes. Changed blocks of an overlay are immutable `bytes` in a
persistent tree, so that an image of the disk as it is takes constant time and shares them all.
"""
from __future__ import annotations

import fcntl
import os
import stat
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pyvirt.disks.blocks import Blocks
from pyvirt.errors import ClosedError, ConfigError, HostError

SECTOR = 512
BLOCK = 4096
_ZERO = bytes(BLOCK)

# Who may stand on a file that is about to change.
DISKS: weakref.WeakSet[Disk] = weakref.WeakSet()
IMAGES: weakref.WeakSet[DiskImage] = weakref.WeakSet()


class BaseFile:
    """An open image file, shared by disks that never write it and by their images; closed when the last one goes.

    `digests` holds content digests of pieces of the file, by number: whoever takes them fills it.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.digests: dict[int, bytes] = {}

    @property
    def identity(self) -> tuple[int, int]:
        """Size and time of the last change, in nanoseconds."""
        found = os.fstat(self.fd)
        return found.st_size, found.st_mtime_ns

    def pread(self, n: int, offset: int) -> bytes:
        """Return up to `n` bytes from `offset` on; none at the end."""
        return os.pread(self.fd, n, offset)

    def differs(self, other: BaseFile, blocks: int) -> Iterable[int]:
        """Return the numbers of those of the first `blocks` blocks of 4 KiB that may differ."""
        return () if type(other) is BaseFile and self.identity == other.identity else range(blocks)

    def close(self) -> None:
        """Close the file for all who share it."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class DiskImage:
    """What an overlay disk held at one moment: the file it stands on, and the blocks changed. Immutable.

    Pickled, it is the file's path and the blocks. `disk()` makes a new Disk of it.
    """

    def __init__(self, path: Path, file: BaseFile, identity: tuple[int, int], blocks: Blocks, *, size: int,
                 read_only: bool, overlay_limit: int | None) -> None:
        self.path, self.size, self.read_only, self.overlay_limit = path, size, read_only, overlay_limit
        self._base, self._identity, self._blocks = file, identity, blocks
        IMAGES.add(self)

    @property
    def changed_blocks(self) -> int:
        """How many blocks of 4 KiB differ from the file's, or once did."""
        return len(self._blocks)

    @property
    def blocks(self) -> dict[int, bytes]:
        """The changed blocks by number."""
        return dict(self._blocks.items())

    def disk(self) -> Disk:
        """Return a new disk of this content, which shares all blocks until it writes."""
        made = Disk.__new__(Disk)
        made._base = self._base
        made._fd, made._overlay = self._base.fd, self._blocks.copy()
        made.path, made.size, made.mode = self.path, self.size, "overlay"
        made.read_only, made.overlay_limit = self.read_only, self.overlay_limit
        made._image = self
        made._parked = False
        DISKS.add(made)
        return made

    def diff(self, other: DiskImage) -> list[int]:
        """Return the numbers of blocks whose content differs, in the time of what changed."""
        if self.size != other.size:
            raise ConfigError(f"disk {self.path}: has {self.size} bytes and can't be compared with one of {other.size}")
        found = self._blocks.diff(other._blocks)
        if self._base is not other._base:
            found = sorted({*found, *self._base.differs(other._base, -(-self.size // BLOCK))})
        with self.disk() as one, other.disk() as two:
            return [n for n in found if one.read(n * BLOCK, min(BLOCK, self.size - n * BLOCK)) !=
                    two.read(n * BLOCK, min(BLOCK, self.size - n * BLOCK))]

    def verify(self) -> None:
        """Raise HostError when the file under the overlay is not what it was."""
        now = self._base.identity
        if now != self._identity:
            raise HostError(5, f"disk {self.path}: the file under the overlay was changed: size and time were "
                            f"{self._identity}, found {now}; it must not be written while snapshots stand on it")

    def __reduce__(self) -> tuple[Any, ...]:
        if type(self._base) is not BaseFile:    # nothing that another process could open
            return _image_on, (self._base, str(self.path), self.size, self.read_only, self.overlay_limit, self.blocks)
        return _image, (str(self.path), self._identity, self.size, self.read_only, self.overlay_limit, self.blocks)

    def __repr__(self) -> str:
        return f"<DiskImage {str(self.path)!r} size={self.size} {self.changed_blocks} blocks changed>"


def _image_on(base: BaseFile, path: str, size: int, read_only: bool, overlay_limit: int | None,
              blocks: dict[int, bytes]) -> DiskImage:
    """Make an image on a base that is no file of its own; `path` is but a label."""
    return DiskImage(Path(path), base, base.identity, Blocks(-(-size // BLOCK), blocks), size=size,
                     read_only=read_only, overlay_limit=overlay_limit)


def _image(path: str, identity: tuple[int, int], size: int, read_only: bool, overlay_limit: int | None,
           blocks: dict[int, bytes]) -> DiskImage:
    """Make a pickled image anew; ConfigError when the file is not of the size it was."""
    with Disk(path, read_only=read_only, overlay_limit=overlay_limit) as disk:
        if disk.size != size:
            raise ConfigError(f"disk {path}: has {disk.size} bytes, the snapshot's had {size}")
        disk.overlay = blocks
        image = disk.image()
    image._identity = identity
    return image


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
        self._base: BaseFile | None = None
        self._overlay = Blocks(0)
        self._image: DiskImage | None = None
        self._parked = False
        self.path = Path(path)
        if mode not in ("overlay", "direct"):
            raise ConfigError(f"disk {path}: mode is {mode!r}, expected 'overlay' or 'direct'")
        if overlay_limit is not None and (not isinstance(overlay_limit, int) or overlay_limit < 0):
            raise ConfigError(f"disk {path}: overlay_limit is {overlay_limit!r}, expected None or a number of bytes")
        self.mode, self.read_only, self.overlay_limit = mode, bool(read_only), overlay_limit
        writes = mode == "direct" and not read_only
        if (left := self.path.with_name(f".{self.path.name}.commit")).exists():
            raise HostError(5, f"disk {path}: a commit was broken off, and {left} holds the rest of it; "
                            "Disk.recover(path) finishes it")
        try:
            self._fd = os.open(path, (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(error.errno, f"disk {path}: cannot be opened {'for writing' if writes else 'for reading'}: "
                            f"{error.strerror}") from error
        self._base = BaseFile(self._fd)
        try:
            self.size = self._check_size()
            self._overlay = Blocks(-(-self.size // BLOCK))
            if mode == "direct":
                self._lock(fcntl.LOCK_SH if read_only else fcntl.LOCK_EX)
            DISKS.add(self)
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
        return dict(self._overlay.items())

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
        self._overlay = Blocks(count, blocks)
        self._image = None

    def image(self) -> DiskImage:
        """Return the present content, in constant time. Raises ConfigError for a disk in direct mode."""
        self._check_open()
        assert self._base is not None
        if self.mode != "overlay":
            raise ConfigError(f"disk {self.path}: mode is {self.mode!r}, so that what it holds can't be kept; expected "
                              f"mode='overlay', which leaves the file as it is: Disk({str(self.path)!r})")
        if self._image is None:
            self._image = DiskImage(
                self.path, self._base, self._base.identity, self._overlay.copy(), size=self.size,
                read_only=self.read_only, overlay_limit=self.overlay_limit)
        return self._image

    def park(self) -> None:
        """Hold neither file nor blocks until `restore` brings an image; for a disk in overlay mode."""
        self._fd, self._base, self._image, self._parked = -1, None, None, True
        self._overlay = Blocks(self._overlay.count)

    def takes(self, image: DiskImage) -> bool:
        """Whether an image is of this disk: of the same file, size and options."""
        return (image.path is self.path or image.path == self.path) and (
            image.size, image.read_only, image.overlay_limit, "overlay") == (
            self.size, self.read_only, self.overlay_limit, self.mode)

    def restore(self, image: DiskImage) -> None:
        """Take the content of an image of this disk, in constant time. Raises ConfigError for another disk's."""
        if self._image is image:
            return
        if not self._parked:
            self._check_open()
        if self.mode != "overlay" or image.size != self.size or image.path != self.path:
            raise ConfigError(f"disk {self.path} (mode {self.mode!r}, {self.size} bytes) can't take the content of "
                              f"{image!r}; expected an image of the same disk in overlay mode")
        self._base, self._fd = image._base, image._base.fd
        self._overlay, self._image, self._parked = image._blocks.copy(), image, False

    @property
    def base_digests(self) -> dict[int, bytes]:
        """Where content digests of the file under an overlay are kept, for all disks that stand on it."""
        return {} if self._base is None else self._base.digests

    def _check_open(self) -> None:
        if self._fd < 0:
            raise ClosedError(f"disk {self.path}: is closed")

    def _check_range(self, offset: int, n: int) -> None:
        self._check_open()
        if offset < 0 or n < 0 or offset + n > self.size:
            raise ConfigError(f"disk {self.path}: range {offset}..{offset + n} is outside 0..{self.size}")

    def _read_file(self, offset: int, n: int) -> bytes:
        """Read the file itself; what lies past its end (a last, partial block, or a file cut since) is zeros."""
        parts, got = [], 0
        assert self._base is not None
        while got < n:
            try:
                part = self._base.pread(n - got, offset + got)
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
            return self._read_file(offset, n)
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
                piece = self._read_file(offset, min(stop * BLOCK, end) - offset)
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
                    old = self._read_file(number * BLOCK, BLOCK)
                piece = old[:skip] + piece + old[skip + len(piece):]
            self._put(number, piece)

    def _put(self, number: int, block: bytes) -> None:
        if number not in self._overlay and self.overlay_limit is not None:
            needed = (len(self._overlay) + 1) * BLOCK
            if needed > self.overlay_limit:
                raise HostError(28, f"disk {self.path}: the overlay needs {needed} bytes, overlay_limit allows "
                                f"{self.overlay_limit}")
        # Zeroed blocks are common (mkfs, discard) and share one object.
        self._image = None
        self._overlay[number] = _ZERO if block == _ZERO else block

    def _read_block(self, number: int) -> bytes:
        return self._read_file(number * BLOCK, BLOCK)

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

    def commit(self, *, copy: bool = False) -> int:
        """Write what changed into the file under the overlay, durably, and return how many blocks that were.

        The overlay is empty afterwards. ConfigError while snapshots, forks or other disks of this process need what the
        file holds now; `copy=True` copies the old blocks into their overlays first. Machines on the file must be at
        rest; what stands on it in other processes and in files is not seen, and must not be there. HostError when the
        host cannot, or a machine has the file open in direct mode. Breaking off leaves the old file, or a journal
        beside it with which `Disk.recover` finishes. In direct mode it is `flush`.
        """
        from pyvirt.disks.diskcommit import commit

        self._check_open()
        return commit(self, copy=copy)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write what the disk holds to a raw image, sparse where it is zero: aside, made durable, renamed."""
        from pyvirt.disks.diskcommit import export

        self._check_open()
        export(self, Path(path))

    @staticmethod
    def recover(path: str | os.PathLike[str]) -> bool:
        """Finish a commit to a disk's file that was broken off, and say whether there was one."""
        from pyvirt.disks.diskcommit import recover

        return recover(Path(path))

    def close(self) -> None:
        """Release the file and the lock. What an overlay holds is lost."""
        self._parked = False
        if self._fd >= 0:
            self._fd = -1
            if self.mode == "direct" and self._base is not None:
                self._base.close()
            self._base = self._image = None
            self._overlay = Blocks(self._overlay.count)

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
