"""What a machine is while nobody looks: a content and some labels; and, while somebody does, a shell that holds it.

Owns who may touch a machine when, and the way in and out of a shell. A machine that was forked and not used costs a
kilobyte; it gets a shell when it is run or looked at, and may lose it when others need one. What can't be taken along
stays: a machine whose device objects, hooks or disks the user has got hold of keeps its shell for good.
"""
from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from pyvirt._memory import Root
from pyvirt.console import Console
from pyvirt.errors import ClosedError, MachineBusy, SnapshotError
from pyvirt.explain.fences import MissingFence
from pyvirt.history.pool import POOL
from pyvirt.history.shell import Shell
from pyvirt.history.snapshot import Content, Outside, Recipe
from pyvirt.nesting.hyperpart import HyperPart


class Tenant:
    """The inside of one Machine: `with tenant as shell:` lends its parts, which stay its own meanwhile.

    `content` is what it holds while it has no shell. `base` is a snapshot's root near to what it holds.
    """

    __slots__ = ("__weakref__", "_console", "_content", "_ident", "_owned", "_shell", "_uses", "at_boundary",
                 "awaited", "base", "closed", "face", "firmware", "in_hook", "limit", "lock", "missing_fences",
                 "pinned", "recipe", "ref", "symbols", "thread")

    def __init__(self, recipe: Recipe, *, limit: int | None, console: Console | None = None) -> None:
        self.recipe, self.limit = recipe, limit
        self.lock = threading.RLock()
        self.ref = weakref.ref(self)
        self.face: weakref.ref[Any] | None = None   # the Machine
        self.thread: int | None = None      # who runs it
        self.in_hook = self.at_boundary = False
        self.awaited = False                # a fork whose moment has not come
        self.closed = self.pinned = False
        self.base: weakref.ref[Root] | None = None
        self.firmware = "none"
        self.symbols: dict[str, int] = {}
        self.missing_fences: list[MissingFence] = []
        self._console = console
        self._content: Content | None = None
        self._shell: Shell | None = None
        self._ident = self._owned = self._uses = 0

    # -- who may touch it, and when
    def check(self) -> None:
        """Raise ClosedError or MachineBusy unless the calling thread may touch the machine now."""
        if self.closed:
            raise ClosedError("this machine is closed; make a new one")
        if self.awaited:
            raise MachineBusy("this fork is made at its parent's next instruction boundary, when the callback that "
                              "asked for it is over")
        if self.thread is not None and not (self.in_hook and self.thread == threading.get_ident()):
            raise MachineBusy("this machine is running; only stop(), console.send() and repr() may be used meanwhile")

    def __enter__(self) -> Shell:
        self.lock.acquire()
        try:
            self.check()
            shell = self._shell or self._wake()
            self._uses += 1
            return shell
        except BaseException:
            self.lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._uses -= 1
        self.lock.release()

    def begin(self, doing: str) -> Shell:
        """Let the calling thread alone touch the machine until `end`, and return the shell."""
        with self.lock:
            if self.closed or self.awaited:
                self.check()
            if self.thread is not None:
                raise MachineBusy(f"{doing}: this machine is running already; stop() it first")
            shell = self._shell or self._wake()
            shell.runner.stop_asked = False     # from here on stop() counts
            self.thread = threading.get_ident()
            return shell

    def end(self) -> None:
        """Let others touch the machine again."""
        with self.lock:
            self.thread = None
            if self._shell is not None:
                self._shell.runner.accept_input()
                POOL.used(self)

    def ask(self, test: Callable[[Any], object], machine: object, *, at_boundary: bool = False) -> bool:
        """Call back while the machine runs; the function may use it."""
        self.in_hook, self.at_boundary = True, at_boundary
        try:
            return bool(test(machine))
        finally:
            self.in_hook = self.at_boundary = False

    def stop(self) -> None:
        """Ask the machine to stop, if it runs."""
        with self.lock:
            if self.thread is not None and self._shell is not None:
                self._shell.runner.ask_stop()

    def pin(self) -> Shell:
        """Return the shell, which is this machine's for good: its parts are about to be in the user's hands."""
        with self as shell:
            self.pinned = True
            return shell

    @property
    def shell(self) -> Shell | None:
        """The shell, if there is one: for who knows that it can't go away meanwhile."""
        return self._shell

    # -- around the board
    @property
    def console(self) -> Console:
        if self._console is None:
            with self.lock:
                if self._console is None:
                    content = self._content
                    self._console = Console(send=Typist(self.ref)) if content is None else \
                        Console(send=Typist(self.ref), state=content.outside.console)
        return self._console

    def typed(self, data: bytes) -> None:
        """Take what was typed; from any thread."""
        with self.lock:
            if self.closed:
                raise ClosedError("this machine is closed; there is nobody to type to")
            if self.thread is None:
                with self as shell:
                    shell.runner.pending.append(data)
                    shell.runner.accept_input()
            else:
                assert self._shell is not None
                self._shell.runner.pending.append(data)

    @property
    def icount(self) -> int:
        """Where in time it is, whoever uses it."""
        with self.lock:
            if self._shell is not None:
                return self._shell.core.icount
            return 0 if self._content is None else self._content.icount

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What has entered it from outside, whoever uses it."""
        with self.lock:
            if self._shell is not None:
                return tuple(self._shell.runner.inputs)
            outside = None if self._content is None else self._content.outside
            return () if outside is None else tuple(outside.inputs[:outside.position])

    # -- in and out of shells
    def settle(self, shell: Shell) -> None:
        """Live in a shell that was made for this machine and holds what it begins with."""
        self._shell = shell
        POOL.used(self)

    def adopt(self, content: Content, *, base: Root | None) -> None:
        """Hold a content from now on, without a shell."""
        self._content, self._ident, self._owned = content, 0, 0
        self._note(content.outside)
        self.base = weakref.ref(content.root if base is None else base)

    def _note(self, outside: Outside) -> None:
        self.firmware, self.symbols = outside.firmware, outside.symbols

    def _wake(self) -> Shell:
        content = self._content
        assert content is not None
        part = content.outside.hypervisor
        shell = POOL.take(self.recipe, content) if part is None else Shell.of(self.recipe, content)
        try:
            if part is not None:
                self._emulate(shell, part)
            self._move(shell, content)
            if part is not None:
                shell.emulate(part)
        except BaseException:
            self._shell = None
            shell.close()
            raise
        self._content, self._shell = None, shell
        POOL.used(self)
        return shell

    def _emulate(self, shell: Shell, part: Any) -> None:
        """Let a hypervisor written in Python take over a shell in which nothing has run."""
        machine = None if self.face is None else self.face()
        assert machine is not None
        self._shell = shell     # it looks at the machine's parts
        part.make(machine)
        self._shell = None

    def _move(self, shell: Shell, content: Content) -> None:
        ram = shell.board.ram
        ram.hold(content.root, tenant=self._ident, owned=self._owned, limit=frames(self.limit))
        shell.put(content)
        shell.move_in(content.outside, self.console)

    def go(self, content: Content) -> None:
        """Hold another content in the place of the present one. When that fails the present one stays."""
        shell = self._shell
        assert shell is not None
        part, own = content.outside.hypervisor, shell.runner.hypervisor
        if own is not None if part is None else not part.fits(own):
            there = "no hypervisor written in Python" if part is None else part.cls.__name__
            raise SnapshotError(f"restore: the snapshot has {there}, the machine {own!r}; allowed: snapshots with the "
                                "same, or fork(), which makes a machine with its own")
        shell.runner.collect()
        shell.runner.taps.drain()
        before, owned = self.take(), shell.board.ram.owned
        try:
            self._hold(shell, content)
        except BaseException:
            if self.pinned:
                try:
                    self._hold(shell, before)
                except BaseException:
                    self.closed = True      # neither the one nor the other: nobody may run that
                    raise
            else:
                self._ident, self._owned = shell.board.ram.tenant, owned
                self._content, self._shell = before, None
                self._note(before.outside)
                self.console.state = before.outside.console
                POOL.gone(self)
                shell.close()
            raise

    def _hold(self, shell: Shell, content: Content) -> None:
        if self.pinned:
            shell.distrust()
        shell.board.ram.restore(content.root)
        shell.put(content)
        self.console.state = content.outside.console
        shell.move_in(content.outside, self.console)
        if content.outside.hypervisor is not None:
            shell.emulate(content.outside.hypervisor)
        self._note(content.outside)

    def take(self) -> Content:
        """Return what the machine holds now; the calling thread uses it."""
        shell = self._shell
        if shell is None:
            assert self._content is not None
            outside = self._content.outside
            if self._console is None or self._console.state is outside.console:
                return self._content
            return self._content._replace(outside=outside._replace(console=self._console.state))
        runner = shell.runner
        part = None if runner.hypervisor is None else HyperPart.of(runner.hypervisor)
        runner.collect()
        if self.pinned:
            shell.distrust()
        return shell.take(Outside(
            console=self.console.state, ended=runner.ended, typed=bytes(runner.typed),
            htif=runner.htif.state if runner.htif is not None else None, firmware=self.firmware,
            sbi=runner.sbi is not None, symbols=self.symbols, ranges=shell.board.placement.ranges,
            inputs=runner.inputs.items, position=runner.inputs.count, hypervisor=part))

    def park(self) -> bool:
        """Give the shell to whoever needs it, if nobody uses the machine and all of it can be taken along."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            shell = self._shell
            if shell is None or self.thread is not None or self._uses:
                return False
            if self.pinned or not shell.bare:
                POOL.gone(self)     # it keeps its shell at least until it is used again: no need to ask each time
                return False
            try:
                content = self.take()
            except Exception:  # noqa: BLE001
                # Who wants a shell is not the one to hear of it: this machine will say so when it is asked itself.
                self.pinned = True
                return False
            self._ident, self._owned = shell.board.ram.tenant, shell.board.ram.owned
            self._content, self._shell = content, None
            POOL.gone(self)
            self._give(shell)
            return True
        finally:
            self.lock.release()

    def _give(self, shell: Shell) -> None:
        base = None if self.base is None else self.base()
        POOL.give(shell, base)

    def close(self) -> None:
        """Give everything back. MachineBusy when it runs."""
        with self.lock:
            if self.thread is not None:
                raise MachineBusy("this machine is running; stop() it before close()")
            self.closed = True
            shell, self._shell, self._content = self._shell, None, None
            if shell is not None:
                self._leave(shell)
            self.console.close()

    def _leave(self, shell: Shell) -> None:
        POOL.gone(self)
        if not self.pinned and self.base is not None and shell.bare:
            self._give(shell)
        else:
            shell.close()

    def __del__(self) -> None:
        shell = self._shell
        if shell is not None and not sys.is_finalizing():
            self._shell = None
            POOL.gone(self)
            # Of a pinned one the user may still hold parts.
            if not self.pinned:
                self._leave(shell)


class Typist:
    """What a console types to: its machine, as long as that is there."""

    __slots__ = ("_tenant",)

    def __init__(self, tenant: weakref.ref[Tenant]) -> None:
        self._tenant = tenant

    def __call__(self, data: bytes) -> None:
        tenant = self._tenant()
        if tenant is None:
            raise ClosedError("this machine is gone; there is nobody to type to")
        tenant.typed(data)


def frames(limit: int | None) -> int:
    """Return a memory limit in frames, 0 for none."""
    return 0 if limit is None else max(limit // 4096, 1)


def limit_of(host: Mapping[str, Any]) -> int | None:
    """Return the memory limit among the host options of a recipe."""
    limit = host.get("memory_limit")
    return None if limit is None else int(limit)
