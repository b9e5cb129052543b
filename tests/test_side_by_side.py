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
        f"side by side: {first}\none\nside by side: bash -c 'echo two; touch made'\ntwo\n",
    )


def test_what_the_shown_command_prints_is_seen_before_its_end(tmp_path: Path) -> None:
    waiting = "bash -c 'echo one; until [[ -e seen ]]; do sleep 0.01; done'"
    with subprocess.Popen(
        [sys.executable, SCRIPT, waiting, "true"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == f"side by side: {waiting}\n"
        assert running.stdout.readline() == "one\n"
        (tmp_path / "seen").touch()
        assert running.communicate()[0] == "side by side: true\n"
    assert running.returncode == 0


def test_all_run_and_those_that_failed_are_named(tmp_path: Path) -> None:
    code, output = run(tmp_path, "false", "no-such-program x", "echo three", "bash -c 'exit 3'")
    assert code == 1
    assert "No such file or directory: 'no-such-program'" in output
    assert "\nthree\n" in output
    last = "side by side: failed: 'false' 'no-such-program x' 'bash -c 'exit 3''"
    assert output.splitlines()[-1] == last


def test_a_pattern_is_files(tmp_path: Path) -> None:
    for name in ("b.md", "a.md"):
        (tmp_path / name).touch()
    assert run(tmp_path, "echo *.md *.rst")[1] == "side by side: echo *.md *.rst\na.md b.md *.rst\n"
