"""Other people's servers and clients, each in an environment of its own: bench/install-peers.sh."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.engine.service import wait_until
from tests.patience import PATIENCE

_CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"


def installed(name: str) -> Path:
    """The folder of a peer. Without it the test is skipped: it is not ours to have."""
    if not (_CACHE / name / "requirements").exists():  # the stamp of a whole installation
        pytest.skip(f"no {name} here: bench/install-peers.sh {name}")
    return _CACHE / name


def peer(name: str, command: str) -> str:
    """The path of a peer's command."""
    return str(installed(name) / "bin" / command)


class PeerServer:
    """A peer that serves, from the beginning of the block to its end; `client` asks it."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        client: httpx.Client,
        ready_path: str,
    ) -> None:
        """It is ready when `ready_path` is 200."""
        self._command = command
        self._environ = environ
        self._log = log
        self._ready_path = ready_path
        self.client = client

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            # LiteLLM's imports alone take half a minute on a busy machine.
            wait_until(self._is_ready, 2 * PATIENCE, f"{self._command[0]} is ready")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def text(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def _stop(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.text()[-4000:]
        try:
            return self.client.get(self._ready_path).status_code == 200
        except httpx.TransportError:
            return False
