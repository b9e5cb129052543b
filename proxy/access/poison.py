"""Recognises requests that bring the engine down, and does not send them a third time.

Whoever was in flight when the engine died is a suspect; nobody is punished for that alone.

1. A suspect that is answered (outcome `ok`) is cleared.
2. A request that was in flight at two deaths within ten minutes is refused with 422 for ten
   minutes, where no other request was in flight as often.
3. Where several were, one of them did it and the others only shared the engine with it. They are
   let in one at a time, the others get 503 with `Retry-After`: an innocent one is answered and
   cleared, the guilty one is alone at the next death, and rule 2 finds it.

Requests are told apart by a fingerprint of method, path and body (of megabytes in one piece: of its
length and samples from all over it). It is only computed while there
are suspects, and only for bodies of a suspect's length: otherwise a request costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic

from proxy.errors import EngineUnavailable, PoisonedRequest

WINDOW_SECONDS = 600.0
REFUSED_SECONDS = 600.0
# How long one suspect keeps the others out; one that has run for so long has most likely
# survived what killed the engine.
TRIAL_SECONDS = 30.0
_DEATH_NOTICE_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 2
# Of one death. More than these in flight, and no two deaths will tell whose fault it was.
_MAX_SUSPECTS = 1000
_ENOUGH_DEATHS = 2

_REFUSED = (
    "The engine died {deaths} times within ten minutes, each time while it worked on this same "
    "request, so it is not sent to it again now. Change the request, or try it again in "
    "{minutes} min. (POISON_GUARD=false turns this off.)"
)
_NOT_YET = (
    "This request is one of several that were running both times that the engine died. They are "
    "tried one after the other: send it again."
)


Fingerprint = tuple[int, bytes]
"""One request among all: the length of its body in bytes, and a digest of method, path and body."""


@dataclass(slots=True)
class _Suspect:
    deaths: list[float] = field(default_factory=list)
    refused_until: float = 0.0
    on_trial: bool = False


class PoisonGuard:
    """Knows the suspects; while there are none `active` is false, and nothing need be asked."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.active = False
        self._suspects: dict[Fingerprint, _Suspect] = {}
        self._lengths: set[int] = set()
        self._tried: tuple[Fingerprint, float] | None = None

    def check(self, length: int, compute: Callable[[], Fingerprint]) -> Fingerprint | None:
        """Let a request in, and name it where its end is of interest (`request_ended`).

        Raises:
            PoisonedRequest: it has brought the engine down.
            EngineUnavailable: it may have, and another such request is being tried.
        """
        self._forget()
        if length not in self._lengths:
            return None
        fingerprint = compute()
        suspect = self._suspects.get(fingerprint)
        if suspect is None:
            return None
        now = monotonic()
        if suspect.refused_until > now:
            minutes = max(1, round((suspect.refused_until - now) / 60))
            text = _REFUSED.format(deaths=len(suspect.deaths), minutes=minutes)
            raise PoisonedRequest(text)
        if suspect.on_trial:
            if self._tried is not None and now - self._tried[1] < TRIAL_SECONDS:
                raise EngineUnavailable(_NOT_YET, retry_after_seconds=_RETRY_AFTER_SECONDS)
            self._tried = (fingerprint, now)
        return fingerprint

    def request_ended(self, fingerprint: Fingerprint, *, answered: bool) -> None:
        """A request that `check` has named has ended."""
        if self._tried is not None and self._tried[0] == fingerprint:
            # One that failed may have killed the engine, of which we will hear in a moment.
            ended = monotonic() - TRIAL_SECONDS + _DEATH_NOTICE_SECONDS
            self._tried = None if answered else (fingerprint, ended)
        if answered and self._suspects.pop(fingerprint, None) is not None:
            self._count()

    def died(self, in_flight: Iterable[Fingerprint]) -> set[Fingerprint]:
        """The engine has died under these. Returns those that are refused from now on."""
        self._forget()
        self._tried = None
        now = monotonic()
        lost = list(dict.fromkeys(in_flight))[:_MAX_SUSPECTS] if self.enabled else []
        for fingerprint in lost:
            self._suspects.setdefault(fingerprint, _Suspect()).deaths.append(now)
        self._count()
        most = max((len(self._suspects[fingerprint].deaths) for fingerprint in lost), default=0)
        if most < _ENOUGH_DEATHS:
            return set()
        likeliest = [
            fingerprint for fingerprint in lost if len(self._suspects[fingerprint].deaths) == most
        ]
        for fingerprint in likeliest:
            self._suspects[fingerprint].on_trial = True
        if len(likeliest) > 1:
            return set()
        self._suspects[likeliest[0]].refused_until = now + REFUSED_SECONDS
        return set(likeliest)

    def _forget(self) -> None:
        """Drop what is too old to count."""
        now = monotonic()
        old = [
            fingerprint
            for fingerprint, suspect in self._suspects.items()
            if suspect.deaths[-1] + WINDOW_SECONDS < now and suspect.refused_until < now
        ]
        for fingerprint in old:
            del self._suspects[fingerprint]
        if old:
            self._count()

    def _count(self) -> None:
        self.active = bool(self._suspects)
        self._lengths = {length for length, _ in self._suspects}
