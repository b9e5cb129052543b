"""More requests than may run: who waits, who is sent away, and who is not kept waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.wire.client import CHAT, STREAM, Client, Pairs, prompt
from tests.wire.service import Sidecar, ending, until

ALICE, BOB = ("sk-alice-0123456789abcdef", "sk-bob-0123456789abcdef")
KEYS = {"API_KEYS": f"alice:{ALICE},bob:{BOB}"}


def of(key: str) -> Pairs:
    return [("x-api-key", key)]


@pytest.fixture
def narrow(shared_engine: FakeEngine, tmp_path: Path) -> Iterator[Sidecar]:
    """One place, and three may wait."""
    shared_engine.reset()
    environ = {"MAX_IN_FLIGHT": "1", "MAX_WAITING": "3", **KEYS}
    with Sidecar(tmp_path, shared_engine, **environ) as service:
        service.wait_until_ready()
        service.client.headers["x-api-key"] = ALICE
        yield service


def ask(service: Sidecar, stack: ExitStack, key: str) -> tuple[Client, str]:
    """One more request that waits, or runs until the engine is released."""
    client = stack.enter_context(service.connect())
    fake = {"hold_at": 1}
    request_id = client.ask(CHAT, prompt(CHAT, STREAM), headers=of(key), fake=fake)
    return client, request_id


def waiting(service: Sidecar, count: int) -> None:
    until(lambda: service.value("sidecar_requests_waiting") == count, f"{count} that wait")


def test_one_at_a_time_each_key_in_its_turn(narrow: Sidecar) -> None:
    with ExitStack() as stack:
        asked = [ask(narrow, stack, ALICE)]
        narrow.wait_until_seen(asked[0][1])
        for count, key in enumerate((ALICE, ALICE, BOB), start=1):
            asked.append(ask(narrow, stack, key))
            waiting(narrow, count)
        assert narrow.engine.stats()["in_flight"] == 1
        full = narrow.ask(CHAT, prompt(CHAT), headers=of(ALICE))
        assert (full.status, full.json()["error"]["code"]) == (503, "overloaded")
        assert int(full.header("retry-after")) == 4
        assert ending(narrow.record(full)) == (503, "rejected", "proxy", "overloaded")
        assert narrow.seen(full) == []
        time.sleep(0.1)
        narrow.engine.release()
        for client, _ in asked:
            assert client.answer().data()[-1] == "[DONE]"
    lines = [narrow.record(request_id) for _, request_id in asked]
    first, second, third, bobs = lines
    order = [received.header("x-request-id") for received in narrow.relayed()]
    assert order == [[line["request_id"]] for line in (first, second, bobs, third)]
    assert "wait_ms" not in first
    for line in lines[1:]:
        assert line["wait_ms"] >= 100
        waits_ms = line["wait_ms"] + line["body_read_ms"]
        assert waits_ms <= line["duration_ms"], "none of them is counted twice"
        assert line["ttft_ms"] > line["wait_ms"]


def test_the_wait_of_a_request_without_a_body_is_no_work_of_ours(narrow: Sidecar) -> None:
    with ExitStack() as stack:
        runs = ask(narrow, stack, ALICE)
        narrow.wait_until_seen(runs[1])
        client = stack.enter_context(narrow.connect())
        request_id = client.ask("/version", headers=of(ALICE))
        waiting(narrow, 1)
        time.sleep(0.1)
        narrow.engine.release()
        assert client.answer(method="GET").status == 200
    line = narrow.record(request_id)
    assert line["wait_ms"] >= 100
    assert line["body_read_ms"] == 0
    assert line["overhead_ms"] <= line["duration_ms"] - line["wait_ms"]


def test_who_leaves_while_waiting_never_reaches_the_engine(narrow: Sidecar) -> None:
    with ExitStack() as stack:
        runs = ask(narrow, stack, ALICE)
        narrow.wait_until_seen(runs[1])
        leaver, request_id = ask(narrow, stack, ALICE)
        waiting(narrow, 1)
        leaver.close()
        waiting(narrow, 0)
        narrow.engine.release()
        assert runs[0].answer().status == 200
    assert ending(narrow.record(request_id)) == (499, "client_closed", "client", "client_closed")
    assert narrow.seen(request_id) == []


def test_who_waits_at_a_stop_is_told_so(narrow: Sidecar) -> None:
    with ExitStack() as stack:
        runs = ask(narrow, stack, ALICE)
        narrow.wait_until_seen(runs[1])
        waits, _ = ask(narrow, stack, BOB)
        waiting(narrow, 1)
        narrow.process.terminate()
        assert waits.answer().json()["error"]["code"] == "draining"
        narrow.engine.release()
        assert runs[0].answer().data()[-1] == "[DONE]"
