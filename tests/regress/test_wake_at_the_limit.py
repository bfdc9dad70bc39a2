"""A limit at the very icount at which a timer ends WFI: nothing is executed, not even an attempt that traps."""
from __future__ import annotations

import pytest

from tests.support import CLINT, Bare


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_handler_that_cannot_be_fetched(core: str) -> None:
    bare = Bare("li t0, 0x80\n csrw mie, t0\n csrsi mstatus, 8\n wfi", ratio=10)
    bare.clint()
    bare.set(csr_305=0x4000_0000)
    bare.core.bus_write(CLINT + 0x4000, 8, 20)
    for limit in (100, 200, 201, 203):
        assert bare.core.run(limit) == "limit"
        assert bare.core.icount == limit
    assert bare.hart.csr_read(0x342) == 1
