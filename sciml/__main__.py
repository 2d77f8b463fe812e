"""`python -m sciml`: the same as the command `sciml`."""

import sys

from sciml.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
