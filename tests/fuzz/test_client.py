"""Requests of a client in any pieces, whole and spoilt, and what it gets for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.server.connection import MAX_HEAD_BYTES
from tests.fuzz.app import Answering, Ending, Reading, Way
from tests.fuzz.client import Move, Play, Script, check
from tests.fuzz.making import PLACES, in_pieces, jumble, repeatable, spoilt
from tests.fuzz.seeds import REQUESTS, TOKENS
from tests.fuzz.source import cut

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
WEBSOCKET = (
    b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
OLD = b"GET / HTTP/1.0\r\nexpect: 100-continue\r\n\r\n"
LONG_HEAD = b"HEAD" + CHUNKED[4:] + b"9\r\n123456789\r\n0\r\n\r\n"
OFFERS_AT_ITS_END = b"0\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"

# Well-formed requests -------------------------------------------------------------------------


class Request(NamedTuple):
    """One request, as it is sent and as it is meant."""

    wire: bytes
    method: str
    target: bytes
    body: bytes


targets = st.sampled_from([b"/", b"/v1/models?x=1", b"/%2e%2e/a;b", b"//x/y?"])
extras = st.lists(
    st.sampled_from([OFFER, b"expect: 100-continue\r\n", b"connection: keep-alive\r\n", b"a:\r\n"]),
    max_size=2,
    unique=True,
)
bodies = st.binary(max_size=60) | st.sampled_from([*REQUESTS, b"0\r\n\r\n", b"x" * 500])


@st.composite
def requests(draw: st.DrawFn) -> Request:
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "DELETE"]))
    target = draw(targets)
    body, framing, sent = draw(st.sampled_from([nothing, lengthed, chunked]))(draw, draw(bodies))
    head = b"%b %b HTTP/1.1\r\nhost: x\r\n" % (method.encode(), target)
    wire = head + b"".join(draw(extras)) + framing + b"\r\n" + sent
    return Request(wire, method, target.removesuffix(b"?"), body)


def nothing(draw: st.DrawFn, body: bytes) -> tuple[bytes, bytes, bytes]:
    return b"", b"", b""


def lengthed(draw: st.DrawFn, body: bytes) -> tuple[bytes, bytes, bytes]:
    return body, b"Content-Length: %d\r\n" % len(body), body


def chunked(draw: st.DrawFn, body: bytes) -> tuple[bytes, bytes, bytes]:
    extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
    trailer = draw(st.sampled_from([b"", b"X-A: 1\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n"]))
    chunks = cut(body, draw(PLACES))
    sent = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return body, b"Transfer-Encoding: chunked\r\n", sent + b"0\r\n" + trailer + b"\r\n"


whole_ways = st.builds(
    Way,
    st.sampled_from(Reading),
    st.sampled_from(Answering),
    pieces=st.integers(0, 3),
    late=st.booleans(),
)
any_ways = st.builds(
    Way,
    st.sampled_from(Reading),
    st.sampled_from(Answering),
    st.sampled_from([Ending.WHOLE, Ending.WHOLE, Ending.WHOLE, *Ending]),
    st.integers(0, 3),
    st.sampled_from([8, 2**20]),
    st.booleans(),
)
paces = st.lists(st.sampled_from([Move.FALLS_BEHIND, Move.CATCHES_UP, Move.NOTHING]), max_size=8)
moves = st.lists(st.sampled_from(Move), max_size=8)


@repeatable
@given(
    sent=st.lists(requests(), max_size=4),
    places=PLACES,
    pace=paces,
    ways=st.lists(whole_ways, min_size=1, max_size=4),
)
def test_well_formed_requests_are_answered_as_they_are_meant(
    sent: Sequence[Request], places: Sequence[int], pace: Sequence[Move], ways: Sequence[Way]
) -> None:
    pieces = cut(b"".join(request.wire for request in sent), places)
    result = check(Script(pieces, pace, ways))
    if result.closed:  # whether the body of the last one would still come nobody could tell
        sent = sent[: len(result.requests)]
        assert b"expect" in sent[-1].wire
    seen = [(each.method, each.target) for each in result.requests]
    assert seen == [(request.method, request.target) for request in sent]
    assert all(answer.whole for answer in result.answers)
    assert len(result.answers) == len(sent)
    for each, request in zip(result.requests, sent, strict=True):
        assert each.body == request.body if each.whole else request.body.startswith(each.body)


# Any bytes ------------------------------------------------------------------------------------


@repeatable
@given(
    pieces=in_pieces(spoilt(REQUESTS, TOKENS["client"]) | jumble(TOKENS["client"])),
    moves=moves,
    ways=st.lists(any_ways, min_size=1, max_size=3),
)
def test_any_bytes_get_well_formed_answers(
    pieces: Sequence[bytes], moves: Sequence[Move], ways: Sequence[Way]
) -> None:
    check(Script(pieces, moves, ways))


# What was found -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(0, 200, 9))
def test_a_body_behind_an_offer_of_an_upgrade_is_a_body(place: int) -> None:
    """Every client in Java offers h2c; llhttp reads no body of such a request."""
    lengthed = POST + OFFER + b"content-length: %d\r\n\r\n" % len(GET) + GET
    chunked = POST + OFFER + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    wire = lengthed + chunked % (len(GET), GET) + GET
    result = check(Script(cut(wire, [place, place * 2])))
    assert [seen.body for seen in result.requests] == [GET, GET, b""]
    assert [answer.status for answer in result.answers] == [200, 200, 200]


@pytest.mark.parametrize(
    ("wire", "way", "statuses"),
    [
        (b"CONNECT /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", Way(), [400]),
        (GET * 2 + WEBSOCKET, Way(), [200, 200, 200]),
        (WEBSOCKET.replace(b"1.1", b"1.0"), Way(), [200]),
        (OLD, Way(), [200]),
        (LONG_HEAD + GET, Way(limit_bytes=8), [413, 200]),
        (CHUNKED + b"rubbish", Way(), [400]),
        (CHUNKED + b"rubbish", Way(answering=Answering.SENT), [200]),
        (CHUNKED + b"rubbish", Way(Reading.NOT, ending=Ending.BROKEN_OFF, pieces=2), [200]),
        (GET + b"rubbish", Way(), [200]),
        (CHUNKED + OFFERS_AT_ITS_END + GET, Way(), [200, 200]),
    ],
)
def test_what_is_odd_is_answered_once(wire: bytes, way: Way, statuses: list[int]) -> None:
    result = check(Script([wire], ways=[way]))
    assert [answer.status for answer in result.answers] == statuses


def test_rubbish_in_a_body_whose_request_is_answered_ends_the_connection() -> None:
    result = check(Script([CHUNKED, b"rubbish"], ways=[Way(Reading.NOT)]))
    assert [answer.status for answer in result.answers] == [200]
    assert result.closed


def test_a_client_that_leaves_leaves_all_its_requests() -> None:
    way = Way(Reading.PIECES, Answering.STREAMED, pieces=3, late=True)
    moves = [Move.FALLS_BEHIND, Move.RESETS]
    result = check(Script([GET + GET, b"\r\n"], moves, [way]))
    assert (len(result.requests), result.left) == (1, True)


def test_a_client_that_reads_nothing_is_asked_no_further() -> None:
    moves = [Move.FALLS_BEHIND, Move.RESETS]
    result = check(Script([GET[:4], GET[4:] + GET], moves, [Way()]))
    assert (len(result.requests), result.left) == (0, True)


async def test_a_client_with_a_request_in_waiting_is_seen_to_leave() -> None:
    play = Play(Script([GET * 2], ways=[Way(late=True)]))
    play.connection.data_received(GET * 2)
    await play.turns()
    assert not play.wire.paused
    play.app.engine.set()
    await play.turns()


def test_a_large_body_has_an_end() -> None:
    head = POST + b"content-length: %d\r\n\r\n" % (20 * 30_000)
    result = check(Script([head, *[b"x" * 30_000] * 20], ways=[Way(Reading.PIECES)]))
    assert [len(seen.body) for seen in result.requests] == [20 * 30_000]


async def test_trailers_are_not_kept() -> None:
    play = Play(Script([CHUNKED + b"0\r\n" + b"x: y\r\n" * 1000]))
    await play.play()
    assert play.connection._headers == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]


def test_many_requests_in_one_read_are_not_all_taken() -> None:
    result = check(Script([GET * 1000]))
    assert len(result.answers) == 101
    assert (result.answers[-1].closes, result.closed) == (True, True)


def test_many_requests_in_many_reads_are_answered() -> None:
    result = check(Script([GET * 50] * 6, ways=[Way(late=True)]))
    assert (len(result.answers), result.closed) == (300, False)


@pytest.mark.parametrize("endless", [b"x: y\r\n" * 5_000, b"x" * 30_000], ids=["many", "long"])
@pytest.mark.parametrize("way", [Way(), Way(Reading.NOT)], ids=["read", "answered"])
@pytest.mark.parametrize("opening", [GET[:-2] + b"x: ", CHUNKED + b"0\r\nx: ", CHUNKED + b"1;x="])
async def test_what_has_no_end_is_not_collected(opening: bytes, way: Way, endless: bytes) -> None:
    play = Play(Script([opening, *[endless] * 40], ways=[way]))
    await play.play()
    assert play.wire.is_closing()
    read_bytes = (40 - len(play.unread)) * len(endless)
    assert read_bytes <= MAX_HEAD_BYTES + len(endless)
