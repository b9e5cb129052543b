"""The flags of the pinned vLLM, and which environment variable means which flag."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.settings.environment import check_text, shown
from proxy.settings.values import read_size

TABLE = Path(__file__).with_name("flags.json")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
# vLLM's parser of a configuration's fields takes 80m for 80000000, outside of texts.
_TEXT_OR_SIZE = re.compile(r'("(?:[^"\\]|\\.)*")|\b\d+(?:\.\d+)?[kKmMgGtT]\b')
_LORA_MODULES = "lora-modules"
# Each rank has a GPU of its own, as those of TENSOR_PARALLEL_SIZE: the first that the engine sees.
_OTHER_RANKS = (
    "pipeline-parallel-size",
    "prefill-context-parallel-size",
    "data-parallel-size",
)
# With these some of the ranks are on other machines, or somebody else places them; but not with the
# words beside them.
_PLACED_OTHERWISE = {
    "data-parallel-size-local": (),
    "data-parallel-backend": ("mp",),
    "data-parallel-external-lb": (),
    "data-parallel-hybrid-lb": (),
    "distributed-executor-backend": ("mp", "uni"),
    "nnodes": ("1",),
}


class Flag(msgspec.Struct, frozen=True):
    """One flag: `kind` is boolean, value or list; `negatable` booleans have a `--no-` form. `json`
    and `number` are what a value has to be (`_JSON`, `_NUMBERS`), `optional` ones may be None."""

    kind: str
    negatable: bool = False
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    repeated: bool = False
    json: str | None = None
    number: str | None = None
    optional: bool = False


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
    items = _items(variable, value) if flag.kind == "list" else [value]
    for item in items:
        _check_value(variable, name, item)
    if flag.repeated:
        return [word for item in items for word in (f"--{name}", item)]
    return [f"--{name}", *items]


def extra_words(settings: Settings) -> list[str]:
    """VLLM_EXTRA_ARGS as words. Raises SettingsError where a quote has no end."""
    try:
        return shlex.split(settings.extra_args)
    except ValueError as error:
        raise SettingsError(f"VLLM_EXTRA_ARGS: {error}; allowed are shell words") from None


def extra_flags(settings: Settings) -> dict[str, list[str]]:
    """The flags in VLLM_EXTRA_ARGS with their last values; in its `--no-` form one is `false`.
    Raises SettingsError as `extra_words`."""
    return {
        name: values if _name_of(written) else ["false"]
        for written, name, values in _flags_in(extra_words(settings))
    }


def value_of(settings: Settings, flag: str) -> str | None:
    """What a flag is set to, by VLLM_EXTRA_ARGS or else by its variable, without blanks around it;
    None: it is not set.

    Raises:
        SettingsError: VLLM_EXTRA_ARGS cannot be read.
    """
    if (values := extra_flags(settings).get(flag)) is not None:
        return " ".join(values)
    value = settings.environ.get(flag.upper().replace("-", "_"))
    return None if value is None else value.strip()


def is_changed(settings: Settings, flag: str, *defaults: str) -> bool:
    """Whether a flag is set to something else than what vLLM does anyway; of a boolean, whether it
    is on.

    Raises:
        SettingsError: VLLM_EXTRA_ARGS cannot be read.
    """
    value = value_of(settings, flag)
    if value and known_flags()[flag].kind == "boolean":
        return is_true(value)
    return value is not None and value not in defaults


def check_extra_words(words: list[str]) -> None:
    """Judge the values in VLLM_EXTRA_ARGS as those of variables are judged.

    Raises:
        SettingsError: a value cannot be what its flag takes.
    """
    for word, name, values in _flags_in(words):
        variable, flag = f"VLLM_EXTRA_ARGS: {word}", known_flags()[name]
        if flag.kind == "boolean" and values:
            opposite = f" or write --no-{name}" if flag.negatable and _name_of(word) else ""
            text = f"{variable} takes no value, and {shown(values[0])} is one"
            raise SettingsError(f"{text}; leave the value out{opposite}")
        for value in values if flag.kind == "list" else values[:1]:
            _check_value(variable, name, value)


def unknown_flags(words: list[str]) -> Iterator[tuple[str, str]]:
    """What VLLM_EXTRA_ARGS has that is no flag of the pinned vLLM, with the nearest one or ""."""
    names = [f"--{name}" for name in known_flags()]
    for word in words:
        written = word.partition("=")[0].partition(".")[0]
        if len(written) > 2 and written[:2] == "--" and not name_in(written):
            near = get_close_matches(written, names, n=1)
            yield written, near[0] if near else ""


def adapter_names(settings: Settings) -> tuple[str, ...]:
    """The names of LoRA adapters in LORA_MODULES, or in VLLM_EXTRA_ARGS, which wins.

    Raises:
        SettingsError: an adapter is neither `name=path` nor JSON with both.
    """
    modules = _items("LORA_MODULES", settings.environ.get("LORA_MODULES", "").strip())
    modules = extra_flags(settings).get(_LORA_MODULES, modules)
    return tuple(_adapter_name("LORA_MODULES", module) for module in modules)


def gpus_taken(settings: Settings) -> int | None:
    """How many GPUs an engine takes, the first of those that it sees; None: that is not known.

    Raises:
        SettingsError: VLLM_EXTRA_ARGS cannot be read.
    """
    if any(is_changed(settings, flag, *same) for flag, same in _PLACED_OTHERWISE.items()):
        return None
    own = [str(settings.tensor_parallel_size)]  # `4.0` is 4 there
    own = extra_flags(settings).get("tensor-parallel-size", own)
    sizes = [*own, *filter(None, (value_of(settings, flag) for flag in _OTHER_RANKS))]
    return prod(map(int, sizes)) if all(map(str.isdecimal, sizes)) else None


def _flags_in(words: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """The flags of a command line: each as it is written, its name in the table, and the words that
    belong to it."""
    flags: list[tuple[str, str, list[str]]] = []
    for word in words:
        written, equals, value = word.partition("=")
        if not word.startswith("-") or word[1:2].isdigit():
            if flags:
                flags[-1][2].append(word)
        else:
            flags.append((written, name_in(written), [value] if equals else []))
    return (flag for flag in flags if flag[1])


def _name_of(written: str) -> str:
    """`--tensor_parallel_size`, `-tp` -> `tensor-parallel-size`; empty: none, or not clear."""
    if written.startswith("--"):
        name = flag_name(written[2:])
        if name in known_flags():
            return name
        # vLLM's parser takes abbreviations.
        longer = [other for other in known_flags() if other.startswith(name)]
        if len(longer) == 1:
            return longer[0]
    return next((name for name, flag in known_flags().items() if written in flag.aliases), "")


def name_in(written: str) -> str:
    """The same, and `--no-enforce-eager` -> `enforce-eager`."""
    name = _name_of(written)
    if not name and flag_name(written).startswith("--no-"):
        negated = _name_of(f"--{written[5:]}")
        name = negated if negated and known_flags()[negated].negatable else ""
    return name


def _check_value(variable: str, name: str, value: str) -> None:
    """Judge one value of a flag, in words; vLLM names a function in its place.

    Raises:
        SettingsError: it cannot be what the flag takes.
    """
    flag = known_flags()[name]
    source = f"(vLLM's --{name})"
    if flag.optional and value in ("", "None"):
        return
    if flag.choices and value not in flag.choices:
        allowed = ", ".join(flag.choices)
        raise SettingsError(f"{variable}={shown(value)}: allowed are {allowed} {source}")
    if flag.number is not None:
        is_good, allowed = _NUMBERS[flag.number]
        if not is_good(value):
            raise SettingsError(f"{variable}={shown(value)}: allowed is {allowed} {source}")
    if flag.json is not None and (problem := _problem_of_json(flag.json, value)) is not None:
        allowed = _JSON[flag.json]
        raise SettingsError(f"{variable}={shown(value)} {problem}; allowed is {allowed} {source}")
    if name == _LORA_MODULES:
        _adapter_name(variable, value)


def _is(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return check


_is_size = _is(read_size)

_NUMBERS: dict[str, tuple[Callable[[str], bool], str]] = {
    "integer": (_is(int), "a whole number"),
    "number": (_is(float), "a number"),
    "size": (_is_size, "a whole number, or one such as 8k"),
    "size or auto": (
        lambda value: _is_size(value) or value.lower() == "auto",
        "a whole number, one such as 8k, or auto",
    ),
}
_OBJECT = 'a JSON object without quotes around it, such as {"name": 1}'
_JSON = {
    "fields": _OBJECT,
    "object": _OBJECT,
    "array": 'a JSON array without quotes around it, such as ["a", "b"]',
    "object or text": f"{_OBJECT}, or a text",
}


def _problem_of_json(kind: str, value: str) -> str | None:
    """What is wrong with it, as a predicate; None: nothing."""
    if kind == "object or text" and value[:1] not in ("{", "[", '"', "'"):
        return None
    if kind == "fields":
        value = _TEXT_OR_SIZE.sub(lambda match: match[1] or "0", value)
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        is_quoted = value[:1] == value[-1:] == "'" and len(value) > 1
        return "is JSON in quotes" if is_quoted else f"is no JSON ({error})"
    if isinstance(parsed, str):
        return "is JSON in quotes"
    if kind == "array":
        return None if isinstance(parsed, list) else "is no JSON array"
    return None if isinstance(parsed, dict) else "is no JSON object"


def _adapter_name(variable: str, module: str) -> str:
    """The name in `name=path`, or in a JSON object with both."""
    name, equals, path = module.partition("=")
    if equals and name and path and "," not in module:
        return name
    try:
        adapter: Any = json.loads(module)
        name, path = adapter["name"], adapter["path"]
        if name and isinstance(name, str) and isinstance(path, str):
            return name
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    allowed = 'name=path, or {"name": "a", "path": "/a"}, for each adapter'
    raise SettingsError(f"{variable}={shown(module)}: allowed is {allowed} (vLLM's --lora-modules)")


def _items(variable: str, value: str) -> list[str]:
    """`a, b`; or JSON, as LORA_MODULES is often given: an object, several, or a list of them."""
    if value[:1] not in ("{", "["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        items = json.loads(value if value.startswith("[") else f"[{value}]")
    except (ValueError, RecursionError) as error:
        text = f"{variable}={shown(value)}: no JSON ({error}); allowed are a,b too"
        raise SettingsError(text) from None
    return [item if isinstance(item, str) else json.dumps(item) for item in items]
