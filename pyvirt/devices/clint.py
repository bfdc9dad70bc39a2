"""The CLINT as a board's part: wiring and device-tree node of the compiled registers."""
from __future__ import annotations

from pyvirt._device_clint import ClintRegs
from pyvirt.devices.base import CompiledDevice, FdtContext, FdtNode, Region, Wiring
from pyvirt.errors import ConfigError, DeviceError


class Clint(CompiledDevice):
    """Software and timer interrupts of up to 64 harts. Its lines are MSIP of each hart; it needs a clock.

    >>> Clint(harts=2).irqs
    2
    """

    regs: ClintRegs

    NAME = "clint"
    REGIONS = (Region("clint", 0x10000),)
    WIDTHS = (4, 8)

    def __init__(self, *, harts: int = 1) -> None:
        super().__init__()
        try:
            self.regs = ClintRegs(harts)
        except (ValueError, OverflowError, TypeError) as error:
            raise ConfigError(f"clint: harts is {harts!r}, expected 1..64") from error

    @property
    def irqs(self) -> int:
        return self.regs.harts

    def attach(self, wiring: Wiring) -> None:
        super().attach(wiring)
        if wiring.clock is None:
            raise DeviceError("clint: needs a clock, was given none")
        self.regs.connect_clock(wiring.clock.capsule())
        for hart, line in enumerate(wiring.lines):
            self.regs.connect_line(hart, line.capsule())

    @property
    def bare(self) -> bool:
        return True

    def fdt(self, ctx: FdtContext) -> list[FdtNode]:
        wires: list[int] = []
        for hart in range(self.regs.harts):
            wires += [ctx.phandle(f"cpu{hart}-intc"), 3, ctx.phandle(f"cpu{hart}-intc"), 7]
        return [FdtNode(f"clint@{ctx.bases[0]:x}", {
            "compatible": ["sifive,clint0", "riscv,clint0"],
            "reg": ctx.reg(*self.regions),
            "interrupts-extended": wires,
        })]
