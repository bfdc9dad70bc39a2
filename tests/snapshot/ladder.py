"""The ways by which a machine can have come to a moment: behaviour must not depend on which one it was."""
from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyvirt as pv
from pyvirt.assembly.regnames import X_NAMES
from pyvirt.devices.base import Device


def reloaded(snap: pv.Snapshot, *, devices: Sequence[type[Device]] = ()) -> pv.Snapshot:
    """Return what a snapshot is after it was in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.pyvm"
        snap.save(path)
        return pv.Snapshot.load(path, devices=devices)


def move(rung: str, vm: pv.Machine) -> None:
    """Let a machine at rest hold what it holds, come by way of a rung."""
    if rung == "restored":
        with vm.fork() as twin:
            snap = twin.snapshot()
        # Another future would call the user's hooks: damage does as well.
        for hart in vm.harts:
            for name in X_NAMES[1:]:
                setattr(hart, name, 0x5A5A)
            hart.pc = 0x8000_0000
        vm.mem[0x8000_0000:0x8000_1000] = b"\xff" * 4096
        vm.restore(snap)
    elif rung == "forked":
        with vm.fork() as twin, twin.fork() as other:
            snap = other.snapshot()
        vm.restore(snap)
    elif rung == "loaded":
        with vm.fork() as twin:
            snap = reloaded(twin.snapshot(), devices=[
                type(d) for d in vm.devices if not type(d).__module__.startswith("pyvirt.")])
        vm.restore(snap)
