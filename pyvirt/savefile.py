"""Saved machines: what of a snapshot goes into which section of a file, and how a snapshot is made of one again.

The container is container.py's, tables of pages are pages.py's, and docs/savefile.md is the reference of both. A file
names devices by class, and never makes a name into an import: classes are those of the board's own kind and those the
caller hands over. What a file says of its state is believed once a machine has taken it (`Snapshot._proven`).
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
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from blake3 import blake3

from pyvirt._memory import Ram, Root
from pyvirt.aside import aside
from pyvirt.blocks import Blocks
from pyvirt.board import BOARDS, RAM_BASE
from pyvirt.config import Config, parse_size, resolve_isa
from pyvirt.console import ConsoleState
from pyvirt.container import MAGIC, PAGE, Kept, Reader, Writer
from pyvirt.devices.base import Device
from pyvirt.devices.virtio_blk import VirtioBlk
from pyvirt.devices.virtio_console import VirtioConsole
from pyvirt.devices.virtio_rng import VirtioRng
from pyvirt.disk import BLOCK, BaseFile, Disk, DiskImage
from pyvirt.errors import ConfigError, HostError, LoadError, SnapshotError
from pyvirt.pages import ZERO, Layers, Packed, StoredBase, Table, read_table
from pyvirt.placement import Range
from pyvirt.signing import check_signature, signer
from pyvirt.snapshot import Content, Outside, Part, Recipe, Snapshot
from pyvirt.stop import Input
from pyvirt.values import pack, unpack

if TYPE_CHECKING:
    from pyvirt.machine import Machine

# Names and versions of the sections that this version reads; a file that needs another is refused.
SECTIONS = {"machine": 1, "state": 1, "outside": 1, "ram": 1, "disks": 1, "labels": 1, "parent": 1}
LIMIT = 16 << 30        # bytes of pages that a file may hold, unless the caller allows more
CHAIN_MAX = 1024        # files that stand on each other
DISKS = ("inside", "reference")
_ZEROS = bytes(PAGE)

# Devices that a file may name without being handed over.
BUILTIN: tuple[type[Device], ...] = (VirtioBlk, VirtioConsole, VirtioRng)

# Snapshots by the id of a file that holds the same: an increment on such a file is found without reading it.
_known: weakref.WeakValueDictionary[bytes, Snapshot] = weakref.WeakValueDictionary()


# ---- sections as they are typed ------------------------------------------------------------------------------------
class _Part(msgspec.Struct, frozen=True):
    cls: str
    args: Any
    kwargs: dict[str, Any]
    bases: tuple[int, ...] | None
    irqs: tuple[int, ...] | None


class _Machine(msgspec.Struct, frozen=True):
    config: dict[str, Any]
    disks: int
    parts: list[_Part]
    memory_limit: int | None
    fences: str


class _State(msgspec.Struct, frozen=True):
    core: bytes
    icount: int
    devices: list[Any]


class _Console(msgspec.Struct, frozen=True):
    transcript: bytes
    cleaner: tuple[tuple[bytes, int], str, str]
    window: str
    searched: int


class _Outside(msgspec.Struct, frozen=True):
    console: _Console
    ended: tuple[str, int] | None
    typed: bytes
    htif: tuple[int, int | None, bool] | None
    firmware: str
    sbi: bool
    symbols: dict[str, int]
    ranges: list[tuple[str, int, int]]
    inputs: list[tuple[int, str, int | bytes]]


class _Ram(msgspec.Struct, frozen=True):
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


class _Labels(msgspec.Struct, frozen=True):
    name: str | None
    note: str
    tags: list[str]
    time: str
    pyvirt: str
    digest: str | None


class _Parent(msgspec.Struct, frozen=True):
    path: bytes
    id: bytes


class Stored(NamedTuple):
    """A disk of a file, the first file of the chain, by which it is named, and where its blocks are."""

    entry: DiskEntry
    home: Reader
    layers: Layers


class Opened(NamedTuple):
    """A file and those it stands on, the last of all first, with their sections decoded."""

    reader: Reader
    machine: _Machine
    parents: tuple[Reader, ...]
    ram: Layers
    disks: list[Stored]
    kept: list[Kept]


def _names(devices: Iterable[type[Device]]) -> dict[str, type[Device]]:
    """Return device classes by the names that files have for them."""
    found: dict[str, type[Device]] = {f"pyvirt:{cls.NAME}": cls for cls in BUILTIN}
    for cls in devices:
        if not (isinstance(cls, type) and issubclass(cls, Device)):
            raise ConfigError(f"devices: {cls!r} is not allowed; allowed: classes of devices")
        found[_name_of(cls)] = cls
    return found


def _name_of(cls: type[Device]) -> str:
    if issubclass(cls, _Unknown):
        return cls.NAME
    return f"pyvirt:{cls.NAME}" if cls in BUILTIN else f"{cls.__module__}.{cls.__qualname__}"


class _Unknown(Device):
    """Stands for a device whose class was not handed over, where no machine is made: NAME is the file's name of it."""


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
                writer.section("parent", pack(_shallow(_Parent(os.fsencode(where), under._file))))
            made = writer.finish(sign=signing)
    _known[made] = snap
    snap._file = made


def _sections(snap: Snapshot, content: Content) -> dict[str, bytes]:
    recipe, outside = snap._recipe, content.outside
    parts = [_Part(_name_of(part.cls), part.args, part.kwargs, part.bases, part.irqs) for part in recipe.parts]
    console = outside.console
    inputs = [(entry.icount, entry.kind, entry.data) for entry in outside.inputs[:outside.position]]
    htif = None if outside.htif is None else tuple(outside.htif)
    sections = {
        "machine": _Machine(dataclasses.asdict(recipe.config), recipe.disks, parts, recipe.host.get("memory_limit"),
                            recipe.host.get("fences") or "off"),
        "state": _State(content.core, content.icount, list(content.devices)),
        "outside": _Outside(
            _Console(console.transcript, console.cleaner, console.window, console.searched),
            outside.ended, outside.typed, htif, outside.firmware, outside.sbi,
            dict(outside.symbols), [(r.name, r.start, r.end) for r in outside.ranges], inputs),
        "labels": _Labels(snap.name, snap.note, sorted(snap.tags), snap.host_time.isoformat(),
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


def _ram(writer: Writer, root: Root, under: Root | None) -> _Ram:
    def entries() -> Iterator[tuple[int, int]]:
        for page in root.pages() if under is None else root.diff(under):
            data = root.read(page << 12, PAGE)
            yield page, ZERO if under is not None and data == _ZEROS else writer.record(data)

    return _Ram(root.base, root.size, Table.of(entries()).packed)


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
    if reference:
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


def base_digest(base: BaseFile) -> bytes:
    """Return the digest of an image file's content."""
    total = blake3()
    at = 0
    while True:
        data = base.pread(1 << 20, at)
        if not data:
            return total.digest()
        total.update(data)
        at += len(data)


def _parent(parent: Path, path: Path, within: Any) -> Snapshot:
    """Return the snapshot that a file to stand on holds."""
    if parent.exists() and path.exists() and parent.samefile(path):
        raise ConfigError(f"parent: {str(parent)!r} is the file to be written; allowed: another one")
    with Reader(parent) as reader:
        known = _known.get(reader.id)
        if known is not None and not known.deleted:
            known._file = reader.id
            return known
    return load(parent, build=never, devices=None, within=within, prove=False)


def _check_alike(snap: Snapshot, under: Snapshot, parent: Path) -> None:
    """Raise ConfigError saying in what a snapshot and that of the file to stand on are made differently."""
    a, b = snap.config, under.config
    for field in dataclasses.fields(Config):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if x != y:
            raise ConfigError(f"parent: {str(parent)!r} has {field.name} {y!r}, the snapshot {x!r}; they must be alike")
    shapes = [[s._recipe.disks, [image.size for image in s._held().disks],
               [(_name_of(p.cls), p.bases, p.irqs) for p in s._recipe.parts]] for s in (snap, under)]
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
    state = section(reader, "state", _State)
    if recipe.disks > len(opened.disks):
        raise reader.wrong(f"machine: has {recipe.disks} disks, {len(opened.disks)} are stored")
    folders = _folders(reader.path, within)
    content = Content(state.core, tuple(state.devices), _root(opened.ram, recipe.config.ram),
                      tuple(_image(*stored, folders, disks[at] if at < len(disks) else None)
                            for at, stored in enumerate(opened.disks)),
                      state.icount, _outside(reader))
    labels = section(reader, "labels", _Labels) if "labels" in reader.sections else None
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
    _known[reader.id] = snap
    return snap


def section(reader: Reader, name: str, kind: Any) -> Any:
    """Return a section as a value of a type; LoadError says where it is not."""
    try:
        return msgspec.convert(unpack(reader.section(name)), kind)
    except (ValueError, RecursionError) as error:       # also msgspec's own
        if isinstance(error, LoadError):
            raise
        raise reader.wrong(f"section {name}: {error}") from error


def _folders(path: Path, within: Any) -> list[Path]:
    """Return the folders in which the files that a file names may lie."""
    if within is None:
        within = [path.absolute().parent]
    elif isinstance(within, (str, os.PathLike)):
        within = [within]
    return [Path(folder).resolve() for folder in within]


def _named(reader: Reader, where: bytes, folders: list[Path], what: str) -> Path:
    """Return the path of a file that a file names, once it is sure to lie where it may."""
    if b"\0" in where or not where:
        raise reader.wrong(f"{what} has the name {where!r}")
    named = Path(os.fsdecode(where))
    for folder in [reader.path.absolute().parent, *folders]:
        found = (folder / named).resolve()
        if any(found.is_relative_to(allowed) for allowed in folders) and found.is_file():
            return found
    allowed = ", ".join(map(str, folders))
    raise reader.wrong(f"{what} is {str(named)!r}, which is not found in {allowed}; within= names other folders")


def open_file(path: str | os.PathLike[str], *, verify_key: str | os.PathLike[str] | None = None, within: Any = None,
              limit: int | str = LIMIT) -> Opened:
    """Open a file and those it stands on, and read their tables."""
    most = parse_size(limit, name="limit", low=0, high=1 << 60) // PAGE
    reader = Reader(path)
    if verify_key is not None:
        check_signature(reader, verify_key)
    folders = _folders(reader.path, within)
    chain = [reader]
    kept = reader.refuse_unknown(SECTIONS)
    while "parent" in chain[-1].sections:
        child = chain[-1]
        link = section(child, "parent", _Parent)
        found = Reader(_named(child, link.path, folders, "its parent"))
        if found.id != link.id:
            raise child.wrong(f"its parent {found.path} is not the file it was: it has id {found.id.hex()}, expected "
                              f"{link.id.hex()}")
        found.refuse_unknown(SECTIONS)
        chain.append(found)
        if len(chain) > CHAIN_MAX:
            raise reader.wrong(f"stands on more than {CHAIN_MAX} files")
    machine: _Machine = section(reader, "machine", _Machine)
    files = chain[::-1]
    size = config_of(reader, machine.config).ram
    ram = Layers()
    for at, file in enumerate(files):
        part: _Ram = section(file, "ram", _Ram)
        if part.base != RAM_BASE or part.size != size:
            raise file.wrong(f"ram: has {part.size} bytes at {part.base:#x}, expected {size} at {RAM_BASE:#x}")
        ram.layers.append((file, read_table(file, part.table, first=RAM_BASE // PAGE, count=size // PAGE,
                                            delta=at > 0, limit=most, what="ram")))
    return Opened(reader, machine, tuple(chain[1:]), ram, _stored_disks(files, most), kept)


def _stored_disks(files: list[Reader], limit: int) -> list[Stored]:
    """Return the disks of a chain of files, of which the last is the one asked for."""
    found = []
    lists: list[list[DiskEntry]] = [section(file, "disks", list[DiskEntry]) for file in files]
    for file, entries in zip(files, lists, strict=True):
        if len(entries) != len(lists[-1]):
            raise file.wrong(f"has {len(entries)} disks, {files[-1].path} has {len(lists[-1])}")
    for number, entry in enumerate(lists[-1]):
        layers = Layers()
        first = lists[0][number]
        for file, entries in zip(files, lists, strict=True):
            here, what = entries[number], f"disk {number}"
            if not 0 < here.size < 1 << 56 or here.size % 512 or here.size != entry.size:
                raise file.wrong(f"{what}: has {here.size} bytes, {files[-1].path} says {entry.size}; allowed: the "
                                 "same multiple of 512")
            delta = file is not files[0] or not first.inside
            layers.layers.append((file, read_table(file, here.table, first=0, count=-(-here.size // BLOCK),
                                                   delta=delta, limit=limit, what=what)))
        # What it stands on is what the first file says.
        found.append(Stored(msgspec.structs.replace(entry, path=first.path, inside=first.inside, digest=first.digest,
                                                    changed=first.changed), files[0], layers))
    return found


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


def _parts(opened: Opened, devices: Iterable[type[Device]] | None) -> tuple[Part, ...]:
    names = _names(devices or ())
    found = []
    for part in opened.machine.parts:
        cls = names.get(part.cls)
        if cls is None and devices is None:
            cls = type("_Unknown", (_Unknown,), {"NAME": part.cls})
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
    found = _named(reader, entry.path, folders, "its disk") if instead is None else Path(instead)
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
    found: _Outside = section(reader, "outside", _Outside)
    console = found.console
    inputs = tuple(Input(*entry) for entry in found.inputs)
    return Outside(
        ConsoleState(console.transcript, console.cleaner, console.window, console.searched), found.ended, found.typed,
        None if found.htif is None else list(found.htif), found.firmware, found.sbi, found.symbols,
        tuple(Range(*entry) for entry in found.ranges), inputs, len(inputs))


# ---- whole files -----------------------------------------------------------------------------------------------------
def rebase(path: str | os.PathLike[str], *, parent: str | os.PathLike[str] | None = None, within: Any = None,
           sign: str | os.PathLike[str] | None = None) -> None:
    """Let a file stand on another parent, or with None on none; what it holds stays the same."""
    snap = load(path, build=never, devices=None, within=within, prove=False)
    save(snap, path, parent=parent, disks="reference", sign=sign, within=within)


def commit(path: str | os.PathLike[str], *, within: Any = None, sign: str | os.PathLike[str] | None = None) -> Path:
    """Write what a file holds to the parent that it stands on, and return the parent's path.

    The parent goes on standing on what it stood on. Other files that stand on it are refused from then on.
    """
    opened = open_file(path, within=within)
    if not opened.parents:
        raise ConfigError(f"commit: {str(path)!r} stands on no other file")
    snap = load(path, build=never, devices=None, within=within, prove=False)
    save(snap, opened.parents[0].path, parent=opened.parents[1].path if len(opened.parents) > 1 else None,
         disks="reference", sign=sign, within=within)
    return opened.parents[0].path


def verify(path: str | os.PathLike[str], *, verify_key: str | os.PathLike[str] | None = None, within: Any = None,
           build: Callable[[Snapshot], Machine] | None = None, devices: Iterable[type[Device]] = (),
           limit: int | str = LIMIT) -> None:
    """Check all of a file and of those it stands on: every digest, the images referred to, and, with `build`, that a
    machine can be in the state and comes to the digest that was noted. Raises LoadError for what is wrong.
    """
    opened = open_file(path, verify_key=verify_key, within=within, limit=limit)
    for file in (opened.reader, *opened.parents):
        for name in file.sections:
            file.section(name)
        for number in range(len(file.index.groups)):
            file.group(number)
    folders = _folders(opened.reader.path, within)
    for entry, home, _ in opened.disks:
        if not entry.inside:
            found = _named(home, entry.path, folders, "its disk")
            with Disk(found, read_only=True) as disk:
                if base_digest(disk.image()._base) != entry.digest:
                    raise home.wrong(f"its disk {found} is not what it was: its content has another digest")
    if build is not None:
        snap = load(path, build=build, devices=devices, within=within, limit=limit)
        labels = section(opened.reader, "labels", _Labels) if "labels" in opened.reader.sections else None
        if labels is not None and labels.digest not in (None, snap.digest):
            raise opened.reader.wrong(f"notes digest {labels.digest}, the machine in it has {snap.digest}")


def inspect(path: str | os.PathLike[str], *, within: Any = None) -> dict[str, Any]:
    """Return what a file says of itself, as plain values; nothing but its header, index and tables is read."""
    opened = open_file(path, within=within)
    reader, machine = opened.reader, opened.machine
    labels = section(reader, "labels", _Labels) if "labels" in reader.sections else None
    state = section(reader, "state", _State)
    return {
        "file": str(reader.path), "format": ".".join(map(str, reader.version)), "id": reader.id.hex(),
        "bytes": reader.length, "signed_by": reader.signature.key.hex() if reader.signature.kind else None,
        "name": labels and labels.name, "note": labels and labels.note, "tags": labels and labels.tags,
        "time": labels and labels.time, "pyvirt": labels and labels.pyvirt, "digest": labels and labels.digest,
        "icount": state.icount, "config": machine.config, "devices": [part.cls for part in machine.parts],
        "parents": [str(file.path) for file in opened.parents],
        "pages": len(opened.ram.layers[-1][1].pages), "records": reader.index.records,
        "groups": len(reader.index.groups), "group_pages": reader.index.group_pages,
        "disks": [{"path": os.fsdecode(entry.path), "bytes": entry.size, "inside": entry.inside,
                   "read_only": entry.read_only, "blocks": len(layers.layers[-1][1].pages)}
                  for entry, _, layers in opened.disks],
        "sections": [{"name": s.name, "version": s.version, "mandatory": s.mandatory, "bytes": s.length,
                      "unpacked": s.size, "known": SECTIONS.get(s.name) == s.version} for s in reader.index.sections],
    }


def is_saved(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is a saved machine, by its first bytes."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise HostError(error.errno, f"{path}: cannot be read: {error.strerror}") from error
