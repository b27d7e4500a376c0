"""The command `stepaudiod`."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    # the imports create no garbage, and collecting during them would only take time
    gc.disable()
    try:
        from stepaudiod import daemon
    except Exception as error:
        from stepaudiod.broken_installation import refuse_everything

        return refuse_everything(error)
    gc.freeze()
    gc.enable()
    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
