"""The bridge between the C contract of devices (bus.pxd) and Python: lines, clocks and register files.

Owns no machine state. `PyMmio` lets a Python object serve as a register file, `PyIrqLine` lets a Python callable
listen to a line, `IrqLine`, `Clock` and `Mmio` let Python drive what a capsule describes.
"""
from bus cimport (
    BUS_ERROR, BUS_FAULT, BUS_OK, capsule_new, capsule_open, clock_t, irq_line_t, mmio_t, notify_t,
)
from libc.stdint cimport uint32_t, uint64_t
cimport cython


class BusFault(Exception):
    """Raised by a Python device's `read` or `write`: the guest takes an access fault."""


def _capsule_of(source):
    """Accept a capsule, or an object whose `capsule()` makes one."""
    make = getattr(source, "capsule", None)
    return source if make is None else make()


@cython.final
cdef class IrqLine:
    """A level-triggered wire that Python can drive.

    Made from a "pyvirt.irq_line_t" capsule or from anything with a `capsule()` method that returns one.
    """
    cdef irq_line_t line
    cdef object owner
    cdef readonly bint level

    def __init__(self, source):
        self.owner = capsule_open(_capsule_of(source), &self.line, sizeof(irq_line_t), "pyvirt.irq_line_t")
        self.level = False

    def set(self, bint level):
        """Drive the line; every call reaches the listener, so that a restore can drive it anew."""
        self.level = level
        self.line.set(self.line.opaque, self.line.pin, level)

    def capsule(self):
        """Return a capsule of the wire itself, for a compiled device."""
        return capsule_new(&self.line, sizeof(irq_line_t), "pyvirt.irq_line_t", self.owner)

    def __repr__(self):
        return f"<IrqLine pin={self.line.pin} level={int(self.level)}>"


cdef void py_line_set(void* opaque, uint32_t pin, int level) noexcept with gil:
    (<PyIrqLine>opaque).callback(pin, bool(level))


@cython.final
cdef class PyIrqLine:
    """A wire whose listener is `callback(pin, level)`; its exceptions go to `sys.unraisablehook`."""
    cdef readonly object callback
    cdef readonly uint32_t pin

    def __init__(self, callback, uint32_t pin=0):
        if not callable(callback):
            raise TypeError(f"callback: expected a callable, found {callback!r}")
        self.callback, self.pin = callback, pin

    def capsule(self):
        cdef irq_line_t line
        line.opaque, line.pin, line.set = <void*>self, self.pin, py_line_set
        return capsule_new(&line, sizeof(irq_line_t), "pyvirt.irq_line_t", self)


@cython.final
cdef class Clock:
    """The machine's time base seen from Python: `now` in ticks of 10 MHz, read-only."""
    cdef clock_t clock
    cdef object owner

    def __init__(self, source):
        self.owner = capsule_open(_capsule_of(source), &self.clock, sizeof(clock_t), "pyvirt.clock_t")

    @property
    def now(self):
        return self.clock.now(self.clock.opaque)

    def capsule(self):
        return capsule_new(&self.clock, sizeof(clock_t), "pyvirt.clock_t", self.owner)


cdef uint64_t py_clock_now(void* opaque) noexcept with gil:
    return (<PyClock>opaque).now


cdef void py_clock_set_now(void* opaque, uint64_t ticks) noexcept with gil:
    (<PyClock>opaque).now = ticks


cdef uint64_t py_clock_get_timer(void* opaque, uint32_t hart) noexcept with gil:
    return (<PyClock>opaque).timers.get(hart, 0xffffffffffffffffULL)


cdef void py_clock_set_timer(void* opaque, uint32_t hart, uint64_t ticks) noexcept with gil:
    (<PyClock>opaque).timers[hart] = ticks


@cython.final
cdef class PyClock:
    """A clock that stands still until told otherwise, for devices that run without a machine.

    `now` is settable; `timers` maps a hart to its mtimecmp.
    """
    cdef public uint64_t now
    cdef readonly dict timers

    def __init__(self, uint64_t now=0):
        self.now, self.timers = now, {}

    def capsule(self):
        cdef clock_t clock
        clock.opaque, clock.now, clock.set_now = <void*>self, py_clock_now, py_clock_set_now
        clock.get_timer, clock.set_timer = py_clock_get_timer, py_clock_set_timer
        return capsule_new(&clock, sizeof(clock_t), "pyvirt.clock_t", self)


cdef void py_notify(void* opaque) noexcept with gil:
    (<PyNotify>opaque).callback()


@cython.final
cdef class PyNotify:
    """A "pyvirt.notify_t" that calls `callback()`; its exceptions go to `sys.unraisablehook`."""
    cdef readonly object callback

    def __init__(self, callback):
        self.callback = callback

    def capsule(self):
        cdef notify_t notify
        notify.opaque, notify.fn = <void*>self, py_notify
        return capsule_new(&notify, sizeof(notify_t), "pyvirt.notify_t", self)


cdef int py_mmio_check(PyMmio self, uint64_t offset, int width) noexcept:
    # Widths are a bit set by value: 1, 2, 4 and 8 are their own bits.
    if (width & self.widths) == 0 or (width & (width - 1)) != 0 or offset & <uint64_t>(width - 1):
        return BUS_FAULT
    if offset >= self.size or <uint64_t>width > self.size - offset:
        return BUS_FAULT
    return BUS_OK


cdef inline uint64_t cut(uint64_t value, int width) noexcept nogil:
    return value if width == 8 else value & ((<uint64_t>1 << (8 * width)) - 1)


cdef int py_mmio_read(void* opaque, uint64_t offset, int width, uint64_t* value) noexcept with gil:
    cdef PyMmio self = <PyMmio>opaque
    if py_mmio_check(self, offset, width) != BUS_OK:
        return BUS_FAULT
    self.touched = True
    try:
        found = self.device.read(offset, width)
        if not isinstance(found, int):
            raise TypeError(f"{self.device!r}: read({offset:#x}, {width}) returned {found!r}, expected an int")
        value[0] = cut(<uint64_t>(found & 0xffffffffffffffff), width)
        return BUS_OK
    except BusFault:
        return BUS_FAULT
    except BaseException as error:
        self.pending = error
        return BUS_ERROR


cdef int py_mmio_write(void* opaque, uint64_t offset, int width, uint64_t value) noexcept with gil:
    cdef PyMmio self = <PyMmio>opaque
    if py_mmio_check(self, offset, width) != BUS_OK:
        return BUS_FAULT
    self.touched = True
    try:
        self.device.write(offset, width, cut(value, width))
        return BUS_OK
    except BusFault:
        return BUS_FAULT
    except BaseException as error:
        self.pending = error
        return BUS_ERROR


@cython.final
cdef class PyMmio:
    """Serve an object with `read(offset, width) -> int` and `write(offset, width, value)` as a register file.

    `widths` and `size` (bytes) bound what reaches the object; they default to the object's own `widths` and to the
    size of its only region, else to every width and no bound. Anything else is an access fault in the guest, and so
    is a `BusFault` raised by the object. Any other exception is kept, unchanged, in `pending`; the access answers
    BUS_ERROR and whoever runs the machine raises what `take()` returns. `touched` turns True when an access reaches
    the object: until then it holds what it held when that was set to False.
    """
    cdef readonly object device
    cdef readonly int widths
    cdef readonly uint64_t size
    cdef public object pending
    cdef public bint touched

    def __init__(self, device, *, size=None, widths=None):
        regions = getattr(device, "regions", ())
        if size is None and len(regions) == 1:
            size = regions[0].size
        if widths is None:
            widths = getattr(device, "widths", (1, 2, 4, 8))
        for width in widths:
            if width not in (1, 2, 4, 8):
                raise ValueError(f"{device!r}: width {width!r} is not one of 1, 2, 4, 8")
        self.device = device
        self.widths = sum(set(widths))
        self.size = 0xffffffffffffffffULL if size is None else size
        self.pending = None
        self.touched = True

    def take(self):
        """Return the exception a guest access left here, and forget it; None if there is none."""
        pending, self.pending = self.pending, None
        return pending

    def mmio_capsule(self):
        cdef mmio_t mmio
        mmio.opaque, mmio.read, mmio.write = <void*>self, py_mmio_read, py_mmio_write
        return capsule_new(&mmio, sizeof(mmio_t), "pyvirt.mmio_t", self)


@cython.final
cdef class Mmio:
    """Access a register file as the bus does; `read` and `write` raise BusFault where a guest would fault.

    `source` is a "pyvirt.mmio_t" capsule or has `mmio_capsule()`.
    """
    cdef mmio_t mmio
    cdef object owner

    def __init__(self, source):
        make = getattr(source, "mmio_capsule", None)
        self.owner = capsule_open(source if make is None else make(), &self.mmio, sizeof(mmio_t), "pyvirt.mmio_t")

    cdef check(self, int status, uint64_t offset, int width):
        if status == BUS_FAULT:
            raise BusFault(f"no register of width {width} at offset {offset:#x}")
        if status == BUS_ERROR:
            raise self.owner.take()

    def read(self, uint64_t offset, int width):
        cdef uint64_t value = 0
        cdef int status
        with nogil:
            status = self.mmio.read(self.mmio.opaque, offset, width, &value)
        self.check(status, offset, width)
        return value

    def write(self, uint64_t offset, int width, uint64_t value):
        cdef int status
        with nogil:
            status = self.mmio.write(self.mmio.opaque, offset, width, value)
        self.check(status, offset, width)
