"""Guest memory: the pool of frames, the persistent tree over them, and what a tree can be asked.

Owns every frame and node in the process (design, idea 1). A tree is a `ram_t`; `Ram` is one that may be written, `Root`
one that never changes. Between modules travel the C structs of ram.pxd only; no other module allocates or frees
them. Python-level errors are IndexError (outside), MemoryError (host memory or quota) and ValueError (closed, wrong
argument).

A node may be written in place when it carries its RAM's stamp, or when every count on the way to it is 1: then no other
tree can reach it. Copying a node counts its children up, so below a copied node nothing passes for unshared by mistake.
"""
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject
from cython cimport final
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

import os

from blake3 import blake3

from lazy cimport (
    is_lazy, lazy_bury, lazy_fetch, lazy_forget, lazy_lock, lazy_of, lazy_unlock, source_drop, source_new, source_t,
)
from ram cimport (
    FRAME_CODE, FRAME_DIGEST, FRAME_LAZY, FRAME_PT, NODE_BITS, NODE_FANOUT, RAM_FAILED, RAM_NOMEM, RAM_OK, RAM_OUTSIDE,
    RAM_QUOTA, count_dec, count_inc, count_load, flag_set, frame_alone, frame_t, node_t, pt_t, ram_api_t, ram_find,
    ram_status_t, ram_t,
)


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


cdef enum:
    PAGE = 4096
    PAGE_BITS = 12
    SLAB_FRAMES = 512
    DIGEST_BYTES = 32
    BULK = 65536        # bytes from which a copy is worth a release of the GIL

cdef uint64_t NOWHERE = <uint64_t> -1
cdef uint64_t HIGHEST = 1ULL << 56      # physical addresses have 56 bits under Sv39 and up

ctypedef void (*code_free_t)(void* code) noexcept nogil

cdef struct slab_t:
    uint8_t* bytes
    frame_t* free       # given back; linked through `code`
    uint32_t used       # frames handed out now
    uint32_t fresh      # frames from here on were never handed out: their bytes are still zero
    slab_t* prev        # among the slabs with room
    slab_t* next
    frame_t frames[SLAB_FRAMES]

cdef struct list_t:     # page numbers, growing
    uint64_t* items
    size_t len
    size_t cap
    void* failed        # the exception that kept a page from being looked at

cdef struct leaving_t:  # what goes when a tree gives way to another: pairs as ram_t.left takes them
    frame_t** pairs
    size_t len
    size_t cap
    bint lost           # there was no memory to note one
    frame_t* first[256]

# The pool is the process's; pool_lock guards what is in this group.
cdef slab_t* roomy = NULL
cdef uint64_t live_slabs = 0
cdef slab_t* idle = NULL    # one slab with nothing in use is kept, so that a lone frame doesn't map and unmap

cdef uint64_t live_frames = 0
cdef uint64_t live_nodes = 0
cdef uint64_t live_pts = 0
cdef uint64_t last_stamp = 0
cdef code_free_t code_free = NULL
cdef source_t* graves = NULL    # sources of lazy frames that are not needed any more
cdef const uint8_t* zeros = zero_map()
# Sanitizers see a frame's bounds and its use after free only if it is an allocation of its own.
cdef bint each_alone = os.environ.get("PYVIRT_FRAME_MALLOC", "") not in ("", "0")
if zeros == NULL:
    raise MemoryError("the host has no page of memory to give")


# ---- frames

cdef void slab_link(slab_t* slab) noexcept nogil:
    global roomy
    slab.prev = NULL
    slab.next = roomy
    if roomy != NULL:
        roomy.prev = slab
    roomy = slab


cdef void slab_unlink(slab_t* slab) noexcept nogil:
    global roomy
    if slab.prev != NULL:
        slab.prev.next = slab.next
    else:
        roomy = slab.next
    if slab.next != NULL:
        slab.next.prev = slab.prev


cdef frame_t* slab_take(bint* is_zero) noexcept nogil:
    """Take one frame from a slab under the lock; its `bytes` and `slab` are set, the rest is not."""
    global idle, live_slabs
    cdef slab_t* slab = roomy
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
        live_slabs += 1
    if slab == idle:
        idle = NULL
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


cdef void slab_give(frame_t* frame) noexcept nogil:
    """Give a frame back to its slab under the lock."""
    global idle, live_slabs
    cdef slab_t* slab = <slab_t*> frame.slab
    if slab.used == SLAB_FRAMES:
        slab_link(slab)
    slab.used -= 1
    frame.code = slab.free
    slab.free = frame
    if slab.used:
        return
    if idle == NULL:
        idle = slab
        return
    slab_unlink(slab)
    slab_unmap(slab.bytes, SLAB_FRAMES * PAGE)
    free(slab)
    live_slabs -= 1


cdef frame_t* frame_new(uint64_t owner, bint zeroed) noexcept nogil:
    """Return a frame counted once, its bytes zero if asked for and arbitrary if not; NULL: no host memory."""
    cdef frame_t* frame
    cdef bint is_zero = False
    if each_alone:
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
    counter_add(&live_frames, 1)
    return frame


cdef void frame_unref(frame_t* frame) noexcept nogil:
    """Count down, and free the frame with its code and its page-table record at zero."""
    if count_dec(&frame.refs):
        return
    if is_lazy(frame):
        lazy_forget(&graves, frame)
    if frame.code != NULL and code_free != NULL:
        code_free(frame.code)
    if frame.pt != NULL:
        free(frame.pt)
        counter_add(&live_pts, -1)
    counter_add(&live_frames, -1)
    if frame.slab == NULL or each_alone:
        free(frame.bytes)
        free(frame)
        return
    pool_lock()
    slab_give(frame)
    pool_unlock()


cdef bint frame_fetch(frame_t* frame, void** failed) noexcept with gil:
    """Fetch a lazy frame's content; False with an exception in `failed` when it can't be had."""
    failure = lazy_fetch(&graves, frame)
    if failure is None:
        return True
    Py_INCREF(failure)
    Py_XDECREF(<PyObject*> failed[0])
    failed[0] = <void*> failure
    return False


cdef inline bint frame_there(frame_t* frame, void** failed) noexcept nogil:
    """See to it that a frame, which may be absent, has its bytes."""
    return frame == NULL or not is_lazy(frame) or frame_fetch(frame, failed)


cdef int raise_failed(void** failed) except -1:
    """Raise the exception that kept a page from being fetched, if there is one."""
    if failed[0] == NULL:
        return 0
    failure = <object> failed[0]
    failed[0] = NULL
    Py_DECREF(failure)
    raise failure


cdef pt_t* pt_of(frame_t* frame) noexcept nogil:
    """Return the frame's page-table record, made on first use; two threads may ask at once. NULL: no host memory."""
    cdef pt_t* have = load_pt(&frame.pt)
    cdef pt_t* made
    if have != NULL:
        return have
    made = <pt_t*> calloc(1, sizeof(pt_t))
    if made == NULL:
        return NULL
    if publish_pt(&frame.pt, &have, made):
        counter_add(&live_pts, 1)
        return made
    free(made)
    return have


# ---- nodes

cdef node_t* node_new(uint32_t level, uint64_t stamp) noexcept nogil:
    cdef node_t* node = <node_t*> calloc(1, sizeof(node_t))
    if node == NULL:
        return NULL
    node.refs = 1
    node.level = level
    node.stamp = stamp
    counter_add(&live_nodes, 1)
    return node


cdef node_t* node_copy(node_t* old, uint64_t stamp) noexcept nogil:
    cdef node_t* node = node_new(old.level, stamp)
    cdef int i
    if node == NULL:
        return NULL
    memcpy(node.child, old.child, sizeof(node.child))
    for i in range(NODE_FANOUT):
        if node.child[i] != NULL:
            count_inc(&(<node_t*> node.child[i]).refs if node.level else &(<frame_t*> node.child[i]).refs)
    return node


cdef void node_unref(node_t* node) noexcept nogil:
    """Count down; at zero free the node and what only it held. Recursion is as deep as the tree: at most 8."""
    cdef int i
    if node == NULL or count_dec(&node.refs):
        return
    for i in range(NODE_FANOUT):
        if node.child[i] == NULL:
            continue
        if node.level:
            node_unref(<node_t*> node.child[i])
        else:
            frame_unref(<frame_t*> node.child[i])
    free(node)
    counter_add(&live_nodes, -1)


# ---- trees

cdef bint fails(ram_t* ram) noexcept nogil:
    """Fault injection: say whether this allocation is the one to fail."""
    if ram.fail_after < 0:
        return False
    ram.fail_after -= 1     # at -1 it has failed, once
    return ram.fail_after < 0


cdef uint64_t index_of(ram_t* ram, uint64_t ppn) noexcept nogil:
    return ppn - (ram.base >> PAGE_BITS)    # wraps below base: outside as well


cdef node_t* path_own(ram_t* ram, uint64_t index) noexcept nogil:
    """Make every node on the way to a page writable in place, and their digests unknown; NULL: no host memory.

    When it fails, the content is what it was and nothing leaks.
    """
    cdef node_t** slot = &ram.root
    cdef node_t* node
    cdef node_t* copy
    cdef uint32_t level = ram.levels
    while True:
        level -= 1
        node = slot[0]
        if node == NULL:
            node = NULL if fails(ram) else node_new(level, ram.stamp)
            if node == NULL:
                return NULL
            slot[0] = node
        elif node.stamp != ram.stamp:
            if count_load(&node.refs) == 1:
                node.stamp = ram.stamp
            else:
                copy = NULL if fails(ram) else node_copy(node, ram.stamp)
                if copy == NULL:
                    return NULL
                slot[0] = copy
                node_unref(node)
                node = copy
        node.has_digest = 0
        if level == 0:
            return node
        slot = <node_t**> &node.child[(index >> (level * NODE_BITS)) & (NODE_FANOUT - 1)]


cdef bint limbo_reserve(ram_t* ram) noexcept nogil:
    cdef uint32_t cap
    cdef void* grown
    if ram.limbo_len < ram.limbo_cap:
        return True
    cap = ram.limbo_cap * 2 if ram.limbo_cap else 16
    grown = NULL if fails(ram) else realloc(ram.limbo, cap * sizeof(frame_t*))
    if grown == NULL:
        return False
    ram.limbo = <frame_t**> grown
    ram.limbo_cap = cap
    return True


cdef ram_status_t own_slow(ram_t* ram, uint64_t index, frame_t** out, bint anew) noexcept nogil:
    """Own a page by copying whatever is shared on the way; with `anew` a frame that caches know is replaced as well."""
    cdef node_t* node = path_own(ram, index)
    cdef void** slot
    cdef frame_t* old
    cdef frame_t* new
    cdef bint charged
    if node == NULL:
        return RAM_NOMEM
    slot = &node.child[index & (NODE_FANOUT - 1)]
    old = <frame_t*> slot[0]
    if not frame_there(old, &ram.failed):
        return RAM_FAILED
    if old != NULL and frame_alone(old) and not (anew and old.flags & (FRAME_CODE | FRAME_PT)):
        old.flags &= ~(<uint32_t> FRAME_DIGEST)
        out[0] = old
        return RAM_OK
    charged = old == NULL or old.owner != ram.id
    if charged and ram.limit and ram.owned >= ram.limit:
        return RAM_QUOTA
    # Only a frame with code can be executing right now.
    if old != NULL and load_code(&old.code) != NULL and not limbo_reserve(ram):
        return RAM_NOMEM
    new = NULL if fails(ram) else frame_new(ram.id, old == NULL)
    if new == NULL:
        return RAM_NOMEM
    if old != NULL:
        memcpy(new.bytes, old.bytes, PAGE)
    if ram.replaced != NULL:
        ram.replaced(ram.listener, index + (ram.base >> PAGE_BITS), old, NULL if anew else new)
    slot[0] = new
    ram.owned += charged
    ram.resident += old == NULL
    if old != NULL:
        if load_code(&old.code) != NULL and ram.limbo_len < ram.limbo_cap:
            ram.limbo[ram.limbo_len] = old
            ram.limbo_len += 1
        else:
            frame_unref(old)
    out[0] = new
    return RAM_OK


cdef ram_status_t ram_own(ram_t* ram, uint64_t ppn, frame_t** out) noexcept nogil:
    """Return in `out` a frame that this RAM alone holds; the only way to writable bytes."""
    cdef uint64_t index = index_of(ram, ppn)
    cdef node_t* node = ram.root
    cdef uint32_t shift = (ram.levels - 1) * NODE_BITS
    cdef void* child
    cdef frame_t* frame
    if index >= ram.pages:
        return RAM_OUTSIDE
    while node != NULL and node.stamp == ram.stamp:
        if node.has_digest:
            node.has_digest = 0
        child = node.child[(index >> shift) & (NODE_FANOUT - 1)]
        if shift:
            node = <node_t*> child
            shift -= NODE_BITS
            continue
        frame = <frame_t*> child
        if frame == NULL or not frame_alone(frame) or frame.flags & FRAME_LAZY:
            break
        if frame.flags & FRAME_DIGEST:
            frame.flags &= ~(<uint32_t> FRAME_DIGEST)
        out[0] = frame
        return RAM_OK
    return own_slow(ram, index, out, False)


cdef frame_t* ram_page(ram_t* ram, uint64_t ppn) noexcept nogil:
    """Return a page's frame, with its bytes. NULL: absent (zeros), outside, or failed, if ram.failed is set."""
    cdef frame_t* frame = ram_find(ram, ppn)
    return frame if frame_there(frame, &ram.failed) else NULL


cdef void ram_drain(ram_t* ram) noexcept nogil:
    """Free the frames that were replaced while their code might be running."""
    while ram.limbo_len:
        ram.limbo_len -= 1
        frame_unref(ram.limbo[ram.limbo_len])


cdef void set_code_free(code_free_t function) noexcept nogil:
    global code_free
    code_free = function


cdef void ram_clear(ram_t* ram) noexcept nogil:
    """Drop the tree and everything that hangs on it; every page is outside from now on."""
    ram_drain(ram)
    if ram.failed != NULL:
        with gil:
            Py_DECREF(<object> ram.failed)
        ram.failed = NULL
    free(ram.limbo)
    ram.limbo = NULL
    ram.limbo_cap = 0
    node_unref(ram.root)
    ram.root = NULL
    ram.pages = 0
    ram.owned = ram.resident = 0


cdef uint64_t tree_next(ram_t* ram, uint64_t index) noexcept nogil:
    """Return the first page from `index` on that has a frame, skipping absent subtrees, or NOWHERE."""
    cdef node_t* node
    cdef uint32_t shift
    cdef void* child
    while ram.root != NULL and index < ram.pages:
        node = ram.root
        shift = (ram.levels - 1) * NODE_BITS
        while True:
            child = node.child[(index >> shift) & (NODE_FANOUT - 1)]
            if child == NULL:
                index = ((index >> shift) + 1) << shift
                break
            if shift == 0:
                return index
            node = <node_t*> child
            shift -= NODE_BITS
    return NOWHERE


cdef bint frame_is_zero(frame_t* frame) noexcept nogil:
    return frame == NULL or memcmp(frame.bytes, zeros, PAGE) == 0


cdef bint list_add(list_t* found, uint64_t index) noexcept nogil:
    cdef size_t cap
    cdef void* grown
    if found.len == found.cap:
        cap = found.cap * 2 if found.cap else 64
        grown = realloc(found.items, cap * sizeof(uint64_t))
        if grown == NULL:
            return False
        found.items = <uint64_t*> grown
        found.cap = cap
    found.items[found.len] = index
    found.len += 1
    return True


cdef bint frames_equal(frame_t* a, frame_t* b) noexcept nogil:
    return memcmp(zeros if a == NULL else a.bytes, zeros if b == NULL else b.bytes, PAGE) == 0


cdef bint node_diff(list_t* found, node_t* a, node_t* b, uint32_t level, uint64_t index) noexcept nogil:
    """List the pages below two nodes of one level (either may be absent) whose content differs; False: no memory."""
    cdef uint32_t i
    cdef void* x
    cdef void* y
    if a == b or (a != NULL and b != NULL and a.has_digest and b.has_digest
                  and memcmp(a.digest, b.digest, DIGEST_BYTES) == 0):
        return True
    for i in range(<uint32_t> NODE_FANOUT):
        x = NULL if a == NULL else a.child[i]
        y = NULL if b == NULL else b.child[i]
        if x == y:
            continue
        if level:
            if not node_diff(found, <node_t*> x, <node_t*> y, level - 1, index + (<uint64_t> i << (level * NODE_BITS))):
                return False
        if level == 0:
            if not frame_there(<frame_t*> x, &found.failed) or not frame_there(<frame_t*> y, &found.failed):
                return False
            if not frames_equal(<frame_t*> x, <frame_t*> y) and not list_add(found, index + i):
                return False
    return True


cdef bint tree_diff(list_t* found, node_t* a, uint32_t high, node_t* b, uint32_t low) noexcept nogil:
    """Do so for two roots of which `a` may be the taller; what `b` can't reach is absent there."""
    cdef int i
    if high == low:
        return node_diff(found, a, b, low - 1, 0)
    if not tree_diff(found, NULL if a == NULL else <node_t*> a.child[0], high - 1, b, low):
        return False
    for i in range(1, NODE_FANOUT if a != NULL else 1):
        if not node_diff(found, <node_t*> a.child[i], NULL, high - 2, <uint64_t> i << ((high - 1) * NODE_BITS)):
            return False
    return True


cdef uint64_t node_own(node_t* node, uint32_t refs) noexcept nogil:
    """Count the frames below a node that go when it goes: its count is `refs`, and 1 every count on the way to them."""
    cdef uint64_t found = 0
    cdef int i
    if node == NULL or count_load(&node.refs) != refs:
        return 0
    for i in range(NODE_FANOUT):
        if node.child[i] == NULL:
            continue
        if node.level:
            found += node_own(<node_t*> node.child[i], 1)
        elif frame_alone(<frame_t*> node.child[i]):
            found += 1
    return found


cdef void leaving_add(leaving_t* leaving, frame_t* old, frame_t* new) noexcept nogil:
    cdef frame_t** grown
    if leaving.len + 2 > leaving.cap:
        grown = <frame_t**> realloc(NULL if leaving.pairs == leaving.first else leaving.pairs,
                                    2 * leaving.cap * sizeof(frame_t*))
        if grown == NULL:
            leaving.lost = True
            return
        if leaving.pairs == leaving.first:
            memcpy(grown, leaving.first, leaving.len * sizeof(frame_t*))
        leaving.pairs = grown
        leaving.cap *= 2
    leaving.pairs[leaving.len] = old
    leaving.pairs[leaving.len + 1] = new
    leaving.len += 2


cdef void node_leave(ram_t* ram, node_t* old, node_t* new, uint32_t level, leaving_t* leaving) noexcept nogil:
    """Go from the pages below one node to those below another (either may be absent): note the frames, and count."""
    cdef uint32_t i
    cdef void* x
    cdef void* y
    for i in range(<uint32_t> NODE_FANOUT):
        x = NULL if old == NULL else old.child[i]
        y = NULL if new == NULL else new.child[i]
        if x == y:
            continue
        if level:
            node_leave(ram, <node_t*> x, <node_t*> y, level - 1, leaving)
            continue
        if x != NULL:
            # Of frames whose bytes are not there nothing is cached, and nothing is compared with them.
            if not is_lazy(<frame_t*> x):
                leaving_add(leaving, <frame_t*> x, NULL if y == NULL or is_lazy(<frame_t*> y) else <frame_t*> y)
            ram.resident -= 1
            ram.owned -= (<frame_t*> x).owner == ram.id
        if y != NULL:
            ram.resident += 1
            ram.owned += (<frame_t*> y).owner == ram.id


cdef void tree_restore(ram_t* ram, ram_t* to, bint count) noexcept nogil:
    """Take a root's content, or none with NULL; frames that both hold keep what is cached of them.

    Without `count` the caller knows how many of the frames are owned.
    """
    cdef node_t* old = ram.root
    cdef node_t* root = NULL if to == NULL else to.root
    cdef uint64_t resident = 0 if to == NULL else to.resident, ident = 0 if to == NULL else to.id
    cdef leaving_t leaving
    if old != root:
        leaving.pairs = leaving.first
        leaving.len, leaving.cap, leaving.lost = 0, 256, False
        if old == NULL and (not count or ram.stamp == ram.id):
            # Nothing goes, and if nothing was ever allocated here all that comes is others'.
            ram.resident = resident
        elif root == NULL and not count:
            ram.resident = 0
            leaving.lost = True
            leaving.len = 2     # whatever there was goes: nobody needs a list
        else:
            node_leave(ram, old, root, ram.levels - 1, &leaving)
        if ram.left != NULL and leaving.len:
            ram.left(ram.listener, NULL if leaving.lost else leaving.pairs, leaving.len // 2, ident == ram.came)
        if leaving.pairs != leaving.first:
            free(leaving.pairs)
        if root != NULL:
            count_inc(&root.refs)
        ram.root = root
        node_unref(old)
    ram_drain(ram)
    ram.came = ident
    ram.stamp = counter_add(&last_stamp, 1)


cdef void copy_out(ram_t* ram, uint64_t offset, uint8_t* to, uint64_t n) noexcept nogil:
    cdef uint64_t at, step
    cdef frame_t* frame
    while n:
        at = offset & (PAGE - 1)
        step = min(n, PAGE - at)
        frame = ram_page(ram, (ram.base + offset) >> PAGE_BITS)
        # SAFETY: at + step <= PAGE, and callers have checked the range.
        if frame == NULL:
            memset(to, 0, step)
        else:
            memcpy(to, frame.bytes + at, step)
        offset, to, n = offset + step, to + step, n - step


cdef ram_status_t own_range(ram_t* ram, uint64_t offset, const uint8_t* data, uint64_t n) noexcept nogil:
    """Own every page that `data` will change: all that can fail, before the first byte is stored.

    Zeros written to absent pages change nothing and take nothing. `data` NULL: all present pages of the range.
    """
    cdef uint64_t at, step, ppn
    cdef frame_t* frame
    cdef ram_status_t status
    while n:
        at = offset & (PAGE - 1)
        step = min(n, PAGE - at)
        ppn = (ram.base + offset) >> PAGE_BITS
        frame = ram_page(ram, ppn)
        if frame == NULL and ram.failed != NULL:
            return RAM_FAILED
        if frame != NULL or (data != NULL and memcmp(data, zeros, step)):
            status = own_slow(ram, index_of(ram, ppn), &frame, True)
            if status != RAM_OK:
                return status
        offset, n = offset + step, n - step
        if data != NULL:
            data += step
    return RAM_OK


cdef void copy_in(ram_t* ram, uint64_t offset, const uint8_t* data, uint64_t n) noexcept nogil:
    """Store into pages that own_range prepared."""
    cdef uint64_t at, step
    cdef frame_t* frame
    while n:
        at = offset & (PAGE - 1)
        step = min(n, PAGE - at)
        frame = ram_page(ram, (ram.base + offset) >> PAGE_BITS)
        if frame != NULL:
            memcpy(frame.bytes + at, data, step)
        offset, data, n = offset + step, data + step, n - step


cdef ram_status_t zero_range(ram_t* ram, uint64_t offset, uint64_t n) noexcept nogil:
    """Zero a range: whole pages become absent, unless a listener caches translations of them."""
    cdef uint64_t end = offset + n
    cdef uint64_t index, start, stop
    cdef bint whole
    cdef node_t* node
    cdef frame_t* frame
    cdef ram_status_t status
    cdef int doing
    for doing in range(2):      # first all that can fail
        index = tree_next(ram, offset >> PAGE_BITS)
        while index != NOWHERE and index << PAGE_BITS < end:
            start = max(offset, index << PAGE_BITS)
            stop = min(end, (index + 1) << PAGE_BITS)
            whole = stop - start == PAGE and ram.listener == NULL
            if not doing:
                status = RAM_OK
                if not whole:
                    status = own_slow(ram, index, &frame, True)
                elif path_own(ram, index) == NULL:
                    status = RAM_NOMEM
                if status != RAM_OK:
                    return status
            elif whole:
                node = path_own(ram, index)     # allocates nothing: the first pass has
                frame = <frame_t*> node.child[index & (NODE_FANOUT - 1)]
                node.child[index & (NODE_FANOUT - 1)] = NULL
                ram.resident -= 1
                ram.owned -= frame.owner == ram.id
                frame_unref(frame)
            else:
                frame = ram_page(ram, index + (ram.base >> PAGE_BITS))
                memset(frame.bytes + (start & (PAGE - 1)), 0, stop - start)
            index = tree_next(ram, index + 1)
    return RAM_OK


# ---- digests. Under the GIL: only what no running machine may write is ever marked, and marks are cleared by owners.

cdef int hash_into(const uint8_t* data, Py_ssize_t n, uint8_t* out) except -1:
    cdef bytes digest = blake3(PyMemoryView_FromMemory(<char*> data, n, PyBUF_READ)).digest()
    memcpy(out, PyBytes_AS_STRING(digest), DIGEST_BYTES)
    return 0


cdef int frame_need(frame_t* frame) except -1:
    """See to it that a frame has its bytes, or raise what keeps it from having them."""
    cdef void* failed = NULL
    if not frame_there(frame, &failed):
        raise_failed(&failed)
    return 0


cdef int frame_digest(frame_t* frame, uint8_t* out) except -1:
    """Write the digest of a frame: zeros for an absent frame and for one of zeros, else BLAKE3 of its bytes."""
    if frame == NULL:
        memset(out, 0, DIGEST_BYTES)
        return 0
    if not count_load(&frame.flags) & FRAME_DIGEST:
        frame_need(frame)
        if frame_is_zero(frame):
            memset(frame.digest, 0, DIGEST_BYTES)
        else:
            hash_into(frame.bytes, PAGE, frame.digest)
        flag_set(&frame.flags, FRAME_DIGEST)
    memcpy(out, frame.digest, DIGEST_BYTES)
    return 0


cdef int node_digest(node_t* node, uint8_t* out) except -1:
    """Write the digest of a node: zeros where all below is zeros, else BLAKE3 of its children's digests."""
    cdef uint8_t below[NODE_FANOUT * DIGEST_BYTES]
    cdef int i
    if node == NULL:
        memset(out, 0, DIGEST_BYTES)
        return 0
    if not node.has_digest:
        for i in range(NODE_FANOUT):
            if node.level:
                node_digest(<node_t*> node.child[i], &below[i * DIGEST_BYTES])
            else:
                frame_digest(<frame_t*> node.child[i], &below[i * DIGEST_BYTES])
        if memcmp(below, zeros, sizeof(below)) == 0:
            memset(node.digest, 0, DIGEST_BYTES)
        else:
            hash_into(below, sizeof(below), node.digest)
        node.has_digest = 1
    memcpy(out, node.digest, DIGEST_BYTES)
    return 0


cdef int node_verify(node_t* node, uint64_t index, list found) except -1:
    """List the pages below a node whose bytes are not those of the digest that was taken of them."""
    cdef uint8_t now[DIGEST_BYTES]
    cdef frame_t* frame
    cdef int i
    for i in range(NODE_FANOUT):
        if node.child[i] == NULL:
            continue
        if node.level:
            node_verify(<node_t*> node.child[i], index + (<uint64_t> i << (node.level * NODE_BITS)), found)
            continue
        frame = <frame_t*> node.child[i]
        if not count_load(&frame.flags) & FRAME_DIGEST:
            continue
        if frame_is_zero(frame):
            memset(now, 0, DIGEST_BYTES)
        else:
            hash_into(frame.bytes, PAGE, now)
        if memcmp(now, frame.digest, DIGEST_BYTES):
            found.append(index + i)
    return 0


cdef bytes tree_digest(node_t* root):
    """Return the digest of a tree's content, from its lowest level that reaches all pages which aren't zero."""
    cdef uint8_t out[DIGEST_BYTES]
    cdef node_t* top = root
    cdef bint beyond = False
    cdef int i
    while top != NULL and top.level:
        for i in range(1, NODE_FANOUT):
            node_digest(<node_t*> top.child[i], out)
            if memcmp(out, zeros, DIGEST_BYTES):
                beyond = True
                break
        if beyond:
            break
        top = <node_t*> top.child[0]
    node_digest(top, out)
    return blake3(b"pyvirt.ram.1" + (<char*> out)[:DIGEST_BYTES]).digest()


# ---- Python

cdef ram_api_t api
api.find = ram_page
api.own = ram_own
api.drain = ram_drain
api.pt_of = pt_of
api.set_code_free = set_code_free
api.unref = frame_unref
api.zeros = zeros


def api_capsule():
    """Return the table of functions on frames and trees, a PyCapsule "pyvirt.ram_api_t"."""
    return PyCapsule_New(&api, "pyvirt.ram_api_t", NULL)


def counters():
    """Return how many frames, nodes, page-table records and slabs are alive in the process: for tests of leaks."""
    return {"frames": live_frames, "nodes": live_nodes, "pts": live_pts, "slabs": live_slabs}


cdef void capsule_drop(object capsule) noexcept:
    cdef void* owner = PyCapsule_GetContext(capsule)
    if owner != NULL:
        Py_DECREF(<object> owner)


cdef class _Tree:
    """What a RAM that may be written and one that never changes have in common: the content."""

    cdef ram_t ram
    cdef bint closed
    cdef object __weakref__     # here, since a class that adds nothing else would not clear its weak references

    def __dealloc__(self):
        with nogil:
            ram_clear(&self.ram)
        lazy_bury(&graves)

    def raise_failed(self):
        """Raise what kept a page from being fetched since the last call; nothing: return."""
        raise_failed(&self.ram.failed)

    cdef int check(self, pa, n) except -1:
        """Refuse a closed tree, and a range that is not all inside."""
        if self.closed:
            raise ValueError(f"{type(self).__name__} at {self.ram.base:#x} is closed")
        if n < 0 or pa < self.ram.base or pa + n > self.ram.base + self.ram.size:
            raise IndexError(f"{n} bytes at {pa:#x} are not inside RAM {self.ram.base:#x}..."
                             f"{self.ram.base + self.ram.size:#x}")
        return 0

    @property
    def base(self):
        """Physical address of the first byte."""
        return self.ram.base

    @property
    def size(self):
        """Bytes declared, a multiple of 4096."""
        return self.ram.size

    @property
    def resident(self):
        """Frames in the tree, shared or not: 4 KiB of host memory each."""
        return self.ram.resident

    def read(self, pa, n):
        """Return `n` bytes from physical address `pa` on; IndexError outside."""
        self.check(pa, n)
        cdef uint64_t offset = pa - self.ram.base
        cdef uint64_t count = n
        cdef bytes data = PyBytes_FromStringAndSize(NULL, count)
        cdef uint8_t* to = <uint8_t*> PyBytes_AS_STRING(data)
        if count >= BULK:
            with nogil:
                copy_out(&self.ram, offset, to, count)
        else:
            copy_out(&self.ram, offset, to, count)
        raise_failed(&self.ram.failed)
        return data

    def pages(self):
        """Iterate over the physical page numbers, ascending, of pages that are not all zeros."""
        cdef uint64_t index = tree_next(&self.ram, 0)
        cdef uint64_t first = self.ram.base >> PAGE_BITS
        self.check(self.ram.base, 0)
        while index != NOWHERE:
            if not frame_is_zero(ram_page(&self.ram, first + index)):
                yield first + index
            raise_failed(&self.ram.failed)
            index = tree_next(&self.ram, index + 1)

    def digest(self):
        """Return 32 bytes that depend on the content alone.

        Absent pages and pages of zeros are equal, and so are RAMs of different sizes that hold the same. Frames and
        nodes keep their digest until written.
        """
        self.check(self.ram.base, 0)
        if self.ram.evict != NULL:
            self.ram.evict(self.ram.listener)
        return tree_digest(self.ram.root)

    def close(self):
        """Give everything back; closing twice is fine, use after it raises ValueError."""
        self.closed = True
        with nogil:
            ram_clear(&self.ram)
        lazy_bury(&graves)

    def __repr__(self):
        state = "closed" if self.closed else f"{self.ram.resident} frames"
        return f"<{type(self).__name__} {self.ram.base:#x}+{self.ram.size:#x}, {state}>"


@final
cdef class Root(_Tree):
    """One moment of a RAM, which never changes: one more reference to its tree. Made by `Ram.share()`."""

    cdef uint32_t lent      # RAMs that hold it only as long as somebody else does

    def __init__(self):
        raise TypeError("a Root is made by Ram.share()")

    def lend(self, int more):
        """Note that so many more (or less) RAMs hold this tree for nobody, waiting to be another machine's."""
        self.lent += more

    def diff(self, Root other not None):
        """Return the sorted physical page numbers whose content differs; shared subtrees are not visited.

        Raises ValueError if the two start at different addresses.
        """
        cdef list_t found = list_t(NULL, 0, 0, NULL)
        cdef Root a = self
        cdef Root b = other
        cdef bint done
        cdef size_t i
        cdef uint64_t first = self.ram.base >> PAGE_BITS
        self.check(self.ram.base, 0)
        other.check(other.ram.base, 0)
        if a.ram.base != b.ram.base:
            raise ValueError(f"a RAM at {a.ram.base:#x} can't be compared with one at {b.ram.base:#x}")
        if a.ram.levels < b.ram.levels:
            a, b = b, a
        try:
            with nogil:
                done = tree_diff(&found, a.ram.root, a.ram.levels, b.ram.root, b.ram.levels)
            raise_failed(&found.failed)
            if not done:
                raise MemoryError("the host has no memory for the list of changed pages")
            return [first + found.items[i] for i in range(found.len)]
        finally:
            free(found.items)

    @property
    def own(self):
        """Frames that come back when this root goes; the rest of `resident` is shared with RAMs and other roots."""
        return node_own(self.ram.root, 1 + self.lent)

    def verify(self):
        """Return the physical page numbers whose bytes are not those of the digest taken of them before.

        What had no digest yet has one from now on, so that the next call checks every page.
        """
        cdef list found = []
        self.check(self.ram.base, 0)
        if self.ram.root != NULL:
            node_verify(self.ram.root, self.ram.base >> PAGE_BITS, found)
            tree_digest(self.ram.root)
        return found


cdef int back_pages(ram_t* ram, source_t* source, const uint64_t* pages, const uint64_t* records, uint64_t count,
                    uint64_t group_pages) except -1:
    """Put lazy frames in absent pages. Entries are sorted by group: first counted, then placed."""
    cdef uint64_t i, at, group, entry
    cdef node_t* node
    cdef frame_t* frame
    cdef uint64_t* free_entry = <uint64_t*> malloc(source.groups * sizeof(uint64_t))
    if free_entry == NULL:
        raise MemoryError("the host has no memory for pages that are not there yet")
    for i in range(count):
        source.first[records[i] // group_pages + 1] += 1
    for group in range(source.groups):
        source.first[group + 1] += source.first[group]
    memcpy(free_entry, source.first, source.groups * sizeof(uint64_t))
    try:
        for i in range(count):
            node = path_own(ram, index_of(ram, pages[i]))
            frame = NULL if node == NULL else frame_new(0, False)
            if frame == NULL:
                raise MemoryError("the host has no memory for pages that are not there yet")
            at = index_of(ram, pages[i]) & (NODE_FANOUT - 1)
            if node.child[at] != NULL:
                frame_unref(frame)
                raise ValueError(f"page {pages[i]:#x} is not absent")
            group = records[i] // group_pages
            entry = free_entry[group]
            free_entry[group] += 1
            lazy_of(frame).source, lazy_of(frame).entry, lazy_of(frame).group = source, entry, group
            source.entries[entry].frame, source.entries[entry].at = frame, records[i] % group_pages
            source.live += 1
            frame.flags = FRAME_LAZY
            node.child[at] = frame
            ram.resident += 1
    finally:
        free(free_entry)
    return 0


cdef void source_done(source_t* source) noexcept:
    """Let a source go when its last frame does."""
    lazy_lock()
    source_drop(&graves, source)
    lazy_unlock()


@final
cdef class Ram(_Tree):
    """RAM of `size` bytes at physical address `base`, all zeros; it costs what is touched.

    `limit` is how many frames it may allocate and hold, 0 for no limit. Sizes and addresses are multiples of 4096.

    Direct writes are safe beside a core that caches code and translations (a frame that such a cache knows is replaced,
    and the core told), but break no LR/SC reservation: a machine writes through its core.
    """

    def __init__(self, base, size, limit=0):
        if self.ram.id:
            raise TypeError("a Ram is set up once")
        if base % PAGE or size % PAGE or base < 0 or size <= 0 or base + size > HIGHEST:
            raise ValueError(f"RAM of {size:#x} bytes at {base:#x}: both must be multiples of {PAGE}, size positive "
                             f"and the end not beyond {HIGHEST:#x}")
        self.ram.base = base
        self.ram.size = size
        self.ram.pages = self.ram.size >> PAGE_BITS
        self.ram.levels = 1
        while self.ram.pages > 1ULL << (self.ram.levels * NODE_BITS):
            self.ram.levels += 1
        self.ram.fail_after = -1
        self.ram.id = self.ram.stamp = counter_add(&last_stamp, 1)
        self.limit = limit

    @staticmethod
    def from_root(Root root not None, limit=0):
        """Return a new RAM with a root's content, sharing every frame until one of the two sides writes it."""
        root.check(root.ram.base, 0)
        cdef Ram made = Ram(root.base, root.size, limit)
        if root.ram.root != NULL:
            count_inc(&root.ram.root.refs)
        made.ram.root = root.ram.root
        made.ram.resident = root.ram.resident
        return made

    def share(self):
        """Return the present content as a Root, in constant time; what is written from now on is copied first."""
        self.check(self.ram.base, 0)
        if self.ram.evict != NULL:
            self.ram.evict(self.ram.listener)
        cdef Root made = Root.__new__(Root)
        made.ram.base = self.ram.base
        made.ram.size = self.ram.size
        made.ram.pages = self.ram.pages
        made.ram.levels = self.ram.levels
        made.ram.resident = self.ram.resident
        if self.ram.root != NULL:
            count_inc(&self.ram.root.refs)
        made.ram.root = self.ram.root
        self.ram.stamp = made.ram.id = counter_add(&last_stamp, 1)
        return made

    def restore(self, Root root not None):
        """Take a root's content, in the time of what differs; whatever listens loses what it cached of other frames.

        Raises ValueError when the root is of a RAM of another address or size. No core may be running on it.
        """
        self.check_like(root)
        with nogil:
            tree_restore(&self.ram, &root.ram, True)

    cdef int check_like(self, Root root) except -1:
        self.check(self.ram.base, 0)
        root.check(root.ram.base, 0)
        if root.ram.base != self.ram.base or root.ram.size != self.ram.size:
            raise ValueError(f"RAM of {self.ram.size:#x} bytes at {self.ram.base:#x} can't take the content of one of "
                             f"{root.ram.size:#x} at {root.ram.base:#x}")
        return 0

    def hold(self, Root root, *, tenant=0, owned=0, limit=0):
        """Become the RAM of another machine, which is `tenant` (0: a new one) and allocated `owned` frames of the root.

        Returns the tenant's number. With None for a root all pages are absent.
        """
        cdef uint64_t ident = tenant
        self.check(self.ram.base, 0)
        if root is None:
            with nogil:
                tree_restore(&self.ram, NULL, False)
        else:
            self.check_like(root)
            with nogil:
                tree_restore(&self.ram, &root.ram, False)
        lazy_bury(&graves)
        if self.ram.failed != NULL:
            Py_DECREF(<object> self.ram.failed)     # what the one before was not told any more
            self.ram.failed = NULL
        self.ram.id = ident if ident else counter_add(&last_stamp, 1)
        self.ram.owned = owned
        self.ram.limit = limit
        self.ram.fail_after = -1
        return self.ram.id

    @property
    def tenant(self):
        """The number under which it allocates frames."""
        return self.ram.id

    def back(self, fetch, pages, records, uint64_t group_pages):
        """Let pages, which are absent, be fetched when they are first touched.

        `pages` are physical page numbers and `records` where their content is, both buffers of 64-bit numbers: record r
        is page r % group_pages of what `fetch(r // group_pages)` returns. What it raises reaches who touched the page.
        """
        cdef const uint64_t[::1] which = pages
        cdef const uint64_t[::1] where = records
        cdef uint64_t count = which.shape[0]
        cdef uint64_t i, groups = 0
        cdef source_t* source
        self.check(self.ram.base, 0)
        if <uint64_t> where.shape[0] != count or not 0 < group_pages <= 1 << 20:
            raise ValueError(f"{count} pages, {where.shape[0]} records in groups of {group_pages}")
        for i in range(count):
            if index_of(&self.ram, which[i]) >= self.ram.pages:
                raise IndexError(f"page {which[i]:#x} is outside RAM {self.ram.base:#x}+{self.ram.size:#x}")
            groups = max(groups, where[i] // group_pages + 1)
        if groups > 1ULL << 40:
            raise ValueError(f"records are in {groups} groups; allowed: up to 2^40")
        source = source_new(<PyObject*> fetch, groups, count)
        if source == NULL:
            raise MemoryError(f"the host has no memory for {count} pages that are not there yet")
        source.live = 1
        try:
            if count:
                back_pages(&self.ram, source, &which[0], &where[0], count, group_pages)
        finally:
            source_done(source)
            lazy_bury(&graves)

    @property
    def owned(self):
        """Frames in the tree that this RAM allocated itself: what `limit` bounds."""
        return self.ram.owned

    @property
    def limit(self):
        """How many frames it may allocate and hold, 0 for no limit; lowering it takes nothing back."""
        return self.ram.limit

    @limit.setter
    def limit(self, frames):
        if not 0 <= frames < 1 << 63:
            raise ValueError(f"limit is {frames}; it is a number of frames, 0 for no limit")
        self.ram.limit = frames

    @property
    def fail_after(self):
        """Fault injection: how many allocations succeed before one fails; negative for never."""
        return self.ram.fail_after

    @fail_after.setter
    def fail_after(self, int64_t allocations):
        self.ram.fail_after = allocations

    cdef int check_status(self, ram_status_t status, doing) except -1:
        if status == RAM_FAILED:
            raise_failed(&self.ram.failed)
        if status == RAM_QUOTA:
            raise MemoryError(f"{doing} needs more than the limit of {self.ram.limit} frames; "
                              f"{self.ram.owned} are owned")
        if status != RAM_OK:
            raise MemoryError(f"{doing}: the host has no memory to give")
        return 0

    def write(self, pa, data):
        """Store a bytes-like object at physical address `pa`.

        Raises IndexError outside, and MemoryError without having stored anything.
        """
        cdef Py_buffer view
        cdef uint64_t offset, count
        cdef ram_status_t status
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.check(pa, view.len)
            offset, count = pa - self.ram.base, view.len
            if count >= BULK:
                with nogil:
                    status = own_range(&self.ram, offset, <const uint8_t*> view.buf, count)
                    if status == RAM_OK:
                        copy_in(&self.ram, offset, <const uint8_t*> view.buf, count)
            else:
                status = own_range(&self.ram, offset, <const uint8_t*> view.buf, count)
                if status == RAM_OK:
                    copy_in(&self.ram, offset, <const uint8_t*> view.buf, count)
            self.check_status(status, f"writing {count} bytes at {pa:#x}" if status != RAM_OK else None)
        finally:
            PyBuffer_Release(&view)

    def zero(self, pa, n):
        """Store `n` zeros at physical address `pa`, giving back whole pages; raises as `write` does."""
        self.check(pa, n)
        cdef uint64_t offset = pa - self.ram.base
        cdef uint64_t count = n
        cdef ram_status_t status
        with nogil:
            status = zero_range(&self.ram, offset, count)
        self.check_status(status, f"zeroing {n} bytes at {pa:#x}" if status != RAM_OK else None)

    def capsule(self):
        """Return the C struct as a PyCapsule "pyvirt.ram_t", which keeps this object alive."""
        self.check(self.ram.base, 0)
        capsule = PyCapsule_New(&self.ram, "pyvirt.ram_t", <void (*)(object) noexcept> capsule_drop)
        PyCapsule_SetContext(capsule, <void*> <PyObject*> self)
        Py_INCREF(self)
        return capsule
