"""Two pages: the sidecar's own, and the engine's untouched."""

from __future__ import annotations

import httpx
import pytest
import respx

from proxy.engine.phase import Phase
from tests.proxy.house import house

ENGINE = "http://127.0.0.1:8001"
PAGE = b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 3.0\n'


async def test_the_sidecars_page_is_in_the_format_that_was_asked_for() -> None:
    async with house() as there:
        openmetrics = "application/openmetrics-text"
        answer = await there.get("/metrics", headers={"accept": openmetrics})
        assert answer.headers["content-type"].startswith(openmetrics)
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
    async with house(phase, UPSTREAM_PORT="8001") as there:
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


# METRICS_PORT ---------------------------------------------------------------------------------

METRICS_URL = "http://sidecar:9100"


async def test_a_port_of_their_own_has_the_pages_and_the_other_ports_no_more() -> None:
    ports = {"UPSTREAM_PORT": "8001", "METRICS_PORT": "9100", "PORT_HEALTH": "8080"}
    async with house(**ports) as there:
        with respx.mock(base_url=ENGINE, assert_all_mocked=False) as engine:
            engine.get("/metrics").respond(200, content=PAGE)
            assert "sidecar_build_info" in (await there.get(f"{METRICS_URL}/metrics")).text
            assert (await there.get(f"{METRICS_URL}/metrics/engine")).content == PAGE
        for port in (8000, 8080):
            for path in ("/metrics", "/metrics/engine"):
                answer = await there.get(f"http://sidecar:{port}{path}")
                assert answer.status_code == 404
                assert answer.headers["x-proxy-error"] == "client unknown_route"
            assert (await there.get(f"http://sidecar:{port}/ping")).status_code == 204


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ping", "/info", "/v1/models", "/v1/chat/completions", "/load"]
)
async def test_nothing_else_is_answered_there(path: str) -> None:
    async with house(Phase.READY, METRICS_PORT="9100", EXTRA_ROUTES="/load") as there:
        answer = await there.get(f"{METRICS_URL}{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == f"There is no route GET {path} here."
        assert answer.headers["x-proxy-error"] == "client unknown_route"


async def test_a_page_is_read_not_written() -> None:
    async with house(METRICS_PORT="9100") as there:
        answer = await there.http.post(f"{METRICS_URL}/metrics")
        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_the_apis_own_port_named_changes_nothing() -> None:
    async with house(METRICS_PORT="8000") as there:
        for path in ("/metrics", "/info", "/health/live"):
            assert (await there.get(f"http://sidecar:8000{path}")).status_code == 200


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text; version=x"]
)
async def test_a_scraper_that_asks_for_no_version_there_is_gets_the_plain_page(accept: str) -> None:
    async with house() as there:
        page = await there.get("/metrics", headers={"accept": accept})
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
