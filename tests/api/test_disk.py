"""Raw disks: overlay and direct."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from pyvirt.disks.disk import BLOCK, Disk
from pyvirt.errors import ClosedError, ConfigError, HostError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(10 * BLOCK + 512))
    return path


def test_overlay_never_writes_the_file_and_equals_a_plain_buffer(image: Path) -> None:
    before = image.read_bytes()
    model = bytearray(before)
    rng = random.Random(2)
    with Disk(image) as disk:
        assert (disk.size, disk.sectors) == (len(before), len(before) // 512)
        for _ in range(300):
            offset = rng.randrange(len(model))
            size = min(rng.choice([0, 1, 100, 512, 4096, 9000]), len(model) - offset)
            if rng.random() < 0.5:
                data = rng.randbytes(size)
                disk.write(offset, data)
                model[offset : offset + size] = data
            else:
                assert disk.read(offset, size) == model[offset : offset + size]
        assert disk.read(0, disk.size) == model
        assert disk.changed_blocks <= 11
        disk.flush()
    assert image.read_bytes() == before


def test_overlay_can_be_copied_and_put_back(image: Path) -> None:
    with Disk(image) as one, Disk(image) as two:
        one.write(BLOCK, b"x" * 10)
        one.zero(3 * BLOCK, BLOCK)
        two.overlay = one.overlay
        assert two.read(0, two.size) == one.read(0, one.size)
        one.write(BLOCK, b"y")
        assert two.read(BLOCK, 2) == b"xx"
        for bad, words in (
            ({11: bytes(BLOCK)}, r"block 11, expected 0\.\.10"),
            ({-1: bytes(BLOCK)}, "block -1"),
            ({0: bytes(5)}, "is not 4096 bytes"),
        ):
            with pytest.raises(ConfigError, match=words):
                two.overlay = bad


def test_overlay_limit_counts_changed_blocks(image: Path) -> None:
    with Disk(image, overlay_limit=2 * BLOCK) as disk:
        disk.write(0, b"a")
        disk.write(BLOCK, b"b")
        disk.write(0, b"again")
        with pytest.raises(HostError, match="the overlay needs 12288 bytes, overlay_limit allows 8192") as caught:
            disk.write(5 * BLOCK, b"c")
        assert caught.value.errno == errno.ENOSPC


def test_direct_writes_the_file_and_locks_it(image: Path) -> None:
    with Disk(image, mode="direct") as disk:
        disk.write(100, b"hello")
        disk.flush()
        assert image.read_bytes()[100:105] == b"hello"
        assert disk.read(100, 5) == b"hello"
        with pytest.raises(HostError, match="is locked by another machine or process; mode='overlay'"):
            Disk(image, mode="direct")
        with pytest.raises(ConfigError, match="has no overlay"):
            disk.overlay = {}
    Disk(image, mode="direct").close()


def test_direct_flush_is_fsync(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Disk(image, mode="direct") as disk:
        disk.flush()
        assert len(synced) == 1
    with Disk(image) as disk:
        disk.flush()
    assert len(synced) == 1


def test_read_only(image: Path) -> None:
    image.chmod(0o444)
    for mode in ("overlay", "direct"):
        with Disk(image, mode=mode, read_only=True) as disk:  # type: ignore[arg-type]
            disk.read(0, 512)
            disk.flush()
            with pytest.raises(ConfigError, match="is read-only"):
                disk.write(0, b"x")


def test_two_readers_share_a_direct_lock(image: Path) -> None:
    one = Disk(image, mode="direct", read_only=True)
    with one, Disk(image, mode="direct", read_only=True), pytest.raises(HostError, match="is locked"):
        Disk(image, mode="direct")


def test_use_after_close(image: Path) -> None:
    disk = Disk(image)
    disk.close()
    disk.close()
    assert disk.closed
    assert "closed" in repr(disk)
    for use in (
        lambda: disk.read(0, 1),
        lambda: disk.write(0, b"x"),
        disk.flush,
        disk.__enter__,
        lambda: setattr(disk, "overlay", {}),
    ):
        with pytest.raises(ClosedError, match="is closed"):
            use()


def test_repr(image: Path) -> None:
    with Disk(image) as disk:
        assert repr(disk) == f"<Disk '{image}' mode='overlay' size=41472 unchanged>"
        disk.write(0, b"x")
        assert "1 blocks changed" in repr(disk)


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, -1), (41472, 1), (0, 41473), (2**64, 1)])
def test_range_is_checked(image: Path, offset: int, size: int) -> None:
    with Disk(image) as disk:
        with pytest.raises(ConfigError, match=r"is outside 0\.\.41472"):
            disk.read(offset, size)
        if size > 0:
            with pytest.raises(ConfigError, match=r"is outside 0\.\.41472"):
                disk.write(offset, bytes(size))


def test_wrong_files_and_options(tmp_path: Path, image: Path) -> None:
    odd, empty, qcow = tmp_path / "odd", tmp_path / "empty", tmp_path / "qcow"
    odd.write_bytes(bytes(513))
    empty.write_bytes(b"")
    qcow.write_bytes(b"QFI\xfb" + bytes(508))
    for make, error, words in (
        (lambda: Disk(odd), ConfigError, "size is 513 bytes, expected a positive multiple of 512"),
        (lambda: Disk(empty), ConfigError, "size is 0 bytes"),
        (lambda: Disk(qcow), ConfigError, "found a qcow2 image, expected a raw one"),
        (lambda: Disk(tmp_path), ConfigError, "is a directory"),
        (lambda: Disk(tmp_path / "none"), HostError, "none: cannot be opened for reading: No such file"),
        (lambda: Disk(image, mode="rw"), ConfigError, "mode is 'rw', expected 'overlay' or 'direct'"),
        (lambda: Disk(image, overlay_limit=-1), ConfigError, "overlay_limit is -1, expected None or"),
    ):
        with pytest.raises(error, match=words):
            make()


def test_a_file_cut_since_reads_as_zeros(image: Path) -> None:
    with Disk(image) as disk:
        os.truncate(image, 512)
        assert disk.read(0, 1024)[512:] == bytes(512)
