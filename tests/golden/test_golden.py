"""Files of every version of the format load, and the machines in them do what they did then."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.files import savetools
from pyvirt.files.aside import aside
from pyvirt.files.container import VERSION, Reader, Writer
from pyvirt.files.sections import UPGRADES
from pyvirt.files.values import pack, unpack
from tests.golden.make import HERE, MAKERS
from tests.snapshot.guests import sectors

FILES = sorted(path.stem for path in HERE.glob("*.json"))


def test_this_version_has_its_files() -> None:
    """Who changes the version of the format writes golden files of it, and keeps the old ones."""
    assert {f"1.0.0-{name}" for name in MAKERS} <= set(FILES)
    assert {".".join(map(str, VERSION)) + f"-{name}" for name in MAKERS} <= set(FILES)


@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("name", FILES)
def test_golden(name: str, core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVIRT_CORE", core)
    wanted: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text("utf-8"))
    for path in HERE.glob("*.pyvm"):
        shutil.copy(path, tmp_path)
    path = tmp_path / f"{name}.pyvm"
    savetools.verify(path)
    snap = pv.Snapshot.load(path)
    assert snap.name == wanted["name"]
    with snap.fork() as vm:
        check(vm, wanted)
    snap.save(path)             # in this version's format
    with pv.Snapshot.load(path).fork() as vm:
        check(vm, wanted)


def test_states_of_earlier_versions_are_led_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an earlier version's harts and UART had lacked a field each."""
    path = HERE / "1.0.0-monitor.pyvm"
    with Reader(path) as reader:
        state = unpack(reader.section("state"))
        uart = next(device for device in state["devices"] if device.get("class") == "uart")
        old = {"hart": state["core"][1]["version"] - 1, "uart": uart["version"] - 1}
        lost = {"hart": {"mtval2": state["core"][1].pop("mtval2")}, "uart": {"scr": uart.pop("scr")}}
        state["core"][1]["version"], uart["version"] = old["hart"], old["uart"]
        with aside(tmp_path / "old", what="test") as file:
            made = Writer(file)
            for record in range(reader.index.records):
                made.record(reader.page(record))
            for entry in reader.index.sections:
                content = pack(state) if entry.name == "state" else reader.section(entry.name)
                made.section(entry.name, content, version=entry.version, mandatory=entry.mandatory)
            made.finish()
    with pytest.raises(pv.LoadError, match="core state: part 1"):
        pv.Snapshot.load(tmp_path / "old")
    for what in lost:
        monkeypatch.setitem(UPGRADES, what, {old[what]: lambda found, more=lost[what]: {**found, **more}})
    wanted = json.loads((HERE / "1.0.0-monitor.json").read_text("utf-8"))
    with pv.Snapshot.load(tmp_path / "old").fork() as vm:
        check(vm, wanted)


def check(vm: pv.Machine, wanted: dict[str, Any]) -> None:
    kind = wanted["kind"]
    if kind == "bare":
        before = vm.hart.a0
        vm.run(instructions=3000)
        assert [before, vm.hart.a0] == wanted["a0"]
    elif kind == "monitor":
        icount, shown = vm.icount, len(vm.console.text)
        vm.console.send(wanted["send"])
        vm.run(until=wanted["until"])
        assert vm.console.text[shown:] == wanted["shown"]
        assert [icount, vm.icount] == wanted["icount"]
    elif kind == "typed":
        vm.run(instructions=50_000)
        assert (vm.icount, vm.console.text) == (wanted["icount"], wanted["text"])
        assert [[hart.s4 for hart in vm.harts], [hart.s7 for hart in vm.harts]] == [wanted["s4"], wanted["s7"]]
    else:
        assert kind == "disk"
        vm.run(instructions=5000)
        assert sectors(vm.snapshot()._held().disks[0].disk()) == [tuple(pair) for pair in wanted["sectors"]]
