"""Snapshots of a busy Debian: a hundred forks, a chain of two hundred with a disk, guests in the guest."""
from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyvirt as pv
from tests import needs
from tests.snapshot.linux import DISK_MODULES, LIMIT, boot, shell
from tests.snapshot.test_forks import STAGES, at_stage

Guest = Callable[[str], Path]
FORKS, CHAIN, MOMENTS = 100, 200, 50


@pytest.mark.slow
def test_a_hundred_forks_at_the_prompt_each_answer_their_own(guest: Guest) -> None:
    with boot(guest) as vm:
        snap, before = vm.snapshot("prompt"), vm.digest()

        def ask(fork: pv.Machine, n: int) -> tuple[str, str]:
            return shell(fork, f"echo fork {n} $(({n} * {n})); cat /mine 2>/dev/null; echo {n} > /mine; cat /mine"), \
                fork.digest()

        answers = snap.map(ask, range(FORKS), workers=2)
        for n, (said, _) in enumerate(answers):
            assert said.split("\n") == [f"fork {n} {n * n}", str(n)]
        assert len({digest for _, digest in answers}) == FORKS
        assert vm.digest() == before == snap.digest
        snap.verify()
        # And with all of them alive at once.
        forks = snap.forks(FORKS)
        for n, fork in enumerate(forks):
            fork.console.send(f"echo $(({n}+1000))\n")
        for n in random.Random(1).sample(range(FORKS), FORKS):
            forks[n].run(until=str(n + 1000), instructions=LIMIT)
        assert vm.digest() == before
        for fork in forks:
            fork.close()


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "disk.ext4"
    mke2fs = needs.need_program("e2fsprogs", "mke2fs")
    subprocess.run([mke2fs, "-q", "-t", "ext4", path, "16M"], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def chain(guest: Guest, ext4: Path) -> Iterator[tuple[pv.Machine, list[pv.Snapshot], list[str]]]:
    """A machine that wrote a file before each snapshot, and what its guest said of its files then."""
    with boot(guest, mods=DISK_MODULES, disks=[ext4]) as vm:
        shell(vm, "mkdir -p /mnt; mount /dev/vda /mnt")
        nodes, files = [], []
        for n in range(CHAIN):
            files.append(shell(vm, f"echo {n} > /mnt/last; seq {n} {n + 200} > /mnt/f$(({n} % 40)); sync; {LOOK}"))
            nodes.append(vm.snapshot(f"{n}"))
        yield vm, nodes, files


LOOK = "echo 3 > /proc/sys/vm/drop_caches; cat /mnt/last; cat /mnt/f* | md5sum"


@pytest.mark.slow
def test_every_node_of_a_chain_has_the_files_of_its_time(
        chain: tuple[pv.Machine, list[pv.Snapshot], list[str]], ext4: Path, tmp_path: Path) -> None:
    vm, nodes, files = chain
    base = ext4.read_bytes()
    assert len(set(files)) == CHAIN
    order = random.Random(3).sample(range(CHAIN), CHAIN)
    e2fsck, debugfs = (needs.need_program("e2fsprogs", name) for name in ("e2fsck", "debugfs"))
    for turn, n in enumerate(order):
        vm.restore(nodes[n])
        assert vm.history.current is nodes[n]
        if turn % 10 == 0:
            # As other software reads the disk; the file system is mounted, so its journal has to be replayed.
            out = tmp_path / "out.ext4"
            vm.disks[0].export(out)
            subprocess.run([e2fsck, "-fy", out], check=False, capture_output=True)
            subprocess.run([e2fsck, "-fn", out], check=True, capture_output=True)
            found = subprocess.run([debugfs, "-R", "cat /last", out], check=True, capture_output=True, text=True)
            assert found.stdout == f"{n}\n"
        assert shell(vm, LOOK) == files[n]
    assert ext4.read_bytes() == base


@pytest.mark.slow
def test_the_middle_of_the_chain_can_go(chain: tuple[pv.Machine, list[pv.Snapshot], list[str]]) -> None:
    """After the test above: nodes deleted, others keep their disks."""
    vm, nodes, files = chain
    for n in range(1, CHAIN, 2):
        nodes[n].delete()
    for n in (0, 50, 100, 198):
        vm.restore(nodes[n])
        assert shell(vm, LOOK) == files[n]


# -- guests in the guest
NEST = "console=ttyS0 quiet cryptomgr.notests mods=kvm run=/root/kvmrun.sh"


def test_in_the_middle_of_a_guests_guest_at_random_moments(guest: Guest) -> None:
    with pv.Machine() as vm:
        vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-nest.cpio.zst"), cmdline=NEST)
        vm.run(until="hello from VS-mode", instructions=LIMIT)
        begin = vm.snapshot("in L1's guest")
        vm.run(until="KVMRUN-OK", instructions=LIMIT)
        last = vm.icount
        said = vm.console.text
        wanted = vm.digest()
        rng = random.Random(5)
        taken, worlds = 0, set()
        vm.restore(begin)
        moments = sorted(rng.randrange(begin.icount, last) for _ in range(MOMENTS))
        for moment in moments:
            if moment > vm.icount:
                vm.run(instructions=moment - vm.icount)
            if vm.hart.world not in ("VS", "VU"):      # on to where its guest runs
                vm.run(until=pv.when(lambda vm: vm.hart.world in ("VS", "VU"), every=1), instructions=200_000,
                       check=False)
            if vm.icount >= last:
                break
            worlds.add(vm.hart.world)
            taken += vm.hart.world in ("VS", "VU")
            with vm.snapshot().fork() as fork:
                fork.run(instructions=last - fork.icount)
                assert fork.digest() == wanted
                assert fork.console.text == said
        vm.run(instructions=last - vm.icount)
        assert vm.digest() == wanted
        assert worlds <= {"VS", "VU", "HS", "U"}
        assert taken >= MOMENTS // 2


@pytest.fixture(scope="module")
def nest(guest: Guest) -> Iterator[pv.Snapshot]:
    with pv.Machine() as vm:
        vm.load(kernel=guest("Image-7.2.zst"), initrd=guest("initramfs-nest.cpio.zst"), cmdline=NEST)
        vm.run(until="hello from VS-mode", instructions=LIMIT)
        vm.run(until=pv.when(lambda vm: vm.hart.world == "VS", every=100), instructions=LIMIT)
        yield vm.snapshot("in L1's guest")


@pytest.fixture(scope="module")
def ended(nest: pv.Snapshot) -> str:
    with nest.fork() as vm:
        vm.run(until="KVMRUN-OK", instructions=LIMIT)
        return vm.digest()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_guests_guest_behaves_alike_on_every_rung(stage: str, nest: pv.Snapshot, ended: str) -> None:
    with at_stage(stage, nest.fork) as vm:
        assert (vm.hart.world, vm.digest()) == ("VS", nest.digest)
        vm.run(until="KVMRUN-OK", instructions=LIMIT)
        assert vm.digest() == ended
        for line in ("sum 2666664666667000000 (ok)", "VS-stage load 63 (ok)"):
            assert line in vm.console.text
        stop = vm.run(instructions=LIMIT)
        assert (stop.reason, stop.exit_code) == (pv.StopReason.EXIT, 0)


def test_linux_with_snapshots_every_thousand_instructions(nest: pv.Snapshot) -> None:
    """While a guest's guest starts: half a million instructions."""
    with nest.fork() as vm, nest.fork() as plain:
        plain.run(instructions=500_000)
        kept: list[pv.Snapshot] = []
        for _ in range(500):
            vm.run(instructions=1000)
            kept = [*kept[-9:], vm.snapshot()]
        assert vm.digest() == plain.digest()
