"""An exchange: what is taken of a request, what goes out on the client's connection, and when."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import BodyTooLarge, ClientClosed, MalformedRequest, RequestFailure
from proxy.server.exchange import HIGH_WATER_BYTES
from proxy.server.request import Headers
from tests.proxy.server.exchanges import FakeConnection, exchange_on

JSON: Headers = [(b"content-type", b"application/json")]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


# The response ---------------------------------------------------------------------------------


def test_the_head_goes_out_with_what_is_written_next(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.start(200, JSON)
    assert connection.wire.writes == []
    exchange.write(b"one")
    exchange.write(b"two")
    exchange.end(b"")
    assert connection.wire.writes == [CHUNKED + b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]


def test_the_head_alone_goes_out_where_nothing_follows_yet(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.start(200, JSON)
    exchange.write(b"")
    assert connection.wire.writes == [CHUNKED]


def test_a_whole_response_is_one_write(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.start(200, [*JSON, (b"content-length", b"2")])
    exchange.end(b"{}")
    assert connection.wire.writes == [HEAD + b"content-length: 2\r\n\r\n{}"]
    assert (exchange.is_over, exchange.keep_alive, exchange.sent_bytes) == (True, True, 2)


def test_the_last_bytes_go_out_with_the_end(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.start(200, JSON)
    exchange.end(b"last")
    assert connection.wire.writes == [CHUNKED + b"4\r\nlast\r\n0\r\n\r\n"]


def test_http_1_0_gets_no_chunks_but_the_end_of_the_connection(connection: FakeConnection) -> None:
    exchange = exchange_on(connection, version="1.0")
    exchange.start(200, JSON)
    exchange.write(b"one")
    exchange.end(b"two")
    assert connection.wire.writes == [HEAD + b"connection: close\r\n\r\none", b"two"]
    assert not exchange.keep_alive


def test_http_1_0_is_told_that_its_connection_stays(connection: FakeConnection) -> None:
    exchange = exchange_on(connection, version="1.0")
    exchange.start(200, [*JSON, (b"content-length", b"2")])
    exchange.end(b"{}")
    told = HEAD + b"content-length: 2\r\nconnection: keep-alive\r\n\r\n{}"
    assert connection.wire.writes == [told]
    assert exchange.keep_alive


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_no_framing_where_no_body_follows(
    connection: FakeConnection, method: str, status: int
) -> None:
    exchange = exchange_on(connection, method)
    exchange.start(status, [])
    exchange.end(b"")
    (written,) = connection.wire.writes
    assert written.endswith(b"\r\n\r\n")
    assert b"transfer-encoding" not in written


def test_a_refusal_of_head_has_no_body(connection: FakeConnection) -> None:
    exchange = exchange_on(connection, "HEAD")
    exchange.start(404, [*JSON, (b"content-length", b"2")])
    exchange.end(b"{}")
    head = HEAD.replace(b"200 OK", b"404 Not Found")
    assert connection.wire.writes == [head + b"content-length: 2\r\n\r\n"]
    assert exchange.sent_bytes == 0


def test_a_padded_response_begins_once_and_stays_a_200(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.pad(JSON)
    exchange.pad(JSON)
    assert not exchange.started
    exchange.start(503, [(b"content-length", b"2")])
    exchange.end(b"{}")
    end = b"2\r\n{}\r\n0\r\n\r\n"
    assert connection.wire.writes == [CHUNKED + b"1\r\n \r\n", b"1\r\n \r\n", end]


def test_nothing_is_written_to_a_client_that_has_left(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.start(200, JSON)
    connection.is_lost = True
    exchange.write(b"one")
    exchange.end(b"two")
    assert connection.wire.writes == []
    assert not exchange.is_over


# Back-pressure, and leaving -------------------------------------------------------------------


def test_a_client_that_was_behind_before_is_noticed_at_once(connection: FakeConnection) -> None:
    exchange, calls = exchange_on(connection), []
    exchange.on_backpressure(lambda: calls.append("pause"), lambda: calls.append("resume"))
    assert calls == []
    connection.is_write_paused = True
    exchange.on_backpressure(lambda: calls.append("pause"), lambda: calls.append("resume"))
    assert (calls, exchange.is_behind) == (["pause"], True)
    exchange.resume_writing()
    assert (calls, exchange.is_behind) == (["pause", "resume"], False)
    assert exchange.stall_seconds > 0


def test_a_leave_is_reported_once_also_where_it_was_before(connection: FakeConnection) -> None:
    exchange, reports = exchange_on(connection), list[RequestFailure]()
    exchange.on_disconnect(reports.append)
    exchange.leave()
    connection.is_lost = True
    exchange.on_disconnect(None)
    exchange.leave()
    assert len(reports) == 1
    exchange.on_disconnect(reports.append)
    assert [type(report) for report in reports] == [ClientClosed, ClientClosed]


# The request's body ---------------------------------------------------------------------------


async def test_a_body_in_one_piece_is_handed_over_as_it_came(connection: FakeConnection) -> None:
    exchange, body = exchange_on(connection), b"whole"
    exchange.feed(body)
    exchange.complete()
    assert await exchange.whole_body(100) is body
    assert exchange.received_bytes == 5


async def test_a_body_in_pieces_is_waited_for(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    connection.pause_reading()
    taking = asyncio.create_task(exchange.whole_body(100))
    await asyncio.sleep(0)
    assert connection.is_reading
    exchange.feed(b"one")
    await asyncio.sleep(0)
    exchange.feed(b"two")
    exchange.complete()
    assert await taking == b"onetwo"


async def test_a_body_that_nobody_takes_is_read_up_to_a_bound(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.feed(b"x" * HIGH_WATER_BYTES)
    assert connection.is_reading
    exchange.feed(b"x")
    assert not connection.is_reading


async def test_a_body_that_is_awaited_whole_is_read_on(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    taking = asyncio.create_task(exchange.whole_body(4 * HIGH_WATER_BYTES))
    await asyncio.sleep(0)
    exchange.feed(b"x" * 3 * HIGH_WATER_BYTES)
    assert connection.is_reading
    exchange.complete()
    assert len(await taking) == 3 * HIGH_WATER_BYTES


async def test_a_body_that_is_too_long_is_not_waited_for(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.feed(b"x" * 101)
    with pytest.raises(BodyTooLarge):
        await exchange.whole_body(100)
    assert exchange.received_bytes == 101


async def test_pieces_come_as_they_are_read(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    exchange.feed(b"one")
    pieces = exchange.body(100)
    assert await anext(pieces) == b"one"
    exchange.feed(b"two")
    exchange.complete()
    assert [bytes(piece) async for piece in pieces] == [b"two"]
    assert exchange.received_bytes == 6


async def test_a_client_that_leaves_ends_the_wait_for_its_body(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    taking = asyncio.create_task(exchange.whole_body(100))
    await asyncio.sleep(0)
    exchange.feed(b"part")
    connection.is_lost = True
    exchange.leave()
    with pytest.raises(ClientClosed):
        await taking
    assert exchange.received_bytes == 4


async def test_expect_100_is_answered_when_the_body_is_asked_for(
    connection: FakeConnection,
) -> None:
    exchange = exchange_on(connection, waits_for_continue=True)
    assert exchange.waits_for_continue
    taking = asyncio.create_task(exchange.whole_body(100))
    await asyncio.sleep(0)
    assert connection.wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    exchange.complete()
    assert await taking == b""


async def test_expect_100_is_not_answered_to_a_client_that_has_left(
    connection: FakeConnection,
) -> None:
    exchange = exchange_on(connection, waits_for_continue=True)
    connection.is_lost = True
    with pytest.raises(ClientClosed):
        await exchange.whole_body(100)
    assert connection.wire.writes == []


async def test_a_body_that_is_no_http_ends_the_wait_for_it(connection: FakeConnection) -> None:
    exchange = exchange_on(connection)
    taking = asyncio.create_task(exchange.whole_body(100))
    await asyncio.sleep(0)
    exchange.fail(MalformedRequest("no HTTP"))
    with pytest.raises(MalformedRequest, match="no HTTP"):
        await taking


def test_a_response_goes_on_when_its_request_was_whole_and_rubbish_follows(
    connection: FakeConnection,
) -> None:
    exchange = exchange_on(connection)
    exchange.complete()
    exchange.start(200, [(b"content-length", b"2")])
    exchange.fail(MalformedRequest("no HTTP"))
    exchange.end(b"{}")
    assert exchange.is_over
    assert not exchange.keep_alive
