"""Keys in the whole house: what is open, what is not, and what is told of who asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from proxy.engine.phase import Phase
from proxy.settings import Settings
from tests.proxy.house import House, house

Lines = Callable[[], list[dict[str, Any]]]
KEY = "sk-alice-0123456789"
KEYS = {"API_KEYS": f"alice:{KEY},bob:sk-bob-0123456789"}
GOOD = {"authorization": f"Bearer {KEY}"}
OPEN = (
    *("/ping", "/health", "/health/live", "/livez", "/health/ready", "/readyz"),
    *("/health/startup", "/startupz", "/health/model"),
)
CLOSED = (
    *("/info", "/metrics", "/metrics/engine", "/v1/models", "/v1/chat/completions", "/version"),
    *("/", "/v1/nothing", "/pause", "/docs", "/health//", "//health", "/health/../info", "/PING"),
)


@pytest.fixture
def access_log(caplog: pytest.LogCaptureFixture) -> Lines:
    caplog.set_level(logging.INFO, "proxy.access")

    def lines() -> list[dict[str, Any]]:
        records = [record for record in caplog.records if record.name == "proxy.access"]
        return [record.__dict__["fields"] for record in records]

    return lines


async def status(there: House, path: str, **headers: str) -> int:
    return (await there.http.request("GET", f"http://sidecar{path}", headers=headers)).status_code


@pytest.mark.parametrize("path", OPEN)
async def test_load_balancers_need_no_key(path: str) -> None:
    async with house(Phase.READY, **KEYS) as there:
        assert await status(there, path) == 200


@pytest.mark.parametrize("path", CLOSED)
async def test_everything_else_needs_one_also_what_is_not_there(path: str) -> None:
    async with house(Phase.READY, **KEYS) as there:
        assert await status(there, path) == 401
        assert await status(there, path, **{"x-api-key": "wrong"}) == 401
        assert await status(there, path, **GOOD) != 401
        assert await status(there, path, **{"x-api-key": KEY}) != 401


async def test_a_health_path_of_the_operators_opens_nothing_of_the_engine() -> None:
    async with house(Phase.READY, HEALTH_CHECK_PATH="/v1/models", **KEYS) as there:
        assert await status(there, "/v1/models") == 401
        assert await status(there, "/ping") == 401, "it has been moved"


async def test_without_keys_nobody_is_asked_for_one() -> None:
    async with house(Phase.READY) as there:
        assert await status(there, "/info") == 200
        assert await status(there, "/v1/chat/completions", **{"x-api-key": "any"}) == 503


async def test_a_refusal_is_in_the_shape_of_its_api(access_log: Lines) -> None:
    async with house(Phase.READY, **KEYS) as there:
        openai, anthropic = await there.chat(), await there.chat("/v1/messages")
    assert openai.status_code == anthropic.status_code == 401
    assert openai.headers["www-authenticate"] == "Bearer"
    assert openai.headers["x-proxy-error"] == "client invalid_api_key"
    error = openai.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert anthropic.json()["error"]["type"] == "authentication_error"
    for line, route in zip(access_log(), ("chat", "messages"), strict=True):
        assert (line["route"], line["status"], line["outcome"]) == (route, 401, "rejected")
        assert line["error"] == "invalid_api_key"
        assert "key" not in line
        assert line["bytes_in"] == 0


async def test_a_key_is_told_before_the_engine_is_asked_about() -> None:
    async with house(Phase.LOADING, **KEYS) as there:
        assert (await there.chat()).status_code == 401


async def test_the_label_is_in_the_log_and_the_metrics_and_the_key_nowhere(
    access_log: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(Phase.READY, **KEYS) as there:
        answer = await there.http.post("/v1/chat/completions", json={}, headers=GOOD)
        assert answer.status_code == 503, "nobody is there"
        (line,) = access_log()
        assert line["key"] == "alice"
        assert list(line).index("key") == list(line).index("status") - 1
        name = "sidecar_key_requests_total"
        assert there.metric(name, key="alice", outcome="engine_unavailable") == 1
        assert there.metric(name, key="bob", outcome="ok") == 0
        page = (await there.http.get("/metrics", headers=GOOD)).text
        info = (await there.http.get("/info", headers=GOOD)).text
    assert KEY not in page + info + caplog.text


async def test_metrics_have_no_keys_where_none_are_set() -> None:
    async with house() as there:
        assert there.samples("sidecar_key_requests_total") == []


async def test_a_start_on_an_open_address_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with house(UPSTREAM_URL="http://127.0.0.1:9") as there:
        there.lifecycle.start()
    told = [record.message for record in caplog.records if "API key" in record.message]
    assert len(told) == 1
    assert Settings.load({}).host in told[0]


# Limits ---------------------------------------------------------------------------------------


async def test_a_limit_is_told_with_every_answer_and_then_a_429(access_log: Lines) -> None:
    async with house(Phase.READY, KEY_LIMITS="rpm=1,tpm=1000", **KEYS) as there:
        first = await there.http.post("/v1/chat/completions", json={}, headers=GOOD)
        assert first.status_code == 503, "nobody is there"
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert first.headers["x-ratelimit-remaining-tokens"] == "1000"
        again = await there.http.post("/v1/messages", json={}, headers=GOOD)
        assert again.status_code == 429
        assert again.json()["error"]["type"] == "rate_limit_error"
        assert int(again.headers["retry-after"]) == 59, "more is not heeded"
        assert again.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-should-retry" not in again.headers
        for path in ("/info", "/metrics", "/nothing"):
            assert await status(there, path, **GOOD) != 429, "only the engine's work is limited"
        bobs = {"x-api-key": "sk-bob-0123456789"}
        assert (await there.http.get("/v1/models", headers=bobs)).status_code == 503
    line = access_log()[1]
    assert (line["key"], line["outcome"], line["error"]) == (
        "alice",
        "rejected",
        "rate_limit_exceeded",
    )


async def test_who_has_no_key_uses_up_nothing() -> None:
    async with house(Phase.READY, KEY_LIMITS="all: rpm=1", **KEYS) as there:
        for _ in range(5):
            assert (await there.chat()).status_code == 401
        assert await status(there, "/v1/models", **GOOD) == 503
        assert await status(there, "/v1/models", **GOOD) == 429
