"""A virtual hart as a hypervisor written in Python sees it, and the SBI that its guest calls.

A vcpu lives on the machine's hart of the same number: what the guest can see of itself is in the hart's registers all
the time; here are the names that a hypervisor has for it, and how a trap is given to the guest.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyvirt.assembly.csrnames import CSRS
from pyvirt.firmware import sbi
from pyvirt.firmware.sbi import RFENCE, Sbi
from pyvirt.nesting.guestmem import PAGE
from pyvirt.nesting.nested import Nested
from pyvirt.nesting.shadow import ACCESSES, READ_TABLE, WRITE_TABLE
from pyvirt.stop import INTERRUPT

if TYPE_CHECKING:
    from pyvirt.hart import Hart
    from pyvirt.nesting.hypervisor import Hypervisor

MASK64 = (1 << 64) - 1
SPP, SPIE, SIE = 1 << 8, 1 << 5, 1 << 1
SPVP = 1 << 8
LINES = {"software": 2, "timer": 6, "external": 10}
CSR_SSTATUS, CSR_HVIP, CSR_SIE = (CSRS[name] for name in ("sstatus", "hvip", "sie"))
# CSRs that a guest's S-mode has of its own: it reaches them under S-level numbers.
GUEST_CSRS = {CSRS[name]: CSRS["v" + name] for name in (
    "sstatus", "sie", "stvec", "sscratch", "sepc", "scause", "stval", "sip", "stimecmp", "satp")}


class Vcpu:
    """One virtual hart of the guest, on the hart of the same number.

    `hart` is the machine's: its x and f registers are the guest's. `pc`, `priv` (1 VS, 0 VU) and the CSRs are the
    guest's own, also while the hypervisor serves its exit. `nested` is the virtual H extension, None without one.
    """

    def __init__(self, hypervisor: Hypervisor, index: int) -> None:
        self.hypervisor, self.index = hypervisor, index
        self.core_hart = hypervisor.machine._board.core.hart(index)
        self.nested: Nested | None = None
        self._exited = False
        self._pc = 0
        self._priv = 1

    @property
    def hart(self) -> Hart:
        return self.hypervisor.machine.harts[self.index]

    @property
    def id(self) -> int:
        return self.index

    @property
    def pc(self) -> int:
        """Where the guest goes on."""
        return self._pc if self._exited else self.core_hart.pc

    @pc.setter
    def pc(self, value: int) -> None:
        if self._exited:
            self._pc = value & MASK64
        else:
            self.core_hart.pc = value & MASK64

    @property
    def priv(self) -> int:
        return self._priv if self._exited else self.core_hart.priv

    @priv.setter
    def priv(self, value: int) -> None:
        if self._exited:
            self._priv = value
        else:
            self.core_hart.priv, self.core_hart.virt = value, 1

    def x(self, number: int) -> int:
        """Read an x register."""
        return self.core_hart.x(number)

    def set_x(self, number: int, value: int) -> None:
        self.core_hart.set_x(number, value & MASK64)

    def csr_read(self, csr: int | str) -> int:
        """Read a CSR as the guest's S-mode does: "sepc" is the guest's."""
        number = CSRS[csr] if isinstance(csr, str) else csr
        return self.core_hart.csr_read(GUEST_CSRS.get(number, number))

    def csr_write(self, csr: int | str, value: int) -> None:
        number = CSRS[csr] if isinstance(csr, str) else csr
        self.core_hart.csr_write(GUEST_CSRS.get(number, number), value & MASK64)

    def translate(self, va: int, access: str = "load") -> int:
        """Return the machine's physical address of a guest virtual one. LookupError carries the cause."""
        hart = self.core_hart
        return (hart.translate_guest if self._exited else hart.translate)(va, ACCESSES.index(access))

    def read(self, va: int, n: int) -> bytes:
        """Return n bytes at a guest virtual address. LookupError where the guest would take a fault."""
        parts = []
        while n:
            size = min(PAGE - va % PAGE, n)
            parts.append(self.core_hart.core.mem_read(self.translate(va), size))
            va, n = va + size, n - size
        return b"".join(parts)

    @property
    def waiting(self) -> bool:
        return self.core_hart.waiting

    @waiting.setter
    def waiting(self, value: bool) -> None:
        self.core_hart.waiting = value

    @property
    def hsm(self) -> int:
        return self.core_hart.hsm

    @hsm.setter
    def hsm(self, value: int) -> None:
        self.core_hart.hsm = value

    @property
    def has_h(self) -> bool:
        return self.nested is not None

    # -- interrupts and traps
    def set_irq(self, line: str, level: bool) -> None:
        """Raise or lower an interrupt of the guest's: "external", "timer" or "software"."""
        bit = 1 << LINES[line]
        nested = self.nested
        if nested is not None and nested.virt:
            # The guest's own pending bits rest while its guest runs.
            at = len(nested.vs)
            nested.hs[at] = nested.hs[at] | bit if level else nested.hs[at] & ~bit
            if line == "software":
                self.core_hart.set_soft_pending(level)
            return
        now = self.core_hart.csr_read(CSR_HVIP)
        self.core_hart.csr_write(CSR_HVIP, now | bit if level else now & ~bit)

    def set_soft_pending(self, level: bool) -> None:
        self.set_irq("software", level)

    def set_sbi_timer(self, ticks: int) -> None:
        """Raise the guest's timer interrupt when its time reaches `ticks`, and lower it until then."""
        hart = self.core_hart
        if self.hypervisor.sstc:
            hart.csr_write(CSRS["vstimecmp"], ticks)
        else:
            self.set_irq("timer", False)
            hart.set_sbi_timer(max(ticks - hart.csr_read(CSRS["htimedelta"]), 0))
            hart.csr_write(CSR_SIE, hart.csr_read(CSR_SIE) | 1 << 5)

    def fenced(self) -> None:
        self.core_hart.fenced()

    def inject(self, cause: int, tval: int = 0) -> None:
        """Let the guest take an exception at `pc` in its S-mode, as its hart would deliver it."""
        if self.nested is None:
            self.enter_vs(cause, tval, self.priv)
        elif self.nested.virt:
            self.nested.exception(cause, tval)
        else:
            self.nested.to_l1(cause, tval)

    def enter_vs(self, cause: int, tval: int, priv: int) -> None:
        """Deliver a trap to VS-mode: its CSRs, pc and privilege."""
        hart = self.core_hart
        status = hart.csr_read(CSRS["vsstatus"])
        left = status & ~(SPIE | SPP | SIE) | (SPIE if status & SIE else 0) | (SPP if priv else 0)
        hart.csr_write(CSRS["vsstatus"], left)
        hart.csr_write(CSRS["vsepc"], self.pc)
        hart.csr_write(CSRS["vscause"], cause)
        hart.csr_write(CSRS["vstval"], tval & MASK64)
        tvec = hart.csr_read(CSRS["vstvec"])
        self.pc = (tvec & ~3) + (4 * (cause & ~INTERRUPT) if tvec & 1 and cause & INTERRUPT else 0)
        self.priv = 1

    def _exit(self) -> tuple[int, int, int, int, int]:
        """Note the trap that brought the hart to HS-mode: (cause, tval, gpa, htinst, hstatus)."""
        cause, self._pc, tval, htval, htinst, hstatus = self.core_hart.exit()
        self._exited = True
        self._priv = 1 if hstatus & SPVP else 0
        # Page tables, which implicit accesses are about, have no odd addresses.
        low = 0 if htinst in (READ_TABLE, WRITE_TABLE) else tval & 3
        return cause, tval, htval << 2 | low, htinst, hstatus

    def _resume(self) -> None:
        """Go back into the guest."""
        hart = self.core_hart
        status = hart.csr_read(CSR_SSTATUS)
        wanted = status | SPP if self._priv else status & ~SPP
        if wanted != status:
            hart.csr_write(CSR_SSTATUS, wanted)
        self._exited = False
        hart.resume(self._pc)

    @property
    def world(self) -> str:
        """"VS" or "VU"; with "L2 " before it while the guest's guest runs."""
        name = "VS" if self.priv else "VU"
        return f"L2 {name}" if self.nested is not None and self.nested.virt else name

    def __repr__(self) -> str:
        return f"<Vcpu {self.index} {self.world} pc={self.pc:#x}>"


class GuestCore:
    """What the built-in SBI and devices with DMA take for the machine: vcpus, and guest memory for RAM."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.ram = hypervisor.memory
        self.mem_read, self.mem_write = hypervisor.memory.read, hypervisor.memory.write

    @property
    def harts(self) -> int:
        return len(self._hypervisor.vcpus)

    def hart(self, index: int) -> Vcpu:
        return self._hypervisor.vcpus[index]


class GuestSbi(Sbi):
    """The built-in SBI, whose harts are vcpus and whose RAM is guest memory."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        runner = hypervisor.machine._runner
        core: Any = GuestCore(hypervisor)
        super().__init__(core, console_write=hypervisor._printed, console_read=runner.read_console,
                         on_exit=runner.on_exit)
        self.hypervisor = hypervisor
        fences = self._extensions[RFENCE]

        def rfence(hart: Any, function: int, args: list[int]) -> sbi.Answer:
            answer = fences(hart, function, args)
            if function in (3, 4) and answer[0] == sbi.SUCCESS:   # of the G-stage
                hypervisor.flush_nested()
            return answer

        self._extensions[RFENCE] = rfence

    @property
    def extensions(self) -> dict[int, Callable[[Any, int, list[int]], sbi.Answer]]:
        return self._extensions
