"""A small client of the sidecar, on the `openai` package: to import, or to run.

    from client import Client

    client = Client("http://127.0.0.1:8000/v1")
    answer = client.chat("What is in this picture?", images=["examples/picture.png"])
    print(answer.text, answer.ttft_seconds, answer.usage)

    stream = client.stream("Say hello.")
    for piece in stream:
        print(piece, end="", flush=True)
    print(stream.answer.usage)

python examples/client.py "What is in this picture?" --image examples/picture.png
python examples/client.py "What happens?" --video examples/video.mp4 --base-url https://HOST/v1
"""

from __future__ import annotations

import argparse
import base64
import mimetypes
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import APIError, OpenAI, Timeout
from openai.types import CompletionUsage

BASE_URL = "http://127.0.0.1:8000/v1"
# A 503 of an engine that starts has Retry-After, which the package obeys: this gets through most.
MAX_RETRIES = 4
# The port answers at once. Between two events a long prompt or a queue may take minutes.
TIMEOUT = Timeout(600, connect=5)

_SIGNATURES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"\x1a\x45\xdf\xa3": "video/webm",
}

Media = str | Path | bytes
"""A web address, a data URL (`data:image/png;base64,…`), a file, or the bytes of one."""


@dataclass(slots=True)
class Answer:
    """What came of one call. `text` is the answer, `reasoning` the thoughts before it.

    `ttft_seconds` is the time to the first text or thought, None where there was none.
    """

    text: str = ""
    reasoning: str = ""
    ttft_seconds: float | None = None
    total_seconds: float = 0.0
    usage: CompletionUsage | None = None
    finish_reason: str | None = None


class Stream:
    """The pieces of text of one answer, as they come. `answer` fills on the way."""

    def __init__(self, client: OpenAI, request: dict[str, Any]) -> None:
        self.answer = Answer()
        self._client = client
        self._request = request

    def __iter__(self) -> Iterator[str]:
        """Raises openai.APIError where the request fails or the stream breaks off."""
        answer, started = self.answer, time.perf_counter()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        create: Any = self._client.chat.completions.create
        with create(**self._request, **options) as chunks:
            for chunk in chunks:
                answer.total_seconds = time.perf_counter() - started
                # The usage comes last, in a chunk without choices.
                answer.usage = chunk.usage or answer.usage
                for choice in chunk.choices:
                    thought = getattr(choice.delta, "reasoning", None) or ""
                    text = choice.delta.content or ""
                    if (text or thought) and answer.ttft_seconds is None:
                        answer.ttft_seconds = answer.total_seconds
                    answer.reasoning += thought
                    answer.text += text
                    answer.finish_reason = choice.finish_reason or answer.finish_reason
                    if text:
                        yield text


class Client:
    """Asks one server. `model` is the first that it serves, unless one is given."""

    def __init__(
        self, base_url: str = BASE_URL, api_key: str | None = None, model: str | None = None
    ) -> None:
        key = api_key or os.environ.get("API_KEY") or "none"
        self.openai = OpenAI(
            base_url=base_url, api_key=key, max_retries=MAX_RETRIES, timeout=TIMEOUT
        )
        self._model = model

    @property
    def model(self) -> str:
        if self._model is None:
            self._model = self.openai.models.list().data[0].id
        return self._model

    def stream(
        self,
        question: str,
        *,
        images: Sequence[Media] = (),
        video: Media | None = None,
        history: Sequence[dict[str, Any]] = (),
        **options: Any,
    ) -> Stream:
        """Asks when the result is iterated. `options` are those of a chat: max_tokens, tools, …

        Raises:
            OSError: a file cannot be read.
            ValueError: bytes are of no known kind.
        """
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": media_url(image)}} for image in images
        ]
        if video is not None:
            parts.append({"type": "video_url", "video_url": {"url": media_url(video)}})
        content = [*parts, {"type": "text", "text": question}] if parts else question
        messages = [*history, {"role": "user", "content": content}]
        return Stream(self.openai, {"model": self.model, "messages": messages, **options})

    def chat(self, question: str, **options: Any) -> Answer:
        """The whole answer. It is streamed all the same: no proxy cuts a stream that moves.

        Raises:
            openai.APIError: the request failed, or the stream broke off.
            OSError, ValueError: as `stream`.
        """
        stream = self.stream(question, **options)
        for _ in stream:
            pass
        return stream.answer


def media_url(media: Media) -> str:
    """What stands in a request: web addresses and data URLs as they are, else a data URL.

    Raises:
        OSError: a file cannot be read.
        ValueError: bytes are of no known kind.
    """
    if isinstance(media, str) and media.startswith(("http://", "https://", "data:")):
        return media
    if isinstance(media, bytes):
        kind, content = kind_of(media), media
    else:
        content = Path(media).read_bytes()
        kind = mimetypes.guess_type(media)[0] or kind_of(content)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def kind_of(content: bytes) -> str:
    """The media type, by the first bytes.

    Raises:
        ValueError: none of PNG, JPEG, GIF, WebP, MP4 and WebM.
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content[4:8] == b"ftyp":
        return "video/mp4"
    for signature, kind in _SIGNATURES.items():
        if content.startswith(signature):
            return kind
    allowed = "PNG, JPEG, GIF, WebP, MP4 and WebM"
    raise ValueError(f"unknown kind of file: allowed are {allowed}; for others give a data URL")


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a model, about pictures or a video too.")
    parser.add_argument("question")
    parser.add_argument("--image", action="append", default=[], help="file or URL; may be repeated")
    parser.add_argument("--video", help="file or URL")
    parser.add_argument("--base-url", default=BASE_URL)
    parser.add_argument("--model", help="default: the first one that the server names")
    parser.add_argument("--max-tokens", type=int, default=200)
    given = parser.parse_args()
    client = Client(given.base_url, model=given.model)
    try:
        stream = client.stream(
            given.question, images=given.image, video=given.video, max_tokens=given.max_tokens
        )
        for piece in stream:
            print(piece, end="", flush=True)
    except (APIError, OSError, ValueError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    answer = stream.answer
    print(f"\n\nmodel: {client.model}")
    if answer.usage is not None:
        tokens = f"{answer.usage.prompt_tokens} prompt + {answer.usage.completion_tokens} answer"
        print(f"{tokens} tokens in {answer.total_seconds:.2f} s")
    if answer.ttft_seconds is not None:
        print(f"first token after {answer.ttft_seconds * 1000:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
