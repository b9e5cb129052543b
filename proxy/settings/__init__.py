"""Every environment variable of the sidecar: once, with its unit, default and effect.

`Settings.load(mapping)` turns an environment into one frozen object. Empty means unset.
Variables that only name a `vllm serve` flag are not listed here: `vllm.command` takes
them from `Settings.environ`, by the flag table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import AliasChoices, Field, SkipValidation, ValidationError, model_validator

from proxy.errors import SettingsError
from proxy.settings.access import AccessSettings
from proxy.settings.engine import EngineSettings
from proxy.settings.environment import read_environment, shown
from proxy.settings.lifecycle import LifecycleSettings
from proxy.settings.limits import LimitSettings
from proxy.settings.listening import ListeningSettings
from proxy.settings.media import MediaSettings
from proxy.settings.model import ModelSettings
from proxy.settings.otlp import OtlpTarget, log_target, trace_target
from proxy.settings.preset import Applied, Preset, apply
from proxy.settings.several import SeveralSettings
from proxy.settings.telemetry import TelemetrySettings
from proxy.settings.values import (
    LogFormat,
    MediaFetch,
    OnEngineFailure,
    PodIdleAction,
    first_sentence,
)

# What AWS's images put before a flag, and Vast.ai before the port that it maps to another.
_SAGEMAKER = "SM_VLLM_"
_VAST = "VAST_TCP_PORT_"
_POD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

__all__ = [
    "LogFormat",
    "MediaFetch",
    "OnEngineFailure",
    "PodIdleAction",
    "Settings",
    "variables",
]


# Fields come in the order of docs/configuration.md: the last base's first.
class Settings(
    TelemetrySettings,
    SeveralSettings,
    LifecycleSettings,
    MediaSettings,
    LimitSettings,
    AccessSettings,
    ListeningSettings,
    EngineSettings,
    ModelSettings,
):
    """The whole configuration, immutable. Build it with `Settings.load`."""

    environ: SkipValidation[Mapping[str, str]] = Field(
        default_factory=dict, exclude=True, repr=False
    )
    preset: SkipValidation[Applied | None] = Field(default=None, exclude=True)
    others: SkipValidation[tuple[Settings, ...]] = Field(default=(), exclude=True, repr=False)
    """Those of the models beside the first."""
    is_of_set: SkipValidation[bool] = Field(default=False, exclude=True)
    """Whether there are several models, or may be after a reload."""
    gpu_sharers: SkipValidation[int] = Field(default=1, exclude=True)
    """How many models share the GPUs of this one, itself included."""
    asleep_beside_bytes: SkipValidation[int] = Field(default=0, exclude=True)
    """What others that sleep may hold of each of them meanwhile."""
    warnings: SkipValidation[tuple[str, ...]] = Field(default=(), exclude=True)
    """What was changed in the environment while it was read."""

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        ours = {"PORT": self.port, "PORT_HEALTH": self.port_health}
        if self.port_of_metrics is not None:
            if self.port_of_metrics == self.port_health:
                raise ValueError(_same_port("METRICS_PORT", self.port_health, "PORT_HEALTH"))
            ours["METRICS_PORT"] = self.port_of_metrics
        for name, port in ours.items():
            if self.upstream_url is None and port == self.upstream_port:
                raise ValueError(_same_port("UPSTREAM_PORT", port, name))
        return self

    @model_validator(mode="after")
    def _limits_have_keys(self) -> Settings:
        if self.key_limits is not None and self.key_limits.names_keys and not self.needs_key:
            text = "keys have limits, but there are none"
            raise ValueError(f"KEY_LIMITS: {text}; allowed is all: alone, or set API_KEYS")
        return self

    @model_validator(mode="after")
    def _media_of_a_request_fit(self) -> Settings:
        if self.media_memory_bytes < self.max_body_bytes:
            text = f"less than one request may hold (MAX_BODY_MB={self.max_body_mb:g})"
            raise ValueError(
                f"MEDIA_MEMORY_MB={self.media_memory_mb:g}: {text}; raise it, or lower MAX_BODY_MB"
            )
        return self

    @model_validator(mode="after")
    def _collectors_can_be_spoken_to(self) -> Settings:
        trace_target(self.environ)
        log_target(self.otlp_logs_endpoint, self.environ)
        return self

    @model_validator(mode="after")
    def _idle_pod_can_be_stopped(self) -> Settings:
        is_asked = self.pod_idle_seconds and self.pod_idle_action is PodIdleAction.RUNPOD_STOP
        pod, key = self.environ.get("RUNPOD_POD_ID", ""), self.environ.get("RUNPOD_API_KEY")
        if is_asked and not (key and _POD_ID.fullmatch(pod)):
            text = "needs RUNPOD_POD_ID and RUNPOD_API_KEY, which RunPod sets in its pods"
            raise ValueError(f"POD_IDLE_ACTION='runpod-stop': {text}; elsewhere allowed is exit")
        return self

    @classmethod
    def load(cls, environ: Mapping[str, str], preset: Preset | None = None) -> Settings:
        """Read an environment; what it leaves unset is the preset's to say.

        Raises:
            SettingsError: one line naming the variable, its value and what is allowed.
        """
        spellings = {names[0]: names for names in variables().values()}
        ours = {name for names in spellings.values() for name in names}
        filled, warnings = read_environment(environ, ours)
        # Flags as AWS's images of vLLM take them, SM_VLLM_MAX_MODEL_LEN, under the plain names.
        prefixed = {name for name in filled if name.startswith(_SAGEMAKER)} - ours
        present = {name.removeprefix(_SAGEMAKER): filled[name] for name in prefixed}
        present |= {name: text for name, text in filled.items() if name not in prefixed}
        applied = None
        if preset is not None:
            present, applied = apply(preset, present, spellings)
        fields = {"environ": MappingProxyType(present), "preset": applied, "warnings": warnings}
        try:
            return cls.model_validate({**present, **fields})
        except ValidationError as error:
            problem = error.errors()[0]
            if not problem["loc"]:  # two variables that do not go together
                raise SettingsError(str(problem["ctx"]["error"])) from None
            name, allowed = str(problem["loc"][0]), problem["msg"]
            if problem["type"] == "value_error":
                allowed = str(problem["ctx"]["error"])
            if problem["type"] == "bool_parsing":
                allowed = "allowed are true, 1, yes, on and false, 0, no, off"
            field = next(field for field, names in variables().items() if name in names)
            info = cls.model_fields[field]
            # The whole as it is written, or the one of several that is wrong.
            wrong = present[name] if len(problem["loc"]) == 1 else problem["input"]
            # A secret that is wrong is a secret all the same.
            value = shown(wrong) if info.repr else "***"
            about = first_sentence(info.description or "")
            raise SettingsError(f"{name}={value}: {allowed} ({about})") from None

    @property
    def models(self) -> tuple[Settings, ...]:
        """Those of each model, the default's first: what all of them share is equal."""
        return (self, *self.others)

    @property
    def short_name(self) -> str | None:
        """The name of the model's preset, or else what MODEL_NAME says."""
        return self.preset.preset.name if self.preset is not None else self.model_name

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs of the engine, by their number here; empty: all."""
        return self.preset.preset.gpus if self.preset is not None else ()

    @property
    def model_keys(self) -> tuple[str, ...]:
        """Labels of the API keys that may use the model; empty: all."""
        return self.preset.preset.keys if self.preset is not None else ()

    @property
    def memory_budget_bytes(self) -> int | None:
        """What all engines together may take of each device."""
        return None if self.memory_budget_gib is None else int(self.memory_budget_gib * 1024**3)

    @property
    def loaded_together(self) -> int:
        """How many models are meant to be on this one's GPUs at a time, itself included."""
        limit = self.max_loaded_models
        return 1 if limit is None else min(self.gpu_sharers, limit)

    @property
    def is_pinned(self) -> bool:
        """Whether the model never gives way to another."""
        return self.preset is not None and self.preset.preset.pin

    @property
    def idle_limit_seconds(self) -> float:
        """How long the model stays loaded without a request; 0: for ever."""
        own = self.preset.preset.idle_unload_seconds if self.preset is not None else None
        return self.idle_unload_seconds if own is None else own

    @property
    def sleeps(self) -> bool:
        """Whether its engine sleeps in place of being unloaded."""
        return self.preset is not None and self.preset.preset.sleeps

    @property
    def outside_url(self) -> str | None:
        """Where clients reach the API on a platform that maps its port and says to which."""
        host, port = self.environ.get("PUBLIC_IPADDR"), self.environ.get(f"{_VAST}{self.port}")
        if host and port:
            return f"http://{host}:{port}"
        # A serverless worker has a pod's variables too, and no address of its own.
        pod = self.environ.get("RUNPOD_POD_ID")
        if pod and not self.environ.get("RUNPOD_ENDPOINT_ID"):
            return f"https://{pod}-{self.port}.proxy.runpod.net"
        return None

    @property
    def port_of_metrics(self) -> int | None:
        """The port that has only metrics; None where `port` has them."""
        return None if self.metrics_port == self.port else self.metrics_port

    @property
    def trace_target(self) -> OtlpTarget | None:
        """Where the spans of requests go; None where none are made."""
        return trace_target(self.environ)

    @property
    def log_target(self) -> OtlpTarget | None:
        """Where log lines go beside stdout and LOG_FILE; None: nowhere."""
        return log_target(self.otlp_logs_endpoint, self.environ)

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1024 * 1024)

    @property
    def media_memory_bytes(self) -> int:
        """What the media of all requests may take; unless it is set, those of two."""
        return int((self.media_memory_mb or 2 * self.max_body_mb) * 1024 * 1024)


def _same_port(name: str, port: int, other: str) -> str:
    return f"{name}={port}: the same as {other}; allowed is any other"


def variables() -> dict[str, tuple[str, ...]]:
    """Field name -> the environment variables it is read from, first wins."""
    return {
        field: tuple(str(choice) for choice in info.validation_alias.choices)
        for field, info in Settings.model_fields.items()
        if isinstance(info.validation_alias, AliasChoices)
    }
