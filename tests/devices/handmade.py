"""A machine wired by hand from the core and devices alone, so that devices meet Linux's drivers without a board."""
from __future__ import annotations

import struct
from pathlib import Path

from pyvirt._hart import Core
from pyvirt._memory import Ram
from pyvirt.devices.base import Clock, Device, IrqLine, Wiring
from pyvirt.devices.clint import Clint
from pyvirt.devices.plic import Plic
from pyvirt.devices.rtc import Rtc
from pyvirt.devices.syscon import Syscon
from pyvirt.devices.uart import Uart
from pyvirt.fdt import Placed, Tree, build
from pyvirt.loader import Placement, load_blob, load_dtb, load_initrd, load_program

BASE, SIZE = 0x8000_0000, 256 << 20
EXT_H = 19
ISA = "rv64imafdc_zicntr_zicsr_zifencei_zihpm_zicbom_zicboz_zba_zbb_zbs_sstc_svinval_svnapot_svpbmt"


class Handmade:
    """QEMU virt's layout with one hart, OpenSBI and `virtio` in the first slots."""

    def __init__(self, *, firmware: Path, kernel: Path, initrd: Path, cmdline: str, virtio: list[Device]) -> None:
        self.core = Core(Ram(BASE, SIZE), exts=(1 << 28) - 1 & ~(1 << EXT_H))
        self.uart, self.plic, self.clint = Uart(), Plic(), Clint()
        self.exit: tuple[str, int] | None = None
        self.text = ""
        placed = [
            self._put(self.plic, 0xC00_0000, tuple(IrqLine(self.core.irq_line(0, bit)) for bit in (11, 9))),
            self._put(self.clint, 0x200_0000, (IrqLine(self.core.irq_line(0, 3)),)),
            self._put(self.uart, 0x1000_0000, irq=10),
            self._put(Rtc(), 0x10_1000, irq=11),
            self._put(Syscon(), 0x10_0000),
            *(self._put(device, 0x1000_1000 + 0x1000 * n, irq=1 + n) for n, device in enumerate(virtio)),
        ]
        self.uart.regs.set_notify(self.core.notify())
        self._load(firmware, kernel, initrd, cmdline, placed)

    def _put(self, device: Device, base: int, lines: tuple[IrqLine, ...] = (), *, irq: int = 0) -> Placed:
        if irq:
            lines = (self.plic.source(irq),)
        device.attach(Wiring(lines=lines, clock=Clock(self.core.clock()), memory=self.core, on_exit=self._on_exit))
        self.core.map(base, device.regions[0].size, device)
        return Placed(device, (base,), (irq,) if irq else ())

    def _on_exit(self, kind: str, code: int) -> None:
        self.exit = (kind, code)
        self.core.request_exit()

    def _load(self, firmware: Path, kernel: Path, initrd: Path, cmdline: str, placed: list[Placed]) -> None:
        places, write = Placement(BASE, SIZE), self.core.mem_write
        loaded = load_program(firmware, write=write, placement=places)
        places.reserve("firmware's own", loaded.end, BASE + (2 << 20) - loaded.end)
        entry = load_program(kernel, write=write, placement=places).entry
        ramdisk = load_initrd(initrd, write=write, placement=places)
        tree = build(Tree(isa=ISA, ram_base=BASE, ram_size=SIZE, bootargs=cmdline, initrd=ramdisk[1:]), placed)
        dtb = load_dtb(tree, write=write, placement=places, below=ramdisk.start)
        info = load_blob(struct.pack("<6Q", 0x4942534F, 2, entry, 1, 0, 0), write=write, placement=places, name="info")
        hart = self.core.hart(0)
        hart.pc = BASE
        for register, value in ((10, 0), (11, dtb.start), (12, info.start)):
            hart.set_x(register, value)

    def run(self, until: str, *, limit: int = 3_000_000_000) -> str:
        """Run until the console has said `until`, and return what it said since the last call."""
        end = self.core.icount + limit
        self.uart.regs.interesting = bytes({until.encode()[-1]})
        while until not in self.text and self.exit is None:
            stop = self.core.run(end)
            self.text += self.uart.drain().decode(errors="replace")
            assert stop in ("notify", "exit"), f"{stop} before {until!r}, after:\n{self.text[-2000:]}"
        said, found, self.text = self.text.partition(until)
        assert found, f"{self.exit} before {until!r}, after:\n{said[-2000:]}"
        return said

    def shell(self, command: str) -> str:
        """Run a command at the guest's prompt and return its output, without what the terminal echoed."""
        self.uart.send(f"echo BEGIN-$((6*7)); {command}; echo DONE-$((6*7))\n".encode())
        self.run("BEGIN-42")
        return self.run("DONE-42").replace("\r", "").strip()
