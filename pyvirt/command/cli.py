"""The command `pyvirt`: run, pull, demo, doctor; those for saved machines are in cli_files.py. Owns options, exit codes
and messages; all else is the library's.

Exit codes of `run`: 0 all expectations met, or the guest ended with 0; 1 the guest ended or stopped before one was met;
124 a limit; 130 interrupted; 2 wrong usage. Without `--expect` the guest's own code.
"""
from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

import pyvirt
from pyvirt.command.script import FAILED, INTERRUPTED, TAIL_LINES, USAGE, Budget, Outcome, Script, Step, parse_step
from pyvirt.command.terminal import HELP, Input, Signals, Terminated, interact
from pyvirt.disks.disk import Disk
from pyvirt.errors import ConfigError, HostError, LoadError, PyvirtError
from pyvirt.files.aside import aside
from pyvirt.files.container import is_saved
from pyvirt.files.sections import DISKS
from pyvirt.history.snapshot import check_disks
from pyvirt.images import loader
from pyvirt.machine import Machine
from pyvirt.stop import Stop, StopReason

STEPS = "pyvirt.steps"
OPTIONS = "isa|harts|ram|kernel|initrd|firmware|dtb|disk|timeout"

class Commands(TyperGroup):
    """Says which commands there are when another is asked for."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is None:
            raise ConfigError(f"{cmd_name!r} is no command; allowed: {', '.join(self.list_commands(ctx))}")
        return found


app = typer.Typer(cls=Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
                  no_args_is_help=True,
                  help="A RISC-V computer that boots unmodified Linux, the same to the bit every time.")


class RunCommand(TyperCommand):
    """Keeps the order in which --expect and --send were given, across the two options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        left = {name: list(values.get(name) or ()) for name in ("expect", "send")}
        ctx.meta[STEPS] = [(param.name, left[param.name].pop(0)) for param in order if param.name in left]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


@dataclass
class Guest:
    """What to load, and the disks that come with it."""

    load: dict[str, Any]
    disks: list[Disk] = field(default_factory=list)


@dataclass(frozen=True)
class Saving:
    """What --save says: where to, and how."""

    path: str
    options: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Saving:
        """Read `F[,parent=F][,disks=reference][,sign=F]`."""
        path, *rest = text.split(",")
        options: dict[str, Any] = {}
        for item in rest:
            key, _, value = item.partition("=")
            if key not in ("parent", "disks", "sign") or not value or (key == "disks" and value not in DISKS):
                raise ConfigError(f"--save: {text!r} has {item!r}; allowed: parent=FILE, disks=inside, "
                                  "disks=reference, sign=KEY")
            options[key] = value
        if not path or Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
            raise ConfigError(f"--save: {path!r} can't be written; allowed: a file in a folder that exists")
        return cls(path, options)

    def save(self, vm: Machine) -> None:
        """Save a machine that has stopped."""
        vm.snapshot().save(self.path, **self.options)


# ---- run --------------------------------------------------------------------------------------------------------
@app.command(cls=RunCommand)
def run(
    ctx: typer.Context,
    program: Annotated[str | None, typer.Argument(
        help="An ELF, Linux Image, flat file or saved machine, or the word debian: what `pyvirt pull debian` cached."
    )] = None,
    kernel: Annotated[str | None, typer.Option(metavar="F", help="Start this in S-mode, by the firmware.")] = None,
    initrd: Annotated[str | None, typer.Option(metavar="F", help="Initial RAM disk for the kernel.")] = None,
    append: Annotated[str, typer.Option(metavar="S", help="Kernel command line; for debian, behind its own.")] = "",
    firmware: Annotated[str, typer.Option(metavar="builtin|F", help="Built-in SBI, or an M-mode image.")] = "builtin",
    dtb: Annotated[str | None, typer.Option(metavar="F", help="Device tree; default: made from the parts.")] = None,
    isa: Annotated[str | None, typer.Option(metavar="S", help="Such as rv64gc_zba; default: all there is.")] = None,
    harts: Annotated[str, typer.Option(metavar="N", help="Hardware threads.")] = "1",
    ram: Annotated[str, typer.Option(metavar="SIZE", help="Bytes, or with K, M, G, T.")] = "256M",
    disk: Annotated[list[str] | None, typer.Option(
        metavar="F[,mode=direct]", help="Disk image; the file is written only with mode=direct. Repeatable.")] = None,
    save: Annotated[str | None, typer.Option(
        metavar="F[,KEY=VALUE]...", help="Save the machine when the run has ended; parent=, disks=, sign=.")] = None,
    verify_key: Annotated[str | None, typer.Option(metavar="F", help="The key a saved machine is signed with.")] = None,
    within: Annotated[list[str] | None, typer.Option(
        metavar="DIR", help="Where files that a saved machine refers to may be. Repeatable.")] = None,
    expect: Annotated[list[str] | None, typer.Option(
        metavar="RE", help="Wait for this on the console, after what was matched before. Repeatable.")] = None,
    send: Annotated[list[str] | None, typer.Option(
        metavar="TEXT", help="Type this, with C escapes, in order with --expect. Repeatable.")] = None,
    max_instructions: Annotated[str | None, typer.Option(metavar="N", help="Stop after so many instructions.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="S", help="Stop after so many seconds.")] = None,
    console: Annotated[str, typer.Option(metavar="stdio|none|FILE", help="Where the guest's console is.")] = "stdio",
    stats: Annotated[Path | None, typer.Option(metavar="FILE", help="Write how it ended, as JSON.")] = None,
    gdb: Annotated[str | None, typer.Option(metavar="PORT", help="Let a debugger run it first; 0: any port.")] = None,
) -> None:
    """Run a guest.

    At a terminal the keyboard is the guest's; Ctrl-A x leaves, Ctrl-A h shows help. Exit code: 0 when every --expect
    was met, 1 when the guest ended or stopped before, 124 at a limit, 130 when interrupted, 2 for wrong usage; without
    --expect the guest's own.
    """
    steps = [parse_step(option, value) for option, value in ctx.meta.get(STEPS, [])]
    count = None if max_instructions is None else _integer("--max-instructions", max_instructions)
    seconds = None if timeout is None else _seconds("--timeout", timeout)
    threads = _integer("--harts", harts)
    port = None if gdb is None else _integer("--gdb", gdb)
    if stats is not None:
        _check_stats(stats)
    saving = None if save is None else Saving.parse(save)
    with contextlib.ExitStack() as stack:
        if program is not None and program != "debian" and Path(program).is_file() and is_saved(program):
            _refuse_with_saved(ctx, program)
            vm = stack.enter_context(pyvirt.Snapshot.load(program, verify_key=verify_key, within=within or None).fork())
            vm.console.echo = _console(console, stack)
            code = _run(vm, steps, Budget(vm, instructions=count, timeout=seconds), stdio=console == "stdio",
                        stats=stats, saving=saving, port=port)
            raise typer.Exit(code)
        for option, value in (("--verify-key", verify_key), ("--within", within)):
            if value:
                raise ConfigError(f"{option}: {value!r} is given, but PROGRAM is {program!r}; allowed: with a saved "
                                  "machine")
        guest = _guest(program, kernel, initrd, append, firmware, dtb)
        guest.disks += [_open_disk(text) for text in disk or ()]
        for opened in guest.disks:
            stack.enter_context(opened)
        echo = _console(console, stack)
        vm = stack.enter_context(Machine(isa=isa, harts=threads, ram=ram, disks=guest.disks, echo=echo))
        vm.load(**guest.load)
        budget = Budget(vm, instructions=count, timeout=seconds)
        if saving is not None:
            check_disks(guest.disks)
        code = _run(vm, steps, budget, stdio=console == "stdio", stats=stats, saving=saving, port=port)
    raise typer.Exit(code)


def _run(vm: Machine, steps: Sequence[Step], budget: Budget, *, stdio: bool, stats: Path | None,
         saving: Saving | None = None, port: int | None = None) -> int:
    """Run a loaded machine to its outcome, by a debugger first at `port`, tell of it, and return the exit code."""
    if port is not None and not _debug(vm, port):
        _say("killed by the debugger")
        return INTERRUPTED
    began = time.perf_counter()
    try:
        outcome = _drive(vm, Script(vm, steps, budget), stdio=stdio)
    except KeyboardInterrupt:
        outcome = Outcome(INTERRUPTED, _here(vm), "interrupted")
    seconds = time.perf_counter() - began
    if stats is not None:
        _write_stats(stats, vm, outcome, seconds)
    if saving is not None:
        saving.save(vm)
    _tell(vm, outcome)
    return outcome.exit_code


def _debug(vm: Machine, port: int) -> bool:
    """Leave the machine to a debugger until it detaches; False when it killed the machine."""
    with Signals(), vm.gdb(port=port) as server:
        _say(f"waits for a debugger: target remote :{server.port}")
        server.wait()
        return not server.killed


def _drive(vm: Machine, script: Script, *, stdio: bool) -> Outcome:
    with Signals():
        outcome = script.play()
        if outcome is not None:
            return outcome
        if not stdio:
            return script.finish()
        # A script's own input is all there is, so that it repeats; only a person may go on typing behind it.
        with Input.standard(show=lambda what: _show(vm, what)) as source:
            if source.keys is None and script.steps:
                return script.finish()
            if source.keys is not None:
                _say("Ctrl-A x leaves, Ctrl-A h shows help")
            return interact(vm, source, script.budget, matched=script.expects)


def _here(vm: Machine) -> Stop:
    return Stop(reason=StopReason.STOPPED, pc=vm.hart.pc, icount=vm.icount)


def _show(vm: Machine, what: str) -> None:
    text = HELP if what == "help" else f"\r\npyvirt: {vm!r}, pc {vm.hart.pc:#x}\r\n"
    sys.stderr.write(text)
    sys.stderr.flush()


def _say(text: str) -> None:
    typer.echo(f"pyvirt: {text}", err=True)


def _tell(vm: Machine, outcome: Outcome) -> None:
    """Say on stderr how it ended, where that is not plain from the exit code."""
    if outcome.tail:
        tail = vm.console.tail(TAIL_LINES)
        text = f"the console's last lines:\n{tail}\n---" if tail else "nothing was printed on the console"
        typer.echo(f"\n--- {text}", err=True)
    if outcome.message:
        _say(outcome.message)


def _refuse_with_saved(ctx: typer.Context, program: str) -> None:
    """Refuse options that say what a machine is made of when that is saved."""
    for name in ("kernel", "initrd", "append", "firmware", "dtb", "isa", "harts", "ram", "disk"):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ConfigError(f"--{name}: is given, but {program!r} is a saved machine; allowed: what it has")


# ---- values of options ------------------------------------------------------------------------------------------
def _integer(option: str, text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is no whole number; allowed: such as 1000, 1_000, 0x1000") from None
    if not 0 <= value < 1 << 62:
        raise ConfigError(f"{option}: {text} is not allowed; allowed: 0 to 2^62 - 1")
    return value


def _seconds(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is no number; allowed: seconds, such as 60 or 0.5") from None
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{option}: {text} is not allowed; allowed: seconds, 0 and up")
    return value


# ---- what to run ------------------------------------------------------------------------------------------------
def _guest(program: str | None, kernel: str | None, initrd: str | None, append: str, firmware: str,
           dtb: str | None) -> Guest:
    """Decide what PROGRAM and the options mean together."""
    for option, value in (("kernel", kernel), ("initrd", initrd), ("dtb", dtb),
                          ("firmware", None if firmware == "builtin" else firmware)):
        _check_file(f"--{option}", value, "builtin, or a file" if option == "firmware" else "a file")
    if program == "debian":
        return _debian(kernel, initrd, append, firmware, dtb)
    _check_file("PROGRAM", program, "a file, or debian")
    rest: dict[str, Any] = {"dtb": dtb, "firmware": None if firmware == "builtin" else firmware}
    if program is not None and kernel is not None:
        raise ConfigError(f"PROGRAM is {program!r} and --kernel is {kernel!r}; allowed: one of them")
    if program is not None:
        if not (initrd or append or rest["firmware"]) and loader.identify(program) != "linux":
            return Guest({"program": program, **rest})
        kernel = program
    if kernel is None and rest["firmware"] is None:
        raise ConfigError("nothing to run; allowed: PROGRAM (a file, or debian), --kernel F, or --firmware F")
    if kernel is None and (initrd or append):
        option, value = ("--initrd", initrd) if initrd else ("--append", append)
        raise ConfigError(f"{option}: {value!r} is given without a kernel; allowed: together with --kernel F")
    return Guest({"kernel": kernel, "initrd": initrd, "cmdline": append, **rest})


def _debian(kernel: str | None, initrd: str | None, append: str, firmware: str, dtb: str | None) -> Guest:
    from pyvirt.fetch import pull  # only those who ask for it wait for it: pull and doctor double the start

    found = pull.cached()
    if found is None:
        raise ConfigError(f"debian: no guest is cached in {pull.cache_dir()}; run `pyvirt pull debian` first")
    load = {"kernel": kernel or found.kernel, "initrd": initrd or found.initrd, "dtb": dtb,
            "cmdline": f"{found.cmdline} {append}".strip(), "firmware": None if firmware == "builtin" else firmware}
    return Guest(load, [Disk(found.rootfs)] if found.rootfs is not None else [])


def _check_file(option: str, value: str | None, allowed: str) -> None:
    if value is None:
        return
    path = Path(value)
    if path.is_dir():
        raise ConfigError(f"{option}: {value!r} is a directory; allowed: {allowed}")
    if not path.exists():
        raise ConfigError(f"{option}: {value!r} does not exist; allowed: {allowed}")


def _open_disk(text: str) -> Disk:
    """Open `F[,mode=direct]`; a file whose name holds a comma is taken as it is when it exists."""
    path, mode = text, "overlay"
    found = re.fullmatch(r"(?P<path>.*),(?P<key>\w+)=(?P<value>[^,]*)", text, re.DOTALL)
    if found is not None and not Path(text).exists():
        path, mode = found["path"], found["value"]
        if found["key"] != "mode" or mode not in ("overlay", "direct"):
            raise ConfigError(f"--disk: {text!r} has {found['key']}={mode}; allowed: mode=direct, mode=overlay")
    _check_file("--disk", path, "a raw image, with ,mode=direct behind it to have it written")
    return Disk(path, "direct" if mode == "direct" else "overlay")


def _console(where: str, stack: contextlib.ExitStack) -> Any:
    """Return what Machine's `echo` takes."""
    if where in ("stdio", "none"):
        return where == "stdio" and sys.stdout is not None
    try:
        return stack.enter_context(Path(where).open("wb", buffering=0))
    except OSError as error:
        raise ConfigError(f"--console: {where!r} cannot be written: {error.strerror}; allowed: stdio, none, a file"
                          ) from error


# ---- statistics -------------------------------------------------------------------------------------------------
def _check_stats(path: Path) -> None:
    """Refuse a place where statistics cannot go before the guest has run for nothing."""
    if path.is_dir():
        raise ConfigError(f"--stats: {str(path)!r} is a directory; allowed: a file")
    if not path.parent.is_dir():
        raise ConfigError(f"--stats: {str(path)!r} lies in no folder that exists; allowed: a file in one that does")


def _write_stats(path: Path, vm: Machine, outcome: Outcome, seconds: float) -> None:
    stop = outcome.stop
    report = {
        "instructions": vm.icount,
        "seconds": round(seconds, 6),
        "mips": round(vm.icount / seconds / 1e6, 3) if seconds > 0 else 0.0,
        "stop": StopReason.IDLE.value if outcome.quiet else stop.reason.value,
        "pc": f"{stop.pc:#x}",  # in hexadecimal: kernel addresses do not fit the numbers of JSON readers
        "exit_code": stop.exit_code,
        "digest": vm.digest(),
    }
    text = json.dumps(report, indent=1) + "\n"
    if path.exists() and not path.is_file():  # a pipe or a device cannot be renamed over
        path.write_text(text, encoding="utf-8")
        return
    with aside(path, what="--stats") as file:
        file.write(text.encode())


# ---- the other commands -----------------------------------------------------------------------------------------
@app.command(name="pull")
def pull_command(
    what: Annotated[str, typer.Argument(help="debian")],
    packages: Annotated[str, typer.Option("--with", metavar="PKG,...", help="Also make an ext4 root of these.")] = "",
    mirror: Annotated[str | None, typer.Option(metavar="URL", help="Another archive than the host's own.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch anew what is cached already.")] = False,
) -> None:
    """Put an unmodified guest in the cache, through the host's own apt."""
    if what != "debian":
        raise ConfigError(f"pull: {what!r} is not known; allowed: debian")
    from pyvirt.fetch.pull import pull as fetch

    names = [name for name in packages.replace(",", " ").split() if name]
    try:
        with Signals():
            fetch(names, mirror=mirror, refresh=refresh, say=lambda line: typer.echo(line, err=True))
    except HostError as error:
        _say(str(error))
        raise typer.Exit(FAILED) from error


@app.command()
def demo() -> None:
    """Run pyvirt's own guest: at a terminal you are left at its prompt, else it prints a session and checks itself."""
    from pyvirt.command.demo import run_demo

    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    raise typer.Exit(run_demo(interactive, attach=_attach))


def _attach(vm: Machine) -> int:
    """Connect the terminal to a loaded machine."""
    vm.console.echo = True
    return _run(vm, (), Budget(vm), stdio=True, stats=None)


@app.command()
def doctor() -> None:
    """Say what this host offers, and what to do about what it does not."""
    from pyvirt.command import doctor as doctor_checks

    checks = doctor_checks.report()
    for check in checks:
        typer.echo(str(check))
    raise typer.Exit(0 if all(check.ok for check in checks) else FAILED)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pyvirt {pyvirt.__version__}")
        raise typer.Exit(0)


@app.callback()
def _common(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                  help="Show the version.")] = False) -> None:
    pass


def describe(error: Exception) -> str:
    """Return a message with the library's option names as the command line spells them."""
    return re.sub(rf"^({OPTIONS})s?:", r"--\1:", str(error))


def main() -> NoReturn:
    """Run the command line; every way out is an exit code."""
    try:
        app(prog_name="pyvirt")
    except BrokenPipeError:
        # Nobody reads any more; what Python still wants to write at exit must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except (ConfigError, LoadError, HostError) as error:
        _say(describe(error))
        sys.exit(USAGE)
    except PyvirtError as error:
        _say(describe(error))
        sys.exit(FAILED)
    except Terminated as error:
        sys.exit(128 + error.signal)
    except OSError as error:
        if error.errno == errno.EIO:
            sys.exit(128 + signal.SIGHUP)  # the terminal was hung up under the output
        _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        sys.exit(FAILED)
    sys.exit(0)


from pyvirt.command import cli_files  # noqa: E402 - its commands use what is above

cli_files.add(app)
