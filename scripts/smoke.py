"""Asks a running instance what a person would ask it, and says what came back.

    .venv/bin/python scripts/smoke.py http://127.0.0.1:8000
    .venv/bin/python scripts/smoke.py https://POD-8000.proxy.runpod.net --wait 1800 --api-key KEY

One line for each question: ✓ answered, ✗ wrong, – not applicable. Exit code 1 if any is ✗.
Needs httpx and nothing else: the pictures are drawn here, but for the one behind a URL.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

# The picture that vLLM's own examples use.
PUBLIC_PICTURE = (
    "https://vllm-public-assets.s3.us-west-2.amazonaws.com/vision_model_images/cherry_blossom.jpg"
)
QUESTION = "What do you see? Answer in one sentence."
PICTURE_PIXELS = 112
VIDEO_FRAMES = 4
POLL_SECONDS = 1.0
# Without --wait: for an instance that says it is starting, and for one that does not listen.
STARTING_SECONDS, SILENT_SECONDS, GIVEN_UP = 900.0, 15.0, 0.0
ANSWER_SECONDS = 300.0
# Tokens that came in one burst have no rate.
RATE_SECONDS = 0.2
NOTE_CHARACTERS = 240
OK, WRONG, SKIPPED = "✓", "✗", "–"  # noqa: RUF001
# What vLLM says of an input that the model, or its limit per prompt, has no place for.
TAKES_NONE = re.compile(r"not a multimodal model|At most 0 |does not support|not supported", re.I)
# The sidecar's codes for a picture that is not to be had from where it is.
NOT_FETCHED = re.compile(r'"(media_fetch_failed|media_url_refused)"')


class Wrong(Exception):
    """The instance failed a question."""


class Skipped(Exception):
    """The question does not apply to this instance."""


@dataclass
class Target:
    """The instance under test."""

    client: httpx.Client
    image_url: str
    model: str | None = None


@dataclass
class Answer:
    text: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    finished: bool = False
    # Seconds from the request to each event that carried something generated.
    times: list[float] = field(default_factory=list)

    def cost(self) -> str:
        return f"{self.prompt_tokens} + {self.tokens} tokens"

    def quote(self) -> str:
        text = " ".join(self.text.split())
        return f"“{text[:57]}…”" if len(text) > 60 else f"“{text}”"


# Pictures ---------------------------------------------------------------------------------


def draw_png(pixels: int = PICTURE_PIXELS, boundary: float = 0.5) -> bytes:
    """A square, red to the left of the boundary and blue to the right."""
    red = round(pixels * boundary)
    row = b"\0" + b"\xd0\x20\x20" * red + b"\x20\x20\xd0" * (pixels - red)
    header = struct.pack(">IIBBBBB", pixels, pixels, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def video_part() -> dict[str, Any]:
    """A red field that grows. vLLM takes frames as one data URL and looks at their bytes."""
    frames = [draw_png(boundary=(n + 1) / (VIDEO_FRAMES + 1)) for n in range(VIDEO_FRAMES)]
    return {
        "type": "video_url",
        "video_url": {"url": "data:video/jpeg;base64," + ",".join(map(encoded, frames))},
    }


# Asking -----------------------------------------------------------------------------------


def chat_body(target: Target, parts: list[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
    text = {"type": "text", "text": QUESTION}
    return {
        "model": target.model,
        "messages": [{"role": "user", "content": [*parts, text] if parts else QUESTION}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }


def error_message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return response.text[:200].strip() or response.reason_phrase


def require_ok(response: httpx.Response) -> None:
    if response.status_code == 200:
        return
    message = error_message(response)
    if response.status_code == 400 and TAKES_NONE.search(message):
        raise Skipped(f"model takes none ({message.splitlines()[0]})")
    if NOT_FETCHED.search(response.text):
        raise Skipped(f"not fetched ({message}); try --image-url")
    raise Wrong(f"status {response.status_code}: {message}")


def ask(target: Target, *parts: dict[str, Any], max_tokens: int = 32) -> Answer:
    """One plain, not streamed chat request."""
    body = chat_body(target, list(parts), max_tokens)
    response = target.client.post("/v1/chat/completions", json=body)
    require_ok(response)
    try:
        document = response.json()
        message, usage = document["choices"][0]["message"], document["usage"]
        text = message.get("content") or message.get("reasoning") or ""
        return Answer(text, usage["prompt_tokens"], usage["completion_tokens"])
    except (ValueError, KeyError, TypeError, IndexError):
        raise Wrong(f"not a chat answer: {response.text[:200]}") from None


def read_event(answer: Answer, payload: str, seconds: float) -> None:
    if payload == "[DONE]":
        answer.finished = True
        return
    event = json.loads(payload)
    if event.get("error"):
        raise Wrong(f"the stream broke: {event['error'].get('message', event['error'])}")
    if usage := event.get("usage"):
        answer.prompt_tokens = usage["prompt_tokens"]
        answer.tokens = usage["completion_tokens"]
    for choice in event.get("choices", ()):
        delta = choice["delta"]
        if text := delta.get("content") or delta.get("reasoning"):
            answer.text += text
            answer.times.append(seconds)


def ask_streamed(target: Target, max_tokens: int = 128) -> Answer:
    body = chat_body(target, [], max_tokens)
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer, started = Answer(), time.perf_counter()
    with target.client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            response.read()
        require_ok(response)
        for line in response.iter_lines():
            if line.startswith("data:"):
                read_event(answer, line[5:].strip(), time.perf_counter() - started)
    return answer


# Questions: each returns what was measured --------------------------------------------------


def check_health(target: Target) -> str:
    response = target.client.get("/health")
    require_ok(response)
    # Plain vLLM answers with an empty body.
    state = response.json() if response.content else {}
    return ", ".join(str(state[key]) for key in ("status", "model") if state.get(key)) or "200"


def check_info(target: Target) -> str:
    response = target.client.get("/info")
    if response.status_code == 404:
        raise Skipped("no /info here: not the sidecar?")
    require_ok(response)
    info = response.json()
    versions = [f"{who} {info[who].get('version', '?')}" for who in ("sidecar", "engine")]
    random = info["model"].get("random_weights")
    return ", ".join([*versions, "RANDOM WEIGHTS: answers mean nothing"] if random else versions)


def check_models(target: Target) -> str:
    response = target.client.get("/v1/models")
    require_ok(response)
    served = [model["id"] for model in response.json()["data"]]
    if not served:
        raise Wrong("no model is served")
    target.model = target.model or served[0]
    if target.model not in served:
        raise Wrong(f"{target.model!r} is not among {', '.join(served)}")
    return ", ".join(served)


def check_text(target: Target) -> str:
    started = time.perf_counter()
    answer = ask(target)
    return f"{time.perf_counter() - started:.2f} s, {answer.cost()}, {answer.quote()}"


def check_stream(target: Target) -> str:
    answer = ask_streamed(target)
    if not answer.finished:
        raise Wrong("the stream ended without [DONE]")
    if not answer.times:
        raise Wrong("the stream carried no text")
    first, last = answer.times[0], answer.times[-1]
    pace = f"{answer.tokens} in {last:.2f} s"
    if last - first >= RATE_SECONDS:
        pace = f"then {(answer.tokens - 1) / (last - first):.0f} tokens/s"
    return f"first token after {first * 1000:.0f} ms, {pace}, {answer.cost()}"


def check_image_base64(target: Target) -> str:
    return ask_about_picture(target, "data:image/png;base64," + encoded(draw_png()))


def check_image_url(target: Target) -> str:
    return ask_about_picture(target, target.image_url)


def check_video(target: Target) -> str:
    answer = ask(target, video_part())
    return f"{VIDEO_FRAMES} frames, {answer.cost()}, {answer.quote()}"


def ask_about_picture(target: Target, url: str) -> str:
    """A picture that was silently dropped would cost no prompt tokens."""
    alone = ask(target, max_tokens=1).prompt_tokens
    answer = ask(target, image_part(url))
    if answer.prompt_tokens <= alone:
        raise Wrong(f"the picture added no tokens to the prompt ({alone})")
    return f"{answer.prompt_tokens - alone} picture tokens, {answer.cost()}, {answer.quote()}"


CHECKS: dict[str, Callable[[Target], str]] = {
    "health": check_health,
    "info": check_info,
    "models": check_models,
    "text": check_text,
    "stream": check_stream,
    "image by base64": check_image_base64,
    "image by URL": check_image_url,
    "video": check_video,
}


# Waiting ------------------------------------------------------------------------------------


def starting_state(target: Target) -> tuple[str, float]:
    """What keeps the instance from being ready, and how long that is worth waiting for."""
    try:
        response = target.client.get("/health", timeout=10)
    except httpx.TransportError as error:
        return f"no answer ({error})", SILENT_SECONDS
    if response.status_code == 200:
        return "", 0
    try:
        state = response.json()
        phase = state.get("phase") or state.get("status")
    except (ValueError, AttributeError):
        return f"status {response.status_code}", STARTING_SECONDS
    said = [
        f"{phase} {state['progress']:.0%}" if state.get("progress") else str(phase),
        f"{state['eta_seconds']:.0f} s left" if state.get("eta_seconds") else "",
        *(state.get(key) or "" for key in ("reason", "remedy")),
    ]
    return "; ".join(filter(None, said)), GIVEN_UP if phase == "failed" else STARTING_SECONDS


def wait_until_ready(target: Target, seconds: float | None) -> str:
    """Empty when the instance is ready, else the last thing it said."""
    started, shown = time.monotonic(), ""
    while True:
        state, patience = starting_state(target)
        passed = time.monotonic() - started
        if seconds is not None and patience is not GIVEN_UP:
            patience = seconds
        if not state or passed >= patience:
            break
        show_progress(state, shown, passed)
        shown = state
        time.sleep(POLL_SECONDS)
    if shown and sys.stdout.isatty():
        print("\r\033[K", end="")
    return state


def show_progress(state: str, shown: str, passed: float) -> None:
    if sys.stdout.isatty():
        print(f"\r\033[K… {passed:.0f} s: {state}", end="", flush=True)
    elif state.split()[0] != shown.partition(" ")[0] or round(passed) % 10 == 0:
        print(f"… {passed:.0f} s: {state}", flush=True)


# Running ------------------------------------------------------------------------------------


def run_check(name: str, check: Callable[[Target], str], target: Target) -> bool:
    try:
        mark, note = OK, check(target)
    except Skipped as reason:
        mark, note = SKIPPED, f"skipped: {reason}"
    except Wrong as reason:
        mark, note = WRONG, str(reason)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        mark, note = WRONG, f"{type(error).__name__}: {error}"
    print(f"{mark} {name:<16} {' '.join(note.split())[:NOTE_CHARACTERS]}", flush=True)
    return mark != WRONG


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask a running instance one of everything.")
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--model", help="default: the first one the instance names")
    parser.add_argument("--api-key", help="sent as Authorization: Bearer")
    parser.add_argument(
        "--image-url", default=PUBLIC_PICTURE, help="a picture it can reach; default: a public one"
    )
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="for a start, at most")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    url = options.url.rstrip("/").removesuffix("/v1")
    host = urlsplit(url).hostname
    if not host or not url.startswith(("http://", "https://")):
        print(f"smoke: {options.url!r} is no http(s) URL", file=sys.stderr)
        return 2
    headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    # A proxy named in the environment is for other machines.
    remote = host not in ("localhost", "127.0.0.1", "::1")
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=10)
    with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=remote) as client:
        target = Target(client, options.image_url, options.model)
        if state := wait_until_ready(target, options.wait):
            print(f"{WRONG} {'health':<16} not ready: {state}")
            return 1
        results = [run_check(name, check, target) for name, check in CHECKS.items()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
