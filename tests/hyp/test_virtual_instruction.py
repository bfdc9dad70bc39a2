"""Which refused instructions are virtual and which illegal, one row for each case of the manual's list.

Privileged manual, "H", "Trap Cause Codes": with V=1 an instruction that HS-mode could execute (with TSR and TVM clear)
raises a virtual-instruction exception where privilege or a supervisor's or hypervisor's CSR keeps it from the guest;
everything else stays illegal, and so does whatever FS forbids.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from pyvirt.assembly.asm import asm
from tests.support import EXTS, Bare, Variant

H = EXTS | 1 << 19
SMSTATEEN = 1 << 28
VS, VU = 5, 4
BOTH = (VS, VU)
NAMES = {VS: "VS", VU: "VU"}
ILLEGAL, VIRTUAL, DONE = 2, 22, 0
TVM, TW, TSR, FS = 1 << 20, 1 << 21, 1 << 22, 0x6000
VTVM, VTW, VTSR = 1 << 20, 1 << 21, 1 << 22
COUNTERS = {"cycle": 0, "time": 1, "instret": 2, "hpmcounter3": 3, "hpmcounter31": 31}
HYPERVISOR_CSRS = (
    "hstatus", "hedeleg", "hideleg", "hie", "htimedelta", "hcounteren", "hgeie", "henvcfg", "htval", "hip", "hvip",
    "htinst", "hgatp", "vsstatus", "vsie", "vstvec", "vsscratch", "vsepc", "vscause", "vstval", "vsip", "vsatp",
)
SUPERVISOR_CSRS = (
    "sstatus", "sie", "stvec", "scounteren", "senvcfg", "sscratch", "sepc", "scause", "stval", "sip", "satp",
)
MSTATUS, MCOUNTEREN, HCOUNTEREN, SCOUNTEREN, HSTATUS = "csr_300", "csr_306", "csr_606", "csr_106", "csr_600"
MENVCFG, HENVCFG, SENVCFG, VSSTATUS = "csr_30a", "csr_60a", "csr_10a", "csr_200"
STCE = 1 << 63


@dataclass(frozen=True)
class Row:
    """One instruction in one world under some CSRs, and the cause expected: DONE for none."""

    world: int
    text: str
    cause: int
    csrs: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = ",".join(f"{k}={v:#x}" for k, v in self.csrs.items())
        return f"{NAMES[self.world]}: {self.text} [{settings}] -> {self.cause}"


def counters() -> Iterator[Row]:
    """Counters: mcounteren first, then hcounteren, then in VU scounteren."""
    for name, bit in COUNTERS.items():
        for setting in range(8):
            m, h, s = (setting >> k & 1 for k in range(3))
            csrs = {MCOUNTEREN: m << bit, HCOUNTEREN: h << bit, SCOUNTEREN: s << bit}
            refused = 0 if m and h else VIRTUAL if m else ILLEGAL
            yield Row(VS, f"csrr a0, {name}", refused, csrs)
            yield Row(VU, f"csrr a0, {name}", refused or (0 if s else VIRTUAL), csrs)
        yield Row(VS, f"csrw {name}, a0", ILLEGAL, {MCOUNTEREN: 1 << bit})  # HS-mode could not either


def hypervisor_instructions() -> Iterator[Row]:
    """HLV, HLVX, HSV, HFENCE and HINVAL, whatever HU, TVM and VTVM say."""
    texts = [f"hlv.{k} a0, (a1)" for k in ("b", "bu", "h", "hu", "w", "wu", "d")]
    texts += ["hlvx.hu a0, (a1)", "hlvx.wu a0, (a1)", *(f"hsv.{k} a0, (a1)" for k in "bhwd")]
    texts += ["hfence.vvma x0, x0", "hfence.gvma x0, x0", "hfence.vvma a0, a1", "hinval.vvma a0, a1"]
    texts += ["hinval.gvma a0, a1"]
    for text in texts:
        for world in BOTH:
            yield Row(world, text, VIRTUAL)
            yield Row(world, text, VIRTUAL, {HSTATUS: 1 << 9 | VTVM, MSTATUS: TVM})


def hypervisor_csrs() -> Iterator[Row]:
    """CSRs of the hypervisor and of the guest under their own numbers."""
    for world in BOTH:
        for name in HYPERVISOR_CSRS:
            yield Row(world, f"csrr a0, {name}", VIRTUAL)
            yield Row(world, f"csrw {name}, a0", VIRTUAL)
            yield Row(world, f"csrr a0, {name}", VIRTUAL, {MSTATUS: TVM})
        yield Row(world, "csrr a0, hgeip", VIRTUAL)
        yield Row(world, "csrw hgeip, a0", ILLEGAL)  # read-only for HS-mode too
        for text in ("csrr a0, 0x6ff", "csrr a0, 0x2ff", "csrw 0x6ff, a0", "csrr a0, 0x615", "csrr a0, 0x612"):
            yield Row(world, text, ILLEGAL)  # no such CSR; the last two are halves for RV32 only
        for text in ("csrr a0, mstatus", "csrw mscratch, a0", "csrr a0, mtval2", "csrr a0, mtinst", "csrr a0, mhartid"):
            yield Row(world, text, ILLEGAL)


def timers() -> Iterator[Row]:
    """Sstc: what M-mode keeps is illegal, what the hypervisor keeps is virtual."""
    for setting in range(16):
        m, h, ms, hs = (setting >> k & 1 for k in range(4))
        csrs = {MCOUNTEREN: 2 * m, HCOUNTEREN: 2 * h, SCOUNTEREN: 2, MENVCFG: STCE * ms, HENVCFG: STCE * hs}
        mine = m and ms
        for text in ("csrr a0, stimecmp", "csrw stimecmp, a0"):
            yield Row(VS, text, ILLEGAL if not mine else DONE if h and hs else VIRTUAL, csrs)
            yield Row(VU, text, VIRTUAL if mine else ILLEGAL, csrs)
        for world in BOTH:
            yield Row(world, "csrr a0, vstimecmp", VIRTUAL if mine else ILLEGAL, csrs)


def supervisor() -> Iterator[Row]:
    """What VU may not do and VS may, and what bits of hstatus take from VS."""
    for name in SUPERVISOR_CSRS:
        for text in (f"csrr a0, {name}", f"csrw {name}, x0"):
            yield Row(VU, text, VIRTUAL)
            yield Row(VS, text, DONE)
            yield Row(VS, text, DONE, {MSTATUS: TVM})
            yield Row(VS, text, VIRTUAL if name == "satp" else DONE, {HSTATUS: VTVM})
    for text in ("sfence.vma", "sfence.vma a0, a1", "sinval.vma a0, a1"):
        yield Row(VU, text, VIRTUAL)
        yield Row(VS, text, DONE, {MSTATUS: TVM})
        yield Row(VS, text, VIRTUAL, {HSTATUS: VTVM})
    for text in ("sfence.w.inval", "sfence.inval.ir"):
        yield Row(VU, text, VIRTUAL)
        yield Row(VS, text, DONE, {HSTATUS: VTVM, MSTATUS: TVM})
    yield Row(VU, "sret", VIRTUAL)
    yield Row(VU, "sret", VIRTUAL, {MSTATUS: TSR})
    yield Row(VS, "sret", DONE, {MSTATUS: TSR})
    yield Row(VS, "sret", VIRTUAL, {HSTATUS: VTSR})
    for world in BOTH:
        yield Row(world, "mret", ILLEGAL)
        yield Row(world, "wfi", ILLEGAL, {MSTATUS: TW})
        yield Row(world, "wfi", ILLEGAL, {MSTATUS: TW, HSTATUS: VTW})
        yield Row(world, "wfi", VIRTUAL, {HSTATUS: VTW})
    yield Row(VU, "wfi", VIRTUAL)


def cache_blocks() -> Iterator[Row]:
    """Zicbom and Zicboz: menvcfg makes them illegal, henvcfg and in VU senvcfg virtual ("CMO", "Control of CBO")."""
    for text, bits in (("cbo.zero (a1)", 0x80), ("cbo.clean (a1)", 0x40), ("cbo.flush (a1)", 0x40),
                       ("cbo.inval (a1)", 0x30)):
        for setting in range(8):
            m, h, s = (setting >> k & 1 for k in range(3))
            csrs = {MENVCFG: m * bits, HENVCFG: h * bits, SENVCFG: s * bits}
            refused = 0 if m and h else VIRTUAL if m else ILLEGAL
            yield Row(VS, text, refused, csrs)
            yield Row(VU, text, refused or (0 if s else VIRTUAL), csrs)


def floats() -> Iterator[Row]:
    """An FS field of 0 makes an instruction illegal, whoever's it is."""
    for text in ("fadd.d f1, f2, f3", "csrr a0, fcsr", "csrw frm, x0", "fmv.x.d a0, f1"):
        for world in BOTH:
            yield Row(world, text, ILLEGAL, {MSTATUS: FS})
            yield Row(world, text, ILLEGAL, {VSSTATUS: FS})
            yield Row(world, text, DONE, {MSTATUS: FS, VSSTATUS: FS})


def state_enables() -> Iterator[Row]:
    """Smstateen: what mstateen keeps is illegal, what hstateen keeps from a guest is virtual ("Smstateen")."""
    for setting in range(4):
        m, h = setting & 1, setting >> 1
        csrs = {"csr_30c": m << 62, "csr_60c": h << 62}
        for text in ("csrr a0, senvcfg", "csrw senvcfg, a0"):
            yield Row(VS, text, ILLEGAL if not m else DONE if h else VIRTUAL, csrs)
            yield Row(VU, text, VIRTUAL if m else ILLEGAL, csrs)
        for world in BOTH:
            yield Row(world, "csrr a0, henvcfg", VIRTUAL if m else ILLEGAL, csrs)
        for n in range(4):
            csrs = {f"csr_{0x30C + n:x}": m << 63, f"csr_{0x60C + n:x}": h << 63}
            yield Row(VS, f"csrr a0, sstateen{n}", ILLEGAL if not m else DONE if h else VIRTUAL, csrs)
            yield Row(VU, f"csrr a0, sstateen{n}", VIRTUAL if m else ILLEGAL, csrs)
            for world in BOTH:
                yield Row(world, f"csrw hstateen{n}, a0", VIRTUAL if m else ILLEGAL, csrs)
                yield Row(world, f"csrr a0, mstateen{n}", ILLEGAL, csrs)


SUBJECTS = (counters, hypervisor_instructions, hypervisor_csrs, timers, supervisor, cache_blocks, floats, state_enables)
HANDLER, DATA, TARGET = 0x8000_8000, 0x8001_0000, 0x8000_4000


class Stage:
    """A machine that executes one row after the other."""

    def __init__(self, core: str, *, exts: int = H) -> None:
        self.bare = Bare(exts=exts, variant=Variant(core=core))
        self.bare.open_pmp()
        self.start = self.bare.core.state
        self.core = self.bare.core

    def cause(self, row: Row) -> int:
        """Return the cause that a row's instruction traps with, DONE if it does not."""
        self.core.state = self.start
        self.core.mem_write(0x8000_0000, bytes(asm(row.text, at=0x8000_0000)))
        self.bare.set(**{MCOUNTEREN: 0xFFFF_FFFF, HCOUNTEREN: 0xFFFF_FFFF, SCOUNTEREN: 0xFFFF_FFFF})
        self.bare.set(csr_305=HANDLER, csr_241=TARGET, a1=DATA, **row.csrs)
        hart = self.bare.hart
        hart.priv, hart.virt, hart.pc = row.world & 3, 1, 0x8000_0000
        word = self.bare.core.mem_read(0x8000_0000, 4)
        assert self.core.run(self.core.icount + 1) == "limit"
        if hart.priv != 3:
            return DONE
        assert hart.pc == HANDLER
        # tval is the instruction, as for an illegal one; V and the privilege before are in mstatus.
        assert hart.csr_read(0x343) == int.from_bytes(word, "little")
        assert hart.csr_read(0x300) >> 39 & 1 == 1
        assert hart.csr_read(0x300) >> 11 & 3 == row.world & 3
        assert hart.csr_read(0x300) >> 38 & 1 == 0
        assert (hart.csr_read(0x34A), hart.csr_read(0x34B)) == (0, 0)
        return hart.csr_read(0x342)


@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda f: f.__name__)
def test_the_manuals_list(subject: object, core: str) -> None:
    assert callable(subject)
    stage, wrong, seen = Stage(core, exts=H | SMSTATEEN if subject is state_enables else H), [], 0
    for row in subject():
        found = stage.cause(row)
        seen += 1
        if found != row.cause:
            wrong.append(f"{row}, found {found}")
    assert seen > 10
    assert not wrong, "\n".join(wrong)
