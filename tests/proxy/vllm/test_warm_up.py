"""The first piece of work: by the route that the model has, and only done when it is done."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
import respx

from proxy.engine.server import WarmUpFailed
from proxy.vllm.probe import Probe
from proxy.vllm.warm_up import questions, tone
from tests.fake_engine import FakeEngine

ENGINE = "http://127.0.0.1:8001"
NO_SUCH_ROUTE = httpx.Response(404, json={"detail": "Not Found"})
NOT_ITS_TASK = httpx.Response(400, json={"error": {"message": "The model does not support it"}})
DEAD = httpx.Response(500, json={"error": {"message": "EngineCore encountered an issue."}})
WORK = httpx.Response(200, json={"data": []})
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

Answers = Mapping[str, httpx.Response | Exception]


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    probe = Probe(ENGINE)
    yield probe
    await probe.close()


async def warmed(probe: Probe, answers: Answers) -> tuple[str | None, list[httpx.Request]]:
    """The route that answered, and what was asked; other routes are not there."""
    with respx.mock(base_url=ENGINE, assert_all_called=False) as engine:
        for path, answer in answers.items():
            engine.post(path).mock(side_effect=[answer])
        engine.post().mock(return_value=NO_SUCH_ROUTE)
        return await probe.warm_up("m"), [call.request for call in engine.calls]


@pytest.mark.parametrize(
    ("answers", "route"),
    [
        ({COMPLETIONS: WORK}, COMPLETIONS),
        ({COMPLETIONS: NOT_ITS_TASK, CHAT: WORK}, CHAT),
        ({COMPLETIONS: NOT_ITS_TASK, EMBEDDINGS: WORK}, EMBEDDINGS),
        ({EMBEDDINGS: WORK}, EMBEDDINGS),
        ({EMBEDDINGS: NOT_ITS_TASK, "/pooling": WORK}, "/pooling"),
        ({"/rerank": NOT_ITS_TASK, "/classify": WORK}, "/classify"),
        ({COMPLETIONS: httpx.Response(501), CHAT: httpx.Response(405)}, None),
        ({}, None),
    ],
)
async def test_a_route_is_found_that_makes_the_engine_work(
    probe: Probe, answers: Answers, route: str | None
) -> None:
    found, asked = await warmed(probe, answers)
    assert found == route
    assert len(asked) == len({request.url.path for request in asked}), "each is asked once"
    if route is not None:
        assert asked[-1].url.path == route


async def test_a_model_that_generates_is_asked_for_one_token_and_nothing_else(probe: Probe) -> None:
    _, (request,) = await warmed(probe, {COMPLETIONS: WORK})
    assert json.loads(request.content) == {"model": "m", "prompt": "Hello", "max_tokens": 1}


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({COMPLETIONS: DEAD}, "/v1/completions answered 500: EngineCore encountered an issue."),
        (
            {COMPLETIONS: httpx.Response(200, json={"error": {"message": "broken\nin two"}})},
            "/v1/completions answered 200: broken in two",
        ),
        (
            {COMPLETIONS: httpx.Response(200, text="<html>")},
            "/v1/completions answered 200: the answer is no JSON",
        ),
        (
            {COMPLETIONS: NOT_ITS_TASK},
            "/v1/completions answered 400: The model does not support it",
        ),
        (
            {COMPLETIONS: NOT_ITS_TASK, CHAT: DEAD},
            "/v1/completions answered 400: The model does not support it",
        ),
        ({COMPLETIONS: httpx.ReadTimeout("slow")}, "/v1/completions: no answer within 600 s"),
        ({COMPLETIONS: httpx.ConnectError("refused")}, "/v1/completions: ConnectError"),
        ({"/rerank": DEAD}, "/rerank answered 500: EngineCore encountered an issue."),
    ],
)
async def test_an_engine_that_does_not_work_fails(
    probe: Probe, answers: Answers, says: str
) -> None:
    with pytest.raises(WarmUpFailed) as failed:
        await warmed(probe, answers)
    assert str(failed.value) == says


def test_the_sound_is_one_second_that_any_decoder_reads() -> None:
    with wave.open(io.BytesIO(tone())) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 16000)
        assert sound.getnframes() == 16000
        assert any(sound.readframes(100))


@pytest.mark.parametrize(
    ("tasks", "route"),
    [
        ("generate", COMPLETIONS),
        ("transcription", "/v1/audio/transcriptions"),
        # Embedding models also score, and every pooling model has /pooling.
        ("embed,score,pooling", EMBEDDINGS),
        ("score,classify,pooling", "/rerank"),
        ("classify,pooling", "/classify"),
        ("pooling", "/pooling"),
        ("render", None),
    ],
)
async def test_a_model_is_warmed_by_the_route_of_its_task(tasks: str, route: str | None) -> None:
    with FakeEngine("--served-model-name", "m", environment={"FAKE_ENGINE_TASKS": tasks}) as engine:
        probe = Probe(engine.url)
        assert await probe.warm_up("m") == route
        await probe.close()


@pytest.mark.parametrize("tasks", ["generate", "embed", "score", "classify"])
async def test_a_model_that_cannot_do_its_task_is_not_warm(tasks: str) -> None:
    broken = {"FAKE_ENGINE_TASKS": tasks, "FAKE_ENGINE_GENERATION": "fail"}
    with FakeEngine("--served-model-name", "m", environment=broken) as engine:
        probe = Probe(engine.url)
        with pytest.raises(WarmUpFailed, match="answered 500: CUDA error"):
            await probe.warm_up("m")
        await probe.close()


def test_every_question_is_on_a_route_that_users_may_ask() -> None:
    from proxy.access.routes import RouteTable

    table = RouteTable(())
    assert all(table.find(question.path.encode()) for question in questions())
