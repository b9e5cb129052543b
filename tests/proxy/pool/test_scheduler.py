"""The scheduler on a simulated clock. Several tests have the name of a bug of another project."""

from __future__ import annotations

import asyncio

import pytest

from proxy.pool.plan import Action, ModelState, Reason
from proxy.pool.scheduler import RETRY_SECONDS, Outcome
from proxy.tasks import spawn
from tests.proxy.pool.simulated import FakeModel, Gone, LoadFailed, Pod, Served, now, simulated


def client(
    model: FakeModel, seconds: float = 1.0, patience: float | None = None
) -> asyncio.Task[Served]:
    return spawn(model.request(seconds, patience), name=f"client of {model.name}")


async def keep_busy(model: FakeModel, until: float) -> None:
    """There is always a request that runs."""
    first = spawn(agent(model, until, pause=0), name="first")
    await asyncio.sleep(1)
    await agent(model, until, pause=0)
    await first


async def agent(model: FakeModel, until: float, pause: float = 1.0) -> list[Served]:
    """One request after the other."""
    served = []
    while now() < until:
        served.append(await model.request(2.0))
        await asyncio.sleep(pause)
    return served


@simulated
async def test_the_first_model_is_loaded_at_once_and_the_others_while_there_is_room() -> None:
    a, b, c = (FakeModel(name, memory_bytes=5) for name in "abc")
    async with Pod(a, b, c, preload="abc") as pod:
        await asyncio.sleep(100)
        assert pod.loads() == ["a", "b"]
        assert [each.step.reason for each in pod.transitions] == [Reason.ORDERED, Reason.PRELOAD]


@simulated
async def test_a_request_loads_its_model_and_an_idle_one_gives_way() -> None:
    a, b = FakeModel("a"), FakeModel("b")
    async with Pod(a, b, preload="a") as pod:
        await a.request(1)
        await asyncio.sleep(30)
        served = await b.request(1)
        assert served.waited == pytest.approx(a.unload_seconds + b.load_seconds)
        assert pod.loads() == ["a", "b"]
        assert a.state is ModelState.UNLOADED


@simulated
async def test_both_bounds_hold_for_a_busy_model() -> None:
    """The waiting one gets its turn after SWAP_MAX_WAIT_SECONDS and what runs, never sooner."""

    a, b = FakeModel("a", load_seconds=20), FakeModel("b", load_seconds=20)
    async with Pod(a, b, preload="a", max_wait_seconds=60):
        await a.request(1)
        busy = spawn(keep_busy(a, 300), name="busy")
        await asyncio.sleep(1)
        asked = now()
        served = await b.request(1)
        assert served.came == asked
        assert 60 <= served.waited - b.load_seconds - a.unload_seconds <= 60 + 2
        await busy


@simulated
async def test_residency_goes_before_the_wait_where_a_load_takes_longer() -> None:
    a, b = FakeModel("a", load_seconds=300), FakeModel("b", load_seconds=300)
    async with Pod(a, b, preload="a", max_wait_seconds=10):
        waiting = client(b)
        await a.request(1)
        ready = a.since
        await waiting
        assert b.since == pytest.approx(ready + 300 + a.unload_seconds + 300)


@simulated
async def test_llmux_210b1b0_a_model_serves_those_who_waited_before_it_gives_way() -> None:
    """Both models always have requests that wait, loads take no time, and nothing may be passed
    over: released requests were not yet counted, and each load ended without an answer."""

    a, b = (FakeModel(name, load_seconds=0, unload_seconds=0) for name in "ab")
    async with Pod(a, b, max_wait_seconds=0) as pod:
        clients = [client(model, 0.5) for _ in range(20) for model in (a, b)]
        await asyncio.gather(*clients)
        assert len(a.served) == len(b.served) == 20
        assert len(pod.loads()) <= 4


@simulated
async def test_llmux_f722a4e_a_client_that_leaves_leaves_no_engine_behind() -> None:
    """A client's timeout cancelled the switch half-way, and a second engine was started."""

    a, b = FakeModel("a", load_seconds=40), FakeModel("b", load_seconds=40)
    async with Pod(a, b) as pod:
        leaver = client(a, patience=25)
        await asyncio.sleep(5)
        stayer = client(b)
        with pytest.raises(Gone):
            await leaver
        assert a.state is ModelState.LOADING  # more than half done: it is finished
        await stayer
        assert pod.loads() == ["a", "b"]
        assert (a.loads, b.loads) == (1, 1)


@simulated
async def test_mold_1500_planning_anew_does_not_restart_the_clock_of_a_wait() -> None:
    a, b = FakeModel("a"), FakeModel("b")
    async with Pod(a, b, preload="a", max_wait_seconds=60) as pod:
        await a.request(1)
        busy = spawn(keep_busy(a, 200), name="busy")
        waiting = client(b)
        asked = now()
        while a.state is ModelState.READY and not a.is_closing:
            pod.scheduler.notify()
            await asyncio.sleep(0.5)
        assert now() - asked == pytest.approx(60, abs=0.6)
        await asyncio.gather(waiting, busy)


@simulated
async def test_llama_swap_946_a_request_that_meets_an_idle_unload_is_served() -> None:
    """It came while the time to live ran out, and the whole group hung."""

    a = FakeModel("a", idle_unload_seconds=10)
    async with Pod(a) as pod:
        await a.request(1)
        for early in (0.001, 0, -0.001, -0.5):
            await asyncio.sleep(a.last_used + 10 - early - now())
            await a.request(1)
        assert len(a.served) == 5
        assert 2 <= len(pod.loads()) <= 4


@simulated
async def test_llama_swap_612_agents_that_alternate_do_not_spend_their_time_loading() -> None:
    a, b = FakeModel("a", load_seconds=30), FakeModel("b", load_seconds=30)
    async with Pod(a, b, max_wait_seconds=60) as pod:
        agents = spawn(agent(a, 3600), name="a"), spawn(agent(b, 3600), name="b")
        served = [each for got in await asyncio.gather(*agents) for each in got]
        assert len(pod.loads()) <= 3600 / (2 * 30) + 1
        assert len(served) > 500
        assert max(each.waited for each in served) <= 60 + 2 + 2 + 2 * 30


@simulated
async def test_llama_swap_727_a_load_that_nobody_waits_for_any_more_is_called_off() -> None:
    a, b = FakeModel("a", load_seconds=100), FakeModel("b")
    async with Pod(a, b) as pod:
        leaver = client(a, patience=10)
        await asyncio.sleep(20)
        with pytest.raises(Gone):
            await leaver
        served = await b.request(1)
        assert served.waited == pytest.approx(a.unload_seconds + b.load_seconds)
        assert pod.loads() == ["b"]
        reasons = [each.step.reason for each in pod.transitions]
        assert Reason.ABANDONED in reasons
        assert Outcome.ABANDONED in [each.outcome for each in pod.transitions]


@simulated
async def test_a_load_goes_on_where_nobody_needs_the_place_for_clients_that_come_again() -> None:
    """Clients that are less patient than a load is long would else never be served."""

    a = FakeModel("a", load_seconds=100)
    async with Pod(a):
        for attempt in range(20):  # noqa: B007
            try:
                await a.request(1, patience=30)
            except Gone:
                continue
            break
        assert attempt == 3


@simulated
async def test_ollama_a_blocked_head_blocks_nobody_else() -> None:
    a = FakeModel("a", gpus=(0,), memory_bytes=6)
    head = FakeModel("head", gpus=(0, 1), memory_bytes=10)
    small = FakeModel("small", gpus=(1,), memory_bytes=4)
    async with Pod(a, head, small, preload=["a"], max_wait_seconds=60):
        await a.request(1)
        busy = spawn(keep_busy(a, 300), name="busy")
        blocked = client(head)
        await asyncio.sleep(0)
        served = await small.request(1)
        assert served.waited == pytest.approx(small.load_seconds)
        assert (await blocked).waited < 60 + 2 + 3 * 10
        await busy


@simulated
async def test_requests_for_a_model_that_can_never_fit_are_refused_and_keep_no_place_free() -> None:
    a = FakeModel("a", memory_bytes=6, pinned=True)
    giant, small = FakeModel("giant", memory_bytes=5), FakeModel("small", memory_bytes=4)
    async with Pod(a, giant, small, preload=["a"], max_wait_seconds=5) as pod:
        with pytest.raises(LoadFailed):
            await giant.request(1)
        await asyncio.sleep(50)
        assert (await small.request(1)).waited == pytest.approx(small.load_seconds)
        text = "giant takes 0.0 GiB, but does not fit beside a (pinned)"
        assert pod.scheduler.obstacle("giant") == text


@simulated
async def test_those_that_were_to_give_way_go_on_when_the_place_is_not_needed_any_more() -> None:
    a, b = FakeModel("a"), FakeModel("b")
    async with Pod(a, b, preload="a", max_wait_seconds=20) as pod:
        await a.request(1)
        long = client(a, 200)
        leaver = client(b, patience=50)
        await asyncio.sleep(30)
        assert a.is_closing
        late = client(a)
        with pytest.raises(Gone):
            await leaver
        assert (await late).waited == pytest.approx(20)
        await long
        assert pod.loads() == ["a"]


@simulated
async def test_the_least_recently_used_gives_way_weighed_by_its_load() -> None:
    slow = FakeModel("slow", memory_bytes=5, load_seconds=100)
    quick = FakeModel("quick", memory_bytes=5, load_seconds=5)
    new = FakeModel("new", memory_bytes=5)
    async with Pod(slow, quick, new):
        await slow.request(1)
        await quick.request(1)
        await asyncio.sleep(200)
        await new.request(1)
        assert slow.state is ModelState.READY
        assert quick.state is ModelState.UNLOADED


@simulated
async def test_a_model_that_was_never_measured_starts_alone_and_then_has_neighbours() -> None:
    a = FakeModel("a", memory_bytes=5)
    b = FakeModel("b", memory_bytes=5, is_measured=False)
    async with Pod(a, b, preload="ab") as pod:
        await asyncio.sleep(30)
        assert b.state is ModelState.UNLOADED
        await b.request(1)
        assert a.state is ModelState.UNLOADED
        await a.request(1)
        assert b.view.state is ModelState.READY
        assert pod.loads() == ["a", "b", "a"]


@simulated
async def test_a_model_that_was_never_measured_starts_beside_pinned_ones() -> None:
    a = FakeModel("a", memory_bytes=5, pinned=True)
    b = FakeModel("b", memory_bytes=5, is_measured=False)
    async with Pod(a, b, preload="ab"):
        await b.request(1)
        assert a.state is ModelState.READY


@simulated
async def test_models_on_different_gpus_load_at_the_same_time() -> None:
    a, b = FakeModel("a", gpus=(0,)), FakeModel("b", gpus=(1,))
    async with Pod(a, b):
        both = await asyncio.gather(client(a), client(b))
        assert [each.waited for each in both] == pytest.approx([10, 10])


@simulated
async def test_at_most_so_many_are_loaded_whatever_would_fit() -> None:
    a, b = FakeModel("a", gpus=(0,), memory_bytes=1), FakeModel("b", gpus=(1,), memory_bytes=1)
    async with Pod(a, b, preload="ab", max_loaded=1) as pod:
        await a.request(1)
        await b.request(1)
        assert a.state is ModelState.UNLOADED
        assert pod.loads() == ["a", "b"]


@simulated
async def test_a_pinned_model_never_gives_way_and_comes_back() -> None:
    a, b = FakeModel("a"), FakeModel("b")
    async with Pod(a, b, preload="b", max_wait_seconds=30):
        await b.request(1)
        a.pinned = True
        a.changed()
        await asyncio.sleep(100)
        assert a.state is ModelState.READY
        a.pinned = False
        assert (await b.request(1)).waited == pytest.approx(11)


@simulated
async def test_a_load_that_fails_is_not_tried_again_at_once() -> None:
    a, b = FakeModel("a", failures=1), FakeModel("b")
    async with Pod(a, b) as pod:
        with pytest.raises(LoadFailed):
            await a.request(1)
        assert (await b.request(1)).waited == pytest.approx(b.load_seconds)
        a.state = ModelState.UNLOADED  # its supervisor would try again
        served = await a.request(1)
        assert served.waited >= RETRY_SECONDS - 15
        assert pod.transitions[0].outcome is Outcome.FAILED


@simulated
async def test_a_failed_model_is_loaded_again_by_order_only() -> None:
    a = FakeModel("a", failures=1)
    async with Pod(a, preload="a") as pod:
        with pytest.raises(LoadFailed):
            await a.request(1)
        await asyncio.sleep(10 * RETRY_SECONDS)
        assert a.loads == 1
        pod.scheduler.order_load("a")
        await asyncio.sleep(11)
        assert a.state is ModelState.READY


@simulated
async def test_a_load_that_was_decided_in_the_moment_of_the_stop_is_not_begun() -> None:
    a = FakeModel("a")
    async with Pod(a) as pod:
        pod.scheduler.order_load("a")
        await asyncio.sleep(0)
        assert pod.scheduler.transition("a") is not None
    assert a.loads == 0
    assert [each.outcome for each in pod.transitions] == [Outcome.ABANDONED]


@simulated
async def test_a_load_is_due_that_was_ordered_or_is_under_way_or_has_room_from_the_start() -> None:
    """A request for such a model does not bring its load about."""

    a, b, c = (FakeModel(name, memory_bytes=5) for name in "abc")
    async with Pod(a, b, c, preload="abc") as pod:
        coming = [pod.scheduler.is_coming(name) for name in "abc"]
        assert coming == [True, True, True], "the budget holds two, and none is loaded yet"
        await a.request(1)
        assert [pod.scheduler.is_coming(name) for name in "abc"] == [False, True, False]
        await asyncio.sleep(100)
        assert [pod.scheduler.is_coming(name) for name in "abc"] == [False, False, False]
        pod.scheduler.order_load("c")
        assert pod.scheduler.is_coming("c")


@simulated
async def test_an_unload_by_order_lets_requests_finish() -> None:
    a = FakeModel("a")
    async with Pod(a) as pod:
        running = client(a, 100)
        await asyncio.sleep(20)
        pod.scheduler.order_unload("a")
        await asyncio.sleep(0.1)
        assert a.is_closing
        late = client(a)
        await running
        assert (await late).waited > 80
        actions = [each.step.action for each in pod.transitions]
        assert actions == [Action.LOAD, Action.UNLOAD, Action.LOAD]


@simulated
async def test_the_end_of_the_scheduler_ends_a_load_under_way() -> None:
    a = FakeModel("a", load_seconds=1000)
    async with Pod(a, preload="a"):
        await asyncio.sleep(10)
    assert a.state is ModelState.UNLOADED
    assert now() < 20


@simulated
async def test_a_model_that_sleeps_is_woken_in_the_time_of_a_wake() -> None:
    a, b = FakeModel("a", may_sleep=True, wake_seconds=2), FakeModel("b", asleep_bytes=0)
    async with Pod(a, b, preload="a") as pod:
        await asyncio.sleep(30)
        await b.request(1)
        assert a.state is ModelState.ASLEEP
        await asyncio.sleep(30)
        served = await a.request(1)
        assert served.waited == pytest.approx(b.unload_seconds + a.wake_seconds)
        actions = [each.step.action for each in pod.transitions]
        assert actions == [Action.LOAD, Action.SLEEP, Action.LOAD, Action.UNLOAD, Action.LOAD]


@simulated
async def test_a_sleep_or_a_wake_that_fails_is_told_and_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "proxy.pool")

    a = FakeModel("a", may_sleep=True, sleep_failures=1, wakes_badly=True)
    b = FakeModel("b")
    async with Pod(a, b, preload="a"):
        await asyncio.sleep(30)
        await b.request(1)
        assert a.state is ModelState.UNLOADED
        for model in (a, b, a, b):
            await asyncio.sleep(60)
            await model.request(1)
        assert a.state is ModelState.UNLOADED, "it sleeps no more"
    assert "a: unloaded, as it does not sleep, after 1.0 s (it gives way to b)" in caplog.text
    assert "a: asleep after 1.0 s (it gives way to b)" in caplog.text
    assert "a: not woken, its engine failed after 1.0 s (a request waits for it)" in caplog.text


@simulated
async def test_an_order_to_unload_ends_a_model_in_its_sleep_also_while_it_falls_asleep() -> None:
    a, b = FakeModel("a", may_sleep=True, unload_seconds=5), FakeModel("b")
    async with Pod(a, b, preload="a") as pod:
        await asyncio.sleep(30)
        asked = client(b)
        await asyncio.sleep(1)
        running = pod.scheduler.transition("a")
        assert running is not None
        assert running.action is Action.SLEEP
        pod.scheduler.order_unload("a")
        await asked
        assert a.state is ModelState.UNLOADED
        assert [each.step.action for each in pod.transitions][:3] == [
            Action.LOAD,
            Action.SLEEP,
            Action.UNLOAD,
        ]


@simulated
async def test_the_end_of_the_scheduler_ends_models_that_sleep_or_fall_asleep(
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b = (FakeModel(name, may_sleep=True, idle_unload_seconds=20) for name in "ab")
    a.unload_seconds = 50
    async with Pod(a, b, budget_bytes=20, preload="ab"):
        await asyncio.sleep(45)
        assert (a.state, b.state) == (ModelState.UNLOADING, ModelState.READY)
    assert (a.state, b.state) == (ModelState.UNLOADED, ModelState.UNLOADED)
    async with Pod(b, preload="b"):
        await asyncio.sleep(45)
        assert b.view.state is ModelState.ASLEEP
    assert b.state is ModelState.UNLOADED
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
