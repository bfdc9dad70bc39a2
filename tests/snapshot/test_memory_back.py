"""What deleting gives back: frames and nodes of RAM, blocks and nodes of disks, exactly those that no one else uses."""
from __future__ import annotations

import gc
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt._memory import Ram, counters
from pyvirt.disks.blocks import STAMP, Blocks
from pyvirt.disks.disk import Disk
from tests.snapshot.guests import sectors, writer

CHAIN = 1000


class Block(bytes):
    """A block that is counted."""

    live = 0

    def __new__(cls, data: bytes) -> Block:
        Block.live += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Block.live -= 1


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    put = Disk._put
    monkeypatch.setattr(Disk, "_put", lambda self, number, block: put(self, number, Block(block)))
    before = ram(), disk_nodes()
    yield
    assert (ram(), disk_nodes(), Block.live) == (*before, 0)


def ram() -> dict[str, int]:
    gc.collect()
    return {name: counters()[name] for name in ("frames", "nodes")}


def disk_nodes() -> int:
    """Count the nodes of all trees of blocks."""
    return sum(1 for found in gc.get_objects() if type(found) is list and len(found) == STAMP + 1
               and type(found[STAMP]) is object)


def reachable(trees: list[Blocks]) -> tuple[int, int]:
    """Count the blocks and nodes that trees need together."""
    blocks: set[int] = set()
    nodes: set[int] = set()

    def walk(node: Any, depth: int) -> None:
        if node is None or id(node) in nodes:
            return
        nodes.add(id(node))
        for child in node[:STAMP]:
            if depth:
                walk(child, depth - 1)
            elif type(child) is Block:
                blocks.add(id(child))

    for tree in trees:
        walk(tree._root, len(tree._shifts) - 1)
    return len(blocks), len(nodes)


def needed(vm: pv.Machine, nodes: list[pv.Snapshot]) -> tuple[int, int]:
    contents = [node._held() for node in nodes]
    return reachable([vm.disks[0]._overlay, *(image._blocks for content in contents for image in content.disks)])


def frames(vm: pv.Machine, nodes: list[pv.Snapshot]) -> int:
    """Count the frames that snapshots need together: pages that change from one to the next are others."""
    roots = [node._held().root for node in nodes]
    total = len(list(roots[0].pages())) if roots else 0
    return total + sum(len(b.diff(a)) for a, b in itertools.pairwise(roots))


def test_of_a_chain_of_a_thousand(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 20))
    with writer(path) as vm:
        before_disk = disk_nodes() - needed(vm, [])[1]
        nodes, contents = [], []
        for n in range(CHAIN):
            vm.run(instructions=1500)
            nodes.append(vm.snapshot("kept" if n % 100 == 50 else None))
            contents.append((sectors(vm.disks[0]), vm.digest()) if n % 100 == 50 else None)
        every = ram()
        assert (Block.live, disk_nodes() - before_disk) == needed(vm, nodes)
        # In the middle, in any order: what is left needs what is there, and no more.
        rng = random.Random(1)
        for n in rng.sample([n for n in range(CHAIN) if n % 100 != 50], 300):
            nodes[n].delete()
        left = [node for node in nodes if not node.deleted]
        gc.collect()
        assert (Block.live, disk_nodes() - before_disk) == needed(vm, left)
        middle = ram()
        assert middle["frames"] < every["frames"]
        # The rest by compacting: first, last and the named ones stay.
        gone = vm.history.compact()
        left = [node for node in nodes if not node.deleted]
        assert gone == CHAIN - 300 - len(left)
        assert len(left) <= 12
        gc.collect()
        assert (Block.live, disk_nodes() - before_disk) == needed(vm, left)
        after = ram()
        assert after["frames"] < middle["frames"]
        own = frames(vm, left)
        assert own <= after["frames"] <= own + 20       # those that the machine has written since, and its tables
        for n in rng.sample(range(50, CHAIN, 100), 10):
            vm.restore(nodes[n])
            assert (sectors(vm.disks[0]), vm.digest()) == contents[n]
        del nodes, left
        vm.history["kept"].verify()


def test_handles_that_are_dropped(tmp_path: Path) -> None:
    """A snapshot of a fork belongs to who holds it, with all that it needs; the fork can be gone."""
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 20))
    with writer(path) as vm:
        vm.run(instructions=10_000)
        first = vm.snapshot()
        held, live = ram(), Block.live
        with first.fork() as fork:
            fork.run(instructions=50_000)
            last = fork.snapshot()
        del fork
        assert ram()["frames"] > held["frames"]
        assert Block.live > live
        assert last.digest != first.digest
        del last
        assert ram() == held
        assert Block.live == live


def test_a_page_is_given_back_with_the_last_who_needs_it() -> None:
    """By hand, so that every frame can be told."""
    memory = Ram(0x8000_0000, 1 << 20)
    before = ram()["frames"]
    roots = []
    for n in range(10):
        memory.write(0x8000_0000, bytes([n + 1]))               # of this root alone
        if n % 5 == 0:
            memory.write(0x8000_1000, b"%d" % n)                # of five
        roots.append(memory.share())
    for n, root in enumerate(roots):
        now = ram()["frames"]
        own = root.own
        root.close()
        assert now - ram()["frames"] == own, n
    memory.close()
    assert ram()["frames"] == before
