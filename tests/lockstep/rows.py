"""Programs that execute every row of the table of instructions, with operands at their extremes and at random.

Only names and kinds of operands are taken from pyvirt's table; the text goes to the independent assembler, and what
ran is counted by finding the words it made in the table again, so a row whose encoding is wrong in the table is never
reached.
"""
from __future__ import annotations

import random
from typing import Any

from pyvirt.assembly.regnames import FLI
from tests.lockstep.programs import RESERVED, frame

ROUNDING = ("rne", "rtz", "rdn", "rup", "rmm", "dyn")
# Always exact: the assembler takes no rounding mode.
EXACT = {"fcvt.d.w", "fcvt.d.wu", "fcvt.d.s", "fcvt.s.h", "fcvt.d.h"}
CSRS = ("sscratch", "stval", "mtval", "mcause", "scause", "sepc", "mepc", "fflags", "frm", "fcsr", "mhartid")
FENCES = ("iorw,iorw", "rw,rw", "r,rw", "rw,w", "w,w", "i,o", "o,i", "r,r")


class Rows:
    """Writes lines for rows; one object holds the random choices of one program."""

    def __init__(self, rng: random.Random, reserved: frozenset[int] = RESERVED) -> None:
        self.rng = rng
        self.free = [i for i in range(32) if i not in reserved]

    # Spike traps misaligned atomics as pyvirt does only where it traps misaligned loads and stores too.
    misaligned_atomics = False

    def x(self) -> int:
        """Return any register that the body may write or read."""
        return self.rng.choice(self.free)

    def base(self) -> int:
        """Return a register to hold an address: neither x0 nor one of the frame."""
        return self.rng.choice([i for i in self.free if i])

    def xc(self) -> int:
        """Return a register of the compressed forms."""
        return self.rng.randrange(8, 16)

    def load_x(self, i: int) -> str:
        """Return a line that puts a value of the table in x[i]."""
        return f"ld x{i}, {8 * self.rng.randrange(-256, 256)}(x4)"

    def load_f(self, i: int) -> str:
        """Return a line that puts a value of the table in f[i]."""
        return f"fld f{i}, {8 * self.rng.randrange(-256, 256)}(x26)"

    def extreme(self, lo: int, hi: int, step: int = 1) -> int:
        """Return a multiple of step in lo..hi, often an end or near zero."""
        rng = self.rng
        if rng.random() < 0.4:
            near = [v for v in (lo, lo + step, -step, 0, step, hi - step, hi) if lo <= v <= hi]
            return rng.choice(near)
        return rng.randrange(lo, hi + 1, step)

    def lines(self, row: Any) -> list[str]:
        """Return the lines that set up and execute one row of the table."""
        special = getattr(self, "row_" + row.name.replace(".", "_"), None) or getattr(self, "kind_" + row.kind, None)
        if special is not None:
            return list(special(row))
        return self.plain(row)

    def plain(self, row: Any) -> list[str]:
        """Return lines for a row whose operands are registers and plain immediates."""
        before: list[str] = []
        texts: list[str] = []
        for operand in row.operands:
            if operand in ("rd", "rdc") and row.kind != "c":
                texts.append(f"x{self.x()}")
            elif operand in ("rs1", "rs2", "rs3", "rs1c", "rs2c", "rdc", "rd"):
                i = self.xc() if operand.endswith("c") else self.compressed_x(row, operand)
                before.append(self.load_x(i))
                texts.append(f"x{i}")
            elif operand == "fd":
                texts.append(f"f{self.rng.randrange(32)}")
            elif operand in ("fs1", "fs2", "fs3"):
                i = self.rng.randrange(32)
                before.append(self.load_f(i))
                if row.name.endswith(".h") and self.rng.random() < 0.9:
                    # What the table holds is no boxed half.
                    j = self.base()
                    before += [self.load_x(j), f"fmv.h.x f{i}, x{j}"]
                texts.append(f"f{i}")
            elif operand == "fli":
                texts.append(self.rng.choice(FLI))
            elif operand == "rtz":
                texts.append("rtz")
            elif operand == "rm":
                mode = self.rng.choice(ROUNDING)
                if row.name in EXACT:
                    continue
                if mode == "dyn":
                    before.append(f"fsrmi {self.rng.choice((0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7))}")
                texts.append(mode)
            else:
                texts.append(self.immediate(row, operand))
        before = list(dict.fromkeys(before))
        return [*before, f"{row.name} {', '.join(texts)}"]

    def compressed_x(self, row: Any, operand: str) -> int:
        """Return a register for a full-width field, without the values that a compressed row gives another meaning."""
        if row.kind != "c":
            return self.x()
        return self.rng.choice([i for i in self.free if i and (row.name != "c.lui" or i != 2)])

    def immediate(self, row: Any, operand: str) -> str:
        """Return an immediate as the assembler writes it."""
        field = row.fields[operand]
        if operand == "uimm":
            return str(self.extreme(0, 0xFFFFF))
        if operand == "cuimm":
            value = self.rng.choice((*range(1, 32), *range(0xFFFE0, 0x100000)))
            return str(value)
        value = self.extreme(field.lo, field.hi, field.step)
        nonzero = row.name in ("c.addi", "c.addi4spn", "c.addi16sp", "c.slli", "c.srli", "c.srai")
        return str(field.step if nonzero and value == 0 else value)

    def address(self, row: Any, spread: int, *, align: int = 1) -> tuple[int, str]:
        """Return a register and the line that puts an address in the data area in it."""
        i = self.base()
        return i, f"addi x{i}, x3, {self.rng.randrange(-spread, spread, align)}"

    # ---- memory ----
    def kind_load(self, row: Any) -> list[str]:
        i, line = self.address(row, 2000)
        return [line, f"{row.name} x{self.x()}, {self.extreme(-2048, 2047)}(x{i})"]

    def kind_store(self, row: Any) -> list[str]:
        i, line = self.address(row, 2000)
        j = self.x()
        source = [self.load_x(j)] if j != i else []
        return [*source, line, f"{row.name} x{j}, {self.extreme(-2048, 2047)}(x{i})"]

    def kind_fload(self, row: Any) -> list[str]:
        i, line = self.address(row, 2000)
        return [line, f"{row.name} f{self.rng.randrange(32)}, {self.extreme(-2048, 2047)}(x{i})"]

    def kind_fstore(self, row: Any) -> list[str]:
        i, line = self.address(row, 2000)
        j = self.rng.randrange(32)
        return [self.load_f(j), line, f"{row.name} f{j}, {self.extreme(-2048, 2047)}(x{i})"]

    def kind_hlv(self, row: Any) -> list[str]:
        i, line = self.address(row, 2000)
        return [line, f"{row.name} x{self.x()}, (x{i})"]

    def kind_hsv(self, row: Any) -> list[str]:
        i, line = self.address(row, 2000)
        j = self.x()
        source = [self.load_x(j)] if j != i else []
        return [*source, line, f"{row.name} x{j}, (x{i})"]

    def kind_cbo(self, row: Any) -> list[str]:
        i, line = self.address(row, 1500)
        return [line, f"{row.name} (x{i})"]

    def order(self) -> str:
        """Return an ordering suffix of an atomic."""
        return self.rng.choice(("", ".aq", ".rl", ".aqrl"))

    def atomic_address(self, row: Any) -> tuple[int, str]:
        """Return an address register and its line: aligned to 8, or where it is wanted sometimes to nothing."""
        free = self.misaligned_atomics and self.rng.random() < 0.2
        return self.address(row, 2000, align=1 if free else 8)

    def kind_amo(self, row: Any) -> list[str]:
        i, line = self.atomic_address(row)
        j = self.x()
        source = [self.load_x(j)] if j != i else []
        return [*source, line, f"{row.name}{self.order()} x{self.x()}, x{j}, (x{i})"]

    def kind_cas(self, row: Any) -> list[str]:
        """Compare and swap, with what memory holds or with something else."""
        i, line = self.atomic_address(row)
        rd, j = self.rng.sample([k for k in self.free if k != i], 2)
        load = f"l{row.name[-1]} x{rd}, 0(x{i})" if self.rng.random() < 0.5 else self.load_x(rd)
        if self.misaligned_atomics:
            load = self.load_x(rd)
        return [self.load_x(j), line, load, f"{row.name}{self.order()} x{rd}, x{j}, (x{i})"]

    def kind_casq(self, row: Any) -> list[str]:
        """The same with pairs of registers; sometimes only half of it is what memory holds."""
        rng = self.rng
        pairs = [k for k in self.free if k % 2 == 0 and (k == 0 or k + 1 in self.free)]
        rd, j = rng.choice(pairs), rng.choice(pairs)
        i = rng.choice([k for k in self.free if k and k & ~1 not in (rd, j)])
        line = f"addi x{i}, x3, {rng.randrange(-2000, 2000, 16 if rng.random() < 0.9 else 8)}"
        loads = [f"ld x{rd + half}, {8 * half}(x{i})" if rng.random() < 0.8 else self.load_x(rd + half)
                 for half in (0, 1) if rd]
        if self.misaligned_atomics:
            loads = [self.load_x(rd + half) for half in (0, 1) if rd]
        values = [self.load_x(j + half) for half in (0, 1) if j and j != rd]
        return [*values, line, *loads, f"{row.name}{self.order()} x{rd}, x{j}, (x{i})"]

    def kind_lr(self, row: Any) -> list[str]:
        i, line = self.atomic_address(row)
        return [line, f"{row.name}{self.order()} x{self.x()}, (x{i})"]

    def kind_sc(self, row: Any) -> list[str]:
        """With a reservation, without, with one lost by an SC that succeeds or fails, or on another address."""
        rng = self.rng
        i, line = self.atomic_address(row)
        j, taken, rd = rng.sample([k for k in self.free if k and k != i], 3)
        width = row.name[-1]
        store = f"{row.name}{self.order()} x{rd}, x{j}, (x{i})"
        reserve = f"lr.{width}{self.order()} x{taken}, (x{i})"
        plain = [] if self.misaligned_atomics else [f"s{width} x{j}, 0(x{i})"]  # would trap where misaligned, in Spike
        between = rng.choice((
            [],
            [reserve],
            [reserve, f"addi x{j}, x{j}, 1"],
            [reserve, f"addi x{i}, x{i}, 8"],
            [f"lr.{'w' if width == 'd' else 'd'} x{taken}, (x{i})"],
            [reserve, store],
            [reserve, f"addi x{i}, x{i}, 8", store, f"addi x{i}, x{i}, -8"],
            [reserve, *plain],
        ))
        return [self.load_x(j), line, *between, store]

    # ---- control ----
    def kind_branch(self, row: Any) -> list[str]:
        i, j = self.x(), self.x()
        if self.rng.random() < 0.2:
            j = i
        return [self.load_x(i), self.load_x(j), f"{row.name} x{i}, x{j}, .+8", f"addi x{self.base()}, x{i}, 1"]

    def kind_jal(self, row: Any) -> list[str]:
        return [f"jal x{self.x()}, .+8", f"addi x{self.base()}, x0, 1"]

    def kind_jalr(self, row: Any) -> list[str]:
        i = self.base()
        jump = f"jalr x{self.x()}, {12 + self.rng.randrange(2)}(x{i})"
        return [f"auipc x{i}, 0", jump, f"addi x{self.base()}, x0, 2"]

    def row_c_j(self, row: Any) -> list[str]:
        return ["c.j .+4", f"c.addi x{self.xc()}, 1"]

    def row_c_beqz(self, row: Any) -> list[str]:
        i = self.xc()
        load = f"li x{i}, 0" if self.rng.random() < 0.3 else self.load_x(i)
        return [load, f"{row.name} x{i}, .+4", f"c.addi x{self.xc()}, 1"]

    row_c_bnez = row_c_beqz

    def row_c_jr(self, row: Any) -> list[str]:
        i = self.base()
        target = f"addi x{i}, x{i}, {12 + self.rng.randrange(2)}"
        return [f"auipc x{i}, 0", target, f"{row.name} x{i}", f"c.addi x{self.xc()}, 1"]

    row_c_jalr = row_c_jr

    # ---- privileged ----
    def row_mret(self, row: Any) -> list[str]:
        i, j = self.rng.sample([k for k in self.free if k], 2)
        back = [f"auipc x{i}, 0", f"addi x{i}, x{i}, 28", f"csrw mepc, x{i}"]
        return [*back, f"lui x{j}, 2", f"addiw x{j}, x{j}, -2048", f"csrs mstatus, x{j}", "mret"]

    def row_sret(self, row: Any) -> list[str]:
        i = self.base()
        mode = self.rng.choice(("csrs", "csrc"))
        j = self.rng.choice([k for k in self.free if k and k != i])
        back = [f"auipc x{i}, 0", f"addi x{i}, x{i}, 24", f"csrw sepc, x{i}"]
        return [*back, f"li x{j}, 0x100", f"{mode} sstatus, x{j}", "sret", "ecall"]

    def row_wfi(self, row: Any) -> list[str]:
        # A pending interrupt, masked by MIE, makes WFI a no-op (privileged manual, "Wait for Interrupt").
        return ["csrci mstatus, 8", "csrsi mip, 2", "csrsi mie, 2", "wfi", "csrci mie, 2"]

    def row_fence(self, row: Any) -> list[str]:
        return [f"fence {self.rng.choice(FENCES)}" if self.rng.random() < 0.8 else "fence.tso"]

    def kind_csr(self, row: Any) -> list[str]:
        csr = self.rng.choice(CSRS)
        if row.name.endswith("i"):
            return [f"{row.name} x{self.x()}, {csr}, {self.rng.randrange(32)}"]
        i = self.rng.choice(self.free) if csr != "frm" else 0
        return [self.load_x(i), f"{row.name} x{self.x()}, {csr}, x{i}"]

    def kind_hint(self, row: Any) -> list[str]:
        if not row.operands:
            return [row.name]
        return [f"{row.name} {32 * self.rng.randrange(-64, 64)}(x{self.x()})"]

    # ---- compressed with memory or the stack pointer ----
    def kind_c(self, row: Any) -> list[str]:
        name, rng = row.name, self.rng
        if name in ("c.nop", "c.ebreak"):
            return [name]
        if not any("(" in o for o in row.operands) and "sp" not in row.operands:
            return self.plain(row)
        form = row.operands[-1]
        if "(" in form:
            immediate = form.split("(")[0]
            field = row.fields[immediate]
            offset = self.extreme(field.lo, field.hi, field.step)
            base = 2 if form.endswith("(sp)") else self.xc()
            line = f"addi x{base}, x3, {rng.randrange(-2000, 2000)}"
            operand = row.operands[0]
            if operand.startswith("f"):
                i = rng.randrange(8, 16) if operand.endswith("c") else rng.randrange(32)
                setup, text = [self.load_f(i)], f"f{i}"
            else:
                i = self.xc() if operand.endswith("c") else rng.choice([k for k in self.free if k])
                setup, text = ([] if i == base else [self.load_x(i)]), f"x{i}"
            return [*setup, line, f"{name} {text}, {offset}({'sp' if base == 2 else f'x{base}'})"]
        value = self.immediate(row, form)
        if name == "c.addi16sp":
            return [self.load_x(2), f"{name} sp, {value}"]
        return [self.load_x(2), f"{name} x{self.xc()}, sp, {value}"]


def text(table: list[Any], seed: int, *, loops: int, repeat: int = 2, misaligned_atomics: bool = False) -> str:
    """Return the text of a program that executes every row `loops` times `repeat`, with other values in each loop."""
    from tests.oracle.zigasm import compressed

    rng = random.Random(seed)
    rows = Rows(rng)
    rows.misaligned_atomics = misaligned_atomics
    chosen = list(table) * repeat
    rng.shuffle(chosen)
    body = "\n".join(compressed(line) for row in chosen for line in rows.lines(row))
    return frame(body, rng, loops)
