"""Clients that do not finish what they have begun: they are ended, and hold up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.patience import on_a_clock
from tests.wire.client import CHAT, STREAM, Client, new_id, prompt, request
from tests.wire.service import Sidecar, ending, until

BODY_TIMEOUT = 1.5
# The server looks twice a second.
OVER_SECONDS = BODY_TIMEOUT + 1
MANY, MANY_SECONDS = 500, 3.0
LENGTH = [("content-length", "100")]


@pytest.fixture(scope="module")
def strict(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("strict")
    with Sidecar(folder, shared_engine, BODY_TIMEOUT=str(BODY_TIMEOUT)) as service:
        service.wait_until_ready()
        yield service


def ended(service: Sidecar, data: bytes) -> tuple[float, bytes]:
    """After how many seconds a connection was closed on which only `data` came, and the reply."""
    began = time.monotonic()
    with service.connect() as client:
        client.send(data)
        reply = client.rest()
    return time.monotonic() - began, reply


@contextmanager
def dripping(client: Client, drop: bytes) -> Iterator[None]:
    """While the block runs more comes, and never the end."""
    is_over = threading.Event()

    def drip() -> None:
        with suppress(OSError):
            while not is_over.wait(0.1):
                client.send(drop)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("route", [CHAT, "/v1/audio/transcriptions"])
def test_a_body_that_does_not_go_on_is_a_408(strict: Sidecar, route: str) -> None:
    kind = ("content-type", "application/json" if route == CHAT else "multipart/form-data")
    request_id = new_id()
    half = request(route, b"half", headers=[*LENGTH, kind], request_id=request_id)
    seconds, reply = ended(strict, half)
    assert seconds > BODY_TIMEOUT
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"BODY_TIMEOUT" in reply
    line = strict.record(request_id)
    assert ending(line) == (408, "timeout", "client", "request_timeout")


@on_a_clock("a body of which no byte comes for 1.5 s is given up")
def test_a_body_that_goes_on_slowly_is_waited_for(strict: Sidecar) -> None:
    body = request(CHAT, prompt(CHAT)).partition(b"\r\n\r\n")[2]
    assert len(body) > 5
    with strict.connect() as client:
        client.send(request(CHAT, b"", headers=[("content-length", str(len(body)))]))
        for piece in (*(body[count : count + 1] for count in range(5)), body[5:]):
            time.sleep(BODY_TIMEOUT / 3)
            client.send(piece)
        assert client.answer().status == 200


def test_a_body_that_drips_has_the_time_of_a_whole_request(
    tmp_path: Path, shared_engine: FakeEngine
) -> None:
    """Else one client could keep a place for ever."""
    limits = {"REQUEST_TIMEOUT": "1.5", "MAX_IN_FLIGHT": "1"}
    with Sidecar(tmp_path, shared_engine, **limits) as service:
        service.wait_until_ready()
        with service.connect() as client:
            request_id = client.ask(CHAT, b"x", headers=[("content-length", "100000")])
            with dripping(client, b"x"):
                assert client.answer().status == 408
        assert ending(service.record(request_id)) == (408, "timeout", "client", "request_timeout")
        # An answer has 1.5 s, too: what counts is the place.
        until(lambda: service.ask(CHAT, prompt(CHAT)).status == 200, "a free place")


@pytest.mark.parametrize("head", [b"POST ", b"GET / HTTP/1.1\r\nhost: a\r\nx-a: "])
def test_a_head_has_its_time_as_a_whole(strict: Sidecar, head: bytes) -> None:
    seconds, reply = ended(strict, head)
    assert seconds > BODY_TIMEOUT
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_a_head_that_drips_has_no_more_time(strict: Sidecar) -> None:
    with strict.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        with dripping(client, b"x-a: b\r\n"):
            assert client.answer().status == 408


def test_a_connection_that_is_idle_between_requests_is_kept(strict: Sidecar) -> None:
    with strict.connect() as client:
        time.sleep(OVER_SECONDS)
        client.send(request("/v1/models"))
        assert client.answer(method="GET").status == 200
        time.sleep(OVER_SECONDS)
        client.send(request("/v1/models"))
        assert client.answer(method="GET").status == 200


def test_who_waits_to_be_asked_for_the_body_and_for_the_answer_has_time(strict: Sidecar) -> None:
    slow = {"first_ms": OVER_SECONDS * 1000, "tokens": 1}
    with strict.connect() as client:
        client.ask(CHAT, prompt(CHAT, STREAM), fake=slow)
        assert client.answer().status == 200


def test_a_refused_body_that_never_comes_is_not_waited_for(strict: Sidecar) -> None:
    with strict.connect() as client:
        client.send(request("/nothing", b"half", headers=LENGTH))
        assert client.answer().status == 404
        assert client.rest() == b""


def test_many_slow_clients_hold_up_nobody(tmp_path: Path, shared_engine: FakeEngine) -> None:
    timeout = {"BODY_TIMEOUT": str(MANY_SECONDS)}
    with Sidecar(tmp_path, shared_engine, **timeout) as service, ExitStack() as stack:
        service.wait_until_ready()
        before = service.open_files()
        head = request(CHAT, b"x", headers=LENGTH)
        for count in range(MANY):
            client = stack.enter_context(service.connect())
            client.send((head, head[:-10], b"POST ")[count % 3])
        for _ in range(10):
            answer = service.ask(CHAT, prompt(CHAT, STREAM))
            assert answer.data()[-1] == "[DONE]"
        until(lambda: service.open_files() <= before + 20, "their end")
        assert service.ask("/health").status == 200
