"""What the values of variables may be, and how a variable is declared."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
# The loop's timers take no more than about 10^10 s; a year is longer than anything runs.
Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]
Timeout = Annotated[Seconds | None, AfterValidator(lambda seconds: seconds or None)]
"""Seconds after which something is given up; 0 is None: never."""
Mebibytes = Annotated[float, Field(gt=0, le=1_048_576, allow_inf_nan=False)]
Gibibytes = Annotated[float, Field(gt=0, le=1_048_576, allow_inf_nan=False)]
# As many as vLLM and the standard library can count.
_MOST = 2**31 - 1
Count = Annotated[int, Field(ge=1, le=_MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=_MOST)]


def from_text(parse: Callable[[str], Any]) -> BeforeValidator:
    """Reads a value of the environment; one that is parsed already, such as a default, stays."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


# As many digits as a float has.
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)([kmgt])|(\d{1,12})([KMGT])")
_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_FACTORS |= {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def read_size(text: str) -> int:
    """`8k` -> 8000, `8K` -> 8192, as vLLM reads it (`human_readable_int`).

    Raises:
        ValueError: says what is allowed.
    """
    try:
        if (match := _SIZE.fullmatch(text)) is None:
            return int(text)
    except ValueError:
        raise ValueError("allowed is a whole number, or one such as 8k") from None
    number, suffix = filter(None, match.groups())
    return int(float(number) * _FACTORS[suffix])


def split_names(text: str) -> tuple[str, ...]:
    """`a, b` -> `("a", "b")`."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def is_host(name: str | None) -> bool:
    """Whether a name could be asked for: of `a..b` Python's resolver raises a UnicodeError."""
    try:
        return bool(name and name.encode("idna"))
    except UnicodeError:
        return False


def engine_urls(value: str) -> list[tuple[str, str]]:
    """`a=http://one:1,b=http://two:2` -> names and URLs; no name where there is none."""
    engines = []
    for entry in split_names(value):
        name, _, url = entry.rpartition("=")
        engines.append((name.strip(), url.strip()))
    return engines


def is_url(text: str) -> bool:
    """Whether a URL has a host that could be asked for, and no port or one that could be."""
    try:
        url = urlsplit(text)
        return is_host(url.hostname) and url.port != 0
    except ValueError:  # the port is none, or the brackets are not of an IPv6 address
        return False


def _is_engine_url(url: str) -> bool:
    return is_url(url) and re.fullmatch(r"http://[^/?#@\s]+/?", url) is not None


def _are_engine_urls(text: str) -> bool:
    """One URL, or several with the names of their models."""
    if "=" not in text:
        return _is_engine_url(text)
    return all(name and _is_engine_url(url) for name, url in engine_urls(text))


def _at_home(path: str) -> str:
    """With the folder for a `~` in front: no shell puts it there in `--log-file=~/x`."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        text = "there is no home folder of that user here; allowed is a path"
        raise ValueError(text) from None


def only(is_good: Callable[[str], object], allowed: str) -> AfterValidator:
    """A text that is good; `allowed` says which are."""

    def check(value: str) -> str:
        if not is_good(value):
            raise ValueError(allowed)
        return value

    return AfterValidator(check)


def matching(pattern: str, allowed: str) -> AfterValidator:
    """A text that is an example of `pattern`; `allowed` says it in words."""
    compiled = re.compile(pattern)
    return only(compiled.fullmatch, f"allowed is {allowed}")


_DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"

Names = Annotated[tuple[str, ...], from_text(split_names)]
Origin = Annotated[
    str,
    matching(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+", "https://host, with a port or without, or *"),
]
HostName = Annotated[
    str, matching(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*", "a name without port and path, *.name, or *")
]
Hosts = Annotated[tuple[HostName, ...], from_text(split_names)]
Origins = Annotated[tuple[Origin, ...], from_text(split_names)]
# A brace would make it a template of paths.
UrlPath = Annotated[
    str, matching(r"/[^\s{}?#]*", "a path that begins with / and has no blank and none of {}?#")
]
UrlPaths = Annotated[tuple[UrlPath, ...], from_text(split_names)]
Module = Annotated[str, matching(_DOTTED, "a module's name, such as package.module")]
Modules = Annotated[tuple[Module, ...], from_text(split_names)]
ProtocolName = Annotated[
    str, matching(rf"{_DOTTED}:[A-Za-z_]\w*", "the name of a class, as package.module:Name")
]
Protocols = Annotated[tuple[ProtocolName, ...], from_text(split_names)]
LocalPath = Annotated[str, AfterValidator(_at_home)]
Host = Annotated[str, only(is_host, "allowed is an IP address or the name of a host")]
EngineUrl = Annotated[
    str,
    only(
        _are_engine_urls,
        "allowed is http://host:port, or name=http://host:port for each of several",
    ),
]


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class MediaFetch(StrEnum):
    """What fetches the file behind a media URL."""

    PROXY = "proxy"
    ENGINE = "engine"


class OnEngineFailure(StrEnum):
    """What to do once the engine cannot be started any more."""

    HOLD = "hold"
    EXIT = "exit"


class PodIdleAction(StrEnum):
    """What to do with a pod that has had no request for long."""

    EXIT = "exit"
    RUNPOD_STOP = "runpod-stop"


def variable(
    *names: str,
    default: Any = None,
    effect: str,
    unit: str = "",
    unset: str = "",
    danger: str = "",
    example: str = "",
    secret: bool = False,
) -> Any:
    """A field that is read from the first of `names` that is set.

    This is all that is written of a variable: error messages have the first sentence of `effect`,
    docs/configuration.md and .env.example all of it (`scripts/reference.py`). Texts are
    Markdown; links are relative to docs/, and not in the first sentence. `unset` says what holds
    without a value, `example` is one that starts, written as in a shell.
    """
    return Field(
        default,
        validation_alias=AliasChoices(*names),
        description=effect,
        repr=not secret,
        json_schema_extra={"unit": unit, "unset": unset, "danger": danger, "example": example},
    )


def first_sentence(text: str) -> str:
    return text.partition(". ")[0].removesuffix(".") + "."


class Group(BaseModel):
    """Variables that belong together. The docstring of a subclass is the first line of its part of
    docs/configuration.md, `title` the heading."""

    # pydantic before 2.10 warns of each field that begins with "model_".
    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, protected_namespaces=())
