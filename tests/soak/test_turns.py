"""Two models take turns under load, one loaded at a time.

`make test` runs a short form. `SOAK_SWAPS=20 make test TESTS=tests/soak` is the long one; with `-s`
it prints its figures.
"""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Line, Service, wait_until
from tests.patience import PATIENCE, on_a_clock
from tests.soak.figures import check_access_lines, wait_until_idle
from tests.soak.load import Load, under_load
from tests.wire.several import engines_of, several

SWAPS = int(os.environ.get("SOAK_SWAPS", "4"))
CLIENTS = 16
# Memory is compared from this swap on: the first ones load code and fill pools.
_SETTLED = 5
_GROWTH_MIB = 8.0
TURNS = {"MAX_LOADED_MODELS": "1", "SWAP_MAX_WAIT_SECONDS": "0.5"}


def loads(service: Service) -> list[Line]:
    lines = service.lines("proxy.pool")
    return [line for line in lines if line.get("action") == "load" and line["outcome"] == "ok"]


def wait_for_swaps(service: Service, count: int, seconds: float) -> None:
    wait_until(lambda: len(loads(service)) > count, seconds, "a swap")


def figures(service: Service, load: Load, memory: list[float], seconds: float) -> str:
    waits = sorted(line.get("model_wait_ms", 0) for line in service.lines("proxy.access"))
    p50, p99 = (waits[int(len(waits) * share)] / 1000 for share in (0.5, 0.99))
    taken = Counter(re.findall(r"\S+ takes [\d.]+ GiB", service.text()))
    return (
        f"{len(loads(service))} loads, {sum(load.ends.values())} requests: {dict(load.ends)}; a "
        f"load took {seconds:.1f} s; waited p50 {p50:.2f} s, p99 {p99:.2f} s, longest "
        f"{waits[-1] / 1000:.2f} s; the sidecar's memory after each (MiB): "
        f"{[round(each, 1) for each in memory]}; {service.open_files()} files open; {dict(taken)}"
    )


def soak(service: Service, load: Load, swaps: int, patience: float, kill_every: int = 0) -> None:
    """`kill_every`: after so many swaps the engine that is loaded is killed."""
    choice = random.Random(7)
    memory: list[float] = []
    with under_load(load, CLIENTS):
        for number in range(1, swaps + 1):
            wait_for_swaps(service, number, patience)
            memory.append(service.memory_mib())
            if kill_every and number % kill_every == 0:
                for pid in choice.sample(sorted(engines_of(service).values()), 1):
                    os.kill(pid, signal.SIGKILL)
    done = loads(service)
    text = figures(service, load, memory, sum(line["seconds"] for line in done) / len(done))
    print(f"\n{text}")
    assert load.lies == [], text
    check_access_lines(service, load)
    assert kill_every or set(load.ends) == {"whole"}, text
    assert {line["model"] for line in done} == set(load.models)
    wait_until_idle(service)
    assert service.metric("sidecar_requests_waiting") == 0
    if swaps > _SETTLED:
        assert memory[-1] - memory[_SETTLED] < _GROWTH_MIB, text
    assert service.open_files() < 60, text
    service.terminate()
    assert service.exit_code(patience) == 0
    service.assert_nothing_is_left(0)


def two_models(service: Service) -> Load:
    service.client.headers["authorization"] = "Bearer sk-bob"
    return Load(service.url, models=("one", "two"), key="sk-bob")


def test_a_load_on_two_models_that_take_turns_is_answered_whole(tmp_path: Path) -> None:
    with several(tmp_path, **TURNS) as service:
        service.wait_for("ready", PATIENCE)
        soak(service, two_models(service), SWAPS, PATIENCE)


@on_a_clock("an engine that loses its place in the moment of its kill is not started again")
def test_engines_that_take_turns_are_killed_and_every_client_is_told(tmp_path: Path) -> None:
    with several(tmp_path, **TURNS, MAX_RESTARTS="1000") as service:
        service.wait_for("ready", PATIENCE)
        soak(service, two_models(service), SWAPS, PATIENCE, kill_every=2)
        assert "restarting" in service.phases()


@pytest.mark.engine
@pytest.mark.alone
@pytest.mark.skipif(SWAPS < 10, reason="minutes; only in the long form")
def test_real_engines_take_turns(tmp_path: Path) -> None:
    names = {"MODEL_NAME": "demo,demo-text", "MAX_MODEL_LEN": "512"}
    with Service(tmp_path, **names, **TURNS) as service:
        service.wait_for("ready", READY_SECONDS)
        # A model keeps its place for as long as its load took.
        patience = 5 * READY_SECONDS
        load = Load(service.url, ("demo", "demo-text"), fake=False, max_wait_seconds=patience)
        soak(service, load, SWAPS, patience)
