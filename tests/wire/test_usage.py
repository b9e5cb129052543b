"""Promise 2: usage is always known; the one event it takes is withheld, nothing else."""

from __future__ import annotations

import gzip
import json
import zlib
from hashlib import sha256
from typing import Any

import pytest

from tests.wire.client import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    NO_USAGE,
    PROMPT,
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
    chunk,
    chunked,
    nameless,
    raw,
    sized,
)
from tests.wire.streams import USAGE as USAGE_EVENT

ADDED = b',"stream_options":{"include_usage":true}'
ALL = ROLE + WORD + FINISH + USAGE_EVENT + DONE
WITHHELD = ROLE + WORD + FINISH + DONE


def tokens(service: Sidecar, of: Any) -> tuple[Any, ...]:
    return fields(service.record(of), "prompt_tokens", "completion_tokens")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_usage_is_asked_for_and_its_event_withheld(service: Sidecar, path: str) -> None:
    body = json.dumps(prompt(path, STREAM)).encode()
    request_id = new_id()
    direct = service.ask_engine(path, body, request_id=request_id)
    answer = service.ask(path, body, request_id=request_id)
    sent = body[:-1] + ADDED + b"}"
    received = service.seen(answer)[-1]
    assert received.body_sha256 == sha256(sent).hexdigest()
    assert nameless(answer.body) == nameless(direct.body)
    assert b"usage" not in answer.body
    assert tokens(service, answer) == (14, 8)


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_where_usage_is_always_there_nothing_is_added(service: Sidecar, path: str) -> None:
    body = json.dumps(prompt(path, STREAM)).encode()
    answer = service.ask(path, body, fake={"prompt_tokens": 14, "tokens": 6})
    (received,) = service.seen(answer)
    assert received.body_sha256 == sha256(body).hexdigest()
    assert tokens(service, answer) == (14, 6)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, RESPONSES])
def test_usage_of_a_whole_answer_is_known(service: Sidecar, path: str) -> None:
    answer = service.ask(path, prompt(path), fake={"tokens": 5, "prompt_tokens": 33})
    assert tokens(service, answer) == (33, 5)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_explicit_no_is_left_alone(service: Sidecar, path: str) -> None:
    body = json.dumps(prompt(path, NO_USAGE)).encode()
    answer = service.ask(path, body)
    (received,) = service.seen(answer)
    assert received.body_sha256 == sha256(body).hexdigest()
    assert b"usage" not in answer.body
    assert tokens(service, answer) == (None, None)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_explicit_yes_gets_the_event(service: Sidecar, path: str) -> None:
    answer = service.ask(path, prompt(path, USAGE))
    *_, last, done = answer.data()
    assert (last["choices"], last["usage"]["completion_tokens"], done) == ([], 8, "[DONE]")
    assert tokens(service, answer) == (14, 8)


def test_usage_is_asked_for_however_the_stream_is(service: Sidecar) -> None:
    body = b'\xef\xbb\xbf {"stream" : "true" ,"stream_options":null,"messages":["}"] }\r\n '
    answer = service.ask(CHAT, body, fake=raw(chunked([ALL])))
    (received,) = service.seen(answer)
    at = body.rindex(b"}")
    assert received.body_sha256 == sha256(body[:at] + ADDED + body[at:]).hexdigest()
    assert answer.body == WITHHELD
    assert tokens(service, answer) == (14, 2)


@pytest.mark.parametrize(
    "fake",
    [
        {"glue": 2},
        {"glue": 3},
        {"glue": 100},
        {"newline": "crlf"},
        {"newline": "crlf", "glue": 100},
        {"newline": "cr"},
        {"newline": "cr", "chunk_bytes": 1},
        {"space": "wide"},
        {"space": "wide", "newline": "crlf", "chunk_bytes": 1},
        {"space": "none", "glue": 4},
        {"space": "json"},
        {"comment": True},
        {"comment": True, "glue": 100, "newline": "crlf"},
        {"chunk_bytes": 1},
        {"cut": "every:1", "chunk_bytes": 11},
        {"cut": "random:7:30", "newline": "crlf"},
        {"no_done": True},
        {"after_done": "data: {}\n\n"},
        {"http10": True},
        {"reasoning": 2},
        {"tool": True},
    ],
    ids=str,
)
def test_the_event_is_withheld_however_it_looks(service: Sidecar, fake: Any) -> None:
    """A client cannot tell the answer from one that was never asked for usage."""
    request_id = new_id()
    more = {"request_id": request_id, "fake": fake}
    direct = service.ask_engine(CHAT, prompt(CHAT, STREAM), **more)
    answer = service.ask(CHAT, prompt(CHAT, STREAM), **more)
    if not fake.get("comment"):  # a comment follows each event, also the one withheld
        assert nameless(answer.body) == nameless(direct.body)
    assert b"prompt_tokens" not in answer.body
    assert answer.whole
    assert tokens(service, answer) == (14, 8)


def test_a_usage_event_without_its_blank_line_is_withheld(service: Sidecar) -> None:
    for cut in (0, 1, 2):
        last = USAGE_EVENT[: len(USAGE_EVENT) - cut]
        answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(chunked([ROLE, WORD, last])))
        assert (answer.whole, answer.body) == (True, ROLE + WORD)
        assert tokens(service, answer) == (14, 2)


def test_usage_of_several_choices_and_prompts_is_the_sum(service: Sidecar) -> None:
    answer = service.ask(
        COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "stream": True}, fake={"tokens": 3}
    )
    assert tokens(service, answer) == (28, 12)
    assert b"usage" not in answer.body


@pytest.mark.parametrize(
    ("path", "accepts"),
    [
        *((path, "gzip, deflate, br, zstd") for path in PROMPT),
        *((CHAT, "*"), (CHAT, "gzip;q=1.0, identity;q=0")),
    ],
)
def test_usage_is_known_whatever_encodings_a_client_accepts(
    service: Sidecar, path: str, accepts: str
) -> None:
    """The engine, or what stands before it, compresses where it is asked to."""
    more: Any = {"headers": [("accept-encoding", accepts)], "fake": {"gzip": "accepted"}}
    for options in (STREAM, {}):
        answer = service.ask(path, prompt(path, options), **more)
        assert answer.all("content-encoding") == []
        assert tokens(service, answer) == (14, 8)
        assert not (options and b'"choices":[]' in answer.body)


@pytest.mark.parametrize("path", PROMPT)
def test_what_is_compressed_unasked_is_unpacked_and_counted(service: Sidecar, path: str) -> None:
    for options in (STREAM, {}):
        answer = service.ask(path, prompt(path, options), fake={"gzip": True})
        assert (answer.whole, answer.all("content-encoding")) == (True, [])
        assert tokens(service, answer) == (14, 8)
        assert not (options and b'"choices":[]' in answer.body)
        assert (answer.events() if options else answer.json()) is not None
        (received,) = service.seen(answer)
        assert received.header("accept-encoding") == ["identity"], "it was not asked to"
    generated = service.ask("/generate", {"prompt": "a"}, fake={"gzip": True})
    assert generated.json()["text"]


WHOLE = b'{"choices":[],"usage":{"prompt_tokens":14,"completion_tokens":8}}'
DEFLATED, GZIPPED = zlib.compress(WHOLE), gzip.compress(WHOLE, mtime=0)
TWO_MEMBERS = gzip.compress(WHOLE[:20], mtime=0) + gzip.compress(WHOLE[20:], mtime=0)


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ([b"gzip"], GZIPPED),
        ([b"GZip"], GZIPPED),
        ([b"x-gzip"], TWO_MEMBERS),
        ([b"deflate"], DEFLATED),
        ([b"identity, gzip"], GZIPPED),
        ([b"identity", b"gzip"], GZIPPED),
        ([b"Identity"], WHOLE),
        ([b"IDENTITY , identity"], WHOLE),
        ([b""], WHOLE),
    ],
    ids=repr,
)
def test_a_coding_may_be_written_in_many_ways(
    service: Sidecar, codings: list[bytes], body: bytes
) -> None:
    lines = b"".join(b"content-encoding: %b\r\n" % coding for coding in codings)
    pieces = b"".join(chunk(body[at : at + 1]) for at in range(len(body)))
    for framed in (
        b"content-length: %d\r\n\r\n%b" % (len(body), body),
        b"transfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % pieces,
    ):
        wire = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b%b" % (lines, framed)
        answer = service.ask(CHAT, prompt(CHAT), fake=raw(wire))
        assert (answer.whole, answer.body) == (True, WHOLE)
        assert tokens(service, answer) == (14, 8)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"br", b"\x0b\x02\x80"),
        (b"gzip, gzip", gzip.compress(GZIPPED, mtime=0)),
        (b"gzip", WHOLE),
        (b"gzip", GZIPPED[:-9]),
        (b"gzip", GZIPPED + b"more"),
        (b"gzip", gzip.compress(bytes(40 * 1024 * 1024), mtime=0)),
    ],
    ids=["unknown", "twice", "no gzip", "without an end", "with more behind it", "a bomb"],
)
@pytest.mark.parametrize("kind", [b"application/json", b"text/event-stream"])
def test_what_cannot_be_unpacked_is_the_engines_fault(
    service: Sidecar, coding: bytes, body: bytes, kind: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-encoding: %b\r\n" % (kind, coding)
    wire = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire))
    # It may show only when the head is out.
    assert answer.status == 502 or not answer.whole or b"engine_garbled" in answer.body
    assert service.record(answer)["error"] == "engine_garbled"
    assert service.ask(CHAT, prompt(CHAT)).whole


def test_nothing_is_unpacked_where_nothing_is_read(service: Sidecar) -> None:
    wire = b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-encoding: gzip\r\n"
    wire += b"content-length: %d\r\n\r\n%b" % (len(GZIPPED), GZIPPED)
    answer = service.ask(CHAT, prompt(CHAT), fake=raw(wire))
    assert (answer.header("content-encoding"), answer.body) == ("gzip", GZIPPED)


def test_a_compressed_stream_is_not_held_back(service: Sidecar) -> None:
    with service.connect() as client:
        client.ask(CHAT, prompt(CHAT, NO_USAGE), fake={"gzip": True, "stall_at": 3})
        assert client.head().all("content-encoding") == []
        text = b""
        while text.count(b"\n\n") < 3:
            text += client.chunk()


@pytest.mark.parametrize("count", [b"-7", b"9" * 30, b"9" * 400], ids=["below 0", "long", "huge"])
@pytest.mark.parametrize("options", [{}, STREAM], ids=["whole", "stream"])
def test_what_cannot_be_a_count_is_no_count(service: Sidecar, options: Any, count: bytes) -> None:
    """And the line of the request is written all the same."""
    usage = b'{"choices":[],"usage":{"prompt_tokens":14,"completion_tokens":%b}}' % count
    wire = chunked([ROLE, b"data: " + usage + b"\n\n", DONE]) if options else sized(usage)
    answer = service.ask(CHAT, prompt(CHAT, options), fake=raw(wire))
    assert answer.body in (ROLE + DONE, ROLE + b"data: " + usage + b"\n\n" + DONE, usage)
    assert tokens(service, answer)[1] is None
    assert service.record(answer)["outcome"] == "ok"
