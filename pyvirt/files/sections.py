"""The sections of saved machines as types, the names that files have for devices, and what a file may ask for.

docs/savefile.md is the reference. A file never makes a name into an import: classes of devices are pyvirt's own and
those the caller hands over.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pyvirt.board import BOARDS
from pyvirt.config import Config, resolve_isa
from pyvirt.devices.base import Device
from pyvirt.devices.virtio_blk import VirtioBlk
from pyvirt.devices.virtio_console import VirtioConsole
from pyvirt.devices.virtio_rng import VirtioRng
from pyvirt.errors import ConfigError, LoadError
from pyvirt.files.container import PAGE, Reader
from pyvirt.files.pages import Packed
from pyvirt.files.values import unpack

# Names and versions of the sections that this version reads; a file that needs another is refused.
SECTIONS = {"machine": 1, "state": 1, "outside": 1, "ram": 1, "disks": 1, "labels": 1, "parent": 1}
LIMIT = 16 << 30        # bytes of pages that a file may hold, unless the caller allows more
CHAIN_MAX = 1024        # files that stand on each other
DISKS = ("inside", "reference")
_ZEROS = bytes(PAGE)

# Devices that a file may name without being handed over.
BUILTIN: tuple[type[Device], ...] = (VirtioBlk, VirtioConsole, VirtioRng)


class PartEntry(msgspec.Struct, frozen=True):
    """A device that the board does not have by itself."""

    cls: str
    args: Any
    kwargs: dict[str, Any]
    bases: tuple[int, ...] | None
    irqs: tuple[int, ...] | None


class MachineSection(msgspec.Struct, frozen=True):
    """What is needed to make such a machine."""

    config: dict[str, Any]
    disks: int
    parts: list[PartEntry]
    memory_limit: int | None
    fences: str


class StateSection(msgspec.Struct, frozen=True):
    """Harts, clock and devices."""

    core: list[Any]
    icount: int
    devices: list[Any]


class ConsoleEntry(msgspec.Struct, frozen=True):
    """The console: what was printed, and what of it was matched."""

    transcript: bytes
    cleaner: tuple[tuple[bytes, int], str, str]
    window: str
    searched: int


class OutsideSection(msgspec.Struct, frozen=True):
    """What a machine keeps around its board."""

    console: ConsoleEntry
    ended: tuple[str, int] | None
    typed: bytes
    htif: tuple[int, int | None, bool] | None
    firmware: str
    sbi: bool
    symbols: dict[str, int]
    ranges: list[tuple[str, int, int]]
    inputs: list[tuple[int, str, int | bytes]]


class RamSection(msgspec.Struct, frozen=True):
    """Where the pages of RAM are."""

    base: int
    size: int
    table: Packed


class DiskEntry(msgspec.Struct, frozen=True):
    """A disk: `inside`, or standing on a file of `size` bytes and `digest` that lies at `path`."""

    path: bytes
    size: int
    read_only: bool
    overlay_limit: int | None
    inside: bool
    digest: bytes
    changed: int
    table: Packed


class LabelsSection(msgspec.Struct, frozen=True):
    """What people see of a snapshot."""

    name: str | None
    note: str
    tags: list[str]
    time: str
    pyvirt: str
    digest: str | None


class ParentSection(msgspec.Struct, frozen=True):
    """The file that this one stands on."""

    path: bytes
    id: bytes


def section(reader: Reader, name: str, kind: Any) -> Any:
    """Return a section as a value of a type; LoadError says where it is not."""
    try:
        return msgspec.convert(unpack(reader.section(name)), kind)
    except (ValueError, RecursionError) as error:       # also msgspec's own
        if isinstance(error, LoadError):
            raise
        raise reader.wrong(f"section {name}: {error}") from error


# How states of earlier versions become those of the next: by "hart", "clock" or the class of a device, then by the
# version that is left behind. Whoever raises a version adds a step here, and the golden files go on loading.
UPGRADES: dict[str, dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}


def upgraded(what: str, state: Any) -> Any:
    """Return a state as this version has it; where no step leads on it is returned as it is, to be refused by name."""
    steps = UPGRADES.get(what, {})
    while isinstance(state, dict) and isinstance(state.get("version"), int) and state["version"] in steps:
        before = state["version"]
        state = {**steps[before](state), "version": before + 1}
    return state


def has(reader: Reader, name: str) -> bool:
    """Say whether a file has an optional section in a version that is understood here."""
    found = reader.sections.get(name)
    return found is not None and found.version == SECTIONS[name]


def config_of(reader: Reader, fields: dict[str, Any]) -> Config:
    """Return the configuration that a file records; LoadError says in what this version can't give it."""
    known = {field.name: field for field in dataclasses.fields(Config)}
    for name in fields:
        if name not in known:
            raise reader.wrong(f"records {name}={fields[name]!r}, which this version does not know")
    if fields.get("board") not in BOARDS:
        raise reader.wrong(f"records board {fields.get('board')!r}; this version has {', '.join(map(repr, BOARDS))}")
    try:
        resolved = resolve_isa(fields.get("isa", Config.isa))
        config = Config(**{**fields, "g_modes": tuple(fields.get("g_modes", Config.g_modes))})
    except (ValueError, TypeError) as error:
        raise reader.wrong(f"records a machine that this version can't make: {error}") from error
    if resolved.string != config.isa:
        raise reader.wrong(f"records ISA {config.isa!r}, which is {resolved.string!r} in this version")
    for name in ("ratio", "quantum"):
        if getattr(config, name) != getattr(Config, name):
            raise reader.wrong(f"records {name} {getattr(config, name)!r}; board {config.board!r} has "
                               f"{getattr(Config, name)}")
    if not isinstance(config.ram, int) or isinstance(config.ram, bool) or not 0 < config.ram <= 1 << 44 or \
            config.ram % PAGE:
        raise reader.wrong(f"records {config.ram!r} bytes of RAM; allowed: multiples of {PAGE}, up to 16T")
    return config


# ---- devices by name ------------------------------------------------------------------------------------------------
def classes(devices: Iterable[type[Device]]) -> dict[str, type[Device]]:
    """Return device classes by the names that files have for them."""
    found: dict[str, type[Device]] = {f"pyvirt:{cls.NAME}": cls for cls in BUILTIN}
    for cls in devices:
        if not (isinstance(cls, type) and issubclass(cls, Device)):
            raise ConfigError(f"devices: {cls!r} is not allowed; allowed: classes of devices")
        found[class_name(cls)] = cls
    return found


def class_name(cls: type[Device]) -> str:
    if issubclass(cls, UnknownDevice):
        return cls.NAME
    return f"pyvirt:{cls.NAME}" if cls in BUILTIN else f"{cls.__module__}.{cls.__qualname__}"


class UnknownDevice(Device):
    """Stands for a device whose class was not handed over, where no machine is made: NAME is the file's name of it."""
