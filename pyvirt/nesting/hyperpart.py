"""A hypervisor written in Python as part of what a snapshot holds: how another like it is made, and its state.

A fork has a hypervisor of its own: an object of the same class, made with the same arguments on the fork, which is then
given the state. Knows the class Hypervisor by what it does only: `made` and `state`.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyvirt.devices.base import Device
from pyvirt.disks.disk import Disk
from pyvirt.errors import PyvirtError, SnapshotError
from pyvirt.fdt import Placed
from pyvirt.history.snapshot import Part, plain

if TYPE_CHECKING:
    from pyvirt.machine import Machine


class _ItsMachine:
    """Stands for the machine among the arguments."""


class HyperPart(NamedTuple):
    """A hypervisor's class and arguments, with devices as parts, and its state in plain values."""

    cls: type[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: dict[str, Any]

    @classmethod
    def of(cls, hypervisor: Any) -> HyperPart:
        """Describe a machine's hypervisor at rest. SnapshotError naming it when its state can't be taken."""
        name = type(hypervisor).__name__
        disks: list[Disk] = []

        def portable(value: Any) -> Any:
            if value is hypervisor.machine:
                return _ItsMachine
            if isinstance(value, (Device, Placed)):
                return Part.of(value, disks)
            return [portable(item) for item in value] if isinstance(value, (list, tuple)) else value

        args, kwargs = hypervisor.made
        args, kwargs = tuple(portable(a) for a in args), {key: portable(value) for key, value in kwargs.items()}
        if disks:
            raise SnapshotError(f"snapshot: {name} emulates devices on {disks[0]!r}, whose content would not be kept; "
                                "allowed: a disk of the machine's, Machine(disks=)")
        try:
            state = plain(hypervisor.state)
        except PyvirtError as error:
            raise SnapshotError(f"snapshot: {error}") from error
        return cls(type(hypervisor), args, kwargs, state)

    def make(self, machine: Machine) -> Any:
        """Return another on a machine that is as new; its state is still to be given."""
        def resolve(value: Any) -> Any:
            if value is _ItsMachine:
                return machine
            if isinstance(value, Part):
                return value.make(())
            return [resolve(item) for item in value] if isinstance(value, list) else value

        return self.cls(*(resolve(a) for a in self.args), **{key: resolve(v) for key, v in self.kwargs.items()})

    def fits(self, hypervisor: Any) -> bool:
        """Whether a hypervisor was made like this one."""
        return hypervisor is not None and type(hypervisor) is self.cls and hypervisor.memory.size == \
            self.state["memory"]["size"]
