"""Does the engine still work on what it was sent? One that is stuck calls itself healthy for good.

It is wedged when for `WEDGE_SECONDS`

- its health call was not answered with 200, or
- it owed answers, and nothing showed that it works on any: no stream got an event, no answer was
  finished, its own counters stood still, and one token that we asked for ourselves did not come, or
- its counters cannot be read (vLLM's `--disable-log-stats`), and our token did not come although
  every request that was sent before it is over.

Not every byte is a sign: stock vLLM sends the head of a stream, and keep-alive comments, also while
its core is stopped. The counters see a long prefill (the KV cache fills with every step). Our
token shows when only a client that does not read is to blame, or a picture that is slow to be
fetched. Behind a full batch that token waits as long as any request: alone it proves nothing, until
it is first in the engine's queue. With no request outstanding, the engine is never wedged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from proxy.engine.server import Counters, ServerProbe, WarmUpFailed
from proxy.tasks import spawn

_log = logging.getLogger("proxy.engine")

_LOOK_SECONDS = 1.0
_MIN_PAUSE_SECONDS = 0.1
# Looks in one WEDGE_SECONDS: a short limit needs short pauses.
_LOOKS = 6
# What one look may count, however long ago the one before it was: a machine that was itself
# suspended must not take that for the engine's silence.
_MAX_LOOK_SECONDS = 15.0


class Work(Protocol):
    """What the engine was sent."""

    trouble: asyncio.Event
    """Set when it has just failed a request: it may be dead, which its health will show."""

    @property
    def owed(self) -> int:
        """Requests that the engine has whole and has not answered whole."""

    @property
    def last_progress(self) -> float:
        """When it last sent what only a core that works can have made (monotonic seconds)."""

    @property
    def oldest(self) -> float | None:
        """When the oldest request was sent that it may still work on (monotonic seconds)."""


class WedgeWatch:
    """Looks at a ready engine again and again, until it is wedged. A limit of 0 finds nothing."""

    def __init__(self, limit_seconds: float, work: Work, probe: ServerProbe, model: str) -> None:
        self._limit_seconds = limit_seconds
        self._work = work
        self._probe = probe
        self._model = model
        self._looked_at = monotonic()
        self._unhealthy_seconds = 0.0
        self._still_seconds = 0.0
        self._read_at_seconds = 0.0
        """Of stillness: the counters are read then, not at every look."""
        self._last_progress = 0.0
        self._owed_before = 0
        self._counters: Counters = ()
        self._is_blind = False
        self._has_warned = False
        self._question: asyncio.Task[bool] | None = None
        self._has_asked = False
        self._asked_at = 0.0
        self._first_in_queue_seconds = 0.0
        self._reset()

    @property
    def pause_seconds(self) -> float:
        """Between two looks."""
        if not self._limit_seconds:
            return _LOOK_SECONDS
        return min(_LOOK_SECONDS, self._limit_seconds / _LOOKS)

    async def until_wedged(self, on_health: Callable[[bool], None]) -> str:
        """Ask for the engine's health again and again; `on_health` gets each answer.

        Returns what shows that it is wedged.
        """
        while True:
            try:
                async with asyncio.timeout(self.pause_seconds):
                    await self._work.trouble.wait()
                self._work.trouble.clear()
                has_failed = True
            except TimeoutError:
                has_failed = False
            healthy = await self._probe.healthy()
            on_health(healthy)
            if (symptom := await self.look(healthy=healthy)) is not None:
                return symptom
            if has_failed:  # a storm of failures must not become one of questions
                await asyncio.sleep(_MIN_PAUSE_SECONDS)

    async def look(self, *, healthy: bool) -> str | None:
        """What is wrong, in words that go into a sentence, once it has lasted too long."""
        passed = min(monotonic() - self._looked_at, _MAX_LOOK_SECONDS)
        self._looked_at = monotonic()
        if not self._limit_seconds:
            return None
        is_first = not self._unhealthy_seconds
        self._unhealthy_seconds = 0.0 if healthy else self._unhealthy_seconds + passed
        if not is_first and self._unhealthy_seconds >= self._limit_seconds:
            return f"its health check has failed for {self._unhealthy_seconds:.0f} s"
        owed, owed_before = self._work.owed, self._owed_before
        self._owed_before = owed
        self._read_answer(passed)
        if (last_progress := self._work.last_progress) > self._last_progress:
            self._last_progress = last_progress
            self._reset()
        elif owed and owed_before:
            # Counted on, not anew, where a client gives up before WEDGE_SECONDS and asks again;
            # and only between two looks that both saw one wait, so that it is never too much.
            self._still_seconds += passed
            return await self._look_closer(owed)
        return self._overdue_answer()

    def close(self) -> None:
        if self._question is not None:
            self._question.cancel()

    async def _look_closer(self, owed: int) -> str | None:
        """Compare the counters; where they stand still too, ask for a token."""
        if self._still_seconds < self._read_at_seconds:
            return None
        self._read_at_seconds = self._still_seconds + self._limit_seconds / _LOOKS
        before, counters = self._counters, await self._probe.counters()
        self._is_blind = not counters
        self._counters = counters or before
        if self._is_blind and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "the engine's counters cannot be read (--disable-log-stats?): if it is stuck, its "
                "health check shows it, or a token that does not come after all older requests"
            )
        if before and before != self._counters:
            self._reset()
            return None
        if (symptom := self._overdue_answer()) is not None:
            return symptom
        can_compare = bool(before) and not self._is_blind
        if can_compare and self._has_asked and self._still_seconds >= self._limit_seconds:
            requests = "1 request waits" if owed == 1 else f"{owed} requests wait"
            return (
                f"{requests}, and for {self._still_seconds:.0f} s it has generated nothing, "
                "not even a token that was asked for to see"
            )
        if self._still_seconds >= self._limit_seconds / 2:
            if not self._has_asked:
                text = "the engine is silent on %d requests: asking it for a token"
                _log.warning(text, owed)
                self._has_asked = True
            if self._question is None:
                self._question = spawn(self._generates(), name="wedge question")
                self._asked_at = monotonic()
        return None

    def _read_answer(self, passed: float) -> None:
        """See what has become of the question, `passed` seconds after the look before."""
        if self._question is None:
            return
        if self._question.done():
            generates = self._question.result()
            self._question = None
            self._first_in_queue_seconds = 0.0
            if generates:
                self._reset()
        elif (oldest := self._work.oldest) is None or oldest > self._asked_at:
            # vLLM serves in the order of coming: what came later is not in the way.
            self._first_in_queue_seconds += passed

    def _overdue_answer(self) -> str | None:
        """What a question shows whose turn has come, where there are no counters to compare."""
        if not self._is_blind or self._first_in_queue_seconds < self._limit_seconds:
            return None
        return (
            f"a token that was asked for to see has not come for {self._first_in_queue_seconds:.0f}"
            " s, and no older request is in its way"
        )

    async def _generates(self) -> bool:
        try:
            return await self._probe.warm_up(self._model) is not None
        except WarmUpFailed:
            return False

    def _reset(self) -> None:
        """It has done some work: count from here."""
        self._has_asked = False
        self._still_seconds = 0.0
        self._first_in_queue_seconds = 0.0
        self._read_at_seconds = self._limit_seconds / _LOOKS
