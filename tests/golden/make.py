"""Writes the golden files of this version's format: `python -m tests.golden.make`, once for each version of the format.

A file that exists is never written again: what it holds is what a user of that version has. Beside each lies a .json
that says what a machine loaded from it must do. Nothing in it depends on the digest or on the layout of state, which
later versions may change; files have to go on loading all the same.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyvirt as pv
from pyvirt.command.demo import PROMPT, boot
from pyvirt.files.container import VERSION
from tests.snapshot.guests import busy, sectors, writer

HERE = Path(__file__).resolve().parent


def bare(path: Path) -> dict[str, object]:
    """A bare board whose hart counts; in the middle of it."""
    with pv.Machine(board="bare", ram="64K") as vm:
        vm.load(pv.asm("li a0, 1\nli a1, 0x8000f000\n1: addi a0, a0, 3\nsd a0, 0(a1)\nj 1b"))
        vm.run(instructions=1000)
        vm.snapshot("counting").tag("golden").save(path)
        before = vm.hart.a0
        vm.run(instructions=3000)
        return {"kind": "bare", "name": "counting", "a0": [before, vm.hart.a0]}


def monitor(path: Path) -> dict[str, object]:
    """pyvirt's own guest at its prompt."""
    with boot() as vm:
        vm.run(until=PROMPT)
        vm.snapshot("prompt").save(path)
        icount, shown = vm.icount, len(vm.console.text)
        vm.console.send("primes 1000\r")
        vm.run(until=PROMPT)
        return {"kind": "monitor", "name": "prompt", "icount": [icount, vm.icount], "send": "primes 1000\r",
                "until": PROMPT, "shown": vm.console.text[shown:]}


def typed(path: Path) -> dict[str, object]:
    """Two harts, timer interrupts, a random source, and input on its way."""
    with busy(ram="1M", harts=2, seed=5, devices=[pv.VirtioRng(seed=1 << 70)]) as vm:
        vm.run(instructions=30_000)
        vm.console.send("ab")
        vm.snapshot("typed").save(path)
        vm.run(instructions=50_000)
        return {"kind": "typed", "name": "typed", "icount": vm.icount, "text": vm.console.text,
                "s4": [hart.s4 for hart in vm.harts], "s7": [hart.s7 for hart in vm.harts]}


def disk(path: Path) -> dict[str, object]:
    """A machine that writes its disk, which is inside, as an increment on an earlier moment of it."""
    image = path.with_suffix(".tmp")
    image.write_bytes(bytes(64 << 10) + bytes(range(256)) * 16 + bytes(60 << 10))
    parent = path.with_name(path.name.replace("disk", "parent"))
    try:
        with writer(image) as vm:
            vm.run(instructions=5000)
            vm.snapshot("parent").save(parent)
            vm.run(instructions=5000)
            vm.snapshot("disk").save(path, parent=parent)
            vm.run(instructions=5000)
            return {"kind": "disk", "name": "disk", "sectors": sectors(vm.snapshot()._held().disks[0].disk())}
    finally:
        image.unlink()


MAKERS: dict[str, Callable[[Path], dict[str, object]]] = {
    "bare": bare, "monitor": monitor, "typed": typed, "disk": disk}


def main() -> int:
    """Write what is missing."""
    version = ".".join(map(str, VERSION))
    for name, make in MAKERS.items():
        path = HERE / f"{version}-{name}.pyvm"
        if path.exists():
            print(f"{path.name} exists and stays")
            continue
        path.with_suffix(".json").write_text(json.dumps(make(path), indent=1) + "\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
