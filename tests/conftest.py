"""What holds for all tests."""

from __future__ import annotations

from tests.measure import hold_back


def pytest_configure() -> None:
    hold_back()
