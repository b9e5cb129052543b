"""Two pages: the sidecar's own, and the engine's untouched."""

from __future__ import annotations

import httpx
import pytest
import respx

from proxy.engine.phase import Phase
from tests.proxy.house import house

ENGINE = "http://127.0.0.1:8001"
PAGE = b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 3.0\n'


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text"),
    ],
)
async def test_the_sidecars_page_is_in_the_format_that_was_asked_for(
    accept: str | None, content_type: str
) -> None:
    async with house() as there:
        answer = await there.get("/metrics", headers={"accept": accept} if accept else {})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(content_type)
        assert 'sidecar_engine_state{phase="checking"} 1.0' in answer.text


@pytest.mark.parametrize("status", [200, 500])
async def test_the_engines_page_is_passed_on_as_it_is(status: int) -> None:
    async with house(UPSTREAM_PORT="8001") as there:
        headers = {"content-type": "text/plain; version=1.0.0; charset=utf-8"}
        with respx.mock(base_url=ENGINE) as engine:
            engine.get("/metrics").respond(status, headers=headers, content=PAGE)
            answer = await there.get("/metrics/engine")
        assert (answer.status_code, answer.content) == (status, PAGE)
        assert answer.headers["content-type"] == headers["content-type"]


@pytest.mark.parametrize(
    ("phase", "says"),
    [(Phase.LOADING, "starting, phase loading"), (Phase.READY, "does not answer")],
)
@pytest.mark.parametrize("failure", [httpx.ConnectError("no"), httpx.ReadTimeout("slow")])
async def test_without_an_engine_its_page_is_an_error_that_says_why(
    failure: Exception, phase: Phase, says: str
) -> None:
    async with house(UPSTREAM_PORT="8001") as there:
        there.enter(phase)
        with respx.mock(base_url=ENGINE) as engine:
            engine.get("/metrics").mock(side_effect=failure)
            answer = await there.get("/metrics/engine", headers={"x-request-id": "id-7"})
        assert answer.status_code == 503
        assert says in answer.json()["error"]["message"]
        assert answer.headers["x-proxy-error"] == "upstream engine_unavailable"
        assert answer.headers["x-request-id"] == "id-7"


async def test_scrapes_and_probes_are_not_counted_as_requests() -> None:
    async with house() as there:
        for path in ("/metrics", "/health", "/ping", "/info"):
            await there.get(path)
        assert "sidecar_requests_total{" not in (await there.get("/metrics")).text
