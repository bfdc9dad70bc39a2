# A small machine monitor in S-mode: the guest of `pyvirt demo`.
#
# It is entered by the SBI firmware at 0x80200000 with the hart's number in a0 and the device tree in a1, builds its own
# Sv39 page tables, takes timer interrupts through SBI TIME and console input through the PLIC, and offers a prompt.
# Idle time is tickless: at the prompt no timer is set, the hart waits in wfi for a key. Ticks run while a command does.
#
# Registers: the usual calling convention throughout. Strings are in .rodata, all writable state in .data and .bss.

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

# ---- console ---------------------------------------------------------------------------------------------------------
# console_start(): let the UART interrupt on input, and the PLIC route it to this hart's S-mode context, 2*hart+1.
console_start:
        ld      t0, hart
        slli    t0, t0, 1
        addi    t0, t0, 1
        li      t1, PLIC
        li      t2, 1
        sw      t2, 4*UART_IRQ(t1)              # priority
        li      t3, 0x2000
        add     t3, t3, t1
        slli    t4, t0, 7
        add     t3, t3, t4
        li      t2, 1 << UART_IRQ
        sw      t2, 0(t3)                       # enable
        li      t3, 0x200000
        add     t3, t3, t1
        slli    t4, t0, 12
        add     t3, t3, t4
        sw      zero, 0(t3)                     # threshold
        addi    t3, t3, 4
        sd      t3, plic_claim, t4
        li      t0, UART
        li      t1, 7
        sb      t1, UART_FCR(t0)                # FIFOs on and empty
        li      t1, 1
        sb      t1, UART_IER(t0)                # interrupt on input
        ret

# putc(a0): changes t0 and t1 only. A newline becomes carriage return and newline.
putc:
        li      t0, '\n'
        bne     a0, t0, raw_putc
        li      t0, UART
1:      lbu     t1, UART_LSR(t0)
        andi    t1, t1, 0x20
        beqz    t1, 1b
        li      t1, '\r'
        sb      t1, 0(t0)
raw_putc:
        li      t0, UART
1:      lbu     t1, UART_LSR(t0)
        andi    t1, t1, 0x20
        beqz    t1, 1b
        sb      a0, 0(t0)
        ret

# getc() -> a0: wait for a key. Interrupts are off between the look at the ring and wfi, so none slips through; wfi
# returns when one is pending even so, and it is taken in the two instructions where they are on.
getc:
        ld      t0, ring_out
        ld      t1, ring_in
        bne     t0, t1, 1f
        wfi
        csrsi   sstatus, SSTATUS_SIE
        nop
        csrci   sstatus, SSTATUS_SIE
        j       getc
1:      andi    t1, t0, RING_SIZE-1
        la      t2, ring
        add     t2, t2, t1
        lbu     a0, 0(t2)
        addi    t0, t0, 1
        sd      t0, ring_out, t1
        ret

# read_line(): fill `line`, with echo; backspace and Ctrl-U edit. Commands then run with interrupts on.
read_line:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        sd      s0, 16(sp)
        sd      s1, 8(sp)
        csrci   sstatus, SSTATUS_SIE
        la      s0, line
        mv      s1, s0
1:      call    getc
        li      t0, '\r'
        beq     a0, t0, 9f
        li      t0, '\n'
        beq     a0, t0, 9f
        li      t0, 0x7f
        beq     a0, t0, 2f
        li      t0, 8
        beq     a0, t0, 2f
        li      t0, 'U'-64
        beq     a0, t0, 3f
        li      t0, ' '
        bltu    a0, t0, 1b
        addi    t0, s0, LINE_SIZE-1
        beq     s1, t0, 1b
        sb      a0, 0(s1)
        addi    s1, s1, 1
        call    putc
        j       1b
2:      beq     s1, s0, 1b
        call    rub_out
        j       1b
3:      beq     s1, s0, 1b
        call    rub_out
        j       3b
9:      sb      zero, 0(s1)
        li      a0, '\n'
        call    putc
        csrsi   sstatus, SSTATUS_SIE
        ld      ra, 24(sp)
        ld      s0, 16(sp)
        ld      s1, 8(sp)
        addi    sp, sp, 32
        ret

rub_out:                                        # s1 = end of the line, moved back by one
        addi    s1, s1, -1
        la      a0, s_rub
# puts(a0): changes a0, t0, t1, t2, t3.
puts:
        mv      t2, ra
        mv      t3, a0
1:      lbu     a0, 0(t3)
        beqz    a0, 2f
        addi    t3, t3, 1
        call    putc
        j       1b
2:      jr      t2

# print(a0 = format, a1...): %s string, %d decimal, %x 16 hex digits, %h 0x and as few digits as it takes, %b two hex
# digits, %c character.
print:
        addi    sp, sp, -96
        sd      ra, 88(sp)
        sd      s0, 80(sp)
        sd      s1, 72(sp)
        sd      a1, 0(sp)
        sd      a2, 8(sp)
        sd      a3, 16(sp)
        sd      a4, 24(sp)
        sd      a5, 32(sp)
        sd      a6, 40(sp)
        sd      a7, 48(sp)
        mv      s0, a0
        mv      s1, sp
1:      lbu     a0, 0(s0)
        beqz    a0, 9f
        addi    s0, s0, 1
        li      t0, '%'
        beq     a0, t0, 2f
        call    putc
        j       1b
2:      lbu     t1, 0(s0)
        addi    s0, s0, 1
        ld      a0, 0(s1)
        addi    s1, s1, 8
        la      ra, 1b                          # each of these goes on with the next character
        li      t0, 's'
        beq     t1, t0, puts
        li      t0, 'd'
        beq     t1, t0, put_decimal
        li      t0, 'c'
        beq     t1, t0, putc
        li      a1, 60
        li      t0, 'x'
        beq     t1, t0, put_hex
        li      a1, 4
        li      t0, 'b'
        beq     t1, t0, put_hex
        j       put_short
9:      ld      ra, 88(sp)
        ld      s0, 80(sp)
        ld      s1, 72(sp)
        addi    sp, sp, 96
        ret

put_short:                                      # 0x, then no more digits than the number has
        mv      t2, ra
        mv      t3, a0
        li      a0, '0'
        call    putc
        li      a0, 'x'
        call    putc
        mv      a0, t3
        mv      ra, t2
        li      a1, 60
1:      beqz    a1, put_hex
        srl     t0, a0, a1
        bnez    t0, put_hex
        addi    a1, a1, -4
        j       1b

# put_hex(a0 = number, a1 = place of the first digit, in bits)
put_hex:
        mv      t2, ra
        mv      t3, a0
1:      srl     a0, t3, a1
        andi    a0, a0, 15
        li      t0, 10
        bltu    a0, t0, 2f
        addi    a0, a0, 'a'-'0'-10
2:      addi    a0, a0, '0'
        call    putc
        addi    a1, a1, -4
        bgez    a1, 1b
        jr      t2

put_decimal:
        addi    sp, sp, -32
        sd      ra, 24(sp)
        addi    t2, sp, 23
        sb      zero, 0(t2)
        li      t0, 10
1:      remu    t1, a0, t0
        addi    t1, t1, '0'
        addi    t2, t2, -1
        sb      t1, 0(t2)
        divu    a0, a0, t0
        bnez    a0, 1b
        mv      a0, t2
        call    puts
        ld      ra, 24(sp)
        addi    sp, sp, 32
        ret

# ---- text ------------------------------------------------------------------------------------------------------------
skip_blanks:                                    # a0 = text -> a0 = its first character that is no blank
        lbu     t0, 0(a0)
        li      t1, ' '
        bne     t0, t1, 1f
        addi    a0, a0, 1
        j       skip_blanks
1:      ret

word_end:                                       # a0 = word -> a0 = what follows it; the word gets its NUL
        lbu     t0, 0(a0)
        beqz    t0, 2f
        li      t1, ' '
        beq     t0, t1, 1f
        addi    a0, a0, 1
        j       word_end
1:      sb      zero, 0(a0)
        addi    a0, a0, 1
2:      ret

same:                                           # a0, a1 = strings -> a0 = 1 if equal
        lbu     t0, 0(a0)
        lbu     t1, 0(a1)
        bne     t0, t1, 1f
        addi    a0, a0, 1
        addi    a1, a1, 1
        bnez    t0, same
        li      a0, 1
        ret
1:      li      a0, 0
        ret

# parse(a0 = text, a1 = base 10 or 16) -> a0 = number, a1 = 1 if the text was one. 0x may come before any number.
parse:
        lbu     t0, 0(a0)
        li      t1, '0'
        bne     t0, t1, 1f
        lbu     t0, 1(a0)
        li      t1, 'x'
        bne     t0, t1, 1f
        addi    a0, a0, 2
        li      a1, 16
1:      mv      t2, a0
        li      a0, 0
        lbu     t0, 0(t2)
        beqz    t0, 8f
2:      lbu     t0, 0(t2)
        beqz    t0, 9f
        li      t1, ' '
        beq     t0, t1, 9f
        addi    t0, t0, -'0'
        li      t1, 10
        bltu    t0, t1, 3f
        addi    t0, t0, '0'
        ori     t0, t0, 0x20                    # to lower case
        addi    t0, t0, -'a'
        bltz    t0, 8f
        addi    t0, t0, 10
3:      bgeu    t0, a1, 8f
        mul     a0, a0, a1
        add     a0, a0, t0
        addi    t2, t2, 1
        j       2b
8:      li      a1, 0
        ret
9:      li      a1, 1
        ret

# ---- the device tree -------------------------------------------------------------------------------------------------
# find_isa(): copy the first riscv,isa property into isa_text. The tree is big-endian; tokens: 1 begin node, 2 end node,
# 3 property {length, name offset}, 4 nop, 9 end.
find_isa:
        addi    sp, sp, -48
        sd      ra, 40(sp)
        sd      s0, 32(sp)
        sd      s1, 24(sp)
        sd      s2, 16(sp)
        ld      t3, device_tree
        lwu     a0, 0(t3)
        call    swap
        li      t0, 0xd00dfeed
        bne     a0, t0, 9f
        lwu     a0, 8(t3)
        call    swap
        add     s0, t3, a0                      # structure
        lwu     a0, 12(t3)
        call    swap
        add     s1, t3, a0                      # strings
1:      lwu     a0, 0(s0)
        call    swap
        addi    s0, s0, 4
        li      t0, 1
        beq     a0, t0, 2f
        li      t0, 3
        beq     a0, t0, 4f
        li      t0, 9
        beq     a0, t0, 9f
        j       1b
2:      lbu     t0, 0(s0)                       # a node's name, padded to four bytes
        addi    s0, s0, 1
        bnez    t0, 2b
3:      addi    s0, s0, 3
        andi    s0, s0, -4
        j       1b
4:      lwu     a0, 0(s0)
        call    swap
        mv      s2, a0                          # length
        lwu     a0, 4(s0)
        call    swap
        addi    s0, s0, 8
        add     a0, s1, a0
        la      a1, s_isa_property
        call    same
        bnez    a0, 5f
        add     s0, s0, s2
        j       3b
5:      la      t0, isa_text
        li      t1, 255
        bleu    s2, t1, 6f
        mv      s2, t1
6:      lbu     t1, 0(s0)
        sb      t1, 0(t0)
        addi    s0, s0, 1
        addi    t0, t0, 1
        addi    s2, s2, -1
        bgtz    s2, 6b
9:      ld      ra, 40(sp)
        ld      s0, 32(sp)
        ld      s1, 24(sp)
        ld      s2, 16(sp)
        addi    sp, sp, 48
        ret

swap:                                           # a0 = 32 bits -> a0 with its bytes the other way round
        srli    t0, a0, 24
        srli    t1, a0, 8
        li      t2, 0xff00
        and     t1, t1, t2
        or      t0, t0, t1
        and     t1, a0, t2
        slli    t1, t1, 8
        or      t0, t0, t1
        andi    a0, a0, 0xff
        slli    a0, a0, 24
        or      a0, a0, t0
        ret

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
