"""The whole app without a socket: asked over httpx, its engine's state set by hand.

Whole answers only: a stream is collected before any of it is given.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import h11
import httpx
from prometheus_client.samples import Sample

from proxy.app import Sidecar, build
from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from proxy.lifecycle import Lifecycle
from proxy.models.preset_choice import load_settings
from proxy.server.connection import ClientConnection


@dataclass
class House:
    """A sidecar and somebody who asks it."""

    sidecar: Sidecar
    lifecycle: Lifecycle
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


class _Wire(asyncio.Transport):
    """A client's transport in memory: it keeps what is written to it."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._names = {"peername": ("10.0.0.7", 1234), "sockname": ("10.0.0.1", port)}
        self.written = bytearray()
        self.closed = asyncio.Event()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._names.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def close(self) -> None:
        self.closed.set()

    def abort(self) -> None:
        raise AssertionError("the response was broken off")


class _InMemory(httpx.AsyncBaseTransport):
    """Asks the sidecar by a connection of its own, which has no socket."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        wire = _Wire(request.url.port or 80)
        connection = ClientConnection(self._sidecar.dispatch, set())
        connection.connection_made(wire)
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        lines += [b": ".join(pair) for pair in request.headers.raw]
        lines += [b"connection: close", b"", await request.aread()]
        connection.data_received(b"\r\n".join(lines))
        await wire.closed.wait()
        connection.connection_lost(None)
        return _response_in(bytes(wire.written), request.method)


def _response_in(data: bytes, method: str) -> httpx.Response:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    head = parser.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := parser.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return httpx.Response(head.status_code, headers=head.headers.raw_items(), content=body)


@asynccontextmanager
async def house(phase: Phase | None = None, /, **environ: str) -> AsyncIterator[House]:
    """A sidecar whose engine was never started, and is in `phase` all the same; nothing listens on
    the engine's port."""
    with dead_port() as port:
        given = {"UPSTREAM_PORT": str(port), **environ}
        sidecar = build(load_settings(given), environ=given)
        lifecycle = Lifecycle(sidecar)
        transport = _InMemory(sidecar)
        async with httpx.AsyncClient(transport=transport, base_url="http://sidecar") as http:
            there = House(sidecar, lifecycle, http)
            if phase is not None:
                there.enter(phase)
            yield there
        await lifecycle.shutdown()
