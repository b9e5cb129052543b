"""HTTP odds and ends: headers, framing, methods, versions, pipelining, smuggling."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tests.wire.client import CHAT, MESSAGES, PROMPT, STREAM, Ended, prompt, request
from tests.wire.service import Sidecar, ending, fields, until
from tests.wire.streams import DONE, ROLE, WORD, chunk, chunked, raw, sized

MODELS = "/v1/models"
HOP_BY_HOP = [
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("proxy-authorization", "Basic abc"),
    ("proxy-authenticate", "Basic"),
    ("te", "trailers"),
    ("trailer", "x-sum"),
    ("x-only-here", "1"),
]

# Request headers


def test_headers_reach_the_engine_in_their_order_and_number(service: Sidecar) -> None:
    pairs = [
        ("x-many", "one"),
        ("authorization", "Bearer sk-secret"),
        ("X-MANY", "two, three"),
        ("cookie", "a=1; b=2"),
        ("accept", "text/event-stream"),
        ("x-empty", ""),
        ("x-bytes", "f\xfcchs\xff\x80"),
        ("x-spaces", "a  \t b"),
        ("user-agent", "openai-python 1"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("!#$%&'*+-.^_`|~09", "odd name"),
    ]
    answer = service.ask(CHAT, prompt(CHAT), headers=pairs)
    (received,) = service.seen(answer)
    ours = ("host", "x-request-id", "content-length", "content-type", "accept-encoding")
    kept = [(name, value) for name, value in received.headers if name not in ours]
    assert kept == [(name.lower(), value) for name, value in pairs]
    assert received.header("host") == [f"127.0.0.1:{service.engine.port}"]
    assert received.header("content-length") == [str(received.body_bytes)]
    assert "sk-secret" not in service.text()


def test_what_is_between_two_neighbours_stays_there(service: Sidecar) -> None:
    pairs = [*HOP_BY_HOP, ("connection", "keep-alive, X-Only-Here"), ("x-stays", "1")]
    answer = service.ask(CHAT, prompt(CHAT), headers=pairs)
    (received,) = service.seen(answer)
    names = {name for name, _ in received.headers}
    assert not names & {name for name, _ in HOP_BY_HOP}
    assert "connection" not in names
    assert received.header("x-stays") == ["1"]


@pytest.mark.parametrize(("count", "size"), [(1000, 20), (1, 60_000), (25, 8000)])
def test_many_and_long_headers_pass_both_ways(service: Sidecar, count: int, size: int) -> None:
    pairs = [(f"x-{number}", "v" * size) for number in range(count)]
    lines = [f"{name}: {value}".encode() for name, value in pairs]
    service.engine.script(MODELS, **raw(sized(b"{}", *lines)))
    answer = service.ask(MODELS, headers=pairs)
    (received,) = service.seen(answer)
    assert [pair for pair in received.headers if pair[0][:2] == "x-" and pair in pairs] == pairs
    assert [pair for pair in answer.headers if pair in pairs] == pairs


# Response headers


def test_headers_reach_the_client_in_their_order_and_number(service: Sidecar) -> None:
    pairs = [
        ("Set-Cookie", "a=1; Path=/"),
        ("set-cookie", "b=2"),
        ("x-bytes", "f\xfcchs\xff"),
        ("x-empty", ""),
        ("retry-after", "3"),
        ("cache-control", "no-store"),
        ("server", "other"),
        ("endpoint-load-metrics", 'JSON {"named_metrics": {}}'),
    ]
    for options in ({}, STREAM):
        answer = service.ask(CHAT, prompt(CHAT, options), fake={"headers": pairs})
        expected = [(name.lower(), value) for name, value in pairs]
        assert [pair for pair in answer.headers if pair in expected] == expected
        assert answer.all("server") == ["uvicorn", "other"]
        assert len(answer.all("date")) == 1


def test_the_engines_hop_by_hop_headers_stay_with_us(service: Sidecar) -> None:
    pairs = [*HOP_BY_HOP, ("connection", "x-only-here"), ("x-stays", "1")]
    answer = service.ask(CHAT, prompt(CHAT), fake={"headers": pairs})
    assert not {name for name, _ in answer.headers} & {name for name, _ in HOP_BY_HOP}
    assert answer.header("x-stays") == "1"


def test_an_engine_that_closes_does_not_close_our_client(service: Sidecar) -> None:
    with service.connect() as client:
        for _ in range(3):
            client.ask(CHAT, prompt(CHAT), fake={"close_after": True})
            assert client.answer().all("connection") == []


@pytest.mark.parametrize("glued", [True, False], ids=["at once", "later"])
def test_trailers_of_the_engine_are_no_headers(service: Sidecar, glued: bool) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    wire = head + chunk(b"{}") + b"0\r\nx-sum: 1\r\nset-cookie: a=b\r\n\r\n"
    more: dict[str, Any] = {} if glued else {"cut": f"at:{len(head)}", "cut_ms": 50}
    answer = service.ask(MODELS, fake=raw(wire, **more))
    assert (answer.whole, answer.body, answer.all("x-sum")) == (True, b"{}", [])
    assert ending(service.record(answer)) == (200, "ok", None, None)


def test_interim_answers_are_not_the_answer(service: Sidecar) -> None:
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake={"interim": [102, 103, 100]})
    assert (answer.status, answer.data()[-1]) == (200, "[DONE]")


# Identity


@pytest.mark.parametrize("given", ["req_01-Ab.c:d", "x" * 128])
def test_a_sane_request_id_is_taken(service: Sidecar, given: str) -> None:
    answer = service.ask(CHAT, prompt(CHAT), request_id=given)
    assert answer.header("x-request-id") == given
    (received,) = service.seen(given)
    assert received.header("x-request-id") == [given]
    assert service.record(given)["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "f\xfc", "a,b"])
def test_another_one_is_replaced(service: Sidecar, given: str) -> None:
    with service.connect() as client:
        client.send(request(CHAT, prompt(CHAT), headers=[("x-request-id", given)]))
        made = client.answer().header("x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", made)
    (received,) = service.seen(made)
    assert received.header("x-request-id") == [made]
    service.record(made)


def test_an_id_the_engine_echoes_is_not_doubled(service: Sidecar) -> None:
    fake = {"headers": [("X-Request-Id", "mine-1")]}
    answer = service.ask(CHAT, prompt(CHAT), request_id="mine-1", fake=fake)
    assert answer.all("x-request-id") == ["mine-1"]


@pytest.mark.parametrize(
    ("given", "trace"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",) * 2,
        ("nonsense", None),
    ],
)
def test_a_trace_goes_through_untouched(service: Sidecar, given: str, trace: str | None) -> None:
    pairs = [("traceparent", given), ("tracestate", "a=1,b=2")]
    answer = service.ask(CHAT, prompt(CHAT), headers=pairs)
    (received,) = service.seen(answer)
    assert received.header("traceparent") == [given]
    assert received.header("tracestate") == ["a=1,b=2"]
    expected = given.split("-")[1] if trace else None
    assert fields(service.record(answer), "trace_id") == (expected,)


# Methods, statuses, versions


def test_head_has_the_headers_and_no_body(service: Sidecar) -> None:
    with service.connect() as client:
        for path in (MODELS, CHAT, "/version"):
            client.ask(path, method="HEAD")
            answer = client.answer(method="HEAD")
            assert (answer.status, answer.header("content-length")) == (405, "31")
            client.ask(MODELS)
            assert client.answer(method="GET").json()["object"] == "list"


def test_head_of_a_chunked_answer(service: Sidecar) -> None:
    wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n"
    with service.connect() as client:
        client.ask(MODELS, method="HEAD", fake=raw(wire))
        answer = client.answer(method="HEAD")
        assert (answer.status, answer.header("x-a")) == (200, "1")
        client.ask(MODELS)
        assert client.answer(method="GET").json()["object"] == "list"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_an_answer_without_a_body_keeps_the_connection(
    service: Sidecar, status: int, method: str
) -> None:
    with service.connect() as client:
        for _ in range(3):
            request_id = client.ask(MODELS, method=method, fake={"status": status})
            answer = client.answer(method=method)
            assert (answer.status, answer.all("transfer-encoding")) == (status, [])
            assert ending(service.record(request_id)) == (status, "ok", None, None)
        client.ask(MODELS)
        assert client.answer(method="GET").json()["object"] == "list"


def test_a_304_may_name_the_length_of_what_it_does_not_send(service: Sidecar) -> None:
    wire = b'HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\netag: "x"\r\n\r\n'
    with service.connect() as client:
        request_id = client.ask(MODELS, fake=raw(wire))
        answer = client.answer(method="GET")
        assert (answer.status, answer.header("etag")) == (304, '"x"')
        assert answer.header("content-length") == "100"
        assert ending(service.record(request_id)) == (304, "ok", None, None)
        client.ask(MODELS)
        assert client.answer(method="GET").status == 200


@pytest.mark.parametrize("options", [{}, STREAM], ids=["whole", "stream"])
def test_connection_close_of_the_client_is_heeded(service: Sidecar, options: Any) -> None:
    with service.connect() as client:
        client.ask(CHAT, prompt(CHAT, options), headers=[("connection", "close")])
        answer = client.answer()
        assert (answer.whole, answer.header("connection")) == (True, "close")
        assert client.rest() == b""


def test_an_engine_of_http_1_0_is_understood(service: Sidecar) -> None:
    with service.connect() as client:
        for options in ({}, STREAM):
            client.ask(CHAT, prompt(CHAT, options), fake={"http10": True})
            answer = client.answer()
            assert (answer.status, answer.whole, answer.framing) == (200, True, "chunked")


@pytest.mark.parametrize(
    ("task", "path"),
    [("generate", "/v1/embeddings"), ("embed", MESSAGES)],
)
def test_work_that_the_model_cannot_do_is_refused_in_words(
    task: str, path: str, tmp_path: Path
) -> None:
    with (
        FakeEngine(environment={"FAKE_ENGINE_TASKS": task}) as engine,
        Sidecar(tmp_path, engine) as sidecar,
    ):
        sidecar.wait_until_ready()
        body = prompt(path) if path in PROMPT else {"input": "Hello"}
        assert sidecar.ask_engine(path, body).json() == {"detail": "Not Found"}
        answer = sidecar.ask(path, body)
        assert (answer.status, answer.header("x-proxy-error")) == (404, "client route_not_served")
        said = f"The engine has no route POST {path}: vLLM has only those of the work"
        assert answer.json()["error"]["message"].startswith(said)
        kind = "not_found_error" if path == MESSAGES else "invalid_request_error"
        assert answer.json()["error"]["type"] == kind
        expected = (404, "client_error", "client", "route_not_served")
        assert ending(sidecar.record(answer)) == expected
        assert sidecar.ask("/v1/models").status == 200


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/models HTTP/1.1\r\nhost x\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/mod\xc3\xa9ls HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx : a\r\n\r\n",
        b"BREW /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http:///v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models?%zz\x7f HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=repr,
)
def test_what_is_no_http_is_refused_in_order(service: Sidecar, line: bytes) -> None:
    with service.connect() as client:
        client.send(line)
        answer = client.answer(method="GET")
        assert answer.status in (400, 404, 405)
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.header("x-proxy-error").startswith("client ")
    assert service.relayed() == []
    names = ("status", "outcome", "error_source")
    record = service.record(answer.header("x-request-id"))
    assert fields(record, *names) == (answer.status, "client_error", "client")


def test_rubbish_has_no_method_and_no_path_in_its_line(service: Sidecar) -> None:
    with service.connect() as client:
        client.send(b"rubbish\r\n\r\n")
        answer = client.answer(method="GET")
    assert (answer.status, answer.header("connection")) == (400, "close")
    record = service.record(answer.header("x-request-id"))
    assert not {"method", "path"} & record.keys()
    assert fields(record, "error", "route") == ("malformed_request", "unknown")


@pytest.mark.parametrize("path", [CHAT, "/v1/audio/transcriptions"])
def test_a_body_that_is_no_http_gets_a_400(service: Sidecar, path: str) -> None:
    kind = "application/json" if path == CHAT else "multipart/form-data; boundary=x"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n"
    with service.connect() as client:
        client.send(head.encode() + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        client.send(b"rubbish\r\n")
        answer = client.answer()
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "malformed_request"
    record = service.record(answer.header("x-request-id"))
    assert fields(record, "status", "outcome", "error") == (
        *(400, "client_error"),
        "malformed_request",
    )


def test_an_upgrade_nobody_knows_is_ignored(service: Sidecar) -> None:
    """h2c as curl offers it: vLLM answers by HTTP/1.1 too."""
    pairs = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
    ]
    answer = service.ask(MODELS, headers=pairs)
    assert answer.json()["object"] == "list"
    (received,) = service.seen(answer)
    assert received.header("upgrade") == []


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_comes_with_an_upgrade_nobody_knows(service: Sidecar, framing: str) -> None:
    """As every client in Java offers it, head and body in two writes: vLLM loses the body."""
    body = json.dumps(prompt(CHAT)).encode()
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
    head, sent = b"content-length: %d\r\n" % len(body), body
    if framing == "chunks":
        head, sent = b"transfer-encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with service.connect() as client:
        client.send(POST + offer + head + b"\r\n")
        client.send(sent + request(MODELS))
        answer = client.answer()
        assert answer.json()["choices"]
        assert client.answer(method="GET").json()["object"] == "list"
    (received,) = service.seen(answer)
    assert received.body_bytes == len(body)
    assert received.header("upgrade") == []


def test_a_page_of_ours_does_not_read_a_body(service: Sidecar) -> None:
    with service.connect() as client:
        client.send(b"GET /health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nrubbish")
        assert client.answer(method="GET").status == 200
        assert client.rest() == b""


# Pipelining


def test_a_pipelined_request_cut_anywhere_arrives(service: Sidecar) -> None:
    wire = request(CHAT, prompt(CHAT)) + request(CHAT, prompt(CHAT))
    for at in range(1, len(wire), 7):
        with service.connect() as client:
            client.send(wire[:at])
            client.send(wire[at:])
            assert [client.answer().status, client.answer().status] == [200, 200]


# Smuggling: of what stands in a body, nothing is ever taken for a request

HIDDEN = b"GET /v1/models/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
FORM = POST.replace(b"application/json", b"text/plain")
LENGTH = b"content-length: %d\r\n" % (len(HIDDEN) + 5)


@pytest.mark.parametrize("head", [POST, FORM], ids=["json", "upload"])
@pytest.mark.parametrize(
    "framing",
    [
        b"transfer-encoding: chunked\r\n" + LENGTH,
        LENGTH + b"transfer-encoding: chunked\r\n",
        b"content-length: 5\r\n" + LENGTH,
        LENGTH + b"content-length: 5\r\n",
        b"content-length: 5, 5\r\n",
        b"content-length: +5\r\n",
        b"content-length: 0x5\r\n",
        b"content-length: 5 5\r\n",
        b"content-length: -5\r\n",
        b"content-length: 99999999999999999999999\r\n",
        b"content-length:\r\n",
        b"content-length : 5\r\n",
        b"content-length\x00: 5\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: identity\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunkedx\r\n",
        b"transfer-encoding : chunked\r\n",
        b" transfer-encoding: chunked\r\n",
        b"transfer-encoding:\r\n chunked\r\n",
        b"transfer-encoding: \x0bchunked\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        b"transfer\x5fencoding: chunked\r\n",
        b"x: 1\rtransfer-encoding: chunked\r\n",
        b"x: 1\ntransfer-encoding: chunked\r\n" + LENGTH,
        b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: CHUNKED\r\n",
        b'transfer-encoding: "chunked"\r\n',
        b"connection: content-length\r\n" + LENGTH,
        b"connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n",
    ],
    ids=repr,
)
def test_a_hidden_request_does_not_reach_the_engine(
    service: Sidecar, framing: bytes, head: bytes
) -> None:
    """Sent in plain sight of the engine it would be one; behind the sidecar there is none.

    A request whose length can be read in two ways is refused, or passed on in one way only.
    """
    with service.connect(seconds=0.3) as client:
        with suppress(OSError):
            client.send(head + framing + b"\r\n" + b"0\r\n\r\n" + HIDDEN)
        with suppress(OSError, Ended):
            assert client.answer().status in (200, 400, 501)
    service.wait_until_idle()
    for received in service.relayed():
        hidden = received.target == "/v1/models/smuggled"
        # Well-formed chunks end before it: then it is a second request in its own right.
        own_right = b"chunked" in framing.lower() and b"content-length: " not in framing
        assert not hidden or own_right
        framed = received.header("content-length") + received.header("transfer-encoding")
        assert len(framed) <= (0 if hidden else 1)


@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n" + HIDDEN,
        b"-1\r\n" + HIDDEN,
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"ffffffffffffffffff\r\n" + HIDDEN,
        b"5;\nx\r\nhello\r\n0\r\n\r\n",
        b"0\r\nx\r\n\r\n",
        b"0\r\ntransfer-encoding : x\r\n\r\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("head", [POST, FORM], ids=["json", "upload"])
def test_a_bad_chunk_is_refused(service: Sidecar, head: bytes, body: bytes) -> None:
    with service.connect() as client:
        client.send(head + b"transfer-encoding: chunked\r\n\r\n" + body)
        client.close_half()
        reply = client.rest()
    assert reply == b"" or reply.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 50"))
    service.wait_until_idle()
    for received in service.relayed():
        assert received.target == CHAT
        assert not received.body_complete


@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: -1\r\n",
        b"content-length: x\r\n",
        b"x\x00y: 1\r\ncontent-length: 2\r\n",
        b"no colon\r\ncontent-length: 2\r\n",
    ],
    ids=repr,
)
def test_an_answer_that_can_be_read_in_two_ways_is_refused(service: Sidecar, lines: bytes) -> None:
    wire = b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    for _ in range(3):
        answer = service.ask(MODELS, fake=raw(wire))
        assert (answer.status, answer.header("x-proxy-error")) == (502, "upstream engine_garbled")
        assert service.ask(MODELS).json()["object"] == "list"


# Framing of answers


def test_a_length_is_kept_and_chunks_stay_chunks(service: Sidecar) -> None:
    answer = service.ask(CHAT, prompt(CHAT))
    assert (answer.framing, int(answer.header("content-length"))) == ("length", len(answer.body))
    assert service.ask(CHAT, prompt(CHAT), fake={"chunk_bytes": 10}).framing == "chunked"


def test_a_stream_with_a_declared_length_is_understood(service: Sidecar) -> None:
    """The length would be untrue once an event is withheld."""
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake={"content_length": 0})
    assert (answer.framing, answer.data()[-1]) == ("chunked", "[DONE]")


def test_an_empty_stream_is_empty(service: Sidecar) -> None:
    for wire in (chunked([]), sized(b"").replace(b"application/json", b"text/event-stream")):
        answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire))
        assert (answer.status, answer.whole, answer.body) == (200, True, b"")


@pytest.mark.parametrize(
    "kind", [b"text/event-stream", b"Text/Event-Stream;charset=utf-8", b"text/event-stream ;x"]
)
def test_a_stream_is_known_by_its_content_type(service: Sidecar, kind: bytes) -> None:
    wire = chunked([ROLE, WORD, DONE]).replace(b"text/event-stream; charset=utf-8", kind)
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire))
    assert answer.body == ROLE + WORD + DONE
    assert service.record(answer)["ttft_ms"] > 0


@pytest.mark.parametrize(
    ("status", "outcome"), [(b"500 E", "engine_error"), (b"404 N", "client_error")]
)
@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"text/plain", b"Internal Server Error"), (b"application/json", b""), (b"text/html", b"<p>")],
)
def test_an_error_is_an_error_whatever_its_body_is(
    service: Sidecar, status: bytes, outcome: str, kind: bytes, body: bytes
) -> None:
    wire = sized(body, status=status).replace(b"application/json", kind)
    answer = service.ask(CHAT, prompt(CHAT), fake=raw(wire))
    assert answer.body == body
    record = service.record(answer)
    assert fields(record, "status", "outcome") == (int(status[:3]), outcome)
    assert record["error"]


# Two clients, one engine


def test_answers_do_not_get_mixed_up(service: Sidecar) -> None:
    clients = [service.connect() for _ in range(20)]
    for _ in range(5):
        ids = [client.ask(CHAT, prompt(CHAT, STREAM), fake={"glue": 3}) for client in clients]
        for client, request_id in zip(clients, ids, strict=True):
            answer = client.answer()
            assert {event["id"] for event in answer.data()[:-1]} == {f"chatcmpl-{request_id}"}
    for client in clients:
        client.close()


def test_two_requests_with_the_same_id_are_two(service: Sidecar) -> None:
    for _ in range(2):
        service.ask(CHAT, prompt(CHAT), request_id="twice")
    until(lambda: len(service.records("twice")) == 2, "two lines")
    assert len(service.seen("twice")) == 2


def test_the_log_line_of_a_good_request_is_complete(service: Sidecar) -> None:
    answer = service.ask(CHAT, prompt(CHAT, STREAM), headers=[("user-agent", "t")])
    record = service.record(answer)
    expected = {
        *("timestamp", "level", "logger", "message", "request_id", "method", "path", "route"),
        *("status", "outcome", "stream", "modalities", "bytes_in", "bytes_out", "prompt_tokens"),
        *("completion_tokens", "generated_events", "finish_reason", "duration_ms", "ttft_ms"),
        *("itl_mean_ms", "itl_max_ms", "body_read_ms", "upstream_first_byte_ms", "overhead_ms"),
        *("client", "user_agent"),
    }
    maybe = {"tokens_per_second", "upstream_connect_ms", "client_stall_ms"}
    assert expected <= set(record) <= expected | maybe
    assert json.dumps(record)
