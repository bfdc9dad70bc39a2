"""Fields of control and status registers by name: lowest bit and width.

Source: privileged manual 1.13, the figure of each register.
"""
from __future__ import annotations

_INTERRUPTS = {"SSI": 1, "VSSI": 2, "MSI": 3, "STI": 5, "VSTI": 6, "MTI": 7, "SEI": 9, "VSEI": 10, "MEI": 11,
               "SGEI": 12}
_S = ("SSI", "STI", "SEI")
_VS = ("VSSI", "VSTI", "VSEI")


def _bits(**fields: int | tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {name: (at, 1) if isinstance(at, int) else at for name, at in fields.items()}


def _interrupts(suffix: str, names: tuple[str, ...] = tuple(_INTERRUPTS)) -> dict[str, tuple[int, int]]:
    return {name + suffix: (_INTERRUPTS[name], 1) for name in names}


_SSTATUS = _bits(SIE=1, SPIE=5, UBE=6, SPP=8, VS=(9, 2), FS=(13, 2), XS=(15, 2), SUM=18, MXR=19, UXL=(32, 2), SD=63)
_ENVCFG = _bits(FIOM=0, CBIE=(4, 2), CBCFE=6, CBZE=7)
_ENVCFG_HIGH = {**_ENVCFG, **_bits(ADUE=61, PBMTE=62, STCE=63)}
_SATP = _bits(PPN=(0, 44), ASID=(44, 16), MODE=(60, 4))
_COUNTERS = {"CY": (0, 1), "TM": (1, 1), "IR": (2, 1), "HPM": (3, 29)}
_TVEC = {"MODE": (0, 2), "BASE": (2, 62)}
_CAUSE = {"Code": (0, 63), "Interrupt": (63, 1)}

FIELDS: dict[str, dict[str, tuple[int, int]]] = {
    "mstatus": {**_SSTATUS, **_bits(MIE=3, MPIE=7, MPP=(11, 2), MPRV=17, TVM=20, TW=21, TSR=22, SXL=(34, 2), SBE=36,
                                    MBE=37, GVA=38, MPV=39)},
    "sstatus": _SSTATUS,
    "misa": {**{chr(ord("A") + n): (n, 1) for n in range(26)}, "MXL": (62, 2)},
    "mie": _interrupts("E"), "sie": _interrupts("E", _S),
    "mip": _interrupts("P"), "sip": _interrupts("P", _S),
    "mideleg": _interrupts(""),
    "hie": _interrupts("E", (*_VS, "SGEI")), "hip": _interrupts("P", (*_VS, "SGEI")), "hvip": _interrupts("P", _VS),
    "vsie": _interrupts("E", _S), "vsip": _interrupts("P", _S), "hideleg": _interrupts("", _VS),
    "mtvec": _TVEC, "stvec": _TVEC, "vstvec": _TVEC,
    "mcause": _CAUSE, "scause": _CAUSE, "vscause": _CAUSE,
    "satp": _SATP, "vsatp": _SATP, "hgatp": _bits(PPN=(0, 44), VMID=(44, 14), MODE=(60, 4)),
    "menvcfg": _ENVCFG_HIGH, "henvcfg": _ENVCFG_HIGH, "senvcfg": _ENVCFG,
    "mcounteren": _COUNTERS, "scounteren": _COUNTERS, "hcounteren": _COUNTERS, "mcountinhibit": _COUNTERS,
    "hstatus": _bits(VSBE=5, GVA=6, SPV=7, SPVP=8, HU=9, VGEIN=(12, 6), VTVM=20, VTW=21, VTSR=22, VSXL=(32, 2)),
    "vsstatus": _SSTATUS,
    "fcsr": _bits(NX=0, UF=1, OF=2, DZ=3, NV=4, FRM=(5, 3)),
    "fflags": _bits(NX=0, UF=1, OF=2, DZ=3, NV=4),
    "frm": _bits(FRM=(0, 3)),
    **{f"pmpcfg{n}": {f"{part}{4 * n + i}": (8 * i + low, width) for i in range(8)
                      for part, low, width in (("R", 0, 1), ("W", 1, 1), ("X", 2, 1), ("A", 3, 2), ("L", 7, 1))}
       for n in (0, 2)},
}
