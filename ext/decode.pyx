# cython: boundscheck=False
"""From bytes to ops: superblocks that hang on frames, their links, and their death when a store hits them.

A block has one entry and many exits, up to BLOCK_MAX instructions, and never crosses a page. Its ops are contiguous
in one chunk; behind them stand the stubs of its exits. A branch reaches its stub until the stub's first run patches
the branch to the target block. Nothing in a block knows a virtual address or a machine.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from arch cimport *
from cache cimport *
from cover cimport *
from opcodes cimport *
from ram cimport FRAME_CODE, count_load, RAM_OK, flag_set, frame_t, ram_alone

include "decode.pxi"


cdef enum:
    CHUNK_BYTES = 4096
    SLAB_CHUNKS = 64
    DRAFT_MAX = 136         # a block at its largest: BLOCK_MAX ops, as many stubs, an end and its stub
    DEAD_MAX = 4096         # dead ops after which a frame's code is thrown away whole


# ---- chunks -----------------------------------------------------------------------------------------------------
cdef extern from *:
    """
    #include <sys/mman.h>
    #include <stdlib.h>
    static void *slab_map(size_t bytes) {
        void *p = NULL;
        return posix_memalign(&p, 4096, bytes) ? NULL : p;
    }
    """
    void* slab_map(size_t bytes) noexcept nogil


cdef chunk_t* chunk_pool = NULL
cdef uint32_t pool_lock = 0
cdef uint32_t codes_lock = 0     # of the lists of codes that frames hold


cdef chunk_t* chunk_new(code_t* code) noexcept nogil:
    """Take a chunk from the pool that all machines share; slabs are never given back to the host."""
    global chunk_pool
    cdef chunk_t* chunk
    cdef uint8_t* slab
    cdef int i
    spin_lock(&pool_lock)
    if chunk_pool == NULL:
        slab = <uint8_t*>slab_map(SLAB_CHUNKS * CHUNK_BYTES)
        if slab == NULL:
            spin_unlock(&pool_lock)
            return NULL
        for i in range(SLAB_CHUNKS):
            chunk = <chunk_t*>(slab + i * CHUNK_BYTES)
            chunk.next = chunk_pool
            chunk_pool = chunk
    chunk = chunk_pool
    chunk_pool = chunk.next
    spin_unlock(&pool_lock)
    chunk.code = code
    chunk.next = NULL
    chunk.used = 0
    return chunk


cdef void chunk_free(chunk_t* chunk) noexcept nogil:
    global chunk_pool
    spin_lock(&pool_lock)
    chunk.next = chunk_pool
    chunk_pool = chunk
    spin_unlock(&pool_lock)


# ---- the code of a frame ----------------------------------------------------------------------------------------
cdef void code_free(void* opaque) noexcept nogil:
    """Free every set of code of a frame; called when the frame dies or its code is thrown away."""
    cdef code_t* code = <code_t*>opaque
    cdef code_t* next_code
    cdef chunk_t* chunk
    cdef chunk_t* next_chunk
    while code != NULL:
        next_code = code.next
        chunk = code.chunks
        while chunk != NULL:
            next_chunk = chunk.next
            chunk_free(chunk)
            chunk = next_chunk
        free(code.blocks)
        free(code.index)
        free(code)
        code = next_code


cdef code_t* code_find(machine_t* m, frame_t* frame) noexcept nogil:
    cdef code_t* code = <code_t*>load_pointer(&frame.code)
    while code != NULL and code.exts != m.exts:
        code = code.next
    return code


cdef code_t* code_new(machine_t* m, frame_t* frame) noexcept nogil:
    cdef code_t* code = <code_t*>calloc(1, sizeof(code_t))
    if code == NULL:
        return NULL
    code.frame = frame
    code.exts = m.exts
    code.index_size = 16
    code.index = <uint16_t*>calloc(code.index_size, sizeof(uint16_t))
    if code.index == NULL:
        free(code)
        return NULL
    return code


cdef code_t* code_of(machine_t* m, frame_t* frame) noexcept nogil:
    """Return the frame's code for this machine's ISA, made on first use; NULL without memory."""
    cdef code_t* code = code_find(m, frame)
    if code != NULL:
        return code
    spin_lock(&codes_lock)
    code = code_find(m, frame)
    if code == NULL:
        code = code_new(m, frame)
        if code != NULL:
            if not count_load(&frame.flags) & FRAME_CODE:
                m.api.drop_frame(m, frame, DROP_W)
                flag_set(&frame.flags, FRAME_CODE)
            code.next = <code_t*>frame.code
            store_pointer(&frame.code, code)
    spin_unlock(&codes_lock)
    return code


cdef inline uint32_t index_at(code_t* code, uint32_t off) noexcept nogil:
    return ((off >> 1) * 0x9E37u >> 3) & (code.index_size - 1)


cdef op_t* block_find(code_t* code, uint32_t off) noexcept nogil:
    cdef uint32_t at = index_at(code, off)
    cdef block_t* b
    while code.index[at]:
        b = &code.blocks[code.index[at] - 1]
        if b.off == off and b.op != NULL:
            return b.op
        at = (at + 1) & (code.index_size - 1)
    return NULL


cdef void index_put(code_t* code, uint32_t number) noexcept nogil:
    cdef uint32_t at = index_at(code, code.blocks[number].off)
    while code.index[at]:
        at = (at + 1) & (code.index_size - 1)
    code.index[at] = <uint16_t>(number + 1)


cdef int block_add(code_t* code, op_t* op, uint32_t off, uint32_t end) noexcept nogil:
    """Enter a block; 0 without memory."""
    cdef uint32_t i, cap
    cdef block_t* blocks
    cdef uint16_t* index
    cdef block_t* b
    if code.nblocks == code.cap:
        cap = code.cap * 2 if code.cap else 8
        blocks = <block_t*>realloc(code.blocks, cap * sizeof(block_t))
        if blocks == NULL:
            return 0
        code.blocks = blocks
        code.cap = cap
    if (code.nblocks + 1) * 2 > code.index_size:
        index = <uint16_t*>calloc(code.index_size * 2, sizeof(uint16_t))
        if index == NULL:
            return 0
        free(code.index)
        code.index = index
        code.index_size *= 2
        for i in range(code.nblocks):
            index_put(code, i)
    b = &code.blocks[code.nblocks]
    b.op = op
    b.off = <uint16_t>off
    b.end = <uint16_t>end
    index_put(code, code.nblocks)
    code.nblocks += 1
    for i in range(off >> 1, end >> 1):
        code.decoded[i >> 6] |= <uint64_t>1 << (i & 63)
    return 1


# ---- one instruction --------------------------------------------------------------------------------------------
cdef int decode_one(uint64_t exts, uint32_t raw, int length, op_t* op) noexcept nogil:
    """Fill an op from an instruction word and return its opcode; what no row matches is OP_ILLEGAL."""
    cdef uint32_t where, i, k
    cdef const decode_row_t* row
    cdef int ok, rm
    where = ((raw >> 11 & 0x1C) | (raw & 3)) if length == 2 else 32 + ((raw >> 2 & 31) << 3 | (raw >> 12 & 7))
    for i in range(decode_start[where], decode_start[where + 1]):
        row = &decode_rows[decode_list[i]]
        if raw & row.mask != row.match or (row.exts & ~exts):
            continue
        ok = 1
        for k in range(row.nforbid):
            if raw & decode_forbids[row.forbid + k].mask == decode_forbids[row.forbid + k].value:
                ok = 0
                break
        if not ok:
            continue
        op.imm = 0
        op.rd = op.rs1 = op.rs2 = 0
        decode_operands(row.fmt, raw, op)
        if opcode_flags[row.opcode] & OPF_RDX and op.rd == 0:
            op.rd = 32
        if row.rounds:
            rm = op.imm & 7
            if rm == 5 or rm == 6:
                break
            return row.opcode + (rm != 7)
        return row.opcode
    op.imm = <int32_t>raw
    op.rd = op.rs1 = op.rs2 = 0
    return OP_ILLEGAL


# ---- blocks -----------------------------------------------------------------------------------------------------
cdef struct draft_t:
    op_t ops[136]
    meta_t metas[136]
    int count
    int stubs               # exits still to get a stub
    uint8_t origin[68]      # op of each exit
    int32_t target[68]      # its target, relative to the page


cdef inline void put(draft_t* d, int opcode, int idx, int off, int length, uint32_t raw,
                     handler_t* handlers) noexcept nogil:
    """Complete the op at d.count, whose operands are set."""
    cdef op_t* op = &d.ops[d.count]
    cdef meta_t* meta = &d.metas[d.count]
    op.fn = handlers[opcode]
    meta.raw = raw
    meta.off = <uint16_t>off
    meta.opcode = <uint16_t>opcode
    meta.idx = <uint8_t>idx
    meta.len = <uint8_t>length
    meta.spare = 0
    d.count += 1


cdef inline void link_offset(op_t* op, int after) noexcept nogil:
    op.rs1 = <uint8_t>(after & 255)
    op.rs2 = <uint8_t>(after >> 8)


cdef void draft_exit(draft_t* d, int near, int far, int idx, int cnt, int target, int off, int inside,
                     handler_t* handlers) noexcept nogil:
    """Add the op that leaves to `target`: linked when the target is in this page and links are allowed."""
    cdef op_t* op = &d.ops[d.count]
    op.cnt = <uint8_t>cnt
    if inside and 0 <= target < 4096:
        d.origin[d.stubs] = <uint8_t>d.count
        d.target[d.stubs] = target
        d.stubs += 1
        op.imm = 0
        put(d, near, idx, off, 0, 0, handlers)
    else:
        op.imm = target
        put(d, far, idx, off, 0, 0, handlers)


cdef int draft_insn(draft_t* d, uint64_t exts, uint32_t raw, int length, int off, int idx, int inside,
                    handler_t* handlers) noexcept nogil:
    """Add one instruction; returns whether it ends the block."""
    cdef op_t* op = &d.ops[d.count]
    cdef int opcode = decode_one(exts, raw, length, op)
    cdef int flag = opcode_flags[opcode], target
    op.cnt = <uint8_t>(idx + 1)
    if opcode == OP_AUIPC:
        link_offset(op, off)
    elif flag & OPF_BRANCH:
        # Always by a stub: a stub of a target elsewhere looks it up each time.
        d.origin[d.stubs] = <uint8_t>d.count
        d.target[d.stubs] = off + op.imm
        d.stubs += 1
    elif flag & OPF_JAL:
        target = off + op.imm
        if op.rd == 32:
            draft_exit(d, OP_GOTO, OP_GOTO_FAR, idx, idx + 1, target, off, inside, handlers)
        else:
            link_offset(op, off + length)
            draft_exit(d, OP_JAL, OP_JAL_FAR, idx, idx + 1, target, off, inside, handlers)
        d.metas[d.count - 1].raw = raw
        d.metas[d.count - 1].len = <uint8_t>length
        return 1
    elif flag & OPF_JALR:
        op.imm = <int32_t>(<uint32_t>op.imm << 16 | <uint32_t>(off + length))
    put(d, opcode, idx, off, length, raw, handlers)
    if flag & OPF_SPLIT:
        # It charged for itself, so the way on costs nothing more.
        draft_exit(d, OP_GOTO, OP_GOTO_FAR, 0, 0, off + length, off + length, inside, handlers)
        return 1
    return (flag & OPF_END) != 0 or opcode == OP_ILLEGAL


cdef inline int fused_find(const uint32_t* keys, int count, uint32_t key) noexcept nogil:
    cdef int low = 0, high = count, mid
    while low < high:
        mid = (low + high) >> 1
        if keys[mid] < key:
            low = mid + 1
        else:
            high = mid
    return low if low < count and keys[low] == key else -1


cdef inline int forwards(const op_t* op) noexcept nogil:
    """Say where the next op takes this one's result from: 1 its rs1, 2 its rs2, 0 neither."""
    if (&op[1]).rs1 == op.rd:
        return 1
    return 2 if (&op[1]).rs2 == op.rd else 0


cdef void draft_fuse(draft_t* d, handler_t* fused) noexcept nogil:
    """Cover the block with groups so that it takes the fewest dispatches; only the first op of a group changes."""
    cdef int cost[68]
    cdef int size[68]
    cdef int row[68]
    cdef int i, at, found
    cdef uint32_t key
    cost[d.count] = 0
    for i in range(d.count - 1, -1, -1):
        cost[i] = cost[i + 1] + 1
        size[i] = 1
        if i + 2 > d.count:
            continue
        key = d.metas[i].opcode * <uint32_t>FUSED_BASE + d.metas[i + 1].opcode
        at = fused_find(fused_pair_keys, FUSED_PAIRS, key)
        if at >= 0 and cost[i + 2] + 1 < cost[i]:
            found = fused_pair_rows[at * 3 + forwards(&d.ops[i])]
            if found >= 0:
                cost[i], size[i], row[i] = cost[i + 2] + 1, 2, found
        if i + 3 > d.count:
            continue
        at = fused_find(fused_triple_keys, FUSED_TRIPLES, key * <uint32_t>FUSED_BASE + d.metas[i + 2].opcode)
        if at >= 0 and cost[i + 3] + 1 < cost[i]:
            found = fused_triple_rows[at * 9 + forwards(&d.ops[i]) * 3 + forwards(&d.ops[i + 1])]
            if found >= 0:
                cost[i], size[i], row[i] = cost[i + 3] + 1, 3, found
    i = 0
    while i < d.count:
        if size[i] > 1:
            d.ops[i].fn = fused[row[i]]
        i += size[i]


cdef void draft_stubs(draft_t* d, int inside, handler_t* handlers) noexcept nogil:
    """Add the stubs of all exits and point the exits at them."""
    cdef int i, near
    cdef op_t* op
    for i in range(d.stubs):
        op = &d.ops[d.count]
        op.imm = d.target[i]
        op.cnt = op.rd = 0
        near = inside and 0 <= d.target[i] < 4096
        link_offset(op, d.count - d.origin[i])
        d.ops[d.origin[i]].imm = d.count - d.origin[i]
        put(d, OP_LINK if near else OP_FAR, 0, d.target[i] & 4095, 0, 0, handlers)


cdef op_t* draft_place(draft_t* d, chunk_t* chunk) noexcept nogil:
    cdef op_t* first = &chunk.ops[chunk.used]
    memcpy(first, &d.ops[0], d.count * sizeof(op_t))
    memcpy(&chunk.metas[chunk.used], &d.metas[0], d.count * sizeof(meta_t))
    chunk.used += d.count
    return first


cdef op_t* block_decode(machine_t* m, code_t* code, uint32_t off) noexcept nogil:
    """Decode a block from off on and enter it. NULL without memory, or when its first instruction crosses the page."""
    cdef draft_t d
    cdef const uint8_t* bytes = code.frame.bytes
    cdef uint32_t at = off, raw
    cdef int idx = 0, length, done = 0
    cdef chunk_t* chunk
    cdef op_t* first
    cdef handler_t* handlers = m.api.handlers
    d.count = d.stubs = 0
    while idx < BLOCK_MAX and at < 4096:
        raw = bytes[at] | <uint32_t>bytes[at + 1] << 8
        length = 4 if raw & 3 == 3 else 2
        if at + length > 4096:
            break
        if length == 4:
            raw |= <uint32_t>bytes[at + 2] << 16 | <uint32_t>bytes[at + 3] << 24
        done = draft_insn(&d, m.exts, raw, length, at, idx, 1, handlers)
        at += length
        idx += 1
        if done:
            break
    if idx == 0:
        return NULL
    if not done:
        draft_exit(&d, OP_GOTO, OP_GOTO_FAR, idx, idx, at, at, 1, handlers)
    if m.api.fused != NULL:
        draft_fuse(&d, m.api.fused)
    draft_stubs(&d, 1, handlers)
    chunk = code.chunks
    if chunk == NULL or chunk.used + d.count > CHUNK_OPS:
        chunk = chunk_new(code)
        if chunk == NULL:
            return NULL
        m.chunks += 1
        chunk.next = code.chunks
        code.chunks = chunk
    first = draft_place(&d, chunk)
    if not block_add(code, first, off, at):
        chunk.used -= d.count
        return NULL
    return first


cdef op_t* block_at(machine_t* m, code_t* code, uint32_t off) noexcept nogil:
    """Find or decode the block at off; NULL as block_decode, or with m.trim set when there is too much code already."""
    cdef op_t* op
    spin_lock(&code.lock)
    op = block_find(code, off)
    if op == NULL:
        if m.chunks < m.chunks_max:
            op = block_decode(m, code, off)
        else:
            m.trim = TRIM_ALL
    spin_unlock(&code.lock)
    return op


cdef op_t* scratch_decode(hart_t* h, uint32_t raw, int length, uint32_t off) noexcept nogil:
    """Decode one instruction outside any frame: nothing of it is linked or kept."""
    cdef draft_t d
    cdef chunk_t* chunk = h.cache.scratch
    cdef handler_t* handlers = h.api.handlers
    if chunk == NULL:
        h.cache.scratch_raw = malloc(2 * CHUNK_BYTES)
        if h.cache.scratch_raw == NULL:
            order_leave(h.m, STOP_MEMORY)
            return NULL
        # SAFETY: twice the size holds one chunk at an address aligned to its size.
        chunk = <chunk_t*>((<uint64_t>h.cache.scratch_raw + CHUNK_BYTES - 1) & ~<uint64_t>(CHUNK_BYTES - 1))
        chunk.code = NULL
        chunk.next = NULL
        h.cache.scratch = chunk
    d.count = d.stubs = 0
    if not draft_insn(&d, h.m.exts, raw, length, off, 0, 0, handlers):
        draft_exit(&d, OP_GOTO, OP_GOTO_FAR, 1, 1, off + length, off + length, 0, handlers)
    draft_stubs(&d, 0, handlers)
    chunk.used = 0
    return draft_place(&d, chunk)


# ---- finding code -----------------------------------------------------------------------------------------------
cdef int fetch_half(hart_t* h, uint64_t va, uint32_t* half) noexcept nogil:
    """Fetch two bytes at va, from RAM or a device; ST_OK, ST_FAULT or ST_STOP."""
    cdef frame_t* frame = NULL
    cdef uint64_t value = 0
    cdef int st = h.api.fetch_page(h, va, &frame)
    cdef machine_t* m = h.m
    if st == ST_OK:
        half[0] = (<uint16_t*>(frame.bytes + (va & 4095)))[0]
        return ST_OK
    if st != ST_LEAVE:
        return st
    if h.slow_pa - m.ram.base < m.ram.size:
        frame = m.mem.find(m.ram, h.slow_pa >> 12)
        half[0] = 0 if frame == NULL else (<uint16_t*>(frame.bytes + (va & 4095)))[0]
        return ST_OK
    # The device may look at the time, and be Python: it sees what it would of a load here.
    m.clock.icount = icount_now(h, h.n)
    h.api.fp_end(h)
    st = m.api.bus_read(m, h.slow_pa, 2, &value)
    h.api.fp_begin(h)
    if st == 0:
        half[0] = <uint32_t>value & 0xFFFF
        return ST_OK
    if st == 1:
        h.fault = CAUSE_FETCH_ACCESS
        h.fault_va = va
        h.fault_virt = h.s.virt
        h.fault_gpa = h.fault_inst = 0
        return ST_FAULT
    m.stop_addr = h.slow_pa
    order_leave(m, STOP_ERROR)
    return ST_STOP


cdef op_t* lookup_slow(hart_t* h, uint64_t pc) noexcept nogil:
    """Decode the one instruction at pc: it crosses a page, or may not be cached."""
    cdef uint32_t raw = 0, high = 0
    cdef int length = 2
    cdef int st = fetch_half(h, pc, &raw)
    if st == ST_OK and raw & 3 == 3:
        length = 4
        st = fetch_half(h, pc + 2, &high)
        raw |= high << 16
    if st == ST_FAULT:
        # An attempt that never became an instruction counts all the same.
        h.n -= 1
        fault_details(h)
        h.api.deliver(h, h.fault, h.fault_va, pc)
        return NULL
    if st != ST_OK:
        return NULL
    h.page_va = pc & PAGE_MASK
    return scratch_decode(h, raw, length, pc & 4095)


cdef int breaks_in_page(machine_t* m, uint64_t pc) noexcept nogil:
    """Return 2 when pc is an address before which a run stops, 1 when its page holds one, else 0."""
    cdef uint32_t i
    cdef int found = 0
    for i in range(m.nbreaks):
        if m.breaks[i] == pc:
            return 2
        if (m.breaks[i] ^ pc) & PAGE_MASK == 0:
            found = 1
    return found


cdef op_t* lookup(hart_t* h, uint64_t pc) noexcept nogil:
    """Return the code at pc, entering it in the jump cache; NULL when a trap was taken (h.s.pc) or a stop ordered.

    The caller has set h.n, and h.s.pc is pc.
    """
    cdef frame_t* frame = NULL
    cdef code_t* code
    cdef op_t* op
    cdef jump_t* j
    cdef int st
    if h.m.nbreaks:
        # Pages with such an address run one instruction at a time and never enter the jump cache.
        st = breaks_in_page(h.m, pc)
        if st == 2 and icount_now(h, h.n) != h.m.break_from:
            order_leave(h.m, STOP_AT)
            return NULL
        if st:
            return lookup_slow(h, pc)
    st = h.api.fetch_page(h, pc, &frame)
    if st != ST_OK:
        return lookup_slow(h, pc)
    code = code_of(h.m, frame)
    if code == NULL:
        order_leave(h.m, STOP_MEMORY)
        return NULL
    op = block_at(h.m, code, pc & 4095)
    if op == NULL:
        # Code can only be thrown away between blocks: then the run loop does, and comes back.
        return NULL if h.m.trim == TRIM_ALL else lookup_slow(h, pc)
    j = &h.jump[(pc >> 1) & JUMP_MASK]
    j.pc = pc
    j.op = op
    h.bank_x.pages |= <uint64_t>1 << ((pc >> 12) & 63)
    h.bank_x.fresh = 1
    h.page_va = pc & PAGE_MASK
    return op


cdef op_t* link(hart_t* h, op_t* stub) noexcept nogil:
    """Find or decode the block a stub leads to, and patch the exit that led to the stub; NULL to look pc up instead.

    A patch is one aligned store of a value that every thread would store: other machines may be running the block.
    """
    cdef code_t* code = chunk_of(stub).code
    cdef int32_t* at
    cdef op_t* origin = stub - (stub.rs1 | <int>stub.rs2 << 8)
    cdef op_t* target
    cdef int64_t distance
    if origin == stub:
        # The first op of a dead block. Links to it stay, so it keeps where its successor is.
        at = <int32_t*>&meta_of(stub).raw
        if load_int(at):
            return stub + load_int(at)
    else:
        at = &origin.imm
    target = block_at(h.m, code, stub.imm)
    if target == NULL:
        return NULL
    # Chunks may lie further apart than an op can say: then the stub is the link.
    distance = (<int64_t>target - <int64_t>origin) // <int64_t>sizeof(op_t)
    if -0x7FFFFFFF <= distance <= 0x7FFFFFFF:
        store_int(at, <int32_t>distance)
    return target


# ---- death ------------------------------------------------------------------------------------------------------
cdef int code_kill(machine_t* m, code_t* code, uint32_t offset, uint32_t size) noexcept nogil:
    """Kill the blocks that were decoded from [offset, offset + size); returns how many."""
    cdef uint32_t i, k, killed = 0
    cdef block_t* b
    cdef meta_t* meta
    for i in range(code.nblocks):
        b = &code.blocks[i]
        if b.op == NULL or offset >= b.end or offset + size <= b.off:
            continue
        # Links and jump entries that lead here find a stub that leads to whatever is decoded here next.
        b.op.fn = m.api.handlers[OP_LINK]
        b.op.imm = b.off
        b.op.rs1 = b.op.rs2 = b.op.cnt = 0
        meta = meta_of(b.op)
        meta.opcode = OP_LINK
        meta.idx = 0
        meta.raw = 0            # where the successor lies, once there is one: see link()
        b.op = NULL
        code.dead += (b.end - b.off) >> 1
        killed += 1
    if not killed:
        return 0
    memset(&code.decoded[0], 0, sizeof(code.decoded))
    memset(code.index, 0, code.index_size * sizeof(uint16_t))
    k = 0
    for i in range(code.nblocks):
        b = &code.blocks[i]
        if b.op == NULL:
            continue
        code.blocks[k] = b[0]
        index_put(code, k)
        k += 1
        for offset in range(b.off >> 1, b.end >> 1):
            code.decoded[offset >> 6] |= <uint64_t>1 << (offset & 63)
    code.nblocks = k
    return killed


cdef int code_stored(machine_t* m, frame_t* frame, uint64_t pa, uint32_t size) noexcept nogil:
    """Kill what was decoded from bytes about to change, in a frame that this machine owns; returns whether any was."""
    cdef code_t* code = <code_t*>frame.code
    cdef uint32_t i, offset = pa & 4095
    cdef int hit, killed = 0
    while code != NULL:
        hit = 0
        for i in range(offset >> 1, ((offset + size - 1) >> 1) + 1):
            if code.decoded[i >> 6] >> (i & 63) & 1:
                hit = 1
                break
        if hit:
            killed += code_kill(m, code, offset, size)
            if code.dead > DEAD_MAX:
                m.trim = pa & PAGE_MASK if m.trim != TRIM_ALL else TRIM_ALL
        code = code.next
    return killed


cdef void code_drop(machine_t* m, frame_t* frame) noexcept nogil:
    """Throw away all code of a frame that no other machine can run."""
    cdef code_t* code = <code_t*>frame.code
    m.api.drop_frame(m, frame, DROP_ALL)
    frame.code = NULL
    frame.flags &= ~<uint32_t>FRAME_CODE
    code_free(code)


cdef void trim_all(machine_t* m) noexcept nogil:
    """Throw away the code of every page that is this machine's alone, when its guest has made it decode too much.

    What it shares stays: whoever decodes it pays for it once, and it is immutable.
    """
    cdef uint64_t ppn, first = m.ram.base >> 12
    cdef frame_t* frame
    for ppn in range(first, first + m.ram.pages):
        frame = ram_alone(m.ram, ppn)
        if frame != NULL and frame.code != NULL:
            code_drop(m, frame)
    m.chunks = 0


cdef void code_trim(machine_t* m) noexcept nogil:
    """Throw away the code of the page that has too much of it dead. Only while this machine has no live op pointer."""
    cdef frame_t* frame
    cdef code_t* code
    cdef uint64_t pa = m.trim
    m.trim = 0
    if pa == TRIM_ALL:
        trim_all(m)
        return
    # Owning it makes sure that no other machine runs this code: a page shared by now is copied, and a copy has none.
    if m.mem.own(m.ram, pa >> 12, &frame) != RAM_OK:
        return
    code = <code_t*>frame.code
    while code != NULL:
        if code.dead > DEAD_MAX:
            code_drop(m, frame)
            return
        code = code.next


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.lookup = lookup
    api.link = link
    api.code_stored = code_stored
    api.code_trim = code_trim
    api.code_free = code_free


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)
