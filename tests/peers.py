"""Other people's servers and clients, each in an environment of its own: bench/install-peers.sh."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"


def peer(name: str, command: str) -> str:
    """The path of a peer's command. Without it the test is skipped; with REQUIRE_TOOLS it fails."""
    path = _CACHE / name / "bin" / command
    if not path.exists():
        text = f"no {name} here: bench/install-peers.sh {name}"
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(text)
        pytest.skip(text)
    return str(path)
