"""The PLIC: level-triggered gateways, priorities, and claim/complete for each context (RISC-V PLIC specification 1.0).

Contexts are M and S of each hart in turn, as in QEMU's virt machine. A gateway latches its request: once pending, a
source that falls stays pending until claimed (PLIC specification, "Interrupt Gateways"). Registers of sources that do
not exist read zero, as the specification defines their space; contexts that do not exist are access faults.
"""
from bus cimport BUS_FAULT, BUS_OK, capsule_new, capsule_open, irq_line_t, mmio_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
cimport cython


cdef enum:
    SOURCES_MAX = 127       # source 0 does not exist
    WORDS = 4               # bit sets over sources 0..127
    CONTEXTS_MAX = 128
    PRIORITY_MASK = 7
    PENDING = 0x1000
    ENABLE = 0x2000
    ENABLE_STRIDE = 0x80
    ENABLE_END = 0x1F2000
    CONTEXT = 0x200000
    CONTEXT_STRIDE = 0x1000
    SIZE = 0x600000


# Both structs have no holes: their bytes are the packed state.
cdef struct plic_context_t:
    uint32_t enable[WORDS]
    uint32_t threshold


cdef struct plic_state_t:
    uint32_t version
    uint32_t sources        # the highest source number
    uint32_t contexts
    uint32_t level[WORDS]   # what the wires carry
    uint32_t pending[WORDS]
    uint32_t claimed[WORDS]  # gateways that wait for a completion
    uint8_t priority[SOURCES_MAX + 1]
    plic_context_t context[CONTEXTS_MAX]


cdef struct plic_t:
    plic_state_t state
    irq_line_t line[CONTEXTS_MAX]
    uint8_t driven[CONTEXTS_MAX]


cdef uint32_t plic_best(plic_t* p, uint32_t ctx) noexcept nogil:
    """The pending and enabled source of highest priority, the lowest number among equals; 0 if there is none."""
    cdef uint32_t best = 0, bits, source
    cdef int word
    for word in range(WORDS):
        bits = p.state.pending[word] & p.state.context[ctx].enable[word]
        source = 32 * word
        while bits:
            # Priority 0 means "never interrupt", and priority[0] is 0, so a plain compare covers both rules.
            if bits & 1 and p.state.priority[source] > p.state.priority[best]:
                best = source
            bits >>= 1
            source += 1
    return best


cdef void plic_update(plic_t* p) noexcept nogil:
    """Open the gateways of raised lines and drive each context's output."""
    cdef uint32_t ctx
    cdef int word
    cdef uint8_t out
    for word in range(WORDS):
        p.state.pending[word] |= p.state.level[word] & ~p.state.claimed[word]
    for ctx in range(p.state.contexts):
        out = p.state.priority[plic_best(p, ctx)] > p.state.context[ctx].threshold
        if out != p.driven[ctx]:
            p.driven[ctx] = out
            p.line[ctx].set(p.line[ctx].opaque, p.line[ctx].pin, out)


cdef void plic_source_set(void* opaque, uint32_t source, int level) noexcept nogil:
    cdef plic_t* p = <plic_t*>opaque
    cdef uint32_t bit = <uint32_t>1 << (source & 31)
    # SAFETY: source_line() makes lines of sources 1..sources only, at most SOURCES_MAX.
    if level:
        p.state.level[source >> 5] |= bit
    else:
        p.state.level[source >> 5] &= ~bit
    plic_update(p)


cdef uint32_t plic_claim(plic_t* p, uint32_t ctx) noexcept nogil:
    # The claim is not affected by the threshold (PLIC specification, "Interrupt Claim Process").
    cdef uint32_t source = plic_best(p, ctx)
    cdef uint32_t bit = <uint32_t>1 << (source & 31)
    if source:
        p.state.pending[source >> 5] &= ~bit
        p.state.claimed[source >> 5] |= bit
        plic_update(p)
    return source


cdef void plic_complete(plic_t* p, uint32_t ctx, uint64_t source) noexcept nogil:
    # A completion by a context for which the source is not enabled is ignored (same, "Interrupt Completion").
    cdef uint32_t bit = <uint32_t>1 << (source & 31)
    if source == 0 or source > p.state.sources or not p.state.context[ctx].enable[source >> 5] & bit:
        return
    p.state.claimed[source >> 5] &= ~bit
    plic_update(p)


cdef inline uint32_t plic_sources_mask(plic_t* p, uint64_t word) noexcept nogil:
    """Bits of one word that stand for sources."""
    cdef uint64_t top = p.state.sources + 1
    cdef uint32_t mask
    if 32 * word >= top:
        return 0
    mask = <uint32_t>0xffffffff if 32 * (word + 1) <= top else (<uint32_t>1 << (top - 32 * word)) - 1
    return mask & ~<uint32_t>1 if word == 0 else mask


cdef int plic_read(void* opaque, uint64_t offset, int width, uint64_t* value) noexcept nogil:
    cdef plic_t* p = <plic_t*>opaque
    cdef uint64_t ctx, word
    if width != 4 or offset & 3 or offset >= SIZE:
        return BUS_FAULT
    value[0] = 0
    if offset < PENDING:
        if (offset >> 2) <= p.state.sources:
            value[0] = p.state.priority[offset >> 2]
        return BUS_OK
    if offset < PENDING + 0x80:
        word = (offset - PENDING) >> 2
        if word < WORDS:
            value[0] = p.state.pending[word]
        return BUS_OK
    if offset >= ENABLE and offset < ENABLE_END:
        ctx, word = (offset - ENABLE) / ENABLE_STRIDE, ((offset - ENABLE) % ENABLE_STRIDE) >> 2
        if ctx >= p.state.contexts:
            return BUS_FAULT
        if word < WORDS:
            value[0] = p.state.context[ctx].enable[word]
        return BUS_OK
    if offset >= CONTEXT:
        ctx, word = (offset - CONTEXT) / CONTEXT_STRIDE, (offset - CONTEXT) % CONTEXT_STRIDE
        if ctx >= p.state.contexts or word > 4:
            return BUS_FAULT
        value[0] = p.state.context[ctx].threshold if word == 0 else plic_claim(p, <uint32_t>ctx)
        return BUS_OK
    return BUS_FAULT


cdef int plic_write(void* opaque, uint64_t offset, int width, uint64_t value) noexcept nogil:
    cdef plic_t* p = <plic_t*>opaque
    cdef uint64_t ctx, word
    if width != 4 or offset & 3 or offset >= SIZE:
        return BUS_FAULT
    value &= 0xffffffffULL
    if offset < PENDING:
        if 0 < (offset >> 2) <= p.state.sources:
            p.state.priority[offset >> 2] = value & PRIORITY_MASK
            plic_update(p)
        return BUS_OK
    if offset < PENDING + 0x80:
        return BUS_OK  # read-only
    if offset >= ENABLE and offset < ENABLE_END:
        ctx, word = (offset - ENABLE) / ENABLE_STRIDE, ((offset - ENABLE) % ENABLE_STRIDE) >> 2
        if ctx >= p.state.contexts:
            return BUS_FAULT
        if word < WORDS:
            p.state.context[ctx].enable[word] = <uint32_t>value & plic_sources_mask(p, word)
            plic_update(p)
        return BUS_OK
    if offset >= CONTEXT:
        ctx, word = (offset - CONTEXT) / CONTEXT_STRIDE, (offset - CONTEXT) % CONTEXT_STRIDE
        if ctx >= p.state.contexts or word > 4:
            return BUS_FAULT
        if word == 0:
            p.state.context[ctx].threshold = value & PRIORITY_MASK
            plic_update(p)
        else:
            plic_complete(p, <uint32_t>ctx, value)
        return BUS_OK
    return BUS_FAULT


cdef void line_open(void* opaque, uint32_t pin, int level) noexcept nogil:
    """The listener of an unconnected line."""


@cython.final
cdef class PlicRegs:
    """Registers and state of a PLIC with sources 1..`sources` (at most 127) and `contexts` outputs (at most 128)."""
    cdef plic_t p
    cdef list line_owners

    def __init__(self, uint32_t sources=96, uint32_t contexts=2):
        cdef int i
        if not 1 <= sources <= SOURCES_MAX:
            raise ValueError(f"plic: sources is {sources}, expected 1..{SOURCES_MAX}")
        if not 1 <= contexts <= CONTEXTS_MAX:
            raise ValueError(f"plic: contexts is {contexts}, expected 1..{CONTEXTS_MAX}")
        memset(&self.p, 0, sizeof(plic_t))
        self.p.state.version, self.p.state.sources, self.p.state.contexts = 1, sources, contexts
        for i in range(CONTEXTS_MAX):
            self.p.line[i].set = line_open
        self.line_owners = [None] * contexts

    @property
    def sources(self):
        return self.p.state.sources

    @property
    def contexts(self):
        return self.p.state.contexts

    def source_line(self, uint32_t source):
        """Return the "pyvirt.irq_line_t" of an interrupt source."""
        cdef irq_line_t line
        if not 1 <= source <= self.p.state.sources:
            raise IndexError(f"plic: source {source}, expected 1..{self.p.state.sources}")
        line.opaque, line.pin, line.set = <void*>&self.p, source, plic_source_set
        return capsule_new(&line, sizeof(irq_line_t), "pyvirt.irq_line_t", self)

    def connect_line(self, uint32_t ctx, capsule):
        """Drive a "pyvirt.irq_line_t" by a context."""
        if ctx >= self.p.state.contexts:
            raise IndexError(f"plic: context {ctx}, expected 0..{self.p.state.contexts - 1}")
        self.line_owners[ctx] = capsule_open(capsule, &self.p.line[ctx], sizeof(irq_line_t), "pyvirt.irq_line_t")
        self.drive()

    def drive(self):
        """Work out every output and drive it anew."""
        cdef uint32_t i
        plic_update(&self.p)
        for i in range(self.p.state.contexts):
            self.p.line[i].set(self.p.line[i].opaque, self.p.line[i].pin, self.p.driven[i])

    def reset(self):
        """Forget all but the levels of the wires, which belong to whoever drives them."""
        memset(&self.p.state.pending[0], 0, 4 * WORDS)
        memset(&self.p.state.claimed[0], 0, 4 * WORDS)
        memset(&self.p.state.priority[0], 0, SOURCES_MAX + 1)
        memset(&self.p.state.context[0], 0, CONTEXTS_MAX * sizeof(plic_context_t))
        self.drive()

    def mmio_capsule(self):
        cdef mmio_t mmio
        mmio.opaque, mmio.read, mmio.write = <void*>&self.p, plic_read, plic_write
        return capsule_new(&mmio, sizeof(mmio_t), "pyvirt.mmio_t", self)

    @property
    def packed(self):
        """The state as bytes of one packed struct, same host byte order and version only."""
        return (<const char*>&self.p.state)[:sizeof(plic_state_t)]

    @packed.setter
    def packed(self, bytes data):
        cdef plic_state_t state
        if len(data) != sizeof(plic_state_t):
            raise ValueError(f"plic: packed state has {len(data)} bytes, expected {sizeof(plic_state_t)}")
        memcpy(&state, <const char*>data, sizeof(plic_state_t))
        if state.version != 1 or state.sources != self.p.state.sources or state.contexts != self.p.state.contexts:
            raise ValueError(
                f"plic: packed state is version {state.version} of {state.sources} sources and {state.contexts} "
                f"contexts, expected version 1 of {self.p.state.sources} and {self.p.state.contexts}")
        self.p.state = state
        self.sanitise()
        self.drive()

    cdef void sanitise(self) noexcept:
        """Clear what no guest could have set, so that a made-up state obeys the rules of the registers."""
        cdef uint32_t mask
        cdef int word, i
        for word in range(WORDS):
            mask = plic_sources_mask(&self.p, word)
            self.p.state.level[word] &= mask
            self.p.state.pending[word] &= mask
            self.p.state.claimed[word] &= mask
            for i in range(CONTEXTS_MAX):
                self.p.state.context[i].enable[word] &= mask if i < <int>self.p.state.contexts else 0
        for i in range(SOURCES_MAX + 1):
            self.p.state.priority[i] &= PRIORITY_MASK if 0 < i <= <int>self.p.state.sources else 0
        for i in range(CONTEXTS_MAX):
            self.p.state.context[i].threshold &= PRIORITY_MASK if i < <int>self.p.state.contexts else 0

    @property
    def fields(self):
        """The state as a dict of plain values: bit sets as integers; assigning restores it."""
        return {
            "level": self.join(self.p.state.level),
            "pending": self.join(self.p.state.pending),
            "claimed": self.join(self.p.state.claimed),
            "priority": [self.p.state.priority[i] for i in range(self.p.state.sources + 1)],
            "enable": [self.join(self.p.state.context[i].enable) for i in range(self.p.state.contexts)],
            "threshold": [self.p.state.context[i].threshold for i in range(self.p.state.contexts)],
        }

    @fields.setter
    def fields(self, dict fields):
        cdef plic_state_t old = self.p.state
        cdef uint32_t i
        try:
            self.split(fields["level"], self.p.state.level)
            self.split(fields["pending"], self.p.state.pending)
            self.split(fields["claimed"], self.p.state.claimed)
            for name, expected in (("priority", self.p.state.sources + 1), ("enable", self.p.state.contexts),
                                   ("threshold", self.p.state.contexts)):
                if len(fields[name]) != expected:
                    raise ValueError(f"plic: state[{name!r}] has {len(fields[name])} values, expected {expected}")
            for i in range(self.p.state.sources + 1):
                self.p.state.priority[i] = fields["priority"][i]
            for i in range(self.p.state.contexts):
                self.split(fields["enable"][i], self.p.state.context[i].enable)
                self.p.state.context[i].threshold = fields["threshold"][i]
        except BaseException:
            self.p.state = old
            raise
        self.sanitise()
        self.drive()

    cdef join(self, const uint32_t* words):
        cdef object total = 0, word  # objects: the sum has more bits than any C integer
        cdef int i
        for i in range(WORDS):
            word = words[i]
            total += word << (32 * i)
        return total

    cdef split(self, value, uint32_t* words):
        cdef int i
        for i in range(WORDS):
            words[i] = (value >> 32 * i) & 0xffffffff
