"""The C contract of devices: register files, interrupt lines, clocks.

A compiled device hands these structs to the core in PyCapsules named after the struct ("pyvirt.mmio_t",
"pyvirt.irq_line_t", "pyvirt.clock_t", "pyvirt.notify_t"); nothing here knows a machine, and a device from
an outside package needs this file alone. Functions run without the GIL and must not raise: failure is a status.

Who keeps whom alive: a capsule made by `capsule_new` holds its owner, the object behind `opaque`. A consumer
copies the struct with `capsule_open`, stores the owner that it returns in an attribute of its own, and lets the
capsule go. So a machine, whose parts refer to each other in rings, stays visible to the garbage collector.
"""
from cpython.pycapsule cimport (
    PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New,
    PyCapsule_SetContext, PyCapsule_SetDestructor,
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef enum bus_status_t:
    BUS_OK = 0          # done
    BUS_FAULT = 1       # the guest takes an access fault (unmapped register, wrong width)
    BUS_ERROR = 2       # a Python exception is pending in the machine; run() stops before the access completes


cdef struct mmio_t:
    # One register file. offset is relative to its base; width is 1, 2, 4 or 8 and naturally aligned.
    void* opaque
    int (*read)(void* opaque, uint64_t offset, int width, uint64_t* value) noexcept nogil
    int (*write)(void* opaque, uint64_t offset, int width, uint64_t value) noexcept nogil


cdef struct irq_line_t:
    # A level-triggered wire from whoever drives it to whoever listens.
    void* opaque
    uint32_t pin
    void (*set)(void* opaque, uint32_t pin, int level) noexcept nogil


cdef struct clock_t:
    # The machine's time as a timer device sees it: ticks of the 10 MHz time base.
    void* opaque
    uint64_t (*now)(void* opaque) noexcept nogil
    void (*set_now)(void* opaque, uint64_t ticks) noexcept nogil
    # mtimecmp of one hart is hart state, so that the run loop sees the next event without asking a device.
    uint64_t (*get_timer)(void* opaque, uint32_t hart) noexcept nogil
    void (*set_timer)(void* opaque, uint32_t hart, uint64_t ticks) noexcept nogil


cdef struct notify_t:
    # Asks whoever runs the machine to leave after the current instruction.
    void* opaque
    void (*fn)(void* opaque) noexcept nogil


cdef inline void capsule_free(object capsule) noexcept:
    cdef const char* name = PyCapsule_GetName(capsule)
    cdef void* owner = PyCapsule_GetContext(capsule)
    free(PyCapsule_GetPointer(capsule, name))
    if owner != NULL:
        Py_DECREF(<object>owner)


cdef inline object capsule_new(const void* data, size_t size, const char* name, object owner):
    """Copy a contract struct into a capsule that keeps `owner` alive. `name` must be a C literal."""
    cdef void* copy = malloc(size)
    if copy == NULL:
        raise MemoryError()
    memcpy(copy, data, size)
    try:
        capsule = PyCapsule_New(copy, name, NULL)
    except BaseException:
        free(copy)
        raise
    Py_INCREF(owner)
    PyCapsule_SetContext(capsule, <void*>owner)
    PyCapsule_SetDestructor(capsule, capsule_free)
    return capsule


cdef inline object capsule_open(object capsule, void* data, size_t size, const char* name):
    """Copy the struct out of a capsule and return the object to keep alive while the copy is in use.

    Raises TypeError when `capsule` is no capsule of this name.
    """
    cdef void* owner
    if not PyCapsule_IsValid(capsule, name):
        raise TypeError(f"expected a PyCapsule named {name.decode()!r}, found {capsule!r}")
    memcpy(data, PyCapsule_GetPointer(capsule, name), size)
    owner = PyCapsule_GetContext(capsule)
    return <object>owner if owner != NULL else capsule
