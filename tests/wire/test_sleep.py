"""Models that sleep in place of being unloaded, through the whole sidecar."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.service import Service, command_line
from tests.patience import PATIENCE
from tests.wire.service import until
from tests.wire.several import (
    CHAT,
    MESSAGES,
    Poll,
    chat,
    client_of,
    engines_of,
    several,
    status_of,
)
from tests.wire.test_swaps import transitions

SLEEPS = {"sleep": "level1"}
ONE_AT_A_TIME = {
    "MAX_LOADED_MODELS": "1",
    "SWAP_MAX_WAIT_SECONDS": "0.5",
}


def socket_of(service: Service, model: str) -> Path:
    words = command_line(engines_of(service)[model]).split()
    assert "--port" not in words
    return Path(words[words.index("--uds") + 1])


def asleep(service: Service, model: str = "one") -> None:
    """Wait until it sleeps, as another model was asked for."""
    assert chat(service, model="two").json()["model"] == "two"
    until(lambda: status_of(service, model) == "asleep", "its sleep")


def metrics(service: Service, name: str) -> dict[tuple[str, ...], float]:
    """The samples that are not 0, by the values of their labels in the order of their names."""
    with client_of(service) as client:
        families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        tuple(text for _, text in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and sample.value
    }


def test_a_model_sleeps_and_wakes_in_the_same_process(tmp_path: Path) -> None:
    with several(tmp_path, SLEEPS, **ONE_AT_A_TIME) as service:
        service.wait_for("ready", PATIENCE)
        until(lambda: service.client.get("/health").status_code == 200, "health")
        with Poll(service) as poll:
            pid = engines_of(service)["one"]
            asleep(service)
            assert set(engines_of(service)) == {"one", "two"}
            with client_of(service) as client:
                listed = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
                assert listed["one"]["status"] == listed["uno"]["status"] == "asleep"
                assert client.get("/models/one").json()["status"] == "asleep"
            health = service.health()
            assert (health["status"], health["phase"]) == ("asleep", "asleep")
            answer = chat(service, model="one")
            assert (answer.status_code, answer.json()["model"]) == (200, "one")
            assert engines_of(service) == {"one": pid}, "two, which does not sleep, has ended"
        assert {status for _, status in poll.statuses} == {200}
        assert service.access(answer.headers["x-request-id"])["model_wait_ms"] > 0
        steps = [
            ("one", "load", "ok"),
            ("one", "sleep", "ok"),
            ("two", "load", "ok"),
            ("two", "unload", "ok"),
            ("one", "load", "ok"),
        ]
        until(lambda: transitions(service) == steps, "the line of the wake")
        assert "one: woken after" in service.log.read_text()
        assert metrics(service, "sidecar_model_loads_total") == {
            ("cold", "one", "ok"): 1,
            ("wake", "one", "ok"): 1,
            ("cold", "two", "ok"): 1,
        }


def test_nobody_but_the_sidecar_reaches_an_engine_that_may_sleep(tmp_path: Path) -> None:
    with several(tmp_path, SLEEPS, **ONE_AT_A_TIME) as service:
        service.wait_for("ready", PATIENCE)
        socket = socket_of(service, "one")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as engine:
            assert engine.get("http://engine/is_sleeping").json() == {"is_sleeping": False}
        with client_of(service) as client:
            for path in ("/sleep", "/sleep?level=1", "/%73leep", "/v1/../sleep", "//sleep"):
                assert client.post(path).status_code in (400, 404), path
            assert client.get("/is_sleeping").status_code == 404
        assert chat(service, model="one").status_code == 200
        service.terminate()
        assert service.exit_code(PATIENCE) == 0
        assert not socket.parent.exists()


def test_a_wake_that_fails_is_a_fresh_start_and_the_model_sleeps_no_more(tmp_path: Path) -> None:
    with several(tmp_path, SLEEPS, **ONE_AT_A_TIME, FAKE_ENGINE_WAKE="other") as service:
        service.wait_for("ready", PATIENCE)
        pid = engines_of(service)["one"]
        asleep(service)
        answer = chat(service, model="one")
        assert (answer.status_code, answer.json()["model"]) == (200, "one")
        assert engines_of(service)["one"] != pid
        loads = metrics(service, "sidecar_model_loads_total")
        assert loads["wake", "one", "failed"] == 1
        restarts = metrics(service, "sidecar_engine_restarts_total")
        assert restarts["wake_failed", "one"] == 1
        assert chat(service, model="two").json()["model"] == "two"
        until(lambda: status_of(service, "one") == "unloaded", "its unload")
        assert set(engines_of(service)) == {"two"}


def test_a_single_model_that_is_idle_sleeps(tmp_path: Path) -> None:
    own = SLEEPS | {"idle_unload_seconds": 1}
    with several(tmp_path, own, MODEL_NAME="one", FAKE_ENGINE_TERM_SECONDS="0.5") as service:
        service.wait_for("asleep", PATIENCE)
        engines = engines_of(service)
        with Poll(service) as poll, client_of(service) as client:
            for _ in range(2):
                until(lambda: service.health()["status"] == "asleep", "its sleep")
                answer = client.post(CHAT, json={"model": "one", "messages": MESSAGES})
                assert answer.status_code == 200
        assert {status for _, status in poll.statuses} == {200}
        assert engines_of(service) == engines
        until(lambda: service.health()["status"] == "asleep", "its sleep")
        service.terminate()
        assert service.exit_code(PATIENCE) == 0
        service.assert_nothing_is_left(PATIENCE)
