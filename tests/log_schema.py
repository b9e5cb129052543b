"""Lines of a log held to docs/log-schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
from jsonschema import Draft202012Validator, FormatChecker

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "docs" / "log-schema.json").read_text()
)
_VALIDATOR = Draft202012Validator(SCHEMA, format_checker=FormatChecker())
# It takes a hundredth of the time for a service's thousands of lines, but its words are its own.
_QUICK = jsonschema_rs.Draft202012Validator(SCHEMA, validate_formats=True)


def faults(line: Mapping[str, Any]) -> list[str]:
    """What is wrong with one line."""
    return [
        f"{error.validator} of {error.json_path}: {error.message[:300]} in {line}"
        for error in _VALIDATOR.iter_errors(line)
    ]


def check_lines(lines: Iterable[Mapping[str, Any]]) -> None:
    """Fails with the first few lines that are not as the schema says."""
    wrong = [line for line in lines if not _QUICK.is_valid(line)]
    assert not wrong, "\n".join("\n".join(faults(line)) or str(line) for line in wrong[:5])
