"""The pool of connections to the engine."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress

import pytest

from proxy.errors import CutOff, EngineUnreachable, InvalidEngineResponse, Overloaded
from proxy.relay.connection import Connection
from proxy.relay.upstream import Upstream
from tests.patience import PATIENCE

ANSWER = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno"


class Late(Upstream):
    """So long busy with something else that the engine is the first to do something."""

    async def _connect(self) -> Connection:
        self._gone = asyncio.Event()
        connection = await super()._connect()
        await asyncio.wait_for(self._gone.wait(), PATIENCE)
        return connection

    def forget(self, connection: Connection) -> None:
        super().forget(connection)
        self._gone.set()


@pytest.mark.parametrize("early", [ANSWER, b"SSH-2.0-x\r\n", b""], ids=["answer", "banner", "end"])
async def test_a_connection_that_has_ended_before_it_was_used_is_none(early: bytes) -> None:
    """A request on it would wait for ever: what was to answer it is over."""

    def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not early:
            writer.transport.abort()
        writer.write(early)
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        upstream = Late("127.0.0.1", port, "engine")
        with pytest.raises(EngineUnreachable):
            await upstream.connection()
        upstream.close()
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("surplus", [ANSWER, b"x", b""], ids=["answer", "byte", "end"])
async def test_a_connection_with_bytes_that_nobody_has_read_is_not_used_again(
    surplus: bytes,
) -> None:
    """They have come, and the loop was busy with something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        upstream = Upstream("127.0.0.1", server.getsockname()[1], "engine")
        first = await upstream.connection()
        engine, _ = server.accept()
        with engine:
            first.send("GET", b"/", [], ())
            first.request_sent()
            engine.sendall(ANSWER)
            await asyncio.wait_for(first.response_head(), PATIENCE)
            assert await first.pass_on(lambda data, now: None) == b"no"
            first.release()
            engine.sendall(surplus) if surplus else engine.shutdown(socket.SHUT_WR)
            second = await upstream.connection()
            assert second is not first
            assert first.closed
    upstream.close()


TAKEN = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"


async def answered(answer: bytes, *, upgrades: bool) -> tuple[Connection, socket.socket]:
    """A connection on which the engine has answered, and the engine's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        upstream = Upstream("127.0.0.1", server.getsockname()[1], "engine")
        connection = await upstream.connection()
        engine, _ = server.accept()
        connection.send("GET", b"/", [], (), upgrades=upgrades)
        engine.sendall(answer)
        return connection, engine


@pytest.mark.parametrize("behind", [b"", b"\x81\x01x", ANSWER])
async def test_behind_an_upgrade_that_was_asked_for_everything_is_body(behind: bytes) -> None:
    connection, engine = await answered(TAKEN + behind, upgrades=True)
    with engine:
        response = await asyncio.wait_for(connection.response_head(), PATIENCE)
        assert (response.status, response.is_upgraded, response.is_whole) == (101, True, False)
        came = bytearray()
        passing = asyncio.ensure_future(connection.pass_on(lambda data, now: came.extend(data)))
        engine.sendall(ANSWER)
        engine.shutdown(socket.SHUT_WR)
        came += await asyncio.wait_for(passing, PATIENCE)
        assert bytes(came) == behind + ANSWER
        connection.request_sent()
        connection.release()
        assert connection.closed


@pytest.mark.parametrize(
    ("answer", "upgrades"),
    [(TAKEN, False), (b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01x", True)],
    ids=["not asked for", "not said"],
)
async def test_an_upgrade_of_one_side_only_is_none(answer: bytes, upgrades: bool) -> None:
    connection, engine = await answered(answer, upgrades=upgrades)
    with engine, pytest.raises(InvalidEngineResponse):
        await asyncio.wait_for(connection.response_head(), PATIENCE)


async def test_what_is_cut_while_it_connects_is_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        upstream = Upstream("127.0.0.1", server.getsockname()[1], "engine")
        connecting = asyncio.ensure_future(upstream.connection())
        await asyncio.sleep(0)
        upstream.cut(CutOff("over"))
        with pytest.raises(CutOff):
            await connecting
        engine, _ = server.accept()
        with engine, suppress(ConnectionResetError):
            assert engine.recv(1) == b""


async def test_where_no_descriptor_is_left_the_wait_is_not_that_of_a_start() -> None:
    class Full(Upstream):
        async def _connect(self) -> Connection:
            raise OSError(errno.EMFILE, "Too many open files")

    upstream = Full("127.0.0.1", 9, "engine", retry_after=lambda: 59)
    with pytest.raises(Overloaded, match="ulimit") as refused:
        await upstream.connection()
    assert refused.value.retry_after_seconds == 5
