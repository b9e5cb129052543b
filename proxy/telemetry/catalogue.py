"""Every metric of the sidecar, declared once. docs/metrics.md has its table from here.

A histogram is a series for each bucket. So each is labelled by what its question is about, and
by no more: how long work takes depends on its kind (`route`), the speed of tokens on the model,
our own share on neither. docs/metrics.md counts what that makes.
"""

from __future__ import annotations

from typing import Any

from proxy.telemetry.family import Declaration, counter, gauge, histogram

# vLLM's own bounds (v1/metrics/buckets.py), so that "sidecar minus engine" is a
# subtraction at equal `le`; duration has a low end added.
# fmt: off
TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5,
    10, 20, 40, 80, 160, 640, 2560,
)
ITL_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5,
    10, 20, 40, 80,
)
DURATION_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20,
    30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)
# fmt: on
RATE_BUCKETS = (1, 2.5, 5, 10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000)
OVERHEAD_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1)
STALL_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 60)
# A wake takes seconds, a cold load of a large model half an hour.
LOAD_BUCKETS = (0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
BODY_BUCKETS = tuple(1024 * 4**power for power in range(10))
# Where Cloudflare, and with it RunPod's proxy of pods, cuts a connection on which nothing came.
LONG_SECONDS = 100


def _declared() -> tuple[Declaration[Any], ...]:
    return tuple(each for each in list(globals().values()) if isinstance(each, Declaration))


REQUESTS = counter("requests", "Requests that ended.", "route", "model", "outcome")
IN_FLIGHT = gauge("requests_in_flight", "Requests that have begun and not ended.", "route")
DURATION = histogram(
    "request_duration_seconds",
    "First byte of the request in to last byte of the answer out.",
    DURATION_BUCKETS,
    "route",
    unit="s",
)
LONG = counter(
    "requests_over_100_seconds",
    "Requests that took longer than 100 s, where RunPod's proxy of pods cuts a connection on which "
    "nothing came.",
    "route",
)
TTFT = histogram(
    "time_to_first_token_seconds",
    "First byte of the request in to the first event with something generated. Streams only.",
    TTFT_BUCKETS,
    "model",
    unit="s",
)
ITL = histogram(
    "inter_token_latency_seconds",
    "Mean time between the events of one stream. One observation for each stream.",
    ITL_BUCKETS,
    "model",
    unit="s",
)
RATE = histogram(
    "output_tokens_per_second",
    "Tokens after the first one over the time after the first one. Streams only.",
    RATE_BUCKETS,
    unit="tokens/s",
)
PROMPT_TOKENS = counter(
    "prompt_tokens", "Tokens read, by the engine's count.", "route", "model", unit="tokens"
)
CACHED_TOKENS = counter(
    "cached_prompt_tokens",
    "Those of them from the prefix cache, where the engine says so.",
    "route",
    "model",
    unit="tokens",
)
COMPLETION_TOKENS = counter(
    "completion_tokens", "Tokens generated, by the engine's count.", "route", "model", unit="tokens"
)
INPUTS = counter("inputs", "Images, videos and audio clips in requests.", "modality")
REQUEST_BYTES = histogram(
    "request_body_bytes", "Size of request bodies.", BODY_BUCKETS, unit="bytes"
)
RESPONSE_BYTES = counter("response_body_bytes", "Size of answers sent.", "route", unit="bytes")
OVERHEAD = histogram(
    "overhead_seconds",
    "The sidecar's own share of a request: body read to request sent, and last byte in to last "
    "byte out (not where the answer broke off).",
    OVERHEAD_BUCKETS,
    unit="s",
)
STALL = histogram(
    "client_stall_seconds",
    "Time of a request in which the client did not read.",
    STALL_BUCKETS,
    unit="s",
)
KEY_REQUESTS = counter("key_requests", "Requests by API key. With keys only.", "key", "outcome")
KEY_TOKENS = counter(
    "key_tokens", "Tokens charged to an API key. With keys only.", "key", unit="tokens"
)
STATE = gauge(
    "engine_state", "1 for the phase the engine is in, 0 for the others.", "model", "phase"
)
MODEL_LOADS = counter("model_loads", "Loads of a model that ended.", "model", "kind", "outcome")
MODEL_LOAD_SECONDS = histogram(
    "model_load_seconds",
    "Time that a load took until the model was ready.",
    LOAD_BUCKETS,
    "model",
    "kind",
    unit="s",
)
MODEL_EVICTIONS = counter(
    "model_evictions", "Unloads and sleeps of a model, by why.", "model", "reason"
)
MODEL_WAIT = histogram(
    "model_wait_seconds",
    "Time that a request waited for its model to be loaded, of several. Requests that waited only.",
    LOAD_BUCKETS,
    "model",
    unit="s",
)
PHASE_SECONDS = gauge(
    "engine_phase_seconds", "Time that the last start spent in a phase.", "model", "phase", unit="s"
)
RESTARTS = counter("engine_restarts", "Restarts of the engine.", "model", "cause")
BUILD = gauge("build_info", "Always 1.", "version", "python")

KEPT: tuple[Declaration[Any], ...] = _declared()
"""Those whose numbers are kept. What follows is read at each scrape."""

WAITING = gauge(
    "requests_waiting",
    "Requests that wait for a slot of `MAX_IN_FLIGHT`, or for their model to be loaded. Without "
    "`model`, beside several models: for what `KEY_LIMITS` let a key have at once.",
    "model",
)
ENGINE_RUNNING = gauge("engine_requests_running", "Requests in the engine's batch.", "model")
ENGINE_WAITING = gauge("engine_requests_waiting", "Requests in the engine's queue.", "model")
ENGINE_KV_CACHE = gauge(
    "engine_kv_cache_usage_ratio",
    "Share of the engine's KV cache in use; of the fullest core, where there are several.",
    "model",
    unit="0 to 1",
)
MODEL_STATE = gauge(
    "model_state", "1 for the state of a model, 0 for the others.", "model", "state"
)
MODEL_MEMORY = gauge(
    "model_memory_bytes",
    "Memory that a model takes, as it was measured; 0 while it is not loaded.",
    "model",
    "gpu",
    unit="bytes",
)
MODEL_BYTES = gauge("model_download_bytes", "Size of the model on disk.", "model", unit="bytes")
DISK_FREE = gauge(
    "model_disk_free_bytes",
    "Room on the volume of the models: `HF_HUB_CACHE`, else `HF_HOME`.",
    unit="bytes",
)
DISK_TOTAL = gauge("model_disk_total_bytes", "Size of that volume.", unit="bytes")
GPU_UTILIZATION = gauge(
    "gpu_utilization_ratio", "Share of the time in which a kernel ran.", "gpu", unit="0 to 1"
)
GPU_MEMORY_USED = gauge("gpu_memory_used_bytes", "GPU memory in use.", "gpu", unit="bytes")
GPU_MEMORY_TOTAL = gauge("gpu_memory_total_bytes", "GPU memory.", "gpu", unit="bytes")
GPU_TEMPERATURE = gauge("gpu_temperature_celsius", "Temperature.", "gpu", unit="°C")
GPU_POWER = gauge("gpu_power_watts", "Power drawn.", "gpu", unit="W")
GPU_PRICE = gauge(
    "gpu_price_per_hour_dollars", "Price of one GPU for an hour, by `GPU_PRICE_PER_HOUR`.", unit="$"
)
LOOP_LAG = gauge(
    "event_loop_lag_seconds",
    "Longest time in the last 15 to 30 s for which the sidecar came late to its work.",
    unit="s",
)
LOG_LINES_DROPPED = counter(
    "log_lines_dropped",
    "Log lines that stdout, `LOG_FILE` or `OTLP_LOGS_ENDPOINT` did not take.",
    unit="lines",
)

DECLARED: tuple[Declaration[Any], ...] = _declared()
