"""Answers of the engine in any pieces, whole and spoilt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import EngineTimeout, InvalidEngineResponse
from proxy.relay.connection import MAX_HEAD_BYTES
from proxy.server.request import Headers
from tests.fuzz.making import PLACES, in_pieces, jumble, repeatable, spoilt
from tests.fuzz.seeds import ANSWERS, TOKENS
from tests.fuzz.source import cut
from tests.fuzz.upstream import METHODS, End, Exchange, Pace, Script, check, turns

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
WITHOUT_BODY = (204, 304)

# Well-formed answers --------------------------------------------------------------------------


class Answer(NamedTuple):
    """One answer, as it is sent and as it is meant."""

    wire: bytes
    status: int
    headers: Headers
    body: bytes
    ends_itself: bool


names = st.from_regex(rb"X-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
values = st.from_regex(
    rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]{0,20}[!-~\x80-\xff])?)?", fullmatch=True
)
interims = st.sampled_from(
    [b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\nx: 1\r\n\r\n"]
)
bodies = st.binary(max_size=60) | st.sampled_from([ANSWERS[0], b"0\r\n\r\n", b"x" * 500])


@st.composite
def answers(draw: st.DrawFn, method: str) -> Answer:
    status = draw(st.sampled_from([200, 201, 204, 206, 304, 400, 404, 429, 500, 503, 599]))
    headers = draw(st.lists(st.tuples(names, values), max_size=4))
    body = draw(bodies)
    framing, sent, ends_itself = draw(st.sampled_from([lengthed, chunked, until_closed]))(
        draw, body
    )
    if method == "HEAD" or status in WITHOUT_BODY:
        body, sent, ends_itself = b"", b"", True
    head = b"".join(b"%b: %b\r\n" % pair for pair in [*headers, *framing])
    first_line = b"HTTP/1.1 %d Whatever\r\n" % status
    wire = draw(interims) + first_line + head + b"\r\n" + sent
    meant = [(name.lower(), value) for name, value in [*headers, *framing]]
    return Answer(wire, status, meant, body, ends_itself)


def lengthed(draw: st.DrawFn, body: bytes) -> tuple[Headers, bytes, bool]:
    return [(b"Content-Length", b"%d" % len(body))], body, True


def chunked(draw: st.DrawFn, body: bytes) -> tuple[Headers, bytes, bool]:
    extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
    trailer = draw(st.sampled_from([b"", b"X-Trailer: 1\r\n", b"X-B: 1\r\nX-C: 2\r\n"]))
    chunks = cut(body, draw(PLACES))
    sent = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return [(b"Transfer-Encoding", b"chunked")], sent + b"0\r\n" + trailer + b"\r\n", True


def until_closed(draw: st.DrawFn, body: bytes) -> tuple[Headers, bytes, bool]:
    return [], body, False


@repeatable
@given(data=st.data(), method=st.sampled_from(METHODS), pace=st.sampled_from(Pace), places=PLACES)
def test_a_well_formed_answer_is_read_as_it_is_meant(
    data: st.DataObject, method: str, pace: Pace, places: Sequence[int]
) -> None:
    answer = data.draw(answers(method))
    end = data.draw(st.sampled_from(End)) if answer.ends_itself else End.CLOSED
    result = check(Script(cut(answer.wire, places), method, end, pace))
    assert (result.status, result.headers) == (answer.status, answer.headers)
    assert (result.body, result.whole) == (answer.body, True)


@repeatable
@given(data=st.data(), places=PLACES)
def test_an_answer_that_breaks_off_is_not_whole(data: st.DataObject, places: Sequence[int]) -> None:
    answer = data.draw(answers("GET"))
    missing = data.draw(st.integers(int(answer.ends_itself), len(answer.wire)))
    end = data.draw(st.sampled_from([*End] if answer.ends_itself else [End.RESET, End.SILENT]))
    result = check(Script(cut(answer.wire[: len(answer.wire) - missing], places), "GET", end))
    assert not result.whole
    assert answer.body.startswith(result.body)


# Any bytes ------------------------------------------------------------------------------------

scripts = st.builds(
    Script,
    in_pieces(spoilt(ANSWERS, TOKENS["upstream"]) | jumble(TOKENS["upstream"])),
    method=st.sampled_from(METHODS),
    end=st.sampled_from(End),
    pace=st.sampled_from(Pace),
    sent_whole=st.booleans(),
)


@repeatable
@example(Script([ANSWERS[0] + b"HTTP/1.1 200 OK\r\nx: "]))
@given(scripts)
def test_any_bytes_end_an_exchange_and_spoil_no_other(script: Script) -> None:
    check(script)


@pytest.mark.parametrize("more", [b"H", b"HTTP/1.1 200 OK\r\nx: ", b"\r\nHTTP/1.1 2"], ids=repr)
def test_what_follows_an_answer_never_begins_the_next_one(more: bytes) -> None:
    result = check(Script([ANSWERS[0] + more]))
    assert (result.whole, result.given_back) == (True, False)


async def test_what_comes_before_a_request_is_no_answer_to_it() -> None:
    exchange = Exchange(Script([]))
    exchange.connection.data_received(ANSWERS[0])
    assert exchange.connection.closed
    assert not exchange.wire.open


@pytest.mark.parametrize("status", [b"000", b"042", b"099", b"600", b"999"])
def test_a_status_that_is_none_is_garbled(status: bytes) -> None:
    wire = b"HTTP/1.1 %b X\r\ncontent-length: 5\r\n\r\nstale" % status
    assert check(Script([wire + ANSWERS[0]])).failure is InvalidEngineResponse


@pytest.mark.parametrize("pace", Pace)
def test_an_answer_that_we_broke_off_is_not_whole_however_late_it_is_read(pace: Pace) -> None:
    script = Script([OK + b"\r\nhal", b"f"], end=End.SILENT, pace=pace)
    assert check(script).failure is EngineTimeout


async def test_a_body_is_passed_on_as_it_comes() -> None:
    exchange = Exchange(Script([]))
    exchange.connection.send("GET", b"/", [], [])
    playing = asyncio.ensure_future(exchange.use())
    await turns()
    exchange.connection.data_received(OK + b"content-length: 6\r\n\r\nab")
    await turns()
    for more, so_far in ((b"c", b"abc"), (b"de", b"abcde")):
        exchange.connection.data_received(more)
        assert exchange.result.body == so_far, "at once, not in the next turn of the loop"
    exchange.connection.data_received(b"f")
    await playing
    assert (exchange.result.body, exchange.result.whole) == (b"abcdef", True)


def test_an_answer_to_head_ends_its_connection() -> None:
    """Its length is of what does not follow: the parser would wait for that."""
    result = check(Script([ANSWERS[0].removesuffix(b"ok")], method="HEAD"))
    assert (result.whole, result.given_back) == (True, False)


@pytest.mark.parametrize("endless", [b"x: y\r\n" * 5_000, b"x" * 30_000], ids=["many", "long"])
@pytest.mark.parametrize("opening", [b"x: ", CHUNKED + b"2\r\nok\r\n0\r\nx: "])
async def test_a_head_or_trailers_without_an_end_are_garbled_and_not_collected(
    opening: bytes, endless: bytes
) -> None:
    exchange = Exchange(Script([]))
    exchange.connection.send("GET", b"/", [], [])
    using = asyncio.ensure_future(exchange.use())
    sent = 0
    exchange.connection.data_received(OK + opening)
    await turns()
    while exchange.wire.open and sent < 2 * MAX_HEAD_BYTES:
        exchange.connection.data_received(endless)
        sent += len(endless)
    await using
    assert exchange.result.failure is InvalidEngineResponse
    assert sent <= MAX_HEAD_BYTES + len(endless)


async def test_small_pieces_of_framing_are_no_trailers_without_an_end() -> None:
    exchange = Exchange(Script([]))
    exchange.connection.send("GET", b"/", [], [])
    using = asyncio.ensure_future(exchange.use())
    await turns()
    exchange.connection.data_received(OK + CHUNKED)
    await turns()
    for _ in range(3):
        exchange.connection.data_received(b"2;" + b"x" * (MAX_HEAD_BYTES // 2) + b"\r\n")
        exchange.connection.data_received(b"ok\r\n")
    exchange.connection.data_received(b"0\r\n\r\n")
    await using
    assert (exchange.result.body, exchange.result.whole) == (b"okokok", True)
