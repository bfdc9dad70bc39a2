"""Constants of the architecture: privilege levels, causes, status bits, PTE bits, CSR numbers.

Owns no rule, only the numbers of the RISC-V privileged manual (version 1.13).
"""
from libc.stdint cimport uint64_t


cdef enum priv_t:
    PRIV_U = 0
    PRIV_S = 1
    PRIV_M = 3


cdef enum cause_t:  # mcause table, privileged manual, "Machine Cause Register"
    CAUSE_FETCH_MISALIGNED = 0
    CAUSE_FETCH_ACCESS = 1
    CAUSE_ILLEGAL = 2
    CAUSE_BREAKPOINT = 3
    CAUSE_LOAD_MISALIGNED = 4
    CAUSE_LOAD_ACCESS = 5
    CAUSE_STORE_MISALIGNED = 6
    CAUSE_STORE_ACCESS = 7
    CAUSE_ECALL_U = 8
    CAUSE_ECALL_S = 9
    CAUSE_ECALL_VS = 10
    CAUSE_ECALL_M = 11
    CAUSE_FETCH_PAGE = 12
    CAUSE_LOAD_PAGE = 13
    CAUSE_STORE_PAGE = 15
    CAUSE_FETCH_GUEST_PAGE = 20
    CAUSE_LOAD_GUEST_PAGE = 21
    CAUSE_VIRTUAL = 22
    CAUSE_STORE_GUEST_PAGE = 23


cdef enum irq_t:
    IRQ_SSI = 1
    IRQ_MSI = 3
    IRQ_STI = 5
    IRQ_MTI = 7
    IRQ_SEI = 9
    IRQ_MEI = 11


cdef extern from *:
    """
    /* 64-bit masks live in C: a Python-level literal from 2^63 on would become an object. */
    #define INTERRUPT_BIT 0x8000000000000000ULL
    #define PAGE_SIZE 4096
    #define PAGE_MASK 0xfffffffffffff000ULL
    #define PTE_V 0x001ULL
    #define PTE_R 0x002ULL
    #define PTE_W 0x004ULL
    #define PTE_X 0x008ULL
    #define PTE_U 0x010ULL
    #define PTE_G 0x020ULL
    #define PTE_A 0x040ULL
    #define PTE_D 0x080ULL
    #define PTE_PPN_MASK 0x003ffffffffffc00ULL
    #define PTE_RESERVED 0x1fc0000000000000ULL
    #define PTE_PBMT 0x6000000000000000ULL
    #define PTE_N 0x8000000000000000ULL
    #define MSTATUS_SIE 0x2ULL
    #define MSTATUS_MIE 0x8ULL
    #define MSTATUS_SPIE 0x20ULL
    #define MSTATUS_MPIE 0x80ULL
    #define MSTATUS_SPP 0x100ULL
    #define MSTATUS_VS 0x600ULL
    #define MSTATUS_MPP 0x1800ULL
    #define MSTATUS_MPP_SHIFT 11
    #define MSTATUS_FS 0x6000ULL
    #define MSTATUS_FS_SHIFT 13
    #define MSTATUS_XS 0x18000ULL
    #define MSTATUS_MPRV 0x20000ULL
    #define MSTATUS_SUM 0x40000ULL
    #define MSTATUS_MXR 0x80000ULL
    #define MSTATUS_TVM 0x100000ULL
    #define MSTATUS_TW 0x200000ULL
    #define MSTATUS_TSR 0x400000ULL
    #define MSTATUS_UXL 0x300000000ULL
    #define MSTATUS_SXL 0xc00000000ULL
    #define MSTATUS_GVA 0x4000000000ULL
    #define MSTATUS_MPV 0x8000000000ULL
    #define MSTATUS_SD 0x8000000000000000ULL
    #define ENVCFG_FIOM 0x1ULL
    #define ENVCFG_CBIE 0x30ULL
    #define ENVCFG_CBCFE 0x40ULL
    #define ENVCFG_CBZE 0x80ULL
    #define ENVCFG_ADUE 0x2000000000000000ULL
    #define ENVCFG_PBMTE 0x4000000000000000ULL
    #define ENVCFG_STCE 0x8000000000000000ULL
    #define SATP_PPN 0x00000fffffffffffULL
    #define SATP_ASID 0x0ffff00000000000ULL
    #define SATP_MODE_SHIFT 60
    """
    const uint64_t INTERRUPT_BIT, PAGE_SIZE, PAGE_MASK
    const uint64_t PTE_V, PTE_R, PTE_W, PTE_X, PTE_U, PTE_G, PTE_A, PTE_D
    const uint64_t PTE_PPN_MASK, PTE_RESERVED, PTE_PBMT, PTE_N
    const uint64_t MSTATUS_SIE, MSTATUS_MIE, MSTATUS_SPIE, MSTATUS_MPIE, MSTATUS_SPP, MSTATUS_VS
    const uint64_t MSTATUS_MPP, MSTATUS_FS, MSTATUS_XS, MSTATUS_MPRV, MSTATUS_SUM, MSTATUS_MXR
    const uint64_t MSTATUS_TVM, MSTATUS_TW, MSTATUS_TSR, MSTATUS_UXL, MSTATUS_SXL
    const uint64_t MSTATUS_GVA, MSTATUS_MPV, MSTATUS_SD
    const int MSTATUS_MPP_SHIFT, MSTATUS_FS_SHIFT, SATP_MODE_SHIFT
    const uint64_t ENVCFG_FIOM, ENVCFG_CBIE, ENVCFG_CBCFE, ENVCFG_CBZE
    const uint64_t ENVCFG_ADUE, ENVCFG_PBMTE, ENVCFG_STCE
    const uint64_t SATP_PPN, SATP_ASID


cdef enum satp_mode_t:
    SATP_BARE = 0
    SATP_SV39 = 8
    SATP_SV48 = 9
    SATP_SV57 = 10


cdef enum csr_t:
    CSR_FFLAGS = 0x001
    CSR_FRM = 0x002
    CSR_FCSR = 0x003
    CSR_CYCLE = 0xC00
    CSR_TIME = 0xC01
    CSR_INSTRET = 0xC02
    CSR_HPMCOUNTER3 = 0xC03
    CSR_SSTATUS = 0x100
    CSR_SIE = 0x104
    CSR_STVEC = 0x105
    CSR_SCOUNTEREN = 0x106
    CSR_SENVCFG = 0x10A
    CSR_SSCRATCH = 0x140
    CSR_SEPC = 0x141
    CSR_SCAUSE = 0x142
    CSR_STVAL = 0x143
    CSR_SIP = 0x144
    CSR_STIMECMP = 0x14D
    CSR_SATP = 0x180
    CSR_MVENDORID = 0xF11
    CSR_MARCHID = 0xF12
    CSR_MIMPID = 0xF13
    CSR_MHARTID = 0xF14
    CSR_MCONFIGPTR = 0xF15
    CSR_MSTATUS = 0x300
    CSR_MISA = 0x301
    CSR_MEDELEG = 0x302
    CSR_MIDELEG = 0x303
    CSR_MIE = 0x304
    CSR_MTVEC = 0x305
    CSR_MCOUNTEREN = 0x306
    CSR_MENVCFG = 0x30A
    CSR_MSCRATCH = 0x340
    CSR_MEPC = 0x341
    CSR_MCAUSE = 0x342
    CSR_MTVAL = 0x343
    CSR_MIP = 0x344
    CSR_PMPCFG0 = 0x3A0
    CSR_PMPADDR0 = 0x3B0
    CSR_MSECCFG = 0x747
    CSR_MCYCLE = 0xB00
    CSR_MINSTRET = 0xB02
    CSR_MHPMCOUNTER3 = 0xB03
    CSR_MCOUNTINHIBIT = 0x320
    CSR_MHPMEVENT3 = 0x323


# The hart's ISA as switches; bit positions are stable, since files and digests name them by string.
cdef enum ext_t:
    EXT_A = 0
    EXT_F = 1
    EXT_D = 2
    EXT_C = 3
    EXT_M = 4
    EXT_ZBA = 5
    EXT_ZBB = 6
    EXT_ZBS = 7
    EXT_ZICOND = 8
    EXT_ZICBOM = 9
    EXT_ZICBOZ = 10
    EXT_ZICBOP = 11
    EXT_SSTC = 12
    EXT_SVINVAL = 13
    EXT_SVNAPOT = 14
    EXT_SVPBMT = 15
    EXT_SVADU = 16
    EXT_ZIHPM = 17
    EXT_ZICNTR = 18
    EXT_H = 19
    EXT_SV48 = 20
    EXT_SV57 = 21
    EXT_S = 22
    EXT_U = 23
    EXT_ZIHINTPAUSE = 24
    EXT_ZICSR = 25
    EXT_ZIFENCEI = 26
    EXT_I = 27
