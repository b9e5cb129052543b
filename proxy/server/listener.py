"""The listening sockets, the connections that come in, and their end."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from functools import partial
from time import monotonic

from proxy.server.connection import ClientConnection, Dispatch
from proxy.tasks import spawn

# Longer than the idle time of the load balancers in front of us (60 s is common), so that
# they close a connection first and none is closed under a request.
KEEP_ALIVE_SECONDS = 75.0
# What is left after the drain is cut off; an error event has gone out before.
_CUT_OFF_SECONDS = 3.0
_BACKLOG = 2048
_LOOK_SECONDS = 0.5
_OPEN_FILES = 65_536


class Server:
    """Accepts connections, from `start` until `stop`."""

    def __init__(
        self,
        dispatch: Dispatch,
        *,
        stall_seconds: float,
        request_seconds: float | None = None,
    ) -> None:
        """`stall_seconds` is how long a head may take, and how long a body may stand still;
        `request_seconds` how long a whole body may take (None: any time)."""
        self._connections: set[ClientConnection] = set()
        self._new = partial(ClientConnection, dispatch, self._connections)
        self._stall_seconds = stall_seconds
        self._request_seconds = request_seconds
        self._listeners: list[asyncio.Server] = []
        self._looks: asyncio.Task[None] | None = None

    async def start(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for one in sockets:
            self._listeners.append(await loop.create_server(self._new, sock=one, backlog=_BACKLOG))
        self._looks = spawn(self._look(), name="slow clients")

    async def stop(self) -> None:
        """Take no more connections and no more requests; wait a moment until those that run have
        been answered, and cut the rest."""
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self._connections):
            connection.close_when_done()
        await self._departures()
        for connection in tuple(self._connections):
            connection.cut()
        await self._departures()  # what they have used is known then
        if self._looks is not None:
            self._looks.cancel()

    async def _departures(self) -> None:
        """Wait a moment until no client is connected."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CUT_OFF_SECONDS):
                for connection in tuple(self._connections):
                    await connection.departed()

    async def _look(self) -> None:
        """One look at all connections costs less than timers for each of them."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = monotonic()
            for connection in tuple(self._connections):
                connection.end_if_slow(
                    now, self._stall_seconds, self._request_seconds, KEEP_ALIVE_SECONDS
                )


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
