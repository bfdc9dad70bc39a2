"""Names and numbers of the ratified control and status registers of RV64, in one table.

The assembler, the disassembler and `hart.csr` use it; whether a hart has a register is not said here. Registers that
exist only in RV32 (the high halves) are absent. Source: privileged manual 1.13, "CSR Listing", and the extensions' own
chapters named beside the rows.
"""
from __future__ import annotations

CSRS: dict[str, int] = {
    # Unprivileged: floating point, vectors, entropy (Zkr), shadow stack (Zicfiss), table jumps (Zcmt).
    "fflags": 0x001, "frm": 0x002, "fcsr": 0x003, "vstart": 0x008, "vxsat": 0x009, "vxrm": 0x00A, "vcsr": 0x00F,
    "ssp": 0x011, "seed": 0x015, "jvt": 0x017, "vl": 0xC20, "vtype": 0xC21, "vlenb": 0xC22,
    "cycle": 0xC00, "time": 0xC01, "instret": 0xC02, **{f"hpmcounter{n}": 0xC00 + n for n in range(3, 32)},
    # Supervisor, with Sstc, Smstateen, Smcdeleg, Smctr, Ssqosid and AIA.
    "sstatus": 0x100, "sie": 0x104, "stvec": 0x105, "scounteren": 0x106, "senvcfg": 0x10A,
    **{f"sstateen{n}": 0x10C + n for n in range(4)}, "scountinhibit": 0x120,
    "sscratch": 0x140, "sepc": 0x141, "scause": 0x142, "stval": 0x143, "sip": 0x144, "stimecmp": 0x14D,
    "sctrctl": 0x14E, "sctrstatus": 0x14F, "siselect": 0x150, "sireg": 0x151, "sireg2": 0x152, "sireg3": 0x153,
    "sireg4": 0x155, "sireg5": 0x156, "sireg6": 0x157, "stopei": 0x15C, "sctrdepth": 0x15F,
    "satp": 0x180, "srmcfg": 0x181, "scontext": 0x5A8, "scountovf": 0xDA0, "stopi": 0xDB0,
    # Hypervisor.
    "hstatus": 0x600, "hedeleg": 0x602, "hideleg": 0x603, "hie": 0x604, "htimedelta": 0x605, "hcounteren": 0x606,
    "hgeie": 0x607, "hvien": 0x608, "hvictl": 0x609, "henvcfg": 0x60A, **{f"hstateen{n}": 0x60C + n for n in range(4)},
    "htval": 0x643, "hip": 0x644, "hvip": 0x645, "hviprio1": 0x646, "hviprio2": 0x647, "htinst": 0x64A,
    "hgatp": 0x680, "hcontext": 0x6A8, "hgeip": 0xE12,
    # Virtual supervisor.
    "vsstatus": 0x200, "vsie": 0x204, "vstvec": 0x205, "vsscratch": 0x240, "vsepc": 0x241, "vscause": 0x242,
    "vstval": 0x243, "vsip": 0x244, "vstimecmp": 0x24D, "vsctrctl": 0x24E, "vsiselect": 0x250, "vsireg": 0x251,
    "vsireg2": 0x252, "vsireg3": 0x253, "vsireg4": 0x255, "vsireg5": 0x256, "vsireg6": 0x257, "vstopei": 0x25C,
    "vsatp": 0x280, "vstopi": 0xEB0,
    # Machine.
    "mvendorid": 0xF11, "marchid": 0xF12, "mimpid": 0xF13, "mhartid": 0xF14, "mconfigptr": 0xF15, "mtopi": 0xFB0,
    "mstatus": 0x300, "misa": 0x301, "medeleg": 0x302, "mideleg": 0x303, "mie": 0x304, "mtvec": 0x305,
    "mcounteren": 0x306, "mvien": 0x308, "mvip": 0x309, "menvcfg": 0x30A,
    **{f"mstateen{n}": 0x30C + n for n in range(4)}, "mcountinhibit": 0x320, "mcyclecfg": 0x321, "minstretcfg": 0x322,
    **{f"mhpmevent{n}": 0x320 + n for n in range(3, 32)},
    "mscratch": 0x340, "mepc": 0x341, "mcause": 0x342, "mtval": 0x343, "mip": 0x344, "mtinst": 0x34A, "mtval2": 0x34B,
    "mctrctl": 0x34E, "miselect": 0x350, "mireg": 0x351, "mireg2": 0x352, "mireg3": 0x353, "mireg4": 0x355,
    "mireg5": 0x356, "mireg6": 0x357, "mtopei": 0x35C, "mseccfg": 0x747,
    **{f"pmpcfg{n}": 0x3A0 + n for n in range(0, 16, 2)}, **{f"pmpaddr{n}": 0x3B0 + n for n in range(64)},
    "mcycle": 0xB00, "minstret": 0xB02, **{f"mhpmcounter{n}": 0xB00 + n for n in range(3, 32)},
    "mnscratch": 0x740, "mnepc": 0x741, "mncause": 0x742, "mnstatus": 0x744,
    # Debug and triggers (Sdext, Sdtrig).
    "tselect": 0x7A0, "tdata1": 0x7A1, "tdata2": 0x7A2, "tdata3": 0x7A3, "tinfo": 0x7A4, "mcontext": 0x7A8,
    "dcsr": 0x7B0, "dpc": 0x7B1, "dscratch0": 0x7B2, "dscratch1": 0x7B3,
}
CSR_NAMES: dict[int, str] = {number: name for name, number in CSRS.items()}
