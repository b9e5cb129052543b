"""The allow-list: which paths are the engine's, and what kind of work each one is.

Paths are compared as they came over the wire, undecoded, so that no encoding of a
path can lead to a route that is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum


class Route(StrEnum):
    """Kind of work; the closed set of the `route` label."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    AUDIO = "audio"
    REALTIME = "realtime"
    RERANK = "rerank"
    SCORE = "score"
    POOLING = "pooling"
    CLASSIFY = "classify"
    TOKENIZE = "tokenize"
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"
    VERSION = "version"
    EXTRA = "extra"
    UNKNOWN = "unknown"


_EXACT = {
    b"/v1/chat/completions": Route.CHAT,
    b"/v1/completions": Route.COMPLETIONS,
    b"/v1/responses": Route.RESPONSES,
    b"/v1/messages": Route.MESSAGES,
    b"/v1/messages/count_tokens": Route.COUNT_TOKENS,
    b"/v1/embeddings": Route.EMBEDDINGS,
    b"/v1/audio/transcriptions": Route.AUDIO,
    b"/v1/audio/translations": Route.AUDIO,
    b"/v1/audio/speech": Route.AUDIO,
    b"/v1/realtime": Route.REALTIME,
    b"/v1/rerank": Route.RERANK,
    b"/v2/rerank": Route.RERANK,
    b"/rerank": Route.RERANK,
    b"/v1/score": Route.SCORE,
    b"/score": Route.SCORE,
    b"/pooling": Route.POOLING,
    b"/classify": Route.CLASSIFY,
    b"/tokenize": Route.TOKENIZE,
    b"/detokenize": Route.TOKENIZE,
    b"/v1/models": Route.MODELS,
    b"/version": Route.VERSION,
}

# Routes that take a name or an id: /v1/models/{model}, /v1/responses/{id}[/cancel|/input_items].
_SEGMENT = rb"(?!\.{1,2}(?:/|$))[\w.:~%-]+"
_WITH_ID = (
    (re.compile(rb"/v1/models/" + _SEGMENT + rb"(?:/" + _SEGMENT + rb")*"), Route.MODELS),
    (re.compile(rb"/v1/responses/[\w-]+(?:/[a-z_]+)?"), Route.RESPONSES),
)


class RouteTable:
    """The allow-list with the paths of `EXTRA_ROUTES` added."""

    def __init__(self, extra_paths: Iterable[str] = ()) -> None:
        self._exact = {path.encode(): Route.EXTRA for path in extra_paths} | _EXACT

    def find(self, raw_path: bytes) -> Route | None:
        """The kind of work behind a path, or None where it is not the engine's."""
        if route := self._exact.get(raw_path):
            return route
        return next((route for pattern, route in _WITH_ID if pattern.fullmatch(raw_path)), None)
