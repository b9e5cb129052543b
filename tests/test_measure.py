"""Only processes of the sidecar are measured."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.measure import measured


def test_nobody_inherits_the_measuring(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.pluginmanager.hasplugin("_cov"):
        pytest.skip("nothing is measured")
    code = "import sys; raise SystemExit('coverage' in sys.modules)"
    codes = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, **more}).returncode
        for more in ({}, measured())
    ]
    assert codes == [0, 1]
