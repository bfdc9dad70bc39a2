"""Programs into guest RAM: ELF, Linux `Image`, flat binaries, each plain or compressed with gzip or zstd; and initrds.

Owns the checks of headers; files are opened by unpack.py, ranges kept by placement.py. RAM is reached through
`write(pa, data)` in pieces of at most 1 MiB and is expected to be zero where nothing was loaded: bss is not written. A
load that fails releases its ranges and zeroes what it wrote.
"""
from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from pyvirt.errors import LoadError
from pyvirt.images.placement import PAGE, Placement, Range
from pyvirt.images.unpack import CHUNK, HEADER, Source, Stream, open_source, source_name

__all__ = ["Loaded", "Placement", "Range", "identify", "load_blob", "load_dtb", "load_initrd", "load_program"]

Writer = Callable[[int, bytes], None]

EM_RISCV = 243
SYMBOLS_MAX = 1_000_000
DTB_ROOM = 64 << 10
ELF = b"\x7fELF"
IMAGE_MAGIC, IMAGE_MAGIC2 = b"RISCV\0\0\0", b"RSC\x05"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What was loaded: `kind` is "elf", "linux" or "flat"; `start`..`end` spans it; `symbols` of an ELF by name."""

    name: str
    kind: str
    entry: int
    start: int
    end: int
    symbols: dict[str, int] = field(default_factory=dict)

    @property
    def tohost(self) -> int | None:
        return self.symbols.get("tohost")

    @property
    def fromhost(self) -> int | None:
        return self.symbols.get("fromhost")


class _Target:
    """RAM as one load sees it: writes in pieces, and undoes all of it if the load fails."""

    def __init__(self, write: Writer, placement: Placement) -> None:
        self.write_ram, self.placement = write, placement
        self.taken: list[Range] = []
        self.written: list[tuple[int, int]] = []

    def reserve(self, name: str, start: int, size: int) -> Range:
        taken = self.placement.reserve(name, start, size)
        self.taken.append(taken)
        return taken

    def write(self, pa: int, data: bytes) -> None:
        self.written.append((pa, len(data)))
        for at in range(0, len(data), CHUNK):
            self.write_ram(pa + at, data[at:at + CHUNK])

    def undo(self) -> None:
        for pa, size in self.written:
            for at in range(0, size, CHUNK):
                self.write_ram(pa + at, bytes(min(CHUNK, size - at)))
        for taken in self.taken:
            self.placement.release(taken)


@contextmanager
def _loading(write: Writer, placement: Placement) -> Iterator[_Target]:
    target = _Target(write, placement)
    try:
        yield target
    except BaseException:
        target.undo()
        raise


def identify(source: Source, *, name: str | None = None) -> str:
    """Return "elf", "linux" or "flat" for a program file, looking through compression.

    Raises LoadError for an empty file and for a compression other than gzip and zstd.
    """
    name = source_name(source, name)
    with open_source(source, name) as file:
        return _kind(Stream(file, name).head)


def _kind(head: bytes) -> str:
    if head.startswith(ELF):
        return "elf"
    return "linux" if head[0x30:0x38] == IMAGE_MAGIC else "flat"


def load_program(source: Source, *, write: Writer, placement: Placement, at: int | None = None,
                 name: str | None = None) -> Loaded:
    """Load a program into RAM and say where its entry is.

    `source` is a path or the file's bytes. `at` is the address of a flat binary or an Image (default: the start of RAM,
    for an Image plus its text_offset); an ELF has its own addresses. `name` is what messages and `placement` call it.
    Raises LoadError for anything that is wrong with the file or does not fit; RAM is then as it was.
    """
    name = source_name(source, name)
    with open_source(source, name) as file, _loading(write, placement) as target:
        stream = Stream(file, name)
        kind = _kind(stream.head)
        if kind == "elf":
            if at is not None:
                raise LoadError(f"{name}: at= is {at:#x}, but an ELF file has its own addresses; leave at= out")
            return _load_elf(stream, name, target)
        if kind == "linux":
            return _load_linux(stream, name, target, at)
        start = placement.base if at is None else at
        end = _copy(stream, name, target, start)
        return Loaded(name=name, kind="flat", entry=start, start=start, end=end)


def _copy(stream: Stream, name: str, target: _Target, start: int, *, minimum: int = 0) -> int:
    """Write a stream to `start`, reserve what it and `minimum` bytes take, and return the end."""
    known = stream.size()
    target.placement.check(name, start, max(known or 0, minimum))
    if known is not None:
        end = target.reserve(name, start, max(known, minimum)).end
    room, stopper = target.placement.room(start) if known is None else (known, None)
    done = 0
    for chunk in stream:
        if done + len(chunk) > room:
            if known is not None:
                raise LoadError(f"{name}: the file grew while it was read, expected {known} bytes")
            ram = f"{target.placement.base:#x}..{target.placement.end:#x}"
            limit = f"overlaps {stopper}" if stopper else f"is outside RAM {ram}"
            raise LoadError(f"{name} {start:#x}..{start + done + len(chunk):#x} or more when decompressed {limit}; "
                            f"{room} bytes are free there")
        target.write(start + done, chunk)
        done += len(chunk)
    if known is None:
        end = target.reserve(name, start, max(done, minimum)).end
    elif done != known:
        raise LoadError(f"{name}: offset {done}: the file ended, expected {known} bytes")
    return end


def _load_linux(stream: Stream, name: str, target: _Target, at: int | None) -> Loaded:
    # Documentation/arch/riscv/boot-image-header.rst of Linux.
    if len(stream.head) < HEADER:
        raise LoadError(f"{name}: found {len(stream.head)} bytes, expected a Linux Image header of {HEADER}")
    text_offset, image_size, _flags, version = struct.unpack_from("<QQQI", stream.head, 8)
    if stream.head[0x38:0x3C] != IMAGE_MAGIC2:
        raise LoadError(f"{name}: offset 0x38: found {stream.head[0x38:0x3c]!r}, expected {IMAGE_MAGIC2!r} of a "
                        "RISC-V Image")
    if version >> 16 != 0:
        raise LoadError(f"{name}: offset 0x20: Image header version {version >> 16}.{version & 0xffff}, expected 0.x")
    if text_offset % PAGE or text_offset >= target.placement.size:
        raise LoadError(f"{name}: offset 8: text_offset is {text_offset:#x}, expected a multiple of {PAGE:#x} "
                        f"below the RAM size {target.placement.size:#x}")
    if image_size > target.placement.size:
        raise LoadError(f"{name}: offset 0x10: image_size is {image_size:#x}, more than the RAM size "
                        f"{target.placement.size:#x}")
    start = target.placement.base + text_offset if at is None else at
    if start % (2 << 20):
        raise LoadError(f"{name}: address is {start:#x}, expected a multiple of 0x200000 for a Linux Image")
    end = _copy(stream, name, target, start, minimum=image_size)
    return Loaded(name=name, kind="linux", entry=start, start=start, end=end)


def _load_elf(stream: Stream, name: str, target: _Target) -> Loaded:
    from elftools.elf.elffile import ELFFile

    file = stream.seekable(target.placement.size)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    _check_elf(stream.head, name)
    with _reading_elf(name, "program headers"):
        elf = ELFFile(file)
        if elf["e_phentsize"] != 56 and elf["e_phnum"]:
            raise LoadError(f"{name}: offset 0x36: e_phentsize is {elf['e_phentsize']}, expected 56")
        segments = [s.header for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_memsz"]]
    if not segments:
        raise LoadError(f"{name}: found no PT_LOAD segment, expected at least one")
    entry = None
    for number, seg in enumerate(segments):
        if seg["p_filesz"] > seg["p_memsz"]:
            raise LoadError(f"{name}: segment {number}: p_filesz is {seg['p_filesz']:#x}, more than p_memsz "
                            f"{seg['p_memsz']:#x}")
        if seg["p_offset"] + seg["p_filesz"] > size:
            raise LoadError(
                f"{name}: segment {number}: file range {seg['p_offset']:#x}..{seg['p_offset'] + seg['p_filesz']:#x} is "
                f"past the end of the file, {size:#x} (truncated)")
        label = name if len(segments) == 1 else f"{name}[{number}]"
        target.reserve(label, seg["p_paddr"], seg["p_memsz"])
        _copy_segment(file, name, target, seg)
        if seg["p_vaddr"] <= elf["e_entry"] < seg["p_vaddr"] + seg["p_memsz"]:
            # Entered without translation, so a kernel linked at virtual addresses starts at its load address.
            entry = elf["e_entry"] - seg["p_vaddr"] + seg["p_paddr"]
    if entry is None or entry % 2:
        raise LoadError(f"{name}: offset 0x18: entry is {elf['e_entry']:#x}, expected an even address inside a segment")
    start = min(s["p_paddr"] for s in segments)
    end = max(s["p_paddr"] + s["p_memsz"] for s in segments)
    return Loaded(name=name, kind="elf", entry=entry, start=start, end=end, symbols=_symbols(elf, name))


@contextmanager
def _reading_elf(name: str, what: str) -> Iterator[None]:
    """Turn what pyelftools raises on a broken file, which is no one family, into LoadError."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError

    try:
        yield
    except LoadError:
        raise
    except (ELFError, ConstructError, ValueError, LookupError, ArithmeticError, OSError) as error:
        raise LoadError(f"{name}: {what} cannot be read: {error!r}; expected an intact ELF file") from error


def _check_elf(head: bytes, name: str) -> None:
    if len(head) < HEADER:
        raise LoadError(f"{name}: found {len(head)} bytes, expected an ELF header of {HEADER}")
    kind, machine = struct.unpack_from("<HH", head, 16)
    for offset, what, found, allowed in (
        (4, "ELF class", head[4], {2: "64-bit"}),
        (5, "byte order", head[5], {1: "little-endian"}),
        (16, "e_type", kind, {2: "ET_EXEC", 3: "ET_DYN"}),
        (18, "e_machine", machine, {EM_RISCV: "EM_RISCV"}),
    ):
        if found not in allowed:
            expected = " or ".join(f"{number} ({word})" for number, word in allowed.items())
            raise LoadError(f"{name}: offset {offset}: {what} is {found}, expected {expected}")


def _copy_segment(file: IO[bytes], name: str, target: _Target, seg: Any) -> None:
    file.seek(seg["p_offset"])
    pa, left = seg["p_paddr"], seg["p_filesz"]
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise LoadError(f"{name}: offset {file.tell():#x}: the file ended, expected {left} more bytes of a segment")
        target.write(pa, chunk)
        pa, left = pa + len(chunk), left - len(chunk)


def _symbols(elf: Any, name: str) -> dict[str, int]:
    symbols: dict[str, int] = {}
    with _reading_elf(name, "symbols"):
        table = elf.get_section_by_name(".symtab")
        if table is None or table["sh_type"] != "SHT_SYMTAB":
            return symbols
        if table["sh_entsize"] != 24 or table["sh_size"] // 24 > SYMBOLS_MAX:
            raise LoadError(f"{name}: .symtab has {table['sh_size']} bytes in entries of {table['sh_entsize']}, "
                            f"expected entries of 24 and at most {SYMBOLS_MAX} of them")
        for symbol in table.iter_symbols():
            if symbol.name and symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["type"] not in (
                    "STT_SECTION", "STT_FILE"):
                symbols[symbol.name] = symbol["st_value"]
    return symbols


def load_initrd(source: Source, *, write: Writer, placement: Placement, above: int = 0, below: int | None = None,
                name: str = "initrd") -> Range:
    """Load an initial RAM disk as it is, since Linux itself decompresses it, to the top of free RAM.

    Returns its range, whose ends belong into the device tree. Raises LoadError when it is empty or does not fit.
    """
    label = source_name(source, None) if not isinstance(source, (bytes, bytearray)) else name
    with open_source(source, label) as file, _loading(write, placement) as target:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if not size:
            raise LoadError(f"{label}: found an empty file, expected an initial RAM disk")
        taken = placement.find(name, size, above=above, below=below, top=True)
        target.taken.append(taken)
        at = taken.start
        while chunk := file.read(CHUNK):
            if at + len(chunk) > taken.end:
                raise LoadError(f"{label}: the file grew while it was read, expected {size} bytes")
            target.write(at, chunk)
            at += len(chunk)
        if at != taken.end:
            raise LoadError(f"{label}: offset {at - taken.start}: the file ended, expected {size} bytes")
        return taken


def load_blob(data: bytes, *, write: Writer, placement: Placement, name: str, at: int | None = None,
              align: int = 8, room: int = 0, above: int = 0, below: int | None = None, top: bool = True) -> Range:
    """Place a few bytes of the board's own at `at`, or where there is room for them and for at least `room` bytes."""
    size = max(len(data), room)
    with _loading(write, placement) as target:
        if at is not None:
            taken = target.reserve(name, at, size)
        else:
            taken = placement.find(name, size, align=align, above=above, below=below, top=top)
            target.taken.append(taken)
        target.write(taken.start, data)
        return taken


def load_dtb(data: bytes, *, write: Writer, placement: Placement, name: str = "dtb", at: int | None = None,
             below: int | None = None) -> Range:
    """Place a device tree, at a page's start and with room for firmware to grow it in place.

    OpenSBI and U-Boot add nodes (reserved memory, for one) without moving the tree: whatever lies behind would be lost.
    """
    return load_blob(data, write=write, placement=placement, name=name, at=at, align=PAGE, below=below,
                     room=len(data) + DTB_ROOM)
