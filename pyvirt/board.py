"""The wiring: which parts a machine has, where they are, what they are connected to, and the device tree of it all.

Parts come first and are handed in; the board gives each an address and interrupt lines, in one order: RAM and core,
ROM, syscon, clock, interrupt controllers, UART, generation ID, virtio slots, then what the user adds. The layout is
QEMU's `virt`.

Compatibility: "virt-1" fixes the layout, the parts' state versions, 100 instructions per tick of the 10 MHz time base
and a quantum of 2,000 instructions. A change of any of these is a new board version; "virt-1" stays.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from pyvirt import fdt
from pyvirt._hart import Core
from pyvirt._memory import Ram
from pyvirt.config import G_MODES, Config, resolve_isa
from pyvirt.devices.base import Clock, Device, IrqLine, Wiring
from pyvirt.devices.clint import Clint
from pyvirt.devices.plic import Plic
from pyvirt.devices.rtc import Rtc
from pyvirt.devices.syscon import Syscon
from pyvirt.devices.uart import Uart
from pyvirt.devices.virtio_blk import VirtioBlk
from pyvirt.devices.virtio_mmio import VirtioMmio
from pyvirt.devices.vmgenid import VmGenId
from pyvirt.disks.disk import Disk
from pyvirt.errors import ConfigError
from pyvirt.fdt import Placed
from pyvirt.firmware.firmware import ROM_BASE, Rom
from pyvirt.images.placement import Placement

BOARDS = ("virt-1", "bare")
RAM_BASE = 0x8000_0000
SYSCON, RTC, CLINT, PLIC, UART, VIRTIO = 0x10_0000, 0x10_1000, 0x200_0000, 0xC00_0000, 0x1000_0000, 0x1000_1000
VMGENID = 0x10_2000     # free on QEMU's board
RTC_IRQ, UART_IRQ, VIRTIO_IRQ, VMGENID_IRQ = 11, 10, 1, 12
VIRTIO_SLOTS, VIRTIO_STEP = 8, 0x1000
SOURCES = 96
# Where devices of the user's go when nothing else is said; sources 32 to 35 are PCI's on QEMU's board.
EXTRA_BASE, EXTRA_IRQ = 0x1100_0000, 36
PAGE = 4096


class Board:
    """The parts of one machine, wired. `on_exit(kind, code)` and `on_schedule()` are called by devices.

    `ram`, `core`, `placed` (devices with addresses, in order) and `uart` (None on a bare board) are its parts.
    """

    def __init__(self, config: Config, *, disks: Sequence[Disk] = (), devices: Sequence[Device | Placed] = (),
                 memory_limit: int | None = None, core: str | None = None,
                 on_exit: Callable[[str, int], None]) -> None:
        self.config = config
        self.isa = resolve_isa(config.isa)
        self.ram = Ram(RAM_BASE, config.ram, 0 if memory_limit is None else max(memory_limit // PAGE, 1))
        self.core = Core(
            self.ram, harts=config.harts, exts=self.isa.exts, satp_modes=self.isa.satp_modes, ratio=config.ratio,
            quantum=config.quantum, core=core, transform=config.htinst == "transformed", vmid_bits=config.vmid_bits,
            geilen=config.hgeie, g_modes=sum(G_MODES[mode] for mode in config.g_modes))
        self.placement = Placement(RAM_BASE, config.ram)
        self.placed: list[Placed] = []
        self.uart: Uart | None = None
        self.rom: Rom | None = None
        self._on_exit = on_exit
        self._clock = Clock(self.core.clock())
        if config.board == "bare":
            if disks or devices:
                raise ConfigError(f"board: 'bare' has no devices, found {len(disks)} disks and {len(devices)} devices; "
                                  "allowed: none, or board='virt-1'")
            return
        self._build(disks, devices)

    def _build(self, disks: Sequence[Disk], devices: Sequence[Device | Placed]) -> None:
        harts = self.config.harts
        self.rom = Rom()
        self._plic = Plic(harts=harts, sources=SOURCES)
        self.uart = Uart()
        self._place(Placed(self.rom, (ROM_BASE,)))
        self._place(Placed(Syscon(), (SYSCON,)))
        # Context order: M and S of hart 0, M and S of hart 1 ...
        contexts = [self.core.irq_line(hart, bit) for hart in range(harts) for bit in (11, 9)]
        self._place(Placed(self._plic, (PLIC,)), contexts)
        self._place(Placed(Clint(harts=harts), (CLINT,)), [self.core.irq_line(hart, 3) for hart in range(harts)])
        self._place(Placed(Rtc(), (RTC,), (RTC_IRQ,)))
        self._place(Placed(self.uart, (UART,), (UART_IRQ,)))
        self._place(Placed(VmGenId(seed=self.config.seed), (VMGENID,), (VMGENID_IRQ,)))
        given = [d if isinstance(d, Placed) else self._free_place(d) for d in devices
                 if isinstance(d, Placed) or not isinstance(d, VirtioMmio)]
        cards: list[VirtioMmio] = [VirtioBlk(disk, serial=f"pyvirt-disk{n}") for n, disk in enumerate(disks)]
        cards += [d for d in devices if isinstance(d, VirtioMmio)]
        if len(cards) > VIRTIO_SLOTS:
            raise ConfigError(f"devices: {len(cards)} virtio devices ({len(disks)} of them disks) are given; allowed: "
                              f"{VIRTIO_SLOTS}, the slots of the board")
        cards += [VirtioMmio() for _ in range(VIRTIO_SLOTS - len(cards))]
        for slot, card in enumerate(cards):
            self._place(Placed(card, (VIRTIO + VIRTIO_STEP * slot,), (VIRTIO_IRQ + slot,)))
        for placed in given:
            self._place(placed)

    def _free_place(self, device: Device) -> Placed:
        """Give a device of the user's the next free addresses and interrupt sources."""
        base, irq = getattr(self, "_next_free", (EXTRA_BASE, EXTRA_IRQ))
        bases = []
        for region in device.regions:
            step = max(1 << (region.size - 1).bit_length(), PAGE)
            base = -(-base // step) * step
            bases.append(base)
            base += step
        irqs = tuple(range(irq, irq + device.irqs))
        self._next_free = (base, irq + device.irqs)
        return Placed(device, tuple(bases), irqs)

    def _place(self, placed: Placed, lines: Sequence[object] | None = None) -> None:
        device = placed.device
        if len(placed.bases) != len(device.regions):
            raise ConfigError(f"{device.name}: {len(placed.bases)} addresses are given; allowed: "
                              f"{len(device.regions)}, one for each region")
        for base, region in zip(placed.bases, device.regions, strict=True):
            self._check_place(device.name, base, region.size)
        if lines is None:
            if len(placed.irqs) != device.irqs:
                raise ConfigError(f"{device.name}: {len(placed.irqs)} interrupt sources are given; allowed: "
                                  f"{device.irqs}, one for each line")
            for irq in placed.irqs:
                self._check_irq(device.name, irq)
            wires = tuple(self._plic.source(irq) for irq in placed.irqs)
        else:
            wires = tuple(IrqLine(line) for line in lines)
        device.attach(Wiring(lines=wires, clock=self._clock, memory=self.core, on_exit=self._on_exit,
                             on_schedule=self.core.request_exit))
        for base, region in zip(placed.bases, device.regions, strict=True):
            self.core.map(base, region.size, device)
        self.placed.append(placed)

    def _check_place(self, name: str, base: int, size: int) -> None:
        if not isinstance(base, int) or base < 0 or base + size > 1 << 56:
            raise ConfigError(f"{name}: address {base!r} is not allowed; allowed: 0 to 2^56 - {size:#x}")
        taken = [(b, r.size, p.device.name) for p in self.placed for b, r in
                 zip(p.bases, p.device.regions, strict=True)]
        taken.append((RAM_BASE, self.config.ram, "ram"))
        for other, length, what in taken:
            if base < other + length and other < base + size:
                raise ConfigError(f"{name} {base:#x}..{base + size:#x} overlaps {what} {other:#x}..{other + length:#x}"
                                  "; give it another address")

    def _check_irq(self, name: str, irq: int) -> None:
        if not isinstance(irq, int) or not 1 <= irq <= SOURCES:
            raise ConfigError(f"{name}: interrupt source {irq!r} is not allowed; allowed: 1...{SOURCES}")
        for other in self.placed:
            if irq in other.irqs:
                raise ConfigError(f"{name}: interrupt source {irq} is taken by {other.device.name}; "
                                  f"allowed: a free one in 1...{SOURCES}")

    # -- what others ask
    @property
    def devices(self) -> list[Device]:
        return [placed.device for placed in self.placed]

    @property
    def timed(self) -> list[Device]:
        """The devices that may have events of their own."""
        return [d for d in self.devices if type(d).next_event is not Device.next_event]

    @property
    def map(self) -> list[tuple[int, int, str]]:
        """Every region: base, size and name, by address."""
        regions = [(base, region.size, placed.device.name) for placed in self.placed
                   for base, region in zip(placed.bases, placed.device.regions, strict=True)]
        return sorted([*regions, (RAM_BASE, self.config.ram, "ram")])

    def device_tree(self, *, cmdline: str, initrd: tuple[int, int] | None) -> bytes:
        """Return the flattened device tree."""
        seed = hashlib.sha256(b"pyvirt rng-seed" + (str(self.config.seed).encode() if self.config.seed else b""))
        tree = fdt.Tree(
            isa=self.isa.described, ram_base=RAM_BASE, ram_size=self.config.ram, harts=self.config.harts,
            mmu=self.isa.mmu, bootargs=cmdline, initrd=initrd, rng_seed=seed.digest())
        return fdt.build(tree, self.placed)

    def close(self) -> None:
        """Give the RAM back."""
        self.core.evict()
        self.ram.close()
