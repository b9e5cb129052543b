"""The one engine that requests go to: a pool of connections, by TCP or by a Unix socket."""

from __future__ import annotations

import asyncio

from proxy.errors import EngineUnreachable
from proxy.relay.connection import Connection

CONNECT_TIMEOUT_SECONDS = 5.0


class Upstream:
    """Connections to one engine, by TCP or by a Unix socket."""

    def __init__(self, host: str, port: int, authority: str, *, uds: str | None = None) -> None:
        self._host, self._port, self._uds = host, port, uds
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self.authority = authority.encode()

    async def connection(self) -> Connection:
        """An idle connection, or a new one.

        Raises:
            EngineUnreachable: nothing accepts connections; the engine has seen nothing.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and not connection.has_unread():
                return connection
            connection.close()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                connection = await self._connect()
        except (OSError, TimeoutError) as error:
            raise EngineUnreachable("The engine does not accept connections.") from error
        if connection.closed:  # before we could ask
            raise EngineUnreachable("The engine ended the connection before it was asked anything.")
        self._open.add(connection)
        return connection

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._uds is not None:
            return (await loop.create_unix_connection(lambda: Connection(self), self._uds))[1]
        return (await loop.create_connection(lambda: Connection(self), self._host, self._port))[1]

    def put(self, connection: Connection) -> None:
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        for connection in tuple(self._open):
            connection.close()
        self._idle.clear()
