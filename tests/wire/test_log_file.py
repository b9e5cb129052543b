"""`LOG_FILE` of a sidecar that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire.client import CHAT, prompt
from tests.wire.service import Sidecar, ending


def test_the_file_has_what_stdout_has(shared_engine: FakeEngine, tmp_path: Path) -> None:
    shared_engine.reset()
    path = tmp_path / "logs" / "sidecar.log"
    with Sidecar(tmp_path, shared_engine, LOG_FILE=str(path)) as service:
        service.wait_until_ready()
        record = service.record(service.ask(CHAT, prompt(CHAT)))
        assert ending(record) == (200, "ok", None, None)
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        lines = service.lines()
    assert {"proxy", "proxy.engine", "proxy.access"} <= {line["logger"] for line in lines}
    assert path.read_text() == service.text()


def test_a_full_disk_breaks_no_request_and_no_stop(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    shared_engine.reset()
    with Sidecar(tmp_path, shared_engine, LOG_FILE="/dev/full") as service:
        service.wait_until_ready()
        for _ in range(20):
            record = service.record(service.ask(CHAT, prompt(CHAT)))
            assert ending(record) == (200, "ok", None, None)
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        others = service.other_lines()
    assert sum("LOG_FILE='/dev/full' cannot be written" in line for line in others) == 1
    assert all(line.startswith("{") for line in others), "no traceback"


def test_a_file_that_cannot_be_written_stops_the_start_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy"],
        env={**os.environ, "LOG_FILE": str(tmp_path), "UPSTREAM_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"LOG_FILE={str(tmp_path)!r}: it is no file; allowed is ")
