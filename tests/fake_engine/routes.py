"""Path and method -> reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import control, generate, naps, plain, refusals
from .deliver import Reply, whole
from .engine import Engine
from .plain import found

if TYPE_CHECKING:
    from .exchange import Exchange

CONTROL = "/__fake/"
# vLLM asks for a key under these only; /tokenize and the rest stay open.
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_TASKS = {
    **dict.fromkeys(generate.APIS, "generate"),
    **dict.fromkeys(plain.AUDIO, "transcription"),
    **plain.POOLING_TASKS,
}
_POSTS = frozenset({*_TASKS, *plain.POSTS})


async def answer(engine: Engine, exchange: Exchange) -> Reply:
    """What the engine says to this request; raises `Refusal` for an error."""
    method, path = exchange.record.method, exchange.path
    if path.startswith(CONTROL):
        return control.answer(engine, method, path, exchange.body)
    _authorize(engine, exchange)
    if path in naps.PATHS and engine.scenario.dev_mode:
        query = exchange.record.target.partition("?")[2]
        return await naps.answer(engine, method, path, query)
    if path in plain.GETS:
        return _get(engine, method, path)
    if path not in _POSTS or not engine.scenario.tasks >= {_TASKS.get(path, "generate")}:
        raise refusals.Refusal(404, refusals.NOT_FOUND)
    if method != "POST":
        return _not_allowed("POST")
    if path in plain.AUDIO:
        return plain.transcription(exchange.body, exchange.header("content-type"))
    body = generate.parse(exchange)
    if path in plain.POOLING_TASKS:
        generate.alive(engine, path)
    if path in plain.POSTS:
        return plain.POSTS[path](engine, body)
    return await generate.begin(engine, exchange, body)


def _authorize(engine: Engine, exchange: Exchange) -> None:
    keys = engine.options.api_keys
    if not keys or not exchange.path.startswith(_GUARDED):
        return
    scheme, _, key = exchange.header("authorization").partition(" ")
    if scheme.lower() != "bearer" or key not in keys:
        raise refusals.Refusal(401, refusals.UNAUTHORIZED)


def _get(engine: Engine, method: str, path: str) -> Reply:
    # HEAD is refused everywhere but on /metrics, and /ping takes POST as well.
    allowed = {"/metrics": ("GET", "HEAD"), "/ping": ("GET", "POST")}.get(path, ("GET",))
    return plain.GETS[path](engine) if method in allowed else _not_allowed("GET")


def _not_allowed(allow: str) -> Reply:
    reply = found(refusals.METHOD_NOT_ALLOWED, 405)
    reply.fields.append(("allow", allow))
    return reply


def overridden(exchange: Exchange) -> Reply:
    """`status` and `body` of the script instead of an answer."""
    script = exchange.script
    status = script.status or 200
    if script.body is None:
        text = f"scripted error {status}"
        return found(refusals.error(status, text, path=exchange.path), status)
    own_type = any(name.lower() == "content-type" for name, _ in script.headers)
    return whole(script.body.encode(), status, None if own_type else "application/json")
