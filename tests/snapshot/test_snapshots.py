"""Snapshots and the history tree: going back, what is shared, labels, differences, deleting, disks, refusals."""
from __future__ import annotations

import copy
import gc
import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyvirt as pv
from pyvirt._memory import counters
from pyvirt.devices.base import Device, Region
from tests.snapshot.guests import busy, sectors, writer

PAGE = 4096


def alive() -> dict[str, int]:
    """Count frames and nodes."""
    gc.collect()
    return {name: counters()[name] for name in ("frames", "nodes", "pts")}


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Check that a test gives back every frame and node it took."""
    before = alive()
    yield
    assert alive() == before


# -- going back
def test_going_back_and_forth() -> None:
    with busy() as vm:
        vm.run(instructions=20_000)
        nodes = []
        for k in range(6):
            vm.console.send(f"{k}")
            vm.run(instructions=3000)
            nodes.append((vm.snapshot(), vm.digest(), vm.console.text, vm.inputs, vm.icount))
        for snap, digest, text, inputs, icount in random.Random(1).sample(nodes, 6):
            assert vm.restore(snap) is vm
            assert (vm.digest(), vm.console.text, vm.inputs, vm.icount) == (digest, text, inputs, icount)
            assert (snap.digest, snap.icount, snap.inputs, snap.text) == (digest, icount, inputs, text)
            assert vm.history.current is snap
            vm.run(instructions=random.Random(icount).randrange(5000))


def test_running_on_from_a_restored_moment_is_running_on_from_the_first() -> None:
    with busy() as vm:
        vm.run(instructions=30_000)
        snap = vm.snapshot()
        vm.run(instructions=70_000)
        late = vm.digest()
        for _ in range(3):
            vm.restore(snap)
            vm.console.send("x")
            vm.run(instructions=12_345)     # another future, which must leave nothing behind
            vm.restore(snap).run(instructions=70_000)
            assert vm.digest() == late


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_snapshots_every_thousand_instructions_change_nothing(core: str) -> None:
    with busy(core=core) as plain, busy(core=core) as vm:
        plain.run(instructions=100_000)
        kept = []
        for k in range(100):
            vm.run(instructions=1000)
            kept.append(vm.snapshot())
            if k % 7 == 6:
                vm.restore(kept[-4])
                vm.run(instructions=3000)
        assert vm.digest() == plain.digest()


def test_a_snapshot_from_before_load() -> None:
    with pv.Machine(board="bare", ram="1M") as vm:
        empty = vm.snapshot("empty")
        vm.load(pv.asm("li a0, 1\nwfi")).run()
        vm.restore(empty).load(pv.asm("li a0, 2\nwfi")).run()
        assert vm.hart.a0 == 2


def test_htif_and_the_end_of_the_guest_are_part_of_it() -> None:
    program = pv.asm("""
        la t0, tohost
        li t1, 0x101000000000041      # print "A"
        sd t1, 0(t0)
        li t2, 5
        sd t2, 0(t0)
1:      j 1b
        .balign 8
tohost: .dword 0
""")
    with pv.Machine(board="bare", ram="1M") as vm:
        empty = vm.snapshot()
        vm.load(program).run(instructions=8, check=False)
        before = vm.snapshot()
        stop = vm.run()
        assert (stop.reason, stop.exit_code) == (pv.StopReason.EXIT, 2)
        after = vm.snapshot()
        assert vm.restore(before).run().exit_code == 2
        assert vm.restore(after).run().exit_code == 2
        assert after.digest != before.digest
        with after.fork() as fork:
            assert fork.run().exit_code == 2
        vm.restore(empty)
        assert vm.digest() == empty.digest


# -- the tree
def test_the_tree() -> None:
    with busy() as vm:
        assert (len(vm.history), vm.history.current, str(vm.history)) == (0, None, "(no snapshots)")
        a = vm.snapshot("a")
        vm.run(instructions=1000)
        b = vm.snapshot("b").tag("good", "seen")
        vm.restore(a).run(instructions=500)
        c = vm.snapshot("c")
        c.note = "half way\nand more"
        assert list(vm.history) == [a, b, c]
        assert (a.parent, b.parent, a.children, c.ancestors, a.descendants, c.root) == (
            None, a, (b, c), (a,), (b, c), a)
        assert vm.history["b"] is b
        assert "c" in vm.history
        assert b in vm.history
        assert "d" not in vm.history
        assert vm.history.tagged("good") == (b,)
        assert b.untag("seen").tags == {"good"}
        lines = str(vm.history).splitlines()
        assert [line[:7] for line in lines] == ["o a  0 ", "├─ o b ", "└─ * c "]
        assert lines[2].endswith("half way")
        assert repr(vm.history) == "<History 3 snapshots, at c>"
        picture = vm.history._repr_html_()
        assert (picture.count("<circle"), picture.count("<path")) == (3, 2)
        with pytest.raises(KeyError, match="no snapshot is named 'd'; named are: a, b, c"):
            vm.history["d"]
        for bad in ("", 7, "a\nb"):
            with pytest.raises(pv.ConfigError, match="name is"):
                vm.snapshot(bad)  # type: ignore[arg-type]
        with pytest.raises(pv.ConfigError, match="tag is ''"):
            a.tag("")


def test_forks_are_part_of_the_tree_and_hold_what_they_need() -> None:
    with busy() as vm:
        vm.run(instructions=5000)
        a = vm.snapshot("a")
        with a.fork() as fork:
            fork.run(instructions=5000)
            b = fork.snapshot("b")
            assert b.parent is a
            assert list(vm.history) == [a, b]
            assert list(fork.history) == [a, b]
            assert (vm.history.current, fork.history.current) == (a, b)
        assert b.digest
        assert list(vm.history) == [a, b]
        del b
        gc.collect()
        assert list(vm.history) == [a]


def test_deleting_gives_back_what_no_one_else_uses() -> None:
    with busy() as vm:
        vm.run(instructions=3000)
        nodes = []
        for k in range(5):
            vm.mem[0x8040_0000 + k * PAGE] = k + 1
            vm.mem[0x8050_0000] = k + 1
            nodes.append(vm.snapshot(f"{k}"))
        digests = [node.digest for node in nodes]
        before = alive()
        assert nodes[2].size.own == PAGE                # the page at 0x80500000 as it was then
        nodes[2].delete()
        assert before["frames"] - alive()["frames"] == 1
        assert [node.label for node in vm.history] == ["0", "1", "3", "4"]
        assert nodes[3].parent is nodes[1]
        assert nodes[1].children == (nodes[3],)
        assert [n.digest for n in (nodes[0], nodes[1], nodes[3], nodes[4])] == [*digests[:2], *digests[3:]]
        for name in ("icount", "size", "inputs", "text"):
            with pytest.raises(pv.ClosedError, match="snapshot 2 was deleted"):
                getattr(nodes[2], name)
        for act in (pv.Snapshot.fork, pv.Snapshot.verify, vm.restore, pickle.dumps):
            with pytest.raises(pv.ClosedError, match="snapshot 2 was deleted"):
                act(nodes[2])
        nodes[2].delete()
        nodes[4].delete()
        assert vm.history.current is nodes[3]
        for node in nodes:
            node.delete()
        assert len(vm.history) == 0
        vm.mem[0x8010_0000] = 1
        assert vm.snapshot().parent is None
        del node, nodes


def test_a_chain_is_compacted() -> None:
    with busy() as vm:
        vm.run(instructions=1000)
        for k in range(100):
            vm.run(instructions=50)
            vm.snapshot("keep" if k == 50 else None)
        middle = [node for node in vm.history][20]
        side = vm.restore(middle).snapshot("side")
        before = alive()["frames"]
        assert vm.history.compact() == 96           # left: first, 20, "keep" and the last of the chain, and "side"
        assert alive()["frames"] < before
        assert [node.name for node in vm.history] == [None, None, "keep", None, "side"]
        assert vm.history.compact() == 0
        assert vm.restore(vm.history["keep"]).digest() == vm.history["keep"].digest
        assert side.parent is middle


def test_dropping_the_last_handle_of_a_long_chain() -> None:
    with busy() as vm:
        for _ in range(3000):
            vm.snapshot()
        last = vm.history.current
    assert last is not None
    assert len(last.ancestors) == 2999
    del last


# -- what it can be asked
def test_what_differs() -> None:
    with busy() as vm:
        vm.run(instructions=10_000)
        a = vm.snapshot()
        assert not a.diff(a)
        same = vm.snapshot()
        assert not a.diff(same)
        vm.mem[0x8060_0123] = 5
        vm.hart.a3 = 77
        vm.hart.csr.mscratch = 12
        vm.bus.write(0x1000_0007, 1, 0x5A)          # the UART's scratch register
        found = a.diff(vm.snapshot())
        assert found.pages == [0x8060_0000]
        assert set(found.registers) == {"hart0.a3"}
        assert found.registers["hart0.a3"][1] == 77
        assert set(found.csrs) == {"hart0.mscratch"}
        assert found.devices == {"uart@10000000.scr": (0, 0x5A)}
        assert "1 pages: 0x80600000" in str(found)
        with busy(ram="4M") as other, pytest.raises(pv.ConfigError, match="differ in ram: 8388608 and 4194304"):
            a.diff(other.snapshot())


def test_verify_finds_a_page_that_changed_behind_everyones_back() -> None:
    with busy() as vm:
        vm.run(instructions=10_000)
        snap = vm.snapshot("s")
        snap.verify()
        snap.verify()
        assert snap._content is not None
        core = bytearray(snap._content.core)
        core[-8] ^= 1       # x31
        snap._content = snap._content._replace(core=bytes(core))
        with pytest.raises(pv.SnapshotError, match="snapshot s: the digest was"):
            snap.verify()


def test_size() -> None:
    with busy() as vm:
        vm.run(instructions=10_000)
        first = vm.snapshot()
        assert first.size.own == 0
        vm.run(instructions=20_000)
        own = first.size.own
        assert 10 * PAGE < own <= first.size.own + first.size.shared
        assert str(first.size).startswith(f"{own >> 10}K own, ")


def test_pickle_and_copy(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    with writer(tmp_path / "disk", devices=[pv.VirtioRng(seed=3)]) as vm:
        vm.run(instructions=20_000)
        snap = vm.snapshot("s").tag("t")
        snap.note = "n"
        again = pickle.loads(pickle.dumps(snap))
        assert copy.copy(snap) is snap
        assert copy.deepcopy(snap) is snap
        assert (again.name, again.tags, again.note, again.parent) == ("s", {"t"}, "n", None)
        assert (again.digest, again.icount, again.host_time) == (snap.digest, snap.icount, snap.host_time)
        with again.fork() as fork:
            vm.run(instructions=5000)
            fork.run(instructions=5000)
            assert fork.digest() == vm.digest()
        assert vm.restore(again).digest() == snap.digest
        with pytest.raises(TypeError, match=r"pickle vm\.snapshot\(\)"):
            pickle.dumps(vm)


def test_an_unpickled_snapshot_is_not_believed() -> None:
    with busy() as vm:
        vm.run(instructions=1000)
        snap = pickle.loads(pickle.dumps(vm.snapshot("s")))
        core = bytearray(snap._content.core)
        core[0] ^= 0xFF
        snap._content = snap._content._replace(core=bytes(core))
        before = vm.digest()
        for act in (snap.fork, lambda: vm.restore(snap)):
            with pytest.raises(pv.SnapshotError, match="holds a state that no machine can be in"):
                act()
        assert vm.digest() == before


# -- disks
def test_a_chain_of_a_machine_that_writes_its_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 20))
    base = path.read_bytes()
    with writer(path) as vm:
        disk = vm._disks[0]
        nodes = []
        for _ in range(50):
            vm.run(instructions=2500)
            nodes.append((vm.snapshot(), sectors(disk), vm.digest()))
        assert len({str(content) for _, content, _ in nodes}) == 50
        for snap, content, digest in random.Random(2).sample(nodes, 50):
            vm.restore(snap)
            assert sectors(disk) == content
            assert vm.digest() == digest
        vm.run(instructions=2500)
        with nodes[20][0].fork() as fork:
            vm.restore(nodes[20][0])
            for machine in (vm, fork):
                machine.run(instructions=5000)
            assert vm.digest() == fork.digest()
        blocks = nodes[0][0].diff(nodes[1][0]).blocks
        assert set(blocks) == {0}
    assert path.read_bytes() == base
    last = nodes[-1][0]
    with last.fork() as fork:       # the file is still open
        assert sectors(fork._disks[0]) == nodes[-1][1]


def test_a_disk_written_in_place_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    with pv.Disk(path, mode="direct") as disk, pv.Machine(disks=[disk], ram="1M") as vm:
        for act in (vm.snapshot, vm.fork):
            with pytest.raises(pv.SnapshotError, match=rf"disk {path} has mode='direct'.*mode='overlay'"):
                act()
        assert len(vm.history) == 0


def test_verify_notices_that_a_disks_file_was_written(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    with pv.Machine(disks=[path], ram="1M") as vm:
        snap = vm.snapshot()
        snap.verify()
        path.write_bytes(b"x" * 8192)
        os.utime(path, ns=(1, 1))
        with pytest.raises(pv.HostError, match="the file under the overlay was changed"):
            snap.verify()


# -- when
class Trigger(Device):
    """A register: a store calls `act`."""

    NAME = "trigger"
    REGIONS = (Region("trigger", 0x1000),)

    def write(self, offset: int, width: int, value: int) -> None:
        ACTIONS.pop()()


ACTIONS: list[Callable[[], object]] = []
TRIGGER = """
        li t0, 0x11000000
        li a0, 1
        sw a0, 0(t0)
        li a0, 2
1:      addi a0, a0, 1
        j 1b
"""


def test_asked_for_in_the_middle_of_an_instruction() -> None:
    with pv.Machine(ram="1M", devices=[Trigger()]).load(pv.asm(TRIGGER)) as vm:
        taken: list[pv.Snapshot] = []
        forks: list[pv.Machine] = []
        seen: list[str] = []

        def act() -> None:
            taken.append(vm.snapshot("mid"))
            forks.append(vm.fork())
            seen.append(repr(taken[0]))
            for ask in (lambda: taken[0].icount, taken[0].fork, forks[0].digest, lambda: forks[0].run(instructions=1)):
                with pytest.raises(pv.MachineBusy, match="next instruction boundary"):
                    ask()
            with pytest.raises(pv.MachineBusy, match="restore: this machine is running"):
                vm._running("restore").__enter__()

        ACTIONS.append(act)
        with pv.Machine(ram="1M", devices=[Trigger()]).load(pv.asm(TRIGGER)) as plain:
            ACTIONS.append(lambda: None)
            plain.run(instructions=100)
            vm.run(instructions=100)
            assert vm.digest() == plain.digest()
        assert seen == ["<Snapshot mid not taken yet>"]
        (snap,), (fork,) = taken, forks
        assert snap.icount == fork.icount
        assert (fork.hart.a0, fork.digest()) == (1, snap.digest)
        assert fork.history.current is None
        fork.run(instructions=100 - fork.icount)
        assert fork.digest() == vm.digest()
        fork.close()


def test_a_callback_that_fails_still_gets_its_snapshot() -> None:
    with pv.Machine(ram="1M", devices=[Trigger()]).load(pv.asm(TRIGGER)) as vm:
        def act() -> None:
            vm.snapshot("before")
            raise KeyError("trouble")

        ACTIONS.append(act)
        with pytest.raises(KeyError, match="trouble"):
            vm.run(instructions=100)
        assert vm.history["before"].icount == vm.icount


def test_asked_for_between_instructions() -> None:
    with busy() as vm:
        found: list[tuple[int, str, str]] = []

        def test(machine: pv.Machine) -> bool:
            snap = machine.snapshot()
            with machine.fork() as fork:
                found.append((snap.icount, snap.digest, fork.digest()))
            return len(found) == 3

        vm.run(until=pv.when(test, every=1000))
        assert [icount for icount, _, _ in found] == [0, 1000, 2000]
        assert all(a == b for _, a, b in found)
        assert vm.digest() == found[-1][1]


def test_asked_for_by_a_hook_on_traps() -> None:
    with busy() as vm:
        hook = vm.on_trap(lambda trap: taken.append(vm.snapshot()) if len(taken) < 3 else None, cause=1 << 63 | 7)
        taken: list[pv.Snapshot] = []
        vm.run(instructions=20_000)
        hook.remove()
        assert len(taken) == 3
        for snap in taken:
            with snap.fork() as fork:
                fork.run(instructions=vm.icount - snap.icount)
                assert fork.digest() == vm.digest()


def test_refused() -> None:
    with busy() as vm:
        snap = vm.snapshot()
        with busy(ram="4M") as other, pytest.raises(pv.ConfigError, match="restore: the machines differ in ram"):
            other.restore(snap)
        with busy(devices=[pv.VirtioRng()]) as other, pytest.raises(pv.ConfigError, match="other devices or disks"):
            other.restore(snap)
        with pytest.raises(pv.ConfigError, match="restore: 'x' is not allowed"):
            vm.restore("x")  # type: ignore[arg-type]
        with pytest.raises(pv.ConfigError, match="entropy: 'other' is not allowed; allowed: 'same', 'fresh', or"):
            snap.fork(entropy="other")
        with pytest.raises(pv.ConfigError, match="forks: n is -1"):
            snap.forks(-1)
    for act in (vm.snapshot, vm.fork, lambda: vm.restore(snap)):
        with pytest.raises(pv.ClosedError):
            act()
