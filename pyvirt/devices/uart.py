"""The 16550A UART as a board's part: wiring, host side and device-tree node of the compiled registers."""
from __future__ import annotations

from pyvirt._device_uart import UartRegs
from pyvirt.devices.base import CompiledDevice, FdtContext, FdtNode, Region, Wiring


class Uart(CompiledDevice):
    """A serial port. The host sends with `send` and takes output with `drain`; one interrupt line.

    `regs.set_notify` and `regs.interesting` make the run loop leave at the instruction that sent a given byte.

    >>> uart = Uart()
    >>> uart.drain()
    b''
    """

    regs: UartRegs

    NAME = "uart"
    REGIONS = (Region("uart", 0x100),)
    WIDTHS = (1,)
    IRQS = 1

    CLOCK_HZ = 3_686_400

    def __init__(self) -> None:
        super().__init__()
        self.regs = UartRegs()

    def attach(self, wiring: Wiring) -> None:
        super().attach(wiring)
        self.regs.connect_line(wiring.lines[0].capsule())

    def send(self, data: bytes) -> None:
        """Queue input for the guest. The machine must not be running."""
        self.regs.send(bytes(data))

    def drain(self) -> bytes:
        """Return what the guest sent since the last call."""
        return self.regs.drain()

    @property
    def bare(self) -> bool:
        return not self.regs.tx_pending and not self.regs.tx_dropped

    def fdt(self, ctx: FdtContext) -> list[FdtNode]:
        name = f"serial@{ctx.bases[0]:x}"
        ctx.aliases.setdefault("serial0", f"/soc/{name}")
        ctx.chosen.setdefault("stdout-path", f"/soc/{name}")
        return [FdtNode(name, {
            "compatible": "ns16550a",
            "reg": ctx.reg(*self.regions),
            "clock-frequency": self.CLOCK_HZ,
            **ctx.interrupts(),
        })]
