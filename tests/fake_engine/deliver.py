"""One answer on its way out, with the faults its script asks for."""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from . import endings
from .received import Received
from .script import Script, place
from .sse import KEEP_ALIVE, Encoder, Event, framed
from .wire import Fields, Framing, Wire, head, standard_fields

GARBAGE = b"\x00\x16\x03\x01 this is not HTTP \xff\xfe\r\n\r\n"
BAD_CHUNK = b"zz\r\nnot a chunk\r\n"
EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass
class Reply:
    """What is to be sent, before any fault."""

    status: int = 200
    content_type: str | None = "application/json"
    events: Iterator[Event] = field(default_factory=lambda: iter(()))
    streams: bool = False
    fields: Fields = field(default_factory=list)
    on_tokens: Callable[[int], None] = lambda _: None
    """Called for each event that carries tokens, when it is written."""
    gate: Callable[[], Awaitable[None]] | None = None
    """Awaited before the first event of a stream, or before the head of anything else."""
    working: Callable[[], Awaitable[object]] | None = None
    """Awaited before each event: the engine's core may have been stopped."""


def whole(body: bytes, status: int = 200, content_type: str | None = "application/json") -> Reply:
    """A reply with one body, known in advance."""
    return Reply(status, content_type, iter((Event(body),)))


class BrokenOff(Exception):
    """The script ends this connection here; nothing more is written."""


class Delivery:
    """Sends one reply over one wire."""

    def __init__(
        self,
        reply: Reply,
        script: Script,
        wire: Wire,
        record: Received,
        released: asyncio.Event,
        *,
        keep_alive: bool,
    ) -> None:
        self._reply = reply
        self._script = script
        self._released = released
        self._wire = wire
        self._record = record
        self._keep_alive = keep_alive and not script.close_after
        self._die = place(script.die)
        self._garbage = place(script.garbage)
        accepted = ",".join(record.header("accept-encoding"))
        self._gzips = script.gzip is True or (script.gzip == "accepted" and "gzip" in accepted)
        self._zip = zlib.compressobj(wbits=31) if self._gzips else None
        self.framing = Framing.LENGTH

    @property
    def started(self) -> bool:
        """The head is out."""
        return self._record.status != 0

    async def send(self, path: str) -> bool:
        """The whole answer; tells whether the connection may be used again."""
        script = self._script
        if script.hang:
            await forever()
        if script.raw is not None:
            await self._wire.write(base64.b64decode(script.raw))
            return not script.close_after
        await asyncio.sleep(script.head_ms / 1000)
        if script.hold_at is not None and not self._reply.streams:
            await self._released.wait()
        await self._maybe_break("before_headers", 0, b"")
        if not self._reply.streams:
            await self._pass_gate()
        events = self._ready()
        await self._head(events)
        await self._maybe_break("after_headers", 0, b"")
        if self._reply.streams:
            await self._pass_gate()
        if not await self._body(iter(events) if isinstance(events, list) else events, path):
            return False
        await self._wire.end(self.framing)
        return self._keep_alive and self.framing is not Framing.CLOSE and not script.content_length

    async def _pass_gate(self) -> None:
        if self._reply.gate is not None:
            await self._reply.gate()

    def _ready(self) -> Iterator[Event] | list[Event]:
        """The events dressed as scripted; a list where the length must be known first."""
        script, reply = self._script, self._reply
        if reply.status in (204, 304):
            self.framing = Framing.NONE
            return []
        events = self._dressed(reply.events)
        if self._record.method == "HEAD":
            return list(events)
        if script.http10:
            self.framing = Framing.CLOSE
        elif script.content_length is None and (reply.streams or script.chunk_bytes):
            self.framing = Framing.CHUNKED
        return list(events) if self.framing is Framing.LENGTH else events

    def _dressed(self, events: Iterator[Event]) -> Iterator[Event]:
        script = self._script
        if not self._reply.streams:
            yield from (Event(self._zipped(event.data), *event[1:]) for event in events)
        else:
            if script.comment:
                yield Event(self._zipped(framed(KEEP_ALIVE, script.newline)))
            for event in events:
                data = event.data + (KEEP_ALIVE if script.comment else b"")
                yield Event(self._zipped(framed(data, script.newline)), *event[1:])
            if script.after_done:
                yield Event(self._zipped(script.after_done.encode()))
        if self._zip is not None:
            yield Event(self._zip.flush(zlib.Z_FINISH))

    def _zipped(self, data: bytes) -> bytes:
        if self._zip is None:
            return data
        return self._zip.compress(data) + self._zip.flush(zlib.Z_SYNC_FLUSH)

    async def _head(self, events: Iterator[Event] | list[Event]) -> None:
        script = self._script
        for status in script.interim:
            await self._wire.write(head(status, []))
        data = head(self._reply.status, self._fields(events), "1.0" if script.http10 else "1.1")
        if self._die[0] == "inside_headers":
            await self._wire.write(data[: len(data) // 2])
            await self._break()
        self._record.status = self._reply.status
        await self._wire.write(data)

    def _fields(self, events: Iterator[Event] | list[Event]) -> Fields:
        script, reply = self._script, self._reply
        fields = standard_fields()
        if self.framing is Framing.LENGTH:
            length = sum(len(event.data) for event in events) + (script.content_length or 0)
            fields.append(("content-length", str(length)))
            if self._record.method == "HEAD":
                self.framing = Framing.NONE
        if reply.content_type and self._reply.status not in (204, 304):
            fields.append(("content-type", reply.content_type))
        fields += [("vary", "Origin"), *reply.fields]
        if self._gzips:
            fields.append(("content-encoding", "gzip"))
        if not self._keep_alive or self.framing is Framing.CLOSE:
            fields.append(("connection", "close"))
        if self.framing is Framing.CHUNKED:
            fields.append(("transfer-encoding", "chunked"))
        return fields + list(script.headers)

    async def _body(self, events: Iterator[Event], path: str) -> bool:
        """Tells whether the body was ended as it should be."""
        script, glued = self._script, list[Event]()
        for number, event in enumerate(events):
            if script.error_event_at == number:
                await self._wire.body(b"".join(event.data for event in glued), self.framing)
                return await self._error(path)
            if script.stall_at == number:
                await self._send(glued)
                await forever()
            if script.hold_at == number:
                await self._send(glued)
                await self._released.wait()
            if self._breaks_at(number):
                await self._send(glued)
                await self._maybe_break("between_events", number, b"")
                await self._maybe_break("inside_event", number, event.data)
                await self._maybe_break("inside_chunk", number, event.data)
            if event.delay_seconds:
                await asyncio.sleep(event.delay_seconds)
            if self._reply.working is not None:
                await self._reply.working()
            glued.append(event)
            if len(glued) >= script.glue:
                await self._send(glued)
        await self._send(glued)
        return True

    async def _send(self, events: list[Event]) -> None:
        """Events in one write; the list is emptied."""
        if not events:
            return
        data = b"".join(event.data for event in events)
        tokens = sum(event.tokens for event in events)
        count = len(events)
        events.clear()
        if tokens:
            self._reply.on_tokens(tokens)
        await self._wire.body(data, self.framing)
        self._record.events += count
        # Without cuts nothing above yields: others must get their turn between events.
        if self._reply.streams:
            await asyncio.sleep(0)

    async def _error(self, path: str) -> bool:
        events = endings.error_events(path, Encoder(self._script))
        if events is None:
            await self._break()
        for data in events:
            await self._wire.body(self._zipped(framed(data, self._script.newline)), self.framing)
        return True

    def _breaks_at(self, number: int) -> bool:
        names = ("between_events", "inside_event", "inside_chunk")
        return any(name in names and at == number for name, at in (self._die, self._garbage))

    async def _maybe_break(self, name: str, number: int, data: bytes) -> None:
        half = data[: len(data) // 2]
        if self._garbage == (name, number):
            await self._wire.body(half, self.framing)
            await self._wire.flush()
            await self._wire.write(BAD_CHUNK if self.started else GARBAGE)
            self._wire.transport.close()
            raise BrokenOff
        if self._die == (name, number):
            if name == "inside_chunk" and self.framing is Framing.CHUNKED:
                await self._wire.write(self._wire.chunk(data)[: -len(data) // 2])
            else:
                await self._wire.body(half, self.framing)
            await self._wire.flush()
            await self._break()

    async def _break(self) -> NoReturn:
        if self._script.how == "rst":
            await self._wire.reset()
        self._wire.transport.close()
        raise BrokenOff


async def forever() -> NoReturn:
    """Until cancelled: the client has left, or the engine ends."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError
