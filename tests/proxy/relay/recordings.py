"""Streams that real vLLM sent, and what is to be read from each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from proxy.access.routes import Route

_FOLDER = Path(__file__).resolve().parents[2] / "fake_engine/recorded"


class Reading(NamedTuple):
    """What a stream says; None where it does not."""

    route: Route
    prompt: int | None
    completion: int | None
    reasoning: int | None
    finish: str
    token_events: int


READINGS = {
    "chat_stream_continuous": Reading(Route.CHAT, 14, 1, None, "length", 1),
    "chat_stream_n2_continuous": Reading(Route.CHAT, 14, 4, 2, "length", 2),
    "chat_stream_reasoning": Reading(Route.CHAT, None, None, None, "length", 1),
    "chat_stream_tool": Reading(Route.CHAT, 14, 40, 0, "length", 4),
    "chat_stream_usage": Reading(Route.CHAT, 14, 3, None, "length", 1),
    "completions_stream_continuous": Reading(Route.COMPLETIONS, 2, 2, None, "length", 2),
    "completions_stream_usage": Reading(Route.COMPLETIONS, 4, 4, None, "length", 3),
    "messages_stream": Reading(Route.MESSAGES, 14, 3, None, "max_tokens", 1),
    "messages_stream_thinking": Reading(Route.MESSAGES, 14, 3, None, "max_tokens", 1),
    "responses_stream": Reading(Route.RESPONSES, 14, 3, 0, "max_output_tokens", 1),
    "responses_stream_reasoning": Reading(Route.RESPONSES, 14, 3, 1, "max_output_tokens", 1),
}


def recording(name: str, newline: bytes = b"\n") -> bytes:
    """A recorded body; its line ends may be changed, JSON holds none."""
    suffix = "" if "." in name else ".txt"
    return (_FOLDER / f"{name}{suffix}").read_bytes().replace(b"\n", newline)
