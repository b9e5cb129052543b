"""Request bodies: bounded in memory, passed on as they come, answered early without a deadlock."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.patience import on_a_clock
from tests.wire.client import CHAT, MESSAGES, Client, Pairs, new_id, prompt, request
from tests.wire.service import Sidecar, ending, fields, until
from tests.wire.streams import chunk

AUDIO = "/v1/audio/transcriptions"
MIB = 1024 * 1024
FORM = ("content-type", "multipart/form-data; boundary=b")
CHUNKED = ("transfer-encoding", "chunked")


def form(file: bytes) -> bytes:
    return (
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ntiny\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + file
        + b"\r\n--b--\r\n"
    )


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [chunk(body[at : at + size]) for at in range(0, len(body), size)]
    return b"".join(pieces) + b"0\r\n\r\n"


@contextmanager
def sending(client: Client, data: bytes) -> Iterator[None]:
    """Send while the block runs; how far it comes is the other side's business."""

    def send() -> None:
        with suppress(OSError):
            client.send(data)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        client.close()
        thread.join()


def test_audio_reaches_the_engine_as_it_was_sent(service: Sidecar) -> None:
    file = bytes(range(256)) * 4096
    answer = service.ask(AUDIO, form(file), headers=[FORM])
    assert (answer.json()["bytes"], answer.json()["sha256"]) == (
        len(file),
        sha256(file).hexdigest(),
    )
    (received,) = service.seen(answer)
    assert received.header("content-length") == [str(len(form(file)))]
    assert received.header("content-type") == [FORM[1]]
    names = ("route", "audios", "modalities", "bytes_in", "outcome")
    expected = ("audio", 1, ["text", "audio"], len(form(file)), "ok")
    assert fields(service.record(answer), *names) == expected


@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_a_chunked_upload_reaches_the_engine(service: Sidecar, size: int) -> None:
    file = bytes(range(256)) * (4 if size == 1 else 2000)
    body = form(file)
    request_id = new_id()
    with service.connect() as client:
        head = request(AUDIO, b"", request_id=request_id, headers=[FORM, CHUNKED])
        client.send(head + in_chunks(body, size))
        answer = client.answer()
    assert answer.json()["sha256"] == sha256(file).hexdigest()
    (received,) = service.seen(answer)
    assert received.header("transfer-encoding") == ["chunked"]
    assert received.header("content-length") == []
    assert (received.body_bytes, received.body_complete) == (len(body), True)


@pytest.mark.parametrize("size", [1, 10**6])
def test_chunked_json_is_understood_too(service: Sidecar, size: int) -> None:
    body = request(CHAT, prompt(CHAT, {"stream": True, "pad": "x" * size})).partition(b"\r\n\r\n")
    with service.connect() as client:
        request_id = client.ask(CHAT, b"", headers=[CHUNKED, ("content-type", "application/json")])
        client.send(in_chunks(body[2], size))
        answer = client.answer()
    assert answer.data()[-1] == "[DONE]"
    assert fields(service.record(request_id), "completion_tokens", "stream") == (8, True)


def test_an_upload_flows_while_it_is_sent(service: Sidecar) -> None:
    with service.connect() as client:
        request_id = client.ask(AUDIO, b"", headers=[FORM, ("content-length", "1000")])
        client.send(b"x" * 300)
        until(
            lambda: (
                bool(service.seen(request_id)) and service.seen(request_id)[0].body_bytes == 300
            ),
            "300 bytes at the engine",
        )


@on_a_clock("the engine has 0.4 s for a byte, and 1.5 s for the whole")
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_slow_upload_is_not_taken_for_a_silent_engine(
    impatient_service: Sidecar, goes_on: bool
) -> None:
    """STREAM_IDLE_TIMEOUT is about an engine that has something to answer."""
    body = form(b"x" * 400)
    with impatient_service.connect() as client:
        client.ask(AUDIO, b"", headers=[FORM, ("content-length", str(len(body)))])
        for at in range(0, len(body), 100):
            time.sleep(0.2 if goes_on else 0.8 * (at == 300))
            client.send(body[at : at + 100])
        answer = client.answer()
    assert answer.status == 200


def test_an_engine_that_does_not_read_an_upload_is_silent(tmp_path: Path) -> None:
    body = form(b"x" * 8 * MIB)
    headers: Pairs = [FORM, ("content-length", str(len(body)))]
    with FakeEngine() as engine, Sidecar(tmp_path, engine, STREAM_IDLE_TIMEOUT="0.4") as service:
        service.wait_until_ready()
        with service.connect() as client:
            request_id = client.ask(AUDIO, b"", headers=headers, fake={"read_rate": 1})
            with sending(client, body):
                assert service.record(request_id)["error"] == "engine_timeout"


def test_a_large_upload_to_a_slow_engine_is_not_kept_in_memory(own_service: Sidecar) -> None:
    service = own_service
    before = service.memory_mib()
    size = 100 * MIB
    headers: Pairs = [FORM, ("content-length", str(size))]
    with service.connect() as client:
        request_id = client.ask(AUDIO, b"", headers=headers, fake={"read_rate": MIB})
        with sending(client, b"x" * size):
            until(lambda: bool(service.seen(request_id)), "the request")
            end = time.monotonic() + 1
            while time.monotonic() < end:
                assert service.memory_mib() - before < 10
                time.sleep(0.05)


def test_json_is_held_once(own_service: Sidecar) -> None:
    """At no moment twice: a body of 64 MiB may take its own size and some buffers."""
    service = own_service
    service.ask(CHAT, prompt(CHAT))
    before = service.memory_mib()
    service.forget_peak()
    answer = service.ask(CHAT, prompt(CHAT, {"pad": "x" * 64 * MIB}))
    assert answer.status == 200
    assert service.memory_mib("VmHWM") - before < 64 * 1.5


@pytest.mark.parametrize(
    ("path", "begin", "value", "status"),
    [
        (CHAT, b'{"messages":[', b'{"role":"user","content":""},{},', 200),
        (CHAT, b'{"messages":[],"x":[', b'"http://a/",[],', 200),
        ("/generate", b'{"prompt":"","stop":[', b"[],", 400),
    ],
)
def test_json_of_many_values_is_held_once_and_its_model_is_read(
    own_service: Sidecar, path: str, begin: bytes, value: bytes, status: int
) -> None:
    """Objects for all of them would take ten to forty times as much."""
    service, size = own_service, 16
    service.ask(CHAT, prompt(CHAT))
    before = service.memory_mib()
    service.forget_peak()
    body = b'%b%b{}],"model":"tiny"}' % (begin, value * (size * MIB // len(value)))
    with service.connect() as client:
        head: Pairs = [("content-type", "application/json"), ("content-length", str(len(body)))]
        request_id = client.ask(path, b"", headers=head)
        client.send(body)
        answer = client.answer()
    assert answer.status == status, answer.body
    assert service.memory_mib("VmHWM") - before < size * 1.5
    if status == 200:
        record = service.record(request_id)
        assert (record["model"], record["bytes_in"]) == ("tiny", len(body))
        assert ("modalities" in record) is (value != b'{"role":"user","content":""},{},')
        (received,) = service.seen(request_id)
        assert received.body_bytes == len(body)


@pytest.mark.parametrize(
    "kind",
    [
        FORM,
        ("content-type", "application/json"),
    ],
    ids=["form", "json"],
)
def test_a_length_that_is_only_declared_takes_no_memory(
    own_service: Sidecar, kind: tuple[str, str]
) -> None:
    """Else a few clients that send nothing take gigabytes."""
    before = own_service.memory_mib()
    headers = [kind, ("content-length", str(100 * MIB))]
    with ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(own_service.connect())
            client.ask(CHAT, b"", headers=headers)
            client.send(b"{")
        inside = partial(own_service.value, "sidecar_requests_in_flight", route="chat")
        until(lambda: inside() == 4, "four requests")
        assert own_service.memory_mib() - before < 20


def test_memory_of_large_bodies_is_given_back(own_service: Sidecar) -> None:
    service = own_service
    before = service.memory_mib()
    for _ in range(5):
        assert service.ask(CHAT, prompt(CHAT, {"pad": "x" * 30 * MIB})).status == 200
    until(lambda: service.memory_mib() - before < 40, "the memory")


@pytest.mark.parametrize(
    ("headers", "then"),
    [([FORM], "read"), ([FORM], "stop"), ([FORM, CHUNKED], "stop")],
    ids=["length", "length, stopped", "chunked, stopped"],
)
def test_an_early_answer_to_an_upload_arrives(
    own_service: Sidecar, headers: Pairs, then: str
) -> None:
    """The client sends on without reading: no deadlock, and the engine's own answer."""
    service = own_service
    size = 20 * MIB
    length = [] if CHUNKED in headers else [("content-length", str(size))]
    data = b"x" * size if length else in_chunks(b"x" * size, 65536)
    with service.connect() as client:
        fake = {"early_answer": 100_000, "early_then": then}
        request_id = client.ask(AUDIO, b"", headers=[*headers, *length], fake=fake)
        with sending(client, data):
            answer = client.answer()
    assert (answer.status, answer.whole) == (413, True)
    assert answer.all("x-proxy-error") == []
    assert ending(service.record(request_id))[:3] == (413, "client_error", "client")
    assert len(service.seen(request_id)) == 1
    assert service.ask(CHAT, prompt(CHAT)).status == 200


def test_an_early_answer_before_the_engine_closes_arrives(service: Sidecar) -> None:
    """vLLM's own 401 to a large body does that; a write that fails must not lose what it said."""
    data = b"x" * 3 * MIB
    headers = [FORM, ("content-length", str(len(data)))]
    for _ in range(20):
        with service.connect() as client:
            client.ask(AUDIO, b"", headers=headers, fake={"early_answer": 100_000})
            with sending(client, data):
                answer = client.answer()
        assert (answer.status, answer.whole) == (413, True)


def test_what_comes_after_a_refused_upload_meets_no_engine_that_closes(
    own_service: Sidecar,
) -> None:
    """All of the upload is in the kernel, and the engine has read none of it: it looks sent."""
    service, data = own_service, b"x" * 100_000
    headers = [FORM, ("content-length", str(len(data)))]
    with service.connect() as client:
        fake = {"early_answer": 0, "early_then": "close_late"}
        client.ask(AUDIO, b"", headers=headers, fake=fake)
        client.send(data)
        assert client.answer().status == 413
        client.ask(CHAT, prompt(CHAT))
        assert client.answer().status == 200


def test_an_early_answer_to_json_arrives(service: Sidecar) -> None:
    for _ in range(5):
        fake = {"early_answer": 1000, "early_then": "read"}
        answer = service.ask(CHAT, prompt(CHAT, {"pad": "x" * 8 * MIB}), fake=fake)
        assert (answer.status, answer.whole) == (413, True)
        assert service.ask(CHAT, prompt(CHAT)).status == 200


def test_an_engine_that_stops_reading_keeps_nobody_else_waiting(own_service: Sidecar) -> None:
    """The rest of that body is still to be sent: the connection must not be used again."""
    service = own_service
    fake = {"early_answer": 1000, "early_then": "stop"}
    answer = service.ask(CHAT, prompt(CHAT, {"pad": "x" * 16 * MIB}), fake=fake)
    assert answer.status == 413
    assert service.ask(CHAT, prompt(CHAT)).status == 200


def test_an_upload_arrives_where_no_descriptor_is_left(own_service: Sidecar) -> None:
    """A second one for the engine's early answer is a help, and none to wait for."""
    service, body = own_service, form(b"x")
    headers: Pairs = [FORM, ("content-length", str(len(body)))]
    with service.connect() as client:
        request_id = client.ask(AUDIO, b"", headers=headers)
        service.wait_until_seen(request_id)
        limits = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
        used = {int(each.name) for each in Path(f"/proc/{service.process.pid}/fd").iterdir()}
        unused = next(number for number in count() if number not in used)
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (unused, limits[1]))
        client.send(body)
        answer = client.answer()
    assert (answer.status, ending(service.record(request_id))) == (200, (200, "ok", None, None))


# Too large


@pytest.fixture(scope="module")
def small(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Bodies of 1 MiB, which have all the time they need."""
    with Sidecar(tmp_path_factory.mktemp("small"), shared_engine, MAX_BODY_MB="1") as service:
        service.wait_until_ready()
        yield service


def test_a_body_that_says_it_is_too_large_is_refused(small: Sidecar) -> None:
    service = small
    for path in (CHAT, AUDIO, MESSAGES):
        with service.connect() as client:
            request_id = client.ask(path, b"", headers=[("content-length", str(2 * MIB))])
            answer = client.answer()
        assert (answer.status, answer.whole) == (413, True)
        assert answer.header("x-proxy-error") == "client body_too_large"
        if path == MESSAGES:
            assert answer.json()["error"]["type"] == "request_too_large"
        assert service.seen(request_id) == []
        expected = (413, "rejected", "client", "body_too_large")
        assert ending(service.record(request_id)) == expected


@pytest.mark.parametrize("kind", [FORM, ("content-type", "application/json")], ids=["form", "json"])
def test_a_body_that_becomes_too_large_is_refused(small: Sidecar, kind: tuple[str, str]) -> None:
    service = small
    with service.connect() as client:
        request_id = client.ask(AUDIO, b"", headers=[kind, CHUNKED])
        with sending(client, in_chunks(b"x" * 3 * MIB, 65536)):
            answer = client.answer()
    assert (answer.status, answer.whole) == (413, True)
    assert ending(service.record(request_id)) == (413, "rejected", "client", "body_too_large")
    service.wait_until_idle()
    assert not any(each.body_complete for each in service.seen(request_id))


def test_a_refused_upload_is_read_to_its_end_or_the_connection_closed(
    small: Sidecar,
) -> None:
    """What is left of the body must never be taken for the next request."""
    smuggled = request("/v1/models", request_id="smuggled-by-413")
    size = 2 * MIB
    with small.connect() as client:
        client.ask(CHAT, b"", headers=[("content-length", str(size))])
        answer = client.answer()
        assert answer.status == 413
        with suppress(OSError):
            client.send(smuggled * (size // len(smuggled)))
            client.send(b" " * (size % len(smuggled)))
            client.ask("/v1/models")
            assert client.answer(method="GET").json()["object"] == "list"
    assert small.seen("smuggled-by-413") == []


# Expect


def test_100_continue_is_sent_before_the_body(service: Sidecar) -> None:
    whole = request(CHAT, prompt(CHAT), headers=[("expect", "100-continue")])
    head, _, body = whole.partition(b"\r\n\r\n")
    for kind in ("json", "form"):
        sent = head if kind == "json" else head.replace(b"application/json", b"text/x")
        with service.connect() as client:
            client.send(sent + b"\r\n\r\n")
            assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(body)
            answer = client.answer()
        assert answer.interim == []
        assert answer.status == (200 if kind == "json" else 400)


@pytest.mark.parametrize("path", ["/nothing/here", CHAT])
def test_100_continue_is_not_sent_where_the_body_is_refused(small: Sidecar, path: str) -> None:
    headers = [("expect", "100-continue"), ("content-length", str(5 * MIB))]
    with small.connect() as client:
        client.ask(path, b"", headers=headers)
        answer = client.answer()
    assert answer.interim == []
    assert answer.status == (413 if path == CHAT else 404)


@pytest.mark.parametrize("expect", ["auto", "never"])
def test_the_engine_is_not_made_to_wait_for_our_client(service: Sidecar, expect: str) -> None:
    headers = [("expect", "100-continue")]
    answer = service.ask(CHAT, prompt(CHAT), headers=headers, fake={"expect": expect})
    assert answer.status == 200
    (received,) = service.seen(answer)
    assert received.header("expect") == []


def test_a_body_that_comes_byte_by_byte_arrives(service: Sidecar) -> None:
    whole = request(CHAT, prompt(CHAT), request_id="bytewise")
    with service.connect() as client:
        for at in range(len(whole)):
            client.send(whole[at : at + 1])
        assert client.answer().status == 200
    (received,) = service.seen("bytewise")
    assert received.body_complete
