"""Asks a question about a picture and streams the answer, with the stock `openai` client.

python examples/client.py photo.jpg "What is in this picture?"
python examples/client.py --base-url https://POD-8000.proxy.runpod.net/v1 https://... "..."
"""

from __future__ import annotations

import argparse
import base64
import mimetypes
import os
import time
from pathlib import Path

from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam


def picture_url(picture: str) -> str:
    """A web address as it is, a file as a data URL."""
    if picture.startswith(("http://", "https://", "data:")):
        return picture
    media_type = mimetypes.guess_type(picture)[0] or "image/png"
    return f"data:{media_type};base64,{base64.b64encode(Path(picture).read_bytes()).decode()}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask a vision model about a picture.")
    parser.add_argument("image", help="path or URL of a picture")
    parser.add_argument("question")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="default: the first one the server names")
    parser.add_argument("--max-tokens", type=int, default=200)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    client = OpenAI(base_url=options.base_url, api_key=os.environ.get("API_KEY", "none"))
    served = [model.id for model in client.models.list()]
    print("models:", ", ".join(served))

    message: ChatCompletionUserMessageParam = {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": picture_url(options.image)}},
            {"type": "text", "text": options.question},
        ],
    }
    started, first_token = time.perf_counter(), None
    stream = client.chat.completions.create(
        model=options.model or served[0],
        messages=[message],
        max_tokens=options.max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        # The usage comes last, in a chunk without choices.
        delta = chunk.choices[0].delta if chunk.choices else None
        text = delta and (delta.content or getattr(delta, "reasoning", None))
        if text and first_token is None:
            first_token = time.perf_counter()
        print(text or "", end="", flush=True)
        if usage := chunk.usage:
            print(f"\n\n{usage.prompt_tokens} prompt + {usage.completion_tokens} answer tokens")
    if first_token is not None:
        print(f"first token after {(first_token - started) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
