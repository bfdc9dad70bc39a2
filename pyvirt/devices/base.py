"""What every device is: registers behind regions, interrupt outputs, state, reset, and its own device-tree nodes.

A device knows no machine. The board gives it an address, lines and whatever else it asks for in one `Wiring`; guests
reach it through `mmio_capsule()`. Guests are hostile: nothing a guest writes may raise out of a device.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from pyvirt._bus import BusFault, Clock, IrqLine, PyMmio
from pyvirt.errors import ConfigError, DeviceError

__all__ = ["BusFault", "Clock", "Device", "DmaMemory", "FdtContext", "FdtNode", "IrqLine", "Region", "Wiring"]

PropValue = int | str | bytes | bool | Sequence[int] | Sequence[str]


class Region(NamedTuple):
    """A register file: its name and its size in bytes."""

    name: str
    size: int


class DmaMemory(Protocol):
    """Guest RAM as devices see it; both raise IndexError outside RAM."""

    def mem_read(self, pa: int, n: int, /) -> bytes: ...

    def mem_write(self, pa: int, data: bytes, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What the board hands to a device.

    `lines` are the interrupt outputs, as many as the device's `irqs`. `clock` is the machine's time base, `memory`
    what DMA goes to. `on_exit(kind, code)` ends the machine: kind is "poweroff", "reboot" or "fail". `on_schedule()` is
    to be called when a guest's access changed `next_event`, so that it is met at its exact instruction.
    """

    lines: tuple[IrqLine, ...] = ()
    clock: Clock | None = None
    memory: DmaMemory | None = None
    on_exit: Callable[[str, int], None] | None = None
    on_schedule: Callable[[], None] | None = None


@dataclass
class FdtNode:
    """One device-tree node: properties are u32 cells, strings, bytes, True for an empty one, or lists of a kind.

    `parent` is "soc" or "/" and matters for the outermost node only.
    """

    name: str
    props: dict[str, PropValue] = field(default_factory=dict)
    children: list[FdtNode] = field(default_factory=list)
    parent: str = "soc"


@dataclass
class FdtContext:
    """Where a device was put, for its `fdt`: addresses, interrupt numbers, and names for phandles of the tree."""

    bases: tuple[int, ...]
    irqs: tuple[int, ...]
    phandle: Callable[[str], int]
    harts: int = 1
    aliases: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, PropValue] = field(default_factory=dict)

    def reg(self, *regions: Region) -> list[int]:
        """Return `reg` cells, two for the address and two for the size of each region."""
        cells: list[int] = []
        for base, region in zip(self.bases, regions, strict=True):
            cells += [base >> 32, base & 0xFFFF_FFFF, region.size >> 32, region.size & 0xFFFF_FFFF]
        return cells

    def interrupts(self) -> dict[str, PropValue]:
        """Return the properties that connect the device's lines to the PLIC."""
        if not self.irqs:
            return {}
        return {"interrupts": list(self.irqs), "interrupt-parent": self.phandle("plic")}


class Device:
    """Base of all devices.

    A subclass sets `NAME` (also the class in its state), `VERSION` of its state, `REGIONS`, `WIDTHS` (access widths in
    bytes) and `IRQS` (interrupt outputs), and writes `read`, `write`, `reset`, `_save`, `_load` and `fdt`.
    """

    NAME: ClassVar[str] = "device"
    VERSION: ClassVar[int] = 1
    REGIONS: ClassVar[tuple[Region, ...]] = ()
    WIDTHS: ClassVar[tuple[int, ...]] = (1, 2, 4, 8)
    IRQS: ClassVar[int] = 0

    _made: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._made = args, kwargs
        return self

    def __init__(self) -> None:
        self._wiring = Wiring()

    @property
    def recipe(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments that make another device like this one; a fork makes its own, and gives it the state.

        What the constructor was given, unless overridden: a device should not share what belongs to one machine.
        """
        return self._made

    @property
    def name(self) -> str:
        return self.NAME

    @property
    def regions(self) -> tuple[Region, ...]:
        return self.REGIONS

    @property
    def widths(self) -> tuple[int, ...]:
        return self.WIDTHS

    @property
    def irqs(self) -> int:
        return self.IRQS

    def attach(self, wiring: Wiring) -> None:
        """Connect the device to a board. Raises DeviceError when the number of lines is wrong."""
        if len(wiring.lines) != self.irqs:
            raise DeviceError(f"{self.name}: has {self.irqs} interrupt lines, was given {len(wiring.lines)}")
        self._wiring = wiring

    def mmio_capsule(self) -> object:
        """Return the register file as a "pyvirt.mmio_t" capsule."""
        return self.mmio.mmio_capsule()

    @property
    def mmio(self) -> PyMmio:
        """The bridge guest accesses come through; `mmio.take()` is what a failed one raised."""
        bridge = self.__dict__.get("_mmio")
        if bridge is None:
            bridge = self.__dict__["_mmio"] = PyMmio(self)
        return bridge

    @property
    def bare(self) -> bool:
        """Whether the object holds nothing besides its state and what it was made with.

        Then it may become another machine's device of the same recipe, by that one's state. A class of whose objects
        that can be said overrides this itself; it is not inherited, since a subclass may add what its base knows not.
        """
        return False

    def touch(self) -> None:
        """Note that the state changed by another way than an access through `mmio`."""
        self.mmio.touched = True

    def take(self) -> BaseException | None:
        """Return the exception that a guest's access left here, and forget it."""
        bridge = self.__dict__.get("_mmio")
        return None if bridge is None else bridge.take()

    def read(self, offset: int, width: int) -> int:
        """Answer a guest load. Raise BusFault where there is no such register."""
        raise BusFault(f"{self.name}: no register of width {width} at {offset:#x}")

    def write(self, offset: int, width: int, value: int) -> None:
        """Take a guest store. Raise BusFault where there is no such register."""
        raise BusFault(f"{self.name}: no register of width {width} at {offset:#x}")

    def reset(self) -> None:
        """Return to the state at power-on and drive every line accordingly."""

    def reseed(self, entropy: bytes) -> bool:
        """Take 32 bytes of entropy after a fork that is to be no twin; say whether the guest will notice."""
        return False

    @property
    def next_event(self) -> int | None:
        """Time in ticks at which `on_event` wants to be called, None for never."""
        return None

    def on_event(self) -> None:
        """Act on the time that has come."""

    @property
    def state(self) -> dict[str, Any]:
        """What a snapshot holds, as plain values; assigning it restores the device and drives its lines."""
        return {"class": self.NAME, "version": self.VERSION, **self._save()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        check_state(state, self.NAME, self.VERSION, set(self._save()))
        self._load({k: v for k, v in state.items() if k not in ("class", "version")})

    def _save(self) -> dict[str, Any]:
        return {}

    def _load(self, state: dict[str, Any]) -> None:
        pass

    def fdt(self, ctx: FdtContext) -> list[FdtNode]:
        """Return the device's nodes, given where it is."""
        return []

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def check_state(state: Mapping[str, Any], name: str, version: int, keys: set[str]) -> None:
    """Raise ConfigError unless `state` names this class and version and has exactly these keys."""
    if state.get("class") != name:
        raise ConfigError(f"{name}: state is of class {state.get('class')!r}, expected {name!r}")
    if state.get("version") != version:
        raise ConfigError(f"{name}: state has version {state.get('version')!r}, this one reads {version}")
    found = set(state) - {"class", "version"}
    if found != keys:
        raise ConfigError(f"{name}: state has keys {sorted(found)}, expected {sorted(keys)}")


class CompiledDevice(Device):
    """A device whose registers are compiled: `regs` holds them, and all of its state."""

    regs: Any

    def mmio_capsule(self) -> object:
        return self.regs.mmio_capsule()

    def reset(self) -> None:
        self.regs.reset()

    def _save(self) -> dict[str, Any]:
        fields: dict[str, Any] = self.regs.fields
        return fields

    def _load(self, state: dict[str, Any]) -> None:
        try:
            self.regs.fields = state
        except (ValueError, TypeError, OverflowError, LookupError) as error:
            raise ConfigError(f"{self.NAME}: state is refused: {error}") from error

    @property
    def packed(self) -> bytes:
        """The state as one packed C struct with what waits in queues, for forks within one process."""
        data: bytes = self.regs.packed
        return data

    @packed.setter
    def packed(self, data: bytes) -> None:
        self.regs.packed = data


def state_int(name: str, state: Mapping[str, Any], key: str, *, low: int = 0, high: int) -> int:
    """Return an integer of a state, or raise ConfigError naming it and its range."""
    value = state[key]
    if not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name}: state[{key!r}] is {value!r}, expected an integer in {low}..{high:#x}")
    return int(value)
