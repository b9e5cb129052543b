"""The engine's gauges on the sidecar's page, without a scrape that asks the engine."""

from __future__ import annotations

from tests.wire.client import CHAT, STREAM, prompt
from tests.wire.service import Sidecar, until

RUNNING = "sidecar_engine_requests_running"


def asked(service: Sidecar) -> int:
    """How often the engine was asked for its page."""
    return sum(each.target == "/metrics" for each in service.engine.requests())


def test_what_the_engine_runs_is_shown_within_seconds(service: Sidecar) -> None:
    with service.connect() as client:
        client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 4})
        client.until(b"\n\n")
        before = asked(service)
        until(lambda: asked(service) > before, "a reading")
        until(lambda: service.value(RUNNING) == 1, "one that runs")
        before = asked(service)
        for _ in range(20):
            assert RUNNING in service.page()
        assert asked(service) - before < 10, "a scrape of ours is not one of the engine's"


def test_models_of_an_engine_elsewhere_are_on_no_disk_of_ours(service: Sidecar) -> None:
    page = service.page()
    assert "\n# TYPE sidecar_model_disk_free_bytes gauge\n" in page
    assert "\nsidecar_model_disk_" not in page
