"""`/v1/messages` (Anthropic) in the shapes recorded from vLLM 0.32.0 (see recorded/)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from .chat import TOOL_NAME
from .plan import Plan, Step, Stream, short_id
from .sse import Event

STOP_REASONS = {"length": "max_tokens", "stop": "end_turn", "tool_calls": "tool_use"}


class MessageStream(Stream):
    """The events of one streamed message: one block for thinking, one for text or the tool."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._open_block: int | None = None

    def events(self) -> Iterator[Event]:
        """message_start, the blocks, message_delta with usage, message_stop; no `[DONE]`."""
        plan = self._plan
        yield Event(self._start(), plan.first_seconds)
        blocks = groupby(plan.steps(), key=lambda step: step.reasoning)
        delay = plan.script.role_ms / 1000
        for index, (_, steps) in enumerate(blocks):
            yield from self._block(index, list(steps), delay)
            delay = plan.interval_seconds
        yield from self.closing()

    def closing(self) -> Iterator[Event]:
        """What comes after the last token; a block that is still open is closed."""
        if self._open_block is not None:
            yield Event(self._event("content_block_stop", {"index": self._open_block}))
        yield Event(self._delta())
        yield Event(self._event("message_stop", {}))

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        return self._encoder.event({"type": kind} | fields, name=kind)

    def _start(self) -> bytes:
        usage = {"input_tokens": self._plan.prompt_tokens, "output_tokens": 0}
        message: dict[str, Any] = {
            "id": f"chatcmpl-{self._plan.request_id}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._plan.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return self._event("message_start", {"message": message})

    def _block(self, index: int, steps: list[Step], delay: float) -> Iterator[Event]:
        reasoning = steps[0].reasoning
        opening = {"content_block": self._opening(reasoning=reasoning), "index": index}
        self._open_block = index
        yield Event(self._event("content_block_start", opening), delay)
        for number, step in enumerate(steps):
            wait = self._plan.interval_seconds if number else 0.0
            yield Event(self._token(index, step), wait, step.tokens)
        if reasoning:
            delta = {"type": "signature_delta", "signature": uuid.uuid4().hex}
            yield Event(self._event("content_block_delta", {"delta": delta, "index": index}))
        yield Event(self._event("content_block_stop", {"index": index}))
        self._open_block = None

    def _opening(self, *, reasoning: bool) -> dict[str, Any]:
        if reasoning:
            return {"type": "thinking", "thinking": ""}
        if not self._plan.script.tool:
            return {"type": "text", "text": ""}
        tool_id = f"chatcmpl-tool-{short_id()}"
        return {"type": "tool_use", "id": tool_id, "name": TOOL_NAME, "input": {}}

    def _token(self, index: int, step: Step) -> bytes:
        kind, key = "text_delta", "text"
        if step.reasoning:
            kind, key = "thinking_delta", "thinking"
        elif self._plan.script.tool:
            kind, key = "input_json_delta", "partial_json"

        def build(text: str) -> dict[str, Any]:
            delta = {"type": kind, key: text}
            return {"type": "content_block_delta", "delta": delta, "index": index}

        return self._encoder.sized(build, step.text, name="content_block_delta")

    def _delta(self) -> bytes:
        stop = STOP_REASONS.get(self._plan.finish_reason)
        fields = {
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": _usage(self._plan),
        }
        return self._event("message_delta", fields)


def _usage(plan: Plan) -> dict[str, int]:
    return {"input_tokens": plan.prompt_tokens, "output_tokens": plan.tokens}


def answer(plan: Plan, finish_reason: str | None = None) -> dict[str, Any]:
    """The body of a message that is not streamed."""
    text, thought = plan.text(), plan.text(reasoning=True)
    content: list[dict[str, Any]] = []
    if thought:
        signature = uuid.uuid4().hex
        content.append({"type": "thinking", "thinking": thought, "signature": signature})
    if plan.script.tool:
        call = {"type": "tool_use", "id": f"chatcmpl-tool-{short_id()}", "name": TOOL_NAME}
        content.append(call | {"input": {"text": text}})
    elif text or not thought:
        content.append({"type": "text", "text": text})
    return {
        "id": f"chatcmpl-{plan.request_id}",
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": plan.model,
        "stop_reason": STOP_REASONS.get(finish_reason or plan.finish_reason),
        "usage": _usage(plan),
    }
