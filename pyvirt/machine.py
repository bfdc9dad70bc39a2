"""Machine: parts in, wired by the board; programs loaded; run, stepped, typed to and looked at.

A facade that delegates: the board owns the parts, run.py the loop, hart.py and memory.py the views. What is decided
here is who may touch a machine when, and how a machine comes up.
"""
from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from pyvirt.board import BOARDS, RAM_BASE, Board
from pyvirt.boot import Boot
from pyvirt.config import (
    HARTS_MAX,
    RAM_MAX,
    RAM_MIN,
    VMID_BITS_MAX,
    Config,
    choice,
    hypervisor_options,
    integer,
    parse_size,
    resolve_isa,
    show_size,
)
from pyvirt.console import Console
from pyvirt.devices.base import Device
from pyvirt.digest import machine_digest
from pyvirt.disk import Disk
from pyvirt.errors import ClosedError, ConfigError, GuestAddressError, LoadError, MachineBusy, NotReached, SnapshotError
from pyvirt.exits import Exits
from pyvirt.fdt import Placed
from pyvirt.fences import MissingFence
from pyvirt.fences import take as take_fences
from pyvirt.hart import Hart
from pyvirt.history import History
from pyvirt.levels import Guest, Level, Levels
from pyvirt.memory import Memory
from pyvirt.placement import Range
from pyvirt.run import Runner
from pyvirt.snapshot import (
    Content,
    Entropy,
    Outside,
    Part,
    Recipe,
    Snapshot,
    check_alike,
    check_disks,
    entropy_bytes,
    put,
    take,
)
from pyvirt.stop import Condition, Input, Stop, StopReason, Trap, condition
from pyvirt.trace import Filter, Hook, Trace
from pyvirt.unpack import Source
from pyvirt.walk import Walk
from pyvirt.walker import explain

if TYPE_CHECKING:
    from pyvirt.gdb import GdbServer

U64 = (1 << 64) - 1


class Bus:
    """The machine's bus: device registers, whose reading and writing have effects.

    `vm.bus.read(address, width)`, `vm.bus.write(address, width, value)`; `vm.bus.map` lists what is where.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self, address: int, width: int) -> int:
        """Read a device register of 1, 2, 4 or 8 bytes. GuestAddressError where a guest would take a fault."""
        core = self._machine._parts().core
        try:
            return core.bus_read(self._address(address), self._width(width))
        except IndexError:
            raise self._nothing(address, width) from None

    def write(self, address: int, width: int, value: int) -> None:
        """Write a device register of 1, 2, 4 or 8 bytes. GuestAddressError where a guest would take a fault."""
        core = self._machine._parts().core
        top = 1 << 8 * self._width(width)
        if isinstance(value, bool) or not isinstance(value, int) or not -(top >> 1) <= value < top:
            raise ConfigError(f"bus.write: value is {value!r}; allowed: {-(top >> 1):#x}...{top - 1:#x}")
        try:
            core.bus_write(self._address(address), width, value % top)
        except IndexError:
            raise self._nothing(address, width) from None

    @property
    def map(self) -> list[tuple[int, int, str]]:
        """Base, size and name of every region, by address."""
        return self._machine._parts().map

    @staticmethod
    def _width(width: int) -> int:
        if width not in (1, 2, 4, 8):
            raise ConfigError(f"bus: width is {width!r}; allowed: 1, 2, 4, 8")
        return width

    @staticmethod
    def _address(address: int) -> int:
        return integer(address, name="bus: address", low=0, high=U64)

    def _nothing(self, address: int, width: int) -> GuestAddressError:
        regions = ", ".join(f"{name} {base:#x}...{base + size:#x}" for base, size, name in self.map)
        return GuestAddressError(f"bus: no device register of width {width} at {address:#x}; mapped: {regions}")

    def __repr__(self) -> str:
        return f"<Bus of {self._machine!r}>"


class _Physical:
    """The backend of `vm.mem`: RAM as DMA sees it, and the reset ROM."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self, address: int, n: int, /) -> bytes:
        board = self._machine._parts()
        if board.rom is not None and address < RAM_BASE:
            at = address - board.placed[0].bases[0]
            return board.rom.content[at:at + n]
        return board.core.mem_read(address, n)

    def write(self, address: int, data: bytes, /) -> None:
        self._machine._parts().core.mem_write(address, data)


class Machine:
    """A RISC-V computer.

    `isa` is a string such as "rv64gc" (default: everything there is), `harts` 1 to 64, `ram` bytes or "256M". `disks`
    are paths or Disks, in the order of /dev/vda, /dev/vdb ...; `devices` are added to the board's own. `board` is
    "virt-1" or "bare" (no devices). `firmware` is "builtin" or an M-mode image. `core` picks "threaded" or "switch";
    `memory_limit` bounds the host memory of the guest's RAM. `clock="host"` lets time follow the host's, logged in
    `inputs`; the default counts instructions, 100 for each tick of 10 MHz. `seed` decides the guest's entropy.
    `fences="check"` notes in `missing_fences` every use of a translation whose page-table entry changed without the
    fence that the manual asks for. `echo=True` copies the console to stdout, `log=` to a file.

    The manual leaves choices to an implementation of H, and hypervisors have to work with either: `htinst` is "zero" or
    "transformed" (what htinst and mtinst say of explicit accesses), `vmid_bits` 0 to 14, `hgeie` 0 to 63 guest external
    interrupts, `g_modes` a list of "sv39x4", "sv48x4", "sv57x4" (default: as the ISA's modes).

    Raises ConfigError naming the option, what was found and what is allowed.

    >>> with Machine(board="bare", ram="1M") as vm:
    ...     vm.load(bytes.fromhex("1305a002 73005010"))     # li a0, 42; wfi
    ...     vm.run().reason.name, vm.hart.a0
    <Machine bare 1 hart 1M icount=0>
    ('IDLE', 42)
    """

    def __init__(self, *, isa: str | None = None, harts: int = 1, ram: SupportsIndex | str = "256M",
                 disks: Sequence[str | os.PathLike[str] | Disk] = (), devices: Sequence[Device | Placed] = (),
                 board: str = "virt-1", firmware: str | os.PathLike[str] | bytes = "builtin", core: str | None = None,
                 memory_limit: SupportsIndex | str | None = None, clock: str = "virtual", seed: int = 0,
                 htinst: str = "zero", vmid_bits: int = VMID_BITS_MAX, hgeie: int = 0,
                 g_modes: Sequence[str] | None = None, fences: str = "off", echo: Any = False,
                 log: str | os.PathLike[str] | None = None) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._runner_thread: int | None = None
        self._in_hook = False
        self._at_boundary = False
        self._awaited = False       # a fork whose moment has not come
        self._history: History[Snapshot] = History()
        self._own_disks: list[Disk] = []
        choice(board, name="board", allowed=BOARDS)
        choice(clock, name="clock", allowed=("virtual", "host"))
        choice(core, name="core", allowed=(None, "threaded", "switch"))
        choice(fences, name="fences", allowed=("off", "check"))
        resolved = resolve_isa(isa)
        self._config = Config(
            board=board, isa=resolved.string, harts=integer(harts, name="harts", low=1, high=HARTS_MAX),
            ram=parse_size(ram, name="ram", low=RAM_MIN, high=RAM_MAX, multiple=RAM_MIN), clock=clock,
            seed=integer(seed, name="seed", low=-(1 << 63), high=U64), **hypervisor_options(
                resolved, htinst=htinst, vmid_bits=vmid_bits, hgeie=hgeie, g_modes=g_modes))
        limit = None if memory_limit is None else parse_size(memory_limit, name="memory_limit", low=4096, high=1 << 60)
        self._firmware = firmware
        self._fw_kind = "none"
        self._symbols: dict[str, int] = {}
        self._devices_check(devices)
        self.console = Console(echo=echo, log=log, send=self._typed)
        try:
            opened = [self._open_disk(disk) for disk in self._sequence(disks, "disks")]
            self._disks = list(opened)
            parts = tuple(Part.of(device, self._disks) for device in devices)
            self._recipe = Recipe(self._config, len(opened), parts, {"core": core, "fences": fences})
            self._board = Board(self._config, disks=opened, devices=devices, memory_limit=limit, core=core,
                                on_exit=lambda kind, code: self._runner.on_exit(kind, code))
            self._board.core.check_fences = fences == "check"
            self._missing_fences: list[MissingFence] = []
            self._runner = Runner(self._board, self.console)
            self._exits = Exits(self._runner.taps)
            self._publishers: list[Callable[[Level], Iterable[Guest]]] = []
        except BaseException:
            self._release()
            raise
        regions = [(RAM_BASE, self._config.ram, "ram", True)]
        if self._board.rom is not None:
            regions.append((self._board.placed[0].bases[0], self._board.rom.regions[0].size, "rom", False))
        self._mem = Memory(_Physical(self), regions)
        self._harts = tuple(Hart(self._board.core, index, check=self._check, isa=self._config.isa,
                                 symbols=lambda: self._symbols, walk=self._walk) for index in range(self._config.harts))
        for index in range(self._config.harts):
            self._board.core.hart(index).pc = RAM_BASE if self._board.rom is None else self._board.placed[0].bases[0]

    @staticmethod
    def _sequence(value: Any, name: str) -> list[Any]:
        if isinstance(value, (str, bytes, os.PathLike)) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{name}: {value!r} is not allowed; allowed: a list")
        return list(value)

    def _devices_check(self, devices: Any) -> None:
        for device in self._sequence(devices, "devices"):
            part = device.device if isinstance(device, Placed) else device
            if not isinstance(part, Device):
                raise ConfigError(f"devices: {device!r} is not allowed; allowed: a Device or "
                                  "Placed(device, bases, irqs)")

    def _open_disk(self, disk: Any) -> Disk:
        if isinstance(disk, Disk):
            return disk
        if not isinstance(disk, (str, os.PathLike)):
            raise ConfigError(f"disks: {disk!r} is not allowed; allowed: a path or a Disk")
        opened = Disk(disk)
        self._own_disks.append(opened)
        return opened

    @property
    def missing_fences(self) -> list[MissingFence]:
        """What a machine with fences="check" has noted, oldest first; at most 256 between two looks, 10,000 in all."""
        self._missing_fences += take_fences(self._parts().core)
        del self._missing_fences[10_000:]
        return list(self._missing_fences)

    # -- who may touch it, and when
    def _check(self) -> None:
        if self._closed:
            raise ClosedError("this machine is closed; make a new one")
        if self._awaited:
            raise MachineBusy("this fork is made at its parent's next instruction boundary, when the callback that "
                              "asked for it is over")
        if self._runner_thread is not None and not (self._in_hook and self._runner_thread == threading.get_ident()):
            raise MachineBusy("this machine is running; only stop(), console.send() and repr() may be used meanwhile")

    def _parts(self) -> Board:
        self._check()
        return self._board

    @contextmanager
    def _running(self, doing: str = "run") -> Iterator[None]:
        with self._lock:
            if self._closed or self._awaited:
                self._check()
            if self._runner_thread is not None:
                raise MachineBusy(f"{doing}: this machine is running already; stop() it first")
            self._runner.stop_asked = False  # from here on stop() counts
            self._runner_thread = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._runner_thread = None
                self._runner.accept_input()

    def _ask(self, test: Callable[[Any], object], *, at_boundary: bool = False) -> bool:
        self._in_hook, self._at_boundary = True, at_boundary
        try:
            return bool(test(self))
        finally:
            self._in_hook = self._at_boundary = False

    def _walk(self, hart: Hart, va: int, **how: Any) -> Walk:
        transformed = self._config.htinst == "transformed"
        return explain(hart, va, devices=lambda: self._board.map, transformed=transformed, **how)

    def _typed(self, data: bytes) -> None:
        if self._closed:
            raise ClosedError("this machine is closed; there is nobody to type to")
        self._runner.pending.append(data)
        with self._lock:
            if self._runner_thread is None:
                self._runner.accept_input()

    # -- programs
    def load(self, program: Source | None = None, *, kernel: Source | None = None, initrd: Source | None = None,
             cmdline: str = "", firmware: Source | None = None, dtb: Source | None = None,
             at: int | None = None) -> Machine:
        """Load what the machine starts with, and return the machine.

        `program` starts in M-mode at its entry with a0 = hart, a1 = device tree. `kernel` starts in S-mode, by the
        built-in SBI or by an M-mode `firmware` image; it may come with `initrd` and `cmdline`. `dtb` replaces the
        device tree made from the parts. `at` is the address of a flat program or kernel. Files are ELF, Linux Image or
        flat, plain, gzip or zstd, as paths or bytes. Raises LoadError for what is wrong with a file, and for overlaps.
        """
        board = self._parts()
        if board.core.icount:
            raise LoadError(f"load: the machine has run to icount {board.core.icount}; allowed: before the first run. "
                            "Write to vm.mem instead, or make a new machine")
        Boot(self, board).load(program=program, kernel=kernel, initrd=initrd, cmdline=cmdline,
                               firmware=self._firmware if firmware is None else firmware, dtb=dtb, at=at)
        return self

    # -- running
    def run(self, *, until: Any = None, instructions: int | None = None, timeout: float | None = None,
            check: bool = True) -> Stop:
        """Run, and return the Stop.

        `until` is console text, a compiled regular expression, at(...), trap(...), when(...), a callable, or several
        joined by `|`. `instructions` counts in icount, `timeout` in host seconds. If the run ends before `until` is met
        NotReached is raised, with `.stop`; check=False returns the Stop instead. Ctrl-C raises KeyboardInterrupt
        between two instructions; another run goes on from there.
        """
        wanted = None if until is None else condition(until)
        count = None if instructions is None else integer(instructions, name="instructions", low=0, high=1 << 62)
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or
                                    not 0 <= timeout < float("inf")):
            raise ConfigError(f"timeout: {timeout!r} is not allowed; allowed: host seconds, 0 and up")
        return self._run(wanted, count, timeout, check)

    def _run(self, until: Condition | None, count: int | None, timeout: float | None, check: bool,
             cancelled: Callable[[], bool] | None = None) -> Stop:
        with self._running():
            limit = None if count is None else self._board.core.icount + count
            stop = self._runner.run(until=until, limit=limit, seconds=timeout, machine=self, cancelled=cancelled)
            self.console.flush()
        if until is not None and check and stop.reason is not StopReason.UNTIL:
            raise NotReached(self._not_reached(until, stop), stop)
        return stop

    def _not_reached(self, until: Condition, stop: Stop) -> str:
        tail = self.console.tail()
        shown = f"; the console's last lines:\n{tail}" if tail else "; nothing was printed on the console"
        return f"{until} was not reached: {stop}{shown}"

    def step(self, n: int = 1) -> Stop:
        """Run n instructions; the same as run(instructions=n)."""
        return self.run(instructions=integer(n, name="step: n", low=0, high=1 << 62))

    def stop(self) -> None:
        """Ask a running machine, from any thread, to stop: its run() returns STOPPED. One at rest takes no notice."""
        if not self._closed and self._runner_thread is not None:
            self._runner.ask_stop()

    async def run_async(self, *, until: Any = None, instructions: int | None = None, timeout: float | None = None,
                        check: bool = True) -> Stop:
        """Run in another thread, as `run` does. Cancelling stops the machine between two instructions; it can go on."""
        wanted = None if until is None else condition(until)
        count = None if instructions is None else integer(instructions, name="instructions", low=0, high=1 << 62)
        asked = threading.Event()
        import asyncio  # a third of the time that importing this module takes

        task = asyncio.get_running_loop().run_in_executor(
            None, lambda: self._run(wanted, count, timeout, check, asked.is_set))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            asked.set()
            self.stop()
            await asyncio.wait([task])
            task.exception()  # what the stopped run raised has no one to go to
            raise

    # -- traps
    def on_trap(self, function: Callable[[Trap], object] | None = None, *, level: int | Level | None = None,
                cause: int | str | Iterable[int | str] | None = None, from_: str | Iterable[str] | None = None,
                to: str | Iterable[str] | None = None) -> Any:
        """Call a function with each trap, right behind its delivery: a decorator, or a call that returns the Hook.

        Filters: `level` 1 or 2 that traps, or a Level of `vm.levels`; `cause` as in mcause or the manual's name; the
        worlds that it comes `from_` and goes `to`; lists mean any of theirs. The function may look at the machine and
        change it. What it raises leaves `run()`, and the machine can go on. `hook.remove()`, or leaving `with hook:`,
        ends it. A call to the built-in firmware is seen before it is answered.
        """
        self._parts()
        taps = self._runner.taps
        wanted = Filter.of(level=level, cause=cause, from_=from_, to=to, hyp=taps.hyp, name="on_trap")

        def hook(function: Callable[[Trap], object]) -> Hook:
            if not callable(function):
                raise ConfigError(f"on_trap: {function!r} is not allowed; allowed: a callable that takes a Trap")
            self._parts()
            return taps.hook(wanted, function)

        return hook if function is None else hook(function)

    def trace(self, path: str | os.PathLike[str] | None = None, *, keep: int = 100_000) -> Trace:
        """Trace traps and returns from now on: the last `keep` in memory, all of them in the file at `path`.

        The file is a timeline for ui.perfetto.dev; with the suffix .jsonl it has a record a line. `t.stop()` or leaving
        `with vm.trace() as t:` ends it; `t.save(path)` writes what is kept. Exits are counted meanwhile, too.
        """
        self._parts()
        return Trace(self._runner.taps, exits=self._exits, keep=integer(keep, name="trace: keep", low=0, high=1 << 30),
                     path=None if path is None else Path(path), ns=100 / self._config.ratio)

    @property
    def exits(self) -> Exits:
        """How often guests were left for their hypervisor, why and at what cost; `vm.exits.start()` counts."""
        self._parts()
        return self._exits

    @property
    def levels(self) -> Levels:
        """The levels of the nest that the machine's state shows: L0, L1, and the guests by hgatp."""
        self._parts()
        return Levels(self, self._publishers)

    def gdb(self, *, port: int = 0) -> GdbServer:
        """Let a debugger in: listen on this host, at any free port unless one is given; `target remote :PORT` in gdb.

        The debugger runs the machine while it is attached. `server.port` says where, `server.wait()` waits until it
        has detached, `server.close()` ends it. Raises HostError when the port is taken.
        """
        from pyvirt.gdb import GdbServer  # sockets and XML: only those who debug wait for them

        self._parts()
        return GdbServer(self, port=port)

    def publish_levels(self, reader: Callable[[Level], Iterable[Guest]]) -> None:
        """Let `vm.levels` show deeper levels: `reader(level)` returns the Guests that it finds in a level's memory.

        Only a hypervisor knows its guests' guests; who knows its data structures, or wrote it, says so here.
        """
        if not callable(reader):
            raise ConfigError(f"publish_levels: {reader!r} is not allowed; allowed: a callable that takes a Level")
        self._publishers.append(reader)

    # -- history
    @property
    def history(self) -> History[Snapshot]:
        """The tree of snapshots that this machine is part of."""
        return self._history

    def snapshot(self, name: str | None = None) -> Snapshot:
        """Take a snapshot of this moment, a new node of the history below the one that the machine came from.

        From a callback in the middle of an instruction it is taken at the next instruction boundary; until then its
        content can't be asked for. Raises SnapshotError when a disk has mode="direct".
        """
        check_disks(self._disks)
        node = Snapshot(recipe=self._recipe_now(), build=revive, parent=self._history.current, name=name)
        self._soon(lambda: self._record(node), "snapshot")
        return node

    def fork(self, *, entropy: Entropy = "same") -> Machine:
        """Return a new machine that goes on from this moment, as `snapshot().fork()` does, without leaving a node.

        From a callback in the middle of an instruction the fork can be used when the callback is over.
        """
        check_disks(self._disks)
        seed = entropy_bytes(entropy)
        node = Snapshot(recipe=self._recipe_now(), build=revive, parent=None)
        twin = blank(node._recipe, [disk.image().disk() for disk in self._disks], self._history.current)
        twin._awaited = True

        def make() -> None:
            node._fill(self._take())
            twin._awaited = False
            twin._adopt(node)
            if seed is not None:
                twin._reseed(seed)

        try:
            self._soon(make, "fork")
        except BaseException:
            twin._awaited = False
            twin.close()
            raise
        return twin

    def restore(self, snap: Snapshot) -> Machine:
        """Go to a snapshot's moment, and return the machine. What came later stays where the history has it.

        The snapshot may be of any machine made alike. Translations and code of untouched pages stay warm.
        """
        if not isinstance(snap, Snapshot):
            raise ConfigError(f"restore: {snap!r} is not allowed; allowed: a Snapshot")
        self._check()
        check_alike(self._recipe, snap._recipe, "restore")
        check_disks(self._disks)
        snap._proven()
        with self._running("restore"):
            self._adopt(snap)
            self._history.go(snap)
        return self

    def _soon(self, action: Callable[[], None], doing: str) -> None:
        """Do something now if the machine is at rest or asks at a boundary, else at the next boundary."""
        if self._runner_thread == threading.get_ident():
            if self._at_boundary:
                action()
            else:
                self._runner.defer(action)
            return
        with self._running(doing):
            action()

    def _record(self, node: Snapshot) -> None:
        node._fill(self._take())
        self._history.add(node)

    def _recipe_now(self) -> Recipe:
        self._check_open()
        return self._recipe._replace(host={**self._recipe.host, "memory_limit": self._board.ram.limit * 4096 or None})

    def _check_open(self) -> None:
        if self._closed or self._awaited:
            self._check()

    def _take(self) -> Content:
        runner = self._runner
        if runner.hypervisor is not None:
            raise SnapshotError(f"snapshot: {runner.hypervisor!r} stands in the place of HS-mode software, and a fork "
                                "can't have one of its own yet; expected a guest without a Python hypervisor")
        runner.collect()
        outside = Outside(
            console=self.console.state, ended=runner.ended, typed=bytes(runner.typed),
            htif=runner.htif.state if runner.htif is not None else None, firmware=self._fw_kind,
            sbi=runner.sbi is not None, symbols=self._symbols, ranges=self._board.placement.ranges,
            inputs=runner.inputs, position=len(runner.inputs))
        return take(self._board, self._disks, outside)

    def _adopt(self, snap: Snapshot) -> None:
        """Hold what a snapshot does."""
        content = snap._held()
        runner, outside = self._runner, content.outside
        runner.collect()
        runner.taps.drain()
        put(self._board, self._disks, content, checked=snap._checked)
        self.console.state = outside.console
        runner.ended, runner.typed = outside.ended, bytearray(outside.typed)
        runner.inputs = list(outside.inputs[:outside.position])
        self._fw_kind, self._symbols = outside.firmware, outside.symbols
        self._board.placement.ranges = outside.ranges
        if outside.sbi != (runner.sbi is not None):
            runner.sbi = Boot.sbi(runner) if outside.sbi else None
            self._board.core.builtin_sbi = outside.sbi
        if outside.htif is None:
            if runner.htif is not None:
                runner.htif = None
                self._board.core.watch(None)
        else:
            if runner.htif is None or runner.htif.state[:2] != outside.htif[:2]:
                runner.htif = Boot.htif(runner, *outside.htif[:2])
            runner.htif.reading = outside.htif[2]

    def _reseed(self, seed: bytes) -> None:
        """Give the guest other entropy from here on, as an input."""
        runner = self._runner
        taken = [device for device in self._board.devices if device.reseed(seed)]
        if not taken:
            raise ConfigError("entropy: this machine has no device by which other entropy could reach the guest; "
                              "allowed: entropy='same', or a machine with board='virt-1'")
        runner.inputs.append(Input(self._board.core.icount, "entropy", seed))

    # -- looking
    @property
    def config(self) -> Config:
        """What the machine is made of."""
        return self._config

    @property
    def isa(self) -> str:
        """The resolved ISA string."""
        return self._config.isa

    @property
    def hart(self) -> Hart:
        """The first hart."""
        return self._harts[0]

    @property
    def harts(self) -> tuple[Hart, ...]:
        return self._harts

    @property
    def mem(self) -> Memory:
        """Physical memory: RAM and ROM."""
        return self._mem

    @property
    def bus(self) -> Bus:
        """Device registers, by physical address."""
        return Bus(self)

    @property
    def devices(self) -> list[Device]:
        """The devices, in the order in which they were wired."""
        return self._parts().devices

    @property
    def icount(self) -> int:
        """Instructions attempted by all harts plus idle skips, since power-on."""
        return self._parts().core.icount

    @property
    def time(self) -> int:
        """The guest's time in ticks of 10 MHz."""
        return self._parts().core.time

    @property
    def core(self) -> str:
        """Which core runs: "threaded" or "switch". Nothing in the guest depends on it."""
        return self._board.core.core

    @property
    def symbols(self) -> Mapping[str, int]:
        """Symbols of what was loaded; more can be added."""
        return self._symbols

    @property
    def ranges(self) -> tuple[Range, ...]:
        """What was loaded where."""
        return self._parts().placement.ranges

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What entered the machine from outside, with the icount at which it did."""
        return tuple(self._runner.inputs)

    @property
    def memory_limit(self) -> int | None:
        """Bytes of host memory that the guest's RAM may take, None for no limit; may be raised at any stop."""
        frames = self._parts().ram.limit
        return frames * 4096 if frames else None

    @memory_limit.setter
    def memory_limit(self, value: SupportsIndex | str | None) -> None:
        frames = 0 if value is None else parse_size(value, name="memory_limit", low=4096, high=1 << 60) // 4096
        self._parts().ram.limit = frames

    def digest(self) -> str:
        """Return the digest of the machine's content, 64 hexadecimal digits; digest.py says what it covers."""
        board = self._parts()
        runner = self._runner
        extra: dict[str, Any] = {"firmware": self._fw_kind, "htif": runner.htif.state if runner.htif else None,
                                 "typed": runner.typed}
        if runner.hypervisor is not None:
            extra["hypervisor"] = runner.hypervisor.state
        return machine_digest(board, ended=runner.ended, extra=extra).hex()

    # -- the end
    @property
    def closed(self) -> bool:
        return self._closed

    def _release(self) -> None:
        for disk in self._own_disks:
            disk.close()
        self.console.close()

    def close(self) -> None:
        """Give back memory, files and locks. Closing twice is fine; a running machine raises MachineBusy."""
        with self._lock:
            if self._closed:
                return
            if self._runner_thread is not None:
                raise MachineBusy("this machine is running; stop() it before close()")
            self._closed = True
        self._history.clear()
        self._board.close()
        self._release()

    def __enter__(self) -> Machine:
        self._check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Machine can't be pickled or copied: it owns memory, files and a thread's attention; "
                        "pickle vm.snapshot(), whose fork() is the machine again")

    def __repr__(self) -> str:
        c = self._config
        state = "closed" if self._closed else f"icount={self._board.core.icount}"
        if self._runner_thread is not None:
            state = "running"
        return f"<Machine {c.board} {c.harts} hart{'s' if c.harts > 1 else ''} {show_size(c.ram)} {state}>"


def blank(recipe: Recipe, disks: list[Disk], origin: Snapshot | None) -> Machine:
    """Return a machine made as a recipe says, on the disks given, which it owns; its history begins at `origin`."""
    c = recipe.config
    vm = Machine(
        isa=c.isa, harts=c.harts, ram=c.ram, disks=disks[:recipe.disks], devices=[p.make(disks) for p in recipe.parts],
        board=c.board, clock=c.clock, seed=c.seed, htinst=c.htinst, vmid_bits=c.vmid_bits, hgeie=c.hgeie,
        g_modes=c.g_modes if "h" in c.isa.partition("_")[0][4:] else None, **recipe.host)
    vm._own_disks = list(disks)
    vm._history = History(origin=origin)
    return vm


def revive(snap: Snapshot) -> Machine:
    """Return a machine that goes on from a snapshot: what snapshots are given to make their forks with."""
    vm = blank(snap._recipe, [image.disk() for image in snap._held().disks], snap)
    try:
        vm._adopt(snap)
    except BaseException:
        vm.close()
        raise
    return vm


Snapshot._reviver = staticmethod(lambda: revive)  # type: ignore[method-assign]

__all__ = ["Bus", "Machine"]
