"""Workloads with large bodies: alone, and beside running streams."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

from bench.client import Stream, exchange_on
from bench.figures import Figures, Meter, in_ms, percentile
from bench.loads import send_all, under_load
from bench.requests import chat, image_request
from bench.size import Size, Target

_SECONDS = 8.0


def bodies(target: Target, size: Size) -> Figures:
    """Chat requests with an image of 1 and 20 MB in base64, one after the other."""
    figures: Figures = {}
    for megabytes, count in size.bodies:
        figures |= _bodies_of(target, megabytes, count)
    return figures


def beside(target: Target, size: Size) -> Figures:
    """Tokens of running streams while two bodies of 20 MB are sent at the same time."""
    connections = [Stream(target.port) for _ in range(size.beside_streams)]
    body = image_request(20)
    senders = [threading.Thread(target=_send_body, args=(target.port, body)) for _ in range(2)]
    with under_load(connections) as load:
        send_all(connections, chat(size.beside_tokens, stream=True))
        load.pump(1.0, lambda: all(one.tokens > 5 for one in connections))
        for sender in senders:
            sender.start()
        load.pump(size.stream_seconds, load.idle)
    for sender in senders:
        sender.join(_SECONDS)
    delays = [delay for one in connections for delay in one.delays_ns]
    longest = {"delay_max_ms": max(delays) / 1e6} if delays else {}
    return {**in_ms("delay", delays), **longest}


def _bodies_of(target: Target, megabytes: int, count: int) -> Figures:
    request = image_request(megabytes)
    idle_mib = 0.0
    if target.proxy is not None:
        target.proxy.reset_peak()
        idle_mib = target.proxy.rss_mib()
    times = []
    with Meter(target.proxy, target.engine) as meter, suppress(OSError):
        for seconds in _sent_in_turn(target.port, request, count):
            times.append(seconds)
    name = f"body_{megabytes}mb"
    if not times:
        return {f"{name}_done": 0}
    figures = {
        f"{name}_done": float(len(times)),
        f"{name}_cpu_ms": meter.proxy_seconds * 1e3 / len(times),
        f"{name}_p50_ms": percentile(times, 0.5) * 1e3,
        f"{name}_client_cpu_share": meter.client_seconds / meter.seconds,
    }
    if target.proxy is not None:
        figures[f"{name}_peak_rss_mib"] = target.proxy.peak_rss_mib()
        figures[f"{name}_above_idle_mib"] = target.proxy.peak_rss_mib() - idle_mib
    return figures


def _sent_in_turn(port: int, request: bytes, count: int) -> Iterator[float]:
    """Seconds of each exchange on one connection; at most `_SECONDS` in all."""
    end = monotonic() + _SECONDS
    with socket.create_connection(("127.0.0.1", port), _SECONDS) as one:
        for _ in range(count):
            before = monotonic()
            exchange_on(one, request)
            yield monotonic() - before
            if monotonic() > end:
                return


def _send_body(port: int, request: bytes) -> None:
    with suppress(OSError):
        list(_sent_in_turn(port, request, 1))
