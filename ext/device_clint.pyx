"""The CLINT: software interrupts, timer compare and the time register of each hart (SiFive's layout, as in QEMU).

msip is this device's state. mtime and mtimecmp belong to the machine's clock (bus.pxd), so that the run loop sees the
next timer event without asking a device. Registers that do not exist are access faults.
"""
from bus cimport BUS_FAULT, BUS_OK, capsule_new, capsule_open, clock_t, irq_line_t, mmio_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
cimport cython


cdef enum:
    HARTS_MAX = 64
    MSIP = 0x0
    MTIMECMP = 0x4000
    MTIME = 0xBFF8
    SIZE = 0x10000


# No holes: its bytes are the packed state.
cdef struct clint_state_t:
    uint32_t version
    uint32_t harts
    uint8_t msip[HARTS_MAX]


cdef struct clint_t:
    clint_state_t state
    clock_t clock
    irq_line_t line[HARTS_MAX]


cdef int clint_read(void* opaque, uint64_t offset, int width, uint64_t* value) noexcept nogil:
    cdef clint_t* c = <clint_t*>opaque
    cdef uint64_t full
    if width not in (4, 8) or offset & <uint64_t>(width - 1) or offset >= SIZE:
        return BUS_FAULT
    if offset < 4 * <uint64_t>c.state.harts:
        value[0] = c.state.msip[offset >> 2]
        if width == 8 and (offset >> 2) + 1 < c.state.harts:
            value[0] |= <uint64_t>c.state.msip[(offset >> 2) + 1] << 32
        return BUS_OK
    if MTIMECMP <= offset < MTIMECMP + 8 * <uint64_t>c.state.harts:
        full = c.clock.get_timer(c.clock.opaque, <uint32_t>((offset - MTIMECMP) >> 3))
    elif offset >= MTIME and offset < MTIME + 8:
        full = c.clock.now(c.clock.opaque)
    else:
        return BUS_FAULT
    value[0] = full if width == 8 else (full >> (8 * (offset & 4))) & 0xffffffffULL
    return BUS_OK


cdef inline void clint_set_msip(clint_t* c, uint32_t hart, uint64_t value) noexcept nogil:
    if hart < c.state.harts:
        c.state.msip[hart] = value & 1
        c.line[hart].set(c.line[hart].opaque, c.line[hart].pin, c.state.msip[hart])


cdef inline uint64_t clint_merge(uint64_t old, uint64_t offset, int width, uint64_t value) noexcept nogil:
    """A 4-byte store replaces one half of a 64-bit register."""
    if width == 8:
        return value
    if offset & 4:
        return (old & 0xffffffffULL) | (value << 32)
    return (old & 0xffffffff00000000ULL) | (value & 0xffffffffULL)


cdef int clint_write(void* opaque, uint64_t offset, int width, uint64_t value) noexcept nogil:
    cdef clint_t* c = <clint_t*>opaque
    cdef uint32_t hart
    if width not in (4, 8) or offset & <uint64_t>(width - 1) or offset >= SIZE:
        return BUS_FAULT
    if offset < 4 * <uint64_t>c.state.harts:
        hart = <uint32_t>(offset >> 2)
        clint_set_msip(c, hart, value)
        if width == 8:
            clint_set_msip(c, hart + 1, value >> 32)
        return BUS_OK
    if MTIMECMP <= offset < MTIMECMP + 8 * <uint64_t>c.state.harts:
        hart = <uint32_t>((offset - MTIMECMP) >> 3)
        value = clint_merge(c.clock.get_timer(c.clock.opaque, hart), offset, width, value)
        c.clock.set_timer(c.clock.opaque, hart, value)
        return BUS_OK
    if offset >= MTIME and offset < MTIME + 8:
        c.clock.set_now(c.clock.opaque, clint_merge(c.clock.now(c.clock.opaque), offset, width, value))
        return BUS_OK
    return BUS_FAULT


cdef void line_open(void* opaque, uint32_t pin, int level) noexcept nogil:
    """The listener of an unconnected line."""


cdef uint64_t clock_stopped(void* opaque) noexcept nogil:
    return 0


cdef void clock_ignore(void* opaque, uint64_t ticks) noexcept nogil:
    """An unconnected clock can't be set."""


cdef uint64_t timer_never(void* opaque, uint32_t hart) noexcept nogil:
    return 0xffffffffffffffffULL


cdef void timer_ignore(void* opaque, uint32_t hart, uint64_t ticks) noexcept nogil:
    """An unconnected timer never fires."""


@cython.final
cdef class ClintRegs:
    """Registers and state of a CLINT for `harts` harts (at most 64)."""
    cdef clint_t c
    cdef object clock_owner
    cdef list line_owners

    def __init__(self, uint32_t harts=1):
        cdef int i
        if not 1 <= harts <= HARTS_MAX:
            raise ValueError(f"clint: harts is {harts}, expected 1..{HARTS_MAX}")
        memset(&self.c, 0, sizeof(clint_t))
        self.c.state.version, self.c.state.harts = 1, harts
        self.c.clock.now, self.c.clock.set_now = clock_stopped, clock_ignore
        self.c.clock.get_timer, self.c.clock.set_timer = timer_never, timer_ignore
        for i in range(HARTS_MAX):
            self.c.line[i].set = line_open
        self.line_owners = [None] * harts

    @property
    def harts(self):
        return self.c.state.harts

    def connect_clock(self, capsule):
        """Take time and timers from a "pyvirt.clock_t"."""
        self.clock_owner = capsule_open(capsule, &self.c.clock, sizeof(clock_t), "pyvirt.clock_t")

    def connect_line(self, uint32_t hart, capsule):
        """Drive MSIP of one hart through a "pyvirt.irq_line_t"."""
        if hart >= self.c.state.harts:
            raise IndexError(f"clint: hart {hart}, expected 0..{self.c.state.harts - 1}")
        self.line_owners[hart] = capsule_open(
            capsule, &self.c.line[hart], sizeof(irq_line_t), "pyvirt.irq_line_t")
        self.drive()

    def drive(self):
        """Drive every line to its level anew."""
        cdef uint32_t i
        for i in range(self.c.state.harts):
            self.c.line[i].set(self.c.line[i].opaque, self.c.line[i].pin, self.c.state.msip[i])

    def reset(self):
        memset(&self.c.state.msip[0], 0, HARTS_MAX)
        self.drive()

    def mmio_capsule(self):
        cdef mmio_t mmio
        mmio.opaque, mmio.read, mmio.write = <void*>&self.c, clint_read, clint_write
        return capsule_new(&mmio, sizeof(mmio_t), "pyvirt.mmio_t", self)

    @property
    def packed(self):
        """The state as bytes of one packed struct, same host byte order and version only."""
        return (<const char*>&self.c.state)[:sizeof(clint_state_t)]

    @packed.setter
    def packed(self, bytes data):
        cdef clint_state_t state
        cdef int i
        if len(data) != sizeof(clint_state_t):
            raise ValueError(f"clint: packed state has {len(data)} bytes, expected {sizeof(clint_state_t)}")
        memcpy(&state, <const char*>data, sizeof(clint_state_t))
        if state.version != 1 or state.harts != self.c.state.harts:
            raise ValueError(f"clint: packed state is version {state.version} for {state.harts} harts, "
                             f"expected version 1 for {self.c.state.harts}")
        for i in range(HARTS_MAX):
            state.msip[i] &= 1 if i < <int>state.harts else 0
        self.c.state = state
        self.drive()

    @property
    def fields(self):
        """The state as a dict of plain values; assigning restores it."""
        return {"msip": [self.c.state.msip[i] for i in range(self.c.state.harts)]}

    @fields.setter
    def fields(self, dict fields):
        cdef uint32_t i
        msip = fields["msip"]
        if len(msip) != self.c.state.harts or any(v not in (0, 1) for v in msip):
            raise ValueError(f"clint: state['msip'] is {msip!r}, expected {self.c.state.harts} values of 0 or 1")
        for i in range(self.c.state.harts):
            self.c.state.msip[i] = msip[i]
        self.drive()
