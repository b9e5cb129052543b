"""The download child as its parent starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from proxy.models.events import Done, Event, Failed, Plan, Progress, decode_event
from tests.measure import measured

_SOURCE_TREE = Path(__file__).parents[2]
_TIME_LIMIT_SECONDS = 120.0
_NOT_PASSED_ON = ("HF_", "HUGGING", "TRANSFORMERS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

E = TypeVar("E", Plan, Done, Failed)


@dataclass
class Outcome:
    code: int
    lines: list[bytes]
    stderr: str

    @property
    def events(self) -> list[Event]:
        """Every line of stdout: one that is no event is a fault."""
        decoded = [decode_event(line) for line in self.lines]
        assert None not in decoded, self.lines
        return [event for event in decoded if event is not None]

    def one(self, kind: type[E]) -> E:
        found = [event for event in self.events if isinstance(event, kind)]
        assert len(found) == 1, (self.events, self.stderr)
        return found[0]

    @property
    def progress(self) -> list[int]:
        return [event.bytes for event in self.events if isinstance(event, Progress)]


class Child:
    """A running download; killed at the latest when its block is left."""

    def __init__(
        self,
        endpoint: str,
        home: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith(_NOT_PASSED_ON)
        }
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "proxy.models.download", *arguments],
            cwd=_SOURCE_TREE,
            env=inherited | settings | measured() | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def outcome(self) -> Outcome:
        out, err = self.process.communicate(timeout=_TIME_LIMIT_SECONDS)
        return Outcome(self.process.returncode, out.splitlines(), err.decode())


def download(
    endpoint: str,
    home: Path,
    *arguments: str,
    env: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Outcome:
    with Child(endpoint, home, *arguments, env=env, wrapper=wrapper) as child:
        return child.outcome()
