"""What hypothesis makes its examples from, and how many; tests/conftest.py has the rest."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.fuzz.source import cut

repeatable = settings(
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
PLACES = st.lists(st.integers(0, 2**16), max_size=8)


def spoilt(wholes: Sequence[bytes], words: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of `wholes`, with some of its bytes replaced by words, again and again."""
    wounds = st.lists(
        st.tuples(st.integers(0, 2**10), st.integers(0, 12), st.sampled_from(words)), max_size=4
    )
    return st.builds(_with_wounds, st.sampled_from(wholes), wounds)


def jumble(words: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Words in any order, and bytes in between."""
    pieces = st.one_of(st.sampled_from(words), st.binary(max_size=3))
    return st.lists(pieces, max_size=24).map(b"".join)


def in_pieces(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    return st.builds(cut, data, PLACES)


def _with_wounds(data: bytes, wounds: Sequence[tuple[int, int, bytes]]) -> bytes:
    for place, length, word in wounds:
        at = place % (len(data) + 1)
        data = data[:at] + word + data[at + length :]
    return data
