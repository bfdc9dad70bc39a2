"""What `monitor ...` does in a debugger: page walks, snapshots, levels, and other questions that gdb can't ask."""
from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvirt.errors import PyvirtError

if TYPE_CHECKING:
    from pyvirt.gdb.session import Session


def answer(session: Session, line: str) -> str:
    """Return what a command line has to say; a mistake in it is said too."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        return f"{error}\n"
    if not words:
        return _help(session)
    command = COMMANDS.get(words[0])
    if command is None:
        return f"{words[0]!r} is no command; allowed: {', '.join(COMMANDS)}\n"
    try:
        return command(session, *words[1:]).rstrip("\n") + "\n"
    except TypeError:
        return f"{words[0]}: {len(words) - 1} arguments are not allowed; {(command.__doc__ or '').strip()}\n"
    except (PyvirtError, ValueError, LookupError) as error:
        return f"{words[0]}: {error}\n"


def _help(session: Session) -> str:
    """help: this list."""
    return "\n".join((command.__doc__ or "").strip() for command in COMMANDS.values())


def _walk(session: Session, address: str, access: str = "load", world: str | None = None) -> str:
    """walk ADDRESS [load|store|fetch [WORLD]]: explain a translation of the chosen hart, entry by entry."""
    return str(session.hart.walk(int(address, 0), access=access, world=world))


def _phys(session: Session, how: str = "on") -> str:
    """phys [on|off]: let memory commands use physical addresses."""
    if how not in ("on", "off"):
        raise ValueError(f"{how!r} is not allowed; allowed: on, off")
    session.physical = how == "on"
    return f"memory is read and written at {'physical' if session.physical else 'virtual'} addresses"


def _snapshot(session: Session, name: str | None = None) -> str:
    """snapshot [NAME]: keep the machine as it is."""
    return repr(session.vm.snapshot(name))


def _restore(session: Session, name: str) -> str:
    """restore NAME: go back to a snapshot, by its name or #number. Registers shown before are stale: flushregs."""
    found = [snap for snap in session.vm.history if name in (snap.name, snap.label)]
    if not found:
        raise LookupError(f"there is no snapshot {name!r}")
    session.vm.restore(found[-1])
    return repr(found[-1])


def _history(session: Session) -> str:
    """history: the tree of snapshots."""
    return str(session.vm.history)


def _levels(session: Session) -> str:
    """levels: the guests inside guests that the machine's state shows."""
    return str(session.vm.levels)


def _icount(session: Session) -> str:
    """icount: the machine's position in time."""
    return f"{session.vm.icount}"


def _console(session: Session, *words: str) -> str:
    """console [TEXT]: show the console's last lines, or type a line of text."""
    if words:
        session.vm.console.send(" ".join(words) + "\n")
        return "typed"
    return session.vm.console.tail()


COMMANDS: dict[str, Callable[..., str]] = {
    "walk": _walk, "phys": _phys, "snapshot": _snapshot, "restore": _restore, "history": _history, "levels": _levels,
    "icount": _icount, "console": _console, "help": _help,
}
