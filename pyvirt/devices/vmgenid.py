"""The VM generation ID: 16 bytes that change, with an interrupt, when a machine stops being the twin of another.

Linux's vmgenid driver binds to it by device tree since 6.10 ("microsoft,vmgenid"): it reads the bytes, and when the
interrupt comes and they have changed, mixes them into its random numbers and reseeds at once. Older kernels know the
device by ACPI only and take no notice. A guest that is told nothing goes on with the numbers of its twin.
"""
from __future__ import annotations

import hashlib
from typing import Any

from pyvirt.devices.base import BusFault, Device, FdtContext, FdtNode, Region
from pyvirt.errors import ConfigError

SIZE = 16


class VmGenId(Device):
    """A generation ID that starts from `seed`; `reseed` makes another of it and raises the interrupt.

    >>> device = VmGenId(seed=1)
    >>> before = device.id
    >>> device.reseed(b"other"), device.id != before, len(device.id)
    (True, True, 16)
    """

    NAME = "vmgenid"
    REGIONS = (Region("vmgenid", 0x1000),)
    IRQS = 1

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"vmgenid: seed is {seed!r}, expected an int")
        self._first = self._id = hashlib.sha256(b"pyvirt vmgenid %d" % seed).digest()[:SIZE]

    @property
    def id(self) -> bytes:
        """The 16 bytes that the guest reads."""
        return self._id

    def read(self, offset: int, width: int) -> int:
        if offset + width > SIZE:
            raise BusFault(f"vmgenid: no register of width {width} at {offset:#x}")
        return int.from_bytes(self._id[offset:offset + width], "little")

    @property
    def bare(self) -> bool:
        return True

    def reset(self) -> None:
        self._id = self._first

    def reseed(self, entropy: bytes) -> bool:
        self._id = hashlib.sha256(b"pyvirt vmgenid\0" + entropy).digest()[:SIZE]
        # An edge: the binding has no register by which a guest could answer. The PLIC keeps it until it is claimed.
        for line in self._wiring.lines:
            line.set(True)
            line.set(False)
        return True

    def _save(self) -> dict[str, Any]:
        return {"id": self._id}

    def _load(self, state: dict[str, Any]) -> None:
        found = state["id"]
        if not isinstance(found, bytes) or len(found) != SIZE:
            raise ConfigError(f"vmgenid: state['id'] is {found!r}, expected {SIZE} bytes")
        self._id = found

    def fdt(self, ctx: FdtContext) -> list[FdtNode]:
        return [FdtNode(f"rng@{ctx.bases[0]:x}", {
            "compatible": "microsoft,vmgenid", "reg": [ctx.bases[0] >> 32, ctx.bases[0] & 0xFFFF_FFFF, 0, SIZE],
            **ctx.interrupts(),
        })]
