"""How the sidecar says it is: to people, to RunPod's load balancer, to Kubernetes."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine import state
from proxy.engine.phase import Phase
from proxy.errors import Cause
from tests.proxy.house import house

STARTING = (
    Phase.CHECKING,
    Phase.DOWNLOADING,
    Phase.LOADING,
    Phase.COMPILING,
    Phase.WARMING,
    Phase.WAKING,
)
STATUS = {
    **dict.fromkeys((*STARTING, Phase.RESTARTING), "starting"),
    Phase.READY: "ready",
    Phase.DEGRADED: "degraded",
    Phase.DRAINING: "draining",
    Phase.FAILED: "failed",
    Phase.STOPPED: "stopped",
    Phase.ASLEEP: "asleep",
}
READY_PATHS = ("/health", "/health/ready", "/readyz", "/health/startup", "/startupz")
PHASES = pytest.mark.parametrize("phase", Phase)


@PHASES
@pytest.mark.parametrize("path", READY_PATHS)
async def test_ready_is_200_only_when_the_engine_has_generated(path: str, phase: Phase) -> None:
    async with house(phase) as there:
        answer = await there.get(path)
        assert answer.status_code == (200 if phase is Phase.READY else 503)
        assert answer.json()["phase"] == phase
        assert answer.json()["status"] == STATUS[phase]


@PHASES
@pytest.mark.parametrize("path", ["/health/live", "/livez"])
async def test_live_fails_only_where_a_restart_of_the_container_is_what_helps(
    path: str, phase: Phase
) -> None:
    async with house(phase) as there:
        assert (await there.get(path)).status_code == (503 if phase is Phase.FAILED else 200)


@PHASES
async def test_the_model_is_loaded_before_the_engine_is_ready(phase: Phase) -> None:
    loaded = {Phase.WARMING, Phase.READY, Phase.DEGRADED}
    async with house(phase) as there:
        answer = await there.get("/health/model")
        assert answer.status_code == (200 if phase in loaded else 503)


@PHASES
async def test_runpod_gets_200_ready_204_starting_and_503_broken(phase: Phase) -> None:
    starting = {*STARTING, Phase.RESTARTING}
    expected = 200 if phase is Phase.READY else 204 if phase in starting else 503
    async with house(phase) as there:
        answer = await there.get("/ping")
        assert answer.status_code == expected
        # A 204 with a body would break the connection for the next request.
        assert (answer.content == b"") == (expected in (200, 204))


@pytest.mark.parametrize("path", ["/healthz", "/health", "/metrics"])
async def test_runpods_path_can_be_moved_anywhere(path: str) -> None:
    async with house(HEALTH_CHECK_PATH=path) as there:
        answer = await there.get(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await there.get("/ping")).status_code == 404


@pytest.mark.parametrize("path", [*READY_PATHS, "/health/live", "/livez", "/health/model", "/ping"])
@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.READY, Phase.FAILED])
async def test_probes_may_ask_with_head(path: str, phase: Phase) -> None:
    async with house(phase) as there:
        asked, headed = await there.get(path), await there.http.head(path)
        assert headed.status_code == asked.status_code
        assert headed.headers.keys() == asked.headers.keys()


async def test_before_anything_is_known_only_what_is_known_is_said() -> None:
    async with house() as there:
        body = (await there.get("/health")).json()
        assert body.keys() == {"status", "phase", "uptime_seconds"}
        assert body["uptime_seconds"] >= 0


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"progress": 0.25678}, {"progress": 0.257}),
        ({"progress": 0.0, "eta_seconds": 0.04}, {"progress": 0.0, "eta_seconds": 0.0}),
        ({"eta_seconds": 12.34}, {"eta_seconds": 12.3}),
        ({"reason": "It died.", "remedy": "Do."}, {"reason": "It died.", "remedy": "Do."}),
        ({"reason": "It died.", "remedy": ""}, {"reason": "It died."}),
    ],
)
async def test_health_tells_how_far_the_start_is_and_why_it_failed(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], said: dict[str, Any]
) -> None:
    monkeypatch.setattr(state, "monotonic", lambda: 0.0)
    async with house() as there:
        there.enter(Phase.LOADING, **known)
        body = (await there.get("/health")).json()
        assert body.items() >= {"model": "demo", "status": "starting", **said}.items()
        assert body.keys() == {"status", "model", "phase", "uptime_seconds", *said}


@pytest.mark.parametrize(
    ("phase", "known", "seconds"),
    [
        (Phase.LOADING, {"eta_seconds": 40.0}, "50"),
        (Phase.DOWNLOADING, {}, "30"),
        (Phase.FAILED, {"cause": Cause.DISK_FULL}, None),
        (Phase.READY, {}, None),
    ],
)
async def test_a_503_says_when_to_ask_again(
    phase: Phase, known: dict[str, Any], seconds: str | None
) -> None:
    async with house() as there:
        there.enter(phase, **known)
        assert (await there.get("/health")).headers.get("retry-after") == seconds


@pytest.mark.parametrize("phase", [Phase.READY, Phase.LOADING, Phase.WARMING, Phase.DEGRADED])
async def test_an_announced_stop_takes_readiness_at_once_and_leaves_liveness(phase: Phase) -> None:
    async with house(phase) as there:
        there.lifecycle.announce_stop()
        answer = await there.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        assert (await there.get("/ping")).status_code == 503
        assert (await there.get("/livez")).status_code == 200


async def test_an_announced_stop_does_not_hide_that_the_engine_has_failed() -> None:
    async with house() as there:
        there.enter(Phase.FAILED, reason="No such model.")
        there.lifecycle.announce_stop()
        body = (await there.get("/health")).json()
        assert (body["status"], body["reason"]) == ("failed", "No such model.")
