"""LiteLLM's proxy as a process, with the configuration of deploy/gateway."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import yaml

from tests.engine.service import free_ports
from tests.patience import PATIENCE
from tests.peers import PeerServer, peer

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "gateway" / "litellm.yaml"
MASTER_KEY = "sk-master-of-the-gateway"
# Neither prices nor news from the network.
_QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}


def config() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return document


def price(prompt_tokens: int, completion_tokens: int) -> float:
    """Dollars, by the configuration."""
    local = config()["model_list"][0]["litellm_params"]
    asked = prompt_tokens * local["input_cost_per_token"]
    return float(asked + completion_tokens * local["output_cost_per_token"])


class LiteLLM(PeerServer):
    """`with LiteLLM(folder, config, SIDECAR_URL=...) as gateway:`.

    It has a database if `environ` names one: tests/gateway/database.py.
    """

    def __init__(self, folder: Path, config: dict[str, Any], **environ: str) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        file = folder / "litellm.yaml"
        file.write_text(yaml.safe_dump(config))
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        command = [peer("litellm", "litellm"), "--config", str(file), *place]
        inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        whole = {**inherited, "LITELLM_MASTER_KEY": MASTER_KEY, **_QUIET, **environ}
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, headers=headers)
        super().__init__(command, whole, folder / "litellm.log", client, "/health/readiness")
        self._clients = ExitStack()

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

    def _stop(self) -> None:
        self._clients.close()
        super()._stop()
