"""Uvicorn, as the sidecar runs it."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.relay.client import CONNECTION

# Longer than the idle time of the load balancers in front of us (60 s is common), so that
# they close a connection first and none is closed under a request.
KEEP_ALIVE_SECONDS = 75
# What is left after the drain is cut off; it has been told so by an error event.
_CUT_OFF_SECONDS = 3
_BACKLOG = 2048
_OPEN_FILES = 65_536


class HeadFirst:
    """A transport that sends the head of an answer together with what follows it at once.

    Uvicorn writes them apart, which is a system call more for every answer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 2"):
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self.write(b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HttpConnection(HttpToolsProtocol):
    """Uvicorn's, which also calls back when its client leaves.

    ASGI tells that only to who waits for it: a task more for every request.
    """

    gone = False
    began = 0.0
    _on_leave: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", HeadFirst(transport))

    def watch(self, on_leave: Callable[[], None] | None) -> None:
        """Call back when the client leaves; also where it has left already."""
        self._on_leave = on_leave
        if on_leave is not None and self.gone:
            on_leave()
        elif on_leave is not None:
            # A large body leaves reading paused, and with it the news of the client's end.
            self.flow.resume_reading()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.began = monotonic()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.headers = []  # trailers would be taken for headers (RFC 9110, 6.5.1)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone = True
        if self._on_leave is not None:
            self._on_leave()


class Server(uvicorn.Server):
    """Uvicorn closes its listener on SIGTERM at once; here the drain comes first."""

    def __init__(self, app: ASGIApp, *, max_message_bytes: int) -> None:
        super().__init__(_config(app, max_message_bytes))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def allow_many_connections() -> None:
    """Raise the limit of open files: a stream takes two, and 1024 is a common default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(host: str, ports: tuple[int, ...]) -> list[socket.socket]:
    """Listening sockets, one for each different port.

    Raises:
        OSError: a port cannot be had; it names the port.
    """
    sockets = []
    for port in dict.fromkeys(ports):
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise OSError(error.errno, f"port {port}: {error.strerror}") from None
        listener.listen(_BACKLOG)
        sockets.append(listener)
    return sockets


def _config(app: ASGIApp, max_message_bytes: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpConnection,
        ws="websockets-sansio",
        ws_max_size=max_message_bytes,
        ws_ping_interval=None,  # pings are between the two ends of a session
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `client` in the log is the peer we really have
        server_header=False,
        date_header=False,  # the engine sends its own
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_CUT_OFF_SECONDS,
        backlog=_BACKLOG,
    )
