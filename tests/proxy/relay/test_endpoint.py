"""The last bytes of a stream, and a client that does not read them."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, cast

import pytest

from proxy.access.routes import Route
from proxy.errors import EngineTimeout
from proxy.relay.answer import StreamedAnswer
from proxy.relay.connection import Connection
from proxy.relay.deadline import Deadline
from proxy.relay.endpoint import pass_on
from proxy.relay.event import event_reader
from proxy.telemetry.record import Record
from tests.proxy.server.exchanges import FakeConnection, exchange_on


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
    answer = StreamedAnswer(event_reader(Route.CHAT), record, withhold_usage=False)
    deadline = Deadline(0.01, None)
    deadline.watch(engine, monotonic())
    with pytest.raises(EngineTimeout):
        await pass_on(exchange, exchange, Route.CHAT, engine, answer, deadline)
    assert (client.wire.is_aborted, exchange.is_over) == (True, False)
