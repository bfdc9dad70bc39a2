"""pyvirt: a computer inside Python.

Everything public is here: `import pyvirt as pv; vm = pv.Machine()`. Names are imported when first used, so that the
import is quick; `asm` and `disasm` at once, since modules of those names would take their place later.
"""
from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyvirt._digest import require_built

require_built(Path(__file__).parent)

from pyvirt.assembly.asm import asm as asm  # noqa: E402 - an unbuilt tree is told before anything compiled is imported
from pyvirt.assembly.disasm import disasm as disasm  # noqa: E402

if TYPE_CHECKING:
    from pyvirt.config import Config as Config
    from pyvirt.console import Console as Console
    from pyvirt.devices.base import BusFault as BusFault
    from pyvirt.devices.base import Device as Device
    from pyvirt.devices.base import FdtContext as FdtContext
    from pyvirt.devices.base import FdtNode as FdtNode
    from pyvirt.devices.base import Region as Region
    from pyvirt.devices.virtio_console import VirtioConsole as VirtioConsole
    from pyvirt.devices.virtio_mmio import VirtioMmio as VirtioMmio
    from pyvirt.devices.virtio_rng import VirtioRng as VirtioRng
    from pyvirt.devices.vmgenid import VmGenId as VmGenId
    from pyvirt.disks.disk import Disk as Disk
    from pyvirt.errors import AsmError as AsmError
    from pyvirt.errors import ClosedError as ClosedError
    from pyvirt.errors import ConfigError as ConfigError
    from pyvirt.errors import DeviceError as DeviceError
    from pyvirt.errors import GuestAddressError as GuestAddressError
    from pyvirt.errors import HostError as HostError
    from pyvirt.errors import LoadError as LoadError
    from pyvirt.errors import MachineBusy as MachineBusy
    from pyvirt.errors import NotReached as NotReached
    from pyvirt.errors import PyvirtError as PyvirtError
    from pyvirt.errors import SnapshotError as SnapshotError
    from pyvirt.explain.exits import Exits as Exits
    from pyvirt.explain.levels import Guest as Guest
    from pyvirt.explain.levels import Level as Level
    from pyvirt.explain.trace import Hook as Hook
    from pyvirt.explain.trace import Return as Return
    from pyvirt.explain.trace import Trace as Trace
    from pyvirt.explain.walk import Walk as Walk
    from pyvirt.fdt import Placed as Placed
    from pyvirt.gdb import GdbServer as GdbServer
    from pyvirt.hart import CsrValue as CsrValue
    from pyvirt.hart import Hart as Hart
    from pyvirt.history.history import History as History
    from pyvirt.history.snapshot import Diff as Diff
    from pyvirt.history.snapshot import Snapshot as Snapshot
    from pyvirt.machine import Machine as Machine
    from pyvirt.memory import Memory as Memory
    from pyvirt.nesting.hypervisor import Hypervisor as Hypervisor
    from pyvirt.nesting.vcpu import Vcpu as Vcpu
    from pyvirt.stop import Condition as Condition
    from pyvirt.stop import Input as Input
    from pyvirt.stop import Stop as Stop
    from pyvirt.stop import StopReason as StopReason
    from pyvirt.stop import Trap as Trap
    from pyvirt.stop import access as access
    from pyvirt.stop import at as at
    from pyvirt.stop import trap as trap
    from pyvirt.stop import when as when

_WHERE = {
    "Config": "config", "Console": "console", "BusFault": "devices.base", "Device": "devices.base",
    "FdtContext": "devices.base", "FdtNode": "devices.base", "Region": "devices.base",
    "VirtioConsole": "devices.virtio_console", "VirtioMmio": "devices.virtio_mmio", "VirtioRng": "devices.virtio_rng",
    "VmGenId": "devices.vmgenid", "Disk": "disks.disk", "AsmError": "errors", "ClosedError": "errors",
    "ConfigError": "errors", "DeviceError": "errors", "GuestAddressError": "errors", "HostError": "errors",
    "LoadError": "errors", "MachineBusy": "errors", "NotReached": "errors", "PyvirtError": "errors", "Placed": "fdt",
    "CsrValue": "hart", "Hart": "hart", "Machine": "machine", "MissingFence": "explain.fences", "Memory": "memory",
    "Input": "stop", "Condition": "stop", "Stop": "stop", "StopReason": "stop", "Trap": "stop", "access": "stop",
    "at": "stop", "trap": "stop", "when": "stop", "Exits": "explain.exits", "Guest": "explain.levels",
    "Hook": "explain.trace", "Level": "explain.levels", "Return": "explain.trace", "Trace": "explain.trace",
    "GdbServer": "gdb", "Hypervisor": "nesting.hypervisor", "Vcpu": "nesting.vcpu", "Walk": "explain.walk",
    "Diff": "history.snapshot", "History": "history.history", "Snapshot": "machine", "SnapshotError": "errors",
}

__version__ = "0.1.0"
__all__ = ["__version__", "asm", "disasm", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pyvirt' has no attribute {name!r}")
    value = getattr(import_module(f"pyvirt.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
