# The monitor's commands, and the probes by which they touch memory that may not be there.

        .text
# ---- probes: accesses that may fault ---------------------------------------------------------------------------------
# Each returns a1 = 0, or the cause of the trap it took.
probe_load:                                     # a0 = address -> a0 = doubleword
        la      t0, probe_failed
        sd      t0, fixup, t1
        ld      a0, 0(a0)
        j       probe_worked
probe_store:                                    # a0 = address, a1 = doubleword
        la      t0, probe_failed
        sd      t0, fixup, t1
        sd      a1, 0(a0)
probe_worked:
        sd      zero, fixup, t1
        li      a1, 0
        ret
probe_call:                                     # a0 = address of code that changes a0 only and returns
        mv      t2, ra
        la      t0, 1f
        sd      t0, fixup, t1
        jalr    a0
        mv      ra, t2
        j       probe_worked
1:      mv      ra, t2
probe_failed:
        ld      a1, kept_frame + F_CAUSE
        ret

# ---- commands: a0 = the rest of the line -----------------------------------------------------------------------------
cmd_help:
        addi    sp, sp, -16
        sd      ra, 8(sp)
        sd      s0, 0(sp)
        la      s0, commands
1:      ld      t0, 0(s0)
        beqz    t0, 2f
        la      a0, s_help_line
        ld      a1, 16(s0)
        call    print
        addi    s0, s0, 24
        j       1b
2:      ld      ra, 8(sp)
        ld      s0, 0(sp)
        addi    sp, sp, 16
        ret

cmd_info:
        addi    sp, sp, -16
        sd      ra, 8(sp)
        sd      s0, 0(sp)
        la      a0, s_info_hart
        ld      a1, hart
        la      a2, isa_text
        ld      a3, device_tree
        call    print
        li      a0, 0                           # specification version: major in bits 30:24
        call    sbi_base
        srli    s0, a0, 24
        slli    a2, a0, 40
        srli    a2, a2, 40
        sd      a2, scratch, t0
        li      a0, 1                           # implementation
        call    sbi_base
        mv      a3, a0
        mv      a1, s0
        ld      a2, scratch
        la      a0, s_info_sbi
        call    print
        csrr    a1, satp
        la      a2, _start
        la      a3, rodata_start
        la      a4, data_start
        la      a5, image_end
        la      a0, s_info_memory
        call    print
        rdtime  a1
        rdinstret a2
        rdcycle a3
        la      a0, s_info_time
        call    print
        ld      ra, 8(sp)
        ld      s0, 0(sp)
        addi    sp, sp, 16
        ret

# regs: take a breakpoint and show the frame it left.
cmd_regs:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s0, 16(sp)
        sd      s1, 8(sp)
        la      t0, 1f
        sd      t0, fixup, t1
        ebreak
1:      la      s0, kept_frame
        la      a0, s_regs_head
        ld      a1, F_PC(s0)
        ld      a2, F_STATUS(s0)
        ld      a3, F_CAUSE(s0)
        call    print
        li      s1, 1
2:      la      a1, register_names
        li      t0, 5
        mul     t0, t0, s1
        add     a1, a1, t0
        slli    t0, s1, 3
        add     t0, t0, s0
        ld      a2, 0(t0)
        la      a0, s_reg
        call    print
        addi    s1, s1, 1
        andi    t0, s1, 3
        bnez    t0, 3f
        li      a0, '\n'
        call    putc
3:      li      t0, 32
        bltu    s1, t0, 2b
        ld      ra, 24(sp)
        ld      s0, 16(sp)
        ld      s1, 8(sp)
        addi    sp, sp, 32
        ret

# mem ADDR: 64 bytes, a doubleword at a time; what is not mapped is shown as such.
cmd_mem:
        addi    sp, sp, -48
        sd      ra, 40(sp)
        sd      s0, 32(sp)
        sd      s1, 24(sp)
        sd      s2, 16(sp)
        sd      s3, 8(sp)
        li      a1, 16
        call    parse
        beqz    a1, 8f
        andi    s0, a0, -16
        li      s1, 4                           # rows
1:      la      a0, s_address
        mv      a1, s0
        call    print
        mv      s2, s0
2:      mv      a0, s2
        call    probe_load
        bnez    a1, 7f
        mv      a1, a0
        la      a0, s_dword
        call    print
        addi    s2, s2, 8
        andi    t0, s2, 8
        bnez    t0, 2b
        la      a0, s_bar
        call    puts
        mv      s2, s0
        li      s3, 16
3:      lbu     a0, 0(s2)
        addi    t0, a0, -' '
        li      t1, 95
        bltu    t0, t1, 4f
        li      a0, '.'
4:      call    putc
        addi    s2, s2, 1
        addi    s3, s3, -1
        bnez    s3, 3b
        la      a0, s_bar_end
        call    puts
        addi    s0, s0, 16
        addi    s1, s1, -1
        bnez    s1, 1b
        j       9f
7:      mv      a2, a1
        la      a0, s_mem_fault
        la      a1, cause_names
        slli    t0, a2, 3
        add     a1, a1, t0
        ld      a1, 0(a1)
        call    print
        j       9f
8:      la      a0, s_need_address
        call    puts
9:      ld      ra, 40(sp)
        ld      s0, 32(sp)
        ld      s1, 24(sp)
        ld      s2, 16(sp)
        ld      s3, 8(sp)
        addi    sp, sp, 48
        ret

# walk ADDR: what the hardware does for an address, entry by entry.
cmd_walk:
        addi    sp, sp, -16
        sd      ra, 8(sp)
        li      a1, 16
        call    parse
        beqz    a1, 1f
        ld      ra, 8(sp)
        addi    sp, sp, 16
        j       walk
1:      la      a0, s_need_address
        call    puts
        ld      ra, 8(sp)
        addi    sp, sp, 16
        ret

walk:                                           # a0 = address
        addi    sp, sp, -64
        sd      ra, 56(sp)
        sd      s0, 48(sp)
        sd      s1, 40(sp)
        sd      s2, 32(sp)
        sd      s3, 24(sp)
        sd      s4, 16(sp)
        mv      s0, a0
        csrr    s1, satp
        slli    s1, s1, 20
        srli    s1, s1, 8                       # the root's address
        mv      a1, s0
        mv      a2, s1
        la      a0, s_walk_head
        call    print
        slli    t0, s0, 25                      # bits 63:39 must equal bit 38
        srai    t0, t0, 25
        bne     t0, s0, 7f
        li      s2, 2                           # level
1:      slli    t0, s2, 3                       # 9*level + 12
        add     t0, t0, s2
        addi    t0, t0, 12
        srl     a2, s0, t0
        andi    a2, a2, 511
        slli    s3, a2, 3
        add     s3, s3, s1                      # the entry's address
        ld      s4, 0(s3)
        mv      a1, s2
        mv      a3, s3
        mv      a4, s4
        la      a0, s_walk_level
        call    print
        andi    t0, s4, PTE_V
        beqz    t0, 6f
        slli    s1, s4, 10
        srli    s1, s1, 20
        slli    s1, s1, 12                      # where it points
        andi    t0, s4, PTE_R|PTE_W|PTE_X
        bnez    t0, 2f
        mv      a1, s1
        la      a0, s_walk_table
        call    print
        addi    s2, s2, -1
        bgez    s2, 1b
        j       8f
2:      la      s3, s_flags                     # a leaf: its flags, then the address it gives
        li      a0, ' '
        call    putc
3:      lbu     a0, 0(s3)
        beqz    a0, 5f
        addi    s3, s3, 1
        srli    s4, s4, 1
        andi    t0, s4, 1
        bnez    t0, 4f
        li      a0, '-'
4:      call    putc
        j       3b
5:      slli    t0, s2, 3
        add     t0, t0, s2
        addi    t0, t0, 12
        li      t1, -1
        sll     t1, t1, t0                      # the page's number, the address's offset
        and     a1, s1, t1
        not     t1, t1
        and     t1, s0, t1
        or      a1, a1, t1
        la      a0, s_walk_found
        call    print
        j       9f
6:      la      a0, s_walk_invalid
        call    puts
        j       9f
7:      la      a0, s_walk_canonical
        call    puts
        j       9f
8:      la      a0, s_walk_deep
        call    puts
9:      ld      ra, 56(sp)
        ld      s0, 48(sp)
        ld      s1, 40(sp)
        ld      s2, 32(sp)
        ld      s3, 24(sp)
        ld      s4, 16(sp)
        addi    sp, sp, 64
        ret

# ticks: wait for ten timer interrupts and show when they came.
cmd_ticks:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s0, 16(sp)
        sd      s1, 8(sp)
        li      s1, 10
1:      ld      s0, ticks
2:      wfi
        ld      t0, ticks
        beq     t0, s0, 2b
        la      a0, s_tick
        mv      a1, t0
        ld      a2, last_tick
        call    print
        addi    s1, s1, -1
        bnez    s1, 1b
        ld      ra, 24(sp)
        ld      s0, 16(sp)
        ld      s1, 8(sp)
        addi    sp, sp, 32
        ret

# primes N: the sieve of Eratosthenes, a byte a number, in free RAM.
cmd_primes:
        addi    sp, sp, -48
        sd      ra, 40(sp)
        sd      s0, 32(sp)
        sd      s1, 24(sp)
        sd      s2, 16(sp)
        li      a1, 10
        call    parse
        beqz    a1, 8f
        li      t0, MOST_PRIMES
        bgtu    a0, t0, 8f
        mv      s0, a0
        rdinstret s1
        li      t0, FREE_RAM
        add     t1, t0, s0
        addi    t2, t0, 0
1:      bgtu    t2, t1, 2f                      # clear, eight at a time
        sd      zero, 0(t2)
        addi    t2, t2, 8
        j       1b
2:      li      a1, 0                           # how many
        li      a2, 0                           # the largest
        li      t2, 2
        li      t5, 1
3:      bgtu    t2, s0, 6f
        add     t3, t0, t2
        lbu     t4, 0(t3)
        bnez    t4, 5f
        addi    a1, a1, 1
        mv      a2, t2
        mul     t3, t2, t2
4:      bgtu    t3, s0, 5f
        add     t4, t0, t3
        sb      t5, 0(t4)
        add     t3, t3, t2
        j       4b
5:      addi    t2, t2, 1
        j       3b
6:      rdinstret a4
        sub     a4, a4, s1
        mv      a3, a2
        mv      a2, s0
        la      a0, s_primes
        call    print
        j       9f
8:      la      a0, s_need_number
        li      a1, MOST_PRIMES
        call    print
9:      ld      ra, 40(sp)
        ld      s0, 32(sp)
        ld      s1, 24(sp)
        ld      s2, 16(sp)
        addi    sp, sp, 48
        ret

# trap: read an address that is not mapped; show what the hardware says about it, and the walk that failed.
cmd_trap:
        addi    sp, sp, -16
        sd      ra, 8(sp)
        li      a0, TEST_VA + 0x123458
        call    probe_load
        la      t0, kept_frame
        la      a2, cause_names
        slli    t1, a1, 3
        add     a2, a2, t1
        ld      a2, 0(a2)
        ld      a3, F_PC(t0)
        ld      a4, F_TVAL(t0)
        ld      a5, F_STATUS(t0)
        la      a0, s_trap
        call    print
        ld      a0, kept_frame + F_TVAL
        ld      ra, 8(sp)
        addi    sp, sp, 16
        j       walk

cmd_halt:
        la      a0, s_halt
        call    puts
        li      a0, 0
        j       shutdown
