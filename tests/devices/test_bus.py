"""The bridge between the C contract of devices and Python."""

from __future__ import annotations

import gc
import weakref

import pytest

from pyvirt._bus import BusFault, Clock, IrqLine, Mmio, PyClock, PyIrqLine, PyMmio, PyNotify


class Echo:
    """Registers that remember, and misbehave at offsets 0x20 and up."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}

    def read(self, offset: int, width: int) -> object:
        if offset == 0x20:
            raise KeyError("mine")
        if offset == 0x28:
            return "no number"
        if offset == 0x30:
            raise BusFault("none here")
        return self.values.get(offset, -1)

    def write(self, offset: int, width: int, value: int) -> None:
        if offset == 0x20:
            raise KeyboardInterrupt
        if offset == 0x30:
            raise BusFault("none here")
        self.values[offset] = value


def test_python_object_serves_as_register_file() -> None:
    mmio = Mmio(PyMmio(Echo(), size=0x40))
    mmio.write(8, 2, 0x12345)
    assert mmio.read(8, 2) == 0x2345
    assert mmio.read(16, 4) == 0xFFFF_FFFF  # a negative answer is cut to the width
    assert mmio.read(16, 8) == 2**64 - 1


@pytest.mark.parametrize(
    ("offset", "width"), [(1, 2), (2, 4), (4, 8), (0x40, 1), (0x3C, 8), (2**64 - 8, 8), (0, 3), (0, 0), (0x30, 4)]
)
def test_bad_access_is_a_fault(offset: int, width: int) -> None:
    mmio = Mmio(PyMmio(Echo(), size=0x40))
    with pytest.raises(BusFault):
        mmio.read(offset, width)
    with pytest.raises(BusFault):
        mmio.write(offset, width, 0)


def test_widths_are_the_devices() -> None:
    mmio = Mmio(PyMmio(Echo(), widths=(4,)))
    assert mmio.read(0, 4) == 0xFFFF_FFFF
    with pytest.raises(BusFault):
        mmio.read(0, 1)
    with pytest.raises(ValueError, match="width 3 is not one of 1, 2, 4, 8"):
        PyMmio(Echo(), widths=(3,))


def test_exception_is_kept_with_its_traceback() -> None:
    bridge = PyMmio(Echo())
    with pytest.raises(KeyError, match="mine") as caught:
        Mmio(bridge).read(0x20, 4)
    assert "read" in [entry.name for entry in caught.traceback]
    assert bridge.take() is None
    with pytest.raises(KeyboardInterrupt):
        Mmio(bridge).write(0x20, 4, 0)
    with pytest.raises(TypeError, match=r"returned 'no number', expected an int"):
        Mmio(bridge).read(0x28, 4)


def test_lines_and_clock_pass_through_capsules() -> None:
    seen: list[tuple[int, bool]] = []
    line = IrqLine(IrqLine(PyIrqLine(lambda pin, level: seen.append((pin, level)), 7)))
    line.set(True)
    line.set(False)
    assert seen == [(7, True), (7, False)]
    assert Clock(PyClock(42)).now == 42


def test_wrong_capsule_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"PyCapsule named 'pyvirt\.irq_line_t', found"):
        IrqLine(PyClock().capsule())
    with pytest.raises(TypeError, match="expected a callable, found 3"):
        PyIrqLine(3)
    assert callable(PyNotify(print).callback)


def test_capsule_keeps_its_owner_and_rings_are_collected() -> None:
    class Listener:
        def __init__(self) -> None:
            self.seen: list[bool] = []
            self.line: object = None

        def hear(self, pin: int, level: bool) -> None:
            self.seen.append(level)

    listener = Listener()
    line = IrqLine(PyIrqLine(listener.hear).capsule())
    listener.line = line  # a ring: the listener drives itself
    gone = weakref.ref(listener)
    del listener
    gc.collect()
    line.set(True)
    kept = gone()
    assert kept is not None
    assert kept.seen == [True]
    del kept, line
    gc.collect()
    assert gone() is None
