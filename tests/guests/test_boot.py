"""Debian's unmodified kernel from the command line and from Python: firmware, one digest, disks, drivers, its end."""
from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from pyvirt import Machine, StopReason, VirtioConsole, VirtioRng
from tests import needs
from tests.api.cli_guests import Command

CMDLINE = "console=ttyS0 cryptomgr.notests"
SCRIPT = ("--expect", "GUEST-INIT-OK", "--expect", "# ", "--send", r"echo answer=$((6*7))\n", "--expect", "answer=42",
          "--send", r"poweroff -f\n")
MODULES = "mods=virtio_mmio,virtio_blk,virtio-rng,crc16,mbcache,jbd2,ext4"
OPENSBI_11 = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin")  # of Debian 12's package

Guest = Callable[[str], Path]


@pytest.fixture
def pyvirt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


@pytest.fixture(scope="session")
def linux(guest: Guest) -> tuple[str, ...]:
    """The options that name kernel and initramfs."""
    return ("--kernel", str(guest("Image-7.2.zst")), "--initrd", str(guest("initramfs-mini.cpio.zst")))


def play(vm: Machine, guest: Guest, run: Callable[[Machine, str], None]) -> str:
    """Play what SCRIPT does, with `run(vm, text)` for each expectation, and return the digest at the end."""
    vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-mini.cpio.zst"), cmdline=CMDLINE)
    run(vm, "GUEST-INIT-OK")
    run(vm, "# ")
    vm.console.send("echo answer=$((6*7))\n")
    run(vm, "answer=42")
    vm.console.send("poweroff -f\n")
    stop = vm.run()
    assert (stop.reason, stop.kind, stop.exit_code) == (StopReason.EXIT, "poweroff", 0)
    return vm.digest()


@pytest.fixture(scope="session")
def digest(guest: Guest) -> str:
    """The digest of a session played in one go by the threaded core."""
    with Machine() as vm:
        return play(vm, guest, lambda vm, text: vm.run(until=text) and None)


# -- the command line
def test_builtin_sbi_and_the_same_digest_as_from_python(pyvirt: Command, linux: tuple[str, ...], digest: str,
                                                        tmp_path: Path) -> None:
    done = pyvirt("run", *linux, "--append", CMDLINE, *SCRIPT, "--stats", tmp_path / "s.json")
    assert done.code == 0, done.err
    assert "answer=42" in done.out
    stats = json.loads((tmp_path / "s.json").read_text())
    assert (stats["stop"], stats["exit_code"]) == ("exit", 0)
    assert 200_000_000 < stats["instructions"] < 1_000_000_000
    assert stats["digest"] == digest


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.9", "1.1"])
def test_opensbi(pyvirt: Command, linux: tuple[str, ...], guest: Guest, version: str) -> None:
    if version == "1.1" and not OPENSBI_11.exists():
        needs.missing("opensbi", f"{OPENSBI_11} does not exist; on Debian 12: apt-get install opensbi")
    firmware = OPENSBI_11 if version == "1.1" else guest("opensbi-1.9-fw_dynamic.bin")
    done = pyvirt("run", *linux, "--append", CMDLINE, "--firmware", firmware, *SCRIPT)
    assert done.code == 0, done.err
    assert "answer=42" in done.out
    found = re.search(r"OpenSBI v(\S+)", done.out)
    assert found is not None
    if found[1] != version:
        needs.missing("opensbi", f"{firmware} is OpenSBI {found[1]}, which boots too, and not {version}")


@pytest.mark.slow
def test_what_is_not_answered_is_1_with_the_tail(pyvirt: Command, linux: tuple[str, ...]) -> None:
    steps = [step.replace("answer=42", "answer=43") for step in SCRIPT]
    done = pyvirt("run", *linux, "--append", CMDLINE, *steps, "--console", "none")
    assert (done.code, done.out) == (1, "")
    assert "--expect 'answer=43' (3 of 3) was not met" in done.err
    assert "\nanswer=42\n" in done.err


# -- one digest
@pytest.mark.slow
def test_slices_of_any_length_change_nothing(guest: Guest, digest: str) -> None:
    lengths = random.Random(2)

    def run(vm: Machine, text: str) -> None:
        while True:
            stop = vm.run(until=text, instructions=lengths.choice((1, 777, 100_000, 5_000_000)), check=False)
            if stop.reason is StopReason.UNTIL:
                return
            assert stop.reason is StopReason.INSTRUCTIONS

    with Machine() as vm:
        assert play(vm, guest, run) == digest


@pytest.mark.slow
def test_the_switch_core_changes_nothing(guest: Guest, digest: str) -> None:
    with Machine(core="switch") as vm:
        assert vm.core == "switch"
        assert play(vm, guest, lambda vm, text: vm.run(until=text) and None) == digest


# -- disks
ROOT_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "ROOT-OK was: $(/bin/busybox cat /new)"
echo "kept in $(/bin/busybox cat /boots)" > /new
/bin/busybox sync
/bin/busybox mount -o remount,ro /
/bin/busybox poweroff -f
"""


def unpack(archive: Path, wanted: str) -> bytes:
    """Return one file of a newc archive compressed with zstd."""
    data = zstandard.ZstdDecompressor().stream_reader(archive.read_bytes()).read()
    at = 0
    while data[at:at + 6] == b"070701":
        fields = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110:at + 110 + fields[11] - 1].decode()
        begin = (at + 110 + fields[11] + 3) & ~3
        if name.removeprefix("./") == wanted:
            return data[begin:begin + fields[6]]
        at = (begin + fields[6] + 3) & ~3
    pytest.fail(f"{archive} holds no {wanted}")


@pytest.fixture
def root(guest: Guest, tmp_path: Path) -> Path:
    """An ext4 root file system whose /init says what it found in /new, and writes it."""
    mke2fs = needs.need_program("e2fsprogs", "mke2fs")
    tree = tmp_path / "tree"
    for name in ("bin", "proc", "dev", "sys"):
        (tree / name).mkdir(parents=True)
    (tree / "bin" / "busybox").write_bytes(unpack(guest("initramfs-slim.cpio.zst"), "bin/busybox"))
    (tree / "init").write_text(ROOT_INIT)
    (tree / "boots").write_text("the first boot\n")
    (tree / "new").write_text("nothing\n")
    for name in ("bin/busybox", "init"):
        (tree / name).chmod(0o755)
    path = tmp_path / "root.ext4"
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", tree, path, "16M"], check=True, capture_output=True)
    return path


@pytest.mark.slow
def test_a_file_written_to_a_direct_disk_stays_and_one_to_an_overlay_does_not(
        pyvirt: Command, guest: Guest, root: Path) -> None:
    e2fsck = needs.need_program("e2fsprogs", "e2fsck")
    command = ("run", "--kernel", guest("Image-7.2.zst"), "--initrd", guest("initramfs-slim.cpio.zst"),
               "--append", f"{CMDLINE} {MODULES} root=/dev/vda")
    done = pyvirt(*command, "--disk", f"{root},mode=direct")
    assert done.code == 0, done.out + done.err
    assert "ROOT-OK was: nothing" in done.out
    subprocess.run([e2fsck, "-fn", root], check=True, capture_output=True)
    kept = hashlib.sha256(root.read_bytes()).hexdigest()
    done = pyvirt(*command, "--disk", root)
    assert done.code == 0, done.out + done.err
    assert "ROOT-OK was: kept in the first boot" in done.out
    assert hashlib.sha256(root.read_bytes()).hexdigest() == kept


# -- drivers, on a machine that is typed to
class Shell:
    """A booted guest at its prompt."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm

    def __call__(self, command: str) -> str:
        """Type a command and return what it printed."""
        self.vm.console.send(f"{command}; echo EN''D\n")
        self.vm.run(until=f"{command}; echo EN''D\n", timeout=60)
        stop = self.vm.run(until=re.compile("(?s).*?END\n"), timeout=60)
        self.vm.run(until="# ", timeout=60)
        assert stop.match is not None
        return stop.match.removesuffix("END\n").strip()


@pytest.fixture(scope="module")
def shell(guest: Guest) -> Iterator[Shell]:
    with Machine(devices=[VirtioRng(seed=1), VirtioConsole()]) as vm:
        vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-slim.cpio.zst"),
                cmdline=f"{CMDLINE} quiet {MODULES}")
        vm.run(until="GUEST-SHELL", timeout=100)
        vm.run(until="# ", timeout=60)
        yield Shell(vm)


def port(shell: Shell) -> VirtioConsole:
    return next(device for device in shell.vm.devices if isinstance(device, VirtioConsole))


def test_linux_takes_its_date_from_the_clock(shell: Shell) -> None:
    assert shell("cat /sys/class/rtc/rtc0/name").startswith("goldfish_rtc")
    assert shell("date -u +%Y-%m-%d") == shell("cat /sys/class/rtc/rtc0/date")


def test_linux_draws_from_the_entropy_device(shell: Shell) -> None:
    assert shell("cat /sys/class/misc/hw_random/rng_current") == "virtio_rng.0"
    assert len(set(shell("head -c 64 /dev/hwrng | od -An -tx1").split())) > 20


def test_linux_talks_on_the_console_port(shell: Shell) -> None:
    shell("echo to the host > /dev/hvc0")
    assert port(shell).drain() == b"to the host\r\n"
    port(shell).send(b"to the guest\n")
    assert shell("head -n1 /dev/hvc0") == "to the guest"


def test_linux_finds_the_extensions_it_asked_for(shell: Shell) -> None:
    info = shell("cat /proc/cpuinfo")
    assert "sv57" in info
    isa = next(line.split(":")[1].strip() for line in info.splitlines() if line.startswith("isa"))
    assert isa.startswith("rv64imafdc")
    assert {"zba", "zbb", "zbs", "sstc", "svinval", "svnapot", "svpbmt"} <= set(isa.split("_"))


def test_linux_reboots(shell: Shell) -> None:
    """Last of the module: the guest is gone after it."""
    shell.vm.console.send("reboot -f\n")
    stop = shell.vm.run(timeout=60)
    assert (stop.reason, stop.kind, stop.exit_code) == (StopReason.EXIT, "reboot", 0)
