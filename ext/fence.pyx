"""Missing fences: the use of a translation whose page-table entry changed without the fence that the manual asks for.

Translation here behaves as if every access walked, so a guest that forgets a fence runs right on this machine and wrong
on another. With `fences="check"` a store to a slot that feeds live translations is remembered until every hart has
fenced it; a hart that walks through the slot before that, in the address space it was used in, is reported, unless the
old entry would have served this access alike. A change that only adds permissions to the same page is none: a hart may
see it late and take a spurious fault, which is allowed for. Fences for one address space count for all, so that a
report is never wrong, but a fence of the wrong one goes unnoticed. Privileged manual,
"Supervisor Memory-Management Fence Instruction" and chapter "H", "Memory-Management Fences".
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc

from arch cimport *
from cache cimport *
from opcodes cimport *
from ram cimport USED_FIRST, USED_G


cdef inline int only_adds(uint64_t old, uint64_t new) noexcept nogil:
    """Say whether an entry maps the same page with at least the old permissions."""
    cdef uint64_t same = PTE_PPN_MASK | PTE_N | PTE_PBMT | PTE_U
    return new & PTE_V and (old & same) == (new & same) and not old & ~new & (PTE_R | PTE_W | PTE_X | PTE_D | PTE_A)


cdef void fence_changed(machine_t* m, uint64_t at, uint64_t old, uint64_t new, uint64_t va, uint64_t span,
                        int stages, uint64_t atp) noexcept nogil:
    """Remember a store to a used slot at physical address `at`; a span of 0 says that what it covers is not known."""
    cdef fences_t* f = m.fences
    cdef hart_t* h = m.harts[m.clock.current]
    cdef change_t* c
    cdef uint32_t i
    if only_adds(old, new):
        return
    for i in range(f.nchanges):
        if f.changes[i].at == at:
            break
    else:
        if f.nchanges == FENCES_MAX:
            f.lost += 1
            return
        i = f.nchanges
        f.nchanges += 1
    c = &f.changes[i]
    c.at, c.old, c.new, c.va, c.span = at, old, new, va, span
    c.stages, c.atp = <uint32_t>stages, atp
    c.pc = h.access_pc
    c.icount = m.clock.icount
    c.hart = h.s.hartid
    c.waiting = ~<uint64_t>0 if m.nharts >= 64 else (<uint64_t>1 << m.nharts) - 1


cdef void fence_done(hart_t* h, int opcode, uint64_t address, int all_addresses) noexcept nogil:
    """A hart fenced: what the fence covers no longer waits for it."""
    cdef fences_t* f = h.m.fences
    cdef change_t* c
    cdef uint64_t bit = <uint64_t>1 << (h.s.hartid & 63)
    cdef uint32_t i = 0
    cdef uint32_t stage = USED_G if opcode == OP_HFENCE_GVMA or opcode == OP_HINVAL_GVMA else USED_FIRST
    while i < f.nchanges:
        c = &f.changes[i]
        # An entry that does not know which addresses it serves, as those of the G-stage: any fence of its stage counts.
        if c.stages & stage and (all_addresses or not c.span or address - c.va < c.span):
            c.waiting &= ~bit
            if not c.waiting:
                f.nchanges -= 1
                f.changes[i] = f.changes[f.nchanges]
                continue
        i += 1


cdef inline int serves_alike(const change_t* c, uint64_t va, int acc, int level, uint64_t pa) noexcept nogil:
    """Say whether the old entry, a leaf, would have led this access to the same place with the same permission."""
    cdef uint64_t low, bit = PTE_X if acc == ACC_FETCH else (PTE_R if acc == ACC_LOAD else PTE_W)
    if not c.old & bit:
        return 0
    low = (<uint64_t>1 << (12 + 9 * level)) - 1
    return ((c.old & PTE_PPN_MASK) << 2 & ~low | va & low) == pa


cdef void fence_used(hart_t* h, uint64_t at, uint64_t atp, uint64_t va, int acc, int stage, int level, int ok,
                     uint64_t pa) noexcept nogil:
    """A hart walks through an entry: report it if a change of it still waits for this hart's fence.

    `stage` is a stage_t. With `ok` the walk of the first stage ended well, at `pa` (with V=1 a guest physical address).
    """
    cdef fences_t* f = h.m.fences
    cdef change_t* c
    cdef missing_t* r
    cdef uint32_t i
    for i in range(f.nchanges):
        c = &f.changes[i]
        if c.at != at or not c.waiting >> (h.s.hartid & 63) & 1 or (c.atp != atp and c.atp != ~<uint64_t>0):
            continue
        if ok and serves_alike(c, va, acc, level, pa):
            continue
        c.waiting &= ~(<uint64_t>1 << (h.s.hartid & 63))
        if f.nreports == FENCES_MAX:
            f.lost += 1
            return
        r = &f.reports[f.nreports]
        f.nreports += 1
        r.change = c[0]
        r.use_stage, r.use_level = <uint32_t>stage, <uint32_t>level
        r.use_va = va
        r.use_pc = h.access_pc
        r.use_icount = h.m.clock.icount
        r.use_hart = h.s.hartid
        return


cdef fences_t* fences_new() noexcept nogil:
    return <fences_t*>calloc(1, sizeof(fences_t))


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.fence_changed = fence_changed
    api.fence_done = fence_done
    api.fence_used = fence_used
    api.fences_new = fences_new


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
