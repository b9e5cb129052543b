"""Promise 6: nothing is sent twice once the engine may have seen it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.wire.client import CHAT, MESSAGES, STREAM, Client, new_id, prompt, request
from tests.wire.service import Sidecar, ending, until
from tests.wire.streams import raw, sized

FAULTS: list[dict[str, Any]] = [
    {"die": "before_headers"},
    {"die": "before_headers", "how": "rst"},
    {"die": "inside_headers"},
    {"die": "after_headers"},
    {"die": "between_events:2"},
    {"garbage": "before_headers"},
    {"status": 500},
    {"status": 502},
    {"status": 503},
    {"status": 429},
    {"status": 408},
]


@pytest.mark.parametrize("fake", FAULTS, ids=str)
@pytest.mark.parametrize("options", [{}, STREAM], ids=["whole", "stream"])
def test_a_request_that_failed_was_sent_once(service: Sidecar, fake: Any, options: Any) -> None:
    with service.connect() as client:
        client.ask(CHAT, prompt(CHAT))  # so that there is a connection to use again
        client.answer()
        request_id = client.ask(CHAT, prompt(CHAT, options), fake=fake)
        client.answer()
    service.record(request_id)
    service.wait_until_idle()
    assert len(service.seen(request_id)) == 1


@pytest.mark.parametrize("how", ["close", "rst"])
def test_a_connection_closed_under_a_request_is_no_second_request(
    service: Sidecar, how: str
) -> None:
    """Keep-alive at its worst moment: the engine closes just as the request arrives.

    Nobody can tell whether it was read, so it is not sent again, and the client is told so.
    """
    path = "/v1/messages/count_tokens"  # on a connection that nothing else has a hand in
    first, second = new_id(), new_id()
    with service.connect() as client:
        # Both at once: a connection that has been idle for seconds would not be used again.
        fake = {"drop_next": how}
        question = request(path, prompt(MESSAGES), fake=fake, request_id=first)
        client.send(question + request(CHAT, prompt(CHAT), request_id=second))
        client.answer()
        answer = client.answer()
    (before,) = service.seen(first)
    after = service.seen(second)
    assert answer.status == 502, (before, after)
    assert after == []
    assert answer.header("x-proxy-error") == "upstream engine_died"
    assert answer.header("x-should-retry") == "false"
    assert ending(service.record(second)) == (502, "engine_died", "upstream", "engine_died")
    assert service.ask(CHAT, prompt(CHAT)).status == 200


def use(client: Client, service: Sidecar, fake: dict[str, Any] | None = None) -> int:
    """One good request; the number of the connection it came on."""
    request_id = client.ask(CHAT, prompt(CHAT), fake=fake)
    assert client.answer().status == 200
    (received,) = service.seen(request_id)
    return received.connection


def test_a_connection_is_used_again_at_once(service: Sidecar) -> None:
    ids = [new_id() for _ in range(5)]
    with service.connect() as client:
        client.send(b"".join(request(CHAT, prompt(CHAT), request_id=each) for each in ids))
        assert [client.answer().status for _ in ids] == [200] * 5
    assert len({received.connection for each in ids for received in service.seen(each)}) == 1


def test_a_connection_is_not_used_again_near_the_engines_idle_limit(service: Sidecar) -> None:
    """vLLM closes after 5 s; proxies that wait as long lose 2-3 % of their requests."""
    with service.connect() as client:
        first = use(client, service)
        time.sleep(2.5)
        assert use(client, service) != first


def test_a_connection_the_engine_has_closed_is_not_used(service: Sidecar) -> None:
    with service.connect() as client:
        for announced in (True, False) * 5:
            fake = {"close_after": True} if announced else {"keepalive_close_ms": 0}
            number = use(client, service, fake)
            until(lambda: service.relayed()[-1].closed, "the end of the connection")
            service.page()  # when this is answered the sidecar has seen it, too
            assert use(client, service) != number


def test_a_hundred_requests_against_an_engine_that_closes_idle_connections(
    service: Sidecar,
) -> None:
    """A few may be written in the moment of the end: they were not seen, and clients are told."""
    lost = 0
    with service.connect() as client:
        for number in range(100):
            request_id = client.ask(CHAT, prompt(CHAT), fake={"keepalive_close_ms": 40})
            is_answered = client.answer().status == 200
            assert len(service.seen(request_id)) == is_answered
            if not is_answered:
                lost += 1
                died = (502, "engine_died", "upstream", "engine_died")
                assert ending(service.record(request_id)) == died
            time.sleep(0.02 if number % 2 else 0)
    assert lost <= 10


def test_a_late_answer_to_one_that_left_is_nobodys(service: Sidecar) -> None:
    for _ in range(20):
        with service.connect() as client:
            client.ask("/v1/models", fake=raw(sized(b'{"a":1}'), cut="every:10", cut_ms=1))
            client.until(b"HTTP/1.1")
        answer = service.ask("/v1/models")
        assert (answer.status, answer.json()["object"]) == (200, "list")
