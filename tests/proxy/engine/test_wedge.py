"""When an engine counts as stuck, and what never makes it one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from proxy.engine import wedge as wedge_module
from proxy.engine.server import Counters, ServerProbe, WarmUpFailed
from proxy.engine.wedge import WedgeWatch
from tests.patience import PATIENCE

LIMIT_SECONDS = 60.0


@dataclass
class Engine(ServerProbe):
    """An engine, the work it was sent, and the clock, all moved by hand."""

    owed: int = 1
    last_progress: float = 0.0
    oldest: float | None = 1000.0
    """When the oldest of its requests was sent."""
    now: float = 1000.0
    prompt_tokens: int = 14
    generated: int = 3
    kv_usage: float = 0.25
    metrics_read: int = 0
    keeps_counters: bool = True
    generates: bool | Exception | None = None
    """What comes of asking it for a token; None for nothing at all."""
    asked: int = 0
    trouble: asyncio.Event = field(default_factory=asyncio.Event)

    is_healthy: bool = True

    async def healthy(self) -> bool:
        return self.is_healthy

    async def served_models(self) -> tuple[str, ...]:
        return ("m",)

    async def counters(self) -> Counters:
        self.metrics_read += 1
        if not self.keeps_counters:
            return ()
        values = (self.prompt_tokens, self.generated, self.kv_usage)
        return tuple(str(value).encode() for value in values)

    async def warm_up(self, model: str) -> str | None:
        self.asked += 1
        if self.generates is None:
            await asyncio.Event().wait()
        if isinstance(self.generates, Exception):
            raise self.generates
        return "/v1/completions" if self.generates else None


@dataclass
class Watched:
    engine: Engine
    watch: WedgeWatch

    async def after(
        self, seconds: float, *, step: float = 1.0, healthy: bool = True
    ) -> tuple[str, float] | None:
        """What is symptom, and after how long, of an engine that is looked at for so long."""
        began = self.engine.now
        while self.engine.now - began < seconds:
            self.engine.now += step
            symptom = await self.watch.look(healthy=healthy)
            await asyncio.sleep(0)
            if symptom is not None:
                return symptom, self.engine.now - began
        return None


@asynccontextmanager
async def watching(limit_seconds: float, engine: Engine) -> AsyncIterator[Watched]:
    watch = WedgeWatch(limit_seconds, engine, engine, "m")
    yield Watched(engine, watch)
    watch.close()


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    engine = Engine()
    monkeypatch.setattr(wedge_module, "monotonic", lambda: engine.now)
    async with watching(LIMIT_SECONDS, engine) as watched:
        yield watched


async def test_an_engine_that_does_nothing_about_its_requests_is_stuck(watched: Watched) -> None:
    symptom = await watched.after(200)
    assert symptom is not None
    text, seconds = symptom
    assert LIMIT_SECONDS <= seconds <= LIMIT_SECONDS * 1.2
    assert text.startswith("1 request waits, and for 6")
    assert watched.engine.asked == 1
    assert watched.engine.metrics_read < 8, "not in every look"


async def test_several_requests_are_named_as_several(watched: Watched) -> None:
    watched.engine.owed = 3
    symptom = await watched.after(200)
    assert symptom is not None
    assert symptom[0].startswith("3 requests wait")


async def test_an_idle_engine_is_not_stuck_and_is_not_asked_anything(watched: Watched) -> None:
    watched.engine.owed = 0
    assert await watched.after(3600) is None
    assert (watched.engine.metrics_read, watched.engine.asked) == (0, 0)


async def test_the_first_request_after_an_idle_hour_gets_its_whole_time(watched: Watched) -> None:
    watched.engine.owed = 0
    await watched.after(3600)
    watched.engine.owed = 1
    assert await watched.after(LIMIT_SECONDS - 1) is None


async def test_a_stream_that_gets_tokens_costs_the_engine_no_question(watched: Watched) -> None:
    for _ in range(100):
        watched.engine.last_progress = watched.engine.now
        assert await watched.after(5) is None
    assert (watched.engine.metrics_read, watched.engine.asked) == (0, 0)


@pytest.mark.parametrize("counter", ["prompt_tokens", "generated"])
async def test_tokens_of_answers_that_are_not_streamed_are_work(
    watched: Watched, counter: str
) -> None:
    for number in range(100):
        setattr(watched.engine, counter, number)
        assert await watched.after(20) is None
    assert watched.engine.asked == 0


async def test_a_long_prefill_is_work(watched: Watched) -> None:
    for number in range(100):
        watched.engine.kv_usage = number / 100
        assert await watched.after(20) is None
    assert watched.engine.asked == 0


async def test_an_engine_that_generates_a_token_for_us_is_not_to_blame(watched: Watched) -> None:
    watched.engine.generates = True
    assert await watched.after(600) is None
    assert watched.engine.asked >= 5


@pytest.mark.parametrize("generates", [False, WarmUpFailed("/v1/completions answered 503")])
async def test_a_refusal_is_no_token(watched: Watched, generates: bool | Exception) -> None:
    watched.engine.generates = generates
    assert await watched.after(200) is not None


@pytest.fixture
def blind(watched: Watched) -> Watched:
    """An engine whose counters cannot be read."""
    watched.engine.keeps_counters = False
    return watched


async def test_without_counters_a_token_that_waits_behind_others_proves_nothing(
    blind: Watched,
) -> None:
    assert await blind.after(6000) is None
    assert blind.engine.asked == 1


async def test_without_counters_a_token_that_no_older_request_keeps_waiting_is_missed(
    blind: Watched,
) -> None:
    assert await blind.after(600) is None
    blind.engine.oldest = blind.engine.now  # all clients have left, and new ones have come
    symptom = await blind.after(200)
    assert symptom is not None
    text, seconds = symptom
    assert text.startswith("a token that was asked for to see has not come for 6")
    assert LIMIT_SECONDS <= seconds <= LIMIT_SECONDS * 1.2


async def test_without_counters_a_token_that_is_still_missing_when_all_have_left_is_told(
    blind: Watched,
) -> None:
    assert await blind.after(LIMIT_SECONDS) is None
    blind.engine.owed, blind.engine.oldest = 0, None
    assert await blind.after(200) is not None


@pytest.mark.parametrize("generates", [False, WarmUpFailed("/v1/completions answered 404")])
async def test_without_counters_a_refusal_proves_nothing(
    blind: Watched, generates: bool | Exception
) -> None:
    blind.engine.generates = generates
    blind.engine.oldest = None
    assert await blind.after(600) is None
    assert blind.engine.asked >= 5


async def test_counters_that_cannot_be_read_at_times_are_compared_with_those_before(
    watched: Watched,
) -> None:
    for number in range(100):
        watched.engine.keeps_counters = bool(number % 2)
        watched.engine.generated = number
        assert await watched.after(20) is None
    watched.engine.keeps_counters = True
    assert await watched.after(200) is not None


async def test_that_the_counters_cannot_be_read_is_logged_once(
    blind: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    await blind.after(600)
    (line,) = (line for line in caplog.messages if "counters" in line)
    assert "--disable-log-stats" in line


async def test_clients_that_give_up_early_do_not_hide_it(watched: Watched) -> None:
    for _ in range(4):
        watched.engine.owed = 1
        if await watched.after(20) is not None:
            return
        watched.engine.owed = 0
        assert await watched.after(20) is None
    pytest.fail("four clients of 20 s each waited in vain")


async def test_health_that_fails_for_good_is_told_even_where_nobody_asks(watched: Watched) -> None:
    watched.engine.owed = 0
    assert await watched.after(LIMIT_SECONDS - 1, healthy=False) is None
    assert await watched.after(1, healthy=True) is None
    symptom = await watched.after(200, healthy=False)
    assert symptom == ("its health check has failed for 60 s", LIMIT_SECONDS)


async def test_a_machine_that_slept_does_not_blame_the_engine(watched: Watched) -> None:
    assert await watched.after(20) is None
    assert await watched.after(36_000, step=36_000.0, healthy=False) is None
    assert await watched.after(10) is None


async def test_zero_never_finds_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr(wedge_module, "monotonic", lambda: engine.now)
    async with watching(0, engine) as watched:
        assert await watched.after(600) is None
        assert await watched.after(600, healthy=False) is None
        assert watched.watch.pause_seconds == 1
    assert (engine.metrics_read, engine.asked) == (0, 0)


async def test_request_that_fails_has_its_engine_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for pause in ("_LOOK_SECONDS", "_MIN_PAUSE_SECONDS"):
        monkeypatch.setattr(wedge_module, pause, 2 * PATIENCE)
    looks: list[bool] = []
    looked = asyncio.Event()

    def look(healthy: bool) -> None:
        looks.append(healthy)
        looked.set()

    async with watching(100 * PATIENCE, Engine()) as watched:
        watched.engine.is_healthy = False
        watching_it = asyncio.create_task(watched.watch.until_wedged(look))
        await asyncio.sleep(0)
        for _ in range(50):
            watched.engine.trouble.set()
            await asyncio.sleep(0.001)
        await asyncio.wait_for(looked.wait(), PATIENCE)
        assert looks == [False], "once, however many fail"
        watching_it.cancel()


async def test_short_limits_are_looked_at_often() -> None:
    async with watching(0.6, Engine()) as watched:
        assert watched.watch.pause_seconds == pytest.approx(0.1)
