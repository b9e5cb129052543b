"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.measure import hold_back

_HERE = Path(__file__).parent
# They watch other processes over time, and a shared machine may stand still for seconds.
_ON_A_CLOCK = (
    *("engine", "fake_engine", "fleet", "gateway", "hub", "monitoring", "page"),
    *("proxy/engine", "soak", "wire"),
)
_RERUNS = 2


def pytest_configure() -> None:
    hold_back()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    hold_back()  # a process of pytest-xdist begins to measure only now


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Tests on a clock fail when they fail again and again; each repeat is told at the end.

    Those with real vLLM are not run beside others."""
    folders = [_HERE / name for name in _ON_A_CLOCK]
    for item in items:
        if item.get_closest_marker("engine") is not None:
            item.add_marker(pytest.mark.alone)
        if any(item.path.is_relative_to(folder) for folder in folders):
            item.add_marker(pytest.mark.flaky(reruns=_RERUNS))
