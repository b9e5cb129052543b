"""Everything worth knowing about an instance, and no secret."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import __version__
from proxy.api import info as info_module
from proxy.api.info import describe
from proxy.engine.phase import Phase
from proxy.errors import Cause
from proxy.machine.hardware import Gpu, Hardware
from proxy.vllm.command import masked
from tests.proxy.house import House, house

GIB = 1024**3


async def asked(there: House) -> dict[str, Any]:
    answer = await there.get("/info")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


async def test_a_running_instance_says_what_it_serves_and_how() -> None:
    async with house(MODEL_NAME="org/model", MAX_BODY_MB="20", REQUEST_TIMEOUT="600") as there:
        there.enter(Phase.LOADING, arguments=("vllm", "serve", "/m"))
        there.state.update(model_path="/m", revision="abc123")
        there.enter(Phase.READY)
        body = await asked(there)
        assert body["sidecar"]["version"] == __version__
        assert body["model"] == {
            "name": "org/model",
            "served_names": ["demo", "alias"],
            "revision": "abc123",
            "path": "/m",
        }
        assert body["engine"]["phase"] == "ready"
        assert body["engine"]["arguments"] == ["vllm", "serve", "/m"]
        assert body["engine"]["restarts"] == 0
        assert body["engine"]["phase_seconds"].keys() == {"checking", "loading"}
        assert body["limits"]["max_body_mb"] == 20
        assert body["limits"]["request_timeout_seconds"] == 600
        assert "stream_idle_timeout_seconds" not in body["limits"]


async def test_the_demo_is_announced_as_what_it_is() -> None:
    async with house() as there:
        there.state.update(demo=True)
        assert (await asked(there))["model"]["random_weights"] is True
    async with house() as there:
        assert "random_weights" not in (await asked(there))["model"]


async def test_restarts_are_told_with_their_causes_and_both_starts() -> None:
    async with house() as there:
        for phase in (Phase.LOADING, Phase.READY):
            there.enter(phase)
        there.enter(
            Phase.RESTARTING,
            cause=Cause.KILLED,
            reason="It was killed.",
            remedy="Give it more memory.",
            restarts=1,
            last_restart_cause=Cause.KILLED,
        )
        engine = (await asked(there))["engine"]
        assert (engine["restarts"], engine["last_restart_cause"]) == (1, "killed")
        assert (engine["cause"], engine["reason"]) == ("killed", "It was killed.")
        assert engine["remedy"] == "Give it more memory."
        there.enter(Phase.LOADING)
        engine = (await asked(there))["engine"]
        assert engine["last_restart_cause"] == "killed"
        assert "cause" not in engine
        assert engine["last_phase_seconds"].keys() >= {"loading", "ready"}
        assert engine["phase_seconds"].keys() == {"restarting"}


async def test_an_engine_that_someone_else_runs_is_named_by_its_url() -> None:
    async with house(UPSTREAM_URL="http://127.0.0.1:9") as there:
        engine = (await asked(there))["engine"]
        assert engine["url"] == "http://127.0.0.1:9"
        assert "version" not in engine, "it is not the one installed here"
        assert "arguments" not in engine


async def test_the_engines_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info_module, "engine_version", lambda: "0.32.0+cpu")
    async with house() as there:
        assert (await asked(there))["engine"]["version"] == "0.32.0+cpu"


async def test_gpus_are_listed() -> None:
    async with house() as there:
        service = there.sidecar.service
        assert (await asked(there))["hardware"] == {"gpus": []}
        service.models.default.hardware = lambda: Hardware((Gpu("NVIDIA A40", 48 * GIB),), "580.95")
        gpu = {"name": "NVIDIA A40", "memory_bytes": 48 * GIB}
        assert describe(service)["hardware"] == {"gpus": [gpu], "driver": "580.95"}


async def test_no_secret_is_in_it() -> None:
    secrets = {
        "HF_TOKEN": "secret-hf",
        "API_KEYS": "secret-keys",
        "ADMIN_KEYS": "secret-admins",
        "VLLM_API_KEY": "secret-vllm",
        "RUNPOD_API_KEY": "secret-runpod",
        "VLLM_EXTRA_ARGS": "--x-api-key secret-extra",
    }
    async with house(**secrets) as there:
        there.enter(Phase.LOADING, arguments=tuple(masked(["--x-api-key", "secret-extra"])))
        answer = await there.get("/info", headers={"x-api-key": "secret-keys"})
        assert "secret-" not in answer.text
        assert "***" in answer.text
