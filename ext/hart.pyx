"""What Python sees of the core: `Core`, a machine's harts, clock, bus and caches. One hart is seen by view.pyx.

Owns their lifetime, the checks of what comes from Python, and the wires through which devices reach harts. Knows
devices only as register files and wires.
"""
from bus cimport capsule_new, capsule_open, clock_t, irq_line_t, mmio_t, notify_t
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cython cimport final
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

import os
from time import monotonic

from arch cimport *
from cache cimport *
from ram cimport RAM_OK, frame_t, ram_api_t, ram_t
from state cimport STATE_VERSION, clock_state_t, hart_state_t

from pyvirt import (
    _access, _bus, _csr, _decode, _fence, _hart_fused, _hart_switch, _hart_threaded, _memory, _mmu, _run, _tlb, _trap,
    _view,
)


cdef enum:
    SLICE_MIN = 50000       # instructions between two looks at signals; adapted to take some 10 ms
    SLICE_MAX = 16000000
    QUANTUM = 2000
    CHUNKS_MAX = 32768      # of 4 KiB: decoded code that a guest may make this machine keep; a Linux boot needs 2,000


ctypedef void (*fill_fn)(core_api_t* api) noexcept nogil

cdef core_api_t api
cdef const ram_api_t* mem_api


cdef load_api():
    global mem_api
    memset(&api, 0, sizeof(api))
    for module in (_tlb, _mmu, _access, _decode, _fence, _csr, _trap, _hart_threaded, _hart_fused, _hart_switch, _run):
        (<fill_fn>PyCapsule_GetPointer(module.api_capsule(), "pyvirt.fill"))(&api)
    if os.environ.get("PYVIRT_FUSION", "1") == "0":
        api.fused = NULL
    mem_api = <const ram_api_t*>PyCapsule_GetPointer(_memory.api_capsule(), "pyvirt.ram_api_t")
    mem_api.set_code_free(api.code_free)


load_api()
THREADED_WORKS = _hart_threaded.probe()

# Extensions that a machine may have or not: their bits in `Core(exts=)`.
EXTENSIONS = {
    "i": 1 << EXT_I, "m": 1 << EXT_M, "a": 1 << EXT_A, "f": 1 << EXT_F, "d": 1 << EXT_D, "c": 1 << EXT_C,
    "zicsr": 1 << EXT_ZICSR, "zifencei": 1 << EXT_ZIFENCEI, "zicntr": 1 << EXT_ZICNTR, "zihpm": 1 << EXT_ZIHPM,
    "zba": 1 << EXT_ZBA, "zbb": 1 << EXT_ZBB, "zbs": 1 << EXT_ZBS, "zicond": 1 << EXT_ZICOND,
    "zicbom": 1 << EXT_ZICBOM, "zicboz": 1 << EXT_ZICBOZ, "zicbop": 1 << EXT_ZICBOP,
    "zihintpause": 1 << EXT_ZIHINTPAUSE, "sstc": 1 << EXT_SSTC, "svinval": 1 << EXT_SVINVAL,
    "zbc": <uint64_t>1 << EXT_ZBC, "zbkb": <uint64_t>1 << EXT_ZBKB, "zbkx": <uint64_t>1 << EXT_ZBKX,
    "zcb": <uint64_t>1 << EXT_ZCB, "zimop": <uint64_t>1 << EXT_ZIMOP, "zcmop": <uint64_t>1 << EXT_ZCMOP,
    "zihintntl": <uint64_t>1 << EXT_ZIHINTNTL, "zawrs": <uint64_t>1 << EXT_ZAWRS,
    "zabha": <uint64_t>1 << EXT_ZABHA, "zacas": <uint64_t>1 << EXT_ZACAS, "zfa": <uint64_t>1 << EXT_ZFA,
    "zfhmin": <uint64_t>1 << EXT_ZFHMIN, "zfh": <uint64_t>1 << EXT_ZFH,
    "smstateen": 1 << EXT_SMSTATEEN, "svnapot": 1 << EXT_SVNAPOT, "svpbmt": 1 << EXT_SVPBMT, "svadu": 1 << EXT_SVADU,
    "s": 1 << EXT_S,
    "u": 1 << EXT_U, "h": 1 << EXT_H,
}


def choose_core() -> tuple[str, str]:
    """Return the core that new machines use and why: PYVIRT_CORE decides, else a probe of this build."""
    asked = os.environ.get("PYVIRT_CORE", "")
    if asked not in ("", "threaded", "switch"):
        raise ValueError(f"PYVIRT_CORE is {asked!r}; allowed: threaded, switch")
    if asked == "switch":
        return "switch", "PYVIRT_CORE asks for it"
    if not THREADED_WORKS:
        return "switch", "in this build handlers call instead of jump"
    return "threaded", "PYVIRT_CORE asks for it" if asked else "handlers jump in this build"


# ---- wires and clock --------------------------------------------------------------------------------------------
cdef void line_set(void* opaque, uint32_t pin, int level) noexcept nogil:
    """Drive a wire into mip: pin is hart * 64 + bit."""
    cdef machine_t* m = <machine_t*>opaque
    cdef hart_t* h = m.harts[pin >> 6]
    cdef uint64_t bit = <uint64_t>1 << (pin & 63)
    cdef uint64_t old = h.s.mip_line
    h.s.mip_line = old | bit if level else old & ~bit
    if h.s.mip_line != old:
        m.leave = 1


cdef void guest_line_set(void* opaque, uint32_t pin, int level) noexcept nogil:
    """Drive a guest external interrupt, a bit of hgeip: pin is hart * 64 + bit."""
    cdef machine_t* m = <machine_t*>opaque
    cdef hart_t* h = m.harts[pin >> 6]
    cdef uint64_t bit = <uint64_t>1 << (pin & 63)
    h.s.hgeip = h.s.hgeip | bit if level else h.s.hgeip & ~bit
    m.leave = 1


cdef uint64_t clock_now(void* opaque) noexcept nogil:
    cdef machine_t* m = <machine_t*>opaque
    return time_at(m, m.clock.icount)


cdef void clock_set_now(void* opaque, uint64_t ticks) noexcept nogil:
    cdef machine_t* m = <machine_t*>opaque
    m.clock.time_offset = <int64_t>(ticks - m.clock.icount // m.ratio)
    order_leave(m, STOP_NOTIFY)     # whoever runs the machine computes when devices' events are due anew


cdef uint64_t clock_get_timer(void* opaque, uint32_t hart) noexcept nogil:
    cdef machine_t* m = <machine_t*>opaque
    return m.harts[hart].s.mtimecmp if hart < m.nharts else 0


cdef void clock_set_timer(void* opaque, uint32_t hart, uint64_t ticks) noexcept nogil:
    cdef machine_t* m = <machine_t*>opaque
    if hart < m.nharts:
        m.harts[hart].s.mtimecmp = ticks
        m.leave = 1


cdef void notify(void* opaque) noexcept nogil:
    order_leave(<machine_t*>opaque, STOP_NOTIFY)


cdef void exit_notify(void* opaque) noexcept nogil:
    order_leave(<machine_t*>opaque, STOP_EXIT)


# ---- Python -----------------------------------------------------------------------------------------------------
STOPS = {
    STOP_LIMIT: "limit", STOP_REQUEST: "request", STOP_IDLE: "idle", STOP_MEMORY: "memory", STOP_ERROR: "error",
    STOP_NOTIFY: "notify", STOP_SBI: "sbi", STOP_TRAP_LOOP: "trap_loop", STOP_EXIT: "exit", STOP_SLICE: "slice",
    STOP_FIRMWARE: "firmware", STOP_AT: "at", STOP_TRAP: "trap", STOP_HYPER: "hyper",
    STOP_WATCH: "watch",
}


@final
cdef class Core:
    """The core of one machine.

    ram: a `pyvirt._memory.Ram`. harts: 1 to 4095. exts: bits of arch.pxd's ext_t. ratio: instructions per tick of the
    10 MHz time base. tlb_limit and code_limit bound caches, for tests: to so many pages in each TLB, and to so many
    4 KiB chunks of decoded code. Devices are mapped with `map`; addresses are checked by the board.
    """
    cdef machine_t m
    cdef readonly object ram
    cdef readonly list devices
    cdef object owners
    cdef object bridges
    cdef readonly bint running
    cdef uint64_t slice

    def __cinit__(self, ram, *, uint32_t harts=1, uint64_t exts, uint64_t satp_modes=0x700, uint32_t ratio=100,
                  uint32_t quantum=QUANTUM, bint builtin_sbi=False, str core=None, uint32_t tlb_limit=0,
                  uint64_t code_limit=CHUNKS_MAX,
                  bint transform=False, uint32_t vmid_bits=14, uint32_t geilen=0, object g_modes=None):
        cdef uint32_t i
        cdef hart_t* h
        if not 1 <= harts <= 4095:
            raise ValueError(f"harts is {harts}; allowed: 1 to 4095")
        if ratio < 1:
            raise ValueError(f"ratio is {ratio}; allowed: 1 and up")
        if code_limit < 1:
            raise ValueError(f"code_limit is {code_limit}; allowed: 1 and up")
        if tlb_limit > 64:
            raise ValueError(f"tlb_limit is {tlb_limit}; allowed: 0 (none) to 64")
        if core not in (None, "threaded", "switch"):
            raise ValueError(f"core is {core!r}; allowed: threaded, switch")
        self.ram = ram
        self.devices, self.owners, self.bridges = [], [], []
        self.slice = 1000000
        self.m.ram = <ram_t*>PyCapsule_GetPointer(ram.capsule(), "pyvirt.ram_t")
        self.m.mem = mem_api
        self.m.api = &api
        self.m.ram.listener = &self.m
        self.m.ram.replaced = api.replaced
        self.m.ram.evict = api.drop_writes
        self.m.ram.left = api.left
        self.m.ratio = ratio
        self.m.quantum = quantum
        self.m.builtin_sbi = builtin_sbi
        self.m.exts = exts
        self.m.xlen_modes = satp_modes
        if vmid_bits > 14:
            raise ValueError(f"vmid_bits is {vmid_bits}; allowed: 0 to 14")
        if geilen > 63:
            raise ValueError(f"geilen is {geilen}; allowed: 0 to 63")
        self.m.transform, self.m.geilen = transform, geilen
        self.m.g_modes = satp_modes if g_modes is None else g_modes
        self.m.vmid_mask = ((<uint64_t>1 << vmid_bits) - 1) << 44
        self.m.core = 1 if (core or choose_core()[0]) == "switch" else 0
        self.m.chunks_max = code_limit
        self.m.clock.version = STATE_VERSION
        self.m.clock.quantum_left = quantum
        self.m.harts = <hart_t**>calloc(harts, sizeof(hart_t*))
        if self.m.harts == NULL:
            raise MemoryError()
        for i in range(harts):
            h = <hart_t*>calloc(1, sizeof(hart_t))
            if h == NULL:
                raise MemoryError()
            self.m.harts[i] = h
            self.m.nharts = i + 1
            h.m = &self.m
            h.api = &api
            h.s.hartid = i
            h.cache = api.cache_new()
            if h.cache == NULL:
                raise MemoryError()
            h.cache.limit = tlb_limit
            self.hart_reset(h)

    def reset_hart(self, uint32_t i) -> None:
        """Put a hart in its state after power-on."""
        if i >= self.m.nharts:
            raise IndexError(f"hart {i}; allowed: 0...{self.m.nharts - 1}")
        self.hart_reset(self.m.harts[i])

    cdef void hart_reset(self, hart_t* h) noexcept:
        """Put a hart in its state after power-on (privileged manual, "Reset")."""
        cdef uint32_t hartid = h.s.hartid
        memset(&h.s, 0, sizeof(hart_state_t))
        h.s.version = STATE_VERSION
        h.s.hartid = hartid
        h.s.priv = PRIV_M
        h.s.mtimecmp = NEVER
        h.s.stimecmp = NEVER
        h.s.vstimecmp = NEVER
        if self.m.exts >> EXT_H & 1:
            h.s.mideleg = 0x1444
        h.icount_end = self.m.clock.icount
        h.count_end = 0
        self.refresh(h)

    cdef void refresh(self, hart_t* h) noexcept:
        """Bring the caches along after state was changed from outside."""
        api.status_changed(h)
        api.pmp_changed(h)
        h.bank_x = h.bank_d = NULL
        api.select(h)

    def __dealloc__(self):
        cdef uint32_t i
        if self.m.ram != NULL and self.m.ram.listener == &self.m:
            self.m.ram.listener = NULL
            self.m.ram.replaced = NULL
            self.m.ram.evict = NULL
            self.m.ram.left = NULL
        for i in range(self.m.nharts):
            if self.m.harts[i].cache != NULL:
                api.cache_free(self.m.harts[i].cache)
            free(self.m.harts[i])
        free(self.m.harts)
        free(self.m.regions)
        free(self.m.watches)
        free(self.m.breaks)
        free(self.m.records)
        free(self.m.fences)

    # -- the bus
    def map(self, uint64_t base, uint64_t size, device) -> None:
        """Place a register file at [base, base + size): an object with `mmio_capsule()`, or with read and write."""
        cdef uint32_t i, at = 0
        cdef region_t* regions
        bridge = None
        if not hasattr(device, "mmio_capsule"):
            bridge = _bus.PyMmio(device, size=size)
        capsule = (device if bridge is None else bridge).mmio_capsule()
        regions = <region_t*>realloc(self.m.regions, (self.m.nregions + 1) * sizeof(region_t))
        if regions == NULL:
            raise MemoryError()
        self.m.regions = regions
        while at < self.m.nregions and regions[at].base < base:
            at += 1
        if (at and regions[at - 1].base + regions[at - 1].size > base
                or at < self.m.nregions and base + size > regions[at].base):
            raise ValueError(f"{device!r} at {base:#x}+{size:#x} overlaps another device")
        for i in range(self.m.nregions, at, -1):
            regions[i] = regions[i - 1]
        self.owners.append(capsule_open(capsule, &regions[at].ops, sizeof(mmio_t), "pyvirt.mmio_t"))
        regions[at].base = base
        regions[at].size = size
        self.m.nregions += 1
        self.devices.append((base, size, device))
        if bridge is None and hasattr(device, "take"):
            bridge = device
        if bridge is not None:
            self.bridges.append(bridge)

    def irq_line(self, uint32_t hart, uint32_t bit) -> object:
        """Return a "pyvirt.irq_line_t" capsule that drives a bit of a hart's mip: 3 MSIP, 9 SEIP, 11 MEIP."""
        cdef irq_line_t line
        if hart >= self.m.nharts or bit not in (3, 9, 11):
            raise ValueError(f"no line hart={hart} bit={bit}; allowed: hart 0 to {self.m.nharts - 1}, bits 3, 9, 11")
        line.opaque, line.pin, line.set = &self.m, hart * 64 + bit, line_set
        return capsule_new(&line, sizeof(irq_line_t), "pyvirt.irq_line_t", self)

    def guest_line(self, uint32_t hart, uint32_t number) -> object:
        """Return a "pyvirt.irq_line_t" capsule that drives a guest external interrupt: a bit of a hart's hgeip."""
        cdef irq_line_t line
        if hart >= self.m.nharts or not 1 <= number <= self.m.geilen:
            raise ValueError(f"no line hart={hart} number={number}; allowed: hart 0 to {self.m.nharts - 1}, "
                             f"numbers from 1 to {self.m.geilen}, the machine's hgeie")
        line.opaque, line.pin, line.set = &self.m, hart * 64 + number, guest_line_set
        return capsule_new(&line, sizeof(irq_line_t), "pyvirt.irq_line_t", self)

    def clock(self) -> object:
        """Return a "pyvirt.clock_t" capsule of the machine's time base."""
        cdef clock_t clock
        clock.opaque, clock.now, clock.set_now = &self.m, clock_now, clock_set_now
        clock.get_timer, clock.set_timer = clock_get_timer, clock_set_timer
        return capsule_new(&clock, sizeof(clock_t), "pyvirt.clock_t", self)

    def notify(self) -> object:
        """Return a "pyvirt.notify_t" capsule: `run` comes back with stop "notify" behind the instruction."""
        cdef notify_t note
        note.opaque, note.fn = &self.m, notify
        return capsule_new(&note, sizeof(notify_t), "pyvirt.notify_t", self)

    @property
    def walks(self) -> tuple:
        """How many walks of page tables there were: (all, those of the G-stage that its cache did not save)."""
        return self.m.walks, self.m.g_walks

    def request_exit(self) -> None:
        """Make `run` come back with stop "exit" behind the current instruction; for devices that end the guest."""
        exit_notify(&self.m)

    # -- memory
    def mem_read(self, uint64_t pa, uint64_t n) -> bytes:
        """Read n bytes of RAM at pa. IndexError outside RAM."""
        return self.ram.read(pa, n)

    def mem_write(self, uint64_t pa, data) -> None:
        """Write RAM as DMA does: decoded code, translations and reservations over it go. IndexError outside RAM."""
        cdef const uint8_t[::1] view = memoryview(data).cast("B") if len(data) else None
        cdef uint64_t n = len(data)
        cdef int st, leave = self.m.leave, stop = self.m.stop
        cdef ram_t* ram = self.m.ram
        if pa < ram.base or pa - ram.base > ram.size or n > ram.size - (pa - ram.base):
            raise IndexError(f"{pa:#x}+{n:#x} is outside RAM {ram.base:#x}+{ram.size:#x}")
        if n == 0:
            return
        with nogil:
            st = self.own_range(pa, n)
            if st != ST_STOP:
                st = api.ram_store(&self.m, pa, &view[0], n)
        if st == ST_STOP:
            self.m.stop, self.m.leave = stop, leave
            self.ram.raise_failed()
            error = MemoryError(
                f"no memory for the page of {self.m.stop_addr:#x}: memory_limit is {self.m.ram.limit} frames")
            error.address = self.m.stop_addr  # a device on the way out makes stop_addr its own register's
            raise error
        if not self.running:
            self.m.stop, self.m.leave = stop, leave
            self.drain()

    cdef int own_range(self, uint64_t pa, uint64_t n) noexcept nogil:
        """Own every page of a range: all that can fail, before the first byte is stored."""
        cdef frame_t* frame
        cdef uint64_t ppn
        for ppn in range(pa >> 12, ((pa + n - 1) >> 12) + 1):
            if self.m.mem.own(self.m.ram, ppn, &frame) != RAM_OK:
                self.m.stop_addr = ppn << 12
                return ST_STOP
        return ST_OK

    cdef void drain(self) noexcept:
        if self.m.trim:
            api.code_trim(&self.m)
        if self.m.ram.limbo_len:
            self.m.mem.drain(self.m.ram)

    def bus_read(self, uint64_t pa, int width) -> int:
        """Read a device register, with its effects; IndexError where a guest would take an access fault."""
        cdef uint64_t value = 0
        cdef int st
        if width not in (1, 2, 4, 8):
            raise ValueError(f"width is {width}; allowed: 1, 2, 4, 8")
        with nogil:
            st = api.bus_read(&self.m, pa, width, &value)
        self.check_bus(st, pa, width)
        return value

    def bus_write(self, uint64_t pa, int width, uint64_t value) -> None:
        """Write a device register; IndexError where a guest would take an access fault."""
        cdef int st
        if width not in (1, 2, 4, 8):
            raise ValueError(f"width is {width}; allowed: 1, 2, 4, 8")
        with nogil:
            st = api.bus_write(&self.m, pa, width, value)
        self.check_bus(st, pa, width)

    cdef check_bus(self, int st, uint64_t pa, int width):
        if st == 1:
            raise IndexError(f"no device register of width {width} at {pa:#x}")
        if st == 2:
            self.raise_pending()

    cdef raise_pending(self):
        self.ram.raise_failed()
        for bridge in self.bridges:
            error = bridge.take()
            if error is not None:
                raise error
        raise RuntimeError("a device failed without saying why")

    # -- what ends a run early
    def stop_at(self, addresses) -> None:
        """From now on stop with "at" before a hart executes at one of these virtual addresses; not at this icount."""
        cdef uint32_t count = len(addresses)
        cdef uint64_t* breaks = NULL
        if count:
            breaks = <uint64_t*>calloc(count, sizeof(uint64_t))
            if breaks == NULL:
                raise MemoryError()
        free(self.m.breaks)
        self.m.breaks, self.m.nbreaks = breaks, 0
        for address in addresses:
            breaks[self.m.nbreaks] = address
            self.m.nbreaks += 1
        self.m.break_from = self.m.clock.icount
        api.drop_all(&self.m)

    def stop_on_traps(self, uint64_t exceptions, uint64_t interrupts) -> None:
        """From now on stop with "trap" behind the delivery of these causes, a bit each."""
        self.m.trap_stops[0], self.m.trap_stops[1] = exceptions, interrupts

    @property
    def hyper(self) -> bool:
        """Whether the host stands in for HS-mode software: traps into it are delivered and end the run ("hyper")."""
        return bool(self.m.hyper & HYPER_HOST)

    @hyper.setter
    def hyper(self, bint value) -> None:
        self.m.hyper = (self.m.hyper & ~HYPER_HOST) | (HYPER_HOST if value else 0)

    @property
    def hyper_guest(self) -> bool:
        """Whether traps into VS-mode end the run with "hyper" too, behind their delivery."""
        return bool(self.m.hyper & HYPER_GUEST)

    @hyper_guest.setter
    def hyper_guest(self, bint value) -> None:
        self.m.hyper = (self.m.hyper & ~HYPER_GUEST) | (HYPER_GUEST if value else 0)

    @property
    def check_fences(self) -> bool:
        """Whether the use of translations whose entries changed without a fence is noted; see `take_missing_fences`."""
        return self.m.fences != NULL

    @check_fences.setter
    def check_fences(self, bint value) -> None:
        free(self.m.fences)
        self.m.fences = NULL
        if value:
            self.m.fences = api.fences_new()
            if self.m.fences == NULL:
                raise MemoryError()

    def take_missing_fences(self) -> list:
        """Return and forget the missing fences noted, one tuple each.

        (entry address, old, new, va covered, bytes covered (0: several places), stage (0 S, 1 VS, 2 G), level,
        store pc, store icount, store hart, use va, use pc, use icount, use hart)
        """
        cdef uint32_t i
        cdef missing_t* r
        found = []
        if self.m.fences != NULL:
            for i in range(self.m.fences.nreports):
                r = &self.m.fences.reports[i]
                found.append((r.change.at, r.change.old, r.change.new, r.change.va, r.change.span, r.use_stage,
                              r.use_level, r.change.pc, r.change.icount, r.change.hart, r.use_va, r.use_pc,
                              r.use_icount, r.use_hart))
            self.m.fences.nreports = 0
        return found

    def record_traps(self, uint32_t capacity) -> None:
        """Keep traps and returns from now on, `capacity` at a time (0: none); a run comes back when that many wait."""
        free(self.m.records)
        self.m.records, self.m.nrecords, self.m.records_cap = NULL, 0, 0
        if capacity:
            self.m.records = <trap_record_t*>calloc(capacity + 16, sizeof(trap_record_t))
            if self.m.records == NULL:
                raise MemoryError()
            self.m.records_cap = capacity + 16

    def take_traps(self) -> list:
        """Return and forget the traps kept: (icount, pc, cause, tval, tval2, tinst, hgatp, from, to, gva, kind, hart).

        `kind` is 0 for a trap and 1 for a return. Worlds: U 0, S 1, M 3, VU 4, VS 5.
        """
        cdef uint32_t i
        cdef trap_record_t* r
        found = []
        for i in range(self.m.nrecords):
            r = &self.m.records[i]
            found.append((r.icount, r.pc, r.cause, r.tval, r.tval2, r.tinst, r.hgatp, r.from_, r.to, r.gva, r.kind,
                          r.hart))
        self.m.nrecords = 0
        return found

    def watch(self, address) -> None:
        """Stop with "notify" from now on behind stores to the aligned doubleword at pa `address`; None ends it."""
        self._watch([] if address is None else [(address & ~7, 8, WATCH_STORES)], STOP_NOTIFY)

    def stop_on_access(self, ranges) -> None:
        """From now on stop with "watch" behind accesses to (pa, size, kinds): 1 for loads, 2 for stores, 3 for both."""
        self._watch(ranges, STOP_WATCH)

    def _watch(self, ranges, int stop) -> None:
        """Replace what ends a run with this stop."""
        cdef uint32_t i, n = 0
        cdef watch_t* watches = <watch_t*>calloc(self.m.nwatches + len(ranges) + 1, sizeof(watch_t))
        if watches == NULL:
            raise MemoryError()
        for i in range(self.m.nwatches):
            if self.m.watches[i].stop != stop:
                watches[n] = self.m.watches[i]
                n += 1
        for pa, size, kinds in ranges:
            watches[n] = watch_t(pa=pa, end=pa + size, kinds=kinds, stop=stop)
            n += 1
        free(self.m.watches)
        self.m.watches, self.m.nwatches = watches, n
        api.drop_all(&self.m)

    # -- running
    def run(self, limit=None) -> str:
        """Run until icount `limit` (None: no end) or a stop, and return its name (see STOPS).

        Signals are looked at about every 10 ms; how often changes nothing a guest can notice. An exception of a Python
        device leaves unchanged, with the access not done; another run goes on from there.
        """
        cdef uint64_t end = NEVER if limit is None else limit
        cdef int stop
        cdef double began, took
        if self.running:
            raise RuntimeError("the core is running")
        self.running = True
        try:
            while True:
                self.m.limit = end if end - self.m.clock.icount < self.slice or end < self.m.clock.icount \
                    else self.m.clock.icount + self.slice
                began = monotonic()
                with nogil:
                    api.run(&self.m)
                took = monotonic() - began
                if took > 0.02 and self.slice > SLICE_MIN:
                    self.slice //= 2
                elif took < 0.005 and self.slice < SLICE_MAX and self.m.clock.icount == self.m.limit:
                    self.slice *= 2
                stop = self.m.stop
                self.m.stop = STOP_NONE
                if stop == STOP_LIMIT and self.m.clock.icount < end:
                    if not self.m.request:
                        check_signals()
                        continue
                    stop = STOP_REQUEST
                if stop == STOP_REQUEST:
                    self.m.request = 0
                if stop == STOP_ERROR:
                    self.raise_pending()
                return STOPS[stop]
        finally:
            self.running = False

    def stop(self) -> None:
        """Ask a running core, from any thread, to come back; a run not begun yet comes back at once."""
        self.m.request = 1
        self.m.leave = 1    # after the request: who clears it looks at the request next

    @property
    def icount(self) -> int:
        """Instructions attempted by all harts plus idle skips, since power-on."""
        return self.m.clock.icount

    @property
    def time(self) -> int:
        """Ticks of the 10 MHz time base; settable, as by a store to mtime."""
        return time_at(&self.m, self.m.clock.icount)

    @time.setter
    def time(self, uint64_t ticks) -> None:
        self.m.clock.time_offset = <int64_t>(ticks - self.m.clock.icount // self.m.ratio)

    @property
    def builtin_sbi(self) -> bool:
        """Whether traps to M-mode end the run with "sbi" or "firmware" instead of entering M-mode."""
        return bool(self.m.builtin_sbi)

    @builtin_sbi.setter
    def builtin_sbi(self, bint value) -> None:
        self.m.builtin_sbi = value

    @property
    def exts(self) -> int:
        """The extensions that the harts have: bits as in EXTENSIONS."""
        return self.m.exts

    @property
    def ratio(self) -> int:
        return self.m.ratio

    @property
    def core(self) -> str:
        """"threaded" or "switch"."""
        return "switch" if self.m.core else "threaded"

    @property
    def stop_addr(self) -> int:
        """Physical address that the last memory or error stop was about."""
        return self.m.stop_addr

    def idle_until(self, uint64_t icount) -> None:
        """Let time pass without instructions, up to `icount`; all harts must be waiting."""
        if icount > self.m.clock.icount:
            self.m.clock.icount = icount

    @property
    def current(self) -> int:
        """The hart whose turn it is: the one that a stop is about."""
        return self.m.clock.current

    @property
    def harts(self) -> int:
        return self.m.nharts

    def hart(self, uint32_t i) -> object:
        """Return a view of hart i."""
        if i >= self.m.nharts:
            raise IndexError(f"hart {i} of {self.m.nharts}")
        return _view.Hart(self, PyCapsule_New(<void*>self.m.harts[i], "pyvirt.hart_t", NULL))

    def evict(self) -> None:
        """Drop every cached translation; nothing a guest can notice changes."""
        api.drop_all(&self.m)

    # -- state
    @property
    def state(self) -> bytes:
        """The packed state of clock and harts; assigning one of the same size and version restores it.

        ValueError says what of a state no machine can be in; nothing has changed then.
        """
        cdef uint32_t i
        parts = [(<uint8_t*>&self.m.clock)[:sizeof(clock_state_t)]]
        for i in range(self.m.nharts):
            parts.append((<uint8_t*>&self.m.harts[i].s)[:sizeof(hart_state_t)])
        return b"".join(parts)

    @state.setter
    def state(self, bytes data) -> None:
        cdef uint32_t i
        cdef const uint8_t* at = data
        cdef uint64_t size = sizeof(clock_state_t) + self.m.nharts * sizeof(hart_state_t)
        if <uint64_t>len(data) != size:
            raise ValueError(f"core state has {len(data)} bytes; this machine of {self.m.nharts} harts needs {size}")
        if (<const clock_state_t*>at).version != STATE_VERSION:
            raise ValueError(f"core state has version {(<const clock_state_t*>at).version}; allowed: {STATE_VERSION}")
        if (<const clock_state_t*>at).current >= self.m.nharts:
            raise ValueError(f"core state has current hart {(<const clock_state_t*>at).current} of {self.m.nharts}")
        before = self.state
        self.put_state(at)
        for i in range(self.m.nharts):
            wrong = "hartid" if self.m.harts[i].s.hartid != i else self.wrong_state(self.m.harts[i])
            if wrong is not None:
                at = before
                self.put_state(at)
                raise ValueError(f"core state of hart {i}: no hart can be in a state with this {wrong}")

    def restore(self, bytes data) -> None:
        """Take a state that `state` of an equal machine gave, unchecked; translations that it leaves true are kept.

        RAM is restored before: its frames drop what was cached of them. ValueError when the size is another.
        """
        cdef const uint8_t* at = data
        cdef hart_state_t* new
        cdef hart_t* h
        cdef uint32_t i
        if <uint64_t>len(data) != sizeof(clock_state_t) + self.m.nharts * sizeof(hart_state_t):
            raise ValueError(f"core state has {len(data)} bytes; that is not of a machine of {self.m.nharts} harts")
        memcpy(&self.m.clock, at, sizeof(clock_state_t))
        at += sizeof(clock_state_t)
        for i in range(self.m.nharts):
            h = self.m.harts[i]
            new = <hart_state_t*>at
            keep = (memcmp(&h.s.pmpcfg[0], &new.pmpcfg[0], sizeof(h.s.pmpcfg)) == 0
                    and memcmp(&h.s.pmpaddr[0], &new.pmpaddr[0], sizeof(h.s.pmpaddr)) == 0
                    and ((h.s.menvcfg ^ new.menvcfg) | (h.s.henvcfg ^ new.henvcfg)) & (
                        <uint64_t>ENVCFG_PBMTE | <uint64_t>ENVCFG_ADUE) == 0)
            memcpy(&h.s, at, sizeof(hart_state_t))
            at += sizeof(hart_state_t)
            h.icount_end = self.m.clock.icount
            h.count_end = h.s.count
            if keep:
                api.status_changed(h)
                h.bank_x = h.bank_d = NULL
                api.select(h)
            else:
                self.refresh(h)
        self.m.stop = STOP_NONE
        self.m.trim = 0
        self.m.nrecords = 0
        if self.m.fences != NULL:
            # What is known of fences is of another history.
            memset(self.m.fences, 0, sizeof(fences_t))

    cdef str wrong_state(self, hart_t* h):
        cdef uint32_t csr = 0
        cdef const char* wrong = api.state_wrong(h, &csr)
        self.refresh(h)
        if wrong == NULL:
            return None
        return f"CSR {csr:#x}" if csr else wrong.decode()

    cdef void put_state(self, const uint8_t* at) noexcept:
        cdef uint32_t i
        memcpy(&self.m.clock, at, sizeof(clock_state_t))
        at += sizeof(clock_state_t)
        for i in range(self.m.nharts):
            memcpy(&self.m.harts[i].s, at, sizeof(hart_state_t))
            self.m.harts[i].icount_end = self.m.clock.icount
            self.m.harts[i].count_end = self.m.harts[i].s.count
            self.refresh(self.m.harts[i])
            at += sizeof(hart_state_t)


cdef check_signals():
    """Let Python handle signals (KeyboardInterrupt leaves from here) and other threads run."""
    PyErr_CheckSignals()
