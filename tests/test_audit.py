"""The audit of packages fails on what is known, and says so where nobody could be asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLAW = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": []}


def audited(folder: Path, printed: str, *, complaint: str = "") -> tuple[int, str]:
    """Exit code and output, with a pip-audit that prints this."""
    program = folder / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"assert '==' in open(sys.argv[sys.argv.index('-r') + 1]).read()\n"
        f"print({printed!r})\nprint({complaint!r}, file=sys.stderr)\nsys.exit(1)\n"
    )
    program.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "scripts/audit.py"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return run.returncode, run.stdout


def said(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_known_vulnerability_fails_and_is_named(tmp_path: Path) -> None:
    package = {"name": "httpx", "version": "1.0", "vulns": [FLAW]}
    code, output = audited(tmp_path, said(package))
    assert code == 1
    assert "httpx 1.0: PYSEC-1, fixed in 2.0" in output


def test_none_passes(tmp_path: Path) -> None:
    code, output = audited(tmp_path, said({"name": "httpx", "version": "1.0", "vulns": []}))
    assert (code, output) == (0, "audit: 1 packages audited, 0 known vulnerabilities\n")


def test_a_package_that_nobody_knows_is_named_as_skipped(tmp_path: Path) -> None:
    known = {"name": "httpx", "version": "1.0", "vulns": [FLAW]}
    code, output = audited(tmp_path, said(known, {"name": "uvloop", "skip_reason": "not found"}))
    assert code == 1
    assert "SKIPPED 1: PyPI told nothing of uvloop" in output


def test_where_no_package_is_known_nothing_is_said_to_be_clean(tmp_path: Path) -> None:
    code, output = audited(tmp_path, said({"name": "uvloop", "skip_reason": "not found"}))
    assert code == 0
    assert output.endswith("audit: SKIPPED: no package was audited\n")


@pytest.mark.parametrize("printed", ["", "{}", "[1]", "oh no"])
def test_where_nobody_answers_it_is_skipped_and_says_so(tmp_path: Path, printed: str) -> None:
    code, output = audited(tmp_path, printed, complaint="x\nConnectionError: no route")
    assert code == 0
    assert output == "audit: SKIPPED: PyPI could not be asked (ConnectionError: no route)\n"


def test_without_pip_audit_it_is_skipped_and_says_so(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "scripts/audit.py"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0
    assert run.stdout.startswith("audit: SKIPPED: pip-audit is not installed")
