"""The virtio entropy device (virtio 1.2, section 5.4), fed by a seeded generator so that a run repeats."""
from __future__ import annotations

import hashlib
from typing import Any

from pyvirt.devices.base import state_int
from pyvirt.devices.virtio_mmio import VirtioMmio
from pyvirt.errors import ConfigError

REQUEST_MAX = 1 << 16


class VirtioRng(VirtioMmio):
    """Random bytes from `seed`: request n gets SHAKE-256(seed, n). Not fit to keep secrets from who knows the seed.

    At most 64 KiB are delivered per request; a driver asks again for more.

    >>> VirtioRng(seed=1).state["counter"]
    0
    """

    NAME = "virtio-rng"
    DEVICE_ID = 4
    QUEUES = 1

    def __init__(self, *, seed: int | bytes = 0) -> None:
        if isinstance(seed, int) and not isinstance(seed, bool):
            seed = seed.to_bytes((seed.bit_length() + 8) // 8, "little", signed=True)
        if not isinstance(seed, bytes):
            raise ConfigError(f"virtio-rng: seed is {seed!r}, expected an int or bytes")
        self._seed, self._counter = hashlib.sha256(b"virtio-rng\0" + seed).digest(), 0
        super().__init__()

    def handle(self, index: int) -> None:
        while (chain := self.pop(index)) is not None:
            size = min(chain.write_size, REQUEST_MAX)
            self._counter += 1
            data = hashlib.shake_256(self._seed + self._counter.to_bytes(8, "little")).digest(size)
            self.push(index, chain, chain.write(data))

    def reseed(self, entropy: bytes) -> bool:
        self._seed = hashlib.sha256(b"virtio-rng\0" + entropy).digest()
        return True

    @property
    def bare(self) -> bool:
        return not self.error

    def _save(self) -> dict[str, Any]:
        return {**super()._save(), "seed": self._seed, "counter": self._counter}

    def _load(self, state: dict[str, Any]) -> None:
        if not isinstance(state["seed"], bytes) or len(state["seed"]) != 32:
            raise ConfigError(f"virtio-rng: state['seed'] is {state['seed']!r}, expected 32 bytes")
        counter = state_int(self.NAME, state, "counter", high=(1 << 64) - 1)
        super()._load(state)
        self._seed, self._counter = state["seed"], counter
