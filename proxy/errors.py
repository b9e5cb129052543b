"""Everything that can go wrong, as one tree.

    Failure
    ├── SettingsError                 a variable is wrong: exit code 2, one line
    ├── EngineFailure                 the engine cannot start or has died, with cause and remedy
    └── RequestFailure                one request cannot be answered
        ├── UnknownRoute              client    404
        ├── MethodNotAllowed          client    405
        ├── BodyTooLarge              client    413
        ├── ClientClosed              client    499 (never sent, only logged)
        ├── Draining                  proxy     503
        ├── InternalFailure           proxy     500
        ├── EngineUnavailable         upstream  503 (loading or restarting)
        │   └── EngineGivenUp         upstream  503 (it cannot be started: waiting is of no use)
        ├── EngineUnreachable         upstream  502 (no connection: it never saw the request)
        ├── EngineDied                upstream  502 (the connection broke after sending)
        ├── EngineGarbled             upstream  502 (what came back is not HTTP)
        └── EngineTimeout             upstream  504

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

    BAD_FLAG = "bad_flag"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_GATED = "model_gated"
    TOKEN_INVALID = "token_invalid"
    HUB_UNREACHABLE = "hub_unreachable"
    HUB_RATE_LIMITED = "hub_rate_limited"
    DISK_FULL = "disk_full"
    CORRUPT_FILE = "corrupt_file"
    NO_TOKENIZER = "no_tokenizer"
    UNSUPPORTED_MODEL = "unsupported_model"
    TRUST_REMOTE_CODE = "trust_remote_code"
    CONTEXT_TOO_LONG = "context_too_long"
    KV_CACHE_TOO_SMALL = "kv_cache_too_small"
    OUT_OF_MEMORY = "out_of_memory"
    TOO_FEW_GPUS = "too_few_gpus"
    DRIVER_TOO_OLD = "driver_too_old"
    PORT_IN_USE = "port_in_use"
    START_TIMEOUT = "start_timeout"
    CRASHED = "crashed"
    KILLED = "killed"
    WEDGED = "wedged"
    UNKNOWN = "unknown"


class Failure(Exception):
    """Root of the tree. `str()` is a sentence for a human."""


class SettingsError(Failure):
    """A variable has a value that cannot be used. The process exits with 2."""


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
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class RequestFailure(Failure):
    """One request cannot be answered; subclasses fix everything but the words.

    `retry_after_seconds` becomes `Retry-After` (clients stop retrying above 120 s).
    `repeats_work` marks failures after which a retry would make the engine do paid
    work again: they carry `x-should-retry: false`.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    source = Source.PROXY
    repeats_work = False

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
        return _ANTHROPIC_TYPES.get(self.status, "api_error")


class UnknownRoute(RequestFailure):
    status, type, code, source = 404, "invalid_request_error", "unknown_route", Source.CLIENT


class MethodNotAllowed(RequestFailure):
    status, type, code, source = 405, "invalid_request_error", "method_not_allowed", Source.CLIENT


class BodyTooLarge(RequestFailure):
    status, type, code, source = 413, "invalid_request_error", "body_too_large", Source.CLIENT


class ClientClosed(RequestFailure):
    status, type, code, source = 499, "client_closed", "client_closed", Source.CLIENT


class Draining(RequestFailure):
    status, type, code, source = 503, "server_error", "draining", Source.PROXY


class InternalFailure(RequestFailure):
    """A fault of ours."""


class EngineUnavailable(RequestFailure):
    status, type, code, source = 503, "server_error", "engine_unavailable", Source.UPSTREAM


class EngineGivenUp(EngineUnavailable):
    code = "engine_failed"


class EngineUnreachable(RequestFailure):
    status, type, code, source = 502, "server_error", "engine_unreachable", Source.UPSTREAM


class EngineDied(RequestFailure):
    status, type, code, source = 502, "server_error", "engine_died", Source.UPSTREAM
    repeats_work = True


class EngineGarbled(RequestFailure):
    status, type, code, source = 502, "server_error", "engine_garbled", Source.UPSTREAM
    repeats_work = True


class EngineTimeout(RequestFailure):
    status, type, code, source = 504, "server_error", "engine_timeout", Source.UPSTREAM
    repeats_work = True
