"""The persistent tree over frames: nodes, the way to a page, and what may be written in place.

A node may be written in place when it carries its RAM's stamp, or when every count on the way to it is 1: then no other
tree can reach it. Copying a node counts its children up, so below a copied node nothing passes for unshared by mistake.
For memory.pyx alone, as frames.pxd.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from frames cimport *
from ram cimport *


# ---- nodes

cdef inline node_t* node_new(uint32_t level, uint64_t stamp) noexcept nogil:
    cdef node_t* node = <node_t*> calloc(1, sizeof(node_t))
    if node == NULL:
        return NULL
    node.refs = 1
    node.level = level
    node.stamp = stamp
    counter_add(&pool.nodes, 1)
    return node


cdef inline node_t* node_copy(node_t* old, uint64_t stamp) noexcept nogil:
    cdef node_t* node = node_new(old.level, stamp)
    cdef int i
    if node == NULL:
        return NULL
    memcpy(node.child, old.child, sizeof(node.child))
    for i in range(NODE_FANOUT):
        if node.child[i] != NULL:
            count_inc(&(<node_t*> node.child[i]).refs if node.level else &(<frame_t*> node.child[i]).refs)
    return node


cdef inline void node_unref(node_t* node) noexcept nogil:
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
    counter_add(&pool.nodes, -1)


# ---- trees

cdef inline bint fails(ram_t* ram) noexcept nogil:
    """Fault injection: say whether this allocation is the one to fail."""
    if ram.fail_after < 0:
        return False
    ram.fail_after -= 1     # at -1 it has failed, once
    return ram.fail_after < 0


cdef inline uint64_t index_of(ram_t* ram, uint64_t ppn) noexcept nogil:
    return ppn - (ram.base >> PAGE_BITS)    # wraps below base: outside as well


cdef inline node_t* path_own(ram_t* ram, uint64_t index) noexcept nogil:
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


cdef inline bint limbo_reserve(ram_t* ram) noexcept nogil:
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


cdef inline ram_status_t own_slow(ram_t* ram, uint64_t index, frame_t** out, bint anew) noexcept nogil:
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


cdef inline ram_status_t ram_own(ram_t* ram, uint64_t ppn, frame_t** out) noexcept nogil:
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


cdef inline frame_t* ram_page(ram_t* ram, uint64_t ppn) noexcept nogil:
    """Return a page's frame, with its bytes. NULL: absent (zeros), outside, or failed, if ram.failed is set."""
    cdef frame_t* frame = ram_find(ram, ppn)
    return frame if frame_there(frame, &ram.failed) else NULL


cdef inline void ram_drain(ram_t* ram) noexcept nogil:
    """Free the frames that were replaced while their code might be running."""
    while ram.limbo_len:
        ram.limbo_len -= 1
        frame_unref(ram.limbo[ram.limbo_len])


cdef inline void set_code_free(code_free_t function) noexcept nogil:
    pool.code_free = <void*> function


cdef inline void ram_clear(ram_t* ram) noexcept nogil:
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


cdef inline uint64_t tree_next(ram_t* ram, uint64_t index) noexcept nogil:
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


# ---- ranges of bytes

cdef inline void copy_out(ram_t* ram, uint64_t offset, uint8_t* to, uint64_t n) noexcept nogil:
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


cdef inline ram_status_t own_range(ram_t* ram, uint64_t offset, const uint8_t* data, uint64_t n) noexcept nogil:
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
        if frame != NULL or (data != NULL and memcmp(data, pool.zeros, step)):
            status = own_slow(ram, index_of(ram, ppn), &frame, True)
            if status != RAM_OK:
                return status
        offset, n = offset + step, n - step
        if data != NULL:
            data += step
    return RAM_OK


cdef inline void copy_in(ram_t* ram, uint64_t offset, const uint8_t* data, uint64_t n) noexcept nogil:
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


cdef inline ram_status_t zero_range(ram_t* ram, uint64_t offset, uint64_t n) noexcept nogil:
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
