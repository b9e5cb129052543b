"""A file of presets (TOML) -> presets, or one line that says what is wrong with it.

[my-model]
repository = "org/name"       # or a folder; nothing else is needed
revision = "main"
served_names = ["my-model"]   # unset: the preset's name and the repository
gpu_memory_gb = 24
sources = ["https://..."]

[my-model.engine]             # variables, as in an environment
MAX_MODEL_LEN = 8192
MM_PROCESSOR_KWARGS = {max_pixels = 1003520}
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from proxy.errors import SettingsError
from proxy.settings import Settings, variables
from proxy.settings.engine import EngineSettings
from proxy.settings.environment import shown
from proxy.settings.preset import Preset
from proxy.vllm.command import flag_variable
from proxy.vllm.flags import arguments, known_flags

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_KEYS = ("repository", "revision", "served_names", "gpu_memory_gb", "sources", "engine")
_MAX_BYTES = 1024 * 1024
_PLAIN = (str, int, float)
# Their arguments would come after the ones of the user's variables, and win.
_NOT_HERE = {
    "VLLM_EXTRA_ARGS": "allowed is each flag by its own name, as MAX_MODEL_LEN",
    "LIMIT_MM_PER_PROMPT": "allowed are IMAGE_LIMIT, VIDEO_LIMIT and AUDIO_LIMIT",
}


def read_presets(file: Path) -> dict[str, Preset]:
    """By name, in the order of the file.

    Raises:
        SettingsError: it cannot be read, or holds what is no preset; says where.
    """
    document = _read(file)
    found = {}
    for name, table in document.items():
        try:
            found[name] = _preset(name, table, str(file))
        except ValueError as error:
            raise SettingsError(f"MODELS_FILE={shown(str(file))}: [{name}] {error}") from None
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():
            raise SettingsError(f"MODELS_FILE={shown(str(file))}: there is no such file")
        with file.open("rb") as opened:
            return tomllib.loads(opened.read(_MAX_BYTES).decode())
    except OSError as error:
        text = f"MODELS_FILE={shown(str(file))}: {error.strerror}; allowed is a readable file"
        raise SettingsError(text) from None
    except ValueError as error:  # of TOML, and of UTF-8
        raise SettingsError(f"MODELS_FILE={shown(str(file))}: no TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"MODELS_FILE={shown(str(file))}: is nested too deeply") from None


def _preset(name: str, table: Any, file: str) -> Preset:
    """Raises ValueError."""
    if not _NAME.fullmatch(name) or name == "demo":
        raise ValueError("cannot be a name; allowed are a-z, 0-9 and . _ -, and not demo")
    if not isinstance(table, dict):
        raise ValueError(f"is no table; allowed are tables with {', '.join(_KEYS)}")
    for key, value in table.items():
        if key not in _KEYS:
            raise ValueError(_no_key(name, key, value))
    repository = _text(table, "repository")
    if repository is None:
        raise ValueError("has no repository; allowed is one as organisation/name, or a folder")
    revision = _text(table, "revision")
    own = {
        "MODEL_NAME": repository,
        **({"MODEL_REVISION": revision} if revision else {}),
        "SERVED_MODEL_NAME": ",".join(_served_names(table) or (name, repository)),
    }
    engine = dict(_engine_variables(table.get("engine", {})))
    return Preset(name, file, own | engine, _memory(table), _texts(table, "sources"))


def _no_key(name: str, key: str, value: Any) -> str:
    near = get_close_matches(key, _KEYS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    if isinstance(value, dict) and not near:  # what TOML makes of a dot: a table in a table
        hint = f' A name with a dot stands in quotes: ["{name}.{key}"].'
    return f"{key} is no key; allowed are {', '.join(_KEYS)}.{hint}"


def _text(table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError(f"{key}={shown(value)}: allowed is a text")


def _texts(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f'{key}={shown(value)}: allowed is a list of texts, as ["a", "b"]')
    return tuple(value)


def _served_names(table: Mapping[str, Any]) -> tuple[str, ...]:
    names = _texts(table, "served_names")
    if not all(name.strip() and "," not in name for name in names):
        raise ValueError(f"served_names={list(names)!r}: allowed are names without a comma")
    return names


def _memory(table: Mapping[str, Any]) -> float | None:
    value = table.get("gpu_memory_gb")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ValueError(f"gpu_memory_gb={shown(value)}: allowed is a number of GB above 0")
    return float(value)


def _engine_variables(table: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(table, dict):
        raise ValueError("engine is no table; allowed are variables, as MAX_MODEL_LEN = 8192")
    for name, value in table.items():
        text = _as_variable(name, value)
        _check_variable(name, text)
        yield name, text


def _as_variable(name: str, value: Any) -> str:
    """What would stand in an environment."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        with suppress(TypeError):  # a date in it
            return json.dumps(value)
    if value and isinstance(value, list) and all(isinstance(each, _PLAIN) for each in value):
        return ",".join(map(str, value))
    if isinstance(value, _PLAIN) and str(value).strip():
        return str(value)
    raise ValueError(
        f"engine.{name}={shown(value)}: allowed is a text, number, boolean, list or table"
    )


def _check_variable(name: str, text: str) -> None:
    """Raises ValueError where it is none of the engine's, or holds what it cannot."""
    if name in _NOT_HERE:
        raise ValueError(f"engine.{name} cannot be in a preset; {_NOT_HERE[name]}")
    try:
        if name in _engine_names():
            Settings.load({name: text})
        elif flag_variable(name) == name:
            arguments(name, text)
        else:
            raise ValueError(_unknown(name))
    except SettingsError as error:
        raise ValueError(f"engine.{error}") from None


def _engine_names() -> frozenset[str]:
    """The variables of docs/configuration.md's table of the engine."""
    names = variables()
    return frozenset(name for field in EngineSettings.model_fields for name in names[field])


def _unknown(name: str) -> str:
    flags = {flag.upper().replace("-", "_") for flag in known_flags()}
    known = sorted(_engine_names() | {flag for flag in flags if flag_variable(flag)})
    near = get_close_matches(name.upper().replace("-", "_"), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    allowed = "allowed are the engine's variables and vllm serve's flags, in UPPER_SNAKE"
    return f"engine.{name} is no variable of the engine; {allowed}.{hint}"
