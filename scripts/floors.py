#!/usr/bin/env python3
"""Unit tests on the oldest versions that requirements.txt allows, and on the newest there are.

    python3 scripts/floors.py [oldest] [newest]

Each has a virtual environment below .cache/floors, made by the Python that runs this: 3.11 or 3.12,
as msgspec 0.18 has no wheels for later ones. A second run installs nothing; the newest are looked
for again each week. It needs neither vLLM nor root.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "floors"
LIMIT_SECONDS = 1200
# What the tests below need of requirements-dev.txt.
TOOLS = (
    "pytest",
    "pytest-asyncio",
    "pytest-rerunfailures",
    "pytest-xdist",
    "respx",
    "hypothesis",
    "jsonschema",
    "jsonschema-rs",
    "PyYAML",
    "pillow",
    "websockets",
)
UV = "uv"
# Optional for the sidecar, and in vLLM's image.
OPTIONAL = ("opentelemetry-exporter-otlp",)
# All tests below these, a new file too, but for LEFT_OUT and those with real vLLM.
TESTS = ("tests/proxy", "tests/test_contracts.py", "tests/hub/test_failures.py")
# They start sidecars and engines, and wait for their clocks: they take minutes.
LEFT_OUT = (
    "tests/proxy/commands/test_check.py",
    "tests/proxy/engine/test_clients_that_retry.py",
    "tests/proxy/engine/test_deaths.py",
    "tests/proxy/engine/test_lifecycle.py",
    "tests/proxy/engine/test_progress_bar.py",
    "tests/proxy/engine/test_wedge.py",
    "tests/proxy/engine/test_wedged_engine.py",
)
# More than there are cores: many tests wait for other processes.
PROCESSES = 3
# Python keeps what it compiles, for the next process; what is not here is not required.
_NOT_PASSED_ON = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "REQUIRE_TOOLS"}
_FLOOR = re.compile(r"([A-Za-z0-9._-]+)>=([^,;\s]+)(.*)")


def lines(name: str) -> list[str]:
    """The requirements of a file, without its comments."""
    text = (ROOT / name).read_text()
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


def oldest(requirement: str) -> str:
    """`name>=1.2; marker` with that version exactly.

    Raises:
        ValueError: it has no lower bound.
    """
    found = _FLOOR.fullmatch(requirement)
    if found is None:
        raise ValueError(f"requirements.txt: {requirement} has no lower bound")
    name, version, rest = found.groups()
    return f"{name}=={version}{rest[rest.find(';') :] if ';' in rest else ''}"


def requirements(which: str) -> list[str]:
    """All that an environment gets."""
    own = lines("requirements.txt")
    if which == "oldest":
        own = [oldest(each) for each in own]
    names = [re.split(r"[=<>]", each)[0] for each in lines("requirements-dev.txt")]
    tools = dict(zip(names, lines("requirements-dev.txt"), strict=True))
    return [*own, *(tools[name] for name in TOOLS), *OPTIONAL]


def installed(which: str) -> Path:
    """The environment's Python; the environment is made where its stamp says something else.

    Raises:
        subprocess.CalledProcessError: pip has failed, and said why.
    """
    place, wanted = CACHE / which, requirements(which)
    week = datetime.now(UTC).strftime("%G-%V") if which == "newest" else ""
    stamp = place / ".stamp"
    content = hashlib.sha256("\n".join([sys.version, week, *wanted]).encode()).hexdigest()
    python = place / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != content:
        print(f"floors: installing the {which}", flush=True)
        venv.create(place, clear=True, with_pip=True, symlinks=True)
        install = [str(ROOT / "scripts" / "pip-install.sh"), str(python), "--quiet"]
        subprocess.run([*install, UV], check=False)  # without it the next one takes longer
        subprocess.run([*install, *wanted], check=True)
        stamp.write_text(content)
    return python


def passed(which: str) -> bool:
    """Whether the tests pass there; where they do not, what they printed is shown."""
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    environ |= {"PATH": f"{CACHE / which / 'bin'}:{environ['PATH']}"}
    command = [
        str(installed(which)),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not engine and not alone",
        f"--numprocesses={PROCESSES}",
        "--dist=loadfile",
        "--no-loadscope-reorder",
        *(f"--ignore={file}" for file in LEFT_OUT),
        *TESTS,
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT_SECONDS,
    )
    report = done.stdout.splitlines()
    shown = report if done.returncode else report[-1:]
    print("\n".join(f"{which}: {line}" for line in shown), flush=True)
    return done.returncode == 0


def main(which: list[str]) -> int:
    if unknown := set(which) - {"oldest", "newest"}:
        sys.exit(f"floors: error: no {', '.join(sorted(unknown))}; allowed are oldest, newest")
    chosen = which or ["oldest", "newest"]
    try:
        for each in chosen:
            installed(each)
        with ThreadPoolExecutor(len(chosen)) as both:
            return 0 if all(list(both.map(passed, chosen))) else 1
    except (subprocess.SubprocessError, ValueError) as error:
        sys.exit(f"floors: error: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
