"""What lies where in guest RAM: named ranges that never overlap."""
from __future__ import annotations

from typing import NamedTuple

from pyvirt.errors import LoadError

PAGE = 4096


class Range(NamedTuple):
    """A named piece of RAM, `start` <= address < `end`."""

    name: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.name} {self.start:#x}..{self.end:#x}"


class Placement:
    """What lies where in RAM. Refuses overlaps, naming both sides.

    >>> places = Placement(0x8000_0000, 0x1000_0000)
    >>> places.reserve("firmware", 0x8000_0000, 0x4_0000)
    Range(name='firmware', start=2147483648, end=2147745792)
    >>> hex(places.find("initrd", 0x1000, top=True).start)
    '0x8ffff000'
    """

    def __init__(self, base: int, size: int) -> None:
        self.base, self.size = base, size
        self._ranges: list[Range] = []

    @property
    def end(self) -> int:
        return self.base + self.size

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The reserved ranges, by address."""
        return tuple(self._ranges)

    @ranges.setter
    def ranges(self, ranges: tuple[Range, ...]) -> None:
        self._ranges = list(ranges)

    def reserve(self, name: str, start: int, size: int) -> Range:
        """Take a range, or raise LoadError when it leaves RAM or overlaps another."""
        wanted = self.check(name, start, size)
        if size:
            self._ranges.append(wanted)
            self._ranges.sort(key=lambda r: r.start)
        return wanted

    def check(self, name: str, start: int, size: int) -> Range:
        """Return the range that `reserve` would take, or raise as it does."""
        wanted = Range(name, start, start + size)
        if size < 0 or start < self.base or wanted.end > self.end:
            raise LoadError(f"{wanted} ({size} bytes) is outside RAM {self.base:#x}..{self.end:#x}")
        for other in self._ranges:
            if wanted.start < other.end and other.start < wanted.end:
                raise LoadError(f"{wanted} overlaps {other}; give one of them another address")
        return wanted

    def release(self, taken: Range) -> None:
        """Give a range back."""
        if taken in self._ranges:
            self._ranges.remove(taken)

    def room(self, start: int) -> tuple[int, Range | None]:
        """Return how many bytes are free from `start` on, and the range that ends them (None: the end of RAM)."""
        if not self.base <= start < self.end:
            return 0, None
        for other in self._ranges:
            if other.end > start:
                return max(other.start - start, 0), other
        return self.end - start, None

    def find(self, name: str, size: int, *, align: int = PAGE, above: int = 0, below: int | None = None,
             top: bool = False) -> Range:
        """Reserve the lowest (or with `top` the highest) free range in `above`..`below` that fits.

        Raises LoadError naming what is free when there is none.
        """
        low, high = max(above, self.base), min(self.end if below is None else below, self.end)
        edges = [low, *(r.end for r in self._ranges if low < r.end < high)]
        gaps = [(start, min([high, *(r.start for r in self._ranges if r.end > start)])) for start in edges]
        fits = []
        for start, end in gaps:
            place = (end - size) // align * align if top else -(-start // align) * align
            if start <= place and place + size <= end:
                fits.append(place)
        if not fits:
            free = max([0, *(end - start for start, end in gaps)])
            raise LoadError(
                f"{name}: needs {size} bytes in {low:#x}..{high:#x}, the largest free range there has {free}")
        return self.reserve(name, max(fits) if top else min(fits), size)
