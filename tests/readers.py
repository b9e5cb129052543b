"""Clients that people use, each in an environment of its own, as programs that read streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple, Self

from tests.patience import PATIENCE
from tests.peers import installed, peer

_PROGRAMS = Path(__file__).parent / "engine" / "clients"


class Program:
    """The clients of one environment: one process, as their imports take seconds.

    `retries`: they try again as they do out of the box; else they do not.
    """

    def __init__(self, environment: str, url: str, *, retries: bool = False) -> None:
        match environment:
            case "":
                command = [sys.executable, str(_PROGRAMS / "read_stream.py")]
            case "node-clients":
                program = _PROGRAMS / "read_stream.mjs"
                command = ["node", str(program), str(installed("node-clients"))]
            case other:
                command = [peer(other, "python"), str(_PROGRAMS / "read_stream.py")]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed at the end
        self._process = subprocess.Popen(
            [*command, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | ({"RETRIES": "1"} if retries else {}),
        )

    def read(self, name: str) -> str | None:
        """What the client raised; None where the stream came to its end as it should."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = threading.Timer(2 * PATIENCE, self._process.kill)
        limit.start()
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        limit.cancel()
        if not line:
            self._errors.seek(0)
            raise AssertionError(f"{name} has ended without a result: {self._errors.read()}")
        ending: dict[str, str] = json.loads(line)
        return ending.get("error")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Reader(NamedTuple):
    """A way to read a stream to its end: a client in an environment, and the route that it asks."""

    environment: str
    name: str
    path: str
