"""The H extension as a hypervisor written in Python emulates it, so that its guest can be a hypervisor too.

Three levels: L0 is the Python hypervisor, L1 its guest, L2 the guest's guest. L1 runs in VS-mode and believes it is in
HS-mode: its accesses to hypervisor and VS CSRs, HLV, HFENCE and the sret into L2 trap as virtual instructions and are
done here. L2 runs in VS-mode as well, on tables composed of L1's G-stage and ours, filled on demand; its traps that L1
did not delegate are reflected to L1. Privileged manual, chapter "H".
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvirt._hart import EXTENSIONS
from pyvirt.assembly.csrnames import CSRS
from pyvirt.nesting.guestinsn import (
    HFENCE_GVMA,
    HFENCE_VVMA,
    HINVAL_GVMA,
    HINVAL_VVMA,
    SFENCE_VMA,
    SINVAL_VMA,
    SRET,
    WFI,
    HyperAccess,
    decode_hyper,
)
from pyvirt.nesting.guestmem import PAGE
from pyvirt.nesting.shadow import ACCESS_FAULT, GUEST_PAGE_FAULT, LOAD, STORE, Refused, Shadow
from pyvirt.stop import INTERRUPT, Trap

if TYPE_CHECKING:
    from pyvirt._view import Hart
    from pyvirt.nesting.hypervisor import Hypervisor
    from pyvirt.nesting.vcpu import Vcpu

MASK64 = (1 << 64) - 1
ILLEGAL, VIRTUAL = 2, 22

SSTATUS_SIE, SSTATUS_SPIE, SSTATUS_SPP, SSTATUS_FS, SSTATUS_MXR = 1 << 1, 1 << 5, 1 << 8, 3 << 13, 1 << 19
GVA, SPV, SPVP, HU, VTVM, VTW, VTSR = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 20, 1 << 21, 1 << 22
VSXL = 3 << 32
STCE, ADUE = 1 << 63, 1 << 61
SIE_STIE = 1 << 5
VS_INTERRUPTS, H_INTERRUPTS = 0x444, 0x1444

# What changes with the level that runs: first what L1 and L2 each have of their own under S-level names ...
BANK = ("vsstatus", "vstvec", "vsscratch", "vsepc", "vscause", "vstval", "vsatp", "vstimecmp")
# ... then what L0 holds for L1, and L1 for L2.
HOST = ("hvip", "hie", "hedeleg", "hideleg", "htimedelta", "hcounteren", "henvcfg", "hgatp")
SWITCHED = tuple(CSRS[name] for name in BANK + HOST)
STATEEN = tuple(CSRS[f"hstateen{n}"] for n in range(4))     # the same, where there is Smstateen
VSSTATUS, VSTVEC, VSEPC, VSCAUSE, VSTVAL, VSATP, VSTIMECMP, HVIP, HIE, HTIMEDELTA, HCOUNTEREN, HENVCFG = (
    (BANK + HOST).index(name) for name in ("vsstatus", "vstvec", "vsepc", "vscause", "vstval", "vsatp", "vstimecmp",
                                           "hvip", "hie", "htimedelta", "hcounteren", "henvcfg"))
BANK_INDEX = {CSRS[name]: index for index, name in enumerate(BANK)}
# Kept as plain words; those with fields that are not free take the hart's own rules.
WORDS = {CSRS[name]: name for name in (
    "hstatus", "hedeleg", "hideleg", "htimedelta", "hcounteren", "henvcfg", "htval", "htinst", "hgatp", "hvip")}
FREE = {CSRS[name] for name in ("htimedelta", "htval", "htinst", "vsscratch", "vscause", "vstval", "vstimecmp")}
CSR_HIE, CSR_HIP, CSR_HGEIE, CSR_HGEIP, CSR_VSIE, CSR_VSIP = (
    CSRS[name] for name in ("hie", "hip", "hgeie", "hgeip", "vsie", "vsip"))
HLV_SET = tuple(CSRS[name] for name in ("vsatp", "vsstatus", "hgatp", "henvcfg", "hstatus", "sstatus"))
CSR_HSTATUS, CSR_SSTATUS, CSR_SIE, CSR_SIP, CSR_STIMECMP, CSR_HENVCFG = (
    CSRS[name] for name in ("hstatus", "sstatus", "sie", "sip", "stimecmp", "henvcfg"))
STATE_WORDS = ("hstatus", "hedeleg", "hideleg", "hvip", "hie", "htimedelta", "hcounteren", "henvcfg", "htval", "htinst",
               "hgatp")


class Nested:
    """The virtual H extension of one vcpu. `virt` says whether L2 runs."""

    def __init__(self, hypervisor: Hypervisor, vcpu: Vcpu) -> None:
        self.hypervisor, self.vcpu = hypervisor, vcpu
        self.hart: Hart = vcpu.core_hart
        self.core = self.hart.core
        self.virt = False
        self.hstatus = self.hart.csr_read(CSR_HSTATUS) & VSXL
        self.hedeleg = self.hideleg = self.hvip = self.hie = self.htimedelta = 0
        self.hcounteren = self.henvcfg = self.htval = self.htinst = self.hgatp = 0
        self.vs = self.hart.csrs(SWITCHED[:len(BANK)])  # L2's bank while L1 runs; first as after reset
        self.hs: list[int] = []                 # all of SWITCHED as L1 had it, while L2 runs
        self.hstateen = [0] * (4 if self.core.exts & EXTENSIONS["smstateen"] else 0)
        self.switched = SWITCHED + STATEEN[:len(self.hstateen)]
        self._offering = False                  # whether the hart was asked to watch for interrupts of L2's
        self._lent: int | None = None           # L1's sstatus, while its HLV or HSV has L2's registers in the hart
        self.shadow = Shadow(self)

    # -- CSRs that L1 sees
    def _legal(self, number: int, old: int, value: int) -> int:
        """Return what a write over `old` makes of a CSR by the hart's own WARL rules, tried on the hart itself."""
        hart = self.hart
        saved = hart.csr_read(number)
        hart.csr_write(number, old)
        hart.csr_write(number, value)
        result = hart.csr_read(number)
        hart.csr_write(number, saved)
        return result

    @property
    def time(self) -> int:
        """L2's time."""
        delta = (self.hs[HTIMEDELTA] if self.virt else self.hart.csr_read(CSRS["htimedelta"])) + self.htimedelta
        return (self.core.time + delta) & MASK64

    @property
    def sstatus(self) -> int:
        """L1's."""
        if self._lent is not None:
            return self._lent
        return self.hs[VSSTATUS] if self.virt else self.hart.csr_read(CSRS["vsstatus"])

    @property
    def hip(self) -> int:
        timer = self.henvcfg & STCE and self.time >= self.vs[VSTIMECMP]
        return self.hvip | (1 << 6 if timer else 0)

    def csr_read(self, number: int) -> int | None:
        """Read a CSR as L1 in HS-mode does; None when this is no hypervisor or VS CSR."""
        name = WORDS.get(number)
        if name is not None:
            return int(getattr(self, name))
        index = BANK_INDEX.get(number)
        if index is not None:
            return self.vs[index]
        if number == CSR_HIE:
            return self.hie
        if number == CSR_HIP:
            return self.hip
        if number == CSR_VSIE:
            return (self.hie & self.hideleg) >> 1
        if number == CSR_VSIP:
            return (self.hip & self.hideleg) >> 1
        if number in (CSR_HGEIE, CSR_HGEIP):
            return 0
        if number in STATEEN and self.hstateen:
            return self.hstateen[STATEEN.index(number)]
        return None

    def csr_write(self, number: int, value: int) -> None:
        """Write a CSR that `csr_read` knows, under the rules of the hart."""
        index = BANK_INDEX.get(number)
        if index is not None:
            old = self.vs[index]
            self.vs[index] = value if number in FREE else self._legal(number, old, value)
        elif number in WORDS:
            name = WORDS[number]
            if number == CSR_HENVCFG:
                value &= ~ADUE  # L1 is told of no Svadu
            if number not in FREE:
                value = self._legal(number, getattr(self, name), value)
            setattr(self, name, value)
            self.watch()
            return
        elif number in STATEEN:
            index = STATEEN.index(number)
            self.hstateen[index] = self._legal(number, self.hstateen[index], value)
        elif number == CSR_HIE:
            self.hie = value & H_INTERRUPTS
        elif number == CSR_HIP:
            self.hvip = self.hvip & ~4 | value & 4
        elif number == CSR_VSIE:
            self.hie = self.hie & ~self.hideleg | value << 1 & self.hideleg
        elif number == CSR_VSIP:
            mask = self.hideleg & 4
            self.hvip = self.hvip & ~mask | value << 1 & mask
        self._offer()

    def watch(self) -> None:
        """Have the hart stop where something of the virtual H extension would change without a trap to us.

        While hstatus.SPV is set an sret of L1's is the entry of L2: VTSR makes it trap. While SPV, GVA, htval or htinst
        are set the next trap into L1, which the hart delivers by itself, clears them: the core stops behind it.
        """
        if not self.virt:
            real = self.hart.csr_read(CSR_HSTATUS)
            wanted = real | VTSR if self.hstatus & SPV else real & ~VTSR
            if wanted != real:
                self.hart.csr_write(CSR_HSTATUS, wanted)
        self.core.hyper_guest = any(n is not None and n.stale for n in (v.nested for v in self.hypervisor.vcpus))
        self._offer()

    def _offer(self) -> None:
        """Have the hart watch for the interrupts of L2's that L1 sees while it runs: those that it does not delegate.

        They are none of the hart's own then, which has L1's in their place; a timer that is to come due is lent the
        hart's HS-level one.
        """
        if not (self.hie or self._offering):
            return
        hart, ready = self.hart, self.hie & self.hip
        if self.virt:
            self._offering = False
            hart.offer(wake=False, take=False)
            return
        hart.offer(wake=bool(ready), take=bool(ready & ~self.hideleg))
        enabled = hart.csr_read(CSR_SIE)
        armed = self.henvcfg & STCE and self.hie >> 6 & 1 and not ready >> 6 & 1
        if armed:
            hart.csr_write(CSR_STIMECMP, min(self.core.time + self.vs[VSTIMECMP] - self.time, MASK64))
        hart.csr_write(CSR_SIE, enabled | SIE_STIE if armed else enabled & ~SIE_STIE)
        self._offering = bool(armed or ready)

    def timer(self) -> None:
        """Time has reached what `_offer` waits for."""
        self._offer()

    def offered(self) -> bool:
        """Deliver an interrupt of L2's that L1 keeps for itself, if L1 takes one now; says whether."""
        vcpu, due = self.vcpu, self.hie & self.hip & ~self.hideleg
        if not due:
            self._offer()   # what the hart was told last is no longer so
        if self.virt or not due or (vcpu.priv and not self.hart.csr_read(CSRS["vsstatus"]) & SSTATUS_SIE):
            return False
        self.to_l1(INTERRUPT | next(n for n in (10, 2, 6) if due >> n & 1), 0)
        return True

    @property
    def stale(self) -> bool:
        """Whether the next trap into L1 changes the virtual CSRs."""
        return not self.virt and bool(self.hstatus & (SPV | GVA) or self.htval or self.htinst)

    def trapped(self) -> None:
        """L1 took a trap from itself, delivered by the hart."""
        if self.stale:
            self.hstatus &= ~(SPV | GVA)
            self.htval = self.htinst = 0
            self.watch()

    # -- instructions of L1
    def emulate(self, insn: int) -> None:
        """Do an instruction of L1's that trapped as a virtual instruction, or give L1 the trap it would take."""
        vcpu = self.vcpu
        if not self._emulate(insn, user=vcpu.priv == 0):
            vcpu.inject(ILLEGAL, insn)

    def _emulate(self, insn: int, *, user: bool) -> bool:
        funct3 = insn >> 12 & 7
        if insn & 0x7F != 0x73:
            return False
        if funct3 == 4:
            access = decode_hyper(insn)
            if access is None or (user and not self.hstatus & HU):
                return False
            self._hyper(access, insn)
            return True
        if user:
            return False
        if funct3:
            return self._csr_op(insn)
        vcpu = self.vcpu
        if insn == SRET:
            self.sret()
            return True
        if insn == WFI:
            vcpu.waiting = True
        elif insn >> 25 in (HFENCE_GVMA, HINVAL_GVMA) and not insn >> 7 & 31:
            self._fence(insn >> 15 & 31, insn >> 20 & 31)
        elif insn >> 25 not in (HFENCE_VVMA, HINVAL_VVMA, SFENCE_VMA, SINVAL_VMA):
            return False
        vcpu.pc += 4
        return True

    def _csr_op(self, insn: int) -> bool:
        number, how, rs1, rd = insn >> 20, insn >> 12 & 7, insn >> 15 & 31, insn >> 7 & 31
        old = self.csr_read(number)
        writes = how & 3 == 1 or rs1 != 0
        if old is None or (writes and number >> 10 == 3):
            return False
        if writes:
            operand = rs1 if how & 4 else self.hart.x(rs1)
            # What is modified of the pending registers are software's own bits only.
            base = self.hvip if number == CSR_HIP else self.hvip >> 1 if number == CSR_VSIP else old
            if how & 3 == 2:
                operand |= base
            elif how & 3 == 3:
                operand = base & ~operand
            self.csr_write(number, operand)
        self.hart.set_x(rd, old)
        self.vcpu.pc += 4
        return True

    def _hyper(self, access: HyperAccess, insn: int) -> None:
        """HLV, HLVX and HSV: the hart translates as L2 with L2's registers lent to it."""
        hart, vcpu = self.hart, self.vcpu
        va = hart.x(access.base)
        kind = STORE if access.store else LOAD
        saved = hart.csrs(HLV_SET)
        self._lent = saved[1]
        status = saved[5] & ~SSTATUS_MXR | self._lent & SSTATUS_MXR
        hart.set_csrs(HLV_SET, [self.vs[VSATP], self.vs[VSSTATUS], self.shadow.hgatp(), self.henvcfg & saved[3] & ~ADUE,
                                saved[4] & ~SPVP | self.hstatus & SPVP, status])
        trap: tuple[int, ...] | None = None
        places: list[tuple[int, int]] = []
        try:
            first = min(access.width, PAGE - va % PAGE)
            for at, size in ((va, first), (va + first & MASK64, access.width - first)):
                if size:
                    found = self._translate(at, kind, access.execute)
                    if not isinstance(found, int):
                        trap = (*found, at)
                        break
                    places.append((found, size))
        finally:
            self._lent = None
            hart.set_csrs(HLV_SET, saved)
        if trap is None:
            trap = self._copy(access, places, va)
        if trap is not None:
            cause, gpa, inst, at = trap
            if not inst and self.hypervisor.transformed:
                inst = insn & ~0xF_8000 | (at - va & 31) << 15
            self.to_l1(cause, at, htval=gpa >> 2, htinst=inst, gva=True)
        else:
            vcpu.pc += 4

    def _translate(self, va: int, kind: int, execute: bool) -> int | tuple[int, int, int]:
        """Return the pa of an address of L2's, or (cause, gpa, pseudoinstruction) of the trap."""
        while True:
            try:
                return self.hart.translate_guest(va, kind, hlvx=execute)
            except LookupError as error:
                cause, gpa, inst = error.args
            if cause not in GUEST_PAGE_FAULT:
                return cause, 0, 0
            try:
                if not self.shadow.fill(gpa, kind, inst, execute=execute):
                    return ACCESS_FAULT[kind], 0, 0
            except Refused as refused:
                return refused.cause, gpa if refused.cause in GUEST_PAGE_FAULT else 0, inst

    def _copy(self, access: HyperAccess, places: list[tuple[int, int]], va: int) -> tuple[int, int, int, int] | None:
        """Make the access at physical addresses; returns the trap where there is nothing."""
        hart, core = self.hart, self.core
        if access.store:
            data = hart.x(access.reg).to_bytes(8, "little")
        else:
            data = b""
        done = 0
        for pa, size in places:
            try:
                if access.store:
                    core.mem_write(pa, data[done:done + size])
                else:
                    data += core.mem_read(pa, size)
            except IndexError:
                try:
                    if access.store:
                        core.bus_write(pa, size, int.from_bytes(data[done:done + size], "little"))
                    else:
                        data += core.bus_read(pa, size).to_bytes(size, "little")
                except IndexError:
                    return ACCESS_FAULT[STORE if access.store else LOAD], 0, 0, va + done & MASK64
            done += size
        if not access.store:
            value = int.from_bytes(data, "little", signed=access.signed) & MASK64
            hart.set_x(access.reg, value)
        return None

    def _fence(self, rs1: int, rs2: int) -> None:
        """HFENCE.GVMA: what was composed of L1's tables is to be looked up anew."""
        vmid = self.hart.x(rs2) & 0x3FFF if rs2 else None
        self.shadow.flush(gpa=self.hart.x(rs1) << 2 if rs1 else None, vmid=vmid)

    # -- between the levels
    def sret(self) -> None:
        """L1's sret in HS-mode: back to its own U or S, or into L2."""
        hart, vcpu = self.hart, self.vcpu
        status = hart.csr_read(CSRS["vsstatus"])
        spp = status & SSTATUS_SPP
        left = status & ~(SSTATUS_SIE | SSTATUS_SPP) | SSTATUS_SPIE | (SSTATUS_SIE if status & SSTATUS_SPIE else 0)
        hart.csr_write(CSRS["vsstatus"], left)
        pc = hart.csr_read(CSRS["vsepc"])
        into = self.hstatus & SPV
        self.hstatus &= ~SPV
        if into:
            self._enter()
        self.watch()
        vcpu.pc = pc
        vcpu.priv = 1 if spp else 0
        if into:
            self.interrupts()

    def _enter(self) -> None:
        """Give the hart to L2."""
        hart = self.hart
        self.hs = hs = hart.csrs(self.switched)
        self.virt = True
        hart.set_csrs(self.switched, [
            *self.vs, self.hvip, self.hie, self.hedeleg, self.hideleg, (self.htimedelta + hs[HTIMEDELTA]) & MASK64,
            self.hcounteren & hs[HCOUNTEREN], self.henvcfg & hs[HENVCFG], self.shadow.hgatp(),
            *(own & given for own, given in zip(self.hstateen, hs[len(SWITCHED):], strict=True))])
        # L1's HS-level registers become those of the hart: FS and MXR govern L2 too, its timer interrupts it.
        status = hart.csr_read(CSR_SSTATUS)
        hart.csr_write(CSR_SSTATUS, status & ~(SSTATUS_FS | SSTATUS_MXR) | hs[VSSTATUS] & (SSTATUS_FS | SSTATUS_MXR))
        own = hart.csr_read(CSR_HSTATUS)
        hart.csr_write(CSR_HSTATUS, own & ~(VTVM | VTW | VTSR | HU) | self.hstatus & (VTVM | VTW | VTSR | HU))
        hart.csr_write(CSR_STIMECMP, max(hs[VSTIMECMP] - hs[HTIMEDELTA], 0))
        enabled = hs[HIE]
        hart.csr_write(CSR_SIE, hart.csr_read(CSR_SIE) & ~0x22 | (enabled >> 1 & 0x22))
        hart.set_soft_pending(bool(hs[HVIP] & 4))

    def _leave(self) -> None:
        """Take the hart from L2 and put L1's registers back."""
        hart = self.hart
        now = hart.csrs(SWITCHED)
        self.vs, self.hvip, self.hie = now[:len(BANK)], now[HVIP], now[HIE]
        self.virt = False
        status = hart.csr_read(CSR_SSTATUS)
        hs = self.hs
        hs[VSSTATUS] = hs[VSSTATUS] & ~SSTATUS_FS | status & SSTATUS_FS
        hart.set_csrs(self.switched, hs)
        self.hs = []
        hart.csr_write(CSR_SSTATUS, status & ~SSTATUS_MXR | SSTATUS_FS)
        hart.csr_write(CSR_HSTATUS, hart.csr_read(CSR_HSTATUS) & ~(VTVM | VTW | VTSR | HU))
        hart.csr_write(CSR_SIE, hart.csr_read(CSR_SIE) & ~0x22)
        hart.csr_write(CSR_STIMECMP, MASK64)
        hart.set_soft_pending(False)

    def interrupts(self) -> bool:
        """Reflect the interrupt that is pending for L1 while L2 runs; says whether there was one."""
        pending = self.hs[HVIP] & VS_INTERRUPTS
        if self.core.time + self.hs[HTIMEDELTA] & MASK64 >= self.hs[VSTIMECMP] and self.hs[HENVCFG] & STCE:
            pending |= 1 << 6
        pending &= self.hs[HIE]
        for number in (9, 1, 5):
            if pending >> number + 1 & 1:
                self.reflect(INTERRUPT | number, 0)
                return True
        return False

    def reflect(self, cause: int, tval: int, *, htval: int = 0, htinst: int = 0, gva: bool = False) -> None:
        """Give L1 a trap that L2 took at vcpu.pc, as the hart would deliver it to HS-mode."""
        vcpu = self.vcpu
        trap = Trap(cause=cause, tval=tval, pc=vcpu.pc, world_from="VS" if vcpu.priv else "VU", world_to="HS",
                    icount=self.core.icount, tval2=htval, tinst=htinst, gva=gva)
        priv = vcpu.priv
        self._leave()
        self.hstatus |= SPV
        self.hstatus = self.hstatus & ~SPVP | (SPVP if priv else 0)
        self._deliver(cause, tval, htval, htinst, gva, priv)
        self.hypervisor.on_reflect(vcpu, trap)

    def to_l1(self, cause: int, tval: int, *, htval: int = 0, htinst: int = 0, gva: bool = False) -> None:
        """Give L1 a trap of its own, at vcpu.pc."""
        self.hstatus &= ~SPV
        self._deliver(cause, tval, htval, htinst, gva, self.vcpu.priv)

    def _deliver(self, cause: int, tval: int, htval: int, htinst: int, gva: bool, priv: int) -> None:
        self.hstatus = self.hstatus & ~GVA | (GVA if gva else 0)
        self.htval, self.htinst = htval, htinst
        self.vcpu.enter_vs(cause, tval, priv)
        self.watch()

    def exit(self, cause: int, tval: int, gpa: int, htinst: int, hstatus: int) -> None:
        """Serve a trap that L2 took into our HS-mode."""
        if cause in GUEST_PAGE_FAULT:
            self._guest_page_fault(cause, tval, gpa, htinst, bool(hstatus & GVA))
        elif cause & INTERRUPT:
            number = cause & ~INTERRUPT
            if number in (1, 5, 9):
                if number == 9:
                    self.hypervisor.on_interrupt(self.vcpu, number)
                self.interrupts()
            else:
                self.reflect(cause, 0)
        else:
            self.reflect(cause, tval, htinst=htinst, gva=bool(hstatus & GVA))

    def _guest_page_fault(self, cause: int, tval: int, gpa: int, htinst: int, gva: bool) -> None:
        kind = GUEST_PAGE_FAULT.index(cause)
        try:
            if self.shadow.fill(gpa, kind, htinst):
                return
            l1 = self.shadow.walk(gpa, kind, kind)[0]
        except Refused as refused:
            if refused.cause in GUEST_PAGE_FAULT:
                self.reflect(cause, tval, htval=gpa >> 2, htinst=htinst, gva=gva)
            else:
                self.exception(refused.cause, tval, htinst=htinst, gva=gva)
            return
        if not self.hypervisor.serve_mmio(self.vcpu, l1, kind, htinst):
            self.exception(ACCESS_FAULT[kind], tval, htinst=htinst, gva=gva)

    def exception(self, cause: int, tval: int, *, htinst: int = 0, gva: bool = False) -> None:
        """Give L2 an exception, or L1 where it does not delegate it."""
        if self.hedeleg >> cause & 1:
            self.vcpu.enter_vs(cause, tval, self.vcpu.priv)
        else:
            self.reflect(cause, tval, htinst=htinst, gva=gva)

    # -- state
    @property
    def state(self) -> dict[str, Any]:
        """The virtual registers and where the composed tables are."""
        return {**{name: getattr(self, name) for name in STATE_WORDS}, "virt": self.virt, "vs": list(self.vs),
                "hs": list(self.hs), "hstateen": list(self.hstateen), "shadow": self.shadow.state}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        for name in STATE_WORDS:
            setattr(self, name, state[name])
        self.virt, self.vs, self.hs = state["virt"], list(state["vs"]), list(state["hs"])
        self.hstateen, self._offering = list(state["hstateen"]), True
        self.shadow.state = state["shadow"]
