"""The tree of exceptions. Every message names the thing, the value found and the values allowed.

Each class also derives from the builtin a caller would expect, so that `except ValueError` works.
"""
from __future__ import annotations

from typing import Any


class PyvirtError(Exception):
    """Base of everything pyvirt raises on purpose."""


class ConfigError(PyvirtError, ValueError):
    """A part or an option was given a value it does not allow."""


class GuestAddressError(PyvirtError, IndexError):
    """An address lies outside what the machine maps."""


class LoadError(PyvirtError, ValueError):
    """A file can't be loaded: wrong format, truncated, or overlapping what is already placed."""


class AsmError(PyvirtError, ValueError):
    """Assembly text is wrong; `line` and `column` (both from 1) say where."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message, line, column)
        self.message, self.line, self.column = message, line, column

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}" if self.line else self.message


class NotReached(PyvirtError, TimeoutError):
    """`run()` ended before its `until` was met; `stop` is the Stop that ended it."""

    def __init__(self, message: str, stop: Any = None) -> None:
        super().__init__(message, stop)
        self.message, self.stop = message, stop

    def __str__(self) -> str:
        return self.message


class MachineBusy(PyvirtError, RuntimeError):
    """The machine is running in another thread, or this call came from its own callback."""


class ClosedError(PyvirtError, ValueError):
    """The machine or disk was closed."""


class SnapshotError(PyvirtError, RuntimeError):
    """A snapshot can't be taken, or is not what it was."""


class DeviceError(PyvirtError, RuntimeError):
    """A device was wired or driven from the host in a way it does not allow."""


class HostError(PyvirtError, OSError):
    """The host lacks something, or refused it."""
