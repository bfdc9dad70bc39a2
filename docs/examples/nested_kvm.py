"""Run Linux with KVM as the guest of a hypervisor written in Python, and log the traps that it reflects to KVM.

    python nested_kvm.py Image initramfs-with-kvm.cpio.zst "mods=kvm run=/root/kvmrun.sh" KVMRUN-OK
"""
from __future__ import annotations

import sys
from collections import Counter

import pyvirt as pv
from pyvirt.stop import cause_name


class Nesting(pv.Hypervisor):
    """Emulates the H extension for its guest, and keeps a table of what the guest's guest does to it."""

    def __init__(self, vm: pv.Machine, memory: str) -> None:
        super().__init__(vm, memory=memory, nested=True)
        self.causes: Counter[int] = Counter()
        self.instructions: Counter[str] = Counter()

    def on_reflect(self, vcpu: pv.Vcpu, trap: pv.Trap) -> None:
        super().on_reflect(vcpu, trap)
        self.causes[trap.cause] += 1

    def on_virtual_instruction(self, vcpu: pv.Vcpu, insn: int) -> None:
        self.instructions[pv.disasm(insn.to_bytes(4, "little"))[0].text] += 1
        super().on_virtual_instruction(vcpu, insn)


def main(kernel: str, initrd: str, cmdline: str, expected: str) -> Nesting:
    vm = pv.Machine(ram="320M")
    guest = Nesting(vm, memory="256M")
    guest.load(kernel, initrd=initrd, cmdline=f"console=ttyS0 quiet cryptomgr.notests {cmdline}")
    guest.run_guest(until=expected, timeout=100)
    print(f"{expected} at icount {vm.icount}; traps of L2 that were reflected to KVM in L1:")
    for cause, count in guest.causes.most_common():
        print(f"{count:7}  {cause_name(cause)}")
    print("the last five:")
    for trap in list(guest.reflected)[-5:]:
        print(f"  {trap.icount}: {trap}, gpa {trap.tval2 << 2:#x}")
    print("what L1 did to its virtual H extension most:")
    for text, count in guest.instructions.most_common(8):
        print(f"{count:7}  {text}")
    vm.close()
    return guest


if __name__ == "__main__":
    main(*sys.argv[1:5])
