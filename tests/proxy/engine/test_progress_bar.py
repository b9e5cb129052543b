"""The start as one line at the bottom of a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.engine import progress_bar, state
from proxy.engine.phase import Phase
from proxy.engine.progress_bar import describe
from proxy.engine.state import Snapshot
from tests.engine.service import PROJECT, wait_until
from tests.fake_engine import BIN
from tests.patience import PATIENCE
from tests.ports import free_ports

ERASE = "\r\x1b[K"
DOWNLOAD: dict[str, Any] = {
    "phase": Phase.DOWNLOADING,
    "progress": 0.5,
    "downloaded_bytes": 1_500_000_000,
    "download_bytes": 3_000_000_000,
}


def test_a_download_is_told_with_percent_rate_and_seconds_left() -> None:
    now = Snapshot(**DOWNLOAD, bytes_per_second=85e6, eta_seconds=21)
    assert describe(now) == (
        "downloading  [############------------]   50%  1.50 of 3.00 GB  85.0 MB/s  0:21 left"
    )


def test_what_is_not_known_is_left_out() -> None:
    assert describe(Snapshot(phase=Phase.DOWNLOADING)) == "downloading"
    assert describe(Snapshot(**DOWNLOAD)) == (
        "downloading  [############------------]   50%  1.50 of 3.00 GB"
    )


def test_a_phase_is_told_with_its_time_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (progress_bar, state):
        monkeypatch.setattr(module, "monotonic", lambda: 1010.0)
    expected = {Phase.LOADING: 60.0, Phase.COMPILING: 3600.0}
    now = Snapshot(phase=Phase.LOADING, since=1000.0, expected_seconds=expected)
    assert describe(now) == "loading      0:10  1:00:50 left"


@pytest.mark.parametrize("phase", [Phase.READY, Phase.FAILED, Phase.DRAINING, Phase.STOPPED])
def test_after_the_start_there_is_no_line(phase: Phase) -> None:
    assert describe(Snapshot(phase=phase)) is None


def _stderr_of_a_start(tmp_path: Path, term: str) -> str:
    """What a start writes to its stderr, which is a terminal."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    port, upstream = free_ports(2)
    ours = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "MODEL_NAME": str(tmp_path / "model"),
        "HF_HOME": str(tmp_path / "hf"),
        "PORT": str(port),
        "UPSTREAM_PORT": str(upstream),
        "FAKE_ENGINE_PHASE_SECONDS": "import=0.5",
        "TERM": term,
    }
    ours_end, its_end = pty.openpty()
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy"],
            cwd=PROJECT,
            env={**os.environ, **ours},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=its_end,
        )
    try:
        wait_until(lambda: "warming -> ready" in log.read_text(), PATIENCE, "ready")
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(its_end)
    written = b""
    try:
        while piece := os.read(ours_end, 65536):
            written += piece
    except OSError:  # all of it was read
        pass
    os.close(ours_end)
    return written.decode()


def test_a_start_in_a_terminal_draws_it(tmp_path: Path) -> None:
    written = _stderr_of_a_start(tmp_path, "xterm")
    assert re.search(rf"{re.escape(ERASE)}loading      0:\d\d", written)
    assert written.endswith(ERASE)
    assert "\n" not in written


def test_a_start_in_a_dumb_terminal_does_not(tmp_path: Path) -> None:
    assert _stderr_of_a_start(tmp_path, "dumb") == ""
