"""CORS: whom a browser lets ask, and read the answer."""

from __future__ import annotations

import pytest

from proxy.access.cors import Cors
from proxy.engine.phase import Phase
from proxy.server.request import Request
from tests.proxy.house import house
from tests.proxy.server.exchanges import request_of

PAGE, OTHER = "https://chat.example.com", "https://evil.example.com"
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
PATHS = ("/v1/chat/completions", "/health", "/nothing", "/pause")
CHAT = "/v1/chat/completions"


def request(method: str = "GET", **headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return request_of(method, headers=pairs)


def allowed(cors: Cors, **headers: str) -> dict[bytes, bytes]:
    lines = cors.lines(request(**headers)).splitlines()
    return {name: value for name, _, value in (line.partition(b": ") for line in lines)}


@pytest.mark.parametrize(
    ("origins", "origin", "expected"),
    [
        ([PAGE], PAGE, PAGE.encode()),
        (["http://a", PAGE], PAGE, PAGE.encode()),
        (["https://Chat.Example.com"], PAGE, PAGE.encode()),
        (["*"], OTHER, b"*"),
        ([PAGE], OTHER, None),
        ([PAGE], "null", None),
        ([PAGE], PAGE + ".evil.com", None),
        ([PAGE], PAGE.upper(), None),
        ([PAGE], "", None),
        (["*"], "", None),
    ],
)
def test_an_origin_is_allowed_as_it_is_written(
    origins: list[str], origin: str, expected: bytes | None
) -> None:
    found = allowed(Cors(origins), origin=origin)
    assert found.get(b"access-control-allow-origin") == expected
    assert (b"vary" in found) == ("*" not in origins)
    assert b"access-control-allow-credentials" not in found


HERE = "box.example.com"


@pytest.mark.parametrize(
    ("origins", "headers", "may"),
    [
        ([], {"host": HERE}, True),
        ([], {"host": HERE, "origin": ""}, True),
        ([], {"host": HERE, "origin": f"https://{HERE}"}, True),
        ([], {"host": f"{HERE}:8000", "origin": f"http://{HERE}:3000"}, True),
        ([], {"host": HERE.upper(), "origin": f"https://{HERE}"}, True),
        ([], {"host": "[::1]:8000", "origin": "http://[::1]:3000"}, True),
        ([], {"host": "10.0.0.5:8000", "origin": f"https://{HERE}"}, False),
        ([], {"host": "10.0.0.5", "x_forwarded_host": HERE, "origin": f"https://{HERE}"}, True),
        ([], {"host": "a", "x_forwarded_host": f"b, {HERE}", "origin": f"https://{HERE}"}, True),
        ([], {"host": HERE, "origin": OTHER}, False),
        ([], {"host": HERE, "origin": f"https://{HERE}.evil.com"}, False),
        ([], {"host": HERE, "origin": f"https://evil.com/{HERE}"}, False),
        ([], {"host": HERE, "origin": "null"}, False),
        ([], {"host": HERE, "origin": "file://"}, False),
        ([], {"host": "", "origin": "file://"}, False),
        ([], {"origin": "null"}, False),
        ([], {"host": "[", "origin": "http://["}, False),
        ([PAGE], {"host": HERE, "origin": PAGE}, True),
        ([PAGE], {"host": HERE, "origin": OTHER}, False),
        (["*"], {"host": HERE, "origin": OTHER}, True),
        (["*"], {"host": HERE, "origin": "null"}, True),
    ],
)
def test_a_page_of_this_host_or_of_an_allowed_origin_may_open_a_session(
    origins: list[str], headers: dict[str, str], may: bool
) -> None:
    failure = Cors(origins).check_websocket_origin(request(**headers))
    assert (failure is None) is may
    if failure is not None:
        assert headers["origin"] in failure.message
        assert "CORS_ORIGINS" in failure.message


def test_an_origin_that_goes_on_and_on_is_not_repeated_whole() -> None:
    failure = Cors([]).check_websocket_origin(request(host=HERE, origin="https://" + "x" * 10_000))
    assert failure is not None
    assert len(failure.message) < 300


def test_only_a_preflight_is_one() -> None:
    cors = Cors([PAGE])
    assert cors.preflight(request("OPTIONS", origin=PAGE)) is None
    assert cors.preflight(request("OPTIONS", access_control_request_method="POST")) is None
    asks = {"origin": PAGE, "access_control_request_method": "POST"}
    assert cors.preflight(request("POST", **asks)) is None
    assert cors.preflight(request("OPTIONS", **asks)) is not None


@pytest.mark.parametrize("names", ["", "a\r\nset-cookie: b", "a b", "x" * 5000, ","])
def test_names_of_headers_that_are_none_are_not_repeated(names: str) -> None:
    asks = {"access_control_request_method": "POST", "access_control_request_headers": names}
    answer = dict(Cors(["*"]).preflight(request("OPTIONS", origin=PAGE, **asks)) or ())
    assert b"access-control-allow-headers" not in answer
    assert b"access-control-allow-methods" in answer


@pytest.mark.parametrize("path", PATHS)
async def test_a_preflight_needs_no_key_and_no_engine(path: str) -> None:
    async with house(CORS_ORIGINS=PAGE, API_KEYS="a:sk-0123456789abcdef") as there:
        answer = await there.http.request("OPTIONS", path, headers={"origin": PAGE, **ASKS})
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-allow-headers"] == "x-api-key"
        assert "POST" in answer.headers["access-control-allow-methods"]
        foreign = await there.http.request("OPTIONS", path, headers={"origin": OTHER, **ASKS})
        assert foreign.status_code == 204
        assert not [name for name in foreign.headers if name.startswith("access-control")]


async def test_every_answer_may_be_read_also_a_refusal() -> None:
    key = {"x-api-key": "sk-0123456789abcdef"}
    environ = {"API_KEYS": "a:sk-0123456789abcdef", "KEY_LIMITS": "rpm=1"}
    async with house(Phase.READY, CORS_ORIGINS=PAGE, **environ) as there:
        for status, path, headers in (
            (200, "/health", {}),
            (200, "/info", key),
            (401, CHAT, {}),
            (404, "/nothing", key),
            (503, "/v1/models", key),
            (429, CHAT, key),
        ):
            answer = await there.get(path, headers={"origin": PAGE, **headers})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["vary"] == "origin"
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert answer.headers["x-ratelimit-limit-requests"] == "1"


async def test_without_origins_there_is_no_cors() -> None:
    async with house(Phase.READY) as there:
        answer = await there.get("/health", headers={"origin": PAGE})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        asked = await there.http.request("OPTIONS", CHAT, headers={"origin": PAGE, **ASKS})
        assert asked.status_code == 503, "it is the engine's"
