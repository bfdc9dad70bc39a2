"""The device tree, checked by the package that wrote it and by dtc."""

from __future__ import annotations

import subprocess
from pathlib import Path

import fdt
import pytest

from pyvirt.devices.base import Device, FdtContext, FdtNode
from pyvirt.devices.clint import Clint
from pyvirt.devices.plic import Plic
from pyvirt.devices.rtc import Rtc
from pyvirt.devices.syscon import Syscon
from pyvirt.devices.uart import Uart
from pyvirt.devices.virtio_mmio import VirtioMmio
from pyvirt.errors import ConfigError, LoadError
from pyvirt.fdt import Placed, Tree, build, check_dtb, isa_extensions
from tests import needs

ISA = "rv64imafdc_zicsr_zifencei_zicbom_zicboz_zba_sstc"


def parts(harts: int = 1) -> list[Placed]:
    return [
        Placed(Syscon(), (0x10_0000,)),
        Placed(Rtc(), (0x10_1000,), (11,)),
        Placed(Clint(harts=harts), (0x200_0000,)),
        Placed(Plic(harts=harts), (0xC00_0000,)),
        Placed(Uart(), (0x1000_0000,), (10,)),
        *(Placed(VirtioMmio(), (0x1000_1000 + 0x1000 * n,), (1 + n,)) for n in range(8)),
    ]


def tree(**options: object) -> Tree:
    return Tree(**{"isa": ISA, "ram_base": 0x8000_0000, "ram_size": 5 << 30, **options})  # type: ignore[arg-type]


def prop(blob: bytes, path: str, name: str) -> fdt.Property:
    node, found = path or "/", fdt.parse_dtb(blob)
    return found.get_property(name, node)


def test_dtc_finds_it_valid(tmp_path: Path) -> None:
    dtc = needs.need_program("dtc", "dtc")
    for harts in (1, 4):
        path = tmp_path / f"{harts}.dtb"
        path.write_bytes(
            build(tree(harts=harts, bootargs='console=ttyS0 a="b c";', initrd=(1 << 32, (1 << 32) + 5)), parts(harts))
        )
        run = subprocess.run([dtc, "-I", "dtb", "-O", "dts", str(path)], capture_output=True, text=True, check=True)
        assert run.stderr == ""
        assert run.stdout.count("riscv,cpu-intc") == harts


def test_what_linux_reads() -> None:
    blob = build(tree(harts=2, bootargs="console=ttyS0 quiet", initrd=(0x8_8000_0000, 0x8_8000_1234)), parts(2))
    assert prop(blob, "/chosen", "bootargs").value == "console=ttyS0 quiet"
    assert prop(blob, "/chosen", "stdout-path").value == "/soc/serial@10000000"
    assert list(prop(blob, "/chosen", "linux,initrd-start")) == [8, 0x8000_0000]
    assert list(prop(blob, "/chosen", "linux,initrd-end")) == [8, 0x8000_1234]
    assert list(prop(blob, "/memory@80000000", "reg")) == [0, 0x8000_0000, 1, 0x4000_0000]
    assert list(prop(blob, "/cpus", "timebase-frequency")) == [10_000_000]
    assert prop(blob, "/cpus/cpu@1", "riscv,isa").value == ISA
    assert prop(blob, "/cpus/cpu@1", "riscv,isa-base").value == "rv64i"
    assert list(prop(blob, "/cpus/cpu@1", "riscv,isa-extensions")) == [
        "i",
        "m",
        "a",
        "f",
        "d",
        "c",
        "zicsr",
        "zifencei",
        "zicbom",
        "zicboz",
        "zba",
        "sstc",
    ]
    assert prop(blob, "/cpus/cpu@1", "mmu-type").value == "riscv,sv57"
    assert list(prop(blob, "/cpus/cpu@0", "riscv,cboz-block-size")) == [64]
    assert prop(blob, "/cpus/cpu@0", "riscv,cbop-block-size") is None
    plic = prop(blob, "/soc/plic@c000000", "phandle").value
    assert prop(blob, "/soc/serial@10000000", "interrupt-parent").value == plic
    hart0, hart1 = (prop(blob, f"/cpus/cpu@{n}/interrupt-controller", "phandle").value for n in (0, 1))
    assert list(prop(blob, "/soc/plic@c000000", "interrupts-extended")) == [hart0, 11, hart0, 9, hart1, 11, hart1, 9]
    assert list(prop(blob, "/soc/clint@2000000", "interrupts-extended")) == [hart0, 3, hart0, 7, hart1, 3, hart1, 7]
    assert prop(blob, "/poweroff", "regmap").value == prop(blob, "/soc/test@100000", "phandle").value
    assert list(prop(blob, "/soc/virtio_mmio@10008000", "interrupts")) == [8]


def test_equal_parts_give_equal_bytes_and_seeds_show() -> None:
    assert build(tree(), parts()) == build(tree(), parts())
    assert build(tree(rng_seed=b"x" * 32), parts()) != build(tree(), parts())
    assert len(tree().rng_seed) == 32
    assert prop(build(tree(rng_seed=b""), parts()), "/chosen", "rng-seed") is None


def test_reserved_memory_and_no_devices() -> None:
    blob = build(tree(reserved=[("firmware", 0x8000_0000, 0x4_0000)], mmu=None))
    assert list(prop(blob, "/reserved-memory/firmware@80000000", "reg")) == [0, 0x8000_0000, 0, 0x4_0000]
    assert prop(blob, "/cpus/cpu@0", "mmu-type") is None


def test_isa_strings() -> None:
    assert isa_extensions("rv64gc_zba") == ("rv64i", ["i", "m", "a", "f", "d", "c", "zicsr", "zifencei", "zba"])
    for bad in ("rv32imac", "", "rv64", "x86"):
        with pytest.raises(ConfigError, match="expected rv64i or rv64g"):
            isa_extensions(bad)


def test_two_parts_at_one_address_are_refused() -> None:
    with pytest.raises(ConfigError, match="two nodes named 'serial@10000000' under /soc"):
        build(tree(), [*parts(), Placed(Uart(), (0x1000_0000,), (12,))])


@pytest.mark.parametrize("value", [[], [1, "x"], -1, 2**32, 1.5, False])
def test_odd_properties_are_named(value: object) -> None:
    class Odd(Device):
        def fdt(self, ctx: FdtContext) -> list[FdtNode]:
            return [FdtNode("odd", {"strange": value})]  # type: ignore[dict-item]

    with pytest.raises(ConfigError, match="/soc/odd: property 'strange' is"):
        build(tree(), [Placed(Odd(), ())])


def test_check_of_a_given_tree() -> None:
    blob = build(tree(), parts())
    check_dtb(blob, source="my.dtb")
    for data, words in (
        (b"", "found nothing"),
        (b"nope" + bytes(60), "found 6e6f7065, expected the device-tree magic"),
        (blob[:100], r"offset 4: total size is \d+, expected 40\.\.100"),
    ):
        with pytest.raises(LoadError, match=f"my.dtb.*{words}"):
            check_dtb(data, source="my.dtb")
