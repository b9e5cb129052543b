"""`METRICS_PORT` of a sidecar that runs: who may ask for answers may not ask for metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.wire.client import CHAT, STREAM, Answer, Client, prompt, request
from tests.wire.service import Sidecar, ending, until

REALTIME = [
    *(("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")),
    ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
]


@pytest.fixture
def ports() -> tuple[int, int]:
    health, metrics = free_ports(2)
    return health, metrics


@pytest.fixture
def apart(shared_engine: FakeEngine, tmp_path: Path, ports: tuple[int, int]) -> Iterator[Sidecar]:
    shared_engine.reset()
    environ = {"PORT_HEALTH": str(ports[0]), "METRICS_PORT": str(ports[1]), "DRAIN_SECONDS": "600"}
    with Sidecar(tmp_path, shared_engine, **environ) as service:
        service.wait_until_ready()
        yield service


def get(port: int, path: str, **more: object) -> Answer:
    with Client(port) as client:
        client.send(request(path, **more))  # type: ignore[arg-type]
        return client.answer(method="GET")


def test_each_port_has_its_own(apart: Sidecar, ports: tuple[int, int]) -> None:
    health, metrics = ports
    assert ending(apart.record(apart.ask(CHAT, prompt(CHAT)))) == (200, "ok", None, None)
    page = get(metrics, "/metrics")
    assert page.status == 200
    counted = b'sidecar_requests_total{model="tiny",outcome="ok",route="chat"} 1.0'
    assert counted in page.body
    assert get(metrics, "/metrics/engine").status == 200
    for port in (apart.port, health):
        assert get(port, "/ping").status == 200
        assert get(port, "/v1/models").status == 200
        assert get(port, "/metrics").status == 404
        assert get(port, "/metrics/engine").status == 404
    for path in ("/ping", "/v1/models", "/health"):
        assert get(metrics, path).status == 404
    assert get(metrics, "/v1/realtime", headers=REALTIME).status == 404


def test_metrics_are_there_until_the_end(apart: Sidecar, ports: tuple[int, int]) -> None:
    with apart.connect() as client:
        client.ask(CHAT, prompt(CHAT, STREAM), fake={"hold_at": 3})
        client.until(b"\n\n")
        apart.process.terminate()
        until(lambda: "draining" in apart.text(), "the beginning of the end")
        page = get(ports[1], "/metrics")
        assert b'sidecar_requests_in_flight{route="chat"} 1.0' in page.body
        apart.engine.release()
        client.until(b"data: [DONE]\n\n")
    assert apart.process.wait(PATIENCE) == 0


def test_a_port_that_is_taken_is_named(shared_engine: FakeEngine, tmp_path: Path) -> None:
    taken = shared_engine.port
    service = Sidecar(tmp_path, shared_engine, METRICS_PORT=str(taken))
    with service:
        assert service.process.wait(PATIENCE) == 1
    assert f"port {taken}: Address already in use" in service.text()
