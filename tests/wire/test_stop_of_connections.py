"""SIGTERM in every state of a connection: what its client gets, and one log line a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire.client import CHAT, STREAM, Client, new_id, prompt, request
from tests.wire.service import Sidecar, ending, until
from tests.wire.test_websocket import HANDSHAKE

MODELS, AUDIO = "/v1/models", "/v1/audio/transcriptions"
LENGTH = ("content-length", "1000")
CUT_OFF = ("proxy_error", "proxy", "cut_off")
DRAINING = (503, "rejected", "proxy", "draining")


@dataclass
class Stopped:
    """A sidecar that has been stopped, and what its clients have got since."""

    service: Sidecar
    exit_code: int
    replies: dict[str, bytes]
    ids: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def stopped(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stopped]:
    shared_engine.reset()
    folder = tmp_path_factory.mktemp("stopped")
    with (
        ExitStack() as stack,
        Sidecar(folder, shared_engine, DRAIN_SECONDS="600") as service,
    ):
        service.wait_until_ready()
        clients: dict[str, Client] = {}
        ids = {}

        def client(name: str) -> Client:
            clients[name] = stack.enter_context(service.connect())
            ids[name] = new_id()
            return clients[name]

        client("fresh")
        client("idle").ask(MODELS, request_id=ids["idle"])
        assert clients["idle"].answer(method="GET").status == 200
        client("in a head").send(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-request-id: a")
        client("in a second head").send(request(MODELS) + b"GET /v1/mod")
        assert clients["in a second head"].answer(method="GET").status == 200
        for name in ("in a body", "in a body that ends"):
            client(name).ask(CHAT, b'{"a": ', headers=[LENGTH], request_id=ids[name])
        client("in an upload")
        kinds = [LENGTH, ("content-type", "text/plain")]
        clients["in an upload"].ask(AUDIO, b"x", headers=kinds, request_id=ids["in an upload"])
        for name, options in (("waiting", {}), ("waiting to stream", STREAM)):
            client(name).ask(CHAT, prompt(CHAT, options), fake={"hang": True}, request_id=ids[name])
        client("in a stream")
        stall = {"stall_at": 3}
        clients["in a stream"].ask(
            CHAT, prompt(CHAT, STREAM), fake=stall, request_id=ids["in a stream"]
        )
        clients["in a stream"].until(b"\n\n")
        for name, fake in (("behind a stream", {"hold_at": 3}), ("cut", stall)):
            ids[f"{name}, first"] = new_id()
            first = request(CHAT, prompt(CHAT, STREAM), fake=fake, request_id=ids[f"{name}, first"])
            client(name).send(first + request(MODELS, request_id=ids[name]))
            clients[name].until(b"\n\n")
        client("in a handshake")
        clients["in a handshake"].ask(
            "/v1/realtime",
            headers=HANDSHAKE,
            fake={"ws_status": 0},
            request_id=ids["in a handshake"],
        )
        for name in ("in an upload", "waiting", "waiting to stream", "in a handshake"):
            service.wait_until_seen(ids[name])
        until(lambda: service.value("sidecar_requests_in_flight") == 9, "all of them inside")

        service.process.terminate()
        until(lambda: "draining" in service.text(), "the beginning of the end")
        shared_engine.release()
        clients["in a body that ends"].send(b'1, "b"'.ljust(994))
        begun = {"behind a stream": clients["behind a stream"].until(b"\r\n0\r\n\r\n")}
        for name in ("behind a stream, first", "in a body that ends"):
            service.record(ids[name])  # it is over before the second signal comes
        # What else there is would go on to the end of the drain.
        service.process.terminate()
        replies = {name: begun.get(name, b"") + each.rest() for name, each in clients.items()}
        yield Stopped(service, service.process.wait(PATIENCE), replies, ids)


def answered(stopped: Stopped, name: str) -> tuple[int, bytes]:
    """Status and body of the one answer that a client got."""
    head, _, body = stopped.replies[name].partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def ended(stopped: Stopped, name: str) -> tuple[object, ...]:
    """How the one line of a request has it."""
    return ending(stopped.service.record(stopped.ids[name]))


def test_the_exit_code_is_0_and_the_last_line_counts_them(stopped: Stopped) -> None:
    assert stopped.exit_code == 0
    message = stopped.service.lines()[-1]["message"]
    assert message == "stopped: 2 requests finished, 7 were cut"


@pytest.mark.parametrize("name", ["fresh", "idle", "in a head", "in a second head"])
def test_who_has_asked_nothing_gets_an_end_and_no_line(stopped: Stopped, name: str) -> None:
    assert stopped.replies[name] == b""
    lines = stopped.service.records(stopped.ids[name])
    assert len(lines) == (name == "idle"), "for what it asked before"


@pytest.mark.parametrize("name", ["waiting", "waiting to stream", "in an upload", "in a handshake"])
def test_who_waits_for_the_engine_is_told_when_the_drain_is_over(
    stopped: Stopped, name: str
) -> None:
    status, body = answered(stopped, name)
    assert (status, b"This server was shut down" in body) == (503, True)
    assert ended(stopped, name) == (503, *CUT_OFF)


def test_a_body_may_come_to_its_end_during_the_drain(stopped: Stopped) -> None:
    assert answered(stopped, "in a body that ends")[0] == 400, "the engine's: it is no JSON"
    assert ended(stopped, "in a body that ends")[0:2] == (400, "client_error")


def test_a_body_that_does_not_is_told_to_come_again(stopped: Stopped) -> None:
    status, body = answered(stopped, "in a body")
    assert (status, b"Send the request again" in body) == (503, True)
    assert ended(stopped, "in a body") == DRAINING


def test_a_stream_ends_with_the_error_of_its_api(stopped: Stopped) -> None:
    reply = stopped.replies["in a stream"]
    assert b'data: {"error":{"message":"This server was shut down' in reply
    assert reply.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert ended(stopped, "in a stream") == (200, *CUT_OFF)


@pytest.mark.parametrize(
    ("name", "first"), [("behind a stream", (200, "ok", None, None)), ("cut", (200, *CUT_OFF))]
)
def test_what_waits_behind_a_stream_is_told_to_come_again(
    stopped: Stopped, name: str, first: tuple[object, ...]
) -> None:
    stream, _, refusal = stopped.replies[name].partition(b"\r\n0\r\n\r\n")
    assert stream.endswith(b"data: [DONE]\n\n")
    assert refusal.startswith(b"HTTP/1.1 503 ")
    assert b"Send the request again" in refusal
    assert ended(stopped, f"{name}, first") == first
    assert ended(stopped, name) == DRAINING
