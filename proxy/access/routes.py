"""The allow-list: which paths are the engine's, and what kind of work each one is.

Paths are compared as they came over the wire, undecoded, so that no encoding of a
path can lead to a route that is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import unquote_to_bytes


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
    GENERATE = "generate"
    PROTOCOL = "protocol"
    EXTRA = "extra"
    UNKNOWN = "unknown"


GENERATING = (Route.CHAT, Route.COMPLETIONS, Route.RESPONSES, Route.MESSAGES)
# Their errors have the shape of Anthropic's API.
ANTHROPIC = (Route.MESSAGES, Route.COUNT_TOKENS)

# What speaks another protocol than the engine, and is translated.
TRANSLATED = (Route.GENERATE, Route.PROTOCOL)

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

# Other words for a path of the engine's: what is asked there is sent to the path itself.
ALIASES = {
    b"/chat/completions": b"/v1/chat/completions",
    b"/completions": b"/v1/completions",
}

# Routes that take a name or an id: /v1/models/{model}, /v1/responses/{id}[/cancel|/input_items].
# An id begins with `resp_`: vLLM has other routes beside it, such as /v1/responses/render.
_SEGMENT = rb"(?!\.{1,2}(?:/|$))[\w.:~%-]+"
_WITH_ID = (
    (re.compile(rb"/v1/models/" + _SEGMENT + rb"(?:/" + _SEGMENT + rb")*"), Route.MODELS),
    (re.compile(rb"/v1/responses/resp_[\w-]+(?:/(?:cancel|input_items))?"), Route.RESPONSES),
)

# The same as templates; a model's name may have slashes, which a template cannot say.
_TEMPLATES = {
    "/v1/models/{model}": Route.MODELS,
    "/v1/responses/{response_id}": Route.RESPONSES,
    "/v1/responses/{response_id}/cancel": Route.RESPONSES,
    "/v1/responses/{response_id}/input_items": Route.RESPONSES,
}
_GENERATE = dict.fromkeys((b"/generate", b"/generate_stream"), Route.GENERATE)


# What somebody else's server may read as more than a part of a name, once it is decoded.
_NO_NAME = re.compile(rb"[\x00-\x1f\x7f\\;?#%]|(?:^|/)\.{0,2}(?:/|$)")


class RouteTable:
    """The allow-list with the paths of `EXTRA_ROUTES` and of `PROTOCOLS` added.

    `/generate` is the engine's where `EXTRA_ROUTES` says so.
    """

    def __init__(self, extra_paths: Iterable[str] = (), protocol_paths: Iterable[str] = ()) -> None:
        extra = {path.encode(): Route.EXTRA for path in extra_paths}
        protocols = {path.encode(): Route.PROTOCOL for path in protocol_paths}
        aliases = {alias: _EXACT[path] for alias, path in ALIASES.items()}
        self._exact = protocols | _GENERATE | extra | _EXACT | aliases

    @property
    def described(self) -> dict[str, Route]:
        """All paths, as OpenAPI writes them."""
        return {path.decode(): route for path, route in self._exact.items()} | _TEMPLATES

    def canonical(self, raw_path: bytes) -> bytes:
        """A path as it is listed: without the slash at its end, where it is listed only so.

        Stock vLLM redirects such a request, which many clients do not follow with their body.
        """
        bare = raw_path[:-1]
        if raw_path.endswith(b"/") and self.find(raw_path) is None and self.find(bare) is not None:
            return bare
        return raw_path

    def find(self, raw_path: bytes) -> Route | None:
        """The kind of work behind a path, or None where it is not the engine's."""
        if route := self._exact.get(raw_path):
            return route
        for pattern, route in _WITH_ID:
            if pattern.fullmatch(raw_path):
                return route if _is_plain(raw_path) else None
        return None


def _is_plain(raw_path: bytes) -> bool:
    """Whether a path is the same once it is decoded and its dots are resolved, to any server."""
    decoded = unquote_to_bytes(raw_path)
    try:
        decoded.decode()
    except UnicodeDecodeError:
        return False
    return not _NO_NAME.search(decoded[1:])
