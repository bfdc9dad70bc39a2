"""Shells: the parts of a machine that cost time to make, lent to whichever machine is awake.

A shell is a board with its core, caches and wired devices, and what runs it. It holds one machine's content at a time;
`put` makes it hold another's in the time of what differs, and `take` is what it holds. What a device is known to hold
already is not put again: compiled registers are compared, Python objects are known by whether an access reached them.
"""
from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyvirt._bus import PyMmio
from pyvirt._memory import Root
from pyvirt.board import Board
from pyvirt.console import Console
from pyvirt.devices.base import Device
from pyvirt.devices.clint import Clint
from pyvirt.devices.plic import Plic
from pyvirt.disks.disk import Disk
from pyvirt.firmware.boot import Boot
from pyvirt.history.snapshot import Content, Outside, Recipe, check_disks, plain
from pyvirt.run import Inputs, Runner

if TYPE_CHECKING:
    from pyvirt._view import Hart

UNKNOWN = object()      # a state that equals none


class Slot:
    """A device and the state that it is known to hold."""

    __slots__ = ("bridge", "device", "packs", "state")

    def __init__(self, device: Device) -> None:
        self.device: Any = device
        self.packs = hasattr(device, "packed")
        # Only a class that says itself that its objects hold nothing but their state is taken at its word.
        bridge = device.__dict__.get("_mmio") if "bare" in type(device).__dict__ else None
        self.bridge: PyMmio | None = None if self.packs else bridge
        self.state: Any = UNKNOWN

    @property
    def bare(self) -> bool:
        """Whether the object can serve another machine: it holds nothing besides its state."""
        return "bare" in type(self.device).__dict__ and self.device.bare

    def put(self, state: Any) -> None:
        """Give the device a state, unless it is known to be in it."""
        if self.packs:
            if isinstance(state, dict):     # out of a file, where nothing is packed
                self.state = UNKNOWN
                self.device.state = state
                state = self.device.packed
            elif self.device.packed != state:
                self.state = UNKNOWN
                self.device.packed = state
        elif self.bridge is None:
            self.device.state = plain(state)
        elif self.bridge.touched or self.state is not state:
            self.state = UNKNOWN
            self.device.state = state
            self.bridge.touched = False
        self.state = state

    def take(self) -> Any:
        """Return the state of the device; what did not change since is the same object."""
        if self.packs:
            state = self.device.packed
            if self.state != state:
                self.state = state
        elif self.bridge is None or self.bridge.touched or self.state is UNKNOWN:
            self.state = plain(self.device.state)
            if self.bridge is not None:
                self.bridge.touched = False
        return self.state


class Shell:
    """A board and what runs it.

    `base` is the root of a snapshot that the RAM holds while no machine is in it; when the snapshot goes, so does
    this.
    """

    def __init__(self, recipe: Recipe, *, disks: Sequence[Disk], devices: Sequence[Any], own: Sequence[Disk],
                 memory_limit: int | None = None) -> None:
        self.recipe = recipe
        self.disks, self._own_disks = list(disks), list(own)
        host = recipe.host
        self.board = Board(recipe.config, disks=self.disks[:recipe.disks], devices=devices, memory_limit=memory_limit,
                           core=host["core"], on_exit=lambda kind, code: self.runner.on_exit(kind, code))
        self.core = self.board.core
        self.core.check_fences = host["fences"] == "check"
        self.runner = Runner(self.board, Console())
        self.harts: tuple[Hart, ...] = tuple(self.core.hart(i) for i in range(recipe.config.harts))
        self.slots = [Slot(placed.device) for placed in self.board.placed]
        # Whoever drives a wire comes before whoever listens.
        self._order = sorted(range(len(self.slots)),
                             key=lambda i: isinstance(self.slots[i].device, (Plic, Clint)))
        self.base: weakref.ref[Root] | None = None
        self.broken_off = False     # an exception may have left a run in the middle of something

    @classmethod
    def of(cls, recipe: Recipe, content: Content) -> Shell:
        """Return a new shell in which a content fits."""
        disks = [image.disk() for image in content.disks]
        return cls(recipe, disks=disks, devices=[part.make(disks) for part in recipe.parts], own=disks)

    def fits(self, recipe: Recipe, content: Content) -> bool:
        """Whether a machine of a recipe can live here with what it holds."""
        own = self.recipe
        return (own is recipe or (
            own.config == recipe.config and own.disks == recipe.disks and own.parts is recipe.parts
            and own.host["core"] == recipe.host["core"] and own.host["fences"] == recipe.host["fences"]
        )) and all([disk.takes(image) for disk, image in zip(self.disks, content.disks, strict=True)])

    # -- contents
    def put(self, content: Content, *, checked: bool = True) -> None:
        """Hold a content, but for its RAM; harts come last, and find their lines as they were.

        Where it is not `checked`, raises ValueError for a state that harts can't be in.
        """
        for disk, image in zip(self.disks, content.disks, strict=True):
            disk.restore(image)
        for index in self._order:
            self.slots[index].put(content.devices[index])
        if checked:
            self.core.restore(content.core)
        else:
            self.core.state = content.core

    def move_in(self, outside: Outside, console: Console) -> None:
        """Take what a machine keeps around its board."""
        runner = self.runner
        runner.console = console
        runner.ended, runner.typed = outside.ended, bytearray(outside.typed)
        runner.inputs = Inputs(outside.inputs, outside.position)
        self.board.placement.ranges = outside.ranges
        if outside.sbi != (runner.sbi is not None):
            runner.sbi = Boot.sbi(runner) if outside.sbi else None
            self.core.builtin_sbi = outside.sbi
        if outside.htif is None:
            if runner.htif is not None:
                runner.htif = None
                self.core.watch(None)
        else:
            if runner.htif is None or runner.htif.state[:2] != outside.htif[:2]:
                runner.htif = Boot.htif(runner, *outside.htif[:2])
            runner.htif.reading = outside.htif[2]

    def emulate(self, part: Any) -> None:
        """Give the hypervisor written in Python the state that belongs to what is held."""
        self.runner.hypervisor.state = plain(part.state)  # type: ignore[union-attr, misc]

    def take(self, outside: Outside) -> Content:
        """Return what is held now. Raises SnapshotError when a disk can't be kept."""
        check_disks(self.disks)
        images = tuple([disk.image() for disk in self.disks])
        states = tuple([slot.take() for slot in self.slots])
        return Content(self.core.state, states, self.board.ram.share(), images, self.core.icount, outside)

    def distrust(self) -> None:
        """Believe of no device that it holds what it did: its object is in the user's hands."""
        for slot in self.slots:
            slot.state = UNKNOWN

    # -- between two machines
    @property
    def bare(self) -> bool:
        """Whether nothing would be lost if another machine moved in: all that is here is in `take`."""
        runner = self.runner
        return not (self.broken_off or runner.pending or runner.deferred or runner.hypervisor is not None
                    or runner.taps.busy) \
            and all([slot.bare for slot in self.slots]) and all([disk.mode == "overlay" for disk in self.disks])

    def empty(self, root: Root | None) -> None:
        """Forget the machine that was here, and hold the RAM of a snapshot, or none."""
        runner = self.runner
        runner.console, runner.inputs = Console(), Inputs()
        self.board.ram.hold(root)
        for disk in self.disks:
            disk.park()

    def close(self) -> None:
        """Give back RAM and disks."""
        self.board.close()
        for disk in self._own_disks:
            disk.close()
