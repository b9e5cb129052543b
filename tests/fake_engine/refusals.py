"""Errors in vLLM's five shapes, as recorded (facts: engine.md D1)."""

from __future__ import annotations

from typing import Any

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
NOT_FOUND = {"detail": "Not Found"}
METHOD_NOT_ALLOWED = {"detail": "Method Not Allowed"}
UNREADABLE = {"detail": "There was an error parsing the body"}
UNAUTHORIZED = {"error": "Unauthorized"}
NOT_HTTP = b"Invalid HTTP request received."
_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    413: "Request Entity Too Large",
    500: "InternalServerError",
    503: "Service Unavailable",
}


class Refusal(Exception):
    """A request that is answered with an error instead of a generation."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def error(
    status: int, message: str, param: str | None = None, *, kind: str = "", path: str = ""
) -> dict[str, Any]:
    """An error body: Anthropic-shaped on /v1/messages, OpenAI-shaped elsewhere."""
    kind = kind or _TYPES.get(status, "InternalServerError")
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": kind, "message": message}}
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def invalid(message: str, param: str | None) -> Refusal:
    """What FastAPI's validation says; OpenAI-shaped on every path."""
    text = f"1 validation error:\n  {message}"
    return Refusal(400, error(400, text, param, kind="Bad Request"))


def unknown_model(model: str, aliases: list[str], path: str) -> Refusal:
    """404 with the names that exist."""
    text = f"The model `{model}` does not exist. Valid aliases: {', '.join(aliases)}."
    return Refusal(404, error(404, text, "model", path=path))


def stream_options_without_stream() -> Refusal:
    """400 on chat and completions."""
    text = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
    return Refusal(400, error(400, text, "stream_options"))


def too_many_tokens(limit: int, longest: int) -> Refusal:
    """max_tokens beyond the model's length."""
    text = (
        f"max_tokens={limit} cannot be greater than max_model_len={longest}. "
        f"Please request fewer output tokens. (parameter=max_tokens, value={limit})"
    )
    return Refusal(400, error(400, text, "max_tokens"))


def missing(name: str) -> Refusal:
    """A required field is not there."""
    found = "'<dict of 1 items>'"
    text = f"{{'type': 'missing', 'loc': 'body.{name}', 'msg': 'Field required', 'input': {found}}}"
    return invalid(text, f"body.{name}")


def bad_json(detail: str) -> Refusal:
    """Not JSON, or not the types."""
    text = (
        "{'type': 'json_invalid', 'loc': 'body.1', 'msg': 'JSON decode error', "
        f"'input': '<dict of 0 items>', 'ctx': {{'error': '{detail}'}}}}"
    )
    return invalid(text, "body.1")


def bad_script(detail: str) -> Refusal:
    """The fake's own: a test wrote a script that means nothing."""
    return Refusal(400, {"error": {"message": f"x-fake: {detail}", "type": "BadScript"}})
