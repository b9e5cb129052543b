"""What a request costs in Python at least: a relay on uvloop, httptools and msgspec with one task,
a whole record, one JSON log line and six histograms for each request, and nothing else.

It has no keys, limits, media, back-pressure, pipelining, time limits or error paths: they are what
ours is for, and what it may cost beyond this. PORT says where it listens, UPSTREAM_PORT where the
engine does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from bisect import bisect_left
from random import getrandbits
from time import monotonic
from typing import Any, cast

import httptools
import msgspec
import uvloop

_ENGINE = int(os.environ.get("UPSTREAM_PORT", "0"))
_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade"}
_NOT_SENT = _HOP_BY_HOP | {b"content-length", b"host", b"expect", b"x-request-id"}
_BOUNDS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0]


class _Part(msgspec.Struct):
    type: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    stream_options: msgspec.Raw | None = None
    messages: list[_Message] = []


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[_Choice] = []


_read_body = msgspec.json.Decoder(_Body).decode
_read_answer = msgspec.json.Decoder(_Answer).decode
_written = msgspec.json.Encoder().encode


class _Histogram:
    def __init__(self) -> None:
        self.buckets = [0] * (len(_BOUNDS) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.buckets[bisect_left(_BOUNDS, value)] += 1
        self.sum += value


class _Series:
    def __init__(self) -> None:
        self.requests = 0
        self.tokens = [0, 0]
        self.histograms = [_Histogram() for _ in range(6)]


_series: dict[str | None, _Series] = {}
_lines: list[bytes] = []
_idle: list[_Engine] = []


def _log(line: dict[str, Any]) -> None:
    """All lines of one turn of the loop leave in one write."""
    if not _lines:
        asyncio.get_running_loop().call_soon(_flush)
    _lines.append(_written(line))


def _flush() -> None:
    data = b"\n".join(_lines) + b"\n"
    _lines.clear()
    os.write(sys.stdout.fileno(), data)


class _Engine(asyncio.Protocol):
    """A connection to the engine."""

    transport: asyncio.Transport
    parser: httptools.HttpResponseParser

    def __init__(self) -> None:
        self.client: _Client | None = None
        self.keeps_alive = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def begin(self, client: _Client) -> None:
        self.client = client
        self.parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.first_byte = 0.0
        self.is_whole = False

    def data_received(self, data: bytes) -> None:
        if not self.first_byte:
            self.first_byte = monotonic()
        self.parser.feed_data(data)
        if self.client is not None and self.client.is_streaming:
            self.client.pass_on(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self.client is not None
        self.client.head_came(self)

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        assert self.client is not None
        if self.client.is_streaming:
            self.client.pass_on(self)
        self.keeps_alive = self.parser.should_keep_alive()
        self.is_whole = True
        if not self.client.news.done():
            self.client.news.set_result(None)
        self.client = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self in _idle:
            _idle.remove(self)


class _Client(asyncio.Protocol):
    """A client's connection."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._address = transport.get_extra_info("peername")[0]
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._began = monotonic()
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._target = b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._task = self._loop.create_task(self._relay(b"".join(self._pieces)))

    async def _relay(self, body: bytes) -> None:
        self._read = read = _read_body(body) if body else _Body()
        named = dict(self._headers)
        self._id = named.get(b"x-request-id") or b"%032x" % getrandbits(128)
        self._agent = named.get(b"user-agent", b"").decode()
        if read.stream and read.stream_options is None:
            body = body.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}'
        self._bytes_in, self._bytes_out = len(body), 0
        self._first_token: float | None = None
        self.is_streaming = False
        lines = [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] not in _NOT_SENT]
        method, target, sent = self._parser.get_method(), self._target, b"".join(lines)
        head = b"%b %b HTTP/1.1\r\nhost: engine\r\n%b" % (method, target, sent)
        head += b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (self._id, len(body))
        if _idle:
            engine = _idle.pop()
        else:
            made = await self._loop.create_connection(_Engine, "127.0.0.1", _ENGINE)
            engine = made[1]
        engine.begin(self)
        self.news: asyncio.Future[None] = self._loop.create_future()
        self._sent = monotonic()
        engine.transport.writelines((head, body))
        await self.news
        if not engine.is_whole:
            self.news = self._loop.create_future()
            await self.news
        self._end(engine)
        if engine.keeps_alive:
            _idle.append(engine)

    def head_came(self, engine: _Engine) -> None:
        self._status = engine.parser.get_status_code()
        kinds = (value for name, value in engine.headers if name == b"content-type")
        self.is_streaming = any(kind.startswith(b"text/event-stream") for kind in kinds)
        if self.is_streaming:
            self.transport.write(self._head(engine) + b"transfer-encoding: chunked\r\n\r\n")
        self.news.set_result(None)

    def _head(self, engine: _Engine) -> bytes:
        lines = [b"%b: %b\r\n" % pair for pair in engine.headers if pair[0] not in _HOP_BY_HOP]
        head = b"HTTP/1.1 %d OK\r\n%b" % (self._status, b"".join(lines))
        return b"%bx-request-id: %b\r\n" % (head, self._id)

    def pass_on(self, engine: _Engine) -> None:
        if engine.body:
            data = b"".join(engine.body)
            engine.body.clear()
            if self._first_token is None:
                self._first_token = monotonic()
            self._bytes_out += len(data)
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _end(self, engine: _Engine) -> None:
        last_byte, answer = monotonic(), _Answer()
        if self.is_streaming:
            self.transport.write(b"0\r\n\r\n")
        else:
            body = b"".join(engine.body)
            self._bytes_out, answer = len(body), _read_answer(body)
            timing = b"server-timing: total;dur=%.1f\r\n\r\n" % ((last_byte - self._began) * 1000)
            self.transport.writelines((self._head(engine) + timing, body))
        self._note(engine, answer, monotonic(), last_byte)

    def _note(self, engine: _Engine, answer: _Answer, now: float, last_byte: float) -> None:
        duration, first = now - self._began, (self._first_token or engine.first_byte) - self._began
        read, usage = self._read, answer.usage or _Usage()
        series = _series.setdefault(read.model, _Series())
        series.requests += 1
        series.tokens[0] += usage.prompt_tokens
        series.tokens[1] += usage.completion_tokens
        overhead = duration - (last_byte - self._sent)
        values = (duration, first, overhead, self._bytes_in, self._bytes_out, last_byte)
        for histogram, value in zip(series.histograms, values, strict=True):
            histogram.add(value)
        _log(
            {
                "timestamp": time.time(),
                "level": "INFO",
                "logger": "proxy.access",
                "message": f"{self._target.decode()} {self._status} ok",
                "request_id": self._id.decode(),
                "path": self._target.decode(),
                "route": "chat",
                "model": read.model,
                "status": self._status,
                "outcome": "ok",
                "stream": bool(read.stream),
                "bytes_in": self._bytes_in,
                "bytes_out": self._bytes_out,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "finish_reason": answer.choices[0].finish_reason if answer.choices else None,
                "duration_ms": round(duration * 1000, 2),
                "ttft_ms": round(first * 1000, 2),
                "body_read_ms": round((self._sent - self._began) * 1000, 2),
                "upstream_first_byte_ms": round((engine.first_byte - self._sent) * 1000, 2),
                "overhead_ms": round(overhead * 1000, 2),
                "client": self._address,
                "user_agent": self._agent,
            }
        )


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Client, "127.0.0.1", int(os.environ["PORT"]), backlog=2048)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
