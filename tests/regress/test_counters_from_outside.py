"""CSR reads from Python show counters and time of the moment, wherever the last slice ended."""
from __future__ import annotations

import pytest

from tests.support import Bare


@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("harts", [1, 2])
def test_after_an_early_stop(harts: int, core: str) -> None:
    bare = Bare("nop\n nop\n wfi", harts=harts)
    assert bare.core.run(1_000_000) == "idle"
    for i in range(harts):
        hart = bare.core.hart(i)
        assert hart.count == 3
        assert hart.csr_read(0xB00) == hart.csr_read(0xB02) == hart.csr_read(0xC02) == 3
        assert hart.csr_read(0xC01) == bare.core.time
        hart.csr_write(0xB02, 1000)
        assert hart.csr_read(0xB02) == 1000
        assert hart.csr_read(0xB00) == 3


def test_pending_timer_after_time_jumped() -> None:
    bare = Bare("li t0, 0x80\n csrw mie, t0\n wfi\n wfi\n nop\n j .", ratio=10)
    bare.clint()
    bare.core.bus_write(0x200_4000, 8, 50)
    assert bare.core.run(505) == "limit"
    assert bare.core.icount == 505
    assert bare.hart.csr_read(0xC01) == 50
    assert bare.hart.csr_read(0x344) == 0x80
