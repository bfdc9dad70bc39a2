"""A walk of page tables in Python, written from the manual, and programs that edit tables without fences.

`Model` is a hart in S-mode that has no TLB: what it does after each edit is what a fence everywhere would give. It is
the oracle of the random programs: `Edits` writes the program in assembly and executes each of its steps on the model.
"""
from __future__ import annotations

import contextlib
import functools
import random

from pyvirt.assembly.asm import Assembled, asm
from tests.support import BASE, HANDLER, MODES, A, Bare, D, N, PageTables, R, U, V, Variant, W, X, pte

SIZE = 1 << 20
CODE, LOG, TABLES, DATA = BASE + 0x1_0000, BASE + 0x6_0000, BASE + 0x8_0000, BASE + 0x9_0000
SLOTS = (8, 9, 10, 11)   # of every table: what programs edit and what their addresses use; cbo.zero reaches no other
FUNCTION = 0x700         # offset of the function in every page
STORE, LOAD, FETCH = 15, 13, 12


class Fault(Exception):
    """A refused access: cause and the address."""

    def __init__(self, cause: int, va: int) -> None:
        super().__init__(cause, va)
        self.value = cause | va << 8 & (1 << 64) - 1


class Model:
    """RAM, satp, SUM, MXR and ADUE, with every access walked."""

    def __init__(self, ram: bytearray, *, sv: int, satp: int, adue: bool) -> None:
        self.ram, self.sv, self.satp, self.adue = ram, sv, satp, adue
        self.sum = self.mxr = False

    def word(self, pa: int) -> int:
        """Return eight bytes of RAM."""
        return int.from_bytes(self.ram[pa - BASE : pa - BASE + 8], "little")

    def put(self, pa: int, value: int, width: int = 8) -> None:
        """Store to RAM."""
        self.ram[pa - BASE : pa - BASE + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")

    def inside(self, pa: int, width: int) -> bool:
        """Say whether an access is all in RAM."""
        return pa >= BASE and pa + width <= BASE + SIZE

    def walk(self, va: int, cause: int, *, quiet: bool = False) -> int:
        """Return the pa of va, setting A and D as ADUE says, unless quiet (manual, "Virtual Address Translation")."""
        signed = va - (1 << 64) if va >> 63 else va
        if not -(1 << self.sv - 1) <= signed < 1 << self.sv - 1:
            raise Fault(cause, va)
        table, level = (self.satp & (1 << 44) - 1) << 12, (self.sv - 12) // 9 - 1
        while True:
            at = table + (va >> 12 + 9 * level & 511) * 8
            if not self.inside(at, 8):
                raise Fault({LOAD: 5, STORE: 7, FETCH: 1}[cause], va)
            entry = self.word(at)
            ppn = entry >> 10 & (1 << 44) - 1
            if not entry & V or entry & (R | W) == W or entry >> 54 & 0x1FF:
                raise Fault(cause, va)
            if entry & (R | X):
                break
            if entry & (A | D | U | N) or level == 0:
                raise Fault(cause, va)
            table, level = ppn << 12, level - 1
        self.permit(entry, cause, va)
        low = (1 << 9 * level) - 1
        if entry & N:
            if level or ppn & 15 != 8:
                raise Fault(cause, va)
            low = 15
        elif ppn & low:
            raise Fault(cause, va)
        want = A | (D if cause == STORE else 0)
        if entry & want != want:
            if not self.adue:
                raise Fault(cause, va)
            if not quiet:
                self.put(at, entry | want)
        return (ppn & ~low | va >> 12 & low) << 12 | va & 4095

    def permit(self, entry: int, cause: int, va: int) -> None:
        """Raise unless the leaf allows the access from S-mode."""
        ok = {
            LOAD: entry & R or (self.mxr and entry & X), STORE: entry & W, FETCH: entry & X and not entry & U,
        }[cause]
        if not ok or (entry & U and not self.sum):
            raise Fault(cause, va)

    def load(self, va: int) -> int:
        """Load eight aligned bytes."""
        pa = self.walk(va, LOAD)
        if not self.inside(pa, 8):
            raise Fault(5, va)
        return self.word(pa)

    def store(self, va: int, value: int, width: int = 8) -> None:
        """Store, all in one page."""
        pa = self.walk(va, STORE)
        if not self.inside(pa, width):
            raise Fault(7, va)
        self.put(pa, value, width)

    def call(self, va: int) -> int:
        """Execute the function at va, which is `li a0, imm; ret`."""
        for at in (va, va + 4):
            pa = self.walk(at, FETCH)
            if not self.inside(pa, 4):
                raise Fault(1, at)
            word = int.from_bytes(self.ram[pa - BASE : pa - BASE + 4], "little")
            if at == va:
                first = word
        assert first & 0xFFFFF == 0x513
        assert word == 0x8067
        return first >> 20


class Edits:
    """A random program: loads, stores and calls through addresses whose tables it edits on the way.

    Edits reach tables through the identity map, through the tables themselves, by plain, narrow and misaligned stores,
    by atomics and cbo.zero. Each further pass runs the same steps over what the last one left behind.
    """

    def __init__(self, seed: int, *, sv: int, adue: bool, steps: int = 120, passes: int = 2) -> None:
        self.rng = random.Random(f"{sv} {adue} {seed}")
        self.sv, self.adue, self.passes = sv, adue, passes
        self.levels = (sv - 12) // 9
        self.tables = [TABLES + 0x1000 * i for i in range(5)]
        # Where a superpage or an entry of the random ones may lead, there is a function too.
        self.pages = [DATA + 0x1000 * i for i in range(16)] + self.tables + [BASE + 0x1000 * i for i in (0, 1, *SLOTS)]
        self.roots = self.tables[:2]
        self.actions: list[tuple[object, ...]] = []
        self.lines: list[str] = []
        # Each table leads to the next, to pages, and to what an edit would make of it.
        self.setup = [(table + 8 * SLOTS[0], pte(self.tables[(k + 1) % 5], V)) for k, table in enumerate(self.tables)]
        self.setup += [(t + 8 * SLOTS[1], pte(self.rng.choice(self.pages), V | R | W | X | A | D)) for t in self.tables]
        self.setup += [self.edit()[:2] for _ in range(8)]
        self.model = self.start()
        for number in range(steps):
            self.step(number)
            self.act(self.model, self.actions[-1])

    def start(self) -> Model:
        """Return the model at the program's start."""
        ram = bytearray(self.machine(Variant(), self.program if self.lines else HANDLER).core.mem_read(BASE, SIZE))
        return Model(ram, sv=self.sv, satp=MODES[self.sv] << 60 | self.roots[0] >> 12, adue=self.adue)

    # ---- choices
    def va(self, cause: int) -> int:
        """Return a page's address under the slots that are edited, as a rule one where the access succeeds now."""
        for _ in range(self.rng.choice((1, 50, 50, 50))):
            va = self.any_va()
            with contextlib.suppress(Fault):
                if self.model.inside(self.model.walk(va, cause, quiet=True), 8):
                    break
        return va

    def any_va(self) -> int:
        """Return a page's address under the slots that are edited."""
        va = 0
        for level in range(self.levels):
            va |= self.rng.choice(SLOTS[:2] if level else SLOTS) << 12 + 9 * level
        return va

    def entry(self) -> int:
        """Return an entry: a pointer, a page, a superpage, a 64 KiB page, or something else."""
        rng = self.rng
        flags = V | rng.choice((R, R | W, R | W | X, R | W | X, R | X, X, W)) | (U if rng.random() < 0.15 else 0)
        flags |= rng.choice((A, A | D, A | D, A | D, 0, D))
        kind = rng.random()
        if kind < 0.4:
            return pte(rng.choice(self.tables), V)
        if kind < 0.75:
            return pte(rng.choice(self.pages), flags)
        if kind < 0.83:
            return pte(BASE, flags)
        if kind < 0.9:
            return pte(DATA, flags | N) | 8 << 10
        return rng.choice((0, 0, pte(1 << 40, flags), pte(BASE + 0x1000, flags), 1 << 60 | pte(DATA, flags)))

    def edit(self) -> tuple[int, int, str]:
        """Return an entry's address, its new value, and how it is stored."""
        how = self.rng.choice(("sd",) * 8 + ("amo", "sc", "half", "odd") * 2 + ("zero",))
        if how != "zero" and self.rng.random() < 0.7:  # keep some order, else nothing is mapped any more
            k = self.rng.randrange(5)
            if self.rng.random() < 0.5:
                return self.tables[k] + 8 * SLOTS[0], pte(self.tables[(k + self.rng.choice((1, 1, 2))) % 5], V), how
            flags = self.rng.choice((V | R | W | X | A | D, V | R | W | A | D, V | R | X | A | (A if self.adue else D)))
            return self.tables[k] + 8 * SLOTS[1], pte(self.rng.choice(self.pages), flags), how
        at = self.rng.choice(self.tables) + 8 * self.rng.choice(SLOTS)
        return at, self.entry(), how

    # ---- one step: its lines, and what the model does for it
    def step(self, number: int) -> None:
        """Add a step."""
        kind = self.rng.choice(("load",) * 4 + ("store",) * 4 + ("call",) * 3 + ("edit",) * 6 + ("csr", "satp"))
        lines = ["li a0, -1"]
        if kind == "load":
            va = self.va(LOAD) + 0x800 + 8 * self.rng.randrange(4)
            lines += [f"li t0, {va}", "ld a0, 0(t0)"]
            self.actions.append((kind, va))
        elif kind == "store":
            # To data, to a function's first word, or to a slot when the page is a table reached through itself.
            value, width = self.rng.getrandbits(63), 8
            offset = 0x800 + 8 * self.rng.randrange(4)
            if self.rng.random() < 0.3:
                value, offset, width = self.rng.randrange(2048) << 20 | 0x513, FUNCTION, 4
            elif self.rng.random() < 0.4:
                value, offset = self.entry(), 8 * self.rng.choice(SLOTS)
            va = self.va(STORE) + offset
            lines += [f"li t0, {va}", f"li t1, {value}", f"{'sd' if width == 8 else 'sw'} t1, 0(t0)"]
            self.actions.append((kind, va, value, width))
        elif kind == "call":
            va = self.va(FETCH) + FUNCTION
            lines += [f"li t0, {va}", "jalr ra, t0"]
            self.actions.append((kind, va))
        elif kind == "edit":
            lines += self.edit_lines(*self.edit())
        elif kind == "csr":
            bit = self.rng.choice((18, 19))
            how = self.rng.choice(("csrs", "csrc"))
            lines += [f"li t0, {1 << bit}", f"{how} sstatus, t0"]
            self.actions.append((kind, bit, how == "csrs"))
        else:
            satp = MODES[self.sv] << 60 | self.rng.randrange(3) << 44 | self.rng.choice(self.roots) >> 12
            lines += [f"li t0, {satp}", "csrw satp, t0"]
            self.actions.append((kind, satp))
        self.lines += [*lines, f"sd a0, {8 * (number % 200)}(s0)"]
        if number % 200 == 199:
            self.lines.append("addi s0, s0, 1600")

    def edit_lines(self, at: int, value: int, how: str) -> list[str]:
        """Return the lines of an edit, through the identity map."""
        if how == "zero":
            self.actions.append(("zero", at & ~63))
            return [f"li t0, {at}", "cbo.zero (t0)"]
        self.actions.append(("edit", at, value))
        lines = [f"li t0, {at}", f"li t1, {value}"]
        if how == "sd":
            return [*lines, "sd t1, 0(t0)"]
        if how == "amo":
            return [*lines, "amoswap.d x0, t1, (t0)"]
        if how == "sc":
            return [*lines, "lr.d t2, (t0)", "sc.d x0, t1, (t0)"]
        if how == "half":
            return [*lines, "sw t1, 0(t0)", "srli t1, t1, 32", "sw t1, 4(t0)"]
        # Misaligned: the byte in front is read and stored with the first seven, then the last.
        return [*lines, "lbu t2, -1(t0)", "slli t3, t1, 8", "or t3, t3, t2", "sd t3, -1(t0)", "srli t1, t1, 56",
                "sb t1, 7(t0)"]

    # ---- the machine and the model
    @functools.cached_property
    def program(self) -> Assembled:
        """The program, once its steps are made."""
        return asm("\n".join([
            f"li s1, {self.passes}", f"li s0, {LOG}", "again:", *self.lines, "addi s0, s0, 1600", "addi s1, s1, -1",
            "beqz s1, end", "j again", "end: ecall", HANDLER,
        ]), at=CODE)

    def make(self, variant: Variant) -> Bare:
        """Return a machine with the program, its tables as they are at the start."""
        return self.machine(variant, self.program)

    def machine(self, variant: Variant, program: Assembled | str) -> Bare:
        """Return a machine with the program, its tables as they are at the start."""
        bare = Bare(program, size=SIZE, variant=variant, at=CODE)
        for root in self.roots:
            if self.sv > 39:
                upper = PageTables(bare, sv=self.sv, start=BASE + 0x7_0000 + 0x4000 * self.roots.index(root))
                upper.root = root
                at = upper.slot(BASE, 2)
            else:
                at = root + (BASE >> 30) * 8
            bare.u64(at, pte(BASE, V | R | W | X | A | D))
        for number, page in enumerate(self.pages):
            bare.core.mem_write(page + FUNCTION, (number << 20 | 0x513).to_bytes(4, "little") + b"\x67\x80\0\0")
            for k in range(4):
                bare.u64(page + 0x800 + 8 * k, page + k)
        for at, value in self.setup:
            bare.u64(at, value)
        bare.supervisor(MODES[self.sv] << 60 | self.roots[0] >> 12, CODE)
        if self.adue:
            bare.set(csr_30a=1 << 61 | 0xF0)
        else:
            bare.set(csr_30a=0xF0)
        return bare

    def expect(self) -> bytearray:
        """Return RAM as it must be at the end, with what each step leaves in a0."""
        model = self.start()
        log = LOG
        for _ in range(self.passes):
            for number, action in enumerate(self.actions):
                model.put(log + 8 * (number % 200), self.act(model, action))
                log += 1600 * (number % 200 == 199)
            log += 1600
        return model.ram

    def act(self, model: Model, action: tuple[object, ...]) -> int:
        """Execute one step on the model and return a0."""
        kind, args = action[0], action[1:]
        try:
            if kind == "load":
                return model.load(*args)
            if kind == "store":
                model.store(*args)
            elif kind == "call":
                return model.call(*args)
            elif kind == "edit":
                model.put(*args)
            elif kind == "zero":
                model.ram[args[0] - BASE : args[0] - BASE + 64] = bytes(64)
            elif kind == "csr":
                setattr(model, "sum" if args[0] == 18 else "mxr", args[1])
            else:
                model.satp = args[0]
        except Fault as fault:
            return fault.value
        return -1
