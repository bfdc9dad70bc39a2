"""What is done with saved machines as files: standing on another, into the parent, checked, looked at."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvirt.devices.base import Device
from pyvirt.disks.disk import Disk
from pyvirt.errors import ConfigError
from pyvirt.files.opening import folders_of, named, open_file
from pyvirt.files.pages import base_digest
from pyvirt.files.savefile import load, never, save
from pyvirt.files.sections import LIMIT, SECTIONS, LabelsSection, StateSection, has, section
from pyvirt.history.snapshot import Snapshot

if TYPE_CHECKING:
    from pyvirt.machine import Machine


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
    folders = folders_of(opened.reader.path, within)
    for entry, home, _ in opened.disks:
        if not entry.inside:
            found = named(home, entry.path, folders, "its disk")
            with Disk(found, read_only=True) as disk:
                if base_digest(disk.image()._base) != entry.digest:
                    raise home.wrong(f"its disk {found} is not what it was: its content has another digest")
    if build is not None:
        snap = load(path, build=build, devices=devices, within=within, limit=limit)
        labels = section(opened.reader, "labels", LabelsSection) if has(opened.reader, "labels") else None
        if labels is not None and labels.digest not in (None, snap.digest):
            raise opened.reader.wrong(f"notes digest {labels.digest}, the machine in it has {snap.digest}")


def inspect(path: str | os.PathLike[str], *, within: Any = None) -> dict[str, Any]:
    """Return what a file says of itself, as plain values; nothing but its header, index and tables is read."""
    opened = open_file(path, within=within)
    reader, machine = opened.reader, opened.machine
    labels = section(reader, "labels", LabelsSection) if has(reader, "labels") else None
    state = section(reader, "state", StateSection)
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
