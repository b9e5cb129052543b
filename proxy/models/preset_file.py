"""A file of presets (TOML) -> presets, or one line that says what is wrong with it.

[my-model]
repository = "org/name"       # or a folder; nothing else is needed
revision = "main"
served_names = ["my-model"]   # unset: the preset's name and the repository
gpu_memory_gb = 24            # unset: what fit.py makes of the next three
weights_gb = 16.6
cache_kib = 56
max_context = 32768
sources = ["https://..."]
max_in_flight = 8             # this and the next five: where several models are served
keys = ["alice"]              # API keys that may use it, by their labels; unset: all
gpus = [0, 1]                 # its GPUs; unset: all
pin = true                    # it never gives way to another model; unset: false
idle_unload_seconds = 900     # unset: IDLE_UNLOAD_SECONDS
sleep = "level1"              # in place of being unloaded it sleeps; unset: "off"

[my-model.engine]             # variables, as in an environment
MAX_MODEL_LEN = 8192
MM_PROCESSOR_KWARGS = {max_pixels = 1003520}
"""

from __future__ import annotations

import json
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from proxy.errors import SettingsError
from proxy.models.demo import BUILT_IN
from proxy.models.fit import needed_gb
from proxy.settings import Settings, variables
from proxy.settings.engine import EngineSettings
from proxy.settings.environment import did_you_mean, shown
from proxy.settings.preset import Preset
from proxy.settings.values import read_size
from proxy.vllm.command import flag_variable
from proxy.vllm.flags import arguments, known_flags

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_MAX_BYTES = 1024 * 1024
_Text = Annotated[str, msgspec.Meta(pattern=r"\S")]
_ServedName = Annotated[str, msgspec.Meta(pattern=r"^[^,]*[^,\s][^,]*$")]
_Gigabytes = Annotated[float, msgspec.Meta(gt=0, lt=1e6)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One preset, as the file has it."""

    repository: _Text
    revision: _Text | None = None
    served_names: tuple[_ServedName, ...] = ()
    gpu_memory_gb: _Gigabytes | None = None
    weights_gb: _Gigabytes | None = None
    cache_kib: Annotated[float, msgspec.Meta(ge=0, lt=1e6)] | None = None
    max_context: Annotated[int, msgspec.Meta(gt=0)] | None = None
    sources: tuple[str, ...] = ()
    max_in_flight: Annotated[int, msgspec.Meta(gt=0)] | None = None
    keys: tuple[_Text, ...] = ()
    gpus: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    pin: bool = False
    idle_unload_seconds: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] | None = None
    sleep: Literal["off", "level1"] = "off"
    engine: dict[str, Any] = {}


_KEYS = _Table.__struct_fields__
_ALLOWED = {
    "repository": "a text: organisation/name, or a folder",
    "revision": "a text: a branch, a tag or a commit",
    "served_names": 'a list of texts without a comma, as ["a", "b"]',
    "gpu_memory_gb": "a number of GB above 0",
    "weights_gb": "a number of GB above 0",
    "cache_kib": "a number of KiB, or 0",
    "max_context": "a number of tokens above 0",
    "sources": 'a list of texts, as ["a", "b"]',
    "max_in_flight": "a number of requests above 0",
    "keys": 'a list of labels of API keys, as ["alice"]',
    "gpus": "a list of numbers of GPUs, as [0, 1]",
    "pin": "true or false",
    "idle_unload_seconds": "a number of seconds, or 0 for never",
    "sleep": '"off" or "level1"',
    "engine": "a table of variables, as MAX_MODEL_LEN = 8192",
}
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
    place = f"MODELS_FILE={shown(str(file))}"
    try:
        if not file.is_file():
            raise SettingsError(f"{place}: there is no such file")
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES)
    except OSError as error:
        raise SettingsError(f"{place}: {error.strerror}; allowed is a readable file") from None
    try:
        return _presets_in(content.decode("utf-8-sig"), place, str(file))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{place}: no TOML: {error}") from None


def inline_presets(text: str) -> dict[str, Preset]:
    """Those of `MODELS_INLINE`: the text of a file, or the same tables as JSON.

    Raises:
        SettingsError: it holds what is no preset; says where.
    """
    return _presets_in(text, "MODELS_INLINE", "MODELS_INLINE")


def _presets_in(text: str, place: str, file: str) -> dict[str, Preset]:
    is_json = file == "MODELS_INLINE" and text.lstrip().startswith("{")
    try:
        document = json.loads(text) if is_json else tomllib.loads(text)
    except ValueError as error:
        raise SettingsError(f"{place}: no {'JSON' if is_json else 'TOML'}: {error}") from None
    except RecursionError:
        raise SettingsError(f"{place}: is nested too deeply") from None
    presets = {}
    for name, table in document.items():
        try:
            presets[name] = preset_of(name, table, file)
        except ValueError as error:
            raise SettingsError(f"{place}: [{name}] {error}") from None
    return presets


def preset_of(name: str, table: Any, file: str) -> Preset:
    """One table of a file.

    Raises:
        ValueError: says which key is wrong, and what is allowed.
    """
    if not _NAME.fullmatch(name) or name in BUILT_IN:
        allowed = f"a-z, 0-9 and . _ -, and not {' or '.join(BUILT_IN)}"
        raise ValueError(f"cannot be a name; allowed are {allowed}")
    checked = _checked(name, table)
    if len(set(checked.gpus)) < len(checked.gpus):  # CUDA has fewer, or none, of it
        raise ValueError(f"gpus={shown([*checked.gpus])}: allowed is each GPU once")
    variables_of_model = {
        "MODEL_NAME": checked.repository,
        **({"MODEL_REVISION": checked.revision} if checked.revision else {}),
        "SERVED_MODEL_NAME": ",".join(checked.served_names or (name, checked.repository)),
        **({"MAX_IN_FLIGHT": str(checked.max_in_flight)} if checked.max_in_flight else {}),
    }
    engine = {key: engine_variable(key, value) for key, value in checked.engine.items()}
    memory, context = checked.gpu_memory_gb, checked.max_context
    if memory is None and checked.weights_gb is not None and checked.cache_kib is not None:
        length = engine.get("MAX_MODEL_LEN", "")
        tokens = read_size(length) if length[:1].isdecimal() else context or 0
        memory = needed_gb(checked.weights_gb, checked.cache_kib, tokens)
    return Preset(
        name,
        file,
        variables_of_model | engine,
        memory,
        checked.sources,
        checked.weights_gb,
        checked.cache_kib,
        context,
        checked.gpus,
        checked.keys,
        checked.pin,
        checked.idle_unload_seconds,
        sleeps=checked.sleep == "level1",
    )


def _checked(name: str, table: Any) -> _Table:
    """Raises ValueError."""
    if not isinstance(table, dict):
        raise ValueError(f"is no table; allowed are tables with {', '.join(_KEYS)}")
    for key, value in table.items():
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS)
            if isinstance(value, dict) and not hint:  # what TOML makes of a dot: a table in a table
                hint = f' A name with a dot stands in quotes: ["{name}.{key}"].'
            raise ValueError(f"{key} is no key; allowed are {', '.join(_KEYS)}.{hint}")
    if "repository" not in table:
        raise ValueError("has no repository; allowed is one as organisation/name, or a folder")
    try:
        return msgspec.convert(table, _Table)
    except msgspec.ValidationError as error:
        key = re.split(r"[.\[]", str(error).split("`$.")[1].rstrip("`"))[0]
        raise ValueError(f"{key}={shown(table[key])}: allowed is {_ALLOWED[key]}") from None


def engine_variable(name: str, value: Any) -> str:
    """What would stand in an environment.

    Raises:
        ValueError: it is no variable of the engine's, or holds what that one cannot.
    """
    text = _as_text(value)
    if text is None:
        allowed = "allowed is a text, number, boolean, list or table"
        raise ValueError(f"engine.{name}={shown(value)}: {allowed}")
    if name in _NOT_HERE:
        raise ValueError(f"engine.{name} cannot be in a preset; {_NOT_HERE[name]}")
    fields = variables()
    ours = {spelling for field in EngineSettings.model_fields for spelling in fields[field]}
    try:
        if name in ours:
            Settings.load({name: text})
        elif flag_variable(name) == name:
            arguments(name, text)
        else:
            flags = {flag.upper().replace("-", "_") for flag in known_flags()}
            names = sorted(ours | {flag for flag in flags if flag_variable(flag)})
            hint = did_you_mean(name.upper().replace("-", "_"), names)
            allowed = "allowed are the engine's variables and vllm serve's flags, in UPPER_SNAKE"
            raise ValueError(f"engine.{name} is no variable of the engine; {allowed}.{hint}")
    except SettingsError as error:
        raise ValueError(f"engine.{error}") from None
    return text


def _as_text(value: Any) -> str | None:
    """None where no variable could hold it."""
    plain = (str, int, float)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        with suppress(TypeError):  # a date in it
            return json.dumps(value)
    if value and isinstance(value, list) and all(isinstance(each, plain) for each in value):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, plain) and str(value).strip() else None
