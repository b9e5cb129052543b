"""Speed mode (`--tick-ms`): all open streams get one 230-byte event per tick, as cheaply as can be.

A protocol of its own: no scripts, no journal, no access log. Streamed chat and completions get
max_tokens events of `EVENT_BYTES` whose text begins with `t=` (CLOCK_MONOTONIC in ns, taken once
per tick), then the usage event where it was asked for, then `[DONE]`. Other POSTs get a chat
answer of about 1 KB.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from typing import cast

import httptools
import msgspec

from . import body as bodies
from . import chat, completions, control, plain, refusals
from .deliver import EVENT_STREAM, Reply
from .engine import Engine
from .plan import Plan
from .script import Script
from .sse import DONE
from .wire import head

EVENT_BYTES = 230
ANSWER_BYTES = 1024
Write = Callable[[bytes], None]
_FIELDS = [("date", "Fri, 20 Nov 2026 10:00:00 GMT"), ("server", "uvicorn")]
_CHUNKED = [("content-type", EVENT_STREAM), ("transfer-encoding", "chunked")]
STREAM_HEAD = head(200, [*_FIELDS, *_CHUNKED])
_END = b"0\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Kind:
    """Streams of one API: its events, pre-built but for the time and the padding."""

    def __init__(self, engine: Engine, *, is_chat: bool) -> None:
        self._id = "chatcmpl-0123456789abcdef" if is_chat else "cmpl-0123456789abcdef"
        self._is_chat = is_chat
        self._engine = engine
        self.writes: dict[TickConnection, Write] = {}
        self.ends: defaultdict[int, list[TickConnection]] = defaultdict(list)
        self._before, self._after = self._chunk_with("@").split(b"@")
        self.opening = STREAM_HEAD + (_chunk(self._role()) if is_chat else b"")

    def _plan(self, request: str) -> Plan:
        body = bodies.parse(request.encode())
        short = self._id.rpartition("-")[2]
        return Plan(Script(), body, self._engine.model, short, parser=False)

    def _stream(self, request: str) -> list[bytes]:
        build = chat.ChatStream if self._is_chat else completions.CompletionStream
        return [event.data for event in build(self._plan(request)).events()]

    def _role(self) -> bytes:
        return self._stream('{"max_tokens": 1}')[0]

    def _chunk_with(self, text: str) -> bytes:
        events = self._stream('{"max_tokens": 1}')
        event = msgspec.json.decode(events[1 if self._is_chat else 0].removeprefix(b"data: "))
        choice = event["choices"][0]
        del choice["token_ids"]  # makes room for the time within EVENT_BYTES
        if self._is_chat:
            choice["delta"]["content"] = text
        else:
            choice["text"] = text
        return b"data: " + msgspec.json.encode(event) + b"\n\n"

    def token(self, moment: int) -> bytes:
        """The chunk of this tick, the same for all streams."""
        stamp = b"t=%d " % moment
        padding = EVENT_BYTES - len(self._before) - len(self._after) - len(stamp)
        # With a long model name the event is longer.
        return _chunk(self._before + stamp + b"x" * padding + self._after)

    def closing(self, tokens: int, *, usage: bool) -> bytes:
        """Finish, usage where asked for, `[DONE]`, the last chunk: one write."""
        options = ',"stream_options":{"include_usage":true}' if usage else ""
        plan = self._plan(f'{{"max_tokens": {tokens}{options}}}')
        plan = Plan(Script(tokens=tokens), plan.body, plan.model, plan.request_id, parser=False)
        build = chat.ChatStream if self._is_chat else completions.CompletionStream
        events = [event.data for event in build(plan).closing()]
        assert events[-1] == DONE
        return b"".join(map(_chunk, events)) + _END


class Ticker:
    """The one loop over all streams."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seconds = engine.options.tick_ms / 1000
        self._closings: dict[tuple[bool, int, bool], bytes] = {}
        self.kinds = {True: Kind(engine, is_chat=True), False: Kind(engine, is_chat=False)}
        self.answer = self._whole_answer()
        self.number = 0
        self.late = 0
        self._due = 0.0

    def _whole_answer(self) -> bytes:
        text = '{"max_tokens": 8}'
        plan = Plan(
            Script(), bodies.parse(text.encode()), self._engine.model, "0123456789abcdef", False
        )
        value = chat.answer(plan)
        short = ANSWER_BYTES - len(msgspec.json.encode(value))
        value["choices"][0]["message"]["content"] += "x" * max(short, 0)
        data = msgspec.json.encode(value)
        fields = [*_FIELDS, ("content-length", str(len(data)))]
        return head(200, [*fields, ("content-type", "application/json")]) + data

    def start(self) -> None:
        """Begin to tick."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._seconds
        loop.call_at(self._due, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.number += 1
        metrics = self._engine.metrics
        for kind in self.kinds.values():
            if kind.writes:
                chunk = kind.token(time.monotonic_ns())
                for write in kind.writes.values():
                    write(chunk)
                metrics.generation_tokens += len(kind.writes)
            for connection in kind.ends.pop(self.number, ()):
                if kind.writes.pop(connection, None) is not None:
                    connection.finish()
        metrics.running = sum(len(kind.writes) for kind in self.kinds.values())
        self._due += self._seconds
        if self._due < loop.time():
            self.late += 1
            self._due = loop.time()
        loop.call_at(self._due, self._tick, loop)

    def add(self, connection: TickConnection, *, is_chat: bool, tokens: int) -> None:
        """A new stream: its head (and role event) now, its first token at the next tick."""
        kind = self.kinds[is_chat]
        connection.transport.write(kind.opening)
        kind.writes[connection] = connection.transport.write
        kind.ends[self.number + tokens].append(connection)

    def drop(self, connection: TickConnection) -> bool:
        """A client has left; tells whether its stream was open."""
        gone = [kind.writes.pop(connection, None) for kind in self.kinds.values()]
        return any(write is not None for write in gone)

    def closing(self, *, is_chat: bool, tokens: int, usage: bool) -> bytes:
        """The end of a stream, built once for each kind of end."""
        key = (is_chat, tokens, usage)
        if key not in self._closings:
            self._closings[key] = self.kinds[is_chat].closing(tokens, usage=usage)
        return self._closings[key]


class TickConnection(asyncio.Protocol):
    """HTTP/1.1 with the least work per request; of the header only keep-alive is looked at."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine, ticker: Ticker) -> None:
        self._engine = engine
        self._ticker = ticker
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._pieces: list[bytes] = []
        self._ending: tuple[bool, int, bool] = (True, 0, False)
        self._keep_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self.transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._engine.connections_opened += 1

    def connection_lost(self, _: Exception | None) -> None:
        """It has left."""
        if self._ticker.drop(self):
            self._engine.metrics.aborted += 1

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._pieces.clear()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._url += url

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Answer at once."""
        self._keep_alive = self._parser.should_keep_alive()  # forgotten after this callback
        if self._parser.get_method() != b"POST":
            self._answer_get(self._url.decode("latin-1"))
            return
        body = b"".join(self._pieces)
        self._pieces.clear()
        try:
            wish = bodies.parse(body)
        except msgspec.MsgspecError:
            wish = bodies.Body()
        if not wish.streams:
            self._end(self._ticker.answer)
            return
        usage = bool(wish.stream_options and wish.stream_options.include_usage)
        tokens = max(1, wish.limit or 100)
        is_chat = self._url.startswith(b"/v1/chat")
        self._ending = (is_chat, tokens, usage)
        self._ticker.add(self, is_chat=is_chat, tokens=tokens)

    def finish(self) -> None:
        """The last token has been written."""
        is_chat, tokens, usage = self._ending
        closing = self._ticker.closing(is_chat=is_chat, tokens=tokens, usage=usage)
        self._end(closing)
        self._engine.metrics.success["length"] += 1

    def _end(self, data: bytes) -> None:
        self.transport.write(data)
        if not self._keep_alive:
            self.transport.close()

    def _answer_get(self, path: str) -> None:
        if path == "/__fake/stats":
            stats = control.stats(self._engine)
            stats |= {"ticks": self._ticker.number, "late_ticks": self._ticker.late}
            self._write(plain.found(stats))
        elif path in plain.GETS:
            self._write(plain.GETS[path](self._engine))
        else:
            self._write(plain.found(refusals.NOT_FOUND, 404))

    def _write(self, reply: Reply) -> None:
        data = b"".join(event.data for event in reply.events)
        fields = [*_FIELDS, ("content-length", str(len(data)))]
        if reply.content_type:
            fields.append(("content-type", reply.content_type))
        self._end(head(reply.status, fields) + data)
