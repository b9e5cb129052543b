"""What holds whatever client, engine and sidecar do: a seed draws it.

The sidecar is real, but for its sockets, which have no network, the probe of its engine, and time,
which jumps. Whatever happens:

- Each answer is HTTP to h11, in its turn. One that broke off shows it.
- An answer of the engine's is the client's byte for byte, but for the usage event that it did not
  ask for. The engine gets the client's body likewise, and at most once.
- Each request has one record. Its outcome, status, bytes and tokens fit what happened.
- A connection to the engine is used again only where nothing of an answer may be left on it.
- Nothing is done for a client that has left. A stop ends in bounded time, and then no task, timer,
  connection, place or gauge is left.
- The log has no error, and the event loop gets no exception.

A failure shows its seed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import re
import sys
import time
from collections import defaultdict
from typing import Any
from unittest.mock import AsyncMock

import pytest

from proxy import app
from proxy.app import Sidecar, build
from proxy.lifecycle import Lifecycle
from proxy.relay.connection import Connection
from proxy.relay.upstream import Upstream
from proxy.server.listener import Server
from proxy.settings import Settings
from proxy.telemetry import catalogue
from proxy.telemetry.record import Outcome, Record
from tests.proxy.pool.simulated import now, simulate
from tests.proxy.relay.drawn_peers import (
    BODY_TIMEOUT,
    TRANSLATED,
    Answer,
    Ask,
    Client,
    FakeEngine,
    set_high_water,
    two_ends,
)

_SEEDS = int(os.environ.get("SEEDS", "60"))
_STOP_SECONDS = 15.0
_ENVIRON = {"UPSTREAM_URL": "http://127.0.0.1:9", "WARMUP": "0", "WEDGE_SECONDS": "0"}
_ENVIRON |= {"DRAIN_SECONDS": "5", "BODY_TIMEOUT": str(BODY_TIMEOUT)}
_DRAWN = {"REQUEST_TIMEOUT": "0 0 0 20", "STREAM_IDLE_TIMEOUT": "0 0 5", "HOLD_SECONDS": "0 20"}
_DRAWN |= {"SSE_KEEP_ALIVE_SECONDS": "0 1", "JSON_HEARTBEAT_SECONDS": "0 0 1"}
_DRAWN |= {"MAX_IN_FLIGHT": "1000 1000 1", "MAX_WAITING": "0 1 10", "WAITING_TIMEOUT": "0 3"}
_DRAWN |= {"MAX_BODY_MB": "256 256 0.1"}
_OF_STATUS = {200: Outcome.OK, 400: Outcome.CLIENT_ERROR, 500: Outcome.ENGINE_ERROR}
_OF_HINDRANCE = {
    "left": {Outcome.CLIENT_CLOSED},
    "no end": {Outcome.CLIENT_ERROR},
    "no time": {Outcome.TIMEOUT},
    "dies": {Outcome.ENGINE_DIED},
    "garbles": {Outcome.ENGINE_ERROR},
    "hangs": set[Outcome](),
    "rude": {Outcome.ENGINE_UNAVAILABLE, Outcome.ENGINE_DIED},
    "down": {Outcome.ENGINE_UNAVAILABLE},
    "stop": {Outcome.REJECTED, Outcome.PROXY_ERROR},
    "MAX_IN_FLIGHT=1": {Outcome.REJECTED},
    "MAX_BODY_MB=0.1": {Outcome.REJECTED},
    "REQUEST_TIMEOUT=20": {Outcome.TIMEOUT},
    "STREAM_IDLE_TIMEOUT=5": {Outcome.TIMEOUT},
    "/nowhere": {Outcome.CLIENT_ERROR},
}
"""What may come of a request beside what its answer's status says."""
_KEEP_ALIVE = re.compile(rb'(?:: keep-alive|event: ping\ndata: {"type": "ping"})\n\n')
# Of the sidecar's own: a whole body, or an event.
_REFUSAL = re.compile(rb'(?:(?:event: error\n)?data: )?{(?:"type":"error",|"error":[{"])')


class Life:
    """Of a sidecar, with a few clients."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._draw = draw = random.Random(seed)
        self._asks: dict[bytes, Ask] = {}
        self._engine = FakeEngine(draw, self._asks, is_rude=draw.random() < 0.1)
        self._clients: list[Client] = []
        self._records: defaultdict[bytes, list[Record]] = defaultdict(list)
        self._environ = {name: draw.choice(values.split()) for name, values in _DRAWN.items()}
        self._install(monkeypatch)

    def _install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def connect(upstream: Upstream) -> Connection:
            return await self._engine.connect(lambda: Connection(upstream))

        async def is_healthy(_: object) -> bool:
            return not self._engine.is_down

        def note(record: Record) -> None:
            self._records[record.request_id.encode()].append(record)

        monkeypatch.setattr(Upstream, "_connect", connect)
        monkeypatch.setattr("proxy.vllm.probe.Probe.healthy", is_healthy)
        monkeypatch.setattr("proxy.vllm.probe.Probe.served_models", AsyncMock(return_value=("m",)))
        monkeypatch.setattr("proxy.vllm.engine_meter.EngineMeter.run", AsyncMock())
        monkeypatch.setattr(app, "log_request", note)
        for name, module in [*sys.modules.items()]:
            if name.startswith("proxy.") and getattr(module, "monotonic", None) is time.monotonic:
                monkeypatch.setattr(module, "monotonic", now)

    async def run(self) -> None:
        draw, loop, faults = self._draw, asyncio.get_running_loop(), list[dict[str, Any]]()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        sidecar = build(Settings.load(_ENVIRON | self._environ), environ={})
        seconds = sidecar.settings.request_timeout
        self._server = Server(sidecar.dispatch, stall_seconds=BODY_TIMEOUT, request_seconds=seconds)
        await asyncio.sleep(100)  # no moment is 0
        await self._server.start([])
        sidecar.models.start()
        await asyncio.sleep(2)
        clients = [loop.create_task(self._connect()) for _ in range(draw.choice([1, 1, 2, 3]))]
        is_down = draw.random() < 0.3
        downs = [loop.call_later(draw.choice([0, 1, 5]), self._set_down, True)] if is_down else []
        downs += [loop.call_later(draw.choice([6, 15]), self._set_down, False)]
        await asyncio.wait(clients, timeout=draw.choice([0, 0.5, 3, 10, 1000, 1000, 1000]))
        for down in downs:
            down.cancel()
        await self._stop(Lifecycle(sidecar))
        await asyncio.wait([*clients, *self._engine.tasks], timeout=10_000)
        for task in [*clients, *self._engine.tasks]:
            task.result()
        self._check_rest(sidecar)
        for client in self._clients:
            for ask, before in zip(client.asks, [None, *client.asks], strict=False):
                self._check(ask, client, before)
        gc.collect()
        assert not faults

    def _set_down(self, is_down: bool) -> None:
        self._engine.is_down = is_down
        self._hinder("down")

    def _hinder(self, hindrance: str) -> None:
        for client in self._clients:
            for ask in client.asks:
                ask.hindrances |= set() if self._records[ask.id] else {hindrance}

    async def _connect(self) -> None:
        draw, loop = self._draw, asyncio.get_running_loop()
        asks = [Ask(draw, len(self._asks) + at) for at in range(draw.choice([1, 2, 3, 5]))]
        self._asks |= {ask.id: ask for ask in asks}
        hindrances = {f"{name}={value}" for name, value in self._environ.items()}
        hindrances |= {"rude"} if self._engine.is_rude else set()
        for ask in asks:
            ask.hindrances = (hindrances | {ask.path}) & {*_OF_HINDRANCE}
        ours, theirs = two_ends(draw)
        client = Client(draw, ours, asks)
        self._clients.append(client)
        transport, _ = await loop.connect_accepted_socket(self._server._new, theirs)
        set_high_water(draw, transport)
        await client.run()

    async def _stop(self, lifecycle: Lifecycle) -> None:
        self._hinder("stop")
        cut = lifecycle._sidecar.models.admission.cut_now
        hurry = asyncio.get_running_loop().call_later(self._draw.choice([0, 1, 60]), cut)
        lifecycle.announce_stop()
        async with asyncio.timeout(_STOP_SECONDS):
            await lifecycle.shutdown(self._server)
        hurry.cancel()

    def _check_rest(self, sidecar: Sidecar) -> None:
        loop: Any = asyncio.get_running_loop()
        model = sidecar.models.default
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [each for each in loop._scheduled if not each.cancelled()] == []
        assert {*self._server._connections, *model.upstream._open, *model.upstream._idle} == set()
        assert {**model.in_flight._inside, **model.in_flight._bodies} == {}
        admission = model.admission
        assert (admission.in_flight, admission.waiting, admission._room._taken) == (0, 0, 0)
        gauge = sidecar.service.metrics.families[catalogue.IN_FLIGHT]
        assert not any(sample.value for sample in gauge)

    def _check(self, ask: Ask, client: Client, before: Ask | None) -> None:
        records, answer = self._records[ask.id], ask.answer
        assert ask.times_at_engine <= len(records) <= 1
        if answer is None and not ask.hindrances & {"left", "stop"}:
            # The answer before it was the last one, or its request had no end.
            assert before is not None, "no answer"
            last, is_endless = before.answer, before.hindrances & {"no time", "no end"}
            assert last is None or last.closes or not last.is_whole or is_endless, "no answer"
        if not records:
            assert answer is None, "no record"
            return
        record = records[0]
        allowed = {_OF_STATUS[ask.status]}.union(*(_OF_HINDRANCE[each] for each in ask.hindrances))
        assert record.outcome in allowed, f"{record.outcome}, not {allowed}"
        self._check_times(record, client)
        if ask.times_at_engine and ask.path not in TRANSLATED:
            question, is_read = ask.question(), ask.is_answered and not ask.is_early
            assert ask.came == question if is_read else question.startswith(ask.came)
        is_excused = bool(ask.hindrances & {"left", "stop"})
        if record.outcome is Outcome.OK:
            assert ask.times_at_engine
            assert is_excused or (answer is not None and answer.is_whole)
            assert record.bytes_in == len(ask.body) or ask.is_early
            assert record.generated_events == len(ask.words) or not ask.streams
            assert record.completion_tokens in (len(ask.words), None)
        if answer is not None:
            self._check_answer(ask, answer, record, is_excused=is_excused)

    def _check_times(self, record: Record, client: Client) -> None:
        assert record.finished is not None
        if client.left_at is not None and client.leaves == "wholly":
            assert record.finished < max(client.left_at, record.started) + 4, "it works for nobody"
        assert min(record.split_seconds.values()) >= 0
        if self._environ["REQUEST_TIMEOUT"] != "0":
            assert record.duration_seconds < 45

    def _check_answer(self, ask: Ask, answer: Answer, record: Record, *, is_excused: bool) -> None:
        body = _KEEP_ALIVE.sub(b"", answer.body.lstrip(b" "))
        refusal = _REFUSAL.search(body)
        is_refused = refusal is not None or b"x-proxy-error" in answer.named
        if record.outcome is not Outcome.CLIENT_CLOSED:
            assert record.status == answer.status
        if answer.is_whole:
            assert record.bytes_out == len(answer.body)
        if refusal is not None:
            code, body = f'"{record.error}"'.encode(), body[refusal.start() :]
            assert code in body or ask.path == "/v1/messages" or not answer.is_whole
            body = _KEEP_ALIVE.sub(b"", answer.body.lstrip(b" "))[: refusal.start()]
        if is_refused or not answer.is_whole:
            assert record.outcome is not Outcome.OK or is_excused
        elif answer.body[:1] != b" ":
            assert answer.status == ask.status
        if ask.path in TRANSLATED:
            return
        if is_refused or not answer.is_whole:
            assert ask.expected().startswith(body)
        else:
            assert body == ask.expected()
            assert record.outcome is _OF_STATUS[ask.status] or is_excused


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_whatever_happens(
    seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def live() -> None:
        await Life(seed, monkeypatch).run()

    simulate(live())
    bad = [each for each in caplog.records if each.name == "asyncio" or each.levelname == "ERROR"]
    assert [each.getMessage() for each in bad] == []
