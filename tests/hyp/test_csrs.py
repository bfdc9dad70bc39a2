"""Hypervisor CSRs where no oracle decides: rules the manual leaves open or that once went wrong."""
from __future__ import annotations

import pytest

from tests.support import EXTS, VARIANTS, Bare, Variant

H = EXTS | 1 << 19
VSATP, HSTATUS, HENVCFG, MENVCFG, MSTATUS, VSSTATUS = 0x280, 0x600, 0x60A, 0x30A, 0x300, 0x200
FS = 0x6000


def guest(text: str, *, priv: int = 1, variant: Variant = VARIANTS[0], **csrs: int) -> Bare:
    """Return a machine in VS or VU, without translation, at the first instruction; everything traps to M."""
    bare = Bare(text, exts=H, variant=variant)
    bare.open_pmp()
    bare.set(csr_305=0x8000_8000, **csrs)
    bare.hart.priv = priv
    bare.hart.virt = 1
    return bare


def step(bare: Bare, n: int = 1) -> int:
    """Run n instructions and return mcause."""
    assert bare.core.run(bare.core.icount + n) == "limit"
    return bare.hart.csr_read(0x342)


@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("guest_fs", [0x2000, 0x4000])
@pytest.mark.parametrize("host_fs", [0x2000, 0x4000, 0x6000])
def test_a_guest_dirties_both_fs_fields(core: str, guest_fs: int, host_fs: int) -> None:
    bare = guest("fmv.d.x f1, x0", variant=Variant(core=core), csr_300=host_fs, csr_200=guest_fs)
    assert step(bare) == 0
    assert bare.hart.csr_read(MSTATUS) & FS == FS
    assert bare.hart.csr_read(VSSTATUS) & FS == FS


def test_vsatp_keeps_its_mode_when_a_mode_is_not_offered() -> None:
    bare = Bare(exts=H)
    bare.set(csr_280=8 << 60 | 5)
    bare.set(csr_280=7 << 60 | 9)
    assert bare.hart.csr_read(VSATP) == 8 << 60 | 9


def test_a_guest_write_of_satp_with_such_a_mode_has_no_effect() -> None:
    bare = guest("csrw satp, a0", csr_280=5)
    bare.set(a0=7 << 60 | 9)
    assert step(bare) == 0
    assert bare.hart.csr_read(VSATP) == 5


def test_henvcfg_bits_that_menvcfg_hides_are_not_written() -> None:
    bare = Bare(exts=H)
    bare.set(csr_30a=3 << 61, csr_60a=1 << 61)
    bare.set(csr_30a=0, csr_60a=1 << 62)
    assert bare.hart.csr_read(HENVCFG) == 0
    bare.set(csr_30a=3 << 61)
    assert bare.hart.csr_read(HENVCFG) == 1 << 61


def test_csrs_are_read_and_written_from_outside_as_by_machine_mode() -> None:
    bare = guest("nop", csr_280=8 << 60 | 5, csr_600=1 << 20)  # VTVM keeps satp from the guest
    bare.hart.csr_write(0x142, 7)
    assert bare.hart.csr_read(VSATP) == 8 << 60 | 5
    assert bare.hart.csr_read(0x142) == 7
    assert bare.hart.csr_read(0x242) == 0


@pytest.mark.parametrize("number", [0x30A, 0x60A, 0x10A])
def test_the_reserved_value_of_cbie_reads_zero(number: int) -> None:
    bare = Bare(exts=H)
    bare.hart.csr_write(number, 0xF0)
    bare.hart.csr_write(number, 0xE0)
    assert bare.hart.csr_read(number) == 0xC0
