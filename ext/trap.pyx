# cython: boundscheck=False
"""Traps: which are taken when, where they go, and the instructions that make them or return from them.

One function delivers every trap; its arms are the privilege levels that may receive it. Also here: the choice among
pending interrupts, and ecall, ebreak, mret, sret, wfi and the fences with their guards. Privileged manual, chapters
"Machine-Level ISA" ("Trap-Vector Base-Address", "Machine Interrupt Registers") and "Supervisor-Level ISA".
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from arch cimport *
from cache cimport *
from opcodes cimport *


cdef enum:
    STREAK_MAX = 1000       # traps without an instruction retired between them, after which the machine stops


# ---- delivery ---------------------------------------------------------------------------------------------------
cdef inline uint64_t vector(uint64_t tvec, uint64_t cause) noexcept nogil:
    """Return where a trap goes; vectored mode (1) spreads interrupts only."""
    if tvec & 1 and cause & INTERRUPT_BIT:
        return (tvec & ~<uint64_t>3) + 4 * (cause & ~INTERRUPT_BIT)
    return tvec & ~<uint64_t>3


cdef void enter_s(hart_t* h, uint64_t cause, uint64_t tval, uint64_t pc) noexcept nogil:
    cdef uint64_t status = h.s.mstatus
    h.s.sepc = pc
    h.s.scause = cause
    h.s.stval = tval
    status &= ~(MSTATUS_SPIE | MSTATUS_SPP)
    if status & MSTATUS_SIE:
        status |= MSTATUS_SPIE
    if h.s.priv == PRIV_S:
        status |= MSTATUS_SPP
    h.s.mstatus = status & ~MSTATUS_SIE
    h.s.priv = PRIV_S
    h.s.pc = vector(h.s.stvec, cause)


cdef void enter_m(hart_t* h, uint64_t cause, uint64_t tval, uint64_t pc) noexcept nogil:
    cdef uint64_t status = h.s.mstatus
    h.s.mepc = pc
    h.s.mcause = cause
    h.s.mtval = tval
    status &= ~(MSTATUS_MPIE | MSTATUS_MPP)
    if status & MSTATUS_MIE:
        status |= MSTATUS_MPIE
    status |= <uint64_t>h.s.priv << MSTATUS_MPP_SHIFT
    h.s.mstatus = status & ~MSTATUS_MIE
    h.s.priv = PRIV_M
    h.s.pc = vector(h.s.mtvec, cause)


cdef int deliver(hart_t* h, uint64_t cause, uint64_t tval, uint64_t pc) noexcept nogil:
    """Take a trap at pc; h.n is the budget behind it. Returns ST_TRAP, or ST_STOP for the built-in firmware."""
    cdef uint64_t number = cause & ~INTERRUPT_BIT
    cdef uint64_t delegated = h.s.mideleg if cause & INTERRUPT_BIT else h.s.medeleg
    cdef uint64_t count = h.count_end - <uint64_t>h.n
    if not cause & INTERRUPT_BIT:
        # It was attempted and not retired.
        if not h.s.mcountinhibit & 4:
            h.s.instret_bias -= 1
        if h.s.streak_next == count and h.s.streak_count:
            h.s.streak_count += 1
            if h.s.streak_count >= STREAK_MAX:
                h.s.streak_count = 0
                order_leave(h.m, STOP_TRAP_LOOP)
        else:
            h.s.streak_count = 1
        h.s.streak_next = count + 1
    if h.s.priv <= PRIV_S and delegated >> number & 1:
        enter_s(h, cause, tval, pc)
    elif h.m.builtin_sbi:
        # No M-mode software: the firmware is the host, called with the hart as it stands at the instruction.
        h.s.pc = pc
        h.s.mcause = cause
        h.s.mtval = tval
        order_leave(h.m, STOP_SBI if cause == CAUSE_ECALL_S else STOP_FIRMWARE)
        return ST_STOP
    else:
        enter_m(h, cause, tval, pc)
    h.api.select(h)
    if h.m.trap_stops[1 if cause & INTERRUPT_BIT else 0] >> (number & 63) & 1:
        order_leave(h.m, STOP_TRAP)
    return ST_TRAP


cdef int trap(hart_t* h, op_t* op, int64_t n, uint64_t cause, uint64_t tval) noexcept nogil:
    """Take an exception at an op inside its block, n being the budget at the block's entry."""
    cdef meta_t* meta = meta_of(op)
    h.n = n - meta.idx - 1
    return deliver(h, cause, tval, h.page_va + meta.off)


# ---- interrupts -------------------------------------------------------------------------------------------------
cdef uint64_t irq(hart_t* h) noexcept nogil:
    """Return the interrupt to take at the machine's icount, its number + 1, or 0; sets h.pending."""
    cdef uint64_t pending = h.api.mip(h, h.m.clock.icount) & h.s.mie
    cdef uint64_t ready
    h.pending = pending
    if not pending:
        return 0
    ready = pending & ~h.s.mideleg
    if not (ready and (h.s.priv < PRIV_M or h.s.mstatus & MSTATUS_MIE)):
        ready = pending & h.s.mideleg
        if not ready or h.s.priv > PRIV_S or (h.s.priv == PRIV_S and not h.s.mstatus & MSTATUS_SIE):
            return 0
    # Highest first: MEI, MSI, MTI, SEI, SSI, STI.
    if ready >> IRQ_MEI & 1:
        return IRQ_MEI + 1
    if ready >> IRQ_MSI & 1:
        return IRQ_MSI + 1
    if ready >> IRQ_MTI & 1:
        return IRQ_MTI + 1
    if ready >> IRQ_SEI & 1:
        return IRQ_SEI + 1
    if ready >> IRQ_SSI & 1:
        return IRQ_SSI + 1
    return IRQ_STI + 1


# ---- returns ----------------------------------------------------------------------------------------------------
cdef int after_return(hart_t* h) noexcept nogil:
    h.api.select(h)
    return ST_LEAVE if h.pending else ST_JUMP


cdef int do_mret(hart_t* h) noexcept nogil:
    cdef uint64_t status = h.s.mstatus
    cdef uint8_t to = (status & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT
    status &= ~(MSTATUS_MIE | MSTATUS_MPP)
    if status & MSTATUS_MPIE:
        status |= MSTATUS_MIE
    status |= MSTATUS_MPIE
    if to != PRIV_M:
        status &= ~MSTATUS_MPRV
    h.s.mstatus = status
    h.s.priv = to
    h.s.pc = h.s.mepc
    return after_return(h)


cdef int do_sret(hart_t* h) noexcept nogil:
    cdef uint64_t status = h.s.mstatus
    cdef uint8_t to = PRIV_S if status & MSTATUS_SPP else PRIV_U
    status &= ~(MSTATUS_SIE | MSTATUS_SPP | MSTATUS_MPRV)
    if status & MSTATUS_SPIE:
        status |= MSTATUS_SIE
    h.s.mstatus = status | MSTATUS_SPIE
    h.s.priv = to
    h.s.pc = h.s.sepc
    return after_return(h)


# ---- the instructions -------------------------------------------------------------------------------------------
cdef int sys(hart_t* h, op_t* op, uint64_t* x, int64_t n) noexcept nogil:
    """Do a system instruction; n is the budget behind it. Guards first, as the manual lists them."""
    cdef int opcode = meta_of(op).opcode
    cdef uint64_t pc = h.page_va + meta_of(op).off
    cdef uint64_t status = h.s.mstatus
    cdef int priv = h.s.priv
    h.n = n
    if opcode == OP_ECALL:
        return h.api.deliver(h, CAUSE_ECALL_U + priv, 0, pc)
    if opcode == OP_EBREAK:
        return h.api.deliver(h, CAUSE_BREAKPOINT, pc, pc)
    if opcode == OP_SRET:
        if priv == PRIV_M or (priv == PRIV_S and not status & MSTATUS_TSR):
            return do_sret(h)
    elif opcode == OP_MRET:
        if priv == PRIV_M:
            return do_mret(h)
    elif opcode == OP_WFI:
        # TW traps at once: no bounded time passes here before it would. In U-mode the same (S-mode is implemented).
        if priv == PRIV_M or (priv == PRIV_S and not status & MSTATUS_TW):
            h.s.waiting = 1
            h.s.pc = pc + 4
            return ST_LEAVE
    elif opcode == OP_SFENCE_VMA or opcode == OP_SINVAL_VMA:
        # Translation behaves as if every access walked: there is nothing to flush.
        if priv == PRIV_M or (priv == PRIV_S and not status & MSTATUS_TVM):
            return ST_OK
    elif opcode == OP_SFENCE_W_INVAL or opcode == OP_SFENCE_INVAL_IR:
        if priv >= PRIV_S:
            return ST_OK
    return h.api.deliver(h, CAUSE_ILLEGAL, meta_of(op).raw, pc)


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.trap = trap
    api.deliver = deliver
    api.irq = irq
    api.sys = sys


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
