"""What virtualization costs on pyvirt itself, as ratios in one run: `python benchmarks/worlds.py`.

The same programs run in S-mode with a page table of their own, level 0, and in VS-mode under two stages, in turn, round
after round; each round's ratio is of its own two runs. Nothing else is on the machine: no timer, no devices. Prints a
table with the bound that each line has to hold, and ends with exit code 1 where one does not; --docs writes it into
docs/benchmarks.md.
"""
from __future__ import annotations

import argparse
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from report import table, write_docs

TREE = Path(__file__).resolve().parent.parent
if str(TREE) not in sys.path:
    sys.path.append(str(TREE))

import pyvirt as pv  # noqa: E402 - of the clone, where it is not installed

BEGIN, END = "<!-- worlds: written by benchmarks/worlds.py -->", "<!-- end of worlds -->"
RAM, MIB = 0x8000_0000, 1 << 20
FIRST, OTHER, SECOND, DATA = RAM + 2 * MIB, RAM + 4 * MIB, RAM + 6 * MIB, RAM + 16 * MIB
VA = 0x40_0000_0000 >> 2        # where the programs see their data: not where it is
V, R, W, X, U, A, D = (1 << i for i in range(8) if i != 5)
SV39 = 8 << 60

COMPUTE = """
        li   s3, 0x7ff8
1:      slli t0, a0, 13
        xor  a0, a0, t0
        srli t0, a0, 7
        xor  a0, a0, t0
        slli t0, a0, 17
        xor  a0, a0, t0
        and  t1, a0, s3
        add  t1, t1, s2
        ld   t2, 0(t1)
        add  t2, t2, a0
        sd   t2, 0(t1)
        mul  t3, t2, a0
        andi t4, t3, 3
        bnez t4, 2f
        addi a2, a2, 1
2:      add  a1, a1, t3
        jal  3f
        j    1b
3:      xor  a1, a1, a2
        ret
"""
TOUCH = """
        li   a2, 6364136223846793005
        li   a3, 1442695040888963407
        li   s3, PAGES_MASK
1:      mul  a0, a0, a2
        add  a0, a0, a3
        srli t0, a0, 24
        and  t0, t0, s3
        add  t0, t0, s2
        ld   t1, 0(t0)
        add  a1, a1, t1
        j    1b
"""
# A handler of 20 instructions, for S and HS alike.
CALL = """
1:      ecall
        j    1b
        .balign 4
trap:   csrrw sp, sscratch, sp
        sd   t0, 0(sp)
        sd   t1, 8(sp)
        csrr t0, scause
        csrr t1, sepc
        addi t1, t1, 4
        csrw sepc, t1
        andi t0, t0, 15
        slli t0, t0, 3
        add  t0, t0, sp
        ld   t1, 64(t0)
        addi t1, t1, 1
        sd   t1, 64(t0)
        add  a1, a1, a0
        xori a1, a1, 5
        srli a1, a1, 1
        ld   t0, 0(sp)
        ld   t1, 8(sp)
        csrrw sp, sscratch, sp
        sret
"""
VISIT = """
guest:  li   t1, 64
        mv   t2, s2
1:      ld   t3, 0(t2)
        add  t2, t2, s3
        addi t1, t1, -1
        bnez t1, 1b
        ecall
        j    guest
        .balign 4
trap:   csrrw s4, SWITCHED, s4
        csrr s0, sepc
        addi s0, s0, 4
        csrw sepc, s0
        sret
"""


class Tables:
    """Page tables of Sv39, or Sv39x4, made of 4 KiB pages only and written into RAM at once."""

    def __init__(self, at: int, *, guest: bool = False) -> None:
        self.root, self.next, self.guest = at, at + (0x4000 if guest else 0x1000), guest
        self.pages: dict[int, dict[int, int]] = {}

    def map(self, va: int, pa: int, size: int, flags: int = V | R | W | X | A | D) -> Tables:
        for offset in range(0, size, 0x1000):
            table, at = self.root, va + offset
            for shift in (30, 21):
                entry = at >> shift & (0x7FF if self.guest and shift == 30 else 0x1FF)
                slots = self.pages.setdefault(table + (entry >> 9 << 12), {})
                if entry & 511 not in slots:
                    slots[entry & 511] = self.next >> 2 | V
                    self.next += 0x1000
                table = slots[entry & 511] >> 10 << 12
            self.pages.setdefault(table, {})[at >> 12 & 511] = (pa + offset) >> 2 | flags | (U if self.guest else 0)
        return self

    def write(self, vm: pv.Machine) -> None:
        for page, slots in self.pages.items():
            vm.mem[page : page + 0x1000] = struct.pack("<512Q", *(slots.get(i, 0) for i in range(512)))

    @property
    def atp(self) -> int:
        return SV39 | self.root >> 12


def machine(text: str, world: str, *, data: int = 1, user: bool = False, ram: int = 32) -> pv.Machine:
    """Return a machine in a world at the start of a program, with `data` MiB at VA; traps go to its `trap`."""
    vm = pv.Machine(board="bare", isa="rv64gch", ram=f"{ram}M")
    program = pv.asm(text, at=RAM)
    vm.load(program)
    flags = V | R | W | X | A | D
    for at in (FIRST, OTHER):
        tables = Tables(at).map(RAM, RAM, 0x4000, flags | (U if user else 0))
        if user:
            tables.map(VA - 0x1000, RAM, 0x1000, flags)
        tables.map(VA, DATA, data * MIB, V | R | W | A | D).write(vm)
    Tables(SECOND, guest=True).map(RAM, RAM, ram * MIB).write(vm)
    for at in range(DATA, DATA + data * MIB, 0x1000):
        vm.mem.u64[at] = at  # a page that was never written is not there
    csr, trap = vm.hart.csr, vm.symbols.get("trap", 0)
    csr.pmpaddr0, csr.pmpcfg0 = (1 << 54) - 1, 0x1F
    csr.medeleg = 1 << 8 | 1 << 10
    csr.stvec = trap - RAM + VA - 0x1000 if user else trap
    csr.sscratch = VA
    csr.satp = csr.vsatp = FIRST >> 12 | SV39
    csr.hgatp = SECOND >> 12 | SV39
    vm.hart.world, vm.hart.s2, vm.hart.a0 = world, VA, 88172645463325252
    return vm


def writes(csr: str) -> str:
    """Return a loop of sixteen writes of a register that change it."""
    return "1:\n" + f"csrw {csr}, s3\ncsrw {csr}, s4\n" * 8 + "j 1b"


def pace(vm: pv.Machine, instructions: int) -> float:
    """Run a machine on and return CPU seconds for an instruction."""
    before = vm.icount
    begun = time.process_time()
    vm.run(instructions=instructions)
    taken = time.process_time() - begun
    if vm.icount - before != instructions:
        raise SystemExit(f"worlds: {vm.icount - before} instructions were done instead of {instructions}")
    return taken / instructions


@dataclass(frozen=True)
class Row:
    """One comparison: a row of the table."""

    what: str
    first: str
    second: str
    value: str
    bound: str
    holds: bool


@dataclass
class Bench:
    """How often and how long to measure."""

    rounds: int
    instructions: int

    def pairs(self, base: pv.Machine, other: pv.Machine, part: float = 1.0) -> tuple[list[float], list[float]]:
        """Run two machines in turn; returns the seconds for an instruction of each, behind one round to warm up."""
        n = self.length(part)
        first: list[float] = []
        second: list[float] = []
        for turn in range(self.rounds + 1):
            order = [(base, first), (other, second)]
            for vm, kept in order if turn % 2 else order[::-1]:
                kept.append(pace(vm, n))
        return first[1:], second[1:]

    def length(self, part: float) -> int:
        return max(10_000, int(self.instructions * part))

    def compute(self) -> Iterator[Row]:
        first, second = self.pairs(machine(COMPUTE, "S"), machine(COMPUTE, "VS"))
        yield row("compute: VS under two stages / level 0", first, second, quotients(first, second), least=0.95)

    def misses(self) -> Iterator[Row]:
        for mib in (64, 256):
            text = TOUCH.replace("PAGES_MASK", f"{(mib << 20) - 1 & ~7:#x}")
            pair = [machine(text, world, data=mib, ram=mib + 32) for world in ("S", "VS")]
            first, second = self.pairs(*pair, part=0.1)
            yield row(f"random words of {mib} MiB in 4 KiB pages: VS under two stages / level 0", first, second,
                      quotients(first, second), least=0.6)

    def calls(self) -> Iterator[Row]:
        first, second = self.pairs(machine(CALL, "U", user=True), machine(CALL, "VS"), 0.2)
        first, second = [t * 22 for t in first], [t * 22 for t in second]
        yield row("ecall, a handler of 20 instructions, sret: VS and HS / U and S", first, second,
                  quotients(second, first), most=1.5)

    def switches(self) -> Iterator[Row]:
        for what, csr, world in (("HS-mode writes hgatp", "hgatp", "S"), ("HS-mode writes vsatp", "vsatp", "S"),
                                 ("a guest writes its satp", "satp", "VS")):
            vm = machine(writes(csr), world)
            vm.hart.s3, vm.hart.s4 = values(vm, "hgatp" if csr == "hgatp" else "vsatp")
            taken = [pace(vm, self.length(0.1)) * 17 / 16 * 1e9 for _ in range(self.rounds + 1)][1:]
            median = statistics.median(taken)
            value = f"{median:.0f} ns ({min(taken):.0f}–{max(taken):.0f})"
            yield Row(f"{what}, another value each time", "–", "–", value, "at most 150 ns", median <= 150)

    def refills(self) -> Iterator[Row]:
        for csr in ("hgatp", "vsatp"):
            count = walks(csr)
            yield Row(f"walks of page tables when guests of 64 pages take turns 1,000 times by {csr}", "–", "–",
                      str(count), "0", count == 0)

    def observed(self) -> Iterator[Row]:
        for name, text, part in (("compute", COMPUTE, 1.0), ("calls", CALL, 0.2)):
            n = self.length(part)
            first, second = [], []
            for _ in range(self.rounds):
                vm = machine(text, "VS")
                pace(vm, n // 4)
                first.append(pace(vm, n))
                watch(vm)
                pace(vm, n // 4)
                second.append(pace(vm, n))
            yield row(f"{name}: on_trap, trace and exits were on and are off again / never were on", first, second,
                      quotients(second, first), most=1.03)


BENCHMARKS = ("compute", "misses", "calls", "switches", "refills", "observed")


def quotients(a: list[float], b: list[float]) -> list[float]:
    return [x / y for x, y in zip(a, b, strict=True)]


def row(what: str, first: list[float], second: list[float], ratios: list[float], *, least: float = 0.0,
        most: float = 99.0) -> Row:
    """Return a row of two machines: medians in ns, the median of the ratios with its spread."""
    value = statistics.median(ratios)
    a, b = (f"{statistics.median(t) * 1e9:.2f} ns" for t in (first, second))
    return Row(what, a, b, f"{value:.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
               f"at least {least}" if least else f"at most {most}", least <= value <= most)


def values(vm: pv.Machine, csr: str) -> tuple[int, int]:
    """Return two values of hgatp or vsatp under which the guest runs alike; the second is the machine's own."""
    own = int(getattr(vm.hart.csr, csr))
    return (SV39 | OTHER >> 12 if csr == "vsatp" else own | 1 << 44), own


def walks(csr: str) -> int:
    """Count the walks of page tables of two guests that take turns, once each has touched its 64 pages."""
    vm = machine(VISIT.replace("SWITCHED", csr), "VS")
    vm.hart.s3, vm.hart.s4 = 4096, values(vm, csr)[0]
    turn = 2 + 64 * 4 + 2 + 5
    vm.run(instructions=20 * turn)
    core = vm._tenant.pin().board.core
    before = core.walks[0]
    vm.run(instructions=1_000 * turn)
    return int(core.walks[0] - before)


def watch(vm: pv.Machine) -> None:
    """Attach everything that observes, let it see some traps, and take it off."""
    hook = vm.on_trap(lambda _: None)
    vm.exits.start()
    with vm.trace():
        vm.run(instructions=10_000)
    vm.exits.stop()
    hook.remove()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--instructions", type=int, default=300_000_000, help="of a run of the compute program")
    parser.add_argument("--only", default=",".join(BENCHMARKS), metavar="A,B", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the table between the marks of this document")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"--only: {unknown[0]!r} is no benchmark; allowed: {', '.join(BENCHMARKS)}")
    bench = Bench(options.rounds, options.instructions)
    rows = []
    for name in names:
        for found in getattr(bench, name)():
            print(f"{found.what}: {found.value}; {found.bound}", file=sys.stderr, flush=True)
            rows.append(found)
    text = table(["what", "level 0, or before", "VS, or after", "ratio or value", "bound", "holds"],
                 [[r.what, r.first, r.second, r.value, r.bound, "yes" if r.holds else "no"] for r in rows])
    print(text)
    if options.docs:
        write_docs(options.docs, text + "\n", BEGIN, END)
    return 0 if all(r.holds for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
