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


def test_bits_that_menvcfg_and_mstateen_hide_survive_in_a_state() -> None:
    bare = Bare(exts=H | 1 << 28)
    bare.set(csr_30a=1 << 61, csr_60a=1 << 61, csr_30c=3 << 62, csr_60c=3 << 62)
    bare.set(csr_30a=0, csr_30c=0)
    assert bare.hart.csr_read(HENVCFG) == bare.hart.csr_read(0x60C) == 0
    bare.core.state = bare.core.state
    bare.set(csr_30a=1 << 61, csr_30c=3 << 62)
    assert bare.hart.csr_read(HENVCFG) == 1 << 61
    assert bare.hart.csr_read(0x60C) == 3 << 62


def test_state_enables_are_there_only_with_the_extension() -> None:
    bare = Bare(exts=H)
    for number in (0x30C, 0x60F, 0x10D):
        with pytest.raises(KeyError):
            bare.hart.csr_read(number)


@pytest.mark.parametrize("n", range(4))
def test_state_enables_hold_what_there_is_to_enable(n: int) -> None:
    bare = Bare(exts=H | 1 << 28)
    mask = 3 << 62 if n == 0 else 1 << 63  # SE0, and ENVCFG in the first
    every = (1 << 64) - 1
    assert bare.hart.csr_read(0x30C + n) == 0
    bare.hart.csr_write(0x60C + n, every)
    assert bare.hart.csr_read(0x60C + n) == 0
    bare.hart.csr_write(0x30C + n, every)
    bare.hart.csr_write(0x60C + n, every)
    bare.hart.csr_write(0x10C + n, every)
    assert [bare.hart.csr_read(c + n) for c in (0x30C, 0x60C, 0x10C)] == [mask, mask, 0]


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("text", ["csrr a0, senvcfg", "csrr a0, henvcfg", "csrr a0, sstateen2", "csrw hstateen1, x0"])
def test_state_that_machine_mode_keeps_is_illegal_in_hs(text: str, enabled: bool) -> None:
    bare = Bare(text, exts=H | 1 << 28)
    bare.open_pmp()
    bare.set(csr_305=0x8000_8000)
    for n in range(4):
        bare.hart.csr_write(0x30C + n, ((1 << 64) - 1) * enabled)
    bare.hart.priv = 1
    assert step(bare) == (0 if enabled else 2)


def test_the_fields_of_hstatus() -> None:
    """What can be written, what is fixed, what is reserved: VSXL is 64 bits, VSBE little-endian, HUPMM not there."""
    bare = Bare(exts=H, geilen=5)
    every = (1 << 64) - 1
    bare.hart.csr_write(HSTATUS, every)
    writable = sum(1 << bit for bit in (6, 7, 8, 9, 20, 21, 22))  # GVA, SPV, SPVP, HU, VTVM, VTW, VTSR
    vsxl = 2 << 32
    assert bare.hart.csr_read(HSTATUS) == writable | vsxl  # 63 is no line of the five, and VGEIN keeps its 0
    for vgein, found in ((5, 5), (6, 5), (1, 1), (63, 1), (0, 0)):
        bare.hart.csr_write(HSTATUS, vgein << 12)
        assert bare.hart.csr_read(HSTATUS) == vsxl | found << 12
    for bit in (*range(6), 10, 11, 18, 19, *range(23, 32), *range(34, 64)):
        bare.hart.csr_write(HSTATUS, 1 << bit)
        assert bare.hart.csr_read(HSTATUS) == vsxl, bit


def test_pending_and_enabled_interrupts_of_guests_have_many_names() -> None:
    """hvip, hip and mip share VSSIP; hie and mie are one register, vsie and vsip show what of it is delegated."""
    bare = Bare(exts=H)
    read, write = bare.hart.csr_read, bare.hart.csr_write
    mie, mip, hie, hip, hvip, hideleg, vsie, vsip = 0x304, 0x344, 0x604, 0x644, 0x645, 0x603, 0x204, 0x244
    every = (1 << 64) - 1
    for target, seen in ((hvip, 0x444), (hip, 4), (mip, 4)):
        write(hvip, 0)
        write(target, every)
        assert read(hvip) == read(hip) & 0x444 == read(mip) & 0x444 == seen
    write(hvip, 0x444)
    for delegated in (0, 4, 0x440, 0x444):
        write(hideleg, delegated)
        assert read(vsip) == delegated >> 1
        write(mie, 0)
        write(vsie, every)
        assert read(hie) == read(mie) == delegated
        write(hie, 0x1444)
        assert (read(mie), read(vsie)) == (0x1444, delegated >> 1)
    write(hideleg, 4)
    write(vsip, 0)
    assert read(hvip) == 0x440  # VSSIP alone is the guest's to clear
    assert read(0x303) & 0x1444 == 0x1444  # mideleg: always delegated to HS


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_fiom_is_kept_and_orders_nothing_that_was_not_in_order(core: str) -> None:
    """FIOM makes fences order more; every access here is in order, so fences and atomics only have to go on."""
    text = "fence i, o\n fence r, w\n fence.tso\n amoadd.w.aqrl a1, a2, (a0)\n lr.w.aq a1, (a0)"
    for priv, virt in ((1, 0), (0, 0), (1, 1), (0, 1)):
        bare = Bare(text, exts=H, variant=Variant(core=core))
        bare.open_pmp()
        bare.set(csr_30a=1, csr_60a=1, csr_10a=1, a0=0x8001_0000)
        assert [bare.hart.csr_read(n) & 1 for n in (0x30A, 0x60A, 0x10A)] == [1, 1, 1]
        bare.hart.priv, bare.hart.virt = priv, virt
        assert bare.core.run(5) == "limit"
        assert (bare.hart.pc, bare.hart.priv, bare.hart.virt) == (0x8000_0000 + 20, priv, virt)
