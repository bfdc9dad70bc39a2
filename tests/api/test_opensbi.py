"""Firmware that moves the device tree is told by its code."""
from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pyvirt.images.opensbi import moved_tree

BASE = 0x8000_0000
# As OpenSBI 1.1 and 1.9 were assembled: li a0, 0x82200000; ret - and: lla a0, _fw_start; lui a1, OFFSET; add; ret.
OLD = bytes.fromhex("1b05104156058280")


def later(at: int, offset: int) -> bytes:
    return struct.pack("<III", 0x517, (-at & 0xFFF) << 20 | 0x50513, offset | 0x5B7) + bytes.fromhex("2e958280")


def test_both_forms_of_fw_jump() -> None:
    assert moved_tree(bytes(0x568) + OLD + bytes(64), base=BASE) == 0x8220_0000
    image = bytes(0x7B0) + later(0x7B0, 0x220_0000) + later(0x7C0, 0x20_0000) + bytes(64)
    assert moved_tree(image, base=BASE) == 0x8220_0000
    assert moved_tree(image, base=1 << 32) == (1 << 32) + 0x220_0000


@pytest.mark.parametrize("image", [
    b"", bytes(100_000), OLD, bytes(0x7C0) + later(0x7C0, 0x20_0000) + bytes(64),
    bytes(0x7B2) + later(0x7B0, 0x220_0000) * 2 + bytes(64)])
def test_others_move_nothing(image: bytes) -> None:
    assert moved_tree(image, base=BASE) is None


def test_stock_images() -> None:
    folder = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")
    if not (folder / "fw_jump.bin").exists():
        pytest.skip("needs Debian's package opensbi")
    assert moved_tree((folder / "fw_jump.bin").read_bytes(), base=BASE) == 0x8220_0000
    assert moved_tree((folder / "fw_dynamic.bin").read_bytes(), base=BASE) is None
