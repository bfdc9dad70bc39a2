"""The C contract of guest memory: frames, the persistent tree over them, and the table of functions on both.

`memory.pyx` implements it and hands out `ram_api_t` in a capsule ("pyvirt.ram_api_t"); a `ram_t*` travels in a
capsule "pyvirt.ram_t". The tree is a radix tree of fan-out 64 over page numbers; nodes and frames are counted and
may be shared between machines and snapshots, which may run in different threads: counts are atomic, flags of a frame
that may be shared change by flag_set and flag_clear, everything else of a shared frame is immutable or published by
compare-and-swap. A missing child reads as zeros.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef enum:
    NODE_BITS = 6
    NODE_FANOUT = 64


cdef enum ram_status_t:
    RAM_OK = 0
    RAM_NOMEM = 1       # the host has no memory to give
    RAM_QUOTA = 2       # the machine's memory_limit is reached
    RAM_OUTSIDE = 3     # the page is not part of this RAM
    RAM_FAILED = 4      # the page could not be fetched: ram_t.failed says why


cdef enum frame_flag_t:
    FRAME_CODE = 1      # holds decoded code: no write-TLB entry may exist
    FRAME_PT = 2        # supplied a PTE to a live translation: no write-TLB entry may exist
    FRAME_WTLB = 4      # some write-TLB entry may exist (a hint: set means "look")
    FRAME_DIGEST = 8    # `digest` is that of the content
    FRAME_XTLB = 32     # some fetch entry may exist (as FRAME_WTLB)
    FRAME_LAZY = 16     # the content is not there yet: lazy.pxd; outside memory.pyx no such frame is seen


cdef enum:
    USED_FIRST = 1
    USED_G = 2


cdef struct pt_t:
    # What is known of a frame that serves as a page table (core.md, rule 8).
    uint64_t used[8]    # one bit per 8-byte slot that fed a live translation
    uint64_t va         # first virtual address its slots cover, when `where` is 1
    uint8_t level       # level of its entries: 0 maps pages
    uint8_t bits        # virtual address bits of the mode (39, 48, 57)
    uint64_t atp        # the satp, vsatp or hgatp it was used under; all ones: several
    uint8_t stages      # which use it: USED_FIRST, USED_G
    uint8_t where       # 0 never used, 1 at one place (va, level), 2 at several: drop everything
    uint32_t stores     # slow stores since the last new use: many mean it became data


cdef struct frame_t:
    uint8_t* bytes      # 4096 bytes, page-aligned
    uint32_t refs       # atomic: tree nodes that hold it, and running harts
    uint32_t flags
    void* code          # code_t of cache.pxd, or NULL: dies with the frame
    pt_t* pt            # or NULL
    uint64_t w_va       # the page last given a write-TLB entry, and whether there were several
    uint32_t w_many
    uint64_t owner      # id of the RAM that allocated it and is charged for it
    void* slab          # where its memory came from; private to memory.pyx
    uint8_t digest[32]


cdef struct node_t:
    uint32_t refs       # atomic
    uint32_t level      # 0: children are frames
    uint64_t stamp      # the RAM that may write this node in place
    uint32_t has_digest
    uint8_t digest[32]
    void* child[64]


cdef struct ram_t:
    uint64_t base       # physical address of the first byte
    uint64_t size       # bytes, a multiple of 4096
    uint64_t pages
    node_t* root
    uint32_t levels
    uint64_t stamp
    uint64_t limit      # frames this RAM may own, 0 for no limit
    uint64_t owned      # frames in its tree that it allocated itself: what `limit` bounds
    int64_t fail_after  # fault injection: allocations until one fails, negative for never
    # Told before a shared frame is replaced by a private copy, so that its translations are dropped (rule 9). `old` is
    # NULL where the page was absent: whoever maps a page of zeros for reading drops that. `new` is NULL when the copy
    # is about to be written without a word to the listener: then what was derived from the content goes as well.
    void* listener
    void (*replaced)(void* listener, uint64_t ppn, frame_t* old, frame_t* new) noexcept nogil
    # Frames replaced while a hart may still run their code wait here until no op pointer is live.
    frame_t** limbo
    uint32_t limbo_len
    uint32_t limbo_cap
    # Asked to evict every write-TLB entry before a digest is taken or the tree is shared; NULL: there are none.
    void (*evict)(void* listener) noexcept nogil
    # Told when another tree takes the place of this one: `pairs` are `n` times a frame that goes and the one that comes
    # in its place, or NULL. All of these are still there. `same` says that what comes is the tree that came the last
    # time: all that goes has been made since. NULL: nobody caches anything.
    void (*left)(void* listener, frame_t** pairs, uint64_t n, int same) noexcept nogil
    uint64_t came       # `id` of the root whose tree came last, 0 for none
    uint64_t id         # frames it allocates carry this as `owner`; of a root its own number
    uint64_t resident   # frames in its tree
    void* failed        # the exception that kept a page from being fetched, until it is raised; NULL: none


cdef struct ram_api_t:
    # page numbers are absolute physical ones (pa >> 12)
    frame_t* (*find)(ram_t* ram, uint64_t ppn) noexcept nogil       # NULL: absent (zeros), outside, or failed
    ram_status_t (*own)(ram_t* ram, uint64_t ppn, frame_t** frame) noexcept nogil   # the only way to writable bytes
    void (*drain)(ram_t* ram) noexcept nogil                                        # free the limbo
    pt_t* (*pt_of)(frame_t* frame) noexcept nogil                                  # allocate on demand; NULL: no memory
    void (*set_code_free)(void (*code_free)(void* code) noexcept nogil) noexcept nogil
    void (*unref)(frame_t* frame) noexcept nogil                                    # give back a frame_ref
    const uint8_t* zeros                                                            # 4096 zero bytes, read-only


cdef extern from *:
    """
    #define RAM_LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define RAM_INC(p) ((void)__atomic_fetch_add((p), 1, __ATOMIC_RELAXED))
    #define RAM_DEC(p) (__atomic_sub_fetch((p), 1, __ATOMIC_ACQ_REL))
    #define RAM_OR(p, bits) ((void)__atomic_fetch_or((p), (bits), __ATOMIC_ACQ_REL))
    #define RAM_CLEAR(p, bits) ((void)__atomic_fetch_and((p), ~(uint32_t)(bits), __ATOMIC_ACQ_REL))
    """
    uint32_t count_load "RAM_LOAD"(uint32_t* count) noexcept nogil
    void count_inc "RAM_INC"(uint32_t* count) noexcept nogil
    uint32_t count_dec "RAM_DEC"(uint32_t* count) noexcept nogil     # what is left
    void flag_set "RAM_OR"(uint32_t* flags, uint32_t bits) noexcept nogil
    void flag_clear "RAM_CLEAR"(uint32_t* flags, uint32_t bits) noexcept nogil


cdef inline void frame_ref(frame_t* frame) noexcept nogil:
    count_inc(&frame.refs)


cdef inline bint frame_alone(frame_t* frame) noexcept nogil:
    # One owner: the acquire makes what former owners did to it visible before it is written.
    return count_load(&frame.refs) == 1


cdef inline frame_t* ram_find(ram_t* ram, uint64_t ppn) noexcept nogil:
    # What ram_api_t.find does, for callers that want it inline.
    cdef uint64_t index = ppn - (ram.base >> 12)    # wraps below base: outside as well
    cdef node_t* node = ram.root
    cdef uint32_t shift = (ram.levels - 1) * NODE_BITS
    cdef void* child
    if index >= ram.pages:
        return NULL
    while node != NULL:
        child = node.child[(index >> shift) & (NODE_FANOUT - 1)]
        if shift == 0:
            return <frame_t*> child
        node = <node_t*> child
        shift -= NODE_BITS
    return NULL


cdef inline frame_t* ram_alone(ram_t* ram, uint64_t ppn) noexcept nogil:
    """Return the page's frame when no other tree can reach it: when `own` would change nothing. Else NULL."""
    cdef uint64_t index = ppn - (ram.base >> 12)
    cdef node_t* node = ram.root
    cdef uint32_t shift = (ram.levels - 1) * NODE_BITS
    cdef void* child
    if index >= ram.pages:
        return NULL
    while node != NULL and (node.stamp == ram.stamp or count_load(&node.refs) == 1):
        child = node.child[(index >> shift) & (NODE_FANOUT - 1)]
        if shift == 0:
            return <frame_t*> child if child != NULL and frame_alone(<frame_t*> child) else NULL
        node = <node_t*> child
        shift -= NODE_BITS
    return NULL
