"""What comes behind a whole answer of the engine's is nobody's: it spoils no other request."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wire.client import CHAT, STREAM, Answer, prompt
from tests.wire.service import Sidecar, ending, until
from tests.wire.streams import DONE, ROLE, WORD, chunked, raw, sized

STALE = sized(b'{"stale":1}')
SURPLUS = [
    *(b"x", b"H", b"HTTP/1.1 ", STALE, STALE + STALE, b"\r\n" + STALE, b"\x00\xff" * 500),
    *(b"{}", b"0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"5\r\nstale\r\n0\r\n\r\n"),
]
WHOLE = {
    "sized": (sized(b'{"a":1}'), b'{"a":1}'),
    "empty": (sized(b""), b""),
    "chunked": (chunked([ROLE + WORD, DONE]), ROLE + WORD + DONE),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", b""),
}
# Each of the bytes behind one kind of answer, and behind each kind the same.
BEHIND = [*zip([*WHOLE] * 3, SURPLUS, strict=False), *((kind, STALE) for kind in WHOLE)]


def has_written(service: Sidecar, answer: Answer) -> bool:
    (received,) = service.seen(answer)
    return received.finished or received.aborted


@pytest.mark.parametrize(("kind", "surplus"), BEHIND, ids=range(len(BEHIND)))
@pytest.mark.parametrize("apart", [False, True], ids=["one read", "a read of its own"])
def test_a_connection_with_surplus_bytes_serves_no_other_request(
    service: Sidecar, kind: str, surplus: bytes, apart: bool
) -> None:
    wire, body = WHOLE[kind]
    more: dict[str, Any] = {"cut": f"at:{len(wire)}", "cut_ms": 1} if apart else {}
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire + surplus, **more))
    assert (answer.whole, answer.body) == (True, body)
    if apart:
        until(lambda: has_written(service, answer), "all of it written")
    after = service.ask(CHAT, prompt(CHAT), fake={"tokens": 2})
    assert (after.status, after.json()["usage"]["completion_tokens"]) == (200, 2)
    assert ending(service.record(after)) == (200, "ok", None, None)
    first, second = (service.seen(each)[0].connection for each in (answer, after))
    assert first != second


@pytest.mark.parametrize("kind", WHOLE)
def test_blank_lines_behind_an_answer_are_none_of_the_next(service: Sidecar, kind: str) -> None:
    wire, body = WHOLE[kind]
    for blank in (b"\r\n", b"\n", b"\r\n\r\n"):
        answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire + blank))
        assert (answer.whole, answer.body) == (True, body)
        for _ in range(2):
            after = service.ask(CHAT, prompt(CHAT), fake={"tokens": 2})
            assert (after.status, after.json()["usage"]["completion_tokens"]) == (200, 2)
