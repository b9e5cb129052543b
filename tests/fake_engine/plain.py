"""Everything that is not a generation: health, models, metrics, tokenize, embeddings, audio."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import msgspec

from . import metrics, refusals
from .body import Body
from .deliver import Reply, whole
from .engine import Engine, State
from .plan import short_id

_BOUNDARY = re.compile(r'boundary="?([^";]+)', re.IGNORECASE)


def found(value: Any, status: int = 200) -> Reply:
    """A JSON answer."""
    return whole(msgspec.json.encode(value), status)


def _health(engine: Engine) -> Reply:
    """An empty body; 503 only once the engine is known to be dead."""
    return whole(b"", 503 if engine.state is State.DEAD else 200, None)


def _models(engine: Engine) -> Reply:
    return found({"object": "list", "data": [_card(engine, name) for name in _names(engine)]})


def _names(engine: Engine) -> list[str]:
    return engine.options.served_names


def _card(engine: Engine, name: str) -> dict[str, Any]:
    permission = {
        "id": f"modelperm-{short_id()}",
        "object": "model_permission",
        "created": engine.created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": engine.created,
        "owned_by": "vllm",
        "root": engine.options.model,
        "parent": None,
        "max_model_len": engine.options.max_model_len,
        "permission": [permission],
    }


GETS: dict[str, Callable[[Engine], Reply]] = {
    "/health": _health,
    "/ping": _health,
    "/version": lambda _: found({"version": "0.32.0"}),
    "/load": lambda engine: found({"server_load": engine.metrics.running}),
    "/v1/models": _models,
    "/metrics": lambda engine: whole(
        engine.metrics.page(engine.model), content_type=metrics.CONTENT_TYPE
    ),
}


def tokenize(engine: Engine, body: Body) -> Reply:
    """One token a word; numbers mean nothing."""
    words = str(body.prompt or "").split() or ["x"]
    tokens = [64 + len(word) for word in words]
    longest = engine.options.max_model_len
    value = {"count": len(tokens), "max_model_len": longest, "tokens": tokens, "token_strs": None}
    return found(value)


def detokenize(_: Engine, body: Body) -> Reply:
    """One letter a token."""
    return found({"prompt": "".join(chr(32 + token % 90) for token in body.tokens or [])})


def count_tokens(_: Engine, body: Body) -> Reply:
    """Anthropic's counting."""
    return found({"input_tokens": 14, "context_management": {"original_input_tokens": 14}})


def rerank(engine: Engine, body: Body) -> Reply:
    """Each document is as good as any other."""
    for name in ("query", "documents"):
        if not body.has(name):
            raise refusals.missing(name)
    results = [
        {"index": index, "document": {"text": text}, "relevance_score": 0.5}
        for index, text in enumerate(body.documents or [])
    ]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    head = {"id": f"score-{short_id()}", "model": engine.model}
    return found(head | {"usage": usage, "results": results})


def classify(engine: Engine, body: Body) -> Reply:
    """One of two labels, as likely as the other."""
    if not body.has("input"):
        raise refusals.missing("input")
    data = [{"index": 0, "label": "LABEL_0", "probs": [0.5, 0.5], "num_classes": 2}]
    head = {"id": f"classify-{short_id()}", "object": "list", "created": engine.created}
    usage = {"prompt_tokens": 2, "total_tokens": 2, "completion_tokens": 0}
    return found(head | {"model": engine.model, "data": data, "usage": usage})


def embeddings(engine: Engine, body: Body) -> Reply:
    """Three numbers for each input."""
    if not body.has("input"):
        raise refusals.missing("input")
    inputs = body.input if isinstance(body.input, list) else [body.input]
    vectors = [0.25, -0.5, 0.125]
    data: list[dict[str, Any]] = [
        {"index": index, "object": "embedding", "embedding": vectors}
        for index, _ in enumerate(inputs)
    ]
    tokens = 2 * len(inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    head = {"id": f"embd-{short_id()}", "object": "list", "created": engine.created}
    tail = {"model": engine.model, "data": data}
    return found(head | tail | {"usage": usage | {"prompt_tokens_details": None}})


POSTS: dict[str, Callable[[Engine, Body], Reply]] = {
    "/tokenize": tokenize,
    "/detokenize": detokenize,
    "/v1/messages/count_tokens": count_tokens,
    "/v1/embeddings": embeddings,
    "/pooling": embeddings,
    "/rerank": rerank,
    "/v1/rerank": rerank,
    "/classify": classify,
}
POOLING_TASKS = {
    "/v1/embeddings": "embed",
    "/pooling": "pooling",
    "/rerank": "score",
    "/v1/rerank": "score",
    "/classify": "classify",
}
AUDIO = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})


def transcription(body: bytes, content_type: str) -> Reply:
    """vLLM's answer (`text`, `usage`), and what the `file` part was: its size and sha256."""
    file = _file_part(body, content_type)
    if file is None:
        raise refusals.missing("file")
    digest = hashlib.sha256(file).hexdigest()
    text = f" heard {len(file)} bytes."
    usage = {"type": "duration", "seconds": 1}
    return found({"text": text, "usage": usage, "bytes": len(file), "sha256": digest})


def _file_part(body: bytes, content_type: str) -> bytes | None:
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return None
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return data.removesuffix(b"\r\n")
    return None
