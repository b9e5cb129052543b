"""A sidecar that starts its own engine: the fake one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.engine import state as state_module
from tests.proxy.engine.living import Start, starting


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def start(tmp_path: Path, model: Path) -> Iterator[Start]:
    """Starts the sidecar; everything it has started is gone after the test."""
    with starting(tmp_path, model) as started:
        yield started


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """That of an engine's state."""
    clock = Clock()
    monkeypatch.setattr(state_module, "monotonic", clock)
    return clock
