"""A saved machine whose parent had a name of 300 characters raised OSError instead of LoadError."""
from __future__ import annotations

from pathlib import Path

import pytest

from pyvirt.errors import LoadError
from pyvirt.files.opening import named


class File:
    """As much of a reader as a name needs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrong(self, what: str) -> LoadError:
        return LoadError(f"{self.path}: {what}")


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"its parent is 'aaaa.*which can't be looked for"):
        named(File(tmp_path / "child"), b"a" * 300, [tmp_path], "its parent")  # type: ignore[arg-type]


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(LoadError, match="its parent is 'a', which"):
        named(File(tmp_path / "child"), b"a", [tmp_path], "its parent")  # type: ignore[arg-type]
