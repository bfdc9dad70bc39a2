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
from insn_zfa cimport *
from insn_zfh cimport *
from opcodes cimport *


cdef extern from *:
    """
    #ifdef PYVIRT_PROFILE
    /* How often three ops follow each other inside a block: what fusion.txt is chosen from. One machine at a time. */
    #define PROFILE_MAX 448
    static unsigned long long profile_counts[PROFILE_MAX][PROFILE_MAX][PROFILE_MAX];
    static const char *profile_last;
    static int profile_one, profile_two;
    static inline void profile_note(const void *op, int opcode) {
        if ((const char *)op != profile_last + 16) profile_one = profile_two = 0;
        profile_counts[profile_one][profile_two][opcode]++;
        profile_one = profile_two; profile_two = opcode; profile_last = (const char *)op;
    }
    static inline unsigned long long profile_get(int a, int b, int c) { return profile_counts[a][b][c]; }
    #define PROFILED 1
    #else
    #define profile_note(op, opcode) ((void)0)
    #define profile_get(a, b, c) 0ULL
    #define PROFILED 0
    #define PROFILE_MAX 0
    #endif
    """
    void profile_note(op_t* op, int opcode) noexcept nogil
    uint64_t profile_get(int a, int b, int c) noexcept nogil
    const int PROFILED, PROFILE_MAX


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


def profile() -> dict[tuple[int, int, int], int]:
    """Return how often three opcodes were executed in a row in a block (0: the block began), since the process began.

    RuntimeError unless the module was built with -DPYVIRT_PROFILE.
    """
    if not PROFILED:
        raise RuntimeError("this build does not count; build with CFLAGS=-DPYVIRT_PROFILE")
    if OP_COUNT > PROFILE_MAX:
        raise RuntimeError(f"there are {OP_COUNT} opcodes; allowed: PROFILE_MAX, {PROFILE_MAX}")
    return {(a, b, c): profile_get(a, b, c) for a in range(OP_COUNT) for b in range(OP_COUNT) for c in range(OP_COUNT)
            if profile_get(a, b, c)}


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
