"""Traps as values: hooks at the exact instruction, what they may do, traces, timelines and counts of exits."""
from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.board import RAM_BASE
from pyvirt.explain import trace as trace_module
from tests.hyp.nest import ROUNDS, hgatp, machine

CALLS, FAULTS = ROUNDS, ROUNDS // 2
INTERRUPT = 1 << 63


@pytest.fixture
def vm() -> Iterator[pv.Machine]:
    with machine() as vm:
        yield vm


def collect(vm: pv.Machine, **filters: Any) -> list[pv.Trap]:
    """Hook traps and return the list that they will be in."""
    found: list[pv.Trap] = []
    vm.on_trap(found.append, **filters)
    return found


def ended() -> tuple[str, int]:
    """Return digest and icount at the end of a run that nobody looks at."""
    with machine() as vm:
        assert vm.run().reason is pv.StopReason.IDLE
        return vm.digest(), vm.icount


# ---- hooks
@pytest.mark.parametrize("core", ["threaded", "switch"])
@pytest.mark.parametrize("step", [None, 1, 7])
def test_a_hook_runs_right_behind_the_delivery_and_changes_nothing(core: str, step: int | None) -> None:
    seen: list[pv.Trap] = []
    with machine(core=core) as vm:
        @vm.on_trap()
        def look(trap: pv.Trap) -> None:
            hart = vm.hart
            assert trap.icount == vm.icount
            prefix = "m" if trap.world_to == "M" else ""
            csr = hart.csr
            if prefix:
                found = csr.mcause, csr.mepc, csr.mtval, csr.mtval2, csr.mtinst
            else:
                found = csr.scause, csr.sepc, csr.stval, csr.htval, csr.htinst
            assert found == (trap.cause, trap.pc, trap.tval, trap.tval2, trap.tinst)
            assert hart.pc == vm.symbols["firmware" if prefix else "trap"]
            assert hart.world == trap.world_to
            seen.append(trap)

        while vm.run(instructions=step).reason is not pv.StopReason.IDLE:
            pass
        assert (vm.digest(), vm.icount) == ended()
        assert look.calls == len(seen) == 2 * CALLS + FAULTS
    assert [(t.cause, t.world_from, t.world_to, t.level) for t in seen[:5]] == [
        (10, "VS", "HS", 2), (9, "HS", "M", 1), (21, "VS", "HS", 2), (10, "VS", "HS", 2), (9, "HS", "M", 1)]
    assert (seen[2].name, seen[2].tval, seen[2].tval2, seen[2].tinst, seen[2].gva) == (
        "load guest-page fault", 64, 16, 0, True)
    assert [t.hgatp >> 44 & 0x3FFF for t in seen[:5]] == [1, 0, 2, 2, 0]
    assert pickle.loads(pickle.dumps(seen)) == copy.deepcopy(seen) == seen


def test_filters(vm: pv.Machine) -> None:
    wanted = {
        "level 2": {"level": 2}, "level 1": {"level": 1}, "cause": {"cause": 21}, "name": {"cause": "ecall from VS"},
        "several": {"cause": [10, "load guest-page fault"]}, "from": {"from_": "HS"}, "from S": {"from_": "S"},
        "to": {"to": ["M", "VS"]}, "both": {"from_": ("VS", "VU"), "to": "HS", "cause": 10}, "none": {"cause": 5},
        "interrupt": {"cause": "machine timer interrupt"},
    }
    found = {name: collect(vm, **filters) for name, filters in wanted.items()}
    vm.run(until=pv.at(vm.symbols["two"]))
    guest = collect(vm, level=vm.levels[3] if vm.levels[2].vmid == 1 else vm.levels[2])
    vm.run()
    assert {name: len(traps) for name, traps in found.items()} == {
        "level 2": CALLS + FAULTS, "level 1": CALLS, "cause": FAULTS, "name": CALLS, "several": CALLS + FAULTS,
        "from": CALLS, "from S": CALLS, "to": CALLS, "both": CALLS, "none": 0, "interrupt": 0}
    assert len(guest) == FAULTS + CALLS // 2
    assert {trap.hgatp for trap in guest} == {hgatp(vm, 2)}


def test_a_handle_is_removed_by_itself_by_with_and_from_inside(vm: pv.Machine) -> None:
    first = vm.on_trap(lambda trap: first.remove(), cause=10)
    inner: list[pv.Trap] = []

    def grow(trap: pv.Trap) -> None:
        hook.remove()
        vm.on_trap(inner.append, cause=10)

    hook = vm.on_trap(grow, cause=21)
    with vm.on_trap(lambda trap: None, cause=9) as calls:
        vm.run(until=pv.trap(21))
        assert repr(calls) == "<Hook <lambda> 1 calls>"
    vm.run()
    assert (first.calls, hook.calls, calls.calls) == (1, 1, 1)
    assert len(inner) == CALLS - 1
    assert (first.active, calls.active) == (False, False)
    first.remove()
    assert repr(hook) == "<Hook grow 1 calls removed>"


def test_an_exception_leaves_run_unchanged_and_nothing_is_lost(vm: pv.Machine) -> None:
    class Odd(Exception):
        pass

    error = Odd("as it was")
    order: list[str] = []

    def fail(trap: pv.Trap) -> None:
        order.append("fail")
        if len(order) == 1:
            raise error

    vm.on_trap(fail, cause=10)
    vm.on_trap(lambda trap: order.append("next"), cause=10)
    with pytest.raises(Odd) as raised:
        vm.run()
    assert raised.value is error
    assert (vm.hart.pc, vm.hart.world, order) == (vm.symbols["trap"], "HS", ["fail"])
    assert vm.run().reason is pv.StopReason.IDLE
    assert order == ["fail", "next"] * CALLS
    assert (vm.digest(), vm.icount) == ended()


def test_a_hook_may_change_the_machine_and_stop_it_but_not_run_it(vm: pv.Machine) -> None:
    def skip(trap: pv.Trap) -> None:
        vm.hart.s6 = 1  # the last round
        with pytest.raises(pv.MachineBusy):
            vm.run()
        vm.stop()

    vm.on_trap(skip, cause=21)
    stop = vm.run()
    assert (stop.reason, stop.pc) == (pv.StopReason.STOPPED, vm.symbols["trap"])
    assert vm.run().reason is pv.StopReason.IDLE
    assert vm.hart.a0 + vm.hart.a1 == 2


def test_firmware_is_seen_before_it_answers_and_answers_once() -> None:
    text = """
        li s1, 3
    again:
        li a7, 0x10                 # SBI base: the implementation's id
        li a6, 1
        ecall
        addi s1, s1, -1
        bnez s1, again
        wfi
    """
    with pv.Machine(ram="16M") as vm:
        vm.load(kernel=pv.asm(text, at=RAM_BASE + 0x20_0000))
        traps: list[tuple[int, int, int]] = []

        def look(trap: pv.Trap) -> None:
            traps.append((trap.cause, vm.hart.a7, vm.hart.a1))
            vm.hart.a1 = 5
            if len(traps) == 2:
                raise KeyError("in the middle")

        vm.on_trap(look, to="M")
        with pytest.raises(KeyError):
            vm.run()
        assert vm.hart.a1 == 0x7079     # answered all the same
        vm.run()
        assert traps == [(9, 0x10, traps[0][2]), (9, 0x10, 0x7079), (9, 0x10, 0x7079)]
        assert vm.hart.s1 == 0
        assert "ecall from S" in str(vm.run(until=pv.trap(9), check=False)) or vm.hart.waiting


def test_until_and_hooks_together(vm: pv.Machine) -> None:
    found = collect(vm, cause=10)
    stop = vm.run(until=pv.trap(21))
    assert stop.trap is not None
    assert (stop.trap.cause, stop.trap.tval2, stop.trap.hgatp, len(found)) == (21, 16, hgatp(vm, 2), 1)
    stop = vm.run(until=pv.trap(10))
    assert (stop.trap, len(found)) == (found[-1], 2)


def test_an_interrupt_of_a_guest_is_waited_for_by_its_own_number() -> None:
    with machine() as vm:
        vm.run(until=pv.at(vm.symbols["one"]))
        csr = vm.hart.csr
        csr.vstvec, csr.hideleg, csr.mideleg = vm.symbols["one"], 0x444, 0x222
        csr.set("vsstatus", SIE=1)
        csr.vsie, csr.hvip = 0x222, 1 << 10
        stop = vm.run(until=pv.trap(10, interrupt=True))
        assert stop.trap is not None
        assert (stop.trap.cause, stop.trap.world_to, csr.vscause) == (INTERRUPT | 10, "VS", INTERRUPT | 9)


def test_nothing_is_kept_when_nobody_listens(vm: pv.Machine) -> None:
    core, taps = vm._board.core, vm._runner.taps
    hook = vm.on_trap(lambda trap: None)
    trace = vm.trace()
    assert taps.on
    vm.run(instructions=100)
    hook.remove()
    trace.stop()
    vm.run(instructions=100)
    assert not taps.on
    assert core.take_traps() == []
    assert vm.run(until=pv.trap(10)).reason is pv.StopReason.UNTIL
    assert not taps.on


def test_no_record_is_lost_however_small_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "CAPACITY", 1)
    with machine() as vm, vm.trace() as trace:
        found = collect(vm, cause=21)
        vm.run()
        assert (vm.digest(), vm.icount) == ended()
        few = trace.records
    assert len(found) == FAULTS
    monkeypatch.undo()
    with machine() as vm, vm.trace() as trace:
        vm.run()
        assert trace.records == few


@pytest.mark.parametrize(("filters", "message"), [
    ({"cause": 64}, "on_trap: cause is 64; allowed: 0...63, for interrupts with bit 63, or a name"),
    ({"cause": "ecal from VS"}, "on_trap: cause is 'ecal from VS' (did you mean 'ecall from VS'?)"),
    ({"cause": True}, "on_trap: cause is True"),
    ({"level": 3}, "on_trap: level: 3 is not allowed; allowed: an int in 1...2"),
    ({"from_": "L2"}, "on_trap: from_: 'L2' is not allowed; allowed: 'M', 'HS'"),
    ({"to": ["HS", "X"]}, "on_trap: to: 'X' is not allowed"),
])
def test_wrong_filters_are_named(vm: pv.Machine, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(pv.ConfigError) as error:
        vm.on_trap(print, **filters)
    assert str(error.value).startswith(message)


def test_wrong_use_is_named(vm: pv.Machine) -> None:
    with pytest.raises(pv.ConfigError, match="on_trap: 5 is not allowed; allowed: a callable"):
        vm.on_trap(5)  # type: ignore[call-overload, arg-type]
    with pytest.raises(pv.ConfigError, match="trace: keep: -1 is not allowed"):
        vm.trace(keep=-1)
    vm.close()
    with pytest.raises(pv.ClosedError):
        vm.on_trap(print)


def test_worlds_without_the_extension() -> None:
    with pv.Machine(board="bare", ram="64K", isa="rv64gc") as vm:
        vm.load(pv.asm("la t0, end; csrw mtvec, t0; li t0, 1 << 11; csrw mstatus, t0; la t0, code; csrw mepc, t0; mret;"
                       ".balign 4; code: ecall; end: wfi", at=RAM_BASE))
        vm.hart.csr.pmpaddr0, vm.hart.csr.pmpcfg0 = (1 << 54) - 1, 0x1F
        found = collect(vm, from_="S", to="M")
        with pytest.raises(pv.ConfigError, match="allowed: 'M', 'S', 'U'"):
            vm.on_trap(print, from_="HS")
        vm.run()
        assert [(trap.world_from, trap.cause) for trap in found] == [("S", 9)]
        assert vm.levels.guests == ()


# ---- traces
def test_a_trace_holds_traps_and_returns_in_order(vm: pv.Machine) -> None:
    with vm.trace() as trace:
        vm.run(until=pv.trap(10))
        assert [str(record).split(",")[0] for record in trace][:3] == [
            f"return to pc {vm.symbols['hypervisor']:#x}", f"return to pc {vm.symbols['one']:#x}",
            f"ecall from VS (cause 0xa) at pc {vm.symbols['one'] + 4:#x}"]
        assert isinstance(trace.records[0], pv.Return)
        vm.run()
        assert len(trace) == trace.total == 2 * (2 * CALLS + FAULTS) + 1
    assert trace.records == sorted(trace.records, key=lambda record: record.icount)
    assert trace.table == [("ecall from S", "HS", "M", CALLS), ("ecall from VS", "VS", "HS", CALLS),
                           ("load guest-page fault", "VS", "HS", FAULTS)]
    assert repr(trace) == f"<Trace stopped, {trace.total} records, {trace.total} kept>"
    assert str(trace).splitlines()[1] == "cause                  from  to  count"
    assert trace._repr_html_().count("<tr") == 4
    trace.stop()


def test_memory_is_bounded(vm: pv.Machine) -> None:
    with vm.trace(keep=10) as trace, vm.trace(keep=1000) as everything:
        vm.run()
        assert trace.records == everything.records[-10:]
        assert trace.dropped == trace.total - 10


def spans(path: Path) -> tuple[dict[tuple[int, str], list[dict[str, Any]]], list[dict[str, Any]]]:
    """Return the slices of every track, and the marks, of a timeline that is as the format says."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for event in events:
        if event["ph"] == "X":
            tracks.setdefault((event["pid"], names[event["pid"], event["tid"]]), []).append(event)
    for track in tracks.values():
        ends = [round(e["ts"] + e["dur"], 3) for e in track]
        assert all(begin["ts"] >= end for begin, end in zip(track[1:], ends, strict=False)), "slices overlap"
    return tracks, [e for e in events if e["ph"] == "i"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_timeline_has_levels_and_worlds_as_tracks(vm: pv.Machine, tmp_path: Path, stream: bool) -> None:
    path = tmp_path / "trace.json"
    with vm.trace(path if stream else None) as trace:
        vm.run()
    if not stream:
        assert trace.save(path) == path
    tracks, marks = spans(path)
    root = f"@{vm.symbols['root']:#x}"
    assert {name for _, name in tracks} == {
        "level 1", f"level 2, VMID 1 {root}", f"level 2, VMID 2 {root}", "L1 M", "L1 HS", f"L2 VMID 1 {root} VS",
        f"L2 VMID 2 {root} VS"}
    for wanted in ("level", "L"):
        # Levels together, and worlds together, cover all of the time.
        total = sum(e["args"]["instructions"] for (_, name), track in tracks.items() for e in track
                    if name.startswith(wanted))
        assert total == vm.icount
    assert len(marks) == 2 * CALLS + FAULTS
    assert marks[2]["name"] == "load guest-page fault"
    assert marks[2]["args"]["tval2"] == "0x10"
    assert marks[2]["ts"] == marks[2]["args"]["icount"] / 1000
    handlers = {e["name"] for (_, name), track in tracks.items() if name == "L1 HS" for e in track}
    assert handlers == {"run", "ecall from VS", "load guest-page fault"}


def test_records_a_line(vm: pv.Machine, tmp_path: Path) -> None:
    with vm.trace(tmp_path / "stream.jsonl", keep=3) as trace, vm.trace() as everything:
        vm.run()
    assert trace.dropped
    everything.save(tmp_path / "saved.jsonl")
    lines = (tmp_path / "stream.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "saved.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in lines]
    assert {value["kind"] for value in values} == {"trap", "return"}
    first = next(value for value in values if value["kind"] == "trap")
    assert (first["name"], first["world_from"], first["hart"]) == ("ecall from VS", "VS", 0)


def test_a_file_that_cannot_be_written_leaves_nothing(vm: pv.Machine, tmp_path: Path) -> None:
    with vm.trace() as trace:
        vm.run(instructions=100)
    with pytest.raises(FileNotFoundError):
        trace.save(tmp_path / "no" / "trace.json")
    with pytest.raises(FileNotFoundError):
        vm.trace(tmp_path / "no" / "trace.json")
    assert not vm._runner.taps.on
    target = tmp_path / "trace.json"
    target.write_text("before")
    trace._kept.append((1,))  # what no writer can take
    with pytest.raises(ValueError):
        trace.save(target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


# ---- exits
@pytest.mark.parametrize("harts", [1, 2])
def test_exits_are_counted_with_their_cost(harts: int) -> None:
    with machine(harts=harts) as vm, vm.exits, vm.trace() as trace:
        vm.run()
        rows = {(row.level, row.cause): row for row in vm.exits.rows}
        cost: dict[tuple[int, int], list[int]] = {}
        opened: dict[tuple[int, int], tuple[tuple[int, int], int]] = {}
        for record in trace:
            if isinstance(record, pv.Trap):
                key = record.level, record.cause
                opened[record.hart, record.level] = key, record.icount
            else:
                found = opened.pop((record.hart, 2 if record.world_to == "VS" else 1), None)
                if found is not None:
                    cost.setdefault(found[0], []).append(record.icount - found[1])
        assert set(rows) == {(2, 10), (2, 21), (1, 9)}
        for key, row in rows.items():
            assert (row.icount, row.longest, row.returned) == (sum(cost[key]), max(cost[key]), len(cost[key]))
            assert row.mean == row.icount / row.returned
        assert rows[2, 10].count == harts * CALLS
        assert rows[2, 10].returned == harts * (CALLS - 1)  # the last one never comes back
        assert rows[1, 9].count == rows[1, 9].returned == harts * CALLS
        assert (vm.exits.count(10), vm.exits.count(level=2), vm.exits.total) == (
            harts * CALLS, harts * (CALLS + FAULTS), harts * (2 * CALLS + FAULTS))
        assert [row.count for row in vm.exits.rows_of(hgatp=hgatp(vm, 1))] == [harts * CALLS // 2]


def test_exits_as_tables_on_and_off(vm: pv.Machine) -> None:
    exits = vm.exits
    assert (str(exits), repr(exits)) == ("no exits; vm.exits.start() counts from then on", "<Exits 0 of 0 guests, off>")
    exits.start()
    vm.run()
    exits.stop()
    assert str(exits).splitlines()[:2] == [
        "level  cause                  from  to  count  icount  mean  max",
        "L2     ecall from VS          VS    HS     20     456    24   24"]
    assert repr(exits) == "<Exits 50 of 2 guests, off>"
    assert exits._repr_html_().count("<tr") == 4
    assert "VMID 2" in exits._repr_html_()
    exits.clear()
    assert exits.rows == []


def test_a_trace_counts_exits_and_stops_with_the_last(vm: pv.Machine) -> None:
    with vm.trace():
        with vm.trace():
            vm.run(until=pv.trap(21))
        assert vm.exits.on
        assert vm.exits.count(21) == 1
    assert not vm.exits.on
    vm.run()
    assert vm.exits.count(21) == 1
