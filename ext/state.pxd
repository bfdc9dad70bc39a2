"""The C state of a hart and of the machine's clock: all of the core that a snapshot holds.

Plain structs without pointers, copied whole. What may be thrown away at any moment lives in `cache.pxd`.
A change of layout raises STATE_VERSION.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef enum:
    STATE_VERSION = 2
    PMP_ENTRIES = 16


cdef enum hsm_t:  # hart states of the SBI HSM extension, chapter "Hart State Management"
    HSM_STARTED = 0
    HSM_STOPPED = 1
    HSM_SUSPENDED = 4


cdef struct hart_state_t:
    uint32_t version
    uint32_t hartid
    uint64_t pc
    uint64_t f[32]
    uint8_t priv
    uint8_t virt            # V: 1 in VS and VU
    uint8_t waiting         # in WFI: no instruction until an enabled interrupt is pending
    uint8_t hsm
    uint8_t fflags
    uint8_t frm
    uint8_t resv_width      # LR/SC reservation: bytes, 0 for none
    uint8_t spare
    uint64_t resv_pa
    uint64_t count          # instructions attempted by this hart
    uint64_t cycle_bias     # mcycle = count + cycle_bias, while it is not inhibited; else the bias alone
    uint64_t instret_bias
    uint64_t mstatus
    uint64_t mtvec
    uint64_t mscratch
    uint64_t mepc
    uint64_t mcause
    uint64_t mtval
    uint64_t medeleg
    uint64_t mideleg
    uint64_t mie
    uint64_t mip_sw         # bits software wrote (SSIP, STIP without Sstc, SEIP)
    uint64_t mip_line       # bits driven by wires (MSIP, SEIP, MEIP)
    uint64_t mcounteren
    uint64_t mcountinhibit
    uint64_t menvcfg
    uint64_t mtimecmp
    uint64_t stimecmp
    uint64_t stvec
    uint64_t sscratch
    uint64_t sepc
    uint64_t scause
    uint64_t stval
    uint64_t satp
    uint64_t scounteren
    uint64_t senvcfg
    uint64_t hstatus
    uint64_t hedeleg
    uint64_t hideleg
    uint64_t hvip           # VSSIP, VSTIP, VSEIP as software set them
    uint64_t hgeie
    uint64_t hgeip          # driven by wires
    uint64_t hcounteren
    uint64_t htimedelta
    uint64_t henvcfg
    uint64_t mstateen[4]    # Smstateen; every bit of sstateen0 to 3 is a read-only 0
    uint64_t hstateen[4]
    uint64_t htval
    uint64_t htinst
    uint64_t hgatp
    uint64_t mtval2
    uint64_t mtinst
    uint64_t vsstatus
    uint64_t vstvec
    uint64_t vsscratch
    uint64_t vsepc
    uint64_t vscause
    uint64_t vstval
    uint64_t vsatp
    uint64_t vstimecmp
    uint64_t sbi_timer      # stimecmp drives STIP although menvcfg.STCE is clear (built-in SBI without Sstc)
    uint8_t pmpcfg[16]
    uint64_t pmpaddr[16]
    uint64_t streak_count   # consecutive traps without an instruction retired between them
    uint64_t streak_next    # `count` at which the next trap would continue the streak
    uint64_t x[32]          # last: the dummy destination of rd = x0 follows it in hart_t


cdef struct clock_state_t:
    uint32_t version
    uint32_t current        # whose turn it is
    uint64_t icount
    uint64_t quantum_left
    int64_t time_offset     # ticks added to icount / ratio by writes to mtime
