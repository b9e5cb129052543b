"""The blocks of code of README and of the pages, and what it takes to run them as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Where the documents say that the sidecar is.
_ADDRESS = "127.0.0.1:8000"


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in one language: console, python, json, …"""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(console: str) -> list[str]:
    """What a block of the language console tells to type, a command an entry, comments left out."""
    typed = re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]
    return [re.sub(r" +# .*$", "", command, flags=re.MULTILINE).rstrip() for command in typed]


def words(command: str) -> list[str]:
    """A command as a shell reads it; shlex knows no lines that go on."""
    return shlex.split(command.replace("\\\n", " "))


def run_console(typed: list[str], port: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Types commands, as they stand, in a folder that has the repository's `examples`. Curl finds
    the sidecar on `port` in place of the documented one."""
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".curlrc").write_text(
        f'silent\nshow-error\nconnect-to = "{_ADDRESS}:127.0.0.1:{port}"\n'
    )
    return subprocess.run(
        ["bash", "-e", "-c", "\n".join(typed)],
        cwd=folder,
        env={**os.environ, "CURL_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def in_front(code: str, port: int) -> str:
    """A program of the documents that asks the sidecar on `port`."""
    return code.replace(_ADDRESS, f"127.0.0.1:{port}")
