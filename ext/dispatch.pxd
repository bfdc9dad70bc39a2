"""What both cores' handlers share beside the instruction bodies: leaving a block, and floating-point state."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from arch cimport MSTATUS_FS
from cache cimport *
from opcodes cimport OP_FAR, OP_LINK


cdef inline void leave_at(hart_t* h, op_t* op, int64_t n) noexcept nogil:
    """Leave before an op: the first of a block, a stub, or (in the switch core) any."""
    cdef meta_t* meta = meta_of(op)
    if meta.opcode == OP_LINK or meta.opcode == OP_FAR:
        h.s.pc = h.page_va + <uint64_t><int64_t>op.imm
    else:
        h.s.pc = h.page_va + meta.off
    h.n = n - meta.idx


cdef inline void leave_next(hart_t* h, op_t* op, int64_t n) noexcept nogil:
    """Leave behind an op inside its block."""
    cdef meta_t* meta = meta_of(op)
    h.s.pc = h.page_va + meta.off + meta.len
    h.n = n - meta.idx - 1


cdef inline int fp_rounding_of(hart_t* h, int rm) noexcept nogil:
    """Return the rounding mode an instruction asks for; -1 when it is illegal: FS off, or frm reserved."""
    if h.fp_mode == 0:
        return -1
    if rm == 7:
        rm = h.s.frm
    return rm if rm < 5 else -1


cdef inline void fp_dirty(hart_t* h) noexcept nogil:
    h.s.mstatus |= MSTATUS_FS
    if h.s.virt:
        h.s.vsstatus |= MSTATUS_FS
    h.fp_mode = 2 if h.s.frm < 4 else 1
