# cython: boundscheck=False
"""Address translation: page walks, physical memory protection, and what may be cached of the result.

Owns the rules of the privileged manual, chapters "Supervisor-Level ISA" (Sv39, Sv48, Sv57, Svnapot, Svpbmt, Svade,
Svadu) and "Physical Memory Protection". A walk is a function of its arguments (privilege, SUM, MXR, satp): special
accesses pass other arguments and are no modes of this file.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from arch cimport *
from cache cimport *
from ram cimport RAM_OK, frame_t
from state cimport PMP_ENTRIES


cdef enum:
    LEVELS_MAX = 5
    PAGE_NEVER = 0
    PAGE_WHOLE = 1
    PAGE_PARTS = 2


cdef struct walk_t:
    uint64_t pa
    int depth               # page tables visited
    int bits                # virtual address bits of the mode, 0 when translation is off
    int writable            # leaf allows stores and is dirty: a write entry may be made
    int readable
    uint64_t at[5]          # physical address of the entry used in each
    int levels[5]


# ---- physical memory protection ---------------------------------------------------------------------------------
cdef inline void pmp_range(hart_t* h, int i, uint64_t* low, uint64_t* high) noexcept nogil:
    """Set the bytes [low, high) that entry i covers; both 0 for none. Addresses are in units of 4 bytes."""
    cdef uint64_t address = h.s.pmpaddr[i], size
    cdef int mode = (h.s.pmpcfg[i] >> 3) & 3
    if mode == 1:  # TOR
        low[0] = h.s.pmpaddr[i - 1] << 2 if i else 0
        high[0] = address << 2
        if low[0] >= high[0]:
            low[0] = high[0] = 0
    elif mode == 2:  # NA4
        low[0] = address << 2
        high[0] = low[0] + 4
    elif mode == 3:  # NAPOT: the trailing ones say the size
        size = address ^ (address + 1)
        low[0] = (address & ~size) << 2
        high[0] = low[0] + ((size + 1) << 2)
    else:
        low[0] = high[0] = 0


cdef inline int pmp_grants(uint8_t cfg, int acc) noexcept nogil:
    if acc == ACC_FETCH:
        return cfg >> 2 & 1
    if acc == ACC_LOAD:
        return cfg & 1
    if acc == ACC_STORE:
        # W without R is reserved; Smepmp is not offered.
        return (cfg & 3) == 3
    return cfg & 1


cdef int pmp_allows(hart_t* h, uint64_t pa, uint64_t size, int acc, int priv) noexcept nogil:
    """Say whether an access of `size` bytes may be made: the lowest entry that matches any byte decides."""
    cdef uint64_t low, high
    cdef int i
    for i in range(PMP_ENTRIES):
        pmp_range(h, i, &low, &high)
        if high == low or pa >= high or pa + size <= low:
            continue
        if pa < low or pa + size > high:
            return 0
        if priv == PRIV_M and not h.s.pmpcfg[i] & 0x80:
            return 1
        return pmp_grants(h.s.pmpcfg[i], acc)
    return priv == PRIV_M


cdef int pmp_page(hart_t* h, uint64_t pa, int acc, int priv) noexcept nogil:
    """Say whether a whole page allows an access, never does, or only in parts (then nothing may be cached)."""
    cdef uint64_t low, high, page = pa & PAGE_MASK
    cdef int i
    if not h.pmp_on:
        return PAGE_WHOLE if priv == PRIV_M else PAGE_NEVER
    for i in range(PMP_ENTRIES):
        pmp_range(h, i, &low, &high)
        if high == low or page >= high or page + PAGE_SIZE <= low:
            continue
        if page < low or page + PAGE_SIZE > high:
            return PAGE_PARTS
        if priv == PRIV_M and not h.s.pmpcfg[i] & 0x80:
            return PAGE_WHOLE
        return PAGE_WHOLE if pmp_grants(h.s.pmpcfg[i], acc) else PAGE_NEVER
    return PAGE_WHOLE if priv == PRIV_M else PAGE_NEVER


# ---- walks ------------------------------------------------------------------------------------------------------
cdef inline int in_ram(machine_t* m, uint64_t pa, uint64_t size) noexcept nogil:
    return pa - m.ram.base < m.ram.size and pa - m.ram.base + size <= m.ram.size


cdef inline uint64_t access_fault(int acc) noexcept nogil:
    if acc == ACC_FETCH:
        return CAUSE_FETCH_ACCESS
    return CAUSE_LOAD_ACCESS if acc == ACC_LOAD else CAUSE_STORE_ACCESS


cdef inline uint64_t page_fault(int acc) noexcept nogil:
    if acc == ACC_FETCH:
        return CAUSE_FETCH_PAGE
    return CAUSE_LOAD_PAGE if acc == ACC_LOAD else CAUSE_STORE_PAGE


cdef inline int refuse(hart_t* h, uint64_t cause, uint64_t va) noexcept nogil:
    h.fault = cause
    h.fault_va = va
    return ST_FAULT


cdef int walk(hart_t* h, uint64_t va, int acc, int priv, int sum_, int mxr, uint64_t satp, int quiet, walk_t* w) noexcept nogil:
    """Translate one address as the manual's algorithm does ("Virtual Address Translation Process").

    `quiet` leaves A and D bits alone where the hart would set them.
    """
    cdef machine_t* m = h.m
    cdef int mode = satp >> SATP_MODE_SHIFT
    cdef int levels, level, shift, ok
    cdef uint64_t base, pte, ppn, at, want, low
    cdef uint32_t slot
    cdef frame_t* frame
    w.depth = 0
    w.bits = 0
    w.writable = w.readable = 1
    if mode == SATP_BARE or priv == PRIV_M:
        w.pa = va
        return ST_OK
    levels = 3 if mode == SATP_SV39 else (4 if mode == SATP_SV48 else 5)
    w.bits = 12 + 9 * levels
    shift = 64 - w.bits
    if <uint64_t>(<int64_t>(va << shift) >> shift) != va:
        return refuse(h, page_fault(acc), va)
    base = (satp & SATP_PPN) << 12
    level = levels - 1
    while True:
        shift = 12 + 9 * level
        slot = (va >> shift) & 511
        at = base + slot * 8
        if not in_ram(m, at, 8) or not pmp_allows(h, at, 8, ACC_LOAD, PRIV_S):
            return refuse(h, access_fault(acc), va)
        frame = m.mem.find(m.ram, at >> 12)
        pte = 0 if frame == NULL else (<uint64_t*>frame.bytes)[slot]
        if not pte & PTE_V or (pte & (PTE_R | PTE_W)) == PTE_W or pte & PTE_RESERVED:
            return refuse(h, page_fault(acc), va)
        if pte & PTE_PBMT and ((pte & PTE_PBMT) == PTE_PBMT or not h.s.menvcfg & ENVCFG_PBMTE):
            return refuse(h, page_fault(acc), va)
        if pte & PTE_N and not m.exts >> EXT_SVNAPOT & 1:
            return refuse(h, page_fault(acc), va)
        w.at[w.depth] = at
        w.levels[w.depth] = level
        w.depth += 1
        ppn = (pte & PTE_PPN_MASK) >> 10
        if pte & (PTE_R | PTE_X):
            break
        # A pointer: A, D, U and the page attributes are reserved in it.
        if pte & (PTE_A | PTE_D | PTE_U | PTE_N | PTE_PBMT) or level == 0:
            return refuse(h, page_fault(acc), va)
        base = ppn << 12
        level -= 1
    if pte & PTE_U:
        ok = priv == PRIV_U or (acc != ACC_FETCH and sum_)
    else:
        ok = priv == PRIV_S
    w.readable = (pte & PTE_R) != 0 or (mxr and (pte & PTE_X) != 0)
    if acc == ACC_FETCH:
        ok = ok and pte & PTE_X
    elif acc == ACC_LOAD:
        ok = ok and w.readable
    elif acc == ACC_STORE:
        ok = ok and pte & PTE_W
    else:
        ok = ok and (w.readable or pte & PTE_W)
    low = ((<uint64_t>1 << (9 * level)) - 1)
    if not ok or ppn & low:
        return refuse(h, page_fault(acc), va)
    if pte & PTE_N:
        # Svnapot: only 64 KiB pages, at the lowest level, are defined.
        if level != 0 or (ppn & 15) != 8:
            return refuse(h, page_fault(acc), va)
        ppn = (ppn & ~<uint64_t>15) | ((va >> 12) & 15)
    want = PTE_A | (PTE_D if acc == ACC_STORE else 0)
    if (pte & want) != want:
        # Svade: a fault; with menvcfg.ADUE (Svadu) the hart updates the entry as a store of its own.
        if not h.s.menvcfg & ENVCFG_ADUE:
            return refuse(h, page_fault(acc), va)
        if not pmp_allows(h, at, 8, ACC_STORE, PRIV_S):
            return refuse(h, access_fault(acc), va)
        pte |= want
        if not quiet:
            ok = m.api.ram_store(m, at, &pte, 8)
            if ok >= ST_TRAP:
                return ok
    w.writable = (pte & PTE_W) != 0 and (pte & PTE_D) != 0
    low = ((<uint64_t>1 << shift) - 1)
    w.pa = ((ppn << 12) & ~low) | (va & low) if level else (ppn << 12) | (va & 4095)
    return ST_OK


cdef inline int note_used(hart_t* h, uint64_t va, walk_t* w) noexcept nogil:
    """Mark the page-table slots of a walk as feeding a live entry.

    Frames are looked up again: making the target writable may have replaced one of them.
    """
    cdef int i
    cdef frame_t* frame
    for i in range(w.depth):
        frame = h.m.mem.find(h.m.ram, w.at[i] >> 12)
        if frame == NULL or not h.m.api.pt_used(h.m, frame, (w.at[i] & 4095) >> 3, va, w.levels[i], w.bits):
            return 0
    return 1


cdef int mmu_translate(hart_t* h, uint64_t va, int acc, int width, uint64_t* pa) noexcept nogil:
    """Translate a data access inside one page with the hart's effective privilege, and cache what may be cached."""
    cdef uint32_t key = h.bank_d.key
    cdef int priv = key & 3, st, whole
    cdef walk_t w
    cdef frame_t* frame
    cdef machine_t* m = h.m
    st = walk(h, va, acc, priv, key >> 2 & 1, key >> 3 & 1, h.bank_d.satp, 0, &w)
    if st != ST_OK:
        return st
    pa[0] = w.pa
    whole = pmp_page(h, w.pa, acc, priv)
    if whole == PAGE_NEVER or (whole == PAGE_PARTS and not pmp_allows(h, w.pa, width, acc, priv)):
        return refuse(h, access_fault(acc), va)
    if whole == PAGE_PARTS or acc == ACC_CBO or not in_ram(m, w.pa & PAGE_MASK, PAGE_SIZE):
        return ST_OK
    if acc == ACC_STORE:
        st = m.mem.own(m.ram, w.pa >> 12, &frame)
        if st != RAM_OK:
            m.stop_addr = w.pa
            order_leave(m, STOP_MEMORY)
            return ST_STOP
        if w.readable and pmp_page(h, w.pa, ACC_LOAD, priv) == PAGE_WHOLE and note_used(h, va, &w):
            m.api.fill_data(h, va, frame, w.writable and (w.pa ^ m.watch) & PAGE_MASK != 0)
        return ST_OK
    frame = m.mem.find(m.ram, w.pa >> 12)
    if frame != NULL and note_used(h, va, &w):
        m.api.fill_data(h, va, frame, 0)
    return ST_OK


cdef int mmu_fetch_page(hart_t* h, uint64_t va, frame_t** found) noexcept nogil:
    """Find the frame that code at va runs from. ST_LEAVE: only one instruction at a time, uncached, at h.slow_pa."""
    cdef fetch_t* e = &h.bank_x.x[(va >> 12) & FETCH_MASK]
    cdef walk_t w
    cdef int st, whole, priv = h.s.priv
    cdef frame_t* frame
    if e.tag == va & PAGE_MASK:
        found[0] = e.frame
        return ST_OK
    st = walk(h, va, ACC_FETCH, priv, 0, 0, h.bank_x.satp, 0, &w)
    if st != ST_OK:
        return st
    whole = pmp_page(h, w.pa, ACC_FETCH, priv)
    if whole == PAGE_NEVER or (whole == PAGE_PARTS and not pmp_allows(h, w.pa, 2, ACC_FETCH, priv)):
        return refuse(h, CAUSE_FETCH_ACCESS, va)
    h.slow_pa = w.pa
    if whole == PAGE_PARTS or not in_ram(h.m, w.pa & PAGE_MASK, PAGE_SIZE):
        return ST_LEAVE
    frame = h.m.mem.find(h.m.ram, w.pa >> 12)
    if frame == NULL or not note_used(h, va, &w):
        return ST_LEAVE
    h.m.api.fill_fetch(h, va, frame)
    found[0] = frame
    return ST_OK


cdef int mmu_probe(hart_t* h, uint64_t va, int acc, uint64_t* pa) noexcept nogil:
    """Translate for an observer: as the hart would now, without a trace."""
    cdef uint32_t key = h.s.priv if acc == ACC_FETCH else h.bank_d.key
    cdef uint64_t satp = h.bank_x.satp if acc == ACC_FETCH else h.bank_d.satp
    cdef walk_t w
    cdef int st = walk(h, va, acc, key & 3, key >> 2 & 1, key >> 3 & 1, satp, 1, &w)
    if st == ST_OK:
        pa[0] = w.pa
        if not pmp_allows(h, w.pa, 1, acc, key & 3):
            return refuse(h, access_fault(acc), va)
    return st


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.translate = mmu_translate
    api.fetch_page = mmu_fetch_page
    api.pmp_allows = pmp_allows
    api.probe = mmu_probe


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
