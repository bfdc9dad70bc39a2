"""Page walks in Python, for people: reads a hart's CSRs and page tables, and says at every step what holds and why.

A second statement of the manual's rules, which the core never uses; tests hold the two against each other. Changes
nothing: where the hart would set A or D, that is only said. Source: privileged manual 1.13, "Virtual Address
Translation Process", the chapters of Sv39, Sv48, Sv57, Svnapot, Svpbmt, Svade and Svadu, "H" ("Two-Stage Address
Translation"), and "Physical Memory Protection".
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvirt.config import choice
from pyvirt.errors import GuestAddressError
from pyvirt.explain.walk import FLAGS, GUEST_PAGE_FAULTS, RULES, Rule, Step, Walk, pte_words
from pyvirt.stop import U64, Trap

from pyvirt.explain.walk import PBMT, PPN, RESERVED, A, D, N, R, U, V, W, X  # isort: skip - bits of an entry

if TYPE_CHECKING:
    from pyvirt.hart import Hart

MODES = {0: "Bare", 8: "Sv39", 9: "Sv48", 10: "Sv57"}
LEVELS = {8: 3, 9: 4, 10: 5}
ADUE, PBMTE = 61, 62
SUM, MXR = 18, 19
# The cause of each access by what refuses it: the memory system, a first stage, the G-stage.
CAUSES = {"fetch": (1, 12, 20), "load": (5, 13, 21), "hlvx": (5, 13, 21), "store": (7, 15, 23)}
MEMORY, FIRST, SECOND = 0, 1, 2
LOAD_PSEUDO, STORE_PSEUDO = 0x3000, 0x3020  # "Transformed Instruction or Pseudoinstruction for mtinst or htinst"
PMP_ENTRIES = 16
EVERYTHING = 1 << 64
Devices = Callable[[], list[tuple[int, int, str]]]
Locate = Callable[[int, str], tuple[int, tuple[Step, ...]]]


class _Refused(Exception):
    """Ends a walk: which of an access's causes it is, and what a guest page fault tells besides."""

    def __init__(self, column: int, gpa: int = 0, tinst: int = 0) -> None:
        super().__init__(column, gpa, tinst)
        self.column, self.gpa, self.tinst = column, gpa, tinst


class _Who(NamedTuple):
    """As whom a stage's pages are reached."""

    user: bool
    sum: bool
    mxr: bool


@dataclass
class _Stage:
    """One stage: its name, register, what the environment allows, and where its steps go."""

    name: str
    atp: int
    envcfg: int
    steps: list[Step] = field(default_factory=list)

    @property
    def mode(self) -> int:
        return self.atp >> 60

    def put(self, **step: Any) -> None:
        self.steps.append(Step(stage=self.name, **step))


class _Walker:
    """The walks of one hart as it stands."""

    def __init__(self, hart: Hart) -> None:
        self.hart = hart
        self.hyp, self.svnapot = "h" in hart.isa.partition("_")[0][4:], "svnapot" in hart.isa.split("_")
        self.status, self.menvcfg = self.csr("mstatus"), self.csr("menvcfg")
        self.pmp = self.pmp_ranges()

    def csr(self, name: str) -> int:
        return int(self.hart.csr[name])

    # -- memory
    def pmp_ranges(self) -> list[tuple[int, int, int]]:
        """Return low, high and configuration of every PMP entry that is on."""
        config = self.csr("pmpcfg0") | self.csr("pmpcfg2") << 64
        found, before = [], 0
        for i in range(PMP_ENTRIES):
            cfg, address = config >> 8 * i & 0xFF, self.csr(f"pmpaddr{i}")
            mode = cfg >> 3 & 3
            if mode == 1:
                found.append((before << 2, address << 2, cfg))
            elif mode == 2:
                found.append((address << 2, (address << 2) + 4, cfg))
            elif mode == 3:
                ones = (~address & address + 1).bit_length() - 1
                low = address >> ones << ones + 2
                found.append((low, low + (8 << ones), cfg))
            before = address
        return [(low, high, cfg) for low, high, cfg in found if low < high]

    def allows(self, pa: int, size: int, access: str, priv: str) -> bool:
        """Say whether PMP lets an access pass: the lowest entry that matches any byte decides."""
        for low, high, cfg in self.pmp:
            if pa >= high or pa + size <= low:
                continue
            if pa < low or pa + size > high:
                return False
            if priv == "M" and not cfg & 0x80:
                return True
            wanted = {"load": 1, "hlvx": 1, "store": 3, "fetch": 4}[access]
            return cfg & wanted == wanted
        return priv == "M"

    def read(self, pa: int) -> int | Rule:
        """Return the entry at a physical address, or why it can't be read."""
        if not self.hart.in_ram(pa, 8):
            return RULES["memory"]
        if not self.allows(pa, 8, "load", "S"):
            return RULES["pmp_entry"]
        return int.from_bytes(self.hart.physical(pa, 8), "little")

    # -- the rules of one entry
    def malformed(self, pte: int, level: int, stage: _Stage) -> str | None:
        """Say what makes an entry invalid: step 3, and step 4 for a pointer."""
        if not pte & V:
            return "invalid"
        if pte & W and not pte & R:
            return "write_only"
        if pte & RESERVED:
            return "reserved"
        if pte & PBMT == PBMT:
            return "pbmt"
        if pte & PBMT and not stage.envcfg >> PBMTE & 1:
            return "pbmt_off"
        if pte & N and not self.svnapot:
            return "napot_off"
        if not pte & (R | X):
            return "pointer_bits" if pte & (A | D | U | N | PBMT) else "too_deep" if level == 0 else None
        return None

    @staticmethod
    def forbidden(pte: int, level: int, access: str, who: _Who, stage: _Stage) -> str | None:
        """Say why a leaf maps no page or does not let the access be made: steps 5 to 9."""
        ppn = pte >> 10 & PPN
        if pte & N and (level or ppn & 15 != 8):
            return "napot"
        if ppn & (1 << 9 * level) - 1:
            return "misaligned"
        if who.user and not pte & U:
            return "g_user" if stage.name == "G" else "user_only"
        if not who.user and pte & U and (access == "fetch" or not who.sum):
            return "user_code" if access == "fetch" else "sum"
        if access in ("fetch", "hlvx") and not pte & X:
            return "executable"
        if access == "store" and not pte & W:
            return "writable"
        if access == "load" and not (pte & R or (who.mxr and pte & X)):
            return "readable"
        if not stage.envcfg >> ADUE & 1 and pte & _wanted(access) != _wanted(access):
            return "dirty" if pte & A else "accessed"
        return None

    # -- one stage
    def descend(self, stage: _Stage, address: int, access: str, who: _Who, *, locate: Locate,
                refused: _Refused) -> tuple[int, int]:
        """Walk a stage from its root, and return the address it comes to and the size of the page.

        `locate(address, access)` returns where in physical memory an entry is, and the steps that found it; `refused`
        is what is raised when an entry does not allow the access.
        """
        top, table = LEVELS[stage.mode] - 1, (stage.atp & PPN) << 12
        if stage.name == "G":
            table &= ~0x3FFF  # the root is four pages, for two more bits of address
        for level in range(top, -1, -1):
            index = address >> 12 + 9 * level & (0x7FF if stage.name == "G" and level == top else 0x1FF)
            at = table + 8 * index
            pa, under = locate(at, "load")
            step: dict[str, Any] = {"kind": "entry", "level": level, "table": table, "index": index, "address": at,
                                    "pa": pa, "steps": under}
            pte = self.read(pa)
            if isinstance(pte, Rule):
                stage.put(**step, rule=pte)
                raise _Refused(MEMORY)
            step.update(pte=pte, words=pte_words(pte))
            why = self.malformed(pte, level, stage)
            if why is None and not pte & (R | X):
                table = (pte >> 10 & PPN) << 12
                stage.put(**step, result=table)
                continue
            why = why or self.forbidden(pte, level, access, who, stage)
            if why is not None:
                stage.put(**step, rule=RULES[why])
                raise refused
            ppn, low = pte >> 10 & PPN, (1 << 12 + 9 * level) - 1
            if pte & N:
                ppn, low = ppn & ~15, 0xFFFF
            result = (ppn << 12) + (address & low)
            stage.put(**step, result=result)
            self.update(stage, at, _wanted(access) & ~pte, locate)
            return result, low + 1
        raise AssertionError("a pointer in the lowest table is refused above")

    def update(self, stage: _Stage, at: int, bits: int, locate: Locate) -> None:
        """Say that the hart stores the entry with A or D set: step 9 under ADUE."""
        if not bits:
            return
        pa, under = locate(at, "store")
        names = " and ".join(word for bit, word in FLAGS if bits & bit)
        rule = None if self.allows(pa, 8, "store", "S") else RULES["pmp_update"]
        stage.put(kind="update", address=at, pa=pa, steps=under, rule=rule,
                  words=f"the hart sets {names} in the entry at {at:#x}")
        if rule is not None:
            raise _Refused(MEMORY)

    def second(self, stage: _Stage, gpa: int, access: str, *, mxr: bool, tinst: int) -> tuple[int, int]:
        """Translate a guest physical address; `tinst` is the pseudoinstruction of an implicit access."""
        if stage.mode == 0:
            stage.put(kind="bare", words="hgatp is Bare, so that guest physical addresses are physical", result=gpa)
            return gpa, EVERYTHING
        refused, width = _Refused(SECOND, gpa, tinst), 14 + 9 * LEVELS[stage.mode]
        if gpa >> width:
            stage.put(kind="address", rule=RULES["wide"], words=f"gpa {gpa:#x} does not fit {width} bits")
            raise refused
        # Every access counts as one of U-mode ("Guest Physical Address Translation").
        who = _Who(user=True, sum=False, mxr=mxr)
        return self.descend(stage, gpa, access, who, locate=lambda at, how: (at, ()), refused=refused)

    def first(self, stage: _Stage, g: _Stage | None, va: int, access: str, who: _Who) -> tuple[int, int]:
        """Translate a virtual address; with a G-stage behind it, entries are found and updated through that."""
        if stage.mode == 0:
            names = ("vsatp", "guest physical") if g is not None else ("satp", "physical")
            stage.put(kind="bare", words=f"{names[0]} is Bare, so that addresses are {names[1]}", result=va)
            return va, EVERYTHING
        width = 12 + 9 * LEVELS[stage.mode]
        if va >> width - 1 not in (0, (1 << 65 - width) - 1):
            stage.put(kind="address", rule=RULES["canonical"], words=f"bits 63 to {width - 1} of {va:#x} differ")
            raise _Refused(FIRST)

        def locate(at: int, how: str) -> tuple[int, tuple[Step, ...]]:
            if g is None:
                return at, ()
            nested = _Stage(g.name, g.atp, g.envcfg)
            try:
                pa, _ = self.second(nested, at, how, mxr=False, tinst=STORE_PSEUDO if how == "store" else LOAD_PSEUDO)
            except _Refused:
                what = "read" if how == "load" else "update"
                stage.put(kind="address", address=at, steps=tuple(nested.steps),
                          words=f"the G-stage does not let the hart {what} the entry at gpa {at:#x}")
                raise
            return pa, tuple(nested.steps)

        return self.descend(stage, va, access, who, locate=locate, refused=_Refused(FIRST))

    def memory(self, pa: int, access: str, priv: str, devices: Devices | None) -> Step:
        """Return the step of the access itself: PMP, and whether anything is there."""
        name = "RAM" if self.hart.in_ram(pa, 1) else None
        if name is None and devices is not None:
            name = next((name for base, size, name in devices() if base <= pa < base + size), None)
        why = "pmp" if not self.allows(pa, 1, access, priv) else "nothing" if name is None else None
        words = f"pa {pa:#x}" + (f" is {name}" if name else "") + (f", PMP allows the {access}" if why is None else "")
        return Step(stage="memory", kind="access", pa=pa, words=words, rule=RULES[why] if why else None)

    def trap(self, taken: str, virt: bool, cause: int, va: int, refused: _Refused) -> Trap:
        """Return the trap: medeleg and hedeleg say where it goes."""
        to = "M"
        if taken != "M" and self.csr("medeleg") >> cause & 1:
            to = "HS" if self.hyp else "S"
            if taken in ("VS", "VU") and self.csr("hedeleg") >> cause & 1:
                to = "VS"
        hart = self.hart
        return Trap(cause=cause, tval=va & U64, tval2=refused.gpa >> 2, tinst=refused.tinst, gva=virt, pc=hart.pc,
                    world_from=taken, world_to=to, icount=hart._icount)


def _wanted(access: str) -> int:
    return A | D if access == "store" else A


def _regime(first: _Stage | None, g: _Stage | None) -> str:
    """Say which tables are in force."""
    if first is None:
        return "no translation"
    name, space = ("vsatp", "gpa") if g is not None else ("satp", "pa")
    shown = f"{name} {MODES[first.mode]}" + (f", root at {space} {(first.atp & PPN) << 12:#x}" if first.mode else "")
    if g is not None:
        shown += f"; hgatp {MODES[g.mode]}"
        if g.mode:
            shown += f"x4, VMID {g.atp >> 44 & 0x3FFF}, root at pa {(g.atp & PPN) << 12 & ~0x3FFF:#x}"
    return shown


def explain(hart: Hart, va: int, *, world: str | None = None, access: str = "load", devices: Devices | None = None,
            transformed: bool = False) -> Walk:
    """Walk `va` as `Hart.walk` says. `devices` lists base, size and name of what is not RAM."""
    choice(access, name="walk: access", allowed=tuple(CAUSES))
    walker = _Walker(hart)
    status, taken = walker.status, hart.world
    if world is None:
        world = taken
        if taken == "M" and access != "fetch" and status >> 17 & 1:
            # MPRV: data accesses of M-mode are made as from the world in MPP and MPV.
            world = {(1, 0): "HS" if walker.hyp else "S", (1, 1): "VS", (0, 0): "U", (0, 1): "VU"}.get(
                (status >> 11 & 3, status >> 39 & 1), "M")
    else:
        choice(world, name="walk: world", allowed=("M", "HS", "S", "U", "VS", "VU") if walker.hyp else ("M", "S", "U"))
        world = taken = "HS" if world == "S" and walker.hyp else world
    virt, priv = world in ("VS", "VU"), world[-1]
    steps: list[Step] = []
    if access == "hlvx" and not virt:
        choice(world, name="walk: world of access 'hlvx'", allowed=("VS", "VU"))
    first = g = None
    mxr = bool(status >> MXR & 1)
    if virt:
        vsstatus = walker.csr("vsstatus")
        first = _Stage("VS", walker.csr("vsatp"), walker.csr("henvcfg") & walker.menvcfg, steps)
        g = _Stage("G", walker.csr("hgatp"), walker.menvcfg, steps)
        who = _Who(priv == "U", bool(vsstatus >> SUM & 1), mxr or bool(vsstatus >> MXR & 1))
    elif priv != "M":
        first = _Stage("S", walker.csr("satp"), walker.menvcfg, steps)
        who = _Who(priv == "U", bool(status >> SUM & 1), mxr)
    pa = gpa = trap = None
    size, address = EVERYTHING, va
    try:
        if first is None:
            steps.append(Step(stage="memory", kind="bare", words="M-mode's addresses are physical", result=va))
        else:
            address, size = walker.first(first, g, va, access, who)
        if g is not None:
            gpa = address
            address, other = walker.second(g, gpa, access, mxr=mxr, tinst=0)
            size = min(size, other)
        steps.append(walker.memory(address, access, priv, devices))
        if steps[-1].rule is not RULES["pmp"]:
            pa = address
        if steps[-1].rule is not None:
            raise _Refused(MEMORY)
    except _Refused as refused:
        trap = walker.trap(taken, virt, CAUSES[access][refused.column], va, refused)
    note = ""
    if transformed and trap is not None and trap.cause in GUEST_PAGE_FAULTS and not trap.tinst and access != "fetch":
        note = "tinst will be the instruction, transformed"
    return Walk(va=va, access=access, world=world, regime=_regime(first, g), steps=tuple(steps), pa=pa, gpa=gpa,
                size=size if pa is not None else 0, trap=trap, note=note)


class _Elsewhere(_Walker):
    """Walks tables that are not in the machine's RAM as the hart has it."""

    def __init__(self, hart: Hart, read: Callable[[int, int], bytes]) -> None:
        super().__init__(hart)
        self._read = read

    def read(self, pa: int) -> int | Rule:
        try:
            return int.from_bytes(self._read(pa, 8), "little")
        except GuestAddressError:
            return RULES["memory"]


def guest_physical(hart: Hart, hgatp: int, gpa: int, read: Callable[[int, int], bytes] | None = None) -> int:
    """Return the physical address of a guest physical one under `hgatp`, for whoever looks: a load's or a fetch's.

    `read(address, n)` reads the tables, None from RAM. Raises GuestAddressError with the rule that refuses it.
    """
    walker = _Walker(hart) if read is None else _Elsewhere(hart, read)
    stage = _Stage("G", hgatp, walker.menvcfg | 1 << ADUE)
    for access in ("load", "fetch"):
        stage.steps.clear()
        try:
            return walker.second(stage, gpa, access, mxr=False, tinst=0)[0]
        except _Refused:
            continue
    raise GuestAddressError(f"gpa {gpa:#x} is not mapped under hgatp {hgatp:#x}: {stage.steps[-1].rule}")
