"""Imports point one way: errors < compiled modules < parts < board < explanations < machine < commands.

Every import statement counts, inside functions too; only `if TYPE_CHECKING:` is exempt, since it never runs.
"""
from __future__ import annotations

import ast
import fnmatch
import re
from pathlib import Path

import pytest

import pyvirt

PACKAGE = Path(pyvirt.__file__).parent

# A module may import from lower ranks and its own; private helpers stand with what they serve. A new module has to be
# given its rank here: that is the moment to think about where it belongs.
RANKS = [
    {"errors", "_digest", "_build"},
    {"_*"},  # the compiled modules
    # Tables of names, formats of files, values: they serve parts and know none
    {"assembly", "images", "disks", "config", "show", "stop", "explain.fences", "nesting.guestinsn", "files.aside",
     "files.values", "files.container", "files.pages", "files.signing", "history.pagestore"},
    {"devices", "hart", "memory", "fdt", "guests", "console", "firmware.firmware"},
    {"board"},
    {"history.history", "history.snapshot", "history.snapmap", "files", "explain", "firmware", "digest"},
    {"nesting.guestmem", "gdb"},
    {"nesting", "history", "firmware.boot", "machine", "run", "bus"},
    {"__init__"},
    {"fetch", "testing", "command"},
    {"command.doctor"},
    {"command.cli", "command.cli_files", "__main__"},
]


def rank_of(module: str) -> int:
    """Return the rank of a module given relative to pyvirt: its own, else that of its folder."""
    top = module.partition(".")[0] or "__init__"
    for name in (module, top):
        for rank, names in enumerate(RANKS):
            if name in names:
                return rank
    for rank, names in enumerate(RANKS):
        if any(fnmatch.fnmatch(top, n) for n in names):
            return rank
    pytest.fail(f"pyvirt.{module} has no rank in tests/package/test_layers.py")


def imports(path: Path, module: str) -> list[tuple[int, str]]:
    """Return (line, module relative to pyvirt) for every import of pyvirt's own modules that can run."""
    found: list[tuple[int, str]] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "pyvirt":
                    found.append((node.lineno, alias.name.partition(".")[2]))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["pyvirt", *module.split(".")]
                package = package if path.name == "__init__.py" and module != "__init__" else package[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([base] if base else [])])
            if base == "pyvirt":
                found.extend((node.lineno, alias.name) for alias in node.names)
            elif base.startswith("pyvirt."):
                room = base.partition(".")[2]
                found.extend({(node.lineno, f"{room}.{a.name}" if _is_module(f"{room}.{a.name}") else room)
                              for a in node.names})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    own = rank_of(module)
    for line, target in imports(modules()[module], module):
        if not _is_module(target):
            target = "__init__"  # `from pyvirt import Machine`: a name that the package re-exports
        assert rank_of(target) <= own, f"{module}:{line} imports pyvirt.{target}, which is above it"


def _is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    compiled = list(path.parent.glob(f"{path.name}.*so"))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists() or bool(compiled) or not name


def test_the_check_sees_every_form_of_import(tmp_path: Path) -> None:
    text = """
import pyvirt.command.cli
from pyvirt.history import snapshot
from pyvirt import machine
from pyvirt.board import Board
from . import show
from .walk import walk
def f():
    from pyvirt.testing import x
if TYPE_CHECKING:
    from pyvirt.command.cli import main
"""
    path = tmp_path / "hart.py"
    path.write_text(text)
    assert [target for _, target in imports(path, "hart")] == [
        "command.cli", "history.snapshot", "machine", "board", "show", "walk", "testing"]


def test_the_core_knows_nothing_of_the_package(source: Path) -> None:
    files = [p for p in sorted((source / "ext").glob("*")) if p.suffix in (".pyx", ".pxd", ".py")]
    own = {f"_{p.stem}" for p in files}  # compiled modules take each other's tables of C functions from pyvirt._NAME
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = re.match(r"\s*(?:from|import|cimport)\s+\.*pyvirt\b(.*)", line)
            if found:
                names = set(re.findall(r"\w+", found[1])) - {"import", "cimport"}
                assert names <= own, f"ext/{path.name}:{number}: {line.strip()}"
