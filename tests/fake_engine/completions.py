"""`/v1/completions` in the shapes recorded from vLLM 0.32.0 (see recorded/)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .plan import FINGERPRINT, Plan, Step, Stream
from .sse import DONE, Event


class CompletionStream(Stream):
    """The events of one streamed completion: no role event, one index per prompt and choice."""

    def events(self) -> Iterator[Event]:
        """Tokens, finish, usage where asked for, `[DONE]`."""
        plan = self._plan
        delay = plan.first_seconds
        for step in plan.steps():
            for index in range(plan.choices):
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

    def _chunk(self, index: int, text: str, done: int, *, ends: bool) -> dict[str, Any]:
        plan = self._plan
        choice = {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": plan.finish_reason if ends else None,
            **dict.fromkeys(("stop_reason", "prompt_token_ids", "token_ids")),
        }
        chunk = self._head() | {"choices": [choice]}
        if plan.continuous:
            chunk["usage"] = plan.usage(done, plan.script.prompt_tokens)
        if ends and index == plan.choices - 1 and not plan.include_usage:
            chunk["system_fingerprint"] = FINGERPRINT
        return chunk

    def _head(self) -> dict[str, Any]:
        return {
            "id": f"cmpl-{self._plan.request_id}",
            "object": "text_completion",
            "created": self._plan.created,
            "model": self._plan.model,
        }

    def _token(self, index: int, step: Step) -> bytes:
        ends = step.last and self._plan.script.finish_in_last

        def build(text: str) -> dict[str, Any]:
            return self._chunk(index, text, step.done, ends=ends)

        return self._encoder.sized(build, step.text)

    def _finish(self, index: int) -> bytes:
        return self._encoder.event(self._chunk(index, "", self._plan.tokens, ends=True))

    def _usage(self) -> bytes:
        usage = {"usage": self._plan.total_usage(chat=False), "system_fingerprint": FINGERPRINT}
        return self._encoder.event(self._head() | {"choices": []} | usage)


def answer(plan: Plan, finish_reason: str | None = None) -> dict[str, Any]:
    """The body of a completion that is not streamed."""
    nothing = ("token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts")
    choices = [
        {
            "index": index,
            "text": plan.text(),
            "logprobs": None,
            "finish_reason": finish_reason or plan.finish_reason,
            "stop_reason": None,
            **dict.fromkeys(nothing),
        }
        for index in range(plan.choices)
    ]
    usage = plan.usage(plan.tokens * plan.choices, plan.prompt_tokens)
    usage |= {"prompt_tokens_details": None, "completion_tokens_details": None}
    return {
        "id": f"cmpl-{plan.request_id}",
        "object": "text_completion",
        "created": plan.created,
        "model": plan.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage,
        **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics")),
    }
