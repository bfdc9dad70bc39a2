"""Machine: parts in, wired by the board; programs loaded; run, stepped, typed to and looked at.

A facade that delegates: the tenant owns what the machine is and who may touch it when, the board the parts, run.py the
loop, hart.py, memory.py and bus.py the views. What is decided here is what users may ask for, and what they get.
"""
from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from pyvirt._hart import choose_core
from pyvirt.board import BOARDS, RAM_BASE, Board
from pyvirt.bus import Bus, Physical
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
from pyvirt.disks.disk import Disk
from pyvirt.errors import ConfigError, LoadError, NotReached
from pyvirt.explain.exits import Exits
from pyvirt.explain.fences import MissingFence
from pyvirt.explain.fences import take as take_fences
from pyvirt.explain.levels import Guest, Level, Levels
from pyvirt.explain.trace import Filter, Hook, Trace
from pyvirt.explain.walk import Walk
from pyvirt.explain.walker import explain
from pyvirt.fdt import Placed
from pyvirt.firmware.boot import Boot
from pyvirt.firmware.firmware import ROM_BASE, ROM_SIZE
from pyvirt.hart import Hart
from pyvirt.history.history import History
from pyvirt.history.shell import Shell
from pyvirt.history.snapshot import Entropy, Part, Recipe, Snapshot, check_alike, check_disks, entropy_bytes
from pyvirt.history.tenant import Tenant, Typist, frames, limit_of
from pyvirt.images.placement import Range
from pyvirt.images.unpack import Source
from pyvirt.memory import Memory
from pyvirt.run import Driver, Runner
from pyvirt.stop import Condition, Input, Stop, StopReason, Trap, condition

if TYPE_CHECKING:
    from pyvirt.gdb import GdbServer
    from pyvirt.nesting.hypervisor import Hypervisor

U64 = (1 << 64) - 1


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
        self._devices_check(devices)
        own: list[Disk] = []
        console = Console(echo=echo, log=log)
        try:
            wired = [self._open_disk(disk, own) for disk in self._sequence(disks, "disks")]
            every = list(wired)
            parts = tuple(Part.of(device, every) for device in devices)
            recipe = Recipe(self._config, len(wired), parts, {"core": core, "fences": fences, "memory_limit": limit})
            tenant = Tenant(recipe, limit=limit, console=console)
            shell = Shell(recipe, disks=every, devices=devices, own=own, memory_limit=limit)
        except BaseException:
            for disk in own:
                disk.close()
            console.close()
            raise
        console._send = Typist(tenant.ref)
        shell.runner.console = console
        # What is the user's own object stays this machine's.
        tenant.pinned = bool(parts) or len(own) < len(wired) or fences == "check"
        tenant.settle(shell)
        self._set_up(tenant, None)
        for hart in shell.harts:
            hart.pc = RAM_BASE if shell.board.rom is None else ROM_BASE

    def _set_up(self, tenant: Tenant, origin: Snapshot | None) -> None:
        """Be the face of a tenant; the history begins at `origin`."""
        self._tenant, self._origin = tenant, origin
        tenant.face = weakref.ref(self)
        self._config = tenant.recipe.config
        self._the_history: History[Snapshot] | None = None
        self._the_harts: tuple[Hart, ...] | None = None
        self._the_exits: Exits | None = None
        self._publishers: list[Callable[[Level], Iterable[Guest]]] = []

    @classmethod
    def _of(cls, tenant: Tenant, origin: Snapshot | None) -> Machine:
        self = cls.__new__(cls)
        self._firmware = "builtin"
        self._set_up(tenant, origin)
        return self

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

    @staticmethod
    def _open_disk(disk: Any, own: list[Disk]) -> Disk:
        if isinstance(disk, Disk):
            return disk
        if not isinstance(disk, (str, os.PathLike)):
            raise ConfigError(f"disks: {disk!r} is not allowed; allowed: a path or a Disk")
        opened = Disk(disk)
        own.append(opened)
        return opened

    @property
    def missing_fences(self) -> list[MissingFence]:
        """What a machine with fences="check" has noted, oldest first; at most 256 between two looks, 10,000 in all."""
        tenant = self._tenant
        with tenant as shell:
            tenant.missing_fences += take_fences(shell.core)
        del tenant.missing_fences[10_000:]
        return list(tenant.missing_fences)

    # -- who may touch it, and when
    def _parts(self) -> Board:
        """Return the parts, for good: whoever holds one of them must not find it another machine's."""
        return self._tenant.pin().board

    @property
    def _board(self) -> Board:
        return self._parts()

    @property
    def _runner(self) -> Runner:
        return self._tenant.pin().runner

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The disks, in the order of /dev/vda, /dev/vdb ..., then those of devices given."""
        return tuple(self._disks)

    @property
    def _disks(self) -> list[Disk]:
        return self._tenant.pin().disks

    @property
    def hypervisor(self) -> Hypervisor | None:
        """The Hypervisor that stands in the place of HS-mode software, None without; a fork has one of its own."""
        return self._hypervisor  # type: ignore[return-value]

    @property
    def _hypervisor(self) -> Driver | None:
        with self._tenant as shell:
            return shell.runner.hypervisor

    @contextmanager
    def _running(self, doing: str = "run") -> Iterator[Shell]:
        shell = self._tenant.begin(doing)
        try:
            yield shell
        except BaseException:
            shell.broken_off = True
            raise
        finally:
            self._tenant.end()

    def _ask(self, test: Callable[[Any], object], *, at_boundary: bool = False) -> bool:
        return self._tenant.ask(test, self, at_boundary=at_boundary)

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
        with self._tenant as shell:
            if shell.core.icount:
                raise LoadError(f"load: the machine has run to icount {shell.core.icount}; allowed: before the first "
                                "run. Write to vm.mem instead, or make a new machine")
            Boot(self._tenant, shell.board, shell.runner).load(
                program=program, kernel=kernel, initrd=initrd, cmdline=cmdline,
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
        with self._running() as shell:
            limit = None if count is None else shell.core.icount + count
            stop = shell.runner.run(until=until, limit=limit, seconds=timeout, machine=self, cancelled=cancelled)
            self._tenant.console.flush()
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
        self._tenant.stop()

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
        return Trace(self._runner.taps, exits=self.exits, keep=integer(keep, name="trace: keep", low=0, high=1 << 30),
                     path=None if path is None else Path(path), ns=100 / self._config.ratio)

    @property
    def exits(self) -> Exits:
        """How often guests were left for their hypervisor, why and at what cost; `vm.exits.start()` counts."""
        taps = self._runner.taps
        if self._the_exits is None:
            self._the_exits = Exits(taps)
        return self._the_exits

    @property
    def levels(self) -> Levels:
        """The levels of the nest that the machine's state shows: L0, L1, and the guests by hgatp."""
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
        if self._the_history is None:
            self._the_history = History(origin=self._origin)
        return self._the_history

    def snapshot(self, name: str | None = None) -> Snapshot:
        """Take a snapshot of this moment, a new node of the history below the one that the machine came from.

        From a callback in the middle of an instruction it is taken at the next instruction boundary; until then its
        content can't be asked for. Raises SnapshotError when a disk has mode="direct".
        """
        self._check_disks()
        node = Snapshot(recipe=self._recipe_now(), build=revive, parent=self.history.current, name=name)
        self._soon(lambda: self._record(node), "snapshot")
        return node

    def fork(self, *, entropy: Entropy = "same") -> Machine:
        """Return a new machine that goes on from this moment, as `snapshot().fork()` does, without leaving a node.

        From a callback in the middle of an instruction the fork can be used when the callback is over.
        """
        self._check_disks()
        seed = entropy_bytes(entropy)
        recipe = self._recipe_now()
        tenant = Tenant(recipe, limit=limit_of(recipe.host))
        twin = Machine._of(tenant, self.history.current)
        tenant.awaited = True

        def make() -> None:
            base = self._tenant.base
            tenant.adopt(self._tenant.take(), base=None if base is None else base())
            tenant.awaited = False
            if seed is not None:
                twin._reseed(seed)

        try:
            self._soon(make, "fork")
        except BaseException:
            tenant.awaited = False
            twin.close()
            raise
        return twin

    def restore(self, snap: Snapshot) -> Machine:
        """Go to a snapshot's moment, and return the machine. What came later stays where the history has it.

        The snapshot may be of any machine made alike. Translations and code of untouched pages stay warm.
        """
        if not isinstance(snap, Snapshot):
            raise ConfigError(f"restore: {snap!r} is not allowed; allowed: a Snapshot")
        tenant = self._tenant
        tenant.check()
        check_alike(tenant.recipe, snap._recipe, "restore")
        self._check_disks()
        content = snap._proven()
        with self._running("restore"):
            tenant.go(content)
            tenant.base = weakref.ref(content.root)
            self.history.go(snap)
        return self

    def _check_disks(self) -> None:
        """Raise SnapshotError when a disk can't be kept: only one of the user's own can be such."""
        shell = self._tenant.shell
        if shell is not None:
            check_disks(shell.disks)

    def _soon(self, action: Callable[[], None], doing: str) -> None:
        """Do something now if the machine is at rest or asks at a boundary, else at the next boundary."""
        tenant = self._tenant
        if tenant.thread == threading.get_ident():
            shell = tenant.shell
            assert shell is not None
            if tenant.at_boundary:
                action()
            else:
                shell.runner.defer(action)
            return
        with tenant.lock:
            tenant.check()
            action()

    def _record(self, node: Snapshot) -> None:
        content = self._tenant.take()
        node._fill(content)
        self._tenant.base = weakref.ref(content.root)
        self.history.add(node)

    def _recipe_now(self) -> Recipe:
        tenant = self._tenant
        if tenant.closed or tenant.awaited:
            tenant.check()
        recipe = tenant.recipe
        if limit_of(recipe.host) != tenant.limit:
            recipe = tenant.recipe = recipe._replace(host={**recipe.host, "memory_limit": tenant.limit})
        return recipe

    def _prove(self) -> tuple[Any, ...]:
        """Check that what this one is to go on from can be: make a machine of it in full. Raises what it finds.

        Returns the states of the devices as snapshots hold them: those of a file are not packed.
        """
        tenant = self._tenant
        c, content, recipe = tenant.recipe.config, tenant.take(), tenant.recipe
        disks = [image.disk() for image in content.disks]
        with Machine(
                isa=c.isa, harts=c.harts, ram=c.ram, disks=disks[:recipe.disks],
                devices=[part.make(disks) for part in recipe.parts], board=c.board, clock=c.clock, seed=c.seed,
                htinst=c.htinst, vmid_bits=c.vmid_bits, hgeie=c.hgeie,
                g_modes=c.g_modes if "h" in c.isa.partition("_")[0][4:] else None, **recipe.host) as vm:
            if vm.config != c:
                raise ValueError(f"it has {c}, which makes {vm.config}")
            with vm._tenant as shell:
                shell.board.ram.restore(content.root)
                shell.put(content, checked=False)
                shell.move_in(content.outside, vm.console)
                return tuple(slot.take() for slot in shell.slots)

    def _reseed(self, seed: bytes) -> None:
        """Give the guest other entropy from here on, as an input."""
        with self._tenant as shell:
            taken = [device for device in shell.board.devices if device.reseed(seed)]
            if not taken:
                raise ConfigError("entropy: this machine has no device by which other entropy could reach the guest; "
                                  "allowed: entropy='same', or a machine with board='virt-1'")
            for device in taken:
                device.touch()
            shell.runner.inputs.append(Input(shell.core.icount, "entropy", seed))

    # -- looking
    @property
    def console(self) -> Console:
        """What the guest printed, and what is typed to it."""
        return self._tenant.console

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
        return self.harts[0]

    @property
    def harts(self) -> tuple[Hart, ...]:
        if self._the_harts is None:
            tenant = self._tenant
            self._the_harts = tuple(
                Hart(tenant, index, isa=self._config.isa, symbols=lambda: tenant.symbols,
                     walk=lambda hart, va, **how: walk(tenant, hart, va, **how)) for index in range(self._config.harts))
        return self._the_harts

    @property
    def mem(self) -> Memory:
        """Physical memory: RAM and ROM."""
        regions = [(RAM_BASE, self._config.ram, "ram", True)]
        if self._config.board != "bare":
            regions.append((ROM_BASE, ROM_SIZE, "rom", False))
        return Memory(Physical(self._tenant), regions)

    @property
    def bus(self) -> Bus:
        """Device registers, by physical address."""
        return Bus(self._tenant)

    @property
    def devices(self) -> list[Device]:
        """The devices, in the order in which they were wired."""
        return self._parts().devices

    @property
    def icount(self) -> int:
        """Instructions attempted by all harts plus idle skips, since power-on."""
        with self._tenant as shell:
            return shell.core.icount

    @property
    def time(self) -> int:
        """The guest's time in ticks of 10 MHz."""
        with self._tenant as shell:
            return shell.core.time

    @property
    def core(self) -> str:
        """Which core runs: "threaded" or "switch". Nothing in the guest depends on it."""
        return self._tenant.recipe.host["core"] or choose_core()[0]

    @property
    def symbols(self) -> Mapping[str, int]:
        """Symbols of what was loaded; more can be added."""
        return self._tenant.symbols

    @property
    def ranges(self) -> tuple[Range, ...]:
        """What was loaded where."""
        with self._tenant as shell:
            return shell.board.placement.ranges

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What entered the machine from outside, with the icount at which it did."""
        return self._tenant.inputs

    @property
    def memory_limit(self) -> int | None:
        """Bytes of host memory that the guest's RAM may take, None for no limit; may be raised at any stop."""
        tenant = self._tenant
        tenant.check()
        return None if tenant.limit is None else frames(tenant.limit) * 4096

    @memory_limit.setter
    def memory_limit(self, value: SupportsIndex | str | None) -> None:
        limit = None if value is None else parse_size(value, name="memory_limit", low=4096, high=1 << 60)
        with self._tenant as shell:
            self._tenant.limit = limit
            shell.board.ram.limit = frames(limit)

    def digest(self) -> str:
        """Return the digest of the machine's content, 64 hexadecimal digits; digest.py says what it covers."""
        tenant = self._tenant
        with tenant as shell:
            runner = shell.runner
            extra: dict[str, Any] = {"firmware": tenant.firmware, "htif": runner.htif.state if runner.htif else None,
                                     "typed": runner.typed}
            if runner.hypervisor is not None:
                extra["hypervisor"] = runner.hypervisor.state
            return machine_digest(shell.board, ended=runner.ended, extra=extra).hex()

    # -- the end
    @property
    def closed(self) -> bool:
        return self._tenant.closed

    def close(self) -> None:
        """Give back memory, files and locks. Closing twice is fine; a running machine raises MachineBusy."""
        self._tenant.close()
        self._origin = None
        if self._the_history is not None:
            self._the_history.clear()

    def __enter__(self) -> Machine:
        self._tenant.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Machine can't be pickled or copied: it owns memory, files and a thread's attention; "
                        "pickle vm.snapshot(), whose fork() is the machine again")

    def __repr__(self) -> str:
        c = self._config
        tenant = self._tenant
        state = "closed" if tenant.closed else "running" if tenant.thread is not None else f"icount={tenant.icount}"
        return f"<Machine {c.board} {c.harts} hart{'s' if c.harts > 1 else ''} {show_size(c.ram)} {state}>"


def walk(tenant: Tenant, hart: Hart, va: int, **how: Any) -> Walk:
    """Explain a translation of a machine's hart."""
    def devices() -> list[tuple[int, int, str]]:
        with tenant as shell:
            return shell.board.map

    return explain(hart, va, devices=devices, transformed=tenant.recipe.config.htinst == "transformed", **how)


def revive(snap: Snapshot) -> Machine:
    """Return a machine that goes on from a snapshot: what snapshots are given to make their forks with."""
    content, recipe = snap._held(), snap._recipe
    tenant = Tenant(recipe, limit=limit_of(recipe.host))
    tenant.adopt(content, base=content.root)
    return Machine._of(tenant, snap)


Snapshot._reviver = staticmethod(lambda: revive)  # type: ignore[method-assign]

__all__ = ["Bus", "Machine"]
