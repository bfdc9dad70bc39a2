"""The command `pyvirt`, also as `python -m pyvirt`: starts and ends the process quickly around cli.py."""
import gc
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. The collector of cycles stays away from what lives as long as the process."""
    gc.disable()  # imports leave no garbage
    from pyvirt.command.cli import main as run

    gc.freeze()
    gc.enable()
    try:
        run()
    finally:
        # Python looks for cycles in all that is left when it ends: here that would take a fourth as long as starting.
        gc.freeze()


if __name__ == "__main__":
    main()
