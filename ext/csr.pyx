# cython: boundscheck=False
"""The CSR instructions, CSRs as seen from outside a guest, and which states no hart can be in.

The table of rows is csr_table.pxd; csr_read.pxd and csr_write.pxd hold the rules of each register. A CSR without a row
raises illegal instruction.

To add a CSR: a row in `csr_table_build`, and a clause in `csr_get`/`csr_set` if storage and a mask are not all of it.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from arch cimport *
from cache cimport *
from csr_read cimport *
from csr_table cimport *
from csr_write cimport csr_set
from fpenv cimport fp_clear, fp_enter, fp_leave
from state cimport HSM_STARTED, HSM_STOPPED, HSM_SUSPENDED, PMP_ENTRIES, STATE_VERSION, hart_state_t


cdef csr_table_t table


# ---- the instructions -------------------------------------------------------------------------------------------
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
    cdef csr_row_t* r = &table.rows[csr]
    cdef int writes = (how & 3) == 0 or op.rs1 != 0
    cdef uint64_t old = 0, operand, base, pc = h.page_va + meta_of(op).off
    cdef uint64_t cause = csr_refused(h, r, csr, writes)
    cdef int st = ST_OK
    h.n = n
    if not cause:
        if h.s.virt:
            csr = csr_in_guest(csr)
            r = &table.rows[csr]
        cause = csr_get(h, r, csr, n + 1, &old)
    if cause:
        return h.api.deliver(h, cause, meta_of(op).raw, pc)
    operand = op.rs1 if how & 4 else x[op.rs1]
    if writes:
        base = software_bits(h, r.special, old)
        if how & 3 == 1:
            operand |= base
        elif how & 3 == 2:
            operand = base & ~operand
        st = csr_set(h, r, csr, n + 1, operand)
    x[op.rd] = old
    if st == ST_OK:
        return ST_OK
    h.s.pc = pc + 4
    return st


cdef inline csr_row_t* row_of(uint32_t csr) noexcept nogil:
    """Return the row of a number from outside the guest, NULL beyond the last."""
    return &table.rows[csr] if csr < 4096 else NULL


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
    cdef csr_row_t* r = row_of(csr)
    cdef uint64_t saved
    cdef int ok
    if r == NULL or not csr_exists(h, r):
        return 0
    h.s.priv = PRIV_M
    h.s.virt = 0
    saved = fp_enter(h.s.frm)  # the host's own flags are none of the guest's
    if r.special == FCSR_PART:
        if csr == CSR_FFLAGS:
            value[0] = h.s.fflags
        elif csr == CSR_FRM:
            value[0] = h.s.frm
        else:
            value[0] = h.s.fflags | <uint64_t>h.s.frm << 5
        ok = 1
    else:
        ok = csr_get(h, r, csr, left_outside(h), value) == 0
    fp_leave(saved)
    h.s.priv = priv
    h.s.virt = virt
    return ok


cdef int csr_write(hart_t* h, uint32_t csr, uint64_t value) noexcept nogil:
    """Write a CSR from outside the guest, with machine privilege and the same WARL rules; 0 when it does not exist."""
    cdef uint8_t priv = h.s.priv, virt = h.s.virt
    cdef csr_row_t* r = row_of(csr)
    cdef uint64_t saved
    if r == NULL or not csr_exists(h, r):
        return 0
    if csr >> 10 == 3:
        return 1  # read-only, and storage behind it is somebody else's: counters, wires
    h.s.priv = PRIV_M
    h.s.virt = 0
    saved = fp_enter(h.s.frm)
    csr_set(h, r, csr, left_outside(h) + 1, value)
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
    cdef csr_row_t* r = &table.rows[csr]
    cdef uint64_t value = where[0], envcfg, stateen
    if value == 0 or csr == CSR_STIMECMP or csr == CSR_VSTIMECMP:
        return 1
    if csr == CSR_MCOUNTINHIBIT:
        return value & ~<uint64_t>5 == 0
    if csr == CSR_HGEIP:
        return value & ~((<uint64_t>2 << h.m.geilen) - 2) == 0
    where[0] = 0
    if csr_exists(h, r):
        # Bits that menvcfg and mstateen hide from the register below keep what they hold.
        envcfg = h.s.menvcfg
        stateen = h.s.mstateen[csr & 3]
        if csr == CSR_HENVCFG:
            h.s.menvcfg = CSR_ALL
        elif r.special == HSTATEEN_REG:
            h.s.mstateen[csr & 3] = CSR_ALL
        csr_set(h, r, csr, 1, value)
        if csr == CSR_HENVCFG:
            h.s.menvcfg = envcfg
        elif r.special == HSTATEEN_REG:
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
    for i in range(table.nstored):
        if not holds(h, table.stored[i], <uint64_t*>(<uint8_t*>s + table.rows[table.stored[i]].offset)):
            csr[0] = table.stored[i]
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


csr_table_build(&table)


def api_capsule() -> object:
    """Return this module's part of the core's function table."""
    return PyCapsule_New(<void*>fill_api, "pyvirt.fill", NULL)


def csr_numbers() -> list[int]:
    """Return the numbers of all CSRs that have a row."""
    return [i for i in range(4096) if table.rows[i].present]
