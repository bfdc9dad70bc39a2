# A small machine monitor in S-mode: the guest of `pyvirt demo`.
#
# It is entered by the SBI firmware at 0x80200000 with the hart's number in a0 and the device tree in a1, builds its own
# Sv39 page tables, takes timer interrupts through SBI TIME and console input through the PLIC, and offers a prompt.
# Idle time is tickless: at the prompt no timer is set, the hart waits in wfi for a key. Ticks run while a command does.
#
# Registers: the usual calling convention throughout. Assembled after this file, in this order: console.S (UART, printing,
# text, the device tree), commands.S, selftest.S, data.S (strings, tables, variables).

        .equ UART,        0x10000000            # ns16550a
        .equ UART_IER,    1
        .equ UART_FCR,    2
        .equ UART_LSR,    5
        .equ UART_SCR,    7
        .equ UART_IRQ,    10
        .equ PLIC,        0x0c000000
        .equ FREE_RAM,    0x80400000            # from here on nothing of ours lives; mapped read-write
        .equ FREE_PAGES,  16                    # in pages of 2 MiB
        .equ TEST_VA,     0x40000000            # a region that only the self-test maps
        .equ TICK,        100000                # 10 ms at 10 MHz
        .equ MOST_PRIMES, 5000000
        .equ LINE_SIZE,   128
        .equ RING_SIZE,   256

        .equ SSTATUS_SIE, 1 << 1
        .equ SSTATUS_SPIE, 1 << 5
        .equ SSTATUS_SPP, 1 << 8
        .equ SSTATUS_FS,  3 << 13
        .equ SSTATUS_SUM, 1 << 18
        .equ SSTATUS_MXR, 1 << 19
        .equ SIE_STIE,    1 << 5
        .equ SIE_SEIE,    1 << 9

        .equ PTE_V, 1 ; .equ PTE_R, 2 ; .equ PTE_W, 4 ; .equ PTE_X, 8 ; .equ PTE_U, 16 ; .equ PTE_A, 64 ; .equ PTE_D, 128
        .equ LEAF,   PTE_V|PTE_A|PTE_D          # A and D set beforehand: Svade would fault, Svadu would write
        .equ PTE_RX, LEAF|PTE_R|PTE_X
        .equ PTE_RO, LEAF|PTE_R
        .equ PTE_RW, LEAF|PTE_R|PTE_W

        .equ EBREAK, 3 ; .equ ILLEGAL, 2 ; .equ ECALL_U, 8
        .equ FETCH_PAGE, 12 ; .equ LOAD_PAGE, 13 ; .equ STORE_PAGE, 15

# A trap frame: the pc, x1..x31 at 8*n, then three CSRs.
        .equ F_PC, 0 ; .equ F_SP, 2*8 ; .equ F_STATUS, 32*8 ; .equ F_CAUSE, 33*8 ; .equ F_TVAL, 34*8 ; .equ FRAME, 36*8

# ---- start -----------------------------------------------------------------------------------------------------------
        .text
_start:
        la      sp, stack_top
        sd      a0, hart, t0
        sd      a1, device_tree, t0
        csrw    sscratch, zero                  # zero says: already on the kernel's stack
        la      t0, trap_entry
        csrw    stvec, t0
        li      t0, SSTATUS_FS
        csrs    sstatus, t0
        fscsr   zero
        call    find_isa                        # while physical addresses still reach the device tree
        call    make_tables
        la      t0, root
        srli    t0, t0, 12
        li      t1, 8 << 60                     # Sv39
        or      t0, t0, t1
        sfence.vma
        csrw    satp, t0
        sfence.vma
        csrr    t1, satp
        bne     t0, t1, no_sv39
        call    console_start
        li      t0, SIE_STIE|SIE_SEIE
        csrw    sie, t0
        la      a0, s_hello
        call    print
prompt_loop:
        call    timer_stop
        la      a0, s_prompt
        call    print
        call    read_line
        call    timer_start
        la      a0, line
        call    run_line
        j       prompt_loop

no_sv39:
        la      a0, s_no_sv39
        call    print
        li      a0, 1
        j       shutdown

# run_line(a0 = text): split off the first word, find it in the table of commands, call it with the rest in a0.
run_line:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s0, 16(sp)
        sd      s1, 8(sp)
        sd      s2, 0(sp)
        call    skip_blanks
        mv      s0, a0
        lbu     t0, 0(a0)
        beqz    t0, 9f
        call    word_end                        # ends the word with a NUL
        mv      s1, a0
        la      s2, commands
1:      ld      a1, 0(s2)
        beqz    a1, 3f
        mv      a0, s0
        call    same
        bnez    a0, 2f
        addi    s2, s2, 24
        j       1b
2:      mv      a0, s1
        call    skip_blanks
        ld      t0, 8(s2)
        jalr    t0
        j       9f
3:      la      a0, s_unknown
        mv      a1, s0
        call    print
9:      ld      ra, 24(sp)
        ld      s0, 16(sp)
        ld      s1, 8(sp)
        ld      s2, 0(sp)
        addi    sp, sp, 32
        ret

# ---- page tables -----------------------------------------------------------------------------------------------------
# make_tables(): everything at its own address. Text is read-execute, constants read-only, the rest of the image and some
# RAM behind it read-write; UART and PLIC read-write. What the firmware owns is not mapped, and page 0 is not either.
make_tables:
        mv      t3, ra
        la      t0, root
        la      t1, low_1g                      # 0x00000000, 1 GiB: devices
        call    table_entry
        sd      a0, 0(t0)
        la      t1, test_1g                     # 0x40000000, 1 GiB: the self-test's
        call    table_entry
        sd      a0, 8(t0)
        la      t1, ram_1g                      # 0x80000000, 1 GiB: RAM
        call    table_entry
        sd      a0, 16(t0)
        la      t0, test_1g
        la      t1, test_2m
        call    table_entry
        sd      a0, 0(t0)
        la      t0, ram_1g
        la      t1, image_2m                    # 0x80200000, 2 MiB: the image, page by page
        call    table_entry
        sd      a0, 8(t0)
        mv      ra, t3
        la      t0, low_1g
        li      t1, PLIC >> 2 | PTE_RW
        sd      t1, 8*(PLIC >> 21)(t0)
        li      t1, (PLIC + (2 << 20)) >> 2 | PTE_RW
        sd      t1, 8*(PLIC >> 21)+8(t0)
        li      t1, UART >> 2 | PTE_RW
        sd      t1, 8*(UART >> 21)(t0)
        la      t0, ram_1g + 16                 # RAM behind the image, in pages of 2 MiB
        li      t1, FREE_RAM >> 2 | PTE_RW
        li      t2, FREE_PAGES
1:      sd      t1, 0(t0)
        addi    t0, t0, 8
        li      t3, 2 << 20 >> 2
        add     t1, t1, t3
        addi    t2, t2, -1
        bnez    t2, 1b
        la      t0, image_2m
        la      t1, _start
        la      t2, rodata_start
        la      t3, data_start
        li      t4, 512
2:      li      t5, PTE_RX
        bltu    t1, t2, 3f
        li      t5, PTE_RO
        bltu    t1, t3, 3f
        li      t5, PTE_RW
3:      srli    t6, t1, 2
        or      t5, t5, t6
        sd      t5, 0(t0)
        addi    t0, t0, 8
        li      t6, 4096
        add     t1, t1, t6
        addi    t4, t4, -1
        bnez    t4, 2b
        ret

# table_entry(t1 = table) -> a0: the entry that points to it.
table_entry:
        srli    a0, t1, 2
        ori     a0, a0, PTE_V
        ret

# ---- traps -----------------------------------------------------------------------------------------------------------
# sscratch is zero while the kernel runs, and holds the kernel's stack pointer while user code runs.
        .align  2
trap_entry:
        csrrw   sp, sscratch, sp
        bnez    sp, 1f
        csrr    sp, sscratch
1:      addi    sp, sp, -FRAME
        sd      x1, 1*8(sp)
        sd      x3, 3*8(sp)
        sd      x4, 4*8(sp)
        sd      x5, 5*8(sp)
        sd      x6, 6*8(sp)
        sd      x7, 7*8(sp)
        sd      x8, 8*8(sp)
        sd      x9, 9*8(sp)
        sd      x10, 10*8(sp)
        sd      x11, 11*8(sp)
        sd      x12, 12*8(sp)
        sd      x13, 13*8(sp)
        sd      x14, 14*8(sp)
        sd      x15, 15*8(sp)
        sd      x16, 16*8(sp)
        sd      x17, 17*8(sp)
        sd      x18, 18*8(sp)
        sd      x19, 19*8(sp)
        sd      x20, 20*8(sp)
        sd      x21, 21*8(sp)
        sd      x22, 22*8(sp)
        sd      x23, 23*8(sp)
        sd      x24, 24*8(sp)
        sd      x25, 25*8(sp)
        sd      x26, 26*8(sp)
        sd      x27, 27*8(sp)
        sd      x28, 28*8(sp)
        sd      x29, 29*8(sp)
        sd      x30, 30*8(sp)
        sd      x31, 31*8(sp)
        csrrw   t0, sscratch, zero
        csrr    t1, sepc
        csrr    t2, sstatus
        csrr    t3, scause
        csrr    t4, stval
        sd      t0, F_SP(sp)
        sd      t1, F_PC(sp)
        sd      t2, F_STATUS(sp)
        sd      t3, F_CAUSE(sp)
        sd      t4, F_TVAL(sp)
        mv      a0, sp
        call    trap_main
        ld      t1, F_PC(sp)
        ld      t2, F_STATUS(sp)
        csrw    sepc, t1
        csrw    sstatus, t2
        andi    t2, t2, SSTATUS_SPP
        bnez    t2, 2f
        addi    t0, sp, FRAME
        csrw    sscratch, t0
2:      ld      x1, 1*8(sp)
        ld      x3, 3*8(sp)
        ld      x4, 4*8(sp)
        ld      x5, 5*8(sp)
        ld      x6, 6*8(sp)
        ld      x7, 7*8(sp)
        ld      x8, 8*8(sp)
        ld      x9, 9*8(sp)
        ld      x10, 10*8(sp)
        ld      x11, 11*8(sp)
        ld      x12, 12*8(sp)
        ld      x13, 13*8(sp)
        ld      x14, 14*8(sp)
        ld      x15, 15*8(sp)
        ld      x16, 16*8(sp)
        ld      x17, 17*8(sp)
        ld      x18, 18*8(sp)
        ld      x19, 19*8(sp)
        ld      x20, 20*8(sp)
        ld      x21, 21*8(sp)
        ld      x22, 22*8(sp)
        ld      x23, 23*8(sp)
        ld      x24, 24*8(sp)
        ld      x25, 25*8(sp)
        ld      x26, 26*8(sp)
        ld      x27, 27*8(sp)
        ld      x28, 28*8(sp)
        ld      x29, 29*8(sp)
        ld      x30, 30*8(sp)
        ld      x31, 31*8(sp)
        ld      sp, F_SP(sp)
        sret

# trap_main(a0 = frame): interrupts are served; an exception goes on at `fixup` in S-mode if somebody expects it (probes
# and the self-test do), with the frame kept for whoever wants to look; any other ends the machine.
trap_main:
        ld      t0, F_CAUSE(a0)
        bltz    t0, interrupt
        ld      t1, fixup
        beqz    t1, unexpected
        la      t2, kept_frame
        mv      t3, a0
        li      t4, FRAME/8
1:      ld      t5, 0(t3)
        sd      t5, 0(t2)
        addi    t2, t2, 8
        addi    t3, t3, 8
        addi    t4, t4, -1
        bnez    t4, 1b
        sd      t1, F_PC(a0)
        sd      zero, fixup, t2
        ld      t1, F_STATUS(a0)
        ori     t1, t1, SSTATUS_SPP
        sd      t1, F_STATUS(a0)
        ret

interrupt:
        andi    t0, t0, 0xff
        li      t1, 5
        beq     t0, t1, timer_interrupt
        li      t1, 9
        beq     t0, t1, external_interrupt
unexpected:
        mv      s0, a0
        ld      a1, F_CAUSE(s0)
        ld      a2, F_PC(s0)
        ld      a3, F_TVAL(s0)
        la      a0, s_unexpected
        call    print
        li      a0, 1
        j       shutdown

timer_interrupt:
        rdtime  t0
        sd      t0, last_tick, t1
        ld      t1, ticks
        addi    t1, t1, 1
        sd      t1, ticks, t2
        li      t1, TICK
        add     a0, t0, t1
        j       set_timer                       # returns to trap_entry

# Move what the UART has received into the ring; what does not fit is lost, as on any serial line.
external_interrupt:
        ld      t0, plic_claim
        lw      t1, 0(t0)
        beqz    t1, 9f
        li      t2, UART_IRQ
        bne     t1, t2, 8f
        li      t2, UART
1:      lbu     t3, UART_LSR(t2)
        andi    t3, t3, 1
        beqz    t3, 8f
        lbu     t3, 0(t2)
        ld      t4, ring_in
        ld      t5, ring_out
        sub     t5, t4, t5
        li      t6, RING_SIZE
        beq     t5, t6, 1b
        andi    t5, t4, RING_SIZE-1
        la      t6, ring
        add     t6, t6, t5
        sb      t3, 0(t6)
        addi    t4, t4, 1
        sd      t4, ring_in, t5
        j       1b
8:      sw      t1, 0(t0)                       # complete
9:      ret

# ---- SBI -------------------------------------------------------------------------------------------------------------
timer_start:
        rdtime  a0
        li      t0, TICK
        add     a0, a0, t0
        j       set_timer
timer_stop:
        li      a0, -1                          # never
set_timer:                                      # a0 = when
        li      a7, 0x54494d45                  # "TIME"
        li      a6, 0
        ecall
        ret

shutdown:                                       # a0 = 0 well, 1 failed
        mv      a1, a0
        li      a0, 0                           # shutdown
        li      a7, 0x53525354                  # "SRST"
        li      a6, 0
        ecall
1:      wfi
        j       1b

sbi_base:                                       # a0 = function -> a0 = value
        mv      a6, a0
        li      a7, 0x10
        ecall
        mv      a0, a1
        ret
