"""The UART: a 16550A with FIFOs, registers one byte apart, as QEMU's virt machine has it.

Transmission takes no time: a byte written to THR is in the output buffer at once, and the holding register is empty
again. Received bytes wait in a host queue and enter the FIFO whenever it has room at a register access or at `send`,
so what a guest sees depends on its own accesses alone. The character timeout comes at once too: a FIFO below its
trigger level that holds anything asks for attention. Baud rate and line format are stored and have no effect.
"""
from bus cimport BUS_FAULT, BUS_OK, capsule_new, capsule_open, irq_line_t, mmio_t, notify_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
cimport cython


cdef enum:
    FIFO = 16
    TX_HIGH_WATER = 65536   # the output is asked to be drained from here on; past it, bytes are dropped

    RBR_THR = 0
    IER = 1
    IIR_FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7

    IER_RDI = 0x01
    IER_THRI = 0x02
    IER_RLSI = 0x04
    IER_MSI = 0x08
    IER_MASK = 0x0F

    IIR_NONE = 0x01
    IIR_MSI = 0x00
    IIR_THRI = 0x02
    IIR_RDI = 0x04
    IIR_RLSI = 0x06
    IIR_TIMEOUT = 0x0C
    IIR_FIFO = 0xC0

    FCR_ENABLE = 0x01
    FCR_CLEAR_RX = 0x02
    FCR_KEPT = 0xC9         # enable, DMA mode, trigger level; the clear bits clear themselves

    LCR_DLAB = 0x80

    MCR_DTR = 0x01
    MCR_RTS = 0x02
    MCR_OUT1 = 0x04
    MCR_OUT2 = 0x08
    MCR_LOOP = 0x10
    MCR_MASK = 0x1F

    LSR_DR = 0x01
    LSR_OE = 0x02
    LSR_BI = 0x10
    LSR_ERRORS = 0x1E
    LSR_THRE = 0x20
    LSR_TEMT = 0x40

    MSR_DELTA = 0x0F
    MSR_TERI = 0x04
    MSR_CTS = 0x10
    MSR_DSR = 0x20
    MSR_RI = 0x40
    MSR_DCD = 0x80


# No holes: its bytes, followed by the receive queue, are the packed state.
cdef struct uart_state_t:
    uint32_t version
    uint8_t ier
    uint8_t fcr
    uint8_t lcr
    uint8_t mcr
    uint8_t msr
    uint8_t scr
    uint8_t dll
    uint8_t dlm
    uint8_t errors          # LSR's sticky bits
    uint8_t thri            # "the holding register became empty" waits to be told
    uint8_t rx_head
    uint8_t rx_len
    uint8_t rx[FIFO]


cdef struct uart_t:
    uart_state_t state
    irq_line_t line
    int driven
    # Input that the FIFO has no room for: bytes head..tail of a buffer that only send() grows.
    uint8_t* queue
    size_t queue_head
    size_t queue_tail
    size_t queue_size
    # Output and what to do about it belong to the host and are no state.
    uint8_t* tx
    size_t tx_len
    uint64_t tx_dropped
    notify_t notify
    uint8_t interesting[32]


cdef inline uint32_t uart_capacity(uart_t* u) noexcept nogil:
    return FIFO if u.state.fcr & FCR_ENABLE else 1


cdef inline uint8_t uart_trigger(uart_t* u) noexcept nogil:
    if not u.state.fcr & FCR_ENABLE:
        return 1
    if u.state.fcr >> 6 == 0:
        return 1
    return 4 if u.state.fcr >> 6 == 1 else 8 if u.state.fcr >> 6 == 2 else 14


cdef void uart_receive(uart_t* u, uint8_t byte) noexcept nogil:
    if u.state.rx_len >= uart_capacity(u):
        u.state.errors |= LSR_OE
        return
    # SAFETY: rx_len < 16 here, and the mask keeps the index within rx.
    u.state.rx[(u.state.rx_head + u.state.rx_len) & (FIFO - 1)] = byte
    u.state.rx_len += 1


cdef void uart_refill(uart_t* u) noexcept nogil:
    """Move host input into the FIFO while there is room; loopback disconnects the input."""
    if u.state.mcr & MCR_LOOP:
        return
    while u.queue_head < u.queue_tail and u.state.rx_len < uart_capacity(u):
        uart_receive(u, u.queue[u.queue_head])
        u.queue_head += 1


cdef uint8_t uart_iir(uart_t* u) noexcept nogil:
    """The pending interrupt of highest priority."""
    if u.state.ier & IER_RLSI and u.state.errors:
        return IIR_RLSI
    if u.state.ier & IER_RDI and u.state.rx_len:
        return IIR_RDI if u.state.rx_len >= uart_trigger(u) else IIR_TIMEOUT
    if u.state.ier & IER_THRI and u.state.thri:
        return IIR_THRI
    if u.state.ier & IER_MSI and u.state.msr & MSR_DELTA:
        return IIR_MSI
    return IIR_NONE


cdef void uart_update(uart_t* u) noexcept nogil:
    cdef int level
    uart_refill(u)
    level = uart_iir(u) != IIR_NONE
    if level != u.driven:
        u.driven = level
        u.line.set(u.line.opaque, u.line.pin, level)


cdef uint8_t uart_modem_lines(uart_t* u) noexcept nogil:
    """MSR's upper half: the far end is always there; in loopback it is our own outputs."""
    cdef uint8_t mcr = u.state.mcr
    if not mcr & MCR_LOOP:
        return MSR_CTS | MSR_DSR | MSR_DCD
    return ((MSR_CTS if mcr & MCR_RTS else 0) | (MSR_DSR if mcr & MCR_DTR else 0)
            | (MSR_RI if mcr & MCR_OUT1 else 0) | (MSR_DCD if mcr & MCR_OUT2 else 0))


cdef void uart_set_mcr(uart_t* u, uint8_t value) noexcept nogil:
    cdef uint8_t lines, changed
    u.state.mcr = value & MCR_MASK
    lines = uart_modem_lines(u)
    changed = (lines ^ u.state.msr) >> 4
    # TERI reports the trailing edge of RI only.
    if lines & MSR_RI:
        changed &= ~MSR_TERI
    u.state.msr = lines | (u.state.msr & MSR_DELTA) | changed


cdef void uart_transmit(uart_t* u, uint8_t byte) noexcept nogil:
    if u.state.mcr & MCR_LOOP:
        uart_receive(u, byte)
        return
    if u.tx_len < TX_HIGH_WATER:
        u.tx[u.tx_len] = byte
        u.tx_len += 1
    else:
        u.tx_dropped += 1
    if u.notify.fn != NULL and (u.tx_len >= TX_HIGH_WATER or u.interesting[byte >> 3] >> (byte & 7) & 1):
        u.notify.fn(u.notify.opaque)


cdef int uart_read(void* opaque, uint64_t offset, int width, uint64_t* value) noexcept nogil:
    cdef uart_t* u = <uart_t*>opaque
    cdef uint8_t found = 0
    if width != 1 or offset > SCR:
        return BUS_FAULT
    uart_refill(u)
    if offset == RBR_THR:
        if u.state.lcr & LCR_DLAB:
            found = u.state.dll
        elif u.state.rx_len:
            found = u.state.rx[u.state.rx_head & (FIFO - 1)]
            u.state.rx_head = (u.state.rx_head + 1) & (FIFO - 1)
            u.state.rx_len -= 1
    elif offset == IER:
        found = u.state.dlm if u.state.lcr & LCR_DLAB else u.state.ier
    elif offset == IIR_FCR:
        found = uart_iir(u)
        if found == IIR_THRI:
            u.state.thri = 0
        if u.state.fcr & FCR_ENABLE:
            found |= IIR_FIFO
    elif offset == LCR:
        found = u.state.lcr
    elif offset == MCR:
        found = u.state.mcr
    elif offset == LSR:
        found = LSR_THRE | LSR_TEMT | u.state.errors | (LSR_DR if u.state.rx_len else 0)
        u.state.errors = 0
    elif offset == MSR:
        found = u.state.msr
        u.state.msr &= ~MSR_DELTA
    else:
        found = u.state.scr
    value[0] = found
    uart_update(u)
    return BUS_OK


cdef int uart_write(void* opaque, uint64_t offset, int width, uint64_t wide) noexcept nogil:
    cdef uart_t* u = <uart_t*>opaque
    cdef uint8_t value = wide & 0xff
    if width != 1 or offset > SCR:
        return BUS_FAULT
    if offset == RBR_THR:
        if u.state.lcr & LCR_DLAB:
            u.state.dll = value
        else:
            uart_transmit(u, value)
            u.state.thri = 1  # full and empty again at once
    elif offset == IER:
        if u.state.lcr & LCR_DLAB:
            u.state.dlm = value
        else:
            # Enabling the interrupt while the holding register is empty, which it always is, raises it.
            if value & IER_THRI and not u.state.ier & IER_THRI:
                u.state.thri = 1
            u.state.ier = value & IER_MASK
    elif offset == IIR_FCR:
        # A change of the enable bit clears the FIFOs; the other bits need it set.
        if (value ^ u.state.fcr) & FCR_ENABLE or (value & FCR_ENABLE and value & FCR_CLEAR_RX):
            u.state.rx_head, u.state.rx_len = 0, 0
        u.state.fcr = value & FCR_KEPT if value & FCR_ENABLE else 0
    elif offset == LCR:
        u.state.lcr = value
    elif offset == MCR:
        uart_set_mcr(u, value)
    elif offset == SCR:
        u.state.scr = value
    uart_update(u)
    return BUS_OK


cdef void line_open(void* opaque, uint32_t pin, int level) noexcept nogil:
    """The listener of an unconnected line."""


@cython.final
cdef class UartRegs:
    """Registers and state of one 16550A.

    `send`, `drain` and everything else here need the machine not to run, or to run in the calling thread.
    """
    cdef uart_t u
    cdef object line_owner
    cdef object notify_owner

    def __cinit__(self):
        memset(&self.u, 0, sizeof(uart_t))
        self.u.line.set = line_open
        self.u.tx = <uint8_t*>malloc(TX_HIGH_WATER)
        if self.u.tx == NULL:
            raise MemoryError()
        self.u.state.version = 1
        self.clear()

    def __dealloc__(self):
        free(self.u.tx)
        free(self.u.queue)

    cdef void clear(self) noexcept:
        memset(&self.u.state, 0, sizeof(uart_state_t))
        self.u.state.version = 1
        self.u.state.dll = 12  # what firmware would have set; no effect here
        self.u.state.msr = MSR_CTS | MSR_DSR | MSR_DCD

    def connect_line(self, capsule):
        """Drive a "pyvirt.irq_line_t"."""
        self.line_owner = capsule_open(capsule, &self.u.line, sizeof(irq_line_t), "pyvirt.irq_line_t")
        self.drive()

    def set_notify(self, capsule):
        """Call a "pyvirt.notify_t" when an interesting byte is sent or the output buffer is full; None stops that."""
        if capsule is None:
            self.u.notify.fn = NULL
            self.notify_owner = None
        else:
            self.notify_owner = capsule_open(capsule, &self.u.notify, sizeof(notify_t), "pyvirt.notify_t")

    @property
    def interesting(self):
        """The byte values whose transmission calls the notify function, as bytes in rising order."""
        return bytes(b for b in range(256) if self.u.interesting[b >> 3] >> (b & 7) & 1)

    @interesting.setter
    def interesting(self, values):
        cdef uint8_t b
        memset(&self.u.interesting[0], 0, 32)
        for b in bytes(values):
            self.u.interesting[b >> 3] |= 1 << (b & 7)

    def drive(self):
        """Drive the line to its level anew."""
        uart_update(&self.u)
        self.u.line.set(self.u.line.opaque, self.u.line.pin, self.u.driven)

    def reset(self):
        """Return the registers to power-on; the FIFO's content is lost, waiting input and output are kept."""
        self.clear()
        self.drive()

    def send(self, bytes data):
        """Queue input; it enters the FIFO as that has room."""
        self.enqueue(data)
        uart_update(&self.u)

    cdef enqueue(self, bytes data):
        cdef size_t need, size
        cdef uint8_t* grown
        if self.u.queue_head:
            memmove(self.u.queue, self.u.queue + self.u.queue_head, self.u.queue_tail - self.u.queue_head)
            self.u.queue_tail -= self.u.queue_head
            self.u.queue_head = 0
        need = self.u.queue_tail + len(data)
        if need > self.u.queue_size:
            size = 2 * need + 256
            grown = <uint8_t*>realloc(self.u.queue, size)
            if grown == NULL:
                raise MemoryError()
            self.u.queue, self.u.queue_size = grown, size
        memcpy(self.u.queue + self.u.queue_tail, <const char*>data, len(data))
        self.u.queue_tail = need

    def drain(self):
        """Return the bytes sent since the last call, and forget them."""
        data = (<const char*>self.u.tx)[:self.u.tx_len]
        self.u.tx_len = 0
        return data

    @property
    def tx_pending(self):
        """Bytes that wait for `drain`."""
        return self.u.tx_len

    @property
    def tx_dropped(self):
        """Bytes lost since power-on because nobody drained 64 KiB of output."""
        return self.u.tx_dropped

    @property
    def rx_pending(self):
        """Bytes of input that the guest has not read, in the FIFO or before it."""
        return self.u.queue_tail - self.u.queue_head + self.u.state.rx_len

    def mmio_capsule(self):
        cdef mmio_t mmio
        mmio.opaque, mmio.read, mmio.write = <void*>&self.u, uart_read, uart_write
        return capsule_new(&mmio, sizeof(mmio_t), "pyvirt.mmio_t", self)

    cdef bytes queued(self):
        if self.u.queue_head == self.u.queue_tail:
            return b""
        return (<const char*>self.u.queue)[self.u.queue_head:self.u.queue_tail]

    @property
    def packed(self):
        """The state as bytes: one struct, then the input that waits. Same host byte order and version only."""
        cdef uart_state_t state = self.u.state
        cdef uint32_t i
        # Canonical: the FIFO from slot 0 on, zeros behind it, so that equal content has equal bytes.
        memset(&state.rx[0], 0, FIFO)
        for i in range(state.rx_len):
            state.rx[i] = self.u.state.rx[(state.rx_head + i) & (FIFO - 1)]
        state.rx_head = 0
        return (<const char*>&state)[:sizeof(uart_state_t)] + self.queued()

    @packed.setter
    def packed(self, bytes data):
        cdef uart_state_t state
        if <size_t>len(data) < sizeof(uart_state_t):
            raise ValueError(f"uart: packed state has {len(data)} bytes, expected at least {sizeof(uart_state_t)}")
        memcpy(&state, <const char*>data, sizeof(uart_state_t))
        if state.version != 1:
            raise ValueError(f"uart: packed state is version {state.version}, expected 1")
        self.restore(state, data[sizeof(uart_state_t):])

    cdef restore(self, uart_state_t state, bytes queue):
        """Take a state, made obey the rules of the registers, and the input that waits."""
        state.ier &= IER_MASK
        state.fcr = state.fcr & FCR_KEPT if state.fcr & FCR_ENABLE else 0
        state.mcr &= MCR_MASK
        state.errors &= LSR_ERRORS
        state.thri &= 1
        state.rx_head &= FIFO - 1
        state.rx_len = min(state.rx_len, <uint8_t>(FIFO if state.fcr & FCR_ENABLE else 1))
        self.u.queue_head = self.u.queue_tail = 0
        self.enqueue(queue)
        self.u.state = state
        self.u.state.msr = (state.msr & MSR_DELTA) | uart_modem_lines(&self.u)
        self.drive()

    @property
    def fields(self):
        """The state as a dict of plain values; assigning restores it."""
        cdef uart_state_t* s = &self.u.state
        return {
            "ier": s.ier, "fcr": s.fcr, "lcr": s.lcr, "mcr": s.mcr, "msr": s.msr, "scr": s.scr,
            "dll": s.dll, "dlm": s.dlm, "errors": s.errors, "thri": s.thri,
            "rx": bytes(s.rx[(s.rx_head + i) & (FIFO - 1)] for i in range(s.rx_len)),
            "rx_queue": self.queued(),
        }

    @fields.setter
    def fields(self, dict fields):
        cdef uart_state_t state
        cdef bytes rx = fields["rx"]
        cdef uint32_t i
        memset(&state, 0, sizeof(uart_state_t))
        state.version = 1
        state.ier, state.fcr, state.lcr, state.mcr = fields["ier"], fields["fcr"], fields["lcr"], fields["mcr"]
        state.msr, state.scr, state.dll, state.dlm = fields["msr"], fields["scr"], fields["dll"], fields["dlm"]
        state.errors, state.thri = fields["errors"], fields["thri"]
        if len(rx) > FIFO:
            raise ValueError(f"uart: state['rx'] has {len(rx)} bytes, expected at most {FIFO}")
        for i in range(<uint32_t>len(rx)):
            state.rx[i] = rx[i]
        state.rx_len = <uint8_t>len(rx)
        self.restore(state, fields["rx_queue"])
