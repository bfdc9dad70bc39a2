"""`pyvirt run --save`, and the commands for saved machines: what they do, print and refuse."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import pyvirt as pv
from tests.api.cli_guests import ECHO, Command, assemble
from tests.snapshot.guests import writer


@pytest.fixture
def pyvirt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


@pytest.fixture
def saved(pyvirt: Command, tmp_path: Path) -> Path:
    """A machine that has answered once."""
    echo = assemble(ECHO, tmp_path / "echo.bin")
    path = tmp_path / "a.pyvm"
    done = pyvirt("run", echo, "--ram", "2M", "--expect", "HELLO", "--send", "1", "--expect", r"\[1\]", "--save", path)
    assert (done.code, done.out, done.err) == (0, "HELLO\n[1]", "")
    return path


def test_run_goes_on_from_a_saved_machine(pyvirt: Command, saved: Path, tmp_path: Path) -> None:
    for command in ("run", "load"):
        done = pyvirt(command, saved, "--send", "2", "--expect", r"\[2\]", "--stats", tmp_path / "s.json")
        assert (done.code, done.out) == (0, "[2]")      # what was shown before is not shown again
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["stop"] == "until"
    done = pyvirt("run", saved, "--send", "f")
    assert done.code == 3


def test_increments_rebase_and_commit(pyvirt: Command, saved: Path, tmp_path: Path) -> None:
    second, third = tmp_path / "b.pyvm", tmp_path / "c.pyvm"
    pyvirt("run", saved, "--send", "2", "--expect", r"\[2\]", "--save", f"{second},parent={saved}")
    pyvirt("run", second, "--send", "3", "--expect", r"\[3\]", "--save", f"{third},parent={second}")
    digest = pv.Snapshot.load(third).digest
    assert pyvirt("rebase", third, "--parent", saved).code == 0
    second.unlink()
    assert pv.Snapshot.load(third).digest == digest
    done = pyvirt("commit", third)
    assert done.code == 0
    assert f"{saved} is now what {third} is" in done.err
    assert pv.Snapshot.load(saved).digest == digest
    assert pyvirt("save", saved, third).code == 0
    assert pyvirt("rebase", third, "--flat").code == 0
    saved.unlink()
    done = pyvirt("run", third, "--send", "4", "--expect", r"\[4\]", "--console", tmp_path / "log")
    assert done.code == 0
    assert pv.Snapshot.load(third).text == "HELLO\n[1][2][3]"


def test_inspect_verify_export(pyvirt: Command, saved: Path, tmp_path: Path) -> None:
    done = pyvirt("inspect", saved)
    assert done.code == 0
    assert f"{saved}: saved machine, format 1.0.0" in done.out
    assert "board     virt-1, 1 harts, 2M" in done.out
    found = json.loads(pyvirt("inspect", saved, "--json").out)
    assert found["config"]["ram"] == 2 << 20
    assert found["id"] in done.out
    assert pyvirt("verify", saved).out == f"{saved}: ok\n"
    assert pyvirt("export", saved, "ram", tmp_path / "ram").code == 0
    data = (tmp_path / "ram").read_bytes()
    assert len(data) == 2 << 20
    with pv.Snapshot.load(saved).fork() as vm:
        assert bytes(vm.mem[0x8000_0000:0x8020_0000]) == data
    done = pyvirt("export", saved, "disk0", tmp_path / "disk")
    assert (done.code, done.err) == (2, "pyvirt: WHAT: 'disk0' is not allowed; allowed: ram\n")
    snap = pv.Snapshot.load(saved)
    snap.note = "\x1b[2Jgone\x9b"
    snap.save(tmp_path / "loud")
    done = pyvirt("inspect", tmp_path / "loud")
    assert "\x1b" not in done.out
    assert "[2Jgone" in done.out
    raw = bytearray(saved.read_bytes())
    raw[300] ^= 1
    saved.write_bytes(raw)
    done = pyvirt("verify", saved)
    assert done.code == 2
    assert "is not what was written: its digest is" in done.err


def test_an_appliance_has_its_disk_inside(pyvirt: Command, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with writer(image) as vm:
        vm.run(instructions=20_000)
        vm.snapshot().save(tmp_path / "a", disks="reference")
        wanted = vm.digest()
    assert "disk 0    image, 1,048,576 bytes, referred to" in pyvirt("inspect", tmp_path / "a").out
    assert pyvirt("save", tmp_path / "a", tmp_path / "b").code == 0
    image.rename(tmp_path / "gone")
    done = pyvirt("run", tmp_path / "a")
    assert done.code == 2
    assert "its disk is 'image', which is not found in" in done.err
    assert pv.Snapshot.load(tmp_path / "b").digest == wanted
    assert pyvirt("export", tmp_path / "b", "disk0", tmp_path / "disk").code == 0
    with pv.Snapshot.load(tmp_path / "b").fork() as vm, vm._tenant as shell:
        assert shell.disks[0].read(0, 1 << 20) == (tmp_path / "disk").read_bytes()


def test_wrong_use(pyvirt: Command, saved: Path, tmp_path: Path) -> None:
    for arguments, says in (
            (("run", saved, "--ram", "1M"), "--ram: is given, but"),
            (("run", saved, "--save", tmp_path / "no" / "x"), "--save: '"),
            (("run", saved, "--save", f"{tmp_path / 'x'},level=3"), "has 'level=3'; allowed: parent=FILE"),
            (("run", tmp_path / "echo.bin", "--verify-key", "k"), "--verify-key: 'k' is given, but PROGRAM is"),
            (("load", tmp_path / "echo.bin"), "is no saved machine; allowed"),
            (("load", tmp_path / "nothing"), "is no file; allowed: a saved machine"),
            (("save", saved, tmp_path / "x", "--flat", "--parent", saved), "--flat: is given with --parent"),
            (("save", saved, saved, "--parent", saved), "is the file to be written"),
            (("save", saved, tmp_path / "x", "--disks", "none"), "--disks: 'none' is not allowed"),
            (("rebase", saved), "rebase: --flat is False and --parent is None; allowed: one of them"),
            (("commit", saved), "stands on no other file"),
            (("verify", tmp_path / "echo.bin"), "is no saved machine: it begins with"),
    ):
        done = pyvirt(*arguments)
        assert done.code == 2, done
        assert says in done.err
    assert not (tmp_path / "x").exists()
    direct = tmp_path / "direct"
    direct.write_bytes(bytes(512))
    done = pyvirt("run", tmp_path / "echo.bin", "--disk", f"{direct},mode=direct", "--save", tmp_path / "x")
    assert done.code in (1, 2)
    assert "mode='direct'" in done.err
