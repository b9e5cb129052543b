"""Every environment variable of the sidecar: once, with its unit, default and effect.

`Settings.load(mapping)` turns an environment into one frozen object. Empty means unset.
Variables that only name a `vllm serve` flag are not listed here: `engine.command` takes
them from `Settings.environ`, by the flag table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    model_validator,
)

from proxy.errors import SettingsError

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ItemLimit = Annotated[int, Field(ge=0)]


def _split_names(value: Any) -> Any:
    return (
        tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value
    )


def _check_engine_url(value: str) -> str:
    try:
        url = urlsplit(value)
        good = url.scheme == "http" and bool(url.hostname) and url.port != 0
    except ValueError:  # the port is none, or the brackets are not of an IPv6 address
        good = False
    if not good or not re.fullmatch(r"http://[^/?#@\s]+/?", value):
        raise ValueError("allowed is http://host:port")
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]
UrlPath = Annotated[str, Field(pattern=r"^/\S*$")]
UrlPaths = Annotated[tuple[UrlPath, ...], BeforeValidator(_split_names)]
EngineUrl = Annotated[str, AfterValidator(_check_engine_url)]


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class OnEngineFailure(StrEnum):
    """What to do once the engine cannot be started any more."""

    HOLD = "hold"
    EXIT = "exit"


def variable(*names: str, default: Any = None, effect: str, secret: bool = False) -> Any:
    """A field that is read from the first of `names` that is set."""
    return Field(
        default, validation_alias=AliasChoices(*names), description=effect, repr=not secret
    )


class Settings(BaseModel):
    """The whole configuration, immutable. Build it with `Settings.load`."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    environ: SkipValidation[Mapping[str, str]] = Field(
        default_factory=dict, exclude=True, repr=False
    )

    # Model
    model_name: str | None = variable(
        "MODEL_NAME",
        "MODEL_ID",
        "VLLM_MODEL_NAME",
        effect="Hugging Face repository, local path, or `demo`.",
    )
    model_revision: str | None = variable(
        "MODEL_REVISION", effect="Branch, tag or commit of the repository."
    )
    served_model_names: Names = variable(
        "SERVED_MODEL_NAME",
        "OPENAI_SERVED_MODEL_NAME_OVERRIDE",
        default=(),
        effect="Names clients may use, comma-separated; the first one stands in answers.",
    )
    hf_token: str | None = variable(
        "HF_TOKEN", effect="Token for gated and private repositories.", secret=True
    )
    hf_home: str | None = variable("HF_HOME", effect="Folder of the Hugging Face cache.")
    hf_endpoint: str | None = variable("HF_ENDPOINT", effect="Base URL of the hub.")
    hf_hub_offline: bool = variable(
        "HF_HUB_OFFLINE", default=False, effect="Serve from the cache, never ask the hub."
    )

    # Engine
    max_model_len: Annotated[str, Field(pattern=r"^(auto|-1|\d+(\.\d+)?[kKmMgG]?)$")] | None = (
        variable("MAX_MODEL_LEN", effect="Context length in tokens; `auto` fits it to the memory.")
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = variable(
        "GPU_MEMORY_UTIL",
        "GPU_MEMORY_UTILIZATION",
        effect="Share of each GPU's memory the engine may take (0.95 on a GPU).",
    )
    tensor_parallel_size: Annotated[int, Field(ge=1)] = variable(
        "TENSOR_PARALLEL_SIZE", default=1, effect="GPUs that share each layer."
    )
    max_num_seqs: Annotated[int, Field(ge=1)] | None = variable(
        "MAX_NUM_SEQS", effect="Requests the engine runs at a time."
    )
    max_num_batched_tokens: Annotated[int, Field(ge=0)] | None = variable(
        "MAX_BATCHED_TOKENS",
        "MAX_NUM_BATCHED_TOKENS",
        effect="Tokens of one engine step; 0 means unset.",
    )
    image_limit: ItemLimit = variable("IMAGE_LIMIT", default=8, effect="Images in one prompt.")
    video_limit: ItemLimit = variable("VIDEO_LIMIT", default=1, effect="Videos in one prompt.")
    audio_limit: ItemLimit = variable("AUDIO_LIMIT", default=1, effect="Audio clips in one prompt.")
    dtype: str | None = variable("DTYPE", effect="Type of weights and activations.")
    quantization: str | None = variable("QUANTIZATION", effect="Quantization method.")
    kv_cache_dtype: str | None = variable("KV_CACHE_DTYPE", effect="Type of the KV cache.")
    trust_remote_code: bool = variable(
        "TRUST_REMOTE_CODE", default=False, effect="Run Python code that the repository ships."
    )
    enable_auto_tool_choice: bool = variable(
        "ENABLE_AUTO_TOOL_CHOICE", default=False, effect="Let the model choose to call tools."
    )
    tool_call_parser: str | None = variable("TOOL_CALL_PARSER", effect="Parser of tool calls.")
    reasoning_parser: str | None = variable("REASONING_PARSER", effect="Parser of reasoning text.")
    chat_template: str | None = variable(
        "CHAT_TEMPLATE", "CUSTOM_CHAT_TEMPLATE", effect="Jinja template, as a file or as text."
    )
    extra_args: str = variable(
        "VLLM_EXTRA_ARGS",
        default="",
        effect="More `vllm serve` arguments as shell words; last wins.",
    )

    # Sidecar
    host: str = variable("HOST", default="0.0.0.0", effect="Address to listen on.")
    port: Port = variable("PORT", default=8000, effect="Port of the API.")
    port_health: Port | None = variable(
        "PORT_HEALTH", effect="Port of the health check (= `PORT`)."
    )
    health_check_path: UrlPath = variable(
        "HEALTH_CHECK_PATH", default="/ping", effect="Path of the load balancer's health check."
    )
    upstream_port: Port = variable(
        "UPSTREAM_PORT", default=8001, effect="Port of vLLM on 127.0.0.1."
    )
    upstream_url: EngineUrl | None = variable(
        "UPSTREAM_URL", effect="An engine that someone else runs; none is started then."
    )

    # Limits
    max_body_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = variable(
        "MAX_BODY_MB", default=256, effect="Largest request body, MiB."
    )
    hold_seconds: Seconds = variable(
        "HOLD_SECONDS", default=0, effect="Seconds a request waits for an engine that is starting."
    )
    stream_idle_timeout: Seconds | None = variable(
        "STREAM_IDLE_TIMEOUT", effect="Seconds without a byte from the engine that end an answer."
    )
    request_timeout: Seconds | None = variable(
        "REQUEST_TIMEOUT", effect="Seconds a whole request may take."
    )
    extra_routes: UrlPaths = variable(
        "EXTRA_ROUTES", default=(), effect="More engine paths to relay, comma-separated."
    )

    # Life
    warmup: bool = variable(
        "WARMUP", default=True, effect="Ready only after the engine has generated a token."
    )
    max_restarts: Annotated[int, Field(ge=0)] = variable(
        "MAX_RESTARTS", default=5, effect="Engine restarts allowed within 10 minutes."
    )
    on_engine_failure: OnEngineFailure = variable(
        "ON_ENGINE_FAILURE",
        default=OnEngineFailure.HOLD,
        effect="`hold`: stay up and say why; `exit`: exit with 1.",
    )
    drain_seconds: Seconds = variable(
        "DRAIN_SECONDS", default=25, effect="Seconds running requests may go on after SIGTERM."
    )
    drain_delay_seconds: Seconds = variable(
        "DRAIN_DELAY_SECONDS", default=0, effect="Seconds to keep taking work after SIGTERM."
    )

    # Telemetry
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    ] = variable("LOG_LEVEL", default="info", effect="Least level that is logged.")
    log_format: LogFormat = variable(
        "LOG_FORMAT", default=LogFormat.JSON, effect="`json`, or `text` for a terminal."
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        ours = {"PORT": self.port, "PORT_HEALTH": self.port_health}
        for name, port in ours.items():
            if self.upstream_url is None and port == self.upstream_port:
                raise ValueError(f"UPSTREAM_PORT={port}: the same as {name}; allowed is any other")
        return self

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Settings:
        """Read an environment.

        Raises:
            SettingsError: one line naming the variable, its value and what is allowed.
        """
        present = {name: value for name, value in environ.items() if value.strip()}
        try:
            return cls.model_validate({**present, "environ": MappingProxyType(present)})
        except ValidationError as error:
            raise SettingsError(_first_problem(error)) from None

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1024 * 1024)


def _first_problem(error: ValidationError) -> str:
    """One line for a human: `PORT='abc': Input should be a valid integer ... (Port ...)`."""
    problem = error.errors()[0]
    if not problem["loc"]:  # two variables that do not go together
        return str(problem["ctx"]["error"])
    name = str(problem["loc"][0])
    allowed = problem["msg"]
    if problem["type"] == "value_error":
        allowed = str(problem["ctx"]["error"])
    if problem["type"] == "bool_parsing":
        allowed = "allowed are true, 1, yes, on and false, 0, no, off"
    return f"{name}={problem['input']!r}: {allowed} ({_effect_of(name)})"


def _effect_of(variable_name: str) -> str:
    field = next(field for field, names in variables().items() if variable_name in names)
    return Settings.model_fields[field].description or ""


def variables() -> dict[str, tuple[str, ...]]:
    """Field name -> the environment variables it is read from, first wins."""
    return {
        field: tuple(str(choice) for choice in info.validation_alias.choices)
        for field, info in Settings.model_fields.items()
        if isinstance(info.validation_alias, AliasChoices)
    }
