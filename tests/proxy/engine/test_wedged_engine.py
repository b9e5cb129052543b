"""An engine that is stuck, seen from outside: not ready at once, told why, replaced."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx

from tests.engine.service import Service, wait_until
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE, on_a_clock
from tests.proxy.engine.living import CHILDREN, Start, chat, streamed

WEDGE_SECONDS = 2.0
IMPATIENT = {"WEDGE_SECONDS": str(WEDGE_SECONDS)}


def script(service: Service, path: str, **keys: object) -> None:
    body = {"path": path, "script": keys or None}
    url = f"{service.engine_url}/__fake/script"
    httpx.post(url, json=body, timeout=PATIENCE, trust_env=False)


def degraded_line(service: Service) -> dict[str, object]:
    (line,) = (line for line in service.lines("proxy.engine") if line.get("phase") == "degraded")
    return line


def test_new_requests_to_a_stopped_core_do_not_hide_it(start: Start) -> None:
    """It sends the heads of their streams as if nothing were wrong."""
    service = start(**IMPATIENT, **CHILDREN)
    service.wait_for("ready", PATIENCE)
    os.kill(service.find("VLLM::EngineCore"), signal.SIGSTOP)
    body = {"model": "tiny", "messages": [], "stream": True}
    ended = time.monotonic() + PATIENCE
    while "degraded" not in service.phases():
        assert time.monotonic() < ended
        with (
            httpx.Client(trust_env=False, timeout=PATIENCE) as impatient,
            impatient.stream("POST", f"{service.url}/v1/chat/completions", json=body) as answer,
        ):
            assert answer.status_code in (200, 503)
            time.sleep(0.3)
    line = degraded_line(service)
    assert (line["level"], line["cause"]) == ("WARNING", "wedged")
    assert "does not answer any more (" in str(line["message"])


def test_server_that_is_stopped_is_replaced_although_nobody_asks(start: Start) -> None:
    service = start(**IMPATIENT, **CHILDREN)
    service.wait_for("ready", PATIENCE)
    (server,) = (
        each.pid
        for each in service.tree()
        if Path(f"/proc/{each.pid}/comm").read_text() == "vllm\n"
    )
    os.kill(server, signal.SIGSTOP)
    wait_until(lambda: service.client.get("/ping").status_code == 503, PATIENCE, "not ready")
    wait_until(lambda: "restarting" in service.phases(), 2 * PATIENCE, "a restart")
    assert "degraded" in service.phases()
    service.wait_for("ready", PATIENCE)
    assert service.metric("sidecar_engine_restarts_total", cause="wedged") == 1


@on_a_clock("an engine that works is given up where it stands still for 2 s")
def test_answers_that_take_their_time_are_not_a_stuck_engine(start: Start) -> None:
    service = start(**IMPATIENT)
    service.wait_for("ready", PATIENCE)
    answer = chat(service, tokens=2, interval_ms=1500 * WEDGE_SECONDS / 2)
    assert answer.status_code == 200
    lines = streamed(service, tokens=2, role_ms=3000 * WEDGE_SECONDS / 2)
    assert list(lines)[-1] == "data: [DONE]"
    assert "degraded" not in service.phases()


@on_a_clock("an engine that works is given up where it stands still for 2 s")
def test_client_that_does_not_read_is_not_a_stuck_engine(start: Start) -> None:
    service = start(**IMPATIENT)
    service.wait_for("ready", PATIENCE)
    lines = streamed(service, tokens=4000, event_bytes=10_000)
    assert next(lines)
    time.sleep(2.5 * WEDGE_SECONDS)
    assert service.metric("sidecar_requests_in_flight") == 1
    assert "degraded" not in service.phases()
    assert list(lines)[-1] == "data: [DONE]"


def test_stuck_engine_of_someone_else_gets_no_requests_until_it_generates(start: Start) -> None:
    with FakeEngine("--served-model-name", "tiny") as engine:
        service = start(UPSTREAM_URL=engine.url, SERVED_MODEL_NAME="", **IMPATIENT)
        service.wait_for("ready", PATIENCE)
        engine.script("/v1/models", status=500)
        for path in ("/v1/completions", "/v1/chat/completions"):
            engine.script(path, hang=True)
        with httpx.Client(trust_env=False, timeout=0.1) as impatient:

            def is_refused() -> bool:
                with suppress(httpx.TimeoutException):
                    answer = impatient.post(f"{service.url}/v1/chat/completions", json={})
                    assert answer.status_code == 503
                    return True
                return False

            wait_until(is_refused, PATIENCE, "no more requests")
        service.wait_for("degraded", PATIENCE)
        assert service.client.get("/ping").status_code == 503
        # What it does not tell is no reason to believe that it works again.
        for path in ("/v1/completions", "/v1/chat/completions"):
            engine.script(path)
        wait_until(
            lambda: "/v1/models answered 500" in service.health()["reason"], PATIENCE, "a reason"
        )
        assert "the engine is stuck" in service.health()["reason"]
        assert service.phases_until("degraded")
        engine.script("/v1/models")
        service.wait_for("ready", PATIENCE)
        assert engine.process.poll() is None  # it was left alone
