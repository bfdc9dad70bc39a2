"""Debian's kernel at a shell's prompt, for tests of snapshots."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyvirt as pv

DISK_MODULES = "virtio_mmio,virtio_blk,virtio-rng,crc16,mbcache,jbd2,ext4"
PROMPT = "~ # "
LIMIT = 3_000_000_000


def boot(guest: Callable[[str], Path], *, mods: str = "", **options: Any) -> pv.Machine:
    """Return a machine whose guest waits for a command, with an echo that is off."""
    words = f"console=ttyS0 quiet cryptomgr.notests{f' mods={mods}' if mods else ''}"
    vm = pv.Machine(**options)
    vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-slim.cpio.zst"), cmdline=words)
    vm.run(until=PROMPT, instructions=LIMIT)
    shell(vm, "stty -echo")
    return vm


def shell(vm: pv.Machine, command: str) -> str:
    """Run a command at the prompt and return what it printed."""
    vm.console.send(f"echo BEGIN-$((6*7)); {command}; echo DONE-$((6*7))\n")
    vm.run(until="DONE-42", instructions=LIMIT)
    said = vm.console.text.rpartition("BEGIN-42")[2]
    vm.run(until=PROMPT, instructions=LIMIT)
    return said.removesuffix("DONE-42").replace("\r", "").strip()
