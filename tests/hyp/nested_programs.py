"""Random hypervisors: programs for HS-mode that use the whole of the H extension and log all that they can see.

The same program runs on a machine and as the guest of a hypervisor written in Python, which emulates the extension: the
two logs have to be equal, word by word. A program is a row of episodes: CSRs written and read back, HLV and HSV, then a
block run in VS- or VU-mode under two-stage tables with odd entries, until it calls its hypervisor with a magic number.
"""
from __future__ import annotations

import random
import re
from collections.abc import Callable

RAM = 0x8000_0000
LOG = RAM + 0x20_0000
G_ROOT, G_L1, G_CODE, G_POOL = (RAM + 0x40_0000 + n for n in (0, 0x8000, 0xA000, 0xB000))
VS_ROOT, VS_L1, VS_CODE, VS_POOL, VS_L1_POOL = (RAM + 0x48_0000 + n * 0x1000 for n in range(5))
G_TOP, VS_TOP = RAM + 0x41_0000, RAM + 0x49_0000  # tables above the roots of Sv39, for the wider modes
DATA, LARGE = RAM + 0x50_0000, RAM + 0x60_0000
G_ROOTS = {0: 0, 8: G_ROOT, 9: G_TOP, 10: G_TOP + 0x4000}
VS_ROOTS = {8: VS_ROOT, 9: VS_TOP, 10: VS_TOP + 0x1000}
POOL_GPA, POOL_VA, ALIAS = 0x4000_0000, 0x1000_0000, 0x4000_0000
PAGES = 48
MAGIC = 0x600D
CODE = 0x400        # where a page of data holds a return, which nothing is stored over
TIMES = (0, (1 << 64) - 1, 1 << 63, 1 << 62)     # far from now, whose value differs between the two runs
V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
FULL = V | R | W | X | A | D

HS_CSRS = ("hstatus", "hedeleg", "hideleg", "hie", "hvip", "hip", "hcounteren", "htimedelta", "henvcfg", "htval",
           "htinst", "hgeie", "vsstatus", "vsie", "vsip", "vstvec", "vsscratch", "vsepc", "vscause", "vstval", "vsatp",
           "vstimecmp", "hgatp", "hstateen0", "hstateen1", "sstateen0")
VS_CSRS = ("sstatus", "sie", "sip", "sscratch", "stval", "scause", "senvcfg", "scounteren", "hstatus", "hgatp",
           "vsstatus", "vsatp", "stimecmp", "satp", "mstatus", "hvip", "hgeip", "sstateen0", "sstateen1", "hstateen0")

HANDLERS = f"""
    li s11, {LOG:#x}
    la t0, hs_trap
    csrw stvec, t0
    li t0, 6 << 12
    csrs sstatus, t0
    j begin
.balign 4
hs_trap:
    li s8, 0xA1
    log s8
    show scause
    show stval
    show htval
    show htinst
    show hstatus
    show sepc
    show sstatus
    csrr s8, scause
    bltz s8, hs_interrupt
    li s7, 10
    beq s8, s7, hs_call
    li s7, 8
    beq s8, s7, hs_call
    li s7, 1
    beq s8, s7, hs_fetch
    li s7, 12
    beq s8, s7, hs_fetch
    li s7, 20
    beq s8, s7, hs_fetch
    csrr s8, stval
    li s7, 0x10200073
    beq s8, s7, hs_sret
hs_skip:
    csrr s8, sepc
    addi s8, s8, 4
    csrw sepc, s8
    sret
hs_fetch:
    csrw sepc, ra
    sret
hs_sret:
    li s7, 1 << 22          # VTSR: let the guest's handler go on
    csrc hstatus, s7
    sret
hs_interrupt:
    show hip
    csrw hvip, zero
    li s8, -1
    csrw stimecmp, s8
    csrw vstimecmp, s8
    csrci sip, 2
    sret
hs_call:
    li s7, {MAGIC}
    bne t6, s7, hs_skip
    csrw sepc, s9
    li s7, 0x80
    csrc hstatus, s7
    li s7, 0x100
    csrs sstatus, s7
    li s7, 0x20
    csrc sstatus, s7
    sret
.balign 4
vs_trap:
    li s8, 0xB2
    log s8
    show scause
    show stval
    show sepc
    show sstatus
    csrr s8, scause
    bltz s8, vs_interrupt
    li s7, 1
    beq s8, s7, vs_fetch
    li s7, 12
    beq s8, s7, vs_fetch
    li s7, 8
    bne s8, s7, vs_skip
    li s7, {MAGIC}
    bne t6, s7, vs_skip
    ecall
vs_skip:
    csrr s8, sepc
    addi s8, s8, 4
    csrw sepc, s8
    sret
vs_fetch:
    csrw sepc, ra
    sret
vs_interrupt:
    show sip
    csrw sie, zero
    sret
begin:
"""
POWEROFF = "li a7, 0x53525354; li a6, 0; li a0, 0; li a1, 0; ecall"


class Program:
    """One random program: `source` to be assembled at RAM, and `tables` to be written before it starts."""

    def __init__(self, seed: int, episodes: int, *, g_modes: tuple[int, ...] = (8, 8, 8, 9, 10, 0)) -> None:
        self.random = random.Random(seed)
        self.g_modes = g_modes
        self.lines: list[str] = [HANDLERS]
        self.blocks: list[str] = []
        for number in range(episodes):
            self.episode(number)
        self.lines += ["    sd zero, 0(s11)", POWEROFF, *self.blocks]

    @property
    def source(self) -> str:
        text = "\n".join(self.lines)
        text = re.sub(r"^ *show (\w+)$", r"    csrr s8, \1\n    log s8", text, flags=re.M)
        return re.sub(r"^ *log (\w+)$", r"    sd \1, 0(s11)\n    addi s11, s11, 8", text, flags=re.M)

    # -- tables
    def entry(self, ppn: int, user: bool) -> int:
        """Return a page-table entry that is odd half of the time."""
        pick = self.random
        pte = ppn << 10 | FULL | (U if user else 0)
        if pick.random() < 0.55:
            return pte
        flags = pick.choice((0, V, V | R, V | W, V | X, V | R | X, V | R | W, V | W | X, V | R | W | X))
        flags |= pick.choice((0, U, U, U)) | pick.choice((0, A, A, A | D, A | D, A | D, D)) | pick.choice((0, 0, G))
        pte = ppn << 10 | flags
        if pick.random() < 0.15:
            pte |= pick.choice((1 << 61, 2 << 61, 3 << 61, 1 << 63, 1 << 54, 1 << 60))
        if pick.random() < 0.1:
            pte = (ppn & ~15 | 8) << 10 | flags | 1 << 63
        return pte

    def tables(self, write: Callable[[int, int], None]) -> None:
        """Write the first contents of all tables as doublewords."""
        def leafs(table: int, first: int, count: int, flags: int, base: int) -> None:
            for index in range(count):
                write(table + 8 * (first + index), (base + index * 0x1000) >> 12 << 10 | flags)

        def pointer(at: int, table: int) -> None:
            write(at, table >> 12 << 10 | V)

        # G-stage: the first 4 MiB of RAM page by page, the rest in 2 MiB pages, and the pool.
        pointer(G_ROOT + 8 * (RAM >> 30), G_L1)
        for index in range(8):
            write(G_L1 + 8 * index, (RAM + (index << 21)) >> 12 << 10 | FULL | U)
        pointer(G_L1, G_CODE)
        leafs(G_CODE, 0, 512, FULL | U, RAM)
        pointer(G_ROOT + 8 * (POOL_GPA >> 30), G_L1 + 0x1000)
        pointer(G_L1 + 0x1000, G_POOL)
        # VS-stage: RAM one to one for S, the same at ALIAS for U, and the pool.
        pointer(VS_ROOT + 8 * (RAM >> 30), VS_L1)
        pointer(VS_ROOT + 8 * ((RAM + ALIAS) >> 30), VS_CODE)
        for index in range(8):
            write(VS_L1 + 8 * index, (RAM + (index << 21)) >> 12 << 10 | FULL)
            write(VS_CODE + 8 * index, (RAM + (index << 21)) >> 12 << 10 | FULL | U)
        pointer(VS_ROOT + 8 * (POOL_VA >> 30), VS_L1_POOL)
        pointer(VS_L1_POOL + 8 * (POOL_VA >> 21 & 511), VS_POOL)
        for index in range(PAGES):
            write(G_POOL + 8 * index, self.entry((DATA >> 12) + index, True))
            page = (POOL_GPA >> 12) + self.random.randrange(PAGES)
            write(VS_POOL + 8 * index, self.entry(page, self.random.random() < 0.5))
        pointer(G_TOP, G_ROOT)
        pointer(G_TOP + 0x4000, G_TOP + 0x8000)
        pointer(G_TOP + 0x8000, G_ROOT)
        pointer(VS_TOP, VS_ROOT)
        pointer(VS_TOP + 0x1000, VS_TOP)
        # A page of 2 MiB behind each pool.
        write(G_L1 + 0x1000 + 8, self.entry(LARGE >> 12, True))
        large = self.entry((POOL_GPA >> 12) + 512, self.random.random() < 0.5)
        write(VS_L1_POOL + 8 * ((POOL_VA >> 21 & 511) + 1), large)
        behind = (LARGE - DATA) >> 12
        for index in (*range(PAGES), *range(behind, behind + PAGES)):
            write(DATA + 0x1000 * index + CODE, 0x0000_8067_0000_8067)  # jalr zero, 0(ra), twice
            write(DATA + 0x1000 * index + 8, 0x1111_1111_1111_1111 * (index % 15 + 1))

    # -- programs
    def out(self, *lines: str) -> None:
        self.lines += ["    " + line for line in lines]

    def value(self) -> int:
        pick = self.random
        return pick.choice((0, (1 << 64) - 1, 1 << pick.randrange(64), pick.getrandbits(64), pick.getrandbits(12),
                            pick.getrandbits(64) & pick.getrandbits(64)))

    def csr(self, names: tuple[str, ...], sink: list[str]) -> None:
        pick = self.random
        name = pick.choice(names)
        how = pick.choice(("csrrw", "csrrs", "csrrc", "csrrwi", "csrrsi", "csrrci", "csrr"))
        if name == "satp":
            how = "csrr"
        elif name in ("stimecmp", "vstimecmp", "htimedelta"):
            how = pick.choice(("csrrw", "csrr"))
        if how == "csrr":
            sink.append(f"csrr t1, {name}")
        elif how.endswith("i"):
            sink.append(f"{how} t1, {name}, {pick.randrange(32)}")
        else:
            value = pick.choice(TIMES) if name in ("stimecmp", "vstimecmp", "htimedelta") else self.value()
            sink += [f"li t0, {value:#x}", f"{how} t1, {name}, t0"]
        sink.append("log t1" if names is HS_CSRS else "mv t2, t1")
        if names is HS_CSRS:
            sink += [f"csrr t1, {name}", "log t1"]

    def address(self, *, virtual: bool) -> int:
        pick = self.random
        base = POOL_VA if virtual else POOL_GPA
        offset = pick.choice((0, 8, 8, 16, 0xFF8, 0xFFC, 0xFFE, 0xFFF, pick.randrange(0x1000)))
        if pick.random() < 0.06:
            return pick.choice((0, 0x1000_0000_0000, RAM + 0x50_0008, 1 << 63, (1 << 64) - 8, 1 << 41, 1 << 40))
        if CODE - 8 <= offset < CODE + 16:
            offset = 8
        return base + (pick.randrange(PAGES) << 12) + offset + (0x20_0000 if pick.random() < 0.1 else 0)

    def hyper_access(self, *, virtual: bool) -> None:
        pick = self.random
        what = pick.choice(("hlv.b", "hlv.bu", "hlv.h", "hlv.hu", "hlvx.hu", "hlv.w", "hlv.wu", "hlvx.wu", "hlv.d",
                            "hsv.b", "hsv.h", "hsv.w", "hsv.d"))
        self.out(f"li t0, {self.address(virtual=virtual):#x}", f"li t1, {pick.getrandbits(64):#x}", f"{what} t1, (t0)",
                 "log t1")

    def edit(self) -> None:
        """Change an entry and fence as the manual asks."""
        pick = self.random
        index = pick.randrange(PAGES)
        if pick.random() < 0.5:
            self.out(f"li t0, {self.entry((DATA >> 12) + index, True):#x}", f"li t1, {G_POOL + 8 * index:#x}",
                     "sd t0, 0(t1)", f"li t1, {(POOL_GPA + (index << 12)) >> 2:#x}",
                     pick.choice(("hfence.gvma", "hfence.gvma t1", "hinval.gvma t1, zero", "hfence.gvma zero, zero")))
        else:
            gpa = POOL_GPA + (pick.randrange(PAGES) << 12)
            self.out(f"li t0, {self.entry(gpa >> 12, pick.random() < 0.5):#x}", f"li t1, {VS_POOL + 8 * index:#x}",
                     "sd t0, 0(t1)", pick.choice(("hfence.vvma", "hinval.vvma zero, zero")))

    def world(self, *, virtual: bool) -> None:
        """Put all that decides about the guest where it can run."""
        pick = self.random
        wide = pick.choice((8, 8, 9, 10))
        mode = wide << 60 | VS_ROOTS[wide] >> 12 if virtual else 0
        wide = pick.choice(self.g_modes)
        hgatp = wide << 60 | pick.randrange(3) << 44 | G_ROOTS[wide] >> 12
        self.out(f"li t0, {hgatp:#x}", "csrw hgatp, t0", f"li t0, {mode:#x}", "csrw vsatp, t0", "la t0, vs_trap",
                 "csrw vstvec, t0")

    def episode(self, number: int) -> None:
        pick = self.random
        virtual, user = pick.random() < 0.7, pick.random() < 0.4
        for _ in range(pick.randrange(4, 12)):
            self.csr(HS_CSRS, self.lines)
            if pick.random() < 0.2:  # what it keeps of its guest's interrupts is taken here, and nowhere before
                self.out("csrsi sstatus, 2", "nop", "csrci sstatus, 2")
            if pick.random() < 0.15:
                self.out(pick.choice(("ebreak", ".word 0xFFFFFFFF", "csrr t1, mstatus", "csrw hgeip, t1")))
        self.world(virtual=virtual)
        for _ in range(pick.randrange(3)):
            self.edit()
        status = pick.getrandbits(64) & 0xC_0000        # SUM, MXR
        self.out(f"li t0, {status | pick.choice((0, 1, 2, 3, 3)) << 13:#x}", "csrw vsstatus, t0")
        self.out("li t0, 0x6000", "csrc sstatus, t0", f"li t0, {pick.choice((0, 1, 2, 3, 3)) << 13}",
                 "csrs sstatus, t0")
        self.out("li t0, 0x80000", f"{pick.choice(('csrs', 'csrc'))} sstatus, t0")
        for _ in range(pick.randrange(8)):
            self.hyper_access(virtual=virtual)
        if pick.random() < 0.3:
            self.as_user(number, virtual=virtual)
        # Now the guest
        traps = pick.choice((0, 0, 1 << 20, 1 << 21, 1 << 22, 0x700000))
        hedeleg = pick.choice((0, 0xB1FF, 0xB109, pick.getrandbits(16)))
        if pick.random() < 0.4:
            self.out(f"li t0, {pick.choice((0, 4, 0x40, 0x400, 0x444)):#x}", "csrw hvip, t0")
        else:
            self.out("csrw hvip, zero")
        self.out(f"li t0, {pick.choice((0, 0x444, 0x444, 4, 0x404)):#x}", "csrw hideleg, t0",
                 f"li t0, {pick.choice((0, 0x444, pick.getrandbits(13)))}", "csrw hie, t0",
                 f"li t0, {hedeleg:#x}", "csrw hedeleg, t0",
                 f"li t0, {pick.choice((0, 7, 2, pick.getrandbits(3)))}", "csrw hcounteren, t0",
                 f"li t0, {pick.choice((0, 1 << 63, 1 << 62, 3 << 62 | 0xF0)):#x}", "csrw henvcfg, t0",
                 f"li t0, {pick.choice((-1, -1, 0))}", "csrw vstimecmp, t0")
        if pick.random() < 0.15:
            self.out("csrw stimecmp, zero", "li t0, 32", "csrs sie, t0")
        if pick.random() < 0.15:
            self.out("csrsi sip, 2", "csrsi sie, 2")
        self.out(f"li t0, {0x80 | traps | (1 << 9 if pick.random() < 0.5 else 0):#x}", "csrw hstatus, t0",
                 f"la s9, after{number}", f"la t0, block{number}")
        if user and virtual:
            self.out(f"li t1, {ALIAS:#x}", "add t0, t0, t1")
        self.out("csrw sepc, t0", "li t0, 0x20", "csrc sstatus, t0", "li t0, 0x100",
                 f"{'csrc' if user else 'csrs'} sstatus, t0")
        if pick.random() < 0.5:
            self.out("li t0, 2", "csrs vsstatus, t0")
        self.out("sret")
        self.lines.append(f"after{number}:")
        for register in ("t2", "t3", "t4", "t5"):
            self.out(f"log {register}")
        self.out("csrci sie, 2", "li t0, 32", "csrc sie, t0", "csrci sip, 2", "li t0, -1", "csrw stimecmp, t0")
        self.block(number, virtual=virtual, wfi=bool(traps >> 21 & 1) or user)

    def as_user(self, number: int, *, virtual: bool) -> None:
        """Drop to U-mode, where HLV and HSV work if hstatus.HU says so, and come back."""
        pick = self.random
        self.out(f"li t0, {pick.choice((0, 1 << 9, 1 << 9 | 1 << 8)):#x}", "csrw hstatus, t0", f"la s9, back{number}",
                 f"la t0, user{number}", "csrw sepc, t0", "li t0, 0x120", "csrc sstatus, t0",
                 f"li t0, {pick.choice((0, 0, 0x444, 4))}", "csrw hie, t0", "li t6, 0", "sret")
        self.lines.append(f"user{number}:")
        for _ in range(pick.randrange(1, 5)):
            self.hyper_access(virtual=virtual)
        self.out(pick.choice(("csrr t1, hstatus", "hfence.gvma", "wfi", "csrr t1, vsatp", "hinval.vvma t0, t1")))
        self.out(f"li t6, {MAGIC}", "ecall", "j .")
        self.lines.append(f"back{number}:")

    def block(self, number: int, *, virtual: bool, wfi: bool) -> None:
        pick = self.random
        lines = [f"block{number}:", "li t6, 0"]
        for _ in range(pick.randrange(6, 24)):
            kind = pick.random()
            address = self.address(virtual=virtual)
            if kind < 0.3:
                load = pick.choice(("lb", "lhu", "lw", "ld", "lwu"))
                lines += [f"li t0, {address:#x}", f"{load} t2, 0(t0)", "add t3, t3, t2"]
            elif kind < 0.5:
                lines += [f"li t0, {address:#x}", f"li t1, {pick.getrandbits(64):#x}",
                          f"{pick.choice(('sb', 'sh', 'sw', 'sd'))} t1, 0(t0)"]
            elif kind < 0.6:
                atomic = pick.choice(("amoadd.d", "amoor.w", "amoswap.d"))
                lines += [f"li t0, {address & ~7:#x}", f"{atomic} t4, t3, (t0)"]
            elif kind < 0.7:
                lines += [f"li t0, {address & ~0xFFF | CODE:#x}", "jalr ra, 0(t0)"]
            elif kind < 0.85:
                self.csr(VS_CSRS, lines)
            else:
                lines.append(pick.choice((
                    "ecall", "ebreak", "sfence.vma", "hfence.vvma", "hfence.gvma", "hlv.w t2, (t0)", "hsv.w t2, (t0)",
                    "mret", "sinval.vma t0, t1", "sfence.w.inval", "rdinstret zero", "rdcycle zero", "rdtime zero",
                    ".word 0xFFFFFFFF", "fadd.d fa0, fa1, fa2", "fmv.x.d t5, fa0", "wfi" if wfi else "nop")))
        lines += [f"li t6, {MAGIC}", "ecall", "j .", ""]
        self.blocks += ["    " + line if not line.endswith(":") else line for line in lines]
