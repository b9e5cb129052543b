"""The whole app without a socket: asked over httpx, its engine's state set by hand.

Whole answers only: `ASGITransport` collects a stream before it gives any of it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx
from prometheus_client.samples import Sample
from starlette.types import Message, Receive, Scope, Send

from proxy.app import Sidecar
from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from proxy.presets.choice import load_settings
from proxy.relay.client import EXCHANGE
from proxy.relay.headers import Headers


@dataclass
class House:
    """A sidecar and somebody who asks it."""

    sidecar: Sidecar
    http: httpx.AsyncClient

    @property
    def state(self) -> EngineState:
        return self.sidecar.service.state

    def enter(self, phase: Phase, **known: Any) -> None:
        self.state.update(served_names=("demo", "alias"))
        self.state.enter(phase, **known)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)

    async def chat(self, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        headers = {"content-type": "application/json"}
        content = json.dumps({"model": "demo", **body})
        return await self.http.post(path, content=content, headers=headers)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.sidecar.service.metrics.registry.get_sample_value(name, labels)

    def samples(self, name: str) -> list[Sample]:
        """A sample with all its labels."""
        families = self.sidecar.service.metrics.registry.collect()
        return [one for family in families for one in family.samples if one.name == name]


@contextmanager
def dead_port() -> Iterator[int]:
    """A port that nobody listens on, nor will: it is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


class _Collected:
    """The sidecar behind plain ASGI: what it writes to an exchange is sent when it is whole."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive)
        scope[EXCHANGE] = exchange
        await self._sidecar(scope, receive, send)
        if exchange.head is not None:
            await send(exchange.head)
            await send({"type": "http.response.body", "body": exchange.written})


def _parted(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b": ")


class _Exchange:
    """An exchange without a connection."""

    def __init__(self, receive: Receive) -> None:
        self.began = monotonic()
        self.head: Message | None = None
        self.written = b""
        self.body_bytes = 0
        self.failure = None
        self._receive = receive

    async def whole_body(self, limit_bytes: int) -> tuple[bytearray, bool]:
        body = bytearray()
        while True:
            message = await self._receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                return body, True

    def watch(self, on_leave: Callable[[], None] | None) -> None:
        """Nobody leaves."""

    def when_writable(self, call: Callable[[], None] | None) -> None:
        """It always is."""

    async def caught_up(self) -> None:
        """It always is."""

    def start(self, status: int, headers: Headers, lines: bytes = b"") -> None:
        more = [(name, value) for name, _, value in map(_parted, lines.splitlines())]
        self.head = {"type": "http.response.start", "status": status, "headers": [*headers, *more]}

    def write(self, data: bytes) -> bool:
        self.written += data
        self.body_bytes = len(self.written)
        return True

    def end(self, data: bytes) -> None:
        self.write(data)

    def abort(self) -> None:
        raise AssertionError("an exchange without a connection cannot be aborted")


@asynccontextmanager
async def house(**environ: str) -> AsyncIterator[House]:
    """A sidecar whose engine was never started; nothing listens on the engine's port."""
    with dead_port() as port:
        sidecar = Sidecar(load_settings({"UPSTREAM_PORT": str(port), **environ}))
        transport = httpx.ASGITransport(app=_Collected(sidecar), client=("10.0.0.7", 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://sidecar") as http:
            yield House(sidecar, http)
        await sidecar.stop()
        await sidecar.settle()
