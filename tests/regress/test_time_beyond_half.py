"""mtime written to 2^63 and more: timers still fire at the exact tick (the offset did not fit its sign)."""
from __future__ import annotations

import pytest

from tests.support import CLINT, Bare

LOOP = """
    li t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
again:
    addi t1, t1, 1
    {end}
    j again
    .balign 4
handler:
    wfi
    j handler
"""


@pytest.mark.parametrize("now", [0, 1 << 40, (1 << 63) - 10, 1 << 63, (1 << 63) + (1 << 62), (1 << 64) - 200])
@pytest.mark.parametrize("end", ["nop", "wfi"])
def test_timer(now: int, end: str) -> None:
    bare = Bare(LOOP.format(end=end), ratio=10)
    bare.clint()
    bare.set(csr_305=bare.symbols["handler"])
    bare.core.time = now
    bare.core.bus_write(CLINT + 0x4000, 8, now + 100)
    assert bare.core.run(999) == "limit"
    assert bare.hart.csr_read(0x342) == 0
    assert bare.core.run(1001) == "limit"
    assert bare.hart.csr_read(0x342) == 1 << 63 | 7
    assert bare.core.time == now + 100
