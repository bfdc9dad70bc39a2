"""The commands for saved machines: load, save, rebase, commit, inspect, verify, export. Added to cli.py's."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from pyvirt.command import cli
from pyvirt.config import show_size
from pyvirt.disks.disk import BLOCK
from pyvirt.errors import ConfigError
from pyvirt.files import savefile, savetools
from pyvirt.files.aside import aside
from pyvirt.files.container import is_saved
from pyvirt.files.sections import DISKS

Within = Annotated[list[str] | None, typer.Option(
    "--within", metavar="DIR", help="Where files that it refers to may be; default: its own folder. Repeatable.")]
VerifyKey = Annotated[str | None, typer.Option(
    "--verify-key", metavar="F", help="Refuse it unless it is signed with this Ed25519 public key.")]
Sign = Annotated[str | None, typer.Option("--sign", metavar="F", help="Sign it with this Ed25519 private key.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="A saved machine.")]
CHUNK = 1 << 20


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="load", cls=cli.RunCommand)(load)
    for command in (save, rebase, commit, inspect, verify, export):
        app.command(name=command.__name__)(command)


def _check(path: str) -> None:
    if not Path(path).is_file():
        raise ConfigError(f"FILE: {path!r} is no file; allowed: a saved machine")


def load(
    ctx: typer.Context, file: File,
    verify_key: VerifyKey = None, within: Within = None,
    expect: Annotated[list[str] | None, typer.Option(metavar="RE", help="As for run.")] = None,
    send: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="As for run.")] = None,
    save: Annotated[str | None, typer.Option(metavar="F[,KEY=VALUE]...", help="As for run.")] = None,
    max_instructions: Annotated[str | None, typer.Option(metavar="N", help="As for run.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="S", help="As for run.")] = None,
    console: Annotated[str, typer.Option(metavar="stdio|none|FILE", help="As for run.")] = "stdio",
    stats: Annotated[Path | None, typer.Option(metavar="FILE", help="As for run.")] = None,
) -> None:
    """Go on with a saved machine, as `run FILE` does: with a terminal, at its console."""
    _check(file)
    if not is_saved(file):
        raise ConfigError(f"FILE: {file!r} is no saved machine; allowed: what --save or Snapshot.save() wrote")
    cli.run(ctx, file, save=save, verify_key=verify_key, within=within, expect=expect, send=send,
            max_instructions=max_instructions, timeout=timeout, console=console, stats=stats)


def save(
    file: File,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The file to write; may be the same.")],
    parent: Annotated[str | None, typer.Option(metavar="F", help="Store only what differs from this file.")] = None,
    flat: Annotated[bool, typer.Option("--flat", help="Let it stand on no other file, which is the default.")] = False,
    disks: Annotated[str, typer.Option(metavar="inside|reference", help="Where the disks' images are.")] = "inside",
    sign: Sign = None, verify_key: VerifyKey = None, within: Within = None,
    level: Annotated[str, typer.Option(metavar="N", help="Of zstd, 1 to 19.")] = "3",
) -> None:
    """Write a saved machine anew: in one file with its disks inside, smaller, signed, or as an increment."""
    _check(file)
    if flat and parent is not None:
        raise ConfigError(f"--flat: is given with --parent {parent!r}; allowed: one of them")
    if disks not in DISKS:
        raise ConfigError(f"--disks: {disks!r} is not allowed; allowed: {', '.join(DISKS)}")
    snap = savefile.load(file, build=savefile.never, devices=None, verify_key=verify_key, within=within or None,
                         prove=False)
    savefile.save(snap, new, parent=parent, disks=disks, sign=sign, level=cli._integer("--level", level),
                  within=within or None)


def rebase(
    file: File,
    parent: Annotated[str | None, typer.Option(metavar="F", help="The file to stand on from now on.")] = None,
    flat: Annotated[bool, typer.Option("--flat", help="Let it stand on no other file.")] = False,
    sign: Sign = None, within: Within = None,
) -> None:
    """Let a saved machine stand on another parent, or on none; it stays the same machine."""
    _check(file)
    if flat == (parent is not None):
        raise ConfigError(f"rebase: --flat is {flat} and --parent is {parent!r}; allowed: one of them")
    savetools.rebase(file, parent=parent, sign=sign, within=within or None)


def commit(file: File, sign: Sign = None, within: Within = None) -> None:
    """Write what a file holds to its parent; other files that stand on the parent are refused from then on."""
    _check(file)
    typer.echo(f"{savetools.commit(file, sign=sign, within=within or None)} is now what {file} is", err=True)


def inspect(
    file: File, within: Within = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what a saved machine is, without starting it."""
    _check(file)
    found = savetools.inspect(file, within=within or None)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    config = found["config"]
    lines = [f"{found['file']}: saved machine, format {found['format']}, {found['bytes']:,} bytes",
             f"  id        {found['id']}",
             f"  signed    {'by ' + found['signed_by'] if found['signed_by'] else 'no'}"]
    if found["pyvirt"] is not None:
        tags = "".join(f" [{tag}]" for tag in found["tags"])
        lines.append(f"  snapshot  {found['name'] or '(no name)'}{tags}, {found['time']}, by pyvirt {found['pyvirt']}")
    if found["note"]:
        lines.append(f"  note      {found['note'].splitlines()[0]}")
    if found["digest"]:
        lines.append(f"  digest    {found['digest']}")
    lines += [f"  icount    {found['icount']:,}",
              f"  board     {config.get('board')}, {config.get('harts')} harts, {show_size(config.get('ram', 0))}",
              f"  isa       {config.get('isa')}",
              f"  devices   {', '.join(found['devices']) or 'those of the board'}",
              f"  pages     {found['pages']:,} here; {found['records']:,} records in {found['groups']:,} groups"]
    lines += [f"  parent    {parent}" for parent in found["parents"]]
    lines += [f"  disk {at}    {disk['path']}, {disk['bytes']:,} bytes, "
              f"{'inside' if disk['inside'] else 'referred to'}, {disk['blocks']:,} blocks here"
              for at, disk in enumerate(found["disks"])]
    lines += [f"  section   {s['name']} {s['version']}, {s['bytes']:,} bytes"
              f"{'' if s['known'] else ', unknown'}" for s in found["sections"]]
    # Text of a file that may be anybody's goes to a terminal.
    return ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines]


def verify(file: File, verify_key: VerifyKey = None, within: Within = None) -> None:
    """Check every digest in a saved machine and its parents, and that a machine can be in its state."""
    _check(file)
    from pyvirt.machine import revive

    savetools.verify(file, verify_key=verify_key, within=within or None, build=revive)
    typer.echo(f"{file}: ok")


def export(
    file: File,
    what: Annotated[str, typer.Argument(metavar="WHAT", help="ram, or disk0, disk1 ...")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The raw file to write, with holes where there are zeros.")],
    verify_key: VerifyKey = None, within: Within = None,
) -> None:
    """Write the RAM or a disk of a saved machine to a raw file."""
    _check(file)
    snap = savefile.load(file, build=savefile.never, devices=None, verify_key=verify_key, within=within or None,
                         prove=False)
    content = snap._held()
    with aside(out, what="export") as target:
        if what == "ram":
            for page in content.root.pages():
                target.seek((page << 12) - content.root.base)
                target.write(content.root.read(page << 12, BLOCK))
            target.truncate(content.root.size)
            return
        number = what.removeprefix("disk")
        if not number.isdecimal() or not what.startswith("disk") or int(number) >= len(content.disks):
            allowed = ", ".join(["ram", *(f"disk{at}" for at in range(len(content.disks)))])
            raise ConfigError(f"WHAT: {what!r} is not allowed; allowed: {allowed}")
        image = content.disks[int(number)]
        with image.disk() as disk:
            for at in savefile.blocks_of(image):
                data = disk.read(at * BLOCK, min(BLOCK, image.size - at * BLOCK))
                if any(data):
                    target.seek(at * BLOCK)
                    target.write(data)
        target.truncate(image.size)
        target.seek(0, os.SEEK_END)


__all__ = ["add"]
