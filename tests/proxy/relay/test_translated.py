"""What a translated client cannot take from the engine, and what it is not told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message

from proxy.edge.routes import Route
from proxy.errors import BodyTooLarge, EngineGarbled
from proxy.protocols.generate import Generate
from proxy.relay import translated
from proxy.relay.client import EXCHANGE
from proxy.relay.headers import Headers
from proxy.relay.translated import TranslatedClient
from proxy.telemetry.record import Record

JSON: Headers = [(b"content-type", b"application/json")]
STREAM: Headers = [(b"content-type", b"text/event-stream")]


class Kept:
    """An exchange that keeps what is written to it."""

    began = 0.0
    failure = None

    def __init__(self, body: bytes = b"") -> None:
        self.body = bytearray(body)
        self.heads: list[tuple[int, Headers]] = []
        self.written = b""

    @property
    def body_bytes(self) -> int:
        return len(self.written)

    async def whole_body(self, limit_bytes: int) -> tuple[bytearray, bool]:
        return self.body, True

    def watch(self, on_leave: Callable[[], None] | None) -> None: ...

    def start(self, status: int, headers: Headers, lines: bytes = b"") -> None:
        self.heads.append((status, headers))

    def write(self, data: bytes) -> bool:
        self.written += data
        return True

    def end(self, data: bytes) -> None:
        self.written += data

    def when_writable(self, call: Callable[[], None] | None) -> None: ...

    async def caught_up(self) -> None: ...

    def abort(self) -> None: ...


class Plain(Generate):
    answer_type = "text/plain"
    stream_type = "application/x-ndjson"


def client(exchange: Kept, protocol: Generate | None = None) -> TranslatedClient:
    async def receive() -> Message:
        raise AssertionError("the body is the exchange's")

    scope: dict[str, Any] = {
        "method": "POST",
        "path": "/generate_stream",
        "raw_path": b"/generate_stream",
        "query_string": b"",
        "headers": [*JSON, (b"accept-encoding", b"gzip"), (b"content-length", b"9")],
        EXCHANGE: exchange,
    }
    record = Record("POST", "/generate_stream", Route.GENERATE)
    return TranslatedClient(scope, receive, record, Route.GENERATE, protocol or Generate())


def test_the_engine_is_not_asked_for_what_could_not_be_read() -> None:
    assert client(Kept()).headers == [(b"content-length", b"9"), *JSON]


@pytest.mark.parametrize("head", [JSON, STREAM])
def test_a_compressed_answer_cannot_be_translated(head: Headers) -> None:
    with pytest.raises(EngineGarbled, match="compressed"):
        client(Kept()).start(200, [*head, (b"content-encoding", b"gzip")])


async def test_a_body_too_large_to_translate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translated, "MAX_REQUEST_BYTES", 20)
    with pytest.raises(BodyTooLarge, match="/generate_stream"):
        await client(Kept(b'{"prompt": "' + b"a" * 20 + b'"}')).whole_body(1000)


def test_an_answer_too_large_to_translate_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translated, "MAX_ANSWER_BYTES", 20)
    one = client(Kept())
    one.start(200, JSON)
    one.write(b"x" * 20)
    with pytest.raises(EngineGarbled, match="cannot be translated"):
        one.write(b"x")
    assert not one.started, "so that the client can be told"


async def test_another_kind_of_answer_begins_with_no_blanks_and_has_no_comments() -> None:
    exchange = Kept(b'{"prompt": "a"}')
    one = client(exchange, Plain())
    await one.whole_body(100)
    assert (one.route, one.target) == (Route.COMPLETIONS, b"/v1/completions")
    one.beat(JSON)
    assert exchange.heads == []
    one.start(200, STREAM)
    one.write(b": keep-alive\n\n")
    one.write(b'data: {"choices": [{"index": 0, "text": "b"}]}\n\n: x\n\n')
    one.end(b"data: [DONE]")
    assert exchange.heads == [(200, [(b"content-type", b"application/x-ndjson")])]
    assert exchange.written == b'data: {"text":"b","index":0}\n\ndata: [DONE]\n\n'


async def test_an_end_that_cannot_be_read_is_told_and_ends_the_stream() -> None:
    exchange = Kept(b'{"prompt": "a"}')
    one = client(exchange)
    await one.whole_body(100)
    one.start(200, STREAM)
    with pytest.raises(EngineGarbled):
        one.end(b"data: nothing")
    assert b'"code":"engine_garbled"' in exchange.written
    assert exchange.written.endswith(b"data: [DONE]\n\n")
