"""One hart as Python sees it: registers, CSRs, privilege, translations, and what a hypervisor of the host's does to it.

A view of the core's own hart, between instructions; hart.pyx makes them and owns what they point to.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython cimport final
from libc.stdint cimport uint32_t, uint64_t

from arch cimport *
from cache cimport *
from opcodes cimport OP_HFENCE_GVMA, OP_SFENCE_VMA


@final
cdef class Hart:
    """One hart's architectural state, between instructions."""
    cdef readonly object core       # keeps what `h` points to
    cdef hart_t* h

    def __init__(self, core, hart):
        self.h = <hart_t*>PyCapsule_GetPointer(hart, "pyvirt.hart_t")
        self.core = core

    def x(self, int i) -> int:
        if not 0 <= i < 32:
            raise IndexError(f"x{i}; allowed: x0 to x31")
        return self.h.s.x[i]

    def set_x(self, int i, uint64_t value) -> None:
        if not 0 <= i < 32:
            raise IndexError(f"x{i}; allowed: x0 to x31")
        if i:
            self.h.s.x[i] = value

    def f(self, int i) -> int:
        if not 0 <= i < 32:
            raise IndexError(f"f{i}; allowed: f0 to f31")
        return self.h.s.f[i]

    def set_f(self, int i, uint64_t value) -> None:
        if not 0 <= i < 32:
            raise IndexError(f"f{i}; allowed: f0 to f31")
        self.h.s.f[i] = value

    @property
    def id(self) -> int:
        return self.h.s.hartid

    @property
    def pc(self) -> int:
        return self.h.s.pc

    @pc.setter
    def pc(self, uint64_t value) -> None:
        self.h.s.pc = value & ~<uint64_t>1

    @property
    def priv(self) -> int:
        """0 U, 1 S, 3 M."""
        return self.h.s.priv

    @priv.setter
    def priv(self, int value) -> None:
        if value not in (0, 1, 3):
            raise ValueError(f"priv is {value}; allowed: 0 (U), 1 (S), 3 (M)")
        self.h.s.priv = value
        self.h.api.select(self.h)

    @property
    def has_h(self) -> bool:
        """Whether the hart has the hypervisor extension."""
        return bool(self.h.m.exts >> EXT_H & 1)

    @property
    def virt(self) -> int:
        """V: 1 in VS and VU."""
        return self.h.s.virt

    @virt.setter
    def virt(self, bint value) -> None:
        self.h.s.virt = value and self.h.m.exts >> EXT_H & 1
        self.h.api.status_changed(self.h)
        self.h.api.select(self.h)

    @property
    def waiting(self) -> bool:
        """True in WFI."""
        return bool(self.h.s.waiting)

    @waiting.setter
    def waiting(self, bint value) -> None:
        self.h.s.waiting = value

    @property
    def hsm(self) -> int:
        """State of the SBI HSM extension: 0 started, 1 stopped, 4 suspended."""
        return self.h.s.hsm

    @hsm.setter
    def hsm(self, int value) -> None:
        if value not in (0, 1, 4):
            raise ValueError(f"hsm is {value}; allowed: 0 started, 1 stopped, 4 suspended")
        self.h.s.hsm = value

    @property
    def count(self) -> int:
        """Instructions attempted by this hart."""
        return self.h.s.count

    @property
    def trap_cause(self) -> int:
        """Cause of the trap that ended a run with "firmware"."""
        return self.h.s.mcause

    def set_sbi_timer(self, uint64_t ticks) -> None:
        """Raise STIP when time reaches `ticks`, without menvcfg.STCE: the TIME extension of the built-in firmware."""
        self.h.s.sbi_timer = 1
        self.h.s.stimecmp = ticks

    def set_soft_pending(self, bint level) -> None:
        """Set or clear SSIP: an IPI of the built-in firmware."""
        if level:
            self.h.s.mip_sw |= <uint64_t>1 << IRQ_SSI
        else:
            self.h.s.mip_sw &= ~(<uint64_t>1 << IRQ_SSI)

    def offer(self, *, bint wake, bint take) -> None:
        """Say what interrupts of its guest's a hypervisor of the host's holds: `wake` ends WFI, and with `take` a run
        ends with "hyper" where VS-mode would take an interrupt and has none of the hart's own. No part of the state.
        """
        self.h.offered = (OFFER_WAKE if wake else 0) | (OFFER_TAKE if take else 0)

    def fenced(self, *, bint guest=False) -> None:
        """Note, while fences are checked, that all addresses of every stage (`guest`: the G-stage) were fenced here."""
        if self.h.m.fences != NULL:
            if not guest:
                self.h.api.fence_done(self.h, OP_SFENCE_VMA, 0, 1)
            self.h.api.fence_done(self.h, OP_HFENCE_GVMA, 0, 1)

    def sret(self) -> None:
        """Do what sret does in the hart's world: return to where sepc (vsepc in a guest) says."""
        self.h.n = 0
        self.h.icount_end = self.h.m.clock.icount
        self.h.api.sret(self.h)

    def exit(self) -> tuple:
        """Return what the trap into HS-mode left: (scause, sepc, stval, htval, htinst, hstatus)."""
        return self.h.s.scause, self.h.s.sepc, self.h.s.stval, self.h.s.htval, self.h.s.htinst, self.h.s.hstatus

    def resume(self, uint64_t pc) -> None:
        """Go back with sret to `pc`. Another than the trap's says that its instruction was done: progress for the watch
        on loops of traps.
        """
        pc &= ~<uint64_t>1
        if pc != self.h.s.sepc:
            self.h.s.sepc = pc
            self.h.s.streak_count = 0
        self.sret()

    def translate_guest(self, uint64_t va, int access=1, *, bint hlvx=False) -> int:
        """Return the pa of va as HLV (access 1), HSV (2) or, with 0, a fetch reach it: V=1, privilege hstatus.SPVP.

        A and D bits are set where the hart would. LookupError carries cause, gpa and pseudoinstruction.
        """
        cdef machine_t* m = self.h.m
        cdef uint64_t pa = 0
        cdef int leave = m.leave, stop = m.stop, st
        cdef fences_t* fences = m.fences
        m.fences = NULL  # the guest uses nothing here
        st = self.h.api.translate_as(self.h, va, access, 1, hlvx, &pa)
        m.fences = fences
        if st == ST_FAULT:
            raise LookupError(self.h.fault, self.h.fault_gpa, self.h.fault_inst)
        if st != ST_OK:
            m.leave, m.stop = leave, stop
            raise MemoryError(f"no memory for the page table at {m.stop_addr:#x}")
        return pa

    def csrs(self, tuple numbers) -> list:
        """Read several CSRs, as `csr_read` does."""
        cdef uint64_t value = 0
        values = []
        for number in numbers:
            if not self.h.api.csr_read(self.h, number, &value):
                raise KeyError(f"CSR {number:#x} does not exist")
            values.append(value)
        return values

    def set_csrs(self, tuple numbers, list values) -> None:
        """Write several CSRs in order, as `csr_write` does."""
        for number, value in zip(numbers, values, strict=True):
            if not self.h.api.csr_write(self.h, number, value):
                raise KeyError(f"CSR {number:#x} does not exist")

    def reset(self) -> None:
        """Put the hart in its state after power-on."""
        self.core.reset_hart(self.h.s.hartid)

    def csr_read(self, uint32_t csr) -> int:
        """Read a CSR with machine privilege. KeyError when the hart has none of this number."""
        cdef uint64_t value = 0
        if not self.h.api.csr_read(self.h, csr, &value):
            raise KeyError(f"CSR {csr:#x} does not exist")
        return value

    def csr_write(self, uint32_t csr, uint64_t value) -> None:
        """Write a CSR with machine privilege, under its WARL rules. KeyError when the hart has none of this number."""
        if not self.h.api.csr_write(self.h, csr, value):
            raise KeyError(f"CSR {csr:#x} does not exist")

    def translate(self, uint64_t va, int access=1) -> int:
        """Return the pa of va as a load (1), store (2) or fetch (0) sees it. LookupError carries the cause."""
        cdef uint64_t pa = 0
        cdef int st = self.h.api.probe(self.h, va, access, &pa)
        self.core.ram.raise_failed()
        if st == ST_FAULT:
            raise LookupError(self.h.fault)
        return pa
