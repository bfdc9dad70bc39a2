"""Guests for tests of snapshots: one that is busy with everything a snapshot must hold, one that writes its disk."""
from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pyvirt as pv

# Stores all over 64 pages, patches its own loop, takes timer interrupts, and answers each byte typed by "[byte]".
BUSY = """
start:  li      s0, 0x10000000          # UART
        li      s1, 0xc000000           # PLIC
        li      s2, 0x2004000           # mtimecmp
        li      s3, 0x80100000          # 64 pages
        li      t0, 1
        sw      t0, 40(s1)
        li      t1, 0xc002000
        li      t0, 0x400
        sw      t0, 0(t1)
        li      t0, 1
        sb      t0, 1(s0)
        la      t0, handler
        csrw    mtvec, t0
        li      t0, 20
        sd      t0, 0(s2)
        li      t0, 0x880
        csrs    mie, t0
        csrsi   mstatus, 8
        la      a1, hello
1:      lbu     t0, 0(a1)
        beqz    t0, loop
        sb      t0, 0(s0)
        addi    a1, a1, 1
        j       1b
loop:   addi    s4, s4, 1
        slli    t0, s4, 13
        xor     s5, s5, t0
        srli    t0, s5, 7
        xor     s5, s5, t0
        slli    t0, s5, 17
        xor     s5, s5, t0
        xor     s5, s5, s4
        li      t1, 0x3fff8
        and     t0, s5, t1
        add     t0, t0, s3
        sd      s5, 0(t0)
        andi    t0, s4, 15
        bnez    t0, patch
        la      t1, patch               # a new addi s6, s6, imm
        lw      t2, 0(t1)
        li      t3, 0x00100000
        add     t2, t2, t3
        sw      t2, 0(t1)
        .balign 4
patch:  .word   0x001b0b13              # addi s6, s6, 1
        j       loop
        .balign 4
handler:
        csrw    mscratch, t0
        csrr    t0, mcause
        andi    t0, t0, 15
        addi    t0, t0, -7
        bnez    t0, typed
        ld      t0, 0(s2)
        addi    t0, t0, 23
        sd      t0, 0(s2)
        addi    s7, s7, 1
        csrr    t0, mscratch
        mret
typed:  li      s8, 0xc200004
        lw      s9, 0(s8)
2:      lbu     s10, 5(s0)
        andi    s10, s10, 1
        beqz    s10, 3f
        lbu     s10, 0(s0)
        slli    a4, a4, 8
        or      a4, a4, s10
        li      s11, '['
        sb      s11, 0(s0)
        sb      s10, 0(s0)
        li      s11, ']'
        sb      s11, 0(s0)
        j       2b
3:      sw      s9, 0(s8)
        csrr    t0, mscratch
        mret
hello:  .asciz  "UP\\n"
"""

# Remaps its pages all the time, by entries whose A and D bits the hart sets, and changes whole tables; loads and stores
# through them. With VIRT it does so in VS-mode, and firmware swaps pages of the G-stage when it is called. Most pages
# are only read, so that a translation which should be gone leads to another page's content.
MAPPER = """
        li      t0, -1
        csrw    pmpaddr0, t0
        li      t0, 0x1f
        csrw    pmpcfg0, t0
        li      t0, 1 << 61             # ADUE
        csrw    menvcfg, t0
        la      s0, root
        la      s1, middle
        la      s2, leaves              # two tables of 256 pages
        li      s3, 0x80200000          # 64 pages of data
        li      t0, 0x80000000 >> 2 | 0xcf
        sd      t0, 16(s0)
        srli    t0, s1, 2
        ori     t0, t0, 1
        sd      t0, 8(s0)
        srli    t0, s2, 2
        ori     t0, t0, 1
        sd      t0, 0(s1)
        addi    t0, t0, 0x400
        sd      t0, 8(s1)
        li      t1, 0
1:      slli    t0, t1, 3
        add     t0, t0, s2
        andi    t2, t1, 63
        slli    t2, t2, 10
        srli    t3, s3, 2
        add     t2, t2, t3
        ori     t2, t2, 0x47            # A is set: a load changes nothing
        sd      t2, 0(t0)
        li      t3, 4096
        add     t0, t0, t3
        sd      t2, 0(t0)
        addi    t1, t1, 1
        li      t0, 256
        bne     t1, t0, 1b
        srli    t0, s0, 12
        li      t1, 8 << 60
        or      t0, t0, t1
        li      t2, VIRT
        bnez    t2, 2f
        csrw    satp, t0
        li      t3, 0
        j       3f
2:      csrw    vsatp, t0
        la      a0, groot
        la      a1, gmiddle
        la      a2, gleaves
        srli    t0, a1, 2
        ori     t0, t0, 1
        sd      t0, 16(a0)
        li      t0, 0x80000000 >> 2 | 0xdf
        sd      t0, 0(a1)
        srli    t0, a2, 2
        ori     t0, t0, 1
        sd      t0, 8(a1)
        li      t1, 0
5:      slli    t0, t1, 10
        srli    t2, s3, 2
        add     t0, t0, t2
        ori     t0, t0, 0x17
        slli    t2, t1, 3
        add     t2, t2, a2
        sd      t0, 0(t2)
        addi    t1, t1, 1
        li      t0, 64
        bne     t1, t0, 5b
        srli    t0, a0, 12
        li      t1, 8 << 60
        or      t0, t0, t1
        csrw    hgatp, t0
        li      t0, 1 << 61
        csrw    henvcfg, t0
        li      t3, 1 << 39             # MPV
3:      li      t0, 1 << 11
        or      t0, t0, t3
        csrw    mstatus, t0
        la      t0, firmware
        csrw    mtvec, t0
        la      t0, loop
        csrw    mepc, t0
        li      s5, 88172645463325252
        mret

        .balign 4
firmware:
        csrr    t0, mcause
        addi    t0, t0, -10
        bnez    t0, firmware            # nothing else may come
        andi    t1, s5, 31
        slli    t1, t1, 3
        add     t1, t1, a2
        ld      t2, 0(t1)
        ld      t3, 256(t1)
        sd      t3, 0(t1)
        sd      t2, 256(t1)
        hfence.gvma
        csrr    t0, mepc
        addi    t0, t0, 4
        csrw    mepc, t0
        mret

loop:   addi    s4, s4, 1
        li      t1, VIRT
        beqz    t1, 8f
        li      t0, EVERY / 4 - 1
        and     t0, s4, t0
        bnez    t0, 8f
        ecall
8:      slli    t0, s5, 13
        xor     s5, s5, t0
        srli    t0, s5, 7
        xor     s5, s5, t0
        slli    t0, s5, 17
        xor     s5, s5, t0
        andi    t0, s5, 255             # slot
        srli    t1, s5, 19
        andi    t1, t1, 1               # table
        andi    t2, s4, 7
        bnez    t2, 6f
        srli    t2, s5, 8               # another page for that slot
        andi    t2, t2, 63
        slli    t2, t2, 10
        srli    t3, s3, 2
        add     t2, t2, t3
        ori     t2, t2, 7
        slli    t3, t1, 12
        add     t3, t3, s2
        slli    t4, t0, 3
        add     t3, t3, t4
        sd      t2, 0(t3)
        sfence.vma
6:      li      t3, EVERY - 1
        and     t2, s4, t3
        bnez    t2, 7f
        ld      t2, 0(s1)
        ld      t3, 8(s1)
        sd      t3, 0(s1)
        sd      t2, 8(s1)
        sfence.vma
7:      slli    t0, t0, 12
        slli    t1, t1, 21
        li      t2, 0x40000000
        add     t0, t0, t1
        add     t0, t0, t2
        srli    t1, s5, 16
        li      t2, 0xff8
        and     t1, t1, t2
        add     t0, t0, t1
        ld      t1, 0(t0)
        add     s6, s6, t1
        andi    t2, s4, 31
        bnez    t2, loop
        xor     t1, t1, s5
        sd      t1, 0(t0)
        j       loop

        .balign 16384
groot:  .zero   16384
gmiddle: .zero  4096
gleaves: .zero  4096
root:   .zero   4096
middle: .zero   4096
leaves: .zero   8192
"""

# Calls functions of one instruction in pages full of them, in two address spaces. Now and then, as its random numbers
# say, it maps another page, puts another table in a place, goes to the other space, or patches a function.
CALLS = """
        li      t0, -1
        csrw    pmpaddr0, t0
        li      t0, 0x1f
        csrw    pmpcfg0, t0
        la      s0, spaces              # of each: root, middle, two tables; then one of both
        li      s1, 0x80200000          # 32 pages of code
        mv      t0, s0
        li      a0, 2
2:      li      t1, 0x80000000 >> 2 | 0xcf
        sd      t1, 16(t0)
        li      t2, 4096
        add     a1, t0, t2              # middle
        srli    t1, a1, 2
        ori     t1, t1, 1
        sd      t1, 8(t0)
        add     a2, a1, t2              # tables
        srli    t1, a2, 2
        ori     t1, t1, 1
        sd      t1, 0(a1)
        la      a3, common
        srli    t1, a3, 2
        ori     t1, t1, 1
        sd      t1, 8(a1)
        li      t3, 0
3:      srli    t1, s1, 2
        andi    t4, t3, 31
        slli    t4, t4, 10
        add     t1, t1, t4
        ori     t1, t1, 0xcf
        slli    t4, t3, 3
        add     t4, t4, a2
        sd      t1, 0(t4)
        add     t4, t4, t2
        xori    t1, t1, 0x400           # another function in the second table
        sd      t1, 0(t4)
        slli    t4, t3, 3
        add     t4, t4, a3
        sd      t1, 0(t4)
        addi    t3, t3, 1
        li      t1, 64
        bne     t3, t1, 3b
        li      t1, 4 << 12
        add     t0, t0, t1
        addi    a0, a0, -1
        bnez    a0, 2b
        li      s2, 1
        li      t0, 1 << 11
        csrw    mstatus, t0
        la      t0, switch
        csrw    mepc, t0
        li      s5, 88172645463325252
        mret

switch: xori    s2, s2, 1
        slli    s3, s2, 14
        add     s3, s3, s0              # the space's root
        srli    t0, s3, 12
        li      t1, 8 << 60
        or      t0, t0, t1
        slli    t1, s2, 44
        or      t0, t0, t1
        csrw    satp, t0
        sfence.vma
loop:   addi    s4, s4, 1
        slli    t0, s5, 13
        xor     s5, s5, t0
        srli    t0, s5, 7
        xor     s5, s5, t0
        slli    t0, s5, 17
        xor     s5, s5, t0
        srli    t0, s5, 20
        andi    t0, t0, 63              # slot
        srli    t1, s5, 32
        andi    t1, t1, 31              # function
        andi    t2, s5, 31
        li      t3, 4096
        beqz    t2, switch
        addi    t2, t2, -1
        beqz    t2, remap
        addi    t2, t2, -1
        beqz    t2, table
        addi    t2, t2, -1
        beqz    t2, patch
call:   slli    t1, t0, 12
        slli    t0, t0, 5               # where in the page
        add     t0, t0, t1
        srli    t1, s5, 40
        andi    t1, t1, 1               # region: its own, or that of both
        slli    t1, t1, 21
        add     t0, t0, t1
        li      t1, 0x40000000
        add     t0, t0, t1
        jalr    t0
        slli    s6, s6, 1
        add     s6, s6, a0
        j       loop
remap:  slli    t1, t1, 10
        srli    t2, s1, 2
        add     t1, t1, t2
        ori     t1, t1, 0xcf
        slli    t2, t0, 3
        add     t2, t2, s3
        slli    t3, t3, 1
        add     t2, t2, t3
        srli    t4, s5, 40
        andi    t4, t4, 1
        beqz    t4, 5f
        slli    t2, t0, 3
        add     t2, t2, a3
5:      sd      t1, 0(t2)
        sfence.vma
        j       call
table:  add     t2, s3, t3
        ld      t1, 0(t2)
        xori    t1, t1, 0x400           # the tables lie side by side, the first on an even page
        sd      t1, 0(t2)
        sfence.vma
        j       call
patch:  slli    t2, t1, 12
        add     t2, t2, s1
        slli    t1, t0, 5
        add     t2, t2, t1
        andi    t1, s5, 2047
        slli    t1, t1, 20
        li      t3, 0x513
        or      t1, t1, t3
        sw      t1, 0(t2)
        fence.i
        j       call

        .balign 8192
spaces: .zero   32768
common: .zero   4096
"""

# Writes one sector after the other: its number, then a running count; the host has set up the queue.
WRITER = """
        li      s0, 0x10001000          # virtio-mmio
        li      s1, 0x80020000          # descriptors, +0x1000 available, +0x2000 used, +0x3000 header, +0x4000 data
        li      s2, 0                   # count
        li      s3, 0x1000
        add     s3, s3, s1
        li      s4, 0x2000
        add     s4, s4, s1
        li      s5, 0x3000
        add     s5, s5, s1
        li      s6, 0x4000
        add     s6, s6, s1
        li      a2, 200                 # sectors
loop:   addi    s2, s2, 1
        remu    t0, s2, a2
        sd      t0, 8(s5)               # sector of the header
        sd      t0, 0(s6)
        sd      s2, 8(s6)
        sh      s2, 2(s3)               # available index; the ring always says 0
        sw      x0, 0x50(s0)            # notify
1:      lhu     t1, 2(s4)
        slli    t2, s2, 48
        srli    t2, t2, 48
        bne     t1, t2, 1b
        li      t3, 100
2:      addi    t3, t3, -1
        bnez    t3, 2b
        j       loop
"""
SECTORS = 200


def busy(**options: Any) -> pv.Machine:
    """Return a machine with BUSY loaded."""
    return pv.Machine(**{"ram": "8M", **options}).load(pv.asm(BUSY))


def mapper(*, virt: bool = False, every: int = 512, **options: Any) -> pv.Machine:
    """Return a machine with MAPPER loaded; whole tables change each `every` rounds."""
    vm = pv.Machine(**{"ram": "8M", **options}).load(pv.asm(MAPPER, symbols={"VIRT": int(virt), "EVERY": every}))
    vm.mem[0x8020_0000:0x8024_0000] = random.Random(1).randbytes(64 << 12)
    return vm


def caller(**options: Any) -> pv.Machine:
    """Return a machine with CALLS loaded."""
    vm = pv.Machine(**{"ram": "8M", **options}).load(pv.asm(CALLS))
    for page in range(32):
        vm.mem[0x8020_0000 + page * 4096:0x8020_1000 + page * 4096] = \
            struct.pack("<II", page << 20 | 0x513, 0x8067) * 512    # li a0, page; ret
    return vm


def writer(image: Path, **options: Any) -> pv.Machine:
    """Return a machine with WRITER loaded and its disk's queue set up."""
    vm = pv.Machine(**{"ram": "1M", "disks": [image], **options}).load(pv.asm(WRITER))
    base, at = 0x1000_1000, 0x8002_0000
    header, data, status = at + 0x3000, at + 0x4000, at + 0x5000
    vm.mem.u32[header] = 1      # a write
    for index, (address, size, flags) in enumerate(((header, 16, 1), (data, 512, 1), (status, 1, 2))):
        where = at + 16 * index
        vm.mem.u64[where], vm.mem.u32[where + 8] = address, size
        vm.mem.u16[where + 12], vm.mem.u16[where + 14] = flags, index + 1
    for offset, value in ((0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x38, 8), (0x80, at), (0x90, at + 0x1000),
                          (0xA0, at + 0x2000), (0x44, 1), (0x70, 15)):
        vm.bus.write(base + offset, 4, value)
    return vm


def sectors(disk: pv.Disk) -> list[tuple[int, int]]:
    """Return what WRITER left in each sector."""
    data = disk.read(0, SECTORS * 512)
    return list(struct.iter_unpack("<QQ496x", data))
