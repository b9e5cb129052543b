"""Promise 1: what the engine sends reaches the client unchanged and at once."""

from __future__ import annotations

import gzip
import json
from hashlib import sha256
from typing import Any

import pytest

from tests.wire.client import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    NO_USAGE,
    RESPONSES,
    STREAM,
    USAGE,
    new_id,
    prompt,
)
from tests.wire.service import Sidecar, fields
from tests.wire.streams import (
    DONE,
    FINISH,
    ROLE,
    WORD,
    chunked,
    nameless,
    raw,
    sized,
    steady,
)
from tests.wire.streams import USAGE as USAGE_EVENT

ROUTES = [CHAT, COMPLETIONS, MESSAGES, RESPONSES]
ALL = ROLE + WORD + FINISH + USAGE_EVENT + DONE
# One cut in so many; tests/proxy/relay/test_stream.py has one at each byte.
STEP = 9


def same(service: Sidecar, path: str, body: Any, fake: dict[str, Any]) -> bytes:
    """The body through the sidecar; fails where the engine's own differs."""
    request_id = new_id()
    direct = service.ask_engine(path, body, request_id=request_id, fake=fake)
    through = service.ask(path, body, request_id=request_id, fake=fake)
    assert through.whole
    assert through.status == direct.status
    assert steady(through.body) == steady(direct.body)
    return through.body


# What the four APIs do not share: names of events, and what they say.
OF_EACH_API: tuple[dict[str, Any], ...] = (
    *({}, {"comment": True, "newline": "crlf", "glue": 2}),
    *({"chunk_bytes": 7, "chunk_extension": ";a=b"}, {"reasoning": 3}),
)


@pytest.mark.parametrize("path", ROUTES[1:])
def test_a_stream_of_each_api_is_what_the_engine_wrote(service: Sidecar, path: str) -> None:
    for fake in OF_EACH_API:
        assert same(service, path, prompt(path, NO_USAGE if path == COMPLETIONS else STREAM), fake)


@pytest.mark.parametrize(
    "fake",
    [
        *OF_EACH_API,
        {"newline": "crlf"},
        {"newline": "cr"},
        {"space": "json"},
        {"space": "wide"},
        {"space": "none"},
        {"comment": True},
        {"glue": 100},
        {"chunk_bytes": 1},
        {"cut": "every:3"},
        {"tool": True},
        {"no_done": True},
        {"after_done": "data: more\n\n: and more"},
        {"tokens": 0},
        {"tokens_per_event": 3, "finish_in_last": True},
        {"http10": True},
    ],
    ids=str,
)
def test_a_stream_is_what_the_engine_wrote(service: Sidecar, fake: Any) -> None:
    assert same(service, CHAT, prompt(CHAT, NO_USAGE), fake)


@pytest.mark.parametrize("path", ROUTES)
def test_a_json_answer_is_what_the_engine_wrote(service: Sidecar, path: str) -> None:
    same(service, path, prompt(path), {})
    same(service, path, prompt(path), {"space": "wide"})
    same(service, path, prompt(path), {"chunk_bytes": 3})


@pytest.mark.parametrize("seed", range(6))
def test_random_cuts_change_nothing(service: Sidecar, seed: int) -> None:
    cut = f"random:{seed}:{1 + seed * 9}"
    fake = {"cut": cut, "chunk_bytes": 1 + seed * 5, "newline": ("lf", "crlf", "cr")[seed % 3]}
    same(service, CHAT, prompt(CHAT, NO_USAGE), fake)


def test_a_stream_cut_anywhere_is_the_same_stream(service: Sidecar) -> None:
    wire = chunked([ROLE, WORD, FINISH, USAGE_EVENT, DONE])
    body = prompt(CHAT, NO_USAGE)
    with service.connect() as client:
        for at in range(1, len(wire), STEP):
            client.ask(CHAT, body, fake=raw(wire, cut=f"at:{at}"))
            answer = client.answer()
            assert (answer.whole, answer.body) == (True, ALL), f"cut at {at}"


@pytest.mark.parametrize("options", [STREAM, NO_USAGE], ids=["withheld", "passed"])
def test_an_event_of_2_mb_passes(service: Sidecar, options: Any) -> None:
    fake = {"event_bytes": 2_000_000, "tokens": 2}
    request_id = new_id()
    direct = service.ask_engine(CHAT, prompt(CHAT, options), request_id=request_id, fake=fake)
    answer = service.ask(CHAT, prompt(CHAT, options), request_id=request_id, fake=fake)
    assert answer.whole
    assert sha256(nameless(answer.body)).digest() == sha256(nameless(direct.body)).digest()
    record = service.record(answer)
    tokens = None if options is NO_USAGE else 2
    assert fields(record, "completion_tokens", "outcome") == (tokens, "ok")
    assert record["ttft_ms"] > 0


def test_every_event_arrives_while_the_next_one_is_still_to_come(service: Sidecar) -> None:
    for events in range(1, 5):
        with service.connect() as client:
            client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": events})
            client.head()
            data = b""
            while data.count(b"\n\n") < events:
                data += client.chunk()
            assert data.count(b"\n\n") == events
            assert data.endswith(b"\n\n")


def test_the_headers_arrive_before_the_first_event(service: Sidecar) -> None:
    with service.connect() as client:
        client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 0})
        assert client.head().status == 200


def test_a_json_body_reaches_the_client_as_it_is_generated(service: Sidecar) -> None:
    half = b'{"choices":[' + b" " * 1000
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n"
    with service.connect() as client:
        client.ask("/v1/models", fake=raw(head + half))
        assert client.head().header("content-length") == "5000"
        assert client.exactly(len(half)) == half


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("options", [{}, STREAM], ids=["whole", "stream"])
def test_an_answer_nested_too_deep_to_be_read_passes(
    service: Sidecar, path: str, options: Any
) -> None:
    deep = b'{"type":"x","x":' + b"[" * 5000 + b"]" * 5000 + b"}"
    event = b"data: " + deep + b"\n\n"
    wire = chunked([event, DONE]) if options else sized(deep)
    answer = service.ask(path, prompt(path, options), fake=raw(wire))
    assert (answer.whole, answer.body) == (True, event + DONE if options else deep)
    assert service.record(answer)["outcome"] == "ok"


def test_json_is_never_written_anew(service: Sidecar) -> None:
    """Key order, big integers, unknown fields, blanks, escapes, a lone surrogate, NaN."""
    odd = (
        b'{ "z":1,"a" : 123456789012345678901234567890,"reasoning":"r","reasoning_content":null,'
        b'"e":1.0e+2,"u":"\\u00fc\\ud800\\/","a":[ ],"n":NaN,"choices":[]}\n\n'
    )
    answer = service.ask(CHAT, prompt(CHAT), fake=raw(sized(odd)))
    assert answer.body == odd
    event = b"data: " + odd.strip() + b"\n\n"
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(chunked([event, DONE])))
    assert answer.body == event + DONE


@pytest.mark.parametrize(
    "more",
    [
        b'"seed": 123456789012345678901234567890',
        b'"temperature":1.0000000000000001,"x":1E400',
        b'"a":1,"a":2,"\\u0062":"\\ud83e\\udd8a"',
        '"user":"ü狐🦊"'.encode(),
        b'"deep":' + b"[" * 500 + b"]" * 500,
        b'"blank" \r\n\t : [ 1 ,2 ]  ',
    ],
    ids=["big integer", "numbers", "twice", "utf-8", "deep", "blanks"],
)
def test_a_request_body_reaches_the_engine_as_it_was_sent(service: Sidecar, more: bytes) -> None:
    for options in ({}, USAGE, NO_USAGE):
        body = json.dumps(prompt(CHAT, options)).encode()[:-1] + b"," + more + b"}"
        answer = service.ask(CHAT, body, fake=raw(sized(b"{}")))
        (received,) = service.seen(answer)
        assert (received.body_bytes, received.body_sha256) == (len(body), sha256(body).hexdigest())


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"null", b"[]", b'"x"', b"{}{}", b"\x00", b"{\xef\xbb\xbf}"],
    ids=repr,
)
def test_a_body_that_is_no_json_is_for_the_engine_to_refuse(service: Sidecar, body: bytes) -> None:
    answer = service.ask(CHAT, body)
    (received,) = service.seen(answer)
    assert received.body_sha256 == sha256(body).hexdigest()
    assert answer.status == 400
    assert fields(service.record(answer), "outcome", "error_source") == ("client_error", "client")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *((CHAT, status) for status in (400, 401, 404, 405, 422, 429, 500, 501, 503)),
        (MESSAGES, 400),
    ],
)
def test_an_error_of_the_engine_is_passed_on_untouched(
    service: Sidecar, path: str, status: int
) -> None:
    fake = {"status": status, "headers": [("retry-after", "77"), ("x-engine", "1")]}
    direct = service.ask_engine(path, prompt(path), fake=fake)
    answer = service.ask(path, prompt(path, STREAM), fake=fake)
    assert (answer.status, answer.body) == (status, direct.body)
    assert answer.header("retry-after") == "77"
    assert answer.all("x-proxy-error") == []
    outcome = "engine_error" if status >= 500 else "client_error"
    source = "upstream" if status >= 500 else "client"
    record = service.record(answer)
    assert fields(record, "status", "outcome", "error_source") == (status, outcome, source)
    assert record["error"]


@pytest.mark.parametrize("body", [b'{"detail":"x"}', b'{"error":"Unauthorized"}', b"plain words"])
def test_an_error_of_any_shape_is_passed_on_untouched(service: Sidecar, body: bytes) -> None:
    answer = service.ask(CHAT, prompt(CHAT), fake=raw(sized(body, status=b"400 Bad Request")))
    assert (answer.status, answer.body) == (400, body)


def test_a_gzipped_request_body_reaches_the_engine_as_it_was_sent(service: Sidecar) -> None:
    body = gzip.compress(json.dumps(prompt(CHAT, STREAM)).encode())
    answer = service.ask(CHAT, body, headers=[("content-encoding", "gzip")])
    (received,) = service.seen(answer)
    assert received.body_sha256 == sha256(body).hexdigest()
    assert received.header("content-encoding") == ["gzip"]
    assert answer.status == 400  # vLLM does not take it, and says so


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models?a=1&b=%20%2F&c",
        "/v1/models?x=/../y",
        "/v1/responses/resp_1?include[]=a&stream=true",
    ],
)
def test_path_and_query_reach_the_engine_as_they_were_sent(service: Sidecar, target: str) -> None:
    answer = service.ask(target)
    (received,) = service.seen(answer)
    assert (received.method, received.target) == ("GET", target)
    assert service.record(answer)["path"] == target.partition("?")[0]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_the_method_reaches_the_engine(service: Sidecar, method: str) -> None:
    answer = service.ask("/v1/responses/resp_1/cancel", method=method)
    (received,) = service.seen(answer)
    assert received.method == method


def test_what_is_logged_of_bytes_is_what_went_over_the_wire(service: Sidecar) -> None:
    body = json.dumps(prompt(CHAT, STREAM)).encode()
    answer = service.ask(CHAT, body)
    record = service.record(answer)
    assert fields(record, "bytes_in", "bytes_out") == (len(body), len(answer.body))
