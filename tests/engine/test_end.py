"""SIGTERM while real vLLM loads: nothing may be left. test_pooling.py has SIGKILL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service, wait_until
from tests.patience import PATIENCE

pytestmark = pytest.mark.engine


def test_sigterm_during_the_load_ends_it(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.wait_for("loading", PATIENCE)
        # By then vLLM has children, and would take SIGTERM without a word.
        wait_until(lambda: len(service.tree()) >= 4, READY_SECONDS, "an engine core")
        service.terminate()
        assert service.exit_code(PATIENCE) == 0
        service.assert_nothing_is_left(0)
        assert service.phases()[-1] == "stopped"
