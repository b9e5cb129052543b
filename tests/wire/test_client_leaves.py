"""Promise 3: a client that leaves stops the work, and that is no error of anybody's."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest

from tests.wire.client import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    STREAM,
    Client,
    new_id,
    prompt,
    request,
)
from tests.wire.service import Sidecar, ending, fields, until
from tests.wire.streams import DONE, FINISH, ROLE, USAGE, WORD, chunked, raw

CLOSED = (499, "client_closed", "client", "client_closed")


def leave(client: Client, how: str) -> None:
    {"fin": client.close, "rst": client.reset, "half": client.close_half}[how]()


@pytest.mark.parametrize(
    ("path", "how"),
    [(CHAT, "fin"), (CHAT, "half"), (COMPLETIONS, "rst"), (MESSAGES, "fin"), (RESPONSES, "rst")],
)
def test_in_the_middle_of_a_stream(service: Sidecar, path: str, how: str) -> None:
    """A half-close counts as leaving, as it does with vLLM."""
    with service.connect() as client:
        request_id = client.ask(path, prompt(path, STREAM), fake={"stall_at": 3})
        client.until(b"\n\n")
        leave(client, how)
        received = service.wait_until_aborted(request_id)
    assert not received.finished
    record = service.record(request_id)
    assert ending(record) == CLOSED
    assert record["bytes_out"] > 0


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
@pytest.mark.parametrize(
    ("fake", "options"), [({"hang": True}, {}), ({"hang": True}, STREAM), ({"stall_at": 0}, STREAM)]
)
def test_before_the_first_byte(service: Sidecar, fake: Any, options: Any, how: str) -> None:
    with service.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, options), fake=fake)
        service.wait_until_seen(request_id)
        leave(client, how)
        service.wait_until_aborted(request_id)
    record = service.record(request_id)
    assert ending(record) == CLOSED
    assert fields(record, "ttft_ms", "completion_tokens") == (None, None)


@pytest.mark.parametrize(("kib", "options"), [(70, {}), (200, STREAM), (3000, {})])
def test_after_a_large_body_before_the_first_byte(service: Sidecar, kib: int, options: Any) -> None:
    """An image in the prompt must not hide that its sender is gone."""
    with service.connect() as client:
        body = prompt(CHAT, options, {"pad": "x" * kib * 1024})
        request_id = client.ask(CHAT, body, fake={"hang": True})
        service.wait_until_seen(request_id)
    service.wait_until_aborted(request_id)
    assert ending(service.record(request_id)) == CLOSED


def test_after_a_large_body_in_the_middle_of_a_stream(service: Sidecar) -> None:
    with service.connect() as client:
        body = prompt(CHAT, STREAM, {"pad": "x" * 200_000})
        request_id = client.ask(CHAT, body, fake={"stall_at": 2})
        client.until(b"\n\n")
    service.wait_until_aborted(request_id)
    assert ending(service.record(request_id)) == CLOSED


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
@pytest.mark.parametrize("count", [1, 20])
def test_having_sent_the_next_requests_already(service: Sidecar, count: int, how: str) -> None:
    """Of many no more is read meanwhile."""
    with service.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake={"hang": True})
        service.wait_until_seen(request_id)
        client.send(request(CHAT, prompt(CHAT)) * count)
        assert service.page()  # it has been read when this is answered
        leave(client, how)
        service.wait_until_aborted(request_id)
    assert ending(service.record(request_id)) == CLOSED


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_while_its_json_is_on_the_way(service: Sidecar, how: str) -> None:
    """The engine never hears of it."""
    with service.connect() as client:
        request_id = new_id()
        whole = request(CHAT, prompt(CHAT, {"pad": "x" * 100_000}), request_id=request_id)
        client.send(whole[:50_000])
        until(lambda: service.value("sidecar_requests_in_flight", route="chat") == 1, "a request")
        leave(client, how)
    record = service.record(request_id)
    assert ending(record) == CLOSED
    assert service.seen(request_id) == []
    assert fields(record, "upstream_connect_ms", "prompt_tokens") == (None, None)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(
    "framing", [("content-length", "900000"), ("transfer-encoding", "chunked")]
)
def test_while_its_upload_is_on_the_way(
    service: Sidecar, framing: tuple[str, str], how: str
) -> None:
    kind = ("content-type", "multipart/form-data; boundary=b")
    with service.connect() as client:
        request_id = client.ask("/v1/audio/transcriptions", b"", headers=[framing, kind])
        client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        service.wait_until_seen(request_id)
        leave(client, how)
        received = service.wait_until_aborted(request_id)
    assert not received.body_complete
    assert ending(service.record(request_id)) == CLOSED


def test_while_its_upload_waits_for_the_engine(own_service: Sidecar) -> None:
    """Reading is paused then, and with it the news of the client's end: it is looked for.

    An end that waits behind unread bytes cannot be seen, so the connection is reset.
    """
    headers = [("content-type", "text/plain"), ("content-length", "9000000")]
    with own_service.connect(seconds=1.0) as client:
        fake = {"read_rate": 100_000}
        request_id = client.ask("/v1/audio/transcriptions", b"", headers=headers, fake=fake)
        own_service.wait_until_seen(request_id)
        with suppress(TimeoutError):
            client.send(b"x" * 9_000_000)
        client.reset()
    assert ending(own_service.record(request_id)) == CLOSED


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_without_reading_what_came(service: Sidecar, how: str) -> None:
    fake = {"tokens": 100_000, "event_bytes": 2000, "backpressure": True}
    with service.connect(receive_bytes=4096) as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
        service.wait_until_at_rest(request_id)
        leave(client, how)
        service.wait_until_aborted(request_id)
    record = service.record(request_id)
    assert ending(record) == CLOSED
    assert record["client_stall_ms"] > 0


def test_just_as_the_headers_are_written(service: Sidecar) -> None:
    """At any moment: the fixture finds no traceback, whoever it is shown to."""
    ask = request(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 0})
    for number in range(400):
        client = service.connect()
        client.send(ask)
        time.sleep(number % 40 * 0.00005)
        client.reset()


def test_at_done(service: Sidecar) -> None:
    """Many clients close there, before the last chunk: they were served."""
    wire = chunked([ROLE, WORD, FINISH, USAGE, DONE])
    fake = raw(wire, cut=f"at:{len(wire) - 5}", cut_ms=100)
    with service.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
        client.until(DONE)
    record = service.record(request_id)
    assert ending(record) == (200, "ok", None, None)
    assert fields(record, "completion_tokens", "finish_reason") == (2, "stop")


def test_at_done_of_an_engine_that_never_ends_the_answer(service: Sidecar) -> None:
    wire = chunked([ROLE, WORD, FINISH, USAGE, DONE]).removesuffix(b"0\r\n\r\n")
    with service.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire))
        client.until(DONE)
    assert ending(service.record(request_id)) == (200, "ok", None, None)


def test_between_two_requests(service: Sidecar) -> None:
    with service.connect() as client:
        first = client.ask(CHAT, prompt(CHAT))
        client.answer()
        second = client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 2})
        client.until(b"\n\n")
    service.wait_until_aborted(second)
    assert fields(service.record(first), "outcome") == ("ok",)
    assert ending(service.record(second)) == CLOSED


@pytest.mark.parametrize("sent", [b"", b"POST", request(CHAT, prompt(CHAT))[:60]], ids=len)
def test_without_having_asked_anything(service: Sidecar, sent: bytes) -> None:
    lines = len(service.other_lines())
    before = service.open_files()
    for how in ("fin", "rst"):
        client = service.connect()
        client.send(sent)
        leave(client, how)
    until(lambda: service.open_files() <= before, "the end of both connections")
    assert service.other_lines()[lines:] == []
    assert service.relayed() == []


def test_one_that_leaves_does_not_end_the_others(service: Sidecar) -> None:
    with service.connect() as stays, service.connect() as leaves:
        kept = stays.ask(CHAT, prompt(CHAT, STREAM), fake={"hold_at": 3})
        gone = leaves.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 3})
        leaves.until(b"\n\n")
        leaves.close()
        service.wait_until_aborted(gone)
        service.engine.release()
        assert stays.answer().data()[-1] == "[DONE]"
    assert fields(service.record(kept), "outcome") == ("ok",)
    assert ending(service.record(gone)) == CLOSED
