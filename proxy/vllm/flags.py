"""The flags of the pinned vLLM, and which environment variable means which flag."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from proxy.errors import SettingsError
from proxy.settings.environment import check_text, shown

TABLE = Path(__file__).with_name("flags.json")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class Flag(msgspec.Struct, frozen=True):
    """One flag: `kind` is boolean, value or list; `negatable` booleans have a `--no-` form. `json`
    is `only` where a value must be JSON, and `or text` where it may be."""

    kind: str
    negatable: bool = False
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    repeated: bool = False
    json: str | None = None


class _Table(msgspec.Struct):
    flags: dict[str, Flag]


@cache
def known_flags() -> dict[str, Flag]:
    """Flag name without dashes in front, e.g. `max-model-len` -> what it takes."""
    return msgspec.json.decode(TABLE.read_bytes(), type=_Table).flags


def flag_name(variable: str) -> str:
    """`MAX_MODEL_LEN` -> `max-model-len`."""
    return variable.lower().replace("_", "-")


def is_true(value: str) -> bool:
    """Whether a boolean variable switches its flag on."""
    return value.strip().lower() in _TRUE


def is_boolean(value: str) -> bool:
    """Whether this is a word for on or off."""
    return value.strip().lower() in _TRUE | _FALSE


def arguments(variable: str, value: str) -> list[str]:
    """The arguments that a variable named like a flag stands for.

    Raises:
        SettingsError: the value cannot be what the flag takes.
    """
    name = flag_name(variable)
    flag = known_flags()[name]
    value = value.strip()
    check_text(variable, value)
    if flag.kind == "boolean":
        # vLLM's booleans take no value: `--flag false` is refused.
        if is_true(value):
            return [f"--{name}"]
        if not is_boolean(value):
            allowed = "true, 1, yes, on and false, 0, no, off"
            raise SettingsError(
                f"{variable}={shown(value)}: allowed are {allowed} (vLLM's --{name})"
            )
        return [f"--no-{name}"] if flag.negatable else []
    if flag.choices and value not in flag.choices and flag.kind == "value":
        allowed = ", ".join(flag.choices)
        raise SettingsError(f"{variable}={shown(value)}: allowed are {allowed} (vLLM's --{name})")
    check_json(variable, name, value)
    if flag.kind != "list":
        return [f"--{name}", value]
    items = _items(variable, value)
    if flag.repeated:
        return [word for item in items for word in (f"--{name}", item)]
    return [f"--{name}", *items]


def adapter_names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The names in LORA_MODULES: `name=path`, or JSON objects with a `name`.

    Raises:
        SettingsError: it is a list of neither.
    """
    value = environ.get("LORA_MODULES", "").strip()
    names = []
    for item in _items("LORA_MODULES", value):
        if not item.startswith("{"):
            names.append(item.partition("=")[0])
        elif isinstance(name := json.loads(item).get("name"), str):
            names.append(name)
    return tuple(names)


def check_json(variable: str, name: str, value: str) -> None:
    """Judge the value of a flag that takes JSON, in words; vLLM names a function in its place.

    Raises:
        SettingsError: it is no JSON, or JSON in quotes, which is a text.
    """
    flag = known_flags().get(name)
    if flag is None or flag.json is None or value == "None":
        return
    if flag.json == "or text" and value[:1] not in ("{", "[", '"', "'"):
        return
    try:
        problem = "is JSON in quotes" if isinstance(json.loads(value), str) else None
    except ValueError as error:
        is_quoted = value[:1] == value[-1:] == "'" and len(value) > 1
        problem = "is JSON in quotes" if is_quoted else f"is no JSON ({error})"
    if problem is not None:
        allowed = 'allowed is JSON without quotes around it, such as {"name": 1}'
        raise SettingsError(f"{variable}={value!r} {problem}; {allowed} (vLLM's --{name})")


def _items(variable: str, value: str) -> list[str]:
    """`a, b`; or JSON, as LORA_MODULES is often given: an object, several, or a list of them."""
    if value[:1] not in ("{", "["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        items = json.loads(value if value.startswith("[") else f"[{value}]")
    except ValueError as error:
        text = f"{variable}={shown(value)}: no JSON ({error}); allowed are a,b too"
        raise SettingsError(text) from None
    return [item if isinstance(item, str) else json.dumps(item) for item in items]
