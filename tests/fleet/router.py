"""vllm-router as a process, with the options that deploy/ gives it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.engine.service import wait_until
from tests.patience import PATIENCE
from tests.peers import PeerServer, peer
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
# Where it listens and whom it asks differ from place to place.
_OF_A_PLACE = ("--host", "--port", "--prometheus-host", "--prometheus-port", "--worker-urls")


def compose_options() -> list[str]:
    """The command line that docker-compose.yml gives it."""
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    command: list[str] = document["services"]["router"]["command"]
    return command


def shared(options: Sequence[str]) -> list[str]:
    """The options without those of a place; `--name=value` each, or `--name`."""
    return [each for each in options if each.split("=")[0] not in _OF_A_PLACE and each[:2] == "--"]


class Router(PeerServer):
    """`with Router(folder, [url, ...]) as router:`; without a healthy one it serves nobody."""

    def __init__(
        self,
        folder: Path,
        workers: Sequence[str],
        options: Sequence[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port, metrics_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        command = [
            *(peer("vllm-router", "vllm-router"), "--host=127.0.0.1", f"--port={self.port}"),
            f"--prometheus-port={metrics_port}",
            *(shared(compose_options()) if options is None else options),
            *(("--worker-urls", *workers) if workers else ()),
        ]
        client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)
        environ = {**os.environ, **(environ or {})}
        super().__init__(command, environ, folder / "router.log", client, "/liveness")

    def workers(self) -> dict[str, bool]:
        """Each sidecar's URL, and whether the router takes it for healthy."""
        answer: dict[str, Any] = self.client.get("/workers").json()
        return {each["url"]: each["is_healthy"] for each in answer["workers"]}

    def wait_for(self, workers: dict[str, bool]) -> None:
        """Until it sees the sidecars so."""
        wait_until(lambda: self.workers() == workers, PATIENCE, f"{workers}\n{self.text()[-2000:]}")
