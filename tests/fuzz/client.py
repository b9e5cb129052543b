"""A client's connection, fed with any bytes in any pieces, and an app behind it.

Of every connection: no exception leaves the protocol, and none is logged; what is written is
one well-formed answer for each request, in order, and nothing after the end; no request is
taken for another one, or found in another's body; and what is held is bounded. h11 is the
reference for both directions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest

from proxy.server.connection import ClientConnection
from proxy.server.exchange import Exchange
from tests.fuzz.app import App, Seen, Way
from tests.fuzz.reference import Answer, Sent, answers_in, requests_in
from tests.fuzz.seeds import TOKENS
from tests.fuzz.source import Source, cut
from tests.fuzz.wire import Wire

_TURNS = 12
_MAX_WAYS, _MAX_MOVES = 4, 8
# What may come before reading pauses.
_HELD_BYTES = 64 * 1024
_MOST_PIPELINED = 100
_PROBE = b"GET /probe HTTP/1.1\r\nhost: x\r\n\r\n"


class Move(StrEnum):
    """What the client does after a piece."""

    NOTHING = "nothing"
    FALLS_BEHIND = "falls behind"
    CATCHES_UP = "catches up"
    RESETS = "resets"
    CLOSES = "closes"


@dataclass(frozen=True)
class Script:
    """One connection, as the client and the app act on it."""

    pieces: Sequence[bytes]
    moves: Sequence[Move] = ()
    ways: Sequence[Way] = (Way(),)
    """How requests are answered, in turn."""


@dataclass
class Result:
    """What was seen on both sides."""

    requests: list[Seen] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    closed: bool = False
    left: bool = False
    """The client left before it was let go."""
    upgraded: bool = False


class Play:
    """Plays a script on one connection."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.app = App(script.ways)
        self.connections: set[ClientConnection] = set()
        self.upgraded = False
        self.connection = ClientConnection(self._dispatch, self.connections)
        self.wire = Wire(self.connection, self.read)
        self.left = False
        self.unread: list[bytes] = []
        self.connection.connection_made(self.wire)

    async def play(self) -> None:
        moves = [*self._script.moves]
        for piece in self._script.pieces:
            self.unread.append(piece)
            self.read()
            await self.turns()
            self.move(moves.pop(0) if moves else Move.NOTHING)
            await self.turns()
        self.move(Move.CATCHES_UP)
        self.app.engine.set()
        await self.turns()

    def read(self) -> None:
        """What is on its way, unless reading is paused; called again when it is not."""
        if self.unread and not (self.wire.is_closing() or self.wire.paused):
            piece = self.unread.pop(0)
            if not self.upgraded:
                self.connection.data_received(piece)
                self._check_held()
            asyncio.get_running_loop().call_soon(self.read)

    def move(self, move: Move) -> None:
        if self.wire.is_closing() or self.upgraded:
            return
        match move:
            case Move.FALLS_BEHIND if not self.wire.behind:
                self.wire.behind = True
                self.connection.pause_writing()
            case Move.CATCHES_UP if self.wire.behind:
                self.wire.behind = False
                self.connection.resume_writing()
            case Move.RESETS:
                self.left = True
                self.wire.end(ConnectionResetError())
            case Move.CLOSES:
                self.left = True
                self.connection.eof_received()
                self.wire.end(None)

    async def turns(self) -> None:
        """Let everything run that can."""
        before = None
        while before != (before := (len(self.app.seen), len(self.wire.written))):
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def _check_held(self) -> None:
        """Two reads, whatever came before."""
        connection = self.connection
        assert len(connection._pipeline) <= _MOST_PIPELINED + 1
        held = sum(len(exchange._body) for exchange in connection._pipeline)
        held += len(connection._latest._body) if connection._latest is not None else 0
        assert held <= _HELD_BYTES + 2 * max(map(len, self._script.pieces))

    async def _dispatch(self, exchange: Exchange) -> None:
        if exchange.is_session:  # what follows is frames: another parser's
            self.upgraded = True
        else:
            await self.app(exchange)

    @property
    def result(self) -> Result:
        seen, closed = [*self.app.seen], self.wire.is_closing()
        answers = answers_in(bytes(self.wire.written), seen, closed=closed)
        return Result(seen, answers, closed, self.left, self.upgraded)

    async def probe(self) -> None:
        """The next request on the connection gets the next answer."""
        before = len(self.app.seen)
        self.app.ways = (Way(),)
        self.connection.data_received(_PROBE)
        await self.turns()
        result = self.result
        assert [seen.target for seen in result.requests[before:]] == [b"/probe"]
        assert [answer.whole for answer in result.answers[before:]] == [True]


class Complaints(logging.Handler):
    """What an operator would read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def run(data: bytes) -> None:
    """The target: choices first, then what the client sends."""
    source = Source(data)
    ways = [Way.chosen(source) for _ in range(1 + source.number(_MAX_WAYS))]
    moves = [source.one_of([*Move]) for _ in range(source.number(_MAX_MOVES))]
    places = source.cuts()
    check(Script(cut(source.rest(TOKENS["client"]), places), moves, ways))


def check(script: Script) -> Result:
    """Everything that holds for any bytes; returns what was seen."""
    complaints, root = Complaints(), logging.getLogger()
    root.addHandler(complaints)
    try:
        with asyncio.Runner() as runner:
            result = runner.run(_checked(script))
    finally:
        root.removeHandler(complaints)
    assert complaints.texts == []
    return result


async def _checked(script: Script) -> Result:
    play = Play(script)
    await play.play()
    result, sent = play.result, requests_in(b"".join(script.pieces))
    assert result.closed or not play.unread, "nobody reads on"
    _check_requests(result, sent)
    _check_answers(result, sent)
    if not (result.closed or result.upgraded):
        await _check_open(play, sent)
    play.wire.end(None)
    await play.turns()
    assert not play.connections
    return result


async def _check_open(play: Play, sent: Sent) -> None:
    """The connection goes on, or waits for the rest of a request."""
    connection = play.connection
    assert not connection._pipeline
    if connection._current is not None:
        assert not connection._current.is_over
        assert not connection._current.is_complete
        return
    if sent.between:
        await play.probe()


def _check_answers(result: Result, sent: Sent) -> None:
    """Each request has its own answer, in order and whole, unless it was broken off."""
    requests, answers = result.requests, result.answers
    assert len(answers) <= len(requests) + result.upgraded
    for seen, answer in zip(requests, answers, strict=False):
        if seen.method == "HEAD" or answer.status in (204, 304):
            assert answer.body == b""
        elif answer.whole:
            assert answer.body == seen.answered
        else:
            assert seen.answered.startswith(answer.body)
        if seen.ended and not result.left:
            assert answer.whole
    for answer in answers[:-1]:
        assert answer.whole
        assert not answer.closes
    if answers and answers[-1].closes and answers[-1].whole:
        assert result.closed
    if result.closed and not (result.left or result.upgraded) and sent.between:
        assert not requests[-1].ended or answers[-1].closes


def _check_requests(result: Result, sent: Sent) -> None:
    """Those that h11 sees, and no others; where it sees no HTTP it does not say anything."""
    ours = [seen for seen in result.requests if seen.method]
    for seen, meant in zip_longest(ours, sent.requests):
        if meant is None:
            assert sent.broken
        elif seen is None:
            assert result.closed or result.upgraded or not meant.whole
        else:
            _alike(seen, meant, sent)


def _alike(seen: Seen, meant: Seen, sent: Sent) -> None:
    assert (seen.method, seen.http_version) == (meant.method, meant.http_version)
    if meant.target.startswith(b"/"):
        assert seen.target.rstrip(b"?") == meant.target.partition(b"#")[0].rstrip(b"?")
    assert _names(seen) == _names(meant)
    if meant.whole or not sent.broken:
        assert meant.body.startswith(seen.body)
        assert not seen.whole or (meant.whole and meant.body == seen.body)


def _names(seen: Seen) -> list[bytes]:
    return [name for name, _ in seen.headers if name != b"upgrade"]
