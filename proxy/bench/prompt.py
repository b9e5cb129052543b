"""The requests of the load: words drawn anew for each, pictures made on the spot.

Nothing here knows a tokenizer. How many words make so many tokens is learnt from two answers.
"""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from proxy.bench.plan import Plan
from proxy.png import png

# Plain and short: most tokenizers have each as one token. Two prompts of 8 words hardly ever
# begin alike, so no prefix of a prompt is in the endpoint's cache.
_TEXT = """
river stone light garden window paper music water yellow number letter summer winter bridge
table street market silver forest engine copper island mirror ladder button basket camera
circle dinner doctor family farmer finger flower friend ground harbor hammer honey kitchen
leather machine meadow morning mountain needle ocean orange pepper pencil planet pocket
rabbit school season shadow shoulder spring sugar tiger tunnel valley village winding
"""
_WORDS = _TEXT.split()
_TASK = "Write a long story with these words."
# Before anything is known of the tokenizer.
FIRST_WORDS = 16
_LEAST_WORDS = 4

# How the limit of tokens is called, and fields that not every endpoint takes.
Shape = tuple[str, dict[str, Any]]
_USAGE = {"stream_options": {"include_usage": True}}
# In the order in which they are tried. The last is for OpenAI's newest models.
SHAPES: tuple[Shape, ...] = (
    ("max_tokens", {"ignore_eos": True, **_USAGE}),
    ("max_tokens", _USAGE),
    ("max_tokens", {}),
    ("max_completion_tokens", _USAGE),
)


class Prompts:
    """Bodies of requests, each of them new unless the plan wants the same."""

    def __init__(self, plan: Plan, model: str, shape: Shape, words: int) -> None:
        self._limit, self._fields = shape
        self._plan = plan
        self._model = model
        self._words = words
        self._random = random.Random()  # nosec B311: no secret
        self._body: bytes | None = None

    @property
    def without(self) -> tuple[str, ...]:
        """Fields that the endpoint does not take, of those that vLLM does."""
        taken = (self._limit, *self._fields)
        ours = ("ignore_eos", "stream_options", "max_tokens")
        return tuple(name for name in ours if name not in taken)

    def next(self) -> bytes:
        if not self._plan.same_prompt:
            return self.body(self._words, self._plan.output_tokens)
        if self._body is None:
            self._body = self.body(self._words, self._plan.output_tokens)
        return self._body

    def body(self, words: int, limit: int) -> bytes:
        """A request with so many words and pictures, for at most `limit` tokens."""
        text = f"{' '.join(self._random.choices(_WORDS, k=words))}. {_TASK}"
        content: Any = text
        if self._plan.images:
            content = []
            for _ in range(self._plan.images):
                data = base64.b64encode(picture(self._plan.image_size, self._random)).decode()
                url = f"data:image/png;base64,{data}"
                content.append({"type": "image_url", "image_url": {"url": url}})
            content.append({"type": "text", "text": text})
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "stream": True,
            self._limit: limit,
            **self._fields,
        }
        return json.dumps(body).encode()


def picture(size: int, source: random.Random) -> bytes:
    """A PNG of `size` x `size` pixels in stripes of random colours: a few kB, whatever its size."""
    stripes = b"\0" + source.randbytes(3 * size)
    same_as_above = b"\2" + bytes(3 * size)
    return png(size, stripes + same_as_above * (size - 1))


def words_for(wanted: int, fewer: tuple[int, int], more: tuple[int, int]) -> int:
    """Words for a prompt of `wanted` tokens, by the line through two prompts as (words, tokens)."""
    (words, tokens), (more_words, more_tokens) = fewer, more
    grown = more_words - words
    per_word = (more_tokens - tokens) / grown if grown > 0 and more_tokens > tokens else 1.0
    return max(round(words + (wanted - tokens) / per_word), _LEAST_WORDS)
