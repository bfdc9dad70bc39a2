"""pyvirt: a computer inside Python."""
from pathlib import Path

from pyvirt._digest import require_built

require_built(Path(__file__).parent)
