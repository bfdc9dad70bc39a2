"""The G-stage under which a guest's guest runs: composed of the tables of its hypervisor (L1) and of ours (L0).

A guest-physical address of L2's is translated by L1's tables, which lie in L1's memory, to one of L1's, and that by
ours to the machine's; what comes out is kept in tables that the hart walks, one set for each hgatp of L1's, filled when
a guest page fault asks and emptied by L1's HFENCE.GVMA. Privileged manual, chapter "H", "Guest-Page Faults".
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvirt._hart import EXTENSIONS
from pyvirt.nesting.guestmem import ACCESS_BITS, MODES, A, D, R, Stage, U, V, W, X

if TYPE_CHECKING:
    from pyvirt._hart import Core
    from pyvirt.nesting.nested import Nested

FETCH, LOAD, STORE = 0, 1, 2
ACCESSES = ("fetch", "load", "store")
ACCESS_FAULT = (1, 5, 7)
GUEST_PAGE_FAULT = (20, 21, 23)
READ_TABLE, WRITE_TABLE = 0x3000, 0x3020    # pseudoinstructions: a page table of the first stage is read or written
N, PBMT, RESERVED = 1 << 63, 3 << 61, 0x7F << 54
SSTATUS_MXR = 1 << 19
SETS_MAX = 32


class Refused(Exception):
    """What L1's tables say no to, with the cause of the trap."""

    def __init__(self, cause: int) -> None:
        super().__init__(cause)
        self.cause = cause


class Shadow:
    """The composed tables of one vcpu."""

    def __init__(self, nested: Nested) -> None:
        self.nested = nested
        self.core: Core = nested.hart.core
        self.tables: dict[int, Stage] = {}  # by L1's hgatp
        self.vmids: dict[int, int] = {}     # of the hart, by the same
        exts = nested.hypervisor.machine._board.isa.exts
        self.reserved = RESERVED
        for name, bits in (("svnapot", N), ("svpbmt", PBMT)):
            self.reserved |= 0 if exts & EXTENSIONS[name] else bits

    def flush(self, *, gpa: int | None = None, vmid: int | None = None) -> None:
        """Forget composed translations: of a gpa of L2's, of a VMID of L1's, or all."""
        for hgatp, stage in self.tables.items():
            if vmid is not None and hgatp >> 44 & 0x3FFF != vmid:
                continue
            if gpa is None:
                stage.clear()
            elif not gpa >> stage.bits:
                stage.drop(gpa)
        self.nested.hart.fenced(guest=True)

    def hgatp(self) -> int:
        """Return the hgatp for the hart under which L2 runs."""
        if not self.nested.hgatp >> 60:
            return self.nested.hypervisor.memory.stage.hgatp(0)
        stage = self.tables.get(self.nested.hgatp)
        if stage is None:
            if len(self.tables) >= SETS_MAX:
                oldest = next(iter(self.tables))
                self.tables.pop(oldest).close()
                del self.vmids[oldest]
            mode = next(name for name, (number, _) in MODES.items() if number == self.nested.hgatp >> 60)
            stage = self.tables[self.nested.hgatp] = Stage(self.core, self.nested.hypervisor.memory.pool, mode)
            taken = set(self.vmids.values())
            self.vmids[self.nested.hgatp] = next(n for n in range(1, SETS_MAX + 2) if n not in taken)
        return stage.hgatp(self.vmids[self.nested.hgatp])

    def known(self, hgatp: int) -> int | None:
        """Return the hart's hgatp for one of L1's, None while there are no tables for it; makes none."""
        if not hgatp >> 60:
            return self.nested.hypervisor.memory.stage.hgatp(0)
        stage = self.tables.get(hgatp)
        return None if stage is None else stage.hgatp(self.vmids[hgatp])

    def walk(self, gpa: int, kind: int, need: int, *, execute: bool = False,
             implicit: bool = False) -> tuple[int, int, int]:
        """Translate a gpa of L2's by L1's tables: (gpa of L1's, R W X as they may be cached, level of the page).

        `kind` is the access that L2 made and decides the cause, `need` what is done at gpa. Raises Refused.
        """
        if not self.nested.hgatp >> 60:
            return gpa, R | W | X, 0
        levels = next(n for number, n in MODES.values() if number == self.nested.hgatp >> 60)
        refused = Refused(GUEST_PAGE_FAULT[kind])
        if gpa >> 14 + 9 * levels:
            raise refused
        memory = self.nested.hypervisor.memory
        table = (self.nested.hgatp & (1 << 44) - 1 & ~3) << 12
        for level in range(levels - 1, -1, -1):
            at = table + 8 * (gpa >> 12 + 9 * level & (0x7FF if level == levels - 1 else 0x1FF))
            if not memory.base <= at <= memory.end - 8:
                raise Refused(ACCESS_FAULT[kind])
            pte = int.from_bytes(memory.read(at, 8), "little")
            if not pte & V or pte & (R | W) == W or pte & self.reserved or pte & PBMT == PBMT:
                raise refused
            if not pte & (R | X):
                if pte & (A | D | U | N | PBMT):
                    raise refused
                table = (pte >> 10 & (1 << 44) - 1) << 12
                continue
            mxr = not implicit and self.nested.sstatus & SSTATUS_MXR
            if need == FETCH or execute:
                allowed = pte & X
            elif need == LOAD:
                allowed = pte & R or (mxr and pte & X)
            else:
                allowed = pte & W
            ppn, low = pte >> 10 & (1 << 44) - 1, (1 << 12 + 9 * level) - 1
            if pte & N:
                if level or ppn & 15 != 8:
                    raise refused
                ppn = ppn & ~15 | gpa >> 12 & 15
            if not pte & U or not allowed or ppn << 12 & low or not pte & A or (need == STORE and not pte & D):
                raise refused
            return ppn << 12 | gpa & low, pte & (R | X | (W if pte & D else 0)), level
        raise refused

    def fill(self, gpa: int, kind: int, inst: int, *, execute: bool = False) -> bool:
        """Compose the translation of a gpa of L2's; False when what L1 maps there is no memory of its.

        Raises Refused for what L1's tables refuse. Asks the hypervisor for pages that L1 has not touched before.
        """
        need = (STORE if inst == WRITE_TABLE else LOAD) if inst in (READ_TABLE, WRITE_TABLE) else kind
        l1, bits, level = self.walk(gpa, kind, need, execute=execute, implicit=inst in (READ_TABLE, WRITE_TABLE))
        hypervisor = self.nested.hypervisor
        stage = hypervisor.memory.stage
        if l1 >> stage.bits:
            return False
        wanted = X if execute and need == LOAD else ACCESS_BITS[ACCESSES[need]]
        own, at, pte = stage.find(l1)
        if not pte & V or (not pte & wanted and pte & (R | X) != X):
            if not hypervisor.ask_for_page(self.nested.vcpu, l1, ACCESSES[need]):
                return False
            own, at, pte = stage.find(l1)
        if pte & V and not pte & A:
            self.core.mem_write(at, (pte | A).to_bytes(8, "little"))
        if pte & V and self.nested.hgatp >> 60:
            level = min(level, own)
            low = (1 << 12 + 9 * level) - 1
            own_low = (1 << 12 + 9 * own) - 1
            pa = (pte >> 10 & (1 << 44) - 1) << 12 & ~own_low | l1 & own_low
            self.tables[self.nested.hgatp].map(gpa & ~low, pa & ~low, bits & pte & (R | W | X), level=level)
        return True

    @property
    def state(self) -> list[list[Any]]:
        """L1's hgatp, our VMID and where the tables are, of each set."""
        return [[hgatp, self.vmids[hgatp], stage.state] for hgatp, stage in self.tables.items()]

    @state.setter
    def state(self, state: list[list[Any]]) -> None:
        pool = self.nested.hypervisor.memory.pool
        self.tables = {hgatp: Stage.restored(self.core, pool, tables) for hgatp, _, tables in state}
        self.vmids = {hgatp: vmid for hgatp, vmid, _ in state}
