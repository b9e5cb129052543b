"""What a translated client cannot take from the engine, and what it is not told."""

from __future__ import annotations

import pytest

from proxy.access.routes import Route
from proxy.errors import BodyTooLarge, InvalidEngineResponse
from proxy.protocols.generate import Generate
from proxy.relay import translation as translating
from proxy.relay.translation import Translation
from proxy.server.request import Headers
from tests.proxy.server.exchanges import FakeConnection, exchange_on, request_of

JSON: Headers = [(b"content-type", b"application/json")]
# In any case, and by the first of equal headers.
STREAM: Headers = [(b"content-type", b"Text/Event-Stream"), (b"content-type", b"text/plain")]


class Plain(Generate):
    answer_type = "text/plain"
    stream_type = "application/x-ndjson"


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


def translation(
    connection: FakeConnection, body: bytes = b"", protocol: Generate | None = None
) -> Translation:
    headers = [*JSON, (b"accept-encoding", b"gzip"), (b"content-length", b"9")]
    request = request_of("POST", b"/generate_stream", headers)
    exchange = exchange_on(connection, request=request)
    exchange.feed(body)
    exchange.complete()
    return Translation(exchange, Route.GENERATE, protocol or Generate(), "id")


def test_the_engine_is_not_asked_for_what_could_not_be_read(connection: FakeConnection) -> None:
    assert translation(connection).headers == [(b"content-length", b"9"), *JSON]


async def test_a_body_too_large_to_translate_is_refused(
    connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translating, "MAX_REQUEST_BYTES", 20)
    with pytest.raises(BodyTooLarge, match="/generate_stream"):
        await translation(connection, b'{"prompt": "' + b"a" * 20 + b'"}').whole_body(1000)


def test_an_answer_too_large_to_translate_is_given_up(
    connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translating, "MAX_ANSWER_BYTES", 20)
    one = translation(connection)
    one.start(200, JSON)
    one.write(b"x" * 20)
    with pytest.raises(InvalidEngineResponse, match="cannot be translated"):
        one.write(b"x")
    assert connection.wire.writes == [], "so that the client can be told"


async def test_another_kind_of_answer_begins_with_no_blanks_and_has_no_comments(
    connection: FakeConnection,
) -> None:
    one = translation(connection, b'{"prompt": "a"}', Plain())
    await one.whole_body(100)
    assert (one.route, one.target) == (Route.COMPLETIONS, b"/v1/completions")
    one.pad(JSON)
    assert connection.wire.writes == []
    one.start(200, STREAM)
    one.write(b": keep-alive\n\n")
    one.write(b'data: {"choices": [{"index": 0, "text": "b"}]}\n\n: x\n\n')
    one.end(b"data: [DONE]")
    head, _, body = b"".join(connection.wire.writes).partition(b"\r\n\r\n")
    assert b"content-type: application/x-ndjson\r\n" in head
    assert body == (b'1e\r\ndata: {"text":"b","index":0}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n')


async def test_an_end_that_cannot_be_read_is_told_and_ends_the_stream(
    connection: FakeConnection,
) -> None:
    one = translation(connection, b'{"prompt": "a"}')
    await one.whole_body(100)
    one.start(200, STREAM)
    with pytest.raises(InvalidEngineResponse):
        one.end(b"data: nothing")
    written = b"".join(connection.wire.writes)
    assert b'"code":"engine_garbled"' in written
    assert written.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=repr)
async def test_further_blank_lines_between_events_are_nothing(
    connection: FakeConnection, end: bytes
) -> None:
    one = translation(connection, b'{"prompt": "a"}')
    await one.whole_body(100)
    one.start(200, STREAM)
    one.write(b'data: {"choices": [{"index": 0, "text": "b"}]}' + 3 * end)
    one.end(b"data: [DONE]" + end)
    *_, body = b"".join(connection.wire.writes).partition(b"\r\n\r\n")
    assert body == (b'1e\r\ndata: {"text":"b","index":0}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n')
