"""Promise 7: slow readers slow only themselves, and memory per stream is bounded."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

from tests.patience import on_a_clock
from tests.wire.client import CHAT, NO_USAGE, STREAM, Client, prompt, request
from tests.wire.service import Sidecar, fields, until

FAST = {"tokens": 25_000, "event_bytes": 2048, "backpressure": True}  # 50 MB
MIB = 1024 * 1024


def test_a_fast_stream_to_one_who_does_not_read_is_not_kept_in_memory(service: Sidecar) -> None:
    """The engine is made to wait instead."""
    before = service.memory_mib()
    with service.connect(receive_bytes=4096) as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake=FAST)
        service.wait_until_at_rest(request_id)
        # What is on the way is in the kernel's buffers, not in the sidecar's memory.
        assert service.seen(request_id)[0].events * 2048 < 40 * MIB
        assert service.memory_mib() - before < 8


def test_ten_who_do_not_read_take_little(service: Sidecar) -> None:
    before = service.memory_mib()
    clients = [service.connect(receive_bytes=4096) for _ in range(10)]
    ids = [client.ask(CHAT, prompt(CHAT, STREAM), fake=FAST) for client in clients]

    def all_wait() -> bool:
        waiting = [each for each in service.relayed() if each.unsent_bytes > 0]
        return len(waiting) == len(ids)

    until(all_wait, "an engine that waits")
    grown = service.memory_mib() - before
    for client in clients:
        client.close()
    assert grown < 20


def test_a_whole_answer_to_one_who_does_not_read_is_not_kept_in_memory(service: Sidecar) -> None:
    service.engine.script("/v1/models", body="x" * 40 * MIB, backpressure=True)
    before = service.memory_mib()
    with service.connect(receive_bytes=4096) as client:
        request_id = client.ask("/v1/models")
        until(lambda: bool(service.seen(request_id)), "the request")
        until(lambda: service.seen(request_id)[0].unsent_bytes > 0, "an engine that waits")
        assert service.memory_mib() - before < 25


def test_a_slow_reader_gets_everything(service: Sidecar) -> None:
    fake = {"tokens": 15_000, "event_bytes": 2048, "backpressure": True}
    with service.connect(receive_bytes=4096) as client:
        request_id = client.ask(CHAT, prompt(CHAT, NO_USAGE), fake=fake)
        service.wait_until_at_rest(request_id)
        answer = client.answer()
    assert answer.whole
    data = answer.data()
    assert len(data) == 15_000 + 3
    assert data[-1] == "[DONE]"
    record = service.record(request_id)
    assert fields(record, "outcome", "bytes_out") == ("ok", len(answer.body))
    assert record["client_stall_ms"] > 0


def test_one_byte_a_second_slows_nobody_else(service: Sidecar) -> None:
    stop = threading.Event()

    def sip(client: Client) -> None:
        while not stop.wait(0.2):
            client.receive(1)

    slow = [service.connect(receive_bytes=4096) for _ in range(5)]
    service.wait_until_at_rest(
        *(client.ask(CHAT, prompt(CHAT, STREAM), fake=FAST) for client in slow)
    )
    threads = [threading.Thread(target=sip, args=(client,)) for client in slow]
    for thread in threads:
        thread.start()
    try:
        answers = [
            service.ask(CHAT, prompt(CHAT, STREAM), fake={"tokens": 20, "interval_ms": 10})
            for _ in range(3)
        ]
        still_behind = sum(each.unsent_bytes > 0 for each in service.relayed())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for client in slow:
            client.close()
    assert all(answer.data()[-1] == "[DONE]" for answer in answers)
    assert still_behind == len(slow), "the others did not wait for them"


@on_a_clock("the engine has 1 s for a byte, and 3 s for the whole")
def test_a_slow_reader_is_not_taken_for_a_silent_engine(impatient_service: Sidecar) -> None:
    """STREAM_IDLE_TIMEOUT is about the engine; REQUEST_TIMEOUT holds all the same."""
    service = impatient_service
    with service.connect(receive_bytes=4096) as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake=FAST)
        client.until(b"\n\n")
        service.wait_until_aborted(request_id)
    record = service.record(request_id)
    assert record["error"] == "engine_timeout"
    assert record["duration_ms"] > 2000


async def streams(service: Sidecar, count: int, **fake: Any) -> list[bytes]:
    """So many streams at once, each read to its end."""
    body = prompt(CHAT, STREAM)
    opened = asyncio.Event()
    waiting = 0

    async def one(number: int) -> bytes:
        nonlocal waiting
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request(CHAT, body, fake=fake, headers=[("connection", "close")]))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
        waiting += 1
        if waiting == count:
            opened.set()
        await opened.wait()  # nobody reads before everybody has an answer
        rest = await reader.read()
        writer.close()
        return rest

    return await asyncio.gather(*(one(number) for number in range(count)))


async def test_2000_streams_at_once(service: Sidecar) -> None:
    count = 2000
    before = service.open_files()
    answers = await streams(service, count, tokens=8, first_ms=2000, interval_ms=20)
    assert len(answers) == count
    for answer in answers:
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), answer[-200:]
        assert answer.count(b'"content":') == 9
        assert b'"usage"' not in answer
    service.wait_until_idle()
    # The pool keeps connections to the engine for its next burst; the clients' are gone.
    until(lambda: service.open_files() <= before + count + 8, "closed connections")
    assert json.loads(json.dumps(service.ask(CHAT, prompt(CHAT)).json()))["choices"]


def test_pages_that_nobody_reads_are_not_piled_up(own_service: Sidecar) -> None:
    """Each of them is 60 kB, and all is asked for on one connection."""
    before = own_service.memory_mib()
    with own_service.connect(receive_bytes=4096) as client:
        for _ in range(200):
            client.send(request("/openapi.json") * 6)
            own_service.page()  # they are read by then: a hundred that wait are the most
        time.sleep(0.5)
        assert own_service.memory_mib() - before < 20
        for _ in range(50):
            assert client.answer(method="GET").status == 200
