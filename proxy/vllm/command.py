"""Settings -> the arguments and the environment of `vllm serve`. Pure: no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from math import ceil
from pathlib import Path

from proxy.engine.server import Command
from proxy.errors import SettingsError
from proxy.machine.hardware import VISIBLE, visible_entries
from proxy.settings import Settings, variables
from proxy.settings.environment import (
    is_service_link,
    names_secret,
    service_link_warning,
    without_secrets,
)
from proxy.settings.otlp import NO_TRACES, TRACES_ENDPOINT, TRACES_PROTOCOL
from proxy.vllm.flags import (
    arguments,
    check_extra_words,
    extra_words,
    flag_name,
    gpus_taken,
    is_changed,
    known_flags,
    name_in,
    unknown_flags,
)
from proxy.vllm.share import CPU_KV_CACHE, DEMO_KV_CACHE_GIB, EngineMemory, declared_memory

DEFAULT_GPU_MODEL = "Qwen/Qwen2-VL-7B-Instruct"
# The engine's idle connections outlive ours by far, so that none is closed under a request.
ENGINE_KEEP_ALIVE_SECONDS = 75
# vLLM gives itself up after ten minutes of loading; large weights on a network volume take longer.
ENGINE_READY_SECONDS = 7200

# Flags that are the sidecar's to set: with another value the two would not find each
# other, or a secret would stand in the process list. With each, what to do instead.
_OURS_ALONE = "the engine is reached by the sidecar only"
_NO_TLS = "TLS is left to what stands in front"
_RESERVED = {
    **dict.fromkeys(("host", "uds", "root-path", "headless", "grpc"), _OURS_ALONE),
    **dict.fromkeys(("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs"), _NO_TLS),
    **dict.fromkeys(("model", "model-tag"), "use MODEL_NAME"),
    "api-key": "use API_KEYS",
    "config": "use variables or VLLM_EXTRA_ARGS",
    "help": "see docs.vllm.ai",
    "hf-token": "use HF_TOKEN",
    "port": "use PORT for the API, UPSTREAM_PORT for the engine",
    "revision": "use MODEL_REVISION",
    "served-model-name": "use SERVED_MODEL_NAME",
    "version": "see /info",
}
# Names from worker-vllm's templates that mean nothing here; each is met with one warning.
_TOLERATED = {
    "MAX_CONCURRENCY": "use MAX_NUM_SEQS for the engine",
    "VLLM_STARTUP_TIMEOUT": "use VLLM_ENGINE_READY_TIMEOUT_S",
    "BASE_PATH": "use HF_HOME",
    "DEFAULT_BATCH_SIZE": "answers are streamed as the engine sends them",
    "RAW_OPENAI_OUTPUT": "answers are always the engine's own",
    "OPENAI_RESPONSE_ROLE": "use RESPONSE_ROLE",
    "DISABLE_LOG_REQUESTS": "the engine does not log requests unless asked",
    "VLLM_CONFIG_FILE": "use variables or VLLM_EXTRA_ARGS",
    "VLLM_API_KEY": "use API_KEYS",
    "LITELLM_MASTER_KEY": "it is the gateway's (docs/gateway.md); here use API_KEYS",
    "LITELLM_SALT_KEY": "it is the gateway's, set it there (docs/gateway.md)",
    "UI_PASSWORD": "it is the gateway's, set it there (docs/gateway.md)",  # nosec B105
    "POSTGRES_PASSWORD": "the gateway's database has GATEWAY_DB_PASSWORD (docs/gateway.md)",  # nosec B105
}
# The one host that may be fetched from by an engine that is not to fetch: nobody has it (RFC 6761).
_NO_MEDIA_DOMAIN = "fetched-by-the-sidecar.invalid"
_NO_COUNTERS = (
    "DISABLE_LOG_STATS takes vLLM's counters away: from /metrics/engine, and from the watch that"
    " finds a stuck engine. To quiet the log set VLLM_LOG_STATS_INTERVAL=3600 (seconds) instead"
)
_NO_ACCESS_LOG = "--disable-uvicorn-access-log"
_RENAMED = {"TOKENIZER_NAME": "TOKENIZER"}
# Never handed to the engine: ours, other services' keys, and what vLLM would misread
# (VLLM_PORT is its internal port; Kubernetes sets it to a URL beside a service `vllm`).
_NOT_FOR_THE_ENGINE = frozenset(
    {
        "ADMIN_KEYS",
        "API_KEYS",
        "API_KEYS_FILE",
        "HOST",
        "JUPYTER_PASSWORD",
        "LITELLM_MASTER_KEY",
        "LITELLM_SALT_KEY",
        "LOG_FILE",
        "METRICS_PORT",
        "PORT",
        "PORT_HEALTH",
        "POSTGRES_PASSWORD",
        "PUBLIC_KEY",
        "RUNPOD_API_KEY",
        "SERVICE_PORT",
        "UI_PASSWORD",
        "UPSTREAM_PORT",
        "UPSTREAM_URL",
        "VLLM_API_KEY",
        "VLLM_CONFIG_FILE",
        "VLLM_EXTRA_ARGS",
        "VLLM_MODEL_NAME",
        "VLLM_PORT",
        "VLLM_STARTUP_TIMEOUT",
    }
)


def engine_command(
    settings: Settings,
    *,
    model_path: str,
    served_names: Iterable[str],
    has_gpu: bool,
    revision: str | None = None,
    executable: str = "vllm",
    demo: bool = False,
    memory: EngineMemory | None = None,
    uds: Path | None = None,
) -> Command:
    """The command that serves `model_path` on 127.0.0.1, or on a Unix socket, `uds`. `memory` None:
    what is declared.

    Raises:
        SettingsError: a variable holds what its flag cannot take.
    """
    if memory is None:
        memory = declared_memory(settings, has_gpu=has_gpu)
    place = ["--host", "127.0.0.1", "--port", str(settings.upstream_port)]
    argv = [executable, "serve", model_path, *(["--uds", str(uds)] if uds else place)]
    argv += ["--served-model-name", *served_names]
    argv += ["--revision", revision] if revision else []
    argv += sizing_arguments(settings, has_gpu=has_gpu, demo=demo, memory=memory)
    environ = _environment(settings, has_gpu)
    if demo and not has_gpu and memory.kv_cache_bytes is None:
        environ.setdefault(CPU_KV_CACHE, str(DEMO_KV_CACHE_GIB))
    return Command(tuple(argv), environ, tuple(masked(argv)))


def sizing_arguments(
    settings: Settings, *, has_gpu: bool, demo: bool, memory: EngineMemory
) -> list[str]:
    """What comes behind the names: all that the memory it takes depends on.

    Raises:
        SettingsError: a variable holds what its flag cannot take.
    """
    argv = _arguments_of_ours(settings, has_gpu, memory)
    traces = settings.engine_traces_endpoint
    if traces is None and settings.trace_target is not None:
        # Where the sidecar's spans go, the engine's go too, unless a variable says otherwise.
        traces = settings.trace_target.url
    if traces is not None and traces != NO_TRACES:
        argv += ["--otlp-traces-endpoint", traces]
    # The demo model is there to start fast: nothing is compiled for its few layers.
    if demo and "ENFORCE_EAGER" not in settings.environ:
        argv.append("--enforce-eager")
    if demo and not has_gpu and not settings.dtype:
        argv += ["--dtype", "bfloat16"]
    for variable, value in settings.environ.items():
        if not is_service_link(variable, value) and (name := flag_variable(variable)) is not None:
            argv += arguments(name, value)
    words = extra_words(settings)
    for word in words:
        spelling = word.partition("=")[0]
        flag = flag_name(spelling[2:])
        # vLLM's parser takes abbreviations: what it could read as a reserved flag is one, too.
        if flag not in _RESERVED and flag and flag not in known_flags():
            flag = next((other for other in _RESERVED if other.startswith(flag)), flag)
        if spelling.startswith("--") and flag in _RESERVED:
            raise SettingsError(f"VLLM_EXTRA_ARGS: {spelling} is not allowed; {_RESERVED[flag]}")
    check_extra_words(words)
    return argv + words


def masked(argv: Iterable[str]) -> list[str]:
    """Arguments as they may be shown: what follows a word like key or token is hidden."""
    shown: list[str] = []
    hide_next = False
    for word in argv:
        is_flag = word.startswith("--")
        name, equals, _ = word.partition("=")
        secret = is_flag and (names_secret(name) or names_secret(name_in(name)))
        if secret and equals:
            shown.append(f"{name}=***")
        else:
            shown.append("***" if hide_next and not is_flag else without_secrets(word))
        hide_next = (secret and not equals) or (hide_next and not is_flag)
    return shown


def _arguments_of_ours(settings: Settings, has_gpu: bool, memory: EngineMemory) -> list[str]:
    parallel = settings.tensor_parallel_size
    # vLLM's own keep-alive, on the two routes that have it, takes whole seconds and 0 for never; on
    # the other routes the sidecar does it.
    keep_alive = ceil(settings.sse_keep_alive_seconds)
    values: dict[str, object] = {
        "max-model-len": settings.max_model_len,
        "gpu-memory-utilization": memory.share,
        "kv-cache-memory-bytes": memory.kv_cache_bytes,
        "tensor-parallel-size": parallel if parallel > 1 else None,
        "max-num-seqs": settings.max_num_seqs,
        "max-num-batched-tokens": settings.max_num_batched_tokens or None,
        "tool-call-parser": settings.tool_call_parser,
        "reasoning-parser": settings.reasoning_parser,
        "chat-template": settings.chat_template,
        "sse-keep-alive-interval": (
            keep_alive if "SSE_KEEP_ALIVE_INTERVAL" not in settings.environ else None
        ),
        # One vision encoder a GPU, each on its share of the images, instead of every
        # encoder layer split over all GPUs.
        "mm-encoder-tp-mode": "data" if parallel > 1 else None,
        "limit-mm-per-prompt": json.dumps(
            {
                "image": settings.image_limit,
                "video": settings.video_limit,
                "audio": settings.audio_limit,
            }
        ),
    }
    domains = [domain.lower() for domain in settings.allowed_media_domains]
    if settings.sidecar_fetches_media:
        domains = [_NO_MEDIA_DOMAIN]  # a URL that the sidecar has overlooked is not fetched either
    # A list takes all words up to the next flag: none of VLLM_EXTRA_ARGS.
    argv = ["--allowed-media-domains", *domains] if domains else []
    argv += [word for name, value in values.items() if value for word in (f"--{name}", str(value))]
    choices = {"DTYPE": settings.dtype, "KV_CACHE_DTYPE": settings.kv_cache_dtype}
    choices["QUANTIZATION"] = settings.quantization
    argv += [word for name, value in choices.items() if value for word in arguments(name, value)]
    # The sidecar writes one line a request; the engine's own would tell less, twice.
    argv += [] if "DISABLE_UVICORN_ACCESS_LOG" in settings.environ else [_NO_ACCESS_LOG]
    if settings.sleeps:
        # Dev mode, which has the routes of sleep, logs a stack trace for each client's mistake.
        argv += [] if "LOG_ERROR_STACK" in settings.environ else ["--no-log-error-stack"]
        argv += ["--enable-sleep-mode"] if has_gpu else []  # the CPU build refuses it
    argv += ["--trust-remote-code"] if settings.trust_remote_code else []
    argv += ["--enable-auto-tool-choice"] if settings.enable_auto_tool_choice else []
    if has_gpu and "ENABLE_CHUNKED_PREFILL" not in settings.environ:
        argv.append("--enable-chunked-prefill")
    return argv


def flag_variable(variable: str) -> str | None:
    """The variable that stands for a flag which is not the sidecar's to set; None: it is none."""
    name = _RENAMED.get(variable, variable)
    is_flag = name == name.upper() and flag_name(name) in known_flags()
    ours = name in _our_variables() or flag_name(name) in _RESERVED
    return name if is_flag and not ours else None


def remedy_of_reserved(flag: str) -> str | None:
    """What to do instead of a flag that is the sidecar's to set; None: it is none."""
    return _RESERVED.get(flag)


def _environment(settings: Settings, has_gpu: bool) -> dict[str, str]:
    given = settings.environ
    environ = {name: value for name, value in given.items() if name not in _NOT_FOR_THE_ENGINE}
    environ.setdefault("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", str(ENGINE_KEEP_ALIVE_SECONDS))
    environ.setdefault("VLLM_ENGINE_READY_TIMEOUT_S", str(ENGINE_READY_SECONDS))
    environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Nobody has looked at where a redirect leads.
    environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    # A crash in native code then says so before it ends the process.
    environ.setdefault("PYTHONFAULTHANDLER", "1")
    # Without a terminal to draw on, colour codes would only clutter the log.
    environ.setdefault("VLLM_LOGGING_COLOR", "0")
    if settings.sleeps:
        environ["VLLM_SERVER_DEV_MODE"] = "1"
    sleeps = settings.sleeps or is_changed(settings, "enable-sleep-mode")
    if has_gpu and not sleeps and "PYTORCH_CUDA_ALLOC_CONF" not in given:
        # Less fragmentation; vLLM's sleep mode has an allocator that refuses it.
        environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if settings.engine_traces_endpoint == NO_TRACES:
        environ.pop(TRACES_ENDPOINT, None)  # its worker processes look at nothing else
    elif settings.engine_traces_endpoint is None and (target := settings.trace_target):
        environ.setdefault(TRACES_PROTOCOL, target.protocol)  # vLLM's default is the other one
        if "service.name=" not in given.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            environ.setdefault("OTEL_SERVICE_NAME", "vllm")
    if settings.gpus:
        # Those that the pod shows, by their places.
        visible = visible_entries(given.get(VISIBLE))
        places = settings.gpus if visible is None else [visible[each] for each in settings.gpus]
        environ[VISIBLE] = ",".join(map(str, places))
        environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # numbered as NVML does
    return environ


def warnings_about(settings: Settings) -> tuple[str, ...]:
    """Names that look like ours or like a flag but are neither, with the nearest known name."""
    ours = _our_variables()
    flags = {name.upper().replace("-", "_") for name in known_flags()}
    ours_or_theirs = sorted(ours | {name for name in flags if flag_name(name) not in _RESERVED})
    warnings = list(settings.warnings)
    if any(is_changed(each, "disable-log-stats") for each in settings.models):
        warnings.append(_NO_COUNTERS)
    for written, nearest in unknown_flags(extra_words(settings)):
        hint = f" Did you mean {nearest}?" if nearest else ""
        warnings.append(
            f"VLLM_EXTRA_ARGS: {written} is no flag of the vLLM that this is for.{hint}"
        )
    for each in settings.models:
        taken = gpus_taken(each)
        if taken is not None and len(each.gpus) > taken:
            warnings.append(
                f"preset {each.short_name}: gpus names {len(each.gpus)}, and its engine takes the"
                f" first {taken}. Set TENSOR_PARALLEL_SIZE={len(each.gpus)} to use all."
            )
    for name, text in settings.environ.items():
        if is_service_link(name, text) and flag_variable(name) is not None:
            warnings.append(service_link_warning(name, text))
        elif name in _TOLERATED:
            warnings.append(f"{name} has no effect here: {_TOLERATED[name]}")
        elif name not in ours and name in flags and flag_name(name) in _RESERVED:
            warnings.append(f"{name} has no effect here: {_RESERVED[flag_name(name)]}")
        elif name not in ours | flags and name not in _RENAMED and "_" in name:
            near = get_close_matches(name, ours_or_theirs, n=1, cutoff=0.88)
            warnings += [f"{name} is not known. Did you mean {near[0]}?"] if near else []
    return tuple(warnings)


@cache
def _our_variables() -> frozenset[str]:
    return frozenset(name for names in variables().values() for name in names)
