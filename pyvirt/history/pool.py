"""Which machines have a shell, and who gets one next: bounded for the process, whatever the number of machines.

Machines that are used keep their shell; beyond SHELLS_MAX the one that was not used for longest is parked: its content
is taken, and its shell given to whoever needs one. Shells of machines that are gone wait for another of the same
recipe, holding the RAM of the snapshot that the machine came from, so that translations stay warm; they keep no
snapshot alive.

Whoever takes an entry out of one of the dicts owns it from then on: that is one step, also where garbage collection or
another thread comes in between, so that no lock is needed here.
"""
from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING

from pyvirt._memory import Root
from pyvirt.history.shell import Shell
from pyvirt.history.snapshot import Content, Recipe

if TYPE_CHECKING:
    from pyvirt.history.tenant import Tenant

# Shells hold some 100 KiB of caches for each hart.
SHELLS_MAX = 64
IDLE_MAX = 16


class Pool:
    """The shells of a process: `idle` ones by their id, `awake` machines by theirs, oldest use first."""

    def __init__(self) -> None:
        self.idle: dict[int, Shell] = {}
        self.awake: dict[int, weakref.ref[Tenant]] = {}

    # -- machines
    def used(self, tenant: Tenant) -> None:
        """Note that a machine has just been used."""
        self.awake.pop(id(tenant), None)
        self.awake[id(tenant)] = tenant.ref

    def gone(self, tenant: Tenant) -> None:
        """Forget a machine that has no shell any more."""
        self.awake.pop(id(tenant), None)

    # -- shells
    def take(self, recipe: Recipe, content: Content) -> Shell:
        """Return a shell for a machine of a recipe, if possible one whose RAM is already that of the content."""
        while True:
            shell = self._find(recipe, content)
            if shell is not None:
                return shell
            if len(self.awake) < SHELLS_MAX // recipe.config.harts + 4 or not self._park_one():
                return Shell.of(recipe, content)

    def _find(self, recipe: Recipe, content: Content) -> Shell | None:
        while True:
            best = None
            for key in reversed(list(self.idle)):
                shell = self.idle.get(key)
                if shell is None or not shell.fits(recipe, content):
                    continue
                if shell.base is not None and shell.base() is content.root:
                    best = key
                    break
                if best is None:
                    best = key
            if best is None:
                return None
            found = self._out(best)
            if found is not None:
                return found

    def _out(self, key: int) -> Shell | None:
        """Take a shell out of the idle ones, if it is still there."""
        shell = self.idle.pop(key, None)
        base = None if shell is None or shell.base is None else shell.base()
        if base is not None:
            base.lend(-1)
        return shell

    def _park_one(self) -> bool:
        """Park the machine that was not used for longest and can be; False when there is none."""
        for key in list(self.awake):
            ref = self.awake.get(key)
            tenant = None if ref is None else ref()
            if tenant is None:
                self.awake.pop(key, None)
            elif tenant.park():
                return True
        return False

    def give(self, shell: Shell, base: Root | None) -> None:
        """Take back a shell that nobody uses; it will hold the RAM of `base`, as long as someone else holds that."""
        shell.empty(base)
        shell.base = None
        if base is not None:
            base.lend(1)
            shell.base = weakref.ref(base, functools.partial(self._orphaned, id(shell)))
        self.idle[id(shell)] = shell
        while len(self.idle) > IDLE_MAX:
            oldest = self._out(next(iter(self.idle), 0))
            if oldest is not None:
                oldest.close()

    def _orphaned(self, key: int, _: object) -> None:
        """The snapshot whose RAM an idle shell holds is gone."""
        shell = self._out(key)
        if shell is not None:
            self.give(shell, None)

    def clear(self) -> None:
        """Close all idle shells."""
        for key in list(self.idle):
            shell = self._out(key)
            if shell is not None:
                shell.close()


POOL = Pool()
