"""Clients that people use, each in an environment of its own, as programs that read one stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.patience import PATIENCE
from tests.peers import installed, peer

_PROGRAMS = Path(__file__).parent / "engine" / "clients"


class Reader(NamedTuple):
    """A way to read a stream to its end: a client in an environment, and the route that it asks."""

    environment: str
    name: str
    path: str

    def read(self, url: str, *, retries: bool = False) -> str | None:
        """What the client raised; None where the stream came to its end as it should.

        `retries`: the client tries again as it does out of the box; else it does not.
        """
        environ = os.environ | ({"RETRIES": "1"} if retries else {})
        done = subprocess.run(
            self._command(url), capture_output=True, text=True, timeout=2 * PATIENCE, env=environ
        )
        assert done.returncode == 0, done.stderr
        ending: dict[str, str] = json.loads(done.stdout)
        return ending.get("error")

    def _command(self, url: str) -> list[str]:
        match self.environment:
            case "":
                python = sys.executable
            case "node-clients":
                program = _PROGRAMS / "read_stream.mjs"
                return ["node", str(program), str(installed("node-clients")), url, self.name]
            case other:
                python = peer(other, "python")
        return [python, str(_PROGRAMS / "read_stream.py"), url, self.name]
