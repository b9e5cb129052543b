"""Request bodies: spoilt ones, strange ones, and any JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.routes import Route
from tests.fuzz.body import ROUTES, check
from tests.fuzz.making import jumble, repeatable, spoilt
from tests.fuzz.seeds import BODIES, TOKENS

routes = st.sampled_from(ROUTES)
keys = st.sampled_from(
    ["stream", "stream_options", "model", "messages", "input", "content", "type", "é", "\ud83d"]
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.sampled_from(["true", "ON", "\ud83d", "image_url", "}", '"}', 10**40, 1.0, 0.0]),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(keys, inner), max_size=3),
    max_leaves=8,
)
fields = st.lists(st.tuples(keys, values), max_size=5)


def written(value: Any, *, ascii_only: bool) -> str:
    """JSON, in which a list of pairs is an object: its keys may be doubled."""
    if isinstance(value, list) and value and all(isinstance(one, tuple) for one in value):
        pairs = (
            f"{json.dumps(key)}:{written(inner, ascii_only=ascii_only)}" for key, inner in value
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(one, ascii_only=ascii_only) for one in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


@repeatable
@given(route=routes, body=spoilt(BODIES, TOKENS["body"]) | jumble(TOKENS["body"]))
def test_any_bytes_are_read_as_the_engine_reads_them(route: Route, body: bytes) -> None:
    check(route, body)


@repeatable
@given(
    route=routes,
    pairs=fields,
    stream=st.sampled_from([True, "t", "Yes", "ON", 1, 1.0]),
    around=st.sampled_from(["%s", " %s\r\n", "\ufeff%s\n"]),
    ascii_only=st.booleans(),
)
def test_any_streamed_body_is_read_as_the_engine_reads_it(
    route: Route, pairs: list[tuple[str, Any]], stream: object, around: str, ascii_only: bool
) -> None:
    text = around % written([*pairs, ("stream", stream)], ascii_only=ascii_only)
    body = text.encode(errors="surrogatepass")
    assert check(route, body).stream or "\ud83d" in text


@pytest.mark.parametrize("depth", [100, 199, 5_000, 200_000])
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"content":'])
def test_a_body_of_any_depth_is_read_or_left_alone(opening: str, depth: int) -> None:
    closing = opening.translate(str.maketrans("[{", "]}"))[::-1].replace(':"a"', "")
    closing = closing.replace(':"tnetnoc"', "")
    for end in (closing * depth, ""):
        for key in ("x", "messages", "stream_options"):
            text = f'{{"stream":true,"{key}":{opening * depth}1{end}}}'
            check(Route.CHAT, text.encode())
