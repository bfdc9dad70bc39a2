"""Snapshots: what is taken of a machine, how it is put back, and what two of them can be asked.

A snapshot shares the machine's frames and disk blocks; taking one copies the few kilobytes of state that are neither.
What a machine keeps around its board comes as an `Outside`. A machine is rebuilt by a callable that the snapshot was
given: nothing here knows the class Machine.
"""
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvirt._memory import Ram, Root
from pyvirt.assembly.csrnames import CSRS
from pyvirt.assembly.regnames import F_NAMES, X_NAMES
from pyvirt.board import RAM_BASE
from pyvirt.config import Config, show_size
from pyvirt.console import ConsoleState, clean
from pyvirt.devices.base import Device
from pyvirt.digest import encode
from pyvirt.disks.disk import Disk, DiskImage
from pyvirt.errors import ConfigError, MachineBusy, SnapshotError
from pyvirt.fdt import Placed
from pyvirt.files.values import DiskRef
from pyvirt.history.history import Node
from pyvirt.images.placement import Range

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from pyvirt._view import Hart
    from pyvirt.history.pagestore import Entry
    from pyvirt.history.snapmap import Shared
    from pyvirt.machine import Machine

PAGE = 4096
Entropy = int | str | bytes


class Part(NamedTuple):
    """A device that the board does not have by itself: how to make another, and where it was put if that was said."""

    cls: type[Device]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    bases: tuple[int, ...] | None
    irqs: tuple[int, ...] | None

    @classmethod
    def of(cls, given: Device | Placed, disks: list[Disk]) -> Part:
        """Describe a device; disks that it was made with join `disks`."""
        device = given.device if isinstance(given, Placed) else given
        bases, irqs = (tuple(given.bases), tuple(given.irqs)) if isinstance(given, Placed) else (None, None)
        args, kwargs = device.recipe

        def reference(value: Any) -> Any:
            if not isinstance(value, Disk):
                return value
            if not any(value is disk for disk in disks):
                disks.append(value)
            return DiskRef(next(i for i, disk in enumerate(disks) if disk is value))

        return cls(type(device), tuple(reference(a) for a in args), {k: reference(v) for k, v in kwargs.items()},
                   bases, irqs)

    def make(self, disks: Sequence[Disk]) -> Device | Placed:
        """Return a device like the one described, on the disks of another machine."""
        def resolve(value: Any) -> Any:
            return disks[value.at] if isinstance(value, DiskRef) else value

        device = self.cls(*(resolve(a) for a in self.args), **{k: resolve(v) for k, v in self.kwargs.items()})
        return device if self.bases is None else Placed(device, self.bases, self.irqs or ())


class Recipe(NamedTuple):
    """How a machine is made: its configuration, how many of its disks are the board's, devices, and host options."""

    config: Config
    disks: int
    parts: tuple[Part, ...]
    host: dict[str, Any]


class Outside(NamedTuple):
    """What a machine keeps around its board. `inputs` is shared and grows: the first `position` of them count."""

    console: ConsoleState
    ended: tuple[str, int] | None
    typed: bytes
    htif: list[Any] | None
    firmware: str
    sbi: bool
    symbols: dict[str, int]
    ranges: tuple[Range, ...]
    inputs: Sequence[Any]
    position: int
    hypervisor: Any = None      # a HyperPart, where one written in Python stands in the place of HS-mode software


class Content(NamedTuple):
    """What a snapshot holds. A device's state is bytes (packed) or a dict of plain values."""

    core: bytes
    devices: tuple[Any, ...]
    root: Root
    disks: tuple[DiskImage, ...]
    icount: int
    outside: Outside


class Size(NamedTuple):
    """Bytes of RAM pages: `shared` with machines or other snapshots, and `own`, which deleting gives back.

    `disk` is how many bytes of blocks differ from the disks' files.
    """

    shared: int
    own: int
    disk: int

    def __str__(self) -> str:
        return f"{show_size(self.own)} own, {show_size(self.shared)} shared, {show_size(self.disk)} of disk blocks"


def plain(value: Any) -> Any:
    """Return a copy of plain values that shares nothing that can change."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return bytes(value) if isinstance(value, bytearray) else value


def check_disks(disks: Sequence[Disk]) -> None:
    """Raise SnapshotError naming the disk that a snapshot can't hold."""
    for disk in disks:
        if disk.mode != "overlay":
            raise SnapshotError(
                f"snapshot: disk {disk.path} has mode={disk.mode!r}: what is written to it goes to the file at once, "
                f"so that it can't be kept or gone back to; open it as Disk({str(disk.path)!r}, mode='overlay')")


# ---- the node ----------------------------------------------------------------------------------------------------
class Snapshot(Node):
    """One moment of a machine, which never changes: a node of its history. Made by `vm.snapshot()`.

    `fork()` makes a machine that goes on from here; `vm.restore(snap)` takes a machine back. `name`, `note` and tags
    are labels and may change. A pickled snapshot holds all its pages, and no place in a tree; `share()` gives
    workers on this host a smaller one.
    """

    def __init__(self, *, recipe: Recipe, build: Callable[[Snapshot], Machine], parent: Snapshot | None = None,
                 name: str | None = None, content: Content | None = None, checked: bool = True) -> None:
        super().__init__(parent=parent, name=name)
        self._recipe, self._build = recipe, build
        self._content = content
        self._checked = checked
        self._digest: str | None = None
        self._seen: tuple[Any, ...] | None = None
        self._file: bytes | None = None     # the id of a file that holds the same
        self._kept: tuple[Any, ...] = ()    # sections of it that this version does not know
        self._shared: Entry | None = None       # its place in the page store, once other processes were given it

    @classmethod
    def _made(cls, recipe: Recipe, build: Callable[[Snapshot], Machine], content: Content,
              labels: tuple[Any, ...]) -> Snapshot:
        """Make a snapshot of parts that came from elsewhere, and that may lie."""
        name, note, tags, host_time = labels
        snap = cls(recipe=recipe, build=build, name=name, content=content, checked=False)
        snap.note, snap.host_time = note, host_time
        return snap.tag(*tags)

    def _labels(self) -> tuple[Any, ...]:
        return self.name, self.note, sorted(self.tags), self.host_time

    def _fill(self, content: Content) -> None:
        self._content = content

    def _held(self) -> Content:
        """Return the content; ClosedError after `delete`, MachineBusy before the moment has come."""
        self._alive()
        if self._content is None:
            raise MachineBusy(f"snapshot {self.label} is taken at the next instruction boundary, when the callback "
                              "that asked for it is over")
        return self._content

    def _proven(self) -> Content:
        """Return the content once it is known that a machine can be in this state: what was unpickled may lie."""
        content = self._held()
        if not self._checked:
            try:
                content = self._content = content._replace(devices=self._build(self)._prove())
            except (ValueError, TypeError, LookupError) as error:
                raise SnapshotError(
                    f"snapshot {self.label} holds a state that no machine can be in: {error}") from error
            self._checked = True
        return content

    # -- what it is
    @property
    def config(self) -> Config:
        """What the machine is made of."""
        return self._recipe.config

    @property
    def icount(self) -> int:
        """Where in time it was taken."""
        return self._held().icount

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What had entered the machine from outside until then."""
        outside = self._held().outside
        return tuple(outside.inputs[:outside.position])

    @property
    def position(self) -> int:
        """How many inputs had entered the machine."""
        return self._held().outside.position

    @property
    def text(self) -> str:
        """What the console had shown."""
        return clean(self._held().outside.console.transcript)

    @property
    def size(self) -> Size:
        """Bytes of memory held: shared with others, and own."""
        content = self._held()
        own = content.root.own
        blocks = sum(image.changed_blocks for image in content.disks)
        return Size((content.root.resident - own) * PAGE, own * PAGE, blocks * PAGE)

    @property
    def digest(self) -> str:
        """The machine's digest at that moment, 64 hexadecimal digits; it is computed once, when it is asked for."""
        if self._digest is None:
            with self.fork() as vm:
                self._digest = vm.digest()
        self._alive()
        return self._digest

    def verify(self) -> None:
        """Check that the snapshot is what it was: state, pages, and the files under its disks.

        The first call notes digests of what has none yet. Raises SnapshotError for pages or state that changed, which
        is a fault of the host or of this program, and HostError for a disk's file.
        """
        content = self._held()
        for image in content.disks:
            image.verify()
        bad = content.root.verify()
        if bad:
            shown = ", ".join(f"{page << 12:#x}" for page in bad[:8]) + (" ..." if len(bad) > 8 else "")
            raise SnapshotError(f"snapshot {self.label}: {len(bad)} pages are not what they were: {shown}")
        before, self._digest = self._digest, None
        if before not in (None, self.digest):
            self._digest, now = before, self._digest
            raise SnapshotError(f"snapshot {self.label}: the digest was {before}, found {now}")

    # -- what is made of it
    def fork(self, *, entropy: Entropy = "same") -> Machine:
        """Return a new machine that goes on from here, sharing every page until one side writes it.

        `entropy="same"` makes a twin to the bit. "fresh", or a seed (int or bytes), gives the guest other random
        numbers from here on, through the devices that can: the board's generation ID, which Linux heeds at once, and
        a VirtioRng. ConfigError when there is none (board "bare").
        """
        seed = entropy_bytes(entropy)
        self._proven()
        vm = self._build(self)
        if seed is not None:
            vm._reseed(seed)
        return vm

    def forks(self, n: int, *, entropy: Entropy = "same") -> list[Machine]:
        """Return `n` forks. With a seed each gets entropy of its own, derived from the seed and its place."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ConfigError(f"forks: n is {n!r}; allowed: an int, 0 and up")
        seed = entropy_bytes(entropy)
        if entropy in ("same", "fresh") or seed is None:
            return [self.fork(entropy=entropy) for _ in range(n)]
        return [self.fork(entropy=derived(seed, i)) for i in range(n)]

    def map(self, fn: Callable[[Machine, Any], Any], inputs: Iterable[Any], *, executor: Executor | None = None,
            workers: int | None = None, entropy: Entropy = "same") -> list[Any]:
        """Call `fn(machine, input)` with a fork for each input, and return the results in the order of the inputs.

        Forks run in `workers` threads (default: one for each processor), or on an executor of concurrent.futures; to
        the workers of a process pool a page of this snapshot goes once. Each fork is closed when its call ends. With a
        seed as `entropy` each has its own, as in `forks`. The first input that fails, in their order, ends it all: its
        exception is raised as it is, with a note that names the input; inputs behind it are cancelled, and their
        machines in threads are stopped. ConfigError for a wrong option.
        """
        from pyvirt.history.snapmap import run

        return run(self, fn, inputs, executor=executor, workers=workers, entropy=entropy)

    def share(self) -> Shared:
        """Return what to hand to workers of a process pool in the snapshot's place: it arrives as a Snapshot.

        Its pickle is a ticket for a page store in this process's memory, from which a worker copies what it lacks; it
        is good as long as this process and the snapshot are there. The pickle of a Snapshot itself holds all pages.
        """
        from pyvirt.history.snapmap import Shared

        return Shared(self)

    def diff(self, other: Snapshot) -> Diff:
        """Return what differs between two snapshots: pages, blocks, registers, CSRs, device fields."""
        if not isinstance(other, Snapshot):
            raise ConfigError(f"diff: {other!r} is not allowed; allowed: a Snapshot")
        return Diff.of(self, other)

    # -- files
    def save(self, path: str | os.PathLike[str], *, parent: str | os.PathLike[str] | None = None,
             disks: str = "inside", sign: str | os.PathLike[str] | None = None, level: int = 3,
             within: Any = None) -> None:
        """Write the snapshot to a file, which is there as a whole or not at all.

        With `parent`, a file that another snapshot was saved to, only what differs from it is stored; the parent, and
        those it stands on, have to stay (`within` are folders where they may lie, default: the parent's own).
        `disks="inside"` stores all of the disks; "reference" stores what was written to them, and the name and digest
        of the images they stand on. `sign` is the path of an Ed25519 private key, `level` zstd's.
        """
        from pyvirt.files import savefile

        savefile.save(self, path, parent=parent, disks=disks, sign=sign, level=level, within=within)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify_key: str | os.PathLike[str] | None = None,
             devices: Sequence[type[Device]] = (), within: Any = None,
             disks: Sequence[str | os.PathLike[str] | None] = (), limit: int | str = "16G") -> Snapshot:
        """Return the snapshot in a file; pages are read, and checked, when they are first touched.

        `verify_key` is the path of the Ed25519 public key that it must be signed with. `devices` are classes of your
        own that it may use. Parents and images that it refers to have to lie in its own folder, or in one of `within`;
        `disks` names images to be used instead, by place. `limit` bounds what its pages may come to. Raises LoadError
        saying what is wrong with the file, or what of the machine this version can't give it.
        """
        from pyvirt.files import savefile

        return savefile.load(path, build=cls._reviver(), verify_key=verify_key, devices=devices, within=within,
                             disks=disks, limit=limit)

    @staticmethod
    def _reviver() -> Callable[[Snapshot], Machine]:
        """Return what makes machines of snapshots that come from a file; the module of Machine puts its own here."""
        raise SnapshotError("load: pyvirt.machine has not been imported; use pyvirt.Snapshot.load")

    def delete(self) -> None:
        """Take it out of the history and give back the memory that no one else uses; forks of it live on."""
        super().delete()
        self._content = self._seen = self._shared = None

    def _look(self) -> tuple[dict[str, Any], ...]:
        """Return registers, CSRs and device states as plain values."""
        if self._seen is None:
            with self.fork() as vm, vm._tenant as shell:
                core = shell.core
                harts = [core.hart(i) for i in range(core.harts)]
                registers = {f"hart{hart.id}.{name}": value for hart in harts for name, value in _registers(hart)}
                csrs = {f"hart{hart.id}.{name}": value for hart in harts for name, value in _csrs(hart)}
                fields: dict[str, Any] = {}
                for placed in shell.board.placed:
                    where = f"@{placed.bases[0]:x}" if placed.bases else ""
                    fields.update(_flat(f"{placed.device.name}{where}", plain(placed.device.state)))
                part = self._held().outside.hypervisor
                if part is not None:
                    fields.update(_flat(part.cls.__name__, part.state))
                self._seen = registers, csrs, fields
        return self._seen

    def __copy__(self) -> Snapshot:
        return self

    def __deepcopy__(self, memo: object) -> Snapshot:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        content = self._held()
        pages = list(content.root.pages())
        data = b"".join(content.root.read(page << 12, PAGE) for page in pages)
        outside = content.outside._replace(inputs=self.inputs)
        return _unpickle, (self._recipe, self._build, content._replace(root=None, outside=outside),  # type: ignore[arg-type]
                           pages, data, self._labels())

    def __repr__(self) -> str:
        if self.deleted:
            return f"<Snapshot {self.label} deleted>"
        if self._content is None:
            return f"<Snapshot {self.label} not taken yet>"
        return f"<Snapshot {self.label} icount={self._content.icount}>"

    def _line(self) -> str:
        at = "deleted" if self.deleted else "not taken yet" if self._content is None else f"{self._content.icount:,}"
        first, _, rest = super()._line().partition("  ")
        return f"{first}  {at}  {rest}"


def _unpickle(recipe: Recipe, build: Callable[[Snapshot], Machine], content: Content, pages: list[int], data: bytes,
              labels: tuple[Any, ...]) -> Snapshot:
    ram = Ram(RAM_BASE, recipe.config.ram)
    for at, page in enumerate(pages):
        ram.write(page << 12, data[at * PAGE:(at + 1) * PAGE])
    return Snapshot._made(recipe, build, content._replace(root=ram.share()), labels)


def derived(seed: bytes, index: int) -> bytes:
    """Return the seed of one of several forks."""
    return hashlib.sha256(seed + b"%d" % index).digest()


def entropy_bytes(entropy: object) -> bytes | None:
    """Return 32 bytes for an `entropy=` option, None for "same"; ConfigError for what is neither."""
    if isinstance(entropy, str) and entropy == "same":
        return None
    if isinstance(entropy, str) and entropy == "fresh":
        return os.urandom(32)
    if isinstance(entropy, int) and not isinstance(entropy, bool):
        entropy = entropy.to_bytes((entropy.bit_length() + 8) // 8, "little", signed=True)
    if isinstance(entropy, (bytes, bytearray)):
        return hashlib.sha256(b"pyvirt entropy\0" + entropy).digest()
    raise ConfigError(f"entropy: {entropy!r} is not allowed; allowed: 'same', 'fresh', or a seed (int or bytes)")


# ---- differences -------------------------------------------------------------------------------------------------
def _registers(hart: Hart) -> list[tuple[str, int]]:
    found = [("pc", hart.pc), ("priv", hart.priv), ("virt", hart.virt), ("waiting", int(hart.waiting))]
    found += [(name, hart.x(i)) for i, name in enumerate(X_NAMES)]
    return found + [(name, hart.f(i)) for i, name in enumerate(F_NAMES)]


def _csrs(hart: Hart) -> list[tuple[str, int]]:
    found = []
    for name, number in CSRS.items():
        try:
            found.append((name, hart.csr_read(number)))
        except KeyError:
            continue    # of an extension that the machine lacks
    return found


def _flat(name: str, state: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a state with their paths."""
    if isinstance(state, Mapping):
        return [leaf for key, value in state.items() for leaf in _flat(f"{name}.{key}", value)]
    if isinstance(state, list) and len(state) < 64:
        return [leaf for at, value in enumerate(state) for leaf in _flat(f"{name}[{at}]", value)]
    return [(name, state)]


class Diff(NamedTuple):
    """What differs between two snapshots, `a` and `b`: values are pairs (in a, in b).

    `pages` are physical addresses of pages of 4 KiB, `blocks` numbers of blocks of 4 KiB by the disk's place.
    """

    icount: tuple[int, int]
    pages: list[int]
    blocks: dict[int, list[int]]
    registers: dict[str, tuple[Any, Any]]
    csrs: dict[str, tuple[Any, Any]]
    devices: dict[str, tuple[Any, Any]]

    @classmethod
    def of(cls, a: Snapshot, b: Snapshot) -> Diff:
        """Compare two snapshots of machines that are made alike."""
        check_alike(a._recipe, b._recipe, "diff")
        one, two = a._held(), b._held()
        pages = [page << 12 for page in one.root.diff(two.root)]
        blocks = {at: x.diff(y) for at, (x, y) in enumerate(zip(one.disks, two.disks, strict=True))}
        pairs = []
        for x, y in zip(a._look(), b._look(), strict=True):
            pairs.append({key: (x.get(key), y.get(key)) for key in {**x, **y} if x.get(key) != y.get(key)})
        return cls((one.icount, two.icount), pages, {at: found for at, found in blocks.items() if found}, *pairs)

    def __bool__(self) -> bool:
        return bool(self.pages or self.blocks or self.registers or self.csrs or self.devices)

    def __str__(self) -> str:
        def show(value: Any) -> str:
            return f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)[:40]

        lines = [f"icount {self.icount[0]:,} -> {self.icount[1]:,}"]
        shown = ", ".join(f"{page:#x}" for page in self.pages[:8]) + (" ..." if len(self.pages) > 8 else "")
        lines.append(f"{len(self.pages)} pages" + (f": {shown}" if self.pages else ""))
        lines += [f"disk {at}: {len(found)} blocks" for at, found in self.blocks.items()]
        for found in (self.registers, self.csrs, self.devices):
            lines += [f"{name} {show(x)} -> {show(y)}" for name, (x, y) in found.items()]
        return "\n".join(lines)


def check_alike(a: Recipe, b: Recipe, what: str) -> None:
    """Raise ConfigError saying in what two machines are made differently."""
    if a.config is b.config and a.parts is b.parts and a.disks == b.disks:
        return
    if a.config != b.config:
        for name in Config.__dataclass_fields__:
            x, y = getattr(a.config, name), getattr(b.config, name)
            if x != y:
                raise ConfigError(f"{what}: the machines differ in {name}: {x!r} and {y!r}; they must be made alike")
    shape = [[r.disks, [[p.cls.NAME, list(p.bases or ()), list(p.irqs or ())] for p in r.parts]] for r in (a, b)]
    if encode(shape[0]) != encode(shape[1]):
        raise ConfigError(f"{what}: the machines have other devices or disks: {shape[0]} and {shape[1]}; they must be "
                          "made alike")
