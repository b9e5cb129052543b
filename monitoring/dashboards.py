#!/usr/bin/env python3
"""The Grafana dashboards: monitoring/grafana/dashboards/*.json are written by this file.

    python monitoring/dashboards.py            writes them anew
    python monitoring/dashboards.py --check    exits 1 and names those that are out of date

Queries use the recorded series of rules.yml for quantiles. `Panel` knows what all panels have in
common; a dashboard is a list of rows of panels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "grafana" / "dashboards"
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """A query and how its series are called."""

    expr: str
    legend: str = ""
    instant: bool = False
    heatmap: bool = False

    def json(self, letter: str) -> Json:
        kind = {"instant": True, "range": False} if self.instant else {"range": True}
        shape = {"format": "heatmap"} if self.heatmap else {}
        target = {"refId": letter, "datasource": SOURCE, "expr": self.expr}
        return {**target, "legendFormat": self.legend or "__auto", **kind, **shape}


@dataclass(frozen=True)
class Panel:
    """One panel; width is in Grafana's 24 columns."""

    title: str
    queries: list[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    about: str = ""
    stacked: bool = False
    top: float | None = None
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)
    mappings: list[Json] = field(default_factory=list)
    thresholds: tuple[tuple[float | None, str], ...] = ((None, "green"),)

    def json(self, number: int, x: int, y: int) -> Json:
        letters = "ABCDEFGH"
        panel = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.about,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [query.json(letters[n]) for n, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self.options or _OPTIONS.get(self.kind, {}),
        }
        return {name: value for name, value in panel.items() if value != ""}

    def _defaults(self) -> Json:
        custom = dict(_CUSTOM.get(self.kind, {}))
        if self.stacked:
            custom |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40}
        steps = [{"value": value, "color": color} for value, color in self.thresholds]
        defaults: Json = {
            "unit": self.unit,
            "custom": {**custom, **self.custom},
            "mappings": self.mappings,
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "thresholds" if self.kind == "stat" else "palette-classic"},
        }
        if self.top is not None:
            defaults |= {"min": 0, "max": self.top}
        elif self.kind == "timeseries":
            defaults |= {"min": 0}
        return defaults


_CUSTOM: dict[str, Json] = {
    "timeseries": {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": False},
    "state-timeline": {"lineWidth": 0, "fillOpacity": 80, "spanNulls": False},
}
_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    },
    "bargauge": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
    },
    "state-timeline": {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "heatmap": {
        "calculate": False,
        "yAxis": {"unit": "s"},
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "cellGap": 1,
    },
}


def stat(title: str, expr: str, unit: str = "short", width: int = 4, **more: Any) -> Panel:
    """One number."""
    return Panel(title, [Query(expr)], unit, "stat", width, 4, **more)


# What is looked at -------------------------------------------------------------------------

AT = 'instance=~"$instance"'
# A histogram has one of these labels or none (docs/metrics.md): a filter on another finds nothing.
OF_ROUTE, OF_MODEL = f'{AT}, route=~"$route"', f'{AT}, model=~"$model"'
OF = f'{AT}, route=~"$route", model=~"$model"'
FILTERS = {"route": OF_ROUTE, "model": OF_MODEL}
RATE = "[$__rate_interval]"
ERRORS = 'outcome=~"timeout|engine_error|engine_died|engine_unavailable|proxy_error"'
# As ErrorShareHigh has it: what the engine was asked to do, without what was refused to a client.
WORK = f'{OF}, route!~"models|version|unknown"'
TAKEN = 'outcome!~"client_error|rejected"'
TTFT = "sidecar_time_to_first_token_seconds"
DURATION = "sidecar_request_duration_seconds"
ITL = "sidecar_inter_token_latency_seconds"


def rate(metric: str, labels: str = OF, by: str = "", over: str = RATE) -> str:
    group = f" by ({by}) " if by else ""
    return f"sum{group}(rate({metric}{{{labels}}}{over}))"


def mean(histogram: str, labels: str = AT) -> str:
    return f"{rate(f'{histogram}_sum', labels)} / {rate(f'{histogram}_count', labels)}"


def quantiles(title: str, histogram: str, label: str, unit: str = "s") -> Panel:
    """Of all that the filters let through: recorded quantiles of parts cannot be put together."""
    queries = [
        Query(
            quantile(histogram, share, FILTERS[label], "instance, le"),
            f"p{share * 100:g} {{{{instance}}}}",
        )
        for share in (0.5, 0.95, 0.99)
    ]
    return Panel(title, queries, unit, about=f"The filter {label!r} holds; no other does.")


def quantile_of_each(title: str, histogram: str, label: str, unit: str = "s") -> Panel:
    expr = f'instance_{label}:{histogram}:quantile_5m{{{FILTERS[label]}, quantile="p95"}}'
    return Panel(title, [Query(expr, f"{{{{{label}}}}} {{{{instance}}}}")], unit)


def quantile(histogram: str, share: float, labels: str = AT, by: str = "le") -> str:
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', labels, by)})"


REQUESTS = rate("sidecar_requests_total")
TOKENS = rate("sidecar_completion_tokens_total")
# A route's gauge is there from its first request on; before any, the answer is 0.
IN_FLIGHT = f"sum(sidecar_requests_in_flight{{{OF_ROUTE}}} or 0 * sidecar_build_info{{{AT}}})"
# The days in which it was ready would make these bars too short to be seen.
OF_A_START = 'phase=~"checking|downloading|loading|compiling|warming"'
BAD_SHARE = ((None, "green"), (0.01, "orange"), (0.05, "red"))

SERVICE = {
    "Now": [
        stat("Requests per second", REQUESTS, "reqps"),
        stat(
            "Failing",
            f"{rate('sidecar_requests_total', f'{WORK}, {ERRORS}')}"
            f" / {rate('sidecar_requests_total', f'{WORK}, {TAKEN}')}",
            "percentunit",
            thresholds=BAD_SHARE,
            about="Share of the work asked for that fails by the server's own doing; what was "
            "refused to a client is no part of it.",
        ),
        stat("Requests in flight", IN_FLIGHT),
        stat("Waiting in the engine", f"sum(sidecar_engine_requests_waiting{{{AT}}})"),
        stat(
            "First token, p95",
            f"max({quantile(TTFT, 0.95, OF_MODEL, 'instance, le')})",
            "s",
            thresholds=((None, "green"), (2.5, "red")),
        ),
        stat("Tokens per second", TOKENS),
    ],
    "Requests": [
        Panel("By route", [Query(rate("sidecar_requests_total", by="route"))], "reqps"),
        Panel("By model", [Query(rate("sidecar_requests_total", by="model"))], "reqps"),
        Panel(
            "Outcomes",
            [Query(rate("sidecar_requests_total", by="outcome"))],
            "reqps",
            stacked=True,
        ),
        Panel("In flight", [Query(f"sum by (route) (sidecar_requests_in_flight{{{OF_ROUTE}}})")]),
        Panel(
            "Queue",
            [
                Query(f"sum(sidecar_engine_requests_running{{{AT}}})", "running"),
                Query(f"sum(sidecar_engine_requests_waiting{{{AT}}})", "waiting"),
                Query(f"sum(sidecar_requests_waiting{{{AT}}})", "waiting for a place"),
            ],
            about="What the engine works on, what waits in it for its turn, and what waits in the "
            "sidecar for a place among MAX_IN_FLIGHT.",
        ),
        Panel(
            "Failing, by outcome",
            [Query(rate("sidecar_requests_total", f"{OF}, {ERRORS}", by="outcome"))],
            "reqps",
            stacked=True,
        ),
    ],
    "Time to first token": [
        quantiles("First token", TTFT, "model"),
        quantile_of_each("First token p95, by model", TTFT, "model"),
        Panel(
            "First tokens",
            [Query(rate(f"{TTFT}_bucket", OF_MODEL, "le"), "{{le}}", heatmap=True)],
            kind="heatmap",
            about="How many came how late.",
        ),
    ],
    "Durations": [
        quantiles("Duration", DURATION, "route"),
        quantile_of_each("Duration p95, by route", DURATION, "route"),
        quantiles("Between tokens", ITL, "model"),
        quantile_of_each("Between tokens p95, by model", ITL, "model"),
        Panel(
            "Tokens per second of one stream",
            [
                Query(quantile("sidecar_output_tokens_per_second", 0.5), "p50"),
                Query(quantile("sidecar_output_tokens_per_second", 0.05), "p5: the slowest"),
            ],
            about="After the first token: the prefill is left out.",
        ),
        Panel(
            "Clients that do not read, p95",
            [Query(quantile("sidecar_client_stall_seconds", 0.95), "p95")],
            "s",
        ),
    ],
    "What goes through": [
        Panel(
            "Late to its work",
            [Query(f"sidecar_event_loop_lag_seconds{{{AT}}}", "{{instance}}")],
            "s",
            about="How late the sidecar came to its work: no time of a request has it in it.",
        ),
        Panel(
            "Tokens per second",
            [
                Query(rate("sidecar_prompt_tokens_total"), "read"),
                Query(rate("sidecar_cached_prompt_tokens_total"), "read from the cache"),
                Query(TOKENS, "generated"),
            ],
        ),
        Panel(
            "Pictures, videos, audio clips",
            [Query(rate("sidecar_inputs_total", AT, by="modality"))],
            "ops",
        ),
        Panel(
            "Bytes",
            [
                Query(rate("sidecar_request_body_bytes_sum", AT), "in"),
                Query(rate("sidecar_response_body_bytes_total", OF_ROUTE), "out"),
            ],
            "Bps",
        ),
    ],
}


def beside(title: str, ours: str, theirs: str) -> Panel:
    """A histogram of the engine beside the sidecar's."""
    return Panel(
        title,
        [
            Query(f"instance:{ours}:quantile_5m{{{AT}, quantile!='p99'}}", "{{quantile}} sidecar"),
            Query(f"instance:{theirs}:quantile_5m{{{AT}}}", "{{quantile}} engine"),
        ],
        "s",
        about="The sidecar's clock begins with the request's first byte and covers streams only; "
        "the engine's begins when it has the request, and covers all.",
    )


GPU = "GPU {{gpu}}"
# Divided by: a gap where nothing was asked, since the engine's warm-up by nothing is infinite.
SPENT = f"({rate(f'{DURATION}_sum', AT)} > 0)"
SHARE = "Share of all seconds that requests took, as the client sees them."

ENGINE = {
    "State": [
        Panel(
            "State",
            [Query(f"sidecar_engine_state{{{AT}}} == 1", "{{phase}}")],
            kind="state-timeline",
            width=16,
            mappings=[
                {"type": "value", "options": {"1": {"text": "here", "color": "blue", "index": 0}}}
            ],
        ),
        Panel(
            "Now",
            [Query(f"sidecar_engine_state{{{AT}}} == 1", "{{phase}}", instant=True)],
            kind="stat",
            width=4,
            options={**_OPTIONS["stat"], "textMode": "name", "graphMode": "none"},
        ),
        Panel(
            "Restarts, by cause",
            [
                Query(
                    f"round(sum by (cause) (increase(sidecar_engine_restarts_total{{{AT}}}"
                    "[$__range]))) > 0",
                    "{{cause}}",
                    instant=True,
                )
            ],
            kind="bargauge",
            width=4,
            about="In the time range that is shown.",
        ),
        Panel(
            "Seconds in each phase of a start",
            [
                Query(
                    f"sidecar_engine_phase_seconds{{{AT}, {OF_A_START}}}", "{{phase}}", instant=True
                )
            ],
            "s",
            "bargauge",
            about="Of the last start.",
        ),
        Panel(
            "Model on disk",
            [
                Query(f"sidecar_model_download_bytes{{{AT}}}", "model {{instance}}"),
                Query(f"sidecar_model_disk_free_bytes{{{AT}}}", "room {{instance}}"),
            ],
            "bytes",
            about="And the room that is left on the volume of HF_HOME.",
        ),
        Panel(
            "Restarts",
            [Query(f"sum by (cause) (increase(sidecar_engine_restarts_total{{{AT}}}{RATE})) > 0")],
            custom={"drawStyle": "bars", "fillOpacity": 80},
        ),
    ],
    "Work": [
        Panel(
            "Running and waiting",
            [
                Query(f"sum(sidecar_engine_requests_running{{{AT}}})", "running"),
                Query(f"sum(sidecar_engine_requests_waiting{{{AT}}})", "waiting"),
            ],
        ),
        Panel(
            "KV cache in use",
            [Query(f"sidecar_engine_kv_cache_usage_ratio{{{AT}}}", "{{instance}}")],
            "percentunit",
            top=1,
        ),
        Panel(
            "Preempted",
            [Query(rate("vllm:num_preemptions_total", AT, by="instance"), "{{instance}}")],
            "ops",
            about="Requests thrown out of a full KV cache, to be computed again.",
        ),
        Panel(
            "Tokens per second, as the engine counts",
            [
                Query(rate("vllm:prompt_tokens_total", AT), "read"),
                Query(rate("vllm:generation_tokens_total", AT), "generated"),
            ],
            about="Also those of requests whose client left, and of warm-ups.",
        ),
        Panel(
            "Finished, as the engine counts",
            [Query(rate("vllm:request_success_total", AT, by="finished_reason"))],
            "reqps",
        ),
        Panel(
            "Prompt tokens from the cache",
            [
                Query(
                    f"{rate('sidecar_cached_prompt_tokens_total', AT)}"
                    f" / {rate('sidecar_prompt_tokens_total', AT)}",
                    "share",
                )
            ],
            "percentunit",
            top=1,
            about="Known only where the engine says it (--enable-prompt-tokens-details).",
        ),
    ],
    "GPU": [
        Panel("Busy", [Query(f"sidecar_gpu_utilization_ratio{{{AT}}}", GPU)], "percentunit", top=1),
        Panel(
            "Memory",
            [
                Query(f"sidecar_gpu_memory_used_bytes{{{AT}}}", f"{GPU} used"),
                Query(f"sidecar_gpu_memory_total_bytes{{{AT}}}", f"{GPU} total"),
            ],
            "bytes",
        ),
        Panel(
            "Memory in use",
            [
                Query(
                    f"sidecar_gpu_memory_used_bytes{{{AT}}}"
                    f" / sidecar_gpu_memory_total_bytes{{{AT}}}",
                    GPU,
                )
            ],
            "percentunit",
            top=1,
        ),
        Panel("Power", [Query(f"sidecar_gpu_power_watts{{{AT}}}", GPU)], "watt", width=12),
        Panel(
            "Temperature",
            [Query(f"sidecar_gpu_temperature_celsius{{{AT}}}", GPU)],
            "celsius",
            width=12,
        ),
    ],
    "Whose time it was": [
        beside("First token", TTFT, "vllm:time_to_first_token_seconds"),
        beside(
            "Between tokens, mean of a request", ITL, "vllm:request_time_per_output_token_seconds"
        ),
        Panel(
            "Before the first token, in the engine",
            [
                Query(
                    f"instance:vllm:request_queue_time_seconds:quantile_5m{{{AT}}}",
                    "{{quantile}} queue",
                ),
                Query(
                    f"instance:vllm:request_prefill_time_seconds:quantile_5m{{{AT}}}",
                    "{{quantile}} prefill",
                ),
            ],
            "s",
        ),
        Panel(
            "Mean seconds of a request",
            [
                Query(mean("vllm:request_queue_time_seconds"), "engine: queue"),
                Query(mean("vllm:request_prefill_time_seconds"), "engine: prefill"),
                Query(mean("vllm:request_decode_time_seconds"), "engine: decode"),
                Query(mean("sidecar_overhead_seconds"), "sidecar"),
                Query(mean("sidecar_client_stall_seconds"), "client does not read"),
            ],
            "s",
            stacked=True,
        ),
        Panel(
            "Engine's share",
            [Query(f"{rate('vllm:e2e_request_latency_seconds_sum', AT)} / {SPENT}", "engine")],
            "percentunit",
            about=f"{SHARE} The engine does not count requests whose client left.",
        ),
        Panel(
            "Sidecar's share",
            [
                Query(f"{rate('sidecar_overhead_seconds_sum', AT)} / {SPENT}", "sidecar"),
                Query(
                    f"{rate('sidecar_client_stall_seconds_sum', AT)} / {SPENT}",
                    "client does not read",
                ),
            ],
            "percentunit",
            about=SHARE,
        ),
    ],
}


# A number for each state, so that each model has a line of its own.
STATES = {
    "unloaded": "text",
    "loading": "blue",
    "ready": "green",
    "unloading": "orange",
    "asleep": "purple",
    "failed": "red",
}
STATE_OF_EACH = " or ".join(
    f'{number} * sidecar_model_state{{{AT}, state="{state}"}}'
    for number, state in enumerate(STATES)
)
MODEL_LOAD, MODEL_WAIT = "sidecar_model_load_seconds", "sidecar_model_wait_seconds"
MADE_ROOM = f'{AT}, reason="make_room"'


def events(title: str, metric: str, by: str, legend: str, about: str) -> Panel:
    """What happened now and then, as bars."""
    expr = f"sum by ({by}) (increase({metric}{{{AT}}}{RATE})) > 0"
    bars = {"drawStyle": "bars", "fillOpacity": 80}
    return Panel(title, [Query(expr, legend)], custom=bars, about=about)


MODELS = {
    "Now": [
        stat("Loaded", f'sum(sidecar_model_state{{{AT}, state="ready"}})', width=6),
        stat("Waiting for a load or a place", f"sum(sidecar_requests_waiting{{{AT}}})", width=6),
        stat(
            "Gave way in an hour",
            f"round({rate('sidecar_model_evictions_total', MADE_ROOM, over='[1h]')} * 3600)",
            width=6,
            about="Unloaded for another model.",
        ),
        stat(
            "Time that went into loads",
            rate(f"{MODEL_LOAD}_sum", AT, over="[1h]"),
            "percentunit",
            width=6,
            thresholds=((None, "green"), (0.1, "orange"), (0.25, "red")),
            about="In the last hour. Loads on several GPUs add up.",
        ),
    ],
    "Over time": [
        Panel(
            "State",
            [Query(f"sum by (instance, model) ({STATE_OF_EACH})", "{{model}}")],
            kind="state-timeline",
            width=24,
            mappings=[
                {
                    "type": "value",
                    "options": {
                        str(number): {"text": state, "color": color, "index": number}
                        for number, (state, color) in enumerate(STATES.items())
                    },
                }
            ],
        ),
        Panel(
            "Memory by model",
            [Query(f"sidecar_model_memory_bytes{{{AT}}}", "{{model}} {{gpu}}")],
            "bytes",
            width=12,
            stacked=True,
            about="As it was measured when each was loaded. With several GPUs, of each of them.",
        ),
        Panel(
            "Time waited for a load",
            [
                Query(
                    quantile(MODEL_WAIT, share, by="model, le"), f"p{share * 100:g} {{{{model}}}}"
                )
                for share in (0.5, 0.95)
            ],
            "s",
            width=12,
            about="By requests whose model was not loaded.",
        ),
        events(
            "Loads",
            "sidecar_model_loads_total",
            "model, kind, outcome",
            "{{model}} {{kind}} {{outcome}}",
            "A wake is a load from sleep. An abandoned load was ended for another model.",
        ),
        events(
            "Unloads",
            "sidecar_model_evictions_total",
            "model, reason",
            "{{model}} {{reason}}",
            "make_room: for another model. idle: nobody had asked for it. ordered: by hand.",
        ),
        Panel(
            "Waiting",
            [Query(f"sum by (model) (sidecar_requests_waiting{{{AT}}})", "{{model}}")],
            about="For a load, or for a place. Without a name: for what KEY_LIMITS let a key have.",
        ),
        Panel(
            "Seconds of a load",
            [
                Query(
                    f"{rate(f'{MODEL_LOAD}_sum', AT, by='model, kind')}"
                    f" / {rate(f'{MODEL_LOAD}_count', AT, by='model, kind')}",
                    "{{model}} {{kind}}",
                )
            ],
            "s",
            width=12,
            about="Mean of those that ended then.",
        ),
        Panel(
            "Time that went into loads",
            [Query(rate(f"{MODEL_LOAD}_sum", AT, by="model", over="[1h]"), "{{model}}")],
            "percentunit",
            width=12,
            stacked=True,
            about="Over the last hour.",
        ),
    ],
}


GPUS = f"count(sidecar_gpu_memory_total_bytes{{{AT}}})"
# What is typed goes first; where nothing is, `0$GPU_PRICE_PER_HOUR` is 0, and what each sidecar
# says of itself is taken.
_TYPED = f"0$GPU_PRICE_PER_HOUR * max by (instance) (sidecar_build_info{{{AT}}}) > 0"
_TOLD = f"max by (instance) (sidecar_gpu_price_per_hour_dollars{{{AT}}})"
_GPUS_OF_EACH = f"count by (instance) (sidecar_gpu_memory_total_bytes{{{AT}}})"
MONEY_PER_SECOND = f"sum({_GPUS_OF_EACH} * (({_TYPED}) or {_TOLD})) / 3600"
BUSY = f"({IN_FLIGHT} > bool 0)"


def tokens(over: str, *kinds: str) -> str:
    parts = [rate(f"sidecar_{kind}_tokens_total", AT, over=over) for kind in kinds]
    return f"({' + '.join(parts)})"


def price(over: str, *kinds: str) -> str:
    return f"1e6 * {MONEY_PER_SECOND} / ({tokens(over, *kinds)} > 0)"  # idle, it has none


def idle(over: str) -> str:
    return f"1 - avg_over_time({BUSY}[{over}:$__interval])"


COST = {
    "In the time range that is shown": [
        stat(
            "Generated tokens per GPU-second",
            f"{tokens('[$__range]', 'completion')} / {GPUS}",
        ),
        stat("Idle", idle("$__range"), "percentunit", about="Share of time without a request."),
        stat(
            "GPU not computing",
            f"1 - avg(avg_over_time(sidecar_gpu_utilization_ratio{{{AT}}}[$__range]))",
            "percentunit",
        ),
        stat(
            "Price of a million generated tokens",
            price("[$__range]", "completion"),
            "currencyUSD",
            about="All of the GPU's time is charged to generated tokens, idle time included.",
        ),
        stat(
            "Price of a million tokens, read or generated",
            price("[$__range]", "prompt", "completion"),
            "currencyUSD",
        ),
        stat(
            "Price of the idle time",
            f"{MONEY_PER_SECOND} * $__range_s * ({idle('$__range')})",
            "currencyUSD",
        ),
    ],
    "Over time": [
        Panel(
            "Generated tokens per GPU-second",
            [Query(f"{tokens(RATE, 'completion')} / {GPUS}", "tokens")],
            width=12,
        ),
        Panel(
            "Price of a million generated tokens",
            [Query(f"{price('[1h]', 'completion')}", "over the last hour")],
            "currencyUSD",
            width=12,
        ),
        Panel("Idle", [Query(idle("1h"), "over the last hour")], "percentunit", top=1),
        Panel(
            "GPU not computing",
            [Query(f"1 - sidecar_gpu_utilization_ratio{{{AT}}}", GPU)],
            "percentunit",
            top=1,
        ),
        Panel(
            "Whose tokens",
            [
                Query(rate("sidecar_completion_tokens_total", AT, by="model"), "{{model}}"),
            ],
            stacked=True,
        ),
    ],
}


# Dashboards --------------------------------------------------------------------------------


def query_variable(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


DATASOURCE: Json = {
    "name": "datasource",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
    "current": {"text": "Prometheus", "value": "prometheus"},
}
INSTANCE = query_variable("instance", "Sidecar", "label_values(sidecar_build_info, instance)")
ROUTE = query_variable("route", "Route", "label_values(sidecar_requests_total, route)")
MODEL = query_variable("model", "Model", "label_values(sidecar_requests_total, model)")
PRICE: Json = {
    "name": "GPU_PRICE_PER_HOUR",
    "label": "Price of one GPU per hour",
    "description": "Dollars. Empty: what each sidecar says itself, by its GPU_PRICE_PER_HOUR.",
    "type": "textbox",
    "query": "",
    "current": {"text": "", "value": ""},
}


def laid_out(rows: dict[str, list[Panel]]) -> Iterator[Json]:
    """Rows below each other; their panels from left to right, a new line where one is full."""
    number, y = 1, 0
    for title, panels in rows.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}
        number, x, y, height = number + 1, 0, y + 1, 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            yield panel.json(number, x, y)
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height


def dashboard(uid: str, title: str, rows: dict[str, list[Panel]], *variables: Json) -> Json:
    return {
        "uid": uid,
        "title": title,
        "tags": ["vllm-sidecar"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "vLLM sidecar",
                "tooltip": "The other dashboards",
                "tags": ["vllm-sidecar"],
                "icon": "dashboard",
                "asDropdown": False,
                "targetBlank": False,
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "templating": {"list": [DATASOURCE, INSTANCE, *variables]},
        "panels": list(laid_out(rows)),
    }


DASHBOARDS = {
    "service.json": dashboard("sidecar-service", "Service", SERVICE, ROUTE, MODEL),
    "engine.json": dashboard("sidecar-engine", "Engine and GPU", ENGINE),
    "models.json": dashboard("sidecar-models", "Models", MODELS),
    "cost.json": dashboard("sidecar-cost", "Cost", COST, PRICE),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args()
    stale = []
    for name, content in DASHBOARDS.items():
        path, text = FOLDER / name, json.dumps(content, indent=1) + "\n"
        if options.check and (not path.exists() or path.read_text() != text):
            stale.append(name)
        elif not options.check:
            path.write_text(text)
    if stale:
        print(f"{', '.join(stale)}: stale; run .venv/bin/python monitoring/dashboards.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
