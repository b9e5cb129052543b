"""The least that Python can do: bytes from one socket to the other under uvloop, unread.

A floor to compare ours with. It knows no requests: one engine connection for each client's.
"""

from __future__ import annotations

import asyncio
import os
from typing import cast

import uvloop


class End(asyncio.Protocol):
    """One side of a pipe; what comes in goes out on the other, once there is one."""

    def __init__(self, other: End | None = None) -> None:
        self.transport: asyncio.Transport | None = None
        self._other = other
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._other is None:
            self._other = End(self)
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(_connect(self._other))
        elif self._other._early and self.transport is not None:
            self.transport.write(b"".join(self._other._early))

    def data_received(self, data: bytes) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.write(data)
        else:
            self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.close()


async def _connect(end: End) -> None:
    port = int(os.environ["UPSTREAM_PORT"])
    await asyncio.get_running_loop().create_connection(lambda: end, "127.0.0.1", port)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(End, "127.0.0.1", int(os.environ["PORT"]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
