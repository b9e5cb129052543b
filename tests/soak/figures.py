"""What a soak looks at: the sidecar's memory, its files, and a line for each request."""

from __future__ import annotations

import re
from pathlib import Path

from tests.engine.service import Service
from tests.soak.load import Load

_OUTCOMES = {
    "whole": {"ok"},
    "broken": {"engine_died", "engine_error", "engine_unavailable"},
    "refused": {"engine_unavailable"},
}


def memory_mib(service: Service) -> float:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def open_files(service: Service) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def check_access_lines(service: Service, load: Load) -> None:
    """Each request has a line, and what it says is what the client was told."""
    lines = {line["request_id"]: line for line in service.lines("proxy.access")}
    for request_id, told in load.told.items():
        assert lines[request_id]["outcome"] in _OUTCOMES[told], (told, lines[request_id])
    assert len(load.told) == sum(load.ends.values())
