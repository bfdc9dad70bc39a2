"""A fuzz campaign over saved machines: seeds, mutations, and what has to hold of every file that comes of them.

Run as a program it fuzzes for some seconds, prints how many files were tried, and ends with 1 if something was found:
`python -m tests.fuzz.savefiles SECONDS [SEED] [FOLDER]`. A file is either refused by one of pyvirt's own errors, or it
loads, and the machine in it can be read through, looked at, run and saved again. Memory is limited by the host (a
failed allocation is a finding), and files outside the folder must not be opened.
"""
from __future__ import annotations

import os
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from blake3 import blake3

import pyvirt as pv
from pyvirt.files import container, savefile, savetools
from pyvirt.files.container import HEADER, PAGE, Reader, Writer
from pyvirt.files.values import pack, unpack
from tests.snapshot.guests import busy, writer

MEMORY = 3 << 30        # address space for the campaign; a machine of 1 MiB needs none of it
INTS = (0, 1, -1, 2, 63, 64, 255, 256, 4095, 4096, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
        1 << 64, -(1 << 63), 1 << 200)
VALUES = (None, True, False, 0, -1, 1 << 64, 1.5, float("nan"), float("inf"), "", "x" * 300, "\0", "..", b"", b"\0",
          b"/etc/passwd", b"../" * 9 + b"etc/passwd", [], (), {}, [[]], {"": None}, "os.system", "pyvirt:virtio-blk",
          "pyvirt:virtio-rng")


class Found(Exception):
    """What must not be."""


# ---- seeds ----------------------------------------------------------------------------------------------------------
def seeds(folder: Path) -> list[Path]:
    """Write the files that everything starts from: bare, with devices, with disks inside and outside, a chain."""
    image = folder / "image"
    image.write_bytes(bytes(range(256)) * 64 + bytes(96 << 10))
    with pv.Machine(board="bare", ram="64K") as vm:
        vm.load(pv.asm("li a0, 7\nsw a0, 0(a0)\n1: j 1b"))
        vm.run(instructions=3)
        vm.snapshot("bare").save(folder / "bare")
    with busy(ram="1M", harts=2, devices=[pv.VirtioRng(seed=1), pv.VirtioConsole()]) as vm:
        vm.run(instructions=9000)
        vm.console.send("typed")
        vm.run(instructions=500)
        vm.snapshot("busy").tag("a", "b").save(folder / "busy")
    with writer(image) as vm:
        vm.run(instructions=20_000)
        vm.snapshot().save(folder / "outside", disks="reference")
        vm.snapshot().save(folder / "inside")
        vm.run(instructions=20_000)
        vm.snapshot().save(folder / "chain", parent=folder / "inside")
        vm.snapshot().save(folder / "chain2", parent=folder / "outside", disks="reference")
    return [folder / name for name in ("bare", "busy", "outside", "inside", "chain", "chain2")]


class Taken:
    """A seed in parts: raw bytes, sections as values, records."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_bytes()
        with Reader(path) as reader:
            self.index = reader.index
            self.sections = {s.name: (s.version, s.mandatory, unpack(reader.section(s.name)))
                             for s in reader.index.sections}
            self.pages = [reader.page(record) for record in range(reader.index.records)]


# ---- mutations ----------------------------------------------------------------------------------------------------
def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.choice((1, 2, 8, 100)))
        elif kind == 3:
            del out[at:at + rng.choice((1, 2, 8, 100, 5000))]
        elif kind == 4:
            other = rng.randrange(len(out) + 1)
            out[at:at] = out[other:other + rng.randrange(64)]
        else:
            out[at:at + 8] = rng.choice(INTS[:15]).to_bytes(9, "little", signed=True)[:8]
    return bytes(out)


def mutate_value(rng: random.Random, value: Any) -> Any:
    """Return a value with something in it changed; what it is made of is not shared."""
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.85:
        items = list(value)
        at = rng.randrange(len(items))
        kind = rng.randrange(8)
        if kind == 0:
            del items[at]
        elif kind == 1:
            items.insert(at, items[rng.randrange(len(items))])
        else:
            items[at] = mutate_value(rng, items[at])
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict) and value and rng.random() < 0.9:
        items = dict(value)
        key = rng.choice(list(items))
        kind = rng.randrange(12)
        if kind == 0:
            del items[key]
        elif kind == 1:
            items[rng.choice(("", "x", key, 7, b"k"))] = rng.choice(VALUES)
        else:
            items[key] = mutate_value(rng, items[key])
        return items
    if isinstance(value, bool):
        return not value
    if isinstance(value, int) and rng.random() < 0.8:
        return rng.choice((value + 1, value - 1, value ^ 1 << rng.randrange(64), -value, rng.choice(INTS)))
    if isinstance(value, bytes) and rng.random() < 0.8:
        return mutate_bytes(rng, value) if rng.random() < 0.5 else flipped(rng, value)
    if isinstance(value, str) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("", "x", "\0", "/", "..", "_", "1")) + value[at + 1:]
    return rng.choice(VALUES)


def flipped(rng: random.Random, value: bytes) -> bytes:
    """Return bytes of the same length with some words changed."""
    out = bytearray(value)
    for _ in range(rng.choice((1, 1, 3, 30))):
        if not out:
            break
        at = rng.randrange(len(out))
        if rng.random() < 0.5:
            out[at] ^= 1 << rng.randrange(8)
        else:
            word = rng.choice(INTS[:15]).to_bytes(9, "little", signed=True)[:8]
            at &= ~7
            out[at:at + 8] = word[:len(out[at:at + 8])]
    return bytes(out)


def from_sections(rng: random.Random, taken: Taken, path: Path) -> None:
    """Write a seed with values in its sections changed, and all digests right."""
    sections = dict(taken.sections)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = rng.choice(list(sections))
        version, mandatory, value = sections[name]
        sections[name] = version, mandatory, mutate_value(rng, value)
    if rng.random() < 0.05:
        del sections[rng.choice(list(sections))]
    if rng.random() < 0.05:
        sections[rng.choice(("future", "ram ", "parent", "x" * 64))] = 1, rng.random() < 0.5, rng.choice(VALUES)
    pages = taken.pages
    if rng.random() < 0.1:
        pages = pages[:rng.randrange(len(pages) + 1)]
    with path.open("wb") as file:
        made = Writer(file, group_pages=rng.choice((64, 64, 1, 3, 256)))
        try:
            for page in pages:
                made.record(page)
            for name, (version, mandatory, value) in sections.items():
                content = pack(value)
                made.section(name, mutate_bytes(rng, content) if rng.random() < 0.03 else content,
                             version=version, mandatory=mandatory)
            made.finish()
        finally:
            made.close()


def sealed(body: bytes, index: bytes, *, at: int | None = None, length: int | None = None,
           total: int | None = None) -> bytes:
    """Return a file of what lies behind the header and an index, its digests right."""
    end = HEADER + len(body) + len(index)
    head = container._HEAD.pack(container.MAGIC, *container.VERSION, 0, HEADER + len(body) if at is None else at,
                                len(index) if length is None else length, blake3(index).digest(),
                                end if total is None else total)
    rest = head + container._SIGNATURE.pack(0, bytes(32), bytes(64))
    return rest + blake3(rest).digest() + body + index


def from_index(rng: random.Random, taken: Taken, path: Path) -> None:
    """Write a seed with its index changed, or what the index covers, and digests made right."""
    body = bytearray(taken.raw[HEADER:])
    index = msgspec.to_builtins(taken.index, builtin_types=(bytes,))
    kind = rng.randrange(4)
    if kind == 0:       # the index's values
        index = mutate_value(rng, index)
    elif kind == 1:     # its bytes
        path.write_bytes(sealed(bytes(body), mutate_bytes(rng, msgspec.msgpack.encode(index))))
        return
    else:               # what a section or group is stored as
        entries = index[0] if kind == 2 or not index[3] else index[3]
        entry = entries[rng.randrange(len(entries))]
        place = 3 if len(entry) > 3 else 0
        data = bytes(body[entry[place] - HEADER:entry[place] - HEADER + entry[place + 1]])
        if rng.random() < 0.3:
            size = rng.choice((0, PAGE, 64 * PAGE, 1 << 20, 1 << 28))
            data = zstandard.ZstdCompressor(write_content_size=rng.random() < 0.7).compress(bytes(size))
        else:
            data = mutate_bytes(rng, data)
        entry[place], entry[place + 1], entry[-1] = HEADER + len(body), len(data), blake3(data).digest()
        body += data
        if len(entry) > 3 and rng.random() < 0.5:
            entry[6] = rng.choice((len(data), entry[6], 1 << 28, 1 << 40, 0))
            entry[5] = rng.random() < 0.7
    packed = msgspec.msgpack.encode(index) if kind != 0 else pack(index)
    path.write_bytes(sealed(bytes(body), packed))


def from_raw(rng: random.Random, taken: Taken, path: Path) -> None:
    """Write a seed with bytes changed, and in half of the cases the digest of the header made right."""
    data = bytearray(mutate_bytes(rng, taken.raw) if rng.random() < 0.5 else taken.raw)
    if rng.random() < 0.7 and len(data) >= HEADER:
        data[:224] = mutate_bytes(rng, bytes(data[:224]))[:224].ljust(224, b"\0")
        if rng.random() < 0.8:
            data[:8] = container.MAGIC
        if rng.random() < 0.5:
            data[64:72] = len(data).to_bytes(8, "little")
        data[224:256] = blake3(bytes(data[:224])).digest()
    path.write_bytes(data)


WAYS: tuple[Callable[[random.Random, Taken, Path], None], ...] = (from_sections,) * 6 + (from_index,) * 3 + (from_raw,)


# ---- what must hold -----------------------------------------------------------------------------------------------
class Watch:
    """Notes files that are opened outside a folder, while it looks."""

    def __init__(self, folder: Path) -> None:
        self.allowed = (str(folder), os.devnull)
        self.looking = False
        self.outside: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.looking and event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            name = os.path.realpath(os.fsdecode(args[0]))
            if not name.startswith(self.allowed) and not name.endswith((".py", ".pyc", ".so")):
                self.outside.append(name)
        elif self.looking and event in ("import", "os.system", "subprocess.Popen", "socket.connect", "os.exec"):
            self.outside.append(f"{event} {args[0]!r}"[:200])


def use(path: Path, scratch: Path) -> bool:
    """Load a file and do with it what one does; returns whether it could be loaded."""
    savefile.known.clear()
    try:
        savetools.inspect(path)
        snap = pv.Snapshot.load(path, limit="64M")
    except pv.PyvirtError:
        return False
    try:
        with snap.fork() as vm:
            repr(vm)
            vm.console.send("x")
            vm.run(instructions=3000, timeout=5)
            vm.hart.disasm()
            vm.digest()
        snap.verify()
        snap.save(scratch)
    except pv.PyvirtError:
        pass        # a page or disk that is not what it should be shows when it is touched
    finally:
        snap.delete()
    return True


def campaign(folder: Path, *, seconds: float = 0, executions: int = 0, seed: int = 0,
             watch: Watch | None = None) -> Iterator[tuple[int, int]]:
    """Try files until time or number is used up; yields how many were tried and how many of them could be loaded.

    Raises Found, with the file kept as `folder/finding`.
    """
    path, scratch = folder / "mutant", folder / "scratch"
    first = seeds(folder)
    taken = [Taken(seed_file) for seed_file in first]
    if not all(use(seed_file, scratch) for seed_file in first):     # also imports what is imported late
        raise Found("a seed can't be loaded")
    until = time.monotonic() + seconds
    tried = loaded = 0
    while tried < executions or (not executions and time.monotonic() < until):
        rng = random.Random(f"{seed} {tried}")
        rng.choice(WAYS)(rng, rng.choice(taken), path)
        tried += 1
        if watch is not None:
            watch.looking = True
        try:
            loaded += use(path, scratch)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            path.rename(folder / "finding")
            raise Found(f"file {tried - 1} of seed {seed}: {type(error).__name__}: {error}") from error
        finally:
            if watch is not None:
                watch.looking = False
        if watch is not None and watch.outside:
            path.rename(folder / "finding")
            raise Found(f"file {tried - 1} of seed {seed} had opened: {watch.outside}")
        yield tried, loaded


def main() -> int:
    """Fuzz for some seconds."""
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(sys.argv[3]).resolve() if len(sys.argv) > 3 else Path("fuzz").resolve()
    folder.mkdir(exist_ok=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tried = loaded = 0
    try:
        for tried, loaded in campaign(folder, seconds=seconds, seed=seed, watch=Watch(folder)):
            if tried % 5000 == 0:
                print(f"{tried} files, {loaded} loaded", flush=True)
    except Found as error:
        traceback.print_exception(error)
        print(f"FOUND by {tried + 1} files: {error}; it is {folder / 'finding'}")
        return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{tried} files tried, {loaded} loaded, nothing found; peak memory {peak} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
