"""Running: counts, conditions, stops, interruption, device events, the host's clock, HTIF."""
from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import threading
import time
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.board import RAM_BASE
from pyvirt.devices.base import Device, Region
from pyvirt.stop import StopReason

COUNT = """
        li      a0, 0
loop:   addi    a0, a0, 1
        j       loop
"""
UART = """
        li      s0, 0x10000000
        la      s1, text
next:   lbu     t0, 0(s1)
        beqz    t0, done
        sb      t0, 0(s0)
        addi    s1, s1, 1
        j       next
done:   j       done
text:   .asciz  "one two\\r\\nthree \\x1b[1mfo\\x1b[0mur login: five"
"""


def machine(text: str, **options: Any) -> pv.Machine:
    return pv.Machine(**{"board": "bare", "ram": "1M", **options}).load(pv.asm(text))


def printer(**options: Any) -> pv.Machine:
    return machine(UART, board="virt-1", **options)


# -- counting
def test_run_n_is_n_times_step() -> None:
    with machine(COUNT) as one, machine(COUNT) as many:
        stop = one.run(instructions=101)
        for _ in range(101):
            last = many.step()
        assert stop == last
        assert (stop.reason, stop.icount, stop.pc, one.hart.a0) == (StopReason.INSTRUCTIONS, 101, RAM_BASE + 4, 50)
        assert one.digest() == many.digest()


def test_run_of_nothing() -> None:
    with machine(COUNT) as vm:
        assert vm.run(instructions=0).icount == vm.step(0).icount == 0


def test_random_slices_change_nothing() -> None:
    rng = random.Random(3)
    with printer() as straight, printer() as sliced:
        straight.run(instructions=5_000)
        while sliced.icount < 5_000:
            sliced.run(instructions=min(rng.randrange(0, 50), 5_000 - sliced.icount))
        assert straight.digest() == sliced.digest()
        assert straight.console.raw == sliced.console.raw


# -- conditions on the console
def test_text_stops_at_the_instruction_that_sent_its_last_byte() -> None:
    with printer() as vm:
        stop = vm.run(until="two")
        assert (stop.reason, stop.match, stop.condition) == (StopReason.UNTIL, "two", "console text 'two'")
        assert vm.console.raw == b"one two"
        assert "lbu" not in vm.hart.disasm(stop.pc, 1)[0].text
        assert vm.hart.disasm(stop.pc, 1)[0].text.startswith("addi")
        position = stop.icount
    with printer() as vm:
        while (stop := vm.run(until="two", instructions=3, check=False)).reason is not StopReason.UNTIL:
            pass
        assert stop.icount == position


def test_each_match_begins_behind_the_one_before() -> None:
    with printer() as vm:
        vm.run(until="o")
        assert vm.console.raw == b"o"
        vm.run(until="o")
        assert vm.console.raw == b"one two"
        with pytest.raises(pv.NotReached):
            vm.run(until="one", instructions=1000)


def test_what_was_printed_before_the_run_counts() -> None:
    with printer() as vm:
        vm.run(instructions=1000)
        stop = vm.run(until="login: ")
        assert (stop.icount, stop.match) == (1000, "login: ")
        assert vm.run(until="five").icount == 1000


def test_regular_expressions_and_alternatives() -> None:
    with printer() as vm:
        stop = vm.run(until=re.compile(r"t\w+"))
        assert (stop.match, vm.console.raw) == ("tw", b"one tw")
        stop = vm.run(until=re.compile("^three", re.MULTILINE) | pv.at("done"))  # type: ignore[operator]
        assert stop.match == "three"
        stop = vm.run(until=pv.at("done") | "nothing" | re.compile("f[a-z]{3} log"))
        assert (stop.match, stop.condition) == ("four log", "console text matching 'f[a-z]{3} log'")
        assert vm.run(until=pv.at("done") | "nothing").condition == "pc at done"


def test_matching_ignores_escapes_and_reads_newlines() -> None:
    with printer() as vm:
        assert vm.run(until="two\nthree four").match == "two\nthree four"
        assert b"\x1b[1m" in vm.console.raw
        assert vm.console.text == "one two\nthree four"


def test_not_reached_says_where_and_shows_the_tail() -> None:
    with printer() as vm:
        with pytest.raises(pv.NotReached) as caught:
            vm.run(until="six", instructions=1000)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.stop.reason is StopReason.INSTRUCTIONS
        message = str(caught.value)
        assert "console text 'six' was not reached" in message
        assert "icount 1000" in message
        assert "login: five" in message
        assert vm.run(until="six", instructions=0, check=False) == caught.value.stop


# -- other conditions
def test_at_stops_before_the_instruction_and_not_where_the_run_begins() -> None:
    with machine(COUNT) as vm:
        assert vm.run(until=pv.at("loop")).icount == 1
        assert vm.run(until=pv.at("loop")).icount == 3
        assert vm.run(until=pv.at(RAM_BASE + 8)).icount == 4
        assert vm.hart.a0 == 2
        with pytest.raises(pv.ConfigError, match="symbol 'lop' is not known; did you mean 'loop'"):
            vm.run(until=pv.at("lop"))


ACCESSES = """
        li      s0, 0x80001000
        li      s1, 0x80002000
        sd      s0, 0(s0)               # warms the page up
        ld      a0, 0(s0)
        sd      s0, 0x100(s0)
        amoadd.d a1, s0, (s0)
        sw      s0, 0xfe(s0)            # misaligned, over the border of 0x100
        ld      a2, -4(s1)              # over the border of a page
        lr.d    a3, (s0)
        sc.d    a4, s0, (s0)
        cbo.zero (s0)
        sb      s0, 0x40(s1)
        ecall
"""


@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize(("pa", "size", "kind", "seen"), [
    (0x80001000, 8, "store", ["sd s0,0(s0)", "amoadd.d a1,s0,(s0)", "sc.d a4,s0,(s0)", "cbo.zero (s0)"]),
    (0x80001000, 8, "load", ["ld a0,0(s0)", "amoadd.d a1,s0,(s0)", "lr.d a3,(s0)"]),
    (0x80001100, 1, "any", ["sd s0,256(s0)", "sw s0,254(s0)"]),
    (0x80002000, 4, "load", ["ld a2,-4(s1)"]),
    (0x80002041, 7, "any", []),
    (0x80002040, 1, "store", ["sb s0,64(s1)"]),
])
def test_access_stops_behind_each_that_touches_the_range(core: str, pa: int, size: int, kind: str,
                                                         seen: list[str]) -> None:
    with machine(ACCESSES, core=core) as vm, machine(ACCESSES, core=core) as other:
        found = []
        stop = vm.run(until=pv.access(pa, size, kind) | pv.trap(11), instructions=100)
        while stop.trap is None:
            assert stop.address is not None
            found.append(stop.pc - 4)
            stop = vm.run(until=pv.access(pa, size, kind) | pv.trap(11), instructions=100)
        assert [str(other.hart.disasm(at, 1)[0]).split("  ")[-1].strip() for at in found] == seen
        other.run(until=pv.trap(11))
        assert vm.digest() == other.digest()


def test_access_wants_ram() -> None:
    with machine(COUNT) as vm:
        with pytest.raises(pv.ConfigError, match=r"0x10000000\.\.\.0x10000008 is not RAM"):
            vm.run(until=pv.access(0x1000_0000))
        for wrong in ({"pa": -1}, {"pa": 0, "size": 0}, {"pa": 0, "kind": "write"}, {"pa": "start"}):
            with pytest.raises(pv.ConfigError, match=r"^access: "):
                pv.access(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_at_changes_nothing_but_the_stop(core: str) -> None:
    with machine(COUNT, core=core) as plain, machine(COUNT, core=core) as watched:
        plain.run(instructions=3000)
        stops = 0
        while watched.icount < 3000:
            stop = watched.run(until=pv.at("loop"), instructions=3000 - watched.icount, check=False)
            stops += stop.reason is StopReason.UNTIL
        assert stops == 1500
        assert plain.digest() == watched.digest()


def test_trap_stops_behind_the_delivery() -> None:
    text = """
            la      t0, handler
            csrw    mtvec, t0
            ecall
    after:  .word   0
            .align  2
    handler: j      handler
    """
    with machine(text) as vm:
        stop = vm.run(until=pv.trap(11))
        assert stop.trap is not None
        assert (stop.trap.cause, stop.trap.pc) == (11, RAM_BASE + 12)
        assert (stop.trap.world_from, stop.trap.world_to) == ("M", "M")
        assert stop.pc == vm.symbols["handler"]
        assert str(stop.trap).startswith("ecall from M (cause 0xb) at pc 0x8000000c")
        vm.hart.pc = vm.symbols["after"]
        stop = vm.run(until=pv.trap())
        assert stop.trap is not None
        assert (stop.trap.cause, stop.trap.tval) == (2, 0)


def test_interrupts_can_be_waited_for() -> None:
    text = """
            la      t0, handler
            csrw    mtvec, t0
            li      t0, 0x2000000
            li      t1, 1
            csrwi   mie, 8
            csrsi   mstatus, 8
            sw      t1, 0(t0)
    here:   j       here
            .align  2
    handler: j      handler
    """
    with machine(text, board="virt-1") as vm:
        stop = vm.run(until=pv.trap(3, interrupt=True))
        assert stop.trap is not None
        assert stop.trap.cause == 1 << 63 | 3
        assert stop.condition == "trap machine software interrupt"


def test_calls_of_the_built_in_firmware_are_traps_too() -> None:
    with pv.Machine(ram="16M").load(kernel=pv.asm("li a7, 0x10\nli a6, 0\necall\nwfi")) as vm:
        stop = vm.run(until=pv.trap(9))
        assert stop.trap is not None
        assert (stop.trap.world_from, stop.trap.world_to) == ("HS", "M")
        assert vm.hart.a1 == 2 << 24


def test_a_callable_is_asked_at_multiples_of_its_period() -> None:
    asked = []
    with machine(COUNT) as vm:
        def enough(m: pv.Machine) -> bool:
            asked.append(m.icount)
            return m.hart.a0 >= 100
        stop = vm.run(until=pv.when(enough, every=50))
        assert (stop.icount, stop.condition) == (200, "enough() true")
        assert asked == [0, 50, 100, 150, 200]
        assert vm.run(until=lambda m: m.icount > 300_000).icount == 400_000
    with machine(COUNT) as vm:
        vm.step(7)
        asked.clear()
        vm.run(until=pv.when(enough, every=50))
        assert asked == [50, 100, 150, 200]


def test_an_exception_of_a_callable_leaves_and_the_machine_goes_on() -> None:
    with machine(COUNT) as vm:
        with pytest.raises(ZeroDivisionError):
            vm.run(until=pv.when(lambda m: m.hart.a0 // 0, every=10))
        assert vm.run(instructions=10).icount == 10


# -- ends
def test_idle_says_so() -> None:
    with machine("wfi\nj .") as vm:
        stop = vm.run()
        assert stop.reason is StopReason.IDLE
        assert "nothing can ever happen again" in str(stop)


def test_trap_loop_is_diagnosed() -> None:
    with machine("csrw mtvec, zero\nebreak") as vm:
        stop = vm.run()
        assert stop.reason is StopReason.TRAP_LOOP
        assert stop.trap is not None
        assert (stop.trap.cause, stop.trap.pc, stop.trap.tval) == (1, 0, 0)
        assert "instruction access fault" in str(stop)


@pytest.mark.parametrize(("value", "kind", "code"), [
    (0x5555, "poweroff", 0), (0x7777, "reboot", 0), (0x3333 | 5 << 16, "fail", 5)])
def test_exits(value: int, kind: str, code: int) -> None:
    with machine(f"li t0, 0x100000\nli t1, {value}\nsw t1, 0(t0)\nj .", board="virt-1") as vm:
        stop = vm.run()
        assert (stop.reason, stop.kind, stop.exit_code) == (StopReason.EXIT, kind, code)
        before = vm.digest()
        assert vm.run() == stop
        assert vm.run(until="x", check=False) == stop
        assert vm.digest() == before


def test_timeout_and_stop_act_within_50_ms() -> None:
    with machine(COUNT) as vm:
        began = time.monotonic()
        assert vm.run(timeout=0.1).reason is StopReason.TIMEOUT
        assert 0.1 <= time.monotonic() - began < 0.3
        asked: list[float] = []

        def stop() -> None:
            asked.append(time.monotonic())
            vm.stop()
        threading.Timer(0.1, stop).start()
        assert vm.run().reason is StopReason.STOPPED
        assert time.monotonic() - asked[0] < 0.15  # 50 ms, on a host that has other things to do


def test_ctrl_c_comes_between_two_instructions() -> None:
    with machine(COUNT) as vm, machine(COUNT) as straight:
        for _ in range(3):
            threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                vm.run()
        straight.run(instructions=vm.icount)
        assert vm.digest() == straight.digest()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_users_is_called_and_the_run_goes_on() -> None:
    seen: list[int] = []
    old = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with machine(COUNT) as vm:
            threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT)).start()
            assert vm.run(timeout=0.15).reason is StopReason.TIMEOUT
    finally:
        signal.signal(signal.SIGINT, old)
    assert seen == [signal.SIGINT]


def test_async_runs_can_be_cancelled_and_resumed() -> None:
    async def body() -> int:
        task = asyncio.create_task(vm.run_async())
        await asyncio.sleep(0.05)
        with pytest.raises(pv.MachineBusy):
            vm.icount  # noqa: B018 - the access is what is tested
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        first = vm.icount
        assert (await vm.run_async(instructions=1000)).reason is StopReason.INSTRUCTIONS
        never = asyncio.create_task(vm.run_async())
        never.cancel()
        with pytest.raises(asyncio.CancelledError):
            await never
        with pytest.raises(pv.NotReached):
            await vm.run_async(until="text", instructions=10)
        return first

    with machine(COUNT) as vm, machine(COUNT) as straight:
        assert asyncio.run(body()) > 0
        straight.run(instructions=vm.icount)
        assert vm.digest() == straight.digest()


# -- exceptions of devices
class Fragile(Device):
    """Fails as often as it is told to, then answers."""

    NAME = "fragile"
    REGIONS = (Region("fragile", 8),)
    failures: tuple[BaseException, ...] = ()

    def read(self, offset: int, width: int) -> int:
        if self.failures:
            error, *rest = self.failures
            self.failures = tuple(rest)
            raise error
        return 42


class Odd(BaseException):
    pass


def test_exceptions_of_a_device_leave_unchanged_and_the_access_is_repeated() -> None:
    device = Fragile()
    device.failures = (KeyError("first"), Odd("second"))
    with machine("li t0, 0x11000000\nld a0, 0(t0)\nj .", board="virt-1", devices=[device]) as vm:
        errors = device.failures
        for error in errors:
            with pytest.raises(type(error)) as caught:
                vm.run()
            assert caught.value is error
            assert caught.traceback[-1].name == "read"
            assert "ld" in vm.hart.disasm(count=1)[0].text
        vm.run(instructions=10)
        assert vm.hart.a0 == 42


# -- time
def test_time_counts_instructions() -> None:
    with machine(COUNT) as vm:
        vm.run(instructions=12_345)
        assert (vm.time, vm.icount) == (123, 12_345)


def test_idle_time_jumps_to_the_timer() -> None:
    text = """
            li      t0, 0x2004000
            li      t1, 50000
            sd      t1, 0(t0)
            li      t2, 0x80
            csrs    mie, t2
            wfi
            rdtime  a0
            j       .
    """
    with machine(text, board="virt-1") as vm:
        began = time.monotonic()
        vm.run(instructions=5_000_100)
        assert vm.hart.a0 == 50_000
        assert time.monotonic() - began < 1
    with machine(text, board="virt-1") as vm:
        for _ in range(5001):
            vm.run(instructions=1000)
        assert vm.hart.a0 == 50_000


def test_the_hosts_clock_is_followed_and_logged() -> None:
    with machine(COUNT, clock="host") as vm:
        began = time.monotonic()
        vm.run(timeout=0.1)
        ticks = (time.monotonic() - began) * 1e7
        assert 0.5 * ticks < vm.time < 1.5 * ticks
        clocks = [i for i in vm.inputs if i.kind == "clock"]
        assert clocks
        assert [i.data for i in clocks] == sorted(i.data for i in clocks)
        stood = vm.time
        time.sleep(0.05)
        vm.run(instructions=1000)
        assert vm.time - stood < 200_000


# -- HTIF
PROTOCOL = """
        la      s0, tohost
        la      s1, fromhost
        li      t1, 0x0101000000000041
        sd      t1, 0(s0)
        li      t1, 0x0101000000000042
        sd      t1, 0(s0)
wait:   ld      t2, 0(s1)
        beqz    t2, wait
        sd      zero, 0(s1)
        la      t1, call
        sd      t1, 0(s0)
        ld      s2, 0(t1)
        sd      zero, 0(s1)
        li      t1, 0x0100000000000000
        sd      t1, 0(s0)
read:   ld      a0, 0(s1)
        beqz    a0, read
        li      t1, 15
        sd      t1, 0(s0)
        j       .
        .align  3
tohost: .dword  0
fromhost: .dword 0
call:   .dword  64, 1, text, 3
text:   .ascii  "xyz"
"""


@pytest.mark.parametrize("board", ["bare", "virt-1"])
def test_htif_prints_reads_and_ends(board: str) -> None:
    with machine(PROTOCOL, board=board) as vm:
        assert vm.run(until="ABxyz").match == "ABxyz"
        assert vm.run(instructions=1000).reason is StopReason.INSTRUCTIONS
        assert vm.hart.s2 == 3
        vm.console.send("Z")
        stop = vm.run()
        assert (stop.reason, stop.kind, stop.exit_code) == (StopReason.EXIT, "htif", 7)
        assert vm.hart.a0 & 0xFF == ord("Z")
        assert vm.mem.u64[vm.symbols["tohost"]] == 0


def test_htif_is_the_same_however_it_is_sliced() -> None:
    with machine(PROTOCOL) as straight, machine(PROTOCOL) as sliced:
        for vm in (straight, sliced):
            vm.console.send("Z")
        straight.run()
        while sliced.run(instructions=1).reason is not StopReason.EXIT:
            pass
        assert straight.icount == sliced.icount
        assert straight.digest() == sliced.digest()


@pytest.mark.parametrize("request_", [0xFFFF_FFFF_FFFE, 0x0202_0000_0000_0001, 0x0000_8000_0000_0002])
def test_htif_survives_nonsense(request_: int) -> None:
    text = f"la s0, tohost\nli t1, {request_}\nsd t1, 0(s0)\nj .\n.align 3\ntohost: .dword 0\nfromhost: .dword 0"
    with machine(text) as vm:
        assert vm.run(instructions=1000).reason is StopReason.INSTRUCTIONS


# -- worlds
def test_a_trap_record_names_the_worlds() -> None:
    text = """
            la      t0, handler
            csrw    mtvec, t0
            csrw    stvec, t0
            li      t0, 1 << 10 | 1 << 21
            csrw    medeleg, t0
            li      t0, -1
            csrw    pmpaddr0, t0
            csrwi   pmpcfg0, 0x1f
            li      t0, 1 << 39 | 1 << 11       # MPV, MPP = S
            csrs    mstatus, t0
            la      t0, guest
            csrw    mepc, t0
            mret
    guest:  ecall
            .align  2
    handler: j      handler
    """
    with machine(text) as vm:
        stop = vm.run(until=pv.trap(10))
        assert stop.trap is not None
        assert (stop.trap.world_from, stop.trap.world_to, stop.trap.pc) == ("VS", "HS", vm.symbols["guest"])
        vm.hart.world = "VS"
        vm.hart.csr.hgatp = 8 << 60 | RAM_BASE + 0x4000 >> 12
        vm.hart.csr.medeleg = 1 << 20
        vm.hart.pc = 0x2000
        stop = vm.run(until=pv.trap(20))
        assert stop.trap is not None
        assert (stop.trap.world_from, stop.trap.world_to, stop.trap.tval2, stop.trap.gva) == (
            "VS", "HS", 0x2000 >> 2, True)
        assert str(stop.trap).startswith("instruction guest-page fault (cause 0x14) at pc 0x2000")


def test_a_clock_set_forward_brings_a_devices_event_at_once() -> None:
    text = """
            la      t0, handler
            csrw    mtvec, t0
            li      t0, 0x101000
            lw      s2, 0(t0)
            lw      s3, 4(t0)
            li      t1, 100000000       # a tenth of a second from now
            add     s2, s2, t1
            sw      s3, 12(t0)
            sw      s2, 8(t0)
            li      t1, 1
            sw      t1, 16(t0)
            li      t2, 0xc000000
            sw      t1, 44(t2)          # priority of source 11
            li      t3, 0xc002000
            li      t1, 0x800
            sw      t1, 0(t3)
            csrw    mie, t1
            csrsi   mstatus, 8
            li      t0, 0x200bff8
            li      t1, 5000000
            sd      t1, 0(t0)           # half a second has passed
    next:   j       next
            .align  2
    handler: j      handler
    """
    seen = set()
    for step in (1000, 1, 7):
        with machine(text, board="virt-1") as vm:
            while vm.icount < 1000:
                vm.run(instructions=min(step, 1000 - vm.icount))
            assert vm.hart.pc == vm.symbols["handler"]
            assert vm.hart.csr.mepc == vm.symbols["next"]
            seen.add(vm.digest())
    assert len(seen) == 1


def test_every_stop_reads_as_a_sentence() -> None:
    for reason in StopReason:
        stop = pv.Stop(reason=reason, pc=0x8000_0000, icount=5)
        assert str(stop).endswith("at pc 0x80000000, icount 5")
        assert repr(stop) == f"Stop(reason={reason.name}, pc=0x80000000, icount=5)"
