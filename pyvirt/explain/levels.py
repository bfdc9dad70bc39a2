"""The nest of levels as the machine's state shows it: L0, the machine; L1, what runs on it; the guests under it.

A guest is known by its hgatp: mode, VMID and root of its G-stage. Those that a hart holds now are found in the state,
so that they are there after a restore too; those seen before are known while exits are counted. What is deeper lives in
the data of hypervisors: it is "unknown" unless someone who knows these publishes it, as a hypervisor written in Python
does for the guest of its guest.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final, overload

from pyvirt.errors import ConfigError, GuestAddressError
from pyvirt.explain.perfetto import guest_name
from pyvirt.explain.walker import MODES, guest_physical
from pyvirt.memory import Memory
from pyvirt.show import html_table, text_table

if TYPE_CHECKING:
    from pyvirt.explain.exits import ExitRow, Seen
    from pyvirt.hart import Hart

PAGE = 4096
DEPTH_MAX = 16          # of what is published: a publisher that always finds one more comes to an end
GUEST_WORLDS = ("VS", "VU")
# A guest's own CSRs: the hart holds them beside hgatp, also while its hypervisor runs.
VS_CSRS = ("vsstatus", "vsie", "vstvec", "vsscratch", "vsepc", "vscause", "vstval", "vsip", "vsatp")
S_CSRS = ("sstatus", "sie", "stvec", "sscratch", "sepc", "scause", "stval", "sip", "satp")


@final
class Unknown:
    """What no state of the machine tells; false, and shown as `unknown`."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "unknown"

    def __reduce__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest of a level, as published: `read(gpa, n)` reads its memory, `registers` and `csrs` are what is known."""

    name: str
    read: Callable[[int, int], bytes] | None = None
    write: Callable[[int, bytes], None] | None = None
    registers: Mapping[str, int] | Unknown = UNKNOWN
    csrs: Mapping[str, int] | Unknown = UNKNOWN


@dataclass(frozen=True)
class Vcpu:
    """A level on a hart: `running` now, or `loaded`, which means that its CSRs are there but its hypervisor runs.

    `registers` has pc and the integer registers while it runs; else its hypervisor saved them somewhere: unknown.
    """

    hart: int
    state: str
    registers: Mapping[str, int] | Unknown
    csrs: Mapping[str, int]


class _ByGpa:
    """The backend of `level.mem`: guest physical addresses, by the G-stage tables as they are now.

    `below` is the memory that the tables lie and lead in: that of a guest for the guest of a guest, None for RAM.
    """

    def __init__(self, hart: Hart, hgatp: int, below: Memory | None = None) -> None:
        self._hart, self._hgatp, self._below = hart, hgatp, below

    def _pieces(self, gpa: int, n: int) -> Iterator[tuple[int, int, int]]:
        done = 0
        while done < n:
            at = gpa + done
            size = min(PAGE - at % PAGE, n - done)
            pa = guest_physical(self._hart, self._hgatp, at, None if self._below is None else self._below.read)
            if self._below is None and not self._hart.in_ram(pa, size):
                raise GuestAddressError(f"gpa {at:#x} is pa {pa:#x}, which is not RAM; device registers are read by "
                                        "vm.bus.read()")
            yield pa, done, size
            done += size

    def read(self, address: int, n: int, /) -> bytes:
        read = self._hart.physical if self._below is None else self._below.read
        return b"".join(read(pa, size) for pa, _, size in self._pieces(address, n))

    def write(self, address: int, data: bytes, /) -> None:
        for pa, done, size in list(self._pieces(address, len(data))):
            if self._below is None:
                self._hart.store(pa, data[done:done + size])
            else:
                self._below.write(pa, data[done:done + size])


class _Published:
    """The backend of a published guest's memory."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def read(self, address: int, n: int, /) -> bytes:
        if self._guest.read is None:
            raise GuestAddressError(f"memory of {self._guest.name} is unknown: its publisher gives no read=")
        return self._guest.read(address, n)

    def write(self, address: int, data: bytes, /) -> None:
        if self._guest.write is None:
            raise GuestAddressError(f"memory of {self._guest.name} can't be written: its publisher gives no write=")
        self._guest.write(address, data)


class Level:
    """One level: `depth` 0 for the machine, 1 for what runs on it, 2 for a guest of that, deeper if published.

    `mem` is its memory by its own physical addresses: guest physical ones for a guest. `vcpus` are the harts that it
    runs or is loaded on. `guests` are the levels under it. `seen` and `exits` tell what was counted of it.
    """

    def __init__(self, machine: Any, depth: int, name: str, *, mem: Memory, hgatp: int | None = None,
                 vcpus: Sequence[Vcpu] = (), guest: Guest | None = None, real: Iterable[int] = ()) -> None:
        self._machine = machine
        # The hgatps of the harts under which it runs: its own, or those of tables composed for a guest's guest.
        self._real = frozenset(real) if hgatp is None or depth != 2 else frozenset((hgatp,))
        self.depth, self.name, self.mem, self.hgatp = depth, name, mem, hgatp
        self.vcpus = tuple(vcpus)
        self._guest = guest
        self.guests: tuple[Level, ...] | Unknown = UNKNOWN

    @property
    def vmid(self) -> int | None:
        """The guest's VMID, None where there is no G-stage."""
        return None if not self.hgatp else self.hgatp >> 44 & 0x3FFF

    @property
    def mode(self) -> str | None:
        """The G-stage's mode, such as "Sv39x4" or "Bare"; None for what is no guest."""
        if self.hgatp is None:
            return None
        return MODES[self.hgatp >> 60] + ("x4" if self.hgatp >> 60 else "")

    @property
    def root(self) -> int | None:
        """Where the G-stage's root table is, None where there is none."""
        return None if not self.hgatp else (self.hgatp & (1 << 44) - 1) << 12 & ~0x3FFF

    @property
    def running(self) -> bool:
        """True when a hart executes it now."""
        return any(vcpu.state == "running" for vcpu in self.vcpus)

    @property
    def registers(self) -> Mapping[str, int] | Unknown:
        """pc and integer registers of its first hart that runs it, else unknown."""
        if self._guest is not None:
            return self._guest.registers
        return next((vcpu.registers for vcpu in self.vcpus if vcpu.registers), UNKNOWN)

    @property
    def csrs(self) -> Mapping[str, int] | Unknown:
        """The supervisor CSRs of its first hart, under their VS names for a guest; unknown where no hart holds them."""
        if self._guest is not None:
            return self._guest.csrs
        return self.vcpus[0].csrs or UNKNOWN if self.vcpus else UNKNOWN

    @property
    def seen(self) -> Seen | Unknown:
        """When it was first and last entered or left and how often entered, as far as exits were counted."""
        exits = self._machine.exits
        exits.rows_of(level=2)  # takes what waits
        found = [exits.seen[hgatp] for hgatp in self._real if hgatp in exits.seen]
        return found[0].joined(found[1:]) if found else UNKNOWN

    @property
    def exits(self) -> list[ExitRow] | Unknown:
        """Its exits by cause, unknown where none were counted."""
        exits = self._machine.exits
        if not (self.depth == 1 or self._real) or not (exits.on or exits.rows):
            return UNKNOWN
        found: list[ExitRow] = exits.rows_of(level=1) if self.depth == 1 else exits.rows_of(level=2, hgatp=self._real)
        return found

    def __repr__(self) -> str:
        state = "running" if self.running else "loaded" if self.vcpus else "not on a hart"
        return f"<Level L{self.depth} {self.name}{f' {state}' if self.depth else ''}>"


class Levels(Sequence[Level]):
    """The levels, the lowest first: `vm.levels[2]`, `print(vm.levels)`, a table in Jupyter.

    What is found is that of the moment at which `vm.levels` was asked for.
    """

    def __init__(self, machine: Any, publishers: Sequence[Callable[[Level], Iterable[Guest]]]) -> None:
        self._machine = machine
        hypervisor = machine._hypervisor
        ground = Level(machine, 0, repr(machine).strip("<>"), mem=machine.mem)
        first = Level(machine, 1, "on the machine", mem=machine.mem, vcpus=[
            Vcpu(hart.index, "running", dict(hart.registers), _csrs(hart, S_CSRS)) if hart.world not in GUEST_WORLDS
            else Vcpu(hart.index, "loaded", UNKNOWN, _csrs(hart, S_CSRS)) for hart in machine.harts])
        if hypervisor is not None:
            first = Level(machine, 1, f"{type(hypervisor).__name__}, written in Python", mem=machine.mem)
        ground.guests = (first,)
        first.guests = tuple(self._guests() if hypervisor is None else self._guests_of(hypervisor))
        self._levels = [ground, first, *first.guests]
        for guest in first.guests:
            self._levels += [] if isinstance(guest.guests, Unknown) else guest.guests
        for level in self._levels[2:]:
            self._deeper(level, publishers)

    def _guests(self) -> Iterator[Level]:
        machine = self._machine
        if "h" not in machine.isa.partition("_")[0][4:]:
            return
        found: dict[int, list[Vcpu]] = {}
        for hart in machine.harts:
            hgatp = int(hart.csr.hgatp)
            if hart.world in GUEST_WORLDS:
                vcpu = Vcpu(hart.index, "running", dict(hart.registers), _csrs(hart, VS_CSRS))
            elif hgatp >> 60:
                vcpu = Vcpu(hart.index, "loaded", UNKNOWN, _csrs(hart, VS_CSRS))
            else:
                continue
            found.setdefault(hgatp, []).append(vcpu)
        machine.exits.rows_of(level=2)  # takes what waits
        for hgatp in dict.fromkeys((*found, *machine.exits.seen)):
            vcpus = found.get(hgatp, [])
            hart = machine.harts[vcpus[0].hart] if vcpus else machine.hart
            yield Level(machine, 2, guest_name(hgatp), mem=Memory(_ByGpa(hart, hgatp)), hgatp=hgatp, vcpus=vcpus)

    def _guests_of(self, hypervisor: Any) -> Iterator[Level]:
        """Find the guest of a hypervisor written in Python, and with it the guests of that if it is one too."""
        own, inner = [], dict[int, list[Any]]()
        for vcpu in hypervisor.vcpus:
            nested, hart = vcpu.nested, vcpu.hart
            inside = nested is not None and nested.virt
            now = Vcpu(vcpu.index, "running", {**hart.registers, "pc": vcpu.pc}, _csrs(hart, VS_CSRS))
            saved = Vcpu(vcpu.index, "loaded", UNKNOWN, {})
            own.append(saved if inside else now)
            if nested is not None and (inside or nested.hgatp >> 60):
                inner.setdefault(nested.hgatp, []).append((vcpu, now if inside else saved))
        guest = Level(self._machine, 2, f"guest of {type(hypervisor).__name__}", mem=hypervisor.mem, vcpus=own,
                      hgatp=hypervisor.memory.stage.hgatp())
        if any(vcpu.nested is not None for vcpu in hypervisor.vcpus):
            guest.guests = tuple(
                Level(self._machine, 3, guest_name(hgatp), hgatp=hgatp, vcpus=[shown for _, shown in found],
                      mem=Memory(_ByGpa(found[0][0].hart, hgatp, hypervisor.mem)),
                      real=[real for vcpu, _ in found if (real := vcpu.nested.shadow.known(hgatp)) is not None])
                for hgatp, found in inner.items())
        yield guest

    def _deeper(self, level: Level, publishers: Sequence[Callable[[Level], Iterable[Guest]]]) -> None:
        if not publishers:
            return
        found: list[Level] = []
        for publish in publishers:
            for guest in publish(level):
                if not isinstance(guest, Guest):
                    raise ConfigError(f"publish_levels: {publish!r} returned {guest!r}; allowed: Guests")
                found.append(Level(self._machine, level.depth + 1, guest.name, mem=Memory(_Published(guest)),
                                   guest=guest))
        level.guests = (*(() if isinstance(level.guests, Unknown) else level.guests), *found)
        self._levels += found
        if level.depth + 1 < DEPTH_MAX:
            for deeper in found:
                self._deeper(deeper, publishers)

    @property
    def guests(self) -> tuple[Level, ...]:
        """The levels of depth 2."""
        return tuple(level for level in self._levels if level.depth == 2)

    @overload
    def __getitem__(self, index: int) -> Level: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Level]: ...
    def __getitem__(self, index: int | slice) -> Level | Sequence[Level]:
        return self._levels[index]

    def __len__(self) -> int:
        return len(self._levels)

    _HEAD = ("level", "what", "G-stage", "harts", "pc", "entries", "exits")

    def _rows(self) -> list[list[object]]:
        rows: list[list[object]] = []
        for level in self._levels:
            harts = ", ".join(f"{vcpu.hart} {vcpu.state}" for vcpu in level.vcpus)
            registers = level.registers
            pc = "" if level.depth == 0 else repr(UNKNOWN)
            if not isinstance(registers, Unknown) and "pc" in registers:
                pc = f"{registers['pc']:#x}"
            exits, seen = level.exits, level.seen
            rows.append([f"L{level.depth}", level.name, level.mode or "", harts, pc,
                         "" if isinstance(seen, Unknown) else seen.entries,
                         "" if isinstance(exits, Unknown) else sum(row.count for row in exits)])
        return rows

    def __str__(self) -> str:
        return text_table(self._HEAD, self._rows())

    def __repr__(self) -> str:
        return f"<Levels {len(self._levels)}: {', '.join(f'L{level.depth} {level.name}' for level in self._levels)}>"

    def _repr_html_(self) -> str:
        return html_table(self._HEAD, self._rows())


def _csrs(hart: Hart, names: tuple[str, ...]) -> dict[str, int]:
    return {name: hart.csr[name] for name in names}
