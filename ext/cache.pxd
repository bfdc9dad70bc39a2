"""TLBs, jump caches and decoded code: what may be thrown away at any moment, and the structs of a running hart.

Nothing here is persisted, and nothing a guest or a digest can notice depends on it. The structs follow core.md:
ops of 16 bytes with a parallel cold array, blocks that hang on frames, translations banked by context.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bus cimport mmio_t
from ram cimport frame_t, pt_t, ram_api_t, ram_t
from state cimport clock_state_t, hart_state_t


cdef enum:
    TLB_SIZE = 1024
    TLB_MASK = 1023
    FETCH_SIZE = 256
    FETCH_MASK = 255
    GCACHE_SIZE = 1024
    GCACHE_MASK = 1023
    UPPER_SIZE = 64
    UPPER_MASK = 63
    JUMP_SIZE = 4096
    JUMP_MASK = 4095
    BANKS = 16
    BLOCK_MAX = 64          # instructions in a block; the threaded core may run over its budget by less than this
    CHUNK_OPS = 145
    FENCES_MAX = 256


cdef extern from *:
    """
    #define NEVER 0xffffffffffffffffULL
    """
    const uint64_t NEVER


cdef enum status_t:
    ST_OK = 0               # done: go on with the next op
    ST_JUMP = 1             # done: pc is set, look it up (translation or privilege may have changed)
    ST_LEAVE = 2            # done: go back to the run loop (an interrupt line or mask moved, code was killed)
    ST_TRAP = 3             # the instruction trapped: pc is the handler's
    ST_FAULT = 5            # a translation was refused: hart_t.fault is the cause, hart_t.fault_va the address
    ST_STOP = 4             # the machine must stop: machine_t.stop says why; pc is the instruction's, not executed


cdef enum stop_t:
    STOP_NONE = 0
    STOP_LIMIT = 1          # the icount asked for is reached
    STOP_REQUEST = 2        # stop() was called
    STOP_IDLE = 3           # every hart waits and no event is due
    STOP_MEMORY = 4         # memory_limit or the host's memory is used up
    STOP_ERROR = 5          # a Python device raised
    STOP_NOTIFY = 6         # a watched console byte was sent, or a device asked for attention
    STOP_SBI = 7            # ecall for the built-in firmware
    STOP_TRAP_LOOP = 8      # traps in a row without an instruction retired
    STOP_EXIT = 9           # the guest powered off, rebooted or failed through a device
    STOP_SLICE = 10         # the slice ended: signals are looked at, then it goes on
    STOP_FIRMWARE = 11      # a trap to M-mode that the built-in firmware has no answer to
    STOP_AT = 12            # pc is at an address that was asked for
    STOP_TRAP = 13          # a trap that was asked for has been delivered
    STOP_HYPER = 14         # a trap into HS-mode, which the host serves in place of a hypervisor
    STOP_WATCH = 15         # memory that was asked for has been loaded or stored to


cdef enum watch_kind_t:
    WATCH_LOADS = 1
    WATCH_STORES = 2


cdef struct watch_t:
    uint64_t pa
    uint64_t end
    int kinds
    int stop                # how the run ends


cdef enum access_t:
    ACC_FETCH = 0
    ACC_LOAD = 1
    ACC_STORE = 2
    ACC_CBO = 3             # a cache-block operation: load or store permission will do, faults are a store's


cdef enum drop_t:
    DROP_W = 1
    DROP_ALL = 7


ctypedef void (*handler_t)(hart_t* h, op_t* op, uint64_t* x, int64_t n) noexcept nogil


cdef struct op_t:
    handler_t fn
    int32_t imm
    uint8_t rd
    uint8_t rs1
    uint8_t rs2
    uint8_t cnt             # instructions of the block up to and with this one: what leaving here costs


cdef struct meta_t:
    uint32_t raw            # the instruction's bits, for mtval; of a dead block's first op: how far its successor is
    uint16_t off            # its offset in the page
    uint16_t opcode
    uint8_t idx             # its index in the block
    uint8_t len
    uint16_t spare


cdef struct chunk_t:
    # 4096 bytes, aligned to its size, so that an op finds its meta_t and its code by its own address.
    code_t* code
    chunk_t* next
    uint32_t used
    uint32_t spare[3]
    op_t ops[145]
    meta_t metas[145]


cdef struct block_t:
    op_t* op                # NULL when dead
    uint16_t off            # bytes of the page it was decoded from: [off, end)
    uint16_t end


cdef struct code_t:
    # What is decoded of one frame. `decoded` has a bit per halfword some live block was decoded from.
    uint64_t decoded[32]
    frame_t* frame
    code_t* next            # of another ISA, for the same frame
    chunk_t* chunks
    block_t* blocks
    uint16_t* index         # open addressing by offset: block number + 1
    uint32_t nblocks
    uint32_t cap
    uint32_t index_size
    uint32_t dead           # ops in dead blocks
    uint32_t lock           # of blocks, index and chunks: machines that share the frame share its code
    uint64_t exts           # the ISA it was decoded for


cdef struct tlb_t:
    uint64_t tag            # page of va; the compare keeps the low size bits, so that a misaligned access misses
    int64_t addend          # host address - va


cdef struct fetch_t:
    uint64_t tag            # page of va, or 1
    frame_t* frame


cdef struct jump_t:
    uint64_t pc             # or 1: odd, never met
    op_t* op


cdef struct upper_t:
    # The page table in which the entries of one 2 MiB region are looked up: the walk's result but for its last step.
    uint64_t tag            # address >> 21, or all ones
    uint64_t atp            # hgatp in the table of the G-stage, which is not banked
    uint64_t table          # physical address of the page of entries
    uint64_t gtable         # guest physical address of the same, when V=1
    int64_t level           # of its entries


cdef struct bank_t:
    # Translations of one context, compared exactly. A bank that was never used is zeros and costs no memory: zero is no
    # valid tag but for address 0, which has its place in the first entry of each table.
    uint64_t satp           # vsatp when V=1
    uint64_t hgatp          # 0 when V=0
    uint32_t key            # bits 0-1 privilege, 2 V, 3 SUM, 4 MXR, 5 HS-level MXR
    uint32_t live           # entries may exist
    uint32_t live_w         # write entries may exist
    uint32_t fresh          # entries were made since another tree came last
    uint64_t used           # clock of the last selection
    uint64_t pages          # signature of the pages with jump entries: bit (va >> 12) & 63
    upper_t upper[64]
    uint64_t pa[1024]       # physical page of each read entry
    uint32_t key_r[1024]    # of the frame that it leads to: what is searched when a frame goes
    tlb_t r[1024]
    tlb_t w[1024]
    fetch_t x[256]
    jump_t jump[4096]


cdef struct gcache_t:
    # One page of the G-stage: gpa to pa.
    uint64_t tag            # gpa >> 12, or all ones
    uint64_t hgatp
    uint64_t pa
    uint64_t pte


cdef struct cache_t:
    bank_t* bank[16]
    gcache_t g[1024]
    upper_t upper[64]       # of the G-stage
    uint32_t live           # g or upper may hold something
    uint64_t open_low       # S and U may do anything with the bytes [open_low, open_high): PMP need not be asked
    uint64_t open_high
    uint64_t clock
    uint32_t limit          # entries a bank may hold at once, 0 for all: small TLBs must change nothing
    uint32_t filled
    uint64_t ring[64]       # pages filled last, when limit is set
    chunk_t* scratch        # one instruction at a time: across pages, from MMIO, under a fine PMP
    void* scratch_raw       # what was allocated for it


cdef struct region_t:
    uint64_t base
    uint64_t size
    mmio_t ops


cdef struct trap_record_t:
    # A trap as a value, or a return from one (kind 1: cause, tval and tval2 are 0). Worlds: U 0, S 1, M 3, VU 4, VS 5.
    uint64_t icount
    uint64_t pc             # of the instruction, or where the return goes
    uint64_t cause
    uint64_t tval
    uint64_t tval2
    uint64_t tinst
    uint64_t hgatp
    uint8_t from_
    uint8_t to
    uint8_t gva
    uint8_t kind
    uint32_t hart


cdef struct change_t:
    # A store to a page-table entry that fed live translations, until every hart has fenced it.
    uint64_t at             # physical address of the entry
    uint64_t old
    uint64_t new
    uint64_t va             # first virtual address the entry covers, and how many bytes
    uint64_t span
    uint64_t pc             # of the store
    uint64_t icount
    uint64_t atp            # the address space it was used in, all ones for several
    uint64_t waiting        # harts that have not fenced, a bit each
    uint32_t stages         # which use it: USED_FIRST, USED_G
    uint32_t hart


cdef enum stage_t:
    STAGE_S = 0             # the only one, with V=0
    STAGE_VS = 1
    STAGE_G = 2


cdef struct missing_t:
    change_t change
    uint32_t use_stage      # a stage_t
    uint32_t use_level
    uint64_t use_va
    uint64_t use_pc
    uint64_t use_icount
    uint64_t use_hart


cdef struct fences_t:
    uint32_t nchanges
    uint32_t nreports
    uint64_t lost           # changes or reports there was no room for
    change_t changes[256]
    missing_t reports[256]


cdef struct hart_t:
    tlb_t* tlb_r
    tlb_t* tlb_w
    jump_t* jump
    uint64_t page_va        # virtual address of the page the running code lies in
    const core_api_t* api
    uint64_t fp_mode        # 0 FS is off, 1 on, 2 dirty and frm is a mode the host has
    int64_t n               # budget left when the core came back
    uint64_t value          # result of a slow load
    uint64_t icount_end     # icount at which n is 0
    uint64_t count_end      # s.count at which n is 0
    uint64_t offered        # OFFER_*: what a hypervisor of the host's has pending for its guest and the hart can't hold
    uint64_t pending        # interrupts pending and enabled in mie when the slice began; what changes it ends the slice
    bank_t* bank_x
    bank_t* bank_d
    cache_t* cache
    machine_t* m
    uint64_t access_pc      # of the instruction that stores or walks, kept while fences are checked
    uint64_t access_va      # of the load or store that is being done slowly
    uint64_t slow_pa        # of the atomic between its two halves
    uint64_t fault          # cause of a refused translation
    uint64_t fault_va
    uint64_t fault_gpa      # of a guest page fault
    uint64_t fault_inst     # its pseudoinstruction, for an implicit access
    uint64_t fault_virt     # the address was a guest's
    uint64_t tval2          # of the trap about to be delivered; deliver() uses them up
    uint64_t tinst
    uint64_t tgva
    uint64_t fp_saved       # the caller's FP environment while the host's is this hart's
    uint32_t pmp_on         # some PMP entry is not OFF
    hart_state_t s
    uint64_t sink           # x[32]: where rd = x0 goes; must follow s


cdef enum hyper_t:
    HYPER_HOST = 1          # a trap into HS-mode ends a run in STOP_HYPER, delivered
    HYPER_GUEST = 2         # and one into VS-mode too


cdef enum offer_t:
    OFFER_WAKE = 1          # ends WFI
    OFFER_TAKE = 2          # and where VS-mode takes interrupts the run ends in STOP_HYPER


cdef struct machine_t:
    ram_t* ram
    const ram_api_t* mem
    const core_api_t* api
    hart_t** harts
    uint32_t nharts
    uint32_t ratio          # instructions per tick of the time base
    uint32_t quantum
    uint32_t builtin_sbi    # ecalls from S end in STOP_SBI; no M-mode software runs
    clock_state_t clock
    uint64_t exts
    uint64_t xlen_modes     # satp modes offered, a bit each
    region_t* regions
    uint32_t nregions
    int leave               # a line, a mask or a request moved: leave the block
    int stop                # stop_t, set where it happens
    int request             # set from any thread
    uint32_t core           # 0 threaded, 1 switch
    hart_t* inside          # the hart whose slice runs now, or NULL
    uint64_t trim           # a page with much dead code, to be thrown away when no op pointer is live, TRIM_ALL, or 0
    uint64_t chunks         # of code decoded since all was thrown away last, and how many it may be then
    uint64_t chunks_max
    uint64_t stop_addr      # what the stop is about: the address of a refused access
    uint64_t limit
    uint64_t* breaks        # virtual addresses before which a run stops; their pages have no jump-cache entries
    uint32_t nbreaks
    uint64_t break_from     # icount at which they do not count yet: where the run began
    uint64_t trap_stops[2]  # causes whose delivery ends a run, a bit each: exceptions, interrupts
    watch_t* watches        # memory, loads of or stores to which end a run
    uint32_t nwatches
    fences_t* fences        # what is known of fences, or NULL: not checked
    uint32_t hyper          # bits of hyper_t: no HS-mode software runs
    trap_record_t* records  # where traps are written while someone wants them, or NULL
    uint32_t nrecords
    uint32_t records_cap
    # Choices that the manual leaves open
    uint64_t walks          # walks done, and of those of the G-stage which its cache did not save; no part of the state
    uint64_t g_walks
    uint32_t transform      # htinst and mtinst describe explicit accesses; else they are 0 for these
    uint32_t geilen         # guest external interrupt lines
    uint64_t g_modes        # hgatp modes offered, a bit each
    uint64_t vmid_mask      # of hgatp


cdef struct core_api_t:
    # mmu.pyx: translations. They return ST_OK, ST_FAULT with `h.fault` the cause, or ST_STOP
    int (*translate)(hart_t* h, uint64_t va, int acc, int width, uint64_t* pa) noexcept nogil
    int (*fetch_page)(hart_t* h, uint64_t va, frame_t** frame) noexcept nogil
    int (*probe)(hart_t* h, uint64_t va, int acc, uint64_t* pa) noexcept nogil
    int (*translate_as)(hart_t* h, uint64_t va, int acc, int width, int hlvx, uint64_t* pa) noexcept nogil
    int (*pmp_allows)(hart_t* h, uint64_t pa, uint64_t size, int acc, int priv) noexcept nogil
    # tlb.pyx: banks, and what drops entries
    void (*select)(hart_t* h) noexcept nogil
    void (*drop_all)(machine_t* m) noexcept nogil
    void (*drop_writes)(void* machine) noexcept nogil
    void (*drop_frame)(machine_t* m, frame_t* frame, int what) noexcept nogil
    void (*drop_code)(machine_t* m, code_t* code) noexcept nogil
    int (*fill_data)(hart_t* h, uint64_t va, uint64_t pa, frame_t* frame, int writable) noexcept nogil
    int (*fill_fetch)(hart_t* h, uint64_t va, frame_t* frame) noexcept nogil
    int (*pt_used)(machine_t* m, frame_t* frame, uint32_t slot, uint64_t va, int level, int bits,
                   uint64_t atp) noexcept nogil
    void (*pt_stored)(machine_t* m, frame_t* frame, uint64_t pa, const void* data, uint32_t size) noexcept nogil
    void (*replaced)(void* machine, uint64_t ppn, frame_t* old, frame_t* new) noexcept nogil
    void (*left)(void* machine, frame_t** pairs, uint64_t n, int same) noexcept nogil
    cache_t* (*cache_new)() noexcept nogil
    void (*cache_free)(cache_t* cache) noexcept nogil
    # access.pyx
    int (*load)(hart_t* h, op_t* op, uint64_t va, int width, int64_t n) noexcept nogil
    int (*store)(hart_t* h, op_t* op, uint64_t va, int width, uint64_t value, int64_t n) noexcept nogil
    int (*amo_begin)(hart_t* h, op_t* op, uint64_t va, int width, int64_t n) noexcept nogil
    int (*amo_end)(hart_t* h, op_t* op, int width, uint64_t value, int64_t n) noexcept nogil
    int (*casq)(hart_t* h, op_t* op, uint64_t* x, uint64_t va, int64_t n) noexcept nogil
    int (*lr)(hart_t* h, op_t* op, uint64_t va, int width, int64_t n) noexcept nogil
    int (*sc)(hart_t* h, op_t* op, uint64_t va, int width, uint64_t value, int64_t n) noexcept nogil
    int (*hlv)(hart_t* h, op_t* op, uint64_t va, int width, int hlvx, int64_t n) noexcept nogil
    int (*hsv)(hart_t* h, op_t* op, uint64_t va, int width, uint64_t value, int64_t n) noexcept nogil
    int (*cbo)(hart_t* h, op_t* op, uint64_t va, int64_t n) noexcept nogil
    int (*ram_store)(machine_t* m, uint64_t pa, const void* data, uint64_t size) noexcept nogil
    int (*bus_read)(machine_t* m, uint64_t pa, int width, uint64_t* value) noexcept nogil
    int (*bus_write)(machine_t* m, uint64_t pa, int width, uint64_t value) noexcept nogil
    # decode.pyx
    op_t* (*lookup)(hart_t* h, uint64_t pc) noexcept nogil
    op_t* (*link)(hart_t* h, op_t* stub) noexcept nogil
    int (*code_stored)(machine_t* m, frame_t* frame, uint64_t pa, uint32_t size) noexcept nogil
    void (*code_trim)(machine_t* m) noexcept nogil
    void (*code_free)(void* code) noexcept nogil
    # fence.pyx, while fences are checked
    void (*fence_changed)(machine_t* m, uint64_t at, uint64_t old, uint64_t new, uint64_t va, uint64_t span, int stages,
                          uint64_t atp) noexcept nogil
    void (*fence_done)(hart_t* h, int opcode, uint64_t address, int all_addresses) noexcept nogil
    void (*fence_used)(hart_t* h, uint64_t at, uint64_t atp, uint64_t va, int acc, int stage, int level, int ok,
                       uint64_t pa) noexcept nogil
    fences_t* (*fences_new)() noexcept nogil
    # csr.pyx
    int (*csr_op)(hart_t* h, op_t* op, uint64_t* x, int64_t n, int how) noexcept nogil
    int (*csr_read)(hart_t* h, uint32_t csr, uint64_t* value) noexcept nogil
    int (*csr_write)(hart_t* h, uint32_t csr, uint64_t value) noexcept nogil
    uint64_t (*mip)(hart_t* h, uint64_t icount) noexcept nogil
    const char* (*state_wrong)(hart_t* h, uint32_t* csr) noexcept nogil
    void (*status_changed)(hart_t* h) noexcept nogil
    void (*pmp_changed)(hart_t* h) noexcept nogil
    void (*fp_begin)(hart_t* h) noexcept nogil
    void (*fp_end)(hart_t* h) noexcept nogil
    void (*fp_sync)(hart_t* h) noexcept nogil
    # trap.pyx
    int (*trap)(hart_t* h, op_t* op, int64_t n, uint64_t cause, uint64_t tval) noexcept nogil
    int (*deliver)(hart_t* h, uint64_t cause, uint64_t tval, uint64_t pc) noexcept nogil
    uint64_t (*irq)(hart_t* h) noexcept nogil           # the interrupt to take now: its number + 1, or 0
    int (*sret)(hart_t* h) noexcept nogil
    int (*sys)(hart_t* h, op_t* op, uint64_t* x, int64_t n) noexcept nogil
    # run.pyx
    void (*run)(machine_t* m) noexcept nogil
    # hart_threaded.pyx and hart_switch.pyx
    handler_t* handlers
    handler_t* slow         # slow halves, by opcode
    handler_t* fused        # NULL: no fusion
    void (*run_threaded)(hart_t* h, op_t* op, int64_t n) noexcept nogil
    void (*run_switch)(hart_t* h, op_t* op, int64_t n) noexcept nogil


cdef extern from *:
    """
    #if defined(__x86_64__) || defined(__i386__)
    #define SPIN_PAUSE() __builtin_ia32_pause()
    #else
    #define SPIN_PAUSE() ((void)0)
    #endif
    /* Held for some hundred nanoseconds at most, by threads whose machines share frames. */
    static inline void spin_lock(unsigned *word) {
        while (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE))
            while (__atomic_load_n(word, __ATOMIC_RELAXED)) SPIN_PAUSE();
    }
    static inline void spin_unlock(unsigned *word) { __atomic_store_n(word, 0, __ATOMIC_RELEASE); }
    #define TRIM_ALL 1ULL
    #define LOAD_ACQUIRE(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define STORE_RELEASE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define OR_RELEASE(p, v) ((void)__atomic_fetch_or((p), (v), __ATOMIC_RELEASE))
    /* Another machine's thread may link the block while this one runs it. What the link leads to is read by its value,
       an order that hardware keeps and ThreadSanitizer does not know. */
    #ifdef __SANITIZE_THREAD__
    #define LINK_OF(op) __atomic_load_n(&(op)->imm, __ATOMIC_ACQUIRE)
    #else
    #define LINK_OF(op) __atomic_load_n(&(op)->imm, __ATOMIC_RELAXED)
    #endif
    """
    void spin_lock(uint32_t* word) noexcept nogil
    void spin_unlock(uint32_t* word) noexcept nogil
    void* load_pointer "LOAD_ACQUIRE"(void** p) noexcept nogil
    void store_pointer "STORE_RELEASE"(void** p, void* v) noexcept nogil
    void store_int "STORE_RELEASE"(int32_t* p, int32_t v) noexcept nogil
    int32_t load_int "LOAD_ACQUIRE"(int32_t* p) noexcept nogil
    uint64_t load_u64 "LOAD_ACQUIRE"(const uint64_t* p) noexcept nogil
    void store_u64 "STORE_RELEASE"(uint64_t* p, uint64_t v) noexcept nogil
    void or_u64 "OR_RELEASE"(uint64_t* p, uint64_t v) noexcept nogil
    uint8_t load_u8 "LOAD_ACQUIRE"(const uint8_t* p) noexcept nogil
    void store_u8 "STORE_RELEASE"(uint8_t* p, uint8_t v) noexcept nogil
    void or_u8 "OR_RELEASE"(uint8_t* p, uint8_t v) noexcept nogil
    int32_t link_of "LINK_OF"(const op_t* op) noexcept nogil
    const uint64_t TRIM_ALL


cdef inline chunk_t* chunk_of(op_t* op) noexcept nogil:
    # SAFETY: every op lives in a chunk, and chunks are aligned to their size.
    return <chunk_t*>(<uint64_t>op & ~<uint64_t>4095)


cdef inline meta_t* meta_of(op_t* op) noexcept nogil:
    cdef chunk_t* chunk = chunk_of(op)
    return &chunk.metas[op - &chunk.ops[0]]


cdef inline void fault_details(hart_t* h) noexcept nogil:
    """Hand what a refused translation knows beyond cause and address to the delivery of its trap."""
    h.tval2 = h.fault_gpa >> 2
    h.tinst = h.fault_inst
    h.tgva = h.fault_virt


cdef inline uint64_t icount_now(hart_t* h, int64_t n) noexcept nogil:
    """Return the machine's icount when n of the budget is left."""
    return h.icount_end - <uint64_t>n


cdef inline uint64_t time_at(machine_t* m, uint64_t icount) noexcept nogil:
    return icount // m.ratio + <uint64_t>m.clock.time_offset


cdef inline void order_leave(machine_t* m, int stop) noexcept nogil:
    """Ask the running hart to come back at the next instruction boundary that can."""
    m.leave = 1
    if stop and (not m.stop or stop == STOP_ERROR):
        m.stop = stop   # a device that raised did not do the access, whatever it had asked for before


cdef inline int page_watched(machine_t* m, uint64_t pa, int kinds) noexcept nogil:
    """Say whether a page must have no TLB entry for such accesses, so that each of them is looked at."""
    cdef uint32_t i
    for i in range(m.nwatches):
        if m.watches[i].kinds & kinds and pa & ~<uint64_t>4095 < m.watches[i].end and m.watches[i].pa <= pa | 4095:
            return 1
    return 0


cdef inline void watch_access(machine_t* m, uint64_t pa, uint64_t size, int kinds) noexcept nogil:
    """End the run behind an access to memory that somebody watches."""
    cdef uint32_t i
    for i in range(m.nwatches):
        if m.watches[i].kinds & kinds and pa < m.watches[i].end and m.watches[i].pa < pa + size:
            m.stop_addr = pa
            order_leave(m, m.watches[i].stop)


cdef inline int page_refused(machine_t* m, uint64_t pa) noexcept nogil:
    """Stop because a page of RAM can't be had: memory is used up, or its content could not be fetched."""
    m.stop_addr = pa
    order_leave(m, STOP_MEMORY if m.ram.failed == NULL else STOP_ERROR)
    return ST_STOP


cdef inline int page_there(machine_t* m, uint64_t pa) noexcept nogil:
    """See to it that a page, which may be absent, has its content; else ST_STOP."""
    return page_refused(m, pa) if m.mem.find(m.ram, pa >> 12) == NULL and m.ram.failed != NULL else ST_OK
