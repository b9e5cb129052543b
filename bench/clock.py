"""The log's clock against a client's own, request by request: `bench --clock`.

One client, one stream at a time, real vLLM with the demo model. The client's clock begins
before it sends and looks when bytes arrive; the sidecar's begins when it reads the first byte
and looks when the engine's event comes. The difference is what lies between: the kernel, a
busy event loop, and a mistake in either.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from time import monotonic, sleep
from typing import Any

from bench import real

STREAMS, TOKENS = 300, 32
_RECEIVE_BYTES = 65536
_LOG_SECONDS = 5.0
_CALL_SECONDS = 30.0
_GENERATED = b'"content":"'
_NOTHING = b'"content":""'


@dataclass(frozen=True)
class Timed:
    """One stream as its client saw it; the gap is the mean between events with content."""

    request_id: str
    ttft_ms: float
    gap_ms: float


def run(folder: Path, streams: int = STREAMS) -> str:
    """Measure; the lines to print. Raises RuntimeError where the sidecar does not start."""
    with real.started(folder) as service:
        timed = measure(service.ports["ours"], service.name, streams, TOKENS)
        lines = read_log(service.proxies["ours"].log, timed)
    return "\n".join(report(timed, lines))


def measure(port: int, model: str, streams: int, tokens: int) -> list[Timed]:
    """Ask for so many streams, one after the other, on one connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=_CALL_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return [
            _one(client, f"clock-{number}", _request(f"clock-{number}", model, tokens))
            for number in range(streams)
        ]


def read_log(log: Path, timed: Sequence[Timed]) -> dict[str, Mapping[str, Any]]:
    """The lines of these requests, by their ids; each is written after its last byte."""
    wanted = {each.request_id for each in timed}
    end = monotonic() + _LOG_SECONDS
    while True:
        whole = log.read_text().rpartition("\n")[0]  # the last line may be being written
        texts = [text for text in whole.splitlines() if '"proxy.access"' in text]
        lines = {line["request_id"]: line for line in map(json.loads, texts)}
        if wanted <= lines.keys():
            return {name: lines[name] for name in wanted}
        if monotonic() > end:
            raise RuntimeError(f"no line for {len(wanted - lines.keys())} requests")
        sleep(0.05)


def differences(
    timed: Iterable[Timed], lines: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    """The client's time less the log's, in ms."""
    pairs = [(each, lines[each.request_id]) for each in timed]
    return {
        "TTFT": [each.ttft_ms - line["ttft_ms"] for each, line in pairs],
        "mean time between events": [each.gap_ms - line["itl_mean_ms"] for each, line in pairs],
    }


def report(timed: Sequence[Timed], lines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each time: p50, p99 and the largest difference."""
    words = [f"client's clock less the log's, {len(timed)} streams, ms:"]
    for name, values in differences(timed, lines).items():
        p50, p99 = percentiles(values)
        words.append(f"{name}: p50 {p50:.2f}, p99 {p99:.2f}, most {max(values, key=abs):.2f}")
    return words


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p99."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def _request(request_id: str, model: str, tokens: int) -> bytes:
    message = {"role": "user", "content": "Tell me something about rivers."}
    body = {"model": model, "messages": [message], "max_tokens": tokens, "stream": True}
    data = json.dumps(body | {"ignore_eos": True}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"x-request-id: {request_id}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def _one(client: socket.socket, request_id: str, request: bytes) -> Timed:
    sent = monotonic()
    client.sendall(request)
    times: list[float] = []
    tail = b""
    while not tail.endswith(b"0\r\n\r\n"):
        data = client.recv(_RECEIVE_BYTES)
        now = monotonic()
        if not data:
            raise RuntimeError("the stream broke off")
        # The demo model's events are small: each comes whole.
        times += [now] * (data.count(_GENERATED) - data.count(_NOTHING))
        tail = (tail + data)[-16:]
    if len(times) < 2:
        raise RuntimeError("the stream had no tokens")
    gap = (times[-1] - times[0]) / (len(times) - 1)
    return Timed(request_id, (times[0] - sent) * 1000, gap * 1000)
