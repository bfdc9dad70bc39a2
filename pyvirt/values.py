"""Plain values as MessagePack and back, unchanged: also tuples, and integers of any size.

Extension 1 is an integer beyond 64 bits, signed, little-endian; 2 a tuple, as an array; 3 a disk's place among the
disks, as an integer. Nothing else is stored, and nothing that is read makes more than these values.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

INTEGER, TUPLE, DISK = 1, 2, 3
_LOW, _HIGH = -(1 << 63), 1 << 64
DEPTH = 32      # of values in values


class DiskRef(NamedTuple):
    """Stands for a disk among the arguments of a device: its place among the snapshot's images."""

    at: int


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > DEPTH:
        raise TypeError(f"{where} is nested deeper than {DEPTH}")
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        value = int(value)
        if _LOW <= value < _HIGH:
            return value
        return msgspec.msgpack.Ext(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, DiskRef):
        return msgspec.msgpack.Ext(DISK, msgspec.msgpack.encode(value.at))
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}[{at}]", depth + 1) for at, item in enumerate(value)]
        if isinstance(value, list):
            return items
        return msgspec.msgpack.Ext(TUPLE, msgspec.msgpack.encode(items))
    if isinstance(value, Mapping):
        return {_plain(key, f"key of {where}", depth + 1): _plain(item, f"{where}[{key!r}]", depth + 1)
                for key, item in value.items()}
    raise TypeError(f"{where} is {value!r} of {type(value).__name__}; allowed: None, bool, int, float, str, bytes, and "
                    "lists, tuples and dicts of them")


def pack(value: Any, where: str = "value") -> bytes:
    """Return plain values as MessagePack. TypeError names what is not plain, and where; ValueError for bad text.

    >>> unpack(pack({"a": [1, (2, b"x")], 7: 1 << 70}))
    {'a': [1, (2, b'x')], 7: 1180591620717411303424}
    """
    return msgspec.msgpack.encode(_plain(value, where, 0))


def unpack(data: bytes) -> Any:
    """Return the values that `pack` stored. ValueError for everything else."""
    try:
        return _unpack(data, 0)
    except (msgspec.MsgspecError, RecursionError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"no plain values: {error}") from error


def _unpack(data: bytes | memoryview, depth: int) -> Any:
    if depth > DEPTH:
        raise ValueError(f"values are nested deeper than {DEPTH}")

    def extension(code: int, content: memoryview) -> Any:
        if code == INTEGER and len(content) <= 4096:
            return int.from_bytes(content, "little", signed=True)
        if code == TUPLE:
            items = _unpack(content, depth + 1)
            if isinstance(items, list):
                return tuple(items)
        if code == DISK:
            at = msgspec.msgpack.decode(content, type=int)
            if 0 <= at < 1 << 16:
                return DiskRef(at)
        raise ValueError(f"extension {code} of {len(content)} bytes is not known")

    return msgspec.msgpack.decode(data, ext_hook=extension)
