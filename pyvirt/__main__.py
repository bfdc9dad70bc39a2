"""`python -m pyvirt` is the command `pyvirt`."""
from pyvirt.cli import main

main()
