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
DEPTH = 32              # of values in values
INTEGER_MAX = 1024      # bytes of an integer; one of more could not even be shown
INTEGERS_MAX = 4096     # of such in all: they may be made to collide in a dict
ITEMS_MAX = 2_000_000   # values in all: the least of them, one byte, takes some 64 bytes of memory
SMALL = 1 << 18         # bytes that can't hold enough values to matter


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
        size = value.bit_length() // 8 + 1
        if size > INTEGER_MAX:
            raise TypeError(f"{where} is an integer of {size} bytes; allowed: up to {INTEGER_MAX}")
        return msgspec.msgpack.Ext(INTEGER, value.to_bytes(size, "little", signed=True))
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
    if len(data) > SMALL:
        _check_items(data)
    try:
        return _unpack(data, 0, [INTEGERS_MAX])
    except (msgspec.MsgspecError, RecursionError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"no plain values: {error}") from error


# Bytes behind the first one of a MessagePack value, without what it contains: fixed, and a length of so many bytes.
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
          0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_EXTENDED = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


def _check_items(data: bytes) -> None:
    """Raise ValueError when MessagePack holds more values than are allowed, before any of them is made.

    Containers need not be followed: what they contain comes behind them. Where a length is a lie, decoding ends at it.
    """
    at = items = 0
    while at < len(data):
        first = data[at]
        items += 1
        at += 1
        if first < 0xA0 or first >= 0xE0 or first in (0xC0, 0xC1, 0xC2, 0xC3):
            pass
        elif first < 0xC0:
            at += first & 31
        elif first in _SIZED:
            width = _SIZED[first]
            at += width + int.from_bytes(data[at:at + width], "big")
        elif first in _FIXED:
            at += _FIXED[first]
        else:           # an extension: its length, its type, its content, which of a tuple are values
            width = _EXTENDED.get(first, 0)
            length = int.from_bytes(data[at:at + width], "big") if width else 1 << first - 0xD4
            code = data[at + width:at + width + 1]
            at += width + 1 + (0 if code == bytes([TUPLE]) else length)
        if items > ITEMS_MAX:
            raise ValueError(f"more than {ITEMS_MAX} values")


def _unpack(data: bytes | memoryview, depth: int, integers: list[int]) -> Any:
    if depth > DEPTH:
        raise ValueError(f"values are nested deeper than {DEPTH}")

    def extension(code: int, content: memoryview) -> Any:
        if code == INTEGER and len(content) <= INTEGER_MAX and integers[0]:
            integers[0] -= 1
            return int.from_bytes(content, "little", signed=True)
        if code == TUPLE:
            items = _unpack(content, depth + 1, integers)
            if isinstance(items, list):
                return tuple(items)
        if code == DISK:
            at = msgspec.msgpack.decode(content, type=int)
            if 0 <= at < 1 << 16:
                return DiskRef(at)
        raise ValueError(f"extension {code} of {len(content)} bytes is not known")

    return msgspec.msgpack.decode(data, ext_hook=extension)
