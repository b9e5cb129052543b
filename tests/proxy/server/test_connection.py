"""A connection's end: after its idle time, after a response, and where nobody reads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import cast

import pytest

from proxy.server.connection import ClientConnection
from proxy.server.exchange import Exchange
from proxy.server.hang_up import has_hung_up
from proxy.server.listener import KEEP_ALIVE_SECONDS, Server
from proxy.server.request import Request
from tests.patience import PATIENCE

LARGE = 8 * 1024 * 1024
STALL_SECONDS = 60.0
LINGER_SECONDS = 10.0


async def answer(exchange: Exchange) -> None:
    """At once, whether the body has come or not."""
    body = b"x" * (LARGE if exchange.request.path == b"/large" else 1)
    exchange.start(200, [(b"content-length", b"%d" % len(body))])
    exchange.end(body)


def no_session(transport: asyncio.Transport, request: Request, head: bytes) -> asyncio.Task[None]:
    raise NotImplementedError


@asynccontextmanager
async def connected(sent: bytes) -> AsyncIterator[tuple[ClientConnection, socket.socket]]:
    """A server's connection and its client's socket, on which this has been sent."""
    server = Server(answer, no_session, stall_seconds=STALL_SECONDS)
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


@pytest.mark.parametrize("leaves", [True, False])
async def test_after_an_early_last_response_the_rest_is_read_for_a_while(leaves: bool) -> None:
    head = b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 100000000\r\n\r\n"
    async with connected(head) as (connection, client):
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


def test_a_transport_without_a_socket_has_hung_up() -> None:
    class Closed:
        def get_extra_info(self, name: str) -> None:
            return None

    assert has_hung_up(cast("asyncio.Transport", Closed()))
