"""What a body says is read without touching it; what is added to it changes nothing else."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.access.routes import Route
from proxy.errors import InvalidRequest
from proxy.relay.upstream_request import Peek, peek, scan, with_usage_option
from tests.scans import in_one_go

CHAT, COMPLETIONS = Route.CHAT, Route.COMPLETIONS
OPTION = b',"stream_options":{"include_usage":true}'
STREAMED = b'{"stream": true}'


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def read(route: Route, text: bytes) -> Peek:
    """What is read of a body, in the way that its size and its content ask for."""
    seen = peek(route, text)
    return in_one_go(scan(route, text)) if seen is None else seen


def with_option(text: bytes) -> bytes:
    return b"".join(with_usage_option(text, read(CHAT, text).tail_bytes))


def prompt(*parts: object) -> bytes:
    """A chat body with one message."""
    return body(model="m", messages=[{"role": "user", "content": list(parts)}])


def counts(said: Peek) -> tuple[int, int, int]:
    return said.images, said.videos, said.audios


def test_of_a_name_of_megabytes_only_the_beginning_is_kept() -> None:
    """A model's name is whatever a client writes, and the last requests stay in memory."""
    for chars in (100_000, 10_000_000):
        model = read(CHAT, body(model="a" * chars)).model
        assert model in ("a" * 4095, "a" * 4096)


# Stream and usage -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "stream"),
    [
        ("true", True),
        ('"true"', True),
        ('"1"', True),
        ('"t"', True),
        ("1", True),
        ("1.0", True),
        ("false", False),
        ('"false"', False),
        ("0", False),
        ("2", False),
        ("null", False),
        ('"maybe"', False),
        ("[]", False),
    ],
)
def test_stream_is_read_as_the_engine_reads_it(value: str, stream: bool) -> None:
    said = read(CHAT, f'{{"stream": {value}, "model": "m"}}'.encode())
    assert (said.stream, said.lacks_usage_option, said.model) == (stream, stream, "m")


@pytest.mark.parametrize(
    ("options", "lacks"),
    [
        ("null", True),
        ("{}", False),
        ('{"include_usage": false}', False),
        ('{"include_usage": true}', False),
        ('{"unknown": [1, {}]}', False),
        ('"nonsense"', False),
        ("[]", False),
    ],
)
def test_a_choice_of_the_client_about_usage_is_left_alone(options: str, lacks: bool) -> None:
    text = f'{{"stream": true, "stream_options": {options}}}'
    assert read(CHAT, text.encode()).lacks_usage_option is lacks


@pytest.mark.parametrize("route", Route)
def test_usage_is_added_only_where_it_is_an_option(route: Route) -> None:
    assert read(route, STREAMED).lacks_usage_option is (route in (CHAT, COMPLETIONS))
    assert read(route, STREAMED).stream


@pytest.mark.parametrize(
    ("text", "stream", "lacks"),
    [
        (b'{"stream": false, "stream": true}', True, True),
        (b'{"stream": true, "stream": false}', False, False),
        (b'{"strea\\u006d": true}', True, True),
        (b'{"stream": "\\u0074rue"}', True, True),
        (b'{"stream": true, "stream_options": {}, "stream_options": null}', True, True),
        (b'{"stream": true, "stream_options": null, "stream_options": {}}', True, False),
        (b' \t\r\n{ "stream" : true }\n', True, True),
        (b'\xef\xbb\xbf{"stream": true}', True, True),
        (b'{"user": "\\"stream\\": true"}', False, False),
        (b'{"Stream": true}', False, False),
        # What the engine reads is skipped here, whatever it holds.
        (b'{"stream": true, "temperature": 1e999}', True, True),
        (b'{"stream": true, "seed": 123456789012345678901234567890}', True, True),
        # To msgspec these are not JSON; the engine takes them.
        (b'{"stream": true, "x": NaN}', True, True),
        (b'{"stream": true, "user": "cut \\ud83d"}', True, True),
        (b'{"stream": true, "messages": "hello"}', True, True),
        (b'{"stream": true, "messages": [1, [], "x", null]}', True, True),
        (b'{"stream": true, "messages": [{"content": 3}]}', True, True),
        (b'{"stream": true, "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", True, True),
    ],
)
def test_json_is_read_as_the_engine_reads_it(text: bytes, stream: bool, lacks: bool) -> None:
    said = read(CHAT, text)
    assert (said.stream, said.lacks_usage_option) == (stream, lacks)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"stream": true',
        b'{"stream": true} trailing',
        b'{"stream": true,}',
        b"{'stream': true}",
        b'{"stream": True}',
        b'[{"stream": true}]',
        b"null",
        '{"stream": true}'.encode("utf-16"),
        b'{"stream": true, "x": ' + b'{"a":' * 200_000,
        b'{"messages": [{"content": ' + b'[{"content": ' * 100_000,
        b"\x1f\x8b\x08\x00 gzip",
    ],
)
@pytest.mark.parametrize("route", [CHAT, Route.RESPONSES, Route.EMBEDDINGS])
def test_a_body_that_cannot_be_read_says_nothing_and_is_the_engines_to_refuse(
    route: Route, text: bytes
) -> None:
    assert read(route, text) == Peek()


@pytest.mark.parametrize(
    ("model", "name"),
    [('"m"', "m"), ('"m\\u00e9"', "mé"), ('""', ""), ("1", None), ("null", None), ("{}", None)],
)
def test_a_model_is_a_string_or_unknown(model: str, name: str | None) -> None:
    assert read(CHAT, f'{{"model": {model}}}'.encode()).model == name


# Media ----------------------------------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://x/v.mp4"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
TEXT = {"type": "text", "text": "hello"}
INPUT_IMAGE = {"type": "input_image", "image_url": "https://x/i.png"}


@pytest.mark.parametrize(
    ("parts", "seen"),
    [
        ([TEXT], (0, 0, 0)),
        ([TEXT, IMAGE], (1, 0, 0)),
        ([{"type": "image_embeds"}, {"type": "image"}, {"type": "input_image"}], (3, 0, 0)),
        ([{"type": "audio_url"}, {"type": "audio_embeds"}, {"type": "video"}], (0, 1, 2)),
        ([{"type": "file"}, {"type": "unknown"}, {"type": ""}, {}], (0, 0, 0)),
        ([IMAGE | {"extra": {"type": "image_url"}}], (1, 0, 0)),
        ([{"type": "text", "text": '{"type": "image_url"}'}], (0, 0, 0)),
    ],
)
def test_media_in_a_chat_are_counted(parts: list[object], seen: tuple[int, int, int]) -> None:
    assert counts(read(CHAT, prompt(*parts))) == seen


def test_media_in_all_messages_are_counted() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be nice"},
        {"role": "user", "content": [IMAGE, TEXT]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": [IMAGE]},
        {"role": "user"},
    ]
    assert counts(read(CHAT, body(messages=messages))) == (2, 0, 0)


def test_media_in_a_tool_result_are_counted() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image, TEXT]}
    text = {"type": "tool_result", "content": "plain"}
    assert counts(read(Route.MESSAGES, prompt(image, result, text))) == (2, 0, 0)


@pytest.mark.parametrize(
    ("items", "seen"),
    [
        ("a plain question", (0, 0, 0)),
        ([{"role": "user", "content": "a question"}], (0, 0, 0)),
        ([{"role": "user", "content": [INPUT_IMAGE, {"type": "input_text"}]}], (1, 0, 0)),
        ([{"type": "message", "content": [{"type": "input_audio"}]}], (0, 0, 1)),
        ([INPUT_IMAGE], (1, 0, 0)),
        ([{"type": "function_call_output", "output": "x"}], (0, 0, 0)),
    ],
)
def test_media_in_the_input_of_a_response_are_counted(
    items: object, seen: tuple[int, int, int]
) -> None:
    assert counts(read(Route.RESPONSES, body(model="m", input=items))) == seen


def test_half_a_character_hides_nothing_of_a_body() -> None:
    text = body(model="m", stream=True, messages=[{"content": [IMAGE, TEXT]}], user="\ud83d")
    seen = Peek(model="m", stream=True, lacks_usage_option=True, images=1)
    assert read(CHAT, text) == seen
    assert read(CHAT, b'{"stream":true,"model":"\\ud83d","\\ud83d":1}').model == "?"
    assert read(CHAT, text[:-1] + b" " * 600_000 + b"}") == seen


# Large bodies ---------------------------------------------------------------------------------

FEW = b'{"model": "a", "stream": false, "model": "m", "messages": [%b], "stream": true}'


@pytest.mark.parametrize("many", [b"{}", b'{"content":[{"type":"image_url"}]}', b"[[],{}]"])
def test_media_that_are_too_many_to_count_hide_neither_model_nor_stream(many: bytes) -> None:
    text = FEW % b",".join([many] * 200_000)
    assert peek(CHAT, text) is None
    assert read(CHAT, text) == Peek(
        model="m", stream=True, lacks_usage_option=True, is_counted=False
    )
    assert json.loads(with_option(text))["stream_options"] == {"include_usage": True}


def test_media_between_megabytes_of_other_values_are_counted() -> None:
    parts = [IMAGE, {"type": "text", "text": 'a "quoted" \\ text\n' * 50_000}, VIDEO]
    tools = [{"parameters": {"type": "image", "enum": list(range(300_000))}}]
    text = body(tools=tools, messages=[{"content": parts}, {"content": "x"}], model="m")
    assert peek(CHAT, text) is None
    assert read(CHAT, text) == Peek(model="m", stream=False, images=1, videos=1)


def test_more_fields_than_are_looked_through_are_refused() -> None:
    text = b'{%b"stream":true}' % (b'"a":1,' * 200_000)
    with pytest.raises(InvalidRequest, match="more than 100000 fields"):
        read(CHAT, text)


def test_megabytes_of_base64_are_passed_over_not_allocated() -> None:
    url = "data:image/png;base64," + "A" * 20_000_000
    text = prompt({"type": "image_url", "image_url": {"url": url}}, TEXT)
    tracemalloc.start()
    try:
        said = read(CHAT, text)
        allocated = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts(said) == (1, 0, 0)
    assert allocated < 100_000


def test_adding_the_option_does_not_copy_the_body() -> None:
    text = b'{"stream": true, "x": "' + b"A" * 20_000_000 + b'"}'
    tracemalloc.start()
    try:
        parts = with_usage_option(text, len(b'"}') - 1)
        allocated = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(map(len, parts)) == len(text) + len(OPTION)
    assert allocated < 100_000


# The added option -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        STREAMED,
        b' { "stream" : true } \r\n\t',
        b'\xef\xbb\xbf{"stream": true}',
        b'{"stream": true, "stream_options": null}',
        b'{"a": {"b": "}"}, "stream": true, "c": "}}"}',
        '{"stream": true, "x": "ünïcödé 🦊 \\ud83e"}'.encode(),
        b'{"stream": false, "stream": true, "n": 1, "n": 2}',
        b'{"stream": true, "n": 1.10, "m": 1E5, "k": 12345678901234567890123}',
    ],
)
def test_all_other_bytes_of_the_body_stay_as_they_are(text: bytes) -> None:
    added = with_option(text)
    head, _, tail = added.rpartition(OPTION)
    assert head + tail == text
    assert tail.strip() == b"}"
    # Of two equal keys the last one wins, here as in the engine.
    expected = json.loads(text) | {"stream_options": {"include_usage": True}}
    assert json.loads(added) == expected


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(
    fields=st.dictionaries(
        st.text().filter(lambda key: key != "stream_options")
        | st.sampled_from(["model", "messages", "n", "stream_option"]),
        JSON,
        max_size=5,
    ),
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    null_option=st.booleans(),
)
def test_any_streamed_body_keeps_its_meaning_and_gains_the_option(
    fields: dict[str, object], ensure_ascii: bool, indent: int | None, null_option: bool
) -> None:
    sent = {**fields, "stream": True} | ({"stream_options": None} if null_option else {})
    text = json.dumps(sent, ensure_ascii=ensure_ascii, indent=indent).encode()
    said = read(CHAT, text)
    assert said.lacks_usage_option
    assert said.model == (sent["model"] if isinstance(sent.get("model"), str) else None)
    added = with_option(text)
    assert json.loads(added) == {**sent, "stream_options": {"include_usage": True}}
    after = read(CHAT, added)
    assert (after.stream, after.lacks_usage_option) == (True, False)
