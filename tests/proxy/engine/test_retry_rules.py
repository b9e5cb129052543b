"""The engine is killed, and clients ask again by the rules that they have: they get through.

A table, as most of these clients are not here; test_clients_that_retry.py has those that are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from proxy.errors import MAX_HEEDED_SECONDS
from tests.proxy.engine.conftest import Clock


def sdk_back_off(retry: int) -> float:
    return min(0.5 * 2.0**retry, 8.0) * 0.75  # the least that its jitter leaves


def doubling(first_seconds: float) -> Callable[[int], float]:
    return lambda retry: first_seconds * 2.0**retry


class Client(NamedTuple):
    """How often it asks again, and when.

    A `Retry-After` up to `heeds` seconds is obeyed. One that is longer ends it where it `gives_up`;
    else it goes on by its own `back_off`.
    """

    retries: int
    heeds: float
    back_off: Callable[[int], float] = sdk_back_off
    gives_up: bool = False


BELOW_A_MINUTE = 59.999
FOR_EVER = 1e9
CLIENTS = {
    "openai-python 1, 2": Client(2, 60),  # _base_client.py, _calculate_retry_timeout
    "openai-python 2.54, 3": Client(2, 120, gives_up=True),
    "anthropic-python 0": Client(2, 60),
    "anthropic-python 2": Client(2, FOR_EVER),
    "openai-node 4, 5": Client(2, BELOW_A_MINUTE),  # client.ts, retryRequest
    "openai-node 6": Client(2, FOR_EVER),
    "anthropic-node 0": Client(2, BELOW_A_MINUTE),
    "anthropic-node 1": Client(2, FOR_EVER),
    # retry-with-exponential-backoff.ts
    "AI SDK 5, 6": Client(2, BELOW_A_MINUTE, doubling(2.0)),
    "pydantic-ai": Client(2, 60),  # openai-python 2, as it is
    "haystack": Client(5, 60),  # openai-python with OPENAI_MAX_RETRIES
    "dspy": Client(3, 60),  # litellm gives openai-python its num_retries
    "langchain-js": Client(6, 0, doubling(1.0)),  # p-retry, which reads no header
}

# Of a start: what it spends in each phase, as a share.
SHARES = {Phase.LOADING: 0.7, Phase.COMPILING: 0.25, Phase.WARMING: 0.05}
NOTICED_SECONDS = 0.2
BACK_OFF_SECONDS = 1.0


def start_of(seconds: float) -> dict[Phase, float]:
    return {phase: share * seconds for phase, share in SHARES.items()}


class Killed:
    """The state of an engine that was killed at second 0, and is back after a start."""

    def __init__(self, clock: Clock, known: float, seconds: float) -> None:
        """`known`: how long its last start took; 0 where it is the first one."""
        self._clock, self._killed = clock, clock.now
        self._state = EngineState()
        self._state.update(expected_seconds=start_of(known) if known else {})
        self._state.enter(Phase.READY)
        self._life = [(NOTICED_SECONDS, Phase.RESTARTING)]
        at = NOTICED_SECONDS + BACK_OFF_SECONDS
        for phase, spent in start_of(seconds).items():
            self._life.append((at, phase))
            at += spent
        self.back = at
        self._known = known

    def ask(self, at: float) -> int | None:
        """What a client is told at this second; None where the engine takes its request."""
        if at >= self.back:
            return None
        while self._life and self._life[0][0] <= at:
            second, phase = self._life.pop(0)
            self._clock.now = self._killed + second
            eta_seconds = None
            if phase is Phase.RESTARTING and self._known:
                eta_seconds = BACK_OFF_SECONDS + self._known
            self._state.enter(phase, eta_seconds=eta_seconds)
        self._clock.now = self._killed + at
        return self._state.retry_after()


def retries_of(client: Client, engine: Killed, at: float) -> int | None:
    """How often it had to ask again, from this second on; None where it gave up."""
    for retry in range(client.retries + 1):
        wait = engine.ask(at)
        if wait is None:
            return retry
        assert 1 <= wait <= MAX_HEEDED_SECONDS
        if wait > client.heeds and client.gives_up:
            return None
        at += wait if wait <= client.heeds else client.back_off(retry)
    return None


each_client = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
each_moment = pytest.mark.parametrize("at", [0.0, 0.1, 0.5, 3.0, 12.0, 24.0, 33.0, 36.0])


@each_client
@each_moment
@pytest.mark.parametrize("longer", [0.5, 1.0, 1.1, 1.18])
def test_the_first_retry_finds_a_start_that_takes_a_little_longer_over(
    clock: Clock, client: Client, at: float, longer: float
) -> None:
    engine = Killed(clock, 35.0, 35.0 * longer)
    retries = retries_of(client, engine, at)
    assert retries is not None
    assert retries <= 1 or not client.heeds


@each_client
@each_moment
def test_a_start_of_half_as_long_again_is_waited_for(
    clock: Clock, client: Client, at: float
) -> None:
    assert retries_of(client, Killed(clock, 35.0, 35.0 * 1.45), at) is not None


@each_client
@each_moment
def test_a_first_start_of_which_nothing_is_known_is_waited_for(
    clock: Clock, client: Client, at: float
) -> None:
    assert retries_of(client, Killed(clock, 0.0, 35.0), at) is not None


@pytest.mark.parametrize("client", [c for c in CLIENTS.values() if c.heeds])
def test_a_start_of_nearly_two_minutes_takes_both_retries(clock: Clock, client: Client) -> None:
    for at in range(0, 100, 7):
        assert retries_of(client, Killed(clock, 110.0, 112.0), float(at)) is not None


def test_a_wait_that_clients_do_not_heed_would_fail_here(clock: Clock) -> None:
    engine = Killed(clock, 35.0, 35.0)
    impatient = Client(2, 0)
    assert retries_of(impatient, engine, 0.0) is None
