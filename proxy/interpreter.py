"""Which Python runs `python3 -m proxy`: the project's own where the one that was called lacks its
packages. Standard library only, as it comes before any of them.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from proxy.installation import IS_CHECKOUT

_PROJECT = Path(__file__).resolve().parent.parent
# One package that only an installed sidecar has.
_PACKAGE = "uvloop"
_COMMAND = ("-m", "proxy")


def is_command(words: list[str]) -> bool:
    """Whether a Python that is called with these words runs `-m proxy`."""
    return _COMMAND in pairwise(words)


def use_the_projects() -> None:
    """Go on in `.venv`, which `make run` makes, or end with 2 and a line with what to do."""
    if find_spec(_PACKAGE) is not None:
        return
    python = _PROJECT / ".venv/bin/python"
    if python.is_file() and Path(sys.prefix) != _PROJECT / ".venv":
        arguments = sys.orig_argv[sys.orig_argv.index(_COMMAND[0]) :]
        os.execv(python, [str(python), *arguments])  # nosec B606
    remedy = "`make run` makes a .venv that has all packages"
    if not IS_CHECKOUT:
        remedy = "`pip install vllm-sidecar` installs what the sidecar needs"
    text = f"{sys.executable} lacks {_PACKAGE}; {remedy}"
    print(text, file=sys.stderr)
    raise SystemExit(2)
