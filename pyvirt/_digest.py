"""What a build was made from, and whether it still matches the sources.

Owns pyvirt/_build.py (written by setup.py, git-ignored) and the two questions asked of it: is pyvirt built for this
interpreter, and is that build older than ext/? Imports nothing of pyvirt, since setup.py runs it before there is one.
"""
from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType

COMMAND = "python -m pip install -e ."
SUFFIXES = (".pyx", ".pxd", ".pxi", ".py", ".h", ".txt")


def sources(tree: Path) -> dict[str, str]:
    """Return {path: SHA-256} of every source that shapes the compiled modules of the clone at `tree`.

    Generated files are left out: they follow from the rest.
    """
    found = [p for p in sorted((tree / "ext").rglob("*")) if p.suffix in SUFFIXES and "generated" not in p.parts]
    found = [p for p in found if "__pycache__" not in p.parts] + [tree / "setup.py"]
    return {p.relative_to(tree).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found if p.is_file()}


def digest(files: dict[str, str], flags: str) -> str:
    """Return one hex digest over sources and compiler flags."""
    text = "".join(f"{path} {value}\n" for path, value in sorted(files.items()))
    return hashlib.sha256(f"{text}{flags}\n".encode()).hexdigest()


def write(tree: Path, target: Path, *, modules: list[str], flags: str, debug: bool) -> None:
    """Write the record of a build as the module at `target`."""
    files = sources(tree)
    lines = [
        '"""What the compiled modules were built from. Written by setup.py."""',
        f"DIGEST = {digest(files, flags)!r}",
        f"FLAGS = {flags!r}",
        f"DEBUG = {debug!r}",
        f"MODULES = {tuple(modules)!r}",
        "FILES = {",
        *(f"    {path!r}: {value!r}," for path, value in sorted(files.items())),
        "}",
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    aside.write_text("\n".join(lines) + "\n")
    aside.replace(target)


def load(package: Path) -> ModuleType | None:
    """Return the build record beside the package at `package`, or None where nothing was built."""
    path = package / "_build.py"
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("pyvirt._build", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unbuilt(package: Path) -> str | None:
    """Return why the package at `package` can't be imported by this interpreter, or None if it can."""
    build = load(package)
    if build is None:
        return f"pyvirt in {package} has no compiled modules. Run `{COMMAND}` in {package.parent}"
    present = {p.name for p in package.iterdir()}
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    for name in build.MODULES:
        stem = name.rpartition(".")[2]
        if not any(stem + suffix in present for suffix in suffixes):
            what = f"pyvirt in {package} lacks {stem}{suffixes[0]}: it was built for another interpreter, or in part"
            return f"{what}. Run `{COMMAND}` in {package.parent}"
    return None


def require_built(package: Path) -> None:
    """Raise one ImportError naming the command to run when the package was not built for this interpreter."""
    reason = unbuilt(package)
    if reason is not None:
        raise ImportError(reason)


def stale(tree: Path, build: ModuleType | None) -> str | None:
    """Return why `build` is not a build of the clone at `tree`, naming a file, or None if it is one."""
    if build is None:
        return f"pyvirt is not built: run `{COMMAND}` in {tree}"
    files = sources(tree)
    for path in sorted({*files, *build.FILES}):
        if files.get(path) != build.FILES.get(path):
            what = "is new" if path not in build.FILES else "is gone" if path not in files else "has changed"
            return f"the build is stale: {path} {what} since. Run `{COMMAND}` in {tree}"
    return None
