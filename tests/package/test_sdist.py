"""The source distribution holds what git holds, and a wheel made from it works from anywhere."""
from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests import needs


def run(*command: str | Path, cwd: Path, timeout: int = 600) -> str:
    # What this process was told of its own pyvirt must not reach the new environment's.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYVIRT_"))}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs.need_module("build", "build")
    needs.need_module("build", "Cython")
    folder = tmp_path_factory.mktemp("sdist")
    # From a checkout of what git tracks: making an sdist writes into its tree, and must not depend on leftovers.
    clone = folder / "clone"
    tracked = run("git", "ls-files", "-z", cwd=source).split("\0")
    for name in filter(None, tracked):
        if (source / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((source / name).read_bytes())
            (clone / name).chmod((source / name).stat().st_mode)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ".", cwd=clone)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture
def tracked(source: Path) -> set[str]:
    if not (source / ".git").exists():
        needs.missing("source", f"{source} is not a git clone")
    return {n for n in run("git", "ls-files", cwd=source).splitlines() if (source / n).exists()}


@pytest.mark.slow
def test_the_sdist_holds_what_git_holds(sdist: Path, tracked: set[str]) -> None:
    with tarfile.open(sdist) as archive:
        held = {m.name.partition("/")[2] for m in archive if m.isfile()}
    made = {n for n in held if n in ("PKG-INFO", "setup.cfg") or n.startswith("pyvirt.egg-info/")}
    assert held - made == tracked


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_from_the_sdist_runs_in_a_new_environment(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    tree = next((tmp_path / "unpacked").iterdir())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, tree, cwd=tmp_path)
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "pyvirt/_build.py" in names
    assert "pyvirt/py.typed" in names
    assert not [n for n in names if n.startswith(("tests/", "ext/", "docs/")) or n.endswith((".c", ".pyx"))]
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", str(wheel)]
    pip = subprocess.run(install, capture_output=True, text=True, timeout=600, check=False)
    if pip.returncode != 0 and "pyvirt" not in pip.stderr:
        needs.missing("index", f"the package index did not give pyvirt's dependencies: {pip.stderr[-500:]}")
    assert pip.returncode == 0, pip.stderr
    place = run(python, "-c", "import pyvirt; print(pyvirt.__file__)", cwd=Path("/")).strip()
    assert place.startswith(str(environment))
    run(environment / "bin" / "pyvirt", "doctor", cwd=Path("/"))
    run(environment / "bin" / "pyvirt", "demo", cwd=Path("/"))
