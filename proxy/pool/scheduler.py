"""The one task that loads and unloads models, and has them sleep and wake.

Whatever happens (a request comes or leaves, an engine becomes ready or dies), `notify` wakes it. It
asks `plan` for the next step, takes it, and plans anew. Loads and unloads are tasks of its own: a
client that leaves takes none of them along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from time import monotonic
from typing import Protocol

from proxy.pool.plan import (
    Action,
    Budget,
    ModelState,
    ModelView,
    Orders,
    Reason,
    Step,
    has_room,
    next_step,
    obstacle,
)
from proxy.tasks import spawn

_log = logging.getLogger("proxy.pool")

_AFTER_FAULT_SECONDS = 1.0
RETRY_SECONDS = 30.0
"""After a load that failed, requests for the model bring the next one no sooner."""


class ModelHandle(Protocol):
    """What the scheduler knows of one model."""

    @property
    def view(self) -> ModelView: ...

    async def load(self) -> bool:
        """Start its engine, or wake it. Returns when the model is ready (True), or when that was
        ended or has failed (False); the engine may then start again by itself (`MAX_RESTARTS`)."""

    async def sleep(self) -> bool:
        """Have its engine, on which nothing runs, give its memory back; True when it sleeps. False
        when it would not, and has been ended."""

    async def unload(self) -> None:
        """End its engine, also while it loads or sleeps; returns when the engine is gone."""

    def close(self) -> None:
        """Let no request in: those that come wait as for a model that is not loaded."""

    def reopen(self) -> None:
        """Undo `close`."""

    def fetch_again(self) -> None:
        """A load is ordered: where its files could not be had, try to get them. It is not loaded
        before they are here."""

    def notify_unused(self, *, wanted: bool) -> None:
        """Whether to call `Scheduler.notify` when its last request ends. Mostly no step follows,
        and there is such an end after each request that is alone."""

    def refuse_waiting(self) -> None:
        """It has become one that can never be loaded: answer the requests that wait for it."""


class Outcome(StrEnum):
    """How a load or an unload ended; a closed set, for logs and metrics."""

    OK = "ok"
    FAILED = "failed"
    ABANDONED = "abandoned"
    """A load that was ended for another model, or a load or a sleep with the sidecar."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One load, sleep or unload, as it ended."""

    step: Step
    outcome: Outcome
    seconds: float


Observer = Callable[[Transition], None]


@dataclass(frozen=True, slots=True)
class _Running:
    """A load, a sleep or an unload that has begun."""

    step: Step
    state: ModelState
    since: float


class Scheduler:
    """The only one that loads and unloads the models of a pod."""

    def __init__(
        self,
        handles: Callable[[], Iterable[ModelHandle]],
        budget: Callable[[], Budget],
        observers: Iterable[Observer] = (),
        preload: Sequence[str] = (),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`preload`: what is loaded at the start. The first is loaded as if a request waited for
        it, the others in this order while there is room. `clock`: monotonic seconds."""
        self._handles = handles
        self._budget = budget
        self.observers = list(observers)
        """Each is called with every load and unload that has ended."""
        self._clock = clock
        self._waiters: set[asyncio.Event] = set()
        self.is_stopping = False
        """All engines are about to end, see `close`."""
        self._changed = asyncio.Event()
        self._load_orders = dict.fromkeys(preload[:1], clock())
        self._unload_orders: set[str] = set()
        self._preload = list(preload[1:])
        self._not_before: dict[str, float] = {}
        self._running: dict[str, _Running] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def notify(self) -> None:
        """Something has changed: plan anew."""
        self._changed.set()
        for waiter in self._waiters:
            waiter.set()

    async def turn(self, name: str) -> None:
        """Wait until nothing else is loaded, unloaded or started on the devices of this model: then
        the engine of it may be started that has died."""

        def are_devices_free() -> bool:
            views = [handle.view for handle in self._handles()]
            devices = {device for view in views if view.name == name for device in view.devices}
            return not any(
                (view.is_starting or view.name in self._running)
                and not devices.isdisjoint(view.devices)
                for view in views
                if view.name != name
            )

        await self.until(are_devices_free)

    async def until_gone(self, name: str) -> None:
        """Wait until this model is unloaded, and nothing is done to it."""

        def is_gone() -> bool:
            holds_memory = (each.view.holds_memory for each in self._named(name))
            return name not in self._running and not any(holds_memory)

        await self.until(is_gone)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for it; it is looked at again whenever a model or an order changes."""
        changed = asyncio.Event()
        self._waiters.add(changed)
        try:
            while not is_so():
                changed.clear()
                await changed.wait()
        finally:
            self._waiters.discard(changed)

    def _named(self, name: str) -> Iterator[ModelHandle]:
        return (handle for handle in self._handles() if handle.view.name == name)

    def order_load(self, name: str) -> None:
        """Load it as if a request waited for it, also where it has failed."""
        self._unload_orders.discard(name)
        self._load_orders.setdefault(name, self._clock())
        for handle in self._named(name):
            handle.fetch_again()
        self.notify()

    def order_unload(self, name: str) -> None:
        """End its engine once its running requests are over, also where it could sleep, or does: a
        new request loads it again."""
        self.forget_orders(name)
        self._unload_orders.add(name)
        self.notify()

    def preload(self, name: str) -> None:
        """Load it while nothing has to give way for it, as what there was at the start."""
        self._preload.append(name)
        self.notify()

    def forget_failure(self, name: str) -> None:
        """What made its last load fail has changed: the next one may begin at once."""
        self._not_before.pop(name, None)

    def forget_orders(self, name: str) -> None:
        """Only a request or a pin loads this model from now on."""
        self._load_orders.pop(name, None)
        self._unload_orders.discard(name)
        self._preload = [each for each in self._preload if each != name]

    def transition(self, name: str) -> Step | None:
        """What is being done to this model now."""
        running = self._running.get(name)
        return None if running is None else running.step

    def is_ordered(self, name: str) -> bool:
        """Its load is due, whoever asks for it."""
        return name in self._load_orders

    def is_coming(self, name: str) -> bool:
        """Its load is under way, or is due whoever asks for it."""
        running = self._running.get(name)
        if name in self._load_orders or (running and running.state is ModelState.LOADING):
            return True
        if name not in self._preload:
            return False
        views = self.views()
        view = next(view for view in views if view.name == name)
        return has_room(view, views, self._budget())

    def obstacle(self, name: str) -> str | None:
        """Why this model can never be loaded, however long a request waits; None where it can."""
        views = self.views()
        view = next(view for view in views if view.name == name)
        return None if view.is_loaded else obstacle(view, views, self._budget())

    def views(self) -> list[ModelView]:
        """All models; a transition shows from the moment on in which it was decided."""
        views = []
        for handle in self._handles():
            view = handle.view
            if (running := self._running.get(view.name)) is not None:
                view = replace(view, state=running.state, since=running.since)
            views.append(view)
        return views

    async def run(self) -> None:
        """Take one step after the other, until cancelled."""
        while True:
            try:
                self._changed.clear()
                views, now = self.views(), self._clock()
                self._settle(views)
                orders = Orders(
                    self._load_orders, self._unload_orders, self._preload, self._not_before
                )
                plan = next_step(views, self._budget(), now, orders)
                for handle in self._handles():
                    handle.notify_unused(wanted=plan.awaits_unused)
                if plan.step is not None:
                    self._take(plan.step)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(plan.look_again and plan.look_again - now):
                        await self._changed.wait()
            except Exception:  # without it nothing would be loaded any more
                _log.exception("the scheduler failed; it goes on")
                await asyncio.sleep(_AFTER_FAULT_SECONDS)

    def close(self) -> None:
        """All engines are about to end: what is under way ends with them, and is no failure."""
        self.is_stopping = True

    async def stop(self) -> None:
        """End all engines, also those that load; returns when they are gone. `run` takes no more
        steps by then."""
        self.close()
        loads = [
            self._tasks[name]
            for name, running in self._running.items()
            if running.state is ModelState.LOADING
        ]
        await asyncio.gather(*(handle.unload() for handle in self._handles()), *loads)

    def _settle(self, views: Sequence[ModelView]) -> None:
        """Forget orders that are done, and refuse requests that wait in vain."""
        budget = self._budget()
        for handle, view in zip(self._handles(), views, strict=True):
            ordered_at = self._load_orders.get(view.name, view.since)
            has_failed = view.state is ModelState.FAILED and ordered_at < view.since
            if (view.state is ModelState.READY and not view.is_leaving) or has_failed:
                self._load_orders.pop(view.name, None)
            elif view.state in (ModelState.UNLOADED, ModelState.FAILED):
                self._unload_orders.discard(view.name)
            # A model that was pinned, or measured, since they came may leave no room for theirs.
            if view.waiting and not view.is_loaded and obstacle(view, views, budget):
                handle.refuse_waiting()

    def _take(self, step: Step) -> None:
        name = step.model.name
        handle = next(self._named(name))
        match step.action:
            case Action.CLOSE:
                handle.close()
            case Action.REOPEN:
                handle.reopen()
            case Action.LOAD:
                handle.reopen()
                self._preload = [each for each in self._preload if each != name]
                running = _Running(step, ModelState.LOADING, self._clock())
                self._tasks[name] = spawn(self._load(handle, running), name=f"load {name}")
                self._running[name] = running
            case Action.SLEEP | Action.UNLOAD:
                handle.close()
                if step.model.is_failing:  # its turn comes again after that of the others
                    self._not_before[name] = self._clock() + RETRY_SECONDS
                running = _Running(step, ModelState.UNLOADING, self._clock())
                unload = self._unload(handle, running, self._tasks.get(name))
                self._tasks[name] = spawn(unload, name=f"unload {name}")
                self._running[name] = running
        if step.action in (Action.CLOSE, Action.REOPEN):
            how = "takes nothing new" if step.action is Action.CLOSE else "takes requests again"
            _log.info("%s: %s (%s)", _called(step.model), how, _why(step))

    async def _load(self, handle: ModelHandle, running: _Running) -> None:
        name = running.step.model.name
        outcome = Outcome.FAILED
        try:
            if not self.is_stopping and await handle.load():
                outcome = Outcome.OK
        except Exception:
            _log.exception("%s: the sidecar failed to load it", name)
        if self._running[name] is not running:
            self._report(running, Outcome.ABANDONED)
            return
        if outcome is Outcome.FAILED and self.is_stopping:
            outcome = Outcome.ABANDONED
        self._load_orders.pop(name, None)
        self._not_before.pop(name, None)
        if outcome is Outcome.FAILED:
            self._not_before[name] = self._clock() + RETRY_SECONDS
        self._end(running, outcome)

    async def _unload(
        self, handle: ModelHandle, running: _Running, load: asyncio.Task[None] | None
    ) -> None:
        """`load` is the load that this ends, if it is one."""
        outcome = Outcome.OK
        try:
            if running.step.action is Action.UNLOAD:
                await handle.unload()
            elif not await handle.sleep():
                outcome = Outcome.ABANDONED if self.is_stopping else Outcome.FAILED
            if load is not None:
                await load
        except Exception:
            _log.exception("%s: the sidecar failed to unload it", running.step.model.name)
            outcome = Outcome.FAILED
            # What is left of it is not known. Its devices stay as they are for a while.
            await asyncio.sleep(RETRY_SECONDS)
        self._end(running, outcome)

    def _end(self, running: _Running, outcome: Outcome) -> None:
        name = running.step.model.name
        del self._running[name], self._tasks[name]
        self._report(running, outcome)
        self.notify()

    def _report(self, running: _Running, outcome: Outcome) -> None:
        transition = Transition(running.step, outcome, self._clock() - running.since)
        step, seconds = running.step, transition.seconds
        fields = {
            "action": step.action,
            "reason": step.reason,
            "outcome": outcome,
            "seconds": round(seconds, 2),
        }
        level = logging.WARNING if outcome is Outcome.FAILED else logging.INFO
        if step.model.name:
            fields["model"] = step.model.name
        elif step.reason is Reason.ORDERED:  # the start of a single model: its engine says it all
            level = logging.DEBUG
        is_wake = step.action is Action.LOAD and step.model.state is ModelState.ASLEEP
        how = (_HOW_OF_A_WAKE if is_wake else _HOW)[step.action, outcome]
        text = f"{_called(step.model)}: {how} after {seconds:.1f} s ({_why(step)})"
        _log.log(level, text, extra={"fields": fields})
        for observe in self.observers:
            try:
                observe(transition)
            except Exception:
                _log.exception("an observer of loads and unloads failed")


_HOW = {
    (Action.LOAD, Outcome.OK): "loaded",
    (Action.LOAD, Outcome.FAILED): "not loaded, its engine failed",
    (Action.LOAD, Outcome.ABANDONED): "its load was called off",
    (Action.SLEEP, Outcome.OK): "asleep",
    (Action.SLEEP, Outcome.FAILED): "unloaded, as it does not sleep,",
    (Action.SLEEP, Outcome.ABANDONED): "its sleep was called off",
    (Action.UNLOAD, Outcome.OK): "unloaded",
    (Action.UNLOAD, Outcome.FAILED): "not unloaded, the sidecar failed",
}
_HOW_OF_A_WAKE = {
    (Action.LOAD, Outcome.OK): "woken",
    (Action.LOAD, Outcome.FAILED): "not woken, its engine failed",
    (Action.LOAD, Outcome.ABANDONED): "its wake was called off",
}
_WHY = {
    Reason.REQUESTED: "a request waits for it",
    Reason.ORDERED: "it was ordered",
    Reason.PINNED: "it is pinned",
    Reason.PRELOAD: "there is room for it",
    Reason.IDLE: "nobody has asked for it",
    Reason.MAKE_ROOM: "it gives way to {0}",
    Reason.ROOM_NOT_NEEDED: "no other needs its place any more",
    Reason.ABANDONED: "it gives way to {0}",
}


def _called(model: ModelView) -> str:
    """Its name; the model of a set of one has none."""
    return model.name or "the model"


def _why(step: Step) -> str:
    return _WHY[step.reason].format(step.in_favor_of)
