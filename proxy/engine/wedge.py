"""Does the engine still work on what it was sent? One that is stuck calls itself healthy for good.

It is wedged when for `WEDGE_SECONDS`

- its health call was not answered with 200, or
- it owed answers, and nothing showed that it works on any: no stream got an event, no answer was
  finished, its own counters stood still, and one token that we asked for ourselves did not come, or
- nobody can read its counters (`--disable-log-stats`), and the token of ours did not come although
  every request that was sent before it is over.

Not every byte is a sign: stock vLLM sends the head of a stream, and keep-alive comments, also while
its core is stopped. The counters see a long prefill (the KV cache fills with every step), the
token of ours sees that nobody is to blame but a client that does not read, or a picture that is
slow to be fetched. Behind a full batch that token waits as long as any request: alone it proves
nothing, until it is first in the engine's queue. Nobody asks: nobody is wedged.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Protocol

import httpx

from proxy.tasks import spawn
from proxy.vllm.probe import Probe, WarmUpFailed

_log = logging.getLogger("proxy.engine")

_LOOK_SECONDS = 1.0
_LEAST_PAUSE_SECONDS = 0.1
# Looks in one WEDGE_SECONDS: a short limit needs short pauses.
_LOOKS = 6
# What one look may count, however long ago the one before it was: a machine that was itself
# suspended must not take that for the engine's silence.
_LONGEST_LOOK_SECONDS = 15.0
# Set by the engine core's steps and by nothing else (vLLM 0.32, v1/metrics/loggers.py).
# `kv_cache_usage_perc` grows with each step of a prefill, whose tokens are counted at its end.
_COUNTERS = re.compile(
    rb"^(vllm:(?:prompt_tokens_total|generation_tokens_total|prefix_cache_queries_total"
    rb"|kv_cache_usage_perc|num_requests_running|num_requests_waiting)\{[^\n]*)$",
    re.MULTILINE,
)

# Samples of an engine that keeps counters; an empty tuple is none.
Counters = tuple[bytes, ...]
Ask = Callable[[], Awaitable[bool]]


class Work(Protocol):
    """What the engine was sent."""

    trouble: asyncio.Event
    """Set when it has just failed a request: it may be dead, which its health will show."""

    @property
    def waiting(self) -> int:
        """Requests that the engine has whole and has not answered whole."""

    @property
    def last_progress(self) -> float:
        """When it last sent what only a core that works can have made (monotonic seconds)."""

    @property
    def oldest(self) -> float | None:
        """When the oldest request was sent that it may still work on (monotonic seconds)."""


class WedgeWatch:
    """Looks at a ready engine again and again, until it is wedged."""

    def __init__(self, limit_seconds: float, work: Work, probe: Probe, ask: Ask) -> None:
        self._limit_seconds = limit_seconds
        self._work = work
        self._probe = probe
        self._ask = ask
        self._looked = monotonic()
        self._sick_seconds = 0.0
        self._still_seconds = 0.0
        self._read_at_seconds = 0.0
        self._last_progress = 0.0
        self._waited = False
        self._counters: Counters = ()
        self._is_blind = False
        self._has_warned = False
        self._question: asyncio.Task[bool] | None = None
        self._asked = False
        self._asked_at = 0.0
        self._moved()

    @property
    def pause_seconds(self) -> float:
        """Between two looks."""
        if not self._limit_seconds:
            return _LOOK_SECONDS
        return min(_LOOK_SECONDS, self._limit_seconds / _LOOKS)

    async def until_wedged(self, look: Callable[[bool], None]) -> str:
        """Ask for the engine's health again and again, and `look` at each answer.

        Returns what shows that it is wedged.
        """
        while True:
            troubled = await self._pause()
            healthy = await self._probe.healthy()
            look(healthy)
            if (symptom := await self.look(healthy=healthy)) is not None:
                return symptom
            if troubled:  # a storm of failures must not become one of questions
                await asyncio.sleep(_LEAST_PAUSE_SECONDS)

    async def _pause(self) -> bool:
        """Until the next look; it is due at once, and true, where a request has just failed."""
        try:
            async with asyncio.timeout(self.pause_seconds):
                await self._work.trouble.wait()
        except TimeoutError:
            return False
        self._work.trouble.clear()
        return True

    async def look(self, *, healthy: bool) -> str | None:
        """What is wrong, in words that go into a sentence, once it has lasted too long."""
        passed = min(monotonic() - self._looked, _LONGEST_LOOK_SECONDS)
        self._looked = monotonic()
        if not self._limit_seconds:
            return None
        first = not self._sick_seconds
        self._sick_seconds = 0.0 if healthy else self._sick_seconds + passed
        if not first and self._sick_seconds >= self._limit_seconds:
            return f"its health check has failed for {self._sick_seconds:.0f} s"
        waiting, waited = self._work.waiting, self._waited
        self._waited = waiting > 0
        self._note_answer(passed)
        if (last_progress := self._work.last_progress) > self._last_progress:
            self._last_progress = last_progress
            self._moved()
        elif waiting and waited:
            # Counted on, not anew, where a client gives up before WEDGE_SECONDS and asks again;
            # and only between two looks that both saw one wait, so that it is never too much.
            self._still_seconds += passed
            return await self._look_closer(waiting)
        return self._overdue_answer()

    def close(self) -> None:
        if self._question is not None:
            self._question.cancel()

    async def _look_closer(self, waiting: int) -> str | None:
        if self._still_seconds < self._read_at_seconds:
            return None
        self._read_at_seconds = self._still_seconds + self._limit_seconds / _LOOKS
        before, counters = self._counters, await self._read_counters()
        self._is_blind = not counters
        self._counters = counters or before
        if before and before != self._counters:
            self._moved()
        elif (symptom := self._overdue_answer()) is not None:
            return symptom
        elif self._is_blind or not before:
            self._ask_when_due(waiting)
        elif self._asked and self._still_seconds >= self._limit_seconds:
            requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
            return (
                f"{requests}, and for {self._still_seconds:.0f} s it has generated nothing, "
                "not even a token that was asked for to see"
            )
        else:
            self._ask_when_due(waiting)
        return None

    def _ask_when_due(self, waiting: int) -> None:
        if self._still_seconds < self._limit_seconds / 2:
            return
        if not self._asked:
            _log.warning("the engine is silent on %d requests: asking it for a token", waiting)
            self._asked = True
        if self._question is None:
            self._question = spawn(self._generates(), name="wedge question")
            self._asked_at = monotonic()

    def _note_answer(self, passed: float) -> None:
        """See what has become of the question, `passed` seconds after the look before."""
        if self._question is None:
            return
        if self._question.done():
            answered = self._question.result()
            self._question = None
            self._first_in_queue_seconds = 0.0
            if answered:
                self._moved()
        elif (oldest := self._work.oldest) is None or oldest > self._asked_at:
            # vLLM serves in the order of coming: what came later is not in the way.
            self._first_in_queue_seconds += passed

    def _overdue_answer(self) -> str | None:
        """What a question shows whose turn has come, where there are no counters to ask."""
        if not self._is_blind or self._first_in_queue_seconds < self._limit_seconds:
            return None
        return (
            f"a token that was asked for to see has not come for {self._first_in_queue_seconds:.0f}"
            " s, and no older request is in its way"
        )

    async def _read_counters(self) -> Counters:
        """Those of this moment; none where they cannot be read, which proves nothing."""
        try:
            page = (await self._probe.metrics_page()).raise_for_status().content
        except httpx.HTTPError:
            page = b""
        counters = tuple(_COUNTERS.findall(page))
        if not (counters or self._has_warned):
            self._has_warned = True
            _log.warning(
                "the engine's counters cannot be read (--disable-log-stats?): if it is stuck, its "
                "health check shows it, or a token that does not come after all older requests"
            )
        return counters

    async def _generates(self) -> bool:
        try:
            return await self._ask()
        except WarmUpFailed:
            return False

    def _moved(self) -> None:
        self._asked = False
        self._still_seconds = 0.0
        self._first_in_queue_seconds = 0.0
        self._read_at_seconds = self._limit_seconds / _LOOKS
