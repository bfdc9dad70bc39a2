# cython: boundscheck=False
"""Everything a load or a store may be besides a TLB hit: fills, device registers, misaligned and page-crossing
accesses, atomics outside the fast path, cache-block operations, and stores by anyone else than the running hart.

Owns the one way to change RAM behind the TLB (`ram_store`): what was decoded or translated from the bytes goes first.
Slow loads and stores complete the access and go on behind it; only fills execute again (core.md, rule 10).
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arch cimport *
from bus cimport BUS_FAULT, BUS_OK
from cache cimport *
from opcodes cimport opcode_access, opcode_match
from host cimport host_set16, host_set32, host_set64, host_u16, host_u32, host_u64
from ram cimport FRAME_CODE, FRAME_PT, RAM_OK, frame_t


cdef enum:
    CBO_BYTES = 64          # of a cache block, told to the guest by the device tree


cdef inline int in_ram(machine_t* m, uint64_t pa, uint64_t size) noexcept nogil:
    return pa - m.ram.base < m.ram.size and pa - m.ram.base + size <= m.ram.size


cdef inline int refuse(hart_t* h, uint64_t cause, uint64_t va) noexcept nogil:
    h.fault = cause
    h.fault_va = va
    h.fault_virt = h.bank_d.key >> 2 & 1
    h.fault_gpa = h.fault_inst = 0
    return ST_FAULT


# ---- device registers -------------------------------------------------------------------------------------------
cdef region_t* region_of(machine_t* m, uint64_t pa, int width) noexcept nogil:
    """Return the region that holds all of an access, or NULL. Regions are sorted and do not overlap."""
    cdef uint32_t low = 0, high = m.nregions, mid
    cdef region_t* r
    while low < high:
        mid = (low + high) >> 1
        r = &m.regions[mid]
        if pa < r.base:
            high = mid
        elif pa - r.base >= r.size:
            low = mid + 1
        else:
            return r if pa - r.base + width <= r.size else NULL
    return NULL


cdef int bus_read(machine_t* m, uint64_t pa, int width, uint64_t* value) noexcept nogil:
    cdef region_t* r = region_of(m, pa, width)
    if r == NULL or pa & (width - 1):
        return BUS_FAULT
    return r.ops.read(r.ops.opaque, pa - r.base, width, value)


cdef int bus_write(machine_t* m, uint64_t pa, int width, uint64_t value) noexcept nogil:
    cdef region_t* r = region_of(m, pa, width)
    if r == NULL or pa & (width - 1):
        return BUS_FAULT
    return r.ops.write(r.ops.opaque, pa - r.base, width, value)


cdef int device_read(hart_t* h, uint64_t va, uint64_t pa, int width, uint64_t* value, uint64_t cause,
                     int64_t left) noexcept nogil:
    """Read a register for the guest; `left` is the budget at the instruction, so that the device sees the right time.

    A device may be Python, which must not run in the guest's floating-point environment.
    """
    cdef machine_t* m = h.m
    cdef int st
    m.clock.icount = h.icount_end - <uint64_t>left
    if m.request:
        m.leave = 1  # registers can be slow: a stop asked for does not wait for the slice's end
    value[0] = 0
    h.api.fp_end(h)
    st = bus_read(m, pa, width, value)
    h.api.fp_begin(h)
    if st == BUS_OK:
        return ST_LEAVE if m.leave else ST_OK
    if st == BUS_FAULT:
        return refuse(h, cause, va)
    m.stop_addr = pa
    order_leave(m, STOP_ERROR)
    return ST_STOP


cdef int device_write(hart_t* h, uint64_t va, uint64_t pa, int width, uint64_t value, int64_t left) noexcept nogil:
    cdef machine_t* m = h.m
    cdef int st
    m.clock.icount = h.icount_end - <uint64_t>left
    if m.request:
        m.leave = 1  # registers can be slow: a stop asked for does not wait for the slice's end
    h.api.fp_end(h)
    st = bus_write(m, pa, width, value)
    h.api.fp_begin(h)
    if st == BUS_OK:
        return ST_LEAVE if m.leave else ST_OK
    if st == BUS_FAULT:
        return refuse(h, CAUSE_STORE_ACCESS, va)
    m.stop_addr = pa
    order_leave(m, STOP_ERROR)
    return ST_STOP


# ---- stores to RAM ----------------------------------------------------------------------------------------------
cdef int frame_store(machine_t* m, uint64_t pa, const void* data, uint32_t size) noexcept nogil:
    """Store inside one page of RAM. Returns ST_OK, ST_LEAVE when running code may have changed, or ST_STOP."""
    cdef frame_t* frame
    cdef uint32_t offset = pa & 4095
    cdef int st = m.mem.own(m.ram, pa >> 12, &frame)
    if st != RAM_OK:
        return page_refused(m, pa)
    if frame.flags & FRAME_PT:
        m.api.pt_stored(m, frame, pa, data, size)
    if frame.flags & FRAME_CODE and m.api.code_stored(m, frame, pa, size):
        m.leave = 1
    memcpy(frame.bytes + offset, data, size)
    if m.nwatches:
        watch_access(m, pa, size, WATCH_STORES)
    return ST_LEAVE if m.leave else ST_OK


cdef int parts_store(machine_t* m, uint64_t pa, uint64_t pa2, uint64_t* value, int first, int width) noexcept nogil:
    """Store the first bytes at pa and the rest, if any, at pa2: all or, where memory is used up, nothing."""
    cdef frame_t* frame
    cdef int st
    if first < width and m.mem.own(m.ram, pa2 >> 12, &frame) != RAM_OK:
        return page_refused(m, pa2)
    st = frame_store(m, pa, value, first)
    if st != ST_STOP and first < width:
        st = frame_store(m, pa2, <uint8_t*>value + first, width - first)
    return st


cdef int ram_store(machine_t* m, uint64_t pa, const void* data, uint64_t size) noexcept nogil:
    """Store to RAM from outside the running hart (DMA, debuggers, A and D bits); drops reservations it overlaps."""
    cdef const uint8_t* from_ = <const uint8_t*>data
    cdef hart_state_t* s
    cdef uint64_t part, first
    cdef uint32_t i
    cdef int st
    for i in range(m.nharts):
        s = &m.harts[i].s
        # A reservation is of eight aligned bytes, whatever was loaded of them.
        first = s.resv_pa & ~<uint64_t>7
        if s.resv_width and first < pa + size and pa < first + 8:
            s.resv_width = 0
    while size:
        part = 4096 - (pa & 4095)
        if part > size:
            part = size
        st = frame_store(m, pa, from_, <uint32_t>part)
        if st == ST_STOP:
            return st
        from_ += part
        pa += part
        size -= part
    return ST_OK


cdef inline void frame_load(machine_t* m, uint64_t pa, void* data, uint32_t size) noexcept nogil:
    cdef frame_t* frame = m.mem.find(m.ram, pa >> 12)
    if frame == NULL:
        memset(data, 0, size)
    else:
        memcpy(data, frame.bytes + (pa & 4095), size)
    if m.nwatches:
        watch_access(m, pa, size, WATCH_LOADS)


# ---- the slow half of loads and stores --------------------------------------------------------------------------
cdef inline void access_begin(hart_t* h, op_t* op, uint64_t va) noexcept nogil:
    h.access_va = va
    if h.m.fences != NULL:
        h.access_pc = h.page_va + meta_of(op).off


cdef uint64_t transformed(hart_t* h, op_t* op) noexcept nogil:
    """Return what htinst says of op's explicit access ("H", "Transformed Instruction or Pseudoinstruction").

    The base of the address gives way to how far the faulting byte is behind it; bit 1 says the instruction had 32 bits.
    """
    cdef meta_t* meta = meta_of(op)
    cdef int kind = opcode_access[meta.opcode]
    cdef uint32_t word = opcode_match[meta.opcode], off = <uint32_t>(h.fault_va - h.access_va) & 31
    if kind == 0:
        return 0
    if meta.len == 4 and kind == 3:
        word = meta.raw & ~<uint32_t>0xF8000  # atomics, HLV and HSV keep all but rs1
    elif kind == 1:
        word |= <uint32_t>(op.rd & 31) << 7
    else:
        word |= <uint32_t>op.rs2 << 20
    if meta.len == 2:
        word &= ~<uint32_t>2
    return word | off << 15


cdef inline int after(hart_t* h) noexcept nogil:
    """Say how to go on behind an access that stored nothing itself: its walk may have, to an entry's A bit."""
    return ST_LEAVE if h.m.leave else ST_OK


cdef int finish(hart_t* h, op_t* op, int64_t n, int st) noexcept nogil:
    """Turn a refused translation into a trap, and a stop into a pc that executes the instruction again."""
    cdef meta_t* meta
    if st == ST_FAULT:
        fault_details(h)
        if h.m.transform and not h.tinst:
            h.tinst = transformed(h, op)
        return h.api.trap(h, op, n, h.fault, h.fault_va)
    if st == ST_STOP:
        meta = meta_of(op)
        h.s.pc = h.page_va + meta.off
        h.n = n - meta.idx
    return st


cdef inline uint8_t* cached(tlb_t* table, uint64_t va, uint64_t size) noexcept nogil:
    """Return where an access inside one page goes on the host when the page has an entry, else NULL."""
    cdef tlb_t* e = &table[(va >> 12) & TLB_MASK]
    if e.tag == va & PAGE_MASK and (va & 4095) + size <= 4096:
        return <uint8_t*>(va + <uint64_t>e.addend)
    return NULL


cdef inline uint64_t host_load(const uint8_t* host, int width) noexcept nogil:
    # Misaligned, so no single bytes. A call of memcpy with a size that is not constant would take longer.
    if width == 8:
        return host_u64(<uint64_t>host)
    return host_u32(<uint64_t>host) if width == 4 else host_u16(<uint64_t>host)


cdef inline void host_store(uint8_t* host, int width, uint64_t value) noexcept nogil:
    if width == 8:
        host_set64(<uint64_t>host, value)
    elif width == 4:
        host_set32(<uint64_t>host, value)
    else:
        host_set16(<uint64_t>host, value)


cdef inline int cached_pa(hart_t* h, uint64_t va, int width, uint64_t* pa) noexcept nogil:
    """Set the physical address of an aligned access to a page that has a read entry; 0 when it has none."""
    cdef uint64_t at = (va >> 12) & TLB_MASK
    if va & (width - 1) or (&h.tlb_r[at]).tag != va & PAGE_MASK:
        return 0
    pa[0] = h.bank_d.pa[at] | (va & 4095)
    return 1


cdef int load_part(hart_t* h, uint64_t va, int size, uint8_t* data) noexcept nogil:
    """Load bytes that lie in one page; a misaligned part of a device is an access fault."""
    cdef uint64_t pa
    cdef int st
    cdef uint8_t* host = cached(h.tlb_r, va, size)
    if host != NULL:
        memcpy(data, host, size)
        return ST_OK
    st = h.api.translate(h, va, ACC_LOAD, size, &pa)
    if st != ST_OK:
        return st
    if not in_ram(h.m, pa, size):
        return refuse(h, CAUSE_LOAD_ACCESS, va)
    frame_load(h.m, pa, data, size)
    return ST_OK


cdef int access_load(hart_t* h, op_t* op, uint64_t va, int width, int64_t n) noexcept nogil:
    cdef uint64_t pa
    cdef int st, first
    cdef uint8_t* host
    if va & (width - 1):
        host = cached(h.tlb_r, va, width)
        if host != NULL:
            h.value = host_load(host, width)
            return ST_OK
    access_begin(h, op, va)
    h.value = 0
    if va & (width - 1):
        first = <int>(4096 - (va & 4095))
        if first > width:
            first = width
        st = load_part(h, va, first, <uint8_t*>&h.value)
        if st == ST_OK and first < width:
            st = load_part(h, va + first, width - first, <uint8_t*>&h.value + first)
        return finish(h, op, n, st) if st != ST_OK else after(h)
    st = h.api.translate(h, va, ACC_LOAD, width, &pa)
    if st != ST_OK:
        return finish(h, op, n, st)
    if in_ram(h.m, pa, width):
        frame_load(h.m, pa, &h.value, width)
        return after(h)
    st = device_read(h, va, pa, width, &h.value, CAUSE_LOAD_ACCESS, n - meta_of(op).idx)
    return finish(h, op, n, st)


cdef int access_store(hart_t* h, op_t* op, uint64_t va, int width, uint64_t value, int64_t n) noexcept nogil:
    cdef uint64_t pa, pa2 = 0
    cdef int st, first = width
    cdef uint8_t* host
    if va & (width - 1):
        host = cached(h.tlb_w, va, width)
        if host != NULL:
            host_store(host, width, value)
            return ST_OK
    access_begin(h, op, va)
    if va & (width - 1):
        first = <int>(4096 - (va & 4095))
        if first > width:
            first = width
    st = h.api.translate(h, va, ACC_STORE, first, &pa)
    if st == ST_OK and first < width:
        # Both pages must allow the store before either changes; faults are looked for in the order of addresses.
        if not in_ram(h.m, pa, first):
            st = refuse(h, CAUSE_STORE_ACCESS, va)
        else:
            st = h.api.translate(h, va + first, ACC_STORE, width - first, &pa2)
            if st == ST_OK and not in_ram(h.m, pa2, width - first):
                st = refuse(h, CAUSE_STORE_ACCESS, va + first)
    if st != ST_OK:
        return finish(h, op, n, st)
    if not in_ram(h.m, pa, first):
        if va & (width - 1):
            st = refuse(h, CAUSE_STORE_ACCESS, va)
        else:
            st = device_write(h, va, pa, width, value, n - meta_of(op).idx)
        return finish(h, op, n, st)
    return finish(h, op, n, parts_store(h.m, pa, pa2, &value, first, width))


# ---- atomics ----------------------------------------------------------------------------------------------------
cdef int atomic_at(hart_t* h, uint64_t va, int width, int acc) noexcept nogil:
    """Translate an atomic to h.slow_pa. Misaligned ones trap; there are none on device registers."""
    cdef int st
    if va & (width - 1):
        return refuse(h, CAUSE_LOAD_MISALIGNED if acc == ACC_LOAD else CAUSE_STORE_MISALIGNED, va)
    st = h.api.translate(h, va, acc, width, &h.slow_pa)
    if st == ST_OK and not in_ram(h.m, h.slow_pa, width):
        return refuse(h, CAUSE_LOAD_ACCESS if acc == ACC_LOAD else CAUSE_STORE_ACCESS, va)
    return st


cdef int access_amo_begin(hart_t* h, op_t* op, uint64_t va, int width, int64_t n) noexcept nogil:
    access_begin(h, op, va)
    cdef int st = atomic_at(h, va, width, ACC_STORE)
    if st != ST_OK:
        return finish(h, op, n, st)
    h.value = 0
    frame_load(h.m, h.slow_pa, &h.value, width)
    return after(h)


cdef int access_amo_end(hart_t* h, op_t* op, int width, uint64_t value, int64_t n) noexcept nogil:
    return finish(h, op, n, frame_store(h.m, h.slow_pa, &value, width))


cdef int access_casq(hart_t* h, op_t* op, uint64_t* x, uint64_t va, int64_t n) noexcept nogil:
    """amocas.q: compare and swap 16 bytes with pairs of registers; the pair of x0 is 0, and lost ("Zacas")."""
    cdef uint64_t old[2]
    cdef uint64_t new[2]
    cdef int rd = op.rd & 31, st
    access_begin(h, op, va)
    st = atomic_at(h, va, 16, ACC_STORE)
    if st != ST_OK:
        return finish(h, op, n, st)
    frame_load(h.m, h.slow_pa, &old[0], 16)
    if old[0] == x[rd] and old[1] == (x[rd + 1] if rd else 0):
        new[0] = x[op.rs2]
        new[1] = x[op.rs2 + 1] if op.rs2 else 0
        st = frame_store(h.m, h.slow_pa, &new[0], 16)
        if st == ST_STOP:
            return finish(h, op, n, st)
    if rd:
        x[rd] = old[0]
        x[rd + 1] = old[1]
    return after(h)


cdef int access_lr(hart_t* h, op_t* op, uint64_t va, int width, int64_t n) noexcept nogil:
    cdef int st
    if cached_pa(h, va, width, &h.s.resv_pa):
        h.value = host_load(cached(h.tlb_r, va, width), width)
        h.s.resv_width = width
        return ST_OK
    access_begin(h, op, va)
    st = atomic_at(h, va, width, ACC_LOAD)
    if st != ST_OK:
        return finish(h, op, n, st)
    h.value = 0
    frame_load(h.m, h.slow_pa, &h.value, width)
    h.s.resv_pa = h.slow_pa
    h.s.resv_width = width
    return after(h)


cdef int access_sc(hart_t* h, op_t* op, uint64_t va, int width, uint64_t value, int64_t n) noexcept nogil:
    """Store if the reservation is on this address; an SC gives up the reservation whether it succeeds or not."""
    cdef uint64_t pa
    cdef uint8_t* host = cached(h.tlb_w, va, width)
    cdef int st
    if host != NULL and cached_pa(h, va, width, &pa):
        h.value = 1
        if h.s.resv_width and h.s.resv_pa == pa:
            h.value = 0
            host_store(host, width, value)
        h.s.resv_width = 0
        return ST_OK
    access_begin(h, op, va)
    st = atomic_at(h, va, width, ACC_STORE)
    if st != ST_OK:
        return finish(h, op, n, st)
    h.value = 1
    if h.s.resv_width and h.s.resv_pa == h.slow_pa:
        h.value = 0
        st = frame_store(h.m, h.slow_pa, &value, width)
        if st == ST_STOP:
            return finish(h, op, n, st)
    h.s.resv_width = 0
    return after(h)


# ---- accesses of a hypervisor to its guest's memory -------------------------------------------------------------
cdef int hyper_guard(hart_t* h, op_t* op, int64_t n) noexcept nogil:
    """HLV, HLVX and HSV are for M, HS, and U when hstatus.HU allows; with V=1 a virtual instruction."""
    if h.s.virt:
        return h.api.trap(h, op, n, CAUSE_VIRTUAL, meta_of(op).raw)
    if h.s.priv == PRIV_U and not h.s.hstatus & HSTATUS_HU:
        return h.api.trap(h, op, n, CAUSE_ILLEGAL, meta_of(op).raw)
    return ST_OK


cdef int hyper_part(hart_t* h, uint64_t va, int size, int acc, int hlvx, uint64_t* pa) noexcept nogil:
    cdef int st = h.api.translate_as(h, va, acc, size, hlvx, pa)
    if st == ST_OK and not in_ram(h.m, pa[0], size):
        refuse(h, CAUSE_LOAD_ACCESS if acc == ACC_LOAD else CAUSE_STORE_ACCESS, va)
        h.fault_virt = 1
        return ST_FAULT
    return st


cdef int access_hlv(hart_t* h, op_t* op, uint64_t va, int width, int hlvx, int64_t n) noexcept nogil:
    cdef uint64_t pa
    access_begin(h, op, va)
    cdef int first = width, st = hyper_guard(h, op, n)
    if st != ST_OK:
        return st
    h.value = 0
    if (va & 4095) + width > 4096:
        first = <int>(4096 - (va & 4095))
    elif not va & (width - 1):
        st = h.api.translate_as(h, va, ACC_LOAD, width, hlvx, &pa)
        if st == ST_OK and not in_ram(h.m, pa, width):
            st = device_read(h, va, pa, width, &h.value, CAUSE_LOAD_ACCESS, n - meta_of(op).idx)
            h.fault_virt = 1
        elif st == ST_OK:
            frame_load(h.m, pa, &h.value, width)
            st = after(h)
        return finish(h, op, n, st)
    st = hyper_part(h, va, first, ACC_LOAD, hlvx, &pa)
    if st == ST_OK:
        frame_load(h.m, pa, &h.value, first)
        if first < width:
            st = hyper_part(h, va + first, width - first, ACC_LOAD, hlvx, &pa)
            if st == ST_OK:
                frame_load(h.m, pa, <uint8_t*>&h.value + first, width - first)
    return finish(h, op, n, st) if st != ST_OK else after(h)


cdef int access_hsv(hart_t* h, op_t* op, uint64_t va, int width, uint64_t value, int64_t n) noexcept nogil:
    cdef uint64_t pa, pa2 = 0
    access_begin(h, op, va)
    cdef int first = width, st = hyper_guard(h, op, n)
    if st != ST_OK:
        return st
    if (va & 4095) + width > 4096:
        first = <int>(4096 - (va & 4095))
    elif not va & (width - 1):
        st = h.api.translate_as(h, va, ACC_STORE, width, 0, &pa)
        if st == ST_OK and not in_ram(h.m, pa, width):
            st = device_write(h, va, pa, width, value, n - meta_of(op).idx)
            h.fault_virt = 1
        elif st == ST_OK:
            st = frame_store(h.m, pa, &value, width)
        return finish(h, op, n, st)
    st = hyper_part(h, va, first, ACC_STORE, 0, &pa)
    if st == ST_OK and first < width:
        st = hyper_part(h, va + first, width - first, ACC_STORE, 0, &pa2)
    if st == ST_OK:
        st = parts_store(h.m, pa, pa2, &value, first, width)
    return finish(h, op, n, st)


# ---- cache blocks -----------------------------------------------------------------------------------------------
cdef inline uint64_t cbo_refused(hart_t* h, uint64_t bit) noexcept nogil:
    """Return the cause when the envcfg registers forbid it (chapter "CMO", "Control of CBO"), else 0."""
    if h.s.priv == PRIV_M:
        return 0
    if not h.s.menvcfg & bit:
        return CAUSE_ILLEGAL
    if h.s.virt and (not h.s.henvcfg & bit or (h.s.priv == PRIV_U and not h.s.senvcfg & bit)):
        return CAUSE_VIRTUAL
    if h.s.priv == PRIV_U and not h.s.senvcfg & bit:
        return CAUSE_ILLEGAL
    return 0


cdef int access_cbo(hart_t* h, op_t* op, uint64_t va, int64_t n) noexcept nogil:
    """cbo.inval, clean, flush: no cache is modelled, so only permissions count; cbo.zero clears the block."""
    cdef uint32_t which = meta_of(op).raw >> 20
    cdef uint8_t zeros[64]
    cdef uint8_t* host
    cdef uint64_t pa = 0, bit, cause, block
    cdef int st
    bit = ENVCFG_CBZE if which == 4 else (ENVCFG_CBIE if which == 0 else ENVCFG_CBCFE)
    cause = cbo_refused(h, bit)
    if cause:
        return h.api.trap(h, op, n, cause, meta_of(op).raw)
    host = cached(h.tlb_w, va, 1)
    if which == 4 and host != NULL:
        # A write entry is of a whole page: the block's bytes are all there and allowed.
        memset(<uint8_t*>(<uint64_t>host & ~<uint64_t>(CBO_BYTES - 1)), 0, CBO_BYTES)
        return ST_OK
    st = h.api.translate(h, va, ACC_STORE if which == 4 else ACC_CBO, 1, &pa)
    block = pa & ~<uint64_t>(CBO_BYTES - 1)
    # All of the block must be there; the fault's address is rs1, wherever in the block that is.
    if st == ST_OK and not (in_ram(h.m, pa, 1) and (
            which != 4 or h.api.pmp_allows(h, block, CBO_BYTES, ACC_STORE, h.bank_d.key & 3))):
        st = refuse(h, CAUSE_STORE_ACCESS, va)
    if st != ST_OK:
        return finish(h, op, n, st)
    if which != 4:
        return after(h)
    memset(&zeros[0], 0, CBO_BYTES)
    return finish(h, op, n, frame_store(h.m, block, &zeros[0], CBO_BYTES))


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.load = access_load
    api.store = access_store
    api.amo_begin = access_amo_begin
    api.amo_end = access_amo_end
    api.casq = access_casq
    api.lr = access_lr
    api.sc = access_sc
    api.cbo = access_cbo
    api.hlv = access_hlv
    api.hsv = access_hsv
    api.ram_store = ram_store
    api.bus_read = bus_read
    api.bus_write = bus_write


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
