"""`python -m stepaudiod.ctl` is `stepaudioctl`."""

import sys

from stepaudiod.ctl.main import main

if __name__ == "__main__":
    sys.exit(main())
