"""Questions to the engine, and what is made of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from proxy.engine import probe as probe_module
from proxy.engine.probe import Probe

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
        (httpx.Response(404), False),
        *((failure, False) for failure in FAILURES),
    ],
)
async def test_healthy_is_what_the_engine_says_itself(
    probe: Probe, engine: respx.MockRouter, answer: httpx.Response | Exception, healthy: bool
) -> None:
    with engine:
        engine.get("/health").mock(side_effect=[answer])
        assert await probe.healthy() is healthy


async def test_waiting_for_health_outlasts_refused_connections(
    probe: Probe, engine: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "_HEALTH_POLL_SECONDS", 0)
    with engine:
        answers = [*FAILURES, httpx.Response(503), httpx.Response(200)]
        health = engine.get("/health").mock(side_effect=answers)
        await probe.until_healthy()
    assert health.call_count == len(FAILURES) + 2


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (httpx.Response(200, json={"data": [{"id": "a"}, {"id": "b"}]}), ("a", "b")),
        (httpx.Response(200, content=b'{"data": [{"id": "a\\ud800b"}]}'), ("a?b",)),
        (httpx.Response(200, json={"data": []}), ()),
        (httpx.Response(200, json={"object": "list"}), ()),
        (httpx.Response(200, json=["a"]), ()),
        (httpx.Response(200, json={"data": None}), ()),
        (httpx.Response(200, text="<html>"), ()),
        (httpx.Response(401, json={"error": "Unauthorized"}), ()),
        *((failure, ()) for failure in FAILURES),
    ],
)
async def test_served_names_are_the_engines_and_never_made_up(
    probe: Probe, engine: respx.MockRouter, answer: httpx.Response | Exception, names: object
) -> None:
    with engine:
        engine.get("/v1/models").mock(side_effect=[answer])
        assert await probe.served_models() == names


async def test_the_engines_metrics_come_as_they_are(probe: Probe, engine: respx.MockRouter) -> None:
    with engine:
        engine.get("/metrics").respond(200, text="vllm:x 1\n")
        assert (await probe.metrics_page()).text == "vllm:x 1\n"


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
