"""Requests in each form that HTTP/1.x allows, and in those it does not: nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.fake_engine import FakeEngine
from tests.wire.client import CHAT, STREAM, Answer, Pairs, new_id, prompt, request
from tests.wire.secrets import KEY
from tests.wire.service import Sidecar, ending, fields
from tests.wire.streams import chunk

MODELS, HEALTH = "/v1/models", "/health"
KIB = 1024
KEEP: Pairs = [("connection", "keep-alive")]
LEFT = (499, "client_closed", "client", "client_closed")
MALFORMED = (400, "client_error", "client", "malformed_request")
HEAD = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n"
WRONG, RIGHT = "Bearer sk-no", "Bearer sk-alice-of-the-tests"


@pytest.fixture(scope="module")
def private(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    keys = {"API_KEYS": f"alice:{RIGHT.partition(' ')[2]}"}
    with Sidecar(tmp_path_factory.mktemp("private"), shared_engine, **keys) as service:
        service.wait_until_ready()
        yield service


def says(answer: Answer) -> str:
    """The words of a refusal."""
    return str(answer.json()["error"]["message"])


def exchange(service: Sidecar, wire: bytes, *, method: str = "GET") -> Answer:
    """The answer to these bytes."""
    with service.connect() as client:
        client.send(wire)
        return client.answer(method=method)


# HTTP/1.0 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [MODELS, HEALTH, "/nothing"])
def test_http_1_0_keeps_a_connection_where_it_asks_and_the_length_is_known(
    service: Sidecar, path: str
) -> None:
    with service.connect() as client:
        for _ in range(3):
            client.ask(path, version="1.0", headers=KEEP)
            answer = client.answer(method="GET")
            assert (answer.framing, answer.whole) == ("length", True)
            assert answer.all("connection") == ["keep-alive"]
        client.ask(path, version="1.0")
        answer = client.answer(method="GET")
        assert answer.all("connection") == ["close"]
        assert client.rest() == b""


def test_a_stream_of_http_1_0_ends_with_its_connection_whatever_was_asked(
    service: Sidecar,
) -> None:
    with service.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), version="1.0", headers=KEEP)
        answer = client.answer()
    assert (answer.framing, answer.all("connection")) == ("close", ["close"])
    assert answer.data()[-1] == "[DONE]"
    assert ending(service.record(request_id)) == (200, "ok", None, None)


@pytest.mark.parametrize("path", [CHAT, "/nothing"])
def test_http_1_0_gets_no_interim_answer(service: Sidecar, path: str) -> None:
    """It would take that for the answer (RFC 9110, 10.1.1)."""
    expect = [("expect", "100-continue")]
    with service.connect() as client:
        client.ask(path, prompt(CHAT), version="1.0", headers=expect)
        answer = client.answer()
        assert (answer.interim, answer.status) == ([], 200 if path == CHAT else 404)


def test_chunks_in_http_1_0_are_the_last_on_their_connection(service: Sidecar) -> None:
    """Who passed them on may have seen another end of them (RFC 9112, 6.1)."""
    headers = [*KEEP, ("transfer-encoding", "chunked")]
    with service.connect() as client:
        hidden = request(MODELS, request_id=(hidden_id := new_id()), version="1.0", headers=KEEP)
        body = b"2\r\n{}\r\n0\r\n\r\n" + hidden
        client.send(request(CHAT, body, version="1.0", headers=headers))
        assert client.answer().all("connection") == ["close"]
        assert client.rest() == b""
    assert service.seen(hidden_id) == []


# Methods and targets ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "GETT", "G\tT", "X" * 300])
def test_a_method_that_is_none_is_refused_and_logged(service: Sidecar, method: str) -> None:
    """Methods are told apart by case (RFC 9110, 9.1)."""
    with service.connect() as client:
        client.ask(MODELS, method=method)
        answer = client.answer(method="GET")
        assert client.rest() == b""
    assert answer.all("connection") == ["close"]
    assert "HTTP/1.1" in says(answer)
    assert ending(service.record(answer)) == MALFORMED


@pytest.mark.parametrize("method", ["PATCH", "M-SEARCH", "QUERY"])
def test_a_method_that_few_use_is_the_engines_to_refuse(service: Sidecar, method: str) -> None:
    answer = service.ask(CHAT, method=method)
    assert answer.status == 405
    assert [each.method for each in service.seen(answer)] == [method]
    own = service.ask(HEALTH, method=method)
    assert (own.status, own.header("allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("http://elsewhere.example/v1/models?x", "/v1/models?x"),
        ("http://elsewhere.example:8000/v1/models?x=http://a/b?c", "/v1/models?x=http://a/b?c"),
        ("HTTP://[::1]:8000/v1/models?", "/v1/models"),
        ("https://user:word@elsewhere.example/v1/models", "/v1/models"),
    ],
)
def test_an_absolute_target_keeps_its_query(service: Sidecar, target: str, seen: str) -> None:
    answer = service.ask(target)
    assert answer.json()["object"] == "list"
    (received,) = service.seen(answer)
    assert received.target == seen
    assert fields(service.record(answer), "path", "route") == (MODELS, "models")


@pytest.mark.parametrize("target", ["http://host?x", "http://h/"])
def test_an_absolute_target_without_a_path_is_the_root(service: Sidecar, target: str) -> None:
    answer = service.ask(target)
    assert (answer.status, answer.header("x-proxy-error")) == (404, "client unknown_route")
    assert says(answer) == "There is no route GET / here."
    assert fields(service.record(answer), "path") == ("/",)


def test_our_own_pages_are_found_by_an_absolute_target_too(service: Sidecar) -> None:
    answer = service.ask("http://elsewhere.example/health?verbose=1")
    assert (answer.status, answer.json()["phase"]) == (200, "ready")


# Expect -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [HEALTH, "/nothing"])
def test_an_early_final_answer_ends_the_connection(service: Sidecar, path: str) -> None:
    """Whether the body still comes is the client's choice, and nobody here can tell."""
    hidden = request(MODELS, request_id="hidden-by-expect")
    headers = [("expect", "100-continue"), ("content-length", str(len(hidden)))]
    with service.connect() as client:
        client.ask(path, b"", headers=headers, method="GET")
        answer = client.answer(method="GET")
        assert (answer.interim, answer.all("connection")) == ([], ["close"])
        client.send(hidden)
        assert client.rest() == b""
    assert service.seen("hidden-by-expect") == []


def test_a_body_that_came_unasked_keeps_the_connection(service: Sidecar) -> None:
    """curl waits a second for the word, and then sends."""
    with service.connect() as client:
        for path in (HEALTH, "/nothing", MODELS):
            client.ask(path, b"{}", headers=[("expect", "100-continue")], method="GET")
            answer = client.answer(method="GET")
            assert (answer.whole, answer.all("connection")) == (True, [])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_early_answer_is_read_by_a_client_that_goes_on_sending(
    service: Sidecar, version: str
) -> None:
    """nginx asks by HTTP/1.0 as it comes. A connection that is closed with bytes unread is reset,
    which undoes the answer: to the client it would be a server that has broken down."""
    size = 8 * KIB * KIB
    headers: Pairs = [("content-length", str(size)), ("connection", "close")]
    with service.connect() as client:
        request_id = client.ask("/nothing", b"", version=version, headers=headers)
        service.record(request_id)
        for _ in range(size // (64 * KIB)):
            client.send(b"x" * 64 * KIB)
        answer = client.answer()
        assert (answer.status, answer.whole) == (404, True)
        assert client.rest() == b""


# Heads ------------------------------------------------------------------------------------------


def test_trailers_of_all_kinds_end_a_body_and_change_nothing(service: Sidecar) -> None:
    trailers = b"0;last\r\nx-sum: 1\r\nhost: y\r\nauthorization: z\r\n\r\n"
    with service.connect() as client:
        for path in (CHAT, "/v1/audio/transcriptions", "/nothing"):
            request_id = client.ask(path, b"", headers=[("transfer-encoding", "chunked")])
            client.send(chunk(b"{}") + trailers)
            assert client.answer().all("connection") == []
            for received in service.seen(request_id):
                assert received.header("x-sum") == []
                assert received.header("authorization") == [f"Bearer {KEY}"]


def test_a_trailer_that_closes_the_connection_leaves_nobody_waiting(service: Sidecar) -> None:
    """The parser reads nothing behind it: the next request would get no answer, and no end."""
    trailers = b"0\r\nconnection: close\r\n\r\n"
    with service.connect() as client:
        client.ask(CHAT, b"", headers=[("transfer-encoding", "chunked")])
        client.send(chunk(b"{}") + trailers + request(MODELS))
        assert client.answer().all("connection") == ["close"]
        assert client.rest() == b""


@pytest.mark.parametrize("fold", [b"a\r\n b", b"a\r\n\tb", b"\r\n b", b"a\r\n b\r\n c"], ids=repr)
def test_a_folded_value_is_refused(service: Sidecar, fold: bytes) -> None:
    answer = exchange(service, HEAD + b"x-fold: " + fold + b"\r\nx-next: 1\r\n\r\n")
    assert ending(service.record(answer)) == MALFORMED
    assert service.relayed() == []


@pytest.mark.parametrize(
    "line",
    [
        b"x: a\rb", b"x: a\nb", b"x: a\n", b"x\r: a", b"x\n: a", b"\rx: a", b"x: a\r\rb", b"x: a\0b"
    ],
    ids=repr,
)  # fmt: skip
def test_a_bare_cr_or_lf_makes_no_line(service: Sidecar, line: bytes) -> None:
    answer = exchange(service, HEAD + line + b": c\r\n\r\n")
    assert ending(service.record(answer)) == MALFORMED
    assert service.relayed() == []


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\n", b"\n\r\n", b"\r\r"], ids=repr)
def test_a_head_ends_with_an_empty_line_and_with_no_other(service: Sidecar, end: bytes) -> None:
    answer = exchange(service, b"GET /v1/models HTTP/1.1\r\nhost: x" + end)
    assert ending(service.record(answer)) == MALFORMED


@pytest.mark.parametrize("values", [("2", "2"), ("2", "3"), ("3", "2"), ("0", "2")])
def test_two_lengths_are_refused_even_where_they_agree(
    service: Sidecar, values: tuple[str, str]
) -> None:
    lengths = [("content-length", value) for value in values]
    with service.connect() as client:
        client.ask(CHAT, b"{}", headers=lengths)
        answer = client.answer()
    assert ending(service.record(answer)) == MALFORMED
    assert service.relayed() == []


def test_of_two_hosts_neither_goes_to_the_engine(service: Sidecar) -> None:
    """Nothing here is chosen by name."""
    answer = service.ask(MODELS, headers=[("host", "other"), ("host", "")])
    assert answer.status == 200
    (received,) = service.seen(answer)
    assert received.header("host") == [f"127.0.0.1:{service.engine.port}"]


@pytest.mark.parametrize(("values", "status"), [((WRONG, RIGHT), 401), ((RIGHT, WRONG), 200)])
def test_of_two_keys_the_first_counts_and_the_engine_gets_none(
    private: Sidecar, values: tuple[str, str], status: int
) -> None:
    private.engine.reset()
    answer = private.ask(MODELS, headers=[("authorization", value) for value in values])
    assert answer.status == status
    assert [each.header("authorization") for each in private.seen(answer)] == [[]] * (status == 200)


def test_without_keys_all_credentials_reach_the_engine_in_their_order(service: Sidecar) -> None:
    values = ["Bearer one", "Basic two"]
    answer = service.ask(MODELS, headers=[("authorization", value) for value in values])
    (received,) = service.seen(answer)
    assert received.header("authorization") == values


def test_a_head_of_nearly_256_kib_passes(service: Sidecar) -> None:
    pairs = [(f"x-{number}", "v" * 5000) for number in range(50)]
    answer = service.ask(MODELS, headers=pairs)
    (received,) = service.seen(answer)
    assert [pair for pair in received.headers if pair in pairs] == pairs


@pytest.mark.parametrize(
    ("kib", "line"), [(270, b"x: %b\r\n"), (4000, b"x: %b\r\n"), (4000, b"%b")]
)
def test_a_larger_head_is_refused_in_words_that_arrive(
    service: Sidecar, kib: int, line: bytes
) -> None:
    with service.connect() as client:
        client.send(HEAD + b"x: ")
        with suppress(OSError):  # it need not be read to its end
            for _ in range(kib // 10):
                client.send(line % (b"v" * 10 * KIB))
            client.send(b"\r\n\r\n")
        answer = client.answer(method="GET")
        assert client.rest() == b""
    assert answer.status == 431
    assert says(answer) == "The request's head is larger than 256 KiB."
    assert ending(service.record(answer))[1:3] == ("rejected", "client")


@pytest.mark.parametrize("path", [MODELS, HEALTH, "/nothing"])
def test_a_body_on_get_is_a_body(service: Sidecar, path: str) -> None:
    """And not the next request."""
    hidden = request(MODELS, request_id="hidden-in-get")
    with service.connect() as client:
        for _ in range(2):
            request_id = client.ask(path, hidden, method="GET")
            assert client.answer(method="GET").status == (404 if path == "/nothing" else 200)
        for received in service.seen(request_id):
            assert (received.method, received.body_bytes) == ("GET", len(hidden))
    assert service.seen("hidden-in-get") == []


SETTINGS = b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)


@pytest.mark.parametrize(("at", "after"), [(24, b""), (24, SETTINGS), (3, SETTINGS), (18, b"")])
def test_http_2_is_refused_in_words(service: Sidecar, at: int, after: bytes) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + after
    with service.connect() as client:
        client.send(preface[:at])
        if at < 24:
            service.page()  # that much has been read by now
        client.send(preface[at:])
        answer = client.answer()
        assert client.rest() == b""
    told = "What came is HTTP/2. This server speaks HTTP/1.1: set the client to that."
    assert says(answer) == told
    assert ending(service.record(answer)) == MALFORMED


# Pipelining -------------------------------------------------------------------------------------


def test_pipelined_requests_of_all_kinds_are_answered_in_order(service: Sidecar) -> None:
    streamed, refused, whole, late = (new_id() for _ in range(4))
    fake = {"tokens": 10, "interval_ms": 5}
    wire = [
        request(CHAT, prompt(CHAT, STREAM), request_id=streamed, fake=fake),
        request(HEALTH),
        request("/nothing", b"x" * 5000, request_id=refused),
        request(MODELS, method="HEAD"),
        request(CHAT, prompt(CHAT), request_id=whole),
        request(CHAT, b"{", request_id=late),
    ]
    with service.connect() as client:
        client.send(b"".join(wire) + b"rubbish\r\n\r\n")
        methods = ["POST", "GET", "POST", "HEAD", "POST", "POST"]
        answers = [client.answer(method=method) for method in methods]
        assert client.rest() == b"", "the last one says that nothing follows it"
    assert all(answer.whole for answer in answers)
    assert [answer.status for answer in answers] == [200, 200, 404, 405, 200, 400]
    assert answers[0].data()[-1] == "[DONE]"
    assert answers[1].json()["phase"] == "ready"
    ids = [answers[number].header("x-request-id") for number in (0, 2, 4, 5)]
    assert ids == [streamed, refused, whole, late]
    assert [answer.all("connection") for answer in answers] == [[]] * 5 + [["close"]]
    assert [service.record(each)["status"] for each in ids] == [200, 404, 200, 400]
    assert service.seen(refused) == []


# Half-closed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, HEALTH, "/nothing"])
@pytest.mark.parametrize("wait", [False, True], ids=["at once", "later"])
def test_a_client_that_says_it_will_send_no_more_has_left(
    service: Sidecar, path: str, wait: bool
) -> None:
    """As for vLLM. What was answered by then is read; what was not never is, and no half of it."""
    with service.connect() as client:
        body = prompt(CHAT) if path != HEALTH else None
        fake = {"hang": True} if path == CHAT else None
        data = request(path, body, request_id=(request_id := new_id()), fake=fake)
        client.send(data)
        if wait and path == CHAT:
            service.wait_until_seen(request_id)
        elif wait:
            assert client.answer().whole
        client.close_half()
        reply = client.rest()
    if path == CHAT:
        assert reply == b""
        assert ending(service.record(request_id)) == LEFT
    elif reply:
        head, _, rest = reply.partition(b"\r\n\r\n")
        assert b"content-length: %d" % len(rest) in head.lower()
