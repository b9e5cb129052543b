"""LiteLLM's proxy as processes, with the configurations of deploy/gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import yaml

from tests.engine.service import wait_until
from tests.patience import PATIENCE
from tests.peers import peer
from tests.ports import free_ports

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "gateway"
MASTER_KEY = "sk-master-of-the-gateway"
# Read as it is imported: neither prices nor news from the network, and what was spent is written
# every second (and up to five later, at random).
_AT_IMPORT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "PROXY_BATCH_WRITE_AT": "1",
}
# What docker-compose.yml gives it where nothing is set.
_DEFAULTS = {
    "LITELLM_MASTER_KEY": MASTER_KEY,
    "SIDECAR_API_KEY": "none",
    "GATEWAY_CACHE": "false",
    "OPENAI_API_KEY": "none",
    "ANTHROPIC_API_KEY": "none",
}


def config(name: str = "litellm.yaml") -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return document


def price(prompt_tokens: int, completion_tokens: int) -> float:
    """Dollars, by the configuration of one sidecar."""
    local = config()["model_list"][0]["litellm_params"]
    asked = prompt_tokens * local["input_cost_per_token"]
    return float(asked + completion_tokens * local["output_cost_per_token"])


class LiteLLM:
    """One proxy that runs: what asks it."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._clients = ExitStack()
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, headers=headers)
        self.client = self._clients.enter_context(client)

    def openai(self, key: str = MASTER_KEY) -> openai.OpenAI:
        """A client that is closed with the gateway."""
        client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE
        )
        return self._clients.enter_context(client)

    def anthropic(self) -> anthropic.Anthropic:
        """A client that is closed with the gateway."""
        client = anthropic.Anthropic(
            base_url=self.url, api_key=MASTER_KEY, max_retries=0, timeout=PATIENCE
        )
        return self._clients.enter_context(client)

    def text(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        self._clients.close()

    def is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return self.client.get("/health/readiness").status_code == 200
        return False


class ForkServer:
    """LiteLLM, imported: `with fork_server.gateway(folder, config, SIDECAR_URL=…) as gateway:`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @contextmanager
    def gateway(self, folder: Path, given: dict[str, Any], **environ: str) -> Iterator[LiteLLM]:
        """It has a database if `environ` names one: tests/gateway/database.py."""
        (port,) = free_ports(1)
        file, log = folder / f"litellm-{port}.yaml", folder / f"litellm-{port}.log"
        file.write_text(yaml.safe_dump(given))
        place = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        order = {
            "arguments": ["--config", str(file), *place],
            "environ": {**_DEFAULTS, **environ},
            "log": str(log),
        }
        child = self._start(json.dumps(order))
        gateway = LiteLLM(port, log)

        def ready() -> bool:
            try:
                os.kill(child, 0)
            except ProcessLookupError:
                raise AssertionError(f"LiteLLM ended: {gateway.text()[-4000:]}") from None
            return gateway.is_ready()

        try:
            wait_until(ready, 2 * PATIENCE, "LiteLLM is ready")
            yield gateway
        finally:
            gateway.close()
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _start(self, order: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # the empty answer says it
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"LiteLLM is not to be imported: {self._log.read_text()[-4000:]}"
        return int(answer)


@contextmanager
def fork_server(folder: Path) -> Iterator[ForkServer]:
    """It imports while others start; the first gateway waits for that."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    log = folder / "fork-server.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            # Not with this folder in its path, where this file has the same name.
            [peer("litellm", "python"), "-P", Path(__file__).with_name("fork_server.py")],
            env={**inherited, **_AT_IMPORT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        yield ForkServer(process, log)
