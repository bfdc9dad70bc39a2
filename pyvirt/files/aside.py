"""Files that are whole or not there: written aside in the same folder, made durable, renamed into place.

Whoever writes holds a lock on what lies aside, so that the next writer of the same file can tell what a killed process
left behind, and remove it.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pyvirt.errors import HostError


@contextlib.contextmanager
def aside(path: str | os.PathLike[str], *, what: str) -> Iterator[IO[bytes]]:
    """Write a file aside and rename it to `path` when the block ends well; `what` begins the message of a HostError."""
    path = Path(path)
    try:
        handle, name = _create(path)
    except OSError as error:
        raise HostError(error.errno, f"{what}: {str(path)!r} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w+b") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                umask = os.umask(0)
                os.umask(umask)
                os.fchmod(file.fileno(), 0o666 & ~umask)  # mkstemp's files are private
                Path(name).replace(path)
                _sync_folder(path.parent)
            except OSError as error:
                if isinstance(error, HostError):
                    raise
                raise HostError(error.errno, f"{what}: {str(path)!r} cannot be written: {error.strerror}") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _create(path: Path) -> tuple[int, str]:
    """Return a new file beside `path`, locked, and its name."""
    while True:
        _remove_leftovers(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".aside", dir=path.parent)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)    # another writer took it for a leftover before it was locked


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` that were killed left aside: no one holds its lock any more."""
    start = f".{path.name}."
    for left in path.parent.iterdir():
        if not (left.name.startswith(start) and left.name.endswith(".aside")):
            continue
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(left, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            except BlockingIOError:
                continue    # its writer is alive
            finally:
                os.close(fd)
