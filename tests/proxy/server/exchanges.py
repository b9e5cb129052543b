"""An exchange without a socket: what it is given, and what it writes, can be looked at."""

from __future__ import annotations

import asyncio
from typing import cast

from proxy.server.exchange import Exchange
from proxy.server.request import Headers, Request


def request_of(
    method: str = "POST", target: bytes = b"/", headers: Headers | None = None, version: str = "1.1"
) -> Request:
    path, _, query = target.partition(b"?")
    pairs = headers or []
    named = dict(reversed(pairs))
    return Request(method, target, path, query, pairs, named, version, "10.0.0.7", 8000, 1.0)


class FakeTransport:
    """A transport that remembers its writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def write(self, data: bytes) -> None:
        self.writes.append(data)


class FakeConnection:
    """What an exchange needs of its connection."""

    def __init__(self) -> None:
        self.wire = FakeTransport()
        self.transport = cast("asyncio.Transport", self.wire)
        self.is_lost = False
        self.is_write_paused = False
        self.is_reading = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    async def drain(self) -> None: ...


def exchange_on(
    connection: FakeConnection,
    method: str = "POST",
    version: str = "1.1",
    *,
    request: Request | None = None,
    keep_alive: bool = True,
    waits_for_continue: bool = False,
) -> Exchange:
    return Exchange(
        connection,
        request or request_of(method, version=version),
        keep_alive=keep_alive,
        waits_for_continue=waits_for_continue,
    )
