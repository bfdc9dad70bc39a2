# The monitor's strings, tables and variables. Each section starts a page: page tables give each its permissions.

# ---- constants -------------------------------------------------------------------------------------------------------
        .rodata
        .align  12
rodata_start:
s_hello:        .asciz "\npyvirt monitor: S-mode, Sv39. `help` lists the commands.\n"
s_prompt:       .asciz "pyvirt> "
s_no_sv39:      .asciz "this hart has no Sv39\n"
s_unknown:      .asciz "%s: not a command; try `help`\n"
s_rub:          .asciz "\b \b"
s_unexpected:   .asciz "\nunexpected trap: scause %h sepc %h stval %h\n"
s_help_line:    .asciz "  %s\n"
s_info_hart:    .asciz "hart     %d\nisa      %s\ntree     %h\n"
s_info_sbi:     .asciz "sbi      %d.%d, implementation %h\n"
s_info_memory:  .asciz "satp     %h\ntext     %h\nrodata   %h\ndata     %h\nend      %h\n"
s_info_time:    .asciz "time     %d\ninstret  %d\ncycle    %d\n"
s_regs_head:    .asciz "pc   %x  sstatus %h  scause %h\n"
s_reg:          .asciz " %s %x"
s_address:      .asciz "%x:"
s_dword:        .asciz " %x"
s_bar:          .asciz "  |"
s_bar_end:      .asciz "|\n"
s_mem_fault:    .asciz " %s\n"
s_need_address: .asciz "an address in hexadecimal is needed\n"
s_need_number:  .asciz "a number up to %d is needed\n"
s_walk_head:    .asciz "%h, Sv39, root %h\n"
s_walk_level:   .asciz "  level %d  [%d]  at %h: %x"
s_walk_table:   .asciz "  table %h\n"
s_walk_found:   .asciz "\n  physical address %h\n"
s_walk_invalid: .asciz "  not valid: page fault\n"
s_walk_canonical: .asciz "  bits 63:39 differ from bit 38: page fault\n"
s_walk_deep:    .asciz "  no leaf at the last level: page fault\n"
s_flags:        .asciz "rwxugad"
s_tick:         .asciz "tick %d at time %d\n"
s_primes:       .asciz "%d primes up to %d, the last is %d; %d instructions\n"
s_trap:         .asciz "scause   %h, %s\nsepc     %h\nstval    %h\nsstatus  %h\n"
s_halt:         .asciz "bye\n"
s_group:        .asciz "  %s: %d checks\n"
s_check_failed: .asciz "  %s: check %d failed: found %h, expected %h\n"
s_selftest_ok:  .asciz "SELFTEST-OK %d checks\n"
s_selftest_failed: .asciz "SELFTEST-FAILED %d\n"
s_isa_property: .asciz "riscv,isa"
s_digits:       .asciz "123456789"

h_help:         .asciz "help         this list"
h_info:         .asciz "info         hart, isa, firmware, memory, time"
h_regs:         .asciz "regs         the registers, as a breakpoint leaves them"
h_mem:          .asciz "mem ADDR     64 bytes of memory"
h_walk:         .asciz "walk ADDR    the page-table walk of an address"
h_ticks:        .asciz "ticks        wait for ten timer interrupts"
h_primes:       .asciz "primes N     the primes up to N"
h_trap:         .asciz "trap         take a page fault and explain it"
h_selftest:     .asciz "selftest     check the machine from inside"
h_halt:         .asciz "halt         power off"

g_arithmetic:   .asciz "arithmetic"
g_float:        .asciz "floating point"
g_memory:       .asciz "memory and atomics"
g_pages:        .asciz "page tables"
g_code:         .asciz "code that changes"
g_traps:        .asciz "traps and user mode"
g_time:         .asciz "time and console"

register_names: .ascii "zero\0ra  \0sp  \0gp  \0tp  \0t0  \0t1  \0t2  \0s0  \0s1  \0a0  \0a1  \0a2  \0a3  \0a4  \0a5  \0"
                .ascii "a6  \0a7  \0s2  \0s3  \0s4  \0s5  \0s6  \0s7  \0s8  \0s9  \0s10 \0s11 \0t3  \0t4  \0t5  \0t6  \0"

c_0:            .asciz "instruction address misaligned"
c_1:            .asciz "instruction access fault"
c_2:            .asciz "illegal instruction"
c_3:            .asciz "breakpoint"
c_4:            .asciz "load address misaligned"
c_5:            .asciz "load access fault"
c_6:            .asciz "store address misaligned"
c_7:            .asciz "store access fault"
c_8:            .asciz "environment call from U-mode"
c_9:            .asciz "environment call from S-mode"
c_10:           .asciz "reserved"
c_12:           .asciz "instruction page fault"
c_13:           .asciz "load page fault"
c_15:           .asciz "store page fault"

        .align  3
cause_names:    .dword c_0, c_1, c_2, c_3, c_4, c_5, c_6, c_7, c_8, c_9, c_10, c_10, c_12, c_13, c_10, c_15

commands:       .dword n_help, cmd_help, h_help, n_info, cmd_info, h_info, n_regs, cmd_regs, h_regs
                .dword n_mem, cmd_mem, h_mem, n_walk, cmd_walk, h_walk, n_ticks, cmd_ticks, h_ticks
                .dword n_primes, cmd_primes, h_primes, n_trap, cmd_trap, h_trap
                .dword n_selftest, cmd_selftest, h_selftest, n_halt, cmd_halt, h_halt, 0

groups:         .dword test_arithmetic, g_arithmetic, test_float, g_float, test_memory, g_memory, test_pages, g_pages
                .dword test_code, g_code, test_traps, g_traps, test_time, g_time, 0

memory_sum:     .dword 0xa8a21f4de               # computed apart, in Python

# Flags of the page, bits of sstatus; then what load, store and fetch must end with: 0 or a cause.
page_cases:
        .dword  0, 0
        .byte   LOAD_PAGE, STORE_PAGE, FETCH_PAGE, 0, 0, 0, 0, 0
        .dword  PTE_RO, 0
        .byte   0, STORE_PAGE, FETCH_PAGE, 0, 0, 0, 0, 0
        .dword  PTE_RW, 0
        .byte   0, 0, FETCH_PAGE, 0, 0, 0, 0, 0
        .dword  PTE_RX, 0
        .byte   0, STORE_PAGE, 0, 0, 0, 0, 0, 0
        .dword  PTE_RW|PTE_X, 0
        .byte   0, 0, 0, 0, 0, 0, 0, 0
        .dword  LEAF|PTE_X, 0                   # execute only
        .byte   LOAD_PAGE, STORE_PAGE, 0, 0, 0, 0, 0, 0
        .dword  LEAF|PTE_X, SSTATUS_MXR         # made readable
        .byte   0, STORE_PAGE, 0, 0, 0, 0, 0, 0
        .dword  LEAF|PTE_W, 0                   # reserved: writable but not readable
        .byte   LOAD_PAGE, STORE_PAGE, FETCH_PAGE, 0, 0, 0, 0, 0
        .dword  PTE_RW|PTE_X|PTE_U, 0           # user pages are closed to S-mode
        .byte   LOAD_PAGE, STORE_PAGE, FETCH_PAGE, 0, 0, 0, 0, 0
        .dword  PTE_RW|PTE_X|PTE_U, SSTATUS_SUM # open to data, never to fetches
        .byte   0, 0, FETCH_PAGE, 0, 0, 0, 0, 0
        .dword  -1

n_help:         .asciz "help"
n_info:         .asciz "info"
n_regs:         .asciz "regs"
n_mem:          .asciz "mem"
n_walk:         .asciz "walk"
n_ticks:        .asciz "ticks"
n_primes:       .asciz "primes"
n_trap:         .asciz "trap"
n_selftest:     .asciz "selftest"
n_halt:         .asciz "halt"

# ---- variables -------------------------------------------------------------------------------------------------------
        .data
        .align  12
data_start:
hart:           .dword 0
device_tree:    .dword 0
plic_claim:     .dword 0
fixup:          .dword 0                        # where an expected exception goes on; 0 when none is expected
ticks:          .dword 0
last_tick:      .dword 0
ring_in:        .dword 0                        # counts of bytes put in and taken out
ring_out:       .dword 0
checks:         .dword 0
failures:       .dword 0
scratch:        .dword 0
isa_text:       .asciz "not in the device tree"
                .space 256

        .bss
        .align  12
root:           .space 4096                     # page tables, by the size of what they map
low_1g:         .space 4096
test_1g:        .space 4096
test_2m:        .space 4096
ram_1g:         .space 4096
image_2m:       .space 4096
frame_a:        .space 4096
frame_b:        .space 4096
kept_frame:     .space FRAME
line:           .space LINE_SIZE
ring:           .space RING_SIZE
        .align  4
                .space 8192
stack_top:
image_end:
