"""`pyvirt pull`: sources read, packages fetched from an archive made here, a cache that survives being killed."""
from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pyvirt
from pyvirt.errors import ConfigError, HostError, LoadError
from pyvirt.fetch import _apt, _initramfs, pull
from tests import needs

DEB822 = """\
# a comment
Types: deb deb-src
URIs: https://one.example/debian https://two.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINB
# inside
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: https://one.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: https://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: https://source.example/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
# deb http://off.example/debian bookworm main
deb http://plain.example/debian bookworm main contrib # trailing
deb [ arch=amd64,arm64 signed-by=/usr/share/keyrings/x.gpg trusted=yes ] https://opts.example/debian/ trixie main
deb-src http://src.example/debian bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb http://flat.example/apt ./
"""


def test_deb822_sources() -> None:
    found = list(_apt.parse_deb822(DEB822))
    uris = ["https://one.example/debian", "https://two.example/debian", "https://one.example/debian-security"]
    assert [s.uri for s in found] == uris
    assert found[0].suites == ("bookworm", "bookworm-updates")
    assert found[0].components == ("main", "contrib")
    assert found[0].options["Signed-By"].splitlines()[0] == ""
    assert found[0].options["Signed-By"].splitlines()[-1] == " -----END PGP PUBLIC KEY BLOCK-----"
    assert "inside" not in found[0].options["Signed-By"]


def test_one_line_sources() -> None:
    found = list(_apt.parse_one_line(ONE_LINE))
    assert [s.uri for s in found[:2]] == ["http://plain.example/debian", "https://opts.example/debian/"]
    assert found[0].components == ("main", "contrib")
    assert found[1].options == {"Signed-By": "/usr/share/keyrings/x.gpg", "Trusted": "yes"}
    assert found[1].suites == ("trixie",)


def test_candidates_are_whole_archives_once_each() -> None:
    found = _apt.candidates([*_apt.parse_deb822(DEB822), *_apt.parse_one_line(ONE_LINE)])
    assert [s.uri for s in found] == [
        "https://one.example/debian",
        "https://two.example/debian",
        "http://plain.example/debian",
        "https://opts.example/debian/",
    ]


def test_without_apt_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYVIRT_CACHE", str(tmp_path))
    with pytest.raises(HostError, match=r"found no apt-get.*apt-get install apt.*--kernel FILE --initrd FILE"):
        pull.pull()


@pytest.mark.parametrize("name", ["", "a", "Python3", "../x", "x y", "-x", "x;y"])
def test_a_wrong_package_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pull.pull([name])
    assert repr(name) in str(caught.value)
    assert "lower-case letters" in str(caught.value)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVIRT_CACHE", "/a")
    assert pull.cache_dir() == Path("/a")
    monkeypatch.delenv("PYVIRT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert pull.cache_dir() == Path("/b/pyvirt")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert pull.cache_dir() == Path("/c/.cache/pyvirt")


def read_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive back: {name: (mode, body)}."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + numbers[11] - 1].decode()
        at = (at + 110 + numbers[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (numbers[1], data[at : at + numbers[6]])
        at = (at + numbers[6] + 3) & ~3


def test_the_archive_lists_folders_before_what_is_in_them() -> None:
    archive = _initramfs.Archive()
    archive.file("a/b/c.txt", b"12345", 0o600)
    archive.link("a/l", "b/c.txt")
    archive.char("dev/console", 5, 1)
    found = read_cpio(archive.bytes())
    assert list(found) == ["a", "a/b", "a/b/c.txt", "a/l", "dev", "dev/console"]
    assert found["a/b/c.txt"] == (0o100600, b"12345")
    assert found["a/l"] == (0o120777, b"b/c.txt")
    assert found["dev/console"][0] == 0o020600
    assert len(archive.bytes()) % 512 == 0


def module(depends: str, body: bytes = b"") -> bytes:
    """Make a kernel module as small as can be: an ELF with a .modinfo section, xz-compressed, signed."""
    info = b"license=GPL\0depends=" + depends.encode() + b"\0" + body
    names = b"\0.modinfo\0.shstrtab\0"
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 243, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 2)
    at = 64 + 3 * 64
    sections = struct.pack("<IIQQQQIIQQ", *[0] * 10)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, at, len(info), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, at + len(info), len(names), 0, 0, 1, 0)
    signature = b"S" * 50 + struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, 50) + b"~Module signature appended~\n"
    return lzma.compress(header + sections + info + names + signature)


def test_modules_lose_their_signature_and_bring_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "ext4.ko.xz").write_bytes(module("jbd2,crc-16"))
    (tmp_path / "jbd2.ko.xz").write_bytes(module("crc-16"))
    (tmp_path / "crc-16.ko.xz").write_bytes(module(""))
    (tmp_path / "other.ko.xz").write_bytes(module(""))
    found = _initramfs.closure(tmp_path, ["ext4", "built_in"])
    direct = {name: wants for name, (_, wants) in found.items()}
    assert direct == {"ext4": ["jbd2", "crc_16"], "jbd2": ["crc_16"], "crc_16": []}
    assert not any(b"signature" in body or b"SSS" in body for body, _ in found.values())
    made = read_cpio(_initramfs.build(b"busybox", "7.2.0", found))
    assert made["lib/modules/7.2.0/modules.dep"][1].decode().splitlines() == [
        "crc_16.ko:",
        "ext4.ko: jbd2.ko crc_16.ko",
        "jbd2.ko: crc_16.ko",
    ]
    assert b"GUEST-INIT-OK" in made["init"][1]


def test_a_module_that_lies_about_its_signature_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.ko"
    path.write_bytes(b"x" * 20 + struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, 5000) + b"~Module signature appended~\n")
    with pytest.raises(LoadError, match=r"bad\.ko.*5000 bytes of the 20"):
        _initramfs.read_module(path)


class Archive:
    """A Debian archive on disk, with packages shaped like the real ones, served to apt by its `copy:` method."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.packages: list[str] = []

    def add(self, name: str, version: str, files: dict[str, bytes], depends: str = "") -> None:
        tree = self.root / "trees" / name
        for path, body in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(body)
            (tree / path).chmod(0o755)
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: riscv64\nMaintainer: x <x@x>\nDescription: x\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN" / "control").write_text(control)
        deb = self.root / "pool" / f"{name}_{version.replace(':', '%3a')}_riscv64.deb"
        deb.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, deb], check=True, capture_output=True)
        data = deb.read_bytes()
        listed = f"Filename: pool/{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        self.packages.append(control + listed)

    def publish(self, suite: str) -> None:
        folder = self.root / "dists" / suite
        index = "\n".join(self.packages).encode()
        lines = [f"Suite: {suite}", f"Codename: {suite}", "Architectures: riscv64", "Components: main"]
        lines += ["Date: Thu, 01 Jan 2026 00:00:00 UTC", "SHA256:"]
        for name, data in (("Packages", index), ("Packages.gz", gzip.compress(index, mtime=0))):
            path = folder / "main" / "binary-riscv64" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-riscv64/{name}")
        (folder / "Release").write_text("\n".join([*lines, ""]))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    for tool in _apt.TOOLS:
        needs.need_program("apt", tool)
    made = Archive(tmp_path / "archive")
    tree = "usr/lib/modules/7.2.0-riscv64"
    made.add("linux-image-riscv64", "7.2.0-1", {}, "linux-image-7.2.0-riscv64 (= 7.2.0-1)")
    made.add("linux-image-7.2.0-riscv64", "7.2.0-1", {}, "linux-binary-7.2.0-riscv64, linux-modules-7.2.0-riscv64")
    made.add("linux-binary-7.2.0-riscv64", "7.2.0-1", {f"{tree}/vmlinuz": b"a kernel" * 1000})
    modules = {f"{tree}/kernel/{n}.ko.xz": module("") for n in _initramfs.MODULES}
    made.add("linux-modules-7.2.0-riscv64", "7.2.0-1", modules)
    made.add("busybox-static", "1:1.38-1", {"usr/bin/busybox": b"a shell"})
    made.add("opensbi", "1.9-1", {pull.FIRMWARE: b"firmware"})
    made.add("libhello", "2:1.0-1", {"usr/lib/libhello.so": b"library"})
    made.add("hello", "3.0", {"usr/bin/hello": b"hello"}, "libhello (>= 2:0.5)")
    made.publish("sid")
    source = _apt.Source(f"copy:{made.root}", (), ("main",), {"Trusted": "yes"})
    monkeypatch.setattr(pull, "host_sources", lambda: [source])
    monkeypatch.setenv("PYVIRT_CACHE", str(tmp_path / "cache"))
    return made


def test_a_pull_names_the_suite_it_used_and_is_cached(archive: Archive) -> None:
    said: list[str] = []
    made = pull.pull(say=said.append)
    assert made.kernel.read_bytes() == b"a kernel" * 1000
    assert made.opensbi.read_bytes() == b"firmware"
    assert made.suite == "sid"
    assert made.release == "7.2.0-riscv64"
    assert made.versions["busybox-static"] == "1:1.38-1"
    assert made.rootfs is None
    assert made.cmdline == "console=ttyS0 cryptomgr.notests"
    assert any("forky" in line and "can't be used" in line for line in said)
    assert "lib/modules/7.2.0-riscv64/virtio_blk.ko" in read_cpio(made.initrd.read_bytes())
    assert made.checksums["opensbi"] == hashlib.sha256(b"firmware").hexdigest()
    archive.root.rename(archive.root.with_name("gone"))  # nothing can be downloaded any more
    assert pull.pull() == made
    assert pull.cached() == made


def test_packages_become_a_root_file_system(archive: Archive) -> None:
    needs.need_program("e2fsprogs", "mke2fs")
    check = needs.need_program("e2fsprogs", "e2fsck")
    debugfs = needs.need_program("e2fsprogs", "debugfs")
    base = pull.pull()
    made = pull.pull(["hello"])
    assert made.rootfs is not None
    assert made.versions["libhello"] == "2:1.0-1"
    assert made.cmdline.endswith(" root=/dev/vda")
    assert subprocess.run([check, "-fn", made.rootfs], capture_output=True, check=False).returncode == 0
    for path, body in (("/usr/bin/hello", b"hello"), ("/lib/libhello.so", b"library")):
        shown = subprocess.run([debugfs, "-R", f"cat {path}", made.rootfs], capture_output=True, check=True).stdout
        assert shown == body
    assert pull.cached() == made
    assert pull.cached([]) == base
    assert pull.pull() == base
    assert pull.cached() == base, "the one pulled last is the one that runs"


def test_a_root_with_qemu_has_modules_and_a_guest(archive: Archive) -> None:
    needs.need_program("e2fsprogs", "mke2fs")
    debugfs = needs.need_program("e2fsprogs", "debugfs")

    def cat(path: str, image: Path | None) -> bytes:
        assert image is not None
        return subprocess.run([debugfs, "-R", f"cat {path}", image], capture_output=True, check=True).stdout

    archive.add("qemu-system-riscv", "1:11.0", {pull.VMM: b"qemu"})
    archive.publish("sid")
    made = pull.pull(["qemu-system-riscv"])
    assert cat("/guest/Image", made.rootfs) == made.kernel.read_bytes()
    assert not any(name.endswith(".ko") for name in read_cpio(cat("/guest/initrd", made.rootfs)))
    assert b"-accel kvm" in cat("/guest/boot", made.rootfs)
    assert b"run=poweroff" in cat("/guest/once", made.rootfs)
    listed = cat("/usr/lib/modules/7.2.0-riscv64/modules.dep", made.rootfs)
    assert {line.partition(b":")[0] for line in listed.splitlines()} == {f"{n}.ko".encode() for n in _initramfs.MODULES}
    assert cat("/usr/lib/modules/7.2.0-riscv64/kvm.ko", made.rootfs)
    assert not cat("/guest/Image", pull.pull(["hello"]).rootfs), "there is nothing in it to start a guest with"


def test_equal_packages_give_an_equal_initramfs(archive: Archive) -> None:
    first = pull.pull()
    assert pull.pull(refresh=True).checksums == first.checksums


def test_a_damaged_cache_is_made_again(archive: Archive) -> None:
    made = pull.pull()
    made.kernel.write_bytes(b"a kernel" * 999 + b"damaged!")
    said: list[str] = []
    again = pull.pull(say=said.append)
    assert "kernel does not have its checksum" in said[0]
    assert again.kernel.read_bytes() == b"a kernel" * 1000


def test_every_failed_suite_is_named(archive: Archive) -> None:
    with pytest.raises(HostError) as caught:
        pull.pull(["nosuch"])
    message = str(caught.value)
    assert "nosuch" in message
    for suite in pull.SUITES:
        assert f"suite {suite} of copy:" in message
    assert pull.cached() is None


@pytest.mark.slow
def test_killed_anywhere_it_leaves_a_usable_cache(archive: Archive, tmp_path: Path) -> None:
    good = pull.pull()
    code = f"""
import sys
sys.path.insert(0, {str(Path(pyvirt.__file__).parent.parent)!r})
from pyvirt.fetch import _apt
from pyvirt.fetch import pull
source = _apt.Source("copy:{archive.root}", (), ("main",), {{"Trusted": "yes"}})
pull.host_sources = lambda: [source]
pull.pull(["hello"], refresh=True)
"""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    whole = time.monotonic() - begin
    for part in range(8):
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        time.sleep(whole * (part + 0.5) / 8)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = pull.cached([])
        assert found == good
        assert pull.damaged(good) is None
        with_hello = pull.cached(["hello"])
        assert with_hello is not None
        assert pull.damaged(with_hello) is None
    pull.pull(["hello"], refresh=True)
    assert not list((tmp_path / "cache" / "debian").glob("new-*"))
