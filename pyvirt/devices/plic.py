"""The PLIC as a board's part: wiring and device-tree node of the compiled registers."""
from __future__ import annotations

from pyvirt._device_plic import PlicRegs
from pyvirt.devices.base import CompiledDevice, FdtContext, FdtNode, IrqLine, Region, Wiring
from pyvirt.errors import ConfigError


class Plic(CompiledDevice):
    """External interrupts: sources 1..`sources` (at most 127) to contexts M and S of each hart (at most 64).

    Its lines are the contexts' outputs in that order: MEIP of hart 0, SEIP of hart 0, MEIP of hart 1 ...

    >>> Plic(harts=2).irqs
    4
    """

    regs: PlicRegs

    NAME = "plic"
    REGIONS = (Region("plic", 0x60_0000),)
    WIDTHS = (4,)

    def __init__(self, *, harts: int = 1, sources: int = 96) -> None:
        super().__init__()
        if not isinstance(harts, int) or not 1 <= harts <= 64:
            raise ConfigError(f"plic: harts is {harts!r}, expected 1..64")
        if not isinstance(sources, int) or not 1 <= sources <= 127:
            raise ConfigError(f"plic: sources is {sources!r}, expected 1..127")
        self.harts = harts
        self.regs = PlicRegs(sources, 2 * harts)

    @property
    def irqs(self) -> int:
        return self.regs.contexts

    def source(self, number: int) -> IrqLine:
        """Return the input line of an interrupt source."""
        try:
            return IrqLine(self.regs.source_line(number))
        except (IndexError, OverflowError) as error:
            raise ConfigError(f"plic: source is {number!r}, expected 1..{self.regs.sources}") from error

    def attach(self, wiring: Wiring) -> None:
        super().attach(wiring)
        for context, line in enumerate(wiring.lines):
            self.regs.connect_line(context, line.capsule())

    @property
    def bare(self) -> bool:
        return True

    def fdt(self, ctx: FdtContext) -> list[FdtNode]:
        wires: list[int] = []
        for hart in range(self.harts):
            wires += [ctx.phandle(f"cpu{hart}-intc"), 11, ctx.phandle(f"cpu{hart}-intc"), 9]
        return [FdtNode(f"plic@{ctx.bases[0]:x}", {
            "compatible": ["sifive,plic-1.0.0", "riscv,plic0"],
            "reg": ctx.reg(*self.regions),
            "interrupt-controller": True,
            "#interrupt-cells": 1,
            "#address-cells": 0,
            "riscv,ndev": self.regs.sources,
            "interrupts-extended": wires,
            "phandle": ctx.phandle("plic"),
        })]
