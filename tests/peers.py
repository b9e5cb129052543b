"""Other people's servers and clients, each in an environment of its own: bench/install-peers.sh."""

from __future__ import annotations

from pathlib import Path

import pytest

_CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"


def peer(name: str, command: str) -> str:
    """The path of a peer's command. Without it the test is skipped: it is not ours to have."""
    path = _CACHE / name / "bin" / command
    if not (_CACHE / name / "requirements").exists():  # the stamp of a whole installation
        pytest.skip(f"no {name} here: bench/install-peers.sh {name}")
    return str(path)
