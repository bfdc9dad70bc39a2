"""The extension list, one call that runs the generator, and the digest that tells a stale build.

Every `ext/NAME.pyx` becomes the private module `pyvirt._NAME`; `ext/isa.py` is compiled as `pyvirt._isa` as well.
PYVIRT_DEBUG=1 builds the same sources with bounds checks and assertions. Metadata lives in pyproject.toml.
"""
from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path
from types import ModuleType

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
os.chdir(HERE)
sys.path.insert(0, str(HERE / "ext"))


def load_digest() -> ModuleType:
    """Import pyvirt/_digest.py without importing pyvirt, which is not built yet."""
    spec = importlib.util.spec_from_file_location("_digest", HERE / "pyvirt" / "_digest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DEBUG = os.environ.get("PYVIRT_DEBUG", "") not in ("", "0")
CFLAGS = [
    "-fno-strict-aliasing",
    "-Wno-unreachable-code",
    # The host's rounding mode and sticky flags are the guest's while a slice runs, and nothing may be fused.
    "-frounding-math",
    "-ffp-contract=off",
    "-fno-math-errno",
    *(["-g", "-DPYVIRT_DEBUG=1"] if DEBUG else ["-DCYTHON_WITHOUT_ASSERTIONS"]),
    # Last, whatever CFLAGS say: below -O2 handlers call each other instead of jumping, and the stack overflows.
    "-O2",
]
DIRECTIVES = {"boundscheck": DEBUG, "wraparound": False, "initializedcheck": DEBUG, "cdivision": True}
JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FLAGS = " ".join(CFLAGS)
BASE = HERE / "build" / ("debug" if DEBUG else "release")  # apart, so that neither build makes the other start anew


def extensions() -> list[Extension]:
    """List the compiled modules: all of ext/*.pyx, and the table of instructions."""
    sources = sorted(Path("ext").glob("*.pyx"))
    found = [Extension(f"pyvirt._{p.stem}", [str(p)], include_dirs=["ext"], extra_compile_args=CFLAGS) for p in sources]
    if Path("ext/isa.py").exists():
        # Tables and dictionaries only: -O1 halves its compile time and nothing hot runs there.
        found.append(Extension("pyvirt._isa", ["ext/isa.py"], extra_compile_args=[*CFLAGS, "-O1"]))
    return found


def changed(stamp: Path, text: str) -> bool:
    """Say whether the build that wrote `stamp` used other options; neither Cython nor setuptools looks at them."""
    if stamp.exists() and stamp.read_text() == text:
        return False
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(text)
    return True


class BuildExt(build_ext):
    """Build the modules, then record what they were built from in pyvirt/_build.py."""

    def run(self) -> None:
        digest = load_digest()
        in_place = bool(self.inplace or getattr(self, "editable_mode", False))
        root = HERE if in_place else Path(self.build_lib).resolve()
        target = root / "pyvirt" / "_build.py"
        built = digest.load(target.parent)
        if changed(Path(self.build_temp) / "flags", FLAGS) or built is None or built.FLAGS != FLAGS:
            self.force = True
        target.unlink(missing_ok=True)  # a build that fails half-way is no build
        super().run()
        digest.write(HERE, target, modules=[ext.name for ext in self.extensions], flags=FLAGS, debug=DEBUG)


if __name__ == "__main__":
    if Path("ext/gen.py").exists():
        import gen

        gen.write("ext/generated")
    fork = multiprocessing.get_start_method() == "fork"  # other start methods would run this file again
    setup(
        ext_modules=cythonize(
            extensions(),
            include_path=["ext", "ext/generated"],
            build_dir=str((BASE / "c").relative_to(HERE)),
            language_level=3,
            compiler_directives=DIRECTIVES,
            nthreads=JOBS if fork and JOBS > 1 else 0,
            force=changed(BASE / "directives", repr(DIRECTIVES)),
        ),
        cmdclass={"build_ext": BuildExt},
        options={"build": {"build_base": str(BASE)}, "build_ext": {"parallel": JOBS}},
    )
