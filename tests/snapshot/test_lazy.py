"""Pages of a loaded machine are fetched when they are first touched: by whom, how often, what when they can't be."""
from __future__ import annotations

import re
import threading
from array import array
from pathlib import Path

import pytest

import pyvirt as pv
from pyvirt._memory import Ram
from pyvirt.files.container import PAGE, Reader
from tests.snapshot.guests import busy, writer

BASE = 0x8000_0000
FIRST = BASE >> 12


pytestmark = pytest.mark.usefixtures("no_leaks")


class Backing:
    """Groups of four pages, page r being full of byte r + 1; counts what is asked for, and fails where told to."""

    def __init__(self, pages: int, size: int = 1 << 20) -> None:
        self.asked: list[int] = []
        self.broken: set[int] = set()
        self.ram = Ram(BASE, size)
        self.ram.back(self.fetch, array("Q", [FIRST + k for k in range(pages)]), array("Q", range(pages)), 4)

    def fetch(self, group: int) -> bytes:
        self.asked.append(group)
        if group in self.broken:
            raise pv.LoadError(f"group {group}")
        return b"".join(bytes([(group * 4 + k + 1) % 256]) * PAGE for k in range(4))


def expected(pages: int) -> bytes:
    return b"".join(bytes([(k + 1) % 256]) * PAGE for k in range(pages))


def test_a_group_is_asked_for_once() -> None:
    backing = Backing(10)
    assert backing.ram.resident == 10
    assert backing.asked == []
    assert backing.ram.read(BASE + 5 * PAGE + 7, 3) == b"\6\6\6"
    assert backing.ram.read(BASE + 4 * PAGE, 4 * PAGE) == expected(8)[4 * PAGE:]
    assert backing.asked == [1]
    assert backing.ram.read(BASE, 16 * PAGE) == expected(10) + bytes(6 * PAGE)
    assert backing.asked == [1, 0, 2]


def test_what_was_shared_before_is_filled_for_all() -> None:
    backing = Backing(8)
    roots = [backing.ram.share() for _ in range(2)]
    twin = Ram.from_root(roots[0])
    twin.write(BASE + PAGE, b"new")             # of a page whose rest has to be there
    assert twin.read(BASE + PAGE, 5) == b"new\2\2"
    assert backing.ram.read(BASE + PAGE, 5) == roots[1].read(BASE + PAGE, 5) == b"\2" * 5
    assert backing.asked == [0]
    assert roots[0].diff(twin.share()) == [FIRST + 1]
    assert backing.asked == [0]                 # what both share is not looked at
    assert roots[0].digest() == roots[1].digest()
    plain = Ram(BASE, 1 << 20)
    plain.write(BASE, expected(8))
    assert backing.ram.digest() == plain.digest() == roots[1].digest()
    assert backing.asked == [0, 1]


def test_what_is_dropped_is_not_fetched() -> None:
    backing = Backing(8)
    fork = Ram.from_root(backing.ram.share())
    fork.zero(BASE, 8 * PAGE)
    assert fork.resident == 0
    assert backing.asked == []
    del fork
    backing.ram.close()
    assert backing.asked == []


def test_a_source_goes_with_its_last_page() -> None:
    alive = []

    class Fetch:
        def __call__(self, group: int) -> bytes:
            return bytes(PAGE)

        def __del__(self) -> None:
            alive.remove(1)

    for touch in (False, True):
        alive.append(1)
        ram = Ram(BASE, 1 << 20)
        ram.back(Fetch(), array("Q", [FIRST, FIRST + 9]), array("Q", [0, 1]), 1)
        assert alive
        if touch:
            ram.read(BASE, 10 * PAGE)
            assert not alive
        del ram
        assert not alive


def test_failures_are_raised_and_may_pass() -> None:
    backing = Backing(12)
    backing.broken = {1}
    root = backing.ram.share()
    for _ in range(2):
        with pytest.raises(pv.LoadError, match="group 1"):
            backing.ram.read(BASE + 4 * PAGE, 1)
        with pytest.raises(pv.LoadError, match="group 1"):
            backing.ram.read(BASE, 12 * PAGE)
        with pytest.raises(pv.LoadError, match="group 1"):
            backing.ram.write(BASE + 5 * PAGE, b"x")
        with pytest.raises(pv.LoadError, match="group 1"):
            backing.ram.write(BASE + 5 * PAGE, bytes(PAGE))
        for action in (backing.ram.digest, root.digest, root.verify, lambda: list(root.pages()),
                       lambda: root.diff(Ram(BASE, 1 << 20).share()), lambda: backing.ram.zero(BASE + 4 * PAGE, 5)):
            with pytest.raises(pv.LoadError, match="group 1"):
                action()
        assert backing.ram.read(BASE, 4 * PAGE) == expected(4)
    backing.broken.clear()
    assert root.read(BASE, 12 * PAGE) == backing.ram.read(BASE, 12 * PAGE) == expected(12)


def test_what_comes_is_checked() -> None:
    for data in (b"", bytes(PAGE), None, 7, "text"):
        ram = Ram(BASE, 1 << 20)
        ram.back(lambda group, data=data: data, array("Q", [FIRST]), array("Q", [1]), 2)  # type: ignore[misc]
        with pytest.raises((ValueError, TypeError)):
            ram.read(BASE, 1)
    ram = Ram(BASE, 1 << 20)
    for pages, records, group_pages in (([FIRST - 1], [0], 1), ([FIRST + 256], [0], 1), ([FIRST], [0, 1], 1),
                                        ([FIRST], [0], 0), ([FIRST], [1 << 63], 1), ([FIRST] * 2, [0, 0], 1)):
        with pytest.raises((ValueError, IndexError)):
            ram.back(lambda group: bytes(PAGE), array("Q", pages), array("Q", records), group_pages)


def test_threads_may_ask_at_once() -> None:
    backing = Backing(252)
    roots = [backing.ram.share() for _ in range(4)]
    wrong = []

    def work(root: object, step: int) -> None:
        for k in range(252):
            page = k * step % 252
            if Ram.from_root(root).read(BASE + page * PAGE, PAGE) != bytes([page + 1]) * PAGE:  # type: ignore[arg-type]
                wrong.append(page)

    steps = (1, 5, 11, 251)
    threads = [threading.Thread(target=work, args=pair) for pair in zip(roots, steps, strict=True)]
    for thread in threads:
        thread.start()
    backing.ram.close()
    for thread in threads:
        thread.join()
    assert not wrong


# -- machines
FLOATS = """
        li      t0, 0x2000
        csrs    mstatus, t0
        csrwi   frm, 1                  # towards zero
        li      s0, 0x80100000
        li      s1, 200
        li      t1, 3
        fcvt.d.l fa0, t1
loop:   fld     fa1, 0(s0)              # each from a page that is not there yet
        csrwi   fflags, 0
        fadd.d  fa2, fa1, fa0
        fdiv.d  fa3, fa2, fa0
        li      t2, 0x1000
        add     s0, s0, t2
        fld     fa4, 0(s0)
        csrr    t3, fflags
        add     s2, s2, t3
        fsd     fa3, 8(s0)
        addi    s1, s1, -1
        bnez    s1, loop
        wfi
"""


def test_a_fetch_leaves_floating_point_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pv.Machine(ram="4M", isa="rv64gc") as vm:
        vm.load(pv.asm(FLOATS))
        for k in range(256):
            vm.mem.u64[0x8010_0000 + k * PAGE] = 0x3FF0_0000_0000_0000 + k * 0x1_0000_1111
        vm.snapshot().save(tmp_path / "a")
        vm.run()
        digest, flags = vm.digest(), vm.hart.s2
    for core in ("threaded", "switch"):
        monkeypatch.setenv("PYVIRT_CORE", core)
        with pv.Snapshot.load(tmp_path / "a").fork() as vm:
            assert vm.core == core
            vm.run()
            assert (vm.hart.s2, vm.digest()) == (flags, digest)


def damaged(path: Path, group: int) -> tuple[int, bytes]:
    """Damage a group in a file; returns how to mend it."""
    with Reader(path) as reader:
        at = reader.index.groups[group].offset + 5
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 0x40]))
    return at, old


def run_and_look(vm: pv.Machine) -> None:
    vm.run(instructions=50_000)
    vm.digest()


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_a_damaged_group_stops_the_machine_before_the_access(tmp_path: Path, core: str,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever group it is, and whatever touches it first; mended, the machine goes on as if nothing had been."""
    monkeypatch.setenv("PYVIRT_CORE", core)
    path = tmp_path / "a.pyvm"
    with busy() as vm:
        for k in range(600):
            vm.mem.u64[0x8030_0000 + k * PAGE] = k + 1      # so that there are several groups
        vm.run(instructions=40_000)
        vm.snapshot().save(path)
        vm.run(instructions=50_000)
        later = vm.digest()
    with Reader(path) as reader:
        groups = len(reader.index.groups)
    assert groups > 5
    met = 0
    for group in range(groups):
        with pv.Snapshot.load(path).fork() as vm:
            at, old = damaged(path, group)
            with path.open("r+b") as file:
                says = f"{re.escape(str(path))}: group {group} of pages is not what was written: its digest is"
                with pytest.raises(pv.LoadError, match=says):
                    run_and_look(vm)
                where = vm.icount, vm.hart.pc
                if vm.icount < 90_000:
                    met += 1
                    assert vm.hart.s3 == 0x8010_0000        # it can be looked at
                    with pytest.raises(pv.LoadError, match=says):
                        vm.run(instructions=10)
                    assert where == (vm.icount, vm.hart.pc)
                file.seek(at)
                file.write(old)
            vm.run(instructions=40_000 + 50_000 - vm.icount)
            assert vm.digest() == later
    assert met >= 1


def test_forks_of_a_loaded_machine_run_in_threads(tmp_path: Path) -> None:
    with busy() as vm:
        vm.run(instructions=40_000)
        vm.snapshot().save(tmp_path / "a")
        vm.run(instructions=100_000)
        later = vm.digest()
    for _ in range(5):
        snap = pv.Snapshot.load(tmp_path / "a")
        forks = snap.forks(4)
        threads = [threading.Thread(target=fork.run, kwargs={"instructions": 100_000}) for fork in forks]
        for thread in threads:
            thread.start()
        del snap
        for thread in threads:
            thread.join()
        assert [fork.digest() for fork in forks] == [later] * 4
        for fork in forks:
            fork.close()


def test_an_interrupted_fetch_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with busy() as vm:
        vm.run(instructions=40_000)
        vm.snapshot().save(tmp_path / "a")
        vm.run(instructions=20_000)
        later = vm.digest()
    group = Reader.group
    asked = []

    def interrupted(self: Reader, number: int) -> bytes:
        asked.append(number)
        if len(asked) % 2:
            raise KeyboardInterrupt
        return group(self, number)

    snap = pv.Snapshot.load(tmp_path / "a")
    monkeypatch.setattr(Reader, "group", interrupted)
    with pv.Snapshot.load(tmp_path / "a").fork() as vm:
        del snap
        for _ in range(100):
            try:
                vm.run(instructions=60_000 - vm.icount)
                break
            except KeyboardInterrupt:
                continue
        monkeypatch.setattr(Reader, "group", group)
        assert asked
        assert vm.digest() == later


def test_a_damaged_block_stops_the_machine_before_the_request(tmp_path: Path) -> None:
    """The guest reads no error: its request is made again when the file is mended."""
    image = tmp_path / "image"
    image.write_bytes(bytes(range(1, 129)) * 8 * 800)       # so that what is written is read before, by block
    path = tmp_path / "a.pyvm"
    with writer(image) as vm:
        vm.run(instructions=5000)
        vm.snapshot().save(path)
        vm.run(instructions=40_000)
        later = vm.digest()
    with Reader(path) as reader:
        groups = len(reader.index.groups)
    met = 0
    for group in range(groups):
        with pv.Snapshot.load(path).fork() as vm:
            start = vm.icount
            at, old = damaged(path, group)
            try:
                vm.run(instructions=40_000)
            except pv.LoadError:
                met += 1
                assert vm.icount < start + 40_000
            finally:
                with path.open("r+b") as file:
                    file.seek(at)
                    file.write(old)
            vm.run(instructions=start + 40_000 - vm.icount)
            assert vm.digest() == later
    assert met >= 1
