"""A save that is killed at any moment leaves the file that was there, or the new one, whole."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pyvirt as pv
from pyvirt.files import savetools
from tests.snapshot.guests import busy

# Answers each line with the pid of a child that saves two snapshots over one file in turn, until it is killed.
SAVER = """
import os, sys
import pyvirt as pv
path, one, two = sys.argv[1:]
snaps = [pv.Snapshot.load(one), pv.Snapshot.load(two)]
for snap in snaps:
    snap.digest
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        while True:
            for snap in snaps:
                snap.save(path)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("over", flush=True)
"""


def kill_saves(folder: Path, rounds: int) -> None:
    """Kill so many saves at random moments, and look at the file each time."""
    path = folder / "target.pyvm"
    rng = random.Random(3)
    digests = []
    with busy() as vm:
        for name in ("one", "two"):
            for k in range(400):
                vm.mem.u64[0x8030_0000 + k * 4096] = rng.getrandbits(64)
            vm.mem[0x8060_0000:0x8068_0000] = rng.randbytes(1 << 19)
            vm.run(instructions=20_000)
            digests.append(vm.digest())
            vm.snapshot().save(folder / name)
    path.write_bytes((folder / "one").read_bytes())
    began = time.monotonic()
    pv.Snapshot.load(folder / "one").save(folder / "scratch")
    took = max(time.monotonic() - began, 0.005)
    (folder / "scratch").unlink()
    arguments = [sys.executable, "-W", "ignore", "-c", SAVER, str(path), str(folder / "one"), str(folder / "two")]
    seen = set()
    aside = 0
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as saver:
        assert saver.stdin is not None
        assert saver.stdout is not None
        for _ in range(rounds):
            saver.stdin.write("\n")
            saver.stdin.flush()
            pid = int(saver.stdout.readline())
            time.sleep(rng.uniform(0, 4 * took))
            os.kill(pid, signal.SIGKILL)
            assert saver.stdout.readline() == "over\n"
            left = list(folder.glob(".*.aside"))
            aside += bool(left)
            assert len(left) <= 1       # each writer removes what killed ones left
            savetools.verify(path)
            snap = pv.Snapshot.load(path)
            assert snap.digest in digests
            seen.add(snap.digest)
        saver.stdin.close()
    if rounds >= 20:
        assert aside > rounds // 10     # or the kills came at the wrong moments
        assert len(seen) == 2
    pv.Snapshot.load(folder / "one").save(path)
    assert sorted(file.name for file in folder.iterdir()) == ["one", "target.pyvm", "two"]


def test_a_killed_save(tmp_path: Path) -> None:
    kill_saves(tmp_path, 20)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_200_killed_saves(tmp_path: Path) -> None:
    kill_saves(tmp_path, 200)


def test_writers_of_one_file_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    failed: list[BaseException] = []
    with busy() as vm:
        vm.run(instructions=20_000)
        snap = vm.snapshot()

        def work() -> None:
            try:
                for _ in range(40):
                    snap.save(path)
            except BaseException as error:      # noqa: BLE001 - a thread's own
                failed.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert list(tmp_path.iterdir()) == [path]
        assert pv.Snapshot.load(path).digest == vm.digest()


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with busy() as vm:
        snap = vm.snapshot()
        for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
            def fail(fd: int, error: BaseException = error) -> None:
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", fail)
                wanted = pv.HostError if isinstance(error, OSError) else KeyboardInterrupt
                with pytest.raises(wanted):
                    snap.save(path)
            assert path.read_bytes() == b"old"
            assert list(tmp_path.iterdir()) == [path]
        with pytest.raises(pv.HostError, match=r"save: .*cannot be written: No such file"):
            snap.save(tmp_path / "missing" / "a")
        with pytest.raises(pv.ConfigError, match="level: 20 is not allowed"):
            snap.save(path, level=20)
        with pytest.raises(pv.ConfigError, match="disks: 'none' is not allowed; allowed: 'inside', 'reference'"):
            snap.save(path, disks="none")
    assert path.read_bytes() == b"old"
