"""What the values of variables may be, and how a variable is declared."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ItemLimit = Annotated[int, Field(ge=0)]


def split_names(value: Any) -> Any:
    """`a, b` -> `("a", "b")`."""
    return (
        tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value
    )


def _check_engine_url(value: str) -> str:
    try:
        url = urlsplit(value)
        good = url.scheme == "http" and bool(url.hostname) and url.port != 0
    except ValueError:  # the port is none, or the brackets are not of an IPv6 address
        good = False
    if not good or not re.fullmatch(r"http://[^/?#@\s]+/?", value):
        raise ValueError("allowed is http://host:port")
    return value


def _check_home(value: str) -> str:
    try:
        Path(value).expanduser()
    except RuntimeError:
        raise ValueError("nobody here has that home folder; allowed is a path") from None
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+)$")]
Host = Annotated[str, Field(pattern=r"^(\*|(\*\.)?[\w-]+(\.[\w-]+)*)$")]
Hosts = Annotated[tuple[Host, ...], BeforeValidator(split_names)]
Origins = Annotated[tuple[Origin, ...], BeforeValidator(split_names)]
UrlPath = Annotated[str, Field(pattern=r"^/\S*$")]
UrlPaths = Annotated[tuple[UrlPath, ...], BeforeValidator(split_names)]
Module = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
Modules = Annotated[tuple[Module, ...], BeforeValidator(split_names)]
ProtocolName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
Protocols = Annotated[tuple[ProtocolName, ...], BeforeValidator(split_names)]
FolderPath = Annotated[str, AfterValidator(_check_home)]
EngineUrl = Annotated[str, AfterValidator(_check_engine_url)]


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class MediaFetch(StrEnum):
    """Who fetches what a media URL leads to."""

    PROXY = "proxy"
    ENGINE = "engine"


class OnEngineFailure(StrEnum):
    """What to do once the engine cannot be started any more."""

    HOLD = "hold"
    EXIT = "exit"


def variable(*names: str, default: Any = None, effect: str, secret: bool = False) -> Any:
    """A field that is read from the first of `names` that is set."""
    return Field(
        default, validation_alias=AliasChoices(*names), description=effect, repr=not secret
    )


class Group(BaseModel):
    """Variables that belong together."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
