#!/usr/bin/env python3
"""The table of every `vllm serve` flag of the installed vLLM: proxy/vllm/flags.json.

    .venv/bin/python scripts/engine_flags.py            writes the table anew
    .venv/bin/python scripts/engine_flags.py --check    exits 1 with a diff if it is out of date

Asks vLLM's own parser, so it runs in the environment that holds vLLM (a GPU is not needed).
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parent.parent / "proxy" / "vllm" / "flags.json"

Flag = dict[str, Any]


def serve_actions() -> Iterable[argparse.Action]:
    """What `vllm serve` takes, as argparse knows it."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser())
    return parser._actions  # argparse has no public way


def kind_of(action: argparse.Action) -> str:
    """`boolean` takes nothing, `value` one word, `list` several."""
    if action.nargs == 0:
        return "boolean"
    if action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction):
        return "list"
    return "value"


def json_of(action: argparse.Action) -> str | None:
    """What a flag whose value is JSON takes; None: its value is no JSON.

    `fields`: an object with the keys that vLLM knows, where numbers may be written 80m; `object`:
    any object; `array`; `object or text`: what is in braces is read as JSON.
    """
    if kind_of(action) != "value" or not takes(action, "{}") or takes(action, "{no JSON}"):
        return None
    # vLLM's parser takes any JSON for the rest, and its configuration refuses it later.
    if isinstance(action.default, list):
        return "array"
    if isinstance(action.default, str) and action.default != argparse.SUPPRESS:
        return "object or text"
    return "object" if takes(action, '{"no such key": 1}') else "fields"


def number_of(action: argparse.Action) -> str | None:
    """`integer`, `size` (which may be written 8k), `size or auto`, `number`; None: no number."""
    if not takes(action, "1") or takes(action, "no number") or takes(action, "{}"):
        return None
    if takes(action, "8k"):
        return "size or auto" if takes(action, "auto") else "size"
    return "number" if takes(action, "1.5") else "integer"


def takes(action: argparse.Action, text: str) -> bool:
    """Whether vLLM's parser takes this value."""
    try:
        if callable(action.type):
            action.type(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return True


def describe(action: argparse.Action) -> tuple[str, Flag]:
    """Name and row; the name is the first long spelling, without its dashes."""
    spellings = list(action.option_strings)
    name = next(s for s in spellings if s.startswith("--"))
    negation = f"--no-{name[2:]}"
    flag: Flag = {"kind": kind_of(action)}
    if negation in spellings:
        flag["negatable"] = True
    if isinstance(action, argparse._AppendAction):
        flag["repeated"] = True  # one word each time: --middleware a --middleware b
    if (json_kind := json_of(action)) is not None:
        flag["json"] = json_kind
    if (number := number_of(action)) is not None:
        flag["number"] = number
    if (json_kind or number) and takes(action, "None"):
        flag["optional"] = True
    if action.choices:
        flag["choices"] = sorted(str(c) for c in action.choices if c is not None)
    aliases = sorted(s for s in spellings if s not in (name, negation) and s[:5] != "--no-")
    if aliases:
        flag["aliases"] = aliases
    return name[2:], flag


def table() -> str:
    """The file's text: one flag on one line, so that a diff between versions can be read."""
    rows = dict(
        describe(action)
        for action in serve_actions()
        if action.option_strings and not isinstance(action, argparse._HelpAction)
    )
    lines = ",\n".join(f"    {json.dumps(n)}: {json.dumps(f)}" for n, f in sorted(rows.items()))
    vllm_version = version("vllm").partition("+")[0]  # the CPU build calls itself 0.32.0+cpu
    return f'{{\n  "vllm_version": {json.dumps(vllm_version)},\n  "flags": {{\n{lines}\n  }}\n}}\n'


def check(path: Path, expected: str) -> int:
    """0 if the file holds what vLLM says, else 1 with the difference on stdout."""
    found = path.read_text() if path.exists() else ""
    if found == expected:
        print(f"engine_flags: {path.name} agrees with vLLM {version('vllm')}")
        return 0
    diff = difflib.unified_diff(
        found.splitlines(), expected.splitlines(), str(path.name), "installed vLLM", lineterm=""
    )
    print("\n".join(diff))
    print("out of date; run .venv/bin/python scripts/engine_flags.py")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    parser.add_argument("--file", type=Path, default=TABLE, help="default: %(default)s")
    options = parser.parse_args()
    expected = table()
    if options.check:
        return check(options.file, expected)
    options.file.write_text(expected)
    print(f"engine_flags: wrote {options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
