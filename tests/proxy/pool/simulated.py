"""A pod of models in simulated time: the real scheduler, on a loop whose clock jumps ahead.

Each promise of `proxy.pool.plan` is checked at the moment at which it could be broken.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, Self, TypeVar

from proxy.pool.plan import Action, Budget, ModelState, ModelView, Reason
from proxy.pool.scheduler import Outcome, Scheduler, Transition
from proxy.tasks import spawn

_T = TypeVar("_T")
_P = ParamSpec("_P")
TOLERANCE = 1e-3
"""Seconds; for sums of floating-point numbers."""


class _SimulatedLoop(asyncio.SelectorEventLoop):
    """Where all that is left to do is to wait for a time, it is that time."""

    def __init__(self) -> None:
        self._now = 0.0
        self.broken: AssertionError | None = None
        selector = selectors.SelectSelector()
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            if self.broken is not None:
                broken, self.broken = self.broken, None
                raise broken
            order = list(selector.get_map())
            ready = sorted(select(0), key=lambda each: order.index(each[0].fd))
            if not ready:
                assert timeout is not None, "everything waits for what never comes"
                self._now += max(timeout, 1e-9)
            return ready

        selector.select = jump  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._now


def simulate(main: Coroutine[Any, Any, _T]) -> _T:
    """Run it to its end; hours of it take no time."""
    with asyncio.Runner(loop_factory=_SimulatedLoop) as runner:
        return runner.run(main)


def simulated(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """A test whose hours take no time."""

    @wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        simulate(test(*args, **kwargs))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


@contextmanager
def fatal() -> Iterator[None]:
    """What is broken ends the simulation; the scheduler would log it, and go on."""
    try:
        yield
    except AssertionError as error:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _SimulatedLoop)
        loop.broken = error
        raise


class Gone(Exception):
    """The client has left before its turn."""


class LoadFailed(Exception):
    """What those get who waited for a model that cannot be loaded."""


@dataclass(frozen=True)
class Served:
    """A request that got its answer."""

    model: str
    came: float
    waited: float


@dataclass
class FakeModel:
    """One model; loads, unloads and requests take as long as they are told to."""

    name: str
    gpus: tuple[int, ...] = (0,)
    memory_bytes: int = 10
    load_seconds: float = 10.0
    unload_seconds: float = 1.0
    pinned: bool = False
    idle_unload_seconds: float = 0.0
    is_measured: bool = True
    failures: int = 0
    """How many of its next loads fail."""
    may_sleep: bool = False
    asleep_bytes: int = 0
    wake_seconds: float = 1.0
    sleep_failures: int = 0
    """How many of its next sleeps fail: it ends."""
    wakes_badly: bool = False
    """Its first wake fails: it is started afresh, and sleeps no more."""
    state: ModelState = ModelState.UNLOADED
    is_closing: bool = False
    in_flight: int = 0
    served: list[Served] = field(default_factory=list)
    loads: int = 0
    wakes: int = 0

    def __post_init__(self) -> None:
        self.since = self.last_used = 0.0
        self.restart: asyncio.Task[None] | None = None
        self.wanted_since: float | None = None
        self.waiters: dict[asyncio.Future[None], float] = {}
        self.is_ended = asyncio.Event()
        self.changed: Callable[[], None] = lambda: None
        self.is_awaited = False
        self.pod: Pod | None = None

    @property
    def view(self) -> ModelView:
        return ModelView(
            self.name,
            self.state,
            self.since,
            self.gpus,
            self.memory_bytes if self.is_measured else None,
            self.expected_seconds,
            self.pinned,
            self.is_closing,
            self.in_flight,
            len(self.waiters),
            min(self.waiters.values(), default=None),
            self.last_used,
            self.idle_unload_seconds,
            may_sleep=self.may_sleep,
            asleep_bytes=self.asleep_bytes,
        )

    @property
    def expected_seconds(self) -> float:
        """Of its next load; its newest one where it is loaded."""
        return self.wake_seconds if self.wakes else self.load_seconds

    @property
    def taken_bytes(self) -> int:
        return self.asleep_bytes if self.state is ModelState.ASLEEP else self.memory_bytes

    async def request(self, seconds: float, patience: float | None = None) -> Served:
        """Raises Gone, LoadFailed."""
        came = now()
        while self.state is not ModelState.READY or self.is_closing:
            await self._wait(came, patience)
        self.in_flight += 1
        self.last_used = now()
        served = Served(self.name, came, now() - came)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.in_flight -= 1
            self.last_used = now()
            if not self.in_flight and self.is_awaited:
                self.changed()
        self.served.append(served)
        return served

    async def _wait(self, came: float, patience: float | None) -> None:
        """It is counted here until it runs on, and then in `in_flight` at once."""
        place = asyncio.get_running_loop().create_future()
        self.waiters[place] = came
        self.changed()
        try:
            async with asyncio.timeout_at(None if patience is None else came + patience):
                await place
        except TimeoutError:
            raise Gone from None
        finally:
            del self.waiters[place]
            self.changed()

    def _enter(self, state: ModelState) -> None:
        self.state, self.since = state, now()
        if state is ModelState.READY:
            self._release()
        self.changed()

    def _release(self, failure: Exception | None = None) -> None:
        for place in self.waiters:
            if not place.done():
                place.set_result(None) if failure is None else place.set_exception(failure)

    async def load(self) -> bool:
        assert self.state in (ModelState.UNLOADED, ModelState.FAILED, ModelState.ASLEEP)
        assert self.pod is not None
        with fatal():
            self.pod.check_load(self)
        if self.state is ModelState.ASLEEP:
            return await self._wake()
        self.wakes = 0
        self.loads += 1
        self.is_ended.clear()
        self._enter(ModelState.LOADING)
        if await self._ends_within(self.load_seconds):
            return False
        if self.failures:
            self.failures -= 1
            self._release(LoadFailed())
            self._enter(ModelState.FAILED)
            return False
        self.is_measured = True
        self._enter(ModelState.READY)
        return True

    async def _wake(self) -> bool:
        self.is_ended.clear()
        self._enter(ModelState.LOADING)
        if await self._ends_within(self.wake_seconds):
            return False
        if self.wakes_badly:
            self.wakes_badly = self.may_sleep = False
            self.restart = spawn(self._start_afresh(), name=f"restart of {self.name}")
            return False
        self.wakes += 1
        self._enter(ModelState.READY)
        return True

    async def _start_afresh(self) -> None:
        """By itself, as engines are restarted."""
        self.wakes = 0
        if not await self._ends_within(self.load_seconds):
            self._enter(ModelState.READY)

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.is_ended.wait()
        except TimeoutError:
            return False
        return True

    async def sleep(self) -> bool:
        assert self.may_sleep
        assert self.pod is not None
        with fatal():
            assert self.state is ModelState.READY
            self.pod.check_unload(self)
        self._enter(ModelState.UNLOADING)
        await asyncio.sleep(self.unload_seconds)
        if self.is_ended.is_set():  # with the pod
            return False
        fails = self.sleep_failures > 0
        self.sleep_failures -= fails
        self._enter(ModelState.UNLOADED if fails else ModelState.ASLEEP)
        return not fails

    async def unload(self) -> None:
        if self.state in (ModelState.UNLOADED, ModelState.FAILED):
            return
        assert self.pod is not None
        with fatal():
            self.pod.check_unload(self)
        self.is_ended.set()
        self._enter(ModelState.UNLOADING)
        await asyncio.sleep(self.unload_seconds)
        self._enter(ModelState.UNLOADED)

    def close(self) -> None:
        with fatal():
            has_served = self.in_flight or self.last_used >= self.since
            assert has_served or not self.waiters, "it gives way before it has served those"
        self.is_closing = True

    def reopen(self) -> None:
        self.is_closing = False
        if self.state is ModelState.READY:
            self._release()

    def fetch_again(self) -> None:
        pass

    def notify_unused(self, *, wanted: bool) -> None:
        self.is_awaited = wanted

    def refuse_waiting(self) -> None:
        assert self.waiters
        self._release(LoadFailed())


class Pod:
    """Models with their scheduler. `budget_bytes` is of each device."""

    def __init__(
        self,
        *models: FakeModel,
        budget_bytes: int = 10,
        max_loaded: int | None = None,
        max_wait_seconds: float = 60.0,
        preload: Sequence[str] = (),
    ) -> None:
        self.models = {model.name: model for model in models}
        devices = {device for model in models for device in model.view.devices}
        self.memory_bytes = dict.fromkeys(devices, budget_bytes)
        self.budget = Budget(self.memory_bytes, self.memory_bytes, max_loaded, max_wait_seconds)
        self.transitions: list[Transition] = []
        self.scheduler = Scheduler(
            lambda: models, lambda: self.budget, [self.transitions.append], preload, now
        )
        for model in models:
            model.changed, model.pod = self.scheduler.notify, self
        self.is_stopping = False

    async def __aenter__(self) -> Self:
        self._task = spawn(self.scheduler.run(), name="scheduler")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert not self._task.done(), self._task
        self._task.cancel()
        self.is_stopping = True
        await self.scheduler.stop()
        states = {model.state for model in self.models.values()}
        assert states <= {ModelState.UNLOADED, ModelState.FAILED}

    def loads(self) -> list[str]:
        """The models that were loaded, in the order in which they became ready."""
        return [
            each.step.model.name
            for each in self.transitions
            if each.step.action is Action.LOAD and each.outcome is Outcome.OK
        ]

    def _others(self, model: FakeModel, *states: ModelState) -> list[FakeModel]:
        """Those on a device of this one."""
        devices = set(model.view.devices)
        return [
            other
            for other in self.models.values()
            if other is not model
            and other.state in states
            and not devices.isdisjoint(other.view.devices)
        ]

    def check_load(self, model: FakeModel) -> None:
        """It is the only transition on its devices, fits, and takes nobody's turn."""
        self._check_alone(model)
        loaded = (ModelState.READY, ModelState.LOADING, ModelState.UNLOADING)
        beside = self._others(model, *loaded, ModelState.ASLEEP)
        if not model.is_measured:
            assert all(each.pinned for each in beside), "a first load is not alone"
            left = [
                room - sum(each.taken_bytes for each in beside if device in each.view.devices)
                for device, room in self.memory_bytes.items()
                if device in model.view.devices
            ]
            model.memory_bytes = min(model.memory_bytes, *left)
        for device in model.view.devices:
            taken = sum(each.taken_bytes for each in beside if device in each.view.devices)
            assert taken + model.memory_bytes <= self.memory_bytes[device], "over budget"
        if self.budget.max_loaded is not None:
            count = sum(each.state in loaded for each in self.models.values())
            assert count < self.budget.max_loaded, "too many are loaded"
        self._check_turn(model)

    def _check_turn(self, model: FakeModel) -> None:
        step = self.scheduler.transition(model.name)
        assert step is not None
        if step.reason in (Reason.ORDERED, Reason.PINNED):
            return
        asked = step.model.oldest_wait_since
        for other in self._others(model, ModelState.UNLOADED, ModelState.ASLEEP):
            oldest = other.view.oldest_wait_since
            if oldest is None or self.scheduler.obstacle(other.name):
                continue
            if now() > oldest + self.budget.max_wait_seconds + TOLERANCE:
                assert asked is not None, "a preload goes before an overdue model"
                assert asked <= oldest, f"{model.name} is loaded before {other.name}, overdue"

    def check_unload(self, model: FakeModel) -> None:
        """It is the only transition on its devices, and nothing is taken from anybody."""
        if self.is_stopping:
            return
        self._check_alone(model)
        assert model.in_flight == 0, "a busy model is unloaded"
        step = self.scheduler.transition(model.name)
        assert step is not None
        if step.reason in (Reason.MAKE_ROOM, Reason.ABANDONED):
            assert not model.pinned, "a pinned model gives way"
        if step.reason is Reason.ABANDONED:
            assert model.state is ModelState.LOADING
            assert not model.waiters
            assert now() <= model.since + model.expected_seconds / 2 + TOLERANCE
        if step.reason is Reason.MAKE_ROOM and model.state is not ModelState.ASLEEP:
            assert model.state is ModelState.READY
            resident = now() - model.since
            assert resident >= model.expected_seconds - TOLERANCE, "residency is cut short"

    def _check_alone(self, model: FakeModel) -> None:
        beside = self._others(model, ModelState.LOADING, ModelState.UNLOADING)
        assert not beside, f"{model.name} beside the transition of {beside}"
