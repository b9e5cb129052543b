"""Connections, the journal, and the counters."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.service import wait_until
from tests.fake_engine import FakeEngine, x_fake
from tests.fake_engine.raw import (
    CHAT,
    HI,
    STREAM,
    USAGE,
    dial,
    read_all,
    read_one,
    read_until,
    request,
    say,
    status,
    unchunked,
)
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


# -- connections -------------------------------------------------------------------------------


def test_a_client_that_leaves_is_counted_as_an_abort(engine: FakeEngine) -> None:
    engine.reset()
    connection = dial(engine)
    connection.sendall(request(CHAT, HI | STREAM, **x_fake(tokens=1000, stall_at=4)))
    read_until(connection, b"quick")
    assert engine.stats()["running"] == 1
    connection.close()
    wait_until(lambda: engine.requests()[0].aborted, PATIENCE, "the abort")
    assert 2 <= engine.requests()[0].tokens < 1000
    assert engine.stats()["running"] == 0


def test_keep_alive_pipelining_and_the_journal(engine: FakeEngine) -> None:
    engine.reset()
    connection = dial(engine)
    connection.sendall(request(CHAT, HI) + request("/tokenize", {"prompt": "ü"}, X_A="1"))
    connection.sendall(request("/version", method="GET", Connection="close"))
    answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    first, second, third = engine.requests()
    assert first.connection == second.connection == third.connection
    assert second.header("x-a") == ["1"]
    assert json.loads(second.body) == {"prompt": "ü"}
    assert (second.body_complete, second.status, second.finished) == (True, 200, True)


@pytest.mark.parametrize("fake", [{"keepalive_close_ms": 50}, {"drop_next": "close"}])
def test_keep_alive_ends_at_a_bad_moment(engine: FakeEngine, fake: dict[str, Any]) -> None:
    connection = dial(engine)
    connection.sendall(request("/tokenize", {"prompt": "x"}, **x_fake(**fake)))
    assert read_one(connection).startswith(b"HTTP/1.1 200")
    if "drop_next" in fake:
        connection.sendall(request("/tokenize", {"prompt": "x"}))
    assert read_all(connection) in (b"", b"<RST>")


def test_early_answer_to_an_unfinished_upload(engine: FakeEngine) -> None:
    for then, alive in (("close", False), ("read", True)):
        connection = dial(engine)
        fields = {"Content-Length": "100000"} | x_fake(early_answer=10, early_then=then)
        connection.sendall(request(CHAT, **fields) + b"x" * 50)
        assert read_one(connection).startswith(b"HTTP/1.1 413 ")
        if alive:
            connection.sendall(b"x" * 99950 + request("/version", method="GET"))
            assert read_one(connection).startswith(b"HTTP/1.1 200 OK")
        connection.close()


def test_a_slow_upload_a_stall_and_a_slow_reader(engine: FakeEngine) -> None:
    began = time.monotonic()
    assert status(say(engine, CHAT, HI | {"pad": "x" * 30_000}, read_rate=100_000)) == 200
    assert time.monotonic() - began > 0.25
    stalled = dial(engine)
    stalled.sendall(request(CHAT, HI | STREAM, **x_fake(stall_at=2)))
    read_until(stalled, b"the")
    stalled.settimeout(0.3)
    with pytest.raises(TimeoutError):
        stalled.recv(1)
    stalled.close()
    engine.reset()
    slow = dial(engine)
    slow.sendall(request(CHAT, HI | STREAM, **x_fake(tokens=100, event_bytes=1_000_000)))
    slow.recv(1)
    wait_until(lambda: engine.requests()[0].unsent_bytes > 1_000_000, PATIENCE, "what waits")
    slow.close()


def test_expect_continue_and_multipart(engine: FakeEngine) -> None:
    connection = dial(engine)
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    part = head + b"\x00\xffab\r\n--B--\r\n"
    fields = {"Content-Type": "multipart/form-data; boundary=B", "Connection": "close"}
    ask = request("/v1/audio/transcriptions", part, Expect="100-continue", **fields)
    connection.sendall(ask[: -len(part)])
    assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(part)
    answer = json.loads(unchunked(read_all(connection)))
    assert (answer["bytes"], answer["usage"]["type"]) == (4, "duration")


def test_metrics_count_what_was_generated() -> None:
    with FakeEngine("--served-model-name", 'a"b', "--max-num-seqs", "1") as engine:
        say(engine, CHAT, HI | {"max_tokens": 5})
        slow = dial(engine)
        slow.sendall(request(CHAT, HI | STREAM, **x_fake(stall_at=1)))
        read_until(slow, b"assistant")
        queued = dial(engine)
        queued.sendall(request(CHAT, HI | STREAM))
        read_until(queued, b"\r\n\r\n")  # the head comes while it waits
        page = say(engine, "/metrics", method="GET").decode()
        labels = 'engine="0",model_name="a\\"b"'
        assert f"vllm:num_requests_running{{{labels}}} 1.0" in page
        assert f"vllm:num_requests_waiting{{{labels}}} 1.0" in page
        assert f"vllm:prompt_tokens_total{{{labels}}} 28.0" in page
        assert 'finished_reason="length",model_name="a\\"b"} 1.0' in page
        slow.close()
        read_until(queued, b"assistant")
        queued.close()


def test_speed_mode_ticks_events_of_230_bytes(tmp_path: Path) -> None:
    with FakeEngine("--tick-ms", "5", uds=tmp_path / "socket") as engine:
        unix = socket.socket(socket.AF_UNIX)
        unix.connect(str(tmp_path / "socket"))
        unix.settimeout(PATIENCE)
        ask = request(CHAT, HI | USAGE | {"max_tokens": 10})
        unix.sendall(ask)
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += unix.recv(65536)
        unix.close()
        events = unchunked(answer).split(b"\n\n")[1:11]
        assert {len(event) + 2 for event in events} == {230}
        texts = [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events]
        ages = [time.monotonic_ns() - int(text.split()[0].removeprefix("t=")) for text in texts]
        assert ages == sorted(ages, reverse=True)
        assert 0 < ages[-1] < ages[0] < 5e9
        assert b'"completion_tokens":10}' in answer
        assert len(unchunked(say(engine, CHAT, HI))) == 1024
