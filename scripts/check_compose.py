"""Checks Compose files against the Compose specification's JSON schema.

    .venv/bin/python scripts/check_compose.py [FILE ...]        docker-compose*.yml if none is named

The schema is the one that the `check-jsonschema` package carries (Apache-2.0, from
compose-spec/compose-spec), so nothing is fetched and no Docker is needed. It knows shapes, not
meanings: whether an image or a bind-mounted file exists is not its business.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import ValidationError
from jsonschema.validators import validator_for


class Loader(yaml.SafeLoader):
    """Knows Compose's own tags: `!reset` and `!override` of a file that is merged onto another."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: None)

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = "builtin_schemas/vendor/compose-spec.json"


def load_schema() -> dict[str, Any]:
    try:
        resource = files("check_jsonschema").joinpath(SCHEMA)
        schema: dict[str, Any] = json.loads(resource.read_text(encoding="utf-8"))
    except (ModuleNotFoundError, FileNotFoundError):
        sys.exit("check_compose: no Compose schema here; pip install 'check-jsonschema>=0.30'")
    return schema


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader)  # nosec B506: a safe one


def innermost(error: ValidationError) -> ValidationError:
    """Under `oneOf` the branch that got furthest says what is wrong, not "is not valid"."""
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return error


def problems(document: Any, schema: dict[str, Any]) -> Iterator[str]:
    """One line for each violation: where, and what is wrong there."""
    for error in validator_for(schema)(schema).iter_errors(document):
        detail = innermost(error)
        yield f"{'.'.join(map(str, detail.absolute_path)) or '(top)'}: {detail.message}"


def check(path: Path, schema: dict[str, Any]) -> bool:
    try:
        document = load(path)
    except (OSError, yaml.YAMLError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return False
    found = list(problems(document, schema))
    for line in found:
        print(f"{path}: {line}", file=sys.stderr)
    if not found:
        services = ", ".join(document.get("services", {}))
        print(f"{path}: valid Compose file; services: {services}")
    return not found


def main(arguments: list[str]) -> int:
    paths = [Path(name) for name in arguments] or sorted(ROOT.glob("docker-compose*.yml"))
    schema = load_schema()
    results = [check(path, schema) for path in paths]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
