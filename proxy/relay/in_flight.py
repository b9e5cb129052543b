"""The requests in flight: what the engine owes an answer, and what is lost when it dies."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from time import monotonic
from typing import NamedTuple

from proxy.access.poison import Fingerprint, PoisonGuard
from proxy.access.routes import ROUTES
from proxy.relay.connection import Parts
from proxy.telemetry.record import Outcome, Record

# vLLM ends its answers up to 5 s before it is gone itself, and its end is waited for.
_LOST_SECONDS = 15.0
_MAX_LOST = 1000
# A digest of all of it would hold up every stream: 1 ms for each MiB.
_WHOLE_BYTES = 256 * 1024
_PIECES, _PIECE_BYTES = 64, 4096

_WORK = frozenset(spec.route for spec in ROUTES if spec.proves_work)
_LOST = (Outcome.ENGINE_DIED, Outcome.ENGINE_ERROR)


class Lost(NamedTuple):
    """A request that the engine has taken with it; no fingerprint where its body is not held."""

    record: Record
    fingerprint: Fingerprint | None


class InFlightRequests:
    """Every request from its gate to its end. A request costs a few changes of two dicts."""

    def __init__(self, poison: PoisonGuard) -> None:
        self._poison = poison
        self.trouble = asyncio.Event()
        """Set when the engine has broken off an answer, or answered with an error of its own."""
        self._inside: dict[int, Record] = {}
        self._bodies: dict[int, Parts] = {}
        self._suspects: dict[int, Fingerprint] = {}
        self._lost: deque[tuple[float, Lost]] = deque(maxlen=_MAX_LOST)
        self._reported: set[int] = set()
        self._last_progress = 0.0

    def begin(self, record: Record) -> None:
        self._inside[id(record)] = record

    def attach_body(self, record: Record, body: Parts) -> None:
        """The request's body, where it is held whole (else empty).

        Raises:
            PoisonedRequest, EngineUnavailable: see `PoisonGuard.check`.
        """
        if not body:
            return
        self._bodies[id(record)] = body
        if self._poison.active:
            length = sum(map(len, body))
            fingerprint = self._poison.check(length, lambda: _fingerprint(record, body))
            if fingerprint is not None:
                self._suspects[id(record)] = fingerprint

    def end(self, record: Record) -> None:
        """It is over, with an outcome. Does nothing for a request that never began."""
        key = id(record)
        if self._inside.pop(key, None) is None:
            return
        self._last_progress = max(self._last_progress, _last_progress(record))
        if record.outcome in _LOST and key not in self._reported and record.sent is not None:
            self._lost.append((monotonic(), self._loss(record)))
            self.trouble.set()
        self._bodies.pop(key, None)
        self._reported.discard(key)
        if self._suspects and (suspect := self._suspects.pop(key, None)) is not None:
            self._poison.request_ended(suspect, answered=record.outcome is Outcome.OK)

    def pop_lost(self) -> list[Lost]:
        """The engine has died: the requests that were lost with it. Each is returned once."""
        oldest = monotonic() - _LOST_SECONDS
        lost = [loss for when, loss in self._lost if when >= oldest]
        self._lost.clear()
        still = [
            record
            for key, record in self._inside.items()
            if key not in self._reported and record.sent is not None
        ]
        self._reported |= {id(record) for record in still}
        return lost + [self._loss(record) for record in still]

    @property
    def owed(self) -> int:
        """Requests that the engine has whole and has not answered whole.

        Not among them: uploads that run, and WebSocket sessions, which owe no answer.
        """
        return sum(
            record.sent is not None
            and record.body_read is not None
            and record.last_byte is None
            and record.outcome is None
            for record in self._inside.values()
        )

    @property
    def last_progress(self) -> float:
        """When the engine last sent what only a core that works can have made: an event of a
        stream, or the end of an answer (monotonic seconds; 0 for never)."""
        return max((self._last_progress, *map(_last_progress, self._inside.values())))

    @property
    def oldest(self) -> float | None:
        """When the oldest request or session came to the engine that it may still work on
        (monotonic seconds)."""
        held = (record for record in self._inside.values() if record.last_byte is None)
        return min((record.sent for record in held if record.sent is not None), default=None)

    def _loss(self, record: Record) -> Lost:
        body = self._bodies.get(id(record))
        hashed = body is not None and self._poison.enabled
        return Lost(record, _fingerprint(record, body) if hashed and body else None)


def _last_progress(record: Record) -> float:
    """When the engine last sent for it what only a core that works can have made; 0 for never."""
    moment = max(record.last_token or 0.0, record.last_event or 0.0)
    # A whole answer is work; but vLLM lists models and counts words without its core.
    is_whole = record.outcome is Outcome.OK and record.last_byte is not None
    is_work = record.method == "POST" and (record.route in _WORK or record.completion_tokens)
    return max(moment, record.last_byte or 0.0) if is_whole and is_work else moment


def _fingerprint(record: Record, body: Parts) -> Fingerprint:
    """Of a long part pieces from all over it are enough: two requests with bodies of one length
    that differ only between them are taken for one."""
    digest = hashlib.blake2b(f"{record.method} {record.path}\n".encode(), digest_size=16)
    for part in body:
        if len(part) <= _WHOLE_BYTES:
            digest.update(part)
            continue
        view = memoryview(part)
        last = len(part) - _PIECE_BYTES
        for number in range(_PIECES):
            at = last * number // (_PIECES - 1)
            digest.update(view[at : at + _PIECE_BYTES])
    return sum(map(len, body)), digest.digest()
