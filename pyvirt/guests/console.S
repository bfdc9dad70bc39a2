# The monitor's console: the UART, printing and reading text, and the device tree's strings.

        .text
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
