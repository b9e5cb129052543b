"""A pod without requests ends, or is stopped at RunPod, whose API a local server stands in for."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from proxy.errors import SettingsError
from proxy.idle import PodIdle, RunPod
from proxy.settings import Settings
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire.client import CHAT, STREAM, prompt
from tests.wire.service import Sidecar, until

POD = {"RUNPOD_POD_ID": "43kqp2ypdw3uh6", "RUNPOD_API_KEY": "rpa_secret"}
STOPPED = {"data": {"podStop": {"id": POD["RUNPOD_POD_ID"], "desiredStatus": "EXITED"}}}


@contextmanager
def runpod(answer: object, status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The API's address, and what it has been asked."""
    asked: list[dict[str, Any]] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            key = self.headers["authorization"]
            asked.append({"path": self.path, "key": key, **json.loads(body)})
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


async def test_runpod_is_asked_to_stop_this_pod_with_its_own_key() -> None:
    with runpod(STOPPED) as (url, asked):
        await RunPod({**POD, "RUNPOD_API_BASE_URL": url}).stop()
    (question,) = asked
    assert question["path"] == "/graphql"
    assert question["key"] == "Bearer rpa_secret"
    assert 'podStop(input: {podId: "43kqp2ypdw3uh6"})' in question["query"]


@pytest.mark.parametrize(
    "answer", [{"errors": [{"message": "pod not found"}], "data": None}, {}, [], "no"]
)
async def test_a_refusal_of_runpods_is_an_error_with_its_words(answer: object) -> None:
    with runpod(answer) as (url, _), pytest.raises(ValueError, match="RunPod answers"):
        await RunPod({**POD, "RUNPOD_API_BASE_URL": url}).stop()


@pytest.mark.parametrize("environ", [{}, {"RUNPOD_POD_ID": "abc"}, {**POD, "RUNPOD_POD_ID": '"}'}])
def test_a_pod_that_cannot_be_stopped_is_refused_at_the_start(environ: dict[str, str]) -> None:
    asked = {"POD_IDLE_SECONDS": "60", "POD_IDLE_ACTION": "runpod-stop"}
    with pytest.raises(SettingsError, match="needs RUNPOD_POD_ID and RUNPOD_API_KEY"):
        Settings.load({**asked, **environ})
    Settings.load({"POD_IDLE_ACTION": "runpod-stop", **environ})  # not without POD_IDLE_SECONDS


def test_an_idle_sidecar_exits_with_0(tmp_path: Path, engine: FakeEngine) -> None:
    with Sidecar(tmp_path, engine, POD_IDLE_SECONDS="1") as sidecar:
        assert sidecar.process.wait(PATIENCE) == 0
        assert "the sidecar exits after 1 s without a request" in sidecar.text()
        assert "exiting: no request for 1 s" in sidecar.text()


def test_a_request_that_runs_keeps_the_pod(tmp_path: Path) -> None:
    """It comes before the start has ended: the pod is never idle before its end."""
    environ = {"POD_IDLE_SECONDS": "1", "HOLD_SECONDS": "600"}
    with FakeEngine("--served-model-name", "tiny") as engine:
        engine.script("/health", status=503)
        with Sidecar(tmp_path, engine, **environ) as sidecar:
            sidecar.wait_until_listening()
            with sidecar.connect() as client:
                fake = {"tokens": 30, "interval_ms": 100}
                request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
                until(lambda: sidecar.value("sidecar_requests_waiting") == 1, "a request")
                engine.script("/health")
                assert client.rest().endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert sidecar.process.wait(PATIENCE) == 0
            record = sidecar.record(request_id)
            assert record["duration_ms"] > 2500, "the limit, and more"
            exits = [line for line in sidecar.lines("proxy") if "exiting" in line["message"]]
            assert [line["timestamp"] > record["timestamp"] for line in exits] == [True]


def test_an_idle_pod_is_stopped_at_runpod_and_goes_on_until_sigterm(
    tmp_path: Path, engine: FakeEngine
) -> None:
    with runpod(STOPPED) as (url, asked):
        environ = {**POD, "RUNPOD_API_BASE_URL": url, "POD_IDLE_ACTION": "runpod-stop"}
        with Sidecar(tmp_path, engine, POD_IDLE_SECONDS="1", **environ) as sidecar:
            until(lambda: bool(asked), "the question to RunPod")
            until(lambda: "RunPod stops pod" in sidecar.text(), "its log line")
            assert sidecar.ask("/v1/chat/completions", {"messages": []}).status == 200
            sidecar.process.send_signal(signal.SIGTERM)
            assert sidecar.process.wait(PATIENCE) == 0
            assert "rpa_secret" not in sidecar.text()


def test_a_runpod_that_refuses_is_logged_with_what_it_says(
    tmp_path: Path, engine: FakeEngine
) -> None:
    with runpod({"errors": [{"message": "not today"}]}) as (url, _):
        environ = {**POD, "RUNPOD_API_BASE_URL": url, "POD_IDLE_ACTION": "runpod-stop"}
        with Sidecar(tmp_path, engine, POD_IDLE_SECONDS="1", **environ) as sidecar:
            until(lambda: "not today" in sidecar.text(), "its log line")
            assert "cannot be stopped" in sidecar.text()
            assert sidecar.process.poll() is None


async def test_whatever_goes_wrong_with_the_stop_the_watch_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An end of the watch would be taken for the time to exit."""

    async def breaks(_: RunPod) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(RunPod, "stop", breaks)
    asked = {"POD_IDLE_SECONDS": "1", "POD_IDLE_ACTION": "runpod-stop", **POD}
    watch = asyncio.ensure_future(PodIdle(Settings.load(asked), lambda: 2.0).run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert "cannot be stopped: a fault of ours" in caplog.text
    assert not watch.done()
    watch.cancel()
