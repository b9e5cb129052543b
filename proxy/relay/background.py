"""Responses that the engine makes in the background: their tokens are counted once.

`POST /v1/responses` with `background` is answered before anything is generated. The usage comes
with a later request, and with each one after it again; so does that of every response which the
engine has stored.
"""

from __future__ import annotations

from dataclasses import replace

from proxy.access.routes import Route
from proxy.relay.event import TOKEN, EventSummary, Reader
from proxy.telemetry.record import Record

# Of more, those that wait longest are not counted.
MOST_AWAITED = 1000
_STORED_AT = "/v1/responses/"


class BackgroundResponses:
    """Those whose usage has not come yet, each with the request that has created it."""

    def __init__(self) -> None:
        self._awaited: dict[str, Record] = {}

    def reader(self, read: Reader, record: Record) -> Reader:
        """Reads the answer to `record` as `read` does, without what is counted already."""
        awaited = self._awaited

        def read_created(payload: bytes) -> EventSummary:
            summary = read(payload)
            if summary.background_id is not None:
                awaited.pop(summary.background_id, None)
                if not summary.last:
                    awaited[summary.background_id] = record
                    if len(awaited) > MOST_AWAITED:
                        del awaited[next(iter(awaited))]
            return summary

        def read_stored(payload: bytes) -> EventSummary:
            summary = read(payload)
            if summary is TOKEN:
                return EventSummary()
            if not summary.last:
                return summary
            creation = awaited.get(summary.background_id or "")
            if creation is None or creation.finished is None:  # its own stream has the usage
                return EventSummary(finish_reason=summary.finish_reason, last=True)
            del awaited[summary.background_id or ""]
            record.creation, record.model = creation, creation.model
            return replace(summary, background_id=None)

        if record.route != Route.RESPONSES:
            return read
        return read_stored if is_of_stored(record) else read_created


def is_of_stored(record: Record) -> bool:
    """It asks for a response that was made for another request: nothing is generated for it."""
    return record.route == Route.RESPONSES and record.path.startswith(_STORED_AT)
