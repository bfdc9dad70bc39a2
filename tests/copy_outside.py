"""Copy the tests and pytest's settings out of the clone: `copy_outside.py CLONE FOLDER`.

A test that runs beside the clone's pyvirt/ imports that instead of the installed package, and hides what it lacks.
"""
import shutil
import sys
from pathlib import Path

clone, folder = map(Path, sys.argv[1:])
shutil.copytree(clone / "tests", folder / "tests", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
shutil.copy(clone / "pyproject.toml", folder)
