"""`make bench` in little: it ends by itself, with a table, and leaves no process behind."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE

pytestmark = pytest.mark.alone
REPOSITORY = Path(__file__).parent.parent
WORKLOADS = 5


def test_a_quick_run_ends_with_a_table_and_leaves_no_process_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--only", "direct,ours"],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ours |")]
    assert len(rows) > WORKLOADS, done.stdout
    # Every workload was measured: no cell of ours is empty.
    assert not [row for row in rows if "| - |" in row], done.stdout
    assert not _processes_with(tmp_path)


def test_a_name_that_is_no_subject_is_refused_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "oars"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "'oars' is none of" in done.stderr


def _processes_with(folder: Path) -> set[str]:
    """Those whose temporary files go to `folder`: the run and all that it started."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"TMPDIR={folder}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.add((place / "cmdline").read_text())
    return found
