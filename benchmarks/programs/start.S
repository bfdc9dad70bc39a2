/* Reset in M-mode, the way to S-mode and back out, and the trap round trip that the program `ecall` measures. */
    .section .text.start, "ax"
    .globl _start
_start:
    csrr    t0, mhartid
    bnez    t0, park
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    la      sp, stack_top
    la      t0, unexpected
    csrw    mtvec, t0
    li      t0, 0x2000              # FS = initial
    csrs    mstatus, t0
    csrw    fcsr, zero
    li      t0, -1                  # PMP entry 0: all of memory, for S and U
    csrw    pmpaddr0, t0
    li      t0, 0x1f
    csrw    pmpcfg0, t0
    li      t0, 7                   # S and U read cycle, time, instret
    csrw    mcounteren, t0
    csrw    scounteren, t0
    la      t0, __bss_start
    la      t1, __bss_end
1:  sd      zero, 0(t0)
    addi    t0, t0, 8
    bltu    t0, t1, 1b
    tail    start

park:
    wfi
    j       park

/* A trap that no program expects ends the run with 64 + its cause; one while leaving is the store to a test device
 * that is not there. */
    .balign 4
unexpected:
    la      t0, leaving
    lw      t0, 0(t0)
    bnez    t0, spin
    csrr    a0, mcause
    andi    a0, a0, 63
    ori     a0, a0, 64

/* leave(code): by HTIF, for Spike and pyvirt, then by the test device of QEMU's virt machine. */
    .globl  leave
leave:
    la      t0, leaving
    li      t1, 1
    sw      t1, 0(t0)
    slli    t1, a0, 1
    ori     t1, t1, 1
    la      t0, tohost
    sd      t1, 0(t0)
    li      t0, 0x100000
    li      t1, 0x5555
    beqz    a0, 1f
    slli    t1, a0, 16
    li      t2, 0x3333
    or      t1, t1, t2
1:  sw      t1, 0(t0)
spin:
    j       spin

/* enter_supervisor(satp): return in S-mode with this translation; ecalls from U-mode go to S-mode. */
    .globl  enter_supervisor
enter_supervisor:
    li      t0, 0x100
    csrw    medeleg, t0
    csrw    satp, a0
    sfence.vma
    li      t0, 0x1800
    csrc    mstatus, t0
    li      t0, 0x0800              # MPP = S
    csrs    mstatus, t0
    csrw    mepc, ra
    mret

/* round_trips(count, seed, alias): run `user` in U-mode at the mapping `alias` bytes further on, and come back. */
    .globl  round_trips
round_trips:
    addi    sp, sp, -112
    sd      ra, 0(sp)
    sd      s0, 8(sp)
    sd      s1, 16(sp)
    sd      s2, 24(sp)
    csrw    sscratch, sp
    la      t0, supervisor
    csrw    stvec, t0
    li      t0, 0x100
    csrc    sstatus, t0             # SPP = U
    la      t0, user
    add     t0, t0, a2
    csrw    sepc, t0
    li      s2, 0                   # the kernel's total
    sret

user:
    mv      s0, a0
    mv      a0, a1
1:  li      a7, 1
    ecall
    addi    s0, s0, -1
    bnez    s0, 1b
    li      a7, 0
    ecall
    j       user                    # not reached

/* What a small kernel does for a call: switch stacks, save what C may clobber, dispatch, restore. Room below the
 * frame of round_trips is the kernel's stack. */
    .balign 4
supervisor:
    csrrw   sp, sscratch, sp
    addi    sp, sp, -144
    sd      ra, 0(sp)
    sd      t0, 8(sp)
    sd      t1, 16(sp)
    sd      t2, 24(sp)
    sd      t3, 32(sp)
    sd      t4, 40(sp)
    sd      t5, 48(sp)
    sd      t6, 56(sp)
    sd      a1, 64(sp)
    sd      a2, 72(sp)
    sd      a3, 80(sp)
    sd      a4, 88(sp)
    sd      a5, 96(sp)
    sd      a6, 104(sp)
    sd      a7, 112(sp)
    csrr    t0, scause
    li      t1, 8
    bne     t0, t1, unexpected_call
    csrr    t0, sepc
    addi    t0, t0, 4
    csrw    sepc, t0
    beqz    a7, finish
    call    service
    ld      ra, 0(sp)
    ld      t0, 8(sp)
    ld      t1, 16(sp)
    ld      t2, 24(sp)
    ld      t3, 32(sp)
    ld      t4, 40(sp)
    ld      t5, 48(sp)
    ld      t6, 56(sp)
    ld      a1, 64(sp)
    ld      a2, 72(sp)
    ld      a3, 80(sp)
    ld      a4, 88(sp)
    ld      a5, 96(sp)
    ld      a6, 104(sp)
    ld      a7, 112(sp)
    addi    sp, sp, 144
    csrrw   sp, sscratch, sp
    sret

finish:
    addi    sp, sp, 144
    ld      ra, 0(sp)
    ld      s0, 8(sp)
    ld      s1, 16(sp)
    ld      s2, 24(sp)
    addi    sp, sp, 112
    ret

unexpected_call:
    li      a0, 63
    j       leave

    .section .tohost, "aw"
    .balign 64
    .globl  tohost
tohost:     .dword 0
    .balign 64
    .globl  fromhost
fromhost:   .dword 0

    .section .data
    .balign 8
leaving:    .dword 0

    .section .bss
    .balign 16
    .skip   65536
stack_top:
