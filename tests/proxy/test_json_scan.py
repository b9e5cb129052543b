"""A scan of any text does a bounded amount of work at a time, and needs next to no memory."""

from __future__ import annotations

import asyncio
import json
import re
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest

from proxy.access.routes import Route
from proxy.errors import InvalidRequest
from proxy.json_scan import (
    MAX_VALUES,
    SLICE_WORK,
    WINDOW_BYTES,
    Malformed,
    Scan,
    Shape,
    TooManyValues,
    contains,
    exceeds,
    find,
    in_slices,
)
from proxy.media.url_scan import find_urls
from proxy.relay.upstream_request import scan as scan_body
from tests.scans import in_one_go

SIZE = 512 * 1024
NODE = Shape(takes=b'"')
NODE.elements = NODE
NODE.members = {b"a": NODE}
SHAPE = Shape({b"asked": NODE, b"model": Shape(takes=b'"')})


def filled(unit: bytes) -> bytes:
    return unit * (SIZE // len(unit))


# What reading any of these with objects costs is ten to forty times its size.
HOSTILE = {
    "empty objects": b'{"asked":[%b1]}' % filled(b"{},"),
    "empty arrays beside": b'{"x":[%b1]}' % filled(b"[],"),
    "nested": b'{"x":[%b1]}' % filled(b"[" * 150 + b"]" * 150 + b","),
    "nested deeply": b'{"x":%b%b}' % (filled(b"[")[: SIZE // 2], filled(b"]")[: SIZE // 2]),
    "nested and asked for": b'{"asked":%b%b}' % (filled(b"[")[:SIZE], filled(b"]")[:SIZE]),
    "short strings": b'{"x":[%b1]}' % filled(b'"a",'),
    "empty strings": b'{"x":[%b1]}' % filled(b'"",'),
    "small arrays": b'{"asked":[%b1]}' % filled(b'[[1,{"b":""}],[1,{"b":"\\""}]],'),
    "small objects": b'{"asked":[%b1]}' % filled(b'{"b":{"c":{"d":{"e":{}}}}},'),
    "escaped quotes": b'{"x":"%b"}' % filled(b'\\"'),
    "backslashes": b'{"x":"%b"}' % filled(b"\\\\"),
    "backslashes without end": b'{"x":"%b' % filled(b"\\"),
    "quotes": b'{"x":%b}' % filled(b'"'),
    "colons": b'{"x":"%b"}' % filled(b"a:"),
    "URLs": b'{"x":["%b"]}' % filled(b'http://a/","'),
    "spaces": b'{"x":1%b}' % filled(b" "),
    "spaces at the end": b"{}%b" % filled(b" "),
    "a huge number": b'{"x":%b}' % filled(b"1"),
    "a huge fraction": b'{"x":1.%b}' % filled(b"0"),
    "numbers": b'{"x":[%b1]}' % filled(b"1,"),
    "fields": b'{%b"a":1}' % filled(b'"b":1,'),
    "a field again and again": b'{%b"a":1}' % filled(b'"model":"",'),
    "a huge name": b'{"%b":1}' % filled(b"\\u0061"),
    "one long text": b'{"model":"%b"}' % filled(b"A"),
    "opened only": b'{"x":%b' % filled(b"[{"),
    "no end": b'{"asked":"%b' % filled(b"A"),
}
SCANS: dict[str, Callable[[bytes], Scan[object]]] = {
    "find": lambda text: find(text, SHAPE),
    "body": lambda text: scan_body(Route.CHAT, text),
    "URLs": lambda text: find_urls(Route.EXTRA, text),
    "exceeds": lambda text: exceeds(text, 10**9, 10**9, 10**9),
}
# Of one window, where the text is found in ever smaller pieces; of all others a copy would be 16.
WINDOWS_HELD = {"empty strings": 48, "short strings": 48, "URLs": 24}
scans = pytest.mark.parametrize("scan", SCANS)


@scans
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_holds_up_the_loop_for_more_than_a_slice_of_work(name: str, scan: str) -> None:
    running, most = SCANS[scan](HOSTILE[name]), 0
    with suppress(StopIteration, ValueError, InvalidRequest):
        while True:
            most = max(most, next(running))
    assert most <= 2 * SLICE_WORK


PART = b'{"type":"%b","image_url":{"url":"%b"}},'
MANY_VALUES = {
    "data URLs": PART % (b"image_url", b"data:image/png;base64,%b" % (b"A" * 30_000)),
    "escaped URLs": PART % (b"image_url", b"\\u0064ata:,%b" % (b"A" * 30_000)),
    "URLs": PART % (b"image_url", b"https://a.example/%b" % (b"a" * 30_000)),
    "escaped types": PART % (b"\\u0069mage_url", b"data:,"),
}


@pytest.mark.parametrize("name", MANY_VALUES)
@pytest.mark.parametrize("scan", ["body", "URLs"])
def test_values_that_were_found_are_decoded_a_slice_at_a_time(
    name: str, scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    loads = json.loads

    def count(text: str) -> object:
        decoded.append(len(text))
        return loads(text)

    monkeypatch.setattr(json, "loads", count)
    unit = MANY_VALUES[name]
    parts = unit * min(3000, 4 * 1024 * 1024 // len(unit))
    running = SCANS[scan](b'{"messages":[{"content":[%b{}]}]}' % parts)
    slices = 0
    with suppress(StopIteration):
        while True:
            next(running)
            assert sum(decoded) <= 2 * SLICE_WORK
            assert len(decoded) <= 1000
            slices += 1
            decoded.clear()
    assert slices > 1
    assert sum(decoded) <= 2 * SLICE_WORK
    assert len(decoded) <= 1000


@scans
@pytest.mark.parametrize(
    "name", ["empty arrays beside", "short strings", "escaped quotes", "spaces", "a huge number"]
)
async def test_others_get_a_turn_between_two_slices(name: str, scan: str) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    await in_slices(SCANS[scan](HOSTILE[name]))
    others.cancel()
    assert turns >= SIZE // (2 * SLICE_WORK)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_scan_needs_the_memory_of_one_window_whatever_the_size(name: str) -> None:
    tracemalloc.start()
    with suppress(ValueError):
        in_one_go(find(HOSTILE[name], SHAPE))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < WINDOWS_HELD.get(name, 8) * WINDOW_BYTES


def found(text: bytes) -> list[tuple[tuple[str | int, ...], bytes]]:
    leaves, end = in_one_go(find(text, SHAPE))
    assert text[end - 1 : end] == b"}"
    return [(path, text[start:end]) for path, start, end in leaves]


def test_the_values_that_are_asked_for_are_found_with_their_paths() -> None:
    text = b' { "asked" : [ "x" , { "a" : [ "y" , 1 ] , "b" : "z" } ] , "model" : "m" , "n" : 1 } '
    assert found(text) == [
        (("asked", 0), b'"x"'),
        (("asked", 1, "a", 0), b'"y"'),
        (("model",), b'"m"'),
    ]


def test_of_equal_keys_the_last_one_counts_whatever_it_holds() -> None:
    assert found(b'{"model":"a","mod\\u0065l":"b"}') == [(("model",), b'"b"')]
    assert found(b'{"model":"a","model":1}') == []
    assert found(b'{"asked":["a","b"],"asked":{"a":"c"}}') == [(("asked", "a"), b'"c"')]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"{}}",
        b"{} x",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1,}',
        b'{"a" 1}',
        b'{"a":tru}',
        b'{"a":01}',
        b'{"a":"}',
        b'{"a":[1}',
        b'{"asked":[1,]}',
        b'{"asked":[1}',
        b'{"asked":{"a":1]}',
        b"{a:1}",
        b'{"\\x":1}',
        b'{"a":"\\',
    ],
)
def test_what_is_no_json_on_the_way_through_is_not_read(text: bytes) -> None:
    with pytest.raises(Malformed):
        found(text)


def test_more_values_than_are_looked_at_are_told_as_such() -> None:
    few = b'{"asked":[%b1]}' % (b"1," * (MAX_VALUES - 3))
    assert found(few) == []
    with pytest.raises(TooManyValues):
        found(few.replace(b"[", b"[1,"))
    assert found(b'{"x":[%b1]}' % (b"{}," * MAX_VALUES)) == []


def test_a_pattern_is_found_across_two_windows() -> None:
    for before in range(WINDOW_BYTES - 5, WINDOW_BYTES + 5):
        assert in_one_go(contains(b" " * before + b"needle", re.compile(b"needle"), 6))
    assert not in_one_go(contains(b" " * 100_000, re.compile(b"needle"), 6))
