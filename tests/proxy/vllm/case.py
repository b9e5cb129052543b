"""What a user should read."""

from __future__ import annotations

from typing import NamedTuple

from proxy.errors import Cause, EngineFailure

UNSPECIFIC = {Cause.UNKNOWN, Cause.KILLED, Cause.CRASHED, Cause.START_TIMEOUT, Cause.WEDGED}
"""Told without any rule: by the exit code, or by what the output lacks."""


class Case(NamedTuple):
    """A cause, and fragments of the sentence and of the remedy."""

    cause: Cause
    permanent: bool
    sentence: str
    remedy: str


def assert_explained(failure: EngineFailure, expected: Case) -> None:
    """The failure has the case's cause, and its fragments stand in what a user reads."""
    actual = Case(failure.cause, failure.permanent, failure.message, failure.remedy)
    assert actual[:2] == expected[:2], actual
    assert expected.sentence in failure.message
    assert expected.remedy in failure.remedy
