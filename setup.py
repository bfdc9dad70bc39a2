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
STAMP = HERE / "build" / "flags"


def extensions() -> list[Extension]:
    """List the compiled modules: all of ext/*.pyx, and the table of instructions."""
    sources = sorted(Path("ext").glob("*.pyx"))
    found = [Extension(f"pyvirt._{p.stem}", [str(p)], extra_compile_args=CFLAGS) for p in sources]
    if Path("ext/isa.py").exists():
        # Tables and dictionaries only: -O1 halves its compile time and nothing hot runs there.
        found.append(Extension("pyvirt._isa", ["ext/isa.py"], extra_compile_args=[*CFLAGS, "-O1"]))
    return found


def flags_changed() -> bool:
    """Say whether the last build used other flags; neither Cython nor distutils looks at them."""
    if STAMP.exists() and STAMP.read_text() == FLAGS:
        return False
    STAMP.parent.mkdir(exist_ok=True)
    STAMP.write_text(FLAGS)
    return True


class BuildExt(build_ext):
    """Build the modules, then record what they were built from in pyvirt/_build.py."""

    def run(self) -> None:
        super().run()
        root = HERE if self.inplace or getattr(self, "editable_mode", False) else Path(self.build_lib)
        modules = [ext.name for ext in self.extensions]
        load_digest().write(HERE, root / "pyvirt" / "_build.py", modules=modules, flags=FLAGS, debug=DEBUG)


if __name__ == "__main__":
    if Path("ext/gen.py").exists():
        import gen

        gen.write("ext/generated")
    force = flags_changed()
    fork = multiprocessing.get_start_method() == "fork"  # other start methods would run this file again
    setup(
        ext_modules=cythonize(
            extensions(),
            include_path=["ext", "ext/generated"],
            language_level=3,
            compiler_directives=DIRECTIVES,
            nthreads=JOBS if fork and JOBS > 1 else 0,
            force=force,
        ),
        cmdclass={"build_ext": BuildExt},
        options={"build_ext": {"parallel": JOBS, "force": force}},
    )
