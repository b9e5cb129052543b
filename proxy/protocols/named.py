"""The protocols that are spoken here: ours, and those that `PROTOCOLS` names.

Their code runs in this process, so `PROTOCOL_MODULES` must allow the module they are in.
"""

from __future__ import annotations

import re
from importlib import import_module
from inspect import iscoroutinefunction

from proxy.access.routes import RouteTable
from proxy.errors import SettingsError
from proxy.protocols.protocol import Protocol
from proxy.settings import Settings

_PATH = re.compile(r"(/[A-Za-z0-9_-]+)+")
# What the sidecar answers itself, and all below it.
OWN = (
    "health",
    "livez",
    "readyz",
    "startupz",
    "ping",
    "info",
    "models",
    "metrics",
    "dashboard",
    "openapi.json",
)


def named_protocols(settings: Settings) -> tuple[Protocol, ...]:
    """One object of each class in `PROTOCOLS`.

    Raises:
        SettingsError: one is not allowed, is not there, is no protocol, or has a path that it
            cannot have.
    """
    protocols: list[Protocol] = []
    taken = {settings.health_check_path: "the health check"}
    routes = RouteTable(settings.extra_routes)
    for name in settings.protocols:
        protocol = _made(name, settings.protocol_modules)
        for path in protocol.paths:
            if not _PATH.fullmatch(path):
                allowed = "allowed are letters, digits, -, _ and /"
                raise _refused(name, f"the path {path!r} is none; {allowed}")
            if path.split("/")[1] in OWN:
                raise _refused(name, f"{path} is the sidecar's own")
            if path in taken:
                raise _refused(name, f"{path} is taken by {taken[path]}")
            if routes.find(path.encode()) is not None:
                raise _refused(name, f"{path} is relayed to the engine already")
            taken[path] = name
        protocols.append(protocol)
    return tuple(protocols)


def _made(name: str, allowed: tuple[str, ...]) -> Protocol:
    module, _, attribute = name.partition(":")
    if not any(module == each or module.startswith(f"{each}.") for each in allowed):
        listed = ", ".join(allowed) or "none"
        raise _refused(name, f"the module {module} is not in PROTOCOL_MODULES, which has {listed}")
    try:
        made = getattr(import_module(module), attribute, None)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        text = f"{module} cannot be imported ({_words(error)})"
        raise _refused(name, f"{text}; is it on PYTHONPATH?") from None
    if not (isinstance(made, type) and issubclass(made, Protocol)):
        text = f"{attribute} in {module} is no subclass of proxy.protocols.protocol.Protocol"
        raise _refused(name, text)
    try:
        protocol = made()
    except (Exception, SystemExit) as error:
        raise _refused(name, f"it cannot be made ({_words(error)})") from None
    paths: object = getattr(protocol, "paths", ())
    if not (isinstance(paths, tuple | list) and paths and all(isinstance(p, str) for p in paths)):
        raise _refused(name, "it has no paths; allowed is a tuple of them")
    for function in (protocol.request_in, protocol.events_out):
        if iscoroutinefunction(function):
            raise _refused(name, f"{function.__name__} is async; allowed is a plain function")
    kinds: tuple[object, ...] = (protocol.answer_type, protocol.stream_type)
    if not all(isinstance(kind, str) and kind.isprintable() for kind in kinds):
        raise _refused(name, "answer_type and stream_type must be texts, as application/json")
    return protocol


def _words(error: BaseException) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _refused(name: str, text: str) -> SettingsError:
    return SettingsError(f"PROTOCOLS={name}: {text}")
