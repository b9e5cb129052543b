"""Uvicorn, as the sidecar runs it."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import uvicorn
from starlette.types import ASGIApp

from proxy.client_connection import ClientConnection

# Longer than the idle time of the load balancers in front of us (60 s is common), so that
# they close a connection first and none is closed under a request.
KEEP_ALIVE_SECONDS = 75
# What is left after the drain is cut off; it has been told so by an error event.
_CUT_OFF_SECONDS = 3
_BACKLOG = 2048
_TICKS_A_LOOK = 5
_OPEN_FILES = 65_536


class Server(uvicorn.Server):
    """Uvicorn closes its listener on SIGTERM at once; here the drain comes first."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_message_bytes: int,
        stall_seconds: float,
        request_seconds: float | None = None,
    ) -> None:
        super().__init__(_config(app, max_message_bytes))
        self._stall_seconds = stall_seconds
        self._request_seconds = request_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        """Comes ten times a second. One look at all connections costs less than a timer each."""
        if counter % _TICKS_A_LOOK == 0:
            now = monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, ClientConnection):
                    connection.end_if_slow(now, self._stall_seconds, self._request_seconds)
        return await super().on_tick(counter)


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
        http=ClientConnection,
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
