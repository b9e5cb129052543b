"""What the processes that bring a model here are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.models.fetch import child_environ

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("given", ["", "theirs"])
def test_ours_is_found_first_and_then_what_the_operator_has_put_there(
    tmp_path: Path, given: str
) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy/__init__.py").write_text("raise RuntimeError('not ours')")
    (tmp_path / "extra.py").write_text("")
    ours = {"PATH": os.defpath} | ({"PYTHONPATH": str(tmp_path)} if given else {})
    environ = child_environ(ours)
    code = "import proxy.errors as ours, importlib.util as util; "
    code += "print(ours.__file__, util.find_spec('extra'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd="/", capture_output=True, text=True
    )
    place, _, extra = done.stdout.partition(" ")
    assert place == str(ROOT / "proxy/errors.py"), done.stderr
    assert ("extra.py" in extra) is bool(given)
    assert environ["PATH"] == os.defpath
