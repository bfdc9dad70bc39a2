"""The fuzz campaign over saved machines, short by default; PYVIRT_FUZZ_SECONDS makes the slow one longer."""
from __future__ import annotations

import os
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from pyvirt.files import opening
from pyvirt.files.pages import Table
from tests.fuzz import savefiles
from tests.fuzz.savefiles import Found, Watch, campaign

TREE = Path(__file__).resolve().parents[2]


def test_a_few_hundred_files(tmp_path: Path) -> None:
    watch = Watch(tmp_path.resolve())
    *_, (tried, loaded) = campaign(tmp_path, executions=300, watch=watch)
    assert tried == 300
    assert 10 < loaded < 290    # or the campaign looks at too little


def test_a_planted_bug_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of tables that believes what they say is found out."""
    def trusting(reader: Any, packed: Any, **_: Any) -> Table:
        pages, records = array("Q"), array("Q")
        pages.frombytes(packed.pages[:len(packed.pages) & ~7])
        records.frombytes(packed.records[:len(packed.records) & ~7])
        return Table(pages, records)

    monkeypatch.setattr(opening, "read_table", trusting)
    with pytest.raises(Found, match=r"file \d+ of seed 0"):
        for _ in campaign(tmp_path, executions=2000):
            pass
    assert (tmp_path / "finding").exists()


def test_an_open_outside_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that follows any name is found out by what it opens."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    monkeypatch.setattr(savefiles, "VALUES", (str(tmp_path / "secret").encode(),))
    monkeypatch.setattr(opening, "named", lambda _, where, *rest: Path(os.fsdecode(where.replace(b"\0", b"?"))))
    watch = Watch(inner.resolve())
    monkeypatch.chdir(inner)
    with pytest.raises(Found, match=r"had opened: .*secret"):
        for _ in campaign(inner, executions=2000, watch=watch):
            pass


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_campaign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, whose memory is limited and which may crash."""
    seconds = os.environ.get("PYVIRT_FUZZ_SECONDS", "60")
    ran = subprocess.run([sys.executable, "-m", "tests.fuzz.savefiles", seconds, "1", str(tmp_path)], text=True,
                         capture_output=True, cwd=TREE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    with capsys.disabled():
        print(f"\nfuzz: {ran.stdout.strip().splitlines()[-1] if ran.stdout else ran.returncode}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "nothing found" in ran.stdout
