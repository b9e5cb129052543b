"""The workloads of small requests: streams, arrivals, plain requests, open streams."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, monotonic_ns, sleep

from bench.client import Asker, Load, Stream, exchange
from bench.figures import Figures, Meter, in_ms
from bench.requests import chat
from bench.size import TICK_MS, Size, Target

_WARM_UP_SECONDS = 8.0
_OPEN_SECONDS = 5.0
_OVERLOADED = 1.3
_OPENED_AT_ONCE = 10
TICK_NS = TICK_MS * 1_000_000
_AFTER_TICK_NS = 1_000_000
_ARRIVAL_SECONDS = 0.003236


def streams(target: Target, size: Size) -> Figures:
    """All start at once, on connections that have served a short stream before."""
    connections = [Stream(target.port) for _ in range(size.streams)]
    with under_load(connections) as load:
        _warm_up(connections, load)
        _wait_for_tick(connections)
        with Meter(target.proxy, target.engine) as meter:
            send_all(connections, chat(size.tokens, stream=True))
            load.pump(size.stream_seconds, load.idle)
    unfinished = sum(one.busy or one.failed for one in connections)
    figures = {**meter.shares(), **_stream_times(connections), "unfinished": unfinished}
    if tokens := _tokens(connections):
        figures["tokens"] = tokens
        figures["cpu_us_per_token"] = meter.proxy_seconds * 1e6 / tokens
    return figures


def overloaded(figures: Figures, size: Size) -> bool:
    """Did `streams` take much longer than its ticks? What follows would only say so again."""
    return figures["seconds"] > _OVERLOADED * size.tokens * TICK_MS / 1000


def arrivals(target: Target, size: Size) -> Figures:
    """Streams that come one after the other: TTFT without a queue of the load's making.

    The times between them fall evenly over the tick, so that half a tick of every TTFT is
    the engine's, the same for all proxies.
    """
    connections = [Stream(target.port) for _ in range(size.streams)]
    request = chat(size.arrival_tokens, stream=True)
    with under_load(connections) as load:
        _warm_up(connections, load)
        due = monotonic()
        for connection in connections:
            load.pump(due - monotonic())
            send_all([connection], request)
            due += _ARRIVAL_SECONDS
        load.pump(size.stream_seconds, load.idle)
    return _stream_times(connections)


def requests(target: Target, size: Size) -> Figures:
    """Plain requests with an answer of 1 KB, one after the other on every connection."""
    request = chat(8, stream=False)
    given = itertools.count()
    limit = size.warm_up_requests

    def next_request() -> bytes | None:
        return request if next(given) < limit else None

    askers = [Asker(target.port, next_request) for _ in range(size.streams)]
    with under_load(askers) as load:
        _start(askers)
        load.pump(size.warm_up_seconds, load.idle)
        limit = 0
        load.pump(size.request_seconds, load.idle)
        for asker in askers:
            asker.latencies_ns.clear()
        limit = size.requests
        given = itertools.count()
        with Meter(target.proxy, target.engine) as meter:
            _start(askers)
            load.pump(size.request_seconds, load.idle)
    latencies = [latency for asker in askers for latency in asker.latencies_ns]
    done = len(latencies)
    return {
        **meter.shares(),
        **in_ms("latency", latencies),
        "done": done,
        "failed": sum(asker.failed for asker in askers),
        "requests_per_second": done / meter.seconds,
        "cpu_us_per_request": meter.proxy_seconds * 1e6 / max(done, 1),
    }


def fresh(target: Target, size: Size) -> Figures:
    """Plain requests, each on a connection of its own, one after the other."""
    request = chat(8, stream=False)
    for _ in range(size.fresh_requests // 10):
        exchange(target.port, request, _OPEN_SECONDS)
    done = 0
    with Meter(target.proxy, target.engine) as meter:
        until = monotonic() + size.request_seconds
        while done < size.fresh_requests and monotonic() < until:
            if exchange(target.port, request, _OPEN_SECONDS) is None:
                break
            done += 1
    cost = {"cpu_us_per_request": meter.proxy_seconds * 1e6 / done} if done else {}
    return {**meter.shares(), "done": float(done), **cost}


def open_streams(target: Target, size: Size) -> Figures:
    """Streams opened ten at a time, held open at one token a second, then left."""
    if target.proxy is not None:
        target.proxy.reset_peak()
    connections = [Stream(target.port) for _ in range(size.open_streams)]
    request = chat(600, stream=True)
    with under_load(connections) as load:
        for start in range(0, len(connections), _OPENED_AT_ONCE):
            send_all(connections[start : start + _OPENED_AT_ONCE], request)
            load.pump(0.01)
        load.pump(_OPEN_SECONDS, lambda: all(one.first_ns for one in connections))
        before = _tokens(connections)
        for connection in connections:
            connection.delays_ns.clear()
        with Meter(target.proxy, target.engine) as meter:
            load.pump(size.hold_seconds)
        tokens = _tokens(connections) - before
    delays = [delay for one in connections for delay in one.delays_ns]
    figures = {**meter.shares(), **in_ms("delay", delays)}
    figures["opened"] = sum(bool(one.first_ns) and not one.failed for one in connections)
    if target.proxy is not None:
        figures["peak_rss_mib"] = target.proxy.peak_rss_mib()
        if tokens:
            figures["cpu_us_per_token"] = meter.proxy_seconds * 1e6 / tokens
    return figures


@contextmanager
def under_load(connections: list[Stream] | list[Asker]) -> Iterator[Load]:
    """Without garbage collection, whose pauses would count as the proxy's."""
    load = Load(connections)
    gc.collect()
    gc.disable()
    try:
        yield load
    finally:
        gc.enable()
        load.close()


def send_all(connections: list[Stream], request: bytes) -> None:
    for connection in connections:
        if not connection.failed:
            connection.send(request)


def _warm_up(connections: list[Stream], load: Load) -> None:
    """A short stream on each; one that is not over by then takes no part in what follows."""
    send_all(connections, chat(2, stream=True))
    load.pump(_WARM_UP_SECONDS, load.idle)
    for connection in connections:
        connection.delays_ns.clear()
        if connection.busy:
            connection.fail()


def _wait_for_tick(connections: list[Stream]) -> None:
    """Until just after a tick: all proxies get the same time to their first token."""
    ticks = [one.last_tick_ns for one in connections if one.last_tick_ns]
    if ticks:
        passed = (monotonic_ns() - max(ticks)) % TICK_NS
        sleep((TICK_NS - passed + _AFTER_TICK_NS) / 1e9)


def _start(askers: list[Asker]) -> None:
    for asker in askers:
        if not asker.failed and not asker.busy:
            asker.go_on()


def _tokens(connections: list[Stream]) -> int:
    return sum(one.tokens for one in connections)


def _stream_times(connections: list[Stream]) -> Figures:
    """Time to the first bytes, to the first token, and of each token from tick to here."""
    good = [one for one in connections if one.first_ns and not one.failed]
    return {
        **in_ms("head", [one.head_ns - one.sent_ns for one in good]),
        **in_ms("ttft", [one.first_ns - one.sent_ns for one in good]),
        **in_ms("delay", [delay for one in good for delay in one.delays_ns]),
    }
