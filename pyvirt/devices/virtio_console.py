"""The virtio console (virtio 1.2, section 5.3): one port, without multiport."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyvirt.devices.virtio_mmio import VirtioMmio
from pyvirt.errors import ConfigError

RX, TX = 0, 1
OUTPUT_MAX = 1 << 20


class VirtioConsole(VirtioMmio):
    """A console port. The host sends with `send`; output goes to `sink(bytes)`, or waits for `drain` without one.

    Without a sink at most 1 MiB waits; what comes on top is dropped and counted in `dropped`. A fork's console has no
    sink.
    """

    NAME = "virtio-console"
    DEVICE_ID = 3
    QUEUES = 2

    def __init__(self, *, sink: Callable[[bytes], object] | None = None) -> None:
        self.sink = sink
        self.dropped = 0
        self._output = bytearray()
        self._input = bytearray()
        super().__init__()

    @property
    def recipe(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {}

    def send(self, data: bytes) -> None:
        """Queue input for the guest. The machine must not be running."""
        self._input += data
        self.serve(RX)

    def drain(self) -> bytes:
        """Return what the guest sent since the last call."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def handle(self, index: int) -> None:
        if index == TX:
            while (chain := self.pop(TX)) is not None:
                self._emit(chain.read())
                self.push(TX, chain, 0)
            return
        while self._input and (chain := self.pop(RX)) is not None:
            written = chain.write(bytes(self._input[:chain.write_size]))
            del self._input[:written]
            self.push(RX, chain, written)

    def _emit(self, data: bytes) -> None:
        if self.sink is not None:
            self.sink(data)
            return
        kept = data[:OUTPUT_MAX - len(self._output)]
        self._output += kept
        self.dropped += len(data) - len(kept)

    def on_start(self) -> None:
        self.serve(RX)

    @property
    def bare(self) -> bool:
        return not self.error and self.sink is None and not self._output and not self.dropped

    def _save(self) -> dict[str, Any]:
        return {**super()._save(), "input": bytes(self._input)}

    def _load(self, state: dict[str, Any]) -> None:
        if not isinstance(state["input"], bytes):
            raise ConfigError(f"virtio-console: state['input'] is {state['input']!r}, expected bytes")
        super()._load(state)
        self._input = bytearray(state["input"])
