"""A WebSocket session (`/v1/realtime`) to the engine and back: messages as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from proxy.edge.routes import Route
from proxy.errors import ClientClosed, CutOff, EngineDied, EngineUnreachable, RequestFailure
from proxy.relay import headers
from proxy.relay.answer import note_error
from proxy.relay.event import note_realtime_event
from proxy.relay.headers import Headers
from proxy.relay.passage import Passage, record_of
from proxy.relay.refusal import refusal
from proxy.tasks import spawn
from proxy.telemetry.record import Record

_OPEN_TIMEOUT_SECONDS = 10.0
# RFC 6455, section 7.4.1.
_NORMAL, _GOING_AWAY, _NO_STATUS, _INTERNAL_ERROR = 1000, 1001, 1005, 1011
_NEVER_SENT = (1004, 1006, 1015)
# Made anew for the engine's side of the session.
_HANDSHAKE = (b"sec-websocket-", b"origin", b"user-agent")


class WebSocketRelay:
    """Relays one session a call; a session counts as one request in flight."""

    def __init__(
        self,
        authority: str,
        passage: Passage,
        *,
        max_message_bytes: int,
        retry_after: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`retry_after`: as `Upstream` has it."""
        self._authority = authority
        self._passage = passage
        self._max_message_bytes = max_message_bytes
        self._retry_after = retry_after
        self._sessions: set[_Session] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        record = record_of(scope, route)
        session = _Session(scope, receive, send, record)
        work = partial(self._relay, scope, session, record)
        await self._passage.through(record, work, partial(session.refuse, route))

    async def refuse(
        self, scope: Scope, receive: Receive, send: Send, failure: RequestFailure, route: Route
    ) -> None:
        """Answer a handshake that is not for the engine."""
        record = record_of(scope, route)
        session = _Session(scope, receive, send, record)
        await session.opening()
        await self._passage.refused(record, failure, partial(session.refuse, route))

    def cut(self, failure: RequestFailure) -> None:
        """End all sessions for this reason."""
        for session in self._sessions:
            session.cut(failure)

    async def _relay(self, scope: Scope, session: _Session, record: Record) -> None:
        await session.opening()
        try:
            engine = await self._connect(scope, record)
        except InvalidStatus as refused:
            await session.pass_refusal(refused)
            return
        async with engine:
            await session.accept(engine.subprotocol)
            self._sessions.add(session)
            try:
                await session.run(engine)
            finally:
                self._sessions.discard(session)

    async def _connect(self, scope: Scope, record: Record) -> ClientConnection:
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        try:
            return await _Connect(
                f"ws://{self._authority}{path}",
                additional_headers=_to_engine(scope["headers"], record),
                subprotocols=[Subprotocol(name) for name in scope.get("subprotocols", ())] or None,
                compression=None,  # the two are on one machine
                user_agent_header=record.user_agent,
                proxy=None,
                open_timeout=_OPEN_TIMEOUT_SECONDS,
                # Pings are between the two ends; an engine that is busy owes us none.
                ping_interval=None,
                max_size=self._max_message_bytes,
            )
        except InvalidStatus:
            raise
        except (OSError, TimeoutError, InvalidHandshake) as error:
            text = "The engine does not accept WebSocket sessions."
            raise EngineUnreachable(text, retry_after_seconds=self._retry_after()) from error


class _Connect(connect):
    """Follows no redirect: it is the client's to follow, and leads to wherever it likes."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class _Session:
    """The client's side of one session."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        self._extensions = scope.get("extensions") or {}
        self._receive = receive
        self._send = send
        self._record = record
        self._accepted = False
        self._down: asyncio.Task[RequestFailure | None]
        self._failure: RequestFailure | None = None

    async def opening(self) -> None:
        """The client's handshake, as the server hands it over."""
        assert (await self._receive())["type"] == "websocket.connect"

    async def accept(self, subprotocol: str | None) -> None:
        request_id = (b"x-request-id", self._record.request_id.encode())
        try:
            await self._send(
                {"type": "websocket.accept", "subprotocol": subprotocol, "headers": [request_id]}
            )
        except OSError:
            raise ClientClosed("The client left before its session began.") from None
        self._accepted = True
        self._record.status = 101

    async def run(self, engine: ClientConnection) -> None:
        """Both directions, until one side closes; the other is closed with the same code."""
        up = spawn(self._to_engine(engine), name="websocket up")
        self._down = down = spawn(self._from_engine(engine), name="websocket down")
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
        if self._failure is not None:
            raise self._failure
        if not up.done() and (failure := down.result()) is not None:
            raise failure

    def cut(self, failure: RequestFailure) -> None:
        """End the session for this reason."""
        self._failure = failure
        self._down.cancel()

    async def refuse(self, route: Route, failure: RequestFailure) -> None:
        """Tell what went wrong: as an HTTP answer before the session, as a close code in it."""
        if isinstance(failure, ClientClosed):
            self._record.status = failure.status
        elif self._accepted:
            code = _GOING_AWAY if isinstance(failure, CutOff) else _INTERNAL_ERROR
            await self._close(code, failure.message)
        else:
            await self._answer(*refusal(failure, self._record.request_id.encode()))

    async def pass_refusal(self, refused: InvalidStatus) -> None:
        """The engine's own refusal of the handshake."""
        answer = refused.response
        pairs = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in answer.headers.raw_items()
        ]
        kept = headers.to_client(pairs, self._record.request_id.encode())
        await self._answer(answer.status_code, kept, bytes(answer.body or b""))

    async def _to_engine(self, engine: ClientConnection) -> None:
        with suppress(ConnectionClosed):  # told by the other direction
            while (message := await self._receive())["type"] == "websocket.receive":
                text: str | None = message.get("text")
                data: str | bytes = text if text is not None else message["bytes"]
                self._record.bytes_in += _size(data)
                await engine.send(data)
            await engine.close(_sendable(message["code"]), message.get("reason") or "")

    async def _from_engine(self, engine: ClientConnection) -> RequestFailure | None:
        """Runs until the engine ends the session; returns what was wrong with that."""
        try:
            while True:
                data = await engine.recv()
                self._record.bytes_out += _size(data)
                kind = "bytes"
                if isinstance(data, str):
                    kind = "text"
                    note_realtime_event(data, self._record)
                with suppress(OSError):  # told by the other direction
                    await self._send({"type": "websocket.send", kind: data})
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                return EngineDied("The engine ended the session without closing it.")
            await self._close(_sendable(closed.rcvd.code), closed.rcvd.reason)
        return None

    async def _close(self, code: int, reason: str) -> None:
        with suppress(OSError):  # the client has closed it already
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _answer(self, status: int, answer_headers: Headers, body: bytes) -> None:
        self._record.status = status
        if "websocket.http.response" not in self._extensions:
            await self._close(_INTERNAL_ERROR, "")
            return
        kind = "websocket.http.response"
        with suppress(OSError):  # the client has left
            await self._send({"type": f"{kind}.start", "status": status, "headers": answer_headers})
            await self._send({"type": f"{kind}.body", "body": body})
        self._record.bytes_out += len(body)
        note_error(self._record, None)


def _to_engine(request_headers: Headers, record: Record) -> list[tuple[str, str]]:
    request_id = record.request_id.encode()
    kept = headers.to_upstream(request_headers, b"", request_id, record.span_headers)
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in kept
        if not name.startswith(_HANDSHAKE) and name != b"host"
    ]


def _sendable(code: int) -> int:
    """The code to pass on. Those that only name a missing close frame may not stand in one."""
    if code == _NO_STATUS:
        return _NORMAL
    return _GOING_AWAY if code in _NEVER_SENT else code


def _size(data: str | bytes) -> int:
    return len(data.encode()) if isinstance(data, str) else len(data)
