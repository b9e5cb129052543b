"""The client's side of a request: its body, its leaving, and the answer written to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from time import monotonic
from typing import NamedTuple, Protocol

from starlette.types import Receive, Scope

from proxy.edge.routes import ALIASES, Route
from proxy.errors import BodyTooLarge, ClientClosed, RequestFailure
from proxy.relay.headers import Header, Headers, get
from proxy.telemetry.record import Record

# Our server puts the exchange under this key into the scope (`proxy.client_connection`).
EXCHANGE = "sidecar.exchange"
# Under this one the label of its API key, where it needed one,
KEY = "sidecar.key"
# under this one headers that every answer to it gets,
ADDED_HEADERS = "sidecar.added_headers"
# under this one those that a relayed one gets, as lines of a head,
ADDED_LINES = "sidecar.added_lines"
# and under this one why a request could not be read.
FAILURE = "sidecar.failure"
_BEATING_STATUS = 200
_CLIENT_LEFT = "The client closed the connection."


class Pace(NamedTuple):
    """What is called as the client reads slower, and as fast again as it is written to."""

    fell_behind: Callable[[], None]
    caught_up: Callable[[], None]


class Exchange(Protocol):
    """One request at our server, and the way its answer takes."""

    began: float
    """When the first byte of its request came (monotonic seconds)."""
    body_bytes: int
    """Bytes of the answer's body that were written."""
    failure: RequestFailure | None
    """Why the rest of the request cannot be read."""

    async def whole_body(self, limit_bytes: int) -> tuple[bytearray, bool]: ...

    def watch(self, on_leave: Callable[[], None] | None) -> None: ...

    def start(self, status: int, headers: Headers, lines: bytes = b"") -> None: ...

    def write(self, data: bytes) -> None: ...

    @property
    def write_chunk(self) -> Callable[[bytes], None] | None: ...

    def end(self, data: bytes) -> None: ...

    def keep_pace(self, pace: Pace | None) -> None: ...

    async def caught_up(self) -> None: ...

    def abort(self) -> None: ...


class Client:
    """One request; counts bytes and the time its reader makes us wait."""

    def __init__(
        self, scope: Scope, receive: Receive, record: Record, route: Route = Route.UNKNOWN
    ) -> None:
        self.route = route
        self.method: str = scope["method"]
        self.headers: Headers = scope["headers"]
        path: bytes = scope["raw_path"]
        self.target = ALIASES.get(path, path)
        if query := scope["query_string"]:
            self.target += b"?" + query
        self.started = False
        self._beating = False
        self._added: Sequence[Header] = scope.get(ADDED_HEADERS, ())
        self._added_lines: bytes = scope.get(ADDED_LINES, b"")
        self._exchange: Exchange = scope.pop(EXCHANGE)  # it holds the scope: no circle
        self._receive = receive
        self._record = record
        self._behind_since: float | None = None
        record.started = self._exchange.began

    @property
    def write(self) -> Callable[[bytes], None]:
        """Hands bytes of the body to the socket."""
        return self._exchange.write

    @property
    def write_chunk(self) -> Callable[[bytes], None] | None:
        """Hands a chunk with its framing to the socket, after what was written before; None where
        the body has no chunks. `settle` has to be told of its bytes."""
        return self._exchange.write_chunk

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
            MalformedRequest: its framing is not HTTP's.
        """
        self._check_declared(limit_bytes)
        while True:
            message = await self._receive()
            if self._exchange.failure is not None:
                raise self._exchange.failure
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

    async def whole_body(self, limit_bytes: int) -> bytes | bytearray:
        """The body in one piece; at no moment is it in memory twice, or before it has come.

        Raises:
            BodyTooLarge: it is, or says that it is, longer than `limit_bytes`.
            ClientClosed: the client left before its end.
            MalformedRequest: its framing is not HTTP's.
        """
        self._check_declared(limit_bytes)
        body, is_whole = await self._exchange.whole_body(limit_bytes)
        self._record.bytes_in = len(body)
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        if not is_whole:
            raise self._exchange.failure or ClientClosed(_CLIENT_LEFT)
        self._record.body_read = monotonic()
        return body

    def when_it_leaves(self, tell: Callable[[RequestFailure], None] | None) -> None:
        """Call `tell` once, when the client closes its connection; None ends the watch."""
        self._exchange.watch(tell and partial(tell, ClientClosed(_CLIENT_LEFT)))

    def keep_pace(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Call `pause` each time it reads slower than it is written to, `resume` when it has caught
        up."""
        told = Pace(partial(self._fell_behind, pause), partial(self._caught_up, resume))
        self._exchange.keep_pace(told)

    def start(self, status: int, headers: Headers) -> None:
        """Begin the answer; its head goes out with what is written next."""
        self.started = True
        self._record.status = status
        if not self._beating:
            self._begin(status, headers)

    def beat(self, headers: Headers) -> None:
        """Begin a JSON answer before it is known, with the status 200; later, go on with it."""
        if not self._beating:
            self._beating = True
            self._begin(_BEATING_STATUS, headers)
        self._exchange.write(b" ")

    def _begin(self, status: int, headers: Headers) -> None:
        if self._added:
            headers = [*headers, *self._added]
        self._exchange.start(status, headers, self._added_lines)

    def end(self, data: bytes) -> None:
        """Hand the last bytes of the answer to the socket."""
        self._exchange.end(data)
        if self._beating:
            self._record.status = _BEATING_STATUS  # what the client was told
        self._record.bytes_out = self._exchange.body_bytes

    async def caught_up(self) -> None:
        """Wait until what is written already has mostly been read, or the client has left."""
        await self._exchange.caught_up()
        self._note_stall()

    def settle(self, bytes_in_chunks: int = 0) -> None:
        """Nothing more will be written until the end: note what was, and end the waiting."""
        self._exchange.keep_pace(None)
        self._exchange.body_bytes += bytes_in_chunks
        self._record.bytes_out = self._exchange.body_bytes
        self._note_stall()

    def drop(self) -> None:
        """Close the connection; what the client has not read yet is lost to it."""
        self._exchange.abort()

    @property
    def is_behind(self) -> bool:
        return self._behind_since is not None

    def _fell_behind(self, call: Callable[[], None]) -> None:
        if self._behind_since is None:
            self._behind_since = monotonic()
        call()

    def _caught_up(self, call: Callable[[], None]) -> None:
        self._note_stall()
        call()

    def _note_stall(self) -> None:
        if self._behind_since is not None:
            self._record.client_stall_seconds += monotonic() - self._behind_since
            self._behind_since = None

    def _check_declared(self, limit_bytes: int) -> None:
        if (self.declared_length or 0) > limit_bytes:
            raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    limit_mb = limit_bytes / 1024 / 1024
    return BodyTooLarge(
        f"The request body is larger than {limit_mb:g} MiB. Send less, or raise MAX_BODY_MB."
    )
