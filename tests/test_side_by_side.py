"""Checks run two at a time, and read as if one had run after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/side_by_side.py"


def run(folder: Path, *commands: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, SCRIPT, *commands], cwd=folder, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_second_runs_while_the_first_one_does_and_is_shown_after_it(tmp_path: Path) -> None:
    # The first one ends only once the second one has run.
    first = "bash -c 'until [[ -e made ]]; do sleep 0.01; done; echo one'"
    code, output = run(tmp_path, first, "bash -c 'echo two; touch made'")
    assert (code, output) == (
        0,
        f"check: {first}\none\ncheck: bash -c 'echo two; touch made'\ntwo\n",
    )


def test_all_run_and_those_that_failed_are_named(tmp_path: Path) -> None:
    code, output = run(tmp_path, "false", "no-such-program x", "echo three", "bash -c 'exit 3'")
    assert code == 1
    assert "No such file or directory: 'no-such-program'" in output
    assert "\nthree\n" in output
    last = "check: failed: 'false' 'no-such-program x' 'bash -c 'exit 3''"
    assert output.splitlines()[-1] == last


def test_a_pattern_is_files(tmp_path: Path) -> None:
    for name in ("b.md", "a.md"):
        (tmp_path / name).touch()
    assert run(tmp_path, "echo *.md *.rst")[1] == "check: echo *.md *.rst\na.md b.md *.rst\n"
