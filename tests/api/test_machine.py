"""Machine: parts, loading, what may be touched when, closing, pickling, the digest."""
from __future__ import annotations

import copy
import gc
import pickle
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt._memory import counters
from pyvirt.board import RAM_BASE
from pyvirt.devices.base import Device, Region
from pyvirt.fdt import Placed
from tests.needs import source_tree

COUNT = """
        li      a0, 0
loop:   addi    a0, a0, 1
        j       loop
"""
STORE = """
        li      t0, 0x80040000
        li      t1, 7
        sd      t1, 0(t0)
        wfi
"""


def machine(text: str = COUNT, **options: Any) -> pv.Machine:
    return pv.Machine(**{"board": "bare", "ram": "1M", **options}).load(pv.asm(text))


# -- parts
def test_default_machine() -> None:
    with pv.Machine() as vm:
        assert vm.config == pv.Config()
        assert [name for _, _, name in vm.bus.map] == [
            "rom", "syscon", "rtc", "vmgenid", "clint", "plic", "uart", *["virtio-empty"] * 8, "ram"]
        assert vm.bus.map[-1] == (RAM_BASE, 256 << 20, "ram")
        assert repr(vm) == "<Machine virt-1 1 hart 256M icount=0>"
        assert vm.hart is vm.harts[0]
        assert vm.hart.pc == 0x1000


def test_64_gib_cost_what_is_touched() -> None:
    with pv.Machine(ram="64G", board="bare") as vm:
        vm.mem.u64[RAM_BASE + (64 << 30) - 8] = 7
        assert vm.mem.u64[RAM_BASE + (64 << 30) - 8] == 7
        assert vm.mem.find(b"\7", RAM_BASE + (64 << 30) - 4096) is not None


def test_disks_come_first_then_virtio_devices_then_empty_slots(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    with pv.Machine(disks=[image], devices=[pv.VirtioRng(seed=1)]) as vm:
        ids = [vm.bus.read(0x1000_1000 + 0x1000 * slot + 8, 4) for slot in range(8)]
        assert ids == [2, 4, 0, 0, 0, 0, 0, 0]
        assert vm.bus.read(0x1000_1000, 4) == 0x74726976


class Register(Device):
    """One 32-bit register that remembers what was written."""

    NAME = "register"
    REGIONS = (Region("register", 0x100),)
    WIDTHS = (4,)
    value = 0

    def read(self, offset: int, width: int) -> int:
        return self.value

    def write(self, offset: int, width: int, value: int) -> None:
        self.value = value


def test_devices_of_the_users_get_a_place_or_bring_one() -> None:
    first, second, third = Register(), Register(), Register()
    with pv.Machine(devices=[first, Placed(third, (0x3000_0000,)), second]) as vm:
        where = [base for base, _, name in vm.bus.map if name == "register"]
        assert where == [0x1100_0000, 0x1100_1000, 0x3000_0000]
        for base, value in zip(where, (1, 2, 3), strict=True):
            vm.bus.write(base, 4, value)
        assert [first.value, second.value, third.value] == [1, 2, 3]


def test_isa_is_resolved_and_shows_in_config_and_device_tree() -> None:
    with pv.Machine(isa="rv64gc_zba_sv39", ram="16M") as vm:
        assert vm.isa == "rv64imafdc_zicntr_zicsr_zifencei_zba_sv39"
        vm.load(kernel=pv.asm("wfi"))
        tree = next(r for r in vm.ranges if r.name == "dtb")
        data = vm.mem[tree.start:tree.end]
        assert b"rv64imafdc_zicntr_zicsr_zifencei_zba\0" in data
        assert b"riscv,sv39\0" in data
        vm.hart.csr.satp = 9 << 60
        assert vm.hart.csr.satp.MODE == 0


def test_the_page_of_extensions_names_just_those_there_are() -> None:
    page = (source_tree() / "docs" / "extensions.md").read_text().partition("## Towards")[0]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    head, *multi = pv.Machine(board="bare", ram="4K").isa.removeprefix("rv64").split("_")
    assert named == {*head, *multi}


def test_equal_isas_are_one_configuration() -> None:
    with pv.Machine(isa="rv64gc") as one, pv.Machine(isa="RV64IMAFDC_zifencei_zicntr") as two:
        assert one.config == two.config


# -- loading
def test_a_program_starts_in_m_mode_with_hart_and_tree() -> None:
    with pv.Machine(harts=2, ram="16M").load(pv.asm("wfi")) as vm:
        for index, hart in enumerate(vm.harts):
            assert (hart.pc, hart.world, hart.a0) == (RAM_BASE, "M", index)
            assert vm.mem[hart.a1:hart.a1 + 4] == b"\xd0\x0d\xfe\xed"


def test_a_kernel_starts_in_s_mode_and_other_harts_wait() -> None:
    with pv.Machine(harts=2, ram="16M").load(kernel=pv.asm("wfi", at=RAM_BASE + 0x20_0000)) as vm:
        assert [(h.pc, h.world, h.state) for h in vm.harts] == [
            (RAM_BASE + 0x20_0000, "HS", "started"), (0x1000, "M", "stopped")]


def test_firmware_starts_from_the_rom_with_its_record() -> None:
    firmware = pv.asm("""
        lwu     t0, 0(a2)       # magic
        ld      t1, 8(a2)       # version
        ld      t2, 16(a2)      # next_addr
        ld      t3, 24(a2)      # next_mode
done:   j       done
    """)
    with pv.Machine(harts=2, ram="16M").load(firmware=firmware, kernel=b"\x13\0\0\0") as vm:
        assert all(hart.pc == 0x1000 and hart.world == "M" for hart in vm.harts)
        assert "auipc" in str(vm.hart.disasm(count=1))
        vm.run(instructions=10_000)
        for index, hart in enumerate(vm.harts):
            assert (hart.a0, hart.t0, hart.t1, hart.t2, hart.t3) == (index, 0x4942534F, 2, RAM_BASE + 0x20_0000, 1)
            assert vm.mem[hart.a1:hart.a1 + 4] == b"\xd0\x0d\xfe\xed"


def test_nothing_loaded_waits_for_ever() -> None:
    with pv.Machine() as vm:
        assert vm.run().reason is pv.StopReason.IDLE


def test_overlaps_name_both() -> None:
    with pv.Machine(ram="16M") as vm, pytest.raises(pv.LoadError, match=r"program 0x80200000.* overlaps program"):
        vm.load(firmware=bytes(0x20_1000), kernel=b"\x13\0\0\0")


def test_a_given_tree_gets_command_line_and_initrd() -> None:
    with pv.Machine(ram="16M").load(kernel=pv.asm("wfi")) as vm:
        start = next(r for r in vm.ranges if r.name == "dtb").start
        tree = vm.mem[start:start + int.from_bytes(vm.mem[start + 4:start + 8], "big")]
    with pv.Machine(ram="16M").load(kernel=pv.asm("wfi"), dtb=bytes(tree), initrd=b"disk", cmdline="hello=1") as vm:
        place = next(r for r in vm.ranges if r.name == "dtb")
        data = vm.mem[place.start:place.end]
        assert b"hello=1\0" in data
        initrd = next(r for r in vm.ranges if r.name == "initrd")
        assert initrd.start.to_bytes(8, "big") in data
        assert vm.mem[initrd.start:initrd.end] == b"disk"


def test_symbols_come_from_assembled_programs() -> None:
    with machine() as vm:
        assert vm.symbols["loop"] == RAM_BASE + 4
        assert "loop" in str(vm.hart.disasm(RAM_BASE + 8, 1))


# -- who may touch it, and when
def test_a_running_machine_is_busy() -> None:
    with machine() as vm:
        thread = threading.Thread(target=vm.run)
        thread.start()
        try:
            while repr(vm) != "<Machine bare 1 hart 1M running>":
                pass
            for touch in (lambda: vm.icount, lambda: vm.hart.a0, lambda: vm.mem[RAM_BASE], vm.digest, vm.run, vm.close,
                          lambda: vm.bus.read(0, 4), lambda: vm.hart.csr.satp, lambda: vm.load(b"x")):
                with pytest.raises(pv.MachineBusy):
                    touch()
            assert "running" in repr(vm.hart)
            vm.console.send("typed while it runs")
            time.sleep(0.02)
        finally:
            vm.stop()
            thread.join()
        assert vm.hart.a0 > 0
        assert [i.data for i in vm.inputs] == [b"typed while it runs"]


class Nosy(Register):
    """Looks at its machine while it runs."""

    vm: pv.Machine

    def read(self, offset: int, width: int) -> int:
        return self.vm.hart.a0


def test_a_machine_is_busy_for_its_own_devices() -> None:
    nosy = Nosy()
    with pv.Machine(devices=[nosy], ram="1M").load(pv.asm("li t0, 0x11000000\nlw a0, 0(t0)\nwfi")) as vm:
        nosy.vm = vm
        with pytest.raises(pv.MachineBusy):
            vm.run()
        assert vm.hart.pc == RAM_BASE + 4
        vm.hart.pc += 4
        assert vm.run().reason is pv.StopReason.IDLE


def test_stop_at_rest_takes_no_effect() -> None:
    with machine() as vm:
        vm.stop()
        assert vm.run(instructions=10).reason is pv.StopReason.INSTRUCTIONS


def test_closing() -> None:
    vm = machine()
    vm.close()
    vm.close()
    assert vm.closed
    assert repr(vm) == "<Machine bare 1 hart 1M closed>"
    assert "closed" in repr(vm.hart)
    for touch in (lambda: vm.icount, lambda: vm.hart.a0, lambda: vm.mem[RAM_BASE], vm.digest, vm.run,
                  lambda: vm.console.send("x"), lambda: vm.load(b"x"), vm.__enter__):
        with pytest.raises(pv.ClosedError):
            touch()
    assert vm.config.board == "bare"


def test_closing_releases_disks_it_opened_and_no_others(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    with pv.Disk(image) as disk:
        vm = pv.Machine(disks=[image, disk])
        opened = [d.disk for d in vm.devices if d.name == "virtio-blk"]
        vm.close()
        assert [d.closed for d in opened] == [True, False]


def test_a_constructor_that_fails_leaves_no_file_open(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    with pytest.raises(pv.HostError):
        pv.Machine(disks=[pv.Disk(image, mode="direct").path, tmp_path / "none.img"])
    gc.collect()
    pv.Disk(image, mode="direct").close()


def test_machines_leave_nothing_behind() -> None:
    gc.collect()
    before = counters()
    for _ in range(5):
        vm = machine()
        vm.run(instructions=1000)
        del vm
        with pv.Machine(ram="16M").load(kernel=pv.asm("wfi")) as other:
            other.run()
    gc.collect()
    after = counters()
    assert {k: after[k] for k in ("frames", "nodes", "pts")} == {k: before[k] for k in ("frames", "nodes", "pts")}


def test_what_survives_pickle_and_copy() -> None:
    with machine() as vm:
        stop = vm.run(instructions=10)
        with pytest.raises(pv.NotReached) as caught:
            vm.run(until="never", instructions=5)
        for value in (vm.config, stop, stop.reason, pv.at("x") | "y", pv.trap(2), vm.hart.csr.mstatus):
            assert pickle.loads(pickle.dumps(value)) == value
            assert copy.copy(value) == value
        assert pickle.loads(pickle.dumps(vm.hart.csr.mstatus)).name == "mstatus"
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.stop) == (str(caught.value), caught.value.stop)
        for refuse in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="can't be pickled or copied"):
                refuse(vm)
    for error in (pv.ConfigError("x"), pv.HostError(2, "x"), pv.AsmError("x", 1, 2), pv.MachineBusy("x")):
        again_error = pickle.loads(pickle.dumps(error))
        assert (type(again_error), str(again_error)) == (type(error), str(error))


# -- the digest
def test_equal_machines_have_equal_digests() -> None:
    with machine() as one, machine() as two, machine(core="switch") as three:
        one.run(instructions=5000)
        two.run(instructions=1234)
        two.run(instructions=5000 - 1234)
        for _ in range(50):
            three.step(100)
        assert one.digest() == two.digest() == three.digest()
        assert len(one.digest()) == 64
        two.step()
        assert one.digest() != two.digest()


def test_the_digest_sees_ram_registers_devices_disks_and_configuration(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(2 << 20))
    disk = pv.Disk(image)
    with pv.Machine(ram="16M", disks=[disk]) as vm, pv.Machine(ram="16M", seed=1) as other:
        seen = [vm.digest(), other.digest()]

        def changed() -> bool:
            seen.append(vm.digest())
            return len(set(seen)) == len(seen)

        vm.mem[RAM_BASE + 0x12345] = 1
        assert changed()
        vm.hart.t3 = 1
        assert changed()
        vm.hart.csr.mscratch = 5
        assert changed()
        vm.hart.ft0 = 1
        assert changed()
        vm.hart.pc = RAM_BASE
        assert changed()
        vm.bus.write(0x1000_0007, 1, 9)
        assert changed()
        vm.console.send("x")
        assert changed()
        disk.write(1 << 20, b"1")
        assert changed()
        disk.write(1 << 20, b"\0")
        assert vm.digest() == seen[-2]
        vm.mem[RAM_BASE + 0x12345] = 0
        vm.mem[RAM_BASE + 0x40_0000:RAM_BASE + 0x40_1000] = bytes(4096)
        assert changed()


def test_the_digest_of_a_disk_is_its_content(tmp_path: Path) -> None:
    old, new = tmp_path / "old.img", tmp_path / "new.img"
    old.write_bytes(bytes(3 << 20) + b"\1" * 512)
    new.write_bytes(bytes(1 << 20) + b"\2" + bytes((2 << 20) - 1) + b"\1" * 512)
    digests = []
    for path, mode in ((old, "overlay"), (new, "overlay"), (new, "direct")):
        with pv.Disk(path, mode=mode) as disk, pv.Machine(disks=[disk]) as vm:  # type: ignore[arg-type]
            if path == old:
                assert vm.digest()
                disk.write(1 << 20, b"\2")
            digests.append(vm.digest())
    assert digests[0] == digests[1] == digests[2]


def test_memory_limit_stops_before_the_store_and_can_be_raised() -> None:
    with machine(STORE, memory_limit=8192) as vm:
        vm.mem[RAM_BASE + 0x8000] = 1
        with pytest.raises(MemoryError, match="memory_limit is 2 frames"):
            vm.mem[RAM_BASE + 0x9000] = 1
        stop = vm.run()
        assert (stop.reason, stop.address) == (pv.StopReason.MEMORY, 0x8004_0000)
        assert "sd" in vm.hart.disasm(stop.pc, 1)[0].text
        assert vm.run().reason is pv.StopReason.MEMORY
        vm.memory_limit = "1M"
        assert vm.memory_limit == 1 << 20
        assert vm.run().reason is pv.StopReason.IDLE
        assert vm.mem.u64[0x8004_0000] == 7


class Reader(Register):
    """Stores to RAM, as DMA does, when its register is read."""

    def read(self, offset: int, width: int) -> int:
        assert self._wiring.memory is not None
        self._wiring.memory.mem_write(0x8004_0000, b"dma")
        return 1


def test_memory_that_dma_lacks_stops_the_machine_too() -> None:
    text = "li t0, 0x11000000\nlw a0, 0(t0)\nwfi"
    with pv.Machine(devices=[Reader()], ram="1M", memory_limit="80K").load(pv.asm(text)) as vm:
        vm.memory_limit = 4096
        stop = vm.run()
        assert (stop.reason, stop.address, stop.pc) == (pv.StopReason.MEMORY, 0x8004_0000, RAM_BASE + 4)
        vm.memory_limit = None
        assert vm.run().reason is pv.StopReason.IDLE
        assert (vm.mem[0x8004_0000:0x8004_0003], vm.hart.a0) == (b"dma", 1)


TOUCH = """
        li      s0, 0x80010000
        li      s1, 0x80090000
next:   sd      s0, 8(s0)
        amoadd.d t0, s0, (s0)
        lr.d    t0, (s0)
        sc.d    t1, s0, (s0)
        cbo.zero (s0)
        li      t2, 0x8000
        add     s0, s0, t2
        bltu    s0, s1, next
        wfi
"""


def test_every_allocation_may_fail_once_and_nothing_shows() -> None:
    with machine(TOUCH) as vm:
        vm.run()
        whole = vm.digest()
    failures = 0
    for after in range(40):
        with machine(TOUCH) as vm:
            vm._board.ram.fail_after = after
            while (stop := vm.run()).reason is pv.StopReason.MEMORY:
                failures += 1
                vm._board.ram.fail_after = -1
            assert stop.reason is pv.StopReason.IDLE
            assert vm.digest() == whole
    assert failures > 15


def test_firmware_of_the_constructor_serves_every_load(tmp_path: Path) -> None:
    (tmp_path / "fw.bin").write_bytes(pv.asm("j ."))
    with pv.Machine(ram="16M", firmware=tmp_path / "fw.bin").load(kernel=b"\x13\0\0\0") as vm:
        assert "fw.bin" in [r.name for r in vm.ranges]
        assert vm.hart.world == "M"
    with pv.Machine(ram="16M", firmware=tmp_path / "fw.bin").load(kernel=pv.asm("wfi"), firmware="builtin") as vm:
        assert vm.hart.world == "HS"
