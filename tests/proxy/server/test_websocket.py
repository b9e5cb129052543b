"""A client's WebSocket session: how much of what it sends is taken at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from proxy.errors import ClientClosed, MalformedRequest
from proxy.server.websocket import ClientWebSocket, SessionEnded

HEAD = (
    b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
ONE_READ = 256 * 1024
MOST_FRAMES_A_TURN = 64 + 1024 // 6


class Transport(asyncio.Transport):
    """One that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reads = True
        self.ended = self.aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def is_reading(self) -> bool:
        return self.reads

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


def opened(max_message_bytes: int = 1024) -> tuple[ClientWebSocket, Transport]:
    transport = Transport()
    session = ClientWebSocket(transport, HEAD, max_message_bytes=max_message_bytes)
    session.accept(None, [])
    transport.written = b""
    return session, transport


def frame(opcode: Opcode, data: bytes = b"") -> bytes:
    return Frame(opcode, data).serialize(mask=True)


async def turns_until(condition: Callable[[], bool]) -> int:
    turns = 0
    while not condition():
        turns += 1
        assert turns < 100_000
        await asyncio.sleep(0)
    return turns


@pytest.mark.parametrize("kind", [Opcode.PING, Opcode.PONG])
async def test_the_frames_of_one_read_are_taken_in_many_turns(kind: Opcode) -> None:
    session, transport = opened()
    frames = ONE_READ // 6
    session.data_received(frame(kind) * frames)
    assert not transport.is_reading(), "meanwhile no more is read"
    turns = await turns_until(transport.is_reading)
    assert turns >= frames // MOST_FRAMES_A_TURN
    if kind is Opcode.PING:
        assert transport.written == b"\x8a\x00" * frames


async def test_messages_that_nobody_takes_pause_reading_and_are_few() -> None:
    session, transport = opened()
    session.data_received(frame(Opcode.TEXT, b"x") * 10_000)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not transport.is_reading()
    assert len(session._messages) <= 16 + MOST_FRAMES_A_TURN
    for _ in range(10_000):
        assert await session.receive() == "x"
    await asyncio.sleep(0)
    assert transport.is_reading()
    assert session.bytes_in == 10_000


async def test_while_pongs_are_unread_no_more_pings_are_answered() -> None:
    session, transport = opened()
    session.pause_writing()
    session.data_received(frame(Opcode.PING, b"p") * 10_000)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not transport.is_reading()
    assert len(transport.written) <= 3 * MOST_FRAMES_A_TURN
    session.resume_writing()
    await turns_until(transport.is_reading)
    assert transport.written == b"\x8a\x01p" * 10_000


async def test_messages_pass_while_the_client_is_behind_with_reading() -> None:
    """It may well send all its sound before it reads the first answer."""
    session, _ = opened()
    session.pause_writing()
    session.data_received(frame(Opcode.TEXT, b"x"))
    assert await session.receive() == "x"


async def test_what_came_before_the_end_is_received_before_it() -> None:
    session, transport = opened()
    session.data_received(frame(Opcode.TEXT, b"x") + frame(Opcode.CLOSE, b"\x0f\xa1why"))
    assert transport.ended
    assert await session.receive() == "x"
    for _ in range(2):
        with pytest.raises(SessionEnded) as ended:
            await session.receive()
        assert (ended.value.code, ended.value.reason) == (4001, "why")
    with pytest.raises(SessionEnded):
        await session.send("too late")
    session.connection_lost(None)


async def test_who_waits_to_send_is_told_when_the_client_has_left() -> None:
    session, transport = opened()
    session.pause_writing()
    sending = asyncio.ensure_future(session.send("x"))
    await asyncio.sleep(0)
    assert not sending.done()
    transport.aborted = True
    session.connection_lost(None)
    with pytest.raises(SessionEnded):
        await sending


async def test_a_reason_is_cut_between_two_characters() -> None:
    session, transport = opened()
    session.close(1011, "x" + "ü" * 100)
    session.close(1000, "the first one counts")
    assert transport.written == b"\x88\x7d\x03\xf3x" + "ü".encode() * 61
    session.connection_lost(None)


async def test_who_has_left_is_told_of_at_once_and_gets_no_answer() -> None:
    transport = Transport()
    session = ClientWebSocket(transport, HEAD, max_message_bytes=1)
    session.connection_lost(None)
    told: list[Exception] = []
    session.on_disconnect(told.append)
    assert [type(failure) for failure in told] == [ClientClosed]
    with pytest.raises(ClientClosed):
        session.accept(None, [])
    session.refuse(403, [], b"no")
    assert transport.written == b""


async def test_a_request_that_is_no_handshake_leaves_the_transport_as_it_was() -> None:
    transport = Transport()
    transport.reads = False
    with pytest.raises(MalformedRequest, match="no WebSocket handshake: missing Sec-WebSocket-Key"):
        ClientWebSocket(transport, HEAD.replace(b"sec-websocket-key", b"x"), max_message_bytes=1)
    assert not transport.is_reading()
