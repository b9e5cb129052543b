"""LiteLLM's proxy as a process, with the configuration of deploy/gateway."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from tests.engine.service import free_ports, wait_until
from tests.patience import PATIENCE
from tests.peers import peer

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "gateway" / "litellm.yaml"
MASTER_KEY = "sk-master-of-the-gateway"
# Neither prices nor news from the network.
_QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}


def config() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return document


class LiteLLM:
    """`with LiteLLM(folder, config, SIDECAR_URL=...) as gateway:`; without a database."""

    def __init__(self, folder: Path, config: dict[str, Any], **environ: str) -> None:
        self._log = folder / "litellm.log"
        self._config = folder / "litellm.yaml"
        self._config.write_text(yaml.safe_dump(config))
        self._environ = {**os.environ, "LITELLM_MASTER_KEY": MASTER_KEY, **_QUIET, **environ}
        self._environ.pop("DATABASE_URL", None)
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        self.client = httpx.Client(
            base_url=self.url, timeout=PATIENCE, trust_env=False, headers=headers
        )

    def __enter__(self) -> Self:
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        command = [peer("litellm", "litellm"), "--config", str(self._config), *place]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._is_ready, 2 * PATIENCE, "LiteLLM is ready")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-4000:]
        try:
            return self.client.get("/health/readiness").status_code == 200
        except httpx.TransportError:
            return False
