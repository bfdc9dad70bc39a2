"""Frames and the pool they come from: slabs of 512, counts, lazy content, what is known of page tables.

For memory.pyx alone: the pool is a static of the module that includes this. No other module allocates or frees frames.
"""
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from lazy cimport is_lazy, lazy_fetch, lazy_forget, source_t
from ram cimport FRAME_LAZY, count_dec, frame_t, pt_t


cdef extern from * nogil:
    """
    #include <pthread.h>
    #include <stdlib.h>
    #include <sys/mman.h>
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif
    static pthread_mutex_t pool_mutex = PTHREAD_MUTEX_INITIALIZER;
    static void pool_lock(void) { pthread_mutex_lock(&pool_mutex); }
    static void pool_unlock(void) { pthread_mutex_unlock(&pool_mutex); }

    /* `size` bytes of zeros at a multiple of `size`, or NULL. A slab that is one huge page costs one fault. */
    static void *slab_map(size_t size) {
        uint8_t *p = (uint8_t *)mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint8_t *aligned;
        if (p == (uint8_t *)MAP_FAILED) return NULL;
        aligned = (uint8_t *)(((uintptr_t)p + size - 1) & ~(uintptr_t)(size - 1));
        if (aligned != p) munmap(p, (size_t)(aligned - p));
        if (aligned != p + size) munmap(aligned + size, (size_t)(p + size - aligned));
        return aligned;
    }
    static void slab_unmap(void *bytes, size_t size) { munmap(bytes, size); }
    static const uint8_t *zero_map(void) {
        void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? NULL : (const uint8_t *)p;
    }
    static uint8_t *page_malloc(void) {
        void *p = NULL;
        return posix_memalign(&p, 4096, 4096) ? NULL : (uint8_t *)p;
    }
    /* The pool is the process's: memory.pyx alone includes this. pool_mutex guards the slabs. */
    static struct {
        void *roomy, *idle;         /* slabs with room; an empty one, kept for the next frame */
        uint64_t slabs, frames, nodes, pts, stamp;
        void *code_free;
        void *graves;               /* sources of lazy frames that are not needed any more */
        const uint8_t *zeros;
        int each_alone;             /* for sanitizers: each frame is an allocation of its own */
    } pool;
    #define NOWHERE (~0ULL)
    #define HIGHEST (1ULL << 56)    /* physical addresses have 56 bits under Sv39 and up */
    #define COUNTER_ADD(p, n) __atomic_add_fetch((p), (n), __ATOMIC_RELAXED)
    #define PUBLISH_POINTER(p, expected, value) \
        __atomic_compare_exchange_n((p), (expected), (value), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
    #define LOAD_POINTER(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    """
    void pool_lock()
    void pool_unlock()
    void* slab_map(size_t size)
    void slab_unmap(void* bytes, size_t size)
    const uint8_t* zero_map()
    uint8_t* page_malloc()
    uint64_t counter_add "COUNTER_ADD"(uint64_t* counter, int64_t n)
    bint publish_pt "PUBLISH_POINTER"(pt_t** where, pt_t** expected, pt_t* value)
    pt_t* load_pt "LOAD_POINTER"(pt_t** where)
    void* load_code "LOAD_POINTER"(void** where)
    ctypedef struct pool_t "__typeof__(pool)":
        void* roomy
        void* idle
        uint64_t slabs, frames, nodes, pts, stamp
        void* code_free
        void* graves
        const uint8_t* zeros
        bint each_alone
    pool_t pool
    const uint64_t NOWHERE, HIGHEST


cdef enum:
    PAGE = 4096
    PAGE_BITS = 12
    SLAB_FRAMES = 512
    DIGEST_BYTES = 32
    BULK = 65536        # bytes from which a copy is worth a release of the GIL


ctypedef void (*code_free_t)(void* code) noexcept nogil


cdef struct slab_t:
    uint8_t* bytes
    frame_t* free       # given back; linked through `code`
    uint32_t used       # frames handed out now
    uint32_t fresh      # frames from here on were never handed out: their bytes are still zero
    slab_t* prev        # among the slabs with room
    slab_t* next
    frame_t frames[SLAB_FRAMES]


# ---- frames

cdef inline void slab_link(slab_t* slab) noexcept nogil:
    slab.prev = NULL
    slab.next = <slab_t*> pool.roomy
    if pool.roomy != NULL:
        (<slab_t*> pool.roomy).prev = slab
    pool.roomy = slab


cdef inline void slab_unlink(slab_t* slab) noexcept nogil:
    if slab.prev != NULL:
        slab.prev.next = slab.next
    else:
        pool.roomy = slab.next
    if slab.next != NULL:
        slab.next.prev = slab.prev


cdef inline frame_t* slab_take(bint* is_zero) noexcept nogil:
    """Take one frame from a slab under the lock; its `bytes` and `slab` are set, the rest is not."""
    cdef slab_t* slab = <slab_t*> pool.roomy
    cdef frame_t* frame
    if slab == NULL:
        slab = <slab_t*> malloc(sizeof(slab_t))
        if slab == NULL:
            return NULL
        slab.bytes = <uint8_t*> slab_map(SLAB_FRAMES * PAGE)
        if slab.bytes == NULL:
            free(slab)
            return NULL
        slab.free = NULL
        slab.used = slab.fresh = 0
        slab_link(slab)
        pool.slabs += 1
    if slab == pool.idle:
        pool.idle = NULL
    frame = slab.free
    is_zero[0] = frame == NULL
    if frame != NULL:
        slab.free = <frame_t*> frame.code
    else:
        # SAFETY: a slab among those with room has a free frame or a fresh one, so fresh < SLAB_FRAMES.
        frame = &slab.frames[slab.fresh]
        frame.bytes = slab.bytes + <size_t> slab.fresh * PAGE
        frame.slab = slab
        slab.fresh += 1
    slab.used += 1
    if slab.used == SLAB_FRAMES:
        slab_unlink(slab)
    return frame


cdef inline void slab_give(frame_t* frame) noexcept nogil:
    """Give a frame back to its slab under the lock."""
    cdef slab_t* slab = <slab_t*> frame.slab
    if slab.used == SLAB_FRAMES:
        slab_link(slab)
    slab.used -= 1
    frame.code = slab.free
    slab.free = frame
    if slab.used:
        return
    if pool.idle == NULL:
        pool.idle = slab
        return
    slab_unlink(slab)
    slab_unmap(slab.bytes, SLAB_FRAMES * PAGE)
    free(slab)
    pool.slabs -= 1


cdef inline frame_t* frame_new(uint64_t owner, bint zeroed) noexcept nogil:
    """Return a frame counted once, its bytes zero if asked for and arbitrary if not; NULL: no host memory."""
    cdef frame_t* frame
    cdef bint is_zero = False
    if pool.each_alone:
        frame = <frame_t*> calloc(1, sizeof(frame_t))
        if frame == NULL:
            return NULL
        frame.bytes = page_malloc()
        if frame.bytes == NULL:
            free(frame)
            return NULL
    else:
        pool_lock()
        frame = slab_take(&is_zero)
        pool_unlock()
        if frame == NULL:
            return NULL
    if zeroed and not is_zero:
        memset(frame.bytes, 0, PAGE)
    frame.refs = 1
    frame.flags = 0
    frame.code = NULL
    frame.pt = NULL
    frame.w_va = 0
    frame.w_many = 0
    frame.owner = owner
    counter_add(&pool.frames, 1)
    return frame


cdef inline void frame_unref(frame_t* frame) noexcept nogil:
    """Count down, and free the frame with its code and its page-table record at zero."""
    if count_dec(&frame.refs):
        return
    if is_lazy(frame):
        lazy_forget(<source_t**> &pool.graves, frame)
    if frame.code != NULL and pool.code_free != NULL:
        (<code_free_t> pool.code_free)(frame.code)
    if frame.pt != NULL:
        free(frame.pt)
        counter_add(&pool.pts, -1)
    counter_add(&pool.frames, -1)
    if frame.slab == NULL or pool.each_alone:
        free(frame.bytes)
        free(frame)
        return
    pool_lock()
    slab_give(frame)
    pool_unlock()


cdef inline bint frame_fetch(frame_t* frame, void** failed) noexcept with gil:
    """Fetch a lazy frame's content; False with an exception in `failed` when it can't be had."""
    failure = lazy_fetch(<source_t**> &pool.graves, frame)
    if failure is None:
        return True
    Py_INCREF(failure)
    Py_XDECREF(<PyObject*> failed[0])
    failed[0] = <void*> failure
    return False


cdef inline bint frame_there(frame_t* frame, void** failed) noexcept nogil:
    """See to it that a frame, which may be absent, has its bytes."""
    return frame == NULL or not is_lazy(frame) or frame_fetch(frame, failed)


cdef inline int raise_failed(void** failed) except -1:
    """Raise the exception that kept a page from being fetched, if there is one."""
    if failed[0] == NULL:
        return 0
    failure = <object> failed[0]
    failed[0] = NULL
    Py_DECREF(failure)
    raise failure


cdef inline pt_t* pt_of(frame_t* frame) noexcept nogil:
    """Return the frame's page-table record, made on first use; two threads may ask at once. NULL: no host memory."""
    cdef pt_t* have = load_pt(&frame.pt)
    cdef pt_t* made
    if have != NULL:
        return have
    made = <pt_t*> calloc(1, sizeof(pt_t))
    if made == NULL:
        return NULL
    if publish_pt(&frame.pt, &have, made):
        counter_add(&pool.pts, 1)
        return made
    free(made)
    return have
