"""One model with all that is its own: engine, state, connections, requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic, time
from types import MappingProxyType
from typing import Any

from proxy.access.admission import Admission, WaitingRoom
from proxy.access.poison import PoisonGuard
from proxy.engine.attached import AttachedEngine
from proxy.engine.lifecycle import Engine
from proxy.engine.phase import ENDS, START_PHASES, Phase
from proxy.engine.state import EngineState, Snapshot
from proxy.engine.supervisor import Supervisor
from proxy.errors import (
    CutOff,
    EngineFailed,
    EngineUnavailable,
    ModelNotFound,
)
from proxy.machine.hardware import Hardware
from proxy.models.several import names_of
from proxy.pool.engine_clients import EngineClients
from proxy.pool.lost_requests import report_lost
from proxy.pool.memory import PoolMemory, Reading
from proxy.pool.plan import ModelState, ModelView
from proxy.pool.scheduler import Scheduler
from proxy.preflight.sizing import Sizing
from proxy.preflight.vllm_server import VllmServer
from proxy.relay.in_flight import InFlightRequests
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.vllm.engine_meter import EngineMeter
from proxy.vllm.flags import adapter_names, gpus_taken

_SERVING = (Phase.READY, Phase.DEGRADED)
_DEAD = (Phase.RESTARTING, Phase.FAILED)
_CAN_LOAD = (ModelState.UNLOADED, ModelState.ASLEEP)
_STATES = {
    Phase.READY: ModelState.READY,
    Phase.DEGRADED: ModelState.READY,
    Phase.DRAINING: ModelState.UNLOADING,
    Phase.ASLEEP: ModelState.ASLEEP,
    Phase.WAKING: ModelState.LOADING,
    Phase.FAILED: ModelState.FAILED,
    **dict.fromkeys(START_PHASES, ModelState.LOADING),
}
# What is known of an engine that was not prepared yet.
_UNPREPARED: dict[str, Any] = {
    **dict.fromkeys(("model_path", "revision", "downloaded_bytes", "download_bytes")),
    "arguments": (),
    "expected_seconds": MappingProxyType({}),
}
# Requests that wait for one of several models hold their bodies meanwhile.
_MAX_HELD = 64
# How often a list of models is asked for that does not come.
_ENTRIES_SECONDS = 5.0


class ServedModel:
    """What fails, loads or dies in one of them touches no other."""

    def __init__(self, settings: Settings, room: WaitingRoom, names: tuple[str, ...] = ()) -> None:
        """`room` has the places at its engine. `names` are those that requests may use, where there
        are several models; the first one is its name in logs, metrics and answers. Raises
        SettingsError, see `EngineClients`."""
        self.settings = settings
        """What its engine was made of."""
        self.successor: Settings | None = None
        """What it is made of once its engine has ended, where a reload has changed that."""
        self.is_leaving = False
        """A reload ends its engine: for another one, or, if it `is_removed`, for good."""
        self.is_removed = False
        self.wants_files = True
        """Nobody has looked yet whether its files are here."""
        self.names = names
        self.name = names[0] if names else ""
        self.adapters = adapter_names(settings)
        """Names of LoRA adapters, which its engine serves beside the model."""
        self.state = EngineState(self.name or None)
        self.entries: dict[str, bytes] = {}
        """The engine's own entries of `/v1/models`, as of its last start."""
        self.created = int(time())
        self._change = asyncio.Event()
        self.pinned = settings.is_pinned
        self.memory: PoolMemory | None = None
        """Reads the devices of all models."""
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._may_start = False
        """From the beginning of a load until that of the next unload."""
        self._is_loading = self._is_unloading = self._is_failing = False
        self._has_been_ready = False
        self._model_state = ModelState.UNLOADED
        self._since = monotonic()
        self.scheduler: Scheduler | None = None
        """What loads and unloads it; None where someone else runs its engine."""
        self.order_files: Callable[[], None] = lambda: None
        """Has its files fetched, for an engine that is made anew or was given up before."""
        self.admit_load: Callable[[str | None], None] = lambda key: None
        """Counts a load that a request of an API key brings about, or refuses the request."""
        self._payers: set[str | None] = set()
        """The keys for which its next load is counted already."""
        self._room = room
        self.places_of: Callable[[Settings], int | None] = lambda settings: settings.max_in_flight
        """How many requests may be at its engine."""
        self.admission = Admission(
            self.refusal,
            self._until_usable,
            _hold_seconds(settings),
            room,
            max_held=(settings.max_waiting or _MAX_HELD) if names else None,
            on_hold=self._want_load,
            on_wait=self._notify,
        )
        self.poison = PoisonGuard(enabled=settings.poison_guard)
        self.in_flight = InFlightRequests(self.poison)
        self._use_settings()
        self.meter = EngineMeter(self.probe, self.state)
        self._server: VllmServer | None = None
        self.hardware: Callable[[], Hardware] = Hardware
        """The machine that the engine runs on, as far as that is ours."""
        self.engine = self._make_engine()
        self.state.listen(self._on_change)

    def _use_settings(self) -> None:
        self.clients = EngineClients(self.settings, self.state.retry_after)
        self.upstream, self.probe = self.clients.upstream, self.clients.probe
        self._gpus_taken = gpus_taken(self.settings)

    @property
    def target(self) -> Settings:
        """What it is made of, or is to be."""
        return self.successor or self.settings

    @property
    def status(self) -> ModelState:
        """As `/v1/models` shows it."""
        phase = self.state.snapshot.phase
        if phase in (Phase.READY, *ENDS):
            return self.model_state
        if self.settings.upstream_url is not None:
            return ModelState.UNLOADED
        is_coming = self._is_ordered and self.model_state is ModelState.UNLOADED
        return ModelState.LOADING if is_coming or phase is Phase.DEGRADED else self.model_state

    @property
    def _is_ordered(self) -> bool:
        """Its load is ordered. That of the first model is from the start."""
        return self.scheduler is not None and self.scheduler.is_ordered(self.name)

    @property
    def model_state(self) -> ModelState:
        """Where it stands for the scheduler."""
        phase = self.state.snapshot.phase
        if phase is Phase.RESTARTING:  # it has its memory still, or will have it again
            return ModelState.LOADING if self.is_here else ModelState.UNLOADED
        return _STATES.get(phase, ModelState.UNLOADED)

    @property
    def is_closing(self) -> bool:
        """It lets no request in, ready or not."""
        return not self._is_open.is_set()

    @property
    def is_between_loads(self) -> bool:
        """It was ready, and is unloaded or asleep now or on its way between the two."""
        is_moving = self._is_loading or self._is_unloading
        return self._has_been_ready and (is_moving or self.model_state in _CAN_LOAD)

    @property
    def is_here(self) -> bool:
        """Its files are on this machine."""
        return self.state.snapshot.model_path is not None

    @property
    def last_used(self) -> float:
        """When the last request for it began or ended (monotonic seconds)."""
        return self.admission.last_request

    @property
    def sizing(self) -> Sizing | None:
        """None until its files are here."""
        return None if self._server is None else self._server.sizing

    @property
    def kv_cache_bytes(self) -> int | None:
        """What the engine has given to its KV cache on each GPU; 0: it has none; None: unknown."""
        return None if self._server is None else self._server.kv_cache_bytes

    @property
    def pid(self) -> int | None:
        """The engine's process, with all others of it below."""
        return self.engine.pid

    @property
    def memory_bytes(self) -> int | None:
        """What it takes of each of its GPUs, or of the machine: as measured, or else as declared.
        None: neither is known."""
        return None if self.sizing is None else self.sizing.needed_bytes

    @property
    def is_measured(self) -> bool:
        """A start of it has shown what it takes."""
        return self.sizing is not None and self.sizing.footprint is not None

    @property
    def view(self) -> ModelView:
        """As the scheduler sees it."""
        now, sizing = self.state.snapshot, self.sizing
        sleeper = None if self._server is None else self._server.sleeper
        return ModelView(
            name=self.name,
            state=self.model_state,
            since=self._since,
            # Before the machine has been looked at, as they are named.
            gpus=tuple(gpu.index for gpu in self.hardware().gpus[: self._gpus_taken])
            or self.settings.gpus,
            memory_bytes=self.memory_bytes,
            load_seconds=now.wake_seconds or now.expected_start_seconds,
            pinned=self.pinned,
            is_closing=self.is_closing,
            in_flight=self.admission.at_engine,
            waiting=self.admission.waiting,
            oldest_wait_since=self.admission.oldest_wait,
            last_used=self.last_used,
            idle_unload_seconds=self.target.idle_limit_seconds,
            is_here=self.is_here,
            is_starting=now.phase in START_PHASES,
            is_failing=self._is_failing,
            is_leaving=self.is_leaving,
            may_sleep=sleeper is not None and sleeper.may_sleep,
            asleep_bytes=0 if sizing is None else sizing.asleep_bytes,
        )

    def may_be_used_by(self, key: str | None) -> bool:
        keys = self.target.model_keys
        return not keys or key in keys

    async def changed(self) -> None:
        """Returns when the engine has come to another phase, or its files are here."""
        await self._change.wait()

    def start(self) -> None:
        """Bring its files here, and load it when the scheduler says so."""
        self.wants_files = False
        self.engine.start()

    async def fetch(self) -> None:
        """Bring all files here, without a start. Returns when they are, or cannot be had, or when
        that has failed and is tried again."""
        self.wants_files = False
        fetching = self.engine.start(fetches_only=True)
        while not fetching.done() and self.state.snapshot.phase is not Phase.RESTARTING:
            change = spawn(self._change.wait(), name="model change")
            await asyncio.wait({fetching, change}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()

    # What the scheduler does with it, as a `ModelHandle`

    async def load(self) -> bool:
        self._may_start = True
        self._notify()
        self._payers.clear()
        self._is_loading = True
        is_asleep = self.state.snapshot.phase is Phase.ASLEEP
        if isinstance(self.engine, Engine) and is_asleep:
            self.engine.wake()
        elif not self.engine.is_running:
            self.engine.start()
        try:
            while True:
                await self.changed()
                phase = self.state.snapshot.phase
                if phase in (*_SERVING, Phase.RESTARTING, *ENDS):
                    break
            if phase in _SERVING and self.memory is not None and not is_asleep:
                await self.memory.after_start(self)
            return phase in _SERVING
        finally:
            self._is_loading = False

    async def sleep(self) -> bool:
        self._may_start = False
        self._is_unloading = True
        try:
            if isinstance(self.engine, Engine) and await self.engine.sleep():
                if self.memory is not None:
                    await self.memory.after_sleep(self)
                return True
        finally:
            self._is_unloading = False
        await self.unload()
        return False

    async def unload(self) -> None:
        self._may_start = False
        self._is_unloading = True
        try:
            before: Reading = {}
            if self.memory is not None and self.view.holds_memory:
                before = await self.memory.before_stop(self)
            await self.engine.stop()
            if self.memory is not None:
                await self.memory.after_stop(self, before)
            if self.successor is not None:  # its next engine is made by the newest settings
                self.settings, self.successor = self.successor, None
                spawn(self.clients.close(), name="old clients")
                self._use_settings()
                self.meter.probe = self.probe
                if self._server is not None:
                    self._server.close()
                self.engine = self._make_engine()
                self.state.update(**_UNPREPARED)
                if self.state.snapshot.phase is Phase.FAILED:  # of this one nothing is known yet
                    self.state.enter(Phase.CHECKING)
                self.wants_files = True
                self.order_files()
        finally:
            self._is_unloading = False

    def close(self) -> None:
        self._is_open.clear()
        self.admission.is_open = False

    def reopen(self) -> None:
        self._is_open.set()
        self.admission.is_open = self.state.snapshot.ready

    def fetch_again(self) -> None:
        has_failed = self.state.snapshot.phase is Phase.FAILED and not self.engine.is_running
        if has_failed and not self.is_here:
            self.wants_files = True
            self.order_files()

    def notify_unused(self, *, wanted: bool) -> None:
        self.admission.on_empty = self._notify if wanted else None

    def refuse_waiting(self) -> None:
        self.admission.end_holds()  # `refusal` says why

    # What a reload does with it

    def adopt(self, settings: Settings) -> None:
        """Its settings are others: what concerns its requests holds at once, the rest for its next
        engine, which is made once this one has ended."""
        if settings.is_pinned != self.target.is_pinned:
            self.pinned = settings.is_pinned
        self.successor = settings
        if self.names:
            self.names = names_of(settings)
        self.adapters = adapter_names(settings)
        self._room.resize(self.places_of(settings))
        self.admission.hold_seconds = _hold_seconds(settings)

    def leave(self) -> None:
        """Let no request in any more; those that come wait for its next engine, or are told that
        there is none."""
        self.is_leaving = True
        self.entries = {}
        self.close()
        if self.is_removed:
            self.pinned = False
            text = f"There is no model {self.name} here any more. See GET /v1/models."
            self.admission.close(lambda: ModelNotFound(text, param="model"))

    def stand_in_for(self, other: ServedModel) -> None:
        """It is the default from now on: the pod stays as good as with the one before."""
        self._has_been_ready = self._has_been_ready or other._has_been_ready

    def refusal(self) -> EngineUnavailable | None:
        """None where its engine takes requests; else why not, and when to ask again."""
        if self.is_closing and self.state.snapshot.ready:
            text = "The model gives way to another one, or is unloaded. See GET /health."
            return EngineUnavailable(text, retry_after_seconds=self.state.retry_after())
        refusal, scheduler = self.state.refusal(), self.scheduler
        if self.is_removed or refusal is None or scheduler is None:
            return refusal
        if self.model_state not in _CAN_LOAD:
            return refusal
        if (obstacle := scheduler.obstacle(self.name)) is not None:
            return EngineFailed(f"{obstacle}. See GET /health.")
        return refusal

    def _want_load(self, key: str | None) -> None:
        """A request has to wait: where it thereby brings a load about, that is counted.

        Raises:
            RateLimited: its key has had as many as it may have.
        """
        scheduler = self.scheduler
        if scheduler is None or self.is_leaving:  # its next load is the reload's
            return
        can_load = self.model_state in _CAN_LOAD
        if not can_load and not self.is_closing:
            return
        has_waiting = self.admission.oldest_wait is not None
        is_wanted = self.pinned or has_waiting or scheduler.is_coming(self.name)
        if not is_wanted and key not in self._payers:
            self.admit_load(key)
            self._payers.add(key)
        if can_load and not self.admission.hold_seconds:
            scheduler.order_load(self.name)  # the request does not wait, the next one finds it

    async def _until_usable(self) -> None:
        """Returns when the engine takes requests, or cannot be started any more."""
        while True:
            await self._is_open.wait()
            await self.state.wait_until_settled()
            if self._is_open.is_set() and self.state.is_settled:
                return

    async def wait_for_turn(self) -> bool:
        """Before each start of an engine process; false where its load is not ordered any more."""
        scheduler, memory = self.scheduler, self.memory
        assert scheduler is not None
        assert memory is not None
        await scheduler.until(lambda: self._may_start or not self._is_ordered)
        if not self._may_start:
            return False
        await memory.before_start(self)
        await scheduler.turn(self.name)
        return True

    def _notify(self) -> None:
        """Something has changed that the scheduler goes by."""
        if self.scheduler is not None:
            self.scheduler.notify()

    def _on_change(self, before: Snapshot, after: Snapshot) -> None:
        if after.phase is before.phase and after.model_path == before.model_path:
            return
        self.admission.is_open = after.ready and not self.is_closing
        if before.phase in _SERVING and after.phase in _DEAD:
            report_lost(self.in_flight, self.poison)
        if after.phase is Phase.RESTARTING:
            has_worked = before.phase in (*_SERVING, Phase.WAKING)
            self._is_failing = self.is_here and not has_worked
        elif after.phase in (*_SERVING, *ENDS):
            self._is_failing = False
            self._has_been_ready = self._has_been_ready or after.ready
        if after.phase is Phase.FAILED:
            self.reopen()  # those that wait are told
        if (model_state := self.model_state) is not self._model_state:
            self._model_state, self._since = model_state, monotonic()
        self._change.set()
        self._change = asyncio.Event()
        self._notify()
        if after.phase is Phase.READY and self.name:
            spawn(self._read_entries(), name="model entries")
        if after.ready and before.phase is Phase.WARMING and not self._is_loading:
            spawn(self._measure(), name="memory of a restart")

    async def _measure(self) -> None:
        """It was started again by itself, maybe because its first start had failed."""
        if self.memory is not None:
            await self.memory.after_start(self)
            self._notify()

    async def _read_entries(self) -> None:
        """It listed its models before it was ready; busy now, it may be late with the list."""
        while self.state.snapshot.ready:
            if entries := await self.probe.model_entries():
                self.entries = entries
                return
            await asyncio.sleep(_ENTRIES_SECONDS)

    def _make_engine(self) -> Supervisor:
        settings, state = self.settings, self.state
        if settings.upstream_url:
            return AttachedEngine(settings, state, self.probe, self._drained, self.in_flight)
        self._server = server = VllmServer(settings, state, self.probe, self.clients.socket)
        self.hardware = lambda: server.hardware
        return Engine(settings, state, server, self._drained, self.in_flight, self.wait_for_turn)

    async def _drained(self, seconds: float) -> bool:
        """Wait for running requests; cut those that still run then."""
        if self._is_unloading:  # those that are inside wait for its next start
            return True
        is_drained = await self.admission.wait_idle(seconds)
        if not is_drained:
            self.cut()
        return is_drained

    def cut(self, why: str = "This server was shut down") -> None:
        """End all that still runs at its engine, for good."""
        self.upstream.cut(CutOff(f"{why} before the answer was whole."))


def _hold_seconds(settings: Settings) -> float:
    """A request that is held longer than it may take in all has nothing left to do."""
    return min(settings.hold_seconds, settings.request_timeout or settings.hold_seconds)
