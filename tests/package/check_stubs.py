"""Compare the stub of every compiled module with the module: what `tox -e types` runs after mypy."""
import subprocess
import sys
from pathlib import Path

import pyvirt
from pyvirt import _build

package = Path(pyvirt.__file__).parent
lacking = [m for m in _build.MODULES if not (package / f"{m.rpartition('.')[2]}.pyi").exists()]
if lacking:
    sys.exit(f"compiled modules without a stub beside them: {', '.join(lacking)}")
sys.exit(subprocess.run([sys.executable, "-m", "mypy.stubtest", "--concise", *_build.MODULES], check=False).returncode)
