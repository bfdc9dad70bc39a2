"""Writing CSRs: the WARL rules, and what a write changes beside its register.

Each returns how the instruction goes on: ST_OK, ST_JUMP where translation changed, ST_LEAVE where an interrupt may
have become pending. Privileged manual, chapters "Machine-Level ISA", "Supervisor-Level ISA", "H", "Smstateen".
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from arch cimport *
from cache cimport *
from csr_read cimport fp_sync, fs_dirty, pmp_changed, status_changed
from csr_table cimport *
from fpenv cimport fp_set_rounding
from state cimport PMP_ENTRIES


cdef inline int status_set(hart_t* h, uint64_t value, uint64_t writable) noexcept nogil:
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


cdef inline int vsstatus_set(hart_t* h, uint64_t value) noexcept nogil:
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


cdef inline int atp_set(hart_t* h, uint64_t* where, uint64_t value, int fields) noexcept nogil:
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


cdef inline int hgatp_set(hart_t* h, uint64_t value) noexcept nogil:
    """Write hgatp: unlike satp, with a mode that is not offered the other fields are written all the same."""
    cdef int mode = value >> SATP_MODE_SHIFT
    cdef uint64_t mask = (SATP_PPN & ~<uint64_t>3) | h.m.vmid_mask
    if mode == SATP_BARE or h.m.g_modes >> mode & 1:
        mask |= <uint64_t>15 << SATP_MODE_SHIFT
    h.s.hgatp = (h.s.hgatp & ~mask) | (value & mask)
    h.api.select(h)
    return ST_JUMP


cdef inline int envcfg_set(hart_t* h, int special, uint64_t* where, uint64_t value) noexcept nogil:
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


cdef inline void pmpcfg_set(hart_t* h, uint32_t first, uint64_t value) noexcept nogil:
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


cdef inline void pmpaddr_set(hart_t* h, uint32_t i, uint64_t value) noexcept nogil:
    # A locked entry, or one that is the bottom of a locked TOR range, keeps its address.
    if h.s.pmpcfg[i] & 0x80 or (i + 1 < PMP_ENTRIES and (h.s.pmpcfg[i + 1] & 0x98) == 0x88):
        return
    h.s.pmpaddr[i] = value & PMPADDR_MASK
    pmp_changed(h)


cdef inline void counter_set(hart_t* h, uint32_t csr, int64_t left, uint64_t value) noexcept nogil:
    """Write mcycle or minstret: the next instruction reads what was written."""
    cdef uint64_t count = h.count_end - <uint64_t>left + 1
    if csr == CSR_MCYCLE:
        h.s.cycle_bias = value - (0 if h.s.mcountinhibit & 1 else count)
    else:
        h.s.instret_bias = value - (0 if h.s.mcountinhibit & 4 else count)


cdef inline void inhibit_set(hart_t* h, int64_t left, uint64_t value) noexcept nogil:
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


cdef inline int csr_set(hart_t* h, csr_row_t* r, uint32_t csr, int64_t left, uint64_t value) noexcept nogil:
    """Write a CSR that csr_get has allowed; returns ST_OK, ST_JUMP (translation changed) or ST_LEAVE (interrupts)."""
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
