"""The built-in SBI, called by small guests in S-mode: every extension, its errors, and addresses that are none."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import pyvirt as pv
from pyvirt.board import RAM_BASE
from pyvirt.firmware import sbi
from pyvirt.stop import StopReason

ENTRY = RAM_BASE + 0x20_0000
RAM = 16 << 20
U64 = (1 << 64) - 1

# Makes the calls that Python sets up in its registers, one after the other.
CALLER = """
again:  ecall
        j       again
"""
Call = Callable[..., tuple[int, int]]


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


@pytest.fixture
def vm() -> Iterator[pv.Machine]:
    with pv.Machine(ram=RAM, harts=2).load(kernel=pv.asm(CALLER, at=ENTRY)) as machine:
        yield machine


def caller(vm: pv.Machine) -> Call:
    """Return a function that makes one call on a machine and returns (error, value)."""
    def one(extension: int, function: int, *args: int) -> tuple[int, int]:
        hart = vm.hart
        hart.pc, hart.a7, hart.a6 = ENTRY, extension, function
        for number, value in enumerate((*args, 0, 0, 0, 0, 0, 0)[:6]):
            setattr(hart, f"a{number}", value)
        vm.run(until=pv.at(ENTRY + 4), instructions=20_000)
        return signed(hart.a0), hart.a1
    return one


@pytest.fixture
def call(vm: pv.Machine) -> Call:
    return caller(vm)


def test_base(call: Call) -> None:
    assert call(sbi.BASE, 0) == (0, 2 << 24)
    assert call(sbi.BASE, 1) == (0, sbi.IMPL_ID)
    assert call(sbi.BASE, 2)[0] == 0
    for extension in (sbi.BASE, sbi.TIME, sbi.IPI, sbi.RFENCE, sbi.HSM, sbi.SRST, sbi.DBCN, sbi.PMU, 0, 1, 2, 8):
        assert call(sbi.BASE, 3, extension) == (0, 1)
    for extension in (3, 0x735049 + 1, 0x4E41434C, U64):
        assert call(sbi.BASE, 3, extension) == (0, 0)
    assert [call(sbi.BASE, function) for function in (4, 5, 6)] == [(0, 0)] * 3
    assert call(sbi.BASE, 7) == (sbi.NOT_SUPPORTED, 0)
    assert call(0x1234_5678, 0) == (sbi.NOT_SUPPORTED, 0)


def test_the_payload_finds_what_firmware_leaves(vm: pv.Machine) -> None:
    hart = vm.hart
    assert (hart.world, hart.a0, hart.csr.satp, hart.csr.sstatus.SIE) == ("HS", 0, 0, 0)
    assert vm.mem[hart.a1:hart.a1 + 4] == b"\xd0\x0d\xfe\xed"
    assert hart.csr.medeleg & 1 << 9 == 0
    assert hart.csr.medeleg & 1 << 8
    assert hart.csr.mideleg & 0xFFF == 0x222 | 0x444, "those of a guest are always delegated"


@pytest.mark.parametrize("isa", ["rv64gc", "rv64gc_sstc"])
@pytest.mark.parametrize(("extension", "function"), [(sbi.TIME, 0), (0, 0)])
def test_timer(isa: str, extension: int, function: int) -> None:
    text = f"""
            la      t0, handler
            csrw    stvec, t0
            li      t0, 0x20
            csrs    sie, t0
            csrsi   sstatus, 2
            li      a7, {extension}
            li      a6, {function}
            li      a0, 5000
            ecall
    1:      wfi
            j       1b
            .align  2
    handler:
            rdtime  s0
            csrr    s1, scause
            li      a0, -1
            ecall                   # a timer in the far future clears the interrupt
            csrr    s2, sip
    done:   j       done
    """
    with pv.Machine(ram=RAM, isa=isa).load(kernel=pv.asm(text, at=ENTRY)) as vm:
        vm.run(until=pv.at("done"), instructions=10_000_000)
        assert (vm.hart.s0, vm.hart.s1, vm.hart.s2) == (5000, 1 << 63 | 5, 0)


def test_ipi(vm: pv.Machine, call: Call) -> None:
    assert call(sbi.IPI, 0, 2, 0) == (0, 0)
    assert [h.csr.mip.SSIP for h in vm.harts] == [0, 1]
    vm.harts[1].csr.mip = 0
    assert call(sbi.IPI, 0, 1, 1) == (0, 0)
    assert [h.csr.mip.SSIP for h in vm.harts] == [0, 1]
    assert call(sbi.IPI, 0, 0, U64) == (0, 0)
    assert [h.csr.mip.SSIP for h in vm.harts] == [1, 1]
    for mask, base in ((4, 0), (1, 2), (1, U64 - 1), (U64, 0)):
        assert call(sbi.IPI, 0, mask, base) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.IPI, 1, 1, 0) == (sbi.NOT_SUPPORTED, 0)


@pytest.mark.parametrize(("isa", "functions"), [("rv64gch", 7), ("rv64gc", 3)])
def test_rfence(isa: str, functions: int) -> None:
    """Functions 3 to 6 are the hypervisor's fences, and there with H only."""
    with pv.Machine(ram=RAM, harts=2, isa=isa).load(kernel=pv.asm(CALLER, at=ENTRY)) as vm:
        call = caller(vm)
        for function in range(functions):
            assert call(sbi.RFENCE, function, 3, 0, 0, U64) == (0, 0)
            assert call(sbi.RFENCE, function, 4, 0) == (sbi.INVALID_PARAM, 0)
        for function in range(functions, 9):
            assert call(sbi.RFENCE, function, 1, 0) == (sbi.NOT_SUPPORTED, 0)


# -- harts
def test_hart_start_checks_what_it_is_given(call: Call) -> None:
    assert call(sbi.HSM, 2, 0) == (0, 0)
    assert call(sbi.HSM, 2, 1) == (0, 1)
    assert call(sbi.HSM, 2, 2) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.HSM, 0, 2, ENTRY) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.HSM, 0, 0, ENTRY) == (sbi.ALREADY_AVAILABLE, 0)
    for address in (0, 0x1000, RAM_BASE - 2, RAM_BASE + RAM, ENTRY + 1, U64, U64 - 1):
        assert call(sbi.HSM, 0, 1, address) == (sbi.INVALID_ADDRESS, 0)
    assert call(sbi.HSM, 4) == (sbi.NOT_SUPPORTED, 0)


HARTS = """
        bnez    a0, second
        li      a7, 0x48534d
        li      a6, 0
        li      a0, 1
        la      a1, second
        li      a2, 77
        ecall
1:      j       1b
second: mv      s0, a0
        mv      s1, a1
        csrr    s2, satp
        li      a7, 0x48534d
        li      a6, 1
        ecall                       # stop
        ebreak
"""


def test_harts_start_with_their_argument_and_stop() -> None:
    with pv.Machine(ram=RAM, harts=2).load(kernel=pv.asm(HARTS, at=ENTRY)) as vm:
        vm.run(instructions=20_000)
        second = vm.harts[1]
        assert (second.s0, second.s1, second.s2, second.state) == (1, 77, 0, "stopped")
        assert second.world == "HS"


SUSPEND = """
        li      t0, 0x20
        csrs    sie, t0
        li      a7, 0x54494d45
        li      a6, 0
        li      a0, 5000
        ecall
        li      a7, 0x48534d
        li      a6, 3
        li      a0, {kind}
        la      a1, resumed
        li      a2, 99
        ecall
        mv      s0, a0
        rdtime  s1
        li      s2, 1
done:   j       done
resumed: mv     s0, a1
        rdtime  s1
        li      s2, 2
        j       done
"""


@pytest.mark.parametrize(("kind", "where", "value"), [("0", 1, 0), ("0x80000000", 2, 99)])
def test_a_suspended_hart_wakes_at_its_timer(kind: str, where: int, value: int) -> None:
    with pv.Machine(ram=RAM).load(kernel=pv.asm(SUSPEND.format(kind=kind), at=ENTRY)) as vm:
        vm.run(instructions=100)
        assert vm.hart.state == "suspended"
        vm.run(until=pv.at("done"), instructions=10_000_000)
        assert (vm.hart.s0, vm.hart.s2, vm.hart.state) == (value, where, "started")
        assert 5000 <= vm.hart.s1 < 5002


def test_suspend_checks_what_it_is_given(vm: pv.Machine, call: Call) -> None:
    assert call(sbi.HSM, 3, 5) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.HSM, 3, 0x1000_0000) == (sbi.NOT_SUPPORTED, 0)
    for address in (0, ENTRY + 1, RAM_BASE + RAM):
        assert call(sbi.HSM, 3, 0x8000_0000, address) == (sbi.INVALID_ADDRESS, 0)
    assert vm.hart.state == "started"


# -- reset
@pytest.mark.parametrize(("kind", "reason", "found"), [
    (0, 0, ("poweroff", 0)), (0, 1, ("poweroff", 1)), (1, 0, ("reboot", 0)), (2, 0, ("reboot", 0))])
def test_reset_ends_the_machine(kind: int, reason: int, found: tuple[str, int]) -> None:
    text = f"li a7, {sbi.SRST}\nli a6, 0\nli a0, {kind}\nli a1, {reason}\necall\nj ."
    with pv.Machine(ram=RAM).load(kernel=pv.asm(text, at=ENTRY)) as vm:
        stop = vm.run()
        assert (stop.reason, (stop.kind, stop.exit_code)) == (StopReason.EXIT, found)


def test_reset_checks_what_it_is_given(call: Call) -> None:
    assert call(sbi.SRST, 0, 3, 0) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.SRST, 0, 0, 2) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.SRST, 0, 0xF000_0000, 0) == (sbi.NOT_SUPPORTED, 0)
    assert call(sbi.SRST, 1) == (sbi.NOT_SUPPORTED, 0)


def test_the_old_shutdown() -> None:
    with pv.Machine(ram=RAM).load(kernel=pv.asm("li a7, 8\necall\nj .", at=ENTRY)) as vm:
        assert vm.run().kind == "poweroff"


# -- console
def test_debug_console_writes(vm: pv.Machine, call: Call) -> None:
    buffer = RAM_BASE + 0x10_0000
    vm.mem[buffer:buffer + 5] = b"hello"
    assert call(sbi.DBCN, 0, 5, buffer, 0) == (0, 5)
    assert call(sbi.DBCN, 2, 0x121) == (0, 0)
    assert call(1, 0, ord("?"))[0] == 0
    assert vm.console.raw == b"hello!?"
    assert call(sbi.DBCN, 0, 0, buffer, 0) == (0, 0)
    assert call(sbi.DBCN, 0, 1 << 20, buffer, 0) == (0, sbi.DBCN_MAX)
    assert call(sbi.DBCN, 3) == (sbi.NOT_SUPPORTED, 0)


def test_debug_console_reads(vm: pv.Machine, call: Call) -> None:
    buffer = RAM_BASE + 0x10_0000
    assert call(sbi.DBCN, 1, 16, buffer, 0) == (0, 0)
    assert call(2, 0)[0] == -1
    vm.console.send("typed, more than a FIFO has room for")
    assert call(2, 0)[0] == ord("t")
    assert call(sbi.DBCN, 1, 4, buffer, 0) == (0, 4)
    assert vm.mem[buffer:buffer + 5] == b"yped\0"
    assert call(sbi.DBCN, 1, 4096, buffer, 0) == (0, 31)
    assert vm.mem[buffer:buffer + 31] == b", more than a FIFO has room for"


@pytest.mark.parametrize("function", [0, 1])
@pytest.mark.parametrize(("size", "low", "high"), [
    (1, 0, 0), (1, 0x1000_0000, 0), (2, RAM_BASE + RAM - 1, 0), (1, RAM_BASE, 1), (U64, RAM_BASE, 0),
    (RAM + 1, RAM_BASE, 0), (1, U64, U64), (1, RAM_BASE - 1, 0)])
def test_debug_console_refuses_what_is_not_ram(vm: pv.Machine, call: Call, function: int, size: int, low: int,
                                               high: int) -> None:
    vm.console.send("kept")
    assert call(sbi.DBCN, function, size, low, high) == (sbi.INVALID_PARAM, 0)
    assert vm.console.raw == b""
    assert call(2, 0)[0] == ord("k")


def test_a_write_of_firmware_matches_like_the_uart(vm: pv.Machine) -> None:
    text = "early: li a7, 1\nli a0, 65\necall\nli t0, 0x10000000\nli t1, 66\nsb t1, 0(t0)\nli a0, 67\necall\nj ."
    with pv.Machine(ram=RAM).load(kernel=pv.asm(text, at=ENTRY)) as other:
        assert other.run(until="ABC").match == "ABC"


def test_reading_into_memory_that_is_not_there_loses_no_input() -> None:
    text = f"""
            li a7, {sbi.DBCN}
            li a6, 1
            li a0, 4
            li a1, 0x80a00000
            li a2, 0
            ecall
    done:   j done
    """
    with pv.Machine(ram=RAM).load(kernel=pv.asm(text, at=ENTRY)) as vm:
        vm.console.send("abcd")
        vm.memory_limit = 4096
        stop = vm.run()
        assert (stop.reason, stop.address) == (StopReason.MEMORY, 0x80A0_0000)
        vm.memory_limit = None
        vm.run(until=pv.at("done"), instructions=1000)
        assert vm.mem[0x80A0_0000:0x80A0_0004] == b"abcd"


# -- counters
def test_pmu(vm: pv.Machine, call: Call) -> None:
    assert call(sbi.PMU, 0) == (0, 3)
    assert call(sbi.PMU, 1, 0) == (0, 0xC00 | 63 << 12)
    assert call(sbi.PMU, 1, 2) == (0, 0xC02 | 63 << 12)
    assert call(sbi.PMU, 1, 1) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.PMU, 1, 3) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.PMU, 2, 0, 7, 0, 1) == (0, 0)
    assert vm.hart.csr.mcountinhibit.CY == 1
    assert call(sbi.PMU, 2, 0, 7, sbi.AUTO_START | sbi.CLEAR_VALUE, 2) == (0, 2)
    assert vm.hart.csr.mcountinhibit.IR == 0
    assert vm.hart.csr.minstret < 10
    assert call(sbi.PMU, 2, 0, 7, 0, 0xF0001) == (sbi.NOT_SUPPORTED, 0)
    assert call(sbi.PMU, 2, 0, 1, 0, 2) == (sbi.NOT_SUPPORTED, 0)
    assert call(sbi.PMU, 2, 0, 0xFF, 0, 1) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.PMU, 3, 0, 1, 1, 1000) == (0, 0)
    assert 1000 <= vm.hart.csr.mcycle < 1010
    assert call(sbi.PMU, 3, 0, 1, 0) == (sbi.ALREADY_STARTED, 0)
    assert call(sbi.PMU, 4, 2, 1) == (0, 0)
    assert call(sbi.PMU, 4, 2, 1) == (sbi.ALREADY_STOPPED, 0)
    assert call(sbi.PMU, 4, 0, 2) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.PMU, 5, 0) == (sbi.INVALID_PARAM, 0)
    assert call(sbi.PMU, 9) == (sbi.NOT_SUPPORTED, 0)


def test_what_firmware_cannot_answer_is_a_stop() -> None:
    with pv.Machine(ram=RAM).load(kernel=pv.asm("j .", at=ENTRY)) as vm:
        vm.hart.csr.medeleg = 0
        vm.hart.pc = 0
        stop = vm.run()
        assert stop.reason is StopReason.FIRMWARE
        assert stop.trap is not None
        assert (stop.trap.cause, stop.trap.pc, stop.trap.world_from) == (1, 0, "HS")
        assert "the built-in firmware has no answer to instruction access fault" in str(stop)
