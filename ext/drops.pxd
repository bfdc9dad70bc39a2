"""Finding and dropping cached translations: of an address, of a range, of a frame, of decoded code.

Bounded scans of the banks of one machine's harts; which of them is called for what is tlb.pyx's to say.
"""
from libc.stdint cimport uint32_t, uint64_t

from arch cimport *
from cache cimport *
from host cimport TAG_NONE
from ram cimport FRAME_WTLB, FRAME_XTLB, count_load, flag_clear, frame_t, pt_t


cdef extern from *:
    """
    #define EVERYWHERE (~(uint64_t)0)       /* all address spaces, as pt_t.atp says it */
    """
    const uint64_t EVERYWHERE


cdef inline int jump_live(const jump_t* j) noexcept nogil:
    return j.op != NULL and j.pc != 1


cdef inline void jump_drop_page(bank_t* bank, uint64_t va) noexcept nogil:
    # A page's entries lie in one piece of the table.
    cdef uint64_t i, first = (va >> 1) & JUMP_MASK
    for i in range(first, first + 2048):
        if bank.jump[i].pc & PAGE_MASK == va:
            bank.jump[i].pc = 1


cdef inline void jump_drop_range(bank_t* bank, uint64_t va, uint64_t mask) noexcept nogil:
    cdef int i
    for i in range(JUMP_SIZE):
        if ((bank.jump[i].pc ^ va) & mask) == 0:
            bank.jump[i].pc = 1


cdef inline int elsewhere(bank_t* bank, uint64_t atp) noexcept nogil:
    return bank.satp != atp and atp != EVERYWHERE


cdef inline void drop_page(machine_t* m, uint64_t va, int fetch, uint64_t atp) noexcept nogil:
    """Drop the entries of one virtual page of an address space; `fetch` says that code may have run from it."""
    cdef uint32_t i
    cdef int b
    cdef cache_t* cache
    cdef bank_t* bank
    cdef uint64_t page = va >> 12
    for i in range(m.nharts):
        cache = m.harts[i].cache
        if cache == NULL:
            continue
        for b in range(BANKS):
            bank = cache.bank[b]
            if bank == NULL:
                break
            if elsewhere(bank, atp):
                continue
            if bank.r[page & TLB_MASK].tag == va:
                bank.r[page & TLB_MASK].tag = TAG_NONE
            if bank.w[page & TLB_MASK].tag == va:
                bank.w[page & TLB_MASK].tag = TAG_NONE
            if bank.x[page & FETCH_MASK].tag == va:
                bank.x[page & FETCH_MASK].tag = 1
            if fetch and bank.pages >> (page & 63) & 1:
                jump_drop_page(bank, va)


cdef inline void drop_range(machine_t* m, uint64_t va, int shift, int bits, uint64_t atp) noexcept nogil:
    """Drop the entries of 2^shift bytes from va on in an address space.

    Addresses are compared in the `bits` that translation looks at.
    """
    cdef uint32_t i
    cdef int b, k
    cdef cache_t* cache
    cdef bank_t* bank
    cdef uint64_t mask = ((<uint64_t>1 << bits) - 1) & ~((<uint64_t>1 << shift) - 1)
    for i in range(m.nharts):
        cache = m.harts[i].cache
        if cache == NULL:
            continue
        for b in range(BANKS):
            bank = cache.bank[b]
            if bank == NULL:
                break
            if bank.satp >> SATP_MODE_SHIFT == 0 or not bank.live or elsewhere(bank, atp):
                continue
            # A region may be larger than the range, or lie in it.
            for k in range(UPPER_SIZE):
                if ((bank.upper[k].tag << 21 ^ va) & mask & ~<uint64_t>0x1FFFFF) == 0:
                    bank.upper[k].tag = TAG_NONE
            for k in range(TLB_SIZE):
                if ((bank.r[k].tag ^ va) & mask) == 0:
                    bank.r[k].tag = TAG_NONE
                if ((bank.w[k].tag ^ va) & mask) == 0:
                    bank.w[k].tag = TAG_NONE
            for k in range(FETCH_SIZE):
                if ((bank.x[k].tag ^ va) & mask) == 0:
                    bank.x[k].tag = 1
            jump_drop_range(bank, va, mask)


cdef inline int maps(tlb_t* e, uint64_t host) noexcept nogil:
    return e.tag != TAG_NONE and e.tag + <uint64_t>e.addend == host


cdef extern from *:
    """
    /* Whether one of 1,024 keys is `key`; without a way out of the loop it becomes vector instructions. */
    static inline int key_among(const uint32_t *keys, uint32_t key) {
        uint32_t hit = 0;
        for (int k = 0; k < 1024; k++) hit |= (uint32_t)(keys[k] == key);
        return (int)hit;
    }
    """
    int key_among(const uint32_t* keys, uint32_t key) noexcept nogil


cdef inline uint32_t frame_key(frame_t* frame) noexcept nogil:
    return <uint32_t>(<uint64_t>frame.bytes >> 12)


cdef inline void drop_frame(machine_t* m, frame_t* frame, int what) noexcept nogil:
    """Drop every entry that leads to a frame: DROP_W its write entries, DROP_ALL also reads, fetches and jumps."""
    cdef uint32_t i
    cdef int b, k
    cdef cache_t* cache
    cdef bank_t* bank
    cdef tlb_t* e
    cdef uint64_t host = <uint64_t>frame.bytes
    cdef uint32_t flags = count_load(&frame.flags)
    if what == DROP_W:
        if not flags & FRAME_WTLB:
            return
        flag_clear(&frame.flags, FRAME_WTLB)
        for i in range(m.nharts):
            cache = m.harts[i].cache
            if cache == NULL:
                continue
            for b in range(BANKS):
                bank = cache.bank[b]
                if bank == NULL:
                    break
                if not bank.live_w:
                    continue
                if frame.w_many:
                    for k in range(TLB_SIZE):
                        if maps(&bank.w[k], host):
                            bank.w[k].tag = TAG_NONE
                else:
                    e = &bank.w[(frame.w_va >> 12) & TLB_MASK]
                    if maps(e, host):
                        e.tag = TAG_NONE
        frame.w_many = 0
        return
    for i in range(m.nharts):
        cache = m.harts[i].cache
        if cache == NULL:
            continue
        for b in range(BANKS):
            bank = cache.bank[b]
            if bank == NULL:
                break
            if not bank.live:
                continue
            # Keys of entries that are gone may still be there: then it is looked for in vain.
            if key_among(&bank.key_r[0], frame_key(frame)):
                for k in range(TLB_SIZE):
                    if maps(&bank.r[k], host):
                        bank.r[k].tag = TAG_NONE
            if bank.live_w and flags & FRAME_WTLB:
                for k in range(TLB_SIZE):
                    if maps(&bank.w[k], host):
                        bank.w[k].tag = TAG_NONE
            if flags & FRAME_XTLB:
                for k in range(FETCH_SIZE):
                    if bank.x[k].frame == frame and bank.x[k].tag != 1:
                        bank.x[k].tag = 1
            if load_pointer(&frame.code) != NULL:
                for k in range(JUMP_SIZE):
                    if jump_live(&bank.jump[k]) and chunk_of(bank.jump[k].op).code.frame == frame:
                        bank.jump[k].pc = 1
    # The frame may be others' as well, who mark it meanwhile.
    if flags & FRAME_WTLB:
        flag_clear(&frame.flags, FRAME_WTLB)


cdef inline void drop_code(machine_t* m, code_t* code) noexcept nogil:
    """Drop the jump entries that lead into one set of decoded code, before its memory goes."""
    cdef uint32_t i
    cdef int b, k
    cdef bank_t* bank
    for i in range(m.nharts):
        if m.harts[i].cache == NULL:
            continue
        for b in range(BANKS):
            bank = m.harts[i].cache.bank[b]
            if bank == NULL:
                break
            if not bank.live:
                continue
            for k in range(JUMP_SIZE):
                if jump_live(&bank.jump[k]) and chunk_of(bank.jump[k].op).code == code:
                    bank.jump[k].pc = 1
