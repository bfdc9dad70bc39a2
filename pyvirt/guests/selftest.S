# The monitor's self-test: it checks the machine from inside and prints SELFTEST-OK or
# SELFTEST-FAILED n. Each group of checks has a name; s0 holds it, s1 the number of checks before the group.

        .text
cmd_selftest:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s0, 16(sp)
        sd      s1, 8(sp)
        sd      s2, 0(sp)
        sd      zero, checks, t0
        sd      zero, failures, t0
        la      s2, groups
1:      ld      t0, 0(s2)
        beqz    t0, 2f
        ld      s0, 8(s2)
        ld      s1, checks
        jalr    t0
        mv      a1, s0
        ld      a2, checks
        sub     a2, a2, s1
        la      a0, s_group
        call    print
        addi    s2, s2, 16
        j       1b
2:      ld      a1, failures
        bnez    a1, 3f
        la      a0, s_selftest_ok
        ld      a1, checks
        j       4f
3:      la      a0, s_selftest_failed
4:      call    print
        ld      ra, 24(sp)
        ld      s0, 16(sp)
        ld      s1, 8(sp)
        ld      s2, 0(sp)
        addi    sp, sp, 32
        ret

# check(a0 = found, a1 = expected): count, and tell what is wrong.
check:
        ld      t0, checks
        addi    t0, t0, 1
        sd      t0, checks, t1
        bne     a0, a1, 1f
        ret
1:      ld      t1, failures
        addi    t1, t1, 1
        sd      t1, failures, t2
        addi    sp, sp, -16
        sd      ra, 8(sp)
        mv      a3, a0
        mv      a4, a1
        sub     a2, t0, s1
        mv      a1, s0
        la      a0, s_check_failed
        call    print
        ld      ra, 8(sp)
        addi    sp, sp, 16
        ret

# ---- arithmetic ------------------------------------------------------------------------------------------------------
test_arithmetic:
        addi    sp, sp, -16
        sd      ra, 8(sp)
        li      t0, -7
        li      t1, 2
        div     a0, t0, t1
        li      a1, -3
        call    check
        li      t0, -7
        li      t1, 2
        rem     a0, t0, t1
        li      a1, -1
        call    check
        li      t0, 5
        div     a0, t0, zero                    # by zero: all ones
        li      a1, -1
        call    check
        li      t0, 5
        remu    a0, t0, zero                    # by zero: the dividend
        li      a1, 5
        call    check
        li      t0, 1 << 63
        li      t1, -1
        div     a0, t0, t1                      # overflow: the dividend
        li      a1, 1 << 63
        call    check
        li      t0, 0x123456789abcdef0
        li      t1, 0xfedcba9876543210
        mul     a0, t0, t1
        li      a1, 0x123456789abcdef0 * 0xfedcba9876543210 & 0xffffffffffffffff
        call    check
        li      t0, 0x123456789abcdef0
        li      t1, 0xfedcba9876543210
        mulhu   a0, t0, t1
        li      a1, 0x121fa00ad77d7422
        call    check
        li      t0, 0x123456789abcdef0
        li      t1, 0xfedcba9876543210
        mulh    a0, t0, t1
        li      a1, 0xffeb49923cc09532
        call    check
        li      t0, 0x7fffffff
        addiw   a0, t0, 1
        li      a1, -0x80000000
        call    check
        li      t0, 0xffffffff80000000
        srliw   a0, t0, 4
        li      a1, 0x08000000
        call    check
        li      t0, 0xffffffff80000000
        sraiw   a0, t0, 4
        li      a1, 0xfffffffff8000000
        call    check
        li      t0, -1
        sltiu   a0, t0, -1
        li      a1, 0
        call    check
        la      t0, s_digits                    # CRC-32 of "123456789", bit by bit
        li      a0, 0xffffffff
        li      t4, 0xedb88320
1:      lbu     t1, 0(t0)
        beqz    t1, 4f
        addi    t0, t0, 1
        xor     a0, a0, t1
        li      t2, 8
2:      andi    t3, a0, 1
        srli    a0, a0, 1
        beqz    t3, 3f
        xor     a0, a0, t4
3:      addi    t2, t2, -1
        bnez    t2, 2b
        j       1b
4:      li      t1, 0xffffffff
        xor     a0, a0, t1
        li      a1, 0xcbf43926
        call    check
        ld      ra, 8(sp)
        addi    sp, sp, 16
        ret

# ---- floating point --------------------------------------------------------------------------------------------------
test_float:
        addi    sp, sp, -16
        sd      ra, 8(sp)
        fsflags zero
        li      t0, 2
        fcvt.d.l ft0, t0
        fsqrt.d ft1, ft0
        fmv.x.d a0, ft1
        li      a1, 0x3ff6a09e667f3bcd          # the square root of two
        call    check
        frflags a0
        li      a1, 1                           # inexact
        call    check
        li      t0, 1
        li      t1, 3
        fcvt.s.w ft0, t0
        fcvt.s.w ft1, t1
        fdiv.s  ft2, ft0, ft1
        fmv.x.w a0, ft2
        li      a1, 0x3eaaaaab                  # a third, rounded up
        call    check
        fdiv.s  ft2, ft0, ft1, rtz
        fmv.x.w a0, ft2
        li      a1, 0x3eaaaaaa
        call    check
        fcvt.d.w ft0, zero
        fdiv.d  ft1, ft0, ft0
        fmv.x.d a0, ft1
        li      a1, 0x7ff8000000000000          # the canonical NaN
        call    check
        frflags a0
        li      a1, 0x11                        # invalid, and inexact from before
        call    check
        fcvt.w.d a0, ft1, rtz
        li      a1, 0x7fffffff                  # NaN converts to the largest
        call    check
        li      t0, 3
        fcvt.d.l ft0, t0
        fmadd.d ft1, ft0, ft0, ft0
        fcvt.l.d a0, ft1
        li      a1, 12
        call    check
        fsflags zero
        ld      ra, 8(sp)
        addi    sp, sp, 16
        ret

# ---- memory and atomics ----------------------------------------------------------------------------------------------
test_memory:
        addi    sp, sp, -16
        sd      ra, 8(sp)
        li      t0, FREE_RAM                    # fill 64 KiB with a xorshift sequence, then sum it up
        li      t1, FREE_RAM + 0x10000
        li      t2, 88172645463325252
1:      slli    t3, t2, 13
        xor     t2, t2, t3
        srli    t3, t2, 7
        xor     t2, t2, t3
        slli    t3, t2, 17
        xor     t2, t2, t3
        sd      t2, 0(t0)
        addi    t0, t0, 8
        bne     t0, t1, 1b
        li      t0, FREE_RAM
        li      a0, 0
2:      lw      t3, 0(t0)
        lhu     t4, 4(t0)
        lb      t5, 7(t0)
        add     a0, a0, t3
        add     a0, a0, t4
        sub     a0, a0, t5
        addi    t0, t0, 8
        bne     t0, t1, 2b
        ld      a1, memory_sum
        call    check
        li      t0, FREE_RAM                    # misaligned, across a page
        li      t1, 0x8877665544332211
        addi    t0, t0, 2045
        addi    t0, t0, 2046
        sd      t1, 0(t0)
        lw      a0, 3(t0)
        li      a1, 0x77665544
        call    check
        li      t0, FREE_RAM
        li      t1, 40
        sd      t1, 0(t0)
        li      t2, 2
        amoadd.d a0, t2, (t0)
        li      a1, 40
        call    check
        li      t0, FREE_RAM
        ld      a0, 0(t0)
        li      a1, 42
        call    check
        li      t0, FREE_RAM
        li      t1, -5
        amomaxu.w.aqrl a0, t1, (t0)
        lw      a0, 0(t0)
        li      a1, -5
        call    check
        li      t0, FREE_RAM
        li      t1, 7
        lr.d    t2, (t0)
        sc.d    a0, t1, (t0)
        li      a1, 0
        call    check
        li      t0, FREE_RAM
        sc.d    a0, zero, (t0)                  # the reservation is used up
        li      a1, 1
        call    check
        li      t0, FREE_RAM
        ld      a0, 0(t0)
        li      a1, 7
        call    check
        ld      ra, 8(sp)
        addi    sp, sp, 16
        ret

# ---- page tables: every permission, taken and refused -----------------------------------------------------------------
# set_page(a0 = flags, a1 = frame): map the one page at TEST_VA.
set_page:
        srli    a1, a1, 2
        or      a0, a0, a1
        sd      a0, test_2m + 0, t0
        li      t0, TEST_VA
        sfence.vma t0
        ret

test_pages:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s2, 16(sp)
        sd      s3, 8(sp)
        li      s2, TEST_VA
        la      s3, frame_a
        li      t0, 0x00008067                  # ret
        sd      t0, 0(s3)
        la      t0, frame_b
        li      t1, 0x0000806700150513          # addi a0, a0, 1; ret
        sd      t1, 0(t0)
        fence.i

        la      t0, page_cases                  # flags, sstatus, then the causes of load, store and fetch
        mv      s3, t0
1:      ld      a0, 0(s3)
        bltz    a0, 2f
        la      a1, frame_a
        call    set_page
        ld      t0, 8(s3)
        csrs    sstatus, t0
        mv      a0, s2
        call    probe_load
        mv      a0, a1
        lbu     a1, 16(s3)
        call    check
        mv      a0, s2
        li      a1, 0x00008067
        call    probe_store
        mv      a0, a1
        lbu     a1, 17(s3)
        call    check
        mv      a0, s2
        call    probe_call
        mv      a0, a1
        lbu     a1, 18(s3)
        call    check
        ld      t0, 8(s3)
        csrc    sstatus, t0
        addi    s3, s3, 24
        j       1b

2:      la      a1, frame_a                     # the address of a refused store is told exactly
        li      a0, PTE_RO
        call    set_page
        addi    a0, s2, 0x7f8
        call    probe_store
        ld      a0, kept_frame + F_TVAL
        addi    a1, s2, 0x7f8
        call    check
        la      a0, _start                      # code can't be overwritten, constants can't be run
        call    probe_store
        mv      a0, a1
        li      a1, STORE_PAGE
        call    check
        la      a0, rodata_start
        call    probe_call
        mv      a0, a1
        li      a1, FETCH_PAGE
        call    check
        li      a0, 0                           # there is nothing at 0
        call    probe_load
        mv      a0, a1
        li      a1, LOAD_PAGE
        call    check
        li      a0, 1 << 38                     # nor where an address is not canonical
        call    probe_load
        mv      a0, a1
        li      a1, LOAD_PAGE
        call    check
        li      a0, PTE_RW                      # two addresses, one frame
        la      a1, frame_a
        call    set_page
        li      t0, 0x1234
        sd      t0, 0x100(s2)
        ld      a0, frame_a + 0x100
        li      a1, 0x1234
        call    check
        li      a0, PTE_RW                      # one address, another frame
        la      a1, frame_b
        call    set_page
        ld      a0, 0(s2)
        li      a1, 0x0000806700150513
        call    check
        li      a0, 0                           # leave nothing behind
        li      a1, 0
        call    set_page
        ld      ra, 24(sp)
        ld      s2, 16(sp)
        ld      s3, 8(sp)
        addi    sp, sp, 32
        ret

# ---- code that changes -----------------------------------------------------------------------------------------------
test_code:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s2, 16(sp)
        sd      s3, 8(sp)
        li      a0, LEAF|PTE_R|PTE_W|PTE_X
        la      a1, frame_b
        call    set_page
        li      s2, TEST_VA
        li      s3, 0
        li      a0, 0
1:      li      t0, 0x0000806700050513          # addi a0, a0, s3; ret
        slli    t1, s3, 20
        or      t0, t0, t1
        sd      t0, 0(s2)
        fence.i
        jalr    s2
        addi    s3, s3, 1
        li      t0, 100
        bltu    s3, t0, 1b
        li      a1, 4950
        call    check
        li      a0, 0
        li      a1, 0
        call    set_page
        ld      ra, 24(sp)
        ld      s2, 16(sp)
        ld      s3, 8(sp)
        addi    sp, sp, 32
        ret

# ---- exceptions and user mode ----------------------------------------------------------------------------------------
test_traps:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s2, 16(sp)
        la      a0, illegal_code
        call    probe_call
        mv      a0, a1
        li      a1, ILLEGAL
        call    check
        la      a0, machine_code                # an M-mode CSR
        call    probe_call
        mv      a0, a1
        li      a1, ILLEGAL
        call    check
        la      a0, break_code
        call    probe_call
        mv      a0, a1
        li      a1, EBREAK
        call    check
        ld      a0, kept_frame
        la      a1, break_code
        call    check
        la      t0, user_code                   # run four instructions in U-mode, on a page of its own
        la      t1, frame_a
        ld      t2, 0(t0)
        ld      t3, 8(t0)
        sd      t2, 0(t1)
        sd      t3, 8(t1)
        fence.i
        li      a0, LEAF|PTE_X|PTE_U
        mv      a1, t1
        call    set_page
        la      t0, 1f
        sd      t0, fixup, t1
        li      t0, TEST_VA
        csrw    sepc, t0
        li      t0, SSTATUS_SPP
        csrc    sstatus, t0
        li      t0, SSTATUS_SPIE
        csrs    sstatus, t0
        csrci   sstatus, SSTATUS_SIE            # from here to sret sscratch says U-mode
        csrw    sscratch, sp
        li      a0, 1
        sret
1:      csrsi   sstatus, SSTATUS_SIE
        ld      s2, kept_frame + 10*8
        ld      a0, kept_frame + F_CAUSE
        li      a1, ECALL_U
        call    check
        mv      a0, s2
        li      a1, 42                          # what it computed
        call    check
        ld      a0, kept_frame + F_PC
        li      a1, TEST_VA + 12
        call    check
        li      a0, 0
        li      a1, 0
        call    set_page
        ld      ra, 24(sp)
        ld      s2, 16(sp)
        addi    sp, sp, 32
        ret

illegal_code:
        .word   0
machine_code:
        csrr    a0, mstatus
        ret
        .align  2
break_code:
        ebreak
        ret
        .align  3
user_code:
        addi    a0, a0, 20
        slli    a0, a0, 1
        nop
        ecall

# ---- time and console ------------------------------------------------------------------------------------------------
test_time:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s2, 16(sp)
        sd      s3, 8(sp)
        li      t0, 1000                        # time and instret never go back
        li      a0, 0
        rdtime  t1
        rdinstret t3
1:      rdtime  t2
        rdinstret t4
        sltu    t5, t2, t1
        add     a0, a0, t5
        sltu    t5, t3, t4
        xori    t5, t5, 1
        add     a0, a0, t5
        mv      t1, t2
        mv      t3, t4
        addi    t0, t0, -1
        bnez    t0, 1b
        li      a1, 0
        call    check
        li      s3, 3                           # three timer interrupts: none before its time
2:      csrci   sstatus, SSTATUS_SIE            # so that no tick of the old timer is taken for the new one
        rdtime  a0
        li      t0, 5000
        add     a0, a0, t0
        mv      s2, a0
        call    set_timer
        ld      t0, ticks
        csrsi   sstatus, SSTATUS_SIE
3:      wfi
        ld      t1, ticks
        beq     t0, t1, 3b
        ld      a0, last_tick
        sltu    a0, a0, s2
        li      a1, 0
        call    check
        addi    s3, s3, -1
        bnez    s3, 2b
        call    timer_start
        li      t0, UART                        # the UART's scratch register holds what it is given
        li      t1, 0xa5
        sb      t1, UART_SCR(t0)
        lbu     a0, UART_SCR(t0)
        mv      a1, t1
        call    check
        ld      ra, 24(sp)
        ld      s2, 16(sp)
        ld      s3, 8(sp)
        addi    sp, sp, 32
        ret
