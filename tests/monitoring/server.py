"""A real Prometheus that reads what is shipped for it, and scrapes what it is told to."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import httpx
import yaml

from tests.engine.service import wait_until
from tests.patience import PATIENCE
from tests.ports import free_ports

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
INSTANCE = "sidecar:8000"
_PACE = {"scrape_interval": "300ms", "scrape_timeout": "300ms", "evaluation_interval": "1s"}

Series = list[dict[str, Any]]


class Prometheus:
    """The server as a process: `with Prometheus(...) as prometheus:`.

    Its configuration is the shipped one, but for the pace and the targets: `ports` of jobs that
    are shipped, and of jobs that are added. All are of one instance, but for those of `others`.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        ports: dict[str, int],
        others: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        (self.port,) = free_ports(1)
        self._folder = folder
        self._ports = ports
        self._others = others
        self._program = program
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False)
        self._process: subprocess.Popen[bytes]

    def _configuration(self) -> dict[str, Any]:
        document: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        document["global"] |= _PACE
        shipped = {job["job_name"]: job for job in document["scrape_configs"]}
        jobs = {name: shipped.get(name, {"job_name": name}) for name in self._ports}
        for name, job in jobs.items():
            address = f"127.0.0.1:{self._ports[name]}"
            instance = self._others.get(name, INSTANCE)
            job["static_configs"] = [{"targets": [address], "labels": {"instance": instance}}]
        return document | {"scrape_configs": list(jobs.values())}

    def __enter__(self) -> Self:
        config = self._folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._configuration()))
        for rules in ("rules.yml", "alerts.yml"):
            shutil.copy(MONITORING / rules, self._folder)
        log = self._folder / "prometheus.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._ready, PATIENCE, f"a Prometheus\n{log.read_text()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()

    def _ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of an answer of its API; fails with its words where it refuses."""
        body = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert body["status"] == "success", body.get("error")
        return body["data"]

    def now(self, query: str) -> Series:
        """The series of a query at this moment."""
        found: Series = self.ask("query", query=query)["result"]
        return found

    def at(self, query: str, moment: float) -> Series:
        """The series of a query at another one (seconds since 1970)."""
        found: Series = self.ask("query", query=query, time=moment)["result"]
        return found

    def until_scraped(self) -> None:
        """Wait until it has read each page as it is now."""
        scraped = f"timestamp(up == 1) > {time.time()}"
        wait_until(lambda: len(self.now(scraped)) == len(self._ports), PATIENCE, "all pages")

    def until_evaluated(self) -> None:
        """Wait until all rules have been evaluated with what it has read."""
        asked = datetime.now(UTC)

        def evaluated() -> bool:
            groups = self.ask("rules")["groups"]
            return all(datetime.fromisoformat(each["lastEvaluation"]) > asked for each in groups)

        wait_until(evaluated, PATIENCE, "the rules")

    def over(self, query: str, start: float, end: float) -> Series:
        """The series of a query, a value for each second."""
        found: Series = self.ask("query_range", query=query, start=start, end=end, step=1)["result"]
        return found

    def label_values(self, metric: str, label: str) -> list[str]:
        """What Grafana's `label_values(metric, label)` finds."""
        found: list[str] = self.ask(f"label/{label}/values", **{"match[]": metric})
        return found
