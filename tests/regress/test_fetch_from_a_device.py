"""Code in a device's registers: the device sees the time of the instruction, as for a load, however the run is cut."""
from __future__ import annotations

from pyvirt.assembly.asm import asm
from tests.support import BASE, VARIANTS, Bare, run

AT = 0x1000_0000


class Rom:
    """Instructions that leave the time at which they were fetched in a0."""

    def __init__(self, bare: Bare) -> None:
        self.bare, self.seen = bare, []

    def read(self, offset: int, width: int) -> int:
        assert width == 2
        now = self.bare.core.icount
        self.seen.append((offset, now))
        code = asm(f"li a0, {now % 2000}\n add a1, a1, a0\n jr ra")
        return int.from_bytes(code[offset : offset + 2], "little")

    def write(self, offset: int, width: int, value: int) -> None:
        raise AssertionError


def test_time_at_a_fetch() -> None:
    want = None
    text = f"li s1, 30\n li s2, {AT}\n 1: jalr ra, s2\n addi s1, s1, -1\n bnez s1, 1b\n 9: wfi\n j 9b"
    for variant in VARIANTS:
        bare = Bare(text, variant=variant)
        rom = Rom(bare)
        bare.core.map(AT, 0x1000, rom)
        assert run(bare, variant, 10_000) == "idle"
        got = (bare.digest(), rom.seen)
        want = want or got
        assert got == want, variant
    assert want is not None
    assert want[1][:3] == [(0, 3), (2, 3), (4, 4)]
    assert bare.x("a1") == sum(3 + 6 * k for k in range(30))
    assert bare.hart.pc > BASE
