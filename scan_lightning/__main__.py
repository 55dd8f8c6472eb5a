"""Run the command line by ``python -m scan_lightning``."""

import sys

from scan_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
