"""What a way to call the engine is that is not the engine's own: a request in, events out.

docs/protocols.md has an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from proxy.access.routes import Route

EngineRoute = Literal[Route.CHAT, Route.COMPLETIONS]


@dataclass(slots=True)
class Ask:
    """What the engine is asked: a JSON object for one of its two routes of text.

    With `"stream": true` in `body` the answer is a stream. `notes` are a protocol's own, from
    its request to the last of its events.
    """

    route: EngineRoute
    body: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True


@dataclass(frozen=True, slots=True)
class Text:
    """Generated text of one answer; `index` counts answers: all to the first prompt come first."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The same, of what the model thinks before it answers."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool as OpenAI's API has it; in a stream a part of one."""

    index: int
    call: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finish:
    """One answer has ended, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The engine's own counts; they come once, after all answers."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Error:
    """It went wrong, here or at the engine, whose words `message` then are.

    `status` is the answer's; None in a stream that runs, whose status is out already. `field`
    names the part of the request that was wrong, where there is one.
    """

    status: int | None
    message: str
    code: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more comes."""


Event = Text | Reasoning | ToolCall | Finish | Usage | Error | Done


class Protocol(ABC):
    """One way to call the engine. It keeps nothing: one object serves all requests."""

    paths: tuple[str, ...]
    """Where it is asked, by POST with a JSON object."""
    answer_type = "application/json"
    stream_type = "text/event-stream; charset=utf-8"

    @abstractmethod
    def request_in(self, path: str, body: dict[str, Any]) -> Ask:
        """What a request asks of the engine.

        Raises:
            InvalidRequest: it says something that it cannot; `param` names the field.
        """

    @abstractmethod
    def events_out(self, ask: Ask | None, events: Sequence[Event]) -> bytes:
        """The answer's body: all of it at once, or what to add to a stream for these events.

        `ask` is None where there is only an `Error`, of a request that was never read.
        """
