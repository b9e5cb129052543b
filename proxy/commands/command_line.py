"""A command line -> the environment it stands for: an option and its variable are one thing.

Options of ours are called like their variables, `--drain-seconds 10`. All others are flags of
`vllm serve`, in every form that it takes: `--flag value`, `--flag=value`, `--no-flag`, `-tp 2`,
several values, JSON, and dotted keys of JSON. What the command line says wins over the environment.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import get_args

from proxy.errors import SettingsError
from proxy.models.preset_choice import presets_of
from proxy.models.several import ALL
from proxy.settings import Settings, variables
from proxy.settings.values import split_names
from proxy.vllm.command import flag_variable, remedy_of_reserved
from proxy.vllm.flags import arguments, flag_name, is_boolean, known_flags

MODEL = "MODEL_NAME"
_EXTRA = "VLLM_EXTRA_ARGS"
# What stock images and vLLM call something that has a variable of ours under another name.
_OTHER_NAMES = {
    "model": MODEL,
    "model-tag": MODEL,
    "revision": "MODEL_REVISION",
    "api-key": "API_KEYS",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `kind` is boolean, value or list, as of a flag; `spellings` are all variables
    that mean the same, of which `variable` is set."""

    variable: str
    spellings: tuple[str, ...]
    kind: str
    ours: bool
    secret: bool = False
    negatable: bool = True


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The environment with the options in it, and what the user should know of them."""

    environ: dict[str, str]
    warnings: tuple[str, ...]


def with_options(words: Iterable[str], environ: Mapping[str, str]) -> CommandLine:
    """Read options, and the model where it stands alone, as in `vllm serve MODEL`.

    Raises:
        SettingsError: an option is unknown, reserved, lacks its value or has one it cannot take.
    """
    result, warnings, extra = dict(environ), [], list[str]()
    given: dict[str, list[str]] = {}
    for name, values in _options_of(words):
        if "." in name:
            extra += [f"--{name}", *values]
            continue
        option = options()[name]
        if option.secret:
            warnings.append(
                f"--{name}: every user of this machine can read a command line; "
                f"set {option.variable} in the environment instead"
            )
        flag = known_flags().get(name)
        if flag is not None and flag.repeated:
            values = given.get(option.variable, []) + values
        given[option.variable] = values
        for spelling in option.spellings:
            result.pop(spelling, None)
            result.pop(f"SM_VLLM_{spelling}", None)
        text = values[0]
        if option.kind == "list":
            text = ",".join(values) if option.ours else json.dumps(values)
        result[option.variable] = text
        if not option.ours:
            arguments(option.variable, text)
    if extra:
        result[_EXTRA] = " ".join(filter(None, (result.get(_EXTRA), shlex.join(extra))))
    return CommandLine(result, tuple(warnings))


def names_a_preset(word: str, options: Iterable[str], environ: Mapping[str, str]) -> bool:
    """Whether one of the models in `word` is a preset, or all of them are, as the options after it
    and the environment have them.

    Raises:
        SettingsError: a variable or a file of presets is wrong.
    """
    with suppress(SettingsError):  # told of once it is clear what is to be done
        environ = with_options(options, environ).environ
    presets = presets_of(Settings.load(environ))
    return any(name in presets or name == ALL for name in split_names(word))


def _options_of(words: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option's name, without dashes, and its values."""
    rest, models = deque(words), list[str]()
    while rest:
        word = rest.popleft()
        if not _is_option(word):
            models.append(word)
            if len(models) > 1:
                allowed = f"allowed is one model ({models[0]}) and options"
                raise SettingsError(f"unexpected argument: {word}; {allowed}")
            yield "model-name", [word]
            continue
        text, equals, value = word.partition("=")
        name, negated = _name(text)
        if negated:
            if equals:
                raise SettingsError(f"{text}: takes no value; allowed is {text}, or --{name}=false")
            yield name, ["false"]
        elif equals:
            yield name, [value]
        else:
            yield name, _values(name, rest)


def _values(name: str, rest: deque[str]) -> list[str]:
    """What follows an option and belongs to it, taken off `rest`."""
    option = options().get(name)  # a dotted key is none
    if option is not None and option.kind == "boolean":
        return [rest.popleft()] if rest and is_boolean(rest[0]) else ["true"]
    values = []
    while rest and not _is_option(rest[0]):
        values.append(rest.popleft())
        if option is None or option.kind != "list":
            break
    if not values:
        raise SettingsError(
            f"--{name}: a value is missing; allowed is --{name} VALUE, or --{name}=VALUE "
            "for one that begins with a dash"
        )
    return values


def _is_option(word: str) -> bool:
    return word.startswith("-") and re.fullmatch(r"-|-[\d.].*", word) is None


def _name(text: str) -> tuple[str, bool]:
    """`--Max_Model_Len` -> `max-model-len`; and whether it is the `--no-` form of a boolean.

    Raises:
        SettingsError: there is no such option.
    """
    name = _aliases().get(text, text.lstrip("-"))
    base, dot, key = name.partition(".")
    base = flag_name(base)
    if dot:
        flag = known_flags().get(base)
        if flag is not None and flag.json is not None and key:
            return f"{base}.{key}", False
    elif text.startswith("--") or text in _aliases():
        if base in options():
            return base, False
        positive = options().get(base.removeprefix("no-"))
        if positive is not None and positive.kind == "boolean" and positive.negatable:
            return base.removeprefix("no-"), True
        if remedy := remedy_of_reserved(base):
            raise SettingsError(f"--{base} is not allowed; {remedy}")
    near = get_close_matches(base, options(), n=1)
    hint = f"did you mean --{near[0]}?" if near else "serve --help lists ours"
    raise SettingsError(f"unknown option: {text}; {hint}")


@cache
def _aliases() -> dict[str, str]:
    """`-tp` -> `tensor-parallel-size`."""
    return {alias: name for name, flag in known_flags().items() for alias in flag.aliases}


@cache
def options() -> dict[str, Option]:
    """Every option by its name without dashes."""
    table = {}
    for name, flag in known_flags().items():
        if (variable := flag_variable(name.upper().replace("-", "_"))) is not None:
            spellings = (variable, f"{variable}_NAME") if name == "tokenizer" else (variable,)
            table[name] = Option(
                variable, spellings, flag.kind, ours=False, negatable=flag.negatable
            )
    for field, names in variables().items():
        info = Settings.model_fields[field]
        is_boolean_field = bool in (info.annotation, *get_args(info.annotation))
        kind = "boolean" if is_boolean_field else "value"
        assert isinstance(info.json_schema_extra, dict)
        # A URL with a secret is refused.
        secret = not info.repr and info.json_schema_extra["unit"] != "URL"
        option = Option(names[0], names, kind, ours=True, secret=secret)
        for each in names:
            flag_of_ours = known_flags().get(flag_name(each))
            is_list = flag_of_ours is not None and flag_of_ours.kind == "list"
            table[flag_name(each)] = replace(option, kind="list") if is_list else option
    for name, variable in _OTHER_NAMES.items():
        option = table[flag_name(variable)]
        table[name] = replace(option, kind="list") if name == "api-key" else option
    return table
