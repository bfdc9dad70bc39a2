"""Saved machines: what comes back, increments, disks, devices, refusals by name."""
from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

import pyvirt as pv
from pyvirt._fields import state_fields, state_packed
from pyvirt.devices.base import Device, Region
from pyvirt.files import savefile, savetools
from pyvirt.files.aside import aside
from pyvirt.files.container import Reader, Writer
from pyvirt.files.values import pack, unpack
from tests.needs import need_module
from tests.snapshot.guests import busy, sectors, writer


def saved(tmp_path: Path, **options: Any) -> tuple[Path, str, str]:
    """Save a busy machine; returns the file, the digest there, and the digest 50,000 instructions later."""
    path = tmp_path / "a.pyvm"
    with busy(**options) as vm:
        vm.run(instructions=40_000)
        vm.console.send("q")
        vm.run(instructions=3000)
        vm.snapshot("here").save(path)
        now = vm.digest()
        vm.run(instructions=50_000)
        return path, now, vm.digest()


# -- there and back
def test_a_loaded_machine_is_the_saved_one(tmp_path: Path) -> None:
    path, now, later = saved(tmp_path, devices=[pv.VirtioRng(seed=1 << 100)], harts=2, seed=9)
    snap = pv.Snapshot.load(path)
    assert (snap.name, snap.digest, snap.text) == ("here", now, "UP\nUP\n[q]")
    assert [(i.kind, i.data) for i in snap.inputs] == [("console", b"q")]
    with snap.fork() as vm, snap.fork() as other:
        vm.run(instructions=50_000)
        assert vm.digest() == later
        vm.restore(snap)
        assert vm.digest() == now == other.digest()
        assert isinstance(vm.inputs[0], pv.Input)
        assert vm.config == snap.config
    snap.verify()


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_another_process_comes_to_the_same(tmp_path: Path, core: str) -> None:
    """With another hash seed and address layout, and with either core."""
    path, now, later = saved(tmp_path)
    code = ("import sys, pyvirt as pv\nsnap = pv.Snapshot.load(sys.argv[1])\nvm = snap.fork()\n"
            "print(snap.digest)\nvm.run(instructions=50_000)\nprint(vm.digest(), vm.core)")
    for seed in ("1", "77"):
        ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
                             env={**os.environ, "PYTHONHASHSEED": seed, "PYVIRT_CORE": core})
        assert ran.stdout.split() == [now, later, core]


def test_labels_come_back(tmp_path: Path) -> None:
    with busy() as vm:
        snap = vm.snapshot("one").tag("x", "y")
        snap.note = "two\nlines"
        snap.save(tmp_path / "a")
        got = pv.Snapshot.load(tmp_path / "a")
        assert (got.name, got.note, got.tags, got.host_time) == (snap.name, snap.note, snap.tags, snap.host_time)


def test_a_bare_board_and_a_program_with_htif(tmp_path: Path) -> None:
    with pv.Machine(board="bare", ram="64K") as vm:
        vm.load(bytes.fromhex("1305a002 73005010"))
        vm.run(instructions=1)
        vm.snapshot().save(tmp_path / "a")
        assert (tmp_path / "a").stat().st_size < 8 << 10
        with pv.Snapshot.load(tmp_path / "a").fork() as other:
            assert other.hart.a0 == 42
            vm.run()
            other.run()
            assert vm.digest() == other.digest()


def test_saving_again_is_the_same_machine(tmp_path: Path) -> None:
    path, now, _ = saved(tmp_path)
    pv.Snapshot.load(path).save(tmp_path / "b")
    pv.Snapshot.load(tmp_path / "b").save(path)     # over a file that pages came from
    assert pv.Snapshot.load(path).digest == now
    copied = pickle.loads(pickle.dumps(pv.Snapshot.load(path)))
    assert copied.digest == now


# -- increments
def test_a_chain_of_increments(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(os.urandom(1 << 18) + bytes(1 << 18))
    digests = []
    with writer(image) as vm:
        for k in range(5):
            vm.run(instructions=20_000)
            vm.mem[0x8009_0000:0x8009_1000] = bytes([k % 2]) * 4096     # zeros and others in turn
            digests.append(vm.digest())
            vm.snapshot().save(tmp_path / f"{k}", parent=tmp_path / f"{k - 1}" if k else None)
        content = sectors(vm._disks[0])
    assert all((tmp_path / f"{k}").stat().st_size < (tmp_path / "0").stat().st_size / 4 for k in range(1, 5))
    image.unlink()
    savefile.known.clear()
    for k in (3, 0, 4, 1, 2):
        with pv.Snapshot.load(tmp_path / f"{k}").fork() as vm:
            assert vm.digest() == digests[k]
    with pv.Snapshot.load(tmp_path / "4").fork() as vm:
        assert sectors(vm._disks[0]) == content
        vm.run(instructions=20_000)
        vm.snapshot().save(tmp_path / "5", parent=tmp_path / "2")
        assert pv.Snapshot.load(tmp_path / "5").digest == vm.digest()
    # another parent, none, and into the parent
    savetools.rebase(tmp_path / "4", parent=tmp_path / "1")
    (tmp_path / "3").unlink()
    assert pv.Snapshot.load(tmp_path / "4").digest == digests[4]
    assert savetools.commit(tmp_path / "4") == tmp_path / "1"
    assert pv.Snapshot.load(tmp_path / "1").digest == digests[4]
    with pytest.raises(pv.LoadError, match=r"its parent .*1 is not the file it was"):
        pv.Snapshot.load(tmp_path / "2")
    savetools.rebase(tmp_path / "1")
    for k in (0, 2, 4, 5):
        (tmp_path / f"{k}").unlink()
    assert pv.Snapshot.load(tmp_path / "1").digest == digests[4]
    with pytest.raises(pv.ConfigError, match="stands on no other file"):
        savetools.commit(tmp_path / "1")


@pytest.mark.slow
def test_a_chain_of_200(tmp_path: Path) -> None:
    """Every one of them is the machine, and its disk, as they were then; files that nothing is needed of are closed."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(1 << 20))
    moments = []
    with writer(image) as vm:
        for k in range(200):
            vm.run(instructions=3000)
            snap = vm.snapshot()
            moments.append((vm.digest(), sectors(snap._held().disks[0].disk())))
            snap.save(tmp_path / f"{k}", parent=tmp_path / f"{k - 1}" if k else None)
    image.unlink()
    savefile.known.clear()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for k in random.Random(1).sample(range(200), 200):
        snap = pv.Snapshot.load(tmp_path / f"{k}")
        assert (snap.digest, sectors(snap._held().disks[0].disk())) == moments[k]
        assert len(list(Path("/proc/self/fd").iterdir())) < before + 60
    savetools.rebase(tmp_path / "199")
    assert pv.Snapshot.load(tmp_path / "199").digest == moments[199][0]


def test_a_parent_has_to_be_alike(tmp_path: Path) -> None:
    with busy() as vm, busy(ram="16M") as other:
        vm.snapshot().save(tmp_path / "a")
        with pytest.raises(pv.ConfigError, match="ram 8388608, the snapshot 16777216"):
            other.snapshot().save(tmp_path / "b", parent=tmp_path / "a")
        with pytest.raises(pv.ConfigError, match="is the file to be written"):
            vm.snapshot().save(tmp_path / "a", parent=tmp_path / "a")
        assert not (tmp_path / "b").exists()


# -- disks
@pytest.mark.parametrize("disks", ["inside", "reference"])
def test_disks(tmp_path: Path, disks: str) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(300 << 10) + os.urandom(20 << 10) + bytes(1 << 20))
    with writer(image) as vm:
        vm.run(instructions=30_000)
        vm.snapshot().save(tmp_path / "a", disks=disks)
        digest, content = vm.digest(), sectors(vm._disks[0])
        vm.run(instructions=30_000)
        later = vm.digest()
    snap = pv.Snapshot.load(tmp_path / "a")
    with snap.fork() as vm:
        assert (vm.digest(), sectors(vm._disks[0])) == (digest, content)
        vm.run(instructions=30_000)
        assert vm.digest() == later
        if disks == "inside":
            copied = pickle.loads(pickle.dumps(vm.snapshot()))
            image.unlink()
            assert copied.digest == later
            assert pv.Snapshot.load(tmp_path / "a").digest == digest
            return
    # moved, changed, somewhere else
    (tmp_path / "sub").mkdir()
    moved = image.rename(tmp_path / "sub" / "other")
    with pytest.raises(pv.LoadError, match=r"its disk is 'disk', which is not found in .*; within="):
        pv.Snapshot.load(tmp_path / "a")
    os.utime(moved)
    assert pv.Snapshot.load(tmp_path / "a", disks=[moved]).digest == digest
    moved.rename(tmp_path / "sub" / "disk")
    assert pv.Snapshot.load(tmp_path / "a", within=tmp_path / "sub").digest == digest
    with (tmp_path / "sub" / "disk").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(pv.LoadError, match="is not what it was"):
        pv.Snapshot.load(tmp_path / "a", within=tmp_path / "sub")


# -- devices
class Counter(Device):
    """Counts its reads, from `start` on."""

    NAME, REGIONS, WIDTHS = "counter", (Region("regs", 0x1000),), (4,)

    def __init__(self, start: int, *, steps: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.count, self.steps = start, steps

    def read(self, offset: int, width: int) -> int:
        self.count += self.steps[0]
        return self.count

    def _save(self) -> dict[str, Any]:
        return {"count": self.count}

    def _load(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])


def test_devices_of_ones_own_are_handed_over(tmp_path: Path) -> None:
    with pv.Machine(ram="1M", devices=[Counter(5, steps=(3,))]) as vm:
        vm.bus.read(0x1100_0000, 4)
        vm.snapshot().save(tmp_path / "a")
    with pytest.raises(pv.LoadError, match=r"class '.*\.Counter', which was not handed over"):
        pv.Snapshot.load(tmp_path / "a")
    with pv.Snapshot.load(tmp_path / "a", devices=[Counter]).fork() as vm:
        assert vm.bus.read(0x1100_0000, 4) == 11
    savetools.rebase(tmp_path / "a")     # needs no class
    with pv.Snapshot.load(tmp_path / "a", devices=[Counter]).fork() as vm:
        assert vm.bus.read(0x1100_0000, 4) == 11
    with pv.Machine(ram="1M", devices=[Counter(5, steps=object())]) as vm, \
            pytest.raises(pv.SnapshotError, match=r"machine\['parts'\]\[0\]\['kwargs'\]\['steps'\] is <object"):  # type: ignore[arg-type]
        vm.snapshot().save(tmp_path / "b")


# -- what is refused, by name
def rewritten(path: Path, change: Callable[[dict[str, Any]], object], *, groups: bool = True) -> Path:
    """Write a file anew with sections changed: a dict of names to (version, mandatory, values)."""
    target = path.with_name("changed")
    with Reader(path) as reader, aside(target, what="test") as file:
        sections = {s.name: [s.version, s.mandatory, unpack(reader.section(s.name))] for s in reader.index.sections}
        change(sections)
        made = Writer(file)
        for record in range(reader.index.records):
            made.record(reader.page(record))
        for name, (version, mandatory, values) in sections.items():
            made.section(name, pack(values), version=version, mandatory=mandatory)
        made.finish()
    return target


REFUSED: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("needs section 'future' version 1 .* does not know it", lambda s: s.update(future=[1, True, 0])),
    ("needs section 'ram' version 2 .* reads version 1", lambda s: s["ram"].__setitem__(0, 2)),
    ("lacks the section state", lambda s: s.pop("state")),
    ("records board 'virt-9'; this version has 'virt-1', 'bare'",
     lambda s: s["machine"][2]["config"].update(board="virt-9")),
    ("'zfuture'", lambda s: s["machine"][2]["config"].update(isa="rv64gc_zfuture")),
    ("records ISA 'rv64gc', which is", lambda s: s["machine"][2]["config"].update(isa="rv64gc")),
    ("records speed=3, which this version does not know", lambda s: s["machine"][2]["config"].update(speed=3)),
    ("records ratio 7", lambda s: s["machine"][2]["config"].update(ratio=7)),
    ("harts", lambda s: s["machine"][2]["config"].update(harts=1000)),
    ("ram", lambda s: s["machine"][2]["config"].update(ram=5)),
    ("core state has no fields", lambda s: s["state"][2].update(core=[])),
    ("core state: part 1 is .* expected the fields version, ", lambda s: s["state"][2]["core"][1].pop("pc")),
    ("core state: part 0 is .* expected the fields", lambda s: s["state"][2]["core"][0].update(more=1)),
    ("core state: part 1, field mepc is -1", lambda s: s["state"][2]["core"][1].update(mepc=-1)),
    ("core state: part 1, field x is ", lambda s: s["state"][2]["core"][1].update(x=[0] * 31)),
    ("no machine can be in", lambda s: s["state"][2]["core"][1].update(priv=2)),
    ("no machine can be in", lambda s: s["state"][2]["core"][0].update(current=1)),
    ("no machine can be in", lambda s: s["state"][2]["core"].append(dict(s["state"][2]["core"][1], hartid=1))),
    ("section state: Object missing required field `core`", lambda s: s["state"][2].pop("core")),
    ("no machine can be in", lambda s: s["state"][2]["devices"].pop()),
    ("names record", lambda s: s["ram"][2]["table"].update(records=b"\x77" * len(s["ram"][2]["table"]["records"]))),
    ("not ascending", lambda s: s["ram"][2]["table"].update(pages=bytes(len(s["ram"][2]["table"]["pages"])))),
    ("labels", lambda s: s["labels"][2].update(time="never")),
    ("which was not handed over", lambda s: s["machine"][2]["parts"].append(
        {"cls": "os.system", "args": (), "kwargs": {}, "bases": None, "irqs": None})),
]


@pytest.mark.parametrize(("match", "change"), REFUSED, ids=[match[:30] for match, _ in REFUSED])
def test_what_is_refused(tmp_path: Path, match: str, change: Callable[[dict[str, Any]], object]) -> None:
    path, _, _ = saved(tmp_path)
    with pytest.raises(pv.LoadError, match=match):
        pv.Snapshot.load(rewritten(path, change))


def test_unknown_optional_sections_are_kept(tmp_path: Path) -> None:
    path, now, _ = saved(tmp_path)
    changed = rewritten(path, lambda s: s.update(future=[7, False, {"a": [1, 2]}], labels=[9, False, "later"]))
    snap = pv.Snapshot.load(changed)
    assert snap.digest == now
    snap.save(tmp_path / "again", parent=path)
    savetools.rebase(tmp_path / "again")
    with Reader(tmp_path / "again") as reader:
        assert reader.sections["future"].version == 7
        assert unpack(reader.section("future")) == {"a": [1, 2]}


def test_every_byte_counts(tmp_path: Path) -> None:
    """A file with any byte changed is refused, at the latest when what the byte is part of is touched."""
    with pv.Machine(board="bare", ram="64K") as vm:
        vm.load(bytes.fromhex("1305a002 73005010"))
        vm.snapshot().save(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    with Reader(tmp_path / "a") as reader:
        unsigned = range(96, 224)   # covered by the header's own digest all the same
        assert reader.signature.kind == 0
    for at in [*range(0, 256, 3), *unsigned, *range(256, len(data), 11)]:
        (tmp_path / "b").write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1:])
        with pytest.raises(pv.LoadError):
            savetools.verify(tmp_path / "b")
    for size in (0, 7, 100, 256, len(data) - 1, len(data) + 1):
        (tmp_path / "b").write_bytes((data + b"x")[:size])
        with pytest.raises(pv.LoadError):
            pv.Snapshot.load(tmp_path / "b")
    with pytest.raises(pv.HostError):
        pv.Snapshot.load(tmp_path / "not there")


def test_a_later_format_is_named(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path)
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[224:256] = blake3(data[:224]).digest()
    path.write_bytes(data)
    with pytest.raises(pv.LoadError, match=r"format version 2\.0\.0; this pyvirt reads 1\.x"):
        pv.Snapshot.load(path)


def test_limits_are_checked_before_pages_are_made(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path)
    with pytest.raises(pv.LoadError, match="allowed: up to 4, see limit="):
        pv.Snapshot.load(path, limit="16K")


# -- names of files
def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with busy() as vm:
        vm.snapshot().save(tmp_path / "outer.pyvm")
        vm.run(instructions=1000)
        vm.snapshot().save(inner / "b.pyvm", parent=tmp_path / "outer.pyvm")
        digest = vm.digest()
    with pytest.raises(pv.LoadError, match=r"its parent is '\.\./outer\.pyvm', which is not found in"):
        pv.Snapshot.load(inner / "b.pyvm")
    assert pv.Snapshot.load(inner / "b.pyvm", within=tmp_path).digest == digest
    (inner / "link").symlink_to(tmp_path / "outer.pyvm")
    for name in (b"link", b"/etc/passwd", bytes(tmp_path) + b"/outer.pyvm", b"", b"a\0b", b"."):
        changed = rewritten(inner / "b.pyvm", lambda s, name=name: s["parent"][2].update(path=name))  # type: ignore[misc]
        with pytest.raises(pv.LoadError):
            pv.Snapshot.load(changed)


# -- signatures
def test_signatures(tmp_path: Path) -> None:
    need_module("sign", "cryptography")
    from cryptography.hazmat.primitives.asymmetric import ed25519

    keys = [ed25519.Ed25519PrivateKey.generate() for _ in range(2)]
    for at, key in enumerate(keys):
        (tmp_path / f"private{at}").write_bytes(key.private_bytes_raw())
        (tmp_path / f"public{at}").write_bytes(key.public_key().public_bytes_raw())
    path, now, _ = saved(tmp_path)
    with pytest.raises(pv.LoadError, match="is not signed"):
        pv.Snapshot.load(path, verify_key=tmp_path / "public0")
    pv.Snapshot.load(path).save(path, sign=tmp_path / "private0")
    assert pv.Snapshot.load(path, verify_key=tmp_path / "public0").digest == now
    assert pv.Snapshot.load(path).digest == now
    with pytest.raises(pv.LoadError, match=r"is signed by key .* expected"):
        pv.Snapshot.load(path, verify_key=tmp_path / "public1")
    data = bytearray(path.read_bytes())
    data[140] ^= 1      # of the signature
    data[224:256] = blake3(data[:224]).digest()
    path.write_bytes(data)
    with pytest.raises(pv.LoadError, match="is wrong: the file is not what was signed"):
        pv.Snapshot.load(path, verify_key=tmp_path / "public0")
    with pytest.raises(pv.ConfigError, match="is no private key"):
        pv.Snapshot.load(path).save(path, sign=path)
    with pytest.raises(pv.HostError, match="cannot be read"):
        pv.Snapshot.load(path, verify_key=tmp_path / "missing")


# -- values
def test_the_core_s_state_by_field_is_all_of_it() -> None:
    with pv.Machine(board="bare", ram="4K", harts=3) as vm, vm._tenant as shell:
        size = len(shell.core.state)
    for state in (bytes(size), b"\xff" * size, os.urandom(size)):
        fields = state_fields(state)
        assert len(fields) == 4
        assert len(fields[1]["pmpcfg"]) == 16
        assert state_packed(fields) == state
    for wrong in (b"", bytes(size - 1), bytes(7)):
        with pytest.raises(ValueError, match="core state has"):
            state_fields(wrong)


def test_values_come_back_as_they_were() -> None:
    for value in (None, True, 1.5, "ä", b"x", [], (), {}, {"a": (1, [2, (3,)])}, 1 << 63, -(1 << 63), 1 << 64,
                  -(1 << 63) - 1, 1 << 3000, {7: b"", b"k": None}):
        assert unpack(pack(value)) == value
        assert type(unpack(pack(value))) is type(value)
    for wrong in (object(), {1, 2}, [[[object()]]], 1j):
        with pytest.raises(TypeError, match="allowed"):
            pack(wrong)
    many = msgspec.msgpack.encode([[b"x" * 70_000, "y" * 70, 1 << 40, -5, 1.5, {"a": (1, 2)}] * 9] * 100)
    assert len(unpack(many)) == 100
    for least in (b"\x90", b"\xa0"):
        with pytest.raises(ValueError, match="more than 2000000 values"):
            unpack(b"\xdd\x00\x30\x00\x00" + least * 0x30_0000)
    tuples = [1] * 2_000_000
    with pytest.raises(ValueError, match="more than 2000000 values"):
        unpack(pack({"a": (tuples,)}))
    with pytest.raises(ValueError, match="extension 1"):
        unpack(pack([1 << 100] * 5000))
    with pytest.raises(TypeError, match="an integer of 1025 bytes"):
        pack(1 << 8195)
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(TypeError, match="nested"):
        pack(nested)
    for data in (b"", b"\xc1", msgspec.msgpack.encode(msgspec.msgpack.Ext(9, b"")), b"\x91" * 5000 + b"\xc0",
                 msgspec.msgpack.encode(msgspec.msgpack.Ext(3, b"\xff"))):
        with pytest.raises(ValueError, match=r"values|known"):
            unpack(data)
