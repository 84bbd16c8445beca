"""`python -m privae` is the command line."""

import sys

from privae.cli import main

if __name__ == "__main__":
    sys.exit(main())
