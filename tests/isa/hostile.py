"""Machines filled with noise that looks like a guest: instructions of every row, page tables, CSRs, pointers into all.

Nothing about such a run is expected but that it ends where it was told to, and that it is the same under every variant.
Run as a script, `python -m tests.isa.hostile SEED COUNT`, it tries that many seeds: for builds with sanitizers.
"""
from __future__ import annotations

import random
import sys

from pyvirt import _isa
from pyvirt._csr import csr_numbers
from pyvirt.assembly.asm import asm
from tests.support import BASE, CLINT, EXTS, RWX, A, Bare, D, N, R, U, V, Variant, W, X, difference, pte, run

SIZE, CODE_PAGES, TABLES = 1 << 18, 3, 12
H = 1 << 19
SMSTATEEN = 1 << 28
CSRS = csr_numbers()
SEGMENTS, SEGMENT = 24, 400
KINDS: dict[str, list[object]] = {}
for _row in _isa.ISA:
    KINDS.setdefault(_row.kind, []).append(_row)
WEIGHTS = {
    "ri": 6, "rr": 5, "load": 8, "store": 8, "branch": 6, "jal": 2, "jalr": 2, "amo": 3, "lr": 1, "sc": 1, "c": 12,
    "csr": 4, "sys": 3, "cbo": 1, "fp": 3, "fload": 1, "fstore": 1, "upper": 2, "nop": 1, "hlv": 1, "hsv": 1,
}
VARIANTS = (Variant(), Variant(core="switch"), Variant(tlb_limit=2), Variant(seed=1, longest=60, evict=True),
            Variant(core="switch", seed=2, longest=9), Variant(seed=3, longest=90, share=True), Variant(code_limit=2))


def handler(level: str) -> str:
    """Return a handler that skips what trapped, or, where nothing could be fetched, goes on somewhere in the code."""
    return f"""
        .balign 64
        csrr t0, {level}cause
        addi t0, t0, -1
        beqz t0, 1f
        addi t0, t0, -11
        beqz t0, 1f
        addi t0, t0, -8
        beqz t0, 1f
        csrr t0, {level}epc
        addi t0, t0, 4
        csrw {level}epc, t0
        {level}ret
    1:  csrr t1, {"mcycle" if level == "m" else "sscratch"}
        csrw sscratch, t1
        andi t1, t1, 0x7FC
        li t0, {CODE}
        add t0, t0, t1
        csrw {level}epc, t0
        {level}ret
    """


CODE = BASE + 0x1000
HANDLERS = asm(handler("m") + handler("s"), at=BASE)


class Device:
    """Registers that keep what is written, and refuse one width."""

    def __init__(self) -> None:
        self.words = [0] * 16

    def read(self, offset: int, width: int) -> int:
        return self.words[offset >> 3 & 15] & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        self.words[offset >> 3 & 15] = value


class Hostile:
    """One seed: an image of RAM, and what happens to the machine between segments of its run."""

    def __init__(self, seed: int, *, hyper: bool) -> None:
        self.rng = random.Random(seed * 2 + hyper)
        self.seed, self.hyper = seed, hyper
        kinds = [k for k in WEIGHTS if k in KINDS]
        self.kinds = self.rng.choices(kinds, [WEIGHTS[k] for k in kinds], k=4096)
        self.pages = [self.page(k) for k in range(SIZE >> 12)]

    def instruction(self) -> bytes:
        """Return an instruction of a random row with random operands."""
        rng = self.rng
        row = rng.choice(KINDS[rng.choice(self.kinds)])
        word = row.match | rng.getrandbits(8 * row.length) & ~row.mask
        if row.kind == "csr":
            word = word & 0xF_FFFF | rng.choice(CSRS) << 20
        if row.kind == "jal" or (row.kind == "branch" and rng.random() < 0.7):  # not far away, as a rule
            word &= 0x0FFF_FFFF if row.kind == "branch" else 0x00FF_FFFF
        return word.to_bytes(row.length, "little")

    def page(self, number: int) -> bytes:
        """Return the content of a page: code, a page table, or mostly zeros."""
        rng = self.rng
        if number < CODE_PAGES:
            data = b""
            while len(data) < 4096:
                data += self.instruction()
            return data[:4096] if number else (HANDLERS + data)[:4096]
        if number < TABLES:
            return b"".join(self.entry(number, slot) if slot < 8 or slot % 5 == 2 else bytes(8) for slot in range(512))
        return rng.randbytes(64) + bytes(4032)

    def entry(self, number: int, slot: int) -> bytes:
        """Return an entry; slot 2 of some tables maps RAM one to one at every level that can."""
        rng = self.rng
        value = pte(BASE, RWX | (U if rng.random() < 0.5 else 0)) if slot == 2 and number % 2 else self.any_entry()
        return value.to_bytes(8, "little")

    def any_entry(self) -> int:
        """Return an entry to a table or a page, in good order as a rule."""
        rng = self.rng
        if rng.random() < 0.4:
            return pte(BASE + 0x1000 * rng.randrange(CODE_PAGES, TABLES), V)
        flags = V | rng.choice((R, R | W, R | W | X, R | W | X, X)) | rng.choice((A, A | D, A | D, 0))
        flags |= rng.choice((0, U)) | (N if rng.random() < 0.05 else 0)
        target = rng.choice((BASE, CLINT, 0x1000_0000)) if rng.random() < 0.2 else BASE + 0x1000 * rng.randrange(16)
        return pte(target, flags) ^ (1 << rng.randrange(64) if rng.random() < 0.05 else 0)

    def pointer(self) -> int:
        """Return an address that may mean something: physical, virtual, of a device, or a small number."""
        rng = self.rng
        low = rng.choice((0, 8, 0x800, 0xFF8, 0xFFC, 0xFFE, 0xFFF, rng.randrange(4096)))
        return rng.choice((
            BASE + 0x1000 * rng.randrange(SIZE >> 12) + low, BASE + 0x1000 * rng.randrange(TABLES) + (low & ~7),
            0x1000 * rng.randrange(512) + low,
            rng.randrange(8) << 30 | rng.randrange(8) << 21 | rng.randrange(8) << 12 | low,
            CLINT + 0x4000, 0x1000_0000 + low, rng.getrandbits(64), rng.randrange(-64, 64) & (1 << 64) - 1,
        ))

    def csr_value(self, number: int) -> int:
        """Return a value for a CSR: of its own kind where noise would only be refused."""
        rng = self.rng
        if number in (0x180, 0x280, 0x680):
            root = (BASE >> 12) + rng.randrange(CODE_PAGES, TABLES)
            return rng.choice((0, 8, 8, 8, 9, 10)) << 60 | (root & ~3 if number == 0x680 else root)
        if number in (0x305, 0x105, 0x205) and rng.random() < 0.8:
            return BASE + 64 * (number != 0x305)
        if number in (0x305, 0x105, 0x205, 0x341, 0x141, 0x241):
            return BASE + rng.randrange(0, CODE_PAGES << 12, 4)
        if number in range(0x3B0, 0x3C0):
            return rng.choice(((1 << 54) - 1, BASE + rng.randrange(SIZE) >> 2, rng.getrandbits(54)))
        return rng.getrandbits(64) & rng.getrandbits(64)

    def machine(self, variant: Variant) -> Bare:
        """Return the machine at its start."""
        bare = Bare(size=SIZE, variant=variant, exts=EXTS | H | SMSTATEEN if self.hyper else EXTS, ratio=3)
        bare.clint()
        bare.core.map(0x1000_0000, 0x1000, Device())
        for number, data in enumerate(self.pages):
            bare.core.mem_write(BASE + 0x1000 * number, data)
        bare.set(csr_300=3 << 13)
        return bare

    def disturb(self, bare: Bare, rng: random.Random) -> None:
        """Change something from outside, and send the hart somewhere."""
        self.rng = rng
        hart = bare.hart
        hart.waiting = False
        hart.priv = rng.choice((0, 1, 1, 3))
        hart.pc = rng.choice((BASE + rng.randrange(0, CODE_PAGES << 12, 2), self.pointer()))
        for i in range(1, 32):
            if rng.random() < 0.6:
                hart.set_x(i, self.pointer())
        for _ in range(rng.randrange(6)):
            number = rng.choice(CSRS)
            if number in range(0x3A0, 0x3C0) and rng.random() < 0.8:
                continue
            if number >> 10 != 3 and (self.hyper or number >> 8 & 3 != 2) and number not in range(0x240, 0x281):
                try:
                    hart.csr_write(number, self.csr_value(number))
                except KeyError:
                    assert not self.hyper
        if rng.random() < 0.9:
            hart.csr_write(0x3BF, (1 << 54) - 1)
            hart.csr_write(0x3A2, 0x1F << 56)
        if rng.random() < 0.8:
            for number in (0x305, 0x105, 0x205)[: 3 if self.hyper else 2]:
                hart.csr_write(number, self.csr_value(number))
        if rng.random() < 0.6:
            hart.csr_write(0x180, self.csr_value(0x180))
        if rng.random() < 0.5:
            bare.core.mem_write(self.pointer() & SIZE - 8 | BASE, self.any_entry().to_bytes(8, "little"))
        if rng.random() < 0.3:
            bare.ram.write(BASE + (rng.randrange(TABLES << 12) & ~7), self.any_entry().to_bytes(8, "little"))

    def go(self, variant: Variant) -> tuple[Bare, list[str]]:
        """Run all segments and return the machine, and the stop and digest of each."""
        bare, rng, seen = self.machine(variant), random.Random(self.seed), []
        for _ in range(SEGMENTS):
            self.disturb(bare, rng)
            stop = run(bare, variant, bare.core.icount + SEGMENT)
            assert stop in ("limit", "idle", "trap_loop"), stop
            seen.append(f"{stop} {bare.core.icount} {bare.digest()}")
        return bare, seen

    def check(self) -> None:
        """Run under every variant and compare after every segment."""
        first, want = self.go(VARIANTS[0])
        for variant in VARIANTS[1:]:
            other, got = self.go(variant)
            if want != got:
                at = next(k for k in range(SEGMENTS) if want[k] != got[k])
                raise AssertionError(f"seed {self.seed} hyper {self.hyper}: {variant} differs in segment {at}: "
                                     f"{want[at][:20]} {got[at][:20]}; at the end {difference(first, other)[:400]}")


def main(first: int, count: int) -> None:
    """Try seeds, telling how far it came."""
    for seed in range(first, first + count):
        for hyper in (False, True):
            Hostile(seed, hyper=hyper).check()
        if seed % 50 == 0:
            print(seed, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
