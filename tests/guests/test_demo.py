"""The monitor and the demo: what the guest says at its prompt, and that one session always ends in one state."""
from __future__ import annotations

import io
import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvirt.command import demo
from pyvirt.command.demo import PASSED, PROMPT, boot, golden, judge, play, result, run_demo
from pyvirt.guests import KERNEL_AT, monitor
from pyvirt.machine import Machine
from pyvirt.stop import StopReason


@pytest.fixture
def vm() -> Iterator[Machine]:
    with boot() as machine:
        machine.run(until=PROMPT, timeout=30)
        yield machine


def ask(vm: Machine, line: str) -> str:
    """Type a line at the prompt and return what comes before the next prompt, without the echo."""
    before = len(vm.console.text)
    vm.console.send(line + "\r")
    vm.run(until=PROMPT, timeout=30)
    return vm.console.text[before:].removesuffix(PROMPT).partition("\n")[2]


# ---- the demo ------------------------------------------------------------------------------------------------------
def test_the_session_ends_as_the_golden_one_did() -> None:
    out = io.StringIO()
    assert run_demo(False, out=out) == 0
    assert re.search(rf"^{PASSED} \d+ checks$", out.getvalue(), re.MULTILINE)
    assert out.getvalue().rstrip().endswith("bye")
    assert out.getvalue().count(PROMPT) == len(demo.SESSION)


@pytest.mark.parametrize("core", ["threaded", "switch"])
def test_cores_agree(core: str) -> None:
    with boot(core=core) as vm:
        assert judge(vm, play(vm)) == []


def test_slices_change_nothing() -> None:
    rng = random.Random(2)
    with boot() as vm:
        for line in demo.SESSION:
            stop = None
            while stop is None or stop.reason is not StopReason.UNTIL:
                stop = vm.run(until=PROMPT, instructions=rng.randint(1, 300_000), check=False)
            vm.console.send(f"{line}\r")
        while vm.run(instructions=rng.randint(1, 3_000)).reason is StopReason.INSTRUCTIONS:
            pass
        assert result(vm) == golden(), (
            "if the guest, the device tree or the layout of the state was changed on purpose: "
            "python -m pyvirt.command.demo > golden.tmp && mv golden.tmp pyvirt/guests/golden.json")


def test_another_golden_fails_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "golden", lambda: {**golden(), "digest": "0" * 64})
    out = io.StringIO()
    assert run_demo(False, out=out) == 1
    assert f"demo: digest is {golden()['digest']}, golden is {'0' * 64}" in out.getvalue()


def test_a_guest_that_fails_is_told() -> None:
    with boot() as vm:
        vm.run(until=PROMPT)
        vm.mem.u64[vm.symbols["memory_sum"]] = 1
        vm.console.send("selftest\r")
        vm.run(until="SELFTEST-FAILED 1")
        assert "  memory and atomics: check 1 failed: found 0x" in vm.console.text
        problems = judge(vm, vm.run(until=PROMPT))
    assert problems[0] == "the guest's self-test did not print SELFTEST-OK"
    assert problems[1].startswith("the guest did not power off: ")


def test_an_interactive_demo_hands_over_a_machine_that_has_not_run() -> None:
    seen: list[int] = []

    def attach(vm: Machine) -> int:
        seen.append(vm.icount)
        vm.run(until=PROMPT)
        return 7

    assert run_demo(True, attach=attach) == 7
    assert seen == [0]


@pytest.mark.slow
def test_the_module_prints_golden_json() -> None:
    command = [sys.executable, "-m", "pyvirt.command.demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert json.loads(done.stdout) == golden()
    assert PASSED in done.stderr


# ---- other machines ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{"isa": "rv64gc"}, {"harts": 3}, {"ram": "64M"}, {"clock": "virtual", "seed": 5}])
def test_the_self_test_passes_on_other_machines(options: dict[str, object]) -> None:
    with boot(**options) as vm:
        vm.run(until=PROMPT)
        vm.console.send("selftest\r")
        vm.run(until=PASSED, timeout=30)


@pytest.mark.parametrize("name", ["opensbi-1.9-fw_dynamic.bin"])
def test_the_monitor_runs_on_firmware_in_the_machine(guest: Callable[[str], Path], name: str) -> None:
    with boot(firmware=guest(name)) as vm:
        stop = play(vm)
        assert (stop.reason, stop.exit_code) == (StopReason.EXIT, 0)
        assert PASSED in vm.console.text


# ---- the monitor ---------------------------------------------------------------------------------------------------
def test_the_image_lies_where_its_page_tables_say() -> None:
    image = monitor()
    assert image.base == KERNEL_AT
    assert len(image) < 2 << 20
    for name in ("rodata_start", "data_start", "root", "frame_a", "frame_b", "test_2m"):
        assert image.symbols[name] % 4096 == 0, name
    assert image.symbols["image_end"] == KERNEL_AT + len(image)
    assert monitor() is image


def test_help_names_every_command(vm: Machine) -> None:
    listed = [line.split()[0] for line in ask(vm, "help").splitlines()]
    assert listed == ["help", "info", "regs", "mem", "walk", "ticks", "primes", "trap", "selftest", "halt"]
    assert {line.split()[0] for line in demo.SESSION} == set(listed)


def test_info_tells_what_the_machine_is(vm: Machine) -> None:
    said = dict(line.split(None, 1) for line in ask(vm, "info").splitlines())
    assert said["hart"] == "0"
    assert said["isa"] == "_".join(e for e in vm.isa.split("_") if not e.startswith("sv") or len(e) > 4)
    assert int(said["satp"], 16) == vm.hart.csr.satp
    assert vm.mem.read(int(said["tree"], 16), 4) == b"\xd0\x0d\xfe\xed"
    assert int(said["instret"]) < int(said["cycle"]) < vm.icount
    assert int(said["time"]) == int(said["cycle"]) // 100


def test_mem_shows_memory_and_refuses_what_is_not_mapped(vm: Machine) -> None:
    rows = ask(vm, "mem 80400000")
    assert rows.splitlines()[0] == "0000000080400000: 0000000000000000 0000000000000000  |................|"
    vm.mem[0x8040_0010:0x8040_0020] = b"pyvirt\0\xff12345678"
    row = "0000000080400010: ff00747269767970 3837363534333231  |pyvirt..12345678|"
    assert ask(vm, "mem 0x80400010").splitlines()[0] == row
    assert ask(vm, "mem 80000000") == "0000000080000000: load page fault\n"
    assert ask(vm, "mem zz") == ask(vm, "mem") == "an address in hexadecimal is needed\n"


@pytest.mark.parametrize(("address", "last"), [
    ("80200000", "physical address 0x80200000"), ("10000005", "physical address 0x10000005"),
    ("80412345", "physical address 0x80412345"), ("0", "not valid: page fault"), ("40000000", "not valid: page fault"),
    ("0xffffffff80000000", "not valid: page fault"), ("4000000000", "bits 63:39 differ from bit 38: page fault"),
])
def test_walk_agrees_with_the_machine(vm: Machine, address: str, last: str) -> None:
    assert ask(vm, f"walk {address}").rstrip().endswith(last)


def test_trap_tells_where_and_why(vm: Machine) -> None:
    said = ask(vm, "trap")
    assert said.startswith("scause   0xd, load page fault\n")
    assert f"sepc     {vm.symbols['probe_load'] + 16:#x}\n" in said
    assert "stval    0x40123458\n" in said
    assert said.endswith("not valid: page fault\n")


def test_regs_shows_a_breakpoint(vm: Machine) -> None:
    said = ask(vm, "regs")
    values = dict(re.findall(r"(\w+) +([0-9a-f]{16})", said))
    assert len(values) == 32
    assert int(values["ra"], 16) in range(vm.symbols["run_line"], vm.symbols["make_tables"])
    assert vm.symbols["cmd_regs"] < int(values["pc"], 16) < vm.symbols["cmd_mem"]
    assert " scause 0x3\n" in said


def test_ticks_come_every_ten_milliseconds(vm: Machine) -> None:
    times = [int(t) for t in re.findall(r"tick \d+ at time (\d+)", ask(vm, "ticks"))]
    assert len(times) == 10
    assert all(100_000 <= b - a < 101_000 for a, b in itertools.pairwise(times))


@pytest.mark.parametrize(("limit", "said"), [
    ("100", "25 primes up to 100, the last is 97;"), ("0x10", "6 primes up to 16, the last is 13;"),
    ("1", "0 primes up to 1, the last is 0;"), ("2", "1 primes up to 2, the last is 2;"),
    ("5000001", "a number up to 5000000 is needed"), ("", "a number up to 5000000 is needed"),
    ("-1", "a number up to 5000000 is needed"),
])
def test_primes_are_counted(vm: Machine, limit: str, said: str) -> None:
    assert ask(vm, f"primes {limit}").startswith(said)


def test_lines_are_edited_and_bounded(vm: Machine) -> None:
    assert ask(vm, "nonsense").startswith("nonsense: not a command; try `help`")
    assert ask(vm, "") == ask(vm, "   ") == ""
    assert ask(vm, "prX\x7fimes 10").startswith("4 primes")
    assert ask(vm, "rubbish\x15primes 10").startswith("4 primes")
    assert ask(vm, "\x7f\x08primes 10").startswith("4 primes")
    assert ask(vm, "x" * 126).startswith("x" * 126 + ": not a command")
    assert ask(vm, "x" * 200).startswith("x" * 127 + ": not a command")
    assert ask(vm, "primes 10").startswith("4 primes")


def test_an_unexpected_trap_ends_the_machine_with_a_failure(vm: Machine) -> None:
    vm.mem.u32[vm.symbols["cmd_info"]] = 0
    vm.console.send("info\r")
    stop = vm.run(timeout=30)
    assert f"unexpected trap: scause 0x2 sepc {vm.symbols['cmd_info']:#x} stval 0x0" in vm.console.text
    assert stop.reason is StopReason.EXIT
    assert stop.exit_code != 0


def test_nothing_happens_at_the_prompt(vm: Machine) -> None:
    assert vm.run(timeout=30).reason is StopReason.IDLE
    assert ask(vm, "primes 10").startswith("4 primes")
