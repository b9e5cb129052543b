"""The server: what it listens on."""

from __future__ import annotations

import asyncio
import socket
from math import inf

import pytest
import uvloop

from proxy.relay.upstream import Upstream
from proxy.server.exchange import Exchange
from proxy.server.listener import Server, listen


def sends_at_once(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_no_socket_of_ours_waits_for_more_to_send() -> None:
    """Nagle's algorithm and a delayed ACK cost 40 ms for each token that is written by itself."""

    async def both_ends() -> tuple[bool, bool]:
        asked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def dispatch(exchange: Exchange) -> None:
            asked.set_result(sends_at_once(exchange._connection.transport))
            exchange.start(200, [(b"content-length", b"0")])
            exchange.end(b"")

        (listener,) = listen("127.0.0.1", (0,))
        server = Server(dispatch, stall_seconds=inf)
        await server.start([listener])
        upstream = Upstream("127.0.0.1", listener.getsockname()[1], "engine")
        connection = await upstream.connection()
        connection.send("GET", b"/", [(b"host", b"a")], ())
        connection.request_sent()
        await connection.response_head()
        ours = sends_at_once(connection._transport)
        upstream.close()
        await server.stop()
        return await asked, ours

    assert uvloop.run(both_ends()) == (True, True)


def test_equal_ports_are_one_listener_and_a_taken_one_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}: Address already in use"):
            listen("127.0.0.1", (port, port))
    (listener,) = listen("127.0.0.1", (port, port))
    with listener:
        assert listener.getsockname()[1] == port
