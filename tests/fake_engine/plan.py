"""One generation before it is written down: who, how many tokens, which texts, which usage."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from msgspec import structs

from .body import Body
from .script import Script
from .sse import Encoder, Event

FINGERPRINT = "vllm-0.32.0-9d101c05"
DEFAULT_TOKENS = 8
DEFAULT_TOKENS_LIMIT = 16
# Bytes beyond ASCII so that cuts fall inside characters; all texts are made up.
WORDS = [
    " the",
    " quick",
    " brown",
    " füchs",
    " jumps",
    " 狐",
    " over",
    " 🦊",
    ' "it"',
    "\n",
    " ok",
]


def short_id() -> str:
    """16 hex digits, as vLLM's ids end with."""
    return uuid.uuid4().hex[:16]


class Step(NamedTuple):
    """The tokens that one event carries."""

    text: str
    tokens: int
    done: int
    """Tokens of this choice so far, these included."""
    reasoning: bool
    last: bool


@dataclass(frozen=True)
class Plan:
    """All that the event builders of the four APIs need."""

    script: Script
    body: Body
    model: str
    request_id: str
    parser: bool
    """The engine runs with a reasoning parser: usage then has completion_tokens_details."""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def choices(self) -> int:
        """Choices in all: n for each prompt."""
        return (self.body.n or 1) * self.body.prompts

    @property
    def tokens(self) -> int:
        """Tokens per choice."""
        if self.script.tokens is not None:
            return self.script.tokens
        if self.body.limit is None:
            return DEFAULT_TOKENS
        return min(self.body.limit, DEFAULT_TOKENS_LIMIT)

    @property
    def include_usage(self) -> bool:
        """The usage event was asked for."""
        options = self.body.stream_options
        return bool(options and options.include_usage)

    @property
    def continuous(self) -> bool:
        """Usage in every chunk; vLLM ignores the wish without include_usage."""
        options = self.body.stream_options
        return self.include_usage and bool(options and options.continuous_usage_stats)

    @property
    def prompt_tokens(self) -> int:
        """Over all prompts."""
        return self.script.prompt_tokens * self.body.prompts

    @property
    def reasoning(self) -> int:
        """Reasoning tokens per choice."""
        return min(self.script.reasoning, self.tokens)

    @property
    def finish_reason(self) -> str:
        """Why each choice ended."""
        if self.script.finish_reason is not None:
            return self.script.finish_reason
        if self.script.tool:
            return "tool_calls"
        return "length" if self.tokens == self.body.limit else "stop"

    @property
    def encoder(self) -> Encoder:
        """Events in the script's style."""
        return Encoder(self.script)

    @property
    def first_seconds(self) -> float:
        """Before the first event."""
        return self.script.first_ms / 1000

    @property
    def interval_seconds(self) -> float:
        """Between token events."""
        return self.script.interval_ms / 1000

    @property
    def total_seconds(self) -> float:
        """Before an answer that is not streamed."""
        return self.first_seconds + self.interval_seconds * self.tokens

    def stopped(self, tokens: int) -> Plan:
        """The same, cut short by a stop of the engine after so many tokens in all."""
        changes = {"finish_reason": "abort", "finish_in_last": False}
        done = tokens // max(self.choices, 1)
        return replace(self, script=structs.replace(self.script, tokens=done, **changes))

    def token_text(self, number: int) -> str:
        """The text of one token."""
        text = self.script.text
        if isinstance(text, str):
            return text
        texts = text or WORDS
        return texts[number % len(texts)]

    def steps(self) -> Iterator[Step]:
        """The tokens of one choice, grouped into events; reasoning and text never share one."""
        done = 0
        while done < self.tokens:
            stop = self.reasoning if done < self.reasoning else self.tokens
            count = min(self.script.tokens_per_event, stop - done)
            text = "".join(self.token_text(done + offset) for offset in range(count))
            reasoning = done < self.reasoning
            done += count
            yield Step(text, count, done, reasoning, done == self.tokens)

    def text(self, *, reasoning: bool = False) -> str:
        """The whole text, or the whole reasoning, of one choice."""
        return "".join(step.text for step in self.steps() if step.reasoning == reasoning)

    def usage(self, completion: int, prompt: int, reasoning: int | None = None) -> dict[str, Any]:
        """OpenAI usage in vLLM's order of keys."""
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
        }
        if self.parser and reasoning is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
        return usage

    def total_usage(self, *, chat: bool) -> dict[str, Any]:
        """Over all choices and prompts."""
        reasoning = self.reasoning * self.choices if chat else None
        return self.usage(self.tokens * self.choices, self.prompt_tokens, reasoning)


class Stream(ABC):
    """The events of one streamed generation."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._encoder = plan.encoder

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """All of them, in order."""

    @abstractmethod
    def closing(self) -> Iterator[Event]:
        """Those after the last token."""

    def cut_short(self, tokens: int) -> Iterator[Event]:
        """The closing ones of a stream that a stopping engine ends after so many tokens."""
        self._plan = self._plan.stopped(tokens)
        return self.closing()
