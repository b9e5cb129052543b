"""LiteLLM's proxy as a process, with the configuration of deploy/gateway."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
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


class LiteLLM(PeerServer):
    """`with LiteLLM(folder, config, SIDECAR_URL=...) as gateway:`; without a database."""

    def __init__(self, folder: Path, config: dict[str, Any], **environ: str) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        file = folder / "litellm.yaml"
        file.write_text(yaml.safe_dump(config))
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        command = [peer("litellm", "litellm"), "--config", str(file), *place]
        whole = {**os.environ, "LITELLM_MASTER_KEY": MASTER_KEY, **_QUIET, **environ}
        whole.pop("DATABASE_URL", None)
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, headers=headers)
        super().__init__(command, whole, folder / "litellm.log", client, "/health/readiness")
