"""Choose the groups of instructions that the threaded core fuses, from what real programs execute: ext/fusion.txt.

    CFLAGS=-DPYVIRT_PROFILE python setup.py build_ext --inplace --force
    python benchmarks/patterns.py --write

Runs boots, user programs in them, a KVM guest and the programs of `benchmarks/programs` on the switch core of a build
that counts, each weighted alike, and takes the groups executed most. `benchmarks/heldout` is never looked at.
"""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "ext")]

import fuse  # noqa: E402
import gen  # noqa: E402
import toolchain  # noqa: E402
import workloads  # noqa: E402

import pyvirt as pv  # noqa: E402
from pyvirt import _hart_switch  # noqa: E402

PAIRS, TRIPLES = 200, 160
INSTRUCTIONS = 160_000_000
SHELL = ("ls -lR /bin /proc/self | sort | md5sum", "seq 1 4000 | awk '{s+=$1*$1} END {print s}'",
         "dd if=/dev/zero bs=4k count=500 2>/dev/null | gzip | gunzip | sha256sum", "find / -name '*a*' | wc -l")

Counts = dict[tuple[int, int, int], int]


class Profile:
    """What was executed, each workload weighted alike."""

    def __init__(self) -> None:
        self.seen: Counts = {}
        self.shares: dict[tuple[int, int, int], float] = {}

    def take(self) -> None:
        """Add what was executed since the last call as one workload."""
        now = _hart_switch.profile()
        new = {group: count - self.seen.get(group, 0) for group, count in now.items()}
        total = sum(new.values())
        for group, count in new.items():
            self.shares[group] = self.shares.get(group, 0.0) + count / total
        self.seen = now


def boots(profile: Profile) -> None:
    """Boot to a shell, run some user programs there, and a KVM guest."""
    guests = Path(os.environ["PYVIRT_GUESTS"])
    for initrd, extra, commands in (
        ("initramfs-mini.cpio.zst", "", SHELL),
        ("initramfs-nest.cpio.zst", "mods=kvm run=/root/kvmrun.sh", ()),
    ):
        with pv.Machine(core="switch") as vm:
            vm.load(kernel=guests / "Image-7.2.zst", initrd=guests / initrd,
                    cmdline=f"console=ttyS0 quiet cryptomgr.notests {extra}")
            vm.run(until="~ # " if commands else "KVMRUN-OK")
            profile.take()
            for number, command in enumerate(commands):
                vm.console.send(f"{command}; echo done $(({number}+70))\n")
                vm.run(until=f"done {number + 70}", instructions=INSTRUCTIONS, check=False)
                profile.take()


def programs(folder: Path, profile: Profile) -> None:
    """Run the bare programs that are not held out."""
    tools = toolchain.find(folder)
    for item in workloads.WORKLOADS:
        if isinstance(item, workloads.Program) and not item.heldout and item.name != "startup":
            with pv.Machine(core="switch") as vm:
                vm.load(tools.target(item, 100))
                vm.run(instructions=INSTRUCTIONS // 4, check=False)
            profile.take()


Scores = dict[tuple[str, ...], float]


def scores(shares: dict[tuple[int, int, int], float]) -> tuple[Scores, Scores]:
    """Return how often each fusable pair and triple was executed."""
    names = [name for name, _, _ in gen.opcodes()]
    pairs: Scores = {}
    triples: Scores = {}
    for (a, b, c), share in shares.items():
        pair, triple = (names[b], names[c]), (names[a], names[b], names[c])
        if b and fuse.fusable(pair):
            pairs[pair] = pairs.get(pair, 0.0) + share
        if a and b and fuse.fusable(triple):
            triples[triple] = triples.get(triple, 0.0) + share
    return pairs, triples


def most(found: Scores, count: int) -> list[tuple[str, ...]]:
    """Return the groups executed most often."""
    return sorted(found, key=lambda group: (-found[group], group))[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write ext/fusion.txt")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/pyvirt-bench"), help="where programs are built")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    profile = Profile()
    boots(profile)
    programs(options.folder, profile)
    pairs, triples = scores(profile.shares)
    chosen = most(pairs, PAIRS) + most(triples, TRIPLES)
    covered = sum(pairs[p] for p in most(pairs, PAIRS)) / sum(pairs.values())
    print(f"{len(pairs)} pairs seen, the chosen {PAIRS} are {covered:.0%} of what was executed")
    if options.write:
        text = "# Groups of instructions that the threaded core fuses, chosen by benchmarks/patterns.py.\n"
        (HERE.parent / "ext" / "fusion.txt").write_text(text + "".join(f"{' '.join(g)}\n" for g in chosen))


if __name__ == "__main__":
    main()
