"""What holds whatever arrives: hypothesis draws pods and requests, and the clock is simulated.

`simulated.py` checks at each load and unload: one transition at a time on a device, never over the
budget, never a busy or pinned model, residency, no younger wish before an overdue one. Here is
checked what shows only at the end: each request was served or left by itself, in bounded time.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from proxy.pool.plan import Action, Reason
from proxy.pool.scheduler import Outcome
from proxy.tasks import spawn
from tests.proxy.pool.simulated import TOLERANCE, FakeModel, Gone, LoadFailed, Pod, simulate

_BUDGET = 10
_GPUS = ((0,), (1,), (0, 1))


@dataclass(frozen=True)
class Arrival:
    pause: float
    """Seconds after the one before."""
    model: int
    seconds: float
    """How long its answer takes."""
    patience: float | None = None


@dataclass(frozen=True)
class Scenario:
    models: list[FakeModel]
    max_loaded: int | None
    max_wait_seconds: float
    preload: bool
    arrivals: list[Arrival]


_seconds = st.sampled_from([0.0, 0.5, 3.0, 20.0, 90.0])


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    on_cpu = draw(st.booleans())
    models = [
        FakeModel(
            name,
            gpus=() if on_cpu else draw(st.sampled_from(_GPUS)),
            memory_bytes=draw(st.integers(1, _BUDGET)),
            load_seconds=draw(_seconds),
            unload_seconds=draw(st.sampled_from([0.0, 1.0, 8.0])),
            idle_unload_seconds=draw(st.sampled_from([0.0, 0.0, 5.0, 60.0])),
            is_measured=draw(st.booleans()),
            failures=draw(st.sampled_from([0, 0, 0, 1])),
            may_sleep=draw(st.booleans()),
            asleep_bytes=draw(st.integers(0, 3)),
            wake_seconds=draw(st.sampled_from([0.5, 5.0])),
            sleep_failures=draw(st.sampled_from([0, 0, 0, 1])),
            wakes_badly=draw(st.sampled_from([False, False, False, True])),
        )
        for name in "abcd"[: draw(st.integers(1, 4))]
    ]
    if draw(st.sampled_from([False, False, True])):
        models[0].pinned = True
    arrival = st.builds(
        Arrival,
        st.sampled_from([0.0, 0.0, 0.1, 2.0, 15.0, 200.0]),
        st.integers(0, len(models) - 1),
        _seconds,
        st.sampled_from([None, None, 0.0, 1.0, 30.0]),
    )
    return Scenario(
        models,
        draw(st.sampled_from([None, None, 1, 2])),
        draw(st.sampled_from([0.0, 10.0, 60.0])),
        draw(st.booleans()),
        draw(st.lists(arrival, max_size=40)),
    )


async def play(scenario: Scenario) -> Pod:
    """Let all arrive, wait for each, and check what was promised to them."""
    models = scenario.models
    pod = Pod(
        *models,
        budget_bytes=_BUDGET,
        max_loaded=scenario.max_loaded,
        max_wait_seconds=scenario.max_wait_seconds,
        preload=[model.name for model in models] if scenario.preload else [],
    )
    outcomes = {"served": 0, "gone": 0, "failed": 0, "refused": 0}

    async def client(arrival: Arrival) -> None:
        model = models[arrival.model]
        # As the sidecar does: what can never be loaded is refused, and what has failed.
        if pod.scheduler.obstacle(model.name) or model.state == "failed":
            outcomes["refused"] += 1
            return
        try:
            served = await model.request(arrival.seconds, arrival.patience)
        except Gone:
            outcomes["gone"] += 1
        except LoadFailed:
            outcomes["failed"] += 1
        else:
            outcomes["served"] += 1
            assert served.waited <= longest_wait(scenario), f"{served} has starved"

    async with pod:
        clients = []
        for arrival in scenario.arrivals:
            await asyncio.sleep(arrival.pause)
            clients.append(spawn(client(arrival), name="client"))
        await asyncio.gather(*clients)
    assert sum(outcomes.values()) == len(scenario.arrivals)
    check_transitions(scenario, pod)
    return pod


def longest_wait(scenario: Scenario) -> float:
    """The wait until overdue, and then one turn for each older wish and for the own: what loads,
    its residency, what runs, the unloads and the load."""
    models = scenario.models
    load = max(model.load_seconds + model.wake_seconds for model in models)
    unload = 2 * sum(model.unload_seconds for model in models)  # to sleep, and to end then
    runs = max((arrival.seconds for arrival in scenario.arrivals), default=0.0)
    turn = load + load + runs + unload + load
    return scenario.max_wait_seconds + len(models) * turn + TOLERANCE


def check_transitions(scenario: Scenario, pod: Pod) -> None:
    """Each load was wanted by somebody, and none was for nothing."""
    loads = [each for each in pod.transitions if each.step.action is Action.LOAD]
    wanted = len(scenario.arrivals) + len(scenario.models) + sum(m.pinned for m in scenario.models)
    assert len(loads) <= 2 * wanted
    makes_room = [each for each in pod.transitions if each.step.reason is Reason.MAKE_ROOM]
    assert len(makes_room) <= len(scenario.models) * len(loads)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios())
def test_whatever_arrives_is_served_in_bounded_time_within_the_budget(scenario: Scenario) -> None:
    pod = simulate(play(scenario))
    event(f"loads: {len(pod.loads()) // 5 * 5}+")


def test_a_long_day_of_four_models_on_two_gpus() -> None:
    """One seed, 1500 requests, some of them impatient."""
    draw = random.Random(16)
    models = [
        FakeModel("chat", (0,), 6, load_seconds=50),
        FakeModel("embed", (0,), 3, load_seconds=15),
        FakeModel("vision", (0, 1), 7, load_seconds=90, is_measured=False),
        FakeModel("small", (1,), 4, load_seconds=8, idle_unload_seconds=120),
    ]
    arrivals = [
        Arrival(
            draw.expovariate(1 / 3),
            draw.choices(range(4), weights=(8, 4, 1, 2))[0],
            draw.expovariate(1 / 4),
            draw.choice((None, None, None, 20.0, 60.0)),
        )
        for _ in range(1_500)
    ]
    pod = simulate(play(Scenario(models, None, 60.0, True, arrivals)))
    assert sum(len(model.served) for model in models) > 1_200
    assert all(model.served for model in models)
    assert any(each.outcome is Outcome.ABANDONED for each in pod.transitions)
    assert len(pod.loads()) > 20
