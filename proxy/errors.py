"""Everything that can go wrong, as one tree.

Each `RequestFailure` says who failed (`Source`); the same word stands in the log
line, in the metric label and in the `x-proxy-error` header.
"""

from __future__ import annotations

from enum import StrEnum


class Source(StrEnum):
    """Who failed."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    PROXY = "proxy"


class Cause(StrEnum):
    """Why an engine could not start or has died; the closed set of the `cause` label."""

    NOT_INSTALLED = "not_installed"
    BAD_FLAG = "bad_flag"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_GATED = "model_gated"
    TOKEN_INVALID = "token_invalid"  # nosec B105
    HUB_UNREACHABLE = "hub_unreachable"
    HUB_RATE_LIMITED = "hub_rate_limited"
    DISK_FULL = "disk_full"
    CACHE_NOT_WRITABLE = "cache_not_writable"
    CORRUPT_FILE = "corrupt_file"
    NO_TOKENIZER = "no_tokenizer"
    UNSUPPORTED_MODEL = "unsupported_model"
    MISSING_PACKAGE = "missing_package"
    TRUST_REMOTE_CODE = "trust_remote_code"
    CONTEXT_TOO_LONG = "context_too_long"
    KV_CACHE_TOO_SMALL = "kv_cache_too_small"
    OUT_OF_MEMORY = "out_of_memory"
    TOO_FEW_GPUS = "too_few_gpus"
    DRIVER_TOO_OLD = "driver_too_old"
    GPU_UNSUPPORTED = "gpu_unsupported"
    PORT_IN_USE = "port_in_use"
    START_TIMEOUT = "start_timeout"
    CRASHED = "crashed"
    KILLED = "killed"
    WEDGED = "wedged"
    WAKE_FAILED = "wake_failed"
    UNKNOWN = "unknown"


class Failure(Exception):
    """Root of the tree. `str()` is a sentence for a human."""


class SettingsError(Failure):
    """A variable has a value that cannot be used. The process exits with 2."""


class BenchFailure(Failure):
    """`bench` can measure nothing at its endpoint. The process exits with 1."""


class EngineFailure(Failure):
    """The engine cannot start, or has died.

    `remedy` tells what to change (it names the variable); `permanent` is true
    where the same start would fail the same way again, so that no retry is of any use.
    """

    def __init__(self, cause: Cause, message: str, *, remedy: str = "", permanent: bool) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.remedy = remedy
        self.permanent = permanent


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


# Clients of 2026 (openai-python 2, anthropic-python 0, openai-node 6, AI SDK 6) ignore more than
# 60 s in `Retry-After`: they try again within seconds, and give up. The newest heed 120 s.
MAX_HEEDED_SECONDS = 59


class RequestFailure(Failure):
    """One request cannot be answered; subclasses fix everything but the words.

    `retry_after_seconds` becomes `Retry-After`; above `MAX_HEEDED_SECONDS` few clients heed it.
    `repeats_work` marks failures after which a retry would make the engine do paid
    work again: they carry `x-should-retry: false`. `headers` are added to the answer.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    source = Source.PROXY
    repeats_work = False
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    @property
    def anthropic_type(self) -> str:
        """The error type of the Anthropic API for this status."""
        other = "invalid_request_error" if self.status < 500 else "api_error"
        return _ANTHROPIC_TYPES.get(self.status, other)


class Unauthorized(RequestFailure):  # no API key, or not one of ours
    status, type, code, source = 401, "invalid_request_error", "invalid_api_key", Source.CLIENT
    headers = ((b"www-authenticate", b"Bearer"),)


class OriginNotAllowed(RequestFailure):  # a web page that may not open a WebSocket
    status, type, code, source = 403, "invalid_request_error", "origin_not_allowed", Source.CLIENT


class HostNotAllowed(RequestFailure):  # a web page asks by a name that is anybody's
    status, type, code, source = 403, "invalid_request_error", "host_not_allowed", Source.CLIENT


class AdminOnly(RequestFailure):  # models are steered from this machine only
    status, type, code, source = 403, "invalid_request_error", "admin_only", Source.CLIENT


class UnknownRoute(RequestFailure):
    status, type, code, source = 404, "invalid_request_error", "unknown_route", Source.CLIENT


class RouteNotServed(RequestFailure):  # the engine's model does not do that
    status, type, code, source = 404, "invalid_request_error", "route_not_served", Source.CLIENT


class ModelNotFound(RequestFailure):  # no model of that name is served
    status, type, code, source = 404, "invalid_request_error", "model_not_found", Source.CLIENT


class ModelConflict(RequestFailure):  # the model cannot be loaded, unloaded or pinned
    status, type, code, source = 409, "invalid_request_error", "model_conflict", Source.CLIENT


class NoWebSocket(RequestFailure):  # a route that is asked by HTTP only
    """Clients that know both go on by HTTP, some of them only at this status."""

    status, type, code, source = 426, "invalid_request_error", "no_websocket", Source.CLIENT


class MethodNotAllowed(RequestFailure):
    status, type, code, source = 405, "invalid_request_error", "method_not_allowed", Source.CLIENT


class MalformedRequest(RequestFailure):  # what came is not HTTP
    status, type, code, source = 400, "invalid_request_error", "malformed_request", Source.CLIENT


class InvalidRequest(RequestFailure):  # a protocol of ours cannot take it
    status, type, code, source = 400, "invalid_request_error", "invalid_request", Source.CLIENT


class RequestTimeout(RequestFailure):  # it does not finish what it has begun
    status, type, code, source = 408, "invalid_request_error", "request_timeout", Source.CLIENT


class HeadTooLarge(RequestFailure):
    status, type, code, source = 431, "invalid_request_error", "head_too_large", Source.CLIENT


class BodyTooLarge(RequestFailure):
    status, type, code, source = 413, "invalid_request_error", "body_too_large", Source.CLIENT


class MediaRefused(RequestFailure):  # a URL that may not be fetched
    status, type, code, source = 400, "invalid_request_error", "media_url_refused", Source.CLIENT


class MediaUnavailable(RequestFailure):  # a URL that could not be fetched
    status, type, code, source = 400, "invalid_request_error", "media_fetch_failed", Source.CLIENT


class PoisonedRequest(RequestFailure):  # the engine died of it, twice
    status, type, code = 422, "invalid_request_error", "request_kills_engine"
    source = Source.CLIENT
    repeats_work = True


class RateLimited(RequestFailure):  # a minute's worth is used up
    """`type` is what there is no more of: `requests` or `tokens`, as OpenAI has it."""

    status, type, code, source = 429, "requests", "rate_limit_exceeded", Source.CLIENT


class QuotaExceeded(RequestFailure):  # a day's worth is
    status, type, code, source = 429, "insufficient_quota", "insufficient_quota", Source.CLIENT


class ClientClosed(RequestFailure):  # never sent, only logged
    status, type, code, source = 499, "client_closed", "client_closed", Source.CLIENT


class Draining(RequestFailure):
    status, type, code, source = 503, "server_error", "draining", Source.PROXY


def draining() -> Draining:
    """For a request that the engine has not got, when this server ends."""
    text = "This server is shutting down. Send the request again."
    return Draining(text, retry_after_seconds=1)


class CutOff(RequestFailure):  # it ran when DRAIN_SECONDS were over
    status, type, code, source = 503, "server_error", "cut_off", Source.PROXY
    repeats_work = True


class Overloaded(RequestFailure):  # MAX_IN_FLIGHT, and MAX_WAITING wait
    status, type, code, source = 503, "server_error", "overloaded", Source.PROXY


class InternalFailure(RequestFailure):
    """A fault of ours."""


class EngineUnavailable(RequestFailure):  # loading or restarting
    status, type, code, source = 503, "server_error", "engine_unavailable", Source.UPSTREAM


class EngineFailed(EngineUnavailable):  # it cannot be started: waiting is of no use
    code = "engine_failed"


class EngineUnreachable(RequestFailure):  # no connection: it never saw the request
    status, type, code, source = 503, "server_error", "engine_unreachable", Source.UPSTREAM


class EngineDied(RequestFailure):  # the connection broke after sending
    status, type, code, source = 502, "server_error", "engine_died", Source.UPSTREAM
    repeats_work = True


class InvalidEngineResponse(RequestFailure):  # what came back is not HTTP
    status, type, code, source = 502, "server_error", "engine_garbled", Source.UPSTREAM
    repeats_work = True


class EngineTimeout(RequestFailure):
    status, type, code, source = 504, "server_error", "engine_timeout", Source.UPSTREAM
    repeats_work = True
