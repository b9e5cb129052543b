"""The allow-list: which paths are the engine's, and all that this project knows of each.

A route is declared here, once. The media guard, the readers of bodies and streams, the names of
spans, `/openapi.json` and docs/endpoints.md are made from `ROUTES`.

Paths are compared as they came over the wire, undecoded, so that no encoding of a
path can lead to a route that is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from proxy.server.request import MAX_PATH_BYTES


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


class PayloadShape(StrEnum):
    """What the events of a stream, and whole answers, look like."""

    CHUNKS = "chunks"
    """Chunks as chat and completions have them; also any answer that has no more than `usage`."""
    RESPONSES = "responses"
    MESSAGES = "messages"


_JSON = "application/json"
_FORM = "multipart/form-data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Paths that are used alike: one row of docs/endpoints.md."""

    paths: tuple[str, ...] = ()
    """As OpenAPI writes them; empty where a setting names them."""
    named_by: str | None = None
    """The setting that names the paths."""
    aliases: tuple[str, ...] = ()
    """Other words for `paths[0]`: what is asked there is sent to the path itself."""
    methods: tuple[str, ...] = ("post",)
    body: str | None = _JSON
    """Media type of the body of a POST."""
    operation: str | None = None
    """`gen_ai.operation.name` of a POST's span, as OpenTelemetry's conventions call it."""
    about: str
    """For docs/endpoints.md."""


NO_MEDIA: tuple[str, ...] = ()
_MESSAGES = ("messages", "system")
_POOLED = ("messages", "input")
_SCORED = ("query", "queries", "documents", "items", "data_1", "data_2", "text_1", "text_2")


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteSpec:
    """All that is to be known of one kind of work."""

    route: Route
    endpoints: tuple[Endpoint, ...]
    media_fields: tuple[str, ...]
    """Top-level fields of its body in which the engine would fetch URLs; `NO_MEDIA` where no body
    of it points at media. There is no default: the guard against SSRF looks nowhere else."""
    payloads: PayloadShape = PayloadShape.CHUNKS
    messages_field: str | None = None
    """The field of its body whose messages are peeked at, to count images, videos and audios."""
    takes_usage_option: bool = False
    """Its streams have usage only where the body asks for it by `stream_options`."""
    generates: bool = False
    """It makes tokens one by one, and may stream them."""
    proves_work: bool = False
    """An answer proves that the engine's core works. Else only one that counts tokens does."""
    is_translated: bool = False
    """It speaks a protocol of its own. `EXTRA_ROUTES` may give its paths to the engine."""
    has_anthropic_errors: bool = False
    takes_sessions: bool = False
    """WebSocket sessions may be opened there."""


ListedRoute = tuple[RouteSpec, Endpoint]

ROUTES = (
    RouteSpec(
        route=Route.CHAT,
        endpoints=(
            Endpoint(
                paths=("/v1/chat/completions",),
                aliases=("/chat/completions",),
                operation="chat",
                about="A conversation, with pictures, video and sound where the model takes them."
                " Usage is always known",
            ),
        ),
        media_fields=_MESSAGES,
        messages_field="messages",
        takes_usage_option=True,
        generates=True,
        proves_work=True,
    ),
    RouteSpec(
        route=Route.COMPLETIONS,
        endpoints=(
            Endpoint(
                paths=("/v1/completions",),
                aliases=("/completions",),
                operation="text_completion",
                about="A prompt continued. Usage is always known",
            ),
        ),
        media_fields=NO_MEDIA,  # texts and tokens only
        takes_usage_option=True,
        generates=True,
        proves_work=True,
    ),
    RouteSpec(
        route=Route.RESPONSES,
        endpoints=(
            Endpoint(
                paths=("/v1/responses",),
                aliases=("/responses",),
                operation="chat",
                about="OpenAI's Responses API",
            ),
            Endpoint(
                paths=(
                    "/v1/responses/{response_id}",
                    "/v1/responses/{response_id}/input_items",
                ),
                methods=("get",),
                about="A stored response; ids begin with `resp_`",
            ),
            Endpoint(
                paths=("/v1/responses/{response_id}/cancel",),
                body=None,
                about="A response in the background, ended",
            ),
        ),
        media_fields=("input",),
        payloads=PayloadShape.RESPONSES,
        messages_field="input",
        generates=True,
    ),
    RouteSpec(
        route=Route.MESSAGES,
        endpoints=(
            Endpoint(paths=("/v1/messages",), operation="chat", about="Anthropic's Messages API"),
        ),
        media_fields=_MESSAGES,
        payloads=PayloadShape.MESSAGES,
        messages_field="messages",
        generates=True,
        proves_work=True,
        has_anthropic_errors=True,
    ),
    RouteSpec(
        route=Route.EMBEDDINGS,
        endpoints=(
            Endpoint(paths=("/v1/embeddings",), operation="embeddings", about="Texts as vectors"),
        ),
        media_fields=_POOLED,
        proves_work=True,
    ),
    RouteSpec(
        route=Route.AUDIO,
        endpoints=(
            Endpoint(
                paths=("/v1/audio/transcriptions", "/v1/audio/translations"),
                body=_FORM,
                about="Speech to text",
            ),
            Endpoint(paths=("/v1/audio/speech",), about="Text to speech"),
        ),
        media_fields=NO_MEDIA,  # the files themselves, or a text to speak
        proves_work=True,
    ),
    RouteSpec(
        route=Route.REALTIME,
        endpoints=(
            Endpoint(
                paths=("/v1/realtime",),
                methods=("get",),
                about="A WebSocket session; [which pages](access.md#web-pages) may open one."
                " Frames pass as they are: how long a message may be is the engine's to say"
                " (vLLM: 16 MiB). Compression is not agreed to",
            ),
        ),
        media_fields=NO_MEDIA,  # a session has no body
        takes_sessions=True,
    ),
    RouteSpec(
        route=Route.RERANK,
        endpoints=(
            Endpoint(
                paths=("/v1/rerank", "/v2/rerank", "/rerank"),
                about="Documents in order of how well they fit",
            ),
        ),
        media_fields=_SCORED,
        proves_work=True,
    ),
    RouteSpec(
        route=Route.SCORE,
        endpoints=(Endpoint(paths=("/v1/score", "/score"), about="How well texts fit each other"),),
        media_fields=_SCORED,
        proves_work=True,
    ),
    RouteSpec(
        route=Route.POOLING,
        endpoints=(Endpoint(paths=("/pooling",), about="The model's vectors as they are"),),
        media_fields=_POOLED,
        proves_work=True,
    ),
    RouteSpec(
        route=Route.CLASSIFY,
        endpoints=(Endpoint(paths=("/classify",), about="Classes of texts"),),
        media_fields=_POOLED,
        proves_work=True,
    ),
    RouteSpec(
        route=Route.TOKENIZE,
        endpoints=(Endpoint(paths=("/tokenize", "/detokenize"), about="Text to tokens and back"),),
        media_fields=_MESSAGES,
    ),
    RouteSpec(
        route=Route.COUNT_TOKENS,
        endpoints=(Endpoint(paths=("/v1/messages/count_tokens",), about="How long a message is"),),
        media_fields=_MESSAGES,
        has_anthropic_errors=True,
    ),
    RouteSpec(
        route=Route.MODELS,
        endpoints=(
            Endpoint(
                paths=("/v1/models",),
                methods=("get",),
                about="The served names; in Anthropic's shape where the request has"
                " `anthropic-version`",
            ),
            Endpoint(
                paths=("/v1/models/{model}",),
                methods=("get",),
                about="One of them, for `models.retrieve()` of OpenAI's and Anthropic's SDKs. vLLM"
                " has no such route: the sidecar takes it from the engine's list. The name may"
                " have slashes, escaped or not",
            ),
        ),
        media_fields=NO_MEDIA,
    ),
    RouteSpec(
        route=Route.VERSION,
        endpoints=(Endpoint(paths=("/version",), methods=("get",), about="vLLM's version"),),
        media_fields=NO_MEDIA,
    ),
    RouteSpec(
        route=Route.GENERATE,
        endpoints=(
            Endpoint(
                paths=("/generate", "/basic_generate", "/generate_vllm", "/generate_stream"),
                about="Texts in, texts out: [a protocol](protocols.md#generate) of the sidecar's,"
                " translated to chat or completions",
            ),
        ),
        media_fields=NO_MEDIA,  # the engine is asked for chat or completions
        proves_work=True,
        is_translated=True,
    ),
    RouteSpec(
        route=Route.PROTOCOL,
        endpoints=(
            Endpoint(
                named_by="PROTOCOLS",
                about="[A protocol of your own](protocols.md#a-protocol-of-your-own)",
            ),
        ),
        media_fields=NO_MEDIA,  # the engine is asked for chat or completions
        proves_work=True,
        is_translated=True,
    ),
    RouteSpec(
        route=Route.EXTRA,
        endpoints=(
            Endpoint(
                named_by="EXTRA_ROUTES",
                methods=("get", "post"),
                about="Relayed as it is; nothing is read of it",
            ),
        ),
        # Of routes that only the operator opens: /v1/systemone, /v2/embed, /cohere/v2/chat, ...
        media_fields=(*_MESSAGES, "input", *_SCORED, "inputs", "images", "audio", "videos"),
        takes_sessions=True,
    ),
    RouteSpec(
        route=Route.UNKNOWN,
        endpoints=(),
        media_fields=NO_MEDIA,  # never sent to the engine
    ),
)


def _endpoints() -> Iterator[tuple[str, RouteSpec, Endpoint]]:
    for spec in ROUTES:
        for endpoint in spec.endpoints:
            for path in (*endpoint.paths, *endpoint.aliases):
                yield path, spec, endpoint


GENERATING = tuple(spec.route for spec in ROUTES if spec.generates)
TRANSLATED = tuple(spec.route for spec in ROUTES if spec.is_translated)
WITH_SESSIONS = tuple(spec.route for spec in ROUTES if spec.takes_sessions)

OPERATIONS = {
    path: endpoint.operation for path, _, endpoint in _endpoints() if endpoint.operation is not None
}
"""The operation of a POST to a path, for its span."""
ALIASES = {
    alias.encode(): endpoint.paths[0].encode()
    for spec in ROUTES
    for endpoint in spec.endpoints
    for alias in endpoint.aliases
}

# An id begins with `resp_`: vLLM has other routes beside it, such as /v1/responses/render. A
# model's name may have slashes, which a template cannot say.
_SEGMENT = r"(?!\.{1,2}(?:/|$))[\w.:~%-]+"
_PARAMETERS = {"response_id": r"resp_[\w-]+", "model": rf"{_SEGMENT}(?:/{_SEGMENT})*"}
# What another server may read as more than a part of a name, once it is decoded.
_NO_NAME = re.compile(rb"[\x00-\x1f\x7f\\;?#%]|(?:^|/)\.{0,2}(?:/|$)")


def _pattern() -> re.Pattern[bytes]:
    """Matches the paths that take a name or an id; the name of the group is the route."""
    alternatives: dict[Route, list[str]] = {}
    for path, spec, _ in _endpoints():
        if "{" in path:
            expression = re.sub(r"\{(\w+)\}", lambda match: _PARAMETERS[match[1]], path)
            alternatives.setdefault(spec.route, []).append(expression)
    groups = [f"(?P<{route}>{'|'.join(each)})" for route, each in alternatives.items()]
    return re.compile("|".join(groups).encode())


_WITH_PARAMETER = _pattern()


class RouteTable:
    """The allow-list with the paths of `EXTRA_ROUTES` and of `PROTOCOLS` added.

    `/generate` is the engine's where `EXTRA_ROUTES` says so.
    """

    def __init__(self, extra_paths: Iterable[str] = (), protocol_paths: Iterable[str] = ()) -> None:
        specs = {spec.route: spec for spec in ROUTES}
        extra, protocol = specs[Route.EXTRA], specs[Route.PROTOCOL]
        declared = {path: (spec, endpoint) for path, spec, endpoint in _endpoints()}
        self.listed: dict[str, ListedRoute] = {
            **dict.fromkeys(protocol_paths, (protocol, protocol.endpoints[0])),
            **{path: each for path, each in declared.items() if each[0].is_translated},
            **dict.fromkeys(extra_paths, (extra, extra.endpoints[0])),
            **{path: each for path, each in declared.items() if not each[0].is_translated},
        }
        """All paths, as OpenAPI writes them."""
        self.paths = {
            path.encode(): spec.route
            for path, (spec, endpoint) in self.listed.items()
            if endpoint.named_by or "{" not in path
        }
        """The kind of work behind each that takes no name and no id."""

    def find(self, raw_path: bytes) -> Route | None:
        """The kind of work behind a path, or None where it is not the engine's."""
        if route := self.paths.get(raw_path):
            return route
        if len(raw_path) > MAX_PATH_BYTES:
            return None
        match = _WITH_PARAMETER.fullmatch(raw_path)
        if match is None or match.lastgroup is None:
            return None
        # To any server it has to be the same once it is decoded and its dots are resolved.
        decoded = unquote_to_bytes(raw_path)
        try:
            decoded.decode()
        except UnicodeDecodeError:
            return None
        return None if _NO_NAME.search(decoded[1:]) else Route(match.lastgroup)
