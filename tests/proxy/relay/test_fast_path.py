"""What takes the fast_path comes out as it would have the long way, and is counted the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.routes import Route
from proxy.errors import EngineDied
from proxy.relay.answer import StreamedAnswer
from proxy.relay.connection import Connection, Sink
from proxy.relay.event import EVENT_READERS
from proxy.telemetry.record import Record
from tests.proxy.relay.recordings import READINGS, recording

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


class Wire(asyncio.Transport):
    """A transport with a protocol that can be changed; nothing is sent."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def writelines(self, list_of_data: object) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None: ...


class Pool:
    def put(self, connection: Connection) -> None: ...

    def forget(self, connection: Connection) -> None: ...


class Passed(NamedTuple):
    """What the client got of the body, and what was noted."""

    body: bytes
    noted: dict[str, object]
    failed: bool
    short_bytes: int
    """How many took the fast_path."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def unchunked(data: bytes) -> bytes:
    """The content of whole chunks."""
    content = b""
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        assert data[size : size + 2] == b"\r\n"
        content += data[:size]
        data = data[size + 2 :]
    return content


def event(payload: object) -> bytes:
    return (
        b"data: "
        + json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
        + b"\n\n"
    )


def token(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None} | more
    return event({"id": "x", "choices": [choice]})


USAGE = event({"id": "x", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}})


async def passed(
    reads: Sequence[bytes], *, short: bool = True, route: Route = Route.CHAT, lost: bool = False
) -> Passed:
    """Let the engine send `reads`, one read of the socket each; `lost` is its end after them."""
    connection = Connection(Pool())
    wire = Wire(connection)
    connection.connection_made(wire)
    record = Record("POST", "/", route)
    answer = StreamedAnswer(EVENT_READERS[route], record, withhold_usage=True)
    out: list[bytes] = []
    fast_path = answer.fast_path(lambda data: out.append(unchunked(data))) if short else None
    connection.send("POST", b"/", [], ())
    connection.request_sent()
    wire.protocol.data_received(HEAD)
    await connection.response_head()
    passing = asyncio.ensure_future(
        connection.pass_on(lambda data, now: out.append(answer.feed(data, now)), fast_path)
    )
    await asyncio.sleep(0)
    for read in reads:
        wire.protocol.data_received(read)
    if lost:
        wire.protocol.connection_lost(None)
    try:
        last = await asyncio.wait_for(passing, 5)
        out.append(answer.feed(last, 0.0) + answer.close())
        failed = False
    except EngineDied:
        out.append(answer.broken_off(EngineDied("It died."), route))
        failed = True
    assert wire.protocol is connection
    names = ("generated_events", "prompt_tokens", "completion_tokens", "finish_reason", "error")
    noted = {name: getattr(record, name) for name in names}
    return Passed(b"".join(out), noted, failed, fast_path.body_bytes if fast_path else 0)


async def alike(reads: Sequence[bytes], *, route: Route = Route.CHAT, lost: bool = False) -> Passed:
    """The same by both ways."""
    by_shortcut = await passed(reads, route=route, lost=lost)
    by_long_way = await passed(reads, short=False, route=route, lost=lost)
    assert by_shortcut[:3] == by_long_way[:3]
    assert by_long_way.short_bytes == 0
    return by_shortcut


async def test_tokens_after_the_first_take_it() -> None:
    events = [token("a"), token(" longer"), token("ä"), DONE]
    seen = await alike([*map(chunk, events), END])
    assert seen.body == b"".join(events)
    assert seen.noted["generated_events"] == 3
    assert seen.short_bytes == len(events[1] + events[2])


async def test_several_in_one_read_take_it_up_to_the_first_that_is_another() -> None:
    events = [token("a"), token("b"), token("c"), token("d", finish_reason="stop"), token("e")]
    reads = [chunk(events[0]), b"".join(map(chunk, events[1:])), chunk(DONE) + END]
    seen = await alike(reads)
    assert seen.body == b"".join(events) + DONE
    assert seen.short_bytes == len(events[1] + events[2])


@pytest.mark.parametrize(
    "other",
    [
        token('say "a"'),
        token("one\ntwo"),
        token(""),
        token("a", finish_reason="stop"),
        token("a", index=1),
        event({"id": "x", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}),
        event({"error": {"type": "server_error"}}),
        token("b") + token("c"),
        token("b") + USAGE,
        b": a comment\n\n",
        token("b")[:-1],
        USAGE,
    ],
)
async def test_anything_else_goes_the_long_way(other: bytes) -> None:
    reads = [chunk(token("a")), chunk(other), chunk(token("z")), chunk(DONE), END]
    seen = await alike(reads)
    assert seen.short_bytes in (0, len(token("z")))


@pytest.mark.parametrize("size", [b"%X", b"0%x", b"%x;a=b"])
async def test_another_way_to_write_the_size_is_left_to_the_parser(size: bytes) -> None:
    odd = token("b" * 20)
    assert b"%X" % len(odd) != b"%x" % len(odd)
    read = size % len(odd) + b"\r\n" + odd + b"\r\n"
    seen = await alike([chunk(token("a")), read, chunk(DONE), END])
    assert seen.body == token("a") + odd + DONE
    assert seen.short_bytes == 0


async def test_not_while_a_chunk_is_open() -> None:
    """What looks like a chunk is the content of one; the event before it is over."""
    inner = chunk(token("b"))
    outer = chunk(token("c") + inner + b"\n\n")
    start = outer.index(inner)
    reads = [outer[:start], inner, outer[start + len(inner) :], chunk(DONE), END]
    seen = await alike([chunk(token("a")), *reads])
    assert seen.short_bytes == 0


async def test_not_while_an_event_is_open() -> None:
    """A chunk ended within an event; what comes next belongs to it."""
    reads = [chunk(token("a")), chunk(b"data: "), chunk(token("b")), chunk(token("c")), END]
    seen = await alike(reads)
    assert seen.body == token("a") + b"data: " + token("b") + token("c")
    assert seen.short_bytes == len(token("c"))


async def test_the_size_of_the_next_chunk_may_come_early() -> None:
    """And what follows it may look like a whole chunk."""
    like_one = chunk(token("b"))
    size = int(b"1" + like_one[:2], 16)
    outer = b"1" + like_one + b": padding\n\n".ljust(size - len(like_one) + 4, b"\n") + b"\r\n"
    reads = [chunk(token("a")) + outer[:1], like_one, outer[1 + len(like_one) :]]
    seen = await alike([*reads, chunk(DONE), END])
    assert seen.short_bytes == 0


async def test_not_after_the_end_of_the_answer() -> None:
    """What comes then is nobody's, also before the request's own task has seen the end."""
    seen = await alike([chunk(token("a")), chunk(DONE) + END, chunk(token("b"))])
    assert seen.body == token("a") + DONE
    assert seen.short_bytes == 0


async def test_the_end_of_the_engine_is_told_to_the_parser() -> None:
    reads = [*map(chunk, [token("a"), token("b")])]
    seen = await alike(reads, lost=True)
    assert seen.failed
    assert seen.short_bytes == len(token("b"))


async def test_the_time_of_the_last_byte_is_known_on_both_ways() -> None:
    connection = Connection(Pool())
    wire = Wire(connection)
    connection.connection_made(wire)
    record = Record("POST", "/", Route.CHAT)
    answer = StreamedAnswer(EVENT_READERS[Route.CHAT], record, withhold_usage=True)
    connection.send("POST", b"/", [], ())
    wire.protocol.data_received(HEAD)
    fast_path = answer.fast_path(lambda _: None)
    sink = cast("Sink", answer.feed)
    passing = asyncio.ensure_future(connection.pass_on(sink, fast_path))
    await asyncio.sleep(0)
    times = []
    for read in (chunk(token("a")), chunk(token("b")), chunk(DONE)):
        wire.protocol.data_received(read)
        assert connection.last_byte is not None
        times.append(connection.last_byte)
    assert times == sorted(times)
    assert times[1] == fast_path.last_byte
    wire.protocol.data_received(END)
    await passing
    assert connection.last_byte is not None
    assert connection.last_byte >= times[2]


@pytest.mark.parametrize("name", READINGS)
async def test_recorded_streams(name: str) -> None:
    events = [each + b"\n\n" for each in recording(name).split(b"\n\n")[:-1]]
    route = READINGS[name].route
    seen = await alike([*map(chunk, events), END], route=route)
    assert seen.noted["generated_events"] == READINGS[name].token_events


@pytest.mark.parametrize(
    ("route", "event_of"),
    [
        (Route.CHAT, lambda text: token(text)),
        (Route.CHAT, lambda text: event({"choices": [{"delta": {"reasoning": text}}]})),
        (Route.COMPLETIONS, lambda text: event({"choices": [{"text": text}]})),
        (
            Route.MESSAGES,
            lambda text: (
                b"event: content_block_delta\n"
                + event(
                    {
                        "type": "content_block_delta",
                        "index": 0,
                        "delta": {"type": "text_delta", "text": text},
                    }
                )
            ),
        ),
    ],
)
async def test_routes_with_a_shortcut(route: Route, event_of: Any) -> None:
    seen = await alike([*(chunk(event_of(text)) for text in "abc"), END], route=route)
    assert seen.short_bytes == 2 * len(event_of("a"))


PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(token),
    st.sampled_from(["a", " b", "c\n", '"', "\\", "ß"]).map(token),
    st.sampled_from(["a", "b"]).map(lambda text: token(text, index=1)),
    st.sampled_from([USAGE, DONE, b": \n\n", b"\n\n", b"data: {}\n\n", token("a")[:-2], b"data: "]),
    st.sampled_from([event({"error": {"type": "x"}}), token("end", finish_reason="stop")]),
)


@given(data=st.data(), lost=st.booleans())
async def test_any_stream_in_any_pieces(data: st.DataObject, *, lost: bool) -> None:
    """Events in chunks and chunks in reads as the engine or the network cuts them, mostly whole."""
    events = data.draw(st.lists(PIECES, max_size=12))
    body = b"".join(events)
    ends = {sum(map(len, events[:n])) for n in range(len(events) + 1)}
    cuts = data.draw(st.sets(st.integers(0, len(body)), max_size=2)) if body else set()
    joins = data.draw(st.sets(st.sampled_from(sorted(ends)), max_size=2))
    places = sorted({0, len(body)} | (ends - joins) | cuts)
    chunks = [chunk(body[a:b]) for a, b in pairwise(places) if a < b]
    if not lost:
        chunks.append(END)
    wire = b"".join(chunks)
    ends = {sum(map(len, chunks[:n])) for n in range(len(chunks) + 1)}
    cuts = data.draw(st.sets(st.integers(0, len(wire)), max_size=2)) if wire else set()
    joins = data.draw(st.sets(st.sampled_from(sorted(ends)), max_size=2))
    places = sorted({0, len(wire)} | (ends - joins) | cuts)
    await alike([wire[a:b] for a, b in pairwise(places) if a < b], lost=lost)
