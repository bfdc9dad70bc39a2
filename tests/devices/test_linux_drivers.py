"""Every device driven by Linux's own driver, in one boot of Debian's kernel; a disk across two."""
from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.devices.virtio_blk import VirtioBlk
from pyvirt.devices.virtio_console import VirtioConsole
from pyvirt.devices.virtio_rng import VirtioRng
from pyvirt.disks.disk import Disk
from tests import needs
from tests.snapshot.test_forks import STAGES, at_stage

MODULES = "mods=virtio_mmio,virtio_blk,virtio-rng,crc16,mbcache,jbd2,ext4"
CMDLINE = f"console=ttyS0 quiet cryptomgr.notests {MODULES}"


class Linux:
    """A booted guest at its prompt, with a disk, a console port and an entropy source."""

    def __init__(self, guest: Callable[[str], Path], disk: Disk, stage: str = "booted") -> None:
        def boot() -> pv.Machine:
            vm = pv.Machine(disks=[disk], devices=[VirtioConsole(), VirtioRng(seed=1)])
            vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-slim.cpio.zst"), cmdline=CMDLINE)
            vm.run(until="~ # ", instructions=3_000_000_000)
            return vm

        self.vm = at_stage(stage, boot)
        self.port, self.rng, self.blk = (self._device(cls) for cls in (VirtioConsole, VirtioRng, VirtioBlk))

    def _device(self, cls: type[Any]) -> Any:
        return next(device for device in self.vm.devices if isinstance(device, cls))

    def shell(self, command: str) -> str:
        """Run a command at the guest's prompt and return its output, without what the terminal echoed."""
        self.vm.console.send(f"echo BEGIN-$((6*7)); {command}; echo DONE-$((6*7))\n")
        self.vm.run(until="BEGIN-42", instructions=3_000_000_000)
        stop = self.vm.run(until=re.compile("(?s)(.*)DONE-42"), instructions=3_000_000_000)
        return str(stop.match).removesuffix("DONE-42").replace("\r", "").strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mke2fs = needs.need_program("e2fsprogs", "mke2fs")
    folder = tmp_path_factory.mktemp("disk")
    (folder / "root").mkdir()
    (folder / "root" / "hello").write_text("from the host\n")
    path = folder / "disk.ext4"
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", folder / "root", path, "16M"], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module", params=[
    stage if stage == "booted" else pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES])
def linux(guest: Callable[[str], Path], image: Path, request: pytest.FixtureRequest) -> Linux:
    return Linux(guest, Disk(image), request.param)


def test_interrupt_controllers_and_uart(linux: Linux) -> None:
    interrupts = linux.shell("cat /proc/interrupts")
    lines = {line.split()[-1]: line.split() for line in interrupts.splitlines() if "PLIC" in line}
    assert {"ttyS0", "101000.rtc", "virtio0", "virtio1", "virtio2"} <= set(lines)
    assert int(lines["ttyS0"][1]) > 10
    assert "is a 16550A" in linux.shell("dmesg | grep ttyS0")


def test_uart_takes_a_long_paste_without_loss(linux: Linux) -> None:
    text = "".join(f"line {n} " + "x" * (n % 60) + "\n" for n in range(300))
    linux.vm.console.send("stty -echo; echo READY-$((6*7)); cat > /tmp.txt\n")
    linux.vm.run(until="READY-42\r\n", instructions=1_000_000_000)
    linux.vm.console.send(text + "\x04")
    digest = linux.shell("md5sum /tmp.txt; wc -c < /tmp.txt; stty echo")
    assert digest.split()[0] == hashlib.md5(text.encode()).hexdigest(), digest


def test_rtc_sets_the_date_and_repeats(linux: Linux) -> None:
    assert linux.shell("date -u +%Y-%m-%d") == "2024-01-01"
    assert linux.shell("cat /sys/class/rtc/rtc0/date") == "2024-01-01"
    assert linux.shell("cat /sys/class/rtc/rtc0/name").startswith("goldfish_rtc")


def test_entropy_repeats_by_seed(linux: Linux) -> None:
    assert linux.shell("cat /sys/class/misc/hw_random/rng_current") == "virtio_rng.0"
    taken = linux.rng.state["counter"]
    assert len(set(linux.shell("head -c 64 /dev/hwrng | od -An -tx1").split())) > 20
    assert linux.rng.state["counter"] >= taken
    assert taken > 0


def test_console_port_both_ways(linux: Linux) -> None:
    linux.shell("echo to the host > /dev/hvc0")
    assert linux.port.drain() == b"to the host\r\n"
    linux.port.send(b"to the guest\n")
    assert linux.shell("head -n1 /dev/hvc0") == "to the guest"


def test_disk_files_trim_and_reread_in_an_overlay(linux: Linux, image: Path) -> None:
    before = hashlib.md5(image.read_bytes()).hexdigest()
    assert linux.shell("cat /sys/block/vda/serial; echo; cat /sys/block/vda/size").split() == ["pyvirt-disk0", "32768"]
    assert linux.shell("mkdir -p /mnt; mount /dev/vda /mnt; cat /mnt/hello") == "from the host"
    wrote = linux.shell("dd if=/dev/urandom of=/mnt/big bs=64k count=64 2>/dev/null; sync; md5sum < /mnt/big")
    linux.shell("umount /mnt; echo 3 > /proc/sys/vm/drop_caches; mount /dev/vda /mnt")
    assert linux.shell("md5sum < /mnt/big") == wrote
    assert "trimmed" in linux.shell("rm /mnt/big; fstrim -v /mnt")
    linux.shell("umount /mnt")
    assert linux.blk.disk.changed_blocks > 1000
    assert (linux.blk.error, linux.port.error, linux.rng.error) == ("", "", "")
    assert hashlib.md5(image.read_bytes()).hexdigest() == before


def test_power_off(linux: Linux) -> None:
    """Last of the module: the guest is gone after it."""
    linux.vm.console.send("poweroff -f\n")
    stop = linux.vm.run(instructions=3_000_000_000)
    assert (stop.reason.name, stop.kind, stop.exit_code) == ("EXIT", "poweroff", 0)


@pytest.mark.slow
def test_a_file_written_to_a_direct_disk_is_there_in_the_next_boot(
        guest: Callable[[str], Path], image: Path, tmp_path: Path) -> None:
    e2fsck = needs.need_program("e2fsprogs", "e2fsck")
    path = tmp_path / "direct.ext4"
    shutil.copy(image, path)
    with Disk(path, mode="direct") as disk:
        Linux(guest, disk).shell("mkdir -p /mnt; mount /dev/vda /mnt; echo kept > /mnt/new; umount /mnt")
    subprocess.run([e2fsck, "-fn", path], check=True, capture_output=True)
    with Disk(path, mode="direct") as disk:
        assert Linux(guest, disk).shell("mkdir -p /mnt; mount /dev/vda /mnt; cat /mnt/new; umount /mnt") == "kept"
    subprocess.run([e2fsck, "-fn", path], check=True, capture_output=True)
