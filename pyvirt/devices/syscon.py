"""The test finisher of SiFive and QEMU, also Linux's syscon: a store to it ends the machine."""
from __future__ import annotations

from pyvirt.devices.base import BusFault, Device, FdtContext, FdtNode, Region

FAIL, POWEROFF, REBOOT = 0x3333, 0x5555, 0x7777


class Syscon(Device):
    """Power switch: 0x5555 powers off, 0x7777 reboots, 0x3333 | code << 16 fails with that code.

    It calls `on_exit(kind, code)` of its wiring; other values are ignored, as are stores to other offsets. It has no
    state.

    >>> Syscon().state
    {'class': 'syscon', 'version': 1}
    """

    NAME = "syscon"
    REGIONS = (Region("test", 0x1000),)
    WIDTHS = (2, 4)

    def read(self, offset: int, width: int) -> int:
        if offset >= 4:
            raise BusFault(f"syscon: no register at {offset:#x}")
        return 0

    def write(self, offset: int, width: int, value: int) -> None:
        if offset >= 4:
            raise BusFault(f"syscon: no register at {offset:#x}")
        kind = {FAIL: "fail", POWEROFF: "poweroff", REBOOT: "reboot"}.get(value & 0xFFFF)
        if offset == 0 and kind is not None and self._wiring.on_exit is not None:
            self._wiring.on_exit(kind, value >> 16 if kind == "fail" else 0)

    @property
    def bare(self) -> bool:
        return True

    def fdt(self, ctx: FdtContext) -> list[FdtNode]:
        nodes = [FdtNode(f"test@{ctx.bases[0]:x}", {
            "compatible": ["sifive,test1", "sifive,test0", "syscon"],
            "reg": ctx.reg(*self.regions),
            "phandle": ctx.phandle("syscon"),
        })]
        for kind, value in (("poweroff", POWEROFF), ("reboot", REBOOT)):
            nodes.append(FdtNode(kind, {
                "compatible": f"syscon-{kind}", "regmap": ctx.phandle("syscon"), "offset": 0, "value": value,
            }, parent="/"))
        return nodes
