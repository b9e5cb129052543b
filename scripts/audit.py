#!/usr/bin/env python3
"""Known vulnerabilities in what the sidecar needs at run time, at the versions installed here.

    .venv/bin/python scripts/audit.py

Asks PyPI by pip-audit. Where PyPI cannot be asked, it says that the audit was skipped and exits
with 0; with a known vulnerability it exits with 1. What vLLM brings along is vLLM's to update.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
_NAME = re.compile(r"^([A-Za-z0-9_.-]+)", re.MULTILINE)
_TIMEOUT_SECONDS = 120


def main() -> int:
    program = shutil.which("pip-audit")
    if program is None:
        print("audit: SKIPPED: pip-audit is not installed (requirements-dev.txt)")
        return 0
    pinned = list(installed(_NAME.findall(REQUIREMENTS.read_text())))
    try:
        found = asked(program, pinned)
    except (ValueError, subprocess.TimeoutExpired) as reason:
        print(f"audit: SKIPPED: PyPI could not be asked ({str(reason)[:200]})")
        return 0
    return report(found)


def installed(names: Sequence[str]) -> list[str]:
    """`name==version` of those that are installed here."""
    pinned = []
    for name in names:
        try:
            pinned.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            print(f"audit: {name} is not installed here")
    return pinned


def asked(program: str, pinned: Sequence[str]) -> list[dict[str, Any]]:
    """What pip-audit says of each package.

    Raises:
        ValueError: nothing that can be read; the last line of what it says instead.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pinned))
        file.flush()
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
        run = subprocess.run(
            [program, "-r", file.name, *options],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    try:
        packages: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        raise ValueError((run.stderr.strip().splitlines() or ["no answer"])[-1]) from None
    return packages


def report(packages: Sequence[dict[str, Any]]) -> int:
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    audited = len(packages) - len(skipped)
    bad = 0
    for package in packages:
        for flaw in package.get("vulns", ()):
            bad += 1
            fixed = ", ".join(flaw["fix_versions"]) or "no version yet"
            print(f"audit: {package['name']} {package['version']}: {flaw['id']}, fixed in {fixed}")
    if skipped:
        print(f"audit: SKIPPED {len(skipped)}: PyPI told nothing of {', '.join(skipped)}")
    if audited:
        print(f"audit: {audited} packages audited, {bad} known vulnerabilities")
    else:
        print("audit: SKIPPED: no package was audited")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
