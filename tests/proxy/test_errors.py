"""Each leaf of the tree of failures is complete."""

from __future__ import annotations

import re

import pytest

from proxy import errors
from proxy.errors import RequestFailure, Source


def below(kind: type[RequestFailure]) -> list[type[RequestFailure]]:
    return [each for child in kind.__subclasses__() for each in (child, *below(child))]


def leaves() -> list[type[RequestFailure]]:
    return sorted(below(RequestFailure), key=lambda leaf: leaf.__name__)


@pytest.mark.parametrize("leaf", leaves())
def test_a_failure_keeps_its_words_and_says_who_failed(leaf: type[RequestFailure]) -> None:
    failure = leaf("Too bad.", param="model", retry_after_seconds=3)
    assert str(failure) == failure.message == "Too bad."
    assert (failure.param, failure.retry_after_seconds) == ("model", 3)
    assert isinstance(failure.source, Source)
    assert 400 <= failure.status < 600
    # A 5xx is never the client's fault, a 4xx never anybody else's.
    assert (failure.source is Source.CLIENT) == (failure.status < 500)


def test_no_two_failures_share_a_code() -> None:
    codes = [leaf.code for leaf in leaves()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_a_retry_is_advised_against_only_where_the_engine_may_have_worked() -> None:
    repeats = {leaf for leaf in leaves() if leaf.repeats_work}
    died = {errors.EngineDied, errors.PoisonedRequest}
    assert repeats == died | {errors.CutOff, errors.InvalidEngineResponse, errors.EngineTimeout}
