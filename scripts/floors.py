#!/usr/bin/env python3
"""Whether the sidecar runs on the oldest versions that requirements.txt allows, and on the newest.

    .venv/bin/python scripts/floors.py

Makes two virtual environments below .cache/floors, or takes those that are newer than what they are
made from, and runs in both, side by side, the tests that need neither vLLM nor root. Exits with 0
where all pass; with 1 where one fails, or where the oldest versions cannot be installed together.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache/floors"
REQUIREMENTS = ROOT / "requirements.txt"
TOOLS = ROOT / "requirements-dev.txt"
# Of requirements-dev.txt; at the newest versions in both environments.
TESTERS = {
    "PyYAML",
    "hypothesis",
    "jsonschema",
    "jsonschema-rs",
    "pytest",
    "pytest-asyncio",
    "pytest-rerunfailures",
    "respx",
}
# Spans are optional; vLLM brings these.
SPANS = ["opentelemetry-sdk", "opentelemetry-exporter-otlp"]
TESTS = [
    "tests/test_contracts.py",
    "tests/test_log_schema.py",
    "tests/proxy/api",
    "tests/proxy/edge",
    "tests/proxy/media",
    "tests/proxy/protocols",
    "tests/proxy/relay",
    "tests/proxy/server",
    "tests/proxy/telemetry",
    "tests/proxy/test_access.py",
    "tests/proxy/test_app.py",
    "tests/proxy/test_errors.py",
    "tests/proxy/test_json_scan.py",
    "tests/proxy/test_settings.py",
    "tests/proxy/test_tasks.py",
    "tests/proxy/test_trace_target.py",
    "tests/fuzz",
    "tests/wire/test_http.py",
    "tests/wire/test_media.py",
    "tests/wire/test_own_protocol.py",
    "tests/wire/test_same_bytes.py",
    "tests/wire/test_websocket.py",
]
_INSTALL_SECONDS, _TEST_SECONDS = 600, 900
_PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")


def main() -> int:
    with ThreadPoolExecutor() as both:
        results = both.map(checked, ("oldest", "newest"))
        failed = [
            name for name, passed in zip(("oldest", "newest"), results, strict=True) if not passed
        ]
    for name in failed:
        print(f"floors: the tests fail on the {name} versions that requirements.txt allows")
    return 1 if failed else 0


def checked(name: str) -> bool:
    """Whether the tests pass on these versions; all that there is to say is printed at the end."""
    try:
        python = environment(name)
        done = run(
            python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, seconds=_TEST_SECONDS
        )
    except subprocess.CalledProcessError as error:
        print(f"floors: the {name} versions cannot be installed:\n{error.output}")
        return False
    except subprocess.TimeoutExpired as error:
        print(f"floors: {name}: not done within {error.timeout:.0f} s")
        return False
    lines = done.stdout.splitlines()
    text = "\n".join(lines[-1:] if done.returncode == 0 else lines)
    print(f"floors: {name}: {text}", flush=True)
    return done.returncode == 0


def environment(name: str) -> str:
    """The Python of the virtual environment with these versions, made anew where it is too old.

    Raises:
        CalledProcessError: something cannot be installed.
    """
    folder = FOLDER / name
    python, stamp = folder / "bin/python", folder / ".made-stamp"
    made_from = (REQUIREMENTS, TOOLS, Path(__file__))
    if stamp.exists() and stamp.stat().st_mtime > max(each.stat().st_mtime for each in made_from):
        return str(python)
    print(f"floors: installing the {name} versions", flush=True)
    run(sys.executable, "-m", "venv", "--clear", str(folder), check=True)
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place) / "requirements.txt"
        wanted.write_text("\n".join((*versions(name), *testers(), *SPANS)))
        run(str(python), *_PIP, "-r", str(wanted), check=True)
    stamp.touch()
    return str(python)


def versions(name: str) -> list[str]:
    """The lines of requirements.txt; of the oldest, each with its floor as its only version."""
    lines = lines_of(REQUIREMENTS)
    return [line.replace(">=", "==", 1) for line in lines] if name == "oldest" else lines


def testers() -> list[str]:
    return [line for line in lines_of(TOOLS) if line.partition(">=")[0] in TESTERS]


def lines_of(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and line[0] != "#"]


def run(
    *command: str, check: bool = False, seconds: float = _INSTALL_SECONDS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=check,
    )


if __name__ == "__main__":
    sys.exit(main())
