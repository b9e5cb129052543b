"""The load: so many streams at once, each asking again as soon as it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic, process_time

from proxy.bench.endpoint import Endpoint
from proxy.bench.plan import Plan
from proxy.bench.prompt import FIRST_WORDS, SHAPES, Prompts, words_for
from proxy.bench.result import Level, Sample, level_of
from proxy.errors import BenchFailure
from proxy.tasks import spawn
from proxy.telemetry.record import Record

# An endpoint that refuses at once would else be asked thousands of times a second.
_PAUSE_SECONDS = 1.0
_WARM_UP_TOKENS = 16
_WARM_UP_SECONDS = 120.0
_REFUSED_FIELDS = ("400", "422")


def new_sample() -> Sample:
    return Sample(Record("POST", "/v1/chat/completions", "chat"))


async def prepare(endpoint: Endpoint, plan: Plan, model: str) -> tuple[Prompts, bool]:
    """Find out what the endpoint takes and how long its tokens are; this warms it up, too.

    Returns the prompts, and whether it counts tokens.

    Raises:
        BenchFailure: it answers no such request.
    """
    limit = min(plan.output_tokens, _WARM_UP_TOKENS)
    first_error = None
    for shape in SHAPES:
        prompts = Prompts(plan, model, shape, FIRST_WORDS)
        sample = await _warm_up(endpoint, prompts.body(FIRST_WORDS, limit))
        if sample.error is None:
            break
        first_error = first_error or sample.error
        if sample.error[0] not in _REFUSED_FIELDS:
            break
    if sample.error is not None:
        kind, message = first_error or sample.error
        raise BenchFailure(f"{plan.url}: the first request failed: {kind}: {message}")
    tokens = sample.record.prompt_tokens
    if not tokens:
        return Prompts(plan, model, shape, plan.input_tokens), False
    # At most so many tokens as are wanted: the context may hold no more.
    more = max(plan.input_tokens * FIRST_WORDS // tokens, FIRST_WORDS // 2)
    second = await _warm_up(endpoint, prompts.body(more, limit))
    words = more
    if second.error is None and second.record.prompt_tokens:
        pairs = sorted(((FIRST_WORDS, tokens), (more, second.record.prompt_tokens)))
        words = words_for(plan.input_tokens, pairs[0], pairs[1])
    return Prompts(plan, model, shape, words), True


async def _warm_up(endpoint: Endpoint, body: bytes) -> Sample:
    sample = new_sample()
    try:
        async with asyncio.timeout(_WARM_UP_SECONDS):
            await endpoint.ask(body, sample)
    except TimeoutError:
        sample.error = "no answer", f"not within {_WARM_UP_SECONDS:g} s"
    return sample


class LevelRun:
    """One level while it runs. Requests begin for `seconds`; those that still run after them are
    cut after `grace_seconds`."""

    def __init__(self, endpoint: Endpoint, streams: int, plan: Plan) -> None:
        self.samples: list[Sample] = []
        self.streams = streams
        self.started = monotonic()
        self._endpoint = endpoint
        self._plan = plan
        self._running: set[Sample] = set()
        self._closed = asyncio.Event()

    async def run(self, next_body: Callable[[], bytes], stop: asyncio.Event) -> Level:
        """Measure; `stop` ends it at once, with what there is."""
        cpu = process_time()
        workers = [
            spawn(self._stream(next_body), name=f"stream {number}")
            for number in range(self.streams)
        ]
        stopped = spawn(stop.wait(), name="stop")
        done = asyncio.gather(*workers, return_exceptions=True)
        plan, either = self._plan, {stopped, done}
        try:
            await asyncio.wait(either, timeout=plan.seconds, return_when="FIRST_COMPLETED")
            self._closed.set()
            window = monotonic() - self.started
            for sample in self._running:
                sample.window_events = sample.record.generated_events
            if not stop.is_set():
                await asyncio.wait(
                    either, timeout=plan.grace_seconds, return_when="FIRST_COMPLETED"
                )
        finally:
            for task in (stopped, *workers):
                task.cancel()
            for result in await done:
                if isinstance(result, Exception):  # a fault of ours is no measurement
                    raise result
        busy = (process_time() - cpu) / (monotonic() - self.started)
        return level_of(self.streams, window, self.samples, self._plan.slo_ttft_ms, busy)

    async def _stream(self, next_body: Callable[[], bytes]) -> None:
        while not self._closed.is_set():
            sample = new_sample()
            self.samples.append(sample)
            self._running.add(sample)
            try:
                await self._endpoint.ask(next_body(), sample)
            except asyncio.CancelledError:
                sample.unfinished = True
                sample.record.finish()
                raise
            finally:
                self._running.discard(sample)
            if sample.error is not None:
                try:
                    async with asyncio.timeout(_PAUSE_SECONDS):
                        await self._closed.wait()
                except TimeoutError:
                    pass
