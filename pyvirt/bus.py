"""Physical addresses as people use them: device registers, whose access has effects, and RAM and ROM, as DMA sees them.

Views only: a machine's parts are used through its Tenant, which says whether that may be now.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from pyvirt.board import RAM_BASE
from pyvirt.config import integer
from pyvirt.errors import ConfigError, GuestAddressError
from pyvirt.firmware.firmware import ROM_BASE

if TYPE_CHECKING:
    from pyvirt.history.tenant import Tenant

U64 = (1 << 64) - 1


class Bus:
    """The machine's bus: device registers, whose reading and writing have effects.

    `vm.bus.read(address, width)`, `vm.bus.write(address, width, value)`; `vm.bus.map` lists what is where.
    """

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    def read(self, address: int, width: int) -> int:
        """Read a device register of 1, 2, 4 or 8 bytes. GuestAddressError where a guest would take a fault."""
        try:
            with self._tenant as shell:
                return shell.core.bus_read(self._address(address), self._width(width))
        except IndexError:
            raise self._nothing(address, width) from None

    def write(self, address: int, width: int, value: int) -> None:
        """Write a device register of 1, 2, 4 or 8 bytes. GuestAddressError where a guest would take a fault."""
        self._tenant.check()
        top = 1 << 8 * self._width(width)
        if isinstance(value, bool) or not isinstance(value, int) or not -(top >> 1) <= value < top:
            raise ConfigError(f"bus.write: value is {value!r}; allowed: {-(top >> 1):#x}...{top - 1:#x}")
        try:
            with self._tenant as shell:
                shell.core.bus_write(self._address(address), width, value % top)
        except IndexError:
            raise self._nothing(address, width) from None

    @property
    def map(self) -> list[tuple[int, int, str]]:
        """Base, size and name of every region, by address."""
        with self._tenant as shell:
            return shell.board.map

    @staticmethod
    def _width(width: int) -> int:
        if width not in (1, 2, 4, 8):
            raise ConfigError(f"bus: width is {width!r}; allowed: 1, 2, 4, 8")
        return width

    @staticmethod
    def _address(address: int) -> int:
        return integer(address, name="bus: address", low=0, high=U64)

    def _nothing(self, address: int, width: int) -> GuestAddressError:
        regions = ", ".join(f"{name} {base:#x}...{base + size:#x}" for base, size, name in self.map)
        return GuestAddressError(f"bus: no device register of width {width} at {address:#x}; mapped: {regions}")

    def __repr__(self) -> str:
        return f"<Bus of a machine at icount {self._tenant.icount}>"


class Physical:
    """The backend of `vm.mem`: RAM as DMA sees it, and the reset ROM."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    def read(self, address: int, n: int, /) -> bytes:
        with self._tenant as shell:
            board = shell.board
            if board.rom is not None and address < RAM_BASE:
                at = address - ROM_BASE
                return board.rom.content[at:at + n]
            return shell.core.mem_read(address, n)

    def write(self, address: int, data: bytes, /) -> None:
        with self._tenant as shell:
            shell.core.mem_write(address, data)
