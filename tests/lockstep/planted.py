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
RUNNER = "import sys; from tests.lockstep.planted import hunt; sys.exit(hunt(sys.argv[1], hyp=sys.argv[2] == 'hyp'))"


@dataclass(frozen=True)
class Fault:
    """An edit: in `file`, the one occurrence of `old` becomes `new`.

    The hunt starts with `subject`; with `hyp` it is one of the campaign with the hypervisor extension, which is gone
    through instead of the base's.
    """

    name: str
    file: str
    old: str
    new: str
    subject: str
    hyp: bool = False


_SC_END = "            return finish(h, op, n, st)\n    h.s.resv_width = 0\n"

BASE_FAULTS = (
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
    Fault("napot-in-one-stage", "ext/mmu.pyx",
          "ppn = (ppn & ~<uint64_t>15) | ((address >> 12) & 15)", "ppn = ppn & ~<uint64_t>15", "paging"),
)


def _hyp(name: str, file: str, old: str, new: str, subject: str) -> Fault:
    return Fault(name, file, old, new, subject, hyp=True)


HYP_FAULTS = (
    _hyp("htval-not-shifted", "ext/trap.pyx", "h.s.htval = tval2", "h.s.htval = tval2 << 2", "causes"),
    _hyp("gva-not-set", "ext/trap.pyx", "        if gva:\n            hstatus |= HSTATUS_GVA\n", "", "causes"),
    _hyp("spvp-not-set", "ext/trap.pyx",
         "hstatus |= HSTATUS_SPV | (HSTATUS_SPVP if h.s.priv == PRIV_S else 0)", "hstatus |= HSTATUS_SPV", "causes"),
    _hyp("mpv-survives-mret", "ext/trap.pyx",
         "status &= ~(MSTATUS_MIE | MSTATUS_MPP | MSTATUS_MPV)", "status &= ~(MSTATUS_MIE | MSTATUS_MPP)", "causes"),
    _hyp("hedeleg-ignored-for-load-page", "ext/trap.pyx",
         "elif virt and further >> number & 1:", "elif virt and further >> number & 1 and number != 13:", "causes"),
    _hyp("guest-sees-the-hosts-number", "ext/trap.pyx",
         "        cause -= 1  # a guest", "        cause -= 0  # a guest", "causes"),
    _hyp("vtsr-ignored", "ext/trap.pyx",
         "return CAUSE_VIRTUAL if h.s.hstatus & HSTATUS_VTSR else 0", "return 0", "insns"),
    _hyp("scause-not-substituted", "ext/csr_read.pxd",
         "CSR_SEPC, CSR_SCAUSE, CSR_STVAL", "CSR_SEPC, CSR_STVAL", "causes"),
    _hyp("guests-fs-not-dirtied", "ext/csr_read.pxd",
         "        h.s.vsstatus |= MSTATUS_FS\n", "        pass\n", "mixes"),
    _hyp("counter-illegal-not-virtual", "ext/csr_read.pxd",
         "if h.s.virt and not h.s.hcounteren >> bit & 1:\n        return CAUSE_VIRTUAL",
         "if h.s.virt and not h.s.hcounteren >> bit & 1:\n        return CAUSE_ILLEGAL", "insns"),
    _hyp("hip-does-not-reach-hvip", "ext/csr_write.pxd",
         "    if special == HIP_VIEW:\n        soft_vs_set(h, value)\n", "    if special == HIP_VIEW:\n", "csrs"),
    _hyp("hlvx-checks-r", "ext/mmu.pyx", "if acc == ACC_FETCH or hlvx:", "if acc == ACC_FETCH:", "walks"),
    _hyp("g-stage-ignores-u", "ext/mmu.pyx", "if not pte & PTE_U or not permits(pte, need", "if not permits(pte, need",
         "walks"),
    _hyp("g-root-of-one-page", "ext/mmu.pyx", "(gpa >> (12 + 9 * level)) * 8",
         "(gpa >> (12 + 9 * level) & 511) * 8", "walks"),
    _hyp("guests-mxr-in-g-stage", "ext/mmu.pyx", "mxr = c.mxr_g if not inst else 0", "mxr = c.mxr if not inst else 0",
         "walks"),
    _hyp("table-is-read-not-written", "ext/mmu.pyx", "gat, acc, ACC_STORE, 0x3020, w", "gat, acc, ACC_STORE, 0x3000, w",
         "walks"),
    _hyp("napot-takes-its-first-page", "ext/mmu.pyx",
         "ppn = (ppn & ~<uint64_t>15) | ((address >> 12) & 15)", "ppn = ppn & ~<uint64_t>15", "walks"),
    _hyp("pbmt-always-on-in-g-stage", "ext/mmu.pyx",
         "malformed(m, pte, h.s.menvcfg & ENVCFG_PBMTE)", "malformed(m, pte, ENVCFG_PBMTE)", "walks"),
    _hyp("henvcfg-adue-ignored", "ext/mmu.pyx",
         "adue = (h.s.henvcfg & h.s.menvcfg if c.virt else h.s.menvcfg) & ENVCFG_ADUE",
         "adue = h.s.menvcfg & ENVCFG_ADUE", "walks"),
)
FAULTS = BASE_FAULTS + HYP_FAULTS
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
            hunted = _run(tree, "-c", RUNNER, fault.subject, "hyp" if fault.hyp else "base", limit=600)
        except subprocess.TimeoutExpired:
            return "pyvirt did not come back in 600 s"
    finally:
        path.write_text(text)
    if hunted.returncode == 3:
        return hunted.stdout.strip()
    if hunted.returncode:  # a fault that brings the interpreter down is found too, but it must be seen as such
        return f"the hunt ended with {hunted.returncode}: {hunted.stderr.strip()[-300:]}"
    return ""


def hunt(first: str, *, hyp: bool = False) -> int:
    """Run a campaign, one subject before the others, until the machines differ; 3 then, and 0 if they never do."""
    from tests.lockstep import campaign, hyp_campaign

    run, plan = (hyp_campaign.run, hyp_campaign.plan()) if hyp else (campaign.run, campaign.plan())
    for name in sorted(plan, key=lambda n: n != first):
        for maker, ways in plan[name]:
            program = maker()
            for way in ways:
                try:
                    run(program, way)
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
