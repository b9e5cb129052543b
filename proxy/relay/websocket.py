"""A WebSocket session (`/v1/realtime`) to the engine and back: messages as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from proxy.access.routes import Route
from proxy.errors import (
    BodyTooLarge,
    ClientClosed,
    CutOff,
    EngineDied,
    EngineUnreachable,
    InvalidEngineResponse,
    MalformedRequest,
    RequestFailure,
)
from proxy.relay import headers
from proxy.relay.answer import note_error
from proxy.relay.event import note_realtime_event
from proxy.relay.headers import Headers
from proxy.relay.lifecycle import RequestLifecycle, record_of
from proxy.relay.refusal import refusal
from proxy.relay.routing import Model, Models
from proxy.relay.upstream import Upstream
from proxy.server.request import Request
from proxy.server.websocket import ClientWebSocket, SessionEnded
from proxy.tasks import spawn
from proxy.telemetry.record import Record

_OPEN_TIMEOUT_SECONDS = 10.0
# Shorter than what is left to sessions at the end of the process.
_ENGINE_CLOSE_SECONDS = 2.0
# What a client that has left sent last may still go to the engine, where it takes it.
_LAST_SECONDS = 5.0
# Frames of the engine's that wait for a slow client, and bytes that wait for a slow engine.
_MAX_QUEUED_FRAMES, _MAX_UNSENT_BYTES = 16, 64 * 1024
# RFC 6455, section 7.4.1: these stand for the lack of a close frame, and may not be in one.
_NEVER_SENT = (1004, CloseCode.ABNORMAL_CLOSURE, CloseCode.TLS_HANDSHAKE)
# What we close the engine's side with where it does not keep to the protocol.
_FAULTS = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG)
_CLOSE_CODES: dict[type[RequestFailure], CloseCode] = {
    CutOff: CloseCode.SERVICE_RESTART,
    MalformedRequest: CloseCode.PROTOCOL_ERROR,
    BodyTooLarge: CloseCode.MESSAGE_TOO_BIG,
}
# The engine's side of the session has its own.
_HANDSHAKE = (b"sec-websocket-", b"origin", b"user-agent")
_CLIENT_LEFT = "The client closed the connection."


class WebSocketRelay:
    """Relays one session a call; a session counts as one request in flight."""

    def __init__(
        self,
        models: Models,
        lifecycle: RequestLifecycle,
        *,
        max_message_bytes: int,
        withheld: frozenset[bytes] = frozenset(),
    ) -> None:
        """`withheld` are names of headers that the engine does not get."""
        self._only = models.only
        self._withheld = withheld
        self._lifecycle = lifecycle
        self._max_message_bytes = max_message_bytes
        self._running: dict[_Session, Model] = {}

    async def __call__(
        self, request: Request, client: ClientWebSocket, route: Route, key: str | None
    ) -> None:
        record = record_of(request, route, key)
        session = _Session(client, record)
        work = partial(self._relay, request, session, record)
        refuse = partial(session.refuse, route)
        await self._lifecycle.run(record, work, refuse, client.on_disconnect)

    async def refuse(
        self,
        request: Request,
        client: ClientWebSocket,
        failure: RequestFailure,
        route: Route,
        key: str | None,
    ) -> None:
        """Answer a handshake that is not for the engine."""
        record = record_of(request, route, key)
        session = _Session(client, record)
        await self._lifecycle.reject(record, failure, partial(session.refuse, route))

    def cut(self, model: Model, failure: RequestFailure) -> None:
        """End the sessions with one engine for this reason, and tell their clients."""
        for session, other in self._running.items():
            if other is model:
                session.cut(failure)

    async def _relay(self, request: Request, session: _Session, record: Record) -> None:
        model = self._only
        if model is None:
            query = parse_qs(request.query.decode("latin-1"))
            record.model = query.get("model", [None])[0]
            model = await self._lifecycle.enter(record, session.client.on_disconnect)
        self._running[session] = model
        try:
            engine = await self._connect(request, session, record, model.upstream)
            try:
                session.accept(engine.subprotocol)
                await session.run(engine)
            finally:
                await _close(engine, CloseCode.GOING_AWAY)
        except InvalidStatus as refused:
            session.pass_refusal(refused)
        finally:
            del self._running[session]

    async def _connect(
        self, request: Request, session: _Session, record: Record, upstream: Upstream
    ) -> ClientConnection:
        """Raises InvalidStatus, EngineUnreachable, ClientClosed where the client has left, or
        what the session was cut for."""
        client = session.client
        query = request.query.decode("latin-1")
        path = request.path.decode("latin-1") + (f"?{query}" if query else "")
        left: list[RequestFailure] = []

        def leave(failure: RequestFailure) -> None:
            left.append(failure)
            if not patience.expired():
                patience.reschedule(0)

        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_SECONDS) as patience:
                client.on_disconnect(leave)
                session.on_cut = leave
                # A Unix socket takes the place of the host and port of the URI.
                place: dict[str, Any] = {}
                if upstream.uds is not None:
                    place = {"unix": True, "path": upstream.uds}
                return await _Connect(
                    f"ws://{upstream.authority.decode()}{path}",
                    additional_headers=_to_engine(request.headers, record, self._withheld),
                    subprotocols=[Subprotocol(name) for name in client.subprotocols] or None,
                    compression=None,  # the two are on one machine
                    user_agent_header=record.user_agent,
                    proxy=None,
                    open_timeout=None,
                    # Pings are between the two ends; an engine that is busy owes us none.
                    ping_interval=None,
                    max_size=self._max_message_bytes,
                    max_queue=_MAX_QUEUED_FRAMES,
                    write_limit=_MAX_UNSENT_BYTES,
                    **place,
                )
        except InvalidStatus:
            raise
        except (OSError, TimeoutError, InvalidHandshake) as error:
            if left:
                raise left[0] from None
            text = "The engine does not accept WebSocket sessions."
            raise EngineUnreachable(text, retry_after_seconds=upstream.retry_after()) from error
        finally:
            client.on_disconnect(None)
            session.on_cut = None


class _Connect(connect):
    """Follows no redirect: it is the client's to follow, and leads to wherever it likes."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class _Session:
    """One session between its client and the engine."""

    def __init__(self, client: ClientWebSocket, record: Record) -> None:
        self.client = client
        self.on_cut: Callable[[RequestFailure], None] | None = None
        self._record = record
        self._accepted = False
        self._cut: asyncio.Future[RequestFailure] = asyncio.get_running_loop().create_future()

    def accept(self, subprotocol: str | None) -> None:
        request_id = (b"x-request-id", self._record.request_id.encode())
        self.client.accept(subprotocol, [request_id])
        self._accepted = True
        self._record.status = 101

    def cut(self, failure: RequestFailure) -> None:
        if not self._cut.done():
            self._cut.set_result(failure)
            if self.on_cut is not None:
                self.on_cut(failure)

    async def run(self, engine: ClientConnection) -> None:
        """Both directions, until one side closes; the other is closed with the same code.

        Raises:
            RequestFailure: the session has not ended by a close frame of one of the two.
        """
        down = spawn(self._from_engine(engine), name="websocket down")
        up = spawn(self._to_engine(engine, down), name="websocket up")

        def leave(_: RequestFailure) -> None:
            asyncio.get_running_loop().call_later(_LAST_SECONDS, up.cancel)

        self.client.on_disconnect(leave)
        try:
            await asyncio.wait({up, down, self._cut}, return_when=asyncio.FIRST_COMPLETED)
            if up.cancelled():
                failure: RequestFailure | None = ClientClosed(_CLIENT_LEFT)
            elif up.done():
                failure = up.result()
            else:
                failure = (down if down.done() else self._cut).result()
        finally:
            self.client.on_disconnect(None)
            up.cancel()
            down.cancel()
            self._note_bytes()
        if failure is not None:
            self._close_for(failure)
            raise failure

    async def refuse(self, route: Route, failure: RequestFailure) -> None:
        """Tell what went wrong: as an HTTP answer before the session, as a close code in it."""
        if self._accepted:
            self._close_for(failure)
        elif isinstance(failure, ClientClosed):
            self._record.status = failure.status
        else:
            self._answer(*refusal(failure, self._record.request_id.encode()))

    def pass_refusal(self, refused: InvalidStatus) -> None:
        """The engine's own refusal of the handshake."""
        answer = refused.response
        pairs = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in answer.headers.raw_items()
        ]
        kept = headers.to_client(pairs, self._record.request_id.encode())
        self._answer(answer.status_code, kept, bytes(answer.body or b""))

    async def _to_engine(
        self, engine: ClientConnection, down: asyncio.Task[RequestFailure | None]
    ) -> RequestFailure | None:
        """Runs until the client ends the session; returns what was wrong with that."""
        try:
            while True:
                await engine.send(await self.client.receive())
        except SessionEnded as ended:
            await _close(engine, _sendable(ended.code), ended.reason)
            return ClientClosed(_CLIENT_LEFT) if ended.code in _NEVER_SENT else None
        except RequestFailure as failure:
            return failure
        except ConnectionClosed:
            return await down

    async def _from_engine(self, engine: ClientConnection) -> RequestFailure | None:
        """Runs until the engine ends the session; returns what was wrong with that."""
        try:
            while True:
                data = await engine.recv()
                if isinstance(data, str):
                    note_realtime_event(data, self._record)
                with suppress(SessionEnded):  # `_to_engine` reports it; read on for usage
                    await self.client.send(data)
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                self.client.close(_sendable(closed.rcvd.code), closed.rcvd.reason)
            elif closed.sent is not None and closed.sent.code in _FAULTS:
                return InvalidEngineResponse(
                    "What the engine sent in the session is no WebSocket message."
                )
            else:
                return EngineDied("The engine ended the session without closing it.")
        return None

    def _close_for(self, failure: RequestFailure) -> None:
        code = _CLOSE_CODES.get(type(failure), CloseCode.INTERNAL_ERROR)
        self.client.close(code, failure.message)

    def _answer(self, status: int, answer_headers: Headers, body: bytes) -> None:
        self._record.status = status
        self.client.refuse(status, answer_headers, body)
        self._note_bytes()
        note_error(self._record, None)

    def _note_bytes(self) -> None:
        self._record.bytes_in, self._record.bytes_out = self.client.bytes_in, self.client.bytes_out


async def _close(engine: ClientConnection, code: int, reason: str = "") -> None:
    """Does nothing where it is closed. To write to an engine that does not read, the library's
    own `close` waits without a limit."""
    try:
        async with asyncio.timeout(_ENGINE_CLOSE_SECONDS):
            await engine.close(code, reason)
    except TimeoutError:
        engine.transport.abort()


def _to_engine(
    request_headers: Headers, record: Record, withheld: frozenset[bytes]
) -> list[tuple[str, str]]:
    request_id = record.request_id.encode()
    kept = headers.to_upstream(request_headers, b"", request_id, record.span_headers, withheld)
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in kept
        if not name.startswith(_HANDSHAKE) and name != b"host"
    ]


def _sendable(code: int) -> int:
    """The code to pass on. Those that only name a missing close frame may not stand in one."""
    if code == CloseCode.NO_STATUS_RCVD:
        return CloseCode.NORMAL_CLOSURE
    return CloseCode.GOING_AWAY if code in _NEVER_SENT else code
