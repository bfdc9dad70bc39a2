"""Debian's KVM on pyvirt's hypervisor extension: it sees the extension, and runs a guest that checks itself."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyvirt import Machine, StopReason
from tests.api.cli_guests import Command

CMDLINE = "console=ttyS0 quiet cryptomgr.notests mods=kvm run=/root/kvmrun.sh"
Guest = Callable[[str], Path]


@pytest.fixture
def pyvirt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


@pytest.mark.slow
def test_kvmrun_from_the_command_line(pyvirt: Command, guest: Guest) -> None:
    done = pyvirt(
        "run", "--kernel", guest("Image-7.2.zst"), "--initrd", guest("initramfs-nest.cpio.zst"), "--append", CMDLINE,
        "--expect", "KVMRUN-OK",
    )
    assert done.code == 0, done.err
    assert "KVMRUN-OK" in done.out


@pytest.mark.slow
def test_kvm_sees_the_extension_and_its_guest_runs(guest: Guest) -> None:
    with Machine() as vm:
        vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-nest.cpio.zst"),
                cmdline=CMDLINE.replace(" quiet", ""))
        vm.run(until="KVMRUN-OK")
        stop = vm.run()
        said = vm.console.text
    # What KVM finds by writing hgatp and reading it back, and what its guest computes.
    for line in ("hypervisor extension available", "G-stage page table mode is Sv57x4",
                 "VMID 14 bits available", "hello from VS-mode", "sum 2666664666667000000 (ok)",
                 "VS-stage load 63 (ok)"):
        assert line in said
    assert (stop.reason, stop.exit_code) == (StopReason.EXIT, 0)
