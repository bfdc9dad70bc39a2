"""Guest memory as Python and the core get it: trees with digests, and the table of functions on them.

Owns every frame and node in the process (design, idea 1): frames.pxd has the pool, tree.pxd the nodes and the way to a
page, differ.pxd two trees compared; they are compiled here and nowhere else. A tree is a `ram_t`; `Ram` is one that may
be written, `Root` one that never changes. Between modules travel the C structs of ram.pxd only. Python-level errors
are IndexError (outside), MemoryError (host memory or quota) and ValueError (closed, wrong argument).
"""
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cython cimport final
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

import os

from blake3 import blake3

from differ cimport *
from frames cimport *
from lazy cimport lazy_bury, lazy_lock, lazy_of, lazy_unlock, source_drop, source_new, source_t
from ram cimport *
from tree cimport *


pool.zeros = zero_map()
if pool.zeros == NULL:
    raise MemoryError("the host has no page of memory to give")
pool.each_alone = os.environ.get("PYVIRT_FRAME_MALLOC", "") not in ("", "0")


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
        if memcmp(below, pool.zeros, sizeof(below)) == 0:
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
            if memcmp(out, pool.zeros, DIGEST_BYTES):
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
api.zeros = pool.zeros


def api_capsule():
    """Return the table of functions on frames and trees, a PyCapsule "pyvirt.ram_api_t"."""
    return PyCapsule_New(&api, "pyvirt.ram_api_t", NULL)


def counters():
    """Return how many frames, nodes, page-table records and slabs are alive in the process: for tests of leaks."""
    return {"frames": pool.frames, "nodes": pool.nodes, "pts": pool.pts, "slabs": pool.slabs}


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
        lazy_bury(<source_t**> &pool.graves)

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
        lazy_bury(<source_t**> &pool.graves)

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
    source_drop(<source_t**> &pool.graves, source)
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
        self.ram.id = self.ram.stamp = counter_add(&pool.stamp, 1)
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
        self.ram.stamp = made.ram.id = counter_add(&pool.stamp, 1)
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
        lazy_bury(<source_t**> &pool.graves)
        if self.ram.failed != NULL:
            Py_DECREF(<object> self.ram.failed)     # what the one before was not told any more
            self.ram.failed = NULL
        self.ram.id = ident if ident else counter_add(&pool.stamp, 1)
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
            lazy_bury(<source_t**> &pool.graves)

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
