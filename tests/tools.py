"""Programs that some tests need and that are no Python packages: scripts/install-tools.sh."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """The path of a program. Without it the test is skipped; with REQUIRE_TOOLS it fails."""
    path = shutil.which(name)
    if path is None:
        text = f"no {name} here: scripts/install-tools.sh, or: apt-get install prometheus chromium"
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(text)
        pytest.skip(text)
    return path
