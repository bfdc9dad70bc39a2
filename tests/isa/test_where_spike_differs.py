"""Rules that lock-step can't judge, because Spike does something else or has no such thing: held to the manual."""
from __future__ import annotations

import struct

from tests.lockstep.machines import PyvirtMachine

CBO_ZERO_T0 = 0x0042_A00F
NOP = 0x0000_0013


def machine(*words: int) -> PyvirtMachine:
    return PyvirtMachine(struct.pack(f"<{len(words)}I", *words), ram=1 << 16)


def test_cbo_zero_needs_all_of_its_block() -> None:
    """A block that PMP opens in part is left alone, and tval is rs1 (manual, "CMO"; Spike stores a part)."""
    m = machine(CBO_ZERO_T0)
    m.core.mem_write(0x8000_1000, b"\xff" * 64)
    m.csr_write(0x3B0, 0x8000_1020 >> 2)
    m.csr_write(0x3A0, 0x0F)  # TOR, all permissions, up to the middle of the block
    m.csr_write(0x30A, 0xF0)
    m.set_x(5, 0x8000_1004)
    m.hart.priv = 1
    m.advance(1)
    assert (m.csr_read(0x342), m.csr_read(0x343), m.priv()) == (7, 0x8000_1004, 3)
    assert m.read(0x8000_1000, 64) == b"\xff" * 64


def test_cbo_zero_reports_its_operand() -> None:
    m = machine(CBO_ZERO_T0)
    m.set_x(5, 0x4000_0027)
    m.advance(1)
    assert (m.csr_read(0x342), m.csr_read(0x343)) == (7, 0x4000_0027)


def test_a_store_over_two_pages_is_done_whole_or_not_at_all() -> None:
    """The second page is not there (the manual leaves open what happens to the first part; here it is left alone)."""
    m = machine(0x0062_B023)  # sd t1, 0(t0)
    last = 0x8000_FFFC
    m.set_x(5, last)
    m.set_x(6, (1 << 64) - 1)
    m.advance(1)
    assert (m.csr_read(0x342), m.csr_read(0x343)) == (7, 0x8001_0000)
    assert m.read(last, 4) == bytes(4)


def test_looking_at_csrs_moves_no_flags_of_the_host() -> None:
    m = machine(NOP, NOP)
    m.csr_write(0x300, 0x2000)
    third = sum(0.1 for _ in range(3)) / 7  # inexact on the host
    assert third
    for number in (0x300, 0x001, 0x003, 0x100):
        m.csr_read(number)
    m.advance(1)
    assert m.csr_read(0x001) == 0
    assert m.csr_read(0x300) & 0x6000 == 0x2000
