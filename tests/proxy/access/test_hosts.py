"""By which names web pages may ask for this server: against DNS rebinding."""

from __future__ import annotations

import pytest

from proxy.access.hosts import Hosts
from proxy.engine.phase import Phase
from tests.proxy.house import house

EVIL = "evil.example:8000"
# What Chromium sends over plain HTTP, what a page can make of it, and what Node.js sends.
BROWSER = {"accept-language": "en-US,en;q=0.9", "user-agent": "Mozilla/5.0"}
FORGED = {
    "accept-language": "*",
    "user-agent": "curl/8",
    "x-forwarded-for": "1.2.3.4",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "localhost",
    "cf-ray": "1",
}
NODE = {"accept-language": "*", "sec-fetch-mode": "cors", "user-agent": "node"}
OVER_TLS = {**BROWSER, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
SOCKET_OVER_TLS = {**BROWSER, "origin": "https://pod-8000.proxy.runpod.net"}
PROGRAM = {"accept": "*/*", "user-agent": "OpenAI/Python 3.3.1"}


def may(hosts: Hosts, host: str | None, **headers: str) -> bool:
    pairs = headers if host is None else {"host": host, **headers}
    return hosts.check({name.encode(): value.encode() for name, value in pairs.items()}) is None


@pytest.mark.parametrize(
    "headers",
    [BROWSER, FORGED, {"origin": "http://evil.example:8000"}, {"origin": "null"}, FORGED | BROWSER],
)
@pytest.mark.parametrize(
    "host",
    [EVIL, "evil.example", "EVIL.example.", "127.0.0.1.nip.io", "localhost.evil.example", "1.2.3"],
)
def test_a_page_may_not_ask_by_a_name_that_is_anybodys(host: str, headers: dict[str, str]) -> None:
    assert not may(Hosts(()), host, **headers)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8000", "10.1.2.3", "[::1]:8000", "[fd00::1]", "localhost:8000", "sidecar"),
        *("LOCALHOST", "me.localhost", "gpu.local", "host.docker.internal:8000", "gpu.lan", ""),
        *("llm.default.svc.cluster.local:8000", None),
    ],
)
def test_it_may_by_an_address_and_by_a_name_of_ones_own_network(host: str | None) -> None:
    assert may(Hosts(()), host, **BROWSER)


@pytest.mark.parametrize("headers", [PROGRAM, NODE, OVER_TLS, SOCKET_OVER_TLS, {}])
def test_programs_may_by_any_name_and_pages_where_tls_is_in_front(headers: dict[str, str]) -> None:
    assert may(Hosts(()), "pod-8000.proxy.runpod.net", **headers)
    assert may(Hosts(()), EVIL, **headers)


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        (["evil.example"], EVIL, True),
        (["Evil.Example"], "EVIL.example", True),
        (["evil.example"], "a.evil.example", False),
        (["*.evil.example"], "a.evil.example", True),
        (["*.evil.example"], "a.b.evil.example", True),
        (["*.evil.example"], "evil.example", False),
        (["*.evil.example"], "notevil.example", False),
        (["*"], EVIL, True),
    ],
)
def test_names_that_are_listed_are_allowed(names: list[str], host: str, expected: bool) -> None:
    assert may(Hosts(names), host, **BROWSER) is expected


def test_pages_that_may_read_everything_may_by_any_name() -> None:
    page = {"origin": "http://chat.example.com"}
    assert may(Hosts((), ["http://chat.example.com"]), EVIL, **BROWSER, **page)
    assert not may(Hosts((), ["http://chat.example.com"]), EVIL, **BROWSER)
    assert may(Hosts((), ["*"]), EVIL, **BROWSER)


def test_the_refusal_names_the_variable_and_repeats_no_endless_name() -> None:
    headers = {b"origin": b"http://x", b"host": b"x." * 5000}
    failure = Hosts(()).check(headers)
    assert failure is not None
    assert "ALLOWED_HOSTS" in failure.message
    assert len(failure.message) < 400
    assert "\n" not in failure.message


@pytest.mark.parametrize("path", ["/info", "/metrics", "/dashboard", "/v1/models", "/nothing"])
async def test_every_path_is_meant_where_no_key_is_needed(path: str) -> None:
    headers = {"host": EVIL, **BROWSER}
    async with house(Phase.READY) as there:
        answer = await there.http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
    async with house(ALLOWED_HOSTS="evil.example") as there:
        answer = await there.http.get(path, headers=headers)
        assert answer.status_code != 403
    async with house(API_KEYS="a:sk-0123456789abcdef") as there:
        answer = await there.http.get(path, headers=headers)
        assert answer.status_code in (200, 401)
