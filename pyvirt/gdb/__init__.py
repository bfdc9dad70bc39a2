"""A debugger's door: the server side of GDB's remote serial protocol."""
from __future__ import annotations

from pyvirt.gdb.server import GdbServer

__all__ = ["GdbServer"]
