"""A small `/metrics` page with vLLM's names, counting what the fake engine really did."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
# vLLM's own bounds of time_to_first_token_seconds.
TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
# Those of inter_token_latency_seconds, and of all times of whole requests.
ITL_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
REQUEST_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
NO_HANDLER_COUNT = frozenset({"/health", "/metrics", "/load", "/ping", "/version"})


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@dataclass
class Histogram:
    """One histogram of the page."""

    name: str
    bounds: tuple[float, ...] = REQUEST_BOUNDS
    sum: float = 0.0
    buckets: Counter[int] = field(default_factory=Counter)

    def observe(self, seconds: float) -> None:
        """Count one time."""
        self.sum += seconds
        self.buckets[bisect_left(self.bounds, seconds)] += 1

    def lines(self, labels: str) -> list[str]:
        """Its part of the page."""
        lines, total = _head(self.name, "histogram"), 0
        engine, model = labels.split(",", 1)
        for index, bound in enumerate((*map(str, self.bounds), "+Inf")):
            total += self.buckets[index]
            lines.append(f'{self.name}_bucket{{{engine},le="{bound}",{model}}} {float(total)}')
        lines.append(f"{self.name}_count{{{labels}}} {float(total)}")
        lines.append(f"{self.name}_sum{{{labels}}} {self.sum}")
        return lines


def _first_token() -> Histogram:
    return Histogram("vllm:time_to_first_token_seconds", TTFT_BOUNDS)


def _between_tokens() -> Histogram:
    return Histogram("vllm:inter_token_latency_seconds", ITL_BOUNDS)


def _of_a_token() -> Histogram:
    return Histogram("vllm:request_time_per_output_token_seconds", ITL_BOUNDS)


@dataclass
class Times:
    """When one generation came to what; as in vLLM, a request's own histograms come at its end."""

    arrived: float
    scheduled: float = 0.0
    first_token: float | None = None
    last_token: float = 0.0
    tokens: int = 0


@dataclass
class Metrics:
    """The counts. As in vLLM, a request whose client left is in no `request_success_total`."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    aborted: int = 0
    """Not a vLLM metric: shown by /__fake/stats."""
    success: Counter[str] = field(default_factory=Counter)
    http: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    started: float = field(default_factory=time.time)
    ttft: Histogram = field(default_factory=_first_token)
    itl: Histogram = field(default_factory=_between_tokens)
    of_a_token: Histogram = field(default_factory=_of_a_token)
    whole: dict[str, Histogram] = field(
        default_factory=lambda: {
            kind: Histogram(f"vllm:{kind}_seconds")
            for kind in (
                *("e2e_request_latency", "request_queue_time"),
                *("request_prefill_time", "request_decode_time"),
            )
        }
    )

    def tokens(self, times: Times, count: int) -> None:
        """A generation has got a token, or several at once."""
        now = time.monotonic()
        if times.first_token is None:
            times.first_token = now
            self.ttft.observe(now - times.arrived)
        else:
            self.itl.observe(now - times.last_token)
        times.last_token = now
        times.tokens += count

    def finished(self, times: Times) -> None:
        """A generation was answered to the end."""
        if times.first_token is None:
            return
        steps = (times.arrived, times.scheduled, times.first_token, times.last_token)
        names = ("request_queue_time", "request_prefill_time", "request_decode_time")
        for name, (begin, end) in zip(names, pairwise(steps), strict=True):
            self.whole[name].observe(end - begin)
        if times.tokens > 1:
            mean = (times.last_token - times.first_token) / (times.tokens - 1)
            self.of_a_token.observe(mean)
        self.whole["e2e_request_latency"].observe(time.monotonic() - times.arrived)

    def answered(self, method: str, path: str, status: int) -> None:
        """A response head went out."""
        if path not in NO_HANDLER_COUNT and not path.startswith("/__fake"):
            handler = "none" if status == 404 else path
            self.http[handler, method, f"{status // 100}xx"] += 1

    def page(self, model: str) -> bytes:
        """The page in Prometheus text format."""
        labels = f'engine="0",model_name="{_label(model)}"'
        lines = [
            *_sample("process_start_time_seconds", "gauge", "", self.started),
            *_sample("vllm:num_requests_running", "gauge", labels, self.running),
            *_sample("vllm:num_requests_waiting", "gauge", labels, self.waiting),
            *_sample("vllm:kv_cache_usage_perc", "gauge", labels, min(self.running / 100, 1)),
            *_sample("vllm:prompt_tokens_total", "counter", labels, self.prompt_tokens),
            *_sample("vllm:generation_tokens_total", "counter", labels, self.generation_tokens),
            *self._success(_label(model)),
            *_sample("vllm:num_preemptions_total", "counter", labels, 0),
            *self.ttft.lines(labels),
            *self.itl.lines(labels),
            *self.of_a_token.lines(labels),
            *(line for each in self.whole.values() for line in each.lines(labels)),
            *self._http(),
        ]
        return ("\n".join(lines) + "\n").encode()

    def _success(self, model: str) -> list[str]:
        lines = _head("vllm:request_success_total", "counter")
        for reason in FINISH_REASONS:
            labels = f'engine="0",finished_reason="{reason}",model_name="{model}"'
            lines.append(f"vllm:request_success_total{{{labels}}} {float(self.success[reason])}")
        return lines

    def _http(self) -> list[str]:
        lines = _head("http_requests_total", "counter")
        for (handler, method, status), count in sorted(self.http.items()):
            labels = f'handler="{_label(handler)}",method="{method}",status="{status}"'
            lines.append(f"http_requests_total{{{labels}}} {float(count)}")
        return lines


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {name} As vLLM's.", f"# TYPE {name} {kind}"]


def _sample(name: str, kind: str, labels: str, value: float) -> list[str]:
    braces = f"{{{labels}}}" if labels else ""
    return [*_head(name, kind), f"{name}{braces} {float(value)}"]
