"""An exchange: what goes out on the client's connection, and when."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from proxy.errors import MalformedRequest
from proxy.exchange import Exchange
from proxy.relay.client import Pace
from proxy.relay.headers import Headers

JSON: Headers = [(b"content-type", b"application/json")]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


class Wire:
    """A transport that remembers its writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Connection:
    """What an exchange needs of its connection."""

    began = 1.0
    gone = False
    on_leave: Any = None
    pace: Any = None

    def read_on(self) -> None: ...


class Cycle:
    """What an exchange needs of uvicorn's cycle."""

    def __init__(self, method: str = "POST", http_version: str = "1.1") -> None:
        self.wire = Wire()
        self.transport = cast("asyncio.Transport", self.wire)
        self.flow = FlowControl(self.transport)
        self.scope = {"method": method, "http_version": http_version}
        self.keep_alive = http_version == "1.1"
        self.body = bytearray()
        self.more_body = True
        self.message_event = asyncio.Event()
        self.waiting_for_100_continue = False
        self.response_started = self.response_complete = False
        self.disconnected = False
        self.responses = 0

    def on_response(self) -> None:
        self.responses += 1

    def receive(self, piece: bytes, *, more: bool = True) -> None:
        self.body += piece
        self.more_body = more
        self.message_event.set()


def exchange_of(cycle: Cycle, connection: Connection | None = None) -> Exchange:
    return Exchange(connection or Connection(), cast("Any", cycle))


def test_the_head_goes_out_with_what_is_written_next() -> None:
    cycle = Cycle()
    exchange = exchange_of(cycle)
    exchange.start(200, JSON)
    assert cycle.wire.writes == []
    exchange.write(b"one")
    exchange.write(b"two")
    exchange.end(b"")
    assert cycle.wire.writes == [CHUNKED + b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]


def test_the_head_alone_goes_out_where_nothing_follows_yet() -> None:
    cycle = Cycle()
    exchange = exchange_of(cycle)
    exchange.start(200, JSON)
    exchange.write(b"")
    assert cycle.wire.writes == [CHUNKED]


def test_a_whole_answer_is_one_write_and_leaves_the_connection_open() -> None:
    cycle = Cycle()
    exchange = exchange_of(cycle)
    exchange.start(200, [*JSON, (b"content-length", b"2")])
    exchange.end(b"{}")
    assert cycle.wire.writes == [HEAD + b"content-length: 2\r\n\r\n{}"]
    assert (cycle.response_complete, cycle.responses, cycle.wire.closed) == (True, 1, False)
    assert exchange.body_bytes == 2


def test_the_last_bytes_go_out_with_the_end() -> None:
    cycle = Cycle()
    exchange = exchange_of(cycle)
    exchange.start(200, JSON)
    exchange.end(b"last")
    assert cycle.wire.writes == [CHUNKED + b"4\r\nlast\r\n0\r\n\r\n"]


def test_http_1_0_gets_no_chunks_but_the_end_of_the_connection() -> None:
    cycle = Cycle(http_version="1.0")
    exchange = exchange_of(cycle)
    exchange.start(200, JSON)
    exchange.write(b"one")
    exchange.end(b"two")
    assert cycle.wire.writes == [HEAD + b"connection: close\r\n\r\none", b"two"]
    assert cycle.wire.closed


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_no_framing_where_no_body_follows(method: str, status: int) -> None:
    cycle = Cycle(method)
    exchange = exchange_of(cycle)
    exchange.start(status, [])
    exchange.end(b"")
    (written,) = cycle.wire.writes
    assert written.endswith(b"\r\n\r\n")
    assert b"transfer-encoding" not in written


def test_a_refusal_of_head_has_no_body() -> None:
    cycle = Cycle("HEAD")
    exchange = exchange_of(cycle)
    exchange.start(404, [*JSON, (b"content-length", b"2")])
    exchange.end(b"{}")
    assert cycle.wire.writes == [
        HEAD.replace(b"200 OK", b"404 Not Found") + b"content-length: 2\r\n\r\n"
    ]
    assert exchange.body_bytes == 0


def test_nothing_is_written_to_a_client_that_has_left() -> None:
    cycle, connection = Cycle(), Connection()
    exchange = exchange_of(cycle, connection)
    exchange.start(200, JSON)
    connection.gone = True
    exchange.write(b"one")
    exchange.end(b"two")
    assert cycle.wire.writes == []
    assert not cycle.response_complete


def test_a_client_that_was_behind_before_is_told_of_at_once() -> None:
    cycle, told = Cycle(), []
    exchange = exchange_of(cycle)
    pace = Pace(lambda: told.append("behind"), lambda: told.append("caught up"))
    exchange.keep_pace(pace)
    assert told == []
    cycle.flow.pause_writing()
    exchange.keep_pace(pace)
    assert told == ["behind"]


def test_leaving_is_told_once_also_where_it_was_before() -> None:
    connection, told = Connection(), []
    exchange = exchange_of(Cycle(), connection)
    exchange.watch(lambda: told.append("during"))
    connection.on_leave()
    connection.gone = True
    exchange.watch(lambda: told.append("before"))
    assert told == ["during", "before"]


async def test_a_body_is_taken_without_a_copy_when_it_is_whole() -> None:
    cycle = Cycle()
    cycle.flow.pause_reading()
    taking = asyncio.create_task(exchange_of(cycle).whole_body(100))
    await asyncio.sleep(0)
    assert cycle.wire.reading
    buffer = cycle.body
    cycle.receive(b"one")
    await asyncio.sleep(0)
    cycle.receive(b"two", more=False)
    body, is_whole = await taking
    assert body is buffer
    assert (body, is_whole) == (bytearray(b"onetwo"), True)


async def test_a_body_that_is_too_long_is_not_waited_for() -> None:
    cycle = Cycle()
    cycle.receive(b"x" * 101)
    assert await exchange_of(cycle).whole_body(100) == (bytearray(b"x" * 101), False)


async def test_a_client_that_leaves_ends_the_wait_for_its_body() -> None:
    cycle = Cycle()
    taking = asyncio.create_task(exchange_of(cycle).whole_body(100))
    await asyncio.sleep(0)
    cycle.disconnected = True
    cycle.receive(b"part")
    assert await taking == (bytearray(b"part"), False)


async def test_expect_100_is_answered_when_the_body_is_asked_for() -> None:
    cycle = Cycle()
    cycle.waiting_for_100_continue = True
    exchange = exchange_of(cycle)
    cycle.receive(b"{}", more=False)
    await exchange.whole_body(100)
    assert cycle.wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def test_expect_100_is_not_answered_to_a_client_that_has_left() -> None:
    cycle, connection = Cycle(), Connection()
    cycle.waiting_for_100_continue = cycle.disconnected = connection.gone = True
    assert await exchange_of(cycle, connection).whole_body(100) == (bytearray(), False)
    assert cycle.wire.writes == []


async def test_a_body_that_is_no_http_ends_the_wait_for_it() -> None:
    cycle = Cycle()
    exchange = exchange_of(cycle)
    taking = asyncio.create_task(exchange.whole_body(100))
    await asyncio.sleep(0)
    failure = MalformedRequest("no HTTP")
    exchange.spoil(failure)
    assert await taking == (bytearray(), False)
    assert exchange.failure is failure


def test_an_answer_goes_on_when_its_request_was_whole_and_rubbish_follows() -> None:
    cycle = Cycle()
    exchange = exchange_of(cycle)
    cycle.receive(b"{}", more=False)
    exchange.start(200, [(b"content-length", b"2")])
    exchange.spoil(MalformedRequest("no HTTP"))
    exchange.end(b"{}")
    assert exchange.failure is None
    assert cycle.wire.closed
