"""A client and an engine that do what a seed draws, on sockets without a network.

The client reads with h11, which is strict, and so does the engine. What both were to do, and what
has become of it, stands in each `Ask`.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import h11

from proxy.relay.connection import Connection

BODY_TIMEOUT = 30
TRANSLATED = ("/generate", "/generate_stream")
_PIPED = "/v1/audio/transcriptions"
_WITH_USAGE_OPTION = ("/v1/chat/completions", "/v1/completions")
_STREAMS = (*_WITH_USAGE_OPTION, "/v1/messages", "/v1/responses")
_PATHS = {"POST": (*_STREAMS, *TRANSLATED, _PIPED), "GET": ("/version", "/nowhere")}
_PATHS["HEAD"] = ("/v1/models",)
_ERROR = b'{"error": {"message": "no", "type": "no", "code": 1}}'
_GARBAGE = b"\r\nno\x00HTTP\r\n\r\n"
_READ_BYTES = 1 << 16
_GONE = (ConnectionResetError, BrokenPipeError)


def cut(draw: random.Random, data: bytes) -> list[bytes]:
    """In pieces, not too many."""
    size = max(draw.choice([1, 7, 100, 5000, len(data)]), len(data) // 40 + 1)
    return [data[at : at + size] for at in range(0, len(data), size)]


def chunked(pieces: list[bytes]) -> list[bytes]:
    return [*(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces), b"0\r\n\r\n"]


def two_ends(draw: random.Random) -> tuple[socket.socket, socket.socket]:
    """Where the buffers between them are small, there is back-pressure."""
    ends, size = socket.socketpair(), draw.choice([4096, 4096, 1 << 18])
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return ends


def set_high_water(draw: random.Random, transport: asyncio.WriteTransport) -> None:
    transport.set_write_buffer_limits(draw.choice([0, 5000, 1 << 16]))


@dataclass
class Answer:
    """What a client has got."""

    status: int
    named: dict[bytes, bytes]
    body: bytes = b""
    is_whole: bool = False

    @property
    def closes(self) -> bool:
        return self.named.get(b"connection") == b"close"


class Ask:
    """One request: what client and engine are to do about it, and what has become of it."""

    def __init__(self, draw: random.Random, number: int) -> None:
        self.id = b"ask-%d" % number
        self.method = draw.choices([*_PATHS], [12, 2, 1])[0]
        self.path = draw.choice(_PATHS[self.method])
        has_choice = self.path in _STREAMS and draw.random() < 0.6
        self.streams = has_choice or self.path == "/generate_stream"
        self.asks_usage = draw.random() < 0.3
        has_body = self.method == "POST"
        self.is_chunked = has_body and draw.random() < 0.4
        self.expects = has_body and draw.random() < 0.2
        self.closes, self.is_pipelined = draw.random() < 0.1, draw.random() < 0.3
        self.lacks = draw.choices(["", "end" if self.is_chunked else "", "time"], [20, 1, 1])[0]
        self.body = self._body(draw) if has_body else b""

        self.status = draw.choices([200, 400, 500], [8, 1, 1])[0]
        self.answer_streams = self.streams and self.status == 200
        self.framing = draw.choice(["chunked", "length", "length", "end"])
        if self.answer_streams:
            self.framing = "chunked"
        count = draw.choices([1, 5, 30, 3000], [4, 6, 4, 1])[0]
        self.words = [draw.choice(["so ", "weit ", 'a "b" ', "größer "]) for _ in range(count)]
        self.trouble = draw.choices(["", "dies", "garbles", "hangs", "adds"], [20, 2, 1, 1, 1])[0]
        if self.framing == "end":  # there an end looks like any other
            self.trouble = ""
        self.is_early, self.engine_closes = draw.random() < 0.1, draw.random() < 0.1
        self.has_interim = draw.random() < 0.05

        self.times_at_engine, self.came, self.is_answered = 0, b"", False
        self.answer: Answer | None = None
        self.hindrances: set[str] = set()

    def _body(self, draw: random.Random) -> bytes:
        text = "x" * draw.choices([1, 100, 20_000, 200_000], [4, 4, 2, 1])[0]
        if self.path == _PIPED:
            return text.encode() * 2
        fields: dict[str, Any] = {"prompt": text}
        if self.path not in TRANSLATED:
            fields = {"messages": [{"role": "user", "content": text}], "stream": self.streams}
            if self.streams and self.asks_usage:
                fields["stream_options"] = {"include_usage": True}
        return json.dumps(fields).encode()

    def head(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.method.encode(), self.path.encode())]
        lines += [b"host: x", b"x-request-id: " + self.id]
        if self.method == "POST":
            kind = b"audio/wav" if self.path == _PIPED else b"application/json"
            lines.append(b"content-type: " + kind)
            length = b"content-length: %d" % len(self.body)
            lines.append(b"transfer-encoding: chunked" if self.is_chunked else length)
        lines += [b"expect: 100-continue"] * self.expects + [b"connection: close"] * self.closes
        return b"\r\n".join([*lines, b"", b""])

    @property
    def _lacks_usage_option(self) -> bool:
        return self.streams and not self.asks_usage and self.path in _WITH_USAGE_OPTION

    def question(self) -> bytes:
        """The body that the engine is to get."""
        if not self._lacks_usage_option:
            return self.body
        return self.body[:-1] + b',"stream_options":{"include_usage":true}}'

    def events(self) -> list[bytes]:
        """Of a stream, as the engine sends them."""
        usage = {"prompt_tokens": 3, "completion_tokens": len(self.words), "total_tokens": 9}
        if self.path == "/v1/messages":
            kind = "content_block_delta"
            deltas = [{"type": "text_delta", "text": one} for one in self.words]
            said = [_event({"delta": delta}, kind) for delta in deltas]
            return [*said, _event({}, "message_stop")]
        if self.path == "/v1/responses":
            said = [_event({"delta": one}, "response.output_text.delta") for one in self.words]
            return [*said, _event({"response": {"status": "completed"}}, "response.completed")]
        is_chat = self.path == "/v1/chat/completions"
        texts = [{"delta": {"content": one}} if is_chat else {"text": one} for one in self.words]
        said = [_event({"id": "c", "choices": [{"index": 0, **text}]}) for text in texts]
        end: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
        end |= {"index": 0, "finish_reason": "stop"}
        return [*said, _event({"choices": [end]}), _event({"choices": [], "usage": usage}), _DONE]

    def whole(self) -> bytes:
        """An answer that is no stream."""
        usage = {"prompt_tokens": 3, "completion_tokens": len(self.words), "total_tokens": 9}
        choice = {"index": 0, "finish_reason": "stop", "text": "".join(self.words)}
        answer = json.dumps({"choices": [choice], "usage": usage}).encode()
        return answer if self.status == 200 else _ERROR

    def expected(self) -> bytes:
        """The body that the client is to get."""
        if self.method == "HEAD" or not self.answer_streams:
            return b"" if self.method == "HEAD" else self.whole()
        events = self.events()
        if self._lacks_usage_option:
            del events[-2]
        return b"".join(events)

    def wire(self, draw: random.Random) -> list[bytes]:
        """The engine's whole answer: its head, and pieces as an engine writes them."""
        kind = b"text/event-stream" if self.answer_streams else b"application/json"
        lines = [b"HTTP/1.1 %d X" % self.status, b"content-type: " + kind]
        body = self.events() if self.answer_streams else cut(draw, self.whole())
        if self.framing == "chunked":
            lines, body = [*lines, b"transfer-encoding: chunked"], chunked(body)
        elif self.framing == "length":
            lines.append(b"content-length: %d" % sum(map(len, body)))
        lines += [b"connection: close"] * self.engine_closes
        interim = b"HTTP/1.1 102 Processing\r\n\r\n" * self.has_interim
        head = interim + b"\r\n".join([*lines, b"", b""])
        return [head] if self.method == "HEAD" else [head, *body]


_DONE = b"data: [DONE]\n\n"


def _event(data: dict[str, Any], kind: str = "") -> bytes:
    data = {"type": kind, **data} if kind else data
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {kind}\ndata: {text}\n\n" if kind else f"data: {text}\n\n").encode()


@dataclass
class FakeEngine:
    """Answers each request as its `Ask` has it."""

    draw: random.Random
    asks: dict[bytes, Ask]
    is_rude: bool
    """Some connections it closes before it is asked anything."""
    is_down: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def connect(self, make: Callable[[], Connection]) -> Connection:
        """In the place of `Upstream`'s own way."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.draw.choice([0, 0, 0.1]))
        if self.is_down:
            raise ConnectionRefusedError
        ours, theirs = two_ends(self.draw)
        serving = loop.create_task(self._serve(ours))
        transport, connection = await loop.create_connection(make, sock=theirs)
        set_high_water(self.draw, transport)
        self.tasks.append(serving)
        if self.is_rude and self.draw.random() < 0.3:
            serving.cancel()
        return connection

    async def _serve(self, sock: socket.socket) -> None:
        loop, is_dirty, rest = asyncio.get_running_loop(), False, b""
        idle_seconds = self.draw.choice([0.5, 5])
        with sock, suppress(*_GONE, TimeoutError, asyncio.CancelledError):
            while True:
                parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
                if rest:
                    parser.receive_data(rest)

                async def part(parser: h11.Connection = parser) -> Any:
                    while (found := parser.next_event()) is h11.NEED_DATA:
                        if not (data := await loop.sock_recv(sock, _READ_BYTES)):
                            raise ConnectionResetError
                        parser.receive_data(data)
                    return found

                async with asyncio.timeout(idle_seconds):
                    head = await part()
                assert not is_dirty, "a connection is used again that should be closed"
                named = dict(head.headers)
                ask = self.asks[named[b"x-request-id"]]
                ask.times_at_engine += 1
                assert (head.method, b"expect" in named) == (ask.method.encode(), False)
                if ask.is_early:
                    is_dirty = await self._answer(sock, ask)
                while isinstance(of_body := await part(), h11.Data):
                    ask.came += bytes(of_body.data)
                if not ask.is_early:
                    await asyncio.sleep(self.draw.choice([0, 0, 0.05, 2, 8]))
                    is_dirty = await self._answer(sock, ask)
                if ask.engine_closes or ask.framing == "end" or not ask.is_answered:
                    return
                rest = bytes(parser.trailing_data[0])

    async def _answer(self, sock: socket.socket, ask: Ask) -> bool:
        """Returns whether the connection cannot be used again."""
        loop, draw, pieces = asyncio.get_running_loop(), self.draw, ask.wire(self.draw)
        last = draw.randrange(len(pieces))
        if ask.trouble in ("dies", "hangs"):
            pieces[last:] = [pieces[last][: draw.randrange(len(pieces[last]))]]
        elif ask.trouble == "garbles":  # between chunks: what is inside of a body is no garbage
            pieces[last if ask.framing == "chunked" else 0 :] = [_GARBAGE]
        if (way := draw.choice(["as written", "cut", "at once"])) != "as written":
            whole = b"".join(pieces)
            pieces = cut(draw, whole) if way == "cut" else [whole]
        if ask.trouble == "adds":
            pieces[-1] += b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        if ask.trouble not in ("", "adds"):
            ask.hindrances.add(ask.trouble)
        pauses = draw.choice([(0,), (0, 0, 0, 0.01), (0, 0.3, 3)] if len(pieces) < 50 else [(0,)])
        for piece in pieces:
            await loop.sock_sendall(sock, piece)
            await asyncio.sleep(draw.choice(pauses))
        ask.is_answered = ask.trouble in ("", "adds")
        while ask.trouble in ("garbles", "hangs") and await loop.sock_recv(sock, _READ_BYTES):
            pass
        return bool(ask.trouble)


class Client:
    """One connection, on which some requests are made in turn."""

    def __init__(self, draw: random.Random, sock: socket.socket, asks: list[Ask]) -> None:
        self.asks, self.answers, self._sock, self._draw = asks, list[Answer](), sock, draw
        self.leaves = draw.choices(["", "wholly", "by half"], [6, 2, 1])[0]
        self._patience = draw.random() * draw.choice([0.01, 1, 10]) if self.leaves else 1e9
        self.left_at: float | None = None
        self._is_slow, self._stays = draw.random() < 0.3, draw.random() < 0.2
        self._is_closed = False
        self._begun = self._continued = 0
        self._news = asyncio.Event()
        self._parser: h11.Connection | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._writing = loop.create_task(self._write())
        self._reading = loop.create_task(self._read())
        leaving = loop.call_later(self._patience, self._leave)
        with self._sock:
            await asyncio.wait({self._reading})
            self._writing.cancel()
            await asyncio.wait({self._writing})
        leaving.cancel()
        if not self._reading.cancelled():
            self._reading.result()

    def _leave(self) -> None:
        if self.is_done:
            return
        self.left_at = asyncio.get_running_loop().time()
        for ask in self.asks:
            ask.hindrances.add("left")
        self._writing.cancel()
        if self.leaves == "wholly":
            self._reading.cancel()
        else:
            with suppress(OSError):  # it was closed in this moment
                self._sock.shutdown(socket.SHUT_WR)

    @property
    def is_done(self) -> bool:
        return self._has_answer(len(self.asks) - 1)

    def _has_answer(self, number: int) -> bool:
        """Or gets none any more."""
        if self._is_closed or number < 0:
            return True
        return len(self.answers) > number and self.answers[number].is_whole

    async def _write(self) -> None:
        with suppress(*_GONE):
            for number, ask in enumerate(self.asks):
                await self._make(number, ask)

    async def _make(self, number: int, ask: Ask) -> None:
        await self._until(lambda: ask.is_pipelined or self._has_answer(number - 1))
        self._begun += 1
        await self._send(ask.head())
        if ask.expects:
            await self._until(lambda: self._continued > number or self._has_answer(number))
            if ask.answer is not None and ask.answer.closes:
                raise ConnectionResetError
        body = chunked(cut(self._draw, ask.body)) if ask.is_chunked else [ask.body]
        if ask.lacks:
            ask.hindrances.add(f"no {ask.lacks}")
        if ask.lacks == "end":
            body[-1] = b"no chunk\r\n"
        elif ask.lacks == "time":
            await asyncio.sleep(2 * BODY_TIMEOUT)
        await self._send(b"".join(body))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def _send(self, data: bytes) -> None:
        for piece in cut(self._draw, data):
            await asyncio.get_running_loop().sock_sendall(self._sock, piece)
            await asyncio.sleep(self._draw.choice([0, 0, 0, 0.01, 0.1]))

    async def _read(self) -> None:
        size = self._draw.choice([100, 4096, _READ_BYTES])
        while not self._is_closed and (self._stays or not self.is_done):
            await asyncio.sleep(self._draw.choice([0, 0, 0.1, 2]) if self._is_slow else 0)
            data = b""
            with suppress(ConnectionResetError):
                data = await asyncio.get_running_loop().sock_recv(self._sock, size)
            self._is_closed = not data
            while data:
                data = self._take(data)
            self._news.set()

    def _take(self, data: bytes) -> bytes:
        """Read an answer on; returns what is behind its end."""
        if self._parser is None:
            number = len(self.answers)
            assert number < self._begun, f"an answer to nothing: {data[:200]!r}"
            self._parser = h11.Connection(h11.CLIENT)
            asked = h11.Request(
                method=self.asks[number].method, target="/", headers=[("host", "x")]
            )
            self._parser.send(asked)
            self._parser.send(h11.EndOfMessage())
        self._parser.receive_data(data)
        while True:
            match self._parser.next_event():
                case h11.InformationalResponse() as interim:
                    assert interim.status_code == 100
                    self._continued = len(self.answers) + 1
                case h11.Response() as head:
                    ask, named = self.asks[len(self.answers)], dict(head.headers)
                    assert len(named) == len([*head.headers]), head
                    ask.answer = Answer(head.status_code, named)
                    self.answers.append(ask.answer)
                case h11.Data() as part:
                    self.answers[-1].body += bytes(part.data)
                case h11.EndOfMessage():
                    self.answers[-1].is_whole = True
                    rest, self._parser = bytes(self._parser.trailing_data[0]), None
                    assert not (rest and self.answers[-1].closes), rest
                    return rest
                case _:
                    return b""
