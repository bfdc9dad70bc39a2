# cython: boundscheck=False
"""The switch core: the same bodies as one `switch`, stopping at an exact instruction.

It is the portable second core, and it runs the tail of every slice: before each op it compares the op's index in the
block with the budget. Ops and blocks are the threaded core's own; only `fn` goes unused.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint64_t

from arch cimport *
from bits cimport *
from cache cimport *
from dispatch cimport *
from host cimport *
from insn_a cimport *
from insn_b cimport *
from insn_d cimport *
from insn_f cimport *
from insn_i cimport *
from insn_m cimport *
from opcodes cimport *


cdef op_t* jump_slow(hart_t* h, uint64_t pc, int64_t n) noexcept nogil:
    h.s.pc = pc
    h.n = n
    return h.api.lookup(h, pc) if n > 0 else NULL


cdef inline op_t* jump_find(hart_t* h, uint64_t pc, int64_t n) noexcept nogil:
    """Return the code at pc, or NULL to leave."""
    cdef jump_t* j = &h.jump[(pc >> 1) & JUMP_MASK]
    if LIKELY(j.pc == pc and n > 0):
        h.page_va = pc & PAGE_MASK
        return j.op
    return jump_slow(h, pc, n)


include "switch.pxi"


cdef void run_switch(hart_t* h, op_t* op, int64_t n) noexcept nogil:
    switch_run(h, op, &h.s.x[0], n)


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.run_switch = run_switch


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
