"""A state that no machine can be in is refused, and what is taken is kept to the bit.

An odd pc met the mark of empty jump-cache entries and crashed.
"""
from __future__ import annotations

import random

import pytest

from pyvirt._hart import Core
from pyvirt._memory import Ram
from tests.support import BASE, EXTS, Bare

CLOCK = 32


def test_wrong_sizes_and_versions() -> None:
    core = Core(Ram(BASE, 4096), exts=EXTS, harts=2)
    state = core.state
    for bad, message in [
        (b"", "0 bytes"), (state[:-1], f"{len(state) - 1} bytes"), (state + b"\0", f"needs {len(state)}"),
        (b"\xff" + state[1:], "version"), (state[:4] + b"\2" + state[5:], "current hart 2 of 2"),
        (state[:CLOCK] + b"\xff" + state[CLOCK + 1 :], "hart 0.*version"),
        (state[: CLOCK + 4] + b"\5" + state[CLOCK + 5 :], "hart 0.*hartid"),
        (state[: CLOCK + 8] + b"\1" + state[CLOCK + 9 :], "hart 0.*pc"),
    ]:
        with pytest.raises(ValueError, match=message):
            core.state = bad
        assert core.state == state


def test_every_bit_is_kept_or_refused_and_no_run_crashes() -> None:
    text = "start: addi a0, a0, 1\n ld a1, 0(sp)\n sd a1, 0(gp)\n csrr a2, sstatus\n ecall\n j start"
    bare = Bare(text, size=1 << 14)
    bare.core.run(200)
    state, digest = bare.core.state, bare.digest()
    refused = 0
    for at in range(len(state)):
        for bit in range(8):
            flipped = bytearray(state)
            flipped[at] ^= 1 << bit
            try:
                bare.core.state = bytes(flipped)
            except ValueError:
                refused += 1
                assert bare.core.state == state
                continue
            assert bare.core.state == bytes(flipped)
            assert bare.digest() != digest
            if bit == at % 8:
                bare.core.run(min(bare.core.icount + 30, (1 << 64) - 1))
            bare.core.state = state
    assert refused < len(state) * 4


def test_random_states() -> None:
    bare = Bare("start: addi a0, a0, 1\n mret\n sret\n wfi\n j start", size=1 << 14)
    state, rng, taken = bare.core.state, random.Random(1), 0
    for _ in range(3000):
        flipped = bytearray(state)
        for _ in range(rng.choice((1, 2, 4))):
            at = rng.randrange(len(state))
            flipped[at : at + 8] = rng.randbytes(len(flipped[at : at + 8]))
        flipped = flipped[: len(state)]
        try:
            bare.core.state = bytes(flipped)
        except ValueError:
            continue
        taken += 1
        bare.core.run(min(bare.core.icount + 100, (1 << 64) - 1))
        assert bare.hart.x(0) == 0
        assert bare.hart.pc % 2 == 0
    assert taken > 200
