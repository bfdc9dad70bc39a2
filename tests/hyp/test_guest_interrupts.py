"""Interrupts of guests: guest external lines with hgeip, hgeie and VGEIN, the guest's timer, and its time.

Spike has no guest external interrupts, and time does not pass in lock-step: these follow the privileged manual, "H",
"Hypervisor Guest External Interrupt Registers", "Hypervisor Time Delta Register", and Sstc's vstimecmp.
"""
from __future__ import annotations

from typing import Any

import pytest

import pyvirt as pv
from pyvirt.board import RAM_BASE
from tests.lockstep.hyp_machines import HS, VS, VU, U

SGEI, VSEI, VSTI = 1 << 12, 1 << 10, 1 << 6
INTERRUPT = 1 << 63
NAMES = {HS: "HS", U: "U", VS: "VS", VU: "VU"}
M_TRAP, HS_TRAP, VS_TRAP, CODE = (RAM_BASE + n for n in (0x100, 0x200, 0x300, 0))
CORES = pytest.mark.parametrize("core", ["threaded", "switch"])


def machine(world: int, text: str = "1: nop\n j 1b", **options: Any) -> pv.Machine:
    """Return a machine in a world, both stages bare, with each handler an endless loop."""
    vm = pv.Machine(board="bare", ram="64K", **options)
    vm.load(pv.asm(text, at=CODE))
    for at in (M_TRAP, HS_TRAP, VS_TRAP):
        vm.mem[at:at + 4] = pv.asm("j .", at=at)
    csr = vm.hart.csr
    csr.pmpaddr0, csr.pmpcfg0 = (1 << 54) - 1, 0x1F
    csr.mtvec, csr.stvec, csr.vstvec = M_TRAP, HS_TRAP, VS_TRAP
    csr.mcounteren = csr.hcounteren = csr.scounteren = 7
    csr.menvcfg = csr.henvcfg = 1 << 63
    csr.stimecmp = csr.vstimecmp = -1
    vm.hart.world, vm.hart.pc = NAMES[world], CODE
    return vm


def taken(vm: pv.Machine) -> tuple[str, int] | None:
    """Run a little and return the world that took a trap and its cause, None for none."""
    vm.run(instructions=10, check=False)
    csr = vm.hart.csr
    where = {M_TRAP: ("M", csr.mcause), HS_TRAP: ("HS", csr.scause), VS_TRAP: ("VS", csr.vscause)}.get(vm.hart.pc)
    return None if where is None else (where[0], int(where[1]))


@CORES
@pytest.mark.parametrize("world", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("enabled", [0, 1 << 3, 1 << 5, 1 << 3 | 1 << 5])
def test_sgei_is_what_hgeie_enables_of_hgeip(core: str, world: int, enabled: int) -> None:
    with machine(world, hgeie=5, core=core) as vm:
        csr = vm.hart.csr
        csr.hgeie, csr.hie = enabled, SGEI
        csr.sstatus = 2
        vm.hart.set_guest_line(3, True)
        assert csr.hgeip == 1 << 3
        assert csr.hip & SGEI == csr.mip & SGEI == (SGEI if enabled >> 3 & 1 else 0)
        assert taken(vm) == (("HS", INTERRUPT | 12) if enabled >> 3 & 1 else None)
        vm.hart.set_guest_line(3, False)
        assert csr.hgeip == csr.hip == 0


@pytest.mark.parametrize("vgein", range(6))
def test_vgein_chooses_the_line_that_is_the_guests_external_interrupt(vgein: int) -> None:
    with machine(VS, hgeie=5) as vm:
        csr = vm.hart.csr
        csr.set("hstatus", VGEIN=vgein)
        csr.hideleg, csr.vsie = VSEI, 1 << 9
        csr.vsstatus = 2
        for number in range(1, 6):
            vm.hart.set_guest_line(number, number == 2 or number == 4)
        assert csr.hgeip == 1 << 2 | 1 << 4
        up = vgein in (2, 4)
        assert (csr.hip & VSEI, csr.vsip & 1 << 9) == ((VSEI, 1 << 9) if up else (0, 0))
        assert csr.hvip == 0  # which is what software asserts
        assert taken(vm) == (("VS", INTERRUPT | 9) if up else None)


@pytest.mark.parametrize("delegated", [False, True])
@pytest.mark.parametrize("world", NAMES, ids=NAMES.values())
def test_who_takes_the_guests_external_interrupt(world: int, delegated: bool) -> None:
    with machine(world, hgeie=1) as vm:
        csr = vm.hart.csr
        csr.set("hstatus", VGEIN=1)
        csr.hideleg, csr.hie = VSEI if delegated else 0, VSEI
        csr.sstatus = csr.vsstatus = 2
        vm.hart.set_guest_line(1, True)
        if not delegated:
            assert taken(vm) == ("HS", INTERRUPT | 10)
        else:
            assert taken(vm) == (("VS", INTERRUPT | 9) if world in (VS, VU) else None)


@CORES
def test_a_line_ends_the_wait_of_its_hypervisor(core: str) -> None:
    with machine(HS, "wfi\n nop\n 1: j 1b", hgeie=2, core=core) as vm:
        vm.hart.csr.hgeie, vm.hart.csr.hie = 4, SGEI
        assert vm.run(check=False).reason is pv.StopReason.IDLE
        vm.hart.set_guest_line(2, True)
        vm.run(instructions=5)
        assert vm.hart.pc == CODE + 8


def test_lines_are_state_and_belong_to_their_hart() -> None:
    with machine(HS, hgeie=63, harts=2) as vm:
        vm.harts[1].set_guest_line(63, True)
        assert (vm.harts[0].csr.hgeip, vm.harts[1].csr.hgeip) == (0, 1 << 63)
        before = vm.digest()
        moment = vm.snapshot()
        vm.harts[1].set_guest_line(63, False)
        assert vm.digest() != before
        vm.restore(moment)
        assert (vm.digest(), vm.harts[1].csr.hgeip) == (before, 1 << 63)


@pytest.mark.parametrize("number", [0, 6, -1, 64, None])
def test_a_line_that_there_is_not_is_named(number: Any) -> None:
    with machine(HS, hgeie=5) as vm, pytest.raises(pv.ConfigError, match="set_guest_line"):
        vm.hart.set_guest_line(number, True)


def test_hgeip_is_written_by_wires_only() -> None:
    with machine(HS, "csrw hgeip, x0", hgeie=5) as vm:
        vm.hart.set_guest_line(1, True)
        with pytest.raises(pv.ConfigError, match="hgeip: is read-only"):
            vm.hart.csr.hgeip = 0
        assert taken(vm) == ("M", 2)
        assert vm.hart.csr.hgeip == 2


# ---- time -------------------------------------------------------------------------------------------------------
@CORES
@pytest.mark.parametrize("delta", [0, 1, 1 << 40, (1 << 64) - 5, 1 << 63])
@pytest.mark.parametrize("world", NAMES, ids=NAMES.values())
def test_a_guests_time_is_ahead_by_htimedelta(core: str, world: int, delta: int) -> None:
    with machine(world, "rdtime a0\n 1: j 1b", core=core) as vm:
        vm.hart.csr.htimedelta = delta
        vm.run(instructions=12_345)
        vm.hart.pc = CODE
        now = int(vm.hart.csr.time)
        vm.run(instructions=1)
        assert now > 10
        assert vm.hart.a0 == (now + (delta if world in (VS, VU) else 0)) & (1 << 64) - 1


@CORES
@pytest.mark.parametrize("delta", [0, 1000, (1 << 64) - 7, 1 << 63])
@pytest.mark.parametrize("world", [VS, VU], ids=["VS", "VU"])
def test_the_guests_timer_comes_due_in_its_own_time(core: str, world: int, delta: int) -> None:
    with machine(world, core=core) as vm:
        csr = vm.hart.csr
        csr.htimedelta, csr.hideleg, csr.vsie, csr.vsstatus = delta, VSTI, 1 << 5, 2
        csr.vstimecmp = (delta + 40) & (1 << 64) - 1
        if delta + 40 >> 64:  # its time is near the end, and beyond what it is compared with
            assert taken(vm) == ("VS", INTERRUPT | 5)
            return
        vm.run(until=pv.at(VS_TRAP), instructions=100_000)
        assert vm.hart.pc == VS_TRAP
        assert (csr.time, csr.vscause) == (40, INTERRUPT | 5)


def test_the_timer_is_off_without_stce() -> None:
    for register in ("menvcfg", "henvcfg"):
        with machine(VS) as vm:
            csr = vm.hart.csr
            setattr(csr, register, 0)
            csr.hideleg, csr.vsie, csr.vsstatus, csr.vstimecmp = VSTI, 1 << 5, 2, 0
            assert csr.hip & VSTI == 0
            csr.hvip = VSTI
            assert csr.hip & VSTI == VSTI
            assert taken(vm) == ("VS", INTERRUPT | 5)
