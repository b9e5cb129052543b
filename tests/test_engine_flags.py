"""The flag table is the installed vLLM's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SCRIPT = PROJECT / "scripts/engine_flags.py"
TABLE = PROJECT / "proxy/vllm/flags.json"


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(TABLE.read_text())
    return loaded


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--check", "--file", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_table_is_of_the_pinned_version(table: dict[str, Any]) -> None:
    pin = f"vllm=={table['vllm_version']}"
    assert pin in (PROJECT / "requirements-engine.txt").read_text().splitlines()


def test_table_tells_the_kinds_of_flags(table: dict[str, Any]) -> None:
    flags = table["flags"]
    assert flags["max-model-len"] == {"kind": "value", "number": "size or auto"}
    assert flags["enforce-eager"] == {"kind": "boolean", "negatable": True}
    assert flags["disable-log-stats"] == {"kind": "boolean"}
    assert flags["served-model-name"] == {"kind": "list"}
    assert flags["middleware"] == {"kind": "list", "repeated": True}
    assert flags["seed"] == {"kind": "value", "number": "integer"}
    assert flags["allowed-origins"] == {"kind": "value", "json": "array"}
    assert flags["kv-transfer-config"] == {"kind": "value", "json": "fields", "optional": True}
    assert flags["override-generation-config"] == {"kind": "value", "json": "object"}
    assert flags["pt-load-map-location"]["json"] == "object or text"
    assert "bfloat16" in flags["dtype"]["choices"]
    assert flags["tensor-parallel-size"]["aliases"] == ["-tp"]
    assert {flag["kind"] for flag in flags.values()} == {"boolean", "value", "list"}


def test_table_is_sorted_with_one_flag_on_a_line(table: dict[str, Any]) -> None:
    lines = TABLE.read_text().splitlines()[3:-2]
    assert [line.split('"')[1] for line in lines] == sorted(table["flags"])


@pytest.mark.engine
def test_check_shows_what_differs(tmp_path: Path) -> None:
    stale = tmp_path / "flags.json"
    stale.write_text(TABLE.read_text().replace('"enforce-eager"', '"enforce-eagerly"'))
    done = check(stale)
    assert done.returncode == 1
    assert '-    "enforce-eagerly": {' in done.stdout
    assert '+    "enforce-eager": {' in done.stdout
    assert "run .venv/bin/python scripts/engine_flags.py" in done.stdout
