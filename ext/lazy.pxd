"""Frames whose content is fetched when it is first touched, a group at a time: what a loaded snapshot is made of.

A lazy frame is counted, shared, copied and freed like every other; only its bytes are not there yet. A source knows the
lazy frames of a file by group. Whoever needs the bytes of one calls the source, with the GIL, and fills all frames of
the group that are alive; the file's owner checks what it hands over. What the call raises goes to who asked, the
frame stays lazy, and the next touch asks again.

lazy_mutex guards everything here, and no one takes the GIL while holding it. A source is freed by `lazy_bury`, with
the GIL, after the last of its frames is filled or freed.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ram cimport FRAME_LAZY, count_load, flag_clear, frame_t


cdef extern from * nogil:
    """
    #include <fenv.h>
    #include <pthread.h>
    static pthread_mutex_t lazy_mutex = PTHREAD_MUTEX_INITIALIZER;
    static void lazy_lock(void) { pthread_mutex_lock(&lazy_mutex); }
    static void lazy_unlock(void) { pthread_mutex_unlock(&lazy_mutex); }
    """
    ctypedef struct fenv_t:
        pass
    int feholdexcept(fenv_t* env)
    int fesetenv(const fenv_t* env)
    int fesetround(int mode)
    int FE_TONEAREST
    void lazy_lock()
    void lazy_unlock()


cdef extern from "Python.h":
    void Py_INCREF "Py_XINCREF"(PyObject* o)
    void Py_DECREF "Py_XDECREF"(PyObject* o)


cdef struct entry_t:
    frame_t* frame      # NULL: filled or freed
    uint64_t at         # which page of the group


cdef struct source_t:
    PyObject* fetch     # fetch(group) returns the bytes of the group's pages; owned
    uint64_t live       # lazy frames, and fetches under way
    uint64_t groups
    uint64_t* first     # where a group's entries begin, and where the last one's end
    entry_t* entries
    source_t* next      # among those to be buried


cdef struct lazy_t:     # in `digest` of a lazy frame, which has none
    source_t* source
    uint64_t entry
    uint64_t group


cdef inline bint is_lazy(frame_t* frame) noexcept nogil:
    return (count_load(&frame.flags) & FRAME_LAZY) != 0


cdef inline lazy_t* lazy_of(frame_t* frame) noexcept nogil:
    return <lazy_t*> &frame.digest[0]


cdef inline source_t* source_new(PyObject* fetch, uint64_t groups, uint64_t entries) noexcept:
    """Return a source of so many groups and frames, none of them set; NULL: no host memory."""
    cdef source_t* source = <source_t*> calloc(1, sizeof(source_t))
    if source == NULL:
        return NULL
    source.first = <uint64_t*> calloc(groups + 1, sizeof(uint64_t))
    source.entries = <entry_t*> calloc(entries + 1, sizeof(entry_t))
    if source.first == NULL or source.entries == NULL:
        free(source.first)
        free(source.entries)
        free(source)
        return NULL
    Py_INCREF(fetch)
    source.fetch = fetch
    source.groups = groups
    return source


cdef inline void source_drop(source_t** graves, source_t* source) noexcept nogil:
    """Count down, under the lock."""
    source.live -= 1
    if source.live == 0:
        source.next = graves[0]
        graves[0] = source


cdef inline void lazy_bury(source_t** graves) noexcept:
    """Free the sources that are not needed any more."""
    cdef source_t* source
    cdef source_t* after
    if graves[0] == NULL:
        return      # a stale look does no harm: the next one comes
    lazy_lock()
    source = graves[0]
    graves[0] = NULL
    lazy_unlock()
    while source != NULL:
        after = source.next
        Py_DECREF(source.fetch)
        free(source.first)
        free(source.entries)
        free(source)
        source = after


cdef inline void lazy_forget(source_t** graves, frame_t* frame) noexcept nogil:
    """Take a frame that is being freed out of its source."""
    cdef lazy_t* lazy = lazy_of(frame)
    lazy_lock()
    if is_lazy(frame):      # else another thread has filled it meanwhile, and the source may be gone
        lazy.source.entries[lazy.entry].frame = NULL
        flag_clear(&frame.flags, FRAME_LAZY)
        source_drop(graves, lazy.source)
    lazy_unlock()


cdef inline void group_fill(source_t** graves, source_t* source, uint64_t group, const uint8_t* data) noexcept nogil:
    """Fill the frames of a group, under the lock."""
    cdef uint64_t i
    cdef entry_t* entry
    for i in range(source.first[group], source.first[group + 1]):
        entry = &source.entries[i]
        if entry.frame == NULL:
            continue
        # SAFETY: the caller has checked that the group has more than `at` pages.
        memcpy(entry.frame.bytes, data + entry.at * 4096, 4096)
        flag_clear(&entry.frame.flags, FRAME_LAZY)      # after the bytes: who sees it cleared sees them
        entry.frame = NULL
        source_drop(graves, source)


cdef inline int group_fetch(source_t** graves, source_t* source, uint64_t group) except -1:
    """Ask for a group, check its size, and fill its frames."""
    cdef Py_buffer view
    cdef uint64_t i, most = 0
    data = (<object> source.fetch)(group)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        for i in range(source.first[group], source.first[group + 1]):
            most = max(most, source.entries[i].at)
        if <uint64_t> view.len < (most + 1) * 4096:
            raise ValueError(f"group {group} has {view.len} bytes, needed are {(most + 1) * 4096}")
        lazy_lock()
        group_fill(graves, source, group, <const uint8_t*> view.buf)
        lazy_unlock()
    finally:
        PyBuffer_Release(&view)
    return 0


cdef inline object lazy_fetch(source_t** graves, frame_t* frame):
    """Fetch a frame's group; returns None, or what went wrong.

    The guest's floating-point state, which the host's is while it runs, is put aside.
    """
    cdef source_t* source
    cdef uint64_t group
    cdef fenv_t env
    lazy_lock()
    if not is_lazy(frame):
        lazy_unlock()
        return None
    source, group = lazy_of(frame).source, lazy_of(frame).group
    source.live += 1
    lazy_unlock()
    feholdexcept(&env)
    fesetround(FE_TONEAREST)
    failure = None
    try:
        group_fetch(graves, source, group)
    except BaseException as error:     # noqa: B036 - also Ctrl-C: who asked raises it
        failure = error
    fesetenv(&env)
    lazy_lock()
    source_drop(graves, source)
    lazy_unlock()
    lazy_bury(graves)
    return failure
