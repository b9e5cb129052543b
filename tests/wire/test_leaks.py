"""Bad input: after hundreds of bad exchanges no task, file or connection is left."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

from tests.wire.client import CHAT, COMPLETIONS, MESSAGES, RESPONSES, STREAM, Ended, prompt, request
from tests.wire.service import Sidecar, until
from tests.wire.streams import raw

ROUTES = [CHAT, COMPLETIONS, MESSAGES, RESPONSES]
# Connections to the engine that the pool may keep after one client's requests.
POOLED = 4

ENGINE_FAULTS: list[dict[str, Any]] = [
    {"die": "before_headers"},
    {"die": "before_headers", "how": "rst"},
    {"die": "inside_headers"},
    {"die": "after_headers"},
    {"die": "between_events:2"},
    {"die": "inside_event:3", "how": "rst"},
    {"die": "inside_chunk:1"},
    {"garbage": "before_headers"},
    {"garbage": "between_events:2"},
    {"error_event_at": 2},
    {"status": 500},
    {"status": 429},
    {"close_after": True},
    {"http10": True},
    raw(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
    raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz", close_after=True),
    raw(b"", close_after=True),
]
CLIENT_FAULTS = [
    b"",
    b"\r\n\r\n",
    b"GET",
    b"\x00" * 100,
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 10\r\n\r\n{",
    b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/audio/transcriptions HTTP/1.1\r\ncontent-length: 999999\r\n\r\n" + b"x" * 5000,
    request(CHAT, b"{not json"),
    request(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 1}),
    request(CHAT, prompt(CHAT), fake={"hang": True}),
    request(CHAT, prompt(CHAT), headers=[("x-fake", "not a script")]),
    request("/v1/nothing", b"x" * 5000),
]


def settled(service: Sidecar) -> tuple[int, int]:
    """Open files here and connections at the engine, once nothing is in flight."""
    service.wait_until_idle()
    return service.open_files(), int(service.engine.stats()["connections_open"])


def assert_good(service: Sidecar) -> None:
    assert service.ask(CHAT, prompt(CHAT)).json()["choices"]
    assert service.ask(CHAT, prompt(CHAT, STREAM)).data()[-1] == "[DONE]"


def assert_nothing_left(service: Sidecar, before: tuple[int, int]) -> None:
    def is_clean() -> bool:
        files, connections = settled(service)
        return files <= before[0] + POOLED and connections <= before[1] + POOLED

    until(is_clean, f"files and connections near {before}, not {settled(service)}")
    assert service.value("sidecar_requests_in_flight") == 0
    assert_good(service)


def test_300_bad_answers_leave_nothing_behind(service: Sidecar) -> None:
    assert_good(service)
    before = settled(service)
    dice = random.Random(1)
    for _ in range(300):
        path = dice.choice(ROUTES)
        body = prompt(path, dice.choice([STREAM, {}]))
        service.ask(path, body, fake=dice.choice(ENGINE_FAULTS))
    assert_nothing_left(service, before)


def test_300_bad_clients_leave_nothing_behind(service: Sidecar) -> None:
    assert_good(service)
    before = settled(service)
    dice = random.Random(2)
    for _ in range(300):
        client = service.connect()
        client.send(dice.choice(CLIENT_FAULTS))
        if dice.random() < 0.3:
            with suppress(Ended, OSError, TimeoutError):
                client.close_half()
                client.rest()
        dice.choice([client.close, client.reset])()
    assert_nothing_left(service, before)


def test_random_bytes_from_an_engine_crash_nothing(service: Sidecar) -> None:
    """Also none of them is left for the next request."""
    dice = random.Random(4)
    good = service.ask_engine(CHAT, prompt(CHAT, STREAM))
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    wire = head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in good.chunks)
    wire += b"0\r\n\r\n"
    for _ in range(60):
        data = bytearray(wire)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(head) + 200)] = dice.randrange(256)
        with service.connect(seconds=2) as client, suppress(Ended, AssertionError, ValueError):
            client.ask(CHAT, prompt(CHAT, STREAM), fake=raw(bytes(data), close_after=True))
            client.answer()
        answer = service.ask("/v1/models")
        if answer.status == 502:  # the engine closed a connection that it had seemed to keep
            assert answer.header("x-proxy-error") == "upstream engine_died"
        else:
            assert answer.json()["object"] == "list"


def test_memory_does_not_grow_with_the_number_of_requests(service: Sidecar) -> None:
    def some(count: int) -> None:
        with service.connect() as client:
            for _ in range(count):
                client.ask(CHAT, prompt(CHAT, STREAM), fake={"tokens": 3})
                client.answer()

    some(300)
    before = service.memory_mib()
    some(700)
    assert service.memory_mib() - before < 3
