"""The command `stepaudiod`."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    # the imports create no garbage, and collecting during them would only take time
    gc.disable()
    from stepaudiod import daemon

    gc.freeze()
    gc.enable()
    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
