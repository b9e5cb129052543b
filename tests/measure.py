"""Coverage in the processes of the sidecar that tests start, and in no other process.

Coverage has every Python process measured that inherits its variable. Engines, real and fake,
would only be slowed down by that.
"""

from __future__ import annotations

import os

_VARIABLE = "COVERAGE_PROCESS_CONFIG"
_held_back: dict[str, str] = {}


def hold_back() -> None:
    """Let nobody inherit it."""
    if (value := os.environ.pop(_VARIABLE, None)) is not None:
        _held_back[_VARIABLE] = value


def measured() -> dict[str, str]:
    """What a process needs in its environment to be measured; nothing without `--cov`."""
    return dict(_held_back)
