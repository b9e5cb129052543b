"""`/v1/chat/completions` in the shapes recorded from vLLM 0.32.0 (see recorded/)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .plan import FINGERPRINT, Plan, Step, Stream, short_id
from .sse import DONE, Event

TOOL_NAME = "f"


class ChatStream(Stream):
    """The events of one streamed chat completion."""

    def events(self) -> Iterator[Event]:
        """Role, tokens, finish, usage where asked for, `[DONE]`."""
        plan = self._plan
        yield from self._roles()
        delay = plan.script.role_ms / 1000
        for step in plan.steps():
            before = step.done - step.tokens
            for index in range(plan.choices):
                if plan.script.tool and before == plan.reasoning:
                    yield Event(self._named(index, before), delay)
                    delay = 0.0
                yield Event(self._token(index, step), delay, step.tokens)
                delay = 0.0
            delay = plan.interval_seconds
        yield from self.closing()

    def closing(self) -> Iterator[Event]:
        """What comes after the last token."""
        plan = self._plan
        if not (plan.script.finish_in_last and plan.tokens):
            yield from (Event(self._finish(index)) for index in range(plan.choices))
        if plan.include_usage:
            yield Event(self._usage())
        if not plan.script.no_done:
            yield Event(DONE)

    def _roles(self) -> Iterator[Event]:
        delay = self._plan.first_seconds
        for index in range(self._plan.choices):
            choice = {
                "index": index,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": None,
            }
            chunk = self._chunk([choice], done=0)
            chunk |= {"prompt_token_ids": None, "prompt_text": None}
            yield Event(self._encoder.event(chunk), delay)
            delay = 0.0

    def _chunk(self, choices: list[dict[str, Any]], done: int) -> dict[str, Any]:
        plan = self._plan
        chunk: dict[str, Any] = {
            "id": f"chatcmpl-{plan.request_id}",
            "object": "chat.completion.chunk",
            "created": plan.created,
            "model": plan.model,
            "choices": choices,
        }
        if plan.continuous:
            chunk["usage"] = plan.usage(done, plan.script.prompt_tokens, min(done, plan.reasoning))
            chunk["usage"].setdefault("completion_tokens_details", None)
        return chunk

    def _token(self, index: int, step: Step) -> bytes:
        def build(text: str) -> dict[str, Any]:
            choice = {"index": index, "delta": self._delta(step, text), "logprobs": None}
            ends = step.last and self._plan.script.finish_in_last
            return self._ended(choice, step.done, index) if ends else self._open(choice, step.done)

        return self._encoder.sized(build, step.text)

    def _open(self, choice: dict[str, Any], done: int) -> dict[str, Any]:
        return self._chunk([choice | {"finish_reason": None, "token_ids": None}], done)

    def _ended(self, choice: dict[str, Any], done: int, index: int) -> dict[str, Any]:
        reason = {"finish_reason": self._plan.finish_reason, "stop_reason": None, "token_ids": None}
        chunk = self._chunk([choice | reason], done)
        # vLLM names the fingerprint on the very last chunk only: the usage one where there is one.
        if index == self._plan.choices - 1 and not self._plan.include_usage:
            chunk["system_fingerprint"] = FINGERPRINT
        return chunk

    def _delta(self, step: Step, text: str) -> dict[str, Any]:
        if step.reasoning:
            return {"reasoning": text}
        if not self._plan.script.tool:
            return {"content": text} | ({"reasoning": None} if self._plan.parser else {})
        return _calls({"index": 0, "function": {"arguments": text}})

    def _named(self, index: int, done: int) -> bytes:
        call = {"id": f"chatcmpl-tool-{short_id()}", "type": "function", "index": 0}
        delta = _calls(call | {"function": {"name": TOOL_NAME}})
        choice = {"index": index, "delta": delta, "logprobs": None}
        return self._encoder.event(self._open(choice, done))

    def _finish(self, index: int) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": {}, "logprobs": None}
        return self._encoder.event(self._ended(choice, self._plan.tokens, index))

    def _usage(self) -> bytes:
        chunk = self._chunk([], 0)
        chunk["usage"] = self._plan.total_usage(chat=True)
        return self._encoder.event(chunk | {"system_fingerprint": FINGERPRINT})


def _calls(call: dict[str, Any]) -> dict[str, Any]:
    return {"content": None, "reasoning": None, "tool_calls": [call]}


def _message(plan: Plan) -> dict[str, Any]:
    text, thought = plan.text(), plan.text(reasoning=True)
    empty = ("refusal", "annotations", "audio", "function_call")
    message: dict[str, Any] = {"role": "assistant", "content": text, **dict.fromkeys(empty)}
    if plan.script.tool:
        function = {"name": TOOL_NAME, "arguments": text}
        call = {"id": f"chatcmpl-tool-{short_id()}", "type": "function", "function": function}
        message |= {"content": "", "tool_calls": [call]}
    elif not text and thought:
        message["content"] = None
    return message | {"reasoning": thought or None}


def answer(plan: Plan, finish_reason: str | None = None) -> dict[str, Any]:
    """The body of a chat completion that is not streamed."""
    message = _message(plan)
    choices = [
        {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason or plan.finish_reason,
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }
        for index in range(plan.choices)
    ]
    usage = plan.usage(plan.tokens * plan.choices, plan.prompt_tokens)
    reasoning = {"reasoning_tokens": plan.reasoning * plan.choices} if plan.parser else None
    usage |= {"prompt_tokens_details": None, "completion_tokens_details": reasoning}
    tail = ("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params")
    return {
        "id": f"chatcmpl-{plan.request_id}",
        "object": "chat.completion",
        "created": plan.created,
        "model": plan.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage,
        **dict.fromkeys((*tail, "ec_transfer_params", "metrics")),
    }
