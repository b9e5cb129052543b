"""What a hub does wrong, as data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What can go wrong."""

    GATED = "gated"  # 401 without a token, 403 with one
    INVALID_TOKEN = "invalid_token"
    FORBIDDEN = "forbidden"
    DISABLED = "disabled"
    UNAVAILABLE = "unavailable"
    RATE_LIMITED = "rate_limited"  # `seconds` until the limit is lifted
    NOT_A_HUB = "not_a_hub"
    SILENT = "silent"  # takes the request and never answers
    CUT = "cut"  # closes when a file has been sent up to `at` bytes
    STALL = "stall"  # sends a file up to `at` bytes and then nothing more
    SLOW = "slow"  # `rate` bytes a second
    HUGE = "huge"  # announces a file as `at` bytes long


FILE_KINDS = frozenset({Kind.CUT, Kind.STALL, Kind.SLOW, Kind.HUGE})


@dataclass
class Fault:
    """`match` is a pattern over "METHOD /path"; `times` is how often, 0 for always."""

    kind: Kind
    match: str = "*"
    times: int = 0
    at: int = 0
    rate: int = 0
    seconds: int = 0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """From the command line: `cut,match=GET *.safetensors,times=1,at=1000`."""
        kind, *rest = text.split(",")
        options = dict(item.split("=", 1) for item in rest)
        numbers = {field.name for field in fields(cls) if field.type == "int"}
        given: dict[str, Any] = {n: int(v) if n in numbers else v for n, v in options.items()}
        return cls(Kind(kind), **given)
