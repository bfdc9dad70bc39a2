"""What the manual leaves to an implementation of H, as options of the machine."""
from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import pyvirt as pv
from pyvirt.board import RAM_BASE

FULL = -1


def bare(**options: Any) -> pv.Machine:
    return pv.Machine(board="bare", ram="64K", **options)


@pytest.mark.parametrize(("htinst", "tinst"), [("zero", 0), ("transformed", 0x0000_3503)])
def test_htinst_of_an_explicit_access(htinst: str, tinst: int) -> None:
    with bare(htinst=htinst) as vm:
        vm.load(pv.asm(f"""
            li t0, -1
            csrw pmpaddr0, t0
            li t0, 0x1f
            csrw pmpcfg0, t0
            la t0, trap
            csrw mtvec, t0
            li t0, {8 << 60 | RAM_BASE + 0x8000 >> 12}
            csrw hgatp, t0
            hlv.d a0, (zero)
            ld a0, 0(a1)
        trap:
            wfi
        """, at=RAM_BASE))
        vm.run()
        assert (vm.hart.csr.mcause, vm.hart.csr.mtval2) == (21, 0)
        assert int(vm.hart.csr.mtinst) >> 12 == (0x6C00_4573 >> 12 if tinst else 0)
        walk = vm.hart.walk(0, world="VS")
        assert walk.note == ("tinst will be the instruction, transformed" if tinst else "")


@pytest.mark.parametrize("bits", [0, 7, 14])
def test_the_width_of_vmid(bits: int) -> None:
    with bare(vmid_bits=bits) as vm:
        vm.hart.csr.hgatp = 8 << 60 | 0x3FFF << 44
        vmid = vm.hart.csr.hgatp.VMID
        assert vmid == (1 << bits) - 1


@pytest.mark.parametrize("count", [0, 5, 63])
def test_the_count_of_guest_external_interrupts(count: int) -> None:
    with bare(hgeie=count) as vm:
        vm.hart.csr.hgeie = FULL
        assert vm.hart.csr.hgeie == (1 << count + 1) - 2
        vm.hart.csr.hstatus = FULL
        chosen = vm.hart.csr.hstatus.VGEIN
        assert chosen <= count


def test_the_modes_of_the_g_stage() -> None:
    for offered in ((), ("sv39x4",), ("sv48x4", "sv57x4")):
        with bare(g_modes=offered) as vm:
            assert vm.config.g_modes == offered
            for number, mode in ((8, "sv39x4"), (9, "sv48x4"), (10, "sv57x4")):
                vm.hart.csr.hgatp = 0
                vm.hart.csr.hgatp = number << 60
                taken = vm.hart.csr.hgatp.MODE
                assert (taken == number) == (mode in offered)


def test_defaults_follow_the_isa_and_are_part_of_config_and_digest() -> None:
    with bare() as vm, bare(isa="rv64gch_sv48") as second, bare(isa="rv64gc") as without:
        assert (vm.config.htinst, vm.config.vmid_bits, vm.config.hgeie) == ("zero", 14, 0)
        assert vm.config.g_modes == ("sv39x4", "sv48x4", "sv57x4")
        assert second.config.g_modes == ("sv39x4", "sv48x4")
        assert without.config.g_modes == ()
        first = vm.digest()
    for changed in ({"htinst": "transformed"}, {"vmid_bits": 7}, {"hgeie": 1}, {"g_modes": ["sv39x4"]}):
        with bare(**changed) as vm:
            assert vm.digest() != first
            assert dataclasses.replace(vm.config, **pv.Config(board="bare", ram=vm.config.ram).__dict__) != vm.config


@pytest.mark.parametrize(("option", "value", "message"), [
    ("htinst", "none", "htinst: 'none' is not allowed; allowed: 'zero', 'transformed'"),
    ("vmid_bits", 15, "vmid_bits: 15 is not allowed; allowed: an int in 0...14"),
    ("hgeie", 64, "hgeie: 64 is not allowed; allowed: an int in 0...63"),
    ("g_modes", ["sv39"], "g_modes: 'sv39' is not allowed (did you mean 'sv39x4'?); allowed: 'sv39x4'"),
    ("g_modes", "sv39x4", "g_modes: 'sv39x4' is not allowed; allowed: None for those of the ISA, or a list"),
])
def test_wrong_values_are_named(option: str, value: object, message: str) -> None:
    with pytest.raises(pv.ConfigError) as error:
        bare(**{option: value})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("option", [{"htinst": "transformed"}, {"vmid_bits": 7}, {"hgeie": 1}, {"g_modes": ["sv39x4"]}])
def test_they_need_the_extension(option: dict[str, Any]) -> None:
    with pytest.raises(pv.ConfigError, match="needs the hypervisor extension"):
        bare(isa="rv64gc", **option)
