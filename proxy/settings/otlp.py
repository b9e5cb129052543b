"""Where spans and log lines go by OTLP: OpenTelemetry's variables, as it specifies them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from proxy.settings.environment import shown
from proxy.settings.values import is_url

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
# Of traces alone; they go before those of everything.
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
# Of log lines: our own.
LOGS_ENDPOINT = "OTLP_LOGS_ENDPOINT"
LOGS_PROTOCOL = "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL"

NO_TRACES = "none"
"""In place of the URL for vLLM's own traces."""

# No user, no query: a secret in them would be in the engine's arguments, and in logs.
_URL = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?")
_URL_ALLOWED = (
    "allowed is http://host:port or https://host:port, with a path or without; "
    "secrets belong into OTEL_EXPORTER_OTLP_HEADERS"
)


class OtlpProtocol(StrEnum):
    HTTP = "http/protobuf"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class OtlpTarget:
    """A collector. Over HTTP the URL has the path of what is sent there."""

    url: str
    protocol: OtlpProtocol
    variables: str = field(default="", compare=False)
    """Those that have set it, in words."""


def trace_target(environ: Mapping[str, str]) -> OtlpTarget | None:
    """Where the spans of an environment without empty values go; None: none are made.

    Raises:
        ValueError: names the variable and what is allowed; a URL is not repeated.
    """
    wanted = environ.get("OTEL_TRACES_EXPORTER", "otlp").lower()
    if _is_disabled(environ) or "otlp" not in map(str.strip, wanted.split(",")):
        return None
    protocol, named = _protocol(environ, TRACES_PROTOCOL)
    if url := environ.get(TRACES_ENDPOINT):
        url = _checked(TRACES_ENDPOINT, url)
        return OtlpTarget(url, protocol, f"{TRACES_ENDPOINT} and {named}")
    if url := environ.get(ENDPOINT):
        path = "/v1/traces" if protocol is OtlpProtocol.HTTP else ""
        url = _checked(ENDPOINT, url).removesuffix("/") + path
        return OtlpTarget(url, protocol, f"{ENDPOINT} and {named}")
    return None


def log_target(endpoint: str | None, environ: Mapping[str, str]) -> OtlpTarget | None:
    """Where log lines go too; None: to stdout and LOG_FILE only.

    A URL without a path gets that of logs, over HTTP.

    Raises:
        ValueError: names the variable of the protocol and what is allowed.
    """
    if endpoint is None or _is_disabled(environ):
        return None
    protocol, named = _protocol(environ, LOGS_PROTOCOL)
    url = endpoint.removesuffix("/")
    if protocol is OtlpProtocol.HTTP and not urlsplit(url).path:
        url += "/v1/logs"
    return OtlpTarget(url, protocol, f"{LOGS_ENDPOINT} and {named}")


def _is_disabled(environ: Mapping[str, str]) -> bool:
    return environ.get("OTEL_SDK_DISABLED", "").lower() == "true"


def _protocol(environ: Mapping[str, str], name_of_signal: str) -> tuple[OtlpProtocol, str]:
    """With the name of the variable that has it, or would have."""
    name = name_of_signal if name_of_signal in environ else PROTOCOL
    value = environ.get(name, OtlpProtocol.HTTP)
    try:
        return OtlpProtocol(value), name
    except ValueError:
        allowed = " and ".join(OtlpProtocol)
        raise ValueError(f"{name}={shown(value)}: allowed are {allowed}") from None


def _check_url(url: str) -> str:
    if not is_url(url) or not _URL.fullmatch(url):
        raise ValueError(_URL_ALLOWED)
    return url


def _check_url_or_none(value: str) -> str:
    try:
        return value if value == NO_TRACES else _check_url(value)
    except ValueError as error:
        raise ValueError(f"{error}; {NO_TRACES} is allowed too") from None


OtlpUrl = Annotated[str, AfterValidator(_check_url)]
OtlpUrlOrNone = Annotated[str, AfterValidator(_check_url_or_none)]


def _checked(name: str, value: str) -> str:
    try:
        return _check_url(value)
    except ValueError as error:
        raise ValueError(f"{name}=***: {error}") from None
