"""The outcome of one check of the preflight."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.errors import EngineFailure


class Result(StrEnum):
    OK = "ok"
    WARN = "warn"
    """A start is worth trying, but something should be looked at."""
    FAIL = "fail"
    """A start cannot work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of `python3 -m proxy check`: `text` and `remedy` are sentences for a human."""

    check: str
    result: Result
    text: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """Both in one, for the log."""
        return f"{self.text} {self.remedy}".strip()

    @classmethod
    def of(cls, check: str, failure: EngineFailure) -> Finding:
        """What would end a start."""
        return cls(check, Result.FAIL, failure.message, failure.remedy)
