"""No tracked file and no commit message names a place of one machine, its package sources, or who works on it."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import needs

# The patterns must not match themselves: hence the classes of one letter.
PLACES = re.compile(r"(?<![\w.~])/(?:wor[k]|hom[e]|User[s])/\w|(?<![\w.~])/tm[p]/\w+/|\.\./share[d]")
PEOPLE = re.compile(r"\b(?:A[I]|LL[M]s?|[Ss]ub-?agen[t]s?|[Aa]gen[t]s?|[Aa]ssistan[t]s?|[Cc]hatbo[t]s?)\b")
PUBLIC = ("pypi.org", "pythonhosted.org", "debian.org")


def git(tree: Path, *arguments: str) -> str:
    if not (tree / ".git").exists():
        needs.missing("source", f"{tree} is not a git clone")
    return subprocess.run(["git", *arguments], cwd=tree, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def texts(source: Path) -> dict[str, str]:
    """Return {where: text} of each tracked text file and each commit message."""
    found = {}
    for name in filter(None, git(source, "ls-files", "-z").split("\0")):
        data = (source / name).read_bytes() if (source / name).is_file() else b""
        if b"\0" not in data:
            found[name] = data.decode("utf-8")
    for message in filter(None, git(source, "log", "--format=%h%n%B%x00").split("\0")):
        commit, _, text = message.strip().partition("\n")
        found[f"commit {commit}"] = text
    return found


def hits(texts: dict[str, str], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{where}:{number}: {line.strip()[:100]}"
        for where, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def package_sources() -> Iterator[str]:
    """Yield where this machine's pip and apt get packages from, as hosts and folders; public ones are left out."""
    pip = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    names = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt").glob("sources.list.d/*")]
    apt = [p.read_text(errors="replace") for p in names if os.access(p, os.R_OK) and p.is_file()]
    pip_environment = [value for name, value in os.environ.items() if name.startswith("PIP_")]
    for url in re.findall(r"[a-z+]+://[^\s'\"]+", "\n".join([pip.stdout, *pip_environment, *apt])):
        parts = urlsplit(url)
        place = parts.hostname or parts.path.rstrip("/")
        if len(place) > 3 and not place.endswith(PUBLIC):
            yield place


def test_no_place_of_a_machine_is_named(texts: dict[str, str]) -> None:
    assert hits(texts, PLACES) == []


def test_no_package_source_of_this_machine_is_named(texts: dict[str, str]) -> None:
    for place in sorted(set(package_sources())):
        assert hits(texts, re.compile(re.escape(place))) == [], place


def test_nobody_who_works_on_it_is_named(texts: dict[str, str]) -> None:
    assert hits(texts, PEOPLE) == []


def test_what_is_looked_for_is_found() -> None:
    for place in ("see /hom" + "e/me/x", "cp /tm" + "p/a/b", "../share" + "d/guests"):
        assert PLACES.search(place), place
    assert PEOPLE.search("written by an A" + "I")
    assert not PLACES.search("in the guest: /root/x, ~/work/x, /tmp.txt")
