"""The virtio block device (virtio 1.2, section 5.2): one queue over one Disk."""
from __future__ import annotations

import struct
from typing import Any

from pyvirt.devices.virtio_mmio import VirtioMmio
from pyvirt.devices.virtqueue import Chain, VirtqueueError
from pyvirt.disks.disk import SECTOR, Disk
from pyvirt.errors import ConfigError, HostError

F_SIZE_MAX, F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH = 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 9
F_DISCARD, F_WRITE_ZEROES = 1 << 13, 1 << 14

T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2

STEP = 1 << 20       # bytes moved at once
# Descriptors of one request and bytes of each: together less than a chain may have.
SEG_MAX, SIZE_MAX = 126, 64 << 10
ZERO_SECTORS_MAX = (4 << 20) // SECTOR  # of one discard or write-zeroes segment, and so of a request


class VirtioBlk(VirtioMmio):
    """A block device on `disk`, with a serial number of up to 20 bytes.

    What changes in the disk's overlay is not part of this device's state; it belongs to the disk.
    """

    NAME = "virtio-blk"
    DEVICE_ID = 2
    QUEUES = 1

    def __init__(self, disk: Disk, *, serial: str = "pyvirt") -> None:
        if len(serial.encode()) > 20:
            raise ConfigError(f"virtio-blk: serial is {serial!r}, expected at most 20 bytes")
        self.disk, self.serial = disk, serial.encode()
        super().__init__()

    @property
    def device_features(self) -> int:
        features = super().device_features | F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH
        return features | (F_RO if self.disk.read_only else F_DISCARD | F_WRITE_ZEROES)

    def config(self) -> bytes:
        # capacity, size_max, seg_max, geometry, blk_size, topology, writeback, num_queues, then discard and
        # write-zeroes limits: sectors, segments, alignment, sectors, segments, may_unmap.
        return struct.pack(
            "<QIIHBBIBBHIBxHIIIIIB3x", self.disk.sectors, SIZE_MAX, SEG_MAX, 0, 0, 0, SECTOR, 0, 0, 0, 0, 0, 1,
            ZERO_SECTORS_MAX, 1, 8, ZERO_SECTORS_MAX, 1, 0)

    def handle(self, index: int) -> None:
        while (chain := self.pop(index)) is not None:
            self.push(index, chain, self._request(chain))

    def _request(self, chain: Chain) -> int:
        """Carry out one request and return how many bytes of the chain were written, the status byte included."""
        room = chain.write_size - 1  # the last writable byte is the status
        if room < 0:
            raise VirtqueueError(f"the request of descriptor {chain.head} has no byte for its status")
        header = chain.read(0, 16)
        if len(header) < 16:
            chain.write(bytes([S_IOERR]), room)
            return 1
        kind, _, sector = struct.unpack("<IIQ", header)
        written = 0
        try:
            if kind == T_IN:
                status, written = self._read(chain, sector, room)
            elif kind == T_OUT:
                status = self._write(chain, sector)
            elif kind == T_FLUSH:
                self.disk.flush()
                status = S_OK
            elif kind == T_GET_ID:
                written = chain.write(self.serial.ljust(20, b"\0")[:room])
                status = S_OK
            elif kind in (T_DISCARD, T_WRITE_ZEROES):
                status = self._zero(chain, kind)
            else:
                status = S_UNSUPP
        except HostError as error:
            # The host's trouble becomes the guest's I/O error, as on a real disk; the reason stays readable here.
            self.error = str(error)
            status = S_IOERR
        chain.write(bytes([status]), room)
        return written + 1

    def _fits(self, sector: int, size: int) -> bool:
        return size % SECTOR == 0 and sector * SECTOR + size <= self.disk.size

    def _read(self, chain: Chain, sector: int, size: int) -> tuple[int, int]:
        if not self._fits(sector, size):
            return S_IOERR, 0
        for at in range(0, size, STEP):
            chain.write(self.disk.read(sector * SECTOR + at, min(STEP, size - at)), at)
        return S_OK, size

    def _write(self, chain: Chain, sector: int) -> int:
        size = chain.read_size - 16
        if self.disk.read_only or not self._fits(sector, size):
            return S_IOERR
        for at in range(0, size, STEP):
            self.disk.write(sector * SECTOR + at, chain.read(16 + at, min(STEP, size - at)))
        return S_OK

    def _zero(self, chain: Chain, kind: int) -> int:
        data = chain.read(16)
        if self.disk.read_only or len(data) != 16:  # one segment is what the configuration offers
            return S_IOERR
        sector, count, flags = struct.unpack("<QII", data)
        if flags & ~1 or (kind == T_DISCARD and flags & 1):
            return S_UNSUPP
        if count > ZERO_SECTORS_MAX or not self._fits(sector, count * SECTOR):
            return S_IOERR
        self.disk.zero(sector * SECTOR, count * SECTOR)
        return S_OK

    @property
    def bare(self) -> bool:
        return not self.error

    def _save(self) -> dict[str, Any]:
        return {**super()._save(), "sectors": self.disk.sectors}

    def _load(self, state: dict[str, Any]) -> None:
        if state["sectors"] != self.disk.sectors:
            raise ConfigError(f"virtio-blk: state is of a disk of {state['sectors']!r} sectors, this one has "
                              f"{self.disk.sectors}")
        super()._load(state)
