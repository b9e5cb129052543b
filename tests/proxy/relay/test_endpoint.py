"""How the journey of a request ends: unread bytes, and media that the engine does not get."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, cast

import pytest

from proxy.access.admission import Admission, Watch
from proxy.access.poison import PoisonGuard
from proxy.access.routes import Route
from proxy.errors import EngineTimeout, EngineUnreachable
from proxy.relay.answer import StreamedAnswer
from proxy.relay.connection import Connection
from proxy.relay.deadline import Deadline
from proxy.relay.endpoint import Limits, Relay, pass_on
from proxy.relay.event import EVENT_READERS
from proxy.relay.in_flight import InFlightRequests
from proxy.relay.lifecycle import RequestLifecycle
from proxy.relay.upstream import Upstream
from proxy.telemetry.record import Record
from tests.proxy.relay.routing import FakeMedia, OneModel
from tests.proxy.server.exchanges import FakeConnection, exchange_on, request_of


class _Unread(FakeConnection):
    """A client's connection that is behind, and stays so."""

    async def drain(self) -> None:
        await asyncio.Event().wait()


class _Whole:
    """The engine's connection: all of the stream has come."""

    closed = False
    last_byte = None

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self, failure: Exception) -> None: ...

    async def pass_on(self, sink: Any, fast_path: Any) -> bytes:
        return b'data: {"choices":[]}\n\ndata: [DONE]\n\n'


async def test_the_end_of_a_stream_that_is_not_read_in_time_is_no_end() -> None:
    client = _Unread()
    client.is_write_paused = True
    exchange = exchange_on(client)
    exchange.start(200, [(b"content-type", b"text/event-stream")])
    engine = cast("Connection", _Whole())
    record = Record("POST", "/v1/chat/completions", Route.CHAT)
    answer = StreamedAnswer(EVENT_READERS[Route.CHAT], record, withhold_usage=False)
    deadline = Deadline(0.01, None)
    deadline.watch(engine, monotonic())
    with pytest.raises(EngineTimeout):
        await pass_on(exchange, exchange, Route.CHAT, engine, answer, deadline)
    assert (client.wire.is_aborted, exchange.is_over) == (True, False)


class _Gone:
    """An upstream that accepts no connection."""

    async def connection(self) -> Any:
        raise EngineUnreachable("gone")


class _Slow:
    """Another one, which accepts none in time."""

    async def connection(self) -> Any:
        raise EngineTimeout("slow")


async def test_media_that_the_engine_does_not_read_are_given_back_with_the_request() -> None:
    media = FakeMedia()
    in_flight = InFlightRequests(PoisonGuard(enabled=True))
    models = OneModel(Admission(), in_flight, cast("Upstream", _Gone()))
    relay = Relay(models, RequestLifecycle(models), Limits(1000), media)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    client = FakeConnection()
    exchange = exchange_on(client, request=request_of(headers=headers))
    exchange.feed(b"{}")
    exchange.complete()
    await relay(exchange, Route.CHAT)
    assert media.given_back == 1
    assert b" 503 " in b"".join(client.wire.writes)[:20]


async def test_a_request_that_was_held_asks_the_engine_that_the_model_has_then() -> None:
    class Held(Admission):
        holds = True

        async def hold_again(self, key: str | None = None, watch: Watch | None = None) -> float:
            models.upstream = cast("Upstream", _Slow())  # as a reload does
            return 1.0

    in_flight = InFlightRequests(PoisonGuard(enabled=True))
    models = OneModel(Held(), in_flight, cast("Upstream", _Gone()))
    relay = Relay(models, RequestLifecycle(models), Limits(1000), FakeMedia())
    client = FakeConnection()
    exchange = exchange_on(client)
    exchange.complete()
    await relay(exchange, Route.VERSION)
    assert b" 504 " in b"".join(client.wire.writes)[:20]
