"""The requests of the load, as bytes on the wire."""

from __future__ import annotations

import base64
import json
import random

from bench.subjects import MODEL


def image_request(megabytes: int) -> bytes:
    """A chat request of about so many MB (10^6 bytes), nearly all of them base64."""
    noise = random.Random(0).randbytes(megabytes * 750_000)
    url = "data:image/png;base64," + base64.b64encode(noise).decode()
    parts = [
        {"type": "text", "text": "What is in this image?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return post({"model": MODEL, "messages": [{"role": "user", "content": parts}]})


def short_request() -> bytes:
    """One that every proxy must answer before it is measured."""
    return chat(1, stream=False)


def chat(tokens: int, *, stream: bool) -> bytes:
    message = {"role": "user", "content": "Tell me something about rivers, in a few lines."}
    body = {"model": MODEL, "messages": [message], "max_tokens": tokens}
    return post({**body, "stream": True} if stream else body)


def post(body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        "content-type: application/json\r\nauthorization: Bearer none\r\n"
        f"user-agent: bench\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
