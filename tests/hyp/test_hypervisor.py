"""Hypervisors written in Python: exits and what the methods see, guest memory, devices, state, and the two examples."""
from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.nesting.guestinsn import decode_access, decode_hyper, decode_transformed
from pyvirt.nesting.guestmem import BLOCK, PAGE

RAM = 0x8000_0000
OFF = "\nli a7, 0x53525354; li a6, 0; li a0, 0; li a1, 0; ecall\n"
UART = 0x1000_0000
Guest = Callable[[str], Path]


def run(source: str, *, kind: type[pv.Hypervisor] = pv.Hypervisor, memory: str = "4M",
        machine: dict[str, Any] | None = None, **options: Any) -> pv.Hypervisor:
    """Run a program as a guest until it powers off."""
    vm = pv.Machine(ram="16M", **(machine or {}))
    guest = kind(vm, memory=memory, **options)
    guest.load(pv.asm(source + OFF, at=RAM))
    stop = guest.run_guest(timeout=20)
    assert (stop.reason, stop.kind) == (pv.StopReason.EXIT, "poweroff"), stop
    return guest


# -- exits
def test_a_guest_runs_in_vs_mode_without_exits_of_its_own() -> None:
    guest = run("li t0, 100\n1: addi t0, t0, -1; bnez t0, 1b\nli s0, 7")
    assert guest.machine.hart.s0 == 7
    assert guest.exits == {10: 1}


def test_ecalls_are_answered_or_left_to_the_sbi() -> None:
    seen = []

    class Answers(pv.Hypervisor):
        def on_ecall(self, vcpu: pv.Vcpu, ext: int, fid: int, args: list[int]) -> tuple[int, int] | None:
            seen.append((ext, fid, args[:2], vcpu.world))
            if ext == 0x0A00_0000:
                return -3, args[0] + args[1]
            return super().on_ecall(vcpu, ext, fid, args)

    guest = run("li a7, 0x0A000000; li a6, 5; li a0, 3; li a1, 4; ecall; mv s0, a0; mv s1, a1; "
                "li a7, 0x10; li a6, 3; li a0, 0x54494D45; ecall; mv s2, a1", kind=Answers)
    assert seen[0] == (0x0A00_0000, 5, [3, 4], "VS")
    assert (guest.machine.hart.s0, guest.machine.hart.s1, guest.machine.hart.s2) == (2**64 - 3, 7, 1)


def test_console_through_sbi_meets_until_at_its_instruction() -> None:
    vm = pv.Machine(ram="16M")
    guest = pv.Hypervisor(vm, memory="4M")
    guest.load(pv.asm("li a7, 0x4442434E; li a6, 2; li a0, 'h'; ecall; li a0, 'i'; ecall; li s0, 1; li a0, '!'; ecall"
                      + OFF, at=RAM))
    stop = guest.run_guest(until="hi")
    assert (stop.match, vm.hart.s0) == ("hi", 0)
    assert guest.run_guest(until="!").reason is pv.StopReason.UNTIL
    assert vm.hart.s0 == 1


def test_a_hypervisor_csr_is_illegal_to_a_guest_without_nesting() -> None:
    guest = run("la t0, 1f; csrw stvec, t0; csrr t1, hgatp; j 2f\n.balign 4\n1: csrr s0, scause; csrr s1, stval\n2:")
    assert guest.machine.hart.s0 == 2
    assert guest.machine.hart.s1 == int.from_bytes(bytes(pv.asm("csrr t1, hgatp")), "little")


def test_what_lies_nowhere_is_an_access_fault() -> None:
    guest = run("la t0, 1f; csrw stvec, t0; li t1, 0x4000; li s0, 0; 0: sw zero, 4(t1)\n.balign 4\n"
                "1: csrr s0, scause; csrr s1, stval; csrr s2, sstatus")
    hart = guest.machine.hart
    assert (hart.s0, hart.s1, hart.s2 >> 8 & 1) == (7, 0x4004, 1)


def test_traps_of_the_guest_can_be_waited_for() -> None:
    vm = pv.Machine(ram="16M")
    guest = pv.Hypervisor(vm, memory="4M", demand=True)
    guest.load(pv.asm("li t0, 0x80100000; sd t0, 0(t0); li s0, 1" + OFF, at=RAM))
    stop = guest.run_guest(until=pv.trap(23))
    assert stop.trap is not None
    assert (stop.trap.cause, stop.trap.tval, stop.trap.tval2 << 2) == (23, 0x8010_0000, 0x8010_0000)
    assert (stop.trap.world_from, stop.trap.world_to) == ("VS", "HS")
    assert guest.run_guest().kind == "poweroff"
    assert vm.hart.s0 == 1


def test_hooks_and_traces_see_the_exits_and_the_returns() -> None:
    vm = pv.Machine(ram="16M")
    guest = pv.Hypervisor(vm, memory="4M", demand=True)
    guest.load(pv.asm("li t0, 0x80100000; sd t0, 0(t0)" + OFF, at=RAM))
    worlds = []
    with vm.on_trap(lambda trap: worlds.append((trap.cause, vm.hart.world, len(guest.memory)))), vm.trace() as trace:
        guest.run_guest()
    assert worlds == [(20, "HS", 0), (23, "HS", 1), (10, "HS", 2)]
    assert [type(record).__name__ for record in trace.records] == ["Trap", "Return"] * 3


def test_what_a_method_raises_leaves_run_and_is_served_on_the_next() -> None:
    class Moody(pv.Hypervisor):
        def on_guest_page_fault(self, vcpu: pv.Vcpu, gpa: int, access: str) -> None:
            if gpa == 0x8010_0000 and self.memory.read(RAM + 0x2000, 1) == b"\0":
                raise LookupError("not today")
            super().on_guest_page_fault(vcpu, gpa, access)

    vm = pv.Machine(ram="16M")
    guest = Moody(vm, memory="4M", demand=True)
    guest.load(pv.asm("li t0, 0x80100000; sd t0, 0(t0); ld s0, 0(t0)" + OFF, at=RAM))
    for _ in range(2):
        with pytest.raises(LookupError, match="not today"):
            guest.run_guest()
        assert vm.hart.world == "HS"
    guest.mem[RAM + 0x2000] = 1
    assert guest.run_guest().kind == "poweroff"
    assert vm.hart.s0 == 0x8010_0000


def test_a_method_may_use_the_machine_and_stop_it() -> None:
    class Stopping(pv.Hypervisor):
        def on_ecall(self, vcpu: pv.Vcpu, ext: int, fid: int, args: list[int]) -> tuple[int, int] | None:
            if ext == 9:
                self.machine.stop()
                return 0, self.machine.hart.s0 + len(self.machine.mem[RAM:RAM + 4])
            return super().on_ecall(vcpu, ext, fid, args)

    vm = pv.Machine(ram="16M")
    guest = Stopping(vm, memory="4M")
    guest.load(pv.asm("li s0, 5; li a7, 9; ecall; mv s1, a1" + OFF, at=RAM))
    assert guest.run_guest().reason is pv.StopReason.STOPPED
    assert (vm.hart.a1, vm.hart.s1, vm.hart.world) == (9, 0, "VS")
    assert guest.run_guest().kind == "poweroff"
    assert vm.hart.s1 == 9


def test_a_handler_that_does_nothing_is_told_as_a_trap_loop() -> None:
    class Idle(pv.Hypervisor):
        def on_guest_page_fault(self, vcpu: pv.Vcpu, gpa: int, access: str) -> None:
            pass

    vm = pv.Machine(ram="16M")
    guest = Idle(vm, memory="4M", demand=True)
    guest.load(pv.asm("nop", at=RAM))
    stop = guest.run_guest(timeout=20)
    assert stop.reason is pv.StopReason.TRAP_LOOP
    assert stop.trap is not None
    assert stop.trap.cause == 20


def test_many_calls_in_a_row_are_no_trap_loop() -> None:
    guest = run("li a7, 0x10; li a6, 0\n" + "ecall\n" * 1500)
    assert guest.exits[10] == 1501


# -- memory
def test_pages_are_given_when_touched_and_counted() -> None:
    guest = run("li t0, 0x80100000; li t1, 16; li t2, 4096\n"
                "1: sd t1, 0(t0); add t0, t0, t2; addi t1, t1, -1; bnez t1, 1b", demand=True)
    assert len(guest.memory) == 17      # one of code
    assert guest.exits[23] == 16
    assert guest.memory.read(0x8010_3000, 8) == (13).to_bytes(8, "little")
    assert guest.mem.u64[0x8010_F000] == 1


def test_a_page_taken_away_comes_back_with_what_it_held() -> None:
    vm = pv.Machine(ram="16M")
    guest = pv.Hypervisor(vm, memory="4M")
    guest.load(pv.asm("li t0, 0x80200000; li t1, 7; sd t1, 0(t0); li a7, 0x10; ecall; ld s0, 0(t0); ld s1, 8(t0)" + OFF,
                      at=RAM))
    guest.run_guest(until=pv.trap(10))
    guest.memory.unmap(0x8020_0000)
    assert 0x8020_1000 >> 12 in guest.memory.mapped
    assert guest.run_guest().kind == "poweroff"
    assert vm.hart.s0 == 7
    assert guest.exits[21] == 1
    guest.memory.discard(0x8020_0000)
    assert guest.memory.read(0x8020_0000, 8) == bytes(8)


def test_accessed_pages_are_sampled() -> None:
    vm = pv.Machine(ram="16M")
    guest = pv.Hypervisor(vm, memory="4M", demand=True)
    guest.load(pv.asm("li t0, 0x80100000; sd t0, 0(t0); li t1, 0x80200000; sd t1, 0(t1); li a7, 0x10; ecall;"
                      "ld s0, 0(t1)" + OFF, at=RAM))
    guest.run_guest(until=pv.trap(10))
    assert guest.memory.accessed(clear=True) == [RAM, 0x8010_0000, 0x8020_0000]
    assert guest.memory.accessed() == []
    guest.run_guest()
    assert guest.memory.accessed() == [RAM, 0x8020_0000]


def test_lazy_restore_is_a_policy() -> None:
    """A guest goes on in another machine with its registers; its pages follow when they are touched."""
    first = pv.Hypervisor(pv.Machine(ram="16M"), memory="4M")
    first.load(pv.asm("""
        li t0, 0x80100000; li t1, 64; li t2, 4096; mv t3, t0
        1: sd t1, 8(t3); add t3, t3, t2; addi t1, t1, -1; bnez t1, 1b
        middle: ld s0, 8(t0); li t4, 0x80105000; ld s1, 8(t4); li t4, 0x8013f000; ld s2, 8(t4)""" + OFF, at=RAM))
    first.run_guest(until=pv.at(first.machine.symbols["middle"]))
    fetched: list[int] = []

    class Lazy(pv.Hypervisor):
        def on_guest_page_fault(self, vcpu: pv.Vcpu, gpa: int, access: str) -> None:
            page = gpa & ~0xFFF
            self.mem[page:page + 0x1000] = first.mem[page:page + 0x1000]
            fetched.append(page)
            super().on_guest_page_fault(vcpu, gpa, access)

    second = Lazy(pv.Machine(ram="16M"), memory="4M", demand=True)
    second.start(entry=first.vcpus[0].pc)
    for number in range(1, 32):
        second.vcpus[0].set_x(number, first.vcpus[0].x(number))
    assert second.run_guest().kind == "poweroff"
    hart = second.machine.hart
    assert (hart.s0, hart.s1, hart.s2) == (64, 59, 1)
    assert fetched == [RAM, 0x8010_0000, 0x8010_5000, 0x8013_F000]


def test_write_protection_is_a_policy() -> None:
    dirty = []

    class Tracking(pv.Hypervisor):
        def on_guest_page_fault(self, vcpu: pv.Vcpu, gpa: int, access: str) -> None:
            if access == "store":
                dirty.append(gpa)
                self.memory.map(gpa)
            else:
                self.memory.map(gpa, "rx")

    guest = run("li t0, 0x80100000; ld t1, 0(t0); ld t1, 8(t0); sd t0, 16(t0); sd t0, 24(t0)", kind=Tracking,
                demand=True)
    assert dirty == [0x8010_0010]
    assert guest.exits[21] == 1


def test_eager_memory_takes_large_pages_and_splits_one() -> None:
    vm = pv.Machine(ram="16M")
    memory = pv.Hypervisor(vm, memory="4M").memory
    assert memory.stage.find(RAM)[0] == 1
    assert len(memory) == (4 << 20) // PAGE
    before = memory.stage.translate(RAM + 5 * PAGE + 8)
    memory.unmap(RAM + 4 * PAGE)
    assert memory.stage.translate(RAM + 4 * PAGE) is None
    assert memory.stage.translate(RAM + 5 * PAGE + 8) == before
    assert before is not None
    assert before[0] == memory.backing[(RAM >> 12) + 5] + 8
    left = memory.pool.left
    memory.stage.map(RAM, memory.backing[RAM >> 12], 2, level=1)   # over the table of its parts
    assert memory.pool.left == left + PAGE


def test_memory_that_the_machine_has_not_is_refused_by_name() -> None:
    with pytest.raises(pv.ConfigError, match=r"all 16 MiB of the machine are used.*Machine\(ram=\)"):
        pv.Hypervisor(pv.Machine(ram="16M"), memory="16M")
    guest = pv.Hypervisor(pv.Machine(ram="16M"), memory="64M", demand=True)
    guest.load(pv.asm("li t0, 0x80000000; li t2, 4096\n1: sd t0, 0(t0); add t0, t0, t2; j 1b", at=RAM + BLOCK))
    with pytest.raises(pv.ConfigError, match="all 16 MiB"):
        guest.run_guest(timeout=20)
    with pytest.raises(pv.GuestAddressError, match="gpa 0x84000000"):
        guest.memory.read(0x8400_0000, 1)
    with pytest.raises(pv.ConfigError, match="'rwx'"):
        guest.memory.map(RAM, "w")


# -- devices and interrupts
@pytest.mark.parametrize("trap", [(), ("uart",)], ids=["direct", "trapped"])
def test_the_machines_uart_serves_the_guest(trap: tuple[str, ...]) -> None:
    guest = run("li t0, 0x10000000; li t1, 'x'; sb t1, 0(t0); lbu s0, 5(t0); li t1, 10; sb t1, 0(t0)", trap=trap)
    assert guest.machine.console.tail() == "x"
    assert guest.machine.hart.s0 == 0x60
    assert guest.exits[23] == 2 * len(trap)


@pytest.mark.parametrize("htinst", ["zero", "transformed"])
def test_mmio_is_decoded_and_served_by_a_method(htinst: str) -> None:
    seen = []

    class Device(pv.Hypervisor):
        def on_mmio(self, vcpu: pv.Vcpu, gpa: int, access: str, width: int, value: int) -> int:
            if gpa >> 12 != 0x4_0000:
                return super().on_mmio(vcpu, gpa, access, width, value)
            seen.append((gpa & 0xFFF, access, width, value))
            return 0xFFFF_FFFF_FFFF_FF80

    guest = run("li a0, 0x40000000; li a1, -2; sb a1, 1(a0); sh a1, 2(a0); sw a1, 4(a0); sd a1, 8(a0); c.sw a1, 16(a0);"
                "c.sd a1, 24(a0); lb s0, 0(a0); lbu s1, 0(a0); lh s2, 2(a0); lwu s3, 4(a0); lw s4, 4(a0); ld s5, 8(a0);"
                "c.lw a2, 4(a0); mv s6, a2; c.ld a3, 8(a0); mv s7, a3", kind=Device, machine={"htinst": htinst})
    assert seen[:6] == [(1, "store", 1, 0xFE), (2, "store", 2, 0xFFFE), (4, "store", 4, 0xFFFF_FFFE),
                        (8, "store", 8, 2**64 - 2), (16, "store", 4, 0xFFFF_FFFE), (24, "store", 8, 2**64 - 2)]
    hart = guest.machine.hart
    assert [hart.s0, hart.s1, hart.s2, hart.s3] == [2**64 - 128, 0x80, 2**64 - 128, 0xFFFF_FF80]
    assert [hart.s4, hart.s5, hart.s6, hart.s7] == [2**64 - 128] * 4


def test_decoding() -> None:
    def word(text: str) -> int:
        return int.from_bytes(bytes(pv.asm(text)), "little")

    assert decode_access(word("lbu t3, 4(t0)")) == (False, 1, False, 28, 4)
    assert decode_access(word("c.sdsp a5, 8(sp)")) == (True, 8, False, 15, 2)
    assert decode_access(word("c.lwsp a5, 8(sp)")) == (False, 4, True, 15, 2)
    assert decode_access(word("fld fa0, 0(a0)")) is None
    assert decode_access(word("amoadd.w a0, a1, (a2)")) is None
    assert decode_transformed(0x3000) is None
    assert decode_transformed(word("lw a5, 0(x0)") & ~2) == (False, 4, True, 15, 2)
    for text, store, width, signed, execute in (
            ("hlv.w a0, (a1)", False, 4, True, False), ("hlv.bu a0, (a1)", False, 1, False, False),
            ("hlvx.hu a0, (a1)", False, 2, False, True), ("hsv.d a0, (a1)", True, 8, False, False)):
        assert decode_hyper(word(text)) == (store, width, signed, execute, 10, 11)
    assert decode_hyper(word("hsv.d a0, (a1)") | 1 << 7) is None


TIMER = """
    la t0, handler; csrw stvec, t0; li t0, 32; csrw sie, t0; csrsi sstatus, 2
    rdtime s1; addi a0, s1, 200; {arm}
1:  wfi; beqz s0, 1b
    j 2f
.balign 4
handler: csrr s0, scause; rdtime s2; li a0, -1; {arm}; sret
2:  sub s2, s2, s1
"""


@pytest.mark.parametrize(("isa", "arm", "exits"), [
    (None, "csrw stimecmp, a0", 1), (None, "li a7, 0x54494D45; li a6, 0; ecall", 3),
    ("rv64gch_sv39", "li a7, 0x54494D45; li a6, 0; ecall", 4)], ids=["stimecmp", "sbi", "sbi without Sstc"])
def test_the_guests_timer(isa: str | None, arm: str, exits: int) -> None:
    guest = run(TIMER.format(arm=arm), machine={"isa": isa})
    assert guest.machine.hart.s0 == 1 << 63 | 5
    assert 200 <= guest.machine.hart.s2 < 205
    assert sum(guest.exits.values()) == exits


CLAIM = """
    la t0, handler; csrw stvec, t0; li t0, 512; csrw sie, t0; csrsi sstatus, 2
    li t0, 0x0C000000 + 4 * 10; li t1, 1; sw t1, 0(t0)          # priority
    li t0, 0x0C002080; li t1, 1 << 10; sw t1, 0(t0)             # enable for hart 0 in S-mode
    li t0, 0x10000000; li t1, 1; sb t1, 1(t0)                   # receive interrupts of the UART
1:  wfi; li t0, 3; bltu s0, t0, 1b
    j 2f
.balign 4
handler:
    csrr s1, scause; li t2, 0x0C201004; lw s2, 0(t2); li t0, 0x10000000; lbu t1, 0(t0)
    slli s3, s3, 8; or s3, s3, t1; addi s0, s0, 1; sw s2, 0(t2); sret
2:
"""


def test_external_interrupts_reach_the_guest_through_the_plic() -> None:
    vm = pv.Machine(ram="16M")
    guest = pv.Hypervisor(vm, memory="4M")
    guest.load(pv.asm(CLAIM + OFF, at=RAM))
    guest.run_guest(instructions=1000)
    assert guest.exits == {}
    for letter in "abc":
        vm.console.send(letter)
        stop = guest.run_guest(instructions=1000)
    assert stop.kind == "poweroff"
    hart = vm.hart
    assert (hart.s1, hart.s2, hart.s3) == (1 << 63 | 9, 10, 0x616263)
    assert guest.exits == {1 << 63 | 9: 3, 21: 3, 23: 3, 10: 1}


class Counter16(pv.Device):
    """Counts stores to it, and raises its line on every fourth; a load returns the count and lowers it."""

    NAME = "counter16"
    REGIONS = (pv.Region("counter16", 0x1000),)
    WIDTHS = (4,)
    IRQS = 1

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def read(self, offset: int, width: int) -> int:
        self._wiring.lines[0].set(False)
        return self.count

    def write(self, offset: int, width: int, value: int) -> None:
        self.count += value
        self._wiring.lines[0].set(self.count % 4 == 0)

    def _save(self) -> dict[str, Any]:
        return {"count": self.count}

    def _load(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_an_emulated_device_with_an_interrupt() -> None:
    guest = run("""
        la t0, handler; csrw stvec, t0; li t0, 512; csrw sie, t0; csrsi sstatus, 2
        li t0, 0x0C000000 + 4 * 50; li t1, 1; sw t1, 0(t0)
        li t0, 0x0C002084; li t1, 1 << (50 - 32); sw t1, 0(t0)
        li a0, 0x40000000; li a1, 1; sw a1, 0(a0); sw a1, 0(a0); sw a1, 0(a0); mv s5, s4; sw a1, 0(a0); j 2f
    .balign 4
    handler: li t2, 0x0C201004; lw s2, 0(t2); lw s4, 0(a0); sw s2, 0(t2); sret
    2:  lw s6, 0(a0)""", devices=[pv.Placed(Counter16(), (0x4000_0000,), (50,))])
    hart = guest.machine.hart
    assert (hart.s2, hart.s4, hart.s5, hart.s6) == (50, 4, 0, 4)


def test_a_second_vcpu_starts_by_sbi_and_takes_an_ipi() -> None:
    guest = run("""
        li a7, 0x48534D; li a6, 0; li a0, 1; la a1, second; li a2, 77; ecall; mv s0, a0
    1:  ld t0, flag; beqz t0, 1b
        li a7, 0x735049; li a6, 0; li a0, 2; li a1, 0; ecall
    2:  ld t0, flag; li t1, 2; bne t0, t1, 2b
        j out
    second: mv s1, a1; csrsi sie, 2; li t0, 1; sd t0, flag, t1
    3:  wfi; csrr t0, sip; andi t0, t0, 2; beqz t0, 3b
        csrci sip, 2; li t0, 2; sd t0, flag, t1
    4:  wfi; j 4b
    .balign 8
    flag: .dword 0
    out:""", machine={"harts": 2})
    assert guest.machine.harts[0].s0 == 0
    assert guest.machine.harts[1].s1 == 77
    assert [repr(vcpu)[:10] for vcpu in guest.vcpus] == ["<Vcpu 0 VS", "<Vcpu 1 VS"]


# -- options
def test_wrong_options_are_named() -> None:
    with pytest.raises(pv.ConfigError, match="lacks h"):
        pv.Hypervisor(pv.Machine(isa="rv64gc"), memory="1M")
    with pytest.raises(pv.ConfigError, match="lacks sstc"):
        pv.Hypervisor(pv.Machine(isa="rv64gch"), memory="1M", nested=True)
    with pytest.raises(pv.ConfigError, match=r"'gpu' is not allowed; allowed: .*uart"):
        pv.Hypervisor(pv.Machine(), memory="1M", trap=["gpu"])
    with pytest.raises(pv.ConfigError, match="sv32x4"):
        pv.Hypervisor(pv.Machine(), memory="1M", mode="sv32x4")
    vm = pv.Machine()
    pv.Hypervisor(vm, memory="1M")
    with pytest.raises(pv.ConfigError, match="allowed: a new Machine"):
        pv.Hypervisor(vm, memory="1M")


def test_the_device_tree_shows_what_the_guest_can_reach() -> None:
    tree = pv.Hypervisor(pv.Machine(), memory="1M", passthrough=["uart", "plic"]).device_tree(cmdline="x=1")
    assert b"serial@10000000" in tree
    assert b"rtc@" not in tree
    assert b"virtio_mmio" not in tree
    assert b"rv64imafdc_" in tree
    assert b"svadu" not in tree
    assert b"rv64imafdch_" in pv.Hypervisor(pv.Machine(), memory="1M", nested=True).device_tree()


@pytest.mark.parametrize("mode", ["sv39x4", "sv48x4", "sv57x4"])
def test_modes_of_the_g_stage(mode: str) -> None:
    guest = run("li t0, 0x80100000; sd t0, 0(t0); ld s0, 0(t0)", mode=mode, demand=True)
    assert guest.machine.hart.s0 == 0x8010_0000
    assert int(guest.machine.hart.csr.hgatp) >> 60 == {"sv39x4": 8, "sv48x4": 9, "sv57x4": 10}[mode]


# -- state
class Keeps(pv.Hypervisor):
    def __init__(self, vm: pv.Machine, **options: Any) -> None:
        super().__init__(vm, **options)
        self.faults = 0

    def on_guest_page_fault(self, vcpu: pv.Vcpu, gpa: int, access: str) -> None:
        self.faults += 1
        super().on_guest_page_fault(vcpu, gpa, access)

    def save(self) -> dict[str, Any]:
        return {"faults": self.faults}

    def restore(self, state: Any) -> None:
        self.faults = state["faults"]


def copied(guest: pv.Hypervisor, into: pv.Hypervisor) -> None:
    """Give another machine the whole state of one: core, RAM, devices and hypervisor."""
    old, new = guest.machine, into.machine
    new._board.core.mem_write(RAM, old._board.core.mem_read(RAM, old.config.ram))
    for device, other in zip(old.devices, new.devices, strict=True):
        other.state = device.state
    into.state = guest.state
    new._board.core.state = old._board.core.state


def test_state_moves_a_guest_to_another_machine() -> None:
    def make() -> Keeps:
        return Keeps(pv.Machine(ram="16M"), memory="4M", demand=True)

    program = pv.asm("li t0, 0x80100000; li t1, 64; li t2, 4096\n"
                     "1: sd t1, 0(t0); add t0, t0, t2; addi t1, t1, -1; bnez t1, 1b" + OFF, at=RAM)
    first, second = make(), make()
    first.load(program)
    first.run_guest(instructions=100)
    copied(first, second)
    assert second.faults == first.faults > 10
    assert second.machine.digest() == first.machine.digest()
    for guest in (first, second):
        assert guest.run_guest().kind == "poweroff"
    assert second.faults == first.faults == 65
    assert second.machine.digest() == first.machine.digest()


def test_state_names_what_it_can_not_hold() -> None:
    class Forgetful(Keeps):
        save = pv.Hypervisor.save

    with pytest.raises(pv.PyvirtError, match=r"Forgetful keeps faults and has no save\(\)"):
        _ = Forgetful(pv.Machine(), memory="1M").state
    guest = Keeps(pv.Machine(), memory="1M")
    with pytest.raises(pv.ConfigError, match="class 'Hypervisor', expected 'Keeps'"):
        guest.state = pv.Hypervisor(pv.Machine(), memory="1M").state


# -- the examples
@pytest.fixture
def example(source: Path) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        path = source / "docs" / "examples" / f"{name}.py"
        assert len(path.read_text(encoding="utf-8").splitlines()) < 100
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return load


@pytest.mark.slow
def test_example_linux_with_demand_paging(example: Any, guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    done = example("demand_paging").main(str(guest("Image-7.2.zst")), str(guest("initramfs-mini.cpio.zst")))
    out = capsys.readouterr().out
    assert "the end: poweroff" in out
    assert sum(done.first.values()) == len(done.memory)
    assert 10_000 < len(done.memory) < 40_000


@pytest.mark.slow
def test_example_linux_with_kvm(example: Any, guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    done = example("nested_kvm").main(str(guest("Image-7.2.zst")), str(guest("initramfs-nest.cpio.zst")),
                                      "mods=kvm run=/root/kvmrun.sh", "KVMRUN-OK")
    out = capsys.readouterr().out
    assert "KVMRUN-OK at icount" in out
    assert done.causes[10] == 1002      # 1,000 calls of the program, set_timer and the last one
    assert done.causes[23] >= 1020      # its stores to the console and to the device
    assert {trap.world_to for trap in done.reflected} == {"HS"}
