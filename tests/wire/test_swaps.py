"""Models of one pod take turns: a request has its model loaded, and no stream is cut for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.engine.service import Line, Service
from tests.patience import PATIENCE, on_a_clock
from tests.proxy.engine.living import starting
from tests.wire.service import until
from tests.wire.several import (
    CHAT,
    MESSAGES,
    Poll,
    assert_whole,
    chat,
    client_of,
    engines_of,
    release,
    several,
    status_of,
    stream,
    waiting_for,
    wrapped_vllm,
)

ONE_AT_A_TIME = {"MAX_LOADED_MODELS": "1", "SWAP_MAX_WAIT_SECONDS": "0.5"}


def transitions(service: Service) -> list[tuple[str, str, str]]:
    lines = [line for line in service.lines("proxy.pool") if "action" in line]
    return [(line["model"], line["action"], line["outcome"]) for line in lines]


def test_32_streams_finish_whole_while_the_other_model_gets_the_place(tmp_path: Path) -> None:
    with several(tmp_path, **ONE_AT_A_TIME) as service, ThreadPoolExecutor(40) as threads:
        service.wait_for("ready", PATIENCE)
        until(lambda: service.client.get("/health").status_code == 200, "health")
        with Poll(service) as poll:
            begun = threading.Barrier(33)
            streams = [
                threads.submit(stream, service, "one", begun.wait, hold_at=3) for _ in range(32)
            ]
            begun.wait(PATIENCE)
            waits = threads.submit(chat, service, model="two")
            until(lambda: is_closing(service, "one"), "the end of what it may wait")
            release(service, "one")
            answer = waits.result(PATIENCE)
            assert (answer.status_code, answer.json()["model"]) == (200, "two")
            for each in streams:
                assert_whole(each.result(PATIENCE))
            assert status_of(service, "one") == "unloaded"
            assert set(engines_of(service)) == {"two"}
            assert chat(service, model="one").json()["model"] == "one"
        assert {status for _, status in poll.statuses} == {200}
        assert service.access(answer.headers["x-request-id"])["model_wait_ms"] > 0
        steps = [
            ("one", "load", "ok"),
            ("one", "unload", "ok"),
            ("two", "load", "ok"),
            ("two", "unload", "ok"),
            ("one", "load", "ok"),
        ]
        until(lambda: transitions(service) == steps, "the line of the last load")


def test_a_single_model_that_is_idle_is_unloaded_and_loaded_again(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with starting(tmp_path, model) as start:
        service = start(IDLE_UNLOAD_SECONDS="1")
        service.wait_for("ready", PATIENCE)
        with Poll(service) as poll:
            for _ in range(2):
                until(lambda: service.health()["phase"] == "stopped", "the unload")
                assert service.health()["status"] == "unloaded"
                assert not engines_of(service)
                answer = service.client.post(CHAT, json={"model": "tiny", "messages": MESSAGES})
                assert answer.status_code == 200
                assert service.access(answer.headers["x-request-id"])["wait_ms"] > 0
        assert {status for _, status in poll.statuses} == {200}
        service.terminate()
        assert service.exit_code(PATIENCE) == 0


def test_an_unloaded_single_model_is_loaded_by_a_request_that_does_not_wait(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with starting(tmp_path, model) as start:
        service = start(IDLE_UNLOAD_SECONDS="1", HOLD_SECONDS="0", ON_ENGINE_FAILURE="exit")
        service.wait_for("stopped", PATIENCE)
        body: dict[str, Any] = {"model": "tiny", "messages": MESSAGES}
        answer = service.client.post(CHAT, json=body)
        assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
        until(lambda: service.client.post(CHAT, json=body).status_code == 200, "the load")


def session(service: Service, model: str) -> ClientConnection:
    url = f"ws://127.0.0.1:{service.port}/v1/realtime?model={model}"
    headers = {"authorization": "Bearer sk-bob", "x-request-id": f"session-with-{model}"}
    return connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE)


def is_closing(service: Service, model: str) -> bool:
    lines = service.lines("proxy.pool")
    return any(f"{model}: takes nothing new" in line["message"] for line in lines)


def test_a_model_does_not_give_way_before_a_session_with_it_ends(tmp_path: Path) -> None:
    with several(tmp_path, **ONE_AT_A_TIME) as service, ThreadPoolExecutor(1) as threads:
        service.wait_for("ready", PATIENCE)
        with session(service, "one") as client:
            assert "session.created" in str(client.recv(PATIENCE))
            waiting = threads.submit(chat, service, model="two")
            until(lambda: is_closing(service, "one"), "the end of what it may wait")
            for number in range(20):
                client.send(f"still there {number}")
                assert client.recv(PATIENCE) == f"still there {number}"
            assert not waiting.done()
            assert set(engines_of(service)) == {"one"}
        assert waiting.result(PATIENCE).json()["model"] == "two"
        assert service.access("session-with-one")["outcome"] == "ok"
        assert set(engines_of(service)) == {"two"}


def test_a_session_waits_for_its_model(tmp_path: Path) -> None:
    with several(tmp_path, **ONE_AT_A_TIME) as service:
        service.wait_for("ready", PATIENCE)
        with session(service, "two") as client:
            assert "session.created" in str(client.recv(PATIENCE))
            client.send("here")
            assert client.recv(PATIENCE) == "here"
            assert set(engines_of(service)) == {"two"}
        line = service.access("session-with-two")
        assert (line["model"], line["outcome"]) == ("two", "ok")
        assert line["model_wait_ms"] > 0
        assert chat(service, model="one").json()["model"] == "one"


def test_one_key_cannot_make_the_pod_swap_for_ever(tmp_path: Path) -> None:
    limits = {"KEY_LIMITS": "alice: loads_per_hour=2"}
    with several(tmp_path, keys=["alice", "bob"], **ONE_AT_A_TIME, **limits) as service:
        service.wait_for("ready", PATIENCE)
        for name in ("two", "one"):
            assert chat(service, "sk-alice", model=name).json()["model"] == name
        for path in (CHAT, "/v1/messages"):
            with client_of(service, "sk-alice") as client:
                body = {"model": "two", "messages": MESSAGES, "max_tokens": 9}
                refused = client.post(path, json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "59")
            assert "alice has used all of 2 loads of models an hour" in refused.text
            assert (refused.json().get("type") == "error") == (path == "/v1/messages")
            line = service.access(refused.headers["x-request-id"])
            assert (line["outcome"], line["error"]) == ("rejected", "rate_limit_exceeded")
        assert chat(service, "sk-alice", model="one").status_code == 200, "it is loaded"
        assert chat(service, model="two").json()["model"] == "two", "bob has used none"
        assert chat(service, "sk-alice", model="two").status_code == 200, "it is loaded now"
        assert chat(service, "sk-alice", model="one").status_code == 429
        until(
            lambda: (
                [model for model, action, _ in transitions(service) if action == "load"]
                == ["one", "two", "one", "two"]
            ),
            "the lines of four loads",
        )


def test_a_pinned_model_never_gives_way(tmp_path: Path) -> None:
    with several(tmp_path, {"pin": True}, **ONE_AT_A_TIME, IDLE_UNLOAD_SECONDS="1") as service:
        service.wait_for("ready", PATIENCE)
        answer = chat(service, model="two")
        assert answer.status_code == 503
        assert "does not fit beside one (pinned)" in answer.json()["error"]["message"]
        # Nor is anything loaded for a name that nobody, or not this key, may use.
        assert chat(service, model="three").status_code == 404
        assert chat(service, "sk-alice", model="two").status_code == 404
        assert chat(service, model="one").status_code == 200
        until(lambda: transitions(service) == [("one", "load", "ok")], "the line of the only load")


def test_a_pin_that_leaves_no_room_answers_those_who_wait(tmp_path: Path) -> None:
    with several(tmp_path, **ONE_AT_A_TIME) as service, ThreadPoolExecutor() as threads:
        service.wait_for("ready", PATIENCE)
        begun = threading.Event()
        running = threads.submit(stream, service, "one", begun.set, hold_at=3)
        assert begun.wait(PATIENCE)
        waits = threads.submit(chat, service, model="two")
        until(lambda: waiting_for(service, "two") == 1, "a request that waits")
        assert service.client.post("/models/one/pin").status_code == 202
        answer = waits.result(PATIENCE)
        assert answer.status_code == 503
        assert "does not fit beside one (pinned)" in answer.json()["error"]["message"]
        release(service, "one")
        assert_whole(running.result(PATIENCE))
        assert chat(service, model="one").status_code == 200


def phases(service: Service) -> list[tuple[str, str]]:
    lines: list[Line] = service.lines("proxy.engine")
    return [(line["model"], line["phase"]) for line in lines if "phase_before" in line]


def test_an_engine_that_dies_is_started_again_when_no_other_loads(tmp_path: Path) -> None:
    begin = tmp_path / "begin"
    held = wrapped_vllm(tmp_path, "two", f"while [ ! -e {begin} ]; do sleep 0.05; done")
    with several(tmp_path, **held) as service:
        service.wait_for("ready", PATIENCE)
        until(lambda: "two" in engines_of(service), "the second engine")
        os.kill(engines_of(service)["one"], signal.SIGKILL)
        until(lambda: ("one", "restarting") in phases(service), "the death")
        assert status_of(service, "two") == "loading"
        begin.touch()
        assert chat(service, model="one").json()["model"] == "one"
        assert phases(service).count(("one", "loading")) == 2
        order = phases(service)
        again = len(order) - 1 - order[::-1].index(("one", "loading"))
        assert order.index(("two", "ready")) < again
        assert ("two", "restarting") not in order


@on_a_clock("a request waits 5 s for its model")
def test_an_engine_that_cannot_start_gives_way_to_those_that_can(tmp_path: Path) -> None:
    broken = wrapped_vllm(tmp_path, "two", FAKE_ENGINE_EXIT_CODE="1")
    environ = {**broken, **ONE_AT_A_TIME, "HOLD_SECONDS": "5"}
    with several(tmp_path, **environ) as service, ThreadPoolExecutor(1) as threads:
        service.wait_for("ready", PATIENCE)
        with Poll(service) as poll:
            waiting = threads.submit(chat, service, model="two")
            until(lambda: ("two", "restarting") in phases(service), "a failed start")
            for _ in range(10):
                assert chat(service, model="one").json()["model"] == "one"
            refused = waiting.result(PATIENCE)
            assert (refused.status_code, refused.headers["retry-after"].isdigit()) == (503, True)
        assert {status for _, status in poll.statuses} == {200}
        assert set(engines_of(service)) == {"one"}


def test_sigterm_sends_those_away_who_wait_for_a_swap(tmp_path: Path) -> None:
    with several(tmp_path, **ONE_AT_A_TIME) as service, ThreadPoolExecutor(9) as threads:
        service.wait_for("ready", PATIENCE)
        begun = threading.Barrier(2)
        running = threads.submit(stream, service, "one", begun.wait, hold_at=3)
        begun.wait(PATIENCE)
        waiting = [threads.submit(chat, service, model="two") for _ in range(8)]
        until(lambda: waiting_for(service, "two") == 8, "the waiting")
        service.terminate()
        assert_sent_away([each.result(PATIENCE) for each in waiting])
        release(service, "one")
        assert_whole(running.result(PATIENCE))
        assert service.exit_code(PATIENCE) == 0
        service.assert_nothing_is_left(PATIENCE)
        assert ("two", "loading") not in phases(service)


def test_sigterm_in_a_swap_sends_those_away_who_wait_for_it(tmp_path: Path) -> None:
    slow = wrapped_vllm(tmp_path, "two", FAKE_ENGINE_PHASE_SECONDS="import=0.02,weights=60")
    environ = {**slow, **ONE_AT_A_TIME}
    with several(tmp_path, **environ) as service, ThreadPoolExecutor(8) as threads:
        service.wait_for("ready", PATIENCE)
        waiting = [threads.submit(chat, service, model="two") for _ in range(8)]
        until(lambda: ("two", "loading") in phases(service), "the load")
        until(lambda: waiting_for(service, "two") == 8, "the waiting")
        service.terminate()
        assert_sent_away([each.result(PATIENCE) for each in waiting])
        assert service.exit_code(PATIENCE) == 0
        service.assert_nothing_is_left(PATIENCE)
        # vLLM itself writes a traceback at each stop.
        errors = [line for line in service.lines() if line["level"] == "ERROR"]
        assert {line["logger"] for line in errors} <= {"vllm"}


def assert_sent_away(answers: Sequence[httpx.Response]) -> None:
    """They are told to come again: the next sidecar may have their model."""
    shown = [(each.status_code, each.json()["error"]["code"]) for each in answers]
    assert shown == [(503, "draining")] * len(answers)
    assert {each.headers["retry-after"] for each in answers} == {"1"}
