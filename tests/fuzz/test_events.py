"""Streams of events in any pieces, and streams that are none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.events import HELD_BYTES, Verdict, check, parts_of
from tests.fuzz.making import in_pieces, jumble, repeatable, spoilt
from tests.fuzz.seeds import STREAMS, TOKENS

WORDS = TOKENS["events"]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1}}'


@pytest.mark.parametrize("held_bytes", HELD_BYTES)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_may_be_cut_anywhere(stream: bytes, held_bytes: int) -> None:
    for place in range(len(stream)):
        check([stream[:place], stream[place:]], held_bytes=held_bytes)
    check([bytes([byte]) for byte in stream], held_bytes=held_bytes)


@settings(repeatable, max_examples=100)
@given(
    pieces=in_pieces(spoilt(STREAMS, WORDS) | jumble(WORDS)),
    withhold_usage=st.booleans(),
    held_bytes=st.sampled_from(HELD_BYTES),
)
def test_any_bytes_come_out_as_they_went_in_but_for_the_usage(
    pieces: Sequence[bytes], withhold_usage: bool, held_bytes: int
) -> None:
    check(pieces, withhold_usage=withhold_usage, held_bytes=held_bytes)


def test_the_reference_knows_the_usage_event() -> None:
    """It could agree with anything otherwise."""
    whole = b"data: a\n\n" + USAGE + b"\n\n\n: note\n\n" + USAGE + b"\r\n\r\nid: 1\r\n" + USAGE
    seen = [(part.data[-3:], part.verdict) for part in parts_of(whole, HELD_BYTES[0])]
    assert seen == [
        (b"a\n\n", Verdict.PASSED),
        (b"}\n\n", Verdict.WITHHELD),
        (b"\n", Verdict.EITHER),
        (b"e\n\n", Verdict.PASSED),
        (b"\n\r\n", Verdict.WITHHELD),
        (b"1}}", Verdict.WITHHELD),
    ]
    assert check([whole]).replace(b"\n\n\n", b"\n\n") == b"data: a\n\n: note\n\n"
