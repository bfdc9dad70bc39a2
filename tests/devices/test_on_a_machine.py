"""Devices on a whole machine: exact event times, exceptions that reach the caller, firmware that moves the tree."""
from __future__ import annotations

import gc
import struct
import weakref

import pytest

import pyvirt as pv
from pyvirt.assembly.asm import asm
from pyvirt.devices.base import Device, Region
from pyvirt.errors import LoadError
from pyvirt.fdt import Placed

BASE = 0x8000_0000

ALARM = """
    la t0, handler
    csrw mtvec, t0
    li t0, 0x101000
    lw s2, 0(t0)
    lw s3, 4(t0)
    li t1, 12345        # nanoseconds from now, so due at 124 ticks
    add s2, s2, t1
    sw s3, 12(t0)
    sw s2, 8(t0)
    li t1, 1
    sw t1, 16(t0)
    li t2, 0xc000000
    sw t1, 44(t2)       # priority of source 11
    li t3, 0xc002000
    li t1, 0x800
    sw t1, 0(t3)
    csrw mie, t1
    csrsi mstatus, 8
loop:
    addi s0, s0, 1
    j loop
handler:
    mv s1, s0
end:
    j end
"""


def test_an_alarm_comes_at_its_instruction_however_the_run_is_sliced() -> None:
    seen = set()
    for step in (20_000, 1_000, 7, 12_349):
        with pv.Machine(ram="1M") as vm:
            vm.load(asm(ALARM, at=BASE))
            while vm.icount < 20_000:
                vm.run(instructions=min(step, 20_000 - vm.icount))
            seen.add((vm.hart.s1, vm.digest()))
    assert len(seen) == 1
    assert 6_150 < seen.pop()[0] < 6_200


class Fragile(Device):
    """Fails on the first store, then works."""

    NAME = "fragile"
    REGIONS = (Region("fragile", 0x1000),)

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[int] = []
        self.broken = True

    def write(self, offset: int, width: int, value: int) -> None:
        if self.broken:
            raise ZeroDivisionError("device's own")
        self.stored.append(value)

    def _save(self) -> dict[str, list[int]]:
        return {"stored": list(self.stored)}


def test_an_exception_of_a_python_device_reaches_the_caller_and_the_machine_goes_on() -> None:
    device = Fragile()
    with pv.Machine(ram="1M", devices=[Placed(device, (0x4000_0000,))]) as vm:
        vm.load(asm("li a0, 0x40000000\nli a1, 42\nsw a1, 0(a0)\nsw a1, 8(a0)\nend: j end", at=BASE))
        with pytest.raises(ZeroDivisionError, match="device's own") as caught:
            vm.run(instructions=100)
        assert "write" in [entry.name for entry in caught.traceback]
        before = vm.icount, vm.hart.pc
        with pytest.raises(ZeroDivisionError):
            vm.run(instructions=100)
        assert (vm.icount, vm.hart.pc) == before
        device.broken = False
        vm.run(instructions=100)
        assert device.stored == [42, 42]


def test_a_dropped_machine_is_collected_with_its_devices() -> None:
    vm = pv.Machine(ram="1M")
    gone = [weakref.ref(device) for device in vm.devices]
    vm.close()
    del vm
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_a_kernel_where_the_firmware_moves_the_tree_is_refused_by_name() -> None:
    # fw_next_arg1 of OpenSBI 1.1's fw_jump: li a0, 0x82200000; ret.
    firmware = bytes(0x100) + bytes.fromhex("1b05104156058280") + bytes(0x100)
    header = struct.pack("<IIQQQIIQ8s4sI", 0, 0, 0x20_0000, 0x23A_0000, 0, 2, 0, 0, b"RISCV\0\0\0", b"RSC\x05", 0)
    words = (r"program 0x80200000\.\.0x825a0000 overlaps the device tree as program moves it "
             r"0x82200000\.\.0x82210000; give one of them another address")
    with pv.Machine(ram="64M") as vm, pytest.raises(LoadError, match=words):
        vm.load(kernel=header, firmware=firmware)
