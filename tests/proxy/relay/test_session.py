"""What the engine sends in a session: passed on as it is, read in passing, ended in its place."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from proxy.access.routes import Route
from proxy.errors import CutOff, EngineDied, InvalidEngineResponse, RequestFailure
from proxy.relay import session
from proxy.relay.session import MAX_READ_BYTES, SessionAnswer
from proxy.telemetry.record import Outcome, Record
from tests.patience import PATIENCE

NOW = 0.0
DONE = {"type": "transcription.done", "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
SAID = json.dumps(DONE).encode()


class Session:
    """An answer, its record, and why the engine's connection was ended."""

    def __init__(self) -> None:
        self.record = Record("GET", "/v1/realtime", Route.REALTIME, status=101)
        self.ends: list[RequestFailure] = []
        self.answer = SessionAnswer(self.record, self.ends.append)

    def feed(self, *chunks: bytes) -> bytes:
        return b"".join(self.answer.feed(chunk, NOW) for chunk in chunks)

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        return self.record.prompt_tokens, self.record.completion_tokens


@pytest.fixture
def one() -> Session:
    return Session()


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """As an engine sends it."""
    return Frame(opcode, data, fin).serialize(mask=False)


def bytewise(data: bytes) -> list[bytes]:
    return [bytes((byte,)) for byte in data]


SIZES = [0, 1, 125, 126, 65_535, 65_536]


@pytest.mark.parametrize("size", SIZES)
async def test_frames_of_any_size_pass_in_any_pieces(one: Session, size: int) -> None:
    frames = frame(Opcode.BINARY, bytes(size)) + frame(Opcode.PING) + frame(Opcode.TEXT, SAID)
    assert one.feed(frames) == frames
    assert one.feed(*bytewise(frames)) == frames
    assert one.tokens == (8, 4)
    assert not one.ends


async def test_a_text_in_fragments_is_read_past_what_comes_between(one: Session) -> None:
    frames = frame(Opcode.TEXT, SAID[:30], fin=False) + frame(Opcode.PING, b'"error"')
    frames += frame(Opcode.CONT, fin=False) + frame(Opcode.CONT, SAID[30:])
    assert one.feed(frames) == frames
    assert one.tokens == (4, 2)


@pytest.mark.parametrize("size", [0, 1, 10, 45, 125])
async def test_pings_and_pongs_by_the_thousand_hide_no_event(one: Session, size: int) -> None:
    control = frame(Opcode.PONG, b"\n" * size) + frame(Opcode.PING, b"\x81" * size)
    frames = control * 1000 + frame(Opcode.TEXT, SAID) + control * 1000
    assert one.feed(frames) == frames
    assert one.feed(frames[:-1], frames[-1:]) == frames
    assert one.tokens == (8, 4)
    assert not one.answer._left


@pytest.mark.parametrize(
    "frames",
    [
        frame(Opcode.BINARY, SAID),
        frame(Opcode.BINARY, fin=False) + frame(Opcode.CONT, SAID),
        frame(Opcode.TEXT, b"\xff" + SAID),
        frame(Opcode.TEXT, SAID + bytes(MAX_READ_BYTES)) + frame(Opcode.CONT, SAID),
        frame(Opcode.TEXT, b'{"type": "transcription.done", "usage": "\xff"}'),
    ],
    ids=["bytes", "bytes in fragments", "no UTF-8", "too long", "no UTF-8 in a string"],
)
async def test_what_is_no_event_is_passed_on_all_the_same(one: Session, frames: bytes) -> None:
    assert one.feed(frames) == frames
    assert one.tokens == (None, None)


async def test_a_text_without_an_end_is_not_held(one: Session) -> None:
    header = frame(Opcode.TEXT, bytes(70_000))[:2] + (1 << 40).to_bytes(8, "big")
    for chunk in [header, *[bytes(100_000)] * 20]:
        assert one.feed(chunk) == chunk
    assert one.answer._text is None


@pytest.mark.parametrize(
    "bad",
    [b"\xc1\x00", b"\x83\x00", b"\x8f\x00", b"\x81\x80" + bytes(4)],
    ids=["compressed", "unknown opcode", "unknown control", "masked"],
)
async def test_what_is_no_frame_ends_the_session_behind_what_came_before(
    one: Session, bad: bytes
) -> None:
    good = frame(Opcode.TEXT, b"x")
    assert one.feed(good + bad + good) == good
    (failure,) = one.ends
    assert isinstance(failure, InvalidEngineResponse)
    assert one.feed(good) == b""
    assert one.answer.broken_off(failure)[2:4] == (1011).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("failure", "code"), [(CutOff("why"), 1012), (EngineDied("why"), 1011)], ids=["cut", "died"]
)
async def test_what_breaks_off_is_told_between_two_frames_only(
    one: Session, failure: RequestFailure, code: int
) -> None:
    told = frame(Opcode.CLOSE, code.to_bytes(2, "big") + b"why")
    assert one.answer.broken_off(failure) == told
    one.feed(b"\x82")
    assert one.answer.broken_off(failure) == told, "nothing of it has gone out"
    one.feed(b"\x05ab")
    assert one.answer.broken_off(failure) == b""
    one.feed(b"cde")
    assert one.answer.broken_off(failure) == told


async def test_a_reason_is_cut_between_two_characters(one: Session) -> None:
    told = one.answer.broken_off(CutOff("x" + "ü" * 100))
    assert told == b"\x88\x7d\x03\xf4x" + "ü".encode() * 61


async def test_behind_a_close_frame_comes_nothing(one: Session) -> None:
    end = frame(Opcode.CLOSE, b"\x0f\xa1why")
    assert one.feed(*bytewise(end)) == end
    assert one.answer.finished
    assert one.feed(frame(Opcode.TEXT, b"x")) == b""
    assert one.answer.broken_off(CutOff("why")) == b""
    assert one.answer.close() == b""
    assert one.record.outcome is None, "nothing went wrong"


async def test_an_engine_that_closes_and_stays_is_not_waited_for(
    one: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_CLOSE_SECONDS", 0.0)
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    one.answer._abort = ended.set_result
    one.feed(frame(Opcode.CLOSE))
    assert isinstance(await asyncio.wait_for(ended, PATIENCE), EngineDied)


async def test_an_engine_that_ends_without_a_close_frame_has_died(one: Session) -> None:
    assert one.answer.close()[2:4] == (1011).to_bytes(2, "big")
    assert (one.record.outcome, one.record.error) == (Outcome.ENGINE_DIED, "engine_died")
