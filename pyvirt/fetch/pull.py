"""`pyvirt pull debian`: an unmodified Debian kernel, firmware and userland, through the host's own apt.

Owns the cache (`$PYVIRT_CACHE`, else `$XDG_CACHE_HOME/pyvirt`, else `~/.cache/pyvirt`). A pull is built aside and moved
into place whole, with a manifest of versions and checksums: what is in `builds/` is complete, whenever the process was
killed.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pyvirt.errors import ConfigError, HostError, LoadError
from pyvirt.fetch import _initramfs
from pyvirt.fetch._apt import Apt, Source, host_sources, need_tools, unpack

SUITES = ("forky", "sid", "trixie")
FORMAT = 2  # of the manifest and of what a build holds; a build of another format is made anew
KERNEL = "linux-image-riscv64"  # only names the newest kernel package
BASE = ("busybox-static", "opensbi")
FIRMWARE = "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"
FILES = ("kernel", "initrd", "opensbi")
VMM = "usr/bin/qemu-system-riscv64"  # a root file system that has it also gets a guest to boot in it
Modules = dict[str, tuple[bytes, list[str]]]


class Manifest(msgspec.Struct, frozen=True):
    """What a build holds: the file `manifest.json` beside it."""

    format: int
    suite: str
    mirror: str
    release: str
    packages: list[str]
    versions: dict[str, str]
    files: dict[str, str]  # name -> SHA-256


@dataclass(frozen=True)
class Pulled:
    """A guest in the cache: what to load, and where each part came from."""

    folder: Path
    kernel: Path
    initrd: Path
    opensbi: Path
    rootfs: Path | None
    suite: str
    release: str
    packages: tuple[str, ...]
    versions: dict[str, str]
    checksums: dict[str, str]

    @property
    def cmdline(self) -> str:
        """The kernel command line that boots this guest to its shell; half of a boot would be crypto self-tests."""
        root = " root=/dev/vda" if self.rootfs else ""
        return f"console=ttyS0 cryptomgr.notests{root}"

    def __repr__(self) -> str:
        extra = f" with {', '.join(self.packages)}" if self.packages else ""
        return f"<Pulled debian {self.suite}, Linux {self.release}{extra}>"


def cache_dir() -> Path:
    """Return the folder of everything pyvirt keeps between runs; it need not exist yet."""
    if own := os.environ.get("PYVIRT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "pyvirt"


def _builds() -> list[tuple[Path, Manifest]]:
    """Return the complete builds in the cache, the one pulled last first."""
    found = []
    for path in (cache_dir() / "debian" / "builds").glob("*/manifest.json"):
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except msgspec.DecodeError:
            continue  # written by another version: made anew, and removed then
        if manifest.format == FORMAT and all((path.parent / name).exists() for name in manifest.files):
            found.append((path.stat().st_mtime_ns, path.parent, manifest))
    return [(folder, manifest) for _, folder, manifest in sorted(found, key=lambda f: f[0], reverse=True)]


def _pulled(folder: Path, manifest: Manifest) -> Pulled:
    rootfs = folder / "rootfs.ext4"
    return Pulled(
        folder=folder,
        **{name: folder / name for name in FILES},
        rootfs=rootfs if "rootfs.ext4" in manifest.files else None,
        suite=manifest.suite,
        release=manifest.release,
        packages=tuple(manifest.packages),
        versions=dict(manifest.versions),
        checksums=dict(manifest.files),
    )


def cached(packages: Sequence[str] | None = None) -> Pulled | None:
    """Return the guest pulled last (with exactly `packages`, if given), or None. Reads no file but manifests."""
    for folder, manifest in _builds():
        if packages is None or manifest.packages == sorted(set(packages)):
            return _pulled(folder, manifest)
    return None


def checksum(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def damaged(pulled: Pulled) -> str | None:
    """Return the name of a file that no longer has its checksum, or None. A root file system may be written to."""
    for name, expected in pulled.checksums.items():
        if name != "rootfs.ext4" and checksum(pulled.folder / name) != expected:
            return name
    return None


def _check_packages(packages: Sequence[str]) -> list[str]:
    for name in packages:
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name):
            allowed = "lower-case letters, digits, + - and ., two or more (Debian Policy 5.6.1)"
            raise ConfigError(f"--with {name!r} is not a package name; allowed are {allowed}")
    return sorted(set(packages))


def pull(
    packages: Sequence[str] = (),
    *,
    mirror: str | None = None,
    suites: Sequence[str] = SUITES,
    refresh: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Pulled:
    """Put Debian's riscv64 kernel, OpenSBI and an initramfs in the cache, and return them.

    With `packages`, also an ext4 root file system of these and all they depend on, with the initramfs's kernel modules;
    where they bring Debian's QEMU, the kernel and a small initramfs lie in its /guest, to be booted under KVM. What is
    cached already is returned with nothing downloaded unless `refresh`. `suites` are tried in order; `mirror` replaces
    the host's own archives. `say` gets one line for each step. Raises HostError when this host has no apt or no suite
    can be had.
    """
    wanted = _check_packages(packages)
    have = cached(wanted)
    if have is not None and not refresh:
        bad = damaged(have)
        if bad is None:
            os.utime(have.folder / "manifest.json")
            say(f"cached: {have!r} in {have.folder}")
            return have
        say(f"{have.folder / bad} does not have its checksum any more: pulling again")
    need_tools()
    if wanted and not _mke2fs():
        raise HostError("`--with` makes an ext4 image and found no mke2fs on PATH: apt-get install e2fsprogs")
    root = cache_dir() / "debian"
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root, say):
        have = cached(wanted)  # another process may have just made it
        if have is not None and not refresh and damaged(have) is None:
            return have
        return _pull_first(root, wanted, mirror, suites, say)


@contextlib.contextmanager
def _lock(root: Path, say: Callable[[str], None]) -> Iterator[None]:
    with (root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another pull is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pull_first(
    root: Path, packages: list[str], mirror: str | None, suites: Sequence[str], say: Callable[[str], None]
) -> Pulled:
    """Make a build from the first archive and suite that can give all of it."""
    sources = [Source(mirror, ())] if mirror else host_sources()
    failures = []
    for suite in suites:
        for source in sources:
            apt = Apt(root / "apt", source, suite, say=say)
            try:
                say(f"reading {apt}")
                apt.update()
                return _build(root, apt, packages, say)
            except HostError as error:
                failures.append(f"  {error}")
                say(f"can't be used: {error}")
    where = "\n".join(failures) or "  the host's apt sources list no archive with a component `main`"
    tried = ", ".join(suites)
    raise HostError(f"no Debian suite could be pulled (tried {tried}; --mirror URL names another archive):\n{where}")


def _build(root: Path, apt: Apt, packages: list[str], say: Callable[[str], None]) -> Pulled:
    kernels = _kernel_packages(apt)
    debs = apt.download([*kernels, *BASE])
    versions = {deb.name.split("_")[0]: deb.name.split("_")[1].replace("%3a", ":") for deb in debs}
    closure = apt.closure([*packages, "busybox-static"]) if packages else []
    versions |= {deb.name.split("_")[0]: deb.name.split("_")[1].replace("%3a", ":") for deb in closure}
    builds = root / "builds"
    builds.mkdir(exist_ok=True)
    _sweep(root)
    with tempfile.TemporaryDirectory(prefix="new-", dir=root) as folder:
        work, made = Path(folder) / "work", Path(folder) / "made"
        made.mkdir()
        say("unpacking")
        for deb in debs:
            unpack(deb, work)
        release, busybox, modules = _take_base(work, made, apt)
        shutil.rmtree(work)
        if packages:
            say(f"making the root file system of {len(closure)} packages")
            _make_tree(closure, work)
            _add_modules(work, release, modules)
            if (work / VMM).exists():
                _add_guest(work, made / "kernel", _initramfs.build(busybox, release, {}))
            _make_image(work, made / "rootfs.ext4")
        files = {p.name: checksum(p) for p in sorted(made.iterdir())}
        manifest = Manifest(FORMAT, apt.suite, apt.source.uri, release, packages, versions, files)
        (made / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        for path in made.iterdir():
            with path.open("rb") as f:
                os.fsync(f.fileno())
        key = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()[:12]
        target = builds / f"{apt.suite}-{release}-{key}"
        if target.exists():  # damaged, else it would have been used
            target.rename(Path(folder) / "old")
        made.rename(target)
    _remove_older(target, packages)
    say(f"done: Linux {release} from {apt}, in {target}")
    return _pulled(target, manifest)


def _kernel_packages(apt: Apt) -> list[str]:
    """Resolve the metapackage to the packages that hold the kernel and its modules.

    Until Linux 6.x the image package holds both; later it only depends on linux-binary-* and linux-modules-*.
    """
    image = re.search(r"\blinux-image-\S+-riscv64\b", apt.fields(KERNEL).get("Depends", ""))
    if image is None:
        raise HostError(f"{KERNEL} of {apt} depends on no linux-image-VERSION-riscv64, so there is no kernel to pull")
    parts = re.findall(r"\blinux-(?:binary|modules)-\S+-riscv64\b", apt.fields(image[0]).get("Depends", ""))
    return list(dict.fromkeys(parts)) or [image[0]]


def _take_base(work: Path, made: Path, apt: Apt) -> tuple[str, bytes, Modules]:
    """Take kernel and firmware out of the unpacked packages and build the initramfs.

    Return what else is made of them: the kernel's release, busybox, and the modules.
    """
    kernels = sorted([*work.glob("usr/lib/modules/*/vmlinuz"), *work.glob("boot/vmlinu*-*")])
    trees = sorted([*work.glob("usr/lib/modules/*/kernel"), *work.glob("lib/modules/*/kernel")])
    firmware = work / FIRMWARE
    busybox = next((p for p in (work / "usr/bin/busybox", work / "bin/busybox") if p.exists()), None)
    lacking = [
        what
        for what, found in (
            ("a kernel (vmlinuz)", kernels),
            ("kernel modules", trees),
            (FIRMWARE, firmware.exists()),
            ("busybox", busybox),
        )
        if not found
    ]
    if lacking or busybox is None:
        raise HostError(f"the packages of {apt} hold no {', no '.join(lacking)}")
    release = trees[0].parent.name
    try:
        modules = _initramfs.closure(trees[0], _initramfs.MODULES)
    except LoadError as error:
        raise HostError(f"the kernel modules of {apt} can't be read: {error}") from error
    shell = busybox.read_bytes()
    (made / "initrd").write_bytes(_initramfs.build(shell, release, modules))
    shutil.copyfile(kernels[0], made / "kernel")
    shutil.copyfile(firmware, made / "opensbi")
    return release, shell, modules


def _mke2fs() -> str | None:
    return shutil.which("mke2fs", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def _make_tree(debs: Sequence[Path], tree: Path) -> None:
    """Unpack packages into `tree`, and add what a root file system needs that no package script made."""
    for name in ("bin", "sbin", "lib"):
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(f"usr/{name}")
    for deb in debs:
        unpack(deb, tree)
    for name in ("proc", "sys", "dev", "tmp", "root", "run", "etc", "mnt"):
        (tree / name).mkdir(exist_ok=True)
    defaults = {"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n", "hostname": "debian\n"}
    for name, text in defaults.items():
        if not (tree / "etc" / name).exists():
            (tree / "etc" / name).write_text(text)
    shell = tree / "usr/bin/sh"
    if not shell.exists():
        shell.symlink_to("busybox")
    init = tree / "init"
    if not init.exists():
        init.write_text(_initramfs.ROOT_INIT)
        init.chmod(0o755)


def _add_modules(tree: Path, release: str, modules: Modules) -> None:
    """Put the initramfs's modules where modprobe looks; Debian's own tree of them would be over 100 MB."""
    folder = tree / "usr/lib/modules" / release
    folder.mkdir(parents=True, exist_ok=True)
    for name, (body, _) in modules.items():
        (folder / f"{name}.ko").write_bytes(body)
    (folder / "modules.dep").write_text(_initramfs.modules_dep(modules))


def _add_guest(tree: Path, kernel: Path, initrd: bytes) -> None:
    """Put a kernel, an initramfs and the scripts that boot them into /guest."""
    folder = tree / "guest"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(kernel, folder / "Image")
    (folder / "initrd").write_bytes(initrd)
    for name, text in (("boot", _initramfs.GUEST_BOOT), ("once", _initramfs.GUEST_ONCE)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def _make_image(tree: Path, image: Path) -> None:
    """Make an ext4 image of `tree`; no root rights are needed."""
    used = sum(p.lstat().st_size // 4096 * 4096 + 4096 for p in tree.rglob("*"))
    megabytes = max(64, used * 5 // 4 // 2**20 + 48)
    command = [str(_mke2fs()), "-q", "-t", "ext4", "-d", str(tree), "-L", "pyvirt"]
    command += ["-E", "root_owner=0:0", str(image), f"{megabytes}M"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise HostError(f"mke2fs could not make a root file system of {megabytes} MB: {done.stderr.strip()}")


def _sweep(root: Path) -> None:
    """Remove what a killed pull left aside; the lock is held, so nobody is at work there."""
    for path in root.glob("new-*"):
        shutil.rmtree(path)


def _remove_older(keep: Path, packages: list[str]) -> None:
    """Remove earlier builds of the same packages, and those of another format."""
    for path in keep.parent.iterdir():
        try:
            manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
            same = manifest.format != FORMAT or manifest.packages == packages
        except (OSError, msgspec.DecodeError):
            same = True
        if same and path != keep:
            shutil.rmtree(path)
