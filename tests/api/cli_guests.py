"""Small guests for tests of the command line, in M-mode at the start of RAM, and ways to run the command."""
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pyvirt
from pyvirt.command import cli

BASE = 0x8000_0000

# Echoes what is typed, woken by the UART's interrupt: `q` powers off, `f` fails with code 3, `r` reboots, `l` loops for
# ever, `t` traps for ever. Everything else comes back between brackets.
ECHO = """
start:  li      s0, 0x10000000          # UART
        li      s1, 0xc000000           # PLIC
        li      s2, 0x100000            # syscon
        li      t0, 1
        sw      t0, 40(s1)              # priority of source 10
        li      t1, 0xc002000
        li      t0, 0x400
        sw      t0, 0(t1)               # context 0 takes it
        li      t0, 1
        sb      t0, 1(s0)               # IER: received data
        li      t0, 0x800
        csrs    mie, t0
        la      a1, hello
        jal     puts
wait:   wfi
        li      s3, 0xc200004
        lw      s4, 0(s3)               # claim
read:   lbu     t0, 5(s0)
        andi    t0, t0, 1
        beqz    t0, done
        lbu     a0, 0(s0)
        li      t0, 'q'
        li      t1, 0x5555
        beq     a0, t0, finish
        li      t0, 'f'
        li      t1, 0x33333
        beq     a0, t0, finish
        li      t0, 'r'
        li      t1, 0x7777
        beq     a0, t0, finish
        li      t0, 'l'
loop:   beq     a0, t0, loop
        li      t0, 't'
        bne     a0, t0, echo
        csrw    mtvec, x0
        ecall
echo:   li      t0, '['
        sb      t0, 0(s0)
        sb      a0, 0(s0)
        li      t0, ']'
        sb      t0, 0(s0)
        j       read
done:   sw      s4, 0(s3)               # complete
        j       wait
finish: sw      t1, 0(s2)
        j       finish
puts:   lbu     t0, 0(a1)
        beqz    t0, 1f
        sb      t0, 0(s0)
        addi    a1, a1, 1
        j       puts
1:      ret
hello:  .asciz  "HELLO\\n"
"""


@dataclass
class Result:
    """How a command in this process ended."""

    code: int
    out: str
    err: str


class Command:
    """Runs `pyvirt ...` in this process, with standard input at its end."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *args: object) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["pyvirt", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Result(code, out, err)


def assemble(text: str, path: Path) -> Path:
    """Write a program for the start of RAM as a flat binary."""
    path.write_bytes(bytes(pyvirt.asm(text, at=BASE)))
    return path


def spawn(*args: object, **options: Any) -> subprocess.Popen[bytes]:
    """Start `pyvirt ...` as a process of its own."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([sys.executable, "-m", "pyvirt", *map(str, args)], env=environment, **options)
