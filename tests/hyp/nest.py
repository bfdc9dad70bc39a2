"""A machine with firmware in M-mode, a hypervisor in HS-mode and two guests in VS-mode that take turns."""
from __future__ import annotations

from typing import Any

import pyvirt as pv
from pyvirt.board import RAM_BASE

ROUNDS = 20
# The hypervisor keeps to s registers, the guests to a registers and t0, firmware to t6.
FIRMWARE = """
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    la t0, firmware
    csrw mtvec, t0
    li t0, 0xf0b500
    csrw medeleg, t0
    li t0, 1 << 11
    csrw mstatus, t0
    la t0, hypervisor
    csrw mepc, t0
    mret

    .balign 4
firmware:
    csrw mscratch, t6
    csrr t6, mepc
    addi t6, t6, 4
    csrw mepc, t6
    csrr t6, mscratch
    mret
"""
HYPERVISOR = """
hypervisor:
    la s0, trap
    csrw stvec, s0
    la s0, root
    li s1, RAM >> 2 | 0xdf          # one page of 1 GiB: guest physical is physical from RAM on
    sd s1, 16(s0)
    srli s0, s0, 12
    li s2, 8 << 60 | 1 << 44
    or s2, s2, s0                   # hgatp of the guest that runs next; s4 is its pc
    li s3, 8 << 60 | 2 << 44
    or s3, s3, s0                   # of the other; s5 is its pc
    la s4, one
    la s5, two
    li s6, ROUNDS
    li s0, 1 << 7 | 1 << 8
    csrw hstatus, s0
    li s0, 1 << 8
    csrs sstatus, s0
enter:
    csrw hgatp, s2
    csrw sepc, s4
    sret

    .balign 4
trap:
    csrr s4, sepc
    addi s4, s4, 4
    csrr s7, scause
    addi s7, s7, -10
    bnez s7, enter                  # a fault: skipped
    ecall                           # firmware is told of every call
    addi s6, s6, -1
    beqz s6, end
    mv s7, s2
    mv s2, s3
    mv s3, s7
    mv s7, s4
    mv s4, s5
    mv s5, s7
    j enter
end:
    wfi
    j end

one:
    addi a0, a0, 1
    ecall
    j one
two:
    lw t0, 64(zero)                 # not mapped by the G-stage
    addi a1, a1, 1
    ecall
    j two

    .balign 16384
root:
    .zero 16384
"""


def machine(**options: Any) -> pv.Machine:
    """Return the machine, loaded; it ends idle, behind ROUNDS calls."""
    vm = pv.Machine(board="bare", ram="256K", **options)
    vm.load(pv.asm(FIRMWARE + HYPERVISOR, at=RAM_BASE, symbols={"RAM": RAM_BASE, "ROUNDS": ROUNDS}))
    return vm


def hgatp(vm: pv.Machine, vmid: int) -> int:
    """Return the hgatp of the guest with a VMID."""
    return 8 << 60 | vmid << 44 | vm.symbols["root"] >> 12
