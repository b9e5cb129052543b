"""Media URLs in bodies: spoilt ones, strange ones, and any JSON, in any encoding."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from proxy.access.routes import Route
from proxy.errors import MediaRefused
from proxy.json_scan import WINDOW_BYTES
from proxy.media.url_scan import find_urls, might_contain_urls
from tests.fuzz.making import jumble, repeatable, spoilt
from tests.fuzz.media import LISTS, NODES, ROOTS, ROUTES, URLS, check
from tests.fuzz.seeds import MEDIA_BODIES, TOKENS
from tests.fuzz.test_body import written
from tests.scans import in_one_go

# The last one has the roots of all: most bodies mean something there.
routes = st.sampled_from([*ROUTES, Route.EXTRA, Route.EXTRA, Route.EXTRA])
strange = st.sampled_from(["url", "type", "uuid", "é", "\ud83d", "x", *sorted(ROOTS[Route.CHAT])])
urls = st.sampled_from(
    [
        *("http://a/", "HTTPS://b/c", "http://a/é", "http://a/\ud83d", 'http://a/"\\"', "file:/x"),
        *("data:image/png;base64,AA", "DATA:x,http://a/", " http://a/", "", "x", "a:", "http:"),
    ]
)
leaves: st.SearchStrategy[Any] = urls | st.sampled_from(
    [None, 1, 1.5, 10**40, float("nan"), True, [], {}]
)
holders = st.sampled_from([*sorted(URLS), "source"])
values = leaves | st.lists(st.tuples(st.sampled_from(["url", "url", "type"]), leaves), max_size=3)
few = st.lists(st.tuples(strange | holders, leaves), max_size=2)
parts = st.lists(st.tuples(holders, values) | st.tuples(strange, leaves), min_size=1, max_size=4)
nodes = st.recursive(
    parts | leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.sampled_from(sorted(NODES)) | strange | holders, inner), max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Route, list[tuple[str, Any]]]:
    """A route and the pairs of an object, with something like a URL where the route looks."""
    route = draw(routes)
    own = sorted(ROOTS[route] | (LISTS if route is Route.EXTRA else set()))
    node: Any = [*draw(parts), (draw(st.sampled_from(sorted(URLS))), draw(urls)), *draw(few)]
    for wrap in draw(st.lists(st.sampled_from(["list", *sorted(NODES)]), max_size=4)):
        node = [draw(leaves), node] if wrap == "list" else [*draw(few), (wrap, node), *draw(few)]
    root = (draw(st.sampled_from(own)), node)
    others = st.lists(st.tuples(st.sampled_from(own) | strange, nodes), max_size=2)
    return route, [*draw(others), root, *draw(others)]


@settings(repeatable, max_examples=120)
@given(route=routes, body=spoilt(MEDIA_BODIES, TOKENS["media"]) | jumble(TOKENS["media"]))
def test_urls_in_any_bytes_are_where_the_engine_finds_them(route: Route, body: bytes) -> None:
    check(route, body)


@settings(repeatable, max_examples=120)
@given(
    said=bodies(),
    ascii_only=st.booleans(),
    around=st.sampled_from(["%s", " %s\r\n", "\ufeff%s\n", "\t%s"]),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-16-be", "utf-32-le"]),
)
def test_urls_in_any_json_are_where_the_engine_finds_them(
    said: tuple[Route, list[tuple[str, Any]]], ascii_only: bool, around: str, encoding: str
) -> None:
    route, pairs = said
    text = around.lstrip("\ufeff") if encoding != "utf-8" else around
    text %= written(pairs, ascii_only=ascii_only)
    body = text.encode(encoding, "surrogatepass")
    if check(route, body):
        event("URLs found")
        event(f"URLs found behind {body[:4]!r}")


def test_the_examples_have_urls_to_find() -> None:
    """A generator that makes only bodies without URLs would prove nothing."""
    made, found = 0, set()

    @repeatable
    @given(
        said=bodies(),
        encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    )
    def count(said: tuple[Route, list[tuple[str, Any]]], encoding: str) -> None:
        nonlocal made
        made += 1
        route, pairs = said
        body = written(pairs, ascii_only=True).encode(encoding)
        if check(route, body):
            found.add((encoding, body))

    count()
    assert len(found) > made / 4
    assert {encoding for encoding, _ in found} == {"utf-8", "utf-8-sig", "utf-16"}


def escaped(text: str) -> str:
    """Every character as an escape."""
    return "".join(f"\\u{ord(one):04X}" for one in text)


def test_escapes_hide_no_url() -> None:
    key, url = escaped("image_url"), escaped("http://a/")
    body = f'{{"{escaped("messages")}":[{{"content":[{{"{key}":"{url}"}}]}}]}}'.encode()
    assert check(Route.CHAT, body) == ["http://a/"]


def test_of_two_equal_keys_the_last_one_counts() -> None:
    body = b'{"messages":[{"content":[{"image_url":"http://a/","image_url":"http://b/"}]}]}'
    assert check(Route.CHAT, body) == ["http://b/"]
    hidden = b'{"messages":[{"content":[{"image_url":"http://a/"}]}],"messages":[]}'
    assert check(Route.CHAT, hidden) == []


def test_a_doubled_key_around_another_one_leaves_the_order_of_the_bytes() -> None:
    """Found by fuzzing: the second half of the body was written twice."""
    body = (
        b'{"messages":[{"image_url":"http://a/","audio_url":"http://b/","image_url":"http://c/"}]}'
    )
    assert check(Route.CHAT, body) == ["http://b/", "http://c/"]


def test_the_same_url_twice_is_found_twice_and_as_a_text_not_at_all() -> None:
    part = {"type": "image_url", "image_url": {"url": "http://a/"}}
    said = {"type": "text", "text": "http://a/", "http://a/": "http://a/"}
    body = json.dumps({"user": "http://a/", "messages": [{"content": [part, said, part]}]})
    assert check(Route.CHAT, body.encode()) == ["http://a/", "http://a/"]


def test_arguments_of_tools_are_not_media() -> None:
    tool = {"type": "tool_use", "input": {"image_url": "http://a/"}}
    search = {"type": "search_result", "source": "http://a/", "content": []}
    body = {"messages": [{"content": [tool, search]}], "tools": [{"image_url": "http://a/"}]}
    assert check(Route.MESSAGES, json.dumps(body).encode()) == []


@pytest.mark.parametrize("depth", [20, 200, 2_000, 100_000])
def test_a_body_of_any_depth_is_read_or_refused(depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"content":', "}"), ('[{"content":', "}]")):
        inner = '{"image_url":"http://a/"}'
        body = f'{{"messages":{opening * depth}{inner}{closing * depth}}}'.encode()
        found = check(Route.CHAT, body)
        assert found == ["http://a/"] or depth >= 200


@pytest.mark.parametrize("many", ['"http://a/",', "{},", "[],"])
def test_too_many_values_to_look_through_are_refused_where_one_may_be_a_url(many: str) -> None:
    values = f'{many * 200_000}{{"content": [{{"image_url": "http://a/"}}]}}'
    with pytest.raises(MediaRefused, match="too many values"):
        in_one_go(find_urls(Route.CHAT, f'{{"messages":[{values}]}}'.encode()))
    assert check(Route.CHAT, f'{{"x":[{values}],"messages":[]}}'.encode()) == []


def test_too_many_values_without_a_url_are_none_of_the_guards_business() -> None:
    body = ('{"input":[%s0]}' % ('"text",' * 200_000)).encode()
    assert check(Route.EMBEDDINGS, body) == []


@pytest.mark.parametrize(
    ("route", "name"),
    [
        *((route, "input") for route in (Route.EMBEDDINGS, Route.CLASSIFY, Route.POOLING)),
        *((Route.RERANK, name) for name in ("documents", "query")),
        *((Route.SCORE, name) for name in ("data_2", "text_1", "queries", "items")),
        (Route.EXTRA, "inputs"),
    ],
)
@pytest.mark.parametrize(
    "many", ['"Note: text",', '"mail to:me", "http://a/",', r'"\u003cp\u003eurl",', "[1, 2],"]
)
def test_many_texts_are_not_media_whatever_they_begin_with(
    route: Route, name: str, many: str
) -> None:
    body = {"model": "a", name: ["?"], "user": "team:a"}
    text = json.dumps(body).replace('"?"', many * 20_001 + r'"so he said: \"image_url\": 1"')
    assert in_one_go(find_urls(route, text.encode())).urls == []


@pytest.mark.parametrize(
    "part",
    [
        '{"image_url": "http://a/"}',
        r'{"\u0069mage_url": "http://a/"}',
        r'{"image\u005Furl": {"url": "http://a/"}}',
        f'{{"{escaped("video_url")}": "http://a/"}}',
        '{"source": {"url": "http://a/"}}',
        r'{"source": {"ur\u006c": "http://a/"}}',
        '0], "images": ["http://a/"',
        r'0], "\u0061udio": ["http://a/"',
        f'0], "{escaped("videos")}": ["http://a/"',
    ],
)
@pytest.mark.parametrize("bytes_before", [0, 3, 10, 40, 60])
def test_many_texts_hide_no_media_wherever_the_scan_cuts(part: str, bytes_before: int) -> None:
    texts = '{"input":[' + '"text",' * 20_001
    blanks = -(len(texts) + bytes_before) % WINDOW_BYTES
    with pytest.raises(MediaRefused, match="too many values"):
        in_one_go(find_urls(Route.EXTRA, f"{texts}{' ' * blanks}{part}]}}".encode()))


def test_a_url_behind_megabytes_is_found_to_the_byte() -> None:
    data = {"image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    text = {"text": 'he said: "\\" ' * 100_000}
    url = {"image_url": {"url": "http://a/"}}
    body = json.dumps({"messages": [{"content": [data, text, url, data, url]}], "x": [text] * 3})
    assert check(Route.CHAT, body.encode()) == ["http://a/", "http://a/"]
    assert might_contain_urls(Route.CHAT, body.encode())


@pytest.mark.parametrize("begin", [b"http://a/", rb"\u0068ttp://a/", b"data\\u003a"])
def test_a_url_that_is_too_long_is_refused_by_its_name(begin: bytes) -> None:
    body = b'{"messages":[{"image_url":"%b%b"}]}' % (begin, b"x" * 70_000)
    with pytest.raises(MediaRefused, match=r"^messages\[0\]\.image_url is longer than 64 KiB"):
        in_one_go(find_urls(Route.CHAT, body))


def test_a_long_body_in_another_encoding_is_refused() -> None:
    body = ('{"messages":[{"image_url":"http://a/"}]}' + " " * 100_000).encode("utf-16")
    with pytest.raises(MediaRefused, match="not in UTF-8"):
        in_one_go(find_urls(Route.CHAT, body))
