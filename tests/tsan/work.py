"""What runs under ThreadSanitizer: two threads with forks of one parent, sharing frames, decoded code and page tables.

They decode and link the same pages, patch code, walk and change the same tables, take pages over when the other side
drops them, and get each other's shells. Whatever a fork ends as has to be what one alone ends as. Takes seconds, guests
by name, and a kernel with its initramfs: `work.py SECONDS [KERNEL INITRD]`.
"""
from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyvirt as pv
from tests.snapshot.guests import busy, caller, mapper

GUESTS: dict[str, Callable[[], pv.Machine]] = {
    "busy": lambda: busy(), "calls": lambda: caller(), "tables": lambda: mapper(),
    "VS-mode": lambda: mapper(virt=True), "4 harts": lambda: busy(harts=4),
}
LENGTHS = (50, 400, 2000, 9000)


def linux(kernel: Path, initrd: Path) -> pv.Machine:
    """Return a kernel whose shell starts programs."""
    vm = pv.Machine().load(kernel=kernel, initrd=initrd, cmdline="console=ttyS0 quiet cryptomgr.notests")
    vm.run(until="# ")
    vm.console.send("while :; do ls / > /tmp/ls; done\n")
    return vm


def fresh(boot: Callable[[], pv.Machine], seed: int) -> pv.Snapshot:
    """Return a moment whose pages nobody has decoded much of yet: a snapshot that came from a pickle has its own."""
    vm = boot()
    vm.run(instructions=random.Random(seed).randrange(3000, 9000))
    import pickle

    return pickle.loads(pickle.dumps(vm.snapshot()))  # type: ignore[no-any-return]


def play(snap: pv.Snapshot, wanted: dict[int, str], gate: threading.Barrier, wrong: list[str], seed: int) -> None:
    """Run forks beside the other thread; both begin at once, so that they meet undecoded pages together."""
    rng = random.Random(seed)
    gate.wait()
    for _ in range(6):
        length = rng.choice(LENGTHS)
        fork = snap.fork()
        fork.run(instructions=length)
        twin = fork.fork()
        fork.run(instructions=100)      # pages that the twin holds as well
        found = twin.digest()
        if found != wanted.setdefault(length, found):
            wrong.append(f"{length}: {found}")
        if rng.randrange(2):
            fork.close()
        del fork, twin


def main() -> int:
    """Run for so many seconds."""
    end = time.monotonic() + float(sys.argv[1])
    guests = dict(GUESTS)
    if len(sys.argv) > 3:
        parent = linux(Path(sys.argv[2]), Path(sys.argv[3]))
        guests["Linux"] = lambda: parent.fork()
    wrong: list[str] = []
    rounds = 0
    while time.monotonic() < end:
        for name, boot in guests.items():
            snap = fresh(boot, rounds)
            wanted: dict[int, str] = {}
            gate = threading.Barrier(2)
            threads = [threading.Thread(target=play, args=(snap, wanted, gate, wrong, 2 * rounds + k))
                       for k in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if wrong:
                print(f"{name}: {wrong}", file=sys.stderr)
                return 1
        rounds += 1
    print(f"{rounds} rounds of {', '.join(guests)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
