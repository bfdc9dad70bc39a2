"""The C contract of guest memory: frames, the persistent tree over them, and the table of functions on both.

`memory.pyx` implements it and hands out `ram_api_t` in a capsule ("pyvirt.ram_api_t"); a `ram_t*` travels in a
capsule "pyvirt.ram_t". The tree is a radix tree of fan-out 64 over page numbers; nodes and frames are counted and
may be shared between machines and snapshots. A missing child reads as zeros.
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


cdef enum frame_flag_t:
    FRAME_CODE = 1      # holds decoded code: no write-TLB entry may exist
    FRAME_PT = 2        # supplied a PTE to a live translation: no write-TLB entry may exist
    FRAME_WTLB = 4      # some write-TLB entry may exist (a hint: set means "look")
    FRAME_DIGEST = 8    # `digest` is that of the content


cdef struct pt_t:
    # What is known of a frame that serves as a page table (core.md, rule 8).
    uint64_t used[8]    # one bit per 8-byte slot that fed a live translation
    uint64_t va         # first virtual address its slots cover, when `where` is 1
    uint8_t level       # level of its entries: 0 maps pages
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
    uint64_t owned      # frames allocated by it and not given back
    int64_t fail_after  # fault injection: allocations until one fails, negative for never
    # Told before a shared frame is replaced by a private copy, so that its translations are dropped (rule 9).
    void* listener
    void (*replaced)(void* listener, uint64_t ppn, frame_t* old, frame_t* new) noexcept nogil
    # Frames replaced while a hart may still run their code wait here until no op pointer is live.
    frame_t** limbo
    uint32_t limbo_len
    uint32_t limbo_cap


cdef struct ram_api_t:
    # page numbers are absolute physical ones (pa >> 12)
    frame_t* (*find)(ram_t* ram, uint64_t ppn) noexcept nogil                       # NULL: absent (zeros) or outside
    ram_status_t (*own)(ram_t* ram, uint64_t ppn, frame_t** frame) noexcept nogil   # the only way to writable bytes
    void (*drain)(ram_t* ram) noexcept nogil                                        # free the limbo
    pt_t* (*pt_of)(frame_t* frame) noexcept nogil                                   # allocate on demand; NULL: no memory
    void (*set_code_free)(void (*code_free)(void* code) noexcept nogil) noexcept nogil
