"""Guest-physical memory of a hypervisor written in Python: a pool of the machine's pages, and G-stage tables over them.

Owns who has which page of machine RAM, and the tables' bits (privileged manual, chapter "H", "Guest Physical Address
Translation"). The tables lie in machine RAM like those of any hypervisor: the hart walks them. Knows no vcpu.
"""
from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pyvirt.errors import ConfigError, GuestAddressError

if TYPE_CHECKING:
    from pyvirt._hart import Core

PAGE = 4096
BLOCK = 2 << 20
ROOT = 4 * PAGE                     # two more bits of address than in a first stage
V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
LEAF_BITS = V | U | A | D
MODES = {"sv39x4": (8, 3), "sv48x4": (9, 4), "sv57x4": (10, 5)}
ACCESS_BITS = {"fetch": X, "load": R, "store": W}
ZERO = bytes(PAGE)


def access_bits(access: str) -> int:
    """Return the PTE bits of permissions such as "rwx", "rx" or "r"; ConfigError for what a PTE can't say."""
    bits = {"r": R, "w": W, "x": X}
    if not access or set(access) - set(bits) or len(set(access)) < len(access) or access in ("w", "wx", "xw"):
        raise ConfigError(f"access is {access!r}; allowed: some of 'rwx', with r where there is w")
    return sum(bits[letter] for letter in access)


class Pool:
    """Pages of machine RAM: all of it, from the bottom, with a list of those given back. New ones read as zeros."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.base, self.end = core.ram.base, core.ram.base + core.ram.size
        self.next = self.base
        self.free: list[int] = []

    def take(self, size: int = PAGE) -> int:
        """Return the address of `size` bytes, aligned to that. ConfigError when the machine has no more."""
        if size == PAGE and self.free:
            return self.free.pop()
        at = -(-self.next // size) * size
        if at + size > self.end:
            if size > ROOT:
                raise self.full()
            at = self._run(size)
        else:
            self.free.extend(range(self.next, at, PAGE))
            self.next = at + size
        return at

    def _run(self, size: int) -> int:
        """Find a few pages in a row among those given back."""
        free = set(self.free)
        for at in sorted(free):
            if at % size == 0 and free.issuperset(range(at, at + size, PAGE)):
                self.free = [pa for pa in self.free if not at <= pa < at + size]
                return at
        raise self.full()

    def full(self) -> ConfigError:
        return ConfigError(f"ram: all {(self.end - self.base) >> 20} MiB of the machine are used by guest memory and "
                           "its tables; give Machine(ram=) more than the guest's memory=")

    def give(self, pa: int, size: int = PAGE) -> None:
        """Take back what `take` returned."""
        for page in range(pa, pa + size, PAGE):
            self.core.mem_write(page, ZERO)
            self.free.append(page)

    @property
    def left(self) -> int:
        """Bytes that can still be taken."""
        return self.end - self.next + len(self.free) * PAGE


class Stage:
    """One set of G-stage tables in machine RAM. Level 0 holds pages of 4 KiB, level 1 of 2 MiB."""

    def __init__(self, core: Core, pool: Pool, mode: str = "sv39x4") -> None:
        if mode not in MODES:
            raise ConfigError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
        self.core, self.pool, self.mode = core, pool, mode
        self.number, self.levels = MODES[mode]
        self.root = pool.take(ROOT)
        self.tables: dict[tuple[int, int], int] = {}    # (level, gpa >> bits above it) to where the table is

    @property
    def bits(self) -> int:
        """Width of guest-physical addresses."""
        return 14 + 9 * self.levels

    def hgatp(self, vmid: int = 0) -> int:
        """Return the value of hgatp that puts these tables into force."""
        return self.number << 60 | vmid << 44 | self.root >> 12

    def _table(self, level: int, gpa: int) -> int | None:
        if level == self.levels - 1:
            return self.root
        return self.tables.get((level, gpa >> 21 + 9 * level))

    def _slot(self, table: int, level: int, gpa: int) -> int:
        return table + 8 * (gpa >> 12 + 9 * level & (0x7FF if level == self.levels - 1 else 0x1FF))

    def find(self, gpa: int) -> tuple[int, int, int]:
        """Return (level, address, value) of the entry that decides about gpa: a leaf or the first that is not valid."""
        level = self.levels - 1
        table: int | None = self.root
        while True:
            assert table is not None
            at = self._slot(table, level, gpa)
            pte = int.from_bytes(self.core.mem_read(at, 8), "little")
            if not pte & V or pte & (R | X) or level == 0:
                return level, at, pte
            level -= 1
            table = self._table(level, gpa)

    def translate(self, gpa: int) -> tuple[int, int] | None:
        """Return (pa, PTE bits) of a gpa that is mapped, else None."""
        level, _, pte = self.find(gpa)
        if not pte & V:
            return None
        low = (1 << 12 + 9 * level) - 1
        return (pte >> 10 << 12) & ((1 << 56) - 1) & ~low | gpa & low, pte & 0x3FF

    def put(self, gpa: int, pte: int, *, level: int = 0) -> None:
        """Write the entry of gpa at a level, with the tables that lead to it and without those below it."""
        for key in [key for key in self.tables if key[0] < level and key[1] >> 9 * (level - 1 - key[0]) ==
                    gpa >> 12 + 9 * level] if level else ():
            self.pool.give(self.tables.pop(key))
        self.core.mem_write(self._slot(self._reach(level, gpa), level, gpa), pte.to_bytes(8, "little"))

    def map(self, gpa: int, pa: int, bits: int, *, level: int = 0) -> None:
        """Map a page of the level; `bits` are of R, W and X."""
        self.put(gpa, pa >> 12 << 10 | bits | LEAF_BITS, level=level)

    def _reach(self, level: int, gpa: int) -> int:
        """Return the table of a level that serves gpa, making those that are missing and splitting larger pages."""
        table = self._table(level, gpa)
        if table is not None:
            return table
        above = self._reach(level + 1, gpa)
        at = self._slot(above, level + 1, gpa)
        old = int.from_bytes(self.core.mem_read(at, 8), "little")
        table = self.pool.take()
        if old & V:
            # A larger page: the new table says the same of each of its parts.
            step = 1 << 9 * level + 10
            self.core.mem_write(table, array("Q", range(old, old + 512 * step, step)).tobytes())
        self.core.mem_write(at, (table >> 12 << 10 | V).to_bytes(8, "little"))
        self.tables[level, gpa >> 21 + 9 * level] = table
        return table

    def drop(self, gpa: int) -> None:
        """Make gpa's entry invalid, with the whole of a larger page."""
        _, at, pte = self.find(gpa)
        if pte & V:
            self.core.mem_write(at, bytes(8))

    def clear(self) -> None:
        """Map nothing any more, and give the tables back but for the root."""
        self.core.mem_write(self.root, bytes(ROOT))
        for table in self.tables.values():
            self.pool.give(table)
        self.tables.clear()

    def close(self) -> None:
        """Give everything back."""
        self.clear()
        self.pool.give(self.root, ROOT)

    @property
    def state(self) -> dict[str, Any]:
        """Where the tables are; what they hold is in RAM."""
        return {"mode": self.mode, "root": self.root,
                "tables": [[level, prefix, pa] for (level, prefix), pa in self.tables.items()]}

    @classmethod
    def restored(cls, core: Core, pool: Pool, state: dict[str, Any]) -> Stage:
        """Return tables that lie in RAM already."""
        stage = cls.__new__(cls)
        stage.core, stage.pool, stage.mode = core, pool, state["mode"]
        stage.number, stage.levels = MODES[stage.mode]
        stage.root = state["root"]
        stage.tables = {(level, prefix): pa for level, prefix, pa in state["tables"]}
        return stage


class GuestMemory:
    """A guest's physical memory: `size` bytes from `base` on, backed by pages of the machine as they are wanted.

    A page is *backed* when it has a page of the machine, which holds what was loaded or stored; it is *mapped* when the
    guest reaches it without a guest page fault. `read` and `write` go by guest-physical address, mapped or not.
    """

    def __init__(self, core: Core, *, base: int, size: int, mode: str = "sv39x4") -> None:
        self.core, self.base, self.size = core, base, size
        self.pool = Pool(core)
        self.stage = Stage(core, self.pool, mode)
        bits = self.stage.bits
        if base + size > 1 << bits:
            raise ConfigError(f"memory: {base:#x}...{base + size:#x} is wider than the {bits} bits of {mode}")
        self.backing: dict[int, int] = {}       # of each backed page, gpa >> 12: its pa
        self.mapped: dict[int, int] = {}        # of each mapped page, gpa >> 12: R, W and X
        self.on_revoke: Callable[[int | None], None] = lambda gpa: None

    @property
    def end(self) -> int:
        return self.base + self.size

    def __contains__(self, gpa: int) -> bool:
        return self.base <= gpa < self.end

    def __len__(self) -> int:
        """Return how many pages are mapped: the guest's working set, if it was mapped on demand."""
        return len(self.mapped)

    def _page(self, gpa: int) -> int:
        if not self.base <= gpa < self.end:
            raise GuestAddressError(f"gpa {gpa:#x} is outside guest memory {self.base:#x}...{self.end:#x}")
        return gpa >> 12

    def back(self, gpa: int) -> int:
        """Return the pa behind gpa, giving its page one of the machine's if it has none."""
        page = self._page(gpa)
        pa = self.backing.get(page)
        if pa is None:
            pa = self.backing[page] = self.pool.take()
        return pa | gpa & PAGE - 1

    def map(self, gpa: int, access: str = "rwx") -> int:
        """Let the guest reach the page of gpa, and return the pa behind it."""
        pa = self.back(gpa)
        bits = access_bits(access)
        known = self.mapped.get(gpa >> 12)
        self.mapped[gpa >> 12] = bits
        self.stage.map(gpa, pa, bits)
        if known is not None and known & ~bits:
            self.on_revoke(gpa)
        return pa

    def unmap(self, gpa: int) -> None:
        """Take the page of gpa from the guest, so that touching it is a guest page fault; what it holds stays."""
        page = self._page(gpa)
        if self.mapped.pop(page, None) is not None:
            # Splits a larger page first, whose other parts stay.
            self.stage.put(gpa, 0)
            self.on_revoke(gpa)

    def discard(self, gpa: int) -> None:
        """Take the page of gpa away with what it holds: it reads as zeros when it comes back."""
        self.unmap(gpa)
        pa = self.backing.pop(gpa >> 12, None)
        if pa is not None:
            self.pool.give(pa)

    def map_all(self) -> None:
        """Back and map everything, in pages of 2 MiB where nothing has pages of its own yet."""
        gpa = self.base
        while gpa < self.end:
            pages = range(gpa >> 12, gpa + BLOCK >> 12)
            whole = gpa % BLOCK == 0 and gpa + BLOCK <= self.end
            if whole and not any(page in self.backing for page in pages):
                pa = self.pool.take(BLOCK)
                self.stage.map(gpa, pa, R | W | X, level=1)
                self.backing.update(zip(pages, range(pa, pa + BLOCK, PAGE), strict=True))
                self.mapped.update(dict.fromkeys(pages, R | W | X))
                gpa += BLOCK
            else:
                if gpa >> 12 not in self.mapped:
                    self.map(gpa)
                gpa += PAGE

    def accessed(self, *, clear: bool = False) -> list[int]:
        """Return the mapped pages whose A bit is set; `clear` takes it away, so that the next call tells of a new span.

        Pages of 2 MiB have one bit for all of their parts.
        """
        found, seen = [], set()
        for page in list(self.mapped):
            _, at, pte = self.stage.find(page << 12)
            if pte & A:
                found.append(page << 12)
                seen.add(at)
        for at in seen if clear else ():
            pte = int.from_bytes(self.core.mem_read(at, 8), "little")
            self.core.mem_write(at, (pte & ~A).to_bytes(8, "little"))
        if clear and seen:
            self.on_revoke(None)
        return found

    # -- content
    def _pieces(self, gpa: int, n: int) -> Iterator[tuple[int, int, int]]:
        """Split a range into pages: gpa, how far into the range, how many bytes."""
        if n < 0 or not self.base <= gpa or gpa + n > self.end:
            raise GuestAddressError(f"gpa {gpa:#x}+{n:#x} is outside guest memory {self.base:#x}...{self.end:#x}")
        done = 0
        while done < n:
            size = min(PAGE - (gpa + done) % PAGE, n - done)
            yield gpa + done, done, size
            done += size

    def read(self, gpa: int, n: int, /) -> bytes:
        """Return n bytes at gpa; pages without backing read as zeros. GuestAddressError outside guest memory."""
        parts = []
        for at, _, size in self._pieces(gpa, n):
            pa = self.backing.get(at >> 12)
            parts.append(bytes(size) if pa is None else self.core.mem_read(pa | at & PAGE - 1, size))
        return b"".join(parts)

    def write(self, gpa: int, data: bytes, /) -> None:
        """Write at gpa, backing pages as needed but for zeros. GuestAddressError outside guest memory."""
        for at, done, size in self._pieces(gpa, len(data)):
            piece = data[done:done + size]
            if at >> 12 in self.backing or any(piece):
                self.core.mem_write(self.back(at), piece)

    # -- state
    @property
    def state(self) -> dict[str, Any]:
        """Which page is where; what they hold is in the machine's RAM."""
        pool = self.pool
        return {
            "base": self.base, "size": self.size, "stage": self.stage.state, "next": pool.next,
            "free": array("Q", pool.free).tobytes(),
            "backing": array("Q", [word for pair in self.backing.items() for word in pair]).tobytes(),
            "mapped": array("Q", [page << 8 | bits for page, bits in self.mapped.items()]).tobytes(),
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        for name in ("base", "size"):
            if state[name] != getattr(self, name):
                raise ConfigError(f"memory: state has {name} {state[name]:#x}, this guest {getattr(self, name):#x}")
        pool = self.pool
        pool.next, pool.free = state["next"], list(array("Q", state["free"]))
        self.stage = Stage.restored(self.core, pool, state["stage"])
        words = array("Q", state["backing"])
        self.backing = dict(zip(words[::2], words[1::2], strict=True))
        self.mapped = {word >> 8: word & 0xFF for word in array("Q", state["mapped"])}

    def __repr__(self) -> str:
        return (f"<GuestMemory {self.base:#x}...{self.end:#x} {self.stage.mode}: {len(self.backing)} pages backed, "
                f"{len(self.mapped)} mapped>")
