"""What `import pyvirt` costs and says: no heavy modules, one clear error in an unbuilt tree, a stale build named."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyvirt
from pyvirt import _digest

HEAVY = ("rich", "typer", "numpy", "cryptography")


def run_python(code: str, cwd: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path[:0] = {[str(p) for p in path]!r}\n{code}"
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_import_loads_nothing_heavy(tmp_path: Path) -> None:
    # A finder in front, not a look at sys.modules afterwards: it also catches what is imported and dropped again.
    code = f"""
class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.partition('.')[0] not in {HEAVY!r}, name
sys.meta_path.insert(0, Refuse())
import pyvirt
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = run_python(code, tmp_path, Path(pyvirt.__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """A tree with pyvirt's Python files and nothing compiled."""
    package = Path(pyvirt.__file__).parent
    ignore = shutil.ignore_patterns("*.so", "_build.py", "__pycache__")
    shutil.copytree(package, tmp_path / "tree" / "pyvirt", ignore=ignore)
    return tmp_path / "tree"


def test_import_in_an_unbuilt_tree_names_the_command(unbuilt: Path, tmp_path: Path) -> None:
    done = run_python("import pyvirt", tmp_path, unbuilt)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "Error: " in line]
    assert len(errors) == 1
    assert errors[0].startswith("ImportError: ")
    assert "`python -m pip install -e .`" in errors[0]
    assert str(unbuilt) in errors[0]


def test_import_of_a_build_for_another_interpreter_names_the_module(unbuilt: Path, tmp_path: Path) -> None:
    record = "FLAGS = ''\nDIGEST = ''\nDEBUG = False\nFILES = {}\nMODULES = ('pyvirt._isa',)\n"
    (unbuilt / "pyvirt" / "_build.py").write_text(record)
    (unbuilt / "pyvirt" / "_isa.cpython-26-x86_64-linux-gnu.so").touch()
    done = run_python("import pyvirt", tmp_path, unbuilt)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "lacks _isa." in last
    assert "pip install -e ." in last


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone in miniature."""
    (tmp_path / "ext" / "generated").mkdir(parents=True)
    for name, text in (("ext/a.pyx", "a"), ("ext/b.pxd", "b"), ("setup.py", "s"), ("ext/generated/g.pxi", "g")):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_stale_build_is_named_by_file_and_command(tree: Path) -> None:
    _digest.write(tree, tree / "pyvirt" / "_build.py", modules=[], flags="-O2", debug=False)
    build = _digest.load(tree / "pyvirt")
    assert _digest.stale(tree, build) is None
    (tree / "ext" / "generated" / "g.pxi").write_text("other")
    assert _digest.stale(tree, build) is None, "generated files follow from the rest"
    (tree / "ext" / "b.pxd").write_text("other")
    assert "ext/b.pxd has changed" in str(_digest.stale(tree, build))
    assert "`python -m pip install -e .`" in str(_digest.stale(tree, build))
    (tree / "ext" / "b.pxd").write_text("b")
    (tree / "ext" / "c.pyx").write_text("c")
    assert "ext/c.pyx is new" in str(_digest.stale(tree, build))
    (tree / "ext" / "c.pyx").unlink()
    (tree / "ext" / "a.pyx").unlink()
    assert "ext/a.pyx is gone" in str(_digest.stale(tree, build))


def test_pytest_refuses_a_stale_build(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    shutil.copytree(source / "ext", copy / "ext", ignore=shutil.ignore_patterns("generated", "__pycache__"))
    (copy / "pyvirt").mkdir()
    for name in ("setup.py", "pyproject.toml", "pyvirt/_digest.py"):
        shutil.copy(source / name, copy / name)
    header = copy / "ext" / "arch.pxd"
    header.write_text(header.read_text() + "\n# later\n")
    here = Path(__file__).resolve().parent.parent
    shutil.copytree(here, tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "pyproject.toml", tmp_path)
    installed = str(Path(pyvirt.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/package"],
        cwd=tmp_path,
        env={"PYVIRT_SOURCE": str(copy), "PATH": "/usr/bin:/bin", "PYTHONPATH": installed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ext/arch.pxd has changed" in done.stderr
    assert "`python -m pip install -e .`" in done.stderr


def test_compiled_modules_are_the_ones_recorded() -> None:
    build = _digest.load(Path(pyvirt.__file__).parent)
    assert build is not None
    assert "pyvirt._isa" in build.MODULES
    for name in build.MODULES:
        __import__(name)
