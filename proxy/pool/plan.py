"""Which model is loaded or unloaded next. Pure: no clock, no I/O.

Requests for a loaded model are served at once. Requests for any other model wait for its load, and
two bounds hold at once:

* Residency: a loaded model keeps its place for at least as long as its load takes, so clients that
  alternate between models do not make the machine spend its time loading.
* Waiting: a model that requests wait for is passed over for busy models for at most
  `Budget.max_wait_seconds`. Then it is overdue: once the residency of the models in its way is
  over, they take nothing new, finish what runs, and give way. Until it is loaded, no model that
  has waited for a shorter time is loaded onto its devices.

A model never gives way while it is busy, pinned, or more than half loaded. One whose engine fails
to start, again and again, gives way to any other that is waited for. One that may sleep sleeps
where that makes room enough; what it holds in its sleep counts, and it ends where that is in the
way of another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from proxy.machine.memory import MACHINE

_GIB = 1024**3


class ModelState(StrEnum):
    """Where one model stands, as `/v1/models` shows it."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    ASLEEP = "asleep"
    FAILED = "failed"


_IN_TRANSITION = (ModelState.LOADING, ModelState.UNLOADING)
_CAN_LOAD = (ModelState.UNLOADED, ModelState.ASLEEP)


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model at one moment. Times are monotonic seconds.

    A request is counted in `waiting` until the moment in which it is counted in `in_flight`.
    """

    name: str
    state: ModelState
    since: float
    gpus: tuple[int, ...] = ()
    """NVML indices; empty on a CPU."""
    memory_bytes: int | None = None
    """Measured, on each of its GPUs. None: never measured."""
    load_seconds: float = 0.0
    """Expected; measured where there was a load."""
    pinned: bool = False
    is_closing: bool = False
    """It takes nothing new and finishes what runs; then it is unloaded."""
    in_flight: int = 0
    waiting: int = 0
    """Requests that wait for it to be loaded."""
    oldest_wait_since: float | None = None
    """When the oldest of them came. No plan changes it."""
    last_used: float = 0.0
    idle_unload_seconds: float = 0.0
    """0: never unloaded for being idle."""
    is_here: bool = True
    """Its files are on this machine: no load waits for a download."""
    is_starting: bool = False
    """A process of its engine starts now. One that has died and awaits its next start is `LOADING`,
    and not this."""
    is_leaving: bool = False
    """Its engine ends for good once its requests are over, and it is not loaded meanwhile."""
    is_failing: bool = False
    """The newest start of its engine has failed, and the next one is due or under way."""
    may_sleep: bool = False
    """Its engine can give its memory back without ending."""
    asleep_bytes: int = 0
    """What it holds while it sleeps, of each of its devices."""

    @property
    def devices(self) -> tuple[int, ...]:
        return self.gpus or (MACHINE,)

    @property
    def is_loaded(self) -> bool:
        return self.state in (ModelState.READY, *_IN_TRANSITION)

    @property
    def holds_memory(self) -> bool:
        return self.is_loaded or self.state is ModelState.ASLEEP

    @property
    def taken_bytes(self) -> int | None:
        """Of each of its devices where it is loaded or asleep; None: not known."""
        return self.asleep_bytes if self.state is ModelState.ASLEEP else self.memory_bytes

    @property
    def is_busy(self) -> bool:
        """Released requests count from the first: they are in flight a moment later."""
        return self.in_flight > 0 or (self.waiting > 0 and not self.is_closing)

    @property
    def residency_ends(self) -> float:
        return self.since + self.load_seconds

    @property
    def idle_since(self) -> float:
        return max(self.since, self.last_used)

    @property
    def idle_ends(self) -> float | None:
        """When it is unloaded for want of requests; None: it is not loaded, or stays."""
        if self.state is not ModelState.READY or self.idle_unload_seconds <= 0:
            return None
        return self.idle_since + self.idle_unload_seconds

    def is_idle(self, now: float) -> bool:
        """Whether it is to be unloaded for want of requests."""
        stays = self.pinned or self.is_busy or self.is_closing
        return self.idle_ends is not None and now >= self.idle_ends and not stays

    def worth_keeping(self, now: float) -> tuple[bool, bool, bool, float]:
        """The order of giving way: least recently used first, weighed by the time to load it
        again."""
        weighed = (now - self.idle_since) / max(self.load_seconds, 1.0)
        return (not self.is_failing, not self.is_closing, self.is_busy, -weighed)


@dataclass(frozen=True, slots=True)
class Budget:
    """What all models together may take."""

    memory_bytes: Mapping[int, int] | None = field(default_factory=dict)
    """By device, as of the last look at it. On a device that is missing, a model must be alone.
    None: all of them fit."""
    capacity_bytes: Mapping[int, int] = field(default_factory=dict)
    """By device, whatever others than the models hold of it: they may give that back."""
    max_loaded: int | None = None
    max_wait_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Orders:
    """What is wanted beside what requests ask for; all by the names of models."""

    load: Mapping[str, float] = field(default_factory=dict)
    """When each was ordered. An order counts as a request that waits since then."""
    unload: Collection[str] = ()
    preload: Sequence[str] = ()
    """To be loaded, in this order, while nothing has to give way for it."""
    not_before: Mapping[str, float] = field(default_factory=dict)
    """When a model may be loaded again whose last load failed."""


class Action(StrEnum):
    LOAD = "load"
    """Or wake."""
    SLEEP = "sleep"
    UNLOAD = "unload"
    CLOSE = "close"
    REOPEN = "reopen"


class Reason(StrEnum):
    """Why a step is taken; a closed set, for logs and metrics."""

    REQUESTED = "requested"
    ORDERED = "ordered"
    PINNED = "pinned"
    PRELOAD = "preload"
    IDLE = "idle"
    MAKE_ROOM = "make_room"
    """Another model needs the place."""
    ROOM_NOT_NEEDED = "room_not_needed"
    """The requests that wanted the place have left."""
    ABANDONED = "abandoned"
    """Another model needs the place, and no request waits for this load any more."""


@dataclass(frozen=True, slots=True)
class Step:
    action: Action
    model: ModelView
    reason: Reason
    in_favor_of: str | None = None
    """The model that gets the place."""


@dataclass(frozen=True, slots=True)
class Plan:
    step: Step | None
    look_again: float | None
    """Without a step: when time alone may bring one. None: only when something changes."""
    awaits_unused: bool
    """Whether the end of a model's last request may bring a step, or another moment to look."""


_NO_ORDERS = Orders()


def next_step(
    models: Sequence[ModelView], budget: Budget, now: float, orders: Orders = _NO_ORDERS
) -> Plan:
    """The step that is due now. Where there is one, plan again after it was taken."""
    wishes = [
        wish
        for model in models
        if (wish := _wish(model, now, orders)) and obstacle(model, models, budget) is None
    ]
    wishes.sort(key=lambda wish: (wish.since, wish.model.name))  # the oldest first
    step = next(_due_steps(models, budget, now, orders, wishes), None)
    # When time alone changes which steps are due.
    moments = [*orders.not_before.values()]
    moments += (wish.since + budget.max_wait_seconds for wish in wishes)
    for model in models:
        if model.state is ModelState.READY:
            moments.append(model.residency_ends)
            if model.idle_ends is not None:
                moments.append(model.idle_ends)
    look_again = min((at for at in moments if at > now), default=None)
    awaits_unused = bool(wishes or orders.unload) or any(
        model.is_closing or model.idle_unload_seconds for model in models
    )
    return Plan(step, None if step else look_again, awaits_unused)


def has_room(model: ModelView, models: Iterable[ModelView], budget: Budget) -> bool:
    """Whether it can be loaded without another one's giving way."""
    return _fits(model, _others_there(model, models), budget)


def obstacle(model: ModelView, models: Iterable[ModelView], budget: Budget) -> str | None:
    """Why this model can never be loaded, however long its requests wait; None where it can."""
    staying = [each for each in models if each.pinned and each.name != model.name]
    # One that was never measured may turn out to take little.
    staying = [
        replace(each, memory_bytes=each.memory_bytes or 0, state=ModelState.READY)
        for each in staying
        if each.state is not ModelState.FAILED
    ]
    if _fits(model, staying, budget):
        return None
    beside = f" beside {', '.join(each.name for each in staying)} (pinned)" if staying else ""
    needs = "is to be loaded"
    if model.memory_bytes is not None:
        needs = f"takes {model.memory_bytes / _GIB:.1f} GiB"
    return f"{model.name or 'the model'} {needs}, but does not fit{beside}"


@dataclass(frozen=True, slots=True)
class _Wish:
    """A model that is to be loaded."""

    since: float
    model: ModelView
    reason: Reason


def _wish(model: ModelView, now: float, orders: Orders) -> _Wish | None:
    if model.is_leaving:
        return None
    wishes = []
    can_load = model.state in _CAN_LOAD and model.is_here
    is_tried_again = model.state is ModelState.FAILED and model.is_here
    ordered_at = orders.load.get(model.name)
    if ordered_at is not None and (can_load or is_tried_again):
        wishes.append(_Wish(ordered_at, model, Reason.ORDERED))
    if can_load and now >= orders.not_before.get(model.name, now):
        if model.waiting and model.oldest_wait_since is not None:
            wishes.append(_Wish(model.oldest_wait_since, model, Reason.REQUESTED))
        if model.pinned:
            wishes.append(_Wish(model.since, model, Reason.PINNED))
    return min(wishes, key=lambda wish: wish.since, default=None)


def _due_steps(
    models: Sequence[ModelView],
    budget: Budget,
    now: float,
    orders: Orders,
    wishes: Sequence[_Wish],
) -> Iterator[Step]:
    """What is due, the most urgent first. Only the first is taken: the others are planned anew."""
    for model in models:
        if model.is_leaving or model.name in orders.unload:
            yield from _removal(model, models, Reason.ORDERED)
        elif model.is_idle(now):
            yield from _removal(model, models, Reason.IDLE, sleeps=model.may_sleep)
    kept_free: set[int] = set()
    giving_way = {*orders.unload, *(model.name for model in models if model.is_leaving)}
    for wish in wishes:
        model = wish.model
        if not kept_free.isdisjoint(_contested(model, models, budget)):
            continue
        if _can_load_now(model, models, budget):
            yield Step(Action.LOAD, model, wish.reason)
        is_overdue = now >= wish.since + budget.max_wait_seconds
        victims = _victims(model, models, budget, now, orders, busy_too=is_overdue)
        if is_overdue:
            kept_free.update(_contested(model, models, budget))
            giving_way.update(each.model.name for each in victims)
        for victim in victims:
            is_loading = victim.model.state is ModelState.LOADING
            reason = Reason.ABANDONED if is_loading else Reason.MAKE_ROOM
            yield from _removal(
                victim.model, models, reason, in_favor_of=model.name, sleeps=victim.sleeps
            )
    for model in models:
        if model.is_closing and model.state is ModelState.READY and model.name not in giving_way:
            yield Step(Action.REOPEN, model, Reason.ROOM_NOT_NEEDED)
    if not wishes:
        by_name = {model.name: model for model in models}
        for model in (by_name[name] for name in orders.preload if name in by_name):
            is_unloaded = model.state is ModelState.UNLOADED and model.is_here
            if is_unloaded and not model.is_leaving and _can_load_now(model, models, budget):
                yield Step(Action.LOAD, model, Reason.PRELOAD)


def _removal(
    model: ModelView,
    models: Iterable[ModelView],
    reason: Reason,
    in_favor_of: str | None = None,
    *,
    sleeps: bool = False,
) -> Iterator[Step]:
    """The next step on the way to its end or its sleep, if one can be taken now."""
    if model.state is ModelState.READY and model.is_busy:
        if not model.is_closing:
            yield Step(Action.CLOSE, model, reason, in_favor_of)
    elif model.state is ModelState.LOADING or (
        model.state in (ModelState.READY, ModelState.ASLEEP) and _is_its_turn(model, models)
    ):
        yield Step(Action.SLEEP if sleeps else Action.UNLOAD, model, reason, in_favor_of)


def _is_its_turn(model: ModelView, models: Iterable[ModelView]) -> bool:
    """Each device has one transition at a time: engines that start or end beside one another
    mistake each other's memory for their own."""
    return not any(
        each.state in _IN_TRANSITION and not set(each.devices).isdisjoint(model.devices)
        for each in models
        if each.name != model.name
    )


def _can_load_now(model: ModelView, models: Sequence[ModelView], budget: Budget) -> bool:
    return _is_its_turn(model, models) and has_room(model, models, budget)


def _others_there(model: ModelView, models: Iterable[ModelView]) -> list[ModelView]:
    return [each for each in models if each.holds_memory and each.name != model.name]


def _fits(model: ModelView, occupants: Sequence[ModelView], budget: Budget) -> bool:
    """Whether there is room for it beside these.

    A model that was never measured starts alone on its devices, but for pinned models: they would
    keep it out for ever. One that would be alone is tried whatever others hold of its devices: they
    may have given it back, and where they have not its engine says so.
    """
    loaded = sum(each.state is not ModelState.ASLEEP for each in occupants)
    if budget.max_loaded is not None and loaded >= budget.max_loaded:
        return False
    if budget.memory_bytes is None:
        return True
    for device in model.devices:
        beside = [each for each in occupants if device in each.devices]
        taken = [each.taken_bytes for each in beside]
        room = (budget.memory_bytes if beside else budget.capacity_bytes).get(device)
        if beside and (room is None or None in taken):
            return False
        if model.memory_bytes is None and not all(each.pinned for each in beside):
            return False
        needed = sum(each or 0 for each in taken) + (model.memory_bytes or 0)
        if room is not None and needed > room:
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Victim:
    """A model that has to give way: it sleeps, or ends."""

    model: ModelView
    sleeps: bool


def _victims(
    model: ModelView,
    models: Sequence[ModelView],
    budget: Budget,
    now: float,
    orders: Orders,
    *,
    busy_too: bool,
) -> list[_Victim]:
    """Those that have to give way for it; empty where there are not enough that may."""
    # What is being unloaded has given way already.
    there = {
        each.name: each
        for each in _others_there(model, models)
        if each.state is not ModelState.UNLOADING
    }
    left = dict(there)

    def fits() -> bool:
        return _fits(model, list(left.values()), budget)

    candidates = [
        each
        for each in sorted(there.values(), key=lambda each: each.worth_keeping(now))
        if _may_give_way(each, now, orders, busy_too=busy_too)
    ]
    # First all give way as they can; then what sleeps is in the way, if it still is too much.
    awake = [each for each in candidates if each.state is not ModelState.ASLEEP]
    sleepers = [each for each in candidates if each not in awake or _sleeps(each)]
    for candidate in awake:
        if fits():
            break
        left.pop(candidate.name)
        if _sleeps(candidate):
            left[candidate.name] = replace(candidate, state=ModelState.ASLEEP)
    for candidate in sleepers:
        if fits():
            break
        left.pop(candidate.name, None)
    if not fits():
        return []
    victims = []
    for candidate in candidates:
        outcome = left.get(candidate.name)
        if outcome is candidate:
            continue
        # What its going, or its end, would not help for stays, or sleeps.
        left[candidate.name] = candidate
        if fits():
            continue
        left[candidate.name] = replace(candidate, state=ModelState.ASLEEP)
        sleeps = _sleeps(candidate) and fits()
        if not sleeps:
            left.pop(candidate.name)
        victims.append(_Victim(candidate, sleeps))
    return victims


def _sleeps(model: ModelView) -> bool:
    """Whether it would sleep, and not end, where it gives way now."""
    return model.may_sleep and model.state is ModelState.READY


def _may_give_way(model: ModelView, now: float, orders: Orders, *, busy_too: bool) -> bool:
    if model.pinned:
        return False
    if model.is_failing:  # a loop of crashes holds up no other
        return True
    if model.state is ModelState.ASLEEP:
        return busy_too or not model.waiting  # to wake it is less than to start it
    if model.state is ModelState.LOADING:
        # A client that gave up may come back, so a load goes on until another model needs the
        # place; and what is more than half done is finished.
        is_cheap = now < model.since + model.load_seconds / 2
        return is_cheap and not model.waiting and model.name not in orders.load
    if now < model.residency_ends:
        return False
    # Those who were released when it became ready are served before it gives way.
    is_admitting = model.waiting > 0 and not model.in_flight and not model.is_closing
    return not model.is_busy or (busy_too and not is_admitting)


def _contested(model: ModelView, models: Iterable[ModelView], budget: Budget) -> set[int]:
    """The devices that are kept free for it; with a limit on the number of models, all."""
    if budget.max_loaded is None:
        return set(model.devices)
    return {device for each in models for device in each.devices}
