"""HTIF, the host interface of bare programs: two doublewords in RAM, `tohost` and `fromhost`, that an ELF names.

A store to `tohost` is served before the next instruction. Device 0: an odd payload ends the guest with exit code
payload >> 1, an even one points at a call of eight doublewords, of which write and exit are answered. Device 1, the
console: command 1 prints a byte, command 0 asks for one, which comes through `fromhost` when there is one.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvirt.errors import LoadError

if TYPE_CHECKING:
    from pyvirt._hart import Core

PAYLOAD = (1 << 48) - 1
SYSTEM, CONSOLE = 0, 1
GETCHAR, PUTCHAR = 0, 1
SYS_WRITE, SYS_EXIT, ENOSYS, EFAULT = 64, 93, 38, 14
WRITE_MAX = 1 << 16
GOT_CHAR = 0x100


class Htif:
    """Serves one program's `tohost` and `fromhost`, physical addresses of aligned doublewords in RAM.

    `console_write(data)`, `console_read(n)` and `on_exit(kind, code)` are as for the built-in SBI.
    """

    def __init__(self, core: Core, *, tohost: int, fromhost: int | None, console_write: Callable[[bytes], None],
                 console_read: Callable[[int], bytes], on_exit: Callable[[str, int], None]) -> None:
        end = core.ram.base + core.ram.size
        for name, address in (("tohost", tohost), ("fromhost", fromhost)):
            if address is not None and (address % 8 or not core.ram.base <= address <= end - 8):
                raise LoadError(f"{name}: is at {address:#x}, expected a multiple of 8 in RAM "
                                f"{core.ram.base:#x}..{end:#x}")
        self.core, self.tohost, self.fromhost = core, tohost, fromhost
        self._write, self._read, self._on_exit = console_write, console_read, on_exit
        self.reading = False
        core.watch(tohost)

    @property
    def state(self) -> list[int | bool | None]:
        """Where it is, and whether a byte was asked for and has not come."""
        return [self.tohost, self.fromhost, self.reading]

    def serve(self) -> None:
        """Answer what is in `tohost`, and hand over a byte that is waited for."""
        request = self._get(self.tohost)
        if request:
            self._put(self.tohost, 0)
            device, command, payload = request >> 56, request >> 48 & 0xFF, request & PAYLOAD
            if device == SYSTEM and command == 0:
                self._system(payload)
            elif device == CONSOLE and command == PUTCHAR:
                self._write(bytes([payload & 0xFF]))
                self._respond(CONSOLE, PUTCHAR, 0)
            elif device == CONSOLE and command == GETCHAR:
                self.reading = True
        if self.reading and (self.fromhost is None or self._get(self.fromhost) == 0):
            data = self._read(1)
            if data:
                self.reading = False
                self._respond(CONSOLE, GETCHAR, GOT_CHAR | data[0])

    def _get(self, address: int) -> int:
        return int.from_bytes(self.core.mem_read(address, 8), "little")

    def _put(self, address: int, value: int) -> None:
        self.core.mem_write(address, value.to_bytes(8, "little"))

    def _respond(self, device: int, command: int, payload: int) -> None:
        if self.fromhost is not None:
            self._put(self.fromhost, device << 56 | command << 48 | payload)

    def _system(self, payload: int) -> None:
        if payload & 1:
            self._on_exit("htif", payload >> 1)
            return
        try:
            call = [self._get(payload + 8 * i) for i in range(4)]
        except IndexError:
            call = []
        if not call:
            self._respond(SYSTEM, 0, 1)  # a pointer to nowhere: the call is over, without an answer
            return
        result = -ENOSYS
        if call[0] == SYS_EXIT:
            self._on_exit("htif", call[1] & 0xFF)
            result = 0
        elif call[0] == SYS_WRITE:
            try:
                data = self.core.mem_read(call[2], min(call[3], WRITE_MAX))
                self._write(data)
                result = len(data)
            except IndexError:
                result = -EFAULT
        self._put(payload, result & (1 << 64) - 1)
        self._respond(SYSTEM, 0, 1)
