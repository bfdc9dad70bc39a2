"""Two trees compared: what differs, what one has alone, and one put in the place of another, in time of what differs.

For memory.pyx alone, as frames.pxd.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from frames cimport *
from ram cimport *
from tree cimport *


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


cdef inline bint frame_is_zero(frame_t* frame) noexcept nogil:
    return frame == NULL or memcmp(frame.bytes, pool.zeros, PAGE) == 0


cdef inline bint list_add(list_t* found, uint64_t index) noexcept nogil:
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


cdef inline bint frames_equal(frame_t* a, frame_t* b) noexcept nogil:
    return memcmp(pool.zeros if a == NULL else a.bytes, pool.zeros if b == NULL else b.bytes, PAGE) == 0


cdef inline bint node_diff(list_t* found, node_t* a, node_t* b, uint32_t level, uint64_t index) noexcept nogil:
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


cdef inline bint tree_diff(list_t* found, node_t* a, uint32_t high, node_t* b, uint32_t low) noexcept nogil:
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


cdef inline uint64_t node_own(node_t* node, uint32_t refs) noexcept nogil:
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


cdef inline void leaving_add(leaving_t* leaving, frame_t* old, frame_t* new) noexcept nogil:
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


cdef inline void node_leave(ram_t* ram, node_t* old, node_t* new, uint32_t level, leaving_t* leaving) noexcept nogil:
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


cdef inline void tree_restore(ram_t* ram, ram_t* to, bint count) noexcept nogil:
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
    ram.stamp = counter_add(&pool.stamp, 1)
