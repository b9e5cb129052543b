"""What a soak looks at: the sidecar's memory, its files, and a line for each request."""

from __future__ import annotations

from tests.engine.service import Line, Service, wait_until
from tests.patience import PATIENCE
from tests.soak.load import Load

_OUTCOMES = {
    "whole": {"ok"},
    "broken": {"engine_died", "engine_error", "engine_unavailable"},
    "refused": {"engine_unavailable"},
}


def wait_until_idle(service: Service) -> None:
    """The last request is counted a moment after its answer."""
    wait_until(
        lambda: service.metric("sidecar_requests_in_flight") == 0, PATIENCE, "no request in flight"
    )


def check_access_lines(service: Service, load: Load) -> None:
    """Each request has a line, and what it says is what the client was told."""

    def lines_by_id() -> dict[str, Line]:
        return {line["request_id"]: line for line in service.lines("proxy.access")}

    # The last of them are written a moment after their answers.
    wait_until(lambda: load.told.keys() <= lines_by_id().keys(), PATIENCE, "a line for each")
    lines = lines_by_id()
    for request_id, told in load.told.items():
        assert lines[request_id]["outcome"] in _OUTCOMES[told], (told, lines[request_id])
    assert len(load.told) == sum(load.ends.values())
