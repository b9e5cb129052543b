"""The client's side of a request: its body, its leaving, and the answer written to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from time import monotonic
from typing import Protocol

from starlette.types import Message, Receive, Scope, Send

from proxy.errors import BodyTooLarge, ClientClosed
from proxy.relay.headers import Headers, get
from proxy.telemetry.record import Record

# Our server puts the client's connection under this key into the scope (`proxy.server`).
CONNECTION = "sidecar.connection"
_CLIENT_LEFT = "The client closed the connection."


class ClientConnection(Protocol):
    """What the server knows of a client: has it gone, and whom to call when it does."""

    began: float
    """When the first byte of its request came (monotonic seconds)."""

    def watch(self, on_leave: Callable[[], None] | None) -> None: ...


class Client:
    """One request over ASGI; counts bytes and the time its reader makes us wait."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        self.method: str = scope["method"]
        self.headers: Headers = scope["headers"]
        self.target: bytes = scope["raw_path"]
        if query := scope["query_string"]:
            self.target += b"?" + query
        self.started = False
        self._connection: ClientConnection | None = scope.get(CONNECTION)
        if self._connection is not None:
            record.started = self._connection.began
        self._receive = receive
        self._send = send
        self._record = record

    @property
    def declared_length(self) -> int | None:
        value = get(self.headers, b"content-length")
        return int(value) if value is not None and value.isdigit() else None

    @property
    def has_body(self) -> bool:
        return bool(self.declared_length) or get(self.headers, b"transfer-encoding") is not None

    async def body(self, limit_bytes: int) -> AsyncGenerator[bytes, None]:
        """The body, piece by piece.

        Raises:
            BodyTooLarge: it is, or says that it is, longer than `limit_bytes`.
            ClientClosed: the client left before its end.
        """
        if (self.declared_length or 0) > limit_bytes:
            raise _too_large(limit_bytes)
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientClosed(_CLIENT_LEFT)
            piece: bytes = message.get("body", b"")
            self._record.bytes_in += len(piece)
            if self._record.bytes_in > limit_bytes:
                raise _too_large(limit_bytes)
            if piece:
                yield piece
            if not message.get("more_body", False):
                self._record.body_read = monotonic()
                return

    async def whole_body(self, limit_bytes: int) -> bytearray:
        """The body in one piece; at no moment is it in memory twice, or before it has come."""
        whole = bytearray()
        async for piece in self.body(limit_bytes):
            whole += piece
        return whole

    def when_it_leaves(self, tell: Callable[[ClientClosed], None] | None) -> None:
        """Call `tell` once, when the client closes its connection; None ends the watch."""
        if self._connection is not None:
            self._connection.watch(tell and partial(tell, ClientClosed(_CLIENT_LEFT)))

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self._record.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Hand bytes to the socket; waits while the client does not read."""
        self._record.bytes_out += len(data)
        message: Message = {"type": "http.response.body", "body": data, "more_body": True}
        before = monotonic()
        await self._send(message)
        self._record.client_stall_seconds += monotonic() - before

    async def end(self, data: bytes = b"") -> None:
        self._record.bytes_out += len(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


def _too_large(limit_bytes: int) -> BodyTooLarge:
    limit_mb = limit_bytes / 1024 / 1024
    return BodyTooLarge(
        f"The request body is larger than {limit_mb:g} MiB. Send less, or raise MAX_BODY_MB."
    )
