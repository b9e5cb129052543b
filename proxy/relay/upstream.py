"""The one engine that requests go to: a pool of connections, by TCP or by a Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from errno import EMFILE, ENFILE

from proxy.errors import EngineUnreachable, Overloaded, RequestFailure
from proxy.relay.connection import Connection

CONNECT_TIMEOUT_SECONDS = 5.0
# Until other requests have ended and left theirs, perhaps.
_DESCRIPTOR_SECONDS = 5


class Upstream:
    """Connections to one engine, by TCP or by a Unix socket."""

    def __init__(
        self,
        host: str,
        port: int,
        authority: str,
        *,
        uds: str | None = None,
        retry_after: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`retry_after` returns the seconds until an engine that is gone may be back."""
        self._host, self._port, self.uds = host, port, uds
        self.retry_after = retry_after
        self._ended: RequestFailure | None = None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self.authority = authority.encode()

    async def connection(self) -> Connection:
        """An idle connection, or a new one.

        Raises:
            EngineUnreachable: nothing accepts connections; the engine has seen nothing.
            Overloaded: there is no file descriptor for one.
            RequestFailure: the one that `cut` was called with.
        """
        if (ended := self._ended) is not None:
            raise ended
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and not connection.has_unread():
                return connection
            connection.close()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                connection = await self._connect()
        except OSError as error:  # or no answer in time
            if error.errno in (EMFILE, ENFILE):
                text = "This server has no file descriptor left: raise its limit (ulimit -n)."
                raise Overloaded(text, retry_after_seconds=_DESCRIPTOR_SECONDS) from error
            raise self._unreachable("The engine does not accept connections.") from error
        if connection.closed:  # before we could ask
            raise self._unreachable("The engine ended the connection before it was asked anything.")
        if (ended := self._ended) is not None:  # meanwhile
            connection.close()
            raise ended
        self._open.add(connection)
        return connection

    def _unreachable(self, text: str) -> EngineUnreachable:
        return EngineUnreachable(text, retry_after_seconds=self.retry_after())

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self.uds is not None:
            return (await loop.create_unix_connection(lambda: Connection(self), self.uds))[1]
        return (await loop.create_connection(lambda: Connection(self), self._host, self._port))[1]

    def put(self, connection: Connection) -> None:
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def cut(self, failure: RequestFailure) -> None:
        """End all exchanges for this reason, and begin no other."""
        self._ended = failure
        for connection in tuple(self._open):
            connection.abort(failure)

    def close(self) -> None:
        for connection in tuple(self._open):
            connection.close()
        self._idle.clear()
