"""A sidecar with two models, each with a fake engine that it has started."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.engine.service import FORKED, Service, below, command_line, free_ports
from tests.fake_engine import BIN
from tests.measure import measured
from tests.patience import PATIENCE

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]


def port_before_a_free_one() -> int:
    """The second model's engine has the next one."""
    while True:
        (port,) = free_ports(1)
        with suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port


def several(
    folder: Path,
    more: dict[str, Any] | None = None,
    /,
    keys: Sequence[str] = ("bob",),
    **environ: str,
) -> Service:
    """`more` are keys of the preset of the first model; `keys` may use the second one."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    presets = {
        "one": {"repository": str(model), "served_names": ["one", "uno"], **(more or {})},
        "two": {"repository": str(model), "served_names": ["two"], "keys": list(keys)},
    }
    environ = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FAKE_ENGINE_PHASE_SECONDS": "0.02",
        "MODEL_NAME": "one,two",
        "UPSTREAM_PORT": str(port_before_a_free_one()),
        "MODELS_INLINE": json.dumps(presets),
        "API_KEYS": "alice:sk-alice,bob:sk-bob",
        "HF_HUB_OFFLINE": "1",
        "HOST": "127.0.0.1",
        **measured(),
        **environ,
    }
    return Service(folder, FORKED, **environ)


def client_of(service: Service, key: str = "sk-bob") -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=service.url, headers=headers, timeout=PATIENCE, trust_env=False)


def status_of(service: Service, model: str) -> str:
    status: str = service.client.get("/health").json()["models"][model]["status"]
    return status


def chat(service: Service, key: str = "sk-bob", /, **body: Any) -> httpx.Response:
    with client_of(service, key) as client:
        return client.post(CHAT, json={"messages": MESSAGES, **body})


def engines_of(service: Service) -> dict[str, int]:
    """Ids of the processes, by the first name that each serves."""
    lines = {each.pid: command_line(each.pid).split() for each in below(service.process.pid)}
    return {
        words[words.index("--served-model-name") + 1]: pid
        for pid, words in lines.items()
        if "--served-model-name" in words and "guard.py" not in " ".join(words)
    }
