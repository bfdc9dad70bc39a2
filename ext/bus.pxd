"""The C contract of devices: register files, interrupt lines, clocks.

A compiled device hands these structs to the core in PyCapsules named after the struct ("pyvirt.mmio_t",
"pyvirt.irq_line_t", "pyvirt.clock_t"); nothing here knows a machine, and a device from an outside
package needs this file alone. Functions run without the GIL and must not raise: failure is a status.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


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
