"""Debian's kernel saved and gone on with elsewhere: other hash seeds, the other core, inside an L2 guest's run."""
from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pyvirt as pv

CMDLINE = "console=ttyS0 cryptomgr.notests"
Guest = Callable[[str], Path]

# Loads argv[1], types argv[2] unless it is empty, runs to icount argv[3], prints the digest.
GO_ON = """
import sys, pyvirt as pv
vm = pv.Snapshot.load(sys.argv[1]).fork()
if sys.argv[2]:
    vm.console.send(sys.argv[2])
vm.run(instructions=int(sys.argv[3]) - vm.icount)
print(vm.digest(), vm.core)
"""


def go_on(path: Path, typed: str, until: int, *, core: str, seed: int) -> str:
    """Go on in another process, and return the digest."""
    ran = subprocess.run([sys.executable, "-c", GO_ON, str(path), typed, str(until)], text=True, check=True,
                         capture_output=True, env={**os.environ, "PYTHONHASHSEED": str(seed), "PYVIRT_CORE": core})
    digest, used = ran.stdout.split()
    assert used == core
    return digest


def test_linux_goes_on_in_another_process(guest: Guest, tmp_path: Path) -> None:
    with pv.Machine() as vm:
        vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-mini.cpio.zst"), cmdline=CMDLINE)
        vm.run(until="# ")
        vm.snapshot().save(tmp_path / "prompt")
        typed = "for i in 1 2 3; do echo $i $((i * 111)) | md5sum; done\n"
        vm.console.send(typed)
        vm.run(instructions=30_000_000)
        assert vm.console.text.count("  -") == 3
        vm.snapshot().save(tmp_path / "later", parent=tmp_path / "prompt")
        wanted, icount = vm.digest(), vm.icount
    assert go_on(tmp_path / "prompt", typed, icount, core="threaded", seed=1) == wanted
    assert go_on(tmp_path / "prompt", typed, icount, core="switch", seed=2) == wanted
    assert go_on(tmp_path / "later", "", icount, core="switch", seed=3) == wanted
    assert (tmp_path / "later").stat().st_size < (tmp_path / "prompt").stat().st_size / 20
    with pv.Snapshot.load(tmp_path / "later").fork() as vm:
        vm.console.send("echo answer=$((6*7)); poweroff -f\n")
        vm.run(until="answer=42")
        assert vm.run().reason is pv.StopReason.EXIT


@pytest.mark.slow
def test_saved_in_the_middle_of_a_guest_s_guest(guest: Guest, tmp_path: Path) -> None:
    """At random moments of KVM's run of its guest, each as an increment on the one before."""
    with pv.Machine() as vm:
        vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-nest.cpio.zst"),
                cmdline=f"{CMDLINE} quiet mods=kvm run=/root/kvmrun.sh")
        vm.run(until="hello from VS-mode")
        begin = vm.snapshot()
        vm.run(until="KVMRUN-OK")
        wanted, end = vm.digest(), vm.icount
        rng = random.Random(5)
        worlds = set()
        parent = None
        for k, moment in enumerate(sorted(rng.randrange(begin.icount, end) for _ in range(12))):
            vm.restore(begin).run(instructions=moment - begin.icount)
            worlds.add(vm.hart.world)
            path = tmp_path / f"{k}"
            vm.snapshot().save(path, parent=parent)
            parent = path
            assert go_on(path, "", end, core=("threaded", "switch")[k % 2], seed=k) == wanted
        assert worlds & {"VS", "VU"}
