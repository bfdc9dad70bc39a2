"""Boot Linux under a hypervisor written in Python that gives each page when it is first touched, and counts them.

    python demand_paging.py Image initramfs.cpio.zst
"""
from __future__ import annotations

import sys
from collections import Counter

import pyvirt as pv


class DemandPaging(pv.Hypervisor):
    """Gives pages on first touch, and remembers by which access each one was wanted first."""

    def __init__(self, vm: pv.Machine, memory: str) -> None:
        super().__init__(vm, memory=memory, demand=True)
        self.first: Counter[str] = Counter()
        self.calls: Counter[int] = Counter()

    def on_guest_page_fault(self, vcpu: pv.Vcpu, gpa: int, access: str) -> None:
        super().on_guest_page_fault(vcpu, gpa, access)
        self.first[access] += 1

    def on_ecall(self, vcpu: pv.Vcpu, ext: int, fid: int, args: list[int]) -> tuple[int, int] | None:
        self.calls[ext] += 1
        return super().on_ecall(vcpu, ext, fid, args)

    def save(self) -> dict[str, object]:
        return {"first": dict(self.first), "calls": [[ext, n] for ext, n in self.calls.items()]}

    def restore(self, state: dict[str, object]) -> None:
        self.first, self.calls = Counter(state["first"]), Counter(dict(state["calls"]))


def mib(pages: int) -> str:
    return f"{pages} pages, {pages / 256:.1f} MiB"


def working_set(guest: DemandPaging) -> int:
    """Forget which pages were used, let the guest list its processes, and count what that took."""
    guest.memory.accessed(clear=True)
    guest.machine.console.send("ps; echo listed=$((6*7))\n")
    guest.run_guest(until="listed=42", timeout=60)
    return len(guest.memory.accessed())


def main(kernel: str, initrd: str) -> DemandPaging:
    vm = pv.Machine(ram="320M")
    guest = DemandPaging(vm, memory="256M")
    guest.load(kernel, initrd=initrd, cmdline="console=ttyS0 quiet cryptomgr.notests")
    print(f"loaded: {mib(len(guest.memory.backing))} hold kernel, initramfs and device tree; none is mapped")
    guest.run_guest(until="# ", timeout=100)
    print(f"booted at icount {vm.icount}: the guest touched {mib(len(guest.memory))} of {guest.memory.size >> 20} MiB")
    for access, count in guest.first.most_common():
        print(f"  first by {access}: {mib(count)}")
    print(f"SBI calls by extension: { {hex(ext): n for ext, n in sorted(guest.calls.items())} }")
    print(f"listing the processes used {mib(working_set(guest))}")
    vm.console.send("poweroff -f\n")
    stop = guest.run_guest(timeout=60)
    print(f"the end: {stop.kind}")
    vm.close()
    return guest


if __name__ == "__main__":
    main(*sys.argv[1:3])
