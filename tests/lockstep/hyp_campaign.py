"""The kinds of programs with the hypervisor extension, how each is made from a seed, and which run by default."""
from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.lockstep import harness, hyp_causes, hyp_csrs, hyp_insns, hyp_mixes, hyp_walks
from tests.lockstep.campaign import SLICES, STEP, STRIDES, SWITCH, Way, Ways, program, table
from tests.lockstep.harness import Program, Result
from tests.lockstep.hyp_machines import ALIAS, HYP_ISA, VS, HypLockStep, HypPyvirt, HypSpike, M

PAGED_ISA = HYP_ISA + "_zicclsm"  # misaligned loads and stores work in Spike
MODES = (39, 48, 57, hyp_walks.BARE)
WALKS = tuple((sv, x) for sv in MODES for x in MODES if sv or x)
INSN_PARTS = 8


def make_causes(kind: str, seed: int) -> Program:
    """Exceptions, interrupts, or several interrupts at once."""
    cases = {
        "exceptions": hyp_causes.exceptions,
        "interrupts": hyp_causes.interrupts,
        "storms": lambda: hyp_causes.storms(random.Random(seed), 100),
    }[kind]()
    return framed(f"hyp-{kind}-{seed}", hyp_causes.text(cases, seed))


def make_insns(seed: int, part: int) -> Program:
    """One part of the privileged instructions in each world."""
    return framed(f"hyp-insns-{seed}-{part}", hyp_insns.text(seed, part, INSN_PARTS))


def framed(name: str, text: str) -> Program:
    """Assemble a program of hyp_frame's."""
    p = program(name, text, paged=True, isa=HYP_ISA)
    p.lines = (p.symbols["lines"],)
    return p


def make_csrs(setting: str, seed: int, absent: tuple[int, ...] = ()) -> Program:
    """Every CSR from every world."""
    return program(f"hyp-csrs-{setting}-{seed}", hyp_csrs.text(seed, setting, absent=absent),
                   isa=HYP_ISA + "_smstateen")


def make_walk(sv: int, svx4: int, seed: int) -> Program:
    """Page tables of two stages; 0 is bare. Half the seeds keep the caches warm."""
    text = hyp_walks.TwoStages(sv, svx4, seed, warm=bool(seed & 4)).text()
    return program(f"hyp-sv{sv}-sv{svx4}x4-{seed}", text, ram=hyp_walks.RAM, paged=True, isa=PAGED_ISA)


def make_mix(world: int, taker: str, seed: int) -> Program:
    """Random control flow in a guest, with interrupts."""
    name = f"hyp-mix-{hyp_mixes.NAMES[world, taker]}-{seed}"
    p = program(name, hyp_mixes.text(table(), seed, world=world, taker=taker), paged=True, isa=PAGED_ISA)
    p.lines = (p.symbols["lines"], p.symbols["lines"] + ALIAS)
    return p


def run(p: Program, way: Way) -> Result:
    """Run a program on both machines. Raises harness.Divergence where they differ."""
    rng = random.Random(p.name)
    strides: Callable[[], int] | None = (lambda: rng.choice(STRIDES)) if way.sliced else None
    spike = HypSpike(p.code, at=p.at, ram=p.ram, isa=p.isa)
    other = HypPyvirt(p.code, at=p.at, ram=p.ram, isa=p.isa, core=way.core)
    return harness.run(p, spike, other, strides=strides, lockstep=HypLockStep)


def plan() -> dict[str, list[tuple[Callable[[], Program], Ways]]]:
    """Return what the default run of the tests executes, by subject."""
    def later(make: Callable[..., Program], *args: Any) -> Callable[[], Program]:
        return lambda: make(*args)

    return {
        "causes": [(later(make_causes, k, 1), (STEP,)) for k in ("exceptions", "interrupts", "storms")],
        "insns": [(later(make_insns, 1, part), ((STEP, SLICES)[part % 2],)) for part in range(INSN_PARTS)],
        "csrs": [
            (later(make_csrs, s, 1, (M, VS) if s == "open" else ()), (SLICES,)) for s in hyp_csrs.SETTINGS
        ],
        "walks": [
            (later(make_walk, sv, x, 1), ((STEP, SLICES, SWITCH)[(sv + x) % 3],)) for sv, x in WALKS
        ],
        "mixes": [
            (later(make_mix, *combination, 1), ((SLICES, SWITCH)[i % 2],))
            for i, combination in enumerate(hyp_mixes.COMBINATIONS)
        ],
    }


def every_kind(seed: int) -> Iterator[tuple[Program, Way]]:
    """Yield programs of all kinds with one seed; three seeds in a row see the three ways."""
    way = (STEP, SLICES, SWITCH)[seed % 3]
    for kind in ("exceptions", "interrupts", "storms"):
        yield make_causes(kind, seed), way
    for part in range(seed % 2, INSN_PARTS, 2):
        yield make_insns(seed, part), way
    settings = tuple(hyp_csrs.SETTINGS)
    yield make_csrs(settings[seed % len(settings)], seed, tuple(hyp_csrs.WORLDS)[seed % 5 :][:1]), way
    for sv, x in WALKS:
        yield make_walk(sv, x, seed), way
    for combination in hyp_mixes.COMBINATIONS:
        yield make_mix(*combination, seed), way


def guests(first: int) -> Iterator[tuple[Program, Way]]:
    """Yield random guests with ever new seeds: the programs that spend nearly all their time with V=1."""
    for seed in itertools.count(first):
        for combination in hyp_mixes.COMBINATIONS:
            yield make_mix(*combination, seed), (SLICES, SWITCH, STEP)[seed % 3]


def endless(first: int) -> Iterator[tuple[Program, Way]]:
    """Yield programs of all kinds with ever new seeds, for campaigns limited by time."""
    for seed in itertools.count(first):
        yield from every_kind(seed)
