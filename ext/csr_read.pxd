"""Reading CSRs: views, counters and timers as functions of icount, and who may read what.

Also what the hot path keeps of CSRs: the state of the floating-point unit and whether PMP is in use.
Privileged manual, chapters "Machine-Level ISA", "Supervisor-Level ISA", "H", "Smstateen".
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from arch cimport *
from cache cimport *
from csr_table cimport *
from fpenv cimport fp_clear, fp_enter, fp_harvest, fp_leave
from state cimport PMP_ENTRIES


# ---- what follows from other state ------------------------------------------------------------------------------
cdef inline uint64_t mip_at(hart_t* h, uint64_t icount) noexcept nogil:
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


cdef inline void status_changed(hart_t* h) noexcept nogil:
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


cdef inline void pmp_changed(hart_t* h) noexcept nogil:
    cdef int i
    h.pmp_on = 0
    for i in range(PMP_ENTRIES):
        if h.s.pmpcfg[i] & 0x18:
            h.pmp_on = 1
    h.api.drop_all(h.m)


# ---- floating-point state ---------------------------------------------------------------------------------------
cdef inline void fp_begin(hart_t* h) noexcept nogil:
    """Lend the host's floating-point environment to the hart."""
    h.fp_saved = fp_enter(h.s.frm)


cdef inline void fp_sync(hart_t* h) noexcept nogil:
    """Move the host's sticky flags into fflags; raising one is a change of fcsr and makes FS dirty."""
    cdef uint32_t flags = fp_harvest()
    if flags:
        h.s.fflags |= <uint8_t>flags
        fp_clear()
        fs_dirty(h)


cdef inline void fp_end(hart_t* h) noexcept nogil:
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


cdef inline uint64_t counter_get(hart_t* h, uint32_t csr, int64_t left, uint64_t* value) noexcept nogil:
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


cdef inline uint64_t misa(uint64_t exts) noexcept nogil:
    """Return misa: a bit per single-letter extension; writes change nothing."""
    cdef uint64_t v = MXL_64 | <uint64_t>1 << 8
    v |= (exts >> EXT_A & 1) | (exts >> EXT_C & 1) << 2 | (exts >> EXT_D & 1) << 3 | (exts >> EXT_F & 1) << 5
    v |= (exts >> EXT_H & 1) << 7 | (exts >> EXT_M & 1) << 12
    return v | (exts >> EXT_S & 1) << 18 | (exts >> EXT_U & 1) << 20


cdef inline uint64_t csr_get(hart_t* h, csr_row_t* r, uint32_t csr, int64_t left, uint64_t* value) noexcept nogil:
    """Read a CSR whose row exists; `left` is the budget at the instruction. Returns 0, or the cause of the refusal."""
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


# ---- who may reach it -------------------------------------------------------------------------------------------
cdef inline int csr_exists(hart_t* h, csr_row_t* r) noexcept nogil:
    return r.present and not r.exts & ~h.m.exts


cdef inline uint64_t csr_refused(hart_t* h, csr_row_t* r, uint32_t csr, int writes) noexcept nogil:
    """Return the cause when the CSR's number alone keeps the present world from it, else 0."""
    cdef uint32_t need = csr >> 8 & 3
    # HS ranks above S; M above all.
    cdef uint32_t rank = 2 if h.s.priv == PRIV_S and not h.s.virt else h.s.priv
    if not csr_exists(h, r) or (writes and csr >> 10 == 3):
        return CAUSE_ILLEGAL
    if rank < need:
        if not h.s.virt or need > 2:
            return CAUSE_ILLEGAL
        return CAUSE_ILLEGAL if machine_keeps(h, csr, r.special) else CAUSE_VIRTUAL
    return 0


cdef inline uint32_t csr_in_guest(uint32_t csr) noexcept nogil:
    """Return the VS register that a guest reaches under the number of an S register."""
    if csr in (CSR_SSTATUS, CSR_SIE, CSR_STVEC, CSR_SSCRATCH, CSR_SEPC, CSR_SCAUSE, CSR_STVAL, CSR_SIP, CSR_STIMECMP,
               CSR_SATP):
        return csr + 0x100
    return csr
