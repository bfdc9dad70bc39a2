"""Compiling the programs: for the emulators, and for the host, whose output is what every emulator must print.

Binaries are kept in a folder by the digest of their sources, compiler and flags, so a second run compiles nothing.
"""
from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workloads import HERE, Program

COMMON = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fwrapv", "-ffp-contract=off", f"-I{HERE / 'programs'}")
TARGET = ("-mcmodel=medany", "-ffreestanding", "-fno-pic", "-nostdlib", "-static", "-T", str(HERE / "programs/link.ld"))
GCC = ("-march=rv64gc", "-mabi=lp64d", "-fno-tree-loop-distribute-patterns", "-Wl,--no-warn-rwx-segments", "-lgcc")
ZIG = ("-target", "riscv64-freestanding-none", "-mcpu=baseline_rv64", "-mabi=lp64d", "-fno-builtin",
       "-fno-sanitize=all")
COMPILERS = ("gcc", "zig")


class ToolMissing(RuntimeError):
    """A compiler is not installed, or does not compile the programs."""


@dataclass(frozen=True)
class Toolchain:
    """The compiler for RISC-V, by name, and where binaries are kept."""

    kind: str
    command: tuple[str, ...]
    folder: Path

    @property
    def version(self) -> str:
        """The compiler's first line about itself."""
        return _first_line([*self.command, "--version"])

    def target(self, program: Program, scale: int) -> Path:
        """Return the ELF of a program at a percentage of its length."""
        sources = [HERE / "programs/start.S", HERE / "programs/target.c", program.source]
        flags = [*COMMON, *TARGET, f"-DSCALE={scale}"]
        extra = GCC if self.kind == "gcc" else ZIG
        before = [f for f in extra if not f.startswith("-l")]
        after = [f for f in extra if f.startswith("-l")]
        return self._build(f"{program.name}-{scale}.elf", [*self.command, *flags, *before], sources, after)

    def expected(self, program: Program, scale: int) -> str:
        """Return the line that the program prints, from a build of the same sources for the host."""
        sources = [HERE / "programs/native.c", program.source]
        command = [*host_compiler(), *COMMON, "-DBENCH_NATIVE", f"-DSCALE={scale}"]
        binary = self._build(f"{program.name}-{scale}.host", command, sources, [])
        return subprocess.run([binary], check=True, capture_output=True, text=True, timeout=600).stdout.strip()

    def _build(self, name: str, command: list[str], sources: list[Path], libraries: list[str]) -> Path:
        shaping = [*sources, HERE / "programs/bench.h", HERE / "programs/link.ld"]
        digest = hashlib.sha256("\n".join([*command, *libraries, self.version]).encode())
        for path in shaping:
            digest.update(path.read_bytes())
        target = self.folder / digest.hexdigest()[:16] / name
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_suffix(f".{os.getpid()}")
        line = [*command, *map(str, sources), *libraries, "-o", str(aside)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise ToolMissing(f"{shlex.join(line)}\n{done.stdout}{done.stderr}")
        aside.replace(target)
        return target


def _first_line(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()[0]


def _zig() -> tuple[str, ...] | None:
    return (sys.executable, "-m", "ziglang") if importlib.util.find_spec("ziglang") else None


def find(folder: Path, kind: str | None = None) -> Toolchain:
    """Return the compiler for RISC-V of this kind, or the first there is. Raises ToolMissing, naming the packages."""
    if kind in (None, "gcc") and (gcc := shutil.which("riscv64-unknown-elf-gcc")):
        return Toolchain("gcc", (gcc,), folder)
    if kind in (None, "zig") and (zig := _zig()):
        return Toolchain("zig", (*zig, "cc"), folder)
    raise ToolMissing("no compiler for RISC-V: install Debian's gcc-riscv64-unknown-elf, or the wheel ziglang")


def host_compiler() -> list[str]:
    """Return the command of the host's compiler: $CC, gcc, cc or zig. Raises ToolMissing."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("gcc", "cc"):
        if found := shutil.which(name):
            return [found]
    if zig := _zig():
        return [*zig, "cc", "-fno-sanitize=all"]
    raise ToolMissing("no compiler for the host: set CC, or install gcc")
