"""Handlers jump: no call, and no register saved, in those that nearly every instruction of a guest runs."""
from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from pyvirt import _hart_threaded, _isa
from tests import needs

HOT = {"rr", "ri", "upper", "branch", "jal", "jalr", "load", "store", "fload", "fstore", "amo", "nop"}
# Loops, or a call to count bits where the host's baseline has no instruction for it.
COLD = {"cpop", "cpopw", "clmul", "clmulr", "clmulh", "xperm4", "xperm8"}
PSEUDO = ("goto", "goto_far", "jal_far", "far")
NATIVE = ("fadd_d", "fsub_d", "fmul_d", "fdiv_d", "fsqrt_d", "fadd_s", "fmul_s", "fsgnj_d", "feq_d", "flt_d", "fmv_x_d")


def handlers() -> dict[str, list[str]]:
    """Return the disassembled lines of each handler."""
    command = ["objdump", "-d", "--no-show-raw-insn", _hart_threaded.__file__]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.+)>:", line):
            name = match[1]
            lines = found.setdefault(name.rsplit("_h_", 1)[-1] if "_h_" in name else "", [])
        elif "\t" in line:
            lines.append(line.split("\t", 1)[1])
    return found


@pytest.mark.skipif(not _hart_threaded.probe(), reason="in this build handlers call; the switch core runs")
def test_hot_handlers_jump() -> None:
    if shutil.which("objdump") is None:
        needs.missing("binutils", "the program objdump is not on PATH")
    found = handlers()
    if "addi" not in found:
        pytest.skip("the module carries no symbols of its handlers")
    names = [i.ident for i in _isa.ISA if i.kind in HOT and i.ident not in COLD] + [*PSEUDO, *NATIVE]
    for name in names:
        assert found[name], name
        bad = [line for line in found[name] if re.match(r"(call|push|bl|blr)\b", line)]
        assert not bad, f"h_{name}: {bad}"
        assert any(re.match(r"(jmp|br)\b", line) for line in found[name]), f"h_{name} ends in no jump"
