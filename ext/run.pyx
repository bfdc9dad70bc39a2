# cython: boundscheck=False
"""The run loop: what happens between instructions, and in which order.

Owns when interrupts are taken, whose turn it is, how far to go until the next event, and how time jumps when every hart
idles. Budgets end at an exact instruction, so that nothing a guest can notice depends on how a run is sliced. Time is
icount: nothing here reads a host clock.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint32_t, uint64_t

from arch cimport *
from cache cimport *
from state cimport HSM_STARTED, HSM_STOPPED


# ---- time -------------------------------------------------------------------------------------------------------
cdef uint64_t icount_of(machine_t* m, uint64_t ticks) noexcept nogil:
    """Return the first icount from now on at which time has reached `ticks`; NEVER when that is beyond counting."""
    cdef uint64_t now = time_at(m, m.clock.icount), t = m.clock.icount // m.ratio
    if now >= ticks:
        return m.clock.icount
    if ticks - now >= NEVER // m.ratio - t:
        return NEVER
    return (t + (ticks - now)) * m.ratio


cdef uint64_t next_event(hart_t* h) noexcept nogil:
    """Return the icount at which a timer of this hart that mie enables comes due; those already due are pending."""
    cdef machine_t* m = h.m
    cdef uint64_t when = NEVER, at, now
    if h.s.mie >> IRQ_MTI & 1:
        at = icount_of(m, h.s.mtimecmp)
        if at > m.clock.icount:
            when = at
    if h.s.mie >> IRQ_STI & 1 and (h.s.menvcfg & ENVCFG_STCE or h.s.sbi_timer):
        at = icount_of(m, h.s.stimecmp)
        if m.clock.icount < at < when:
            when = at
    if h.s.mie >> IRQ_VSTI & 1 and h.s.henvcfg & h.s.menvcfg & ENVCFG_STCE:
        # The guest's time is ahead by htimedelta, and wraps.
        now = time_at(m, m.clock.icount)
        if now + h.s.htimedelta < h.s.vstimecmp:
            at = icount_of(m, now + (h.s.vstimecmp - h.s.htimedelta - now))
            if m.clock.icount < at < when:
                when = at
    return when


# ---- whose turn -------------------------------------------------------------------------------------------------
cdef inline int runnable(hart_t* h) noexcept nogil:
    """Say whether a hart may execute now; one that waits goes on when an enabled interrupt is pending."""
    if h.s.hsm == HSM_STOPPED:
        return 0
    if h.s.waiting and not (h.api.mip(h, h.m.clock.icount) & h.s.mie or h.offered):
        return 0
    return 1


cdef void turn_to(machine_t* m, uint32_t i) noexcept nogil:
    if i != m.clock.current:
        # A reservation does not survive a change of hart, so plain stores need not look for those of others.
        m.harts[m.clock.current].s.resv_width = 0
        m.clock.current = i
    m.clock.quantum_left = m.quantum


cdef hart_t* next_hart(machine_t* m) noexcept nogil:
    """Return the hart to run, letting time jump when all of them idle; NULL with m.stop set when nothing can happen."""
    cdef hart_t* h = m.harts[m.clock.current]
    cdef uint32_t k, i
    cdef uint64_t when
    if m.clock.quantum_left and runnable(h):
        return h
    while True:
        for k in range(1, m.nharts + 1):
            i = (m.clock.current + k) % m.nharts
            if runnable(m.harts[i]):
                turn_to(m, i)
                return m.harts[i]
        when = NEVER
        for i in range(m.nharts):
            if m.harts[i].s.hsm != HSM_STOPPED:
                when = min(when, next_event(m.harts[i]))
        if when == NEVER:
            m.stop = STOP_IDLE
            return NULL
        if when > m.limit:
            m.clock.icount = m.limit
            m.stop = STOP_LIMIT
            return NULL
        m.clock.icount = when


# ---- running ----------------------------------------------------------------------------------------------------
cdef void hart_run(hart_t* h, int64_t budget) noexcept nogil:
    """Run a hart for up to `budget` instructions, exactly: the threaded core far from the end, the switch near it."""
    cdef machine_t* m = h.m
    cdef op_t* op
    cdef jump_t* j
    cdef int64_t reserve = BLOCK_MAX if m.core == 0 else 0
    m.inside = h
    h.icount_end = m.clock.icount + <uint64_t>budget
    h.count_end = h.s.count + <uint64_t>budget
    h.n = budget
    j = &h.jump[(h.s.pc >> 1) & JUMP_MASK]
    if j.pc == h.s.pc:
        op = j.op
        h.page_va = h.s.pc & PAGE_MASK
    else:
        op = m.api.lookup(h, h.s.pc)
    if op != NULL:
        if m.core == 0 and budget > reserve:
            # The threaded core looks at its budget only where blocks end: it gets less than there is.
            h.icount_end -= <uint64_t>reserve
            h.count_end -= <uint64_t>reserve
            m.api.run_threaded(h, op, budget - reserve)
            h.icount_end += <uint64_t>reserve
            h.count_end += <uint64_t>reserve
            h.n += reserve
        else:
            m.api.run_switch(h, op, budget)
    h.icount_end -= <uint64_t>h.n
    h.count_end -= <uint64_t>h.n
    h.n = 0
    m.clock.icount = h.icount_end
    h.s.count = h.count_end
    m.inside = NULL


cdef void machine_run(machine_t* m) noexcept nogil:
    """Run until m.stop is set; m.limit is an icount."""
    cdef hart_t* h
    cdef uint64_t cause, budget, when, before
    cdef hart_t* lent = NULL
    while True:
        m.leave = 0
        if m.trim:
            m.api.code_trim(m)
        if m.ram.limbo_len:
            m.mem.drain(m.ram)
        if m.stop:
            break
        if m.request:
            m.stop = STOP_REQUEST
            break
        if m.clock.icount >= m.limit:
            m.stop = STOP_LIMIT
            break
        h = next_hart(m)
        if h == NULL:
            break
        if h != lent:
            if lent != NULL:
                m.api.fp_end(lent)
            m.api.fp_begin(h)
            lent = h
        h.s.waiting = 0
        h.s.hsm = HSM_STARTED   # what wakes a suspended hart is what ends WFI
        cause = m.api.irq(h)
        if cause:
            h.n = 0
            h.count_end = h.s.count
            h.icount_end = m.clock.icount
            m.api.deliver(h, INTERRUPT_BIT | (cause - 1), 0, h.s.pc)
            if m.stop:
                break
            m.api.irq(h)
        if m.stop:
            break
        budget = m.limit - m.clock.icount
        if budget == 0:
            continue  # time jumped to the limit: not even an attempt to fetch is left
        when = next_event(h)
        if when - m.clock.icount < budget:
            budget = when - m.clock.icount
        if m.nharts > 1 and m.clock.quantum_left < budget:
            budget = m.clock.quantum_left
        before = m.clock.icount
        hart_run(h, <int64_t>budget)
        if m.nharts > 1:
            m.clock.quantum_left -= min(m.clock.quantum_left, m.clock.icount - before)
    if lent != NULL:
        m.api.fp_end(lent)


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.run = machine_run


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
