"""The table of control and status registers: one row each, with storage, writable bits and the extensions needed.

A CSR without a row does not exist. `special` says which rule in csr_read.pxd and csr_write.pxd goes beyond storage and
a mask. Privileged manual, "CSR Listing" and the chapters of the levels.
"""
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from arch cimport *
from state cimport PMP_ENTRIES, hart_state_t


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


cdef struct csr_table_t:
    csr_row_t rows[4096]
    uint16_t stored[128]    # the CSRs that are words of hart_state_t
    int nstored


cdef inline void row(csr_table_t* t, int csr, int special, uint64_t* where, uint64_t mask,
                     uint64_t exts) noexcept nogil:
    cdef csr_row_t* r = &t.rows[csr]
    if where != NULL:
        t.stored[t.nstored] = <uint16_t>csr
        t.nstored += 1
    r.present = 1
    r.special = <uint8_t>special
    r.offset = <uint16_t><uint64_t>where
    r.mask = mask
    r.exts = exts


cdef inline void csr_table_build(csr_table_t* t) noexcept nogil:
    """Fill the table: CSR, kind, storage, writable bits (or the constant), extensions needed."""
    cdef hart_state_t* s = NULL
    cdef int i
    cdef uint64_t smode = <uint64_t>1 << EXT_S, sstc = smode | <uint64_t>1 << EXT_SSTC
    cdef uint64_t hyp = smode | <uint64_t>1 << EXT_H, stateen = <uint64_t>1 << EXT_SMSTATEEN
    cdef uint64_t mask, fp = <uint64_t>1 << EXT_F, hpm = <uint64_t>1 << EXT_ZIHPM, cntr = <uint64_t>1 << EXT_ZICNTR
    row(t, CSR_FFLAGS, FCSR_PART, NULL, 0, fp)
    row(t, CSR_FRM, FCSR_PART, NULL, 0, fp)
    row(t, CSR_FCSR, FCSR_PART, NULL, 0, fp)
    row(t, CSR_CYCLE, COUNTER, NULL, 0, cntr)
    row(t, CSR_TIME, COUNTER, NULL, 0, cntr)
    row(t, CSR_INSTRET, COUNTER, NULL, 0, cntr)
    for i in range(29):
        row(t, CSR_HPMCOUNTER3 + i, COUNTER, NULL, 0, hpm)
        row(t, CSR_MHPMCOUNTER3 + i, ZERO, NULL, 0, 0)
        row(t, CSR_MHPMEVENT3 + i, ZERO, NULL, 0, 0)
    row(t, CSR_SSTATUS, SSTATUS_VIEW, NULL, 0, smode)
    row(t, CSR_SIE, SIE_VIEW, NULL, 0, smode)
    row(t, CSR_STVEC, PLAIN, &s.stvec, CSR_ALL & ~<uint64_t>2, smode)
    row(t, CSR_SCOUNTEREN, PLAIN, &s.scounteren, 0xFFFFFFFF, smode)
    row(t, CSR_SENVCFG, ENVCFG_LOW, &s.senvcfg, SENVCFG_MASK, smode)
    row(t, CSR_SSCRATCH, PLAIN, &s.sscratch, CSR_ALL, smode)
    row(t, CSR_SEPC, PLAIN, &s.sepc, CSR_ALL & ~<uint64_t>1, smode)
    row(t, CSR_SCAUSE, PLAIN, &s.scause, CSR_ALL, smode)
    row(t, CSR_STVAL, PLAIN, &s.stval, CSR_ALL, smode)
    row(t, CSR_SIP, SIP_VIEW, NULL, 0, smode)
    row(t, CSR_STIMECMP, STIMECMP_REG, &s.stimecmp, CSR_ALL, sstc)
    row(t, CSR_SATP, SATP_REG, &s.satp, CSR_ALL, smode)
    row(t, CSR_MVENDORID, ZERO, NULL, 0, 0)
    row(t, CSR_MARCHID, ZERO, NULL, 0, 0)
    row(t, CSR_MIMPID, ZERO, NULL, 0, 0)
    row(t, CSR_MHARTID, HARTID, NULL, 0, 0)
    row(t, CSR_MCONFIGPTR, ZERO, NULL, 0, 0)
    row(t, CSR_MSTATUS, STATUS, NULL, 0, 0)
    row(t, CSR_MISA, MISA_REG, NULL, 0, 0)
    row(t, CSR_MEDELEG, DELEG, &s.medeleg, MEDELEG_MASK, smode)
    row(t, CSR_MIDELEG, MIDELEG_REG, &s.mideleg, SINTERRUPTS, smode)
    row(t, CSR_MIE, MIE_ALL, &s.mie, MINTERRUPTS, 0)
    row(t, CSR_MTVEC, PLAIN, &s.mtvec, CSR_ALL & ~<uint64_t>2, 0)
    row(t, CSR_MCOUNTEREN, PLAIN, &s.mcounteren, 0xFFFFFFFF, 0)
    row(t, CSR_MENVCFG, MENVCFG_REG, &s.menvcfg, MENVCFG_MASK, 0)
    row(t, CSR_MSCRATCH, PLAIN, &s.mscratch, CSR_ALL, 0)
    row(t, CSR_MEPC, PLAIN, &s.mepc, CSR_ALL & ~<uint64_t>1, 0)
    row(t, CSR_MCAUSE, PLAIN, &s.mcause, CSR_ALL, 0)
    row(t, CSR_MTVAL, PLAIN, &s.mtval, CSR_ALL, 0)
    row(t, CSR_MIP, MIP_ALL, NULL, 0, 0)
    row(t, CSR_PMPCFG0, PMPCFG_REG, NULL, 0, 0)
    row(t, CSR_PMPCFG0 + 2, PMPCFG_REG, NULL, 0, 0)
    for i in range(PMP_ENTRIES):
        row(t, CSR_PMPADDR0 + i, PMPADDR_REG, NULL, PMPADDR_MASK, 0)
    for i in range(4):
        mask = STATEEN_SE | (STATEEN_ENVCFG if i == 0 else 0)
        row(t, CSR_MSTATEEN0 + i, PLAIN, &s.mstateen[i], mask, stateen)
        row(t, CSR_HSTATEEN0 + i, HSTATEEN_REG, &s.hstateen[i], mask, hyp | stateen)
        row(t, CSR_SSTATEEN0 + i, SSTATEEN_REG, NULL, 0, smode | stateen)
    row(t, CSR_HSTATUS, HSTATUS_REG, &s.hstatus, HSTATUS_WRITABLE, hyp)
    row(t, CSR_HEDELEG, DELEG, &s.hedeleg, HEDELEG_MASK, hyp)
    row(t, CSR_HIDELEG, LEAVING, &s.hideleg, VSINTERRUPTS, hyp)
    row(t, CSR_HIE, HIE_VIEW, NULL, 0, hyp)
    row(t, CSR_HIP, HIP_VIEW, NULL, 0, hyp)
    row(t, CSR_HVIP, LEAVING, &s.hvip, VSINTERRUPTS, hyp)
    row(t, CSR_HGEIE, HGEIE_REG, &s.hgeie, 0, hyp)
    row(t, CSR_HGEIP, PLAIN, &s.hgeip, 0, hyp)
    row(t, CSR_HTIMEDELTA, LEAVING, &s.htimedelta, CSR_ALL, hyp)
    row(t, CSR_HCOUNTEREN, PLAIN, &s.hcounteren, 0xFFFFFFFF, hyp)
    row(t, CSR_HENVCFG, HENVCFG_REG, &s.henvcfg, MENVCFG_MASK, hyp)
    row(t, CSR_HTVAL, PLAIN, &s.htval, CSR_ALL, hyp)
    row(t, CSR_HTINST, PLAIN, &s.htinst, CSR_ALL, hyp)
    row(t, CSR_HGATP, HGATP_REG, &s.hgatp, CSR_ALL, hyp)
    row(t, CSR_VSSTATUS, VSSTATUS_REG, NULL, 0, hyp)
    row(t, CSR_VSIE, VSIE_VIEW, NULL, 0, hyp)
    row(t, CSR_VSTVEC, PLAIN, &s.vstvec, CSR_ALL & ~<uint64_t>2, hyp)
    row(t, CSR_VSSCRATCH, PLAIN, &s.vsscratch, CSR_ALL, hyp)
    row(t, CSR_VSEPC, PLAIN, &s.vsepc, CSR_ALL & ~<uint64_t>1, hyp)
    row(t, CSR_VSCAUSE, PLAIN, &s.vscause, CSR_ALL, hyp)
    row(t, CSR_VSTVAL, PLAIN, &s.vstval, CSR_ALL, hyp)
    row(t, CSR_VSIP, VSIP_VIEW, NULL, 0, hyp)
    row(t, CSR_VSTIMECMP, VSTIMECMP_REG, &s.vstimecmp, CSR_ALL, hyp | sstc)
    row(t, CSR_VSATP, VSATP_REG, &s.vsatp, CSR_ALL, hyp)
    row(t, CSR_MTINST, PLAIN, &s.mtinst, CSR_ALL, hyp)
    row(t, CSR_MTVAL2, PLAIN, &s.mtval2, CSR_ALL, hyp)
    row(t, CSR_MCYCLE, COUNTER, NULL, 0, 0)
    row(t, CSR_MINSTRET, COUNTER, NULL, 0, 0)
    row(t, CSR_MCOUNTINHIBIT, INHIBIT, &s.mcountinhibit, 5, 0)
