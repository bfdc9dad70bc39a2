"""Disks out of memory: commit into the file under an overlay, and export to a file of its own."""
from __future__ import annotations

import errno
import gc
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.disks.disk import BLOCK, Disk
from pyvirt.disks.diskcommit import journal
from tests.snapshot.guests import sectors, writer

SIZE = 64 * BLOCK + 512     # with a last block that is not whole


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def scribble(disk: Disk, seed: int, times: int = 20) -> None:
    rng = random.Random(seed)
    for _ in range(times):
        size = rng.choice([1, 512, 5000])
        disk.write(rng.randrange(SIZE - size), rng.randbytes(size))
    disk.write(SIZE - 4, b"last")


def test_commit_writes_the_view_into_the_file(image: Path) -> None:
    with Disk(image) as disk:
        scribble(disk, 1)
        disk.write(0, disk.read(0, BLOCK))      # there, and the same
        wanted, inode = disk.read(0, SIZE), image.stat().st_ino
        changed = disk.changed_blocks
        assert disk.commit() == changed - 1
        assert disk.changed_blocks == 0
        assert disk.read(0, SIZE) == wanted == image.read_bytes()
        assert image.stat().st_ino == inode
        assert disk.commit() == 0
        scribble(disk, 2)
        assert image.read_bytes() == wanted
    assert not journal(image).exists()


def test_a_chain_refuses_until_its_nodes_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 20))
    before = path.read_bytes()
    with writer(path) as vm:
        (disk,) = vm.disks
        nodes = []
        for _ in range(3):
            vm.run(instructions=30_000)
            nodes.append(vm.snapshot())
        contents = [node.digest for node in nodes]
        with pytest.raises(pv.ConfigError, match=r"need what its file holds now.*commit\(copy=True\)"):
            disk.commit()
        assert path.read_bytes() == before
        with nodes[0].fork() as fork:
            assert fork.digest() == contents[0]
        nodes[0].delete()
        nodes[1].delete()
        del fork
        gc.collect()
        # The last node holds by itself all that is to be written: it needs nothing of the file.
        assert disk.commit() > 0
        assert path.read_bytes() != before
        assert vm.digest() == nodes[2].digest == contents[2]
        nodes[2].verify()
        vm.run(instructions=30_000)
        vm.restore(nodes[2])
        assert vm.digest() == contents[2]


def test_copying_first_leaves_every_node_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 20))
    with writer(path) as vm, writer(path) as stranger:      # who opened the file by itself
        nodes = []
        for _ in range(10):
            vm.run(instructions=20_000)
            nodes.append((vm.snapshot(), sectors(vm.disks[0]), vm.digest()))
        fork = nodes[0][0].fork()
        untouched = stranger.digest()
        assert vm.disks[0].commit(copy=True) > 0
        assert vm.disks[0].changed_blocks == 0
        assert sectors(vm.disks[0]) == nodes[-1][1]
        assert vm.digest() == nodes[-1][2]
        with Disk(path) as plain:
            assert sectors(plain) == nodes[-1][1]
        assert stranger.digest() == untouched
        with fork:
            assert (sectors(fork.disks[0]), fork.digest()) == nodes[0][1:]
        for snap, content, digest in random.Random(1).sample(nodes, 10):
            snap.verify()
            vm.restore(snap)
            assert (sectors(vm.disks[0]), vm.digest()) == (content, digest)
        vm.restore(nodes[3][0]).run(instructions=20_000)
        assert vm.digest() == nodes[4][2]


def test_commit_is_refused(image: Path, tmp_path: Path) -> None:
    with Disk(image) as disk:
        disk.write(0, b"x")
        with Disk(image, mode="direct") as direct:
            with pytest.raises(pv.HostError, match="is locked by a machine that writes it in place"):
                disk.commit()
            assert direct.commit() == 0     # nothing is held back there
        moved = image.rename(tmp_path / "moved")
        image.write_bytes(bytes(SIZE))
        with pytest.raises(pv.HostError, match="another file is there now"):
            disk.commit()
        moved.replace(image)
        assert disk.commit() == 1
    with pytest.raises(pv.ClosedError):
        disk.commit()
    with Disk(image, read_only=True) as disk, pytest.raises(pv.ConfigError, match="is read-only"):
        disk.commit()


DIE = """
import os, random, sys
from pathlib import Path
from pyvirt.disks.disk import Disk
left, path = int(sys.argv[1]), Path(sys.argv[2])
disk = Disk(path)
rng = random.Random(7)
for n in range(12):
    disk.write(n * 5 * 4096, rng.randbytes(4096))
def die(function):
    def call(*args):
        global left
        if not left:
            os._exit(9)
        left -= 1
        return function(*args)
    return call
for name in ("pwrite", "fsync", "unlink", "replace", "rename"):
    setattr(os, name, die(getattr(os, name)))
disk.commit()
os._exit(0)
"""


def test_a_commit_survives_the_death_of_its_process_at_every_step(image: Path) -> None:
    old = image.read_bytes()
    with Disk(image) as disk:
        rng = random.Random(7)
        for n in range(12):
            disk.write(n * 5 * 4096, rng.randbytes(4096))
        new = disk.read(0, SIZE)
    outcomes = set()
    for left in range(40):
        image.write_bytes(old)
        code = subprocess.run([sys.executable, "-c", DIE, str(left), str(image)], timeout=60, check=False).returncode
        if journal(image).exists():
            with pytest.raises(pv.HostError, match=r"a commit was broken off.*Disk\.recover"):
                Disk(image)
            assert Disk.recover(image) is True
            assert image.read_bytes() == new
            outcomes.add("recovered")
        else:
            assert image.read_bytes() in (old, new)
            outcomes.add("old" if image.read_bytes() == old else "new")
        assert Disk.recover(image) is False
        Disk(image).close()
        if code == 0:
            break
        assert code == 9
    assert code == 0
    assert outcomes == {"old", "recovered", "new"}
    assert left > 14


def test_what_the_host_refuses_is_told_and_can_be_finished(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = os.pwrite, 0

    def full(fd: int, data: Any, offset: int) -> int:
        nonlocal count
        count += 1
        if count == 4:
            raise OSError(errno.EIO, "bad block")
        return real(fd, data, offset)

    with Disk(image) as disk:
        scribble(disk, 3)
        wanted = disk.read(0, SIZE)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(pv.HostError, match=r"bad block; its journal .* holds what is missing"):
            disk.commit()
        monkeypatch.undo()
        assert disk.read(0, SIZE) == wanted
        assert disk.commit() > 0        # at the second attempt
        assert image.read_bytes() == wanted
    assert not journal(image).exists()


def test_a_journal_is_not_believed(image: Path) -> None:
    place = journal(image)
    empty = b"pyvirt disk journal 1\n" + bytes(56)
    for content, message in ((b"x", r"is no journal"), (empty, r"damaged|another file")):
        place.write_bytes(content)
        with pytest.raises(pv.HostError, match=message):
            Disk.recover(image)
    place.unlink()
    with Disk(image) as disk, pytest.MonkeyPatch.context() as patch:
        scribble(disk, 5)
        patch.setattr(os, "pwrite", _bad)
        with pytest.raises(pv.HostError, match="bad block"):
            disk.commit()
    good, before = place.read_bytes(), image.read_bytes()
    for at in (len(good) - 1, 100, 30, 40, 50):
        place.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
        with pytest.raises(pv.HostError, match=r"damaged|another file"):
            Disk.recover(image)
        assert image.read_bytes() == before
    place.write_bytes(good[:-1])
    with pytest.raises(pv.HostError, match="damaged"):
        Disk.recover(image)


def _bad(fd: int, data: Any, offset: int) -> int:
    raise OSError(errno.EIO, "bad block")


# -- export
def test_export_is_the_whole_view_sparse_and_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    with base.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(10 << 20)
        file.write(b"middle")
    with Disk(base) as disk:
        disk.write(20 << 20, b"changed")
        disk.write(10 << 20, bytes(4096))
        with disk.image().disk() as twin:
            twin.write(5, b"twin")
            for source in (disk, twin):
                source.export(out)
                assert out.stat().st_size == disk.size
                assert out.stat().st_blocks * 512 <= 1 << 20
                with Disk(out) as again:
                    for at in range(0, disk.size, 1 << 20):
                        assert again.read(at, 1 << 20) == source.read(at, 1 << 20)
        before = out.read_bytes()
        monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no room")))
        with pytest.raises(pv.HostError, match="no room"):
            disk.export(out)
        monkeypatch.undo()
        assert out.read_bytes() == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "out"]
        with pytest.raises(pv.ConfigError, match=r"can't be exported to its own file; allowed: another path"):
            disk.export(base)
