"""Pages under several addresses, and frames that are replaced when they are shared (rule 9)."""
from __future__ import annotations

import pytest

from pyvirt.assembly.asm import asm
from tests.support import BASE, HANDLER, RWX, VARIANTS, Bare, PageTables, V, Variant, pte, run, same

ONE, TWO, PAGE, OTHER = 0x40_0000, 0x4123_4000, BASE + 0x8000, BASE + 0x9000


def machine(variant: Variant, body: str, *, sv: int = 39) -> tuple[Bare, PageTables]:
    """Return a machine in S-mode at `start`, with PAGE mapped at ONE and TWO."""
    bare = Bare(f"j start\n{HANDLER}\nstart:\n{body}\n ecall", variant=variant)
    tables = PageTables(bare, sv=sv, start=BASE + 0x8_0000)
    tables.map(BASE, BASE, RWX, level=2)
    for va in (ONE, TWO):
        tables.map(va, PAGE)
    bare.supervisor(tables.satp(), bare.symbols["start"])
    bare.set(s2=ONE, s3=TWO, s4=PAGE)
    return bare, tables


def test_read_by_one_write_by_the_other() -> None:
    body = """
        li s1, 500
    1:  ld a0, 8(s2)
        addi a0, a0, 1
        sd a0, 8(s3)
        ld a1, 8(s4)
        add a2, a2, a1
        sw s1, 10(s4)
        lhu a3, 8(s2)
        add a2, a2, a3
        addi s1, s1, -1
        bnez s1, 1b
    """
    bare = same(lambda v: machine(v, body)[0])
    assert bare.u64(PAGE + 8) & 0xFFFF == 500


def test_sharing_at_every_instruction() -> None:
    # Reads, writes, fetches, links and page tables of frames that become shared at each point of the run.
    body = """
        li s1, 4
    1:  ld a0, 0x800(s2)
        addi a0, a0, 1
        sd a0, 0x800(s3)
        jalr ra, s2
        sw t1, 0(s4)
        jalr ra, s3
        addi t1, t1, 256
        slli t1, t1, 0
        sd t2, 0(t3)
        ld a4, 0(s5)
        add a2, a2, a4
        sd t4, 0(t3)
        ld a4, 0(s5)
        add a2, a2, a4
        addi s1, s1, -1
        bnez s1, 1b
    """.replace("0x800", "0x400")

    def make(variant: Variant) -> Bare:
        bare, tables = machine(variant, body)
        bare.core.mem_write(PAGE, asm("addi a1, a1, 1\n addi a1, a1, 2\n ret"))
        slot = tables.map(0x60_0000, PAGE)
        bare.u64(OTHER, 77)
        bare.u64(PAGE + 0x600, 5)
        bare.set(s5=0x60_0000, t3=slot, t2=pte(OTHER, RWX), t4=pte(PAGE, RWX))
        bare.set(t1=int.from_bytes(asm("addi a1, a1, 8"), "little"))
        return bare

    plain = make(Variant())
    assert plain.core.run(10_000) == "idle"
    for variant in (Variant(), Variant(core="switch"), Variant(tlb_limit=2)):
        for at in range(1, plain.core.icount):
            bare = make(variant)
            bare.core.run(at)
            root = bare.ram.share()
            held = root.digest()
            assert bare.core.run(10_000) == "idle"
            assert bare.digest() == plain.digest(), at
            assert root.digest() == held


def test_sharing_after_every_instruction_of_a_run() -> None:
    body = """
        li s1, 30
    1:  sd s1, 0x400(s2)
        ld a0, 0x400(s3)
        add a1, a1, a0
        sw t1, 0(t0)
    target:
        addi a2, a2, 1
        addi s1, s1, -1
        bnez s1, 1b
    """

    def make(variant: Variant) -> Bare:
        bare, _ = machine(variant, body)
        bare.set(t0=bare.symbols["target"], t1=int.from_bytes(asm("addi a2, a2, 2"), "little"))
        return bare

    plain = make(Variant())
    assert plain.core.run(10_000) == "idle"
    assert (plain.x("a1"), plain.x("a2")) == (30 * 31 // 2, 60)
    for variant in (Variant(), Variant(core="switch")):
        bare, roots = make(variant), []
        while bare.core.run(bare.core.icount + 1) == "limit":
            roots = [*roots[-2:], bare.ram.share()]
        assert bare.digest() == plain.digest()


def test_roots_keep_the_moment_they_were_taken() -> None:
    bare, _ = machine(Variant(), "li s1, 1000\n 1: sd s1, 0x400(s2)\n sd s1, 0x408(s3)\n addi s1, s1, -1\n bnez s1, 1b")
    seen = []
    while bare.core.run(bare.core.icount + 97) == "limit":
        root = bare.ram.share()
        seen.append((root, bare.core.mem_read(PAGE + 0x400, 16), bare.ram.digest()))
    for root, data, digest in seen:
        assert root.read(PAGE + 0x400, 16) == data
        assert root.digest() == digest


@pytest.mark.parametrize("sv", [39, 48, 57])
def test_one_table_in_two_places_and_two_address_spaces(sv: int) -> None:
    # The leaf table that maps ONE also serves 1 GiB higher, in another root and under another ASID.
    body = """
        li s1, 40
    1:  ld a0, 0(s5)
        add a1, a1, a0
        ld a0, 0(s6)
        add a1, a1, a0
        csrw satp, s8
        ld a0, 0(s5)
        add a1, a1, a0
        andi t2, s1, 1
        beqz t2, 2f
        sd t3, 0(s9)
        j 3f
    2:  sd t4, 0(s9)
    3:  ld a0, 0(s6)
        slli a0, a0, 8
        add a1, a1, a0
        csrw satp, s7
        addi s1, s1, -1
        bnez s1, 1b
    """

    def make(variant: Variant) -> Bare:
        bare, tables = machine(variant, body, sv=sv)
        high = ONE + (1 << 30)
        bare.u64(tables.slot(high, 1), bare.u64(tables.slot(ONE, 1)))
        second = tables.page()
        top = tables.levels - 1
        tables.map(BASE, BASE, RWX, level=2, root=second)
        for va in (ONE, high):
            bare.u64(tables.slot(va, 1, root=second), bare.u64(tables.slot(ONE, 1)))
        assert top
        bare.u64(PAGE, 3)
        bare.u64(OTHER, 4)
        bare.set(s5=ONE, s6=high, s7=tables.satp(asid=1), s8=tables.satp(asid=2, root=second), s9=tables.slot(ONE))
        bare.set(t3=pte(OTHER, RWX), t4=pte(PAGE, RWX), csr_180=tables.satp(asid=1))
        bare.hart.priv = 1
        return bare

    bare = same(make)
    total, now = 0, 3
    for k in range(40, 0, -1):
        total += 3 * now
        now = 4 if k & 1 else 3
        total += now << 8
    assert bare.x("a1") == total


def test_table_that_becomes_data_and_back() -> None:
    # A page serves as a leaf table, is then written 300 times as data, and serves again.
    body = """
        li s1, 6
    1:  ld a0, 0(s5)
        add a1, a1, a0
        li t0, 300
        mv t1, s9
    2:  sd x0, 8(t1)
        addi t1, t1, 8
        addi t0, t0, -1
        bnez t0, 2b
        ld a0, 0(s5)
        add a1, a1, a0
        sd t3, 0(s9)
        ld a0, 0(s5)
        add a1, a1, a0
        sd t4, 0(s9)
        ld a0, 0(s5)
        add a1, a1, a0
        sd x0, 0(s9)
        ld a0, 0(s5)
        add a1, a1, a0
        sd t4, 0(s9)
        addi s1, s1, -1
        bnez s1, 1b
    """

    def make(variant: Variant) -> Bare:
        bare, tables = machine(variant, body)
        at = tables.map(0x4060_0000, PAGE)  # alone in its leaf table
        bare.u64(PAGE, 3)
        bare.u64(OTHER, 4)
        bare.set(s5=0x4060_0000, s9=at, t3=pte(OTHER, RWX), t4=pte(PAGE, RWX))
        return bare

    bare = same(make)
    fault = 13 | 0x4060_0000 << 8
    assert bare.x("a1") == 6 * (3 + 3 + 4 + 3 + fault)


def test_entries_changed_from_outside_between_slices() -> None:
    for variant in VARIANTS:
        bare, tables = machine(variant, "1: ld a0, 0(s5)\n add a1, a1, a0\n j 1b")
        slot = tables.map(0x60_0000, PAGE)
        bare.u64(PAGE, 1)
        bare.u64(OTHER, 1 << 32)
        bare.set(s5=0x60_0000)
        for k in range(60):
            bare.u64(slot, pte(OTHER if k & 1 else PAGE, RWX))
            run(bare, Variant(core=variant.core), bare.core.icount + 30)
        assert (bare.x("a1") >> 32, bare.x("a1") & 0xFFFF_FFFF) == (300, 300)


def test_entry_without_permission_to_run_what_runs() -> None:
    for variant in VARIANTS:
        bare, tables = machine(variant, "j start")
        bare.core.mem_write(PAGE, asm("1: addi a1, a1, 1\n j 1b"))
        bare.hart.pc = ONE
        bare.core.run(101)
        assert bare.x("a1") == 51
        bare.u64(tables.slot(ONE), pte(PAGE, V))
        bare.set(csr_305=bare.symbols["halt"])
        assert bare.core.run(1000) == "idle"
        assert (bare.x("a1"), bare.hart.csr_read(0x342), bare.hart.csr_read(0x343)) == (51, 12, ONE + 4)
