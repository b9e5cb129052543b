"""What is not on the allow-list is 404 and never comes to the engine, however it is written."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks.paths import CONTROL, DISGUISES, HEADERS, OWN_PAGES, TARGETS, disguised
from tests.attacks.smuggling import ATTACKS
from tests.fuzz.making import repeatable, spoilt
from tests.fuzz.paths import ALLOWED, matched
from tests.wire.client import Client, Ended, new_id
from tests.wire.service import Sidecar

LISTED = re.compile(
    r"/v1/(?:models(?:/[^?]*)?|completions|chat/completions|messages|embeddings)(?:\?.*)?"
)
LEAKS = re.compile(
    rb"Traceback|File \"|site-packages|/proxy/|\.py\b|/tmp/|/home/|/root/|0x[0-9a-f]{8}"
)
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def raw(method: str, target: str, request_id: str, *headers: tuple[str, str]) -> bytes:
    names = {name for name, _ in headers}
    pairs = [*headers, ("x-request-id", request_id), ("content-length", "0")]
    pairs += [] if "host" in names else [("host", "x")]
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Asker:
    """Sends requests over one connection for as long as it is open."""

    def __init__(self, service: Sidecar) -> None:
        self._service = service
        self._client: Client | None = None

    def ask(self, data: bytes) -> tuple[int, bytes]:
        """Status and body."""
        if self._client is None:
            self._client = self._service.connect()
        self._client.send(data)
        answer = self._client.answer()
        if answer.all("connection") == ["close"]:
            self.close()
        return answer.status, answer.body

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


@pytest.fixture
def asker(service: Sidecar) -> Iterator[Asker]:
    one = Asker(service)
    yield one
    one.close()


@pytest.mark.parametrize("path", CONTROL)
def test_no_disguise_brings_a_control_route_to_the_engine(
    service: Sidecar, asker: Asker, path: str
) -> None:
    own = path.rstrip("/") in OWN_PAGES
    for disguise in DISGUISES:
        for method in ("GET", "POST"):
            target = disguised(path, disguise)
            status, body = asker.ask(raw(method, target, new_id()))
            assert status in (400, 404) or own, (method, target, status)
            assert not LEAKS.search(body), (method, target)
    assert service.relayed() == []


@pytest.mark.parametrize("target", TARGETS)
def test_no_other_form_of_a_listed_path_comes_to_the_engine(service: Sidecar, target: str) -> None:
    for method in ("GET", "POST"):
        with service.connect() as client:
            client.send(raw(method, target, new_id()))
            answer = client.answer()
        assert answer.status in (400, 404), target
        assert not LEAKS.search(answer.body)
    assert service.relayed() == []


@pytest.mark.parametrize("header", HEADERS, ids=": ".join)
def test_no_header_changes_where_a_request_goes(service: Sidecar, header: tuple[str, str]) -> None:
    for path, expected in (("/sleep", (400, 404)), ("/v1/models", (200, 400))):
        with service.connect() as client:
            client.send(raw("GET", path, new_id(), header))
            answer = client.answer()
        assert answer.status in expected
    assert {each.target for each in service.relayed()} <= {"/v1/models"}
    assert {each.method for each in service.relayed()} <= {"GET"}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_request_inside_another_never_comes_to_the_engine(service: Sidecar, name: str) -> None:
    data, _ = ATTACKS[name]
    got = exchanged(service, data, seconds=0.4)
    assert not LEAKS.search(got)
    assert all(status < b"500" for status in STATUS.findall(got)), got
    service.wait_until_idle()
    for each in service.engine.requests():
        assert "sleep" not in each.target
        if each.header("x-request-id"):
            assert LISTED.fullmatch(each.target), each.target


# A fuzzer -------------------------------------------------------------------------------------

_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SEEDS = (
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/models/a%20b?x=1#y HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    _HEAD + b'Content-Length: 14\r\n\r\n{"prompt":"x"}',
    _HEAD + b'Transfer-Encoding: chunked\r\n\r\ne\r\n{"prompt":"x"}\r\n0\r\n\r\n',
    b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
)
WORDS = (
    *(b"/sleep", b"/v1/models/", b"/..", b"%2e%2e", b"%2f", b"%00", b"//", b"\\", b";", b"?", b"#"),
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"\x00",
        b"\x0b",
        b"\xff",
        b"\xc3\xbc",
        b"GET ",
        b",",
    ),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/9.9", b"http://y", b"Host: ", b"Connection: close\r\n"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"Expect: x\r\n"),
    *(b"Authorization: Bearer secret-word\r\n", b"X-Request-Id: a\r\n", b"traceparent: 00-0\r\n"),
    *(b"X-Original-URL: /sleep\r\n", b"Upgrade: h2c\r\n", b"A" * 300, b"x-fake: {}\r\n"[:6]),
)


@settings(repeatable, max_examples=200)
@given(st.data())
def test_any_head_gets_no_5xx_reaches_nothing_unlisted_and_learns_nothing(
    data: st.DataObject,
) -> None:
    sidecar = _Fuzzed.service
    assert sidecar is not None
    got = exchanged(sidecar, data.draw(spoilt(SEEDS, WORDS)), seconds=0.03)
    assert all(status < b"500" for status in STATUS.findall(got)), got
    assert not LEAKS.search(got)
    assert b"secret-word" not in got
    for each in sidecar.relayed():
        path = each.target.partition("?")[0]
        assert path in ALLOWED or LISTED.fullmatch(path), each.target
        assert matched(path) <= ALLOWED
    sidecar.engine.reset()


class _Fuzzed:
    """Hypothesis and fixtures of functions do not go together."""

    service: Sidecar | None = None


@pytest.fixture(autouse=True)
def fuzzed(service: Sidecar) -> Iterator[None]:
    _Fuzzed.service = service
    yield
    _Fuzzed.service = None


def exchanged(service: Sidecar, data: bytes, *, seconds: float) -> bytes:
    """All that comes back until the other side closes, or says nothing for so long."""
    got = b""
    with service.connect(seconds=seconds) as client:
        client.send(data)
        with suppress(Ended, TimeoutError, ConnectionError, socket.timeout):
            while True:
                got += client.receive()
    return got
