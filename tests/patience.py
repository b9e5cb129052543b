"""How many seconds a test waits for what has to happen.

Long: machines that build software are shared, and who waits for an event goes on when it comes.
No test asserts that something was fast; `make bench` reports it.
"""

from __future__ import annotations

import pytest

PATIENCE = 60.0


def on_a_clock(reason: str) -> pytest.MarkDecorator:
    """For a single test that a machine which stands still for seconds can fail, and why it can.

    It is run again, twice at most. What fails again and again still fails.
    """
    assert reason
    return pytest.mark.flaky(reruns=2)
