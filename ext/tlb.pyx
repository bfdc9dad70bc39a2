# cython: boundscheck=False
"""Banks of translations by context, and everything that drops an entry.

Owns which entries exist and why they go: selection of a bank for the running context (core.md, rule 7), precise
loss on a store to a used page-table slot (rule 8), loss of every alias of a replaced frame (rule 9). A fence flushes
nothing. What it knows of a frame it keeps in the frame: flags, the slots that fed live entries, where it was used.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from arch cimport *
from cache cimport *
from drops cimport *
from host cimport TAG_NONE
from ram cimport (
    FRAME_CODE, FRAME_PT, FRAME_WTLB, FRAME_XTLB, USED_FIRST, USED_G, count_load, flag_set, frame_t, pt_t,
)


cdef enum:
    PT_STORES_MAX = 64      # slow stores after which a page table counts as data again
    SPARE_MAX = 8           # caches kept for machines to come


# ---- banks -----------------------------------------------------------------------------------------------------
cdef inline void bank_bar(bank_t* bank) noexcept nogil:
    """Bar address 0 from tables of zeros: only their first entries could take it for a hit."""
    bank.r[0].tag = bank.w[0].tag = bank.upper[0].tag = TAG_NONE
    bank.x[0].tag = 1
    bank.jump[0].pc = 1


cdef bank_t* bank_new() noexcept nogil:
    cdef bank_t* bank = <bank_t*>calloc(1, sizeof(bank_t))
    if bank != NULL:
        bank_bar(bank)
    return bank


cdef void writes_clear(bank_t* bank) noexcept nogil:
    if bank.live_w:
        memset(&bank.w[0], 0, sizeof(bank.w))
        bank.w[0].tag = TAG_NONE
        bank.live_w = 0


cdef void bank_clear(bank_t* bank) noexcept nogil:
    if not bank.live:
        return
    writes_clear(bank)
    memset(&bank.upper[0], 0, sizeof(bank.upper))
    memset(&bank.r[0], 0, sizeof(bank.r))
    memset(&bank.x[0], 0, sizeof(bank.x))
    memset(&bank.jump[0], 0, sizeof(bank.jump))
    bank_bar(bank)
    bank.pages = 0
    bank.live = bank.fresh = 0


cdef bank_t* bank_find(cache_t* cache, uint32_t key, uint64_t satp, uint64_t hgatp) noexcept nogil:
    """Return the bank of a context, taking the least recently used one when there is none; NULL without memory."""
    cdef int i, oldest = 0
    cdef bank_t* bank
    cache.clock += 1
    for i in range(BANKS):
        bank = cache.bank[i]
        if bank == NULL:
            bank = bank_new()
            if bank == NULL:
                break
            cache.bank[i] = bank
            oldest = i
            break
        if bank.key == key and bank.satp == satp and bank.hgatp == hgatp:
            bank.used = cache.clock
            return bank
        if bank.used < cache.bank[oldest].used:
            oldest = i
    bank = cache.bank[oldest]
    if bank == NULL:
        return NULL
    bank.key = key
    bank.satp = satp
    bank.hgatp = hgatp
    bank.used = cache.clock
    bank_clear(bank)
    return bank


cdef void select_fetch(hart_t* h) noexcept nogil:
    cdef uint32_t key = h.s.priv | <uint32_t>h.s.virt << 2
    cdef uint64_t satp = 0, hgatp = 0
    if h.s.virt:
        satp = h.s.vsatp
        hgatp = h.s.hgatp
    elif h.s.priv != PRIV_M:
        satp = h.s.satp
    if h.bank_x == NULL or h.bank_x.key != key or h.bank_x.satp != satp or h.bank_x.hgatp != hgatp:
        h.bank_x = bank_find(h.cache, key, satp, hgatp)
        h.jump = &h.bank_x.jump[0]


cdef void tlb_select(hart_t* h) noexcept nogil:
    """Point the hart at the banks of its context: fetches by world, data also by MPRV, SUM and MXR."""
    cdef uint64_t status = h.s.mstatus
    cdef uint32_t priv = h.s.priv, key
    cdef int virt = h.s.virt
    cdef uint64_t satp = 0, hgatp = 0
    select_fetch(h)
    if priv == PRIV_M and status & MSTATUS_MPRV:
        priv = (status & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT
        virt = priv != PRIV_M and (status & MSTATUS_MPV) != 0
    key = priv | <uint32_t>virt << 2
    if virt:
        satp = h.s.vsatp
        hgatp = h.s.hgatp
        if status & MSTATUS_MXR:
            key |= 0x30
        if h.s.vsstatus & MSTATUS_MXR:
            key |= 0x10
        if priv == PRIV_S and h.s.vsstatus & MSTATUS_SUM:
            key |= 8
    elif priv != PRIV_M:
        satp = h.s.satp
        # With translation off SUM and MXR change nothing.
        if satp >> SATP_MODE_SHIFT:
            if priv == PRIV_S and status & MSTATUS_SUM:
                key |= 8
            if status & MSTATUS_MXR:
                key |= 0x10
    if h.bank_d == NULL or h.bank_d.key != key or h.bank_d.satp != satp or h.bank_d.hgatp != hgatp:
        h.bank_d = bank_find(h.cache, key, satp, hgatp)
        # Taking the least recently used bank may have taken the fetch bank.
        select_fetch(h)
    h.tlb_r = &h.bank_d.r[0]
    h.tlb_w = &h.bank_d.w[0]


# Caches of machines that are gone wait here for the next fork, which need not make tables of zeros.
cdef cache_t* spare[SPARE_MAX]
cdef int nspare = 0
cdef uint32_t spare_lock = 0


cdef cache_t* cache_new() noexcept nogil:
    """Return an empty cache with two banks, so that selection always finds one; NULL without memory."""
    global nspare
    cdef cache_t* cache = NULL
    cdef int i
    spin_lock(&spare_lock)
    if nspare:
        nspare -= 1
        cache = spare[nspare]
    spin_unlock(&spare_lock)
    if cache != NULL:
        return cache
    cache = <cache_t*>calloc(1, sizeof(cache_t))
    if cache == NULL:
        return NULL
    for i in range(2):
        cache.bank[i] = bank_new()
        if cache.bank[i] == NULL:
            cache_release(cache)
            return NULL
        cache.bank[i].key = ~<uint32_t>0
    cache.g[0].tag = cache.upper[0].tag = TAG_NONE
    return cache


cdef void cache_release(cache_t* cache) noexcept nogil:
    cdef int i
    for i in range(BANKS):
        free(cache.bank[i])
    free(cache.scratch_raw)
    free(cache)


cdef void cache_clear(cache_t* cache) noexcept nogil:
    cdef int i
    if cache.live:
        memset(&cache.g[0], 0xFF, sizeof(cache.g))
        memset(&cache.upper[0], 0xFF, sizeof(cache.upper))
        cache.live = 0
    cache.open_low = cache.open_high = 0
    for i in range(BANKS):
        if cache.bank[i] != NULL:
            bank_clear(cache.bank[i])


cdef void cache_free(cache_t* cache) noexcept nogil:
    global nspare
    cache_clear(cache)
    cache.limit = cache.filled = 0
    spin_lock(&spare_lock)
    if nspare < SPARE_MAX:
        spare[nspare] = cache
        nspare += 1
        cache = NULL
    spin_unlock(&spare_lock)
    if cache != NULL:
        cache_release(cache)


# ---- dropping ---------------------------------------------------------------------------------------------------
cdef void drop_all(machine_t* m) noexcept nogil:
    cdef uint32_t i
    for i in range(m.nharts):
        if m.harts[i].cache != NULL:
            cache_clear(m.harts[i].cache)


cdef void drop_writes(void* machine) noexcept nogil:
    """Drop all write entries: whoever caches an answer to "what changed" must see the next store to every frame."""
    cdef machine_t* m = <machine_t*>machine
    cdef uint32_t i
    cdef int b
    for i in range(m.nharts):
        if m.harts[i].cache != NULL:
            for b in range(BANKS):
                if m.harts[i].cache.bank[b] != NULL:
                    writes_clear(m.harts[i].cache.bank[b])


# Marks on a frame that several machines share are made by all of them, under the lock; only its one owner clears them.
cdef uint32_t pt_lock = 0


cdef pt_t pt_look(frame_t* frame) noexcept nogil:
    """Return what is known of a page table that other machines may be marking; at least what this one has marked."""
    cdef pt_t pt
    spin_lock(&pt_lock)
    pt = (<pt_t*>load_pointer(<void**>&frame.pt))[0]
    spin_unlock(&pt_lock)
    return pt


cdef void pt_drop(machine_t* m, frame_t* frame) noexcept nogil:
    """Drop what was derived from a page table, a frame that is marked as one, as a whole."""
    cdef pt_t pt = pt_look(frame)
    if pt.where == 1 and pt.level == 0:
        drop_range(m, pt.va, 21, pt.bits, pt.atp)
    elif pt.where:
        drop_all(m)


cdef void frame_replaced(void* machine, uint64_t ppn, frame_t* old, frame_t* new) noexcept nogil:
    """Called by the tree before a shared frame gives way to a private copy (rule 9); see ram.pxd for `new` NULL."""
    cdef machine_t* m = <machine_t*>machine
    cdef pt_t* pt
    if old == NULL:
        return
    drop_frame(m, old, DROP_ALL)
    if load_pointer(&old.code) != NULL:
        m.leave = 1  # the running block may be the old frame's
    if new == NULL:
        # What is written next goes behind everyone's back: entries of a page table may change too.
        if count_load(&old.flags) & FRAME_PT:
            pt_drop(m, old)
            m.leave = 1
        return
    if count_load(&old.flags) & FRAME_PT:
        # The copy has the same entries, so what was derived from the old frame now stands on the new one.
        pt = m.mem.pt_of(new)
        if pt == NULL:
            drop_all(m)
            m.leave = 1
            return
        pt[0] = pt_look(old)
        flag_set(&new.flags, FRAME_PT)


# ---- page tables ------------------------------------------------------------------------------------------------
cdef int pt_used(machine_t* m, frame_t* frame, uint32_t slot, uint64_t va, int level, int bits,
                 uint64_t atp) noexcept nogil:
    """Note that a slot of a page table feeds a live entry; 0 when that can't be noted, so nothing may be cached.

    A level of -1 is the G-stage's: its entries feed translations of addresses that it does not know.
    """
    cdef pt_t* pt = <pt_t*>load_pointer(<void**>&frame.pt)
    cdef uint64_t cover, bit = <uint64_t>1 << (slot & 63)
    cdef uint8_t stage = USED_G if level < 0 else USED_FIRST
    cdef int i
    if pt == NULL:
        pt = m.mem.pt_of(frame)
        if pt == NULL:
            return 0
    cover = 0 if level < 0 else ((<uint64_t>1 << bits) - 1) & ~((<uint64_t>1 << (21 + 9 * level)) - 1)
    # Without the lock: the bit is set last, and what changes behind it only ever says more.
    if load_u64(&pt.used[slot >> 6]) & bit and count_load(&frame.flags) & FRAME_PT and load_u8(&pt.stages) & stage and (
            load_u8(&pt.where) == 2 or (load_u8(&pt.level) == level and load_u8(&pt.bits) == bits
                                        and load_u64(&pt.va) == va & cover)) and (
            load_u64(&pt.atp) == atp or load_u64(&pt.atp) == EVERYWHERE):
        return 1
    spin_lock(&pt_lock)
    if not count_load(&frame.flags) & FRAME_PT:
        for i in range(8):
            store_u64(&pt.used[i], 0)
        store_u8(&pt.where, 0)
        store_u8(&pt.stages, 0)
        store_u64(&pt.atp, atp)
        drop_frame(m, frame, DROP_W)
        flag_set(&frame.flags, FRAME_PT)
    if pt.atp != atp:
        store_u64(&pt.atp, EVERYWHERE)
    or_u8(&pt.stages, stage)
    if level < 0:
        store_u8(&pt.where, 2)
    elif pt.where == 0:
        store_u8(&pt.level, <uint8_t>level)
        store_u8(&pt.bits, <uint8_t>bits)
        store_u64(&pt.va, va & cover)
        store_u8(&pt.where, 1)
    elif pt.where == 1 and (pt.level != level or pt.bits != bits or pt.va != va & cover):
        store_u8(&pt.where, 2)
    or_u64(&pt.used[slot >> 6], bit)
    pt.stores = 0
    spin_unlock(&pt_lock)
    return 1


cdef void pt_forget(frame_t* frame) noexcept nogil:
    memset(&frame.pt.used[0], 0, sizeof(frame.pt.used))
    frame.pt.where = 0
    frame.pt.stores = 0
    frame.flags &= ~<uint32_t>FRAME_PT


cdef void fence_note(machine_t* m, frame_t* frame, uint64_t pa, const uint8_t* data, uint32_t size) noexcept nogil:
    """Tell the check of fences which used slots a store changes, and to what."""
    cdef pt_t* pt = frame.pt
    cdef uint32_t slot, k, offset = pa & 4095
    cdef uint64_t old, new, va, span
    for slot in range(offset >> 3, ((offset + size - 1) >> 3) + 1):
        if not pt.used[slot >> 6] >> (slot & 63) & 1:
            continue
        old = new = (<uint64_t*>frame.bytes)[slot]
        for k in range(8):
            if offset <= slot * 8 + k < offset + size:
                (<uint8_t*>&new)[k] = data[slot * 8 + k - offset]
        if old == new:
            continue
        va, span = 0, 0
        if pt.where == 1:
            span = <uint64_t>1 << (12 + 9 * pt.level)
            va = pt.va | slot * span
            va = <uint64_t>(<int64_t>(va << (64 - pt.bits)) >> (64 - pt.bits))
        m.api.fence_changed(m, (pa & PAGE_MASK) + slot * 8, old, new, va, span, pt.stages, pt.atp)


cdef void slot_drop(machine_t* m, pt_t* pt, uint32_t slot, uint64_t pte) noexcept nogil:
    """Drop what was derived from one used slot, which held `pte`, of a table used at one place."""
    cdef int shift = 12 + 9 * pt.level
    cdef uint64_t va = pt.va | <uint64_t>slot << shift
    # Sign-extend: entries are tagged with the address as the guest wrote it.
    va = <uint64_t>(<int64_t>(va << (64 - pt.bits)) >> (64 - pt.bits))
    if pt.level == 0 and not pte & PTE_N:
        drop_page(m, va, (pte & PTE_X) != 0, pt.atp)
    elif pt.level == 0:
        drop_range(m, va & ~<uint64_t>0xFFFF, 16, pt.bits, pt.atp)
    else:
        drop_range(m, va, shift, pt.bits, pt.atp)


cdef void pt_stored(machine_t* m, frame_t* frame, uint64_t pa, const void* data, uint32_t size) noexcept nogil:
    """Drop what was derived from the slots that a store of `data` at pa touches; called before the bytes change."""
    cdef pt_t* pt = frame.pt
    cdef uint32_t slot, offset = pa & 4095
    cdef int i
    cdef uint64_t bit, pte, live = 0
    if m.fences != NULL:
        fence_note(m, frame, pa, <const uint8_t*>data, size)
    pt.stores += 1
    if pt.stores > PT_STORES_MAX:
        # It goes on being written: a page table no longer. Its write entry may come back.
        for i in range(8):
            live |= pt.used[i]
        if live:
            pt_drop(m, frame)
            m.leave = 1
        pt_forget(frame)
        return
    for slot in range(offset >> 3, ((offset + size - 1) >> 3) + 1):
        bit = <uint64_t>1 << (slot & 63)
        if not pt.used[slot >> 6] & bit:
            continue
        pte = (<uint64_t*>frame.bytes)[slot]
        # The running block may lie in a page that goes: only a leaf that is not executable can't have led to it.
        if pt.level or pte & PTE_X or pt.where != 1:
            m.leave = 1
        if pt.where != 1:
            drop_all(m)
            pt_forget(frame)
            return
        slot_drop(m, pt, slot, pte)
        pt.used[slot >> 6] &= ~bit


# ---- another tree takes the place of this one ----------------------------------------------------------------------
cdef inline int of_slots(uint64_t va, pt_t* pt, const uint64_t* slots) noexcept nogil:
    """Say whether a virtual address is translated by one of a set of slots of a table used at one place."""
    cdef int shift = 12 + 9 * pt.level
    cdef uint64_t cover = ((<uint64_t>1 << pt.bits) - 1) & ~((<uint64_t>512 << shift) - 1), slot = va >> shift & 511
    return (va ^ pt.va) & cover == 0 and slots[slot >> 6] >> (slot & 63) & 1


cdef void slots_drop(machine_t* m, pt_t* pt, const uint64_t* slots, int same) noexcept nogil:
    """Drop what was derived from a set of slots of a table used at one place; of a table of pages the jumps only."""
    cdef uint32_t i
    cdef int b, k
    cdef bank_t* bank
    for i in range(m.nharts):
        for b in range(BANKS):
            bank = m.harts[i].cache.bank[b]
            if bank == NULL:
                break
            if not bank.live or elsewhere(bank, pt.atp) or bank.satp >> SATP_MODE_SHIFT == 0 or (
                    same and not bank.fresh):
                continue
            if pt.level and pt.atp != EVERYWHERE:
                # Tables come and go where an address space does: what else is known of it is not worth looking.
                bank_clear(bank)
                continue
            for k in range(JUMP_SIZE):
                if of_slots(bank.jump[k].pc, pt, slots):
                    bank.jump[k].pc = 1
            if pt.level == 0:
                continue
            for k in range(TLB_SIZE):
                if of_slots(bank.r[k].tag, pt, slots):
                    bank.r[k].tag = TAG_NONE
            for k in range(TLB_SIZE if bank.live_w else 0):
                if of_slots(bank.w[k].tag, pt, slots):
                    bank.w[k].tag = TAG_NONE
            for k in range(FETCH_SIZE):
                if of_slots(bank.x[k].tag, pt, slots):
                    bank.x[k].tag = 1
            for k in range(UPPER_SIZE):
                if of_slots(bank.upper[k].tag << 21, pt, slots):
                    bank.upper[k].tag = TAG_NONE


cdef int pt_left(machine_t* m, frame_t* old, frame_t* new, int same) noexcept nogil:
    """Keep what was derived from slots of a page table that are the same in the frame that takes its place.

    That is noted in the new frame, as if it had been walked. Returns 0 when everything must go instead.
    """
    cdef pt_t seen = pt_look(old)
    cdef pt_t* pt = &seen
    cdef const uint64_t* was = <const uint64_t*>old.bytes
    cdef const uint64_t* is_ = <const uint64_t*>(m.mem.zeros if new == NULL else new.bytes)
    cdef uint32_t slot
    cdef int level, word
    cdef uint64_t va, bits, some = 0
    cdef uint64_t slots[8]      # those of which more goes than a page's entries
    if not pt.where:
        return 1
    memset(&slots[0], 0, sizeof(slots))
    for word in range(8):
        bits = pt.used[word]
        slot = 64 * word
        while bits:
            if bits & 1:
                if was[slot] != is_[slot]:
                    if pt.where != 1:
                        return 0
                    if pt.level == 0 and was[slot] & PTE_N:
                        slot_drop(m, pt, slot, was[slot])
                    elif pt.level == 0:
                        slot_drop(m, pt, slot, was[slot] & ~<uint64_t>PTE_X)
                    if pt.level or was[slot] & PTE_X:
                        some = 1
                        slots[word] |= <uint64_t>1 << (slot & 63)
                else:
                    level = pt.level if pt.where == 1 else -1
                    va = pt.va | <uint64_t>slot << (12 + 9 * pt.level) if pt.where == 1 else 0
                    if new == NULL or not pt_used(m, new, slot, va, level, pt.bits, pt.atp):
                        return 0
            bits >>= 1
            slot += 1
    if some:
        slots_drop(m, pt, &slots[0], same)
    if new != NULL and load_pointer(<void**>&new.pt) != NULL:
        spin_lock(&pt_lock)
        or_u8(&new.pt.stages, pt.stages)
        spin_unlock(&pt_lock)
    return 1


cdef inline uint32_t host_slot(uint64_t host, uint32_t mask) noexcept nogil:
    return <uint32_t>((host >> 12) * <uint64_t>0x9E3779B97F4A7C15ULL >> 32) & mask


cdef inline int host_among(const uint64_t* table, uint32_t mask, uint64_t host) noexcept nogil:
    cdef uint32_t at = host_slot(host, mask)
    while table[at]:
        if table[at] == host:
            return 1
        at = (at + 1) & mask
    return 0


cdef void bank_drop_hosts(bank_t* bank, const uint64_t* table, uint32_t mask, int code) noexcept nogil:
    """Drop the entries of a bank that lead to frames whose bytes are in a hash table; `code`: jumps as well."""
    cdef int k
    if not bank.live:
        return
    for k in range(TLB_SIZE):
        if bank.r[k].tag != TAG_NONE and host_among(table, mask, bank.r[k].tag + <uint64_t>bank.r[k].addend):
            bank.r[k].tag = TAG_NONE
    for k in range(TLB_SIZE if bank.live_w else 0):
        if bank.w[k].tag != TAG_NONE and host_among(table, mask, bank.w[k].tag + <uint64_t>bank.w[k].addend):
            bank.w[k].tag = TAG_NONE
    for k in range(FETCH_SIZE):
        if bank.x[k].frame != NULL and bank.x[k].tag != 1 and host_among(
                table, mask, <uint64_t>bank.x[k].frame.bytes):
            bank.x[k].tag = 1
    if code:
        for k in range(JUMP_SIZE):
            if jump_live(&bank.jump[k]) and host_among(
                    table, mask, <uint64_t>chunk_of(bank.jump[k].op).code.frame.bytes):
                bank.jump[k].pc = 1


cdef void frames_left(void* machine, frame_t** pairs, uint64_t n, int same) noexcept nogil:
    """Called by the tree when frames give way to others, at once: drop exactly what leads to them. See ram.pxd.

    Other content comes in their place, so what was derived from page tables among them goes where an entry differs.
    """
    cdef machine_t* m = <machine_t*>machine
    cdef uint64_t local[256]
    cdef uint64_t* table = &local[0]
    cdef uint32_t size = 256, at, i
    cdef uint64_t k
    cdef int b, upper, code = 0
    cdef pt_t pt
    while size < 2 * n:
        size *= 2
    if pairs != NULL and size > 256:
        table = <uint64_t*>malloc(size * sizeof(uint64_t))
    if pairs == NULL or table == NULL:
        drop_all(m)
        return
    memset(table, 0, size * sizeof(uint64_t))
    for k in range(n):
        at = host_slot(<uint64_t>pairs[2 * k].bytes, size - 1)
        while table[at]:
            at = (at + 1) & (size - 1)
        table[at] = <uint64_t>pairs[2 * k].bytes
        code |= load_pointer(&pairs[2 * k].code) != NULL
    for i in range(m.nharts):
        for b in range(BANKS):
            if m.harts[i].cache.bank[b] == NULL:
                break
            # What leads to a frame that was made since the same tree came is as young.
            if m.harts[i].cache.bank[b].fresh or not same:
                bank_drop_hosts(m.harts[i].cache.bank[b], table, size - 1, code)
    if table != &local[0]:
        free(table)
    for upper in range(1, -1, -1):      # tables of tables first: they may leave nothing to the others
        for k in range(n):
            if not count_load(&pairs[2 * k].flags) & FRAME_PT:
                continue
            pt = pt_look(pairs[2 * k])
            if upper == (pt.where == 1 and pt.level > 0):
                if not pt_left(m, pairs[2 * k], pairs[2 * k + 1], same):
                    drop_all(m)
                    return
    for i in range(m.nharts):
        for b in range(BANKS):
            if m.harts[i].cache.bank[b] != NULL:
                m.harts[i].cache.bank[b].fresh = 0


# ---- filling ----------------------------------------------------------------------------------------------------
cdef void limit_fill(hart_t* h, uint64_t va) noexcept nogil:
    """Keep a bank to few entries: drop the page filled `limit` fills ago. For tests: it must change nothing."""
    cdef cache_t* cache = h.cache
    cdef uint32_t at = cache.filled % cache.limit
    if cache.filled >= cache.limit:
        drop_page(h.m, cache.ring[at], 1, EVERYWHERE)
    cache.ring[at] = va
    cache.filled += 1


cdef int fill_data(hart_t* h, uint64_t va, uint64_t pa, frame_t* frame, int writable) noexcept nogil:
    """Enter a page for reading, and for writing if `writable` and the frame is neither code nor page table."""
    cdef uint64_t page = va & PAGE_MASK
    cdef tlb_t* e = &h.tlb_r[(va >> 12) & TLB_MASK]
    if h.cache.limit:
        limit_fill(h, page)
    e.tag = page
    e.addend = <int64_t>(<uint64_t>frame.bytes - page)
    h.bank_d.pa[(va >> 12) & TLB_MASK] = pa & PAGE_MASK
    h.bank_d.key_r[(va >> 12) & TLB_MASK] = frame_key(frame)
    h.bank_d.live = h.bank_d.fresh = 1
    if writable and not count_load(&frame.flags) & (FRAME_CODE | FRAME_PT):
        e = &h.tlb_w[(va >> 12) & TLB_MASK]
        h.bank_d.live_w = 1
        e.tag = page
        e.addend = <int64_t>(<uint64_t>frame.bytes - page)
        if frame.flags & FRAME_WTLB and frame.w_va != page:
            frame.w_many = 1
        frame.flags |= FRAME_WTLB
        frame.w_va = page
    return 1


cdef int fill_fetch(hart_t* h, uint64_t va, frame_t* frame) noexcept nogil:
    cdef uint64_t page = va & PAGE_MASK
    cdef fetch_t* e = &h.bank_x.x[(va >> 12) & FETCH_MASK]
    if h.cache.limit:
        limit_fill(h, page)
    h.bank_x.live = h.bank_x.fresh = 1
    if not count_load(&frame.flags) & FRAME_XTLB:
        flag_set(&frame.flags, FRAME_XTLB)
    e.tag = page
    e.frame = frame
    return 1


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.select = tlb_select
    api.drop_all = drop_all
    api.drop_writes = drop_writes
    api.drop_frame = drop_frame
    api.drop_code = drop_code
    api.fill_data = fill_data
    api.fill_fetch = fill_fetch
    api.pt_used = pt_used
    api.pt_stored = pt_stored
    api.replaced = frame_replaced
    api.left = frames_left
    api.cache_new = cache_new
    api.cache_free = cache_free


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
