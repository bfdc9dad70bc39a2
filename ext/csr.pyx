# cython: boundscheck=False
"""Control and status registers: one row per CSR with its storage, masks and side effects.

A CSR without a row does not exist and raises illegal instruction. Owns WARL rules, the views (sstatus, sie, sip),
counters and timers as functions of icount, PMP registers, and the floating-point state that CSRs show.
Privileged manual, chapters "Control and Status Registers", "Machine-Level ISA", "Supervisor-Level ISA".

To add a CSR: a row in `build_table`, and a clause in `csr_get`/`csr_set` if storage and a mask are not all of it.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from arch cimport *
from cache cimport *
from fpenv cimport fp_clear, fp_enter, fp_harvest, fp_leave, fp_set_rounding
from state cimport HSM_STARTED, HSM_STOPPED, HSM_SUSPENDED, PMP_ENTRIES, STATE_VERSION, hart_state_t


cdef enum special_t:
    PLAIN = 0           # masked storage
    ZERO = 1            # reads as a constant, writes are ignored
    FCSR_PART = 2
    STATUS = 3
    SSTATUS_VIEW = 4
    MIE_ALL = 5
    SIE_VIEW = 6
    MIP_ALL = 7
    SIP_VIEW = 8
    SATP_REG = 9
    MENVCFG_REG = 10
    STIMECMP_REG = 11
    COUNTER = 12
    PMPCFG_REG = 13
    PMPADDR_REG = 14
    INHIBIT = 15
    DELEG = 16
    HARTID = 17
    ENVCFG_LOW = 18
    MISA_REG = 19
    MIDELEG_REG = 20
    VSSTATUS_REG = 21
    VSIE_VIEW = 22
    VSIP_VIEW = 23
    HIE_VIEW = 24
    HIP_VIEW = 25
    HGATP_REG = 26
    HSTATUS_REG = 27
    HENVCFG_REG = 28
    VSATP_REG = 29
    VSTIMECMP_REG = 30
    HGEIE_REG = 32
    LEAVING = 31            # masked storage that interrupts or time depend on
    HSTATEEN_REG = 33
    SSTATEEN_REG = 34


cdef struct csr_row_t:
    uint8_t present
    uint8_t special
    uint16_t offset         # in hart_state_t
    uint64_t mask           # writable bits, or the constant
    uint64_t exts           # ext_t bits the hart needs


cdef extern from *:
    """
    #define MSTATUS_WRITABLE 0x7e79aaULL
    #define SSTATUS_WRITABLE 0xc6122ULL
    #define SSTATUS_READABLE 0x80000003000de762ULL
    #define MSTATUS_FIXED 0xa00000000ULL
    #define MEDELEG_MASK 0xb3ffULL
    #define SINTERRUPTS 0x222ULL
    #define MINTERRUPTS 0xaaaULL
    #define VSINTERRUPTS 0x444ULL
    #define HINTERRUPTS 0x1444ULL
    #define HSTATUS_WRITABLE 0x7003c0ULL
    #define HEDELEG_MASK 0xb1ffULL
    #define MEDELEG_H 0xf00400ULL
    #define MENVCFG_MASK 0xe0000000000000f1ULL
    #define SENVCFG_MASK 0xf1ULL
    #define MXL_64 0x8000000000000000ULL
    #define PMPADDR_MASK 0x003fffffffffffffULL
    #define CSR_ALL 0xffffffffffffffffULL
    """
    const uint64_t MSTATUS_WRITABLE, SSTATUS_WRITABLE, SSTATUS_READABLE, MSTATUS_FIXED
    const uint64_t MEDELEG_MASK, SINTERRUPTS, MINTERRUPTS, MENVCFG_MASK, SENVCFG_MASK, MXL_64
    const uint64_t PMPADDR_MASK, CSR_ALL, VSINTERRUPTS, HINTERRUPTS, HSTATUS_WRITABLE, HEDELEG_MASK, MEDELEG_H


cdef csr_row_t table[4096]
cdef uint16_t stored[128]       # the CSRs that are words of hart_state_t
cdef int nstored = 0


cdef void row(int csr, int special, uint64_t* where, uint64_t mask, uint64_t exts) noexcept nogil:
    global nstored
    if where != NULL:
        stored[nstored] = <uint16_t>csr
        nstored += 1
    table[csr].present = 1
    table[csr].special = <uint8_t>special
    table[csr].offset = <uint16_t><uint64_t>where
    table[csr].mask = mask
    table[csr].exts = exts


cdef void build_table() noexcept nogil:
    """Fill the table: CSR, kind, storage, writable bits (or the constant), extensions needed."""
    cdef hart_state_t* s = NULL
    cdef int i
    cdef uint64_t smode = <uint64_t>1 << EXT_S, sstc = smode | <uint64_t>1 << EXT_SSTC
    cdef uint64_t hyp = smode | <uint64_t>1 << EXT_H, stateen = <uint64_t>1 << EXT_SMSTATEEN
    cdef uint64_t mask, fp = <uint64_t>1 << EXT_F, hpm = <uint64_t>1 << EXT_ZIHPM, cntr = <uint64_t>1 << EXT_ZICNTR
    row(CSR_FFLAGS, FCSR_PART, NULL, 0, fp)
    row(CSR_FRM, FCSR_PART, NULL, 0, fp)
    row(CSR_FCSR, FCSR_PART, NULL, 0, fp)
    row(CSR_CYCLE, COUNTER, NULL, 0, cntr)
    row(CSR_TIME, COUNTER, NULL, 0, cntr)
    row(CSR_INSTRET, COUNTER, NULL, 0, cntr)
    for i in range(29):
        row(CSR_HPMCOUNTER3 + i, COUNTER, NULL, 0, hpm)
        row(CSR_MHPMCOUNTER3 + i, ZERO, NULL, 0, 0)
        row(CSR_MHPMEVENT3 + i, ZERO, NULL, 0, 0)
    row(CSR_SSTATUS, SSTATUS_VIEW, NULL, 0, smode)
    row(CSR_SIE, SIE_VIEW, NULL, 0, smode)
    row(CSR_STVEC, PLAIN, &s.stvec, CSR_ALL & ~<uint64_t>2, smode)
    row(CSR_SCOUNTEREN, PLAIN, &s.scounteren, 0xFFFFFFFF, smode)
    row(CSR_SENVCFG, ENVCFG_LOW, &s.senvcfg, SENVCFG_MASK, smode)
    row(CSR_SSCRATCH, PLAIN, &s.sscratch, CSR_ALL, smode)
    row(CSR_SEPC, PLAIN, &s.sepc, CSR_ALL & ~<uint64_t>1, smode)
    row(CSR_SCAUSE, PLAIN, &s.scause, CSR_ALL, smode)
    row(CSR_STVAL, PLAIN, &s.stval, CSR_ALL, smode)
    row(CSR_SIP, SIP_VIEW, NULL, 0, smode)
    row(CSR_STIMECMP, STIMECMP_REG, &s.stimecmp, CSR_ALL, sstc)
    row(CSR_SATP, SATP_REG, &s.satp, CSR_ALL, smode)
    row(CSR_MVENDORID, ZERO, NULL, 0, 0)
    row(CSR_MARCHID, ZERO, NULL, 0, 0)
    row(CSR_MIMPID, ZERO, NULL, 0, 0)
    row(CSR_MHARTID, HARTID, NULL, 0, 0)
    row(CSR_MCONFIGPTR, ZERO, NULL, 0, 0)
    row(CSR_MSTATUS, STATUS, NULL, 0, 0)
    row(CSR_MISA, MISA_REG, NULL, 0, 0)
    row(CSR_MEDELEG, DELEG, &s.medeleg, MEDELEG_MASK, smode)
    row(CSR_MIDELEG, MIDELEG_REG, &s.mideleg, SINTERRUPTS, smode)
    row(CSR_MIE, MIE_ALL, &s.mie, MINTERRUPTS, 0)
    row(CSR_MTVEC, PLAIN, &s.mtvec, CSR_ALL & ~<uint64_t>2, 0)
    row(CSR_MCOUNTEREN, PLAIN, &s.mcounteren, 0xFFFFFFFF, 0)
    row(CSR_MENVCFG, MENVCFG_REG, &s.menvcfg, MENVCFG_MASK, 0)
    row(CSR_MSCRATCH, PLAIN, &s.mscratch, CSR_ALL, 0)
    row(CSR_MEPC, PLAIN, &s.mepc, CSR_ALL & ~<uint64_t>1, 0)
    row(CSR_MCAUSE, PLAIN, &s.mcause, CSR_ALL, 0)
    row(CSR_MTVAL, PLAIN, &s.mtval, CSR_ALL, 0)
    row(CSR_MIP, MIP_ALL, NULL, 0, 0)
    row(CSR_PMPCFG0, PMPCFG_REG, NULL, 0, 0)
    row(CSR_PMPCFG0 + 2, PMPCFG_REG, NULL, 0, 0)
    for i in range(PMP_ENTRIES):
        row(CSR_PMPADDR0 + i, PMPADDR_REG, NULL, PMPADDR_MASK, 0)
    for i in range(4):
        mask = STATEEN_SE | (STATEEN_ENVCFG if i == 0 else 0)
        row(CSR_MSTATEEN0 + i, PLAIN, &s.mstateen[i], mask, stateen)
        row(CSR_HSTATEEN0 + i, HSTATEEN_REG, &s.hstateen[i], mask, hyp | stateen)
        row(CSR_SSTATEEN0 + i, SSTATEEN_REG, NULL, 0, smode | stateen)
    row(CSR_HSTATUS, HSTATUS_REG, &s.hstatus, HSTATUS_WRITABLE, hyp)
    row(CSR_HEDELEG, DELEG, &s.hedeleg, HEDELEG_MASK, hyp)
    row(CSR_HIDELEG, LEAVING, &s.hideleg, VSINTERRUPTS, hyp)
    row(CSR_HIE, HIE_VIEW, NULL, 0, hyp)
    row(CSR_HIP, HIP_VIEW, NULL, 0, hyp)
    row(CSR_HVIP, LEAVING, &s.hvip, VSINTERRUPTS, hyp)
    row(CSR_HGEIE, HGEIE_REG, &s.hgeie, 0, hyp)
    row(CSR_HGEIP, PLAIN, &s.hgeip, 0, hyp)
    row(CSR_HTIMEDELTA, LEAVING, &s.htimedelta, CSR_ALL, hyp)
    row(CSR_HCOUNTEREN, PLAIN, &s.hcounteren, 0xFFFFFFFF, hyp)
    row(CSR_HENVCFG, HENVCFG_REG, &s.henvcfg, MENVCFG_MASK, hyp)
    row(CSR_HTVAL, PLAIN, &s.htval, CSR_ALL, hyp)
    row(CSR_HTINST, PLAIN, &s.htinst, CSR_ALL, hyp)
    row(CSR_HGATP, HGATP_REG, &s.hgatp, CSR_ALL, hyp)
    row(CSR_VSSTATUS, VSSTATUS_REG, NULL, 0, hyp)
    row(CSR_VSIE, VSIE_VIEW, NULL, 0, hyp)
    row(CSR_VSTVEC, PLAIN, &s.vstvec, CSR_ALL & ~<uint64_t>2, hyp)
    row(CSR_VSSCRATCH, PLAIN, &s.vsscratch, CSR_ALL, hyp)
    row(CSR_VSEPC, PLAIN, &s.vsepc, CSR_ALL & ~<uint64_t>1, hyp)
    row(CSR_VSCAUSE, PLAIN, &s.vscause, CSR_ALL, hyp)
    row(CSR_VSTVAL, PLAIN, &s.vstval, CSR_ALL, hyp)
    row(CSR_VSIP, VSIP_VIEW, NULL, 0, hyp)
    row(CSR_VSTIMECMP, VSTIMECMP_REG, &s.vstimecmp, CSR_ALL, hyp | sstc)
    row(CSR_VSATP, VSATP_REG, &s.vsatp, CSR_ALL, hyp)
    row(CSR_MTINST, PLAIN, &s.mtinst, CSR_ALL, hyp)
    row(CSR_MTVAL2, PLAIN, &s.mtval2, CSR_ALL, hyp)
    row(CSR_MCYCLE, COUNTER, NULL, 0, 0)
    row(CSR_MINSTRET, COUNTER, NULL, 0, 0)
    row(CSR_MCOUNTINHIBIT, INHIBIT, &s.mcountinhibit, 5, 0)


# ---- what follows from other state ------------------------------------------------------------------------------
cdef uint64_t mip_at(hart_t* h, uint64_t icount) noexcept nogil:
    """Return mip at a moment: software's bits, the wires, and the timers as functions of time."""
    cdef uint64_t now = time_at(h.m, icount)
    cdef uint64_t mip = h.s.mip_sw | h.s.mip_line
    if now >= h.s.mtimecmp:
        mip |= <uint64_t>1 << IRQ_MTI
    if h.s.menvcfg & ENVCFG_STCE or h.s.sbi_timer:
        # Sstc: STIP is read-only and follows stimecmp.
        mip &= ~(<uint64_t>1 << IRQ_STI)
        if now >= h.s.stimecmp:
            mip |= <uint64_t>1 << IRQ_STI
    mip |= h.s.hvip
    if h.s.hgeip:
        if h.s.hgeip >> ((h.s.hstatus & HSTATUS_VGEIN) >> HSTATUS_VGEIN_SHIFT) & 1:
            mip |= <uint64_t>1 << IRQ_VSEI
        if h.s.hgeip & h.s.hgeie:
            mip |= <uint64_t>1 << IRQ_SGEI
    if h.s.henvcfg & h.s.menvcfg & ENVCFG_STCE and now + h.s.htimedelta >= h.s.vstimecmp:
        mip |= <uint64_t>1 << IRQ_VSTI
    return mip


cdef inline uint64_t status_read(hart_t* h) noexcept nogil:
    cdef uint64_t v
    if h.fp_mode == 1:
        fp_sync(h)
    v = h.s.mstatus | MSTATUS_FIXED
    if (v & MSTATUS_FS) == MSTATUS_FS:
        v |= MSTATUS_SD
    return v


cdef void status_changed(hart_t* h) noexcept nogil:
    """Bring along what the hot path keeps of mstatus: the state of the floating-point unit."""
    cdef uint64_t fs = h.s.mstatus & MSTATUS_FS, guest
    if h.s.virt:
        # Both the guest's and the host's FS govern, and both turn dirty ("H", vsstatus).
        guest = h.s.vsstatus & MSTATUS_FS
        if not guest or not fs:
            fs = 0
        elif guest != MSTATUS_FS:
            fs = guest
    if fs == 0:
        h.fp_mode = 0
    elif fs == MSTATUS_FS and h.s.frm < 4:
        h.fp_mode = 2
    else:
        h.fp_mode = 1


cdef inline void fs_dirty(hart_t* h) noexcept nogil:
    h.s.mstatus |= MSTATUS_FS
    if h.s.virt:
        h.s.vsstatus |= MSTATUS_FS
    status_changed(h)


cdef void pmp_changed(hart_t* h) noexcept nogil:
    cdef int i
    h.pmp_on = 0
    for i in range(PMP_ENTRIES):
        if h.s.pmpcfg[i] & 0x18:
            h.pmp_on = 1
    h.api.drop_all(h.m)


# ---- floating-point state ---------------------------------------------------------------------------------------
cdef void fp_begin(hart_t* h) noexcept nogil:
    """Lend the host's floating-point environment to the hart."""
    h.fp_saved = fp_enter(h.s.frm)


cdef void fp_sync(hart_t* h) noexcept nogil:
    """Move the host's sticky flags into fflags; raising one is a change of fcsr and makes FS dirty."""
    cdef uint32_t flags = fp_harvest()
    if flags:
        h.s.fflags |= <uint8_t>flags
        fp_clear()
        fs_dirty(h)


cdef void fp_end(hart_t* h) noexcept nogil:
    fp_sync(h)
    fp_leave(h.fp_saved)


# ---- reading ----------------------------------------------------------------------------------------------------
cdef inline uint64_t counter_refused(hart_t* h, int bit) noexcept nogil:
    """Return the cause when mcounteren, hcounteren or scounteren keep a counter from the present world, else 0."""
    if h.s.priv == PRIV_M:
        return 0
    if not h.s.mcounteren >> bit & 1:
        return CAUSE_ILLEGAL
    if h.s.virt and not h.s.hcounteren >> bit & 1:
        return CAUSE_VIRTUAL
    if h.s.priv == PRIV_U and not h.s.scounteren >> bit & 1:
        return CAUSE_VIRTUAL if h.s.virt else CAUSE_ILLEGAL
    return 0


cdef inline uint64_t timer_refused(hart_t* h) noexcept nogil:
    """The same for stimecmp and vstimecmp, which also need STCE."""
    if h.s.priv == PRIV_M:
        return 0
    if not h.s.mcounteren & 2 or not h.s.menvcfg & ENVCFG_STCE:
        return CAUSE_ILLEGAL
    if h.s.virt and not (h.s.hcounteren & 2 and h.s.henvcfg & ENVCFG_STCE):
        return CAUSE_VIRTUAL
    return 0


cdef inline uint64_t state_refused(hart_t* h, uint32_t csr) noexcept nogil:
    """The same for what mstateen and hstateen keep: senvcfg, henvcfg, and the registers of their kind below them."""
    cdef uint64_t bit = STATEEN_ENVCFG if csr == CSR_SENVCFG or csr == CSR_HENVCFG else STATEEN_SE
    cdef int i = 0 if bit == STATEEN_ENVCFG else csr & 3
    if h.s.priv == PRIV_M or not h.m.exts >> EXT_SMSTATEEN & 1:
        return 0
    if not h.s.mstateen[i] & bit:
        return CAUSE_ILLEGAL
    return CAUSE_VIRTUAL if h.s.virt and not h.s.hstateen[i] & bit else 0


cdef inline int machine_keeps(hart_t* h, uint32_t csr, int special) noexcept nogil:
    """Say whether M-mode keeps a CSR from HS-mode, so that a guest's access is illegal and no virtual instruction."""
    if special == STIMECMP_REG or special == VSTIMECMP_REG:
        return not (h.s.mcounteren & 2 and h.s.menvcfg & ENVCFG_STCE)
    if special == ENVCFG_LOW or special == HENVCFG_REG or special == HSTATEEN_REG or special == SSTATEEN_REG:
        return state_refused(h, csr) == CAUSE_ILLEGAL
    return 0


cdef uint64_t counter_get(hart_t* h, uint32_t csr, int64_t left, uint64_t* value) noexcept nogil:
    cdef uint64_t count = h.count_end - <uint64_t>left
    cdef uint64_t cause = counter_refused(h, csr & 31) if csr >= 0xC00 else 0
    if cause:
        return cause
    if csr == CSR_TIME:
        value[0] = time_at(h.m, icount_now(h, left)) + (h.s.htimedelta if h.s.virt else 0)
    elif csr == CSR_CYCLE or csr == CSR_MCYCLE:
        value[0] = h.s.cycle_bias + (0 if h.s.mcountinhibit & 1 else count)
    elif csr == CSR_INSTRET or csr == CSR_MINSTRET:
        value[0] = h.s.instret_bias + (0 if h.s.mcountinhibit & 4 else count)
    else:
        value[0] = 0
    return 0


cdef uint64_t misa(uint64_t exts) noexcept nogil:
    """Return misa: a bit per single-letter extension; writes change nothing."""
    cdef uint64_t v = MXL_64 | <uint64_t>1 << 8
    v |= (exts >> EXT_A & 1) | (exts >> EXT_C & 1) << 2 | (exts >> EXT_D & 1) << 3 | (exts >> EXT_F & 1) << 5
    v |= (exts >> EXT_H & 1) << 7 | (exts >> EXT_M & 1) << 12
    return v | (exts >> EXT_S & 1) << 18 | (exts >> EXT_U & 1) << 20


cdef uint64_t csr_get(hart_t* h, uint32_t csr, int64_t left, uint64_t* value) noexcept nogil:
    """Read a CSR whose row exists; `left` is the budget at the instruction. Returns 0, or the cause of the refusal."""
    cdef csr_row_t* r = &table[csr]
    cdef int special = r.special, i
    cdef uint64_t v
    value[0] = (<uint64_t*>(<uint8_t*>&h.s + r.offset))[0]
    if special == PLAIN or special == LEAVING or special == HGEIE_REG:
        return 0
    if special == STATUS:
        value[0] = status_read(h)
    elif special == SSTATUS_VIEW:
        value[0] = status_read(h) & SSTATUS_READABLE
    elif special == ZERO:
        value[0] = r.mask
    elif special == MISA_REG:
        value[0] = misa(h.m.exts)
    elif special == FCSR_PART:
        if h.fp_mode == 0:
            return CAUSE_ILLEGAL
        fp_sync(h)
        if csr == CSR_FFLAGS:
            value[0] = h.s.fflags
        elif csr == CSR_FRM:
            value[0] = h.s.frm
        else:
            value[0] = h.s.fflags | <uint64_t>h.s.frm << 5
    elif special == SIE_VIEW:
        value[0] = h.s.mie & h.s.mideleg & SINTERRUPTS
    elif special == MIP_ALL:
        value[0] = mip_at(h, icount_now(h, left))
    elif special == SIP_VIEW:
        value[0] = mip_at(h, icount_now(h, left)) & h.s.mideleg & SINTERRUPTS
    elif special == VSIE_VIEW:
        value[0] = (h.s.mie & h.s.hideleg) >> 1
    elif special == VSIP_VIEW:
        value[0] = (mip_at(h, icount_now(h, left)) & h.s.hideleg) >> 1
    elif special == HIE_VIEW:
        value[0] = h.s.mie & HINTERRUPTS
    elif special == HIP_VIEW:
        value[0] = mip_at(h, icount_now(h, left)) & HINTERRUPTS
    elif special == VSSTATUS_REG:
        if h.fp_mode == 1:
            fp_sync(h)
        value[0] = (h.s.vsstatus | MSTATUS_FIXED) & SSTATUS_READABLE
        if (value[0] & MSTATUS_FS) == MSTATUS_FS:
            value[0] |= MSTATUS_SD
    elif special == HSTATUS_REG:
        value[0] |= HSTATUS_VSXL
    elif special == HENVCFG_REG:
        # Where menvcfg has 0 these read 0.
        value[0] &= h.s.menvcfg | ~(ENVCFG_STCE | ENVCFG_PBMTE | ENVCFG_ADUE)
        return state_refused(h, csr)
    elif special == ENVCFG_LOW:
        return state_refused(h, csr)
    elif special == HSTATEEN_REG:
        value[0] &= h.s.mstateen[csr & 3]
        return state_refused(h, csr)
    elif special == SSTATEEN_REG:
        value[0] = 0
        return state_refused(h, csr)
    elif special == SATP_REG or special == HGATP_REG:
        return CAUSE_ILLEGAL if h.s.priv == PRIV_S and h.s.mstatus & MSTATUS_TVM else 0
    elif special == VSATP_REG:
        # Reached as satp by a guest, whose trap bit is VTVM.
        return CAUSE_VIRTUAL if h.s.virt and h.s.hstatus & HSTATUS_VTVM else 0
    elif special == STIMECMP_REG or special == VSTIMECMP_REG:
        return timer_refused(h)
    elif special == COUNTER:
        return counter_get(h, csr, left, value)
    elif special == HARTID:
        value[0] = h.s.hartid
    elif special == PMPCFG_REG:
        v = 0
        for i in range(8):
            v |= <uint64_t>h.s.pmpcfg[(csr - CSR_PMPCFG0) * 4 + i] << (8 * i)
        value[0] = v
    elif special == PMPADDR_REG:
        value[0] = h.s.pmpaddr[csr - CSR_PMPADDR0]
    return 0


# ---- writing ----------------------------------------------------------------------------------------------------
cdef int status_set(hart_t* h, uint64_t value, uint64_t writable) noexcept nogil:
    """Write mstatus through a mask; returns how the instruction goes on."""
    cdef uint64_t old = h.s.mstatus, new
    if h.m.exts >> EXT_H & 1 and writable == MSTATUS_WRITABLE:
        writable |= MSTATUS_MPV | MSTATUS_GVA
    if h.fp_mode == 1:
        fp_sync(h)
        old = h.s.mstatus
    new = (old & ~writable) | (value & writable)
    if (new & MSTATUS_MPP) == <uint64_t>2 << MSTATUS_MPP_SHIFT:
        new &= ~MSTATUS_MPP  # WARL: there is no mode 2
    if not h.m.exts >> EXT_F & 1:
        new &= ~MSTATUS_FS
    h.s.mstatus = new
    if (old ^ new) & MSTATUS_FS:
        # Flags raised so far belong to the time before.
        h.s.mstatus = old
        fp_sync(h)
        h.s.mstatus = new
        status_changed(h)
    if (old ^ new) & (MSTATUS_MPRV | MSTATUS_MPP | MSTATUS_MPV | MSTATUS_SUM | MSTATUS_MXR):
        h.api.select(h)
    return ST_LEAVE if (new & ~old) & (MSTATUS_SIE | MSTATUS_MIE) and h.pending else ST_OK


cdef int vsstatus_set(hart_t* h, uint64_t value) noexcept nogil:
    cdef uint64_t old, new
    fp_sync(h)
    old = h.s.vsstatus
    new = value & SSTATUS_WRITABLE
    if not h.m.exts >> EXT_F & 1:
        new &= ~MSTATUS_FS
    h.s.vsstatus = new
    status_changed(h)
    h.api.select(h)
    return ST_LEAVE if new & ~old & MSTATUS_SIE and h.pending else ST_OK


cdef int atp_set(hart_t* h, uint64_t* where, uint64_t value, int fields) noexcept nogil:
    """Write satp or vsatp. With a mode that is not offered the whole write has no effect, unless `fields`.

    vsatp under its own number may treat its fields one by one ("H", "vsatp"), and so only the mode keeps its value.
    """
    cdef int mode = value >> SATP_MODE_SHIFT
    if mode != SATP_BARE and not h.m.xlen_modes >> mode & 1:
        if not fields:
            return ST_OK
        value = (value & (SATP_PPN | SATP_ASID)) | (where[0] & ~(SATP_PPN | SATP_ASID))
    where[0] = value
    h.api.select(h)
    return ST_JUMP


cdef int hgatp_set(hart_t* h, uint64_t value) noexcept nogil:
    """Write hgatp: unlike satp, with a mode that is not offered the other fields are written all the same."""
    cdef int mode = value >> SATP_MODE_SHIFT
    cdef uint64_t mask = (SATP_PPN & ~<uint64_t>3) | h.m.vmid_mask
    if mode == SATP_BARE or h.m.g_modes >> mode & 1:
        mask |= <uint64_t>15 << SATP_MODE_SHIFT
    h.s.hgatp = (h.s.hgatp & ~mask) | (value & mask)
    h.api.select(h)
    return ST_JUMP


cdef void pmpcfg_set(hart_t* h, uint32_t first, uint64_t value) noexcept nogil:
    cdef int i
    cdef uint8_t cfg
    for i in range(8):
        cfg = <uint8_t>(value >> (8 * i)) & 0x9F
        if h.s.pmpcfg[first + i] & 0x80:
            continue
        if (cfg & 3) == 2:
            cfg &= 0xFD  # R=0 W=1 is reserved
        h.s.pmpcfg[first + i] = cfg
    pmp_changed(h)


cdef void pmpaddr_set(hart_t* h, uint32_t i, uint64_t value) noexcept nogil:
    # A locked entry, or one that is the bottom of a locked TOR range, keeps its address.
    if h.s.pmpcfg[i] & 0x80 or (i + 1 < PMP_ENTRIES and (h.s.pmpcfg[i + 1] & 0x98) == 0x88):
        return
    h.s.pmpaddr[i] = value & PMPADDR_MASK
    pmp_changed(h)


cdef void counter_set(hart_t* h, uint32_t csr, int64_t left, uint64_t value) noexcept nogil:
    """Write mcycle or minstret: the next instruction reads what was written."""
    cdef uint64_t count = h.count_end - <uint64_t>left + 1
    if csr == CSR_MCYCLE:
        h.s.cycle_bias = value - (0 if h.s.mcountinhibit & 1 else count)
    else:
        h.s.instret_bias = value - (0 if h.s.mcountinhibit & 4 else count)


cdef void inhibit_set(hart_t* h, int64_t left, uint64_t value) noexcept nogil:
    """Stop or start mcycle and minstret: the bias takes over what they have counted."""
    cdef uint64_t count = h.count_end - <uint64_t>left + 1
    cdef uint64_t flips = (h.s.mcountinhibit ^ value) & 5
    if flips & 1:
        h.s.cycle_bias += count if value & 1 else 0 - count
    if flips & 4:
        h.s.instret_bias += count if value & 4 else 0 - count
    h.s.mcountinhibit = value & 5


cdef inline void soft_vs_set(hart_t* h, uint64_t value) noexcept nogil:
    """Write VSSIP, which mip, hip, hvip and the guest's sip share."""
    cdef uint64_t bit = <uint64_t>1 << IRQ_VSSI
    h.s.hvip = (h.s.hvip & ~bit) | (value & bit)


cdef int csr_set(hart_t* h, uint32_t csr, int64_t left, uint64_t value) noexcept nogil:
    """Write a CSR that csr_get has allowed; returns ST_OK, ST_JUMP (translation changed) or ST_LEAVE (interrupts)."""
    cdef csr_row_t* r = &table[csr]
    cdef int special = r.special
    cdef uint64_t mask
    cdef uint64_t* where = <uint64_t*>(<uint8_t*>&h.s + r.offset)
    if special == PLAIN:
        where[0] = value & r.mask
        return ST_OK
    if special == ZERO:
        return ST_OK
    if special == SSTATUS_VIEW:
        return status_set(h, value, SSTATUS_WRITABLE)
    if special == STATUS:
        return status_set(h, value, MSTATUS_WRITABLE)
    if special == FCSR_PART:
        if csr == CSR_FFLAGS:
            h.s.fflags = value & 31
        elif csr == CSR_FRM:
            h.s.frm = value & 7
        else:
            h.s.fflags = value & 31
            h.s.frm = (value >> 5) & 7
        fp_set_rounding(h.s.frm)
        fs_dirty(h)
        return ST_OK
    if special == MIE_ALL:
        where[0] = value & (r.mask | (HINTERRUPTS if h.m.exts >> EXT_H & 1 else 0))
        return ST_LEAVE
    if special == LEAVING:
        where[0] = value & r.mask
        return ST_LEAVE
    if special == SIE_VIEW:
        mask = h.s.mideleg & SINTERRUPTS
        h.s.mie = (h.s.mie & ~mask) | (value & mask)
        return ST_LEAVE
    if special == VSIE_VIEW:
        h.s.mie = (h.s.mie & ~h.s.hideleg) | (value << 1 & h.s.hideleg)
        return ST_LEAVE
    if special == HIE_VIEW:
        h.s.mie = (h.s.mie & ~HINTERRUPTS) | (value & HINTERRUPTS)
        return ST_LEAVE
    if special == MIP_ALL:
        mask = SINTERRUPTS
        if h.s.menvcfg & ENVCFG_STCE:
            mask &= ~(<uint64_t>1 << IRQ_STI)
        h.s.mip_sw = (h.s.mip_sw & ~mask) | (value & mask)
        if h.m.exts >> EXT_H & 1:
            soft_vs_set(h, value)
        return ST_LEAVE
    if special == SIP_VIEW:
        mask = h.s.mideleg & (<uint64_t>1 << IRQ_SSI)
        h.s.mip_sw = (h.s.mip_sw & ~mask) | (value & mask)
        return ST_LEAVE
    if special == HIP_VIEW:
        soft_vs_set(h, value)
        return ST_LEAVE
    if special == VSIP_VIEW:
        if h.s.hideleg >> IRQ_VSSI & 1:
            soft_vs_set(h, value << 1)
        return ST_LEAVE
    if special == VSSTATUS_REG:
        return vsstatus_set(h, value)
    if special == HSTATUS_REG:
        mask = r.mask
        if (value & HSTATUS_VGEIN) >> HSTATUS_VGEIN_SHIFT <= h.m.geilen:
            mask |= HSTATUS_VGEIN  # WARL: numbers of lines that there are
        where[0] = (where[0] & ~mask) | (value & mask)
        return ST_LEAVE
    if special == HGEIE_REG:
        where[0] = value & ((<uint64_t>2 << h.m.geilen) - 2)
        return ST_LEAVE
    if special == SATP_REG or special == VSATP_REG:
        return atp_set(h, where, value, special == VSATP_REG and not h.s.virt)
    if special == HGATP_REG:
        return hgatp_set(h, value)
    if special == MENVCFG_REG or special == ENVCFG_LOW or special == HENVCFG_REG:
        value &= r.mask
        if special == HENVCFG_REG:
            # What reads 0 because menvcfg has 0 is read-only too.
            mask = h.s.menvcfg | ~(ENVCFG_STCE | ENVCFG_PBMTE | ENVCFG_ADUE)
            value = (where[0] & ~mask) | (value & mask)
        return envcfg_set(h, special, where, value)
    if special == HSTATEEN_REG:
        mask = r.mask & h.s.mstateen[csr & 3]
        where[0] = (where[0] & ~mask) | (value & mask)
        return ST_OK
    if special == SSTATEEN_REG:
        return ST_OK
    if special == STIMECMP_REG or special == VSTIMECMP_REG:
        where[0] = value
        return ST_LEAVE
    if special == COUNTER:
        counter_set(h, csr, left, value)
        return ST_OK
    if special == INHIBIT:
        inhibit_set(h, left, value)
        return ST_OK
    if special == DELEG:
        where[0] = value & (r.mask | (MEDELEG_H if csr == CSR_MEDELEG and h.m.exts >> EXT_H & 1 else 0))
        return ST_OK
    if special == MIDELEG_REG:
        # The interrupts of VS and the guest externals always go to HS.
        where[0] = value & r.mask | (HINTERRUPTS if h.m.exts >> EXT_H & 1 else 0)
        return ST_LEAVE
    if special == PMPCFG_REG:
        pmpcfg_set(h, (csr - CSR_PMPCFG0) * 4, value)
        return ST_JUMP
    if special == PMPADDR_REG:
        pmpaddr_set(h, csr - CSR_PMPADDR0, value)
        return ST_JUMP
    return ST_OK


cdef int envcfg_set(hart_t* h, int special, uint64_t* where, uint64_t value) noexcept nogil:
    """Write menvcfg or senvcfg: bits of extensions that the hart lacks stay 0, and CBIE = 2 reads 0."""
    cdef uint64_t exts = h.m.exts
    if (value & ENVCFG_CBIE) == 0x20:
        value &= ~ENVCFG_CBIE
    if not exts >> EXT_ZICBOM & 1:
        value &= ~(ENVCFG_CBIE | ENVCFG_CBCFE)
    if not exts >> EXT_ZICBOZ & 1:
        value &= ~ENVCFG_CBZE
    if not exts >> EXT_SSTC & 1:
        value &= ~ENVCFG_STCE
    if not exts >> EXT_SVPBMT & 1:
        value &= ~ENVCFG_PBMTE
    if not exts >> EXT_SVADU & 1:
        value &= ~ENVCFG_ADUE
    if special != ENVCFG_LOW and (where[0] ^ value) & (ENVCFG_PBMTE | ENVCFG_ADUE):
        h.api.drop_all(h.m)
    where[0] = value
    return ST_OK if special == ENVCFG_LOW else ST_LEAVE


# ---- the instructions -------------------------------------------------------------------------------------------
cdef inline int exists(hart_t* h, uint32_t csr) noexcept nogil:
    return csr < 4096 and table[csr].present and not table[csr].exts & ~h.m.exts


cdef inline uint64_t csr_refused(hart_t* h, uint32_t csr, int writes) noexcept nogil:
    """Return the cause when the CSR's number alone keeps the present world from it, else 0."""
    cdef uint32_t need = csr >> 8 & 3
    # HS ranks above S; M above all.
    cdef uint32_t rank = 2 if h.s.priv == PRIV_S and not h.s.virt else h.s.priv
    if not exists(h, csr) or (writes and csr >> 10 == 3):
        return CAUSE_ILLEGAL
    if rank < need:
        if not h.s.virt or need > 2:
            return CAUSE_ILLEGAL
        return CAUSE_ILLEGAL if machine_keeps(h, csr, table[csr].special) else CAUSE_VIRTUAL
    return 0


cdef inline uint32_t csr_in_guest(uint32_t csr) noexcept nogil:
    """Return the VS register that a guest reaches under the number of an S register."""
    if csr in (CSR_SSTATUS, CSR_SIE, CSR_STVEC, CSR_SSCRATCH, CSR_SEPC, CSR_SCAUSE, CSR_STVAL, CSR_SIP, CSR_STIMECMP,
               CSR_SATP):
        return csr + 0x100
    return csr


cdef inline uint64_t software_bits(hart_t* h, int special, uint64_t old) noexcept nogil:
    """Return what csrrs and csrrc modify: of the pending registers only software's own bits, not wires and timers."""
    if special == MIP_ALL:
        return h.s.mip_sw | h.s.hvip
    if special == SIP_VIEW:
        return h.s.mip_sw
    if special == HIP_VIEW:
        return h.s.hvip
    if special == VSIP_VIEW:
        return h.s.hvip >> 1
    return old


cdef int csr_op(hart_t* h, op_t* op, uint64_t* x, int64_t n, int how) noexcept nogil:
    """Do csrrw (0), csrrs (1), csrrc (2), +4 with an immediate; n is the budget behind the instruction."""
    cdef uint32_t csr = op.imm & 0xFFF
    cdef int writes = (how & 3) == 0 or op.rs1 != 0
    cdef uint64_t old = 0, operand, base, pc = h.page_va + meta_of(op).off
    cdef uint64_t cause = csr_refused(h, csr, writes)
    cdef int st = ST_OK
    h.n = n
    if not cause:
        if h.s.virt:
            csr = csr_in_guest(csr)
        cause = csr_get(h, csr, n + 1, &old)
    if cause:
        return h.api.deliver(h, cause, meta_of(op).raw, pc)
    operand = op.rs1 if how & 4 else x[op.rs1]
    if writes:
        base = software_bits(h, table[csr].special, old)
        if how & 3 == 1:
            operand |= base
        elif how & 3 == 2:
            operand = base & ~operand
        st = csr_set(h, csr, n + 1, operand)
    x[op.rd] = old
    if st == ST_OK:
        return ST_OK
    h.s.pc = pc + 4
    return st


cdef int64_t left_outside(hart_t* h) noexcept nogil:
    """Return the budget left as seen from outside the guest, making what it is left of agree with the clock."""
    if h.m.inside == h:
        return <int64_t>(h.icount_end - h.m.clock.icount)  # a device's register is being accessed
    h.icount_end = h.m.clock.icount
    h.count_end = h.s.count
    return 0


cdef int csr_read(hart_t* h, uint32_t csr, uint64_t* value) noexcept nogil:
    """Read a CSR from outside the guest, with machine privilege; 0 when it does not exist."""
    cdef uint8_t priv = h.s.priv, virt = h.s.virt
    cdef uint64_t saved
    cdef int ok
    if not exists(h, csr):
        return 0
    h.s.priv = PRIV_M
    h.s.virt = 0
    saved = fp_enter(h.s.frm)  # the host's own flags are none of the guest's
    if table[csr].special == FCSR_PART:
        if csr == CSR_FFLAGS:
            value[0] = h.s.fflags
        elif csr == CSR_FRM:
            value[0] = h.s.frm
        else:
            value[0] = h.s.fflags | <uint64_t>h.s.frm << 5
        ok = 1
    else:
        ok = csr_get(h, csr, left_outside(h), value) == 0
    fp_leave(saved)
    h.s.priv = priv
    h.s.virt = virt
    return ok


cdef int csr_write(hart_t* h, uint32_t csr, uint64_t value) noexcept nogil:
    """Write a CSR from outside the guest, with machine privilege and the same WARL rules; 0 when it does not exist."""
    cdef uint8_t priv = h.s.priv, virt = h.s.virt
    cdef uint64_t saved
    if not exists(h, csr):
        return 0
    h.s.priv = PRIV_M
    h.s.virt = 0
    saved = fp_enter(h.s.frm)
    csr_set(h, csr, left_outside(h) + 1, value)
    fp_clear()
    fp_leave(saved)
    h.s.priv = priv
    h.s.virt = virt
    status_changed(h)
    h.api.select(h)
    return 1


# ---- states from outside ----------------------------------------------------------------------------------------
cdef int holds(hart_t* h, uint32_t csr, uint64_t* where) noexcept nogil:
    """Say whether a CSR can hold what it does: whether writing it over zeros makes just that."""
    cdef uint64_t value = where[0], envcfg, stateen
    if value == 0 or csr == CSR_STIMECMP or csr == CSR_VSTIMECMP:
        return 1
    if csr == CSR_MCOUNTINHIBIT:
        return value & ~<uint64_t>5 == 0
    if csr == CSR_HGEIP:
        return value & ~((<uint64_t>2 << h.m.geilen) - 2) == 0
    where[0] = 0
    if exists(h, csr):
        # Bits that menvcfg and mstateen hide from the register below keep what they hold.
        envcfg = h.s.menvcfg
        stateen = h.s.mstateen[csr & 3]
        if csr == CSR_HENVCFG:
            h.s.menvcfg = CSR_ALL
        elif table[csr].special == HSTATEEN_REG:
            h.s.mstateen[csr & 3] = CSR_ALL
        csr_set(h, csr, 1, value)
        if csr == CSR_HENVCFG:
            h.s.menvcfg = envcfg
        elif table[csr].special == HSTATEEN_REG:
            h.s.mstateen[csr & 3] = stateen
    return where[0] == value


cdef const char* hart_wrong(hart_t* h) noexcept nogil:
    """Return what of the state beside CSRs no hart can be in, or NULL."""
    cdef hart_state_t* s = &h.s
    cdef int i
    if s.version != STATE_VERSION:
        return "version"
    if s.pc & 1:
        return "pc"
    if s.priv == 2 or s.priv > 3:
        return "priv"
    if s.virt > 1 or (s.virt and (s.priv == PRIV_M or not h.m.exts >> EXT_H & 1)):
        return "virt"
    if s.waiting > 1 or s.spare or s.sbi_timer > 1:
        return "waiting"
    if s.hsm != HSM_STARTED and s.hsm != HSM_STOPPED and s.hsm != HSM_SUSPENDED:
        return "hsm"
    if s.frm > 7 or s.fflags > 31:
        return "fcsr"
    if s.resv_width and s.resv_width != 4 and s.resv_width != 8:
        return "resv_width"
    if s.mip_sw & ~SINTERRUPTS or s.mip_line & ~<uint64_t>(1 << IRQ_MSI | 1 << IRQ_SEI | 1 << IRQ_MEI):
        return "mip"
    for i in range(PMP_ENTRIES):
        if s.pmpcfg[i] & 0x60 or (s.pmpcfg[i] & 3) == 2 or s.pmpaddr[i] & ~PMPADDR_MASK:
            return "pmp"
    if s.x[0]:
        return "x0"
    return NULL


cdef const char* state_wrong(hart_t* h, uint32_t* csr) noexcept nogil:
    """Return what of h.s no hart can be in, or NULL; "CSR" stands for the one put in `csr`. May spoil h.s then.

    The core relies on WARL rules (alignment of xepc, modes of satp): a state from outside is hostile until it has
    passed.
    """
    cdef hart_state_t* s = &h.s
    cdef const char* wrong = hart_wrong(h)
    cdef uint64_t saved
    cdef int i
    csr[0] = 0
    if wrong != NULL:
        return wrong
    saved = fp_enter(0)
    for i in range(nstored):
        if not holds(h, stored[i], <uint64_t*>(<uint8_t*>s + table[stored[i]].offset)):
            csr[0] = stored[i]
    if not holds(h, CSR_MSTATUS, &s.mstatus):
        csr[0] = CSR_MSTATUS
    if not holds(h, CSR_VSSTATUS, &s.vsstatus):
        csr[0] = CSR_VSSTATUS
    fp_clear()
    fp_leave(saved)
    if csr[0]:
        return "CSR"
    return NULL


cdef void fill_api(core_api_t* api) noexcept nogil:
    api.state_wrong = state_wrong
    api.csr_op = csr_op
    api.csr_read = csr_read
    api.csr_write = csr_write
    api.mip = mip_at
    api.status_changed = status_changed
    api.pmp_changed = pmp_changed
    api.fp_begin = fp_begin
    api.fp_end = fp_end
    api.fp_sync = fp_sync


build_table()


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)


def csr_numbers() -> list[int]:
    """Return the numbers of all CSRs that have a row."""
    return [i for i in range(4096) if table[i].present]
