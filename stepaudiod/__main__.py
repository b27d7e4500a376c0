"""`python -m stepaudiod` is `stepaudiod`."""

import sys

from stepaudiod.daemon import main

if __name__ == "__main__":
    sys.exit(main())
