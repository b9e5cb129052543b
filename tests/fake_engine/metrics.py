"""A small `/metrics` page with vLLM's names, counting what the fake engine really did."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
# vLLM's own bounds of time_to_first_token_seconds.
TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
NO_HANDLER_COUNT = frozenset({"/health", "/metrics", "/load", "/ping", "/version"})


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


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
    _ttft_sum: float = 0.0
    _ttft_buckets: Counter[int] = field(default_factory=Counter)

    def first_token(self, seconds: float) -> None:
        """A generation's first token, so long after the request arrived."""
        self._ttft_sum += seconds
        self._ttft_buckets[bisect_left(TTFT_BOUNDS, seconds)] += 1

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
            *self._ttft(labels),
            *self._http(),
        ]
        return ("\n".join(lines) + "\n").encode()

    def _success(self, model: str) -> list[str]:
        lines = _head("vllm:request_success_total", "counter")
        for reason in FINISH_REASONS:
            labels = f'engine="0",finished_reason="{reason}",model_name="{model}"'
            lines.append(f"vllm:request_success_total{{{labels}}} {float(self.success[reason])}")
        return lines

    def _ttft(self, labels: str) -> list[str]:
        name = "vllm:time_to_first_token_seconds"
        lines, total = _head(name, "histogram"), 0
        engine, model = labels.split(",", 1)
        for index, bound in enumerate((*map(str, TTFT_BOUNDS), "+Inf")):
            total += self._ttft_buckets[index]
            lines.append(f'{name}_bucket{{{engine},le="{bound}",{model}}} {float(total)}')
        lines.append(f"{name}_count{{{labels}}} {float(total)}")
        lines.append(f"{name}_sum{{{labels}}} {self._ttft_sum}")
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
