"""The extension list, and one call that runs the generator."""
import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = os.path.dirname(os.path.abspath(__file__))
os.chdir(HERE)
sys.path.insert(0, os.path.join(HERE, "ext"))

CFLAGS = ["-fno-strict-aliasing", "-Wno-unreachable-code", "-O2"]


def extensions():
    names = sorted(f[:-4] for f in os.listdir("ext") if f.endswith(".pyx"))
    exts = [Extension(f"pyvirt._{n}", [f"ext/{n}.pyx"], extra_compile_args=CFLAGS) for n in names]
    if os.path.exists("ext/isa.py"):
        exts.append(Extension("pyvirt._isa", ["ext/isa.py"], extra_compile_args=["-O1"]))
    return exts


if os.path.exists("ext/gen.py"):
    import gen

    gen.write("ext/generated")

setup(
    ext_modules=cythonize(
        extensions(),
        include_path=["ext", "ext/generated"],
        language_level=3,
        compiler_directives={"boundscheck": False, "wraparound": False, "cdivision": True, "initializedcheck": False},
    ),
)
