"""Requests of every kind that real vLLM answers, refuses, or sees left in the middle."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from http.client import HTTPConnection
from socket import SHUT_RDWR
from typing import Any
from uuid import uuid4

from tests.engine.service import Service, wait_until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
STREAM = {"stream": True}
WHOLE = {"ignore_eos": True, "max_tokens": 20}
ENDLESS = {"ignore_eos": True, "max_tokens": 3900}
CALL_SECONDS = 300.0
_SIDE = {"type": "string", "enum": ["left", "right"]}
_PARAMETERS = {
    "type": "object",
    "properties": {"side": _SIDE},
    "required": ["side"],
    "additionalProperties": False,
}
_TOOL = {"type": "function", "function": {"name": "look", "parameters": _PARAMETERS}}
# Longer than a block of the KV cache on the CPU (128 tokens): asked again, it comes from there.
_LONG = "Once upon a time there was a question that was longer than it had to be. " * 6


@dataclass(frozen=True)
class Case:
    """One request. `generations`: how often vLLM generates for it, each with its own prompt."""

    path: str
    body: dict[str, Any]
    generations: int = 1


def _user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def _with(case: Case, **more: Any) -> Case:
    return Case(case.path, case.body | more, case.generations)


def answered(picture: bytes) -> list[Case]:
    """Requests that are answered whole, streamed and not."""
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    image = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Hm?"}]
    prompts = ["Once upon", "Alice was"]
    plain = [
        Case(CHAT, _user("Hi") | WHOLE),
        Case(CHAT, _user(_LONG) | WHOLE),
        Case(CHAT, _user("Hi") | WHOLE | {"n": 3}, generations=3),
        Case(CHAT, _user("Hi") | WHOLE | {"logprobs": True, "top_logprobs": 2}),
        Case(CHAT, _user(image) | WHOLE),
        Case(CHAT, _user("Hi") | {"max_tokens": 200, "tools": [_TOOL], "tool_choice": "required"}),
        Case(COMPLETIONS, {"prompt": _LONG} | WHOLE),
        Case(COMPLETIONS, {"prompt": prompts, "n": 2} | WHOLE, generations=4),
        Case(COMPLETIONS, {"prompt": "Once", "echo": True, "logprobs": 1} | WHOLE),
        Case(RESPONSES, {"input": "Hi", "max_output_tokens": 20}),
        Case(RESPONSES, {"input": _LONG, "max_output_tokens": 20}),
        Case(MESSAGES, _user(_LONG) | {"max_tokens": 20}),
    ]
    asked = _with(plain[0], stream=True, stream_options={"include_usage": True})
    return [*plain, *(_with(case, stream=True) for case in plain), asked]


def refused() -> list[Case]:
    """Requests that vLLM, or the sidecar, answers with an error."""
    hi = Case(CHAT, _user("Hi") | WHOLE)
    return [
        _with(hi, model="nobody"),
        _with(hi, max_tokens=100_000),
        _with(hi, messages="none"),
        Case(MESSAGES, _user("Hi") | {"max_tokens": 100_000}),
        Case("/v1/nothing", {}),
    ]


def left() -> list[Case]:
    """Requests whose clients do not wait for the end. It may come all the same on the last one:
    `/v1/responses` does not know `ignore_eos`."""
    return [
        Case(CHAT, _user("Hi") | ENDLESS | STREAM),
        Case(CHAT, _user("Hi") | ENDLESS),
        Case(COMPLETIONS, {"prompt": "Once"} | ENDLESS | STREAM),
        Case(RESPONSES, {"input": "Hi", "max_output_tokens": 3900} | STREAM),
    ]


def ask(service: Service, case: Case) -> str:
    """Send it and read the answer; the request's id."""
    request_id = f"mixed-{uuid4().hex}"
    service.client.post(
        case.path,
        json={"model": "demo"} | case.body,
        headers={"x-request-id": request_id},
        timeout=CALL_SECONDS,
    )
    return request_id


def ask_and_leave(service: Service, case: Case) -> str:
    """Send it, and leave when the engine has begun to generate."""
    request_id = f"left-{uuid4().hex}"
    before = generated(service)
    connection = HTTPConnection("127.0.0.1", service.port, timeout=CALL_SECONDS)
    headers = {"content-type": "application/json", "x-request-id": request_id}
    connection.request("POST", case.path, json.dumps({"model": "demo"} | case.body), headers)
    wait_until(lambda: generated(service) > before, CALL_SECONDS, "a token")
    connection.sock.shutdown(SHUT_RDWR)
    connection.close()
    return request_id


def generated(service: Service) -> float:
    """Tokens that the engine has generated, by its own count."""
    return service.metric("vllm:generation_tokens_total", "/metrics/engine")
