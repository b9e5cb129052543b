"""The server: what is sent together, what is told, what it listens on."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from proxy.server import HeadFirst, listen


class Wire:
    """A transport that remembers its writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed_after: int | None = None

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed_after = len(self.writes)

    def is_closing(self) -> bool:
        return self.closed_after is not None


def head_first() -> tuple[HeadFirst, Wire]:
    wire = Wire()
    return HeadFirst(cast("asyncio.Transport", cast("Any", wire))), wire


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


async def test_the_head_goes_out_with_the_body_that_follows_at_once() -> None:
    transport, wire = head_first()
    transport.write(HEAD)
    transport.write(b"body")
    transport.write(b"more")
    await asyncio.sleep(0)
    assert wire.writes == [HEAD + b"body", b"more"]


async def test_the_head_does_not_wait_for_a_body_that_comes_later() -> None:
    transport, wire = head_first()
    transport.write(HEAD)
    await asyncio.sleep(0)
    assert wire.writes == [HEAD]


async def test_a_close_loses_nothing() -> None:
    transport, wire = head_first()
    transport.write(HEAD)
    transport.close()
    assert (wire.writes, wire.closed_after) == ([HEAD], 1)
    assert transport.is_closing()


async def test_an_interim_answer_goes_out_at_once() -> None:
    transport, wire = head_first()
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]


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
