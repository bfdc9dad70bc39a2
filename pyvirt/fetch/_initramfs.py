"""An initramfs of busybox and a few kernel modules, and the newc archive that holds it.

Owns the archive writer, the closure of kernel modules, and the scripts: /init of the initramfs, /init given to a root
file system that brings none, and those that boot a guest in the guest.
"""
from __future__ import annotations

import io
import lzma
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from pyvirt.errors import LoadError

#: Modules every initramfs carries: the machine's disks, random source and network, ext4, and the hypervisor.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_rng", "virtio_net", "ext4", "kvm")

INIT = """\
#!/bin/busybox sh
# Command line: mods=a,b loads modules; run=poweroff, run=info or run=/script does that and powers off;
# root=/dev/vda mounts an ext4 disk and starts its /init.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root PS1='# '
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev 2>/dev/null
/bin/busybox --install -s /bin
echo "GUEST-INIT-OK $(uname -r)"
for word in $(cat /proc/cmdline); do
  case $word in
    mods=*) for m in $(echo "${word#mods=}" | tr , ' '); do modprobe "$m" && echo "loaded $m"; done ;;
  esac
done
for word in $(cat /proc/cmdline); do
  case $word in
    run=poweroff) poweroff -f ;;
    run=info) cat /proc/cpuinfo /proc/interrupts /proc/iomem; dmesg | tail -n 12; ls /dev; poweroff -f ;;
    run=/*) sh "${word#run=}"; poweroff -f ;;
    root=*)
      for m in virtio_mmio virtio_blk ext4; do modprobe $m; done
      mkdir -p /mnt
      if mount -t ext4 "${word#root=}" /mnt; then echo GUEST-SWITCH-ROOT; exec switch_root /mnt /init; fi
      echo "GUEST-NO-ROOT ${word#root=}" ;;
  esac
done
echo GUEST-SHELL
cd /root
exec setsid cttyhack sh
"""

ROOT_INIT = """\
#!/usr/bin/busybox sh
# Started by the initramfs in a root file system made of packages whose scripts were not run.
export PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin HOME=/root TERM=${TERM:-vt100} PS1='# '
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev 2>/dev/null
busybox mount -t tmpfs tmp /tmp
busybox hostname debian
for word in $(busybox cat /proc/cmdline); do
  case $word in
    run=poweroff) busybox poweroff -f ;;
    run=/*) /usr/bin/busybox sh "${word#run=}"; busybox poweroff -f ;;
  esac
done
echo "GUEST-ROOT-OK $(busybox uname -r)"
cd /root
exec busybox setsid busybox cttyhack /usr/bin/busybox sh
"""

# QEMU's default CPU claims Zbc, which the hart need not have: only `host` asks for what is there.
GUEST_BOOT = """\
#!/bin/sh
# Boots the kernel and the initramfs beside this file as a guest of this system's KVM. Arguments go to QEMU, whose later
# options win: /guest/boot -smp 2, or /guest/boot -append "console=ttyS0 run=info".
busybox modprobe kvm || exit
exec qemu-system-riscv64 -M virt -accel kvm -cpu host -m 256M -nographic -kernel /guest/Image -initrd /guest/initrd \
  -append "console=ttyS0 cryptomgr.notests" "$@"
"""

GUEST_ONCE = """\
#!/bin/sh
# The same, but the guest powers off when it has booted: for run=/guest/once on the command line.
/bin/sh /guest/boot -append "console=ttyS0 cryptomgr.notests run=poweroff" "$@" && echo GUEST-ONCE-OK
"""


@dataclass
class Archive:
    """A newc cpio archive in the making; equal content gives equal bytes (times are 0, names sorted).

    >>> archive = Archive()
    >>> archive.file("etc/motd", b"hello")
    >>> archive.bytes()[:6]
    b'070701'
    """

    entries: dict[str, tuple[int, bytes, int, int]] = field(default_factory=dict)

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a directory, and those above it."""
        parent = name.rpartition("/")[0]
        if parent and parent not in self.entries:
            self.folder(parent)
        self.entries[name] = (stat.S_IFDIR | mode, b"", 0, 0)

    def _add(self, name: str, entry: tuple[int, bytes, int, int]) -> None:
        parent = name.rpartition("/")[0]
        if parent and parent not in self.entries:
            self.folder(parent)
        self.entries[name] = entry

    def file(self, name: str, body: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(name, (stat.S_IFREG | mode, body, 0, 0))

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, (stat.S_IFLNK | 0o777, target.encode(), 0, 0))

    def char(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device; being a line in an archive, it needs no root rights."""
        self._add(name, (stat.S_IFCHR | mode, b"", major, minor))

    def bytes(self) -> bytes:
        """Return the archive, padded to 512 bytes (newc: Documentation/driver-api/early-userspace)."""
        out = io.BytesIO()
        trailer = {"TRAILER!!!": (0, b"", 0, 0)}
        for ino, (name, (mode, body, major, minor)) in enumerate([*sorted(self.entries.items()), *trailer.items()], 1):
            encoded = name.encode() + b"\0"
            links = 2 if stat.S_ISDIR(mode) else 1
            numbers = (ino, mode, 0, 0, links, 0, len(body), 0, 0, major, minor, len(encoded), 0)
            out.write(b"070701" + b"".join(b"%08X" % n for n in numbers) + encoded)
            out.write(b"\0" * (-out.tell() % 4) + body)
            out.write(b"\0" * (-out.tell() % 4))
        out.write(b"\0" * (-out.tell() % 512))
        return out.getvalue()


def module_name(path: Path) -> str:
    """Return the name the kernel gives the module in a file: `virtio-rng.ko.xz` is `virtio_rng`."""
    return path.name.partition(".ko")[0].replace("-", "_")


def read_module(path: Path) -> bytes:
    """Return a module's ELF, decompressed and without its signature.

    An unsigned module loads on a kernel that does not enforce signatures, as Debian's does not, and saves the guest
    some half a billion instructions of SHA-256.
    """
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    elif path.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    magic = b"~Module signature appended~\n"
    if data.endswith(magic):
        end = len(data) - len(magic) - 12  # struct module_signature: the last 4 bytes are the size, big-endian
        size = int.from_bytes(data[end + 8 : end + 12], "big")
        if size > end:
            raise LoadError(f"{path}: its signature claims {size} bytes of the {end} before it")
        data = data[: end - size]
    return data


def depends(path: Path, module: bytes) -> list[str]:
    """Return the modules that `module` names in its .modinfo."""
    try:
        section = ELFFile(io.BytesIO(module)).get_section_by_name(".modinfo")
    except ELFError as error:
        raise LoadError(f"{path}: not a kernel module: {error}") from None
    if section is None:
        raise LoadError(f"{path}: not a kernel module: it has no .modinfo section")
    found = re.search(rb"(?:^|\0)depends=([^\0]*)", section.data())
    return [n.replace("-", "_") for n in found[1].decode().split(",") if n] if found else []


def closure(folder: Path, wanted: Iterable[str]) -> dict[str, tuple[bytes, list[str]]]:
    """Return {name: (ELF, direct needs)} of the wanted modules under `folder` and all they need.

    Names that the kernel has built in, or does not know, are left out: the caller says which must be there.
    """
    files = {module_name(p): p for p in folder.rglob("*.ko*")}
    found: dict[str, tuple[bytes, list[str]]] = {}
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in found or name not in files:
            continue
        body = read_module(files[name])
        found[name] = (body, [d for d in depends(files[name], body) if d in files])
        pending += found[name][1]
    return found


def modules_dep(modules: dict[str, tuple[bytes, list[str]]]) -> str:
    """Return the modules.dep that busybox's modprobe reads, for modules that lie beside it."""

    def needs(name: str) -> list[str]:
        # modprobe loads the last name of the line first, so each module stands before what it needs.
        out: list[str] = []
        for need in modules[name][1]:
            for n in [need, *needs(need)]:
                if n in out:
                    out.remove(n)
                out.append(n)
        return out

    return "".join(f"{n}.ko:" + "".join(f" {d}.ko" for d in needs(n)) + "\n" for n in sorted(modules))


def build(busybox: bytes, release: str, modules: dict[str, tuple[bytes, list[str]]]) -> bytes:
    """Return the initramfs: busybox, /init, and the modules with their modules.dep."""
    archive = Archive()
    for name in ("proc", "sys", "dev", "tmp", "mnt", "sbin", "usr/bin", "usr/sbin", "etc"):
        archive.folder(name)
    archive.folder("root", 0o700)
    archive.char("dev/console", 5, 1)
    archive.char("dev/null", 1, 3, 0o666)
    archive.file("bin/busybox", busybox, 0o755)
    archive.link("bin/sh", "busybox")
    archive.file("init", INIT.encode(), 0o755)
    for name, (body, _) in modules.items():
        archive.file(f"lib/modules/{release}/{name}.ko", body)
    archive.file(f"lib/modules/{release}/modules.dep", modules_dep(modules).encode())
    return archive.bytes()
