"""The parts put together: whose path it is, who is let in, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import respx

from proxy.access.routes import Route
from proxy.app import limits_of
from proxy.engine import attached as attached_module
from proxy.engine.phase import Phase
from proxy.engine.state import Snapshot
from proxy.errors import Cause
from proxy.pool.plan import Action, Reason, Step
from proxy.pool.scheduler import Outcome, Transition
from proxy.relay.upstream import Upstream
from proxy.settings import Settings
from tests.patience import PATIENCE
from tests.proxy.house import House, house

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def access_log(caplog: pytest.LogCaptureFixture) -> Lines:
    caplog.set_level(logging.INFO, "proxy.access")

    def lines() -> list[dict[str, Any]]:
        records = [record for record in caplog.records if record.name == "proxy.access"]
        return [record.__dict__["fields"] for record in records]

    return lines


def error(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    return body


# Whose path it is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v1", "/v1/unknown", "/pause", "/sleep", "/v1/load_lora_adapter", "/docs"),
        *("/health//", "/Health", "/metrics/other", "/v1/chat/completions//", "//health"),
        "/v1%2Fchat%2Fcompletions",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_anything_else_is_404_in_openais_shape(path: str, method: str) -> None:
    async with house(Phase.READY) as there:
        answer = await there.http.request(method, f"http://sidecar{path}")
        assert answer.status_code == 404
        assert error(answer)["code"] == "unknown_route"
        assert method in error(answer)["message"]
        assert answer.headers["x-proxy-error"] == "client unknown_route"


async def test_a_404_does_not_repeat_a_path_without_end() -> None:
    async with house() as there:
        answer = await there.get("/" + "x" * 10_000)
        assert answer.status_code == 404
        assert len(answer.content) < 500


async def test_paths_of_the_operator_are_the_engines() -> None:
    async with house(EXTRA_ROUTES="/load") as there:
        assert (await there.get("/load")).status_code == 503
        assert (await there.get("/pause")).status_code == 404


@pytest.mark.parametrize(
    ("environ", "kept_alive"),
    [({}, (Route.CHAT, Route.COMPLETIONS)), ({"UPSTREAM_URL": "http://engine:8000"}, ())],
)
def test_streams_that_our_own_engine_keeps_alive_are_left_to_it(
    environ: dict[str, str], kept_alive: tuple[Route, ...]
) -> None:
    limits = limits_of(Settings.load(environ | {"SSE_KEEP_ALIVE_SECONDS": "15"}))
    assert (limits.stream_keep_alive, limits.kept_alive) == (15, kept_alive)


# Who is let in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "says"),
    [(Phase.LOADING, "starting, phase loading"), (Phase.FAILED, "cannot start: no such model")],
)
async def test_an_engine_that_is_not_ready_is_told_before_it_is_asked(
    phase: Phase, says: str, access_log: Lines
) -> None:
    async with house() as there:
        there.enter(phase, reason="no such model")
        answer = await there.chat()
        assert answer.status_code == 503
        assert says in error(answer)["message"]
        # What will never be ready is not worth waiting for.
        assert ("retry-after" in answer.headers) == (phase is not Phase.FAILED)
        (line,) = access_log()
        assert (line["status"], line["outcome"]) == (503, "engine_unavailable")
        code = "engine_failed" if phase is Phase.FAILED else "engine_unavailable"
        assert (line["error_source"], line["error"]) == ("upstream", code)


async def test_an_engine_that_nobody_can_reach_is_a_503_that_says_when_to_ask_again(
    access_log: Lines,
) -> None:
    async with house(Phase.READY) as there:
        answer = await there.chat()
        assert answer.status_code == 503
        assert error(answer)["code"] == "engine_unreachable"
        assert answer.headers["retry-after"] == "25"
        assert "x-should-retry" not in answer.headers, "the engine has seen nothing of it"
        (line,) = access_log()
        assert (line["model"], line["outcome"]) == ("demo", "engine_unavailable")


async def test_a_body_over_the_limit_is_refused_by_name_of_the_limit(access_log: Lines) -> None:
    async with house(Phase.READY, MAX_BODY_MB="0.001") as there:
        answer = await there.chat(text="x" * 2000)
        assert answer.status_code == 413
        assert "MAX_BODY_MB" in error(answer)["message"]
        (line,) = access_log()
        assert (line["outcome"], line["error_source"]) == ("rejected", "client")


async def test_a_fault_of_ours_is_a_500_that_is_logged_and_counted(
    access_log: Lines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: Upstream) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Upstream, "connection", broken)
    async with house(Phase.READY) as there:
        answer = await there.chat()
        assert answer.status_code == 500
        assert "oops" not in answer.text
        assert answer.headers["x-proxy-error"] == "proxy internal_error"
        (line,) = access_log()
        assert line["outcome"] == "proxy_error"
        faults = [record for record in caplog.records if record.exc_info]
        assert len(faults) == 1
        assert there.metric("sidecar_requests_in_flight", route="chat") == 0


async def test_an_announced_stop_still_takes_requests_and_a_stop_does_not() -> None:
    async with house(Phase.READY) as there:
        there.lifecycle.announce_stop()
        assert error(await there.chat())["code"] == "engine_unreachable"
        await there.lifecycle.shutdown()
        answer = await there.chat()
        assert (answer.status_code, error(answer)["code"]) == (503, "draining")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-proxy-error"] == "proxy draining"


async def test_nobody_is_held_longer_than_a_request_may_take() -> None:
    async with house(Phase.LOADING, HOLD_SECONDS="86400", REQUEST_TIMEOUT="0.02") as there:
        answer = await asyncio.wait_for(there.chat(), PATIENCE)
        assert (answer.status_code, error(answer)["code"]) == (503, "engine_unavailable")


async def test_of_several_models_what_a_key_may_have_at_once_is_waited_for_in_sight() -> None:
    limits = {"KEY_LIMITS": "alice: in_flight=1", "MAX_WAITING": "2"}
    async with house(MODEL_NAME="demo,demo-text", API_KEYS="alice:sk-alice", **limits) as there:
        gate = there.sidecar.models.admission
        await gate.enter("alice")
        waiting = asyncio.create_task(gate.enter("alice"))
        await asyncio.sleep(0)
        # Its model is not known before its body is read.
        counts = {
            one.labels.get("model"): one.value for one in there.samples("sidecar_requests_waiting")
        }
        assert counts == {None: 1, "demo": 0, "demo-text": 0}
        gate.leave("alice")
        await asyncio.wait_for(waiting, PATIENCE)
        assert there.metric("sidecar_requests_waiting") == 0


async def test_the_wait_for_one_of_several_models_is_seen_also_where_it_is_in_vain(
    access_log: Lines,
) -> None:
    async with house(MODEL_NAME="demo,demo-text", HOLD_SECONDS="0.05") as there:
        assert (await there.chat(model="demo-text")).status_code == 503
        (line,) = access_log()
        assert line["wait_ms"] >= line["model_wait_ms"] >= 50
        name = "sidecar_model_wait_seconds_count"
        assert there.metric(name, model="demo-text") == 1
        model = there.sidecar.models.find("demo", None)
        model.state.enter(Phase.READY)
        assert error(await there.chat(model="demo"))["code"] == "engine_unreachable"
        assert "model_wait_ms" not in access_log()[-1]
        assert there.metric(name, model="demo") == 0


@pytest.mark.parametrize(
    ("environ", "names"), [({}, [""]), ({"MODEL_NAME": "demo,demo-text"}, ["demo", "demo-text"])]
)
async def test_loads_are_counted_of_one_model_and_of_several(
    environ: dict[str, str], names: list[str]
) -> None:
    async with house(**environ) as there:
        scheduler = there.sidecar.models.scheduler
        assert scheduler is not None
        for model in there.sidecar.models:
            step = Step(Action.LOAD, model.view, Reason.REQUESTED)
            for observe in scheduler.observers:
                observe(Transition(step, Outcome.OK, 2.0))
        for name in names:
            labels = {"model": name} if name else {}
            loads = "sidecar_model_loads_total"
            assert there.metric(loads, kind="cold", outcome="ok", **labels) == 1
            assert there.metric(loads, kind="cold", outcome="failed", **labels) == 0
            assert there.metric("sidecar_model_state", state="failed", **labels) == 0


async def test_what_others_load_is_not_counted() -> None:
    async with house(UPSTREAM_URL="one=http://one:8000,two=http://two:8000") as there:
        assert there.samples("sidecar_model_loads_total") == []
        assert there.metric("sidecar_model_state", model="two", state="unloaded") == 1


# What is told of it ---------------------------------------------------------------------------


async def test_log_and_metrics_tell_the_same(access_log: Lines) -> None:
    async with house(Phase.LOADING) as there:
        await there.chat()
        there.enter(Phase.READY)
        await there.chat(text="x" * 100)
        await there.get("/v1/models")
        await there.get("/nowhere")
        lines = access_log()
        counted = Counter[tuple[str, str]]()
        for sample in there.samples("sidecar_requests_total"):
            counted[sample.labels["route"], sample.labels["outcome"]] += int(sample.value)
        logged = Counter((line["route"], line["outcome"]) for line in lines)
        assert +counted == logged, "series are there as 0 before they are counted"
        sent = sum(sample.value for sample in there.samples("sidecar_response_body_bytes_total"))
        assert sent == sum(line["bytes_out"] for line in lines) > 0
        durations = there.samples("sidecar_request_duration_seconds_sum")
        seconds = sum(sample.value for sample in durations)
        assert seconds == pytest.approx(sum(line["duration_ms"] for line in lines) / 1000, abs=1e-3)
        assert len(lines) == 4


async def test_each_line_says_who_asked_for_what(access_log: Lines) -> None:
    async with house(Phase.READY) as there:
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        headers = {
            "content-type": "application/json",
            "x-request-id": "id-7",
            "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
            "user-agent": "OpenAI/Python 2.25.0",
            "x-stainless-retry-count": "2",
            "authorization": "Bearer secret-key",
        }
        image = {"type": "image_url", "image_url": {"url": "data:secret-image"}}
        text = {"type": "text", "text": "secret-prompt"}
        content = json.dumps(
            {"model": "demo", "messages": [{"role": "user", "content": [image, text]}]}
        )
        answer = await there.http.post(
            "/v1/chat/completions?key=secret-query", content=content, headers=headers
        )
        assert answer.headers["x-request-id"] == "id-7"
        (line,) = access_log()
        expected = {
            "request_id": "id-7",
            "trace_id": trace,
            "method": "POST",
            "path": "/v1/chat/completions",
            "route": "chat",
            "modalities": ["text", "image"],
            "images": 1,
            "bytes_in": len(content),
            "bytes_out": len(answer.content),
            "client": "10.0.0.7",
            "user_agent": "OpenAI/Python 2.25.0",
            "retries": 2,
        }
        assert line.items() >= expected.items()
        assert "secret-" not in json.dumps(line)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-stainless-retry-count", "-1"),
        ("x-request-id", "a b"),
        ("traceparent", "garbage"),
        ("user-agent", "é" * 5000),
    ],
)
async def test_no_header_of_a_client_breaks_the_line(
    header: str, value: str, access_log: Lines
) -> None:
    async with house() as there:
        answer = await there.get("/v1/models", headers={header: value.encode("latin-1")})
        assert answer.status_code == 503
        (line,) = access_log()
        assert "retries" not in line
        assert "trace_id" not in line
        assert len(line["request_id"]) == 32
        assert len(line["user_agent"]) <= 200


async def test_the_engines_life_is_in_the_metrics() -> None:
    async with house(Phase.DOWNLOADING) as there:
        there.state.update(downloaded_bytes=5_000_000)
        there.enter(Phase.RESTARTING, restarts=1, last_restart_cause=Cause.KILLED)
        assert there.metric("sidecar_model_download_bytes") == 5_000_000
        assert there.metric("sidecar_engine_restarts_total", cause="killed") == 1
        assert there.metric("sidecar_engine_state", phase="restarting") == 1
        assert there.metric("sidecar_engine_state", phase="downloading") == 0
        spent = there.metric("sidecar_engine_phase_seconds", phase="downloading")
        assert spent is not None
        there.state.update(progress=0.5)
        assert there.metric("sidecar_engine_restarts_total", cause="killed") == 1


# An engine that someone else runs -------------------------------------------------------------

URL = "http://127.0.0.1:9"
MODELS = {"data": [{"id": "theirs"}, {"id": "alias"}]}
TOKEN = {"choices": [{"text": "x"}]}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached_module, "_POLL_SECONDS", 0.01)


async def until(there: House, phase: Phase) -> None:
    reached = asyncio.Event()

    def look(before: Snapshot, after: Snapshot) -> None:
        if after.phase is phase:
            reached.set()

    there.state.listen(look)
    if there.state.snapshot.phase is not phase:
        await asyncio.wait_for(reached.wait(), PATIENCE)


@pytest.mark.usefixtures("quick")
async def test_an_attached_engine_is_ready_once_it_has_generated_and_follows_its_health() -> None:
    async with house(UPSTREAM_URL=URL) as there:
        with respx.mock(base_url=URL, assert_all_called=False) as engine:
            health = engine.get("/health").mock(side_effect=httpx.ConnectError("no"))
            engine.get("/v1/models").respond(json=MODELS)
            warm_up = engine.post("/v1/completions").respond(503)
            task = there.lifecycle.start()
            await until(there, Phase.LOADING)
            assert URL in (await there.get("/health")).json()["reason"]

            health.mock(return_value=httpx.Response(200))
            await until(there, Phase.WARMING)
            while warm_up.call_count < 2:  # noqa: ASYNC110 (another task's count)
                await asyncio.sleep(0.01)
            assert (await there.get("/health")).json()["phase"] == "warming"
            assert "answered 503" in (await there.get("/health")).json()["reason"]

            warm_up.respond(200, json=TOKEN)
            await until(there, Phase.READY)
            assert json.loads(warm_up.calls.last.request.content)["model"] == "theirs"
            assert (await there.get("/health")).json()["model"] == "theirs"

            health.mock(return_value=httpx.Response(503))
            await until(there, Phase.DEGRADED)
            health.mock(return_value=httpx.Response(200))
            await until(there, Phase.READY)
            await there.lifecycle.shutdown()
            assert task.cancelled()
            assert there.state.snapshot.phase is Phase.STOPPED


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("answer", "reason", "remedy"),
    [
        (httpx.Response(401), "answered 401", "without --api-key and VLLM_API_KEY"),
        (httpx.Response(500), "answered 500", "UPSTREAM_URL"),
        (httpx.Response(200, html="<html>"), "no list of models (text/html", "UPSTREAM_URL"),
        (httpx.Response(200, json={"data": []}), "a list that names no model", "SERVED_MODEL_NAME"),
    ],
)
async def test_an_attached_engine_that_does_not_tell_its_models_is_not_ready(
    answer: httpx.Response, reason: str, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(UPSTREAM_URL=URL) as there:
        with respx.mock(base_url=URL, assert_all_called=False) as engine:
            engine.get("/health").respond(200)
            models = engine.get("/v1/models").mock(return_value=answer)
            engine.post("/v1/completions").respond(200, json=TOKEN)
            there.lifecycle.start()
            await until(there, Phase.WARMING)
            while models.call_count < 5:  # noqa: ASYNC110 (another task's count)
                await asyncio.sleep(0.01)
            health = await there.get("/health")
            assert health.status_code == 503
            assert reason in health.json()["reason"]
            assert remedy in health.json()["remedy"]
            told = [line for line in caplog.messages if reason in line]
            assert len(told) == 1, "once, not at every look"

            models.respond(json=MODELS)
            await until(there, Phase.READY)
            await there.lifecycle.shutdown()


@pytest.mark.usefixtures("quick")
async def test_an_attached_engine_is_asked_for_the_name_that_it_does_not_tell_itself() -> None:
    async with house(UPSTREAM_URL=URL, SERVED_MODEL_NAME="mine") as there:
        with respx.mock(base_url=URL, assert_all_called=False) as engine:
            engine.get("/health").respond(200)
            engine.get("/v1/models").respond(401)
            warm_up = engine.post("/v1/completions").respond(401)
            there.lifecycle.start()
            await until(there, Phase.WARMING)
            while warm_up.call_count < 3:  # noqa: ASYNC110 (another task's count)
                await asyncio.sleep(0.01)
            health = (await there.get("/health")).json()
            assert "/v1/completions answered 401" in health["reason"]
            assert "without --api-key" in health["remedy"]

            warm_up.respond(200, json=TOKEN)
            await until(there, Phase.READY)
            assert json.loads(warm_up.calls.last.request.content)["model"] == "mine"
            await there.lifecycle.shutdown()


@pytest.mark.usefixtures("quick")
async def test_an_attached_engine_need_not_generate_where_warm_up_is_off() -> None:
    environ = {"UPSTREAM_URL": URL, "WARMUP": "false", "SERVED_MODEL_NAME": "mine"}
    async with house(**environ) as there:
        with respx.mock(base_url=URL) as engine:
            engine.get("/health").respond(200)
            engine.get("/v1/models").respond(404)
            there.lifecycle.start()
            await until(there, Phase.READY)
            assert (await there.get("/health")).json()["model"] == "mine"
            await there.lifecycle.shutdown()


@pytest.mark.usefixtures("quick")
async def test_a_stop_waits_for_the_requests_inside_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside = asyncio.Event()

    async def stuck(self: Upstream) -> None:
        inside.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Upstream, "connection", stuck)
    async with house(UPSTREAM_URL=URL, WARMUP="false", DRAIN_SECONDS="0.1") as there:
        with respx.mock(base_url=URL) as engine:
            engine.get("/health").respond(200)
            engine.get("/v1/models").respond(json={"data": []})
            there.lifecycle.start()
            await until(there, Phase.READY)
            asked = asyncio.create_task(there.chat())
            await asyncio.wait_for(inside.wait(), PATIENCE)
            stopping = asyncio.create_task(there.lifecycle.shutdown())
            await until(there, Phase.DRAINING)
            assert not stopping.done()
            await asyncio.wait_for(stopping, PATIENCE)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked


# Media on the engine's disk ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "is_passed_on"),
    [
        ({}, False),
        ({"ALLOWED_LOCAL_MEDIA_PATH": "/media"}, True),
        ({"VLLM_EXTRA_ARGS": "--allowed_local_media_path=/media"}, True),
        ({"VLLM_EXTRA_ARGS": "--chat-template=/--allowed-local-media-path"}, False),
    ],
)
async def test_a_file_is_the_engines_to_judge_where_a_folder_is_opened_to_it(
    environ: dict[str, str], is_passed_on: bool
) -> None:
    part = {"type": "image_url", "image_url": {"url": "file:///media/x.png"}}
    async with house(Phase.READY, **environ) as there:
        body = {"messages": [{"role": "user", "content": [part]}]}
        answer = await there.http.post("/v1/chat/completions", json=body)
        expected = "engine_unreachable" if is_passed_on else "media_url_refused"
        assert error(answer)["code"] == expected
