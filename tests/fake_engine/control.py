"""`/__fake/*`: what tests ask of the fake engine itself."""

from __future__ import annotations

import time

import msgspec

from . import refusals
from .deliver import Reply
from .engine import Engine
from .plain import found
from .script import Script


class PathScript(msgspec.Struct):
    """A script for every request to one path, until the next reset. Null takes it away."""

    path: str
    script: Script | None = None


def answer(engine: Engine, method: str, path: str, body: bytes) -> Reply:
    """GET requests, GET stats, POST release, POST reset, POST script."""
    key = (method, path.removeprefix("/__fake/"))
    if key == ("GET", "requests"):
        for connection in engine.connections:
            connection.note_unsent()
        return found({"requests": engine.journal.requests})
    if key == ("GET", "stats"):
        return found(stats(engine))
    if key == ("POST", "reset"):
        engine.journal.reset()
        engine.path_scripts.clear()
        engine.released.clear()
        return found({})
    if key == ("POST", "release"):
        engine.released.set()
        return found({})
    if key == ("POST", "script"):
        return _script(engine, body)
    raise refusals.Refusal(404, refusals.NOT_FOUND)


def stats(engine: Engine) -> dict[str, float]:
    """Counts that are no metric of vLLM's, and our own CPU time.

    The connection that asks is one of `connections_open` and `connections_opened`.
    """
    return {
        "connections_open": len(engine.connections),
        "connections_opened": engine.connections_opened,
        "in_flight": engine.in_flight,
        "aborted": engine.metrics.aborted,
        "running": engine.metrics.running,
        "waiting": engine.metrics.waiting,
        "prompt_tokens": engine.metrics.prompt_tokens,
        "generation_tokens": engine.metrics.generation_tokens,
        "cpu_seconds": time.process_time(),
    }


def _script(engine: Engine, body: bytes) -> Reply:
    try:
        wish = msgspec.json.decode(body, type=PathScript)
    except msgspec.MsgspecError as error:
        raise refusals.bad_script(str(error)) from None
    engine.path_scripts.pop(wish.path, None)
    if wish.script is not None:
        engine.path_scripts[wish.path] = wish.script
    return found({})
