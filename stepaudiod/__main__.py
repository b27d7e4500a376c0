"""The command `stepaudiod`: import the daemon, quickly, and run it."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the daemon.

    The collector would look through every module four times while they are imported and find nothing to free;
    afterwards they are set aside for good.
    """
    gc.disable()
    from stepaudiod import daemon

    gc.freeze()
    gc.enable()
    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
