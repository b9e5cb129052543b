"""Recorded output of real `vllm serve`, as the sidecar would have read it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LOGS = Path(__file__).parents[2] / "fixtures" / "engine-logs"
SERVED = "INFO:     Application startup complete."
_TIME = re.compile(r"\[ *(?P<seconds>\d+\.\d+)\] ?")
_EXIT = re.compile(r"MAIN PROCESS EXIT rc=(?P<code>-?\d+)")


@dataclass(frozen=True)
class Recording:
    """What the engine printed, and when (seconds since its start), and how it ended."""

    lines: list[str]
    seconds: list[float]
    exit_code: int | None


def recording(name: str) -> Recording:
    lines: list[str] = []
    seconds: list[float] = []
    exit_code = None
    now = 0.0
    for line in (LOGS / f"{name}.log").read_text().splitlines():
        if line.startswith("#["):
            found = _EXIT.search(line)
            exit_code = int(found["code"]) if found else exit_code
            continue
        if stamp := _TIME.match(line):
            now = float(stamp["seconds"])
        lines.append(line[stamp.end() :] if stamp else line)
        seconds.append(now)
    return Recording(lines, seconds, exit_code)


def recorded(letter: str) -> list[str]:
    """The names of the recordings that begin with a letter (A, B or C)."""
    return sorted(path.stem for path in LOGS.glob(f"{letter}*_*.log"))
