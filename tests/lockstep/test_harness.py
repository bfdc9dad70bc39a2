"""The harness under test: with Spike on both sides nothing differs, and whatever one side does wrong is reported."""
from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.lockstep import harness
from tests.lockstep.machines import MergedSpike, SpikeMachine

TEXT = """
  la t0, handler
  csrw mtvec, t0
  la t1, data
  li t2, 40
again:
  addi a0, a0, 3
  sd a0, 0(t1)
  fmv.d.x f1, a0
  li t3, 0x6000
  csrs mstatus, t3
  fmv.d.x f1, a0
  addi t2, t2, -1
  bnez t2, again
done: j done
.balign 4
handler:
  csrr t4, mepc
  addi t4, t4, 4
  csrw mepc, t4
  li t4, 0x1800
  csrs mstatus, t4
  mret
.balign 8
data: .dword 0
"""


@pytest.fixture
def program(spike: ModuleType, zig: ModuleType) -> harness.Program:
    """Return a small program with stores, floating point and a trap."""
    image = zig.assemble(TEXT)
    return harness.Program("small", image.code, ram=1 << 16, done=image.symbols["done"], symbols=image.symbols)


def machines(p: harness.Program, faulty: type[MergedSpike] = MergedSpike) -> tuple[SpikeMachine, MergedSpike]:
    return SpikeMachine(p.code, ram=p.ram), faulty(p.code, ram=p.ram)


@pytest.mark.parametrize("stride", [None, 7, 1000])
def test_equal_machines_agree(program: harness.Program, stride: int | None) -> None:
    strides = None if stride is None else (lambda: stride)
    result = harness.run(program, *machines(program), strides=strides)
    assert result.finished
    assert result.traps == {(2, 3, 3): 1}
    assert result.steps == sum(result.attempts.values()) > 300


class WrongRegister(MergedSpike):
    """Sign-extends a0 from 7 bits."""

    def advance(self, n: int) -> None:
        super().advance(n)
        a0 = self.registers()[11]
        if a0 & 0x40:
            self.set_x(10, a0 | ((1 << 64) - 128))


class WrongStore(MergedSpike):
    """Loses a store."""

    def advance(self, n: int) -> None:
        super().advance(n)
        if self.registers()[11] == 60:
            self.oracle.write(0x8000_0000 + 0x1000, b"x")


class WrongTval(MergedSpike):
    """Reports another tval."""

    def advance(self, n: int) -> None:
        super().advance(n)
        if self.csr_read(0x342) == 2:
            self.csr_write(0x343, self.csr_read(0x343) + 2)


class WrongPrivilege(MergedSpike):
    """Says S where it is M."""

    def priv(self) -> int:
        return 1 if self.csr_read(0x341) else 3


@pytest.mark.parametrize(
    ("faulty", "message"),
    [(WrongRegister, "x10: Spike 0x42"), (WrongStore, "RAM at 0x80001000"), (WrongTval, "CSR 0x343"),
     (WrongPrivilege, "privilege: Spike 3")],
)
@pytest.mark.parametrize("stride", [None, 50])
def test_a_difference_is_found(program: harness.Program, faulty: Any, message: str, stride: int | None) -> None:
    strides = None if stride is None else (lambda: stride)
    if stride and faulty is WrongRegister:
        message = "x10: Spike"
    with pytest.raises(harness.Divergence, match=message) as e:
        harness.run(program, *machines(program, faulty), strides=strides)
    assert "last instructions:" in str(e.value)


def test_an_endless_program_is_reported(program: harness.Program) -> None:
    program.steps, program.done = 50, 0x8000_1000
    with pytest.raises(harness.Divergence, match="did not reach its end"):
        harness.run(program, *machines(program))
