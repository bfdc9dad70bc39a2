"""What stock OpenSBI images write to memory without being asked, told from their code."""
from __future__ import annotations

import struct

SCAN = 16 << 10
RET = b"\x82\x80"
A1 = 11


def moved_tree(image: bytes, *, base: int) -> int | None:
    """Return the address to which an OpenSBI `fw_jump` image loaded at `base` moves the device tree; None for others.

    Stock images have it built in, and it lies inside a large kernel: whoever places the kernel reserves it, so that
    the overlap is refused by name instead of corrupting the kernel. Found by the code of `fw_next_arg1`: "li a0,
    ADDRESS; ret" in OpenSBI 1.1, the image's start plus "lui a1, OFFSET" in 1.9, where `fw_next_addr` follows, alike.
    """
    later: list[int] = []
    for at in range(0, min(len(image), SCAN) - 20, 2):
        word = int.from_bytes(image[at:at + 4], "little")
        if word & 0xFFFF7 == 0x513 and image[at + 6:at + 8] == RET:  # addi or addiw a0, zero, imm
            shift = int.from_bytes(image[at + 4:at + 6], "little")
            if shift & 0xEF83 == 0x502:  # c.slli a0
                return (word >> 20) << ((shift >> 12 & 1) << 5 | shift >> 2 & 31)
        elif word == 0x517 and image[at + 12:at + 16] == b"\x2e\x95" + RET:  # auipc a0, 0 ... c.add a0, a1; ret
            addi, lui = struct.unpack_from("<ii", image, at + 4)
            if addi & 0xFFFFF == 0x50513 and lui & 0xFFF == A1 << 7 | 0x37 and at + (addi >> 20) == 0:
                later.append(base + (lui & ~0xFFF))
    return later[0] if len(later) > 1 else None
