"""Translations explained: every table looked at, the entry found in words, and the rule that ended the walk.

A second reading of the manual ("Supervisor-Level ISA", "Virtual Address Translation Process"; "H", "Two-Stage Address
Translation"), written to be read and not to be fast; tests hold it against the core's walk. Looking changes nothing:
where the hart would set A or D bits, it is only said.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvirt.config import choice, resolve_isa
from pyvirt.stop import cause_name

if TYPE_CHECKING:
    from pyvirt.hart import Hart

MODES = {8: ("Sv39", 3), 9: ("Sv48", 4), 10: ("Sv57", 5)}
ACCESSES = ("fetch", "load", "store")
V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
N, PBMT, RESERVED = 1 << 63, 3 << 61, 0x7F << 54
ACCESS_FAULT = {"fetch": 1, "load": 5, "store": 7}
PAGE_FAULT = {"fetch": 12, "load": 13, "store": 15}
GUEST_PAGE_FAULT = {"fetch": 20, "load": 21, "store": 23}
PAGE = 4096


@dataclass(frozen=True)
class Step:
    """One table looked at: `address` is where the entry lies, `pte` its bits, None when it can't be read.

    `stage` is "S", "VS" or "G"; `level` 0 holds pages; `note` says what followed from the entry.
    """

    stage: str
    level: int
    address: int
    pte: int | None
    note: str

    @property
    def flags(self) -> str:
        """The entry's bits as letters, highest first, with a dash for a clear one."""
        if self.pte is None:
            return "--------"
        return "".join(name if self.pte >> bit & 1 else "-" for bit, name in zip(range(7, -1, -1), "DAGUXWRV",
                                                                                 strict=True))

    def __str__(self) -> str:
        entry = "unreadable" if self.pte is None else f"{self.pte:#018x}"
        return f"{self.stage:>2} level {self.level}  entry at {self.address:#x}: {entry} {self.flags}  {self.note}"


@dataclass(frozen=True)
class Walk:
    """A translation and how it came about: `pa` on success, else `cause` (as in mcause) and `reason`."""

    va: int
    access: str
    world: str
    steps: tuple[Step, ...]
    pa: int | None
    cause: int | None
    reason: str

    def __str__(self) -> str:
        lines = [f"{self.access} of {self.va:#x} in {self.world}"]
        lines += [f"  {step}" for step in self.steps]
        if self.pa is not None:
            lines.append(f"  pa {self.pa:#x}: {self.reason}")
        else:
            lines.append(f"  {cause_name(self.cause or 0)}: {self.reason}")
        return "\n".join(lines)

    __repr__ = __str__


class _Refused(Exception):
    """The walk ended: the cause and the rule."""

    def __init__(self, cause: int, reason: str) -> None:
        super().__init__(cause, reason)
        self.cause, self.reason = cause, reason


@dataclass
class _Walker:
    """One walk under way."""

    hart: Hart
    va: int
    access: str
    priv: str
    virt: bool
    steps: list[Step] = field(default_factory=list)

    def csr(self, name: str) -> int:
        return int(self.hart.csr[name])

    def read(self, stage: str, level: int, at: int) -> int:
        reason = None if self.hart.in_ram(at, 8) else "is not in RAM"
        if reason is None and not pmp_allows(self.hart, at, 8, "load", "S"):
            reason = "is where PMP refuses loads"
        if reason is not None:
            self.note(stage, level, at, None, reason)
            raise _Refused(ACCESS_FAULT[self.access], f"the entry at {at:#x} {reason}")
        return int.from_bytes(self.hart.physical(at, 8), "little")

    def note(self, stage: str, level: int, at: int, pte: int | None, text: str) -> None:
        self.steps.append(Step(stage, level, at, pte, text))

    def wrong(self, pte: int, *, pbmte: bool) -> str | None:
        """Return what makes an entry invalid in every position."""
        if not pte & V:
            return "V is clear"
        if pte & W and not pte & R:
            return "W without R is reserved"
        if pte & RESERVED:
            return "bits 60 to 54 are reserved"
        if pte & PBMT and not pbmte:
            return "PBMT is set, and PBMTE is clear"
        if pte & PBMT == PBMT:
            return "PBMT 3 is reserved"
        if pte & N and "svnapot" not in self.hart.isa.split("_"):
            return "N is set, and there is no Svnapot"
        return None

    def permits(self, pte: int, access: str, *, mxr: bool) -> str | None:
        """Return why an access is not permitted."""
        if access == "fetch":
            return None if pte & X else "X is clear"
        if access == "store":
            return None if pte & W else "W is clear"
        if pte & R or (mxr and pte & X):
            return None
        return "R is clear" + (", and MXR is clear" if pte & X else "")

    def leaf(self, pte: int, level: int, address: int) -> int:
        """Return the address a leaf gives; ValueError says what is wrong with it."""
        ppn, low = pte >> 10 & (1 << 44) - 1, (1 << 12 + 9 * level) - 1
        if ppn << 12 & low:
            raise ValueError(f"the superpage at {ppn << 12:#x} is not aligned to {low + 1:#x}")
        if pte & N:
            if level or ppn & 15 != 8:
                raise ValueError("N is set for a size that Svnapot does not define")
            ppn = ppn & ~15 | address >> 12 & 15
        return ppn << 12 | address & low

    def walk(self, root: int, name: str, levels: int, address: int, *, stage: str, access: str, fault: int, pbmte: bool,
             adue: bool, mxr: bool, user: str | None) -> int:
        """Walk one stage. `user` says why a page's U bit is wrong: None for U pages only, else the reason or ""."""
        table = root
        for level in range(levels - 1, -1, -1):
            wide = 0x7FF if stage == "G" and level == levels - 1 else 0x1FF
            entry = table + 8 * (address >> 12 + 9 * level & wide)
            at = entry if stage != "VS" else self.guest(entry, "load", f"the {name} entry")
            pte = self.read(stage, level, at)
            reason = self.wrong(pte, pbmte=pbmte)
            if reason is None and not pte & (R | X):
                if pte & (A | D | U | N | PBMT):
                    reason = "A, D, U, N and PBMT are reserved in a pointer"
                elif level == 0:
                    reason = "a pointer at the last level"
                else:
                    table = (pte >> 10 & (1 << 44) - 1) << 12
                    self.note(stage, level, at, pte, f"points to the table at {table:#x}")
                    continue
            if reason is None:
                reason = self.check_leaf(pte, access, adue=adue, mxr=mxr, user=user)
            result = 0
            if reason is None:
                try:
                    result = self.leaf(pte, level, address)
                except ValueError as error:
                    reason = str(error)
            if reason is not None:
                self.note(stage, level, at, pte, reason)
                raise _Refused(fault, f"{name} level {level}: {reason}")
            wanted = A | (D if access == "store" else 0)
            if pte & wanted != wanted:
                if stage == "VS":
                    self.guest(entry, "store", f"the {name} entry, to set A or D")
                self.note(stage, level, at, pte, f"maps {result:#x}; the hart would set A{' and D' * (wanted > A)}")
            else:
                self.note(stage, level, at, pte, f"maps {result:#x}")
            return result
        raise AssertionError("the last level ends every walk")

    def check_leaf(self, pte: int, access: str, *, adue: bool, mxr: bool, user: str | None) -> str | None:
        if user is None and not pte & U:
            return "U is clear"
        if user and pte & U:
            return user
        reason = self.permits(pte, access, mxr=mxr)
        if reason is None and not adue:
            if not pte & A:
                reason = "A is clear, and ADUE is clear"
            elif access == "store" and not pte & D:
                reason = "D is clear, and ADUE is clear"
        return reason

    def guest(self, gpa: int, access: str, what: str) -> int:
        """Translate a guest physical address; the cause is that of the access the guest made."""
        hgatp = self.csr("hgatp")
        if not hgatp >> 60:
            return gpa
        name, levels = MODES[hgatp >> 60]
        fault = GUEST_PAGE_FAULT[self.access]
        if gpa >> 14 + 9 * levels:
            raise _Refused(fault, f"gpa {gpa:#x} of {what} is wider than {name}x4 allows")
        menvcfg = self.csr("menvcfg")
        implicit = what != "the access"
        return self.walk(
            (hgatp & (1 << 44) - 1 & ~3) << 12, f"{name}x4", levels, gpa, stage="G", access=access, fault=fault,
            pbmte=bool(menvcfg >> 62 & 1), adue=bool(menvcfg >> 61 & 1),
            mxr=bool(self.csr("mstatus") >> 19 & 1) and not implicit, user=None)

    def run(self) -> int:
        """Walk all stages."""
        atp = self.csr("vsatp" if self.virt else "satp")
        if self.priv == "M" or not atp >> 60:
            return self.guest(self.va, self.access, "the access") if self.virt else self.va
        name, levels = MODES[atp >> 60]
        bits = 12 + 9 * levels
        if self.va >> bits - 1 not in (0, (1 << 65 - bits) - 1):
            raise _Refused(PAGE_FAULT[self.access],
                           f"bits 63 to {bits} are not copies of bit {bits - 1}, as {name} asks")
        env = self.csr("menvcfg") & (self.csr("henvcfg") if self.virt else -1)
        status = self.csr("vsstatus" if self.virt else "mstatus")
        mxr = status >> 19 & 1 or (self.virt and self.csr("mstatus") >> 19 & 1)
        user: str | None = ""
        if self.priv == "U":
            user = None
        elif self.access == "fetch":
            user = "U is set, and S-mode executes no user pages"
        elif not status >> 18 & 1:
            user = "U is set, and SUM is clear"
        gpa = self.walk((atp & (1 << 44) - 1) << 12, name, levels, self.va, stage="VS" if self.virt else "S",
                        access=self.access, fault=PAGE_FAULT[self.access], pbmte=bool(env >> 62 & 1),
                        adue=bool(env >> 61 & 1), mxr=bool(mxr), user=user)
        return self.guest(gpa, self.access, "the access") if self.virt else gpa


def pmp_allows(hart: Hart, pa: int, size: int, access: str, priv: str) -> bool:
    """Say whether physical memory protection lets an access pass: the lowest entry that matches any byte decides."""
    before = 0
    for index in range(16):
        config = int(hart.csr[f"pmpcfg{index // 8 * 2}"]) >> 8 * (index % 8) & 0xFF
        address, mode = int(hart.csr[f"pmpaddr{index}"]), config >> 3 & 3
        if mode == 1:
            low, high = before << 2, address << 2
        elif mode == 2:
            low, high = address << 2, (address << 2) + 4
        elif mode == 3:
            span = address ^ address + 1
            low = (address & ~span) << 2
            high = low + (span + 1 << 2)
        else:
            low = high = 0
        before = address
        if low < high and pa < high and low < pa + size:
            if pa < low or high < pa + size:
                return False
            if priv == "M" and not config >> 7:
                return True
            return bool({"fetch": config & 4, "load": config & 1, "store": config & 3 == 3}[access])
    return priv == "M"


def explain(hart: Hart, va: int, *, access: str = "load", world: str | None = None) -> Walk:
    """Explain the translation of `va` for a "load", "store" or "fetch", in the hart's world or another.

    With MPRV loads and stores of M-mode are translated as in the world that mstatus names.
    """
    choice(access, name="walk: access", allowed=ACCESSES)
    hyp = "h" in resolve_isa(hart.isa).string.partition("_")[0][4:]
    worlds = ("M", "HS", "S", "U", "VS", "VU") if hyp else ("M", "S", "U")
    if world is not None:
        choice(world, name="walk: world", allowed=worlds)
    shown = world = hart.world if world is None else world
    status = int(hart.csr.mstatus)
    if world == "M" and access != "fetch" and status >> 17 & 1:
        priv, virt = {0: "U", 1: "S", 3: "M"}[status >> 11 & 3], bool(hyp and status >> 39 & 1)
        virt = virt and priv != "M"
        shown = f"M with MPRV as {('V' if virt else '') + priv}"
    else:
        priv, virt = world[-1], world in ("VS", "VU")
    walker = _Walker(hart, va, access, priv, virt)
    try:
        pa = walker.run()
        if not pmp_allows(hart, pa, 1, access, priv):
            raise _Refused(ACCESS_FAULT[access], f"PMP refuses pa {pa:#x} to {shown}")
    except _Refused as error:
        return Walk(va, access, shown, tuple(walker.steps), None, error.cause, error.reason)
    reason = "allowed" if walker.steps else "no translation is in force"
    return Walk(va, access, shown, tuple(walker.steps), pa, None, reason)
