"""What a generation request asks for: the few fields a fake needs, anything else is skipped."""

from __future__ import annotations

from typing import Any

import msgspec


class StreamOptions(msgspec.Struct):
    """`stream_options` of chat and completions."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Body(msgspec.Struct):
    """A JSON body. Fields are `Any` where vLLM takes several types."""

    model: str | None = None
    stream: Any = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    prompt: Any = None
    input: Any = None
    messages: msgspec.Raw = msgspec.Raw()
    tokens: list[int] | None = None
    query: str | None = None
    documents: list[str] | None = None

    def has(self, name: str) -> bool:
        """A field is there and not null."""
        value = getattr(self, name)
        raw = bytes(value) if isinstance(value, msgspec.Raw) else value
        return raw not in (None, b"", b"null")

    @property
    def streams(self) -> bool:
        """vLLM takes `"true"` and 1 for true."""
        return self.stream in (True, 1, "true")

    @property
    def limit(self) -> int | None:
        """The largest number of tokens asked for, under the name each API gives it."""
        for value in (self.max_completion_tokens, self.max_tokens, self.max_output_tokens):
            if value is not None:
                return value
        return None

    @property
    def prompts(self) -> int:
        """Prompts of a completion: a list of texts (or of token lists) counts each."""
        if isinstance(self.prompt, list) and self.prompt and not isinstance(self.prompt[0], int):
            return len(self.prompt)
        return 1


def parse(raw: bytes) -> Body:
    """Read a body; raises `msgspec.DecodeError` (bad JSON) or `ValidationError` (bad type)."""
    return msgspec.json.decode(raw, type=Body)
