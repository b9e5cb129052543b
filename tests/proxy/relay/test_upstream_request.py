"""A body with media on its way to the engine: who holds what, and until when."""

from __future__ import annotations

import sys

import pytest
from msgspec import structs

from proxy.access.routes import Route
from proxy.relay.headers import UPGRADE
from proxy.relay.upstream_request import UpstreamRequest, upstream_request
from proxy.telemetry.record import Record
from tests.proxy.relay.routing import FakeMedia
from tests.proxy.server.exchanges import FakeConnection, exchange_on, request_of

BODY = b'{"stream": true, "messages": []}'
PIECES = [b'{"stream": true, "messages": [', b"data:,x", b"]}"]


async def content_with(media: FakeMedia, record: Record | None = None) -> UpstreamRequest:
    record = record or Record("POST", "/v1/chat/completions", Route.CHAT)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    exchange = exchange_on(FakeConnection(), request=request_of(headers=headers))
    exchange.feed(BODY)
    exchange.complete()
    asked = await upstream_request(exchange, exchange, Route.CHAT, 1000, record)
    await asked.resolve_media(exchange, media, record)
    return asked


async def test_a_request_that_runs_tells_what_it_holds() -> None:
    """The engine may die meanwhile, and its log line is of that moment."""
    record = Record("POST", "/v1/chat/completions", Route.CHAT)
    await content_with(FakeMedia(None), record)
    assert (record.bytes_in, record.modalities) == (len(BODY), ["text"])


async def test_the_wait_of_a_request_without_a_body_is_no_time_of_ours() -> None:
    record = Record("GET", "/v1/models", Route.MODELS, started=100.0, waited_seconds=30.0)
    exchange = exchange_on(FakeConnection(), request=request_of("GET", headers=[]))
    await upstream_request(exchange, exchange, Route.MODELS, 1000, record)
    record.sent = 130.25
    assert (record.overhead_seconds, record.split_seconds["receiving"]) == (0.25, 0.0)
    assert record.body_read == 130.0


async def test_media_are_held_until_the_engine_has_read_them() -> None:
    media = FakeMedia(PIECES)
    content = await content_with(media)
    assert content.pieces is not None
    pieces = []
    async for piece in content.pieces:
        assert not media.given_back
        pieces.append(bytes(piece))
    assert media.given_back == 1
    meant = b"".join(PIECES)[:-1] + b',"stream_options":{"include_usage":true}}'
    assert b"".join(pieces) == meant
    assert (content.length, content.adds_usage) == (len(meant), True)


async def test_a_request_with_media_is_told_from_others_by_what_its_client_has_sent() -> None:
    """What it leads to is not kept while the engine works."""
    content = await content_with(FakeMedia(PIECES))
    assert (content.parts, content.fingerprinted) == ((), (BODY,))
    plain = await content_with(FakeMedia(None))
    assert plain.fingerprinted == plain.parts
    assert b"".join(plain.parts).startswith(BODY[:-1])
    assert plain.pieces is None


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (b"", None),
        (b"a=b&model=org%2Fname&model=x", "org/name"),
        (b"a=b&" * 50_000 + b"model=x", "x"),
        (b"model=" + b"x" * 100_000, "x" * 4096),
    ],
)
async def test_a_session_names_its_model_in_its_query(query: bytes, name: str | None) -> None:
    """No more of it than of a body's is kept with the last requests; nothing else is looked at."""
    request = structs.replace(request_of(headers=[]), path=b"/v1/realtime", query=query)
    exchange = exchange_on(FakeConnection(), request=request)
    exchange.is_session = True
    record = Record("GET", "/v1/realtime", Route.REALTIME)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    asked = await upstream_request(exchange, exchange, Route.REALTIME, 1, record, is_routed=True)
    sys.setprofile(None)
    assert (record.model, asked.framing()) == (name, UPGRADE)
    assert calls < 10_000
