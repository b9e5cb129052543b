"""Lines of a log held to docs/log-schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "docs" / "log-schema.json").read_text()
)
_VALIDATOR = Draft202012Validator(SCHEMA, format_checker=FormatChecker())


def faults(line: Mapping[str, Any]) -> list[str]:
    """What is wrong with one line."""
    return [
        f"{error.validator} of {error.json_path}: {error.message[:300]} in {line}"
        for error in _VALIDATOR.iter_errors(line)
    ]


def check_lines(lines: Iterable[Mapping[str, Any]]) -> None:
    """Fails with the first few lines that are not as the schema says."""
    wrong = [fault for line in lines for fault in faults(line)]
    assert not wrong, "\n".join(wrong[:5])
