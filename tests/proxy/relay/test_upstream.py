"""The pool of connections to the engine."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from proxy.errors import EngineUnreachable, Overloaded
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


async def test_where_no_descriptor_is_left_the_wait_is_not_that_of_a_start() -> None:
    class Full(Upstream):
        async def _connect(self) -> Connection:
            raise OSError(errno.EMFILE, "Too many open files")

    upstream = Full("127.0.0.1", 9, "engine", retry_after=lambda: 59)
    with pytest.raises(Overloaded, match="ulimit") as refused:
        await upstream.connection()
    assert refused.value.retry_after_seconds == 5
