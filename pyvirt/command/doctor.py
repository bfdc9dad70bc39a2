"""`pyvirt doctor`: what this host offers, and what to do about what it does not.

Owns the list of checks. Each is one line: what was looked for, what was found, and advice where something is missing.
"""
from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pyvirt import _digest
from pyvirt._hart import choose_core
from pyvirt.fetch import pull


@dataclass(frozen=True)
class Check:
    """One finding: `ok` is False only where something that pyvirt itself needs is wrong."""

    name: str
    found: str
    ok: bool = True
    advice: str = ""

    def __str__(self) -> str:
        line = f"{'ok ' if self.ok else 'BAD'} {self.name:<14} {self.found}"
        return f"{line}  ({self.advice})" if self.advice else line


def report() -> list[Check]:
    """Return every check, in the order to show them.

    >>> [check.name for check in report()][:3]
    ['pyvirt', 'build', 'core']
    """
    return [
        Check("pyvirt", importlib.metadata.version("pyvirt") if _installed() else "not installed, run from a clone"),
        _build(),
        _core(),
        _python(),
        _cores(),
        _tool("apt-get", "pyvirt pull", "apt-get install apt; without it give `pyvirt run` a kernel and an initrd"),
        _tool("dpkg-deb", "pyvirt pull", "apt-get install dpkg"),
        _tool("mke2fs", "pyvirt pull --with", "apt-get install e2fsprogs"),
        _tool("dtc", "reading device trees, tests", "apt-get install device-tree-compiler"),
        _cache(),
    ]


def _installed() -> bool:
    return any(True for _ in importlib.metadata.distributions(name="pyvirt"))


def _build() -> Check:
    package = Path(_digest.__file__).parent
    build = _digest.load(package)
    if build is None:
        return Check("build", "none", ok=False, advice=f"run `{_digest.COMMAND}`")
    kind = "debug, " if build.DEBUG else ""
    found = f"{build.DIGEST[:12]} ({kind}{len(build.MODULES)} compiled modules)"
    tree = package.parent
    stale = _digest.stale(tree, build) if (tree / "setup.py").exists() else None
    return Check("build", found, ok=stale is None, advice=stale or "")


def _core() -> Check:
    """Say which interpreter core this process would run, and why."""
    try:
        name, why = choose_core()
    except ValueError as error:
        return Check("core", "none", ok=False, advice=str(error))
    return Check("core", f"{name}: {why}")


def _python() -> Check:
    implementation = platform.python_implementation()
    found = f"{implementation} {platform.python_version()} on {platform.system()} {platform.machine()}"
    if implementation != "CPython" or sys.version_info < (3, 11):
        return Check("python", found, ok=False, advice="pyvirt needs CPython 3.11 or later")
    proven = platform.system() == "Linux" and platform.machine() == "x86_64"
    return Check("python", found, advice="" if proven else "built and tested on Linux x86_64 only")


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check("cores", f"{usable} usable; a machine uses one, and machines in threads run side by side")


def _tool(program: str, used_by: str, advice: str) -> Check:
    path = shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        return Check(program, f"not found; used by {used_by}", advice=advice)
    return Check(program, path)


def _cache() -> Check:
    folder = pull.cache_dir()
    found = pull.cached()
    if found is None:
        return Check("cache", f"no guest in {folder}", advice="`pyvirt pull debian` puts one there")
    size = sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())
    extra = f" with {', '.join(found.packages)}" if found.packages else ""
    return Check("cache", f"Debian {found.suite}, Linux {found.release}{extra}; {size // 2**20} MB in {folder}")
