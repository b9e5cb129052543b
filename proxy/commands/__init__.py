"""What `python3 -m proxy` does; each command is a module, imported when it is called."""

import sys
from contextlib import suppress


def complain(text: object) -> None:
    """Print what is wrong to stderr. Where that is full or closed, the exit code says it alone."""
    with suppress(OSError):
        print(text, file=sys.stderr)
