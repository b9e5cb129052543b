"""A connection's end: after its idle time, after a response, and where nobody reads."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from time import monotonic
from types import FrameType
from typing import cast

import pytest

from proxy.server.connection import ClientConnection, Dispatch
from proxy.server.exchange import Exchange
from proxy.server.hang_up import has_hung_up
from proxy.server.listener import KEEP_ALIVE_SECONDS, Server
from tests.patience import PATIENCE

LARGE = 8 * 1024 * 1024
STALL_SECONDS = 60.0
LINGER_SECONDS = 10.0


async def answer(exchange: Exchange) -> None:
    """At once, whether the body has come or not."""
    body = b"x" * (LARGE if exchange.request.path == b"/large" else 1)
    exchange.start(200, [(b"content-length", b"%d" % len(body))])
    exchange.end(body)


@asynccontextmanager
async def connected(
    sent: bytes, dispatch: Dispatch = answer
) -> AsyncIterator[tuple[ClientConnection, socket.socket]]:
    """A server's connection and its client's socket, on which this has been sent."""
    server = Server(dispatch, stall_seconds=STALL_SECONDS)
    listener = socket.create_server(("127.0.0.1", 0))
    await server.start([listener])
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        await loop.sock_sendall(client, sent)
        async with asyncio.timeout(PATIENCE):
            while not server._connections:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            (connection,) = server._connections
            yield connection, client
    await server.stop()


def look(connection: ClientConnection, in_seconds: float) -> None:
    """The server's look at its connections, as if so much time had passed."""
    connection.end_if_slow(monotonic() + in_seconds, STALL_SECONDS, None, KEEP_ALIVE_SECONDS)


async def received(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (
        more := await asyncio.get_running_loop().sock_recv(client, size - len(data))
    ):
        data += more
    return data


async def test_an_idle_connection_is_closed_after_its_time_and_not_before() -> None:
    async with connected(b"GET / HTTP/1.1\r\n\r\n") as (connection, client):
        assert (await received(client, 17)) == b"HTTP/1.1 200 OK\r\n"
        look(connection, KEEP_ALIVE_SECONDS - 1)
        assert not connection.transport.is_closing()
        look(connection, KEEP_ALIVE_SECONDS)
        await connection.departed()


async def test_a_connection_is_idle_when_its_client_has_read_what_was_written() -> None:
    async with connected(b"GET /large HTTP/1.1\r\n\r\n") as (connection, client):
        while not connection.transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        look(connection, 0)
        await received(client, LARGE // 2)
        look(connection, KEEP_ALIVE_SECONDS)
        assert not connection.transport.is_closing(), "it reads, if slowly"
        while connection.transport.get_write_buffer_size():
            await received(client, LARGE // 8)
        look(connection, 2 * KEEP_ALIVE_SECONDS - 1)
        assert not connection.transport.is_closing(), "it has read the last of it just now"
        look(connection, 3 * KEEP_ALIVE_SECONDS)
        await connection.departed()


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_on_which_nothing_comes_is_closed_likewise(sent: bytes) -> None:
    async with connected(sent) as (connection, client):
        connection.end_if_slow(monotonic() + KEEP_ALIVE_SECONDS - 1, inf, None, KEEP_ALIVE_SECONDS)
        assert not connection.transport.is_closing()
        connection.end_if_slow(monotonic() + KEEP_ALIVE_SECONDS, inf, None, KEEP_ALIVE_SECONDS)
        assert await received(client, 1) == b""
        await connection.departed()


async def test_a_closed_connection_whose_client_does_not_read_is_not_kept_for_ever() -> None:
    """What is unsent would be kept with it; while the client reads, it may take its time."""
    async with connected(b"GET /large HTTP/1.0\r\n\r\n") as (connection, client):
        while not connection.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        look(connection, 0)
        unsent = connection.transport.get_write_buffer_size()
        assert unsent > 0
        await received(client, LARGE // 2)
        assert connection.transport.get_write_buffer_size() < unsent
        look(connection, KEEP_ALIVE_SECONDS)
        look(connection, 2 * KEEP_ALIVE_SECONDS - 1)
        assert not connection.is_lost
        look(connection, 2 * KEEP_ALIVE_SECONDS)
        await connection.departed()


LAST = b"connection: close\r\n"
LONG_BODY = b"content-length: 100000000\r\n\r\n"


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\n" + LAST + LONG_BODY,
        b"GET / HTTP/1.1\r\n" + LAST + b"\r\nPOST / HTTP/1.1\r\n" + LONG_BODY,
        b"GET / HTTP/1.1\r\n" + LAST + b"\r\nPOST /",
    ],
    ids=["its own body", "another request", "a part of one"],
)
async def test_after_a_last_response_the_rest_is_read_for_a_while(
    sent: bytes, leaves: bool
) -> None:
    """A socket that is closed with bytes unread is reset, which undoes the response."""
    async with connected(sent) as (connection, client):
        loop = asyncio.get_running_loop()
        assert (await received(client, 1000)).endswith(b"\r\n\r\nx"), "with its end"
        for _ in range(20):
            await loop.sock_sendall(client, b"x" * 100_000)
        look(connection, LINGER_SECONDS - 1)
        assert not connection.transport.is_closing()
        if leaves:
            client.shutdown(socket.SHUT_WR)
        else:
            look(connection, LINGER_SECONDS)
        await connection.departed()


async def test_a_body_in_chunks_of_one_byte_costs_no_call_for_each() -> None:
    """A read of 256 KiB has 43,000 of them."""
    calls, sizes = 0, list[int]()

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    async def measure(exchange: Exchange) -> None:
        sizes.append(len(await exchange.whole_body(LARGE)))
        await answer(exchange)

    async with connected(b"", measure) as (connection, client):
        connection.data_received(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        sys.setprofile(count)
        connection.data_received(b"1\r\nx\r\n" * 10_000)
        sys.setprofile(None)
        connection.data_received(b"0\r\n\r\n")
        await received(client, 1)
    assert sizes == [10_000]
    assert calls < 100


HANDSHAKE = (
    b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(("head", "is_asked"), [(HANDSHAKE, 1), (b"GET / HTTP/1.1\r\n\r\n", 0)])
async def test_a_client_of_a_session_is_asked_whether_it_is_there(
    head: bytes, is_asked: int
) -> None:
    """It may be silent for hours; one whose network has gone would keep its place for ever."""
    async with connected(head) as (connection, client):
        await received(client, 1)
        options = connection.transport.get_extra_info("socket")
        assert options.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == is_asked
        if is_asked:
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            values = [options.getsockopt(socket.IPPROTO_TCP, name) for name in names]
            assert values == [60, 15, 4]


async def test_a_session_has_no_time_limit() -> None:
    async def wait(exchange: Exchange) -> None:
        await asyncio.wait_for(exchange.body(1).__anext__(), PATIENCE)
        exchange.end(b"")

    async with connected(HANDSHAKE, wait) as (connection, client):
        connection.end_if_slow(monotonic() + 1e6, 1, 1, 1)
        assert not connection.transport.is_closing()
        await asyncio.get_running_loop().sock_sendall(client, b"x")
        assert await received(client, 1) == b""


def test_a_transport_without_a_socket_has_hung_up() -> None:
    class Closed:
        def get_extra_info(self, name: str) -> None:
            return None

    assert has_hung_up(cast("asyncio.Transport", Closed()))
