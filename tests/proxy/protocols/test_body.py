"""What a protocol is asked with is read as long as that holds up nobody."""

from __future__ import annotations

import json

import pytest

from proxy.errors import InvalidRequest
from proxy.protocols.body import decoded

MANY = {
    "values": b'{"stop":[%b1]}' % (b"1," * 200_000),
    "arrays": b'{"stop":[%b1]}' % (b"[]," * 50_000),
    "objects": b'{"stop":[%b1]}' % (b'{"a":{}},' * 15_000),
    "names": b'{%b"a":1}' % (b'"b":1,' * 200_000),
    "strings": b'{"stop":[%b1]}' % (b'"a\\"",' * 200_000),
    "escapes": b'{"prompt":"%b"}' % (b"\\n" * 1_000_001),
}


@pytest.mark.parametrize("name", MANY)
async def test_more_than_can_be_read_quickly_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="100000 values, 20000 arrays and objects or 1000000"):
        await decoded(MANY[name], "/generate")


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": 'a, [b], {c}: \\ "d" ' * 100_000},
        {"allowed_token_ids": list(range(90_000))},
        {"prompts": ["a"] * 90_000},
        {},
    ],
)
async def test_long_texts_and_long_lists_are_read(body: dict[str, object]) -> None:
    assert await decoded(bytearray(json.dumps(body).encode()), "/generate") == body


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"a"', b"\xff", b"[" * 100_000, b'"' * 100_000])
async def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"body"):
        await decoded(body, "/generate")
