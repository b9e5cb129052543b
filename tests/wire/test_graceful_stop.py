"""SIGTERM: what runs may finish, what is new is told to come again, the exit code is 0."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.service import FORKED, Line, Service
from tests.fake_engine import BIN, FakeEngine
from tests.measure import measured
from tests.patience import PATIENCE, on_a_clock
from tests.wire.client import CHAT, STREAM, Client, prompt
from tests.wire.service import Sidecar, ending, fields, until
from tests.wire.test_websocket import closed, session

CUT_OFF = ("proxy_error", "proxy", "cut_off")


@pytest.fixture
def stopping(shared_engine: FakeEngine, tmp_path: Path) -> Iterator[Sidecar]:
    """Its drain is longer than a test waits: it ends because nothing runs any more."""
    shared_engine.reset()
    with Sidecar(tmp_path, shared_engine, DRAIN_SECONDS="600") as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def hasty(shared_engine: FakeEngine, tmp_path: Path) -> Iterator[Sidecar]:
    """What runs outlives its drain."""
    shared_engine.reset()
    with Sidecar(tmp_path, shared_engine, DRAIN_SECONDS="1") as service:
        service.wait_until_ready()
        yield service


def last_line(service: Sidecar) -> Line:
    return service.lines()[-1]


def test_running_streams_finish(stopping: Sidecar) -> None:
    fake = {"tokens": 40, "hold_at": 3}
    clients = [stopping.connect() for _ in range(5)]
    ids = [client.ask(CHAT, prompt(CHAT, STREAM), fake=fake) for client in clients]
    for client in clients:
        client.until(b"\n\n")
    stopping.process.terminate()
    until(lambda: "draining" in stopping.text(), "the beginning of the end")
    late = stopping.ask(CHAT, prompt(CHAT))
    assert (late.status, late.header("x-proxy-error")) == (503, "proxy draining")
    assert 1 <= int(late.header("retry-after")) <= 59
    assert late.all("x-should-retry") == []
    stopping.engine.release()
    for client in clients:
        assert client.until(b"data: [DONE]\n\n").count(b'"content":') >= 38
        client.close()
    assert stopping.process.wait(PATIENCE) == 0
    assert [fields(stopping.record(each), "outcome") for each in ids] == [("ok",)] * 5
    assert ending(stopping.record(late)) == (503, "rejected", "proxy", "draining")


def test_a_stream_that_outlives_the_drain_is_told(hasty: Sidecar) -> None:
    with hasty.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 3})
        client.until(b"\n\n")
        hasty.process.terminate()
        rest = client.until(b"data: [DONE]\n\n")
    assert b"This server was shut down" in rest
    assert hasty.process.wait(PATIENCE) == 0
    assert ending(hasty.record(request_id)) == (200, *CUT_OFF)


def test_a_whole_answer_that_outlives_the_drain_is_a_503_of_ours(hasty: Sidecar) -> None:
    with hasty.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT), fake={"hang": True})
        hasty.wait_until_seen(request_id)
        hasty.process.terminate()
        answer = client.answer()
    assert (answer.status, answer.header("x-proxy-error")) == (503, "proxy cut_off")
    # The engine has worked on it.
    assert (answer.header("x-should-retry"), answer.all("retry-after")) == ("false", [])
    assert hasty.process.wait(PATIENCE) == 0
    assert ending(hasty.record(request_id)) == (503, *CUT_OFF)


def test_a_drain_that_is_over_is_not_blamed_on_an_engine_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ENGINE_PHASE_SECONDS", "0.02")
    environ = {"SERVED_MODEL_NAME": "tiny", "DRAIN_SECONDS": "1"}
    environ |= {"HF_HUB_OFFLINE": "1", "HOST": "127.0.0.1", **measured()}
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    environ["MODEL_NAME"] = str(model)
    with Service(tmp_path, FORKED, **environ) as service:
        service.wait_for("ready", PATIENCE)
        with Client(service.port) as client:
            request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 3})
            client.until(b"\n\n")
            service.terminate()
            assert b"This server was shut down" in client.until(b"data: [DONE]\n\n")
        assert service.exit_code(PATIENCE) == 0
        assert ending(service.access(request_id)) == (200, *CUT_OFF)
        assert not any("died of this request" in line["message"] for line in service.lines())


def test_an_upload_that_runs_may_finish(stopping: Sidecar) -> None:
    body = b"x" * 1000
    with stopping.connect() as client:
        headers = [("content-type", "text/plain"), ("content-length", "1000")]
        request_id = client.ask("/v1/audio/transcriptions", b"", headers=headers)
        client.send(body[:500])
        stopping.wait_until_seen(request_id)
        stopping.process.terminate()
        until(lambda: "draining" in stopping.text(), "the beginning of the end")
        client.send(body[500:])
        assert client.answer().status == 400  # the engine's own: no multipart
    assert stopping.process.wait(PATIENCE) == 0


def test_media_that_outlive_the_drain_are_not_waited_for(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    environ = {"DRAIN_SECONDS": "1", "MEDIA_FETCH": "proxy", "ALLOW_PRIVATE_MEDIA": "true"}
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Sidecar(tmp_path, shared_engine, **environ) as service,
    ):
        service.wait_until_ready()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/picture.png"
        content = [{"type": "image_url", "image_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": content}]}
        with service.connect() as client:
            request_id = client.ask(CHAT, body)
            silent.settimeout(PATIENCE)
            with silent.accept()[0]:
                service.process.terminate()
                assert client.answer().header("x-proxy-error") == "proxy draining"
        assert service.process.wait(PATIENCE) == 0
        assert ending(service.record(request_id)) == (503, "rejected", "proxy", "draining")


def test_idle_clients_do_not_hold_it_up(stopping: Sidecar) -> None:
    clients = [stopping.connect() for _ in range(5)]
    for client in clients:
        client.ask("/v1/models")
        assert client.answer(method="GET").status == 200
    stopping.process.terminate()
    assert stopping.process.wait(PATIENCE) == 0
    for client in clients:
        assert client.rest() == b""
        client.close()


@on_a_clock("clients have 3 s to take the news of their end before the third signal comes")
def test_a_third_signal_waits_for_nothing(stopping: Sidecar) -> None:
    # A client that does not read would be waited for, to take the news of its end.
    with stopping.connect(receive_bytes=4096) as client:
        fake = {"tokens": 10_000, "event_bytes": 10_000, "backpressure": True}
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
        stopping.wait_until_at_rest(request_id)
        for message in ("draining", "cut now"):
            stopping.process.terminate()
            until(lambda message=message: message in stopping.text(), message)  # type: ignore[misc]
        stopping.process.terminate()
        assert stopping.process.wait(PATIENCE) == 128 + 15


def test_a_session_goes_on_in_the_drain_and_is_logged_as_cut(stopping: Sidecar) -> None:
    with session(stopping) as (client, request_id):
        stopping.process.terminate()
        until(lambda: "draining" in stopping.text(), "the beginning of the end")
        client.send("text")
        assert client.recv(PATIENCE) == "text"
        stopping.process.terminate()
        end = closed(client).rcvd
        assert end is not None
        assert (end.code, "was shut down" in end.reason) == (1012, True)
    assert stopping.process.wait(PATIENCE) == 0
    assert ending(stopping.record(request_id)) == (101, *CUT_OFF)
    assert fields(last_line(stopping), "finished", "cut") == (0, 1)


def test_a_session_that_ends_in_the_drain_has_finished(stopping: Sidecar) -> None:
    with session(stopping) as (client, request_id):
        stopping.process.terminate()
        until(lambda: "draining" in stopping.text(), "the beginning of the end")
        client.close()
    assert stopping.process.wait(PATIENCE) == 0
    assert ending(stopping.record(request_id)) == (101, "ok", None, None)
    assert fields(last_line(stopping), "finished", "cut") == (1, 0)


def test_a_second_signal_cuts_a_session_whose_engine_does_not_read(stopping: Sidecar) -> None:
    with session(stopping) as (client, request_id):
        client.send("deaf")
        for message in ("draining", "cut now"):
            stopping.process.terminate()
            until(lambda message=message: message in stopping.text(), message)  # type: ignore[misc]
        end = closed(client).rcvd
        assert end is not None
        assert end.code == 1012
        assert stopping.process.wait(PATIENCE) == 0
    assert ending(stopping.record(request_id)) == (101, *CUT_OFF)


def test_nobody_waits_for_a_client_that_has_left(stopping: Sidecar) -> None:
    client = stopping.connect()
    request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 3})
    client.until(b"\n\n")
    stopping.process.terminate()
    until(lambda: "draining" in stopping.text(), "the beginning of the end")
    client.close()
    assert stopping.process.wait(PATIENCE) == 0
    assert fields(stopping.record(request_id), "outcome") == ("client_closed",)
