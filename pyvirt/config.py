"""What a machine is made of, as plain values: the resolved ISA string, sizes, and the record of all of it.

A resolved string names every extension, in one order, so that equal machines have equal strings whatever was typed.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, SupportsIndex

from pyvirt._hart import EXTENSIONS
from pyvirt.errors import ConfigError

_LETTERS = ("i", "m", "a", "f", "d", "c", "h")
_MULTI = (
    "zicbom", "zicbop", "zicboz", "zicntr", "zicond", "zicsr", "zifencei", "zihintntl", "zihintpause", "zihpm", "zimop",
    "zabha", "zacas", "zawrs", "zfa", "zfh", "zfhmin", "zba", "zbb", "zbc", "zbkb", "zbkx", "zbs", "zcb", "zcmop",
    "smstateen", "ssstateen", "sstc", "sv39", "sv48", "sv57", "svade", "svadu", "svinval", "svnapot", "svpbmt",
)
_ALWAYS = ("s", "u", "zicsr")
_IMPLIES = {
    "d": ("f",), "f": ("zicsr",), "zicntr": ("zicsr",), "zihpm": ("zicsr",), "svadu": ("svade",),
    "zabha": ("a",), "zacas": ("a",), "zawrs": ("a",), "zbkb": ("zbb",), "zcb": ("c",), "zcmop": ("zimop", "c"),
    "zfa": ("f",), "zfh": ("zfhmin",), "zfhmin": ("f",),
    "sv57": ("sv48",), "sv48": ("sv39",), "smstateen": ("ssstateen",), "ssstateen": ("smstateen",),
}
_G = ("m", "a", "f", "d", "zicntr", "zicsr", "zifencei")
_TRANSLATION = ("sv39", "sv48", "sv57")

# Modes of the G-stage, and their bits in hgatp's field as the core counts them.
G_MODES = {"sv39x4": 1 << 8, "sv48x4": 1 << 9, "sv57x4": 1 << 10}
VMID_BITS_MAX, HGEIE_MAX = 14, 63

DEFAULT_ISA = "rv64imafdch_" + "_".join(_MULTI)
RAM_MIN, RAM_MAX = 4096, 1 << 44
HARTS_MAX = 64

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|0[xX][0-9a-fA-F]+)\s*([KMGTkmgt]?)(?:i?[bB])?\s*")


@dataclass(frozen=True)
class Isa:
    """A resolved set of extensions: `string` names them all, `exts` is the core's mask, `satp_modes` a bit per mode."""

    string: str
    exts: int
    satp_modes: int

    @property
    def described(self) -> str:
        """The string for the device tree, which names the translation modes elsewhere."""
        head, *multi = self.string.split("_")
        return "_".join([head, *(name for name in multi if name not in _TRANSLATION)])

    @property
    def mmu(self) -> str:
        """The `mmu-type` of the device tree."""
        return next(f"riscv,{name}" for name in reversed(_TRANSLATION) if name in self.string.split("_"))


def resolve_isa(isa: str | None) -> Isa:
    """Resolve an ISA string such as "rv64gc_zba"; None is everything this version has.

    `g` stands for imafd_zicntr_zicsr_zifencei, what an extension needs comes with it, and a string that names no
    translation mode has all of them. S and U modes are always there. Raises ConfigError for what is unknown.

    >>> resolve_isa("rv64gc_sv39").string
    'rv64imafdc_zicntr_zicsr_zifencei_sv39'
    """
    if isa is None:
        isa = DEFAULT_ISA
    if not isinstance(isa, str):
        raise ConfigError(f"isa: {isa!r} is no string; expected one such as 'rv64gc' or {DEFAULT_ISA!r}")
    head, *multi = isa.lower().split("_")
    if head[:5] not in ("rv64i", "rv64g"):
        raise ConfigError(f"isa: {isa!r} starts with {head[:5]!r}, expected rv64i or rv64g")
    asked = {"i"}
    letters = head[4:]
    for at, letter in enumerate(letters):
        if letter == "g":
            asked.update(_G)
        elif letter in _LETTERS:
            asked.add(letter)
        else:
            raise ConfigError(f"isa: {isa!r} has {letter!r} at position {4 + at}; allowed: g, {', '.join(_LETTERS)}, "
                              f"and after _ {', '.join(_MULTI)}")
    for name in multi:
        if name not in _MULTI and name not in _LETTERS:
            close = get_close_matches(name, _MULTI, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"isa: {isa!r} has {name!r}{hint}; allowed: {', '.join(_MULTI)}")
        asked.add(name)
    if not asked.intersection(_TRANSLATION):
        asked.add("sv57")
    todo = list(asked)
    while todo:
        for name in _IMPLIES.get(todo.pop(), ()):
            if name not in asked:
                asked.add(name)
                todo.append(name)
    asked.add("zicsr")
    order = [name for name in _MULTI if name in asked]
    if "c" not in asked:
        # Without it every jump would have to check the alignment of its target.
        raise ConfigError(f"isa: {isa!r} lacks c, which every machine has; allowed: "
                          f"{isa.replace(letters, letters + 'c', 1)!r}")
    exts = 0
    for name in asked.union(_ALWAYS):
        exts |= EXTENSIONS.get(name, 0)  # svade and the translation modes are no bits of the core's
    modes = sum(1 << 8 + at for at, name in enumerate(_TRANSLATION) if name in asked)
    return Isa("_".join(["rv64" + "".join(n for n in _LETTERS if n in asked), *order]), exts, modes)


def parse_size(value: SupportsIndex | str, *, name: str, low: int = 0, high: int, multiple: int = 1) -> int:
    """Return a size in bytes from an int or a text such as "256M" (binary units); ConfigError names `name`.

    >>> parse_size("256M", name="ram", high=1 << 40)
    268435456
    """
    allowed = f"{show_size(low)} to {show_size(high)}" + (f" in steps of {show_size(multiple)}" if multiple > 1 else "")
    size: int | float
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if found is None:
            raise ConfigError(f"{name}: {value!r} is no size; expected a number of bytes with an optional K, M, G or T")
        digits, unit = found.groups()
        size = float(digits) if "." in digits else int(digits, 0 if digits[:2].lower() == "0x" else 10)
        size *= _UNITS[unit.upper()]
    elif isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name}: {value!r} is no size; expected an int of bytes or text such as '256M'")
    else:
        size = value.__index__()
    if size != int(size) or not low <= size <= high or size % multiple:
        raise ConfigError(f"{name}: {value!r} is not allowed; allowed: {allowed}")
    return int(size)


def show_size(size: int) -> str:
    """Return a size for people: "256M", or bytes when no unit divides it."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def integer(value: object, *, name: str, low: int, high: int) -> int:
    """Return an int option within its bounds, or raise ConfigError naming it."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or not low <= value.__index__() <= high:
        raise ConfigError(f"{name}: {value!r} is not allowed; allowed: an int in {low}...{high}")
    return value.__index__()


def choice(value: object, *, name: str, allowed: tuple[object, ...]) -> None:
    """Raise ConfigError unless an option is one of a few values; a near miss is pointed out."""
    if value in allowed:
        return
    close = get_close_matches(value, [a for a in allowed if isinstance(a, str)], 1) if isinstance(value, str) else []
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ConfigError(f"{name}: {value!r} is not allowed{hint}; allowed: {', '.join(map(repr, allowed))}")


def hypervisor_options(isa: Isa, *, htinst: object, vmid_bits: object, hgeie: object,
                       g_modes: object) -> dict[str, Any]:
    """Return the checked choices that the manual leaves to an implementation of H, as fields of Config."""
    choice(htinst, name="htinst", allowed=("zero", "transformed"))
    if g_modes is not None and (isinstance(g_modes, str) or not isinstance(g_modes, Iterable)):
        raise ConfigError(f"g_modes: {g_modes!r} is not allowed; allowed: None for those of the ISA, or a list of "
                          f"{', '.join(map(repr, G_MODES))}")
    asked = None if g_modes is None else tuple(g_modes)
    for mode in asked or ():
        choice(mode, name="g_modes", allowed=tuple(G_MODES))
    found = {"htinst": htinst, "vmid_bits": integer(vmid_bits, name="vmid_bits", low=0, high=VMID_BITS_MAX),
             "hgeie": integer(hgeie, name="hgeie", low=0, high=HGEIE_MAX)}
    if "h" not in isa.string.partition("_")[0][4:]:
        for name, value in {**found, "g_modes": asked}.items():
            if value not in (None, getattr(Config, name)):
                raise ConfigError(f"{name}: {value!r} needs the hypervisor extension, which ISA {isa.string} has not; "
                                  "allowed: an ISA with h")
        return {**found, "g_modes": ()}
    offered = tuple(mode for mode, bit in G_MODES.items() if (isa.satp_modes & bit if asked is None else mode in asked))
    return {**found, "g_modes": offered}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What decides how a machine behaves; part of its digest. Host facts (core, paths, limits) are not here.

    `isa` is resolved, `ram` in bytes, `ratio` in instructions per tick of 10 MHz, `quantum` in instructions. `htinst`,
    `vmid_bits`, `hgeie` (guest external interrupts) and `g_modes` are choices of the hypervisor extension.
    """

    board: str = "virt-1"
    isa: str = DEFAULT_ISA
    harts: int = 1
    ram: int = 256 << 20
    clock: str = "virtual"
    seed: int = 0
    ratio: int = 100
    quantum: int = 2000
    htinst: str = "zero"
    vmid_bits: int = VMID_BITS_MAX
    hgeie: int = 0
    g_modes: tuple[str, ...] = tuple(G_MODES)
