"""One fixture for each oracle: it checks the wheel and what it needs, and skips or fails as PYVIRT_REQUIRE says."""
from __future__ import annotations

from types import ModuleType

import pytest

from tests import needs
from tests.oracle import softfloat as softfloat_module
from tests.oracle import spike as spike_module
from tests.oracle import zigasm as zigasm_module


@pytest.fixture(scope="session")
def spike() -> ModuleType:
    """Return tests.oracle.spike, once a machine of Spike's has been made and its layout checked."""
    needs.need_program("spike", "dtc")  # Spike runs it for the device tree of each machine
    try:
        spike_module.SpikeOracle(b"\x13\0\0\0")
    except spike_module.SpikeUnavailable as e:
        needs.missing("spike", str(e))
    return spike_module


@pytest.fixture(scope="session")
def zig() -> ModuleType:
    """Return tests.oracle.zigasm, once it has assembled an instruction."""
    try:
        zigasm_module.assemble("nop")
    except zigasm_module.ZigUnavailable as e:
        needs.missing("zig", str(e))
    return zigasm_module


@pytest.fixture(scope="session")
def softfloat() -> ModuleType:
    """Return tests.oracle.softfloat, once the wheel has been found to follow RISC-V's rules."""
    try:
        softfloat_module.check()
    except softfloat_module.SoftFloatUnavailable as e:
        needs.missing("softfloat", str(e))
    return softfloat_module
