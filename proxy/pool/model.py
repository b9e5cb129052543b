"""One model with all that is its own: engine, state, connections, requests in flight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import time
from urllib.parse import urlsplit

from proxy.access.admission import Admission
from proxy.access.poison import PoisonGuard
from proxy.access.waiting_room import WaitingRoom
from proxy.engine.attached import AttachedEngine
from proxy.engine.lifecycle import Engine
from proxy.engine.phase import ENDS, Phase
from proxy.engine.state import EngineState, Snapshot
from proxy.engine.supervisor import Supervisor
from proxy.errors import CutOff, RequestFailure
from proxy.machine.hardware import Hardware
from proxy.preflight.vllm_server import VllmServer
from proxy.relay.in_flight import InFlightRequests
from proxy.relay.upstream import Upstream
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.telemetry.logs import log_in_flight
from proxy.vllm.engine_meter import EngineMeter
from proxy.vllm.probe import Probe

_log = logging.getLogger("proxy")

_SERVING = (Phase.READY, Phase.DEGRADED)
_DEAD = (Phase.RESTARTING, Phase.FAILED)
_STATUS = {
    Phase.READY: "ready",
    Phase.DRAINING: "unloading",
    Phase.FAILED: "failed",
    Phase.STOPPED: "unloaded",
}
# Requests that wait for one of several models hold their bodies meanwhile.
_MAX_HELD = 64


class ServedModel:
    """What fails, loads or dies in one of them touches no other."""

    def __init__(self, settings: Settings, room: WaitingRoom, names: tuple[str, ...] = ()) -> None:
        """`room` has the places at its engine. `names` are those that requests may use, where there
        are several models; the first one is its name in logs, metrics and answers."""
        self.settings = settings
        self.names = names
        self.name = names[0] if names else ""
        self.state = EngineState(self.name or None)
        self.entries: dict[str, bytes] = {}
        """The engine's own entries of `/v1/models`, as of its last start."""
        self.created = int(time())
        self._change = asyncio.Event()
        self._is_loading = False
        self.admission = Admission(
            self.state.refusal,
            self.state.wait_until_settled,
            _hold_seconds(settings),
            room,
            max_held=(settings.max_waiting or _MAX_HELD) if names else None,
        )
        self.poison = PoisonGuard(enabled=settings.poison_guard)
        self.in_flight = InFlightRequests(self.poison)
        host, port = _engine_address(settings)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.upstream = Upstream(host, port, authority, retry_after=self.state.retry_after)
        self.probe = Probe(f"http://{authority}")
        self.meter = EngineMeter(self.probe, self.state)
        self.cut_sessions: Callable[[RequestFailure], None] = lambda failure: None
        """Ends the WebSocket sessions to its engine."""
        self.hardware: Callable[[], Hardware] = Hardware
        """The machine that the engine runs on, as far as that is ours."""
        self.engine = self._supervisor()
        self.state.listen(self._report_lost_requests)
        self.state.listen(self._on_change)

    @property
    def status(self) -> str:
        """As `/v1/models` shows it."""
        phase = self.state.snapshot.phase
        if phase in _STATUS:
            return _STATUS[phase]
        return "loading" if self._is_loading else "unloaded"

    def may_be_used_by(self, key: str | None) -> bool:
        return not self.settings.model_keys or key in self.settings.model_keys

    async def changed(self) -> None:
        """Returns when the engine has come to another phase."""
        await self._change.wait()

    async def fetch(self, on_end: Callable[[ServedModel], None]) -> None:
        """Bring all files here, without a start. `on_end` is called when they are, or cannot be
        had; returns then, or when that has failed and is tried again."""
        fetching = self.engine.start(fetches_only=True)
        fetching.add_done_callback(lambda _: on_end(self))
        while not fetching.done() and self.state.snapshot.phase is not Phase.RESTARTING:
            change = spawn(self._change.wait(), name="model change")
            await asyncio.wait({fetching, change}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()

    async def load(self) -> bool:
        """Start the engine; true when it is ready, false when it cannot be started, or when its
        files cannot be had yet: that is tried again without an end."""
        self._is_loading = True
        self.engine.start()
        while True:
            await self.changed()
            now = self.state.snapshot
            if now.phase in (Phase.READY, *ENDS):
                return now.phase is Phase.READY
            if now.phase is Phase.RESTARTING and now.model_path is None:
                return False

    def _on_change(self, before: Snapshot, after: Snapshot) -> None:
        if after.phase is before.phase:
            return
        self._change.set()
        self._change = asyncio.Event()
        if after.phase is Phase.READY and self.name:
            spawn(self._read_entries(), name="model entries")

    async def _read_entries(self) -> None:
        self.entries = await self.probe.model_entries() or self.entries

    def _supervisor(self) -> Supervisor:
        settings, state = self.settings, self.state
        if settings.upstream_url:
            return AttachedEngine(settings, state, self.probe, self._drained, self.in_flight)
        server = VllmServer(settings, state, self.probe)
        self.hardware = lambda: server.hardware
        return Engine(settings, state, server, self._drained, self.in_flight)

    async def _drained(self, seconds: float) -> bool:
        """Wait for running requests; cut those that still run then."""
        is_drained = await self.admission.wait_idle(seconds)
        if not is_drained:
            self.cut()
        return is_drained

    def cut(self) -> None:
        """End all that still runs at its engine, for good."""
        failure = CutOff("This server was shut down before the answer was whole.")
        self.upstream.cut(failure)
        self.cut_sessions(failure)

    def _report_lost_requests(self, before: Snapshot, after: Snapshot) -> None:
        """The engine has died: log the requests that it has lost, and suspect them."""
        if not (before.phase in _SERVING and after.phase in _DEAD):
            return
        lost = self.in_flight.pop_lost()
        log_in_flight([record for record, _ in lost])
        fingerprints = (fingerprint for _, fingerprint in lost if fingerprint is not None)
        refused = self.poison.died(fingerprints)
        for record, fingerprint in lost:
            if fingerprint in refused:
                _log.warning(
                    "the engine has died of this request again: refused for ten minutes",
                    extra={"fields": {"request_id": record.request_id}},
                )


def _hold_seconds(settings: Settings) -> float:
    """A request that is held longer than it may take in all has nothing left to do."""
    return min(settings.hold_seconds, settings.request_timeout or settings.hold_seconds)


def _engine_address(settings: Settings) -> tuple[str, int]:
    if settings.upstream_url is None:
        return "127.0.0.1", settings.upstream_port
    url = urlsplit(settings.upstream_url)
    return url.hostname or "127.0.0.1", url.port or 80
