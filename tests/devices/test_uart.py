"""The 16550A, register by register, and as Linux's driver probes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvirt._bus import PyNotify
from pyvirt.devices.base import BusFault
from pyvirt.devices.uart import Uart
from pyvirt.errors import ConfigError
from tests.devices.fakes import Bench

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7


class UartBench(Bench):
    device: Uart

    def __init__(self) -> None:
        super().__init__(Uart())

    def get(self, register: int) -> int:
        return self.read(register, 1)

    def put(self, register: int, value: int) -> None:
        self.write(register, value, 1)

    @property
    def irq(self) -> bool:
        return self.levels[0]


def test_power_on() -> None:
    bench = UartBench()
    assert [bench.get(r) for r in (RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR)] == [0, 0, 1, 0, 0, 0x60, 0xB0, 0]


def test_transmit_collects_bytes() -> None:
    bench = UartBench()
    for byte in b"hi\x00\xff":
        bench.put(THR, byte)
    assert bench.device.drain() == b"hi\x00\xff"
    assert bench.device.drain() == b""


def test_divisor_latch_hides_data_and_ier() -> None:
    bench = UartBench()
    bench.put(LCR, 0x83)
    bench.put(DLL, 0x34)
    bench.put(DLM, 0x12)
    assert (bench.get(DLL), bench.get(DLM), bench.get(LCR)) == (0x34, 0x12, 0x83)
    bench.put(LCR, 0x03)
    assert (bench.get(RBR), bench.get(IER)) == (0, 0)
    assert bench.device.drain() == b""


def test_thre_interrupt_comes_on_enable_and_goes_on_iir_read() -> None:
    bench = UartBench()
    bench.put(IER, 2)
    assert bench.irq
    assert bench.get(IIR) == 0x02
    assert (bench.irq, bench.get(IIR)) == (False, 0x01)
    bench.put(IER, 2)  # no edge
    assert not bench.irq
    bench.put(THR, 65)  # empties again at once
    assert bench.irq
    assert bench.get(IIR) == 0x02
    bench.put(IER, 0)
    bench.put(IER, 2)
    assert bench.irq


def test_receive_without_fifo_holds_one_byte() -> None:
    bench = UartBench()
    bench.put(IER, 1)
    bench.device.send(b"abc")
    assert (bench.irq, bench.get(IIR), bench.get(LSR)) == (True, 0x04, 0x61)
    assert bench.device.state["rx"] == b"a"
    assert bytes(bench.get(RBR) for _ in range(3)) == b"abc"
    assert (bench.irq, bench.get(LSR), bench.get(RBR)) == (False, 0x60, 0)


@pytest.mark.parametrize(("setting", "trigger"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_fifo_trigger_and_timeout(setting: int, trigger: int) -> None:
    bench = UartBench()
    bench.put(FCR, setting)
    bench.put(IER, 1)
    for n in range(1, 17):
        bench.device.send(b"x")
        assert bench.irq
        assert bench.get(IIR) == (0xC4 if n >= trigger else 0xCC)
    for n in range(15, -1, -1):
        bench.get(RBR)
        assert bench.get(IIR) == (0xC4 if n >= trigger else 0xCC if n else 0xC1)
    assert not bench.irq


def test_input_waits_for_room_and_nothing_is_lost() -> None:
    bench = UartBench()
    bench.put(FCR, 1)
    text = bytes(range(256)) * 20
    bench.device.send(text[:1000])
    bench.device.send(text[1000:])
    assert len(bench.device.state["rx"]) == 16
    got = bytearray()
    while bench.get(LSR) & 1:
        got.append(bench.get(RBR))
    assert got == text
    assert bench.device.regs.rx_pending == 0


def test_fcr_clears_the_fifo_but_not_the_queue() -> None:
    bench = UartBench()
    bench.put(FCR, 1)
    bench.device.send(bytes(range(20)))
    bench.put(FCR, 3)
    assert [bench.get(RBR) for _ in range(4)] == [16, 17, 18, 19]
    bench.device.send(b"z")
    bench.put(FCR, 0)  # leaving FIFO mode clears it too
    assert bench.get(LSR) == 0x60
    assert bench.get(IIR) == 1


def test_loopback_as_linux_probes_it() -> None:
    bench = UartBench()
    bench.put(MCR, 0x1F & (0x10 | 0x08 | 0x02))  # LOOP, OUT2, RTS
    assert bench.get(MSR) & 0xF0 == 0x90  # DCD, CTS
    bench.device.send(b"host")
    bench.put(THR, 0x55)
    assert (bench.get(LSR) & 1, bench.get(RBR), bench.device.drain()) == (1, 0x55, b"")
    bench.put(THR, 1)
    bench.put(THR, 2)  # no FIFO: overrun
    assert bench.get(LSR) == 0x63
    assert bench.get(LSR) == 0x61  # read clears it
    assert bench.get(RBR) == 1
    bench.put(MCR, 0)
    assert bytes(bench.get(RBR) for _ in range(4)) == b"host"


def test_overrun_interrupt_has_the_highest_priority() -> None:
    bench = UartBench()
    bench.put(IER, 0x0F)
    bench.put(MCR, 0x10)
    bench.get(MSR)
    bench.put(THR, 1)
    bench.put(THR, 2)
    assert bench.get(IIR) == 0x06
    bench.get(LSR)
    assert bench.get(IIR) == 0x04
    bench.get(RBR)
    assert bench.get(IIR) == 0x02
    assert bench.get(IIR) == 0x01


def test_modem_deltas() -> None:
    bench = UartBench()
    bench.put(IER, 8)
    bench.put(MCR, 0x10)  # all lines fall
    assert bench.irq
    assert bench.get(IIR) == 0x00
    assert bench.get(MSR) == 0x0B
    assert not bench.irq
    bench.put(MCR, 0x14)  # RI rises: no TERI
    assert bench.get(MSR) == 0x40
    bench.put(MCR, 0x10)  # and falls
    assert bench.get(MSR) == 0x04


def test_masks() -> None:
    bench = UartBench()
    for register, value, kept in ((IER, 0xFF, 0x0F), (MCR, 0xEF, 0x0F), (SCR, 0xA5, 0xA5), (LCR, 0x7F, 0x7F)):
        bench.put(register, value)
        assert bench.get(register) == kept
    bench.put(LSR, 0)
    bench.put(MSR, 0)
    assert (bench.get(LSR), bench.get(MSR)) == (0x60, 0xB0)


@pytest.mark.parametrize(("offset", "width"), [(8, 1), (0xFF, 1), (0x100, 1), (2**64 - 1, 1), (0, 2), (0, 4), (0, 8)])
def test_what_is_no_register_faults(offset: int, width: int) -> None:
    bench = UartBench()
    with pytest.raises(BusFault):
        bench.read(offset, width)
    with pytest.raises(BusFault):
        bench.write(offset, 0, width)


def test_notify_at_the_interesting_byte() -> None:
    bench = UartBench()
    calls: list[int] = []
    bench.device.regs.set_notify(PyNotify(lambda: calls.append(bench.device.regs.tx_pending)).capsule())
    bench.device.regs.interesting = b"\n$"
    assert bench.device.regs.interesting == b"\n$"
    for byte in b"a$b\nc":
        bench.put(THR, byte)
    assert calls == [2, 4]
    bench.device.regs.set_notify(None)
    bench.put(THR, 10)
    assert calls == [2, 4]


def test_output_nobody_drains_is_bounded_and_counted() -> None:
    bench = UartBench()
    calls: list[int] = []
    bench.device.regs.set_notify(PyNotify(lambda: calls.append(1)).capsule())
    for _ in range(65536 + 5):
        bench.mmio.write(THR, 1, 120)
    assert (len(bench.device.drain()), bench.device.regs.tx_dropped, len(calls)) == (65536, 5, 6)


def test_state_round_trip_with_waiting_input() -> None:
    bench = UartBench()
    bench.put(FCR, 0xC1)
    bench.put(IER, 5)
    bench.put(MCR, 0x0B)
    bench.device.send(bytes(range(30)))
    bench.get(RBR)
    for attribute in ("state", "packed"):
        other = UartBench()
        setattr(other.device, attribute, getattr(bench.device, attribute))
        assert other.device.state == bench.device.state
        assert other.irq
        assert [other.get(RBR) for _ in range(29)] == list(range(1, 30))


@given(st.binary(max_size=80))
def test_no_packed_state_escapes_the_rules(data: bytes) -> None:
    bench = UartBench()
    packed = bench.device.packed
    bench.device.packed = packed[:4] + (data + bytes(64))[: max(len(packed) - 4, len(data))]
    for register in range(8):
        bench.get(register)
    state = bench.device.state
    assert len(state["rx"]) <= 16
    bench.device.state = state
    assert bench.device.state == state


def test_packed_state_does_not_show_the_past() -> None:
    one, two = UartBench(), UartBench()
    one.device.send(b"gone and left")
    for _ in range(13):
        one.get(RBR)
    one.device.send(b"x")
    two.device.send(b"x")
    assert one.device.packed == two.device.packed


def test_bad_states_are_refused() -> None:
    bench = UartBench()
    with pytest.raises(ValueError, match="has 2 bytes, expected at least 32"):
        bench.device.packed = b"no"
    with pytest.raises(ValueError, match="is version 7, expected 1"):
        bench.device.packed = b"\x07" + bench.device.packed[1:]
    with pytest.raises(ValueError, match="17 bytes, expected at most 16"):
        bench.device.state = {**bench.device.state, "rx": bytes(17)}
    with pytest.raises(ConfigError, match="uart: state is refused"):
        bench.device.state = {**bench.device.state, "ier": 256}


@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.one_of(st.none(), st.integers(0, 255), st.binary(max_size=40))), max_size=60
    )
)
def test_line_follows_iir_and_no_sequence_breaks_it(steps: list[tuple[int, int | bytes | None]]) -> None:
    bench = UartBench()
    for register, action in steps:
        if action is None:
            bench.get(register)
        elif isinstance(action, int):
            bench.put(register, action)
        else:
            bench.device.send(action)
        restored = UartBench()
        restored.device.packed = bench.device.packed
        assert restored.irq == bench.irq
        assert restored.get(IIR) & 1 == (not bench.irq)
