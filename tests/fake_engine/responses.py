"""`/v1/responses` in the shapes recorded from vLLM 0.32.0 (see recorded/). Tools are not faked."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from .plan import Plan, Step, Stream, short_id
from .sse import Event


class ResponseStream(Stream):
    """The numbered events of one streamed response: an item for reasoning, one for the text."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._number = 0
        self._items: list[dict[str, Any]] = []

    def events(self) -> Iterator[Event]:
        """created and in_progress at once (also while queued), items, completed; no `[DONE]`."""
        plan = self._plan
        for kind in ("response.created", "response.in_progress"):
            yield Event(self._event(kind, {"response": _response(plan, [], "in_progress")}))
        delay = plan.first_seconds
        for index, (_, steps) in enumerate(groupby(plan.steps(), key=lambda step: step.reasoning)):
            yield from self._item(index, list(steps), delay)
            delay = plan.interval_seconds
        yield from self.closing()

    def closing(self) -> Iterator[Event]:
        """The last event; vLLM leaves open items open when it is stopped."""
        final = _response(self._plan, self._items, _status(self._plan.finish_reason))
        yield Event(self._event("response.completed", {"response": final}))

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        data = self._encoder.event(self._numbered(kind, fields), name=kind)
        self._number += 1
        return data

    def _numbered(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        # Recorded events have their outermost keys in alphabetical order, inner ones not.
        return dict(sorted((fields | {"sequence_number": self._number, "type": kind}).items()))

    def _item(self, index: int, steps: list[Step], delay: float) -> Iterator[Event]:
        reasoning = steps[0].reasoning
        item_id = f"{'rs' if reasoning else 'msg'}_{short_id()}"
        text = "".join(step.text for step in steps)
        where = {"content_index": 0, "item_id": item_id, "output_index": index}
        name = "reasoning_text" if reasoning else "output_text"
        logprobs: dict[str, Any] = {} if reasoning else {"logprobs": []}

        opening = {"item": _item(item_id, None, reasoning=reasoning), "output_index": index}
        yield Event(self._event("response.output_item.added", opening), delay)
        empty = where | {"part": _part("", reasoning=reasoning, logprobs=[])}
        yield Event(self._event("response.content_part.added", empty))
        for number, step in enumerate(steps):
            wait = self._plan.interval_seconds if number else 0.0
            yield Event(self._delta(name, where | logprobs, step), wait, step.tokens)
        yield Event(self._event(f"response.{name}.done", where | logprobs | {"text": text}))
        part = where | {"part": _part(text, reasoning=reasoning)}
        yield Event(self._event("response.content_part.done", part))
        self._items.append(_item(item_id, text, reasoning=reasoning))
        closing = {"item": self._items[-1], "output_index": index}
        yield Event(self._event("response.output_item.done", closing))

    def _delta(self, name: str, where: dict[str, Any], step: Step) -> bytes:
        kind = f"response.{name}.delta"

        def build(text: str) -> dict[str, Any]:
            return self._numbered(kind, where | {"delta": text})

        data = self._encoder.sized(build, step.text, name=kind)
        self._number += 1
        return data


def _part(text: str, *, reasoning: bool, logprobs: list[Any] | None = None) -> dict[str, Any]:
    if reasoning:
        return {"text": text, "type": "reasoning_text"}
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}


def _item(item_id: str, text: str | None, *, reasoning: bool) -> dict[str, Any]:
    status = "in_progress" if text is None else "completed"
    content = [] if text is None else [_part(text, reasoning=reasoning)]
    if reasoning:
        head = {"id": item_id, "summary": [], "type": "reasoning"}
        return head | {"content": content or None, "encrypted_content": None, "status": status}
    tail = {"role": "assistant", "status": status, "type": "message", "phase": None}
    return {"id": item_id, "content": content} | tail


def _status(finish_reason: str) -> str:
    # A response cut short by a stopping engine says "completed" all the same.
    return "incomplete" if finish_reason == "length" else "completed"


def _usage(plan: Plan) -> dict[str, Any]:
    cached = {"cached_tokens": 0, "cache_write_tokens": 0}
    reasoning = {"reasoning_tokens": plan.reasoning, "tool_output_tokens": 0}
    turns: dict[str, list[int]] = {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}
    no_turns: dict[str, list[int]] = {"input_tokens_per_turn": [], "cached_tokens_per_turn": []}
    return {
        "input_tokens": plan.prompt_tokens,
        "input_tokens_details": cached | no_turns,
        "output_tokens": plan.tokens,
        "output_tokens_details": reasoning | turns,
        "total_tokens": plan.prompt_tokens + plan.tokens,
    }


def _response(plan: Plan, output: list[dict[str, Any]], status: str) -> dict[str, Any]:
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    head: dict[str, Any] = {
        "id": f"resp_{plan.request_id}",
        "created_at": plan.created,
        "incomplete_details": reason,
        "instructions": None,
        "metadata": None,
        "model": plan.model,
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 0.0,
        "tool_choice": "none",
        "tools": [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": plan.body.limit,
    }
    nothing = ("max_tool_calls", "previous_response_id", "prompt", "reasoning")
    head |= dict.fromkeys(nothing) | {"service_tier": "auto", "status": status, "text": None}
    usage = None if status == "in_progress" else _usage(plan)
    head |= {"top_logprobs": None, "truncation": "disabled", "usage": usage, "user": None}
    head |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    last = ("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages")
    return head | dict.fromkeys(last)


def answer(plan: Plan, finish_reason: str | None = None) -> dict[str, Any]:
    """The body of a response that is not streamed."""
    thought, text = plan.text(reasoning=True), plan.text()
    output = []
    if thought:
        output.append(_item(f"rs_{short_id()}", thought, reasoning=True) | {"status": None})
    if text:
        output.append(_item(f"msg_{short_id()}", text, reasoning=False))
    return _response(plan, output, _status(finish_reason or plan.finish_reason))
