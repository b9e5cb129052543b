"""The engine dies under requests: who was there is told, and who did it is not let in again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.engine.service import Line, Service, command_line, wait_until
from tests.patience import PATIENCE
from tests.proxy.engine.living import CHAT, CHILDREN, STREAM, Start, chat, streamed

MESSAGES = {"model": "tiny", "max_tokens": 8, "messages": CHAT["messages"]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,c2VjcmV0"}}
WITH_PICTURE = STREAM | {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "secret"}, PICTURE]}]
}


def said(word: str) -> dict[str, Any]:
    """A body. The one that says "crash" kills the fake engine."""
    return {"model": "tiny", "messages": [{"role": "user", "content": word}]}


def flights(service: Service) -> list[Line]:
    return service.lines("proxy.flights")


def kill(service: Service) -> None:
    """The engine's core, and wait for the engine to be back."""
    before = service.phases().count("restarting")
    os.kill(service.find("VLLM::EngineCore"), signal.SIGKILL)
    comes_back(service, before)


def comes_back(service: Service, restarts_before: int) -> None:
    wait_until(
        lambda: service.phases().count("restarting") > restarts_before, PATIENCE, "a restart"
    )
    service.wait_for("ready", PATIENCE)


def in_parallel(*work: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(each) for each in work]]


# The flight recorder


def test_what_was_in_flight_at_a_death_is_told_without_its_content(start: Start) -> None:
    service = start(**CHILDREN)
    service.wait_for("ready", PATIENCE)
    assert chat(service).status_code == 200  # over long before: not in flight
    lines = streamed(service, WITH_PICTURE, tokens=10_000, interval_ms=20)
    for _ in range(5):
        assert next(lines)
    kill(service)
    assert list(lines)[-1] == "data: [DONE]"
    (flight,) = flights(service)
    assert flight["level"] == "WARNING"
    assert flight["message"] == "in flight when the engine died: POST /v1/chat/completions"
    assert (flight["route"], flight["model"], flight["stream"]) == ("chat", "tiny", True)
    assert (flight["modalities"], flight["images"]) == (["text", "image"], 1)
    assert flight["bytes_in"] == len(httpx.Request("POST", "http://x", json=WITH_PICTURE).content)
    assert flight["completion_tokens"] >= 3
    assert flight["age_ms"] > 50
    assert service.access(flight["request_id"])["outcome"] in ("engine_error", "engine_died")
    assert "secret" not in service.text()
    assert "c2VjcmV0" not in service.text()


def test_of_many_in_flight_fifty_are_named_and_the_rest_counted(start: Start) -> None:
    service = start(**CHILDREN)
    service.wait_for("ready", PATIENCE)

    def kill_when_all_are_there() -> None:
        wait_until(lambda: service.metric("sidecar_requests_in_flight") == 60, PATIENCE, "all")
        kill(service)

    killer = threading.Thread(target=kill_when_all_are_there)

    def ask() -> int:
        headers = {"x-fake": '{"tokens": 10000, "interval_ms": 50}'}
        url = f"{service.url}/v1/chat/completions"
        return httpx.post(
            url, json=CHAT, headers=headers, timeout=PATIENCE, trust_env=False
        ).status_code

    killer.start()
    statuses = in_parallel(*[ask] * 60)
    killer.join()
    assert set(statuses) <= {500, 502}
    *named, rest = flights(service)
    assert len(named) == 50
    assert rest["message"] == "in flight when the engine died: 10 more"


# The request that does it


def test_request_that_kills_the_engine_twice_is_refused(start: Start) -> None:
    service = start()
    service.wait_for("ready", PATIENCE)
    for deaths in range(2):
        assert chat(service, said("crash")).status_code in (500, 502)
        comes_back(service, deaths)
        assert chat(service, said("harmless")).status_code == 200
    answer = chat(service, said("crash"))
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "request_kills_engine")
    assert "died 2 times within ten minutes" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-proxy-error"] == "client request_kills_engine"
    line = service.access(answer.headers["x-request-id"])
    assert (line["outcome"], line["error_source"]) == ("rejected", "client")
    assert any("died of this request again" in line["message"] for line in service.lines("proxy"))
    # Anything else is served, and the engine lives.
    assert chat(service).status_code == 200
    assert chat(service, said("crash ")).status_code == 200
    assert service.phases().count("restarting") == 2


def test_requests_that_only_shared_the_engine_with_it_are_answered(start: Start) -> None:
    """All are sent again after each death, at once, as clients do."""
    service = start(HOLD_SECONDS="15")
    service.wait_for("ready", PATIENCE)
    url = f"{service.url}/v1/chat/completions"
    slow = {"x-fake": '{"tokens": 4, "interval_ms": 100}'}

    def insist(word: str) -> list[int]:
        """The statuses until there is one that needs no other try."""
        statuses: list[int] = []
        ended = time.monotonic() + PATIENCE
        while (not statuses or statuses[-1] >= 500) and time.monotonic() < ended:
            answer = httpx.post(
                url, json=said(word), headers=slow, timeout=PATIENCE, trust_env=False
            )
            statuses.append(answer.status_code)
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1
                time.sleep(0.2)
        return statuses

    words = ["crash", "one", "two", "three", "four"]
    ends = in_parallel(*[lambda word=word: insist(word) for word in words])
    assert ends[0][-1] == 422
    assert [each[-1] for each in ends[1:]] == [200] * 4
    assert service.phases().count("restarting") <= 3


def test_a_held_request_that_meets_a_dead_engine_is_answered_by_the_next_one(start: Start) -> None:
    """Between its death and the state that says so, too."""
    service = start(HOLD_SECONDS="30")
    service.wait_for("ready", PATIENCE)
    for _ in range(3):
        lines = {each.pid: command_line(each.pid) for each in service.tree()}
        (server,) = (
            pid for pid, line in lines.items() if "bin/vllm serve" in line and "guard" not in line
        )
        os.kill(server, signal.SIGKILL)
        wait_until(lambda gone=server: not Path(f"/proc/{gone}").exists(), PATIENCE, "its end")  # type: ignore[misc]
        answers = in_parallel(*[lambda: chat(service).status_code] * 8)
        assert answers == [200] * 8


def test_guard_can_be_turned_off(start: Start) -> None:
    service = start(POISON_GUARD="false")
    service.wait_for("ready", PATIENCE)
    for deaths in range(3):
        assert chat(service, said("crash")).status_code in (500, 502)
        comes_back(service, deaths)
