"""A stream of events goes through byte for byte, however it is cut, and is read on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.access.routes import Route
from proxy.relay import stream as stream_module
from proxy.relay.event import EVENT_READERS
from proxy.relay.stream import MAX_HELD_BYTES, EventStream
from proxy.telemetry.record import Record
from tests.proxy.relay.recordings import READINGS, Reading, recording

NEWLINES = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}
PIECE_BYTES = 64 * 1024


class Passed(NamedTuple):
    """What came out, and what was read."""

    data: bytes
    record: Record
    error: str | None


def passed(
    pieces: Iterable[bytes], *, route: Route = Route.CHAT, withhold_usage: bool = False
) -> Passed:
    record = Record("POST", "/", route)
    stream = EventStream(EVENT_READERS[route], record, withhold_usage=withhold_usage)
    out = [stream.feed(piece, now=float(number)) for number, piece in enumerate(pieces)]
    out.append(stream.close())
    return Passed(b"".join(out), record, stream.error)


def event(payload: object, newline: bytes = b"\n") -> bytes:
    return b"data: " + json.dumps(payload).encode() + newline * 2


def chunk(finish: str | None = None, **delta: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def usage(completion: int = 7) -> dict[str, Any]:
    counts = {"prompt_tokens": 5, "completion_tokens": completion, "total_tokens": 5 + completion}
    return {"id": "x", "choices": [], "usage": counts}


def without_usage(body: bytes, newline: bytes) -> bytes:
    """The body without its `"choices":[]` event, found without the code under test."""
    blank = newline * 2
    events = [part + blank for part in body.split(blank)[:-1]]
    kept = [one for one in events if b'"choices":[]' not in one]
    assert len(kept) == len(events) - 1
    return b"".join(kept)


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([0, *sorted(places), len(body)])]


@pytest.mark.parametrize(
    ("route", "payloads", "last_event"),
    [
        # vLLM writes them when its core has done the prefill, and for tokens without text.
        (Route.CHAT, [chunk(role="assistant"), chunk(content="")], 1.0),
        (Route.CHAT, [chunk(content="a"), chunk(finish="stop")], 1.0),
        (Route.CHAT, [{"error": {"type": "InternalServerError"}}], None),
        # These come before its core has anything to do with it.
        (Route.RESPONSES, [{"type": "response.created"}, {"type": "response.in_progress"}], None),
        (Route.EXTRA, [{"progress": 0}], None),
    ],
)
def test_an_event_without_a_token_shows_work_where_only_a_working_engine_writes_it(
    route: Route, payloads: list[dict[str, Any]], last_event: float | None
) -> None:
    assert passed(map(event, payloads), route=route).record.last_event == last_event


def test_a_keep_alive_comment_shows_no_work() -> None:
    assert passed([b": keep-alive\n\n"] * 3).record.last_event is None


# Recorded streams -----------------------------------------------------------------------------


def places(body: bytes, newline: str) -> range:
    """Where to cut. How vLLM ends its lines is tried at each byte, other ways at one in seven."""
    return range(0, len(body), 1 if newline == "LF" else 7)


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("name", READINGS)
def test_a_stream_that_is_cut_anywhere_comes_out_as_it_went_in(name: str, newline: str) -> None:
    body = recording(name, NEWLINES[newline])
    route = READINGS[name].route
    for place in places(body, newline):
        assert passed(cut(body, [place]), route=route).data == body, place
    assert passed((body[i : i + 1] for i in range(len(body))), route=route).data == body


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("name", ["chat_stream_usage", "completions_stream_usage"])
def test_the_usage_event_is_withheld_wherever_it_is_cut(name: str, newline: str) -> None:
    body = recording(name, NEWLINES[newline])
    route, expected = READINGS[name].route, without_usage(body, NEWLINES[newline])
    for place in places(body, newline):
        seen = passed(cut(body, [place]), route=route, withhold_usage=True)
        assert seen.data == expected, place
        assert seen.record.completion_tokens == READINGS[name].completion, place
    bytewise = (body[i : i + 1] for i in range(len(body)))
    assert passed(bytewise, route=route, withhold_usage=True).data == expected


@pytest.mark.parametrize("name", ["chat_stream_continuous", "chat_stream_n2_continuous"])
def test_usage_from_the_first_event_on_is_nothing_that_we_asked_for(name: str) -> None:
    """An engine with `--enable-force-include-usage` writes the same without us."""
    body = recording(name, b"\n")
    for place in range(len(body)):
        assert passed(cut(body, [place]), withhold_usage=True).data == body, place


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
@pytest.mark.parametrize(("name", "reading"), READINGS.items(), ids=READINGS)
def test_what_a_stream_says_is_read_however_it_is_cut(
    name: str, reading: Reading, size: int, newline: str
) -> None:
    body = recording(name, NEWLINES[newline])
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    record = passed(pieces, route=reading.route).record
    seen = Reading(
        reading.route,
        record.prompt_tokens,
        record.completion_tokens,
        record.reasoning_tokens,
        record.finish_reason or "",
        record.generated_events,
    )
    assert seen == reading


def counts(record: Record) -> tuple[int | None, int | None]:
    return record.prompt_tokens, record.completion_tokens


def test_continuous_usage_is_known_when_the_client_leaves() -> None:
    events = recording("chat_stream_continuous", b"\n").split(b"\n\n")
    assert counts(passed([b"\n\n".join(events[:2]) + b"\n\n"]).record) == (14, 1)


def test_continuous_usage_of_one_choice_is_not_that_of_all() -> None:
    events = recording("chat_stream_n2_continuous", b"\n").split(b"\n\n")
    seen = [counts(passed([b"\n\n".join(events[:n]) + b"\n\n"]).record) for n in range(1, 7)]
    assert seen == [(14, 0), (None, None), (None, None), (None, None), (None, None), (14, 4)]


# What counts as a token -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delta", "counts"),
    [
        ({"content": "x"}, True),
        ({"reasoning_content": "hm"}, True),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, True),
        ({"content": None, "tool_calls": [{"function": {"arguments": ""}}]}, True),
        ({"role": "assistant", "content": ""}, False),
        ({"content": None, "reasoning": None, "tool_calls": []}, False),
        ({}, False),
    ],
)
def test_an_event_counts_as_generated_by_what_it_carries(
    delta: dict[str, Any], counts: bool
) -> None:
    record = passed([event(chunk(**delta))]).record
    assert record.generated_events == int(counts)
    assert (record.first_token is not None) == counts


def test_the_first_token_is_not_the_role() -> None:
    pieces = [event(chunk(role="assistant", content="")), event(chunk(content="Hi"))]
    record = passed([b": keep-alive\n\n", *pieces, event(chunk(content="!"))]).record
    assert (record.first_token, record.last_token) == (2.0, 3.0)


def test_a_token_counts_when_its_event_is_whole() -> None:
    whole = event(chunk(content="Hi"))
    record = passed([whole[:10], whole[10:-1], whole[-1:]]).record
    assert (record.first_token, record.generated_events) == (2.0, 1)


def test_the_longest_gap_between_tokens_is_kept() -> None:
    token = event(chunk(content="x"))
    pieces = [token, b": wait\n\n", b": wait\n\n", token, token]
    record = passed(pieces).record
    assert record.longest_gap_seconds == 3.0
    assert record.generated_events == 3


# Shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"\r\n\r\n\r\n",
        b": comment\n\n",
        b"data\n\n",
        b"data: \n\n",
        b"data: not json\n\n",
        b'data: {"choices": "what"}\n\n',
        b'data: {"choices":[{"delta":"\xff"}]}\n\n',
        b"\xff\xfe\x00\n\n",
        b"event: ping\nid: 3\nretry: 10\n\n",
        b"data: [DONE]\n\ndata: after\n\n",
        b"data: [DONE]",
        b"data: [DONE]\n\ntrailing bytes without an end",
        b"\n\ndata: x\n\n\n\n\ndata: y\n\n\n",
        b"data: a\r\rdata: b\n\ndata: c\r\n\r\n",
        b"data: a\n\r\ndata: b\r\n\n",
        b'data: {"choices":\n',
    ],
)
@pytest.mark.parametrize("withhold_usage", [False, True])
def test_whatever_is_not_the_usage_event_passes(body: bytes, withhold_usage: bool) -> None:
    for place in range(len(body) + 1):
        pieces = [body[:place], body[place:]]
        assert passed(pieces, withhold_usage=withhold_usage).data == body


@pytest.mark.parametrize(
    "written",
    [
        b"data: %b\n\n",
        b"data:%b\n\n",
        b"data: %b\r\n\r\n",
        b"event: chunk\ndata: %b\n\n",
        b": note\ndata: %b\n\n",
        b"data: %b",
        b"data: %b\n",
        b"data: %b\r\r",
    ],
)
def test_the_usage_event_is_known_in_every_way_it_may_be_written(written: bytes) -> None:
    before = event(chunk(content="a"))
    body = before + written % json.dumps(usage()).encode()
    for place in range(len(body)):
        seen = passed(cut(body, [place]), withhold_usage=True)
        assert seen.data == before
        assert seen.record.completion_tokens == 7


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": [], "usage": None},
        {"choices": None, "usage": {"completion_tokens": 1}},
        {"usage": {"completion_tokens": 1}},
        chunk(content="x") | {"usage": {"completion_tokens": 1}},
        chunk("stop") | {"usage": {"completion_tokens": 1}},
    ],
)
def test_only_the_event_that_the_usage_option_causes_is_withheld(payload: object) -> None:
    assert passed([event(payload)], withhold_usage=True).data == event(payload)


# Bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("newline", NEWLINES)
def test_a_long_event_passes_while_little_of_it_is_held(newline: str) -> None:
    end = NEWLINES[newline]
    long = event(chunk(content="x" * 5_000_000), end)
    body = event(chunk(content="a"), end) + long + event(usage(), end) + event(chunk("stop"), end)
    record = Record("POST", "/", Route.CHAT)
    stream = EventStream(EVENT_READERS[Route.CHAT], record, withhold_usage=True)
    out = bytearray()
    fed = 0
    for start in range(0, len(body), PIECE_BYTES):
        piece = body[start : start + PIECE_BYTES]
        out += stream.feed(piece, 0.0)
        fed += len(piece)
        assert fed - len(out) <= MAX_HELD_BYTES + PIECE_BYTES
    out += stream.close()
    assert bytes(out) == body.replace(event(usage(), end), b"")
    assert record.generated_events == 2, "the long event counts, once"
    assert (record.completion_tokens, record.finish_reason) == (7, "stop")


class CountingPattern:
    """Counts the bytes that are searched with a pattern."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self.searched_bytes = 0

    def finditer(self, data: bytes, start: int) -> Iterator[re.Match[bytes]]:
        self.searched_bytes += len(data) - start
        return self._pattern.finditer(data, start)


@pytest.mark.parametrize("newline", NEWLINES)
def test_a_long_event_in_small_pieces_is_searched_once(
    newline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else 250 kB in pieces of 250 bytes are searched a thousand times, and others wait."""
    pattern = CountingPattern(stream_module._EVENT_END)
    monkeypatch.setattr(stream_module, "_EVENT_END", pattern)
    body = event(chunk(content="x" * 250_000), NEWLINES[newline])
    pieces = cut(body, range(250, len(body), 250))
    assert passed(pieces).data == body
    assert pattern.searched_bytes <= len(body) + 4 * len(pieces)


@pytest.mark.parametrize("newline", NEWLINES)
def test_the_end_of_a_long_event_is_found_wherever_it_is_cut(newline: str) -> None:
    end = NEWLINES[newline]
    start = b"data: " + b"x" * (MAX_HELD_BYTES + 1)
    rest = b"xyz" + end * 2 + event(usage(), end) + event(chunk(content="a"), end)
    expected = start + rest.replace(event(usage(), end), b"")
    for place in range(len(rest)):
        seen = passed([start, *cut(rest, [place])], withhold_usage=True)
        assert seen.data == expected, place
        assert seen.record.completion_tokens == 7


def test_a_stream_that_breaks_off_leaves_no_half_event() -> None:
    record = Record("POST", "/", Route.CHAT)
    stream = EventStream(EVENT_READERS[Route.CHAT], record, withhold_usage=False)
    whole = event(chunk(content="a"))
    assert stream.feed(whole + b'data: {"cho', 0.0) == whole
    assert stream.cut_off() == b""
    assert stream.close() == b""


def test_a_long_event_that_breaks_off_is_ended_before_anything_follows() -> None:
    stream = EventStream(
        EVENT_READERS[Route.CHAT], Record("POST", "/", Route.CHAT), withhold_usage=False
    )
    long = b"data: " + b"x" * (MAX_HELD_BYTES + 1)
    assert stream.feed(long + b"\r", 0.0) == long
    assert stream.cut_off() == b"\n\n"


# Any stream, any cut --------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["\n\n", "\r\n\r\n", "data: [DONE]\n\n", '"choices":[]', "�\u2028\x85"]),
)


class Wire(NamedTuple):
    """One event as it is sent, and what it is."""

    data: bytes
    kind: str


@st.composite
def events(draw: st.DrawFn, newline: bytes) -> Wire:
    kind = draw(st.sampled_from(["token", "role", "usage", "comment", "done", "error", "junk"]))
    payload: object = {
        "token": chunk(content=draw(TEXTS.filter(bool))),
        "role": chunk(role="assistant", content=""),
        "usage": usage(draw(st.integers(0, 99))),
        "error": {"error": {"type": "x", "message": draw(TEXTS)}},
    }.get(kind)
    if payload is None:
        lines = {"comment": b": keep-alive", "done": b"data: [DONE]", "junk": b"data: {oops"}
        return Wire(lines[kind] + newline * 2, kind)
    text = json.dumps(
        payload,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 0])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
    )
    prefix = draw(st.sampled_from([b"data: ", b"data:"]))
    name = draw(st.sampled_from([b"", b"", b"event: x" + newline, b": note" + newline]))
    data = newline.join(prefix + line.encode() for line in text.split("\n"))
    return Wire(name + data + newline * 2, kind)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Wire], list[bytes]]:
    """Events, and the pieces they come in; the last one may lack its blank line."""
    newline = draw(st.sampled_from(list(NEWLINES.values())))
    wires = draw(st.lists(events(newline), min_size=1, max_size=8))
    if draw(st.booleans()):
        wires[-1] = Wire(wires[-1].data.rstrip(b"\r\n"), wires[-1].kind)
    body = b"".join(wire.data for wire in wires)
    places = draw(st.lists(st.integers(0, len(body)), max_size=12))
    return wires, cut(body, places)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(stream=streams(), withhold_usage=st.booleans())
def test_any_stream_with_any_cuts_passes_and_is_read(
    stream: tuple[list[Wire], list[bytes]], withhold_usage: bool
) -> None:
    wires, pieces = stream
    seen = passed(pieces, withhold_usage=withhold_usage)
    hidden = {"usage"} if withhold_usage else set()
    assert seen.data == b"".join(wire.data for wire in wires if wire.kind not in hidden)
    kinds = [wire.kind for wire in wires]
    assert seen.record.generated_events == kinds.count("token")
    assert (seen.record.completion_tokens is not None) == ("usage" in kinds)
    assert seen.error == ("x" if "error" in kinds else None)
