"""Faults to plant in the core, one at a time: what proves that the lock-step tests would see a real one.

Each is an edit of the source that compiles. They are planted in a copy of the tree, the copy is built, and the
default campaign runs in it, as a program of its own, until the machines differ:

    python -m tests.lockstep.planted          # all faults, in a temporary copy of this clone
    python -m tests.lockstep.planted NAME...  # some of them
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

COPIED = ("ext", "pyvirt", "tests", "build", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
RUNNER = "import sys; from tests.lockstep.planted import hunt; sys.exit(hunt(sys.argv[1]))"


@dataclass(frozen=True)
class Fault:
    """An edit: in `file`, the one occurrence of `old` becomes `new`. `subject` is where the hunt starts."""

    name: str
    file: str
    old: str
    new: str
    subject: str


_SC_END = "            return finish(h, op, n, st)\n    h.s.resv_width = 0\n"

FAULTS = (
    Fault("lb-zero-extends", "ext/insn_i.pxd", "return sext8(v)", "return v & 0xFF", "rows"),
    Fault("missed-underflow", "ext/fpenv.pxd",
          "return ((c >> 5) & 1) | ((c >> 3) & 2) | ((c >> 1) & 4)", "return ((c >> 5) & 1) | ((c >> 1) & 4)", "rows"),
    Fault("unboxed-single", "ext/fp_soft.pxd",
          "return a & 0xffffffffULL if likely(a >= FP_BOX) else FP_NAN_S", "return a & 0xffffffffULL", "rows"),
    Fault("tval-off-by-2", "ext/decode.pyx",
          "h.api.deliver(h, h.fault, h.fault_va, pc)", "h.api.deliver(h, h.fault, pc, pc)", "paging"),
    Fault("stale-translation", "ext/access.pyx",
          "if frame.flags & FRAME_PT:", "if frame.flags & FRAME_PT and 0:", "paging"),
    Fault("stale-code", "ext/access.pyx",
          "if frame.flags & FRAME_CODE and m.api", "if frame.flags & FRAME_CODE and 0 and m.api", "selfmod"),
    Fault("sc-keeps-reservation", "ext/access.pyx", _SC_END, _SC_END.splitlines(keepends=True)[0], "rows"),
    Fault("timer-before-software", "ext/trap.pyx",
          "[IRQ_MEI, IRQ_MSI, IRQ_MTI,", "[IRQ_MEI, IRQ_MTI, IRQ_MSI,", "causes"),
    Fault("delegated-from-m", "ext/trap.pyx",
          "if h.s.priv > PRIV_S or not delegated >> number & 1:", "if not delegated >> number & 1:", "causes"),
    Fault("mprv-survives-mret", "ext/trap.pyx",
          "    if to != PRIV_M:\n        status &= ~MSTATUS_MPRV\n", "", "causes"),
    Fault("trap-counts-as-retired", "ext/trap.pyx", "h.s.instret_bias -= 1", "h.s.instret_bias -= 0", "csrs"),
    Fault("pmp-edge", "ext/mmu.pyx", "if pa < low or pa + size > high:", "if pa < low:", "pmp"),
    Fault("store-needs-no-d", "ext/mmu.pyx",
          "want = PTE_A | (PTE_D if acc == ACC_STORE else 0)", "want = PTE_A", "paging"),
    Fault("mxr-ignored", "ext/mmu.pyx",
          "return pte & PTE_R or (mxr and pte & PTE_X)", "return (pte & PTE_R) != 0", "paging"),
)
BY_NAME = {f.name: f for f in FAULTS}


def occurrences(tree: Path, fault: Fault) -> int:
    """Return how often a fault's text is in its file; one is right."""
    return (tree / fault.file).read_text().count(fault.old)


def copy(tree: Path, to: Path) -> None:
    """Copy a clone with what it has built, times included, so that the copy builds only what a fault changes."""
    for name in COPIED:
        source = tree / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, to / name)


def _run(tree: Path, *args: str, limit: int) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYVIRT_CORE", "PYTHONPATH")}
    return subprocess.run([sys.executable, *args], cwd=tree, env=env, capture_output=True, text=True, timeout=limit)


def try_fault(tree: Path, fault: Fault) -> str:
    """Plant a fault in a copied tree, build, hunt for it, and take it back.

    Returns what found it, or an empty string if nothing did. Raises RuntimeError if the copy does not build.
    """
    path = tree / fault.file
    text = path.read_text()
    if text.count(fault.old) != 1:
        raise RuntimeError(f"{fault.name}: {fault.file} has its text {text.count(fault.old)} times, 1 is needed")
    path.write_text(text.replace(fault.old, fault.new))
    try:
        built = _run(tree, "setup.py", "-q", "build_ext", "--inplace", limit=1800)
        if built.returncode:
            raise RuntimeError(f"{fault.name}: the copy does not build:\n{built.stderr[-2000:]}")
        try:
            hunted = _run(tree, "-c", RUNNER, fault.subject, limit=600)
        except subprocess.TimeoutExpired:
            return "pyvirt did not come back in 600 s"
    finally:
        path.write_text(text)
    if hunted.returncode == 3:
        return hunted.stdout.strip()
    if hunted.returncode:  # a fault that brings the interpreter down is found too, but it must be seen as such
        return f"the hunt ended with {hunted.returncode}: {hunted.stderr.strip()[-300:]}"
    return ""


def hunt(first: str) -> int:
    """Run the campaign, one subject before the others, until the machines differ; 3 then, and 0 if they never do."""
    from tests.lockstep import campaign

    plan = campaign.plan()
    for name in sorted(plan, key=lambda n: n != first):
        for maker, ways in plan[name]:
            program = maker()
            for way in ways:
                try:
                    campaign.run(program, way)
                except AssertionError as e:
                    print(f"{name}, {way.name}: {' | '.join(str(e).splitlines()[:3])}")
                    return 3
    return 0


def main(names: list[str]) -> int:
    """Plant faults by name, all without names, and print what found each."""
    tree = Path(__file__).resolve().parents[2]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="pyvirt-planted-") as scratch:
        copy(tree, Path(scratch))
        for name in names or BY_NAME:
            found = try_fault(Path(scratch), BY_NAME[name])
            missed += not found
            print(f"{name:<24} {found or 'NOT FOUND'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
