"""The scan of JSON with windows so small that every text is cut everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import json_scan
from proxy.access.routes import Route
from proxy.errors import MediaRefused
from proxy.media.url_scan import find_urls
from tests.fuzz import body as bodies
from tests.fuzz import media
from tests.fuzz.making import jumble, repeatable, spoilt
from tests.fuzz.seeds import BODIES, MEDIA_BODIES, TOKENS
from tests.fuzz.test_body import fields, written
from tests.fuzz.test_media import bodies as bodies_with_urls
from tests.scans import in_one_go

CUT = (b"\\", b'\\"', b"\\\\", b'"', b'""', b"[]", b"{}", b"[[1,", b"]]", b'{"a":', b"}", b" " * 40)
texts = st.text('"\\[]{},:1a é\n', max_size=40)
nested = st.recursive(
    texts | st.just(1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)


@contextmanager
def small_windows(first: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "_FIRST_WINDOW_BYTES", first)
        patch.setattr(json_scan, "_PLAIN_BYTES", 2)
        patch.setattr(json_scan, "_SEARCH_BYTES", 3)
        patch.setattr(json_scan, "WINDOW_BYTES", max(32, 4 * first))
        patch.setattr(json_scan, "SLICE_WORK", 1)
        yield


firsts = st.sampled_from([2, 3, 8])


@settings(repeatable, max_examples=100)
@given(
    first=firsts,
    route=st.sampled_from(bodies.ROUTES),
    pairs=fields,
    more=st.lists(st.tuples(st.sampled_from(["x", "content", "messages"]), nested), max_size=3),
    ascii_only=st.booleans(),
)
def test_any_json_is_read_as_the_engine_reads_it(
    first: int,
    route: Route,
    pairs: list[tuple[str, Any]],
    more: list[tuple[str, Any]],
    ascii_only: bool,
) -> None:
    text = written([*more, *pairs, ("stream", True), *more], ascii_only=ascii_only)
    with small_windows(first):
        assert bodies.check(route, text.encode(errors="surrogatepass")).stream


@settings(repeatable, max_examples=100)
@given(first=firsts, route=st.sampled_from(bodies.ROUTES), body=spoilt(BODIES, CUT) | jumble(CUT))
def test_any_bytes_are_read_or_left_alone(first: int, route: Route, body: bytes) -> None:
    with small_windows(first):
        bodies.check(route, body)


@settings(repeatable, max_examples=100)
@given(
    first=firsts,
    said=bodies_with_urls(),
    more=st.lists(st.tuples(st.sampled_from(["x", "content", "messages"]), nested), max_size=2),
    ascii_only=st.booleans(),
)
def test_urls_in_any_json_are_where_the_engine_finds_them(
    first: int,
    said: tuple[Route, list[tuple[str, Any]]],
    more: list[tuple[str, Any]],
    ascii_only: bool,
) -> None:
    route, pairs = said
    text = written([*more, *pairs], ascii_only=ascii_only)
    with small_windows(first):
        media.check(route, text.encode("utf-8", "surrogatepass"))


@settings(repeatable, max_examples=100)
@given(
    first=firsts,
    route=st.sampled_from(media.ROUTES),
    body=spoilt(MEDIA_BODIES, (*CUT, *TOKENS["media"])),
)
def test_urls_in_any_bytes_are_where_the_engine_finds_them(
    first: int, route: Route, body: bytes
) -> None:
    with small_windows(first):
        media.check(route, body)


@settings(repeatable, max_examples=100)
@given(value=nested, limit=st.integers(0, 40), first=firsts, ascii_only=st.booleans())
def test_values_are_counted_outside_of_strings(
    value: Any, limit: int, first: int, ascii_only: bool
) -> None:
    def count(inner: Any) -> tuple[int, int]:
        """Separators and brackets; arrays and objects."""
        if not isinstance(inner, dict | list):
            return 0, 0
        below = [count(each) for each in (inner.values() if type(inner) is dict else inner)]
        commas = max(len(inner) - 1, 0)
        return 1 + commas + sum(one for one, _ in below), 1 + sum(two for _, two in below)

    text = written(value, ascii_only=ascii_only).encode()
    if value == [] or not isinstance(value, list):
        text = written([value], ascii_only=ascii_only).encode()
        value = [value]
    values, containers = count(value)
    with small_windows(first):
        for limits, is_more in (
            ((limit, 10**6, 10**6), values > limit),
            ((10**6, limit, 10**6), containers > limit),
            ((10**6, 10**6, limit), text.count(b"\\") > limit),
        ):
            assert in_one_go(json_scan.exceeds(text, *limits)) is is_more


def test_a_refusal_is_none_of_the_windows() -> None:
    deep = b'{"messages":' + b"[" * 300 + b'{"image_url":"http://a/"}' + b"]" * 300 + b"}"
    with small_windows(2), pytest.raises(MediaRefused, match="nested too deeply"):
        in_one_go(find_urls(Route.CHAT, deep))
