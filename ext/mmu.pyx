# cython: boundscheck=False
"""Address translation: both stages of a page walk, physical memory protection, and what may be cached of the result.

Owns the rules of the privileged manual, chapters "Supervisor-Level ISA" (Sv39, Sv48, Sv57, Svnapot, Svpbmt, Svade,
Svadu), "H" ("Two-Stage Address Translation") and "Physical Memory Protection". A walk is a function of its context
(privilege, V, SUM, MXR, satp, hgatp): special accesses pass another context and are no modes of this file.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint64_t

from arch cimport *
from cache cimport *
from ram cimport FRAME_LAZY, RAM_OK, count_load, frame_t, ram_find
from state cimport PMP_ENTRIES


cdef enum:
    LEVELS_MAX = 5
    WALK_G_MAX = LEVELS_MAX * (LEVELS_MAX + 2)  # for each table of the first stage, one of them written, and the page
    PAGE_NEVER = 0
    PAGE_WHOLE = 1
    PAGE_PARTS = 2


cdef struct ctx_t:
    int priv
    int virt
    int sum_                # of the stage that has U pages: sstatus, or vsstatus when V=1
    int mxr
    int mxr_g               # the G-stage looks at HS-level sstatus.MXR alone
    int hlvx                # execute permission instead of read permission
    int quiet               # leave A and D bits alone where the hart would set them
    uint64_t satp           # vsatp when V=1
    uint64_t hgatp          # 0 when V=0
    bank_t* bank            # that of the context, whose upper levels may be used and kept; NULL: none


cdef struct walk_t:
    uint64_t pa
    int writable            # every stage allows stores and is dirty: a write entry may be made
    int readable
    int bits                # virtual address bits of the mode, 0 when the first stage is off
    int depth               # page tables visited by the first stage
    uint64_t at[5]          # physical address of the entry used in each
    frame_t* frame[5]       # and the frame it was read from
    int levels[5]
    uint64_t gtable         # guest physical address of the last one, when V=1
    int g_depth             # and by all G-stage walks on the way
    uint64_t g_at[WALK_G_MAX]
    frame_t* g_frame[WALK_G_MAX]
    int g_levels[WALK_G_MAX]
    int first_ok            # the first stage is on and let the access through
    uint64_t gpa            # to here, which is physical when V=0


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


cdef void pmp_open(hart_t* h, uint64_t pa) noexcept nogil:
    """Keep the largest range around pa in which S and U may do anything; empty when they may not at pa itself."""
    cdef uint64_t low, high, first = 0, end = ~<uint64_t>0
    cdef int i
    for i in range(PMP_ENTRIES):
        pmp_range(h, i, &low, &high)
        if high == low:
            continue
        if pa - low < high - low:
            if (h.s.pmpcfg[i] & 7) == 7:
                h.cache.open_low = max(first, low)
                h.cache.open_high = min(end, high)
            return
        if high <= pa:
            first = max(first, high)
        else:
            end = min(end, low)


cdef inline int pmp_is_open(hart_t* h, uint64_t pa, uint64_t size) noexcept nogil:
    return pa >= h.cache.open_low and pa + size <= h.cache.open_high


cdef inline int s_allows(hart_t* h, uint64_t pa, uint64_t size, int acc) noexcept nogil:
    """Say whether S-mode may make an access, as walks do."""
    if pmp_is_open(h, pa, size):
        return 1
    pmp_open(h, pa)
    return pmp_allows(h, pa, size, acc, PRIV_S)


cdef int pmp_page(hart_t* h, uint64_t pa, int acc, int priv) noexcept nogil:
    """Say whether a whole page allows an access, never does, or only in parts (then nothing may be cached)."""
    cdef uint64_t low, high, page = pa & PAGE_MASK
    cdef int i
    if priv != PRIV_M:
        if pmp_is_open(h, page, PAGE_SIZE):
            return PAGE_WHOLE
        pmp_open(h, pa)
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


cdef inline frame_t* frame_at(machine_t* m, uint64_t pa) noexcept nogil:
    """Return the frame of an address, with its bytes. NULL: absent, outside, or failed, if m.ram.failed is set."""
    cdef frame_t* frame = ram_find(m.ram, pa >> 12)
    if frame != NULL and count_load(&frame.flags) & FRAME_LAZY:
        return m.mem.find(m.ram, pa >> 12)
    return frame


cdef inline uint64_t access_fault(int acc) noexcept nogil:
    if acc == ACC_FETCH:
        return CAUSE_FETCH_ACCESS
    return CAUSE_LOAD_ACCESS if acc == ACC_LOAD else CAUSE_STORE_ACCESS


cdef inline uint64_t page_fault(int acc) noexcept nogil:
    if acc == ACC_FETCH:
        return CAUSE_FETCH_PAGE
    return CAUSE_LOAD_PAGE if acc == ACC_LOAD else CAUSE_STORE_PAGE


cdef inline uint64_t guest_page_fault(int acc) noexcept nogil:
    if acc == ACC_FETCH:
        return CAUSE_FETCH_GUEST_PAGE
    return CAUSE_LOAD_GUEST_PAGE if acc == ACC_LOAD else CAUSE_STORE_GUEST_PAGE


cdef inline int refuse(hart_t* h, const ctx_t* c, uint64_t cause, uint64_t va) noexcept nogil:
    h.fault = cause
    h.fault_va = va
    h.fault_virt = c.virt
    h.fault_gpa = h.fault_inst = 0
    return ST_FAULT


cdef inline int levels_of(uint64_t atp) noexcept nogil:
    cdef int mode = atp >> SATP_MODE_SHIFT
    return 3 if mode == SATP_SV39 else (4 if mode == SATP_SV48 else 5)


cdef inline int malformed(machine_t* m, uint64_t pte, uint64_t pbmte) noexcept nogil:
    """Say whether an entry is invalid or uses encodings reserved in every position."""
    if not pte & PTE_V or (pte & (PTE_R | PTE_W)) == PTE_W or pte & PTE_RESERVED:
        return 1
    if pte & PTE_PBMT and ((pte & PTE_PBMT) == PTE_PBMT or not pbmte):
        return 1
    return pte & PTE_N and not m.exts >> EXT_SVNAPOT & 1


cdef inline int permits(uint64_t pte, int acc, int mxr, int hlvx) noexcept nogil:
    if acc == ACC_FETCH or hlvx:
        return (pte & PTE_X) != 0
    if acc == ACC_LOAD:
        return pte & PTE_R or (mxr and pte & PTE_X)
    if acc == ACC_STORE:
        return (pte & PTE_W) != 0
    return (pte & (PTE_R | PTE_W)) != 0 or (mxr and pte & PTE_X)


cdef inline int leaf_pa(uint64_t pte, int level, uint64_t address, uint64_t* pa) noexcept nogil:
    """Compose the address of a leaf; 0 when a superpage is misaligned or a NAPOT size is not defined."""
    cdef uint64_t ppn = (pte & PTE_PPN_MASK) >> 10
    cdef uint64_t low = (<uint64_t>1 << (12 + 9 * level)) - 1
    if ppn << 12 & low:
        return 0
    if pte & PTE_N:
        # Svnapot: only 64 KiB pages, at the lowest level, are defined.
        if level != 0 or (ppn & 15) != 8:
            return 0
        ppn = (ppn & ~<uint64_t>15) | ((address >> 12) & 15)
    pa[0] = ppn << 12 | (address & low)
    return 1


cdef int set_ad(hart_t* h, const ctx_t* c, uint64_t at, uint64_t pte, walk_t* w) noexcept nogil:
    """Store an entry with A or D set, as an access of the hart's own."""
    if not s_allows(h, at, 8, ACC_STORE):
        return ST_FAULT
    if c.quiet:
        return ST_OK
    if h.m.api.ram_store(h.m, at, &pte, 8) == ST_STOP:
        return ST_STOP
    frames_again(h, w)
    return ST_OK


cdef void frames_again(hart_t* h, walk_t* w) noexcept nogil:
    """Look the frames of a walk up again: making one writable may have replaced any of them."""
    cdef int i
    for i in range(w.depth):
        w.frame[i] = frame_at(h.m, w.at[i])
    for i in range(w.g_depth):
        w.g_frame[i] = frame_at(h.m, w.g_at[i])


cdef inline int read_pte(hart_t* h, uint64_t at, uint64_t* pte, frame_t** frame) noexcept nogil:
    if not in_ram(h.m, at, 8) or not s_allows(h, at, 8, ACC_LOAD):
        return 0
    frame[0] = frame_at(h.m, at)
    pte[0] = 0 if frame[0] == NULL else (<uint64_t*>(frame[0].bytes + (at & 4095)))[0]
    return 1


cdef int g_refuse(hart_t* h, const ctx_t* c, int acc, uint64_t va, uint64_t gpa, uint64_t inst) noexcept nogil:
    refuse(h, c, guest_page_fault(acc), va)
    h.fault_gpa = gpa
    h.fault_inst = inst
    return ST_FAULT


cdef int g_walk(hart_t* h, const ctx_t* c, uint64_t va, uint64_t gpa, int acc, int need, uint64_t inst, walk_t* w,
                uint64_t* pa, uint64_t* leaf) noexcept nogil:
    """Translate a guest physical address through the G-stage.

    `acc` is the access that the guest made and decides the cause; `need` is what is done at gpa, which differs when a
    page table of the first stage is read or written on the way: then `inst` is the pseudoinstruction for htinst.
    """
    cdef machine_t* m = h.m
    cdef int level, levels, mxr, st
    cdef uint64_t pte = 0, at, want
    cdef gcache_t* g
    cdef upper_t* u
    if c.hgatp >> SATP_MODE_SHIFT == SATP_BARE:
        pa[0] = gpa
        leaf[0] = PTE_R | PTE_W | PTE_X | PTE_D
        return ST_OK
    mxr = c.mxr_g if not inst else 0
    g = &h.cache.g[(gpa >> 12) & GCACHE_MASK]
    if g.tag == gpa >> 12 and g.hgatp == c.hgatp and permits(g.pte, need, mxr, c.hlvx and not inst) \
            and (need != ACC_STORE or g.pte & PTE_D):
        pa[0] = g.pa | (gpa & 4095)
        leaf[0] = g.pte
        return ST_OK
    m.g_walks += 1
    u = &h.cache.upper[(gpa >> 21) & UPPER_MASK]
    if u.tag == gpa >> 21 and u.atp == c.hgatp and m.fences == NULL:
        level = <int>u.level
        at = u.table + ((gpa >> (12 + 9 * level)) & 511) * 8
    else:
        levels = levels_of(c.hgatp)
        if gpa >> (14 + 9 * levels):
            return g_refuse(h, c, acc, va, gpa, inst)
        level = levels - 1
        # The root has four pages: two more bits of address.
        at = ((c.hgatp & SATP_PPN & ~<uint64_t>3) << 12) + (gpa >> (12 + 9 * level)) * 8
    while True:
        if not read_pte(h, at, &pte, &w.g_frame[w.g_depth]):
            return refuse(h, c, access_fault(acc), va)
        w.g_at[w.g_depth] = at
        w.g_levels[w.g_depth] = level
        w.g_depth += 1
        if malformed(m, pte, h.s.menvcfg & ENVCFG_PBMTE):
            return g_refuse(h, c, acc, va, gpa, inst)
        if pte & (PTE_R | PTE_X):
            break
        if pte & (PTE_A | PTE_D | PTE_U | PTE_N | PTE_PBMT) or level == 0:
            return g_refuse(h, c, acc, va, gpa, inst)
        level -= 1
        at = ((pte & PTE_PPN_MASK) << 2) + ((gpa >> (12 + 9 * level)) & 511) * 8
    # Every access counts as one of U-mode.
    if not pte & PTE_U or not permits(pte, need, mxr, c.hlvx and not inst) or not leaf_pa(pte, level, gpa, pa):
        return g_refuse(h, c, acc, va, gpa, inst)
    want = PTE_A | (PTE_D if need == ACC_STORE else 0)
    if (pte & want) != want:
        if not h.s.menvcfg & ENVCFG_ADUE:
            return g_refuse(h, c, acc, va, gpa, inst)
        pte |= want
        st = set_ad(h, c, at, pte, w)
        if st == ST_FAULT:
            return refuse(h, c, access_fault(acc), va)
        if st != ST_OK:
            return st
    leaf[0] = pte
    if not c.quiet and note_g(h, c, w):
        h.cache.live = 1
        g.tag = gpa >> 12
        g.hgatp = c.hgatp
        g.pa = pa[0] & PAGE_MASK
        g.pte = pte
        upper_fill(h, u, gpa, c.hgatp, at, 0, level)
    return ST_OK


cdef int walk(hart_t* h, const ctx_t* c, uint64_t va, int acc, walk_t* w) noexcept nogil:
    """Translate one address as the manual's algorithm does ("Virtual Address Translation Process")."""
    cdef machine_t* m = h.m
    cdef int levels, level, shift, ok, st, known = 0
    cdef uint64_t pte = 0, at, gat, want, leaf = 0, gpa = va, pbmte, adue
    cdef upper_t* u
    m.walks += 1
    w.depth = w.g_depth = w.first_ok = 0
    w.bits = 0
    w.writable = w.readable = 1
    if c.satp >> SATP_MODE_SHIFT != SATP_BARE and c.priv != PRIV_M:
        pbmte = (h.s.henvcfg & h.s.menvcfg if c.virt else h.s.menvcfg) & ENVCFG_PBMTE
        adue = (h.s.henvcfg & h.s.menvcfg if c.virt else h.s.menvcfg) & ENVCFG_ADUE
        levels = levels_of(c.satp)
        w.bits = 12 + 9 * levels
        level = levels - 1
        gat = (c.satp & SATP_PPN) << 12
        if c.bank != NULL:
            u = &c.bank.upper[(va >> 21) & UPPER_MASK]
            if u.tag == va >> 21 and m.fences == NULL:
                level = <int>u.level
                gat = u.gtable
                known = 1
        if not known:
            shift = 64 - w.bits
            if <uint64_t>(<int64_t>(va << shift) >> shift) != va:
                return refuse(h, c, page_fault(acc), va)
        while True:
            gat += ((va >> (12 + 9 * level)) & 511) * 8
            at = gat
            if known:
                at = u.table | (gat & 4095)
                known = 0
            elif c.virt:
                st = g_walk(h, c, va, gat, acc, ACC_LOAD, 0x3000, w, &at, &leaf)
                if st != ST_OK:
                    return st
            if not read_pte(h, at, &pte, &w.frame[w.depth]):
                return refuse(h, c, access_fault(acc), va)
            w.at[w.depth] = at
            w.levels[w.depth] = level
            w.depth += 1
            if malformed(m, pte, pbmte):
                return refuse(h, c, page_fault(acc), va)
            if pte & (PTE_R | PTE_X):
                break
            # A pointer: A, D, U and the page attributes are reserved in it.
            if pte & (PTE_A | PTE_D | PTE_U | PTE_N | PTE_PBMT) or level == 0:
                return refuse(h, c, page_fault(acc), va)
            gat = (pte & PTE_PPN_MASK) << 2
            level -= 1
        w.gtable = gat & PAGE_MASK
        if pte & PTE_U:
            ok = c.priv == PRIV_U or (acc != ACC_FETCH and c.sum_)
        else:
            ok = c.priv == PRIV_S
        if not ok or not permits(pte, acc, c.mxr, c.hlvx) or not leaf_pa(pte, level, va, &gpa):
            return refuse(h, c, page_fault(acc), va)
        want = PTE_A | (PTE_D if acc == ACC_STORE else 0)
        if (pte & want) != want:
            # Svade: a fault; with ADUE (Svadu) the hart updates the entry as a store of its own.
            if not adue:
                return refuse(h, c, page_fault(acc), va)
            pte |= want
            if c.virt:
                st = g_walk(h, c, va, gat, acc, ACC_STORE, 0x3020, w, &at, &leaf)
                if st != ST_OK:
                    return st
            st = set_ad(h, c, at, pte, w)
            if st == ST_FAULT:
                return refuse(h, c, access_fault(acc), va)
            if st != ST_OK:
                return st
        w.first_ok = 1
        w.gpa = gpa
        w.readable = permits(pte, ACC_LOAD, c.mxr, 0)
        w.writable = (pte & PTE_W) != 0 and (pte & PTE_D) != 0
    if not c.virt:
        w.pa = gpa
        return ST_OK
    st = g_walk(h, c, va, gpa, acc, acc, 0, w, &w.pa, &leaf)
    if st == ST_OK:
        w.readable = w.readable and permits(leaf, ACC_LOAD, c.mxr_g, 0)
        w.writable = w.writable and (leaf & PTE_W) != 0 and (leaf & PTE_D) != 0
    return st


cdef void check_fences(hart_t* h, const ctx_t* c, uint64_t va, int acc, int st, walk_t* w) noexcept nogil:
    cdef int i
    for i in range(w.depth):
        h.api.fence_used(h, w.at[i], c.satp, va, acc, STAGE_VS if c.virt else STAGE_S, w.levels[i], w.first_ok, w.gpa)
    for i in range(w.g_depth):
        h.api.fence_used(h, w.g_at[i], c.hgatp, va, acc, STAGE_G, w.g_levels[i], 0, 0)
    if st == ST_OK:
        note_used(h, c, va, w)  # also what is not cached here, as other machines would cache it


# ---- what may be cached -----------------------------------------------------------------------------------------
cdef void upper_fill(hart_t* h, upper_t* u, uint64_t address, uint64_t atp, uint64_t at, uint64_t gtable,
                     int level) noexcept nogil:
    """Keep where the entry of an address was found, for its neighbours. What led there is marked already."""
    if not pmp_is_open(h, at & PAGE_MASK, PAGE_SIZE):
        return
    u.tag = address >> 21
    u.atp = atp
    u.table = at & PAGE_MASK
    u.gtable = gtable
    u.level = level


cdef int note_g(hart_t* h, const ctx_t* c, walk_t* w) noexcept nogil:
    """Mark the G-stage slots of a walk as feeding live entries, of no one virtual address."""
    cdef int i
    cdef frame_t* frame
    for i in range(w.g_depth):
        frame = w.g_frame[i]
        if frame == NULL or not h.m.api.pt_used(h.m, frame, (w.g_at[i] & 4095) >> 3, 0, -1, 0, c.hgatp):
            return 0
    return 1


cdef int note_used(hart_t* h, const ctx_t* c, uint64_t va, walk_t* w) noexcept nogil:
    """Mark the page-table slots of a walk as feeding a live entry; 0 when that can't be done."""
    cdef int i, last = w.depth - 1
    cdef frame_t* frame
    for i in range(w.depth):
        frame = w.frame[i]
        if frame == NULL or not h.m.api.pt_used(h.m, frame, (w.at[i] & 4095) >> 3, va, w.levels[i], w.bits, c.satp):
            return 0
    if not note_g(h, c, w):
        return 0
    if last >= 0 and c.bank != NULL and c.bank.upper[(va >> 21) & UPPER_MASK].tag != va >> 21:
        c.bank.live = c.bank.fresh = 1
        upper_fill(h, &c.bank.upper[(va >> 21) & UPPER_MASK], va, 0, w.at[last], w.gtable, w.levels[last])
    return 1


cdef inline void ctx_of(bank_t* bank, ctx_t* c) noexcept nogil:
    """Unpack the context a bank stands for."""
    c.bank = bank
    c.priv = bank.key & 3
    c.virt = bank.key >> 2 & 1
    c.sum_ = bank.key >> 3 & 1
    c.mxr = bank.key >> 4 & 1
    c.mxr_g = bank.key >> 5 & 1
    c.hlvx = c.quiet = 0
    c.satp = bank.satp
    c.hgatp = bank.hgatp


cdef inline int walk_failed(hart_t* h, uint64_t va, int st) noexcept nogil:
    """Return what a walk came to that was not ST_OK: a fault is none where a page table could not be fetched."""
    return st if h.m.ram.failed == NULL else page_refused(h.m, va)


cdef int mmu_translate(hart_t* h, uint64_t va, int acc, int width, uint64_t* pa) noexcept nogil:
    """Translate a data access inside one page with the hart's effective privilege, and cache what may be cached."""
    cdef int st, whole
    cdef ctx_t c
    cdef walk_t w
    cdef frame_t* frame
    cdef frame_t* before
    cdef machine_t* m = h.m
    ctx_of(h.bank_d, &c)
    st = walk(h, &c, va, acc, &w)
    if h.m.fences != NULL:
        check_fences(h, &c, va, acc, st, &w)
    if st != ST_OK:
        return walk_failed(h, va, st)
    pa[0] = w.pa
    whole = pmp_page(h, w.pa, acc, c.priv)
    if whole == PAGE_NEVER or (whole == PAGE_PARTS and not pmp_allows(h, w.pa, width, acc, c.priv)):
        return refuse(h, &c, access_fault(acc), va)
    if whole == PAGE_PARTS or acc == ACC_CBO or not in_ram(m, w.pa & PAGE_MASK, PAGE_SIZE):
        return page_there(m, w.pa)
    if acc == ACC_STORE:
        before = ram_find(m.ram, w.pa >> 12)
        st = m.mem.own(m.ram, w.pa >> 12, &frame)
        if st != RAM_OK:
            return page_refused(m, w.pa)
        if frame != before:
            frames_again(h, &w)
        if m.nwatches:
            if page_watched(m, w.pa, WATCH_LOADS):
                return ST_OK
            w.writable = w.writable and not page_watched(m, w.pa, WATCH_STORES)
        if w.readable and pmp_page(h, w.pa, ACC_LOAD, c.priv) == PAGE_WHOLE and note_used(h, &c, va, &w):
            m.api.fill_data(h, va, w.pa, frame, w.writable)
        return ST_OK
    if m.nwatches and page_watched(m, w.pa, WATCH_LOADS):
        return page_there(m, w.pa)
    frame = frame_at(m, w.pa)
    if frame == NULL:
        return page_there(m, w.pa)
    if note_used(h, &c, va, &w):
        m.api.fill_data(h, va, w.pa, frame, 0)
    return ST_OK


cdef int mmu_translate_as(hart_t* h, uint64_t va, int acc, int width, int hlvx, uint64_t* pa) noexcept nogil:
    """Translate for HLV, HLVX and HSV: as if V=1 with the privilege in hstatus.SPVP. Nothing is cached.

    Manual, chapter "H", "Hypervisor Virtual-Machine Load and Store Instructions".
    """
    cdef ctx_t c
    cdef walk_t w
    cdef int st
    c.priv = PRIV_S if h.s.hstatus & HSTATUS_SPVP else PRIV_U
    c.virt = 1
    c.sum_ = (h.s.vsstatus & MSTATUS_SUM) != 0
    c.mxr_g = (h.s.mstatus & MSTATUS_MXR) != 0
    c.mxr = c.mxr_g or (h.s.vsstatus & MSTATUS_MXR) != 0
    c.hlvx = hlvx
    c.quiet = 0
    c.bank = NULL
    c.satp = h.s.vsatp
    c.hgatp = h.s.hgatp
    st = walk(h, &c, va, acc, &w)
    if h.m.fences != NULL:
        check_fences(h, &c, va, acc, st, &w)
    if st != ST_OK:
        return walk_failed(h, va, st)
    pa[0] = w.pa
    return page_there(h.m, w.pa) if pmp_allows(h, w.pa, width, acc, c.priv) else refuse(h, &c, access_fault(acc), va)


cdef int mmu_fetch_page(hart_t* h, uint64_t va, frame_t** found) noexcept nogil:
    """Find the frame that code at va runs from. ST_LEAVE: only one instruction at a time, uncached, at h.slow_pa."""
    cdef fetch_t* e = &h.bank_x.x[(va >> 12) & FETCH_MASK]
    cdef ctx_t c
    cdef walk_t w
    cdef int st, whole
    cdef frame_t* frame
    if e.tag == va & PAGE_MASK:
        found[0] = e.frame
        return ST_OK
    ctx_of(h.bank_x, &c)
    st = walk(h, &c, va, ACC_FETCH, &w)
    if h.m.fences != NULL:
        h.access_pc = va
        check_fences(h, &c, va, ACC_FETCH, st, &w)
    if st != ST_OK:
        return walk_failed(h, va, st)
    whole = pmp_page(h, w.pa, ACC_FETCH, c.priv)
    if whole == PAGE_NEVER or (whole == PAGE_PARTS and not pmp_allows(h, w.pa, 2, ACC_FETCH, c.priv)):
        return refuse(h, &c, CAUSE_FETCH_ACCESS, va)
    h.slow_pa = w.pa
    if whole == PAGE_PARTS or not in_ram(h.m, w.pa & PAGE_MASK, PAGE_SIZE):
        return ST_LEAVE if page_there(h.m, w.pa) == ST_OK else ST_STOP
    frame = frame_at(h.m, w.pa)
    if frame == NULL:
        return ST_LEAVE if page_there(h.m, w.pa) == ST_OK else ST_STOP
    if not note_used(h, &c, va, &w):
        return ST_LEAVE
    h.m.api.fill_fetch(h, va, frame)
    found[0] = frame
    return ST_OK


cdef int mmu_probe(hart_t* h, uint64_t va, int acc, uint64_t* pa) noexcept nogil:
    """Translate for an observer: as the hart would now, without a trace."""
    cdef ctx_t c
    cdef walk_t w
    cdef int st
    ctx_of(h.bank_x if acc == ACC_FETCH else h.bank_d, &c)
    c.quiet = 1
    c.bank = NULL
    st = walk(h, &c, va, acc, &w)
    if st == ST_OK:
        pa[0] = w.pa
        if not pmp_allows(h, w.pa, 1, acc, c.priv):
            return refuse(h, &c, access_fault(acc), va)
    return st


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.translate = mmu_translate
    api.fetch_page = mmu_fetch_page
    api.pmp_allows = pmp_allows
    api.probe = mmu_probe
    api.translate_as = mmu_translate_as


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
