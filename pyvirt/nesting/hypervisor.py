"""Hypervisors written in Python: the host stands in the place of HS-mode software, its guest runs in VS- and VU-mode.

Every trap into HS-mode ends the core's run and is served here, by methods that a subclass overrides; then the hart goes
back into the guest. No guest code runs in HS-mode, and no M-mode software is there. What can be delegated is, so that
the guest runs at full speed between the exits that are left: SBI calls, guest page faults, external interrupts.
"""
from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from pyvirt import fdt
from pyvirt._bus import Mmio
from pyvirt._hart import EXTENSIONS
from pyvirt.assembly.csrnames import CSRS
from pyvirt.config import parse_size
from pyvirt.devices.base import BusFault, Device, IrqLine, Wiring, check_state
from pyvirt.errors import ConfigError, LoadError, PyvirtError
from pyvirt.fdt import Placed
from pyvirt.firmware import sbi
from pyvirt.images import loader
from pyvirt.images.placement import Placement
from pyvirt.memory import Memory
from pyvirt.nesting.guestinsn import decode_access, decode_transformed
from pyvirt.nesting.guestmem import BLOCK, PAGE, GuestMemory, R, W
from pyvirt.nesting.nested import Nested
from pyvirt.nesting.shadow import ACCESS_FAULT, ACCESSES, GUEST_PAGE_FAULT, READ_TABLE, WRITE_TABLE
from pyvirt.nesting.vcpu import MASK64, GuestCore, GuestSbi, Vcpu
from pyvirt.stop import INTERRUPT, Stop, Trap

if TYPE_CHECKING:
    from pyvirt.images.unpack import Source
    from pyvirt.machine import Machine

RAM_BASE = 0x8000_0000
KERNEL_OFFSET = 0x20_0000
BELOW = 1 << 32
ECALL_VS, VIRTUAL, ILLEGAL = 10, 22, 2
HEDELEG, HIDELEG = 0xB1FF, 0x444
STCE, PBMTE, ADUE = 1 << 63, 1 << 62, 1 << 61
FS = 3 << 13
PASSED = ("uart", "rtc", "plic", "syscon")
PLIC_CONTEXTS, PLIC_CONTEXT = 0x20_0000, 0x1000
REFLECTED_MAX = 100_000
CSR_SSTATUS, CSR_SIE, CSR_MIP = (CSRS[name] for name in ("sstatus", "sie", "mip"))


class Hypervisor:
    """A hypervisor whose code is this class: it stands in the place of a machine's HS-mode software.

    `memory` is the size of the guest's RAM, which begins at 0x80000000; `demand` leaves its pages unmapped until they
    are touched. Devices of the machine named in `trap` are reached through `on_mmio`, those in `passthrough` (default:
    UART, RTC, PLIC and syscon, without the trapped ones) directly; the guest's device tree shows both. `devices` are
    emulated ones of the guest's own. `nested` offers the H extension to the guest. `mode` is that of the G-stage.

    The machine must not have run, and must not load anything: the guest does, by `load`. Raises ConfigError.

    >>> from pyvirt import Machine, asm
    >>> class Counting(Hypervisor):
    ...     def on_ecall(self, vcpu, ext, fid, args):
    ...         if ext == 0x1000:
    ...             return 0, args[0] * 2
    ...         return super().on_ecall(vcpu, ext, fid, args)
    >>> with Machine(ram="8M") as vm:
    ...     guest = Counting(vm, memory="2M")
    ...     guest.load(asm("li a7, 0x1000; li a0, 21; ecall; mv s0, a1; li a7, 8; ecall", at=0x8000_0000))
    ...     guest.run_guest().kind, vm.hart.s0
    <Counting of 2M with 1 vcpu>
    ('poweroff', 42)
    """

    VERSION = 1
    made: tuple[tuple[Any, ...], dict[str, Any]]
    _OWN = frozenset((
        "made", "machine", "memory", "mem", "vcpus", "sbi", "exits", "reflected", "sstc", "shown", "areas", "emulated",
        "transformed", "_noticed", "_core", "_nested", "_placement"))

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self.made = args, kwargs    # for the hypervisor of a fork
        return self

    def __init__(self, machine: Machine, *, memory: SupportsIndex | str, demand: bool = False, nested: bool = False,
                 mode: str = "sv39x4", passthrough: Sequence[str] | None = None, trap: Sequence[str] = (),
                 devices: Sequence[Placed] = ()) -> None:
        board = machine._parts()
        self.machine = machine
        self._core = core = board.core
        exts = board.isa.exts
        if not exts & EXTENSIONS["h"]:
            raise ConfigError(f"machine: its ISA {machine.isa!r} lacks h; allowed: one with the hypervisor extension")
        if core.icount or machine._runner.hypervisor is not None or board.placement.ranges:
            raise ConfigError("machine: it has run, was loaded or has a hypervisor; allowed: a new Machine")
        self.sstc = bool(exts & EXTENSIONS["sstc"])
        self.transformed = machine.config.htinst == "transformed"
        if nested and not self.sstc:
            raise ConfigError(f"nested: the machine's ISA {machine.isa!r} lacks sstc; allowed: one with it")
        self._nested = nested
        size = parse_size(memory, name="memory", low=PAGE, high=1 << 40, multiple=PAGE)
        self.memory = GuestMemory(core, base=RAM_BASE, size=size, mode=mode)
        self.memory.on_revoke = self._revoked
        self.mem = Memory(self.memory, [(RAM_BASE, size, "guest memory", True)])
        self.vcpus = [Vcpu(self, index) for index in range(core.harts)]
        self.exits: Counter[int] = Counter()
        self.reflected: deque[Trap] = deque(maxlen=REFLECTED_MAX)
        self.sbi = GuestSbi(self)
        self._noticed = False
        self._placement = Placement(RAM_BASE, size)
        if not demand:
            self.memory.map_all()
        self.shown: list[Placed] = []
        self.areas: list[tuple[int, int]] = []      # where the guest's loads and stores go to the machine's bus
        self.emulated: list[tuple[int, int, Device]] = []
        self._pass(passthrough, trap)
        for placed in devices:
            self._attach(placed)
        self._take_over()

    # -- what a subclass overrides
    def on_ecall(self, vcpu: Vcpu, ext: int, fid: int, args: list[int]) -> tuple[int, int] | None:
        """Answer an SBI call: return (error, value), or None when the registers and pc are as they should be."""
        self.sbi.handle(vcpu.index)
        return None

    def on_guest_page_fault(self, vcpu: Vcpu, gpa: int, access: str) -> None:
        """Map the page of gpa, for a "fetch", "load" or "store" that the tables refused. BusFault: an access fault."""
        if gpa not in self.memory:
            raise BusFault(f"nothing is at gpa {gpa:#x}")
        self.memory.map(gpa)

    def on_virtual_instruction(self, vcpu: Vcpu, insn: int) -> None:
        """Do an instruction that the guest may not execute itself; without `nested` it is illegal to the guest."""
        if vcpu.nested is not None:
            vcpu.nested.emulate(insn)
        else:
            vcpu.inject(ILLEGAL, insn)

    def on_interrupt(self, vcpu: Vcpu, irq: int) -> None:
        """Serve an interrupt of HS-mode: 9 external, 5 timer, 1 software. External and timer go on to the guest."""
        hart = vcpu.core_hart
        if irq == 9:
            self._external(vcpu)
        elif irq == 5:
            hart.csr_write(CSR_SIE, hart.csr_read(CSR_SIE) & ~(1 << 5))
            vcpu.set_irq("timer", True)
        else:
            hart.set_soft_pending(False)

    def on_mmio(self, vcpu: Vcpu, gpa: int, access: str, width: int, value: int) -> int:
        """Serve a "load", returning its value, or a "store" where no memory is. BusFault: an access fault."""
        for base, size, device in self.emulated:
            if base <= gpa < base + size:
                port = Mmio(device)
                if access == "load":
                    return port.read(gpa - base, width)
                port.write(gpa - base, width, value)
                return 0
        for base, size in self.areas:
            if base <= gpa and gpa + width <= base + size:
                try:
                    if access == "load":
                        return self._core.bus_read(gpa, width)
                    self._core.bus_write(gpa, width, value)
                    return 0
                except IndexError as error:
                    raise BusFault(str(error)) from None
                finally:
                    self._external(vcpu)
        raise BusFault(f"nothing is at gpa {gpa:#x}")

    def on_trap(self, vcpu: Vcpu, cause: int, tval: int) -> None:
        """Serve an exception that is none of the others: what hedeleg does not delegate. The guest takes it."""
        vcpu.inject(cause, tval)

    def on_reflect(self, vcpu: Vcpu, trap: Trap) -> None:
        """Be told of a trap of the guest's guest that goes to the guest; the default keeps the last 100,000."""
        self.reflected.append(trap)

    def save(self) -> dict[str, Any]:
        """Return what a subclass keeps of its own, as plain values: part of snapshots, forks and the digest."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` returned."""

    # -- coming up
    def load(self, kernel: Source, *, initrd: Source | None = None, cmdline: str = "", dtb: bytes | None = None,
             at: int | None = None) -> Hypervisor:
        """Load what the guest starts with in VS-mode, a0 = hart and a1 = device tree, and return the hypervisor.

        As `Machine.load`: an ELF, Linux Image or flat file, plain or compressed, with an initial RAM disk and a command
        line; `dtb` replaces the device tree. Raises LoadError.
        """
        if self._core.icount:
            raise LoadError(f"load: the guest has run to icount {self._core.icount}; allowed: before the first run")
        write, places = self.memory.write, self._placement
        base = getattr(kernel, "base", None)
        if at is None and isinstance(base, int):
            at = base   # of an assembled program
        if at is None and loader.identify(kernel) == "flat":
            at = RAM_BASE + KERNEL_OFFSET
        loaded = loader.load_program(kernel, write=write, placement=places, at=at)
        self.machine._tenant.symbols.update(loaded.symbols)
        self.machine._tenant.symbols.update(getattr(kernel, "symbols", {}))
        span = None
        if initrd is not None:
            taken = loader.load_initrd(initrd, write=write, placement=places, above=loaded.end, below=BELOW)
            span = (taken.start, taken.end)
        tree = self.device_tree(cmdline=cmdline, initrd=span) if dtb is None else dtb
        self.start(entry=loaded.entry, opaque=loader.load_dtb(tree, write=write, placement=places, below=BELOW).start)
        return self

    def start(self, *, entry: int, opaque: int = 0) -> None:
        """Put vcpu 0 at `entry` in VS-mode with a1 = `opaque`; the others wait for hart_start."""
        for vcpu in self.vcpus:
            vcpu.hsm = sbi.STOPPED
        self.sbi._enter(self._sbi_hart(0), entry, opaque)

    def _sbi_hart(self, index: int) -> Any:
        return self.vcpus[index]

    def device_tree(self, *, cmdline: str = "", initrd: tuple[int, int] | None = None) -> bytes:
        """Return the device tree that the guest gets: its memory, and the devices that it can reach."""
        isa = self.machine._board.isa
        hidden = {"svadu"} if self._nested else {"svadu", "h"}
        head, *multi = isa.described.split("_")
        letters = "".join(letter for letter in head[4:] if letter not in hidden)
        described = "_".join([head[:4] + letters, *(name for name in multi if name not in hidden)])
        tree = fdt.Tree(isa=described, ram_base=RAM_BASE, ram_size=self.memory.size, harts=len(self.vcpus), mmu=isa.mmu,
                        bootargs=cmdline, initrd=initrd)
        return fdt.build(tree, self.shown)

    def _pass(self, passthrough: Sequence[str] | None, trap: Sequence[str]) -> None:
        placed = {p.device.name: p for p in self.machine._board.placed}
        if passthrough is None:
            passthrough = [name for name in PASSED if name in placed and name not in trap]
        for name in (*passthrough, *trap):
            if name not in placed or name in ("rom", "clint") or name.startswith("virtio"):
                allowed = ", ".join(n for n in placed if n not in ("rom", "clint") and not n.startswith("virtio"))
                raise ConfigError(f"passthrough, trap: {name!r} is not allowed; allowed: {allowed or 'none here'}")
            self.shown.append(placed[name])
            for base, region in zip(placed[name].bases, placed[name].device.regions, strict=True):
                self.areas.append((base, region.size))
                if name in passthrough:
                    # Claims in the PLIC trap, since they lower the line that is the guest's external interrupt.
                    self._map_registers(base, PLIC_CONTEXTS if name == "plic" else region.size)

    def _map_registers(self, base: int, size: int) -> None:
        while size > 0:
            level = 1 if base % BLOCK == 0 and size >= BLOCK else 0
            self.memory.stage.map(base, base, R | W, level=level)
            base, size = base + (BLOCK if level else PAGE), size - (BLOCK if level else PAGE)

    def _attach(self, placed: Placed) -> None:
        """Add an emulated device; its interrupts are sources of the machine's PLIC that nothing else uses."""
        board, device = self.machine._board, placed.device
        if placed.irqs and board.rom is None:
            raise ConfigError(f"{device.name}: board 'bare' has no PLIC for its interrupts")
        for irq in placed.irqs:
            board._check_irq(device.name, irq)
        core: Any = GuestCore(self)
        device.attach(Wiring(lines=tuple(IrqLine(board._plic.source(irq)) for irq in placed.irqs), clock=board._clock,
                             memory=core, on_exit=self.machine._runner.on_exit, on_schedule=self._core.request_exit))
        for base, region in zip(placed.bases, device.regions, strict=True):
            self.emulated.append((base, region.size, device))
        self.shown.append(placed)
        if type(device).next_event is not Device.next_event:
            self.machine._runner.timed.append(device)

    def _take_over(self) -> None:
        """Put the harts where M-mode software would leave them for a hypervisor that has set itself up."""
        machine, core = self.machine, self._core
        svadu = machine._board.isa.exts & EXTENSIONS["svadu"]
        for vcpu in self.vcpus:
            hart = vcpu.core_hart
            sbi.prepare(hart)
            if svadu:
                hart.csr_write(CSRS["menvcfg"], sbi.MENVCFG | ADUE)
            for name, value in (
                    ("hedeleg", HEDELEG), ("hideleg", HIDELEG), ("hcounteren", sbi.MASK32),
                    ("henvcfg", STCE | PBMTE | 0xF0), ("hgatp", self.memory.stage.hgatp()), ("sie", 1 << 9)):
                hart.csr_write(CSRS[name], value)
            for n in range(4 if core.exts & EXTENSIONS["smstateen"] else 0):
                hart.csr_write(CSRS[f"hstateen{n}"], MASK64)
            hart.csr_write(CSR_SSTATUS, hart.csr_read(CSR_SSTATUS) | FS)
            hart.priv, hart.virt = 1, 1
            hart.hsm = sbi.STOPPED
            if self._nested:
                vcpu.nested = Nested(self, vcpu)
        core.builtin_sbi = True
        core.hyper = True
        machine._tenant.firmware = "hypervisor"
        machine._runner.hypervisor = self

    # -- running
    def run_guest(self, *, until: Any = None, instructions: int | None = None, timeout: float | None = None,
                  check: bool = True) -> Stop:
        """Run the guest; the same as the machine's `run`, whose conditions and Stop these are."""
        return self.machine.run(until=until, instructions=instructions, timeout=timeout, check=check)

    def drive(self, target: int, *, each_trap: bool) -> str:
        """Run the core up to icount `target`, serving exits, and return what it stopped with; for the run loop."""
        core = self._core
        for vcpu in self.vcpus:
            if vcpu.core_hart.priv == 1 and not vcpu.core_hart.virt:
                self._serve(vcpu)   # an exit that is still to be served: something was raised from it, or restored
        while core.icount < target and not self._noticed:
            status = core.run(target)
            if status != "hyper":
                return status
            vcpu = self.vcpus[core.current]
            if vcpu.core_hart.virt:
                # A trap into the guest that the hart delivered itself, or an interrupt that it would take; asked for by
                # the virtual H extension.
                assert vcpu.nested is not None
                if vcpu.nested.offered():
                    continue
                vcpu.nested.trapped()
            elif not each_trap:
                self._serve(vcpu)
            if each_trap:
                return "trap"
        self._noticed = False
        return "notify"

    def _serve(self, vcpu: Vcpu) -> None:
        tenant = self.machine._tenant
        tenant.in_hook = True
        try:
            self._dispatch(vcpu)
            vcpu._resume()
        finally:
            vcpu._exited = False
            tenant.in_hook = False

    def _dispatch(self, vcpu: Vcpu) -> None:
        cause, tval, gpa, htinst, hstatus = vcpu._exit()
        self.exits[cause] += 1
        nested = vcpu.nested
        if nested is not None and nested.virt:
            nested.exit(cause, tval, gpa, htinst, hstatus)
        elif nested is not None and cause == INTERRUPT | 5:
            nested.timer()
        elif cause == ECALL_VS:
            hart = vcpu.core_hart
            ext, fid = hart.x(17) & sbi.MASK32, hart.x(16) & sbi.MASK32
            answer = self.on_ecall(vcpu, ext, fid, [hart.x(10 + i) for i in range(6)])
            if answer is not None:
                hart.set_x(10, answer[0] & MASK64)
                hart.set_x(11, answer[1] & MASK64)
                vcpu.pc += 4
        elif cause in GUEST_PAGE_FAULT:
            kind = GUEST_PAGE_FAULT.index(cause)
            if gpa in self.memory:
                # What the guest does at gpa: reading or writing its page table may be on the way to another access.
                need = {READ_TABLE: 1, WRITE_TABLE: 2}.get(htinst, kind)
                served = self.ask_for_page(vcpu, gpa, ACCESSES[need])
            else:
                served = self.serve_mmio(vcpu, gpa, kind, htinst)
            if not served:
                vcpu.inject(ACCESS_FAULT[kind], tval)
        elif cause == VIRTUAL:
            self.on_virtual_instruction(vcpu, tval)
        elif cause & INTERRUPT:
            self.on_interrupt(vcpu, cause & ~INTERRUPT)
        else:
            self.on_trap(vcpu, cause, tval)

    def ask_for_page(self, vcpu: Vcpu, gpa: int, access: str) -> bool:
        """Have a page mapped; False when the guest is to take an access fault."""
        try:
            self.on_guest_page_fault(vcpu, gpa, access)
        except BusFault:
            return False
        return True

    def serve_mmio(self, vcpu: Vcpu, gpa: int, kind: int, htinst: int) -> bool:
        """Decode the load or store at vcpu.pc and have it served; False when the guest is to take an access fault."""
        if kind == 0 or htinst in (READ_TABLE, WRITE_TABLE):
            return self.ask_for_page(vcpu, gpa, ACCESSES[kind])
        access = decode_transformed(htinst) if htinst else decode_access(self._instruction(vcpu))
        if access is None or access.store != (kind == 2):
            return False
        try:
            if access.store:
                value = vcpu.core_hart.x(access.reg) & (1 << 8 * access.width) - 1
                self.on_mmio(vcpu, gpa, "store", access.width, value)
            else:
                value = self.on_mmio(vcpu, gpa, "load", access.width, 0)
                vcpu.core_hart.set_x(access.reg, access.extended(value))
        except BusFault:
            return False
        vcpu.pc += access.length
        return True

    def _instruction(self, vcpu: Vcpu) -> int:
        """Return the instruction at vcpu.pc, whose page the guest has just fetched from; 0 when it has gone."""
        try:
            data = b""
            for at in (vcpu.pc, vcpu.pc + 2):
                data += self._core.mem_read(vcpu.translate(at, "fetch"), 2)
                if data[0] & 3 != 3:
                    break
        except LookupError:
            return 0
        return int.from_bytes(data, "little")

    def _external(self, vcpu: Vcpu) -> None:
        """Show the guest the machine's external interrupt line, and hear of its next change."""
        hart = vcpu.core_hart
        level = bool(hart.csr_read(CSR_MIP) >> 9 & 1)
        vcpu.set_irq("external", level)
        enabled = hart.csr_read(CSR_SIE)
        wanted = enabled & ~(1 << 9) if level else enabled | 1 << 9
        if wanted != enabled:
            hart.csr_write(CSR_SIE, wanted)

    def _printed(self, data: bytes) -> None:
        """Take what the guest printed through SBI."""
        self.machine._runner.write_console(data)
        self._noticed = True    # the run loop looks for text

    def _revoked(self, gpa: int | None) -> None:
        self.flush_nested()
        for vcpu in self.vcpus:
            vcpu.core_hart.fenced(guest=True)

    def flush_nested(self) -> None:
        """Forget the composed tables of every vcpu."""
        for vcpu in self.vcpus:
            if vcpu.nested is not None:
                vcpu.nested.shadow.flush()

    # -- state
    @property
    def state(self) -> dict[str, Any]:
        """All that decides what the hypervisor does next besides the machine's own state, as plain values.

        PyvirtError when a subclass keeps attributes of its own and has no `save`.
        """
        own = sorted(set(vars(self)) - self._OWN)
        name = type(self).__name__
        if own and type(self).save is Hypervisor.save:
            raise PyvirtError(f"{name} keeps {', '.join(own)} and has no save(): its state can't be taken. Write "
                              "save() and restore(), which return and take these as plain values")
        return {
            "class": name, "version": self.VERSION, "memory": self.memory.state,
            "vcpus": [None if vcpu.nested is None else vcpu.nested.state for vcpu in self.vcpus],
            "devices": [device.state for device in dict.fromkeys(entry[2] for entry in self.emulated)],
            "own": self.save()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        check_state(state, type(self).__name__, self.VERSION, {"memory", "vcpus", "devices", "own"})
        self.memory.state = state["memory"]
        for vcpu, nested in zip(self.vcpus, state["vcpus"], strict=True):
            if (nested is None) != (vcpu.nested is None):
                raise ConfigError("state: nested differs between the state and this hypervisor")
            if vcpu.nested is not None:
                vcpu.nested.state = nested
                vcpu.nested.watch()
        for device, content in zip(dict.fromkeys(entry[2] for entry in self.emulated), state["devices"], strict=True):
            device.state = content
        self.restore(state["own"])

    def __repr__(self) -> str:
        size = self.memory.size
        shown = f"{size >> 20}M" if size % (1 << 20) == 0 else str(size)
        return f"<{type(self).__name__} of {shown} with {len(self.vcpus)} vcpu{'s' if len(self.vcpus) > 1 else ''}>"
