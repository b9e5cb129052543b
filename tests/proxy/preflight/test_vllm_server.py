"""From settings to a model, with the whole sidecar as a process, a local hub and a fake engine."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.engine.state import EngineState
from proxy.errors import Cause, EngineFailure
from proxy.models.fetch import fetch
from proxy.preflight import vllm_server
from proxy.preflight.vllm_server import VllmServer
from proxy.settings import Settings
from proxy.vllm.probe import Probe
from tests.engine.service import FORKED, Service, wait_until
from tests.fake_engine import BIN
from tests.fake_hub import FakeHub, Fault, Kind, running_hub
from tests.measure import measured
from tests.patience import PATIENCE
from tests.tools import needs

REPOSITORY = "tiny/model"

Start = Callable[..., Service]

pytestmark = pytest.mark.hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with running_hub(tmp_path / "models") as hub:
        publish(hub, "LlamaForCausalLM")
        yield hub


def publish(hub: FakeHub, architecture: str) -> None:
    folder = hub.root / REPOSITORY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (folder / "model.safetensors").write_bytes(bytes(5000))


@pytest.fixture
def start(tmp_path: Path, hub: FakeHub) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(**environ: str) -> Service:
            given = {
                **measured(),
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "MODEL_NAME": REPOSITORY,
                "HF_ENDPOINT": hub.url,
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "FAKE_ENGINE_PHASE_SECONDS": "0.02",
            }
            service = Service(tmp_path, FORKED, **(given | environ))
            return stack.enter_context(service)

        yield started


@needs("vllm")
def test_a_model_that_vllm_cannot_run_is_not_fetched(start: Start, hub: FakeHub) -> None:
    publish(hub, "FooBarForCausalLM")
    service = start()
    service.wait_for("failed", PATIENCE)
    health = service.health()
    assert "no implementation of FooBarForCausalLM" in health["reason"]
    assert "newer image" in health["remedy"]
    assert service.client.get("/info").json()["engine"]["cause"] == "unsupported_model"
    wait_until(lambda: service.phases() == ["failed"], PATIENCE, "the line of the only transition")
    assert hub.count("GET /cdn/*") == 0


@needs("vllm")
def test_a_doubt_is_one_warning_and_the_start_goes_on(start: Start, hub: FakeHub) -> None:
    publish(hub, "FooBarForCausalLM")
    service = start(HF_OVERRIDES="{}")
    service.wait_for("ready", PATIENCE)
    warnings = [line for line in service.lines("proxy.engine") if line["level"] == "WARNING"]
    assert ["FooBarForCausalLM" in line["message"] for line in warnings] == [True]


@needs("vllm")
def test_a_local_folder_is_judged_too(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["FooBarForCausalLM"]}))
    service = start(MODEL_NAME=str(folder))
    service.wait_for("failed", PATIENCE)
    assert "FooBarForCausalLM" in service.health()["reason"]


@pytest.mark.parametrize("wrong", [{"ENFORCE_EAGER": "perhaps"}, {"DTYPE": "float99"}])
def test_a_wrong_flag_is_reported_before_the_model_is_fetched(
    start: Start, hub: FakeHub, wrong: dict[str, str]
) -> None:
    service = start(**wrong)
    service.wait_for("failed", PATIENCE)
    ((name, value),) = wrong.items()
    assert f"{name}={value!r}: allowed are" in service.health()["reason"]
    assert not hub.requests


def test_a_hub_in_trouble_is_asked_again(start: Start, hub: FakeHub) -> None:
    hub.faults.append(Fault(Kind.NOT_A_HUB, "GET /api/*", times=1))
    service = start()
    service.wait_for("ready", PATIENCE)
    assert service.phases()[:4] == ["restarting", "checking", "downloading", "loading"]
    engine = service.client.get("/info").json()["engine"]
    assert engine["last_restart_cause"] == "hub_unreachable"


def test_the_next_start_knows_how_long_it_will_take(start: Start, tmp_path: Path) -> None:
    first = start(FAKE_ENGINE_PHASE_SECONDS="import=1.5")
    first.wait_for("loading", PATIENCE)
    assert "eta_seconds" not in first.health()
    first.wait_for("ready", PATIENCE)
    assert "eta_seconds" not in first.health()
    kept = tmp_path / "sidecar" / "starts.json"
    wait_until(kept.exists, PATIENCE, "the times of the start")
    first.terminate()
    assert first.exit_code(PATIENCE) == 0

    second = start(FAKE_ENGINE_PHASE_SECONDS="import=1.5")
    second.wait_for("loading", PATIENCE)
    health = second.client.get("/health")
    left = health.json()["eta_seconds"]
    assert 0 < left < 5
    assert 1 <= int(health.headers["retry-after"]) <= 10
    second.wait_for("ready", PATIENCE)


def test_a_download_is_reported_with_percent_rate_and_seconds_left(
    start: Start, hub: FakeHub
) -> None:
    large = 30 * 1024 * 1024  # the cache is written in pieces of 10 MiB
    (hub.root / REPOSITORY / "model.safetensors").write_bytes(bytes(large))
    hub.faults.append(Fault(Kind.SLOW, "GET /cdn/*", rate=8_000_000))
    service = start()
    service.wait_for("downloading", PATIENCE)
    wait_until(lambda: 0.3 < service.health().get("progress", 0) < 1, PATIENCE, "progress")
    health = service.health()
    assert health["download_bytes"] > large
    assert 10 << 20 <= health["downloaded_bytes"] < health["download_bytes"]
    assert health["bytes_per_second"] > 1_000_000
    assert 0 < health["eta_seconds"] < 30
    service.wait_for("loading", PATIENCE)
    assert not {"bytes_per_second", "download_bytes"} & service.health().keys()
    logged = [line["message"] for line in service.lines("proxy.engine")]
    assert any(line.startswith("downloading: 0.01 of 0.03 GB (33 %), ") for line in logged), logged


@pytest.mark.parametrize(
    ("script", "cause", "permanent", "message"),
    [
        ("kill -9 $$", Cause.UNKNOWN, False, "could not be built (code -9): without output"),
        (
            "echo demo model: cannot write /x: disk full; exit 1",
            Cause.CACHE_NOT_WRITABLE,
            True,
            "demo model: cannot write /x: disk full",
        ),
    ],
)
async def test_a_demo_model_is_made_again_unless_it_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    script: str,
    cause: Cause,
    permanent: bool,
    message: str,
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr("proxy.models.fetch.sys.executable", str(python))
    settings = Settings.load({"HF_HOME": str(tmp_path / "hf")})
    with pytest.raises(EngineFailure) as failed:
        await fetch(settings, "demo", lambda _: None, lambda _: None, lambda _: None)
    assert (failed.value.cause, failed.value.permanent) == (cause, permanent)
    assert message in failed.value.message


def test_a_download_that_is_stopped_leaves_no_partial_file(start: Start, hub: FakeHub) -> None:
    (hub.root / REPOSITORY / "model.safetensors").write_bytes(bytes(30 * 1024 * 1024))
    hub.faults.append(Fault(Kind.SLOW, "GET /cdn/*", rate=4_000_000))
    service = start()
    service.wait_until_listening()
    half = 10 * 1024 * 1024  # the cache is written in pieces
    wait_until(lambda: service.health().get("downloaded_bytes", 0) > half, PATIENCE, "a part")
    assert list(service.home.rglob("*.incomplete"))
    service.terminate()
    assert service.exit_code(PATIENCE) == 0
    assert not list(service.home.rglob("*.incomplete"))


async def test_a_volume_that_does_not_answer_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, asked, answered = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def check_disk(_: Path) -> None:
        loop.call_soon_threadsafe(asked.set)
        assert answered.wait(PATIENCE), "everything else stood still"

    monkeypatch.setattr(vllm_server, "check_disk", check_disk)
    monkeypatch.setattr(vllm_server, "check_executable", lambda _: "vllm")
    (tmp_path / "config.json").write_text("{}")
    state = EngineState()
    settings = Settings.load({"MODEL_NAME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")})
    probe = Probe("http://127.0.0.1:9")
    server = VllmServer(settings, state, probe)
    running = asyncio.create_task(server.prepare())
    await asked.wait()
    answered.set()
    assert await running == str(tmp_path)
    assert state.snapshot.model_path == str(tmp_path)
    await probe.close()
