"""How vLLM ends what is in flight when its engine dies or is stopped (facts: engine.md C1b, C2)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from . import refusals
from .sse import DONE, Encoder

_PYDANTIC = (
    "  Field required [type=missing, input_value={'error': {'message': 'En...am': None, "
    "'code': 500}}, input_type=dict]\n"
    "    For further information visit https://errors.pydantic.dev/2.14/v/missing"
)
# vLLM's own bug hides the cause on this route; a proxy must not depend on the text.
_MESSAGES_TEXT = (
    "2 validation errors for ChatCompletionStreamResponse\n"
    f"model\n{_PYDANTIC}\nchoices\n{_PYDANTIC}"
)


class Interruption(StrEnum):
    """Why an exchange is ended by the engine itself."""

    DIED = "died"
    STOPPED = "stopped"


def error_events(path: str, encoder: Encoder) -> list[bytes] | None:
    """What a stream gets when the engine dies; None: the bare end of the connection."""
    if path.startswith("/v1/responses"):
        return None
    if path.startswith("/v1/messages"):
        error = {"type": "internal_error", "message": _MESSAGES_TEXT}
        return [encoder.event({"type": "error", "error": error}, name="error")]
    body = refusals.error(500, refusals.ENGINE_DEAD)
    spaced = msgspec.json.format(msgspec.json.encode(body), indent=0)
    return [b"data: " + spaced + b"\n\n", DONE]
