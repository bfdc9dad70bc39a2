"""The H extension that hypervisors written in Python emulate for their guests, held against the machine's own.

A random hypervisor (nested_programs.py) logs all that it can see, once on a machine and once as the guest of a
`pv.Hypervisor`: both logs, and the memory of its guest, are equal.
"""
from __future__ import annotations

import struct
from collections import Counter
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.nesting.nested import Nested
from tests.hyp.nested_programs import DATA, LOG, PAGES, POWEROFF, RAM, Program
from tests.hyp.test_hypervisor import copied

LOG_SIZE = 1 << 20
INTERRUPT = 1 << 63


def on_a_machine(program: Program, options: dict[str, Any]) -> tuple[bytes, bytes]:
    """Run a program in HS-mode; returns its log and its guest's data."""
    with pv.Machine(ram="16M", **options) as vm:
        vm.load(kernel=pv.asm(program.source, at=RAM))
        program.tables(vm.mem.u64.__setitem__)
        stop = vm.run(timeout=60)
        assert stop.kind == "poweroff", stop
        return bytes(vm.mem[LOG:LOG + LOG_SIZE]), bytes(vm.mem[DATA:DATA + PAGES * 0x1000])


def as_a_guest(program: Program, options: dict[str, Any], *, demand: bool = False) -> pv.Hypervisor:
    """Load a program where HS-mode is a guest's."""
    guest = pv.Hypervisor(pv.Machine(ram="64M", **options), memory="16M", nested=True, demand=demand)
    guest.load(pv.asm(program.source, at=RAM))
    program.tables(guest.mem.u64.__setitem__)
    return guest


def compare(seed: int, episodes: int, *, demand: bool = False, **options: Any) -> Counter[int]:
    """Run one program both ways; returns how often each cause was reflected."""
    modes: dict[str, Any] = {"g_modes": (8, 8, 0)} if "g_modes" in options else {}
    log, data = on_a_machine(Program(seed, episodes, **modes), options)
    guest = as_a_guest(Program(seed, episodes, **modes), options, demand=demand)
    stop = guest.run_guest(timeout=60)
    assert stop.kind == "poweroff", stop
    words = struct.iter_unpack("<Q", bytes(guest.mem[LOG:LOG + LOG_SIZE]))
    for index, ((wanted,), (found,)) in enumerate(zip(struct.iter_unpack("<Q", log), words, strict=True)):
        assert wanted == found, f"seed {seed}: word {index} of the log is {found:#x}, on a machine {wanted:#x}"
    assert bytes(guest.mem[DATA:DATA + PAGES * 0x1000]) == data
    return Counter(trap.cause for trap in guest.reflected)


def test_random_hypervisors_see_what_they_see_on_a_machine() -> None:
    reflected: Counter[int] = Counter()
    for seed in range(3):
        reflected += compare(seed, 30, demand=seed == 1)
    # Exceptions that hedeleg keeps, all kinds of guest page faults, and interrupts of each level.
    assert {1, 2, 3, 8, 10, 12, 13, 15, 20, 21, 22, 23} - set(reflected) <= {1, 3}
    assert any(cause & INTERRUPT for cause in reflected)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"htinst": "transformed"}, {"vmid_bits": 0}, {"g_modes": ["sv39x4"]}, {"harts": 2},
                                     {"core": "switch"}], ids=lambda options: next(iter(options)))
def test_under_every_option_of_the_machine(options: dict[str, Any]) -> None:
    reflected: Counter[int] = Counter()
    for seed in range(100, 104):
        reflected += compare(seed, 40, demand=seed % 2 == 1, **options)
    assert {1, 2, 3, 8, 10, 12, 13, 15, 20, 21, 22, 23, *(INTERRUPT | n for n in (1, 5, 10))} <= set(reflected)


@pytest.mark.soak
def test_many() -> None:
    for seed in range(1000, 1300):
        compare(seed, 60, demand=seed % 2 == 1, htinst="transformed" if seed % 3 == 0 else "zero")


@pytest.mark.parametrize("wrong", ["gva", "htval", "spv", "fs"])
def test_the_comparison_sees_a_planted_fault(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver, trapped, leave = Nested._deliver, Nested.trapped, Nested._leave

    def wrong_deliver(self: Nested, cause: int, tval: int, htval: int, htinst: int, gva: bool, priv: int) -> None:
        deliver(self, cause, tval, 0 if wrong == "htval" else htval, htinst, gva and wrong != "gva", priv)

    def wrong_trapped(self: Nested) -> None:
        if wrong != "spv":
            trapped(self)

    def wrong_leave(self: Nested) -> None:
        status = self.hs[0]
        leave(self)
        if wrong == "fs":
            self.hart.csr_write(0x200, status)

    monkeypatch.setattr(Nested, "_deliver", wrong_deliver)
    monkeypatch.setattr(Nested, "trapped", wrong_trapped)
    monkeypatch.setattr(Nested, "_leave", wrong_leave)

    def search() -> None:
        for seed in range(4):
            compare(seed, 30)

    with pytest.raises(AssertionError, match="word"):
        search()


def test_state_in_the_middle_of_two_levels() -> None:
    """Cut where the guest's guest runs, and where its hypervisor does; go on on another machine."""
    whole = as_a_guest(Program(7, 12), {})
    whole.run_guest()
    levels = set()
    for cut in range(500, 2100, 100):
        first = as_a_guest(Program(7, 12), {})
        first.run_guest(instructions=cut)
        second = pv.Hypervisor(pv.Machine(ram="64M"), memory="16M", nested=True)
        copied(first, second)
        levels.add(second.vcpus[0].world[:2])
        assert second.run_guest().kind == "poweroff"
        assert second.machine.digest() == whole.machine.digest()
    assert levels == {"VS", "L2"}


IDENTITY = """
    .equ ROOT, 0x80400000
    li t0, ROOT; li t1, 0xDF; sd t1, 0(t0)              # the lowest GiB, where devices are
    li t1, 0x80000000 >> 2 | 0xDF; sd t1, 16(t0)        # and the one of RAM
    li t0, 8 << 60 | ROOT >> 12; csrw hgatp, t0; hfence.gvma
    la t0, trap; csrw stvec, t0
    li t0, 0x80; csrw hstatus, t0; li t0, 0x100; csrs sstatus, t0; la t0, inner; csrw sepc, t0
    sret
.balign 4
trap: csrr s0, scause; csrr s1, htval; csrr s2, stval
"""


@pytest.mark.parametrize("trap", [(), ("uart",)], ids=["direct", "trapped"])
def test_a_device_passed_on_to_the_guests_guest(trap: tuple[str, ...]) -> None:
    guest = pv.Hypervisor(pv.Machine(ram="64M"), memory="16M", nested=True, trap=trap)
    guest.load(pv.asm(IDENTITY + POWEROFF + """
        inner: li t0, 0x10000000; li t1, 'Q'; sb t1, 0(t0); lbu s3, 5(t0); li t0, 0x4000; ld t0, 0(t0); ecall
    """, at=RAM))
    assert guest.run_guest().kind == "poweroff"
    hart = guest.machine.hart
    assert guest.machine.console.tail() == "Q"
    # What L1 maps where nothing is: an access fault, which L1 did not delegate.
    assert (hart.s0, hart.s1, hart.s2, hart.s3) == (5, 0, 0x4000, 0x60)


def test_hlv_reaches_a_device() -> None:
    guest = pv.Hypervisor(pv.Machine(ram="64M"), memory="16M", nested=True)
    guest.load(pv.asm(IDENTITY.replace("sret", """
        li t0, 0x10000000; li t1, 'R'; hsv.b t1, (t0); addi t0, t0, 5; hlv.bu s3, (t0); j out""") + "out:" + POWEROFF
                      + "\ninner: nop", at=RAM))
    assert guest.run_guest().kind == "poweroff"
    assert (guest.machine.console.tail(), guest.machine.hart.s3) == ("R", 0x60)


def test_pages_of_the_guests_guest_are_given_on_first_touch() -> None:
    asked = []

    class Paging(pv.Hypervisor):
        def on_guest_page_fault(self, vcpu: pv.Vcpu, gpa: int, access: str) -> None:
            asked.append((vcpu.world, gpa, access))
            super().on_guest_page_fault(vcpu, gpa, access)

    guest = Paging(pv.Machine(ram="64M"), memory="16M", nested=True, demand=True)
    guest.load(pv.asm(IDENTITY + POWEROFF + "\ninner: li t0, 0x80500000; ld t1, 8(t0); sd t0, 0(t0); ecall", at=RAM))
    assert guest.run_guest().kind == "poweroff"
    assert asked == [("VS", RAM, "fetch"), ("VS", 0x8040_0000, "store"), ("L2 VS", 0x8050_0008, "load")]
    assert [trap.cause for trap in guest.reflected] == [10]


def test_a_page_taken_away_is_taken_from_the_guests_guest_too() -> None:
    asked = []

    class Taking(pv.Hypervisor):
        def on_guest_page_fault(self, vcpu: pv.Vcpu, gpa: int, access: str) -> None:
            asked.append((vcpu.world, gpa))
            super().on_guest_page_fault(vcpu, gpa, access)

        def on_reflect(self, vcpu: pv.Vcpu, trap: pv.Trap) -> None:
            super().on_reflect(vcpu, trap)
            self.memory.unmap(0x8050_0000)

    guest = Taking(pv.Machine(ram="64M"), memory="16M", nested=True)
    guest.load(pv.asm(f"""{IDENTITY}
        csrr t0, sepc; addi t0, t0, 4; csrw sepc, t0; addi s4, s4, 1; li t0, 2; beq s4, t0, out
        sret
        out: {POWEROFF}
        inner: li t0, 0x80500000; sd t0, 0(t0); ecall; li t0, 0x80500000; ld s5, 0(t0); ecall""", at=RAM))
    assert guest.run_guest().kind == "poweroff"
    assert asked == [("L2 VS", 0x8050_0000)]
    assert guest.machine.hart.s5 == 0x8050_0000


def test_a_remote_fence_by_sbi_forgets_what_was_composed() -> None:
    fence = "li a7, 0x52464E43; li a6, {}; li a0, 1; li a1, 0; li a2, 0; li a3, -1; ecall\n"
    for function, faults in ((4, 4), (5, 2)):   # hfence_gvma and hfence_vvma_asid
        guest = pv.Hypervisor(pv.Machine(ram="64M"), memory="16M", nested=True)
        guest.load(pv.asm(IDENTITY.replace("hfence.gvma", "nop") + f"""
            csrr t0, sepc; addi t0, t0, 4; csrw sepc, t0; addi s4, s4, 1; li t0, 2; beq s4, t0, out
            li t0, ROOT; li t1, 0x80000000 >> 2 | 0xDF; sd t1, 8(t0); {fence.format(function)}
            sret
            out: {POWEROFF}
            inner: li t0, 0x80500000; li t1, 1; sd t1, 0(t0); ecall; li t0, 0x80500000; ld t1, 0(t0); ecall""", at=RAM))
        assert guest.run_guest().kind == "poweroff"
        assert [trap.cause for trap in guest.reflected] == [10, 10]
        assert sum(guest.exits[cause] for cause in (20, 21, 23)) == faults


# ---- interrupts of the guest's guest that its hypervisor keeps: taken in its own HS-mode, whatever runs there
KEPT = """
    la t0, trap; csrw stvec, t0; li t0, -1; csrw stimecmp, t0; csrw vstimecmp, t0; li t0, 1 << 63; csrw henvcfg, t0
    {setup}
    {enable}
    {body}
    j .
.balign 4
trap: csrr s0, scause; csrr s1, sepc; csrr s2, hip; csrr s3, hstatus; csrr s4, sstatus; rdtime s5
"""
RAISED = {
    2: ["li t0, 4; csrw hvip, t0", "csrsi hip, 4", "li t0, 4; csrw hideleg, t0; csrsi vsip, 2; csrw hideleg, zero"],
    6: ["li t0, 64; csrw hvip, t0", "csrw vstimecmp, zero", "rdtime t0; addi t0, t0, 20; csrw vstimecmp, t0"],
    10: ["li t0, 1024; csrw hvip, t0"],
}
USER = "la t0, user; csrw sepc, t0; li t0, 0x120; csrc sstatus, t0; sret; user: nop; nop"


@pytest.mark.parametrize("body", ["csrsi sstatus, 2; nop", "wfi; csrsi sstatus, 2; nop", USER,
                                  "csrsi sstatus, 2; wfi; nop"], ids=["hs", "after-wfi", "user", "in-wfi"])
@pytest.mark.parametrize("first", ["setup", "enable"])
@pytest.mark.parametrize(("number", "raised"), [(n, way) for n, ways in RAISED.items() for way in ways])
def test_an_interrupt_that_is_not_delegated_is_taken_by_the_hypervisor(
    number: int, raised: str, first: str, body: str
) -> None:
    enable = f"li t0, {1 << number}; csrw hie, t0"
    parts = (raised, enable) if first == "setup" else (enable, raised)
    late = "addi" in raised
    if late and body in (USER, "csrsi sstatus, 2; nop"):
        body += "; 1: j 1b"
    source = KEPT.format(setup=parts[0], enable=parts[1], body=body) + POWEROFF
    found = []
    with pv.Machine(ram="16M") as vm:
        vm.load(kernel=pv.asm(source, at=RAM))
        assert vm.run(instructions=100_000, check=False).kind == "poweroff"
        found.append(vm.hart.registers)
    guest = pv.Hypervisor(pv.Machine(ram="64M"), memory="16M", nested=True)
    guest.load(pv.asm(source, at=RAM))
    assert guest.run_guest(instructions=100_000, check=False).kind == "poweroff"
    found.append(guest.machine.hart.registers)
    machine, nested = ({k: v for k, v in r.items() if k in ("s0", "s1", "s2", "s3", "s4")} for r in found)
    assert machine["s0"] == INTERRUPT | number
    if late:  # what an instruction costs differs, so the place and the moment do
        machine.pop("s1"), nested.pop("s1")
    assert {k: hex(v) for k, v in nested.items()} == {k: hex(v) for k, v in machine.items()}


def test_a_delegated_interrupt_waits_for_the_guests_guest_and_wakes_its_hypervisor() -> None:
    source = KEPT.format(setup="li t0, 0x444; csrw hideleg, t0; csrw hvip, t0", enable="csrw hie, t0",
                         body="csrsi sstatus, 2; wfi; li s6, 7;" + POWEROFF) + "nop"
    guest = pv.Hypervisor(pv.Machine(ram="64M"), memory="16M", nested=True)
    guest.load(pv.asm(source, at=RAM))
    assert guest.run_guest(instructions=100_000).kind == "poweroff"
    assert (guest.machine.hart.s0, guest.machine.hart.s6) == (0, 7)


def test_a_kept_interrupt_survives_a_move_to_another_machine() -> None:
    source = KEPT.format(setup="li t0, 1024; csrw hvip, t0; csrw hie, t0", enable="nop; nop; nop; nop",
                         body="csrsi sstatus, 2; nop") + POWEROFF
    for cut in range(8, 20):
        first = pv.Hypervisor(pv.Machine(ram="64M"), memory="16M", nested=True)
        first.load(pv.asm(source, at=RAM))
        first.run_guest(instructions=cut)
        second = pv.Hypervisor(pv.Machine(ram="64M"), memory="16M", nested=True)
        copied(first, second)
        assert second.run_guest(instructions=100_000).kind == "poweroff"
        assert second.machine.hart.s0 == INTERRUPT | 10
