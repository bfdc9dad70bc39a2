"""Opening a saved machine and the files it stands on: names that stay in their folders, tables that fit each other."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pyvirt.board import RAM_BASE
from pyvirt.config import parse_size
from pyvirt.disks.disk import BLOCK
from pyvirt.files.container import PAGE, Kept, Reader
from pyvirt.files.pages import Layers, read_table
from pyvirt.files.sections import (
    CHAIN_MAX,
    LIMIT,
    SECTIONS,
    DiskEntry,
    MachineSection,
    ParentSection,
    RamSection,
    config_of,
    has,
    section,
)
from pyvirt.files.signing import check_signature


class Stored(NamedTuple):
    """A disk of a file, the first file of the chain, by which it is named, and where its blocks are."""

    entry: DiskEntry
    home: Reader
    layers: Layers


class Opened(NamedTuple):
    """A file and those it stands on, the last of all first, with their sections decoded."""

    reader: Reader
    machine: MachineSection
    parents: tuple[Reader, ...]
    ram: Layers
    disks: list[Stored]
    kept: list[Kept]


def folders_of(path: Path, within: Any) -> list[Path]:
    """Return the folders in which the files that a file names may lie."""
    if within is None:
        within = [path.absolute().parent]
    elif isinstance(within, (str, os.PathLike)):
        within = [within]
    return [Path(folder).resolve() for folder in within]


def named(reader: Reader, where: bytes, folders: list[Path], what: str) -> Path:
    """Return the path of a file that a file names, once it is sure to lie where it may."""
    if b"\0" in where or not where:
        raise reader.wrong(f"{what} has the name {where!r}")
    named = Path(os.fsdecode(where))
    for folder in [reader.path.absolute().parent, *folders]:
        try:
            found = (folder / named).resolve()
            if any(found.is_relative_to(allowed) for allowed in folders) and found.is_file():
                return found
        except (OSError, RuntimeError) as error:    # too long a name, a loop of links
            raise reader.wrong(f"{what} is {str(named)!r:.200}, which can't be looked for: {error!s:.200}") from error
    allowed = ", ".join(map(str, folders))
    raise reader.wrong(f"{what} is {str(named)!r}, which is not found in {allowed}; within= names other folders")


def open_file(path: str | os.PathLike[str], *, verify_key: str | os.PathLike[str] | None = None, within: Any = None,
              limit: int | str = LIMIT) -> Opened:
    """Open a file and those it stands on, and read their tables."""
    most = parse_size(limit, name="limit", low=0, high=1 << 60) // PAGE
    reader = Reader(path)
    if verify_key is not None:
        check_signature(reader, verify_key)
    folders = folders_of(reader.path, within)
    chain = [reader]
    kept = reader.refuse_unknown(SECTIONS)
    while has(chain[-1], "parent"):
        child = chain[-1]
        link = section(child, "parent", ParentSection)
        found = Reader(named(child, link.path, folders, "its parent"))
        if found.id != link.id:
            raise child.wrong(f"its parent {found.path} is not the file it was: it has id {found.id.hex()}, expected "
                              f"{link.id.hex()}")
        found.refuse_unknown(SECTIONS)
        chain.append(found)
        if len(chain) > CHAIN_MAX:
            raise reader.wrong(f"stands on more than {CHAIN_MAX} files")
    machine: MachineSection = section(reader, "machine", MachineSection)
    files = chain[::-1]
    size = config_of(reader, machine.config).ram
    ram = Layers()
    for at, file in enumerate(files):
        part: RamSection = section(file, "ram", RamSection)
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
