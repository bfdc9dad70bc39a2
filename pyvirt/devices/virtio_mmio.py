"""The virtio transport over MMIO, version 2 (virtio 1.2, section 4.2), as the base class of virtio devices.

Owns registers, feature negotiation, the device status and interrupts. A device adds its id, features, configuration and
what to do with a notified queue; it is done before the store that notified it completes. A driver that breaks a rule
of the rings gets DEVICE_NEEDS_RESET, never an exception on the host.
"""
from __future__ import annotations

from typing import Any, ClassVar

from pyvirt.devices.base import BusFault, Device, DmaMemory, FdtContext, FdtNode, Region, state_int
from pyvirt.devices.virtqueue import QUEUE_MAX, Chain, Virtqueue, VirtqueueError
from pyvirt.errors import ConfigError, DeviceError

MAGIC = 0x74726976  # "virt"
VENDOR = 0x54565950  # "PYVT"

F_INDIRECT_DESC, F_EVENT_IDX, F_VERSION_1 = 1 << 28, 1 << 29, 1 << 32

DRIVER_OK, FEATURES_OK, NEEDS_RESET = 4, 8, 0x40
STATUS_MASK = 0xCF

INT_USED, INT_CONFIG = 1, 2

CONFIG = 0x100
MASK32 = 0xFFFF_FFFF
MASK64 = (1 << 64) - 1


class VirtioMmio(Device):
    """Base of virtio devices; by itself an empty slot (device id 0), which drivers leave alone.

    A subclass sets `DEVICE_ID`, `FEATURES` beyond the transport's own, `QUEUES`, and writes `config` and `handle`.

    >>> VirtioMmio().read(0x0, 4) == 0x74726976, VirtioMmio().read(0x8, 4)
    (True, 0)
    """

    NAME = "virtio-empty"
    REGIONS = (Region("virtio-mmio", 0x1000),)
    WIDTHS = (1, 2, 4)
    IRQS = 1

    DEVICE_ID: ClassVar[int] = 0
    FEATURES: ClassVar[int] = 0
    QUEUES: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.queues = [Virtqueue(QUEUE_MAX) for _ in range(self.QUEUES)]
        self.generation = 0
        self.error = ""
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        self.interrupts = 0
        self.driver_features = 0
        self._device_sel = self._driver_sel = self._queue_sel = 0
        for queue in self.queues:
            queue.reset()
        self._negotiated()

    # -- what a device overrides ---------------------------------------------------------------------------------------

    @property
    def device_features(self) -> int:
        """Everything offered to the driver."""
        return self.FEATURES | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX if self.DEVICE_ID else 0

    def config(self) -> bytes:
        """Return the configuration space; reads past its end give zeros."""
        return b""

    def config_write(self, offset: int, width: int, value: int) -> None:
        """Take a store to the configuration space; read-only unless overridden."""

    def handle(self, index: int) -> None:
        """Serve a notified queue; chains come from `pop(index)` and go back by `push`."""

    # -- for devices ---------------------------------------------------------------------------------------------------

    @property
    def memory(self) -> DmaMemory:
        if self._wiring.memory is None:
            raise DeviceError(f"{self.name}: needs memory for DMA, was given none")
        return self._wiring.memory

    @property
    def active(self) -> bool:
        """Whether the driver is up and the device works."""
        return self.status & DRIVER_OK != 0 and not self.status & NEEDS_RESET

    def pop(self, index: int) -> Chain | None:
        """Return the next chain of a queue, None when there is none."""
        return self.queues[index].pop(self.memory)

    def push(self, index: int, chain: Chain, written: int) -> None:
        """Hand a chain back."""
        self.queues[index].push(chain, written)

    def serve(self, index: int) -> None:
        """Run `handle` on a queue that is in service, tell the driver, and turn a broken ring into NEEDS_RESET."""
        queue = self.queues[index]
        if not self.active or not queue.ready:
            return
        try:
            self.handle(index)
            queue.ask_notify(self.memory)
            if queue.wants_interrupt(self.memory):
                self._interrupt(INT_USED)
        except VirtqueueError as error:
            self.fail(f"queue {index}: {error}")
        except BaseException:
            # The host's own trouble stops the machine before this store; when it goes on, the chain comes again.
            queue.unpop()
            raise

    def fail(self, why: str) -> None:
        """Stop serving until the driver resets the device; `error` says why."""
        self.error = why
        self.status |= NEEDS_RESET
        if self.status & DRIVER_OK:
            self._interrupt(INT_CONFIG)

    def config_changed(self) -> None:
        """Tell the driver that the configuration space changed."""
        self.generation = (self.generation + 1) & MASK32
        if self.status & DRIVER_OK:
            self._interrupt(INT_CONFIG)

    def _interrupt(self, bits: int) -> None:
        self.interrupts |= bits
        self._drive()

    def _drive(self) -> None:
        for line in self._wiring.lines:
            line.set(self.interrupts != 0)

    # -- registers -----------------------------------------------------------------------------------------------------

    @property
    def _queue(self) -> Virtqueue | None:
        return self.queues[self._queue_sel] if self._queue_sel < len(self.queues) else None

    def read(self, offset: int, width: int) -> int:
        if offset >= CONFIG:
            start = offset - CONFIG
            return int.from_bytes(self.config()[start:start + width], "little")
        if width != 4:
            raise BusFault(f"{self.name}: registers are 4 bytes wide, found an access of {width} at {offset:#x}")
        queue = self._queue
        if offset == 0x000:
            return MAGIC
        if offset == 0x004:
            return 2
        if offset == 0x008:
            return self.DEVICE_ID
        if offset == 0x00C:
            return VENDOR
        if offset == 0x010:
            return self.device_features >> 32 * self._device_sel & MASK32 if self._device_sel < 2 else 0
        if offset == 0x034:
            return queue.size_max if queue else 0
        if offset == 0x044:
            return int(queue.ready) if queue else 0
        if offset == 0x060:
            return self.interrupts
        if offset == 0x070:
            return self.status
        if offset == 0x0FC:
            return self.generation
        if 0x0B0 <= offset < 0x0C0:
            return MASK32  # no shared memory regions: length and base of all ones
        return 0  # write-only and reserved registers

    def write(self, offset: int, width: int, value: int) -> None:
        if offset >= CONFIG:
            self.config_write(offset - CONFIG, width, value)
            return
        if width != 4:
            raise BusFault(f"{self.name}: registers are 4 bytes wide, found an access of {width} at {offset:#x}")
        if offset == 0x014:
            self._device_sel = value
        elif offset == 0x024:
            self._driver_sel = value
        elif offset == 0x020:
            self._accept(value)
        elif offset == 0x030:
            self._queue_sel = value
        elif offset == 0x050:
            if value < len(self.queues):
                self.serve(value)
        elif offset == 0x064:
            self.interrupts &= ~value
            self._drive()
        elif offset == 0x070:
            self._set_status(value)
        elif self._queue is not None:
            self._write_queue(self._queue, offset, value)

    def _write_queue(self, queue: Virtqueue, offset: int, value: int) -> None:
        if offset == 0x044:
            self._set_ready(queue, bool(value & 1))
        elif queue.ready:
            return  # 4.2.2.2: the driver must not touch a queue in service
        elif offset == 0x038:
            queue.size = value
        elif offset in (0x080, 0x084):
            queue.desc = _half(queue.desc, offset & 4, value)
        elif offset in (0x090, 0x094):
            queue.avail = _half(queue.avail, offset & 4, value)
        elif offset in (0x0A0, 0x0A4):
            queue.used = _half(queue.used, offset & 4, value)

    def _set_ready(self, queue: Virtqueue, ready: bool) -> None:
        if not ready:
            queue.ready = False
        elif not queue.ready and self.status & FEATURES_OK:
            try:
                queue.enable()
            except VirtqueueError as error:
                self.fail(f"queue {self._queue_sel}: {error}")

    def _accept(self, value: int) -> None:
        if self._driver_sel < 2 and not self.status & FEATURES_OK:
            shift = 32 * self._driver_sel
            self.driver_features = self.driver_features & ~(MASK32 << shift) | value << shift

    def _set_status(self, value: int) -> None:
        """Follow the driver through initialisation (3.1.1); zero is a reset, bits are never taken back otherwise."""
        if value == 0:
            self._clear()
            self.error = ""
            self.on_reset()
            self._drive()
            return
        value = value & STATUS_MASK & ~NEEDS_RESET | self.status
        if value & FEATURES_OK and not self.status & FEATURES_OK:
            unknown = self.driver_features & ~self.device_features
            if unknown or not self.driver_features & F_VERSION_1:
                value &= ~FEATURES_OK
        if value & DRIVER_OK and not value & FEATURES_OK:
            value &= ~DRIVER_OK
        started = value & DRIVER_OK and not self.status & DRIVER_OK
        self.status = value
        self._negotiated()
        if started:
            self.on_start()

    def _negotiated(self) -> None:
        for queue in self.queues:
            queue.indirect = bool(self.driver_features & F_INDIRECT_DESC)
            queue.event_idx = bool(self.driver_features & F_EVENT_IDX)

    def on_start(self) -> None:
        """Act on DRIVER_OK."""

    def on_reset(self) -> None:
        """Act on a reset by the driver, after the transport's own."""

    # -- the rest of a device ------------------------------------------------------------------------------------------

    @property
    def bare(self) -> bool:
        return not self.error

    def reset(self) -> None:
        self._clear()
        self.error = ""
        self.on_reset()
        self._drive()

    def _save(self) -> dict[str, Any]:
        return {
            "status": self.status, "interrupts": self.interrupts, "driver_features": self.driver_features,
            "device_sel": self._device_sel, "driver_sel": self._driver_sel, "queue_sel": self._queue_sel,
            "generation": self.generation, "queues": [queue.save() for queue in self.queues],
        }

    def _load(self, state: dict[str, Any]) -> None:
        name = self.NAME
        saved = state["queues"]
        if not isinstance(saved, list) or len(saved) != len(self.queues):
            raise ConfigError(f"{name}: state['queues'] is {saved!r}, expected a list of {len(self.queues)}")
        highs = {"size": MASK32, "ready": 1, "desc": MASK64, "avail": MASK64, "used": MASK64,
                 "next_avail": 0xFFFF, "next_used": 0xFFFF, "signalled": 0xFFFF}
        loaded = []
        for entry in saved:
            if not isinstance(entry, dict) or set(entry) != set(highs):
                raise ConfigError(f"{name}: state['queues'] holds {entry!r}, expected the keys {sorted(highs)}")
            values: dict[str, Any] = {k: state_int(name, entry, k, high=high) for k, high in highs.items()}
            values["ready"] = bool(values["ready"])
            size = values["size"]
            if values["ready"] and (not 0 < size <= QUEUE_MAX or size & (size - 1)):
                raise ConfigError(
                    f"{name}: state of a ready queue has size {size}, expected a power of two up to {QUEUE_MAX}")
            loaded.append(values)
        top = {k: state_int(name, state, k, high=high) for k, high in (
            ("status", 0xFF), ("interrupts", 3), ("driver_features", MASK64), ("device_sel", MASK32),
            ("driver_sel", MASK32), ("queue_sel", MASK32), ("generation", MASK32))}
        self.status, self.interrupts, self.driver_features = top["status"], top["interrupts"], top["driver_features"]
        self._device_sel, self._driver_sel = top["device_sel"], top["driver_sel"]
        self._queue_sel, self.generation = top["queue_sel"], top["generation"]
        for queue, values in zip(self.queues, loaded, strict=True):
            queue.load(values)
        self._negotiated()
        self._drive()

    def fdt(self, ctx: FdtContext) -> list[FdtNode]:
        return [FdtNode(f"virtio_mmio@{ctx.bases[0]:x}", {
            "compatible": "virtio,mmio", "reg": ctx.reg(*self.regions), **ctx.interrupts(),
        })]


def _half(old: int, high: int, value: int) -> int:
    return old & MASK32 | value << 32 if high else old & ~MASK32 | value
