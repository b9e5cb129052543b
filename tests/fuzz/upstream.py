"""The connection to the engine, fed with any bytes in any pieces.

Of every exchange: no exception leaves the protocol's callbacks; it ends, either whole or
with one `RequestFailure`; how the bytes were cut and how fast they were read changes neither;
nothing is held back; and a connection that is given back answers the next request with the next
answer, byte for byte.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.errors import EngineTimeout, RequestFailure
from proxy.relay.connection import Connection
from proxy.server.request import Headers
from tests.fuzz.seeds import TOKENS
from tests.fuzz.source import Source, cut
from tests.patience import PATIENCE

METHODS = ("GET", "POST", "HEAD")
_TURNS = 6

_NEXT = b"HTTP/1.1 201 Created\r\nx-next: 1\r\ncontent-length: 3\r\n\r\nnew"
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class End(StrEnum):
    """What happens after the last piece."""

    CLOSED = "closed"
    RESET = "reset"
    SILENT = "silent"
    """Nothing: the exchange is aborted, as the deadline does it."""


class Pace(StrEnum):
    """How fast the user takes what comes."""

    AT_ONCE = "at once"
    LATE = "late"
    """Each piece makes the reading pause until the next one."""
    LAST = "last"
    """The body is asked for when everything is over: something else took the time."""


@dataclass(frozen=True)
class Script:
    """One exchange, as the engine and the user act in it."""

    pieces: Sequence[bytes]
    method: str = "GET"
    end: End = End.SILENT
    pace: Pace = Pace.AT_ONCE
    sent_whole: bool = True


@dataclass
class Result:
    """How an exchange ended: `whole`, or with a failure."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    failure: type[RequestFailure] | None = None
    longest_piece: int = 0
    given_back: bool = False


class Wire(asyncio.Transport):
    """A transport that does as asyncio's do: after `abort`, the end and nothing else."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self._protocol = protocol
        self.open = True
        self.paused = False

    def writelines(self, list_of_data: object) -> None:
        assert self.open

    def is_closing(self) -> bool:
        return not self.open

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def abort(self) -> None:
        self.end(None, soon=True)

    def end(self, error: Exception | None, *, soon: bool = False) -> None:
        if not self.open:
            return
        self.open = False
        if soon:
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, error)
        else:
            self._protocol.connection_lost(error)


class Pool:
    """Notes what is given back."""

    def __init__(self) -> None:
        self.idle: list[Connection] = []

    def put(self, connection: Connection) -> None:
        self.idle.append(connection)

    def forget(self, connection: Connection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)


class Exchange:
    """Plays a script on one connection."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.pool = Pool()
        self.connection = Connection(self.pool)
        self.wire = Wire(self.connection)
        self.connection.connection_made(self.wire)
        self.result = Result()
        self._may_take = asyncio.Event()

    async def play(self) -> Result:
        self.connection.send(self._script.method, b"/", [], [])
        if self._script.sent_whole:
            self.connection.request_sent()
        user = asyncio.ensure_future(self.use())
        await turns()
        for piece in self._script.pieces:
            await self._feed(piece)
        await self._finish()
        self._may_take.set()
        await asyncio.wait_for(user, PATIENCE)
        await turns()
        return self.result

    async def use(self) -> None:
        """What the relay does with a connection."""
        result, connection = self.result, self.connection
        try:
            response = await connection.response_head()
            result.status, result.headers = response.status, response.headers
            if self._script.pace is Pace.LAST:
                await self._may_take.wait()
            last = await connection.pass_on(self._take)
            result.body += last
            result.whole = True
        except RequestFailure as failure:
            result.failure = type(failure)
        finally:
            connection.release()

    def _take(self, data: bytes, now: float) -> None:
        self.result.body += data
        self.result.longest_piece = max(self.result.longest_piece, len(data))
        if self._script.pace is Pace.LATE:
            self.connection.pause()

    async def _feed(self, piece: bytes) -> None:
        self.connection.resume()
        if self.wire.open:
            assert not self.wire.paused
            self.connection.data_received(piece)
        await turns()

    async def _finish(self) -> None:
        match self._script.end:
            case End.CLOSED:
                self.wire.end(None)
            case End.RESET:
                self.wire.end(ConnectionResetError())
            case End.SILENT if not self.pool.idle:
                self.connection.abort(EngineTimeout("too long"))
        await turns()

    async def next(self) -> Result:
        """One more exchange on the connection that was given back."""
        self._script = Script([_NEXT])
        self.result = Result()
        self.pool.idle.clear()
        return await self.play()


def run(data: bytes) -> None:
    """The target: choices first, then what the engine sends."""
    source = Source(data)
    script_of = (source.one_of(METHODS), source.one_of([*End]), source.one_of([*Pace]))
    sent_whole = source.number(8) > 0
    places = source.cuts()
    pieces = cut(source.rest(TOKENS["upstream"]), places)
    check(Script(pieces, *script_of, sent_whole=sent_whole))


def check(script: Script) -> Result:
    """Everything that holds for any bytes; returns how the exchange ended."""
    with asyncio.Runner() as runner:
        return runner.run(_checked(script))


async def _checked(script: Script) -> Result:
    exchange = Exchange(script)
    result = await exchange.play()
    assert result.whole != (result.failure is not None)
    longest = max(map(len, script.pieces), default=0)
    assert script.pace is Pace.LAST or result.longest_piece <= longest
    _check_head(result)
    result.given_back = bool(exchange.pool.idle) and exchange.connection.usable
    if result.given_back:
        assert script.sent_whole
        assert result.whole
        following = await exchange.next()
        assert (following.status, following.body, following.whole) == (201, b"new", True)
        assert following.headers == [(b"x-next", b"1"), (b"content-length", b"3")]
    else:
        assert not exchange.wire.open
    plain = Script([b"".join(script.pieces)], script.method, script.end)
    _alike(result, await Exchange(plain).play())
    return result


def _check_head(result: Result) -> None:
    """What our own server would take: it goes on to the client as it is."""
    assert result.status == 0 or 200 <= result.status <= 599
    for name, value in result.headers:
        assert _NAME.fullmatch(name)
        assert _VALUE.fullmatch(value)


def _alike(result: Result, plain: Result) -> None:
    """The same bytes in one piece, read at once, end the same way."""
    assert result.whole == plain.whole
    assert result.failure is plain.failure
    if result.whole:
        assert (result.status, result.headers) == (plain.status, plain.headers)
        assert result.body == plain.body
    else:
        assert result.body.startswith(plain.body) or plain.body.startswith(result.body)


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
