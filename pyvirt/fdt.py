"""The device tree, built from the parts: cpus, memory and chosen are written here, every device adds its own nodes.

The flattened format comes from the PyPI package `fdt`: pure Python, no dependencies, format version 17. The bindings
of dtc's own libfdt (`pylibfdt`) are published as source only and need swig and a C compiler to install.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvirt.devices.base import Device, FdtContext, FdtNode, PropValue
from pyvirt.errors import ConfigError, LoadError

if TYPE_CHECKING:
    import fdt as _fdt

FDT_MAGIC = b"\xd0\x0d\xfe\xed"
CPU_BLOCK_BYTES = 64  # of Zicbom, Zicboz and Zicbop


@dataclass(frozen=True)
class Placed:
    """A device and where the board put it: one base per region, one PLIC source per interrupt line."""

    device: Device
    bases: tuple[int, ...]
    irqs: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What the device tree describes besides devices.

    `isa` is the resolved string ("rv64imafdc_zicsr_..."); the list of extensions derives from it. `mmu` is
    "riscv,sv39", "riscv,sv48", "riscv,sv57" or None for a hart without translation. `initrd` is (start, end).
    """

    isa: str
    ram_base: int
    ram_size: int
    harts: int = 1
    mmu: str | None = "riscv,sv57"
    timebase_hz: int = 10_000_000
    bootargs: str = ""
    initrd: tuple[int, int] | None = None
    rng_seed: bytes = hashlib.sha256(b"pyvirt rng-seed").digest()
    model: str = "riscv-virtio,pyvirt"
    reserved: Sequence[tuple[str, int, int]] = field(default_factory=tuple)


def isa_extensions(isa: str) -> tuple[str, list[str]]:
    """Split an ISA string into base and extensions: "rv64imac_zba" gives ("rv64i", ["i", "m", "a", "c", "zba"]).

    Raises ConfigError when it does not start with rv64i or rv64g.
    """
    head, *multi = isa.lower().split("_")
    if head[:5] not in ("rv64i", "rv64g"):
        raise ConfigError(f"isa: {isa!r} starts with {head[:5]!r}, expected rv64i or rv64g")
    single: list[str] = []
    for letter in head[4:]:
        single += list("imafd") if letter == "g" else [letter]
    if "g" in head[4:]:
        multi = ["zicsr", "zifencei", *multi]
    names = dict.fromkeys([*single, *multi])
    return "rv64i", list(names)


class _Phandles:
    """Numbers by name, in the order in which names are first used."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers) + 1)


def build(tree: Tree, devices: Iterable[Placed] = ()) -> bytes:
    """Return the flattened device tree (DTB) of a machine.

    Deterministic: equal parts give equal bytes. Raises ConfigError when two nodes have one path.
    """
    phandle = _Phandles()
    for hart in range(tree.harts):
        phandle(f"cpu{hart}")
        phandle(f"cpu{hart}-intc")
    phandle("plic")

    aliases: dict[str, str] = {}
    chosen: dict[str, PropValue] = {}
    soc = FdtNode("soc", {"#address-cells": 2, "#size-cells": 2, "compatible": "simple-bus", "ranges": True})
    top: list[FdtNode] = []
    for placed in devices:
        ctx = FdtContext(
            bases=placed.bases, irqs=placed.irqs, phandle=phandle, harts=tree.harts, aliases=aliases, chosen=chosen)
        for node in placed.device.fdt(ctx):
            (soc.children if node.parent == "soc" else top).append(node)

    if tree.bootargs:
        chosen["bootargs"] = tree.bootargs
    if tree.initrd is not None:
        chosen["linux,initrd-start"] = _cells64(tree.initrd[0])
        chosen["linux,initrd-end"] = _cells64(tree.initrd[1])
    if tree.rng_seed:
        chosen["rng-seed"] = tree.rng_seed

    memory = FdtNode(f"memory@{tree.ram_base:x}", {
        "device_type": "memory", "reg": _cells64(tree.ram_base) + _cells64(tree.ram_size)})
    root = FdtNode("/", {
        "#address-cells": 2, "#size-cells": 2, "compatible": "riscv-virtio", "model": tree.model})
    root.children = [FdtNode("aliases", dict(aliases))] if aliases else []
    root.children += [FdtNode("chosen", chosen), memory, _cpus(tree, phandle), *_reserved(tree), *top, soc]
    return _flatten(root)


def _cells64(value: int) -> list[int]:
    return [value >> 32, value & 0xFFFF_FFFF]


def _cpus(tree: Tree, phandle: _Phandles) -> FdtNode:
    base, extensions = isa_extensions(tree.isa)
    cpus = FdtNode("cpus", {"#address-cells": 1, "#size-cells": 0, "timebase-frequency": tree.timebase_hz})
    cluster = FdtNode("cluster0")
    for hart in range(tree.harts):
        cpu = FdtNode(f"cpu@{hart:x}", {
            "device_type": "cpu", "reg": hart, "status": "okay", "compatible": "riscv",
            "riscv,isa": tree.isa, "riscv,isa-base": base, "riscv,isa-extensions": extensions,
            "phandle": phandle(f"cpu{hart}")})
        if tree.mmu:
            cpu.props["mmu-type"] = tree.mmu
        for extension in ("zicbom", "zicboz", "zicbop"):
            if extension in extensions:
                cpu.props[f"riscv,{extension[2:]}-block-size"] = CPU_BLOCK_BYTES
        cpu.children.append(FdtNode("interrupt-controller", {
            "compatible": "riscv,cpu-intc", "#interrupt-cells": 1, "#address-cells": 0, "interrupt-controller": True,
            "phandle": phandle(f"cpu{hart}-intc")}))
        cpus.children.append(cpu)
        cluster.children.append(FdtNode(f"core{hart}", {"cpu": phandle(f"cpu{hart}")}))
    cpus.children.append(FdtNode("cpu-map", children=[cluster]))
    return cpus


def _reserved(tree: Tree) -> list[FdtNode]:
    """Memory that firmware keeps: (name, start, size)."""
    if not tree.reserved:
        return []
    node = FdtNode("reserved-memory", {"#address-cells": 2, "#size-cells": 2, "ranges": True})
    for name, start, size in tree.reserved:
        node.children.append(FdtNode(
            f"{name}@{start:x}", {"reg": _cells64(start) + _cells64(size), "no-map": True}))
    return [node]


def _flatten(root: FdtNode) -> bytes:
    import fdt as _fdt

    tree = _fdt.FDT()
    tree.header.version = 17
    tree.header.last_comp_version = 16
    tree.root = _node(root, "/")
    return bytes(tree.to_dtb(version=17))


def _node(node: FdtNode, path: str) -> _fdt.Node:
    import fdt as _fdt

    made = _fdt.Node(node.name)
    for name, value in node.props.items():
        made.append(_property(name, value, path))
    seen: set[str] = set()
    for child in node.children:
        if child.name in seen:
            raise ConfigError(f"device tree: two nodes named {child.name!r} under {path}; put the parts at "
                              "different addresses")
        seen.add(child.name)
        made.append(_node(child, f"{path.rstrip('/')}/{child.name}"))
    return made


def _property(name: str, value: PropValue, path: str) -> _fdt.Property:
    import fdt as _fdt

    if value is True:
        return _fdt.Property(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, str):
        value = [value]
    if isinstance(value, (bytes, bytearray)):
        return _fdt.PropBytes(name, data=bytes(value))
    if isinstance(value, Sequence) and value:
        if all(isinstance(v, str) for v in value):
            # Joined here: the package's own string property refuses characters that bootargs may have.
            return _fdt.PropBytes(name, data=b"".join(str(v).encode() + b"\0" for v in value))
        if all(isinstance(v, int) and 0 <= v <= 0xFFFF_FFFF for v in value):
            return _fdt.PropWords(name, *value)
    raise ConfigError(
        f"device tree: {path}: property {name!r} is {value!r}, expected True, bytes, strings or 32-bit cells")


def check_dtb(data: bytes, *, source: str) -> None:
    """Raise LoadError unless `data` starts with a device-tree header whose size fits; `source` names it."""
    if data[:4] != FDT_MAGIC:
        raise LoadError(
            f"{source}: offset 0: found {data[:4].hex() or 'nothing'}, expected the device-tree magic d00dfeed")
    size = int.from_bytes(data[4:8], "big")
    if not 40 <= size <= len(data):
        raise LoadError(f"{source}: offset 4: total size is {size}, expected 40..{len(data)} (the file's size)")
