"""The engine's processes are killed under load, one time after the other.

`make test` runs a short form. `SOAK_KILLS=30 make test TESTS=tests/soak` is the long one; with
`-s` it prints its figures.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Running, Service, alive, command_line, wait_until
from tests.patience import PATIENCE, on_a_clock
from tests.proxy.engine.living import CHILDREN, starting
from tests.soak.figures import check_access_lines, wait_until_idle
from tests.soak.load import Load, under_load

KILLS = int(os.environ.get("SOAK_KILLS", "4"))
CLIENTS = 16
# Memory is compared from this kill on: the first ones load code and fill pools.
_SETTLED = 5
_GROWTH_MIB = 8.0


def processes(service: Service) -> dict[str, Running]:
    """The engine's: its guard, its server and its core."""
    found = {}
    for each in service.tree():
        line = command_line(each.pid)
        if "guard.py" in line:
            found["guard"] = each
        elif line.startswith("VLLM::EngineCore"):
            found["core"] = each
        elif " serve " in line:
            found["server"] = each
    return found


def wait_for_work(service: Service, load: Load) -> None:
    """Answers have come out whole again, and others are on their way."""
    whole = load.ends["whole"]
    wait_until(lambda: load.ends["whole"] >= whole + CLIENTS, PATIENCE, "whole answers")
    wait_until(
        lambda: service.metric("sidecar_requests_in_flight") >= CLIENTS / 2, PATIENCE, "a load"
    )


def kill_one(service: Service, who: str, how: signal.Signals, ready_seconds: float) -> float:
    """Returns the seconds until there is a new engine that is ready."""
    before, deaths = service.tree(), service.phases().count("restarting")
    began = time.monotonic()
    os.kill(processes(service)[who].pid, how)
    wait_until(lambda: service.phases().count("restarting") > deaths, PATIENCE, "a restart")
    service.wait_for("ready", ready_seconds)
    assert not alive(before), [command_line(each.pid) for each in alive(before)]
    return time.monotonic() - began


def soak(service: Service, load: Load, ready_seconds: float, kills: int) -> None:
    choice = random.Random(4)
    memory, away = [], []
    with under_load(load, CLIENTS):
        for number in range(kills):
            who = choice.choice(("core", "server", "guard"))
            how = signal.SIGSTOP if number % 10 == 3 and who != "guard" else signal.SIGKILL
            wait_for_work(service, load)
            away.append(kill_one(service, who, how, ready_seconds))
            memory.append(service.memory_mib())
    assert load.lies == []
    assert service.metric("sidecar_engine_restarts_total") == kills
    wait_until_idle(service)
    files = service.open_files()
    check_access_lines(service, load)
    figures = (
        f"{kills} kills, {sum(load.ends.values())} requests: {dict(load.ends)}; away "
        f"{min(away):.1f} to {max(away):.1f} s; memory after each (MiB): "
        f"{[round(each, 1) for each in memory]}; {files} files open at the end"
    )
    print(f"\n{figures}")
    assert min(load.ends["whole"], load.ends["broken"], load.ends["refused"]) > 0, figures
    if kills > _SETTLED:
        assert memory[-1] - memory[_SETTLED] < _GROWTH_MIB, figures
    assert files < 60, figures
    service.terminate()
    assert service.exit_code() == 0
    service.assert_nothing_is_left(0)


@on_a_clock("an engine that stands still for 2 s is taken for stuck and killed once more")
def test_fake_engine_is_killed_again_and_again(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    limits = {"MAX_RESTARTS": "1000", "WEDGE_SECONDS": "2"}
    with starting(tmp_path, model) as start:
        service = start(**limits, **CHILDREN)
        service.wait_for("ready", PATIENCE)
        soak(service, Load(service.url), PATIENCE, KILLS)


@pytest.mark.engine
@pytest.mark.alone
@pytest.mark.skipif(KILLS < 10, reason="minutes; only in the long form")
def test_real_engine_is_killed_again_and_again(tmp_path: Path) -> None:
    with Service(tmp_path, MAX_RESTARTS="1000", WEDGE_SECONDS="6") as service:
        service.wait_for("ready", READY_SECONDS)
        load = Load(service.url, models=("demo",), fake=False)
        soak(service, load, READY_SECONDS, KILLS // 6)
