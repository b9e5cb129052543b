"""The sidecar's own small protocol: `POST /generate` and `POST /generate_stream`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from proxy.access.routes import Route
from proxy.errors import InvalidRequest
from proxy.protocols.protocol import (
    Ask,
    Done,
    Error,
    Event,
    Finish,
    Protocol,
    Reasoning,
    Text,
    Usage,
)

_STREAM = "/generate_stream"
_HISTORY = ("system_info", "history_input", "history_output")
_OWN = ("prompt", "prompts", *_HISTORY)
# No name is nearly as long; looking for one that is like a longer one takes seconds.
_MAX_NAME_CHARS = 100
# Handed on as they are: what both of the engine's routes take under the same name.
SAMPLING = frozenset(
    {
        "model",
        "max_tokens",
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "seed",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "repetition_detection",
        "use_beam_search",
        "length_penalty",
        "logit_bias",
        "allowed_token_ids",
        "bad_words",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "add_special_tokens",
        "truncate_prompt_tokens",
        "truncation_side",
        "structured_outputs",
        "response_format",
        "thinking_token_budget",
        "priority",
        "cache_salt",
        "user",
        "vllm_xargs",
    }
)


class Generate(Protocol):
    """Texts in, texts out: for scripts, and for clients of older servers."""

    # The second and third are those of older servers.
    paths = ("/generate", "/basic_generate", "/generate_vllm", _STREAM)

    def request_in(self, path: str, body: dict[str, Any]) -> Ask:
        for name in body:
            if name == "stream":
                raise InvalidRequest(f"stream: is asked for by path, {_STREAM}", param=name)
            if name not in SAMPLING and name not in _OWN:
                short = name[:_MAX_NAME_CHARS]
                near = get_close_matches(short, (*SAMPLING, *_OWN), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise InvalidRequest(f"{short}: is not known{hint}", param=short)
        prompt, prompts = body.get("prompt"), body.get("prompts")
        one = prompt is not None
        if one == (prompts is not None):
            text = "cannot stand beside prompts" if one else "is needed, or prompts"
            raise InvalidRequest(f"prompt: {text}", param="prompt")
        _check_text(body, "prompt")
        if not _check_texts(body, "prompts") and not one:
            raise InvalidRequest("prompts: is empty", param="prompts")
        sampling = {name: value for name, value in body.items() if name in SAMPLING}
        if path == _STREAM:
            sampling |= {"stream": True, "stream_options": {"include_usage": True}}
        if any(body.get(name) is not None for name in _HISTORY):
            if not one:
                raise InvalidRequest("prompts: has no history; ask with prompt", param="prompts")
            _check_text(body, "system_info")
            questions = _check_texts(body, "history_input")
            answers = _check_texts(body, "history_output")
            if len(questions) != len(answers):
                text = f"has {len(answers)} texts, and history_input {len(questions)}"
                text = f"history_output: {text}; they must be as many"
                raise InvalidRequest(text, param="history_output")
            messages = []
            if body.get("system_info") is not None:
                messages.append({"role": "system", "content": body["system_info"]})
            for question, answer in zip(questions, answers, strict=True):
                messages.append({"role": "user", "content": question})
                messages.append({"role": "assistant", "content": answer})
            messages.append({"role": "user", "content": prompt})
            ask = Ask(Route.CHAT, sampling | {"messages": messages})
        else:
            ask = Ask(Route.COMPLETIONS, sampling | {"prompt": prompt if one else prompts})
        ask.notes.update(one=one, reasons={})
        return ask

    def events_out(self, ask: Ask | None, events: Sequence[Event]) -> bytes:
        if ask is None or (isinstance(events[0], Error) and events[0].status is not None):
            return _json(_error_fields(events[0]))
        if not ask.streams:
            return _json(_answer(events, one=ask.notes["one"]))
        pieces = []
        for event in events:
            match event:
                case Text(index, text):
                    pieces.append(_event({"text": text, "index": index}))
                case Reasoning(index, text):
                    pieces.append(_event({"reasoning": text, "index": index}))
                case Finish(index, reason):
                    ask.notes["reasons"][index] = reason
                case Usage():
                    reasons = ask.notes["reasons"]
                    ends = [reasons.get(index) for index in _up_to(reasons)]
                    pieces.append(_event({"finish_reasons": ends, "usage": _counts(event)}))
                case Error():
                    pieces.append(_event(_error_fields(event)))
                case Done():
                    pieces.append(b"data: [DONE]\n\n")
        return b"".join(pieces)


def _check_text(body: dict[str, Any], name: str) -> None:
    if not isinstance(body.get(name), str | None):
        raise InvalidRequest(f"{name}: must be a text", param=name)


def _check_texts(body: dict[str, Any], name: str) -> list[str]:
    texts = body.get(name)
    if texts is None:
        return []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(f"{name}: must be a list of texts", param=name)
    return texts


def _answer(events: Sequence[Event], *, one: bool) -> dict[str, Any]:
    """A whole answer; reasoning stands in it where there is any."""
    texts: dict[int, str] = {}
    thoughts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage: dict[str, int] = {}
    for event in events:
        match event:
            case Text(index, text):
                texts[index] = texts.get(index, "") + text
            case Reasoning(index, text):
                thoughts[index] = thoughts.get(index, "") + text
            case Finish(index, reason):
                reasons[index] = reason
            case Usage():
                usage = _counts(event)
    indices = _up_to((*texts, *thoughts, *reasons))
    answer: dict[str, Any] = {"text": texts.get(0, "")} if one else {}
    answer["texts"] = [texts.get(index, "") for index in indices]
    if thoughts:
        answer["reasoning"] = [thoughts.get(index, "") for index in indices]
    return answer | {"finish_reasons": [reasons.get(index) for index in indices], "usage": usage}


def _up_to(indices: Iterable[int]) -> range:
    """All indices there are: an answer without a word has one too."""
    return range(max(indices, default=-1) + 1)


def _error_fields(event: Event) -> dict[str, Any]:
    assert isinstance(event, Error)
    return {"error": event.message, "code": event.code, "field": event.field}


def _counts(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _json(value)


def _json(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value)
