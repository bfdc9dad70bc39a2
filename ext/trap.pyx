# cython: boundscheck=False
"""Traps: which are taken when, where they go, and the instructions that make them or return from them.

One function delivers every trap; its three arms are the worlds that may receive it: M, HS, VS. Also here: the choice
among pending interrupts, and ecall, ebreak, mret, sret, wfi and the fences with their guards. Privileged manual,
chapters "Machine-Level ISA" ("Trap-Vector Base-Address", "Machine Interrupt Registers"), "Supervisor-Level ISA" and
"H" ("Traps").
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint64_t

from arch cimport *
from cache cimport *
from opcodes cimport *


cdef enum:
    RECORDS_SLACK = 4       # records that may still come before a run that was asked to leave has left
    STREAK_MAX = 1000       # traps without an instruction retired between them, after which the machine stops


# ---- delivery ---------------------------------------------------------------------------------------------------
cdef inline uint64_t vector(uint64_t tvec, uint64_t cause) noexcept nogil:
    """Return where a trap goes; vectored mode (1) spreads interrupts only."""
    if tvec & 1 and cause & INTERRUPT_BIT:
        return (tvec & ~<uint64_t>3) + 4 * (cause & ~INTERRUPT_BIT)
    return tvec & ~<uint64_t>3


cdef inline uint64_t status_enter_s(uint64_t status, uint8_t priv) noexcept nogil:
    """Return sstatus or vsstatus as a trap into its mode leaves it."""
    status &= ~(MSTATUS_SPIE | MSTATUS_SPP)
    if status & MSTATUS_SIE:
        status |= MSTATUS_SPIE
    if priv == PRIV_S:
        status |= MSTATUS_SPP
    return status & ~MSTATUS_SIE


cdef void enter_vs(hart_t* h, uint64_t cause, uint64_t tval, uint64_t pc) noexcept nogil:
    if cause & INTERRUPT_BIT:
        cause -= 1  # a guest sees its interrupts under their S-level numbers
    h.s.vsepc = pc
    h.s.vscause = cause
    h.s.vstval = tval
    h.s.vsstatus = status_enter_s(h.s.vsstatus, h.s.priv)
    h.s.priv = PRIV_S
    h.s.pc = vector(h.s.vstvec, cause)


cdef void enter_hs(hart_t* h, uint64_t cause, uint64_t tval, uint64_t pc, uint64_t tval2, uint64_t tinst,
                   uint64_t gva) noexcept nogil:
    cdef uint64_t hstatus = h.s.hstatus
    h.s.sepc = pc
    h.s.scause = cause
    h.s.stval = tval
    h.s.mstatus = status_enter_s(h.s.mstatus, h.s.priv)
    if h.m.exts >> EXT_H & 1:
        hstatus &= ~(HSTATUS_SPV | HSTATUS_GVA)
        if h.s.virt:
            # SPVP keeps its value when the trap does not come from a guest.
            hstatus &= ~HSTATUS_SPVP
            hstatus |= HSTATUS_SPV | (HSTATUS_SPVP if h.s.priv == PRIV_S else 0)
        if gva:
            hstatus |= HSTATUS_GVA
        h.s.hstatus = hstatus
        h.s.htval = tval2
        h.s.htinst = tinst
    h.s.virt = 0
    h.s.priv = PRIV_S
    h.s.pc = vector(h.s.stvec, cause)


cdef void enter_m(hart_t* h, uint64_t cause, uint64_t tval, uint64_t pc, uint64_t tval2, uint64_t tinst,
                  uint64_t gva) noexcept nogil:
    cdef uint64_t status = h.s.mstatus
    h.s.mepc = pc
    h.s.mcause = cause
    h.s.mtval = tval
    status &= ~(MSTATUS_MPIE | MSTATUS_MPP | MSTATUS_MPV | MSTATUS_GVA)
    if status & MSTATUS_MIE:
        status |= MSTATUS_MPIE
    status |= <uint64_t>h.s.priv << MSTATUS_MPP_SHIFT
    if h.m.exts >> EXT_H & 1:
        if h.s.virt:
            status |= MSTATUS_MPV
        if gva:
            status |= MSTATUS_GVA
        h.s.mtval2 = tval2
        h.s.mtinst = tinst
    h.s.mstatus = status & ~MSTATUS_MIE
    h.s.virt = 0
    h.s.priv = PRIV_M
    h.s.pc = vector(h.s.mtvec, cause)


cdef inline uint8_t world(hart_t* h) noexcept nogil:
    return h.s.priv | h.s.virt << 2


cdef void record(hart_t* h, int kind, uint64_t cause, uint64_t tval, uint64_t tval2, uint64_t tinst, uint64_t gva,
                 uint64_t pc, uint8_t from_, uint8_t to) noexcept nogil:
    """Keep a trap or a return for whoever asked; the run comes back before there is no room for more."""
    cdef machine_t* m = h.m
    cdef trap_record_t* r
    if m.nrecords == m.records_cap:
        return
    r = &m.records[m.nrecords]
    r.icount = h.icount_end - <uint64_t>h.n
    r.pc, r.cause, r.tval, r.tval2, r.tinst, r.hgatp = pc, cause, tval, tval2, tinst, h.s.hgatp
    r.from_, r.to, r.gva, r.kind, r.hart = from_, to, <uint8_t>gva, <uint8_t>kind, h.s.hartid
    m.nrecords += 1
    if m.nrecords + RECORDS_SLACK >= m.records_cap:
        order_leave(m, STOP_NOTIFY)


cdef int deliver(hart_t* h, uint64_t cause, uint64_t tval, uint64_t pc) noexcept nogil:
    """Take a trap at pc; h.n is the budget behind it. Returns ST_TRAP, or ST_STOP for the built-in firmware.

    h.tval2, h.tinst and h.tgva are what else is known of it, and are used up.
    """
    cdef uint64_t number = cause & ~INTERRUPT_BIT
    cdef uint64_t delegated = h.s.mideleg if cause & INTERRUPT_BIT else h.s.medeleg
    cdef uint64_t further = h.s.hideleg if cause & INTERRUPT_BIT else h.s.hedeleg
    cdef uint64_t count = h.count_end - <uint64_t>h.n
    cdef uint64_t tval2 = h.tval2, tinst = h.tinst, gva = h.tgva
    cdef uint8_t virt = h.s.virt, from_ = world(h)
    h.tval2 = h.tinst = h.tgva = 0
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
    if h.s.priv > PRIV_S or not delegated >> number & 1:
        if h.m.builtin_sbi:
            # No M-mode software: the firmware is the host, called with the hart as it stands at the instruction.
            h.s.pc = pc
            h.s.mcause = cause
            h.s.mtval = tval
            if h.m.records != NULL:
                record(h, 0, cause, tval, tval2, tinst, gva, pc, from_, PRIV_M)
            order_leave(h.m, STOP_SBI if cause == CAUSE_ECALL_S else STOP_FIRMWARE)
            return ST_STOP
        enter_m(h, cause, tval, pc, tval2, tinst, gva)
    elif virt and further >> number & 1:
        enter_vs(h, cause, tval, pc)
        if h.m.hyper & HYPER_GUEST:
            order_leave(h.m, STOP_HYPER)
    else:
        enter_hs(h, cause, tval, pc, tval2, tinst, gva)
        if h.m.hyper & HYPER_HOST:
            order_leave(h.m, STOP_HYPER)
    if virt != h.s.virt:
        h.api.status_changed(h)
    h.api.select(h)
    if h.m.records != NULL:
        record(h, 0, cause, tval, tval2, tinst, gva, pc, from_, world(h))
    if h.m.trap_stops[1 if cause & INTERRUPT_BIT else 0] >> (number & 63) & 1:
        order_leave(h.m, STOP_TRAP)
    return ST_TRAP


cdef int trap(hart_t* h, op_t* op, int64_t n, uint64_t cause, uint64_t tval) noexcept nogil:
    """Take an exception at an op inside its block, n being the budget at the block's entry."""
    cdef meta_t* meta = meta_of(op)
    h.n = n - meta.idx - 1
    return deliver(h, cause, tval, h.page_va + meta.off)


# ---- interrupts -------------------------------------------------------------------------------------------------
cdef inline uint64_t highest(uint64_t ready) noexcept nogil:
    """Return the number + 1 of the interrupt that goes first among those ready."""
    cdef int i
    cdef int order[10]
    order[:] = [IRQ_MEI, IRQ_MSI, IRQ_MTI, IRQ_SEI, IRQ_SSI, IRQ_STI, IRQ_SGEI, IRQ_VSEI, IRQ_VSSI, IRQ_VSTI]
    for i in range(10):
        if ready >> order[i] & 1:
            return order[i] + 1
    return 0


cdef uint64_t irq(hart_t* h) noexcept nogil:
    """Return the interrupt to take at the machine's icount, its number + 1, or 0; sets h.pending.

    Where VS-mode would take what a hypervisor of the host's offers, and nothing goes before that, the run stops.
    """
    cdef uint64_t pending = h.api.mip(h, h.m.clock.icount) & h.s.mie
    cdef uint64_t ready
    cdef uint8_t priv = h.s.priv
    h.pending = pending | h.offered
    if not h.pending:
        return 0
    ready = pending & ~h.s.mideleg
    if ready and (priv < PRIV_M or h.s.mstatus & MSTATUS_MIE):
        return highest(ready)
    ready = pending & h.s.mideleg & ~h.s.hideleg
    if ready and (h.s.virt or priv < PRIV_S or (priv == PRIV_S and h.s.mstatus & MSTATUS_SIE)):
        return highest(ready)
    ready = pending & h.s.mideleg & h.s.hideleg
    if ready and h.s.virt and (priv < PRIV_S or h.s.vsstatus & MSTATUS_SIE):
        return highest(ready)
    if h.offered & OFFER_TAKE and h.s.virt and (priv < PRIV_S or h.s.vsstatus & MSTATUS_SIE):
        order_leave(h.m, STOP_HYPER)
    return 0


# ---- returns ----------------------------------------------------------------------------------------------------
cdef int return_to(hart_t* h, uint8_t priv, uint8_t virt, uint64_t pc) noexcept nogil:
    cdef uint8_t old = h.s.virt, from_ = world(h)
    h.s.priv = priv
    h.s.virt = virt
    h.s.pc = pc
    if old != virt:
        h.api.status_changed(h)
    h.api.select(h)
    if h.m.records != NULL:
        record(h, 1, 0, 0, 0, 0, 0, pc, from_, world(h))
        return ST_LEAVE  # there may be no room for another
    return ST_LEAVE if h.pending else ST_JUMP


cdef int do_mret(hart_t* h) noexcept nogil:
    cdef uint64_t status = h.s.mstatus
    cdef uint8_t to = (status & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT
    cdef uint8_t virt = to != PRIV_M and (status & MSTATUS_MPV) != 0
    status &= ~(MSTATUS_MIE | MSTATUS_MPP | MSTATUS_MPV)
    if status & MSTATUS_MPIE:
        status |= MSTATUS_MIE
    status |= MSTATUS_MPIE
    if to != PRIV_M:
        status &= ~MSTATUS_MPRV
    h.s.mstatus = status
    return return_to(h, to, virt, h.s.mepc)


cdef inline uint64_t status_leave_s(uint64_t status) noexcept nogil:
    """Return sstatus or vsstatus as sret leaves it."""
    cdef uint64_t left = (status & ~(MSTATUS_SIE | MSTATUS_SPP)) | MSTATUS_SPIE
    return left | MSTATUS_SIE if status & MSTATUS_SPIE else left


cdef int do_sret(hart_t* h) noexcept nogil:
    cdef uint8_t to, virt = 0
    h.s.mstatus &= ~MSTATUS_MPRV
    if h.s.virt:
        to = PRIV_S if h.s.vsstatus & MSTATUS_SPP else PRIV_U
        h.s.vsstatus = status_leave_s(h.s.vsstatus)
        return return_to(h, to, 1, h.s.vsepc)
    to = PRIV_S if h.s.mstatus & MSTATUS_SPP else PRIV_U
    h.s.mstatus = status_leave_s(h.s.mstatus)
    virt = (h.s.hstatus & HSTATUS_SPV) != 0
    h.s.hstatus &= ~HSTATUS_SPV
    return return_to(h, to, virt, h.s.sepc)


# ---- the instructions -------------------------------------------------------------------------------------------
cdef uint64_t refused(hart_t* h, int opcode) noexcept nogil:
    """Return the cause that an instruction is refused with in the present world, 0 when it may go on.

    What a guest may not do but HS-mode may is a virtual instruction ("H", "Virtual-Instruction Exceptions").
    """
    cdef int priv = h.s.priv, virt = h.s.virt
    cdef uint64_t status = h.s.mstatus, guest = CAUSE_VIRTUAL if virt else CAUSE_ILLEGAL
    if priv == PRIV_M:
        return 0
    if opcode == OP_MRET:
        return CAUSE_ILLEGAL
    if opcode == OP_WRS_NTO or opcode == OP_WRS_STO:
        return 0  # no time passes in which TW could trap
    if opcode == OP_WFI:
        # TW traps at once: no bounded time passes here before it would. In U-mode as if TW, since S-mode exists.
        if status & MSTATUS_TW:
            return CAUSE_ILLEGAL
        return guest if priv == PRIV_U or (virt and h.s.hstatus & HSTATUS_VTW) else 0
    if opcode == OP_SFENCE_W_INVAL or opcode == OP_SFENCE_INVAL_IR:
        return guest if priv == PRIV_U else 0
    if opcode == OP_HFENCE_VVMA or opcode == OP_HINVAL_VVMA:
        return guest if priv == PRIV_U or virt else 0
    if opcode == OP_HFENCE_GVMA or opcode == OP_HINVAL_GVMA:
        if priv == PRIV_U or virt:
            return guest
        return CAUSE_ILLEGAL if status & MSTATUS_TVM else 0
    if priv == PRIV_U:
        return guest
    if opcode == OP_SRET:
        if virt:
            return CAUSE_VIRTUAL if h.s.hstatus & HSTATUS_VTSR else 0
        return CAUSE_ILLEGAL if status & MSTATUS_TSR else 0
    # sfence.vma and sinval.vma
    if virt:
        return CAUSE_VIRTUAL if h.s.hstatus & HSTATUS_VTVM else 0
    return CAUSE_ILLEGAL if status & MSTATUS_TVM else 0


cdef int sys(hart_t* h, op_t* op, uint64_t* x, int64_t n) noexcept nogil:
    """Do a system instruction; n is the budget behind it."""
    cdef int opcode = meta_of(op).opcode
    cdef uint64_t pc = h.page_va + meta_of(op).off, cause
    h.n = n
    if opcode == OP_ECALL:
        return h.api.deliver(h, CAUSE_ECALL_VS if h.s.virt and h.s.priv == PRIV_S else CAUSE_ECALL_U + h.s.priv, 0, pc)
    if opcode == OP_EBREAK:
        h.tgva = h.s.virt
        return h.api.deliver(h, CAUSE_BREAKPOINT, pc, pc)
    cause = refused(h, opcode)
    if cause:
        return h.api.deliver(h, cause, meta_of(op).raw, pc)
    if opcode == OP_MRET:
        return do_mret(h)
    if opcode == OP_SRET:
        return do_sret(h)
    if opcode == OP_WFI:
        h.s.waiting = 1
        h.s.pc = pc + 4
        return ST_LEAVE
    if opcode == OP_WRS_NTO or opcode == OP_WRS_STO:
        # While another hart may store to the reservation set, let it; a stall may always end early ("Zawrs").
        if not h.s.resv_width:
            return ST_OK
        h.m.clock.quantum_left = 0
        h.s.pc = pc + 4
        return ST_LEAVE
    # Fences: translation behaves as if every access walked, so there is nothing to flush.
    if h.m.fences != NULL and opcode not in (OP_SFENCE_W_INVAL, OP_SFENCE_INVAL_IR):
        h.api.fence_done(h, opcode, x[op.rs1], op.rs1 == 0)
    return ST_OK


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.trap = trap
    api.deliver = deliver
    api.irq = irq
    api.sys = sys
    api.sret = do_sret


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
