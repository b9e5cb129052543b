"""`/v1/realtime`: a session passes both ways, and ends on both sides in the same way."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.fake_engine import FakeEngine, x_fake
from tests.patience import PATIENCE
from tests.wire.client import Pairs, new_id, request
from tests.wire.service import Sidecar, ending, fields

UPGRADE: Pairs = [("connection", "upgrade"), ("upgrade", "websocket")]
KEY = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
VERSION = ("sec-websocket-version", "13")
HANDSHAKE = [*UPGRADE, VERSION, KEY]


@contextmanager
def session(service: Sidecar, **more: Any) -> Iterator[tuple[ClientConnection, str]]:
    """An open session after the engine's greeting, and its request id."""
    request_id = new_id()
    headers = {"x-request-id": request_id, **more.pop("headers", {})}
    url = f"ws://127.0.0.1:{service.port}/v1/realtime?model=tiny"
    with connect(
        url, additional_headers=headers, proxy=None, open_timeout=PATIENCE, **more
    ) as client:
        assert "session.created" in str(client.recv(PATIENCE))
        yield client, request_id


def closed(client: ClientConnection) -> ConnectionClosed:
    """What ends a session for the client."""
    with pytest.raises(ConnectionClosed) as error:
        client.recv(PATIENCE)
    return error.value


def test_messages_pass_both_ways_as_they_are(service: Sidecar) -> None:
    with session(service) as (client, request_id):
        for message in ("text", "ü\u2028\U0001f600", b"\x00\xff" * 40_000, "", b""):
            client.send(message)
            assert client.recv(PATIENCE) == message
    line = service.record(request_id)
    assert (line["route"], line["status"], line["outcome"]) == ("realtime", 101, "ok")
    assert 0 <= line["bytes_in"] - (4 + 9 + 80_000) < 100, "with the frames around them"


def test_each_utterance_is_counted_with_the_usage_at_its_end(service: Sidecar) -> None:
    """The engine says it all here because it echoes."""

    def done(usage: Any) -> str:
        return json.dumps({"type": "transcription.done", "text": "x", "usage": usage})

    said = (
        *('{"type":"transcription.delta","delta":"transcription.done"}', done(None)),
        done({"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}),
        *('{"type": "transcription.done"', "transcription.done", done({"prompt_tokens": "x"})),
        done({"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}),
    )
    with session(service) as (client, request_id):
        for message in said:
            client.send(message)
            assert client.recv(PATIENCE) == message
    line = service.record(request_id)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (42, 8)


def test_without_usage_no_tokens_are_told(service: Sidecar) -> None:
    with session(service) as (client, request_id):
        client.send("text")
        client.recv(PATIENCE)
    assert not {"prompt_tokens", "completion_tokens"} & service.record(request_id).keys()


def test_the_query_and_the_request_id_reach_the_engine(service: Sidecar) -> None:
    with session(service) as (_, request_id):
        (received,) = service.seen(request_id)
        assert received.target == "/v1/realtime?model=tiny"


def test_the_engines_close_code_reaches_the_client(service: Sidecar) -> None:
    with session(service) as (client, request_id):
        client.send("close:4001:why")
        end = closed(client).rcvd
        assert end is not None
        assert (end.code, end.reason) == (4001, "why")
    assert service.record(request_id)["outcome"] == "ok"


def test_an_engine_that_drops_the_session_is_a_failure_of_the_engine(service: Sidecar) -> None:
    with session(service) as (client, request_id):
        client.send("drop")
        end = closed(client).rcvd
        assert end is not None
        assert end.code == 1011
    assert ending(service.record(request_id)) == (101, "engine_died", "upstream", "engine_died")


@pytest.mark.parametrize("code", [1000, 4321])
def test_the_clients_close_code_reaches_the_engine(service: Sidecar, code: int) -> None:
    with session(service) as (client, request_id):
        client.close(code, "bye")
    assert service.record(request_id)["outcome"] == "ok"
    service.wait_until_idle()
    assert service.seen(request_id)[0].closed_with == (code, "bye")


def test_a_client_that_vanishes_ends_the_engines_session(service: Sidecar) -> None:
    with session(service) as (client, request_id):
        client.socket.shutdown(socket.SHUT_RDWR)
    assert ending(service.record(request_id)) == (101, "client_closed", "client", "client_closed")
    service.wait_until_idle()
    assert service.seen(request_id)[0].closed_with is None


def test_an_engine_that_speaks_no_websocket_is_a_failure_of_the_engine(service: Sidecar) -> None:
    with session(service) as (client, request_id):
        client.send("garble")
        end = closed(client).rcvd
        assert end is not None
        assert end.code == 1011
    assert ending(service.record(request_id)) == (101, "engine_error", "upstream", "engine_garbled")


def test_the_engines_refusal_of_a_handshake_passes_as_it_is(service: Sidecar) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        session(service, headers=x_fake(ws_status=401)),
    ):
        pass
    assert refused.value.response.status_code == 401
    assert refused.value.response.body == b"scripted refusal"


def test_a_page_of_another_host_opens_no_session(service: Sidecar) -> None:
    request_id = new_id()
    headers = {"x-request-id": request_id, "origin": "https://evil.example.com"}
    with pytest.raises(InvalidStatus) as refused, session(service, headers=headers):
        pass
    answer = refused.value.response
    assert (answer.status_code, answer.headers["x-proxy-error"]) == (
        403,
        "client origin_not_allowed",
    )
    assert b"CORS_ORIGINS" in answer.body
    assert service.seen(request_id) == []
    assert ending(service.record(request_id)) == (403, "rejected", "client", "origin_not_allowed")


def test_a_page_of_the_same_host_opens_one(service: Sidecar) -> None:
    with session(service, headers={"origin": "http://127.0.0.1:3000"}) as (client, _):
        client.send("text")
        assert client.recv(PATIENCE) == "text"


@pytest.mark.parametrize(
    "settings",
    [
        {"CORS_ORIGINS": "https://chat.example.com"},
        {"API_KEYS": "alice:sk-alice-0123456789", "KEY_LIMITS": "rpm=5"},
    ],
    ids=["listed", "key"],
)
def test_a_page_that_is_listed_and_whoever_has_a_key_open_one(
    shared_engine: FakeEngine, tmp_path: Path, settings: dict[str, str]
) -> None:
    headers = {"origin": "https://chat.example.com", "x-api-key": "sk-alice-0123456789"}
    with Sidecar(tmp_path, shared_engine, **settings) as sidecar:
        sidecar.wait_until_ready()
        with session(sidecar, headers=headers) as (client, _):
            client.send("text")
            assert client.recv(PATIENCE) == "text"


def test_a_redirect_is_passed_on_and_not_followed(service: Sidecar) -> None:
    """It may lead anywhere, to our own network too."""
    fake = {"ws_status": 307, "headers": [("location", "/v1/realtime?elsewhere")]}
    answer = service.ask("/v1/realtime", headers=HANDSHAKE, fake=fake, method="GET")
    assert (answer.status, answer.header("location")) == (307, "/v1/realtime?elsewhere")
    assert [each.target for each in service.seen(answer)] == ["/v1/realtime"]
    assert ending(service.record(answer)) == (307, "ok", None, None)


@pytest.mark.parametrize(
    ("method", "headers", "fault"),
    [
        ("GET", [*UPGRADE, VERSION], "its Sec-WebSocket-Key is missing"),
        ("GET", [*UPGRADE, VERSION, ("sec-websocket-key", "x")], "not 16 bytes in base64"),
        ("GET", [*UPGRADE, KEY], "its Sec-WebSocket-Version is not 13"),
        ("GET", [*UPGRADE, KEY, ("sec-websocket-version", "8")], "Sec-WebSocket-Version is not 13"),
        ("POST", HANDSHAKE, "it is a POST, not a GET"),
        ("GET", [*HANDSHAKE, ("content-length", "3")], "it has a body"),
        ("GET", [*HANDSHAKE, ("transfer-encoding", "chunked")], "it has a body"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_no_handshake_is_refused_and_told(
    service: Sidecar, method: str, headers: Pairs, fault: str
) -> None:
    answer = service.ask("/v1/realtime", headers=headers, method=method)
    assert (answer.status, answer.header("x-proxy-error")) == (400, "client malformed_request")
    assert fault in answer.json()["error"]["message"]
    assert service.seen(answer) == []
    line = service.record(answer)
    assert ending(line) == (400, "client_error", "client", "malformed_request")


def test_what_comes_behind_a_handshake_that_is_not_taken_reaches_no_engine(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    """An engine that answers by HTTP would read it as the next request."""
    hidden = request("/sleep", method="GET", request_id="hidden")
    with Sidecar(tmp_path, shared_engine, EXTRA_ROUTES="/plain") as service:
        service.wait_until_ready()
        for status in (200, 401, 500):
            shared_engine.reset()
            fake = {"status": status, "head_ms": 100}
            head = request("/plain", headers=HANDSHAKE, method="GET", fake=fake, request_id="seen")
            with service.connect() as client:
                client.send(head + hidden)
                client.send(hidden)
                assert client.answer(method="GET").status == status
                with suppress(ConnectionError):
                    client.send(hidden)
                assert client.rest() == b""
            answer = service.ask("/plain", method="GET", fake=fake)
            assert answer.status == status, "by another connection than that of the handshake"
            assert service.seen(answer)[0].connection != service.seen("seen")[0].connection
            assert service.seen("hidden") == []
            assert "/sleep" not in [each.target for each in shared_engine.requests()]


@pytest.mark.parametrize("target", [b"/v1/realtime\xff", b"http://:x/v1/realtime"])
def test_a_handshake_for_what_is_no_target_is_refused(service: Sidecar, target: bytes) -> None:
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in HANDSHAKE)
    with service.connect() as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n")
        answer = client.answer()
    assert (answer.status, answer.header("x-proxy-error")) == (400, "client malformed_request")
    line = service.record(answer)
    assert ending(line) == (400, "client_error", "client", "malformed_request")


def test_a_client_that_leaves_before_its_session_begins_is_no_failure_of_ours(
    service: Sidecar,
) -> None:
    ends = set()
    for fake in ({}, {"ws_status": 401}):
        for _ in range(10):
            with service.connect() as client:
                request_id = client.ask("/v1/realtime", headers=HANDSHAKE, method="GET", fake=fake)
                client.close_half()
                client.rest()
            ends.add(fields(service.record(request_id), "status", "outcome"))
    assert ends <= {(499, "client_closed"), (101, "client_closed"), (401, "client_error")}
    assert (499, "client_closed") in ends


@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses",
        "/responses",
        "/v1/responses/resp_1",
        "/v1/chat/completions",
        "/chat/completions",
        "/completions",
        "/v1/messages",
        "/v1/models/tiny",
    ],
)
def test_a_path_that_is_asked_by_http_says_so_to_a_handshake(service: Sidecar, path: str) -> None:
    """Codex goes on by HTTP at once at this status, and at no other."""
    answer = service.ask(path, headers=HANDSHAKE, method="GET")
    assert (answer.status, answer.header("x-proxy-error")) == (426, "client no_websocket")
    assert answer.all("upgrade") == []
    error = answer.json()["error"]
    assert error["message"] == f"{path} takes no WebSocket session, only HTTP."
    assert error["type"] == "invalid_request_error"
    assert service.seen(answer) == []
    assert ending(service.record(answer)) == (426, "client_error", "client", "no_websocket")


@pytest.mark.parametrize("path", ["/nope", "/metrics", "/v1/realtime/x"])
def test_no_other_path_takes_a_session_and_the_log_says_who_asked(
    service: Sidecar, path: str
) -> None:
    request_id = new_id()
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(
            f"ws://127.0.0.1:{service.port}{path}",
            additional_headers={"x-request-id": request_id},
            proxy=None,
            open_timeout=PATIENCE,
        ),
    ):
        pass
    assert refused.value.response.status_code == 404
    assert f"no WebSocket session at {path} here".encode() in refused.value.response.body
    assert ending(service.record(request_id)) == (404, "client_error", "client", "unknown_route")
