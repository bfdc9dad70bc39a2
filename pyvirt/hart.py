"""A hart as Python sees it: registers by name, CSRs with named fields, memory as the hart translates it, disassembly.

Views only; the state lives in the core. Register and CSR names come from the tables of regnames.py and csrnames.py.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

from pyvirt._bus import IrqLine
from pyvirt.assembly.csrfields import FIELDS
from pyvirt.assembly.csrnames import CSR_NAMES, CSRS
from pyvirt.assembly.disasm import Line, disasm
from pyvirt.assembly.regattrs import CsrAttributes, Registers
from pyvirt.assembly.regnames import F_REGS, X_NAMES, X_REGS
from pyvirt.errors import ClosedError, ConfigError, GuestAddressError, MachineBusy
from pyvirt.memory import Memory
from pyvirt.stop import cause_name

if TYPE_CHECKING:
    from pyvirt._hart import Core
    from pyvirt._view import Hart as CoreHart
    from pyvirt.explain.walk import Walk

U64 = (1 << 64) - 1
PAGE = 4096
FETCH, LOAD, STORE = 0, 1, 2


def register_value(value: object, name: str) -> int:
    """Return a value as 64 bits, or raise ConfigError naming the register."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name}: {value!r} is not allowed; allowed: an int in -2^63...2^64-1")
    number = int(value.__index__())
    if not -(1 << 63) <= number <= U64:
        raise ConfigError(f"{name}: {number:#x} is not allowed; allowed: -2^63...2^64-1")
    return number & U64


def world_name(priv: int, virt: int, *, hyp: bool) -> str:
    """Return the name of a world."""
    return {0: "U", 1: "S", 2: "U", 3: "M"}[priv] if not hyp else \
        {0: "VU" if virt else "U", 1: "VS" if virt else "HS", 2: "U", 3: "M"}[priv]


def unknown(name: str, what: str, known: Mapping[str, Any]) -> AttributeError:
    """Return the AttributeError for a name that is none, with the nearest one."""
    close = get_close_matches(name, known, 1)
    return AttributeError(f"{what} {name!r} does not exist" + (f"; did you mean {close[0]!r}?" if close else
                          f"; allowed: {', '.join(list(known)[:8])} ..."))


class Parts(Protocol):
    """The compiled parts of a machine, while they are in use."""

    @property
    def core(self) -> Core: ...

    @property
    def harts(self) -> tuple[CoreHart, ...]: ...


class Use(Protocol):
    """A machine that can be looked at: inside `with use as parts:` its parts stay what they are.

    Raises ClosedError or MachineBusy, as `check` does, when it may not be looked at now.
    """

    def __enter__(self) -> Parts: ...

    def __exit__(self, *_: object) -> None: ...

    def check(self) -> None: ...

    def pin(self) -> Parts:
        """Return the parts for good: something that leads to them is given away."""


class CsrValue(int):
    """A CSR's value: an int whose fields are attributes, shown in hexadecimal.

    >>> CsrValue(0x1880, "mstatus").MPP
    3
    """

    name: str

    def __new__(cls, value: int, name: str = "") -> CsrValue:
        self = super().__new__(cls, value)
        self.name = name
        return self

    @property
    def fields(self) -> dict[str, int]:
        """All named fields and their values."""
        return {field: int(self) >> low & (1 << width) - 1
                for field, (low, width) in FIELDS.get(self.name, {}).items()}

    def __getattr__(self, name: str) -> int:
        known = FIELDS.get(self.__dict__.get("name", ""), {})
        if name in known and not name.startswith("_"):
            low, width = known[name]
            return int(self) >> low & (1 << width) - 1
        if name.startswith("_"):
            raise AttributeError(name)
        raise unknown(name, f"field of {self.name}", known) if known else AttributeError(
            f"{self.name} has no named fields, so no {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *FIELDS.get(self.name, {})]

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]
        return int(self), self.name

    def __repr__(self) -> str:
        shown = " ".join(f"{field}={value}" for field, value in self.fields.items() if value)
        return f"{int(self):#x}" + (f" <{shown}>" if shown else "")

    __str__ = __repr__


class Csrs(CsrAttributes):
    """A hart's CSRs: `csr.mstatus`, `csr.mstatus = value`, `csr.set("mstatus", MPP=1)`, or `csr["mstatus"]`.

    Access is with machine privilege and follows the WARL rules: what is read back is what the hart took.
    """

    _hart: Hart

    def __init__(self, hart: Hart) -> None:
        object.__setattr__(self, "_hart", hart)

    def _number(self, name: str | int) -> int:
        if isinstance(name, int):
            if not 0 <= name < 4096:
                raise ConfigError(f"CSR number {name:#x} is not allowed; allowed: 0...0xfff")
            return name
        number = CSRS.get(name)
        if number is None:
            raise unknown(name, "CSR", CSRS)
        return number

    def __getitem__(self, name: str | int) -> CsrValue:
        number = self._number(name)
        hart = self._hart
        try:
            with hart._use as parts:
                value = parts.harts[hart._index].csr_read(number)
        except KeyError:
            raise AttributeError(f"hart {hart.index} has no CSR {CSR_NAMES.get(number, '')} ({number:#x}) under ISA "
                                 f"{hart._isa}") from None
        return CsrValue(value, CSR_NAMES.get(number, f"csr{number:#x}"))

    def __setitem__(self, name: str | int, value: int) -> None:
        number = self._number(name)
        hart = self._hart
        label = CSR_NAMES.get(number, f"csr {number:#x}")
        bits = register_value(value, label)
        try:
            with hart._use as parts:
                parts.harts[hart._index].csr_write(number, bits)
        except KeyError:
            raise AttributeError(f"hart {hart.index} has no CSR {label} ({number:#x}) under ISA {hart._isa}") from None
        if number >> 10 == 3:
            raise ConfigError(f"{label}: is read-only; allowed: CSRs whose number is below 0xc00, such as minstret")

    if not TYPE_CHECKING:  # type checkers know the names, and flag others
        def __getattr__(self, name: str) -> CsrValue:
            if name.startswith("__"):
                raise AttributeError(name)
            return self[name]

    def __setattr__(self, name: str, value: int) -> None:
        self[name] = value

    def set(self, name: str, **fields: int) -> None:
        """Change named fields of a CSR and leave its other bits."""
        known = FIELDS.get(name, {})
        value = int(self[name])
        for field, new in fields.items():
            if field not in known:
                raise unknown(field, f"field of {name}", known)
            low, width = known[field]
            if isinstance(new, bool):
                new = int(new)
            if not isinstance(new, int) or not 0 <= new < 1 << width:
                raise ConfigError(f"{name}.{field}: {new!r} is not allowed; allowed: 0...{(1 << width) - 1:#x}")
            value = value & ~((1 << width) - 1 << low) | new << low
        self[name] = value

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the CSRs that this hart has."""
        for name in CSRS:
            try:
                self[name]
            except AttributeError:
                continue
            yield name

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __dir__(self) -> list[str]:
        return ["set", *self]

    def __repr__(self) -> str:
        return f"<CSRs of hart {self._hart.index}>"


class _Virtual:
    """The backend of `hart.mem`: translates page by page, with the hart's present privilege, and changes no state."""

    def __init__(self, hart: Hart) -> None:
        self.hart = hart

    def _pieces(self, va: int, n: int, accesses: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
        done = 0
        while done < n:
            at = va + done
            size = min(PAGE - at % PAGE, n - done)
            yield self.translate(at, accesses), done, size
            done += size

    def translate(self, va: int, accesses: tuple[int, ...]) -> int:
        cause = 0
        hart = self.hart
        for access in accesses:
            try:
                with hart._use as parts:
                    ram = parts.core.ram
                    pa = parts.harts[hart._index].translate(va, access)
            except LookupError as error:
                cause = cause or int(error.args[0])
                continue
            if not ram.base <= pa < ram.base + ram.size:
                raise GuestAddressError(f"va {va:#x} is pa {pa:#x}, which is not RAM {ram.base:#x}..."
                                        f"{ram.base + ram.size:#x}; device registers are read by vm.bus.read()")
            return int(pa)
        satp = hart.csr["satp"]
        raise GuestAddressError(f"va {va:#x} is not mapped for hart {hart.index} in {hart.world}-mode: "
                                f"{cause_name(cause)} (satp {satp!r})")

    def read(self, va: int, n: int, /) -> bytes:
        # What may only be executed can be looked at too.
        return b"".join(self.hart.physical(pa, size) for pa, _, size in self._pieces(va, n, (LOAD, FETCH)))

    def write(self, va: int, data: bytes, /) -> None:
        # A debugger's store: pages that the guest may only read or execute can be written.
        pieces = list(self._pieces(va, len(data), (STORE, LOAD, FETCH)))
        for pa, done, size in pieces:
            self.hart.store(pa, data[done:done + size])


class Listing(list[Line]):
    """Disassembled lines that show as text."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__


class Hart(Registers):
    """One hart: `hart.a0`, `hart.x10`, `hart.fa0`, `hart.pc`, `hart.world`, `hart.csr`, `hart.mem`, `hart.disasm()`.

    Registers take -2^63 ... 2^64-1 and read unsigned; f registers are their 64 bits. Between instructions only.
    """

    _use: Use
    _index: int
    _isa: str
    _symbols: Callable[[], Mapping[str, int]]
    _walker: Callable[..., Walk]
    _PROPERTIES = ("pc", "world", "waiting", "index", "csr", "mem", "count", "state", "registers",
                   "isa")

    def __init__(self, use: Use, index: int, *, isa: str, symbols: Callable[[], Mapping[str, int]],
                 walk: Callable[..., Walk]) -> None:
        d = self.__dict__
        d["_use"], d["_index"], d["_isa"], d["_symbols"], d["_walker"] = use, index, isa, symbols, walk

    @property
    def index(self) -> int:
        """The hart's number, also its mhartid."""
        return self._index

    @property
    def pc(self) -> int:
        """Virtual address of the next instruction."""
        with self._use as parts:
            return parts.harts[self._index].pc

    @pc.setter
    def pc(self, value: int) -> None:
        bits = register_value(value, "pc")
        if bits & 1:
            raise ConfigError(f"pc: {bits:#x} is not allowed; allowed: even addresses")
        with self._use as parts:
            parts.harts[self._index].pc = bits

    @property
    def world(self) -> str:
        """Privilege and virtualization mode: "M", "HS", "U", "VS" or "VU"; "S", not "HS", where the ISA has no H."""
        with self._use as parts:
            view = parts.harts[self._index]
            return world_name(view.priv, view.virt, hyp=self._hyp)

    @world.setter
    def world(self, value: str) -> None:
        allowed = {"M": (3, 0), "HS": (1, 0), "U": (0, 0), "VS": (1, 1), "VU": (0, 1), "S": (1, 0)} if self._hyp else \
            {"M": (3, 0), "S": (1, 0), "U": (0, 0)}
        if value not in allowed:
            raise ConfigError(f"world: {value!r} is not allowed; allowed: {', '.join(map(repr, allowed))}")
        with self._use as parts:
            view = parts.harts[self._index]
            view.priv, view.virt = allowed[value]

    @property
    def isa(self) -> str:
        """The resolved ISA string."""
        return self._isa

    @property
    def _hyp(self) -> bool:
        return "h" in self._isa.partition("_")[0][4:]

    @property
    def waiting(self) -> bool:
        """True in WFI."""
        with self._use as parts:
            return parts.harts[self._index].waiting

    @property
    def state(self) -> str:
        """Whether the built-in firmware has the hart "started", "stopped" or "suspended"."""
        with self._use as parts:
            return {0: "started", 1: "stopped", 4: "suspended"}[parts.harts[self._index].hsm]

    @property
    def count(self) -> int:
        """Instructions this hart attempted."""
        with self._use as parts:
            return parts.harts[self._index].count

    @property
    def _icount(self) -> int:
        """The machine's position in time."""
        with self._use as parts:
            return parts.core.icount

    @property
    def csr(self) -> Csrs:
        """The control and status registers."""
        return Csrs(self)   # made when asked for: held, the two would keep the machine until garbage is collected

    @property
    def mem(self) -> Memory:
        """Memory at virtual addresses, as the hart translates them now."""
        return Memory(_Virtual(self))

    @property
    def registers(self) -> dict[str, int]:
        """The integer registers by ABI name, and pc."""
        with self._use as parts:
            view = parts.harts[self._index]
            return {**{name: view.x(number) for name, number in zip(X_NAMES, range(32), strict=True)}, "pc": view.pc}

    if not TYPE_CHECKING:  # type checkers know the names, and flag others
        def __getattr__(self, name: str) -> int:
            if name.startswith("_"):
                raise AttributeError(name)
            if name in X_REGS:
                with self._use as parts:
                    return parts.harts[self._index].x(X_REGS[name])
            if name in F_REGS:
                with self._use as parts:
                    return parts.harts[self._index].f(F_REGS[name])
            raise self._unknown(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in X_REGS:
            bits = register_value(value, name)
            with self._use as parts:
                parts.harts[self._index].set_x(X_REGS[name], bits)
        elif name in F_REGS:
            bits = register_value(value, name)
            with self._use as parts:
                parts.harts[self._index].set_f(F_REGS[name], bits)
        elif name in self._PROPERTIES:
            object.__setattr__(self, name, value)
        else:
            raise self._unknown(name)

    def _unknown(self, name: str) -> AttributeError:
        if name in CSRS:
            return AttributeError(f"register {name!r} does not exist; did you mean hart.csr.{name}?")
        return unknown(name, "register", {**X_REGS, **F_REGS, **dict.fromkeys(self._PROPERTIES, 0)})

    def set_guest_line(self, number: int, level: bool) -> None:
        """Raise or lower a guest external interrupt: bit `number` of hgeip, 1 to the machine's `hgeie`.

        No device of the board drives one: they come from an IMSIC, which there is none of, or from whoever tests a
        hypervisor. ConfigError where the machine was made without that number.
        """
        with self._use as parts:
            try:
                line = parts.core.guest_line(self._index, number)
            except (ValueError, OverflowError, TypeError) as error:
                raise ConfigError(f"set_guest_line: {error}") from error
            IrqLine(line).set(bool(level))

    def translate(self, va: int) -> int:
        """Return the physical address of a virtual one, as a load, else a store, else a fetch sees it."""
        return _Virtual(self).translate(register_value(va, "va"), (LOAD, STORE, FETCH))

    def walk(self, va: int, *, access: str = "load", world: str | None = None) -> Walk:
        """Explain a translation step by step, for a "load", "store" or "fetch", or "hlvx", in this world or another.

        `print(hart.walk(va))` shows which entries were read, what their bits mean, the rule that refused the access and
        the trap that comes of it. Nothing changes.
        """
        return self._walker(self, register_value(va, "va"), access=access, world=world)

    def in_ram(self, pa: int, n: int) -> bool:
        """Say whether n bytes at a physical address are RAM."""
        with self._use as parts:
            ram = parts.core.ram
        return ram.base <= pa and pa + n <= ram.base + ram.size

    def physical(self, pa: int, n: int) -> bytes:
        """Return n bytes of RAM at a physical address."""
        with self._use as parts:
            return parts.core.mem_read(pa, n)

    def store(self, pa: int, data: bytes) -> None:
        """Store bytes in RAM at a physical address, as DMA does."""
        with self._use as parts:
            parts.core.mem_write(pa, data)

    def disasm(self, address: int | None = None, count: int = 8) -> Listing:
        """Return `count` instructions from a virtual address on, by default from pc."""
        at = self.pc if address is None else register_value(address, "address")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"disasm: count is {count!r}; allowed: 1 and up")
        data = b""
        while len(data) < 4 * count:
            size = min(PAGE - (at + len(data)) % PAGE, 4 * count - len(data))
            try:
                data += self._fetch(at + len(data), size)
            except GuestAddressError:
                if not data:
                    raise
                break
        return Listing(disasm(data, at, symbols=self._symbols(), aliases=True)[:count])

    def _fetch(self, va: int, size: int) -> bytes:
        """Read code: RAM, or a ROM reached through the bus."""
        try:
            return self.mem.read(va, size)
        except GuestAddressError:
            try:
                with self._use as parts:
                    pa, read = parts.harts[self._index].translate(va, FETCH), parts.core.bus_read
                    return b"".join(read(pa + at, 2).to_bytes(2, "little") for at in range(0, size & ~1, 2))
            except (LookupError, IndexError):
                pass
            raise

    def __dir__(self) -> list[str]:
        return [*self._PROPERTIES, "disasm", "set_guest_line", "translate", "walk", *X_REGS, *F_REGS]

    def __repr__(self) -> str:
        try:
            self._use.check()
        except (ClosedError, MachineBusy) as error:
            state = "closed" if isinstance(error, ClosedError) else "running"
            return f"<Hart {self._index} of a machine that is {state}>"
        return f"<Hart {self._index} pc={self.pc:#x} {self.world}-mode{' waiting' if self.waiting else ''}>"
