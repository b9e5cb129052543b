"""One request and its answer on a connection."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from . import endings, log, refusals, routes
from . import script as scripts
from .deliver import EVENT_STREAM, BrokenOff, Delivery, Reply, forever
from .endings import Interruption
from .engine import Engine
from .plain import found
from .received import Digest, Received
from .script import DEFAULT, Script
from .sse import Encoder, framed
from .wire import Framing, Wire, head, reason, standard_fields

if TYPE_CHECKING:
    from .connection import Connection
    from .generate import Generation

LATE_SECONDS = 0.3
"""What `close_late` waits for."""


class Exchange:
    """Takes the body as it comes, finds the answer, sends it, and keeps the books."""

    def __init__(
        self, engine: Engine, connection: Connection, record: Received, *, keep_alive: bool
    ) -> None:
        self._engine = engine
        self._connection = connection
        self._keep_alive = keep_alive
        self._digest = Digest(record)
        self._pieces: list[bytes] = []
        self._joined: bytes | None = None
        self._progress = asyncio.Event()
        self._delivery: Delivery | None = None
        self._interruption: Interruption | None = None
        self._task: asyncio.Task[None] | None = None
        self.record = record
        self.path = record.target.partition("?")[0]
        self.headers = {name.lower(): value for name, value in record.headers}
        self.arrived = time.monotonic()
        self.received = False
        self.paced_until = 0.0
        """With `read_rate`: when what is here would have been read at that rate."""
        self.generation: Generation | None = None
        self.script, self._script_error = self._read_script()

    def _read_script(self) -> tuple[Script, str]:
        text = self.headers.get("x-fake")
        if text is None:
            return self._engine.path_scripts.get(self.path, DEFAULT), ""
        try:
            return scripts.parse(text.encode()), ""
        except msgspec.MsgspecError as error:
            return DEFAULT, str(error)

    # -- the request ---------------------------------------------------------------------------

    def header(self, name: str) -> str:
        """The last value of a header, or nothing."""
        return self.headers.get(name, "")

    @property
    def body(self) -> bytes:
        """The whole body, joined once."""
        if self._joined is None:
            self._joined = b"".join(self._pieces)
            self._pieces.clear()
        return self._joined

    @property
    def overridden(self) -> bool:
        """The script says what to answer whatever the request was."""
        return self.script.status is not None or self.script.body is not None

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        self._digest.feed(data)
        if self.script.early_answer is None:
            self._pieces.append(data)
        if self.script.read_rate:
            begin = max(time.monotonic(), self.paced_until)
            self.paced_until = begin + len(data) / self.script.read_rate
        self._progress.set()

    def feed_end(self) -> None:
        """The body is complete."""
        self.received = True
        self._digest.close(complete=True)
        self._progress.set()

    async def _until_received(self, count: int | None) -> None:
        while not self.received and (count is None or self.record.body_bytes < count):
            self._progress.clear()
            await self._progress.wait()
        await asyncio.sleep(self.paced_until - time.monotonic())

    # -- the answer ----------------------------------------------------------------------------

    def start(self) -> None:
        """Answer in a task of its own; pipelined requests are started one after the other."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        keep = False
        try:
            keep = await self._answer()
            self.record.finished = True
        except BrokenOff:
            pass
        except asyncio.CancelledError:
            if self._interruption is None:
                self.record.aborted = True
                self._engine.metrics.aborted += 1
                return
            keep = await self._interrupted(self._interruption)
        finally:
            self._close_books()
        self._connection.exchange_done(self, keep=keep)

    async def _answer(self) -> bool:
        reply = await self._reply()
        wire = Wire(self._connection.transport, self._connection.flow, self.script)
        self._delivery = Delivery(
            reply,
            self.script,
            wire,
            self.record,
            self._engine.released,
            keep_alive=self._keep_alive,
        )
        self._engine.metrics.answered(self.record.method, self.path, reply.status)
        keep = await self._delivery.send(self.path)
        return keep and await self._after_early()

    async def _reply(self) -> Reply:
        script = self.script
        await self._until_received(script.early_answer)
        if script.early_answer is not None:
            status = script.status or 413
            return found(refusals.error(status, "Request body too large", path=self.path), status)
        try:
            if self._script_error:
                raise refusals.bad_script(self._script_error)
            if self.overridden:
                return routes.overridden(self)
            return await routes.answer(self._engine, self)
        except refusals.Refusal as refusal:
            return found(refusal.body, refusal.status)

    async def _after_early(self) -> bool:
        if self.received:
            return True
        if self.script.early_then == "close":
            return False
        if self.script.early_then in ("close_late", "stop"):
            self._connection.transport.pause_reading()
            if self.script.early_then == "stop":
                await forever()
            await asyncio.sleep(LATE_SECONDS)
            return False
        return True

    # -- the end -------------------------------------------------------------------------------

    def interrupt(self, why: Interruption) -> None:
        """The engine ends this generation (other requests go on)."""
        if self.generation is not None and self._task is not None and not self._task.done():
            self._interruption = why
            self._task.cancel()

    def abandon(self) -> None:
        """The client has left."""
        if not self.received:
            self._digest.close(complete=False)
        if self._task is not None:
            self._task.cancel()

    async def _interrupted(self, why: Interruption) -> bool:
        generation, delivery = self.generation, self._delivery
        assert generation is not None
        streams = generation.plan.body.streams
        if not streams and (delivery is None or not delivery.started):
            self._write_whole(generation, why)
            return True
        framing = delivery.framing if delivery and delivery.started else Framing.CHUNKED
        if delivery is None or not delivery.started:
            self.record.status = 200
            fields = [*standard_fields(), ("content-type", EVENT_STREAM)]
            self._write(head(200, [*fields, ("transfer-encoding", "chunked")]))
        if why is Interruption.STOPPED:
            return self._write_rest(generation.stopped(), framing)
        ending = endings.error_events(self.path, Encoder(self.script))
        return ending is not None and self._write_rest(ending, framing)

    def _write_rest(self, events: list[bytes], framing: Framing) -> bool:
        """The last events, each a chunk of its own where the body is chunked."""
        chunked = framing is Framing.CHUNKED
        for event in events:
            data = framed(event, self.script.newline)
            self._write(f"{len(data):x}\r\n".encode() + data + b"\r\n" if chunked else data)
        self._write(b"0\r\n\r\n" if chunked else b"")
        return chunked and self._keep_alive

    def _write_whole(self, generation: Generation, why: Interruption) -> None:
        status, body = 200, b""
        if why is Interruption.STOPPED:
            body = b"".join(generation.stopped())
        else:
            status = 500
            error = refusals.error(500, refusals.ENGINE_DEAD, path=self.path)
            body = msgspec.json.encode(error)
        self.record.status = status
        fields = [*standard_fields(), ("content-length", str(len(body)))]
        self._write(head(status, [*fields, ("content-type", "application/json")]) + body)

    def _write(self, data: bytes) -> None:
        self._connection.transport.write(data)

    def _close_books(self) -> None:
        if self.generation is not None:
            self.generation.close(finished=self.record.finished)
        if self._engine.options.access_log and not self.path.startswith(routes.CONTROL):
            line = f"{self.record.method} {self.record.target} HTTP/{self.record.http_version}"
            status = f"{self.record.status} {reason(self.record.status)}"
            log.write(f'INFO:     {self._connection.peer} - "{line}" {status}')
