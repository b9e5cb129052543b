"""One small piece of work for the engine, by the route that its model has.

vLLM has only the routes of the tasks that a model supports, and answers 404 on the others:
so the routes are tried in turn, and what the engine answers says what it can do. Bodies
follow vLLM 0.32 (`vllm/entrypoints`: completion, chat_completion, transcription, pooling).
"""

from __future__ import annotations

import io
import math
import struct
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from proxy.engine.server import WarmUpFailed, WarmUpTimeout

KEY_STATUSES = (401, 403)
KEY_REMEDY = (
    "The engine wants a key, and the sidecar has none to give it. Start the engine without"
    " --api-key and VLLM_API_KEY where only the sidecar reaches it; with API_KEYS the sidecar asks"
    " clients for keys."
)
# The first token may have to wait for kernels to be compiled.
TIMEOUT_SECONDS = 600.0
_TEXT = "Hello"
_BAD_REQUEST = 400
"""On a route that is there, for a model of another kind or without a tokenizer."""
_NOT_FOUND = 404
_ROUTE_IS_NOT_THERE = (_NOT_FOUND, 405, 501)
_MAX_QUOTED_CHARS = 200
_SAMPLES_PER_SECOND = 16_000
_TONE_HERTZ = 440
_TONE_LOUDNESS = 3000  # of 32767
_SOUND_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Question:
    """A request to one route: a JSON body, or a form with a file."""

    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    file: tuple[str, bytes, str] | None = None

    async def ask(self, client: httpx.AsyncClient, model: str) -> httpx.Response:
        """Raises httpx.HTTPError."""
        content = {"model": model, **self.body}
        if self.file is None:
            return await client.post(self.path, json=content, timeout=TIMEOUT_SECONDS)
        files = {"file": self.file}
        return await client.post(self.path, data=content, files=files, timeout=TIMEOUT_SECONDS)


def questions() -> Iterator[Question]:
    """What users would ask, the commonest kinds of models first; each is the least of its kind."""
    yield Question("/v1/completions", {"prompt": _TEXT, "max_tokens": 1})
    chat = [{"role": "user", "content": _TEXT}]
    yield Question("/v1/chat/completions", {"messages": chat, "max_tokens": 1})
    yield Question(
        "/v1/audio/transcriptions",
        {"response_format": "json", "max_completion_tokens": "1"},
        ("tone.wav", tone(), "audio/wav"),
    )
    yield Question("/v1/embeddings", {"input": _TEXT})
    # Before /classify: rerankers classify pairs of texts, which that route does not take.
    yield Question("/rerank", {"query": _TEXT, "documents": [_TEXT]})
    yield Question("/classify", {"input": _TEXT})
    yield Question("/pooling", {"input": _TEXT})


async def warm_up(client: httpx.AsyncClient, model: str) -> str | None:
    """Make the engine work once; returns the route that answered.

    None where the model has none of the routes that are tried.

    Raises:
        WarmUpFailed: a route is there but did not answer as it should (WarmUpTimeout: at all).
    """
    refused = None
    for question in questions():
        try:
            response = await question.ask(client, model)
        except httpx.TimeoutException as timeout:
            text = f"{question.path}: no answer within {TIMEOUT_SECONDS:.0f} s"
            raise WarmUpTimeout(text) from timeout
        except httpx.HTTPError as broken:
            raise WarmUpFailed(f"{question.path}: {type(broken).__name__}") from broken
        error = _error_in(response)
        if response.status_code == 200 and error is None:
            return question.path
        # A 404 with an error of vLLM's own is about the model, not the route.
        about_the_model = response.status_code == _NOT_FOUND and error
        if response.status_code in _ROUTE_IS_NOT_THERE and not about_the_model:
            continue
        answered = f"{question.path} answered {response.status_code}"
        refused = refused or (f"{answered}: {error}" if error else answered)
        if response.status_code != _BAD_REQUEST:
            remedy = KEY_REMEDY if response.status_code in KEY_STATUSES else ""
            raise WarmUpFailed(refused, response.status_code, remedy)
    if refused:
        raise WarmUpFailed(refused, _BAD_REQUEST)
    return None


def tone() -> bytes:
    """A WAV of one second: speech models take it, and hear no word in it."""
    count = _SAMPLES_PER_SECOND * _SOUND_SECONDS
    wave_length = 2 * math.pi * _TONE_HERTZ / _SAMPLES_PER_SECOND
    samples = (round(_TONE_LOUDNESS * math.sin(wave_length * i)) for i in range(count))
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_SAMPLES_PER_SECOND)
        file.writeframes(struct.pack(f"<{count}h", *samples))
    return sound.getvalue()


def _error_in(response: httpx.Response) -> str | None:
    """vLLM's own error, also in a body with status 200; None where there is none."""
    try:
        document = response.json()
    except ValueError:
        return "the answer is no JSON" if response.status_code == 200 else None
    error = document.get("error") if isinstance(document, dict) else None
    if error is None:
        return None
    text = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(text).split())[:_MAX_QUOTED_CHARS] or "an error"
