"""Saving snapshots to files and loading them: what of a snapshot goes into which section, and how it comes back.

The container is container.py's, tables of pages are pages.py's, sections are typed in sections.py, and docs/savefile.md
is the reference of it all. What a file says of its state is believed once a machine has taken it
(`Snapshot._proven`).
"""
from __future__ import annotations

import dataclasses
import datetime
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pyvirt._fields import state_fields, state_packed
from pyvirt._memory import Ram, Root
from pyvirt.board import RAM_BASE
from pyvirt.config import Config
from pyvirt.console import ConsoleState
from pyvirt.devices.base import Device
from pyvirt.disks.blocks import Blocks
from pyvirt.disks.disk import BLOCK, BaseFile, Disk, DiskImage
from pyvirt.errors import ConfigError, SnapshotError
from pyvirt.files.aside import aside
from pyvirt.files.container import PAGE, Reader, Writer
from pyvirt.files.opening import Opened, folders_of, named, open_file
from pyvirt.files.pages import ZERO, Layers, StoredBase, Table, base_digest
from pyvirt.files.sections import (
    DISKS,
    LIMIT,
    SECTIONS,
    ConsoleEntry,
    DiskEntry,
    LabelsSection,
    MachineSection,
    OutsideSection,
    ParentSection,
    PartEntry,
    RamSection,
    StateSection,
    UnknownDevice,
    class_name,
    classes,
    config_of,
    has,
    section,
    upgraded,
)
from pyvirt.files.signing import signer
from pyvirt.files.values import pack
from pyvirt.history.snapshot import Content, Outside, Part, Recipe, Snapshot
from pyvirt.images.placement import Range
from pyvirt.stop import Input

if TYPE_CHECKING:
    from pyvirt.machine import Machine

_ZEROS = bytes(PAGE)

# Snapshots by the id of a file that holds the same: an increment on such a file is found without reading it.
known: weakref.WeakValueDictionary[bytes, Snapshot] = weakref.WeakValueDictionary()


# ---- saving ----------------------------------------------------------------------------------------------------------
def save(snap: Snapshot, path: str | os.PathLike[str], *, parent: str | os.PathLike[str] | None = None,
         disks: str = "inside", sign: str | os.PathLike[str] | None = None, level: int = 3,
         within: Any = None) -> None:
    """Write a snapshot to a file; `Snapshot.save` says how."""
    path = Path(path)
    if disks not in DISKS:
        raise ConfigError(f"disks: {disks!r} is not allowed; allowed: {', '.join(map(repr, DISKS))}")
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= 19:
        raise ConfigError(f"level: {level!r} is not allowed; allowed: an int in 1...19")
    content = snap._held()
    sections = _sections(snap, content)     # what can't be stored is told before anything is written
    signing = None if sign is None else signer(sign)
    with ExitStack() as stack:
        under = None
        if parent is not None:
            under = _parent(Path(parent), path, within)
            _check_alike(snap, under, Path(parent))
        writer: Writer | None = None
        with aside(path, what="save") as file:
            writer = Writer(file, level=level)
            stack.callback(writer.close)
            for name, data in sections.items():
                writer.section(name, data, mandatory=name != "labels")
            for kept in snap._kept:
                if kept.name not in SECTIONS:   # of ours there is a newer one
                    writer.section(kept.name, kept.content, version=kept.version, mandatory=False)
            base = None if under is None else under._held()
            writer.section("ram", pack(_shallow(_ram(writer, content.root, None if base is None else base.root))))
            entries = [_disk(writer, image, None if base is None else base.disks[at], inside=disks == "inside",
                             folder=path.parent) for at, image in enumerate(content.disks)]
            writer.section("disks", pack([_shallow(entry) for entry in entries]))
            if under is not None:
                assert parent is not None
                assert under._file is not None
                where = os.path.relpath(Path(parent).absolute(), path.absolute().parent)
                writer.section("parent", pack(_shallow(ParentSection(os.fsencode(where), under._file))))
            made = writer.finish(sign=signing)
    known[made] = snap
    snap._file = made


def _sections(snap: Snapshot, content: Content) -> dict[str, bytes]:
    recipe, outside = snap._recipe, content.outside
    if outside.hypervisor is not None:
        raise SnapshotError(f"save: {outside.hypervisor.cls.__name__} stands in the place of HS-mode software, and a "
                            "file can't hold Python code; allowed: a machine without one")
    parts = [PartEntry(class_name(part.cls), part.args, part.kwargs, part.bases, part.irqs) for part in recipe.parts]
    console = outside.console
    inputs = [(entry.icount, entry.kind, entry.data) for entry in outside.inputs[:outside.position]]
    htif = None if outside.htif is None else tuple(outside.htif)
    states = content.devices
    if any(isinstance(state, bytes) for state in states):   # packed, which is good in this process only
        with snap.fork() as vm, vm._tenant as shell:
            states = tuple(placed.device.state for placed in shell.board.placed)
    sections = {
        "machine": MachineSection(dataclasses.asdict(recipe.config), recipe.disks, parts,
                                  recipe.host.get("memory_limit"), recipe.host.get("fences") or "off"),
        "state": StateSection(state_fields(content.core), content.icount, list(states)),
        "outside": OutsideSection(
            ConsoleEntry(console.transcript, console.cleaner, console.window, console.searched),
            outside.ended, outside.typed, htif, outside.firmware, outside.sbi,
            dict(outside.symbols), [(r.name, r.start, r.end) for r in outside.ranges], inputs),
        "labels": LabelsSection(snap.name, snap.note, sorted(snap.tags), snap.host_time.isoformat(),
                          sys.modules["pyvirt"].__version__, snap._digest),
    }
    try:
        return {name: pack(_shallow(struct), name) for name, struct in sections.items()}
    except (TypeError, ValueError) as error:
        raise SnapshotError(f"snapshot {snap.label} can't be saved: {error}") from error


def _shallow(value: Any) -> Any:
    """Return a struct as dicts, what is in it being left as it is: tuples stay tuples."""
    if isinstance(value, msgspec.Struct):
        return {name: _shallow(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list):
        return [_shallow(item) for item in value]
    return value


def _ram(writer: Writer, root: Root, under: Root | None) -> RamSection:
    def entries() -> Iterator[tuple[int, int]]:
        for page in root.pages() if under is None else root.diff(under):
            data = root.read(page << 12, PAGE)
            yield page, ZERO if under is not None and data == _ZEROS else writer.record(data)

    return RamSection(root.base, root.size, Table.of(entries()).packed)


def _disk(writer: Writer, image: DiskImage, under: DiskImage | None, *, inside: bool, folder: Path) -> DiskEntry:
    reference = type(image._base) is BaseFile and not inside
    with image.disk() as disk:
        def block(number: int) -> bytes:
            at = number * BLOCK
            return disk.read(at, min(BLOCK, image.size - at)).ljust(BLOCK, b"\0")

        def entries(numbers: Iterable[int], *, zeros: bool) -> Iterator[tuple[int, int]]:
            for number in numbers:
                data = block(number)
                if data != _ZEROS:
                    yield number, writer.record(data)
                elif zeros:
                    yield number, ZERO

        if under is not None:
            table = Table.of(entries(image.diff(under), zeros=True))
        elif reference:
            table = Table.of(entries(image._blocks, zeros=True))
        else:
            table = Table.of(entries(blocks_of(image), zeros=False))
    where = os.fsencode(image.path)
    digest, changed = b"", 0
    if reference and under is None:
        where = os.fsencode(_portable(image.path, folder))
        digest, changed = base_digest(image._base), image._base.identity[1]
    return DiskEntry(where, image.size, image.read_only, image.overlay_limit, not reference, digest, changed,
                     table.packed)


def _portable(path: Path, folder: Path) -> str:
    """Return a path relative to a folder when it lies in it, else the absolute one."""
    whole, top = path.absolute(), folder.absolute()
    return str(whole.relative_to(top)) if whole.is_relative_to(top) else str(whole)


def blocks_of(image: DiskImage) -> Iterator[int]:
    """Iterate over the blocks that may be other than zeros; holes of the file are skipped."""
    changed = set(image._blocks)
    if isinstance(image._base, StoredBase):
        yield from sorted(changed.union(image._base.present))
        return
    count = -(-image.size // BLOCK)
    at = 0
    for start, end in _extents(image._base, image.size):
        yield from sorted(number for number in changed if at <= number < start // BLOCK)
        at = max(at, start // BLOCK)
        stop = min(-(-end // BLOCK), count)
        yield from range(at, stop)
        at = max(at, stop)
    yield from sorted(number for number in changed if number >= at)


def _extents(base: BaseFile, size: int) -> Iterator[tuple[int, int]]:
    if type(base) is not BaseFile:
        yield 0, size
        return
    at = 0
    while at < size:
        try:
            start = os.lseek(base.fd, at, os.SEEK_DATA)
            at = os.lseek(base.fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == 6:    # ENXIO: nothing but a hole from here on
                return
            yield at, size          # a file system that knows no holes
            return
        yield start, at


def _parent(parent: Path, path: Path, within: Any) -> Snapshot:
    """Return the snapshot that a file to stand on holds."""
    if parent.exists() and path.exists() and parent.samefile(path):
        raise ConfigError(f"parent: {str(parent)!r} is the file to be written; allowed: another one")
    with Reader(parent) as reader:
        found = known.get(reader.id)
        if found is not None and not found.deleted:
            found._file = reader.id
            return found
    return load(parent, build=never, devices=None, within=within, prove=False)


def _check_alike(snap: Snapshot, under: Snapshot, parent: Path) -> None:
    """Raise ConfigError saying in what a snapshot and that of the file to stand on are made differently."""
    a, b = snap.config, under.config
    for field in dataclasses.fields(Config):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if x != y:
            raise ConfigError(f"parent: {str(parent)!r} has {field.name} {y!r}, the snapshot {x!r}; they must be alike")
    shapes = [[s._recipe.disks, [image.size for image in s._held().disks],
               [(class_name(p.cls), p.bases, p.irqs) for p in s._recipe.parts]] for s in (snap, under)]
    if shapes[0] != shapes[1]:
        raise ConfigError(f"parent: {str(parent)!r} has other disks or devices: {shapes[1]}, the snapshot {shapes[0]}; "
                          "they must be alike")


def never(snap: Snapshot) -> Machine:
    raise RuntimeError(f"{snap!r} is there for its pages only")


# ---- loading ---------------------------------------------------------------------------------------------------------
def load(path: str | os.PathLike[str], *, build: Callable[[Snapshot], Machine],
         verify_key: str | os.PathLike[str] | None = None, devices: Iterable[type[Device]] | None = (),
         within: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
         disks: Sequence[str | os.PathLike[str] | None] = (), limit: int | str = LIMIT,
         prove: bool = True) -> Snapshot:
    """Return the snapshot in a file; `Snapshot.load` says how. With `devices` None parts are left unknown."""
    opened = open_file(path, verify_key=verify_key, within=within, limit=limit)
    reader = opened.reader
    recipe = Recipe(config_of(reader, opened.machine.config), opened.machine.disks, _parts(opened, devices),
                    {"core": None, "fences": opened.machine.fences, "memory_limit": opened.machine.memory_limit})
    state = section(reader, "state", StateSection)
    if recipe.disks > len(opened.disks):
        raise reader.wrong(f"machine: has {recipe.disks} disks, {len(opened.disks)} are stored")
    for at, found in enumerate(state.devices):
        if not isinstance(found, dict):
            raise reader.wrong(f"state: that of device {at} is {found!r:.80}, expected a dict")
    folders = folders_of(reader.path, within)
    try:
        core = state_packed([upgraded("hart" if at else "clock", part) for at, part in enumerate(state.core)])
    except ValueError as error:
        raise reader.wrong(f"state: {error}") from error
    devices_held = tuple(upgraded(str(found.get("class")), found) for found in state.devices)
    content = Content(core, devices_held, _root(opened.ram, recipe.config.ram),
                      tuple(_image(*stored, folders, disks[at] if at < len(disks) else None)
                            for at, stored in enumerate(opened.disks)),
                      state.icount, _outside(reader))
    labels = section(reader, "labels", LabelsSection) if has(reader, "labels") else None
    try:
        snap = Snapshot(recipe=recipe, build=build, name=None if labels is None else labels.name, content=content,
                        checked=False)
        if labels is not None:
            snap.note = labels.note
            snap.host_time = datetime.datetime.fromisoformat(labels.time)
            snap.tag(*labels.tags)
    except ValueError as error:
        raise reader.wrong(f"labels: {error}") from error
    snap._kept, snap._file = tuple(opened.kept), reader.id
    if prove:
        try:
            snap._proven()
        except SnapshotError as error:
            raise reader.wrong(str(error)) from error
    known[reader.id] = snap
    return snap


def _parts(opened: Opened, devices: Iterable[type[Device]] | None) -> tuple[Part, ...]:
    names = classes(devices or ())
    found = []
    for part in opened.machine.parts:
        cls = names.get(part.cls)
        if cls is None and devices is None:
            cls = type("Unknown", (UnknownDevice,), {"NAME": part.cls})
        if cls is None:
            raise opened.reader.wrong(f"has a device of class {part.cls!r}, which was not handed over; allowed: "
                                      f"{', '.join(sorted(names))}, and what devices=[...] adds")
        if not isinstance(part.args, tuple):
            raise opened.reader.wrong(f"device {part.cls}: its arguments are {part.args!r}")
        found.append(Part(cls, part.args, part.kwargs, part.bases, part.irqs))
    return tuple(found)


def _root(layers: Layers, size: int) -> Root:
    ram = Ram(RAM_BASE, size)
    for reader, table in layers.resolved():
        ram.back(reader.group, table.pages, table.records, reader.index.group_pages)
    return ram.share()


def _image(entry: DiskEntry, reader: Reader, layers: Layers, folders: list[Path],
           instead: str | os.PathLike[str] | None) -> DiskImage:
    options: dict[str, Any] = {"size": entry.size, "read_only": entry.read_only, "overlay_limit": entry.overlay_limit}
    path = Path(os.fsdecode(entry.path.replace(b"\0", b"?")) or "disk")
    count = -(-entry.size // BLOCK)
    if entry.inside:
        base: BaseFile = StoredBase(layers.resolved(), entry.size)
        return DiskImage(path, base, base.identity, Blocks(count), **options)
    found = named(reader, entry.path, folders, "its disk") if instead is None else Path(instead)
    with Disk(found, read_only=entry.read_only) as disk:
        base = disk.image()._base
        if disk.size != entry.size:
            raise reader.wrong(f"its disk {found} has {disk.size} bytes, had {entry.size}")
    if base.identity != (entry.size, entry.changed) and base_digest(base) != entry.digest:
        raise reader.wrong(f"its disk {found} is not what it was: its content has another digest")
    blocks = {}
    for file, table in layers.layers:
        for number, record in zip(table.pages, table.records, strict=True):
            blocks[number] = _ZEROS if record == ZERO else file.page(record)
    return DiskImage(found, base, base.identity, Blocks(count, blocks), **options)


def _outside(reader: Reader) -> Outside:
    found: OutsideSection = section(reader, "outside", OutsideSection)
    console = found.console
    inputs = tuple(Input(*entry) for entry in found.inputs)
    return Outside(
        ConsoleState(console.transcript, console.cleaner, console.window, console.searched), found.ended, found.typed,
        None if found.htif is None else list(found.htif), found.firmware, found.sbi, found.symbols,
        tuple(Range(*entry) for entry in found.ranges), inputs, len(inputs))
