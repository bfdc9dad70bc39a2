"""What a hart finds at power-on: the reset ROM at 0x1000, and the record that OpenSBI's fw_dynamic expects in a2.

The ROM is QEMU's in what it does: a0 = mhartid, a1 = the device tree, a2 = the record, then a jump to the firmware.
"""
from __future__ import annotations

import struct

from pyvirt.devices.base import BusFault, Device, Region

ROM_BASE, ROM_SIZE = 0x1000, 0xF000
FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION = 0x4942534F, 2
NEXT_MODE_S = 1

# auipc t0, 0; addi a2, t0, 40; csrr a0, mhartid; ld a1, 32(t0); ld t0, 24(t0); jr t0
_CODE = (0x00000297, 0x02828613, 0xF1402573, 0x0202B583, 0x0182B283, 0x00028067)
# csrr a0, mhartid; wfi; j . - 4: where harts stay when nothing was loaded.
_EMPTY = (0xF1402573, 0x10500073, 0xFFDFF06F)


def reset_code(*, entry: int, dtb: int, next_addr: int, boot_hart: int = 0) -> bytes:
    """Return the ROM's content for firmware at `entry` that goes on at `next_addr` in S-mode."""
    info = struct.pack("<6Q", FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, next_addr, NEXT_MODE_S, 0, boot_hart)
    return struct.pack("<6I", *_CODE) + struct.pack("<QQ", entry, dtb) + info


def empty_code() -> bytes:
    """Return the ROM's content of a machine in which nothing was loaded: harts wait for ever."""
    return struct.pack("<3I", *_EMPTY)


class Rom(Device):
    """The reset ROM: read-only, any width; a store is an access fault.

    >>> Rom().read(0, 4) == 0xf1402573
    True
    """

    NAME = "rom"
    REGIONS = (Region("rom", ROM_SIZE),)
    WIDTHS = (1, 2, 4, 8)

    def __init__(self, content: bytes = b"") -> None:
        super().__init__()
        self.content = (content or empty_code()).ljust(ROM_SIZE, b"\0")

    def fill(self, content: bytes) -> None:
        """Replace the content; the rest is zeros."""
        self.content = content.ljust(ROM_SIZE, b"\0")

    def read(self, offset: int, width: int) -> int:
        return int.from_bytes(self.content[offset:offset + width], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        raise BusFault(f"rom: offset {offset:#x} is read-only")

    @property
    def bare(self) -> bool:
        return True

    @property
    def packed(self) -> bytes:
        """The content, for forks within one process."""
        return self.content

    @packed.setter
    def packed(self, data: bytes) -> None:
        self.content = data

    def _save(self) -> dict[str, object]:
        return {"content": self.content.rstrip(b"\0")}

    def _load(self, state: dict[str, object]) -> None:
        content = state["content"]
        if not isinstance(content, bytes) or len(content) > ROM_SIZE:
            raise ValueError(f"rom: state['content'] is {content!r:.60}, expected at most {ROM_SIZE} bytes")
        self.fill(content)
