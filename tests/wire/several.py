"""A sidecar with two models, each with a fake engine that it has started."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.engine.service import FORKED, Service, below, command_line
from tests.fake_engine import BIN, x_fake
from tests.measure import measured
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.wire.client import new_id

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
TOKENS = 40


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
        "UPSTREAM_PORT": str(free_ports(2)[0]),
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


def wrapped_vllm(folder: Path, model: str, wait: str = "true", /, **more: str) -> dict[str, str]:
    """Where the engine of one model alone is to get variables, or to begin only after a command of
    the shell's: the environment for it."""
    vllm = folder / "bin" / "vllm"
    vllm.parent.mkdir()
    exported = " ".join(f"{name}={value}" for name, value in more.items())
    vllm.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *"--served-model-name {model}"*) {wait}; export {exported};; esac\n'
        f'exec "{BIN}/vllm" "$@"\n'
    )
    vllm.chmod(0o755)
    return {"PATH": f"{vllm.parent}:{BIN}:{os.environ['PATH']}"}


def stream(
    service: Service, model: str, begun: Callable[[], object] = lambda: None, **fake: Any
) -> str:
    """The text of a whole stream, which takes two seconds where `fake` says nothing else; `begun`
    is called in it."""
    with client_of(service) as client:
        body = {"model": model, "messages": MESSAGES, "stream": True, "max_tokens": TOKENS}
        body["user"] = new_id()  # no other request has killed an engine
        script = x_fake(tokens=TOKENS, **(fake or {"interval_ms": 50}))
        with client.stream("POST", CHAT, json=body, headers=script) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            begun()
            return "\n".join([first, *lines])


def release(service: Service, model: str) -> None:
    """Let the engine of a model send what it holds back (`hold_at`)."""
    words = command_line(engines_of(service)[model]).split()
    port = words[words.index("--port") + 1]
    url = f"http://127.0.0.1:{port}/__fake/release"
    httpx.post(url, timeout=PATIENCE, trust_env=False).raise_for_status()


def assert_whole(text: str) -> None:
    """Nothing of the stream is missing."""
    assert text.rstrip().endswith("data: [DONE]"), text[-500:]
    assert text.count('"content"') >= TOKENS


class Poll:
    """Asks for the health of the pod, again and again."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.statuses: set[tuple[str, int]] = set()

    def _run(self) -> None:
        with httpx.Client(base_url=self._service.url, timeout=PATIENCE, trust_env=False) as client:
            while not self._is_over.wait(0.02):
                for path in ("/health", "/ping", "/readyz"):
                    self.statuses.add((path, client.get(path).status_code))

    def __enter__(self) -> Poll:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def status_of(service: Service, model: str) -> str:
    status: str = service.client.get("/health").json()["models"][model]["status"]
    return status


def waiting_for(service: Service, model: str) -> int:
    """Requests."""
    waiting: int = service.client.get("/health").json()["models"][model]["waiting"]
    return waiting


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
