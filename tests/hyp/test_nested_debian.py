"""Debian's KVM and QEMU boot a Debian kernel inside a Debian guest, by the commands of docs/nested-debian.md.

Needs what `pyvirt pull debian --with qemu-system-riscv` caches. Beside it, a stand-in for other hypervisors: a payload
in HS-mode that asks firmware and interrupt controller for what they need, under each firmware.
"""
from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvirt import Machine, StopReason, asm
from pyvirt.fetch import pull
from tests import needs
from tests.api.cli_guests import Command

PACKAGE = "qemu-system-riscv"


@pytest.fixture
def pyvirt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, for which the nested guest is what was pulled last."""
    found = pull.cached([PACKAGE])
    if found is None:
        needs.missing("nested", f"`pyvirt pull debian --with {PACKAGE}` has not filled {pull.cache_dir()}")
    monkeypatch.setattr(pull, "cached", lambda: found)
    return Command(capsys, monkeypatch)


def documented(source: Path, part: str) -> list[str]:
    """Return the arguments of the one documented command that has `part`."""
    text = (source / "docs/nested-debian.md").read_text(encoding="utf-8")
    blocks = [b.replace("\\\n", " ") for b in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
    (command,) = [b for b in blocks if part in b]
    program, *arguments = shlex.split(command)
    assert program == "pyvirt"
    return arguments


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_debian_guest_boots_in_a_debian_guest(pyvirt: Command, source: Path) -> None:
    done = pyvirt(*documented(source, "-accel kvm"))
    assert done.code == 0, done.err
    levels = re.findall(r"^\[ +0\.000000\] Linux version \S+-riscv64", done.out, re.MULTILINE)
    assert len(levels) == 2
    # L2's machine is QEMU's: only L1 has the hypervisor extension to offer.
    assert done.out.count("hypervisor extension available") == 1
    assert done.out.count("GUEST-INIT-OK") == 2
    assert done.out.count("reboot: Power down") == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_harts_run_a_guest_with_two_vcpus(pyvirt: Command, source: Path) -> None:
    done = pyvirt(*documented(source, "-smp 2"))
    assert done.code == 0, done.err
    assert done.out.count("smp: Brought up 1 node, 2 CPUs") == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_typed_and_all_power_off(pyvirt: Command, source: Path) -> None:
    done = pyvirt(*documented(source, "run=/guest/once"))
    assert done.code == 0, done.err
    assert done.out.count("GUEST-INIT-OK") == 2
    assert done.out.count("reboot: Power down") == 2


# What a hypervisor asks of the machine before its first guest. Hart A starts hart B; each takes the UART's interrupt by
# the PLIC's context of its own S-mode, and its timer's by the firmware; the G-stage takes Sv39x4; firmware makes remote
# fences of guests on both harts, once both run: OpenSBI refuses them for harts that are stopped.
PAYLOAD = """
start:  mv      s0, a0
        li      s1, 0
        la      t0, failed
        csrw    stvec, t0
        li      t0, 8
        slli    t0, t0, 60
        csrw    hgatp, t0
        csrr    t1, hgatp
        bne     t0, t1, failed
        csrw    hgatp, x0
        hfence.gvma x0, x0
        jal     claims
        li      a7, 0x48534d            # hart_start
        li      a6, 0
        xori    a0, s0, 1
        la      a1, second
        li      a2, 0x1234
        ecall
        bnez    a0, failed
        la      t1, flag
wait:   lw      t0, 0(t1)
        beqz    t0, wait
        li      s2, 3                   # hfence_gvma_vmid, hfence_gvma, hfence_vvma_asid, hfence_vvma
fences: li      a7, 0x52464e43
        mv      a6, s2
        li      a0, 3
        li      a1, 0
        li      a2, 0
        li      a3, -1
        li      a4, 1
        ecall
        bnez    a0, failed
        addi    s2, s2, 1
        li      t0, 7
        bne     s2, t0, fences
        la      s2, text
        j       say
second: mv      s0, a0
        la      t0, failed
        csrw    stvec, t0
        li      t0, 0x1234
        bne     a1, t0, failed
        jal     claims
        la      t1, flag
        li      t0, 1
        fence   rw, rw
        sw      t0, 0(t1)
idle:   wfi
        j       idle
claims: li      t1, 0xc000000           # source 10, priority 1
        li      t0, 1
        sw      t0, 40(t1)
        slli    t2, s0, 1
        addi    t2, t2, 1               # context 2 * hart + 1 is S-mode's
        slli    t3, t2, 7
        li      t1, 0xc002000
        add     t1, t1, t3
        li      t0, 0x400
        sw      t0, 0(t1)               # enabled there only
        slli    t3, t2, 12
        li      t4, 0xc200000
        add     t4, t4, t3
        sw      x0, 0(t4)               # threshold
        li      t5, 0x10000000
        li      t0, 2
        sb      t0, 1(t5)               # IER: transmitter empty
pend:   csrr    t0, sip
        andi    t0, t0, 0x200
        beqz    t0, pend
        lw      t3, 4(t4)               # claim
        li      t0, 10
        bne     t3, t0, failed
        lbu     t0, 2(t5)
        sb      x0, 1(t5)
        sw      t3, 4(t4)
        sw      x0, 0(t1)
        rdtime  a0                      # set_timer, and its interrupt
        addi    a0, a0, 200
        li      a7, 0x54494d45
        li      a6, 0
        ecall
        bnez    a0, failed
tick:   csrr    t0, sip
        andi    t0, t0, 0x20
        beqz    t0, tick
        li      a0, -1
        ecall
        csrr    t0, sip
        andi    t0, t0, 0x20
        bnez    t0, failed
        ret
failed: la      s2, wrong
say:    li      t5, 0x10000000
next:   lbu     t0, 0(s2)
        beqz    t0, off
        sb      t0, 0(t5)
        addi    s2, s2, 1
        j       next
off:    li      a7, 0x53525354          # system_reset: shutdown
        li      a6, 0
        li      a0, 0
        li      a1, 0
        ecall
        j       off
text:   .asciz  "PAYLOAD-OK\\n"
wrong:  .asciz  "PAYLOAD-FAILED\\n"
        .balign 8
flag:   .word   0
"""


@pytest.mark.parametrize("firmware", ["builtin", pytest.param("opensbi", marks=pytest.mark.slow)])
def test_firmware_gives_a_payload_what_a_hypervisor_asks_for(guest: Callable[[str], Path], firmware: str) -> None:
    image = guest("opensbi-1.9-fw_dynamic.bin") if firmware == "opensbi" else None
    with Machine(harts=2) as vm:
        vm.load(kernel=asm(PAYLOAD, at=0x8020_0000), firmware=image)
        stop = vm.run(instructions=200_000_000)
        assert vm.console.text.endswith("PAYLOAD-OK\n")
    assert (stop.reason, stop.exit_code) == (StopReason.EXIT, 0)
