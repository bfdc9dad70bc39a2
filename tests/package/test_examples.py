"""Every example runs: docstrings of the package, and the fenced blocks of README.md and docs/.

In a page, a ```python block is run as it stands, or as a doctest where it holds prompts; the blocks of one page share
their names, in order. In a ```console block each `pyvirt COMMAND` must be one that the command line has.
"""
from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import pyvirt
from tests import needs

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)


def modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(pyvirt.__path__, "pyvirt.")]
    return ["pyvirt", *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=FLAGS)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples of {name} failed"


def pages() -> list[str]:
    try:
        tree = needs.source_tree()
    except (pytest.skip.Exception, pytest.fail.Exception):
        return []
    return ["README.md", *sorted(p.relative_to(tree).as_posix() for p in (tree / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages())
def test_page_examples(page: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (source / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": f"example_{page}"}
    for language, options, body in FENCE.findall(text):
        if language != "python" or "no-run" in options:
            continue
        if ">>>" in body:
            runner = doctest.DocTestRunner(optionflags=FLAGS)
            test = doctest.DocTestParser().get_doctest(body, names, page, page, 0)
            said: list[str] = []
            assert runner.run(test, out=said.append, clear_globs=False).failed == 0, "".join(said)
            names = test.globs
        else:
            exec(compile(body, page, "exec"), names)


@pytest.mark.parametrize("page", pages())
def test_page_commands_exist(page: str, source: Path) -> None:
    text = (source / page).read_text(encoding="utf-8")
    known = _commands()
    for body in (b for language, _, b in FENCE.findall(text) if language in ("console", "sh", "bash")):
        for used in re.findall(r"(?:^|[\s/&|])pyvirt ([a-z]+)", body, re.M):
            assert used in known, f"{page} uses `pyvirt {used}`, which is none of {', '.join(sorted(known))}"


def _commands() -> set[str]:
    import typer.main

    cli = importlib.import_module("pyvirt.command.cli")
    return set(getattr(typer.main.get_command(cli.app), "commands", {}))


def test_the_readme_and_ci_share_their_commands(source: Path) -> None:
    readme = (source / "README.md").read_text(encoding="utf-8")
    test = "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox run"
    assert "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/pyvirt demo" in readme
    assert test in readme
    assert test in (source / ".ci" / "run").read_text(encoding="utf-8")
