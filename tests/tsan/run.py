"""Look for races between machines with ThreadSanitizer: build the core instrumented, aside, and run work.py on it.

Decoded code, links, page tables and frames are shared by machines that run in different threads. The switch core is
used: instrumented handlers of the threaded one would call each other instead of jumping. `--build` keeps the build for
the next time; `--kernel` and `--initrd` add a Linux guest. The exit code is 66 when a race was seen.
"""
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
NEEDED = ("ext", "pyvirt", "tests", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def copy(target: Path) -> None:
    """Copy the sources to a folder, without what was built."""
    for name in NEEDED:
        source = TREE / name
        if source.is_dir():
            shutil.copytree(source, target / name, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("*.so", "__pycache__", "generated"))
        else:
            shutil.copy2(source, target / name)


def build(target: Path) -> None:
    """Build in place, instrumented."""
    env = {**os.environ, "CFLAGS": "-fsanitize=thread -g"}
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=target, env=env, check=True)


def library() -> str:
    """Return the path of the sanitizer's library. Raises SystemExit when the compiler has none."""
    compiler = os.environ.get("CC", "gcc").split()
    found = subprocess.run([*compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True,
                           check=True).stdout.strip()
    if not Path(found).is_absolute():
        raise SystemExit(f"{' '.join(compiler)} has no libtsan.so; expected gcc with its ThreadSanitizer library")
    return found


def run(target: Path, arguments: list[str]) -> int:
    """Run work.py in the instrumented build, and return its exit code."""
    command = [sys.executable, "tests/tsan/work.py", *arguments]
    if shutil.which("setarch"):
        command = ["setarch", "-R", *command]   # the sanitizer wants its shadow where random layouts may put others
    env = {**os.environ, "LD_PRELOAD": library(), "TSAN_OPTIONS": "exitcode=66 report_signal_unsafe=0",
           "PYVIRT_CORE": "switch", "PYTHONPATH": str(target)}
    return subprocess.run(command, cwd=target, env=env, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--build", type=Path, help="a folder that keeps the build")
    parser.add_argument("--kernel", type=Path)
    parser.add_argument("--initrd", type=Path)
    options = parser.parse_args()
    guests = [] if options.kernel is None or options.initrd is None else [options.kernel, options.initrd]
    with tempfile.TemporaryDirectory() as temporary:
        target = options.build or Path(temporary)
        target.mkdir(parents=True, exist_ok=True)
        copy(target)
        build(target)
        return run(target, [str(options.seconds), *(str(path.resolve()) for path in guests)])


if __name__ == "__main__":
    sys.exit(main())
