"""Loading programs: every format, plain and compressed, and everything that can be wrong with them."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvirt.errors import LoadError
from pyvirt.images.loader import Loaded, Placement, identify, load_blob, load_dtb, load_initrd, load_program

BASE, SIZE = 0x8000_0000, 16 << 20


class Ram:
    """Guest RAM and the placement in it; refuses pieces over 1 MiB."""

    def __init__(self, size: int = SIZE) -> None:
        self.bytes = bytearray(size)
        self.placement = Placement(BASE, size)

    def write(self, pa: int, data: bytes) -> None:
        assert len(data) <= 1 << 20
        at = pa - BASE
        assert 0 <= at <= at + len(data) <= len(self.bytes)
        self.bytes[at : at + len(data)] = data

    def load(self, source: bytes | Path, **options: object) -> Loaded:
        return load_program(source, write=self.write, placement=self.placement, **options)  # type: ignore[arg-type]

    def refuses(self, source: bytes | Path, words: str, **options: object) -> None:
        ranges = self.placement.ranges
        with pytest.raises(LoadError, match=words):
            self.load(source, **options)
        assert self.placement.ranges == ranges
        assert self.bytes.count(0) == len(self.bytes)


def linux_image(
    body: bytes = b"kernel" * 1000,
    *,
    text_offset: int = 0x20_0000,
    image_size: int | None = None,
    magic2: bytes = b"RSC\x05",
    version: int = 2,
) -> bytes:
    size = 64 + len(body) if image_size is None else image_size
    return struct.pack("<IIQQQIIQ8s4sI", 0, 0, text_offset, size, 0, version, 0, 0, b"RISCV\0\0\0", magic2, 0) + body


def elf(
    segments: list[tuple[int, bytes, int]] | None = None,
    *,
    entry: int = BASE,
    symbols: dict[str, int] | None = None,
    vaddr_offset: int = 0,
    **fields: int,
) -> bytes:
    """Make an ELF64: segments are (paddr, data, memsz)."""
    segments = [(BASE, b"code" * 100, 500)] if segments is None else segments
    offset = 64 + 56 * len(segments)
    headers, data = b"", b""
    for paddr, content, memsz in segments:
        headers += struct.pack(
            "<IIQQQQQQ", 1, 5, offset + len(data), paddr + vaddr_offset, paddr, len(content), memsz, 4
        )
        data += content
    sections, shoff, shnum = b"", 0, 0
    if symbols:
        strtab = b"\0" + b"".join(name.encode() + b"\0" for name in symbols)
        symtab, at = bytes(24), 1
        for name, value in symbols.items():
            symtab += struct.pack("<IBBHQQ", at, 0x11, 0, 1, value, 8)
            at += len(name) + 1
        names = b"\0.symtab\0.strtab\0.shstrtab\0"
        start = offset + len(data)
        data += symtab + strtab + names
        shoff, shnum = offset + len(data), 4
        sections = bytes(64)
        for name, kind, pos, size, link, entsize in (
            (1, 2, start, len(symtab), 2, 24),
            (9, 3, start + len(symtab), len(strtab), 0, 0),
            (17, 3, start + len(symtab) + len(strtab), len(names), 0, 0),
        ):
            sections += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, pos, size, link, 1, 1, entsize)
    f = {"cls": 2, "order": 1, "kind": 2, "machine": 243, "phentsize": 56, **fields}
    ident = b"\x7fELF" + bytes([f["cls"], f["order"], 1]) + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        f["kind"],
        f["machine"],
        1,
        entry,
        64,
        shoff,
        0,
        64,
        f["phentsize"],
        len(segments),
        64,
        shnum,
        3 if shnum else 0,
    )
    return header + headers + data + sections


PACK = {
    "plain": lambda b: b,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "gzip members": lambda b: gzip.compress(b[:1000]) + bytes(7) + gzip.compress(b[1000:]) + bytes(512),
    "zstd frames": lambda b: zstandard.compress(b[:1000]) + zstandard.compress(b[1000:]),
}
packed = pytest.mark.parametrize("pack", PACK.values(), ids=PACK.keys())


@packed
def test_linux_image(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    image = linux_image(random.Random(1).randbytes(3 << 20), image_size=4 << 20)
    path = tmp_path / "Image"
    path.write_bytes(pack(image))
    ram = Ram()
    loaded = ram.load(path)
    assert (loaded.kind, loaded.entry, loaded.start, loaded.end) == (
        "linux",
        BASE + 0x20_0000,
        BASE + 0x20_0000,
        BASE + 0x60_0000,
    )
    assert ram.bytes[0x20_0000 : 0x20_0000 + len(image)] == image
    assert [str(r) for r in ram.placement.ranges] == ["Image 0x80200000..0x80600000"]
    assert identify(path) == "linux"


@packed
def test_elf(pack) -> None:  # type: ignore[no-untyped-def]
    source = pack(
        elf(
            [(BASE + 0x1000, b"text" * 600, 3000), (BASE + 0x10_0000, b"data", 0x1000)],
            entry=BASE + 0x1004,
            symbols={"tohost": BASE + 0x10_0000, "fromhost": BASE + 0x10_0040, "main": BASE + 0x1004},
        )
    )
    ram = Ram()
    loaded = ram.load(source, name="prog")
    assert (loaded.kind, loaded.entry, loaded.start, loaded.end) == (
        "elf",
        BASE + 0x1004,
        BASE + 0x1000,
        BASE + 0x10_1000,
    )
    assert (loaded.tohost, loaded.fromhost, loaded.symbols["main"]) == (
        BASE + 0x10_0000,
        BASE + 0x10_0040,
        BASE + 0x1004,
    )
    assert (ram.bytes[0x1000:0x1004], ram.bytes[0x10_0000:0x10_0004]) == (b"text", b"data")
    assert [r.name for r in ram.placement.ranges] == ["prog[0]", "prog[1]"]
    assert identify(source) == "elf"


@packed
def test_flat(pack) -> None:  # type: ignore[no-untyped-def]
    data = random.Random(3).randbytes(2_000_000)
    ram = Ram()
    loaded = ram.load(pack(data), at=BASE + 0x1000)
    assert (loaded.kind, loaded.entry, loaded.end) == ("flat", BASE + 0x1000, BASE + 0x1000 + len(data))
    assert ram.bytes[0x1000 : 0x1000 + len(data)] == data
    assert ram.load(b"\x13\0\0\0", at=BASE).symbols == {}


def test_elf_linked_at_virtual_addresses_enters_at_its_load_address() -> None:
    loaded = Ram().load(elf(entry=BASE + 8 + (1 << 40), vaddr_offset=1 << 40))
    assert loaded.entry == BASE + 8


def test_elf_without_symbols() -> None:
    loaded = Ram().load(elf())
    assert (loaded.symbols, loaded.tohost, loaded.fromhost) == ({}, None, None)


def test_overlaps_name_both_ranges() -> None:
    ram = Ram()
    ram.placement.reserve("firmware", BASE, 0x4_0000)
    ram.refuses(elf(), "program 0x80000000..0x800001f4 overlaps firmware 0x80000000..0x80040000")
    ram.refuses(b"flat", "program 0x80000000..0x80000004 overlaps firmware")
    ram.refuses(
        elf([(BASE + 0x4_0000, b"abc", 16), (BASE + 0x4_0008, b"abc", 16)], entry=BASE + 0x4_0000),
        r"program\[1\] 0x80040008..0x80040018 overlaps program\[0\] 0x80040000..0x80040010",
    )
    ram.placement.reserve("dtb", BASE + 0x22_0000, 0x1000)
    for pack in (bytes, gzip.compress, zstandard.compress):
        ram.refuses(
            pack(linux_image(image_size=1 << 20)), "program 0x80200000..0x80300000 overlaps dtb 0x80220000..0x80221000"
        )
        ram.refuses(
            pack(bytes(0x1_0000)),
            r"program 0x80218000..0x80228000.* overlaps dtb 0x80220000..0x80221000",
            at=BASE + 0x21_8000,
        )


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_bombs_are_refused_within_ram(pack) -> None:  # type: ignore[no-untyped-def]
    bomb = pack(bytes(64 << 20))
    assert len(bomb) < 1 << 20
    ram = Ram()
    ram.refuses(bomb, f"outside RAM 0x80000000..0x81000000; {SIZE} bytes are free there")
    ram.refuses(
        pack(elf() + bytes(64 << 20)), f"more than {SIZE} bytes when decompressed, expected no more than RAM has"
    )
    ram.refuses(pack(linux_image() + bytes(64 << 20)), "outside RAM")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "found an empty file, expected a program"),
        (gzip.compress(b""), "found an empty file"),
        (b"\xfd7zXZ\0" + bytes(99), "offset 0x0: found xz data, expected ELF, a Linux Image for RISC-V"),
        (b"BZh91AY&SY" + bytes(99), "found bzip2 data"),
        (b"MZ\0\0zimg" + bytes(99), "found an EFI zboot image"),
        (bytes(0x38) + b"ARM\x64" + bytes(99), "found a Linux Image for arm64"),
        (linux_image(magic2=b"nope"), "offset 0x38: found b'nope', expected b'RSC"),
        (linux_image(version=0x1_0000), r"offset 0x20: Image header version 1\.0, expected 0\.x"),
        (linux_image(text_offset=0x20_0001), "text_offset is 0x200001, expected a multiple of 0x1000"),
        (linux_image(text_offset=2**63), "text_offset is 0x8000000000000000"),
        (linux_image(image_size=2**64 - 1), "image_size is 0xffffffffffffffff, more than the RAM size 0x1000000"),
        (linux_image(text_offset=0x1000), "address is 0x80001000, expected a multiple of 0x200000"),
        (linux_image()[:60], "found 60 bytes, expected a Linux Image header of 64"),
        (linux_image(image_size=15 << 20), r"program 0x80200000..0x81100000 \(15728640 bytes\) is outside RAM"),
        (b"\x7fELF" + bytes(20), "found 24 bytes, expected an ELF header of 64"),
        (elf(cls=1), r"offset 4: ELF class is 1, expected 2 \(64-bit\)"),
        (elf(order=2), r"offset 5: byte order is 2, expected 1 \(little-endian\)"),
        (elf(kind=1), r"offset 16: e_type is 1, expected 2 \(ET_EXEC\) or 3 \(ET_DYN\)"),
        (elf(machine=62), r"offset 18: e_machine is 62, expected 243 \(EM_RISCV\)"),
        (elf(phentsize=32), "e_phentsize is 32, expected 56"),
        (elf([]), "found no PT_LOAD segment"),
        (elf(entry=BASE + 1), "entry is 0x80000001, expected an even address inside a segment"),
        (elf(entry=0x1000), "entry is 0x1000, expected"),
        (elf([(BASE, b"abcd", 2)]), "segment 0: p_filesz is 0x4, more than p_memsz 0x2"),
        (elf()[:-5], r"segment 0: file range 0x78..0x208 is past the end of the file, 0x203 \(truncated\)"),
        (
            elf([(BASE - 0x1000, b"abcd", 4)]),
            r"program 0x7ffff000..0x7ffff004 \(4 bytes\) is outside RAM 0x80000000..0x81000000",
        ),
        (elf([(2**64 - 8, b"abcd", 2**40)]), r"program 0xfffffffffffffff8..0x1000000fffffffff8 .* is outside RAM"),
        (gzip.compress(bytes(5000))[:-9], r"the gzip data ends after \d+ decompressed bytes.*truncated"),
        (gzip.compress(random.Random(5).randbytes(5000))[:3000], "truncated"),
        (gzip.compress(bytes(5000))[:-8] + b"badcrc!!", "near offset .*; expected intact gzip data"),
        (gzip.compress(bytes(500)) + b"garbage", "expected intact gzip data"),
        (zstandard.compress(random.Random(5).randbytes(5000))[:3000], r"the zstd data ends after \d+ .*truncated"),
        (zstandard.compress(bytes(500)) + b"garbage", "near offset .*; expected intact zstd data"),
        (zstandard.compress(bytes(500))[:4] + bytes(20), "zstd"),
    ],
)
def test_wrong_programs_are_refused_and_leave_nothing(source: bytes, words: str) -> None:
    Ram().refuses(source, f"program: .*{words}" if not words.startswith("program") else words)


def test_at_with_an_elf_is_refused() -> None:
    Ram().refuses(elf(), "at= is 0x80000000, but an ELF file has its own addresses", at=BASE)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    ram = Ram()
    ram.refuses(tmp_path / "none", "none: cannot be opened: No such file")
    ram.refuses(tmp_path, "cannot be opened: Is a directory")
    with pytest.raises(LoadError, match="none: cannot be opened"):
        load_initrd(tmp_path / "none", write=ram.write, placement=ram.placement)


def test_initrd_is_loaded_as_it_is_at_the_top(tmp_path: Path) -> None:
    for suffix, data in (
        (".cpio", b"070701" + bytes(5_000)),
        (".cpio.zst", zstandard.compress(bytes(3 << 20))),
        (".cpio.gz", random.Random(7).randbytes(2_500_000)),
    ):
        path = tmp_path / f"init{suffix}"
        path.write_bytes(data)
        ram = Ram()
        ram.placement.reserve("dtb", BASE + SIZE - 0x2000, 0x2000)
        taken = load_initrd(path, write=ram.write, placement=ram.placement)
        assert (taken.name, taken.start % 4096, taken.end - taken.start) == ("initrd", 0, len(data))
        assert BASE + SIZE - 0x2000 - len(data) - 4096 < taken.start
        assert ram.bytes[taken.start - BASE : taken.end - BASE] == data
        below = load_initrd(data, write=ram.write, placement=ram.placement, below=BASE + SIZE // 2)
        assert below.end <= BASE + SIZE // 2


def test_initrd_that_does_not_fit_or_is_empty() -> None:
    ram = Ram(1 << 20)
    ram.placement.reserve("kernel", BASE, 0x8_0000)
    with pytest.raises(
        LoadError, match=r"initrd: needs 600000 bytes in 0x80000000..0x80100000, the largest free .* 524288"
    ):
        load_initrd(bytes(600_000), write=ram.write, placement=ram.placement)
    with pytest.raises(LoadError, match="initrd: found an empty file"):
        load_initrd(b"", write=ram.write, placement=ram.placement)
    assert len(ram.placement.ranges) == 1


def test_blobs() -> None:
    ram = Ram()
    assert load_blob(b"abc", write=ram.write, placement=ram.placement, name="dtb", at=BASE + 16).start == BASE + 16
    taken = load_blob(b"abcdefgh!", write=ram.write, placement=ram.placement, name="dtb2", align=8)
    assert taken.start == BASE + SIZE - 16
    with pytest.raises(LoadError, match=r"dtb3 .* overlaps dtb "):
        load_blob(b"abc", write=ram.write, placement=ram.placement, name="dtb3", at=BASE + 17)


def test_a_device_tree_has_room_to_grow() -> None:
    ram = Ram()
    initrd = load_initrd(b"initrd", write=ram.write, placement=ram.placement)
    taken = load_dtb(b"tree" * 100, write=ram.write, placement=ram.placement, below=initrd.start)
    assert (taken.start % 4096, taken.end - taken.start) == (0, 400 + (64 << 10))
    assert taken.end <= initrd.start
    with pytest.raises(LoadError, match=r"dtb2 .* overlaps dtb "):
        load_dtb(b"tree", write=ram.write, placement=ram.placement, name="dtb2", at=taken.start + 16)


def test_a_failing_write_undoes_the_load() -> None:
    ram = Ram()
    calls = []

    def write(pa: int, data: bytes) -> None:
        calls.append(pa)
        if len(calls) == 3:
            raise MemoryError("quota")
        ram.write(pa, data)

    with pytest.raises(MemoryError, match="quota"):
        load_program(b"x" * (5 << 20), write=write, placement=ram.placement)
    assert ram.placement.ranges == ()
    assert ram.bytes.count(0) == len(ram.bytes)


def test_placement_finds_gaps() -> None:
    places = Placement(0x1000, 0x10000)
    places.reserve("a", 0x3000, 0x1000)
    places.reserve("b", 0x8000, 0x1000)
    assert places.room(0x1000) == (0x2000, places.ranges[0])
    assert places.room(0x3800)[0] == 0
    assert places.room(0x9000) == (0x8000, None)
    assert places.room(0) == (0, None)
    assert places.find("c", 0x2001).start == 0x4000
    assert places.find("d", 0x2000).start == 0x1000
    assert places.find("e", 0x100, top=True, below=0x9000).start == 0x7000
    assert places.find("f", 8, align=8, top=True).start == 0x10FF8
    assert places.find("g", 8, above=0x8100).start == 0x9000
    with pytest.raises(LoadError, match="h: needs 61440 bytes"):
        places.find("h", 0xF000)
    places.release(places.ranges[0])
    assert "d" not in [r.name for r in places.ranges]
    assert places.reserve("empty", 0x1000, 0) == ("empty", 0x1000, 0x1000)
    assert "empty" not in [r.name for r in places.ranges]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_mutation_of_an_elf_escapes(data: st.DataObject) -> None:
    good = bytearray(elf([(BASE, b"text" * 50, 300)], symbols={"tohost": BASE, "x" * 30: 5}))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.integers(0, 255))
    source = bytes(good[: data.draw(st.integers(0, len(good)))]) if data.draw(st.booleans()) else bytes(good)
    ram = Ram()
    try:
        loaded = ram.load(source)
    except LoadError:
        assert ram.placement.ranges == ()
        assert ram.bytes.count(0) == len(ram.bytes)
    else:
        assert BASE <= loaded.start <= loaded.end <= BASE + SIZE or loaded.kind == "flat"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(PACK)[:4]), st.integers(0, 5000), st.integers(0, 255), st.integers(0, 5000))
def test_no_mutation_of_a_compressed_file_escapes(kind: str, at: int, value: int, cut: int) -> None:
    source = bytearray(PACK[kind](linux_image(random.Random(1).randbytes(3000))))
    source[at % len(source)] = value
    ram = Ram()
    try:
        ram.load(bytes(source[: len(source) - cut % len(source)]))
    except LoadError:
        assert ram.placement.ranges == ()
        assert ram.bytes.count(0) == len(ram.bytes)
