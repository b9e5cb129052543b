"""An engine that is stuck, seen from outside: not ready at once, told why, replaced."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.engine.service import Service, alive, wait_until
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE, on_a_clock
from tests.proxy.engine.living import CHAT, CHILDREN, Start, chat, starts, streamed

WEDGE_SECONDS = 2.0
BLIND = {"DISABLE_LOG_STATS": "true"}
IMPATIENT = {"WEDGE_SECONDS": str(WEDGE_SECONDS)}


def script(service: Service, path: str, **keys: object) -> None:
    body = {"path": path, "script": keys or None}
    url = f"{service.engine_url}/__fake/script"
    httpx.post(url, json=body, timeout=PATIENCE, trust_env=False)


def degraded_line(service: Service) -> dict[str, object]:
    (line,) = (line for line in service.lines("proxy.engine") if line.get("phase") == "degraded")
    return line


@on_a_clock("an engine that works is given up where it stands still for 2 s")
def test_core_that_is_stopped_under_a_stream_is_replaced(start: Start, tmp_path: Path) -> None:
    service = start(**IMPATIENT, **CHILDREN)
    service.wait_for("ready", PATIENCE)
    before = service.tree()
    lines = streamed(service, tokens=10_000, interval_ms=20)
    assert next(lines)
    stopped = time.monotonic()
    os.kill(service.find("VLLM::EngineCore"), signal.SIGSTOP)
    *_, error, done = lines  # until it breaks off, which is when the engine is ended
    assert time.monotonic() - stopped >= WEDGE_SECONDS / 2
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_died"
    assert done == "data: [DONE]"
    wait_until(lambda: "restarting" in service.phases(), PATIENCE, "a restart")
    line = degraded_line(service)
    assert (line["level"], line["cause"]) == ("WARNING", "wedged")
    assert "does not answer any more (1 request waits" in str(line["message"])
    service.wait_for("ready", PATIENCE)
    assert not alive(before)
    assert starts(tmp_path) == 2
    assert service.metric("sidecar_engine_restarts_total", cause="wedged") == 1
    assert service.client.get("/info").json()["engine"]["last_restart_cause"] == "wedged"
    assert chat(service).status_code == 200


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
    assert degraded_line(service)["cause"] == "wedged"


@on_a_clock("it stands still for 3.5 s, and is given up after 6 s")
def test_core_that_goes_on_in_time_loses_nothing(start: Start) -> None:
    service = start(WEDGE_SECONDS="6", **CHILDREN)
    service.wait_for("ready", PATIENCE)
    core = service.find("VLLM::EngineCore")
    lines = streamed(service, tokens=20, interval_ms=20)
    assert next(lines)
    os.kill(core, signal.SIGSTOP)
    time.sleep(3.5)
    os.kill(core, signal.SIGCONT)
    *events, done = lines
    assert (len(events), done) == (21, "data: [DONE]")
    assert "degraded" not in service.phases()


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


def test_health_that_is_503_for_good_ends_in_a_restart(start: Start) -> None:
    service = start(**IMPATIENT)
    service.wait_for("ready", PATIENCE)
    script(service, "/health", status=503)
    wait_until(lambda: "restarting" in service.phases(), PATIENCE, "a restart")
    (line,) = (line for line in service.lines("proxy.engine") if line.get("phase") == "restarting")
    assert "its health check has failed for" in line["message"]
    service.wait_for("ready", PATIENCE)


def test_zero_leaves_a_stuck_engine_alone(start: Start) -> None:
    service = start(WEDGE_SECONDS="0")
    service.wait_for("ready", PATIENCE)
    script(service, "/health", status=503)
    service.wait_for("degraded", PATIENCE)
    time.sleep(2 * WEDGE_SECONDS)
    assert service.phases()[-1] == "degraded"


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
def test_full_batch_of_an_engine_without_counters_is_not_a_stuck_engine(start: Start) -> None:
    """Whole answers that take longer than the limit, and a question that waits behind them."""
    service = start(**IMPATIENT, **BLIND, MAX_NUM_SEQS="2")
    service.wait_for("ready", PATIENCE)
    with ThreadPoolExecutor(8) as clients:
        answers = [
            clients.submit(chat, service, tokens=2, interval_ms=1000 * WEDGE_SECONDS)
            for _ in range(8)
        ]
    assert [answer.result().status_code for answer in answers] == [200] * 8
    assert "degraded" not in service.phases()
    assert any(
        "counters cannot be read" in line["message"] for line in service.lines("proxy.engine")
    )


def test_stopped_core_without_counters_is_found_when_older_requests_are_over(start: Start) -> None:
    service = start(**IMPATIENT, **BLIND, **CHILDREN)
    service.wait_for("ready", PATIENCE)
    os.kill(service.find("VLLM::EngineCore"), signal.SIGSTOP)
    url = f"{service.url}/v1/chat/completions"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=CHAT, timeout=3 * WEDGE_SECONDS, trust_env=False)
    wait_until(lambda: "degraded" in service.phases(), PATIENCE, "the engine is found stuck")
    assert "no older request is in its way" in str(degraded_line(service)["message"])
    lines = service.lines()
    (left,) = (n for n, line in enumerate(lines) if line.get("outcome") == "client_closed")
    assert left < lines.index(degraded_line(service))
    service.wait_for("ready", PATIENCE)


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
