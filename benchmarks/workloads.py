"""What is run: the table of programs and boots, which peers can run each, and where guest images are.

A new program is one C file and one row here. Those in heldout/ are never profiled nor looked at when the core is
tuned: they say whether a gain carries over to code that nobody tuned for.
"""
from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
GROUPS = ("start", "integer", "system", "fp", "boot")


@dataclass(frozen=True)
class Program:
    """A bare-metal program at the start of RAM that prints its checksum and ends the run.

    `short` maps a peer to the percentage of the full length that it runs, for peers that would take minutes; its time,
    less start-up, is scaled up.
    """

    name: str
    group: str
    about: str
    heldout: bool = False
    short: dict[str, int] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return HERE / ("heldout" if self.heldout else "programs") / f"{self.name}.c"


@dataclass(frozen=True)
class Boot:
    """Linux under OpenSBI on the layout of QEMU's virt, until it powers off. `marker` must be on its console.

    With `packages`, their root file system is its disk, all its images are those of that pull, and the hart has H.
    """

    name: str
    about: str
    initrd: str
    append: str
    marker: str
    group: str = "boot"
    heldout: bool = False
    ram: str = "256M"
    packages: tuple[str, ...] = ()


Workload = Program | Boot

SLOW_FP = {"spike": 15}  # Spike computes floating point in software

WORKLOADS: tuple[Workload, ...] = (
    Program("startup", "start", "nothing: what starting costs"),
    Program("intmix", "integer", "sieve, integer matrix, generator with divisions"),
    Program("coremix", "integer", "lists, 16-bit matrices, state machine, CRC"),
    Program("sort", "integer", "quicksort, heap sort, merge sort, searches"),
    Program("hash", "integer", "SHA-256, CRC-32, FNV-1a, hash table"),
    Program("lz", "integer", "LZ77, both ways"),
    Program("bytevm", "integer", "a stack machine's interpreter"),
    Program("queens", "integer", "N queens", heldout=True),
    Program("words", "integer", "tokens, trie, globs", heldout=True),
    Program("graph", "integer", "Dijkstra, union-find", heldout=True),
    Program("cipher", "integer", "ChaCha20, 128-bit products, base64", heldout=True),
    Program("chase", "system", "pointers through 1 and 16 MiB under Sv39"),
    Program("memcpy", "system", "copies and fills, 16 B to 256 KiB"),
    Program("ecall", "system", "ecall from U to S and back", short={"spike": 4, "qemu": 30}),
    Program("nbody", "fp", "orbits: square root, division", short=SLOW_FP),
    Program("linpack", "fp", "dense linear equations", short=SLOW_FP),
    Program("spectral", "fp", "power iteration, conversions", short=SLOW_FP),
    Program("fourier", "fp", "FFT", heldout=True, short=SLOW_FP),
    Boot("boot", "Debian's Linux to its init and power-off", "initramfs-mini.cpio.zst",
         "console=ttyS0 cryptomgr.notests run=poweroff", "GUEST-INIT-OK"),
    Boot("nested", "Debian with KVM and QEMU, its guest to init, both to power-off", "",
         "console=ttyS0 cryptomgr.notests root=/dev/vda mods=kvm run=/guest/once", "GUEST-ONCE-OK", ram="1G",
         packages=("qemu-system-riscv",)),
)

# Sets of programs whose geometric mean is shown.
MEANS: dict[str, tuple[str, ...]] = {
    "three integer programs": ("intmix", "coremix", "sort"),
    "all integer programs": tuple(w.name for w in WORKLOADS if w.group == "integer" and not w.heldout),
    "held-out integer programs": tuple(w.name for w in WORKLOADS if w.group == "integer" and w.heldout),
    "floating point": tuple(w.name for w in WORKLOADS if w.group == "fp"),
}


class GuestMissing(RuntimeError):
    """A guest image is not where images are looked for."""


@dataclass(frozen=True)
class Images:
    """What a boot needs, as files."""

    kernel: Path
    firmware: Path
    initrd: Path
    disk: Path | None = None


def images(boot: Boot) -> Images:
    """Return the images of a boot: from $PYVIRT_GUESTS, else what `pyvirt pull debian` cached.

    Raises GuestMissing when there are none.
    """
    folder = os.environ.get("PYVIRT_GUESTS")
    if boot.packages:
        found = _pulled(boot.packages)
    elif folder:
        found = Images(*(_only(Path(folder), p) for p in ("Image*", "opensbi-1.9*.bin", boot.initrd)))
    else:
        found = _pulled()
    for path in (found.kernel, found.firmware, found.initrd):
        if not path.is_file():
            raise GuestMissing(f"{path} is not a file")
    return found


def _only(folder: Path, pattern: str) -> Path:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise GuestMissing(f"PYVIRT_GUESTS={folder} has no {pattern}")
    return paths[-1]


def _pulled(packages: tuple[str, ...] | None = None) -> Images:
    if importlib.util.find_spec("pyvirt.fetch.pull") is not None:
        from pyvirt.fetch.pull import cached

        if (found := cached(packages)) is not None:
            return Images(Path(found.kernel), Path(found.opensbi), Path(found.initrd), found.rootfs)
    if packages:
        raise GuestMissing(f"run `pyvirt pull debian --with {','.join(packages)}`")
    raise GuestMissing("no guest images: set PYVIRT_GUESTS, or run `pyvirt pull debian`")
