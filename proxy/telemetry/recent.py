"""The last requests, for the page: their numbers, never what was asked or answered."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

from proxy.telemetry.record import Record
from proxy.telemetry.request_log import present_fields

SIZE = 50

# As in the log line. The client is not among them: not everyone who sees the page may know it.
_FIELDS = (
    "request_id",
    "route",
    "model",
    "status",
    "outcome",
    "error_source",
    "error",
    "stream",
    "images",
    "videos",
    "audios",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "finish_reason",
    "duration_ms",
    "ttft_ms",
    "tokens_per_second",
    "client_stall_ms",
)


class Recent:
    """Keeps the records of the last requests, and makes rows of them when they are asked for."""

    def __init__(self, size: int = SIZE) -> None:
        self._records: deque[Record] = deque(maxlen=size)
        self.add = self._records.append

    def rows(self) -> list[dict[str, Any]]:
        """The newest first."""
        now, rows = monotonic(), []
        for record in reversed(self._records):
            assert record.finished is not None
            present = present_fields(record)
            row = {name: present[name] for name in _FIELDS if name in present}
            row["seconds_ago"] = round(now - record.finished, 1)
            row["split_ms"] = {part: round(s * 1000, 2) for part, s in record.split_seconds.items()}
            rows.append(row)
        return rows
