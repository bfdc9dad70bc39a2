"""How a machine comes up: what is loaded where, and what the harts find in their registers.

With the built-in SBI hart 0 starts in S-mode at the kernel and the others wait for hart_start. With an M-mode image
every hart starts in the reset ROM. A program by itself starts in M-mode at its entry, all harts at once.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvirt.board import RAM_BASE, Board
from pyvirt.errors import ConfigError, LoadError
from pyvirt.fdt import check_dtb
from pyvirt.firmware.firmware import ROM_BASE, reset_code
from pyvirt.firmware.htif import Htif
from pyvirt.firmware.sbi import Sbi
from pyvirt.images import loader
from pyvirt.images.loader import Loaded
from pyvirt.images.opensbi import SCAN, moved_tree
from pyvirt.images.unpack import Source, open_source, source_name

if TYPE_CHECKING:
    from pyvirt.history.tenant import Tenant
    from pyvirt.run import Runner

KERNEL_OFFSET = 0x20_0000   # of a kernel without an address of its own: behind room for firmware
BELOW = 1 << 32             # where firmware and kernels with 32-bit habits find device tree and initrd
DTB_MAX = 2 << 20
BUILTIN = "builtin"


class Boot:
    """One load into one machine that has not run."""

    def __init__(self, tenant: Tenant, board: Board, runner: Runner) -> None:
        self.tenant, self.board, self.core, self.runner = tenant, board, board.core, runner

    def load(self, *, program: Source | None, kernel: Source | None, initrd: Source | None, cmdline: str,
             firmware: Source, dtb: Source | None, at: int | None) -> None:
        if program is None and kernel is None and (firmware == BUILTIN or firmware is None):
            raise ConfigError("load: found nothing to start; allowed: a program, kernel=, or firmware= with an image")
        if program is not None and (kernel is not None or initrd is not None or cmdline):
            raise ConfigError("load: a program is given with kernel=, initrd= or cmdline=; allowed: a program alone, "
                              "or kernel= with initrd= and cmdline=")
        if kernel is None and (initrd is not None):
            raise ConfigError("load: initrd= is given without kernel=; allowed: both")
        if not isinstance(cmdline, str) or "\0" in cmdline:
            raise ConfigError(f"load: cmdline is {cmdline!r}; allowed: str without NUL")
        if at is not None and (isinstance(at, bool) or not isinstance(at, int) or at < 0):
            raise ConfigError(f"load: at is {at!r}; allowed: an address in RAM")
        if self.board.config.board == "bare" and program is None:
            raise ConfigError("load: board 'bare' has no devices and no firmware; allowed: load(program), or "
                              "board='virt-1'")
        placement, symbols = self.board.placement, dict(self.tenant.symbols)
        before = placement.ranges
        try:
            if program is not None:
                self._program(program, at, dtb)
            else:
                self._system(kernel, initrd, cmdline, firmware, dtb, at)
        except BaseException:
            # All or nothing: what was loaded before the piece that failed goes again.
            for taken in placement.ranges:
                if taken not in before:
                    placement.release(taken)
                    self.board.ram.zero(taken.start, taken.end - taken.start)
            self.tenant.symbols = symbols
            raise

    # -- a program in M-mode
    def _program(self, program: Source, at: int | None, dtb: Source | None) -> None:
        loaded = self._load(program, at, default=None)
        tree = 0
        if self.board.config.board != "bare" or dtb is not None:
            tree = self._tree("", None, dtb)
        self.tenant.firmware = "none"
        self._host_interface()
        for index in range(self.core.harts):
            hart = self.core.hart(index)
            hart.pc = loaded.entry
            hart.set_x(10, index)
            hart.set_x(11, tree)

    def _host_interface(self) -> None:
        symbols, runner = self.tenant.symbols, self.runner
        if "tohost" not in symbols:
            return
        runner.htif = self.htif(runner, symbols["tohost"], symbols.get("fromhost"))

    @staticmethod
    def htif(runner: Runner, tohost: int, fromhost: int | None) -> Htif:
        """Return the host interface of a program that names these addresses."""
        return Htif(runner.core, tohost=tohost, fromhost=fromhost, console_write=runner.write_console,
                    console_read=runner.read_console, on_exit=runner.on_exit)

    @staticmethod
    def sbi(runner: Runner) -> Sbi:
        """Return the built-in firmware."""
        return Sbi(runner.core, console_write=runner.write_console, console_read=runner.read_console,
                   on_exit=runner.on_exit)

    # -- firmware and kernel
    def _system(self, kernel: Source | None, initrd: Source | None, cmdline: str, firmware: Source, dtb: Source | None,
                at: int | None) -> None:
        builtin = firmware == BUILTIN
        first = None
        if not builtin:
            first = loader.load_program(firmware, write=self.core.mem_write, placement=self.board.placement,
                                        name=source_name(firmware, None))
            self._room_behind(first)
            self._moved_tree(first)
        loaded = None if kernel is None else self._load(kernel, at, default=RAM_BASE + KERNEL_OFFSET)
        span = None
        if initrd is not None:
            assert loaded is not None
            taken = loader.load_initrd(initrd, write=self.core.mem_write, placement=self.board.placement,
                                       above=loaded.end, below=BELOW)
            span = (taken.start, taken.end)
        tree = self._tree(cmdline, span, dtb)
        if first is None:
            assert loaded is not None
            self._start_builtin(loaded, tree)
        else:
            self._start_rom(first, loaded, tree)

    def _room_behind(self, firmware: Loaded) -> None:
        """Keep what firmware uses behind its file, stacks and heap, up to where kernels go."""
        room = RAM_BASE + KERNEL_OFFSET
        placement = self.board.placement
        if firmware.start < room and firmware.end < room <= placement.end:
            end = -(-firmware.end // 4096) * 4096
            if end < room:
                placement.reserve(f"{firmware.name}'s data", end, room - end)

    def _moved_tree(self, firmware: Loaded) -> None:
        """Keep the place to which the firmware will move the device tree: a kernel there would be overwritten."""
        placement = self.board.placement
        start = self.core.mem_read(firmware.start, min(SCAN, firmware.end - firmware.start))
        moved = moved_tree(start, base=firmware.start)
        if moved is not None and placement.base <= moved < placement.end:
            size = min(loader.DTB_ROOM, placement.end - moved)
            placement.reserve(f"the device tree as {firmware.name} moves it", moved, size)

    def _start_builtin(self, kernel: Loaded, tree: int) -> None:
        runner = self.runner
        self.tenant.firmware = BUILTIN
        self.core.builtin_sbi = True
        runner.sbi = self.sbi(runner)
        runner.sbi.start(entry=kernel.entry, dtb=tree)

    def _start_rom(self, firmware: Loaded, kernel: Loaded | None, tree: int) -> None:
        self.tenant.firmware = "image"
        assert self.board.rom is not None
        self.board.rom.fill(reset_code(entry=firmware.entry, dtb=tree, next_addr=0 if kernel is None else kernel.entry))
        for index in range(self.core.harts):
            self.core.hart(index).pc = ROM_BASE

    # -- pieces
    def _load(self, source: Source, at: int | None, *, default: int | None) -> Loaded:
        base = getattr(source, "base", None)
        if at is None and isinstance(base, int):
            at = base  # of an assembled program
        if at is None and default is not None and loader.identify(source) == "flat":
            at = default
        loaded = loader.load_program(source, write=self.core.mem_write, placement=self.board.placement, at=at)
        self.tenant.symbols.update(loaded.symbols)
        self.tenant.symbols.update(getattr(source, "symbols", {}))
        return loaded

    def _tree(self, cmdline: str, initrd: tuple[int, int] | None, dtb: Source | None) -> int:
        if dtb is None:
            data = self.board.device_tree(cmdline=cmdline, initrd=initrd)
        else:
            data = self._given_tree(dtb, cmdline, initrd)
        return loader.load_dtb(data, write=self.core.mem_write, placement=self.board.placement, below=BELOW).start

    def _given_tree(self, dtb: Source, cmdline: str, initrd: tuple[int, int] | None) -> bytes:
        name = source_name(dtb, None) if not isinstance(dtb, (bytes, bytearray)) else "dtb"
        with open_source(dtb, name) as file:
            data = file.read(DTB_MAX + 1)
        if len(data) > DTB_MAX:
            raise LoadError(f"{name}: has more than {DTB_MAX} bytes; allowed: a device tree of at most that")
        check_dtb(data, source=name)
        if not cmdline and initrd is None:
            return data
        import fdt

        try:
            tree: Any = fdt.parse_dtb(data)
            if not tree.exist_node("/chosen"):
                tree.add_item(fdt.Node("chosen"), "/")
            chosen = tree.get_node("/chosen")
            items: dict[str, bytes] = {"bootargs": cmdline.encode() + b"\0"} if cmdline else {}
            if initrd is not None:
                items["linux,initrd-start"] = initrd[0].to_bytes(8, "big")
                items["linux,initrd-end"] = initrd[1].to_bytes(8, "big")
            for key, value in items.items():
                if chosen.exist_property(key):
                    chosen.remove_property(key)
                chosen.append(fdt.PropBytes(key, data=value))
            return bytes(tree.to_dtb(version=17))
        except (ValueError, LookupError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise LoadError(f"{name}: the device tree cannot be read: {error}; expected an intact one") from error
