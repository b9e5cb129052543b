"""The whole app without a socket: asked over httpx, its engine's state set by hand.

Whole answers only: `ASGITransport` collects a stream before it gives any of it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.samples import Sample

from proxy.app import Sidecar
from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from proxy.settings import Settings


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


def free_port() -> int:
    """A port nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
    return port


@asynccontextmanager
async def house(**environ: str) -> AsyncIterator[House]:
    """A sidecar whose engine was never started; nothing listens on the engine's port."""
    settings = Settings.load({"UPSTREAM_PORT": str(free_port()), **environ})
    sidecar = Sidecar(settings)
    transport = httpx.ASGITransport(app=sidecar, client=("10.0.0.7", 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://sidecar") as http:
        yield House(sidecar, http)
    await sidecar.stop()
