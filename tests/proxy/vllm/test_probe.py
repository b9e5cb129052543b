"""Questions to the engine, and what is made of its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from proxy.engine.server import ModelsUnknown
from proxy.vllm.probe import Probe

ENGINE = "http://127.0.0.1:8001"
FAILURES: list[httpx.Response | Exception] = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("gone"),
]


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    probe = Probe(ENGINE)
    yield probe
    await probe.close()


@pytest.fixture
def engine() -> respx.MockRouter:
    return respx.mock(base_url=ENGINE, assert_all_called=False)


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (httpx.Response(200), True),
        (httpx.Response(503), False),
        *((failure, False) for failure in FAILURES),
    ],
)
async def test_healthy_is_what_the_engine_says_itself(
    probe: Probe, engine: respx.MockRouter, answer: httpx.Response | Exception, healthy: bool
) -> None:
    with engine:
        engine.get("/health").mock(side_effect=[answer])
        assert await probe.healthy() is healthy


async def test_served_names_are_the_engines(probe: Probe, engine: respx.MockRouter) -> None:
    with engine:
        engine.get("/v1/models").respond(content=b'{"data": [{"id": "a"}, {"id": "b\\ud800"}]}')
        assert await probe.served_models() == ("a", "b?")


NO_NAMES: list[object] = [None, "", 5, True, ["a"], {"a": 1}]
NAMELESS = b'{"id": null}, {"id": ""}, {"id": 7}, {}, null'


async def test_what_an_engine_lists_without_a_name_is_no_model(
    probe: Probe, engine: respx.MockRouter
) -> None:
    with engine:
        page = b'{"data": [%b, {"id": "a", "root": "/a"}, {"id": "b\\ud800"}]}' % NAMELESS
        engine.get("/v1/models").respond(content=page)
        assert await probe.served_models() == ("a", "b?")
        entries = await probe.model_entries()
    assert {name: json.loads(entry) for name, entry in entries.items()} == {
        "a": {"id": "a", "root": "/a"},
        "b?": {"id": "b?"},
    }


@pytest.mark.parametrize("answer", [*FAILURES, httpx.Response(204), httpx.Response(200, text="[")])
async def test_entries_that_cannot_be_read_are_none(
    probe: Probe, engine: respx.MockRouter, answer: httpx.Response | Exception
) -> None:
    with engine:
        engine.get("/v1/models").mock(side_effect=[answer])
        assert await probe.model_entries() == {}


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (httpx.Response(200, json={"data": []}), 200, "a list that names no model"),
        *(
            (httpx.Response(200, json={"data": [entry]}), 200, "a list that names no model")
            for entry in (*({"id": name} for name in NO_NAMES), {}, "a", None, ["a"])
        ),
        (httpx.Response(200, content=b"[" * 100_000), 200, "no list of models"),
        (httpx.Response(200), 200, "no list of models (no content type)"),
        (httpx.Response(204), 204, "answered 204"),
        (httpx.Response(200, json={"object": "list"}), 200, "no list of models (application/json)"),
        (httpx.Response(200, json={"data": None}), 200, "no list of models"),
        (httpx.Response(200, html="<html>"), 200, "no list of models (text/html"),
        (httpx.Response(401, json={"error": "Unauthorized"}), 401, "answered 401"),
        *((failure, None, type(failure).__name__) for failure in FAILURES),
    ],
)
async def test_served_names_are_never_made_up_and_what_is_wrong_with_them_is_reported(
    probe: Probe,
    engine: respx.MockRouter,
    answer: httpx.Response | Exception,
    status: int | None,
    says: str,
) -> None:
    with engine:
        engine.get("/v1/models").mock(side_effect=[answer])
        with pytest.raises(ModelsUnknown) as unknown:
            await probe.served_models()
    assert unknown.value.status == status
    assert says in str(unknown.value)
    assert "/v1/models" in str(unknown.value)


async def test_the_engines_metrics_come_as_they_are(probe: Probe, engine: respx.MockRouter) -> None:
    with engine:
        engine.get("/metrics").respond(200, text="vllm:x 1\n")
        assert (await probe.metrics_page()).text == "vllm:x 1\n"


METRICS = (
    'vllm:prompt_tokens_total{engine="0",model_name="m"} %d\n'
    'vllm:generation_tokens_total{engine="0",model_name="m"} 3\n'
    'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25\n'
    'http_requests_total{handler="/metrics",method="GET",status="2xx"} %d\n'
)


async def test_counters_change_with_the_engines_work_and_not_by_being_read(
    probe: Probe, engine: respx.MockRouter
) -> None:
    with engine:
        pages = [METRICS % (14, 1), METRICS % (14, 2), METRICS % (15, 3)]
        engine.get("/metrics").mock(side_effect=[httpx.Response(200, text=page) for page in pages])
        first, second, third = [await probe.counters() for _ in pages]
    assert len(first) == 3
    assert first == second != third


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="http_requests_total 3\n"), httpx.Response(500), *FAILURES]
)
async def test_counters_that_cannot_be_read_are_none(
    probe: Probe, engine: respx.MockRouter, answer: httpx.Response | Exception
) -> None:
    with engine:
        engine.get("/metrics").mock(side_effect=[answer])
        assert await probe.counters() == ()


async def test_a_proxy_in_the_environment_is_not_asked_for_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        probe = Probe(f"http://{host}:{port}")
        assert await probe.healthy()
        await probe.close()
