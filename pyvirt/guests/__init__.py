"""Programs for the machine that ship with it, as sources assembled when they are needed."""
from __future__ import annotations

from functools import cache
from importlib.resources import files

from pyvirt.assembly.asm import Assembled, asm

MONITOR = ("monitor.S", "console.S", "commands.S", "selftest.S", "data.S")
KERNEL_AT = 0x8020_0000  # where an SBI firmware enters its payload


@cache
def monitor() -> Assembled:
    """Return the monitor, a program for S-mode, placed where the firmware enters it."""
    folder = files(__name__)
    return asm("\n".join((folder / name).read_text("utf-8") for name in MONITOR), KERNEL_AT)
