"""Where the engine stands: one task writes it, everybody else reads snapshots."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from types import MappingProxyType
from typing import Any

from proxy.engine.phase import ENDS, START_PHASES, TRANSITIONS, Phase
from proxy.errors import MAX_HEEDED_SECONDS, Cause, EngineFailed, EngineUnavailable

_log = logging.getLogger("proxy.engine")

# `Retry-After` where nothing better is known, seconds. Most clients try twice more, so two such
# waits are longer than the start of a small model.
_RETRY_AFTER = {
    Phase.DOWNLOADING: 30,
    Phase.WARMING: 10,
    Phase.DRAINING: 10,
    Phase.STOPPED: 10,
    Phase.ASLEEP: 10,
    Phase.WAKING: 10,
}
_DEFAULT_RETRY_AFTER = 25
# A start is never as long as the one before, and how much longer it may be does not shrink while it
# lasts: the margin is a share of the whole start, so that the first retry finds it over.
_MARGIN = 0.2
_MARGIN_SECONDS = 2.0
# In these a whole start lies ahead: the engine is gone or will probably be, or was not started yet.
_BEFORE_A_START = (Phase.READY, Phase.DEGRADED, Phase.CHECKING, Phase.STOPPED)

_LEVELS = {
    Phase.FAILED: logging.ERROR,
    Phase.DEGRADED: logging.WARNING,
    Phase.RESTARTING: logging.WARNING,
}
# What is said of one phase does not hold for the next.
_OF_A_PHASE = dict.fromkeys(
    ("progress", "eta_seconds", "bytes_per_second", "reason", "remedy", "cause")
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engine at one moment. Times are seconds; `progress` is 0..1 of the current phase.

    `phase_seconds` are of this start, `last_phase_seconds` of the one before it, and
    `expected_seconds` of the newest one that became ready, in this process or an earlier one.
    `eta_seconds` is of the phase alone, as it was when it was written.
    """

    phase: Phase = Phase.CHECKING
    since: float = field(default_factory=monotonic)
    progress: float | None = None
    eta_seconds: float | None = None
    reason: str | None = None
    remedy: str | None = None
    cause: Cause | None = None
    restarts: int = 0
    last_restart_cause: Cause | None = None
    phase_seconds: Mapping[Phase, float] = field(default_factory=lambda: MappingProxyType({}))
    last_phase_seconds: Mapping[Phase, float] | None = None
    expected_seconds: Mapping[Phase, float] = field(default_factory=lambda: MappingProxyType({}))
    served_names: tuple[str, ...] = ()
    demo: bool = False
    model_path: str | None = None
    revision: str | None = None
    arguments: tuple[str, ...] = ()
    downloaded_bytes: int | None = None
    download_bytes: int | None = None
    bytes_per_second: float | None = None

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY

    @property
    def model_loaded(self) -> bool:
        return self.phase in (Phase.WARMING, Phase.READY, Phase.DEGRADED)

    @property
    def start_seconds(self) -> float:
        """How long this start took the engine process, as far as it got."""
        return sum(self.phase_seconds.get(phase, 0.0) for phase in START_PHASES)

    @property
    def expected_start_seconds(self) -> float:
        """How long the newest start that became ready took; 0 where none is known."""
        return sum(self.expected_seconds.values())

    @property
    def wake_seconds(self) -> float | None:
        """How long the newest wake of this process took; None where there was none."""
        return None if self.phase is Phase.WAKING else self.phase_seconds.get(Phase.WAKING)

    @property
    def seconds_left(self) -> float | None:
        """Until ready, from now; None where nothing is known, or the start is overdue."""
        elapsed, expected = monotonic() - self.since, self.expected_seconds
        left: float | None = None
        if self.phase is Phase.DOWNLOADING and self.eta_seconds is not None:
            left = self.eta_seconds + self.expected_start_seconds
        elif self.phase in START_PHASES and self.phase in expected:
            later = START_PHASES[START_PHASES.index(self.phase) + 1 :]
            rest = sum(expected.get(phase, 0.0) for phase in later)
            left = max(0.0, expected[self.phase] - elapsed) + rest
        elif self.eta_seconds is not None:
            left = self.eta_seconds - elapsed
        return left if left is not None and left > 0 else None


Listener = Callable[[Snapshot, Snapshot], None]


class EngineState:
    """Holds the newest snapshot; listeners get (before, after) on every change."""

    def __init__(self, model: str | None = None) -> None:
        """`model` is a tag of each log line; None where there is only one."""
        self.model = model
        self.snapshot = Snapshot()
        self._listeners: list[Listener] = []
        self._settled = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def ignore(self, listener: Listener) -> None:
        """Undo `listen`."""
        self._listeners.remove(listener)

    @property
    def is_settled(self) -> bool:
        """The engine is ready, or cannot be started any more."""
        return self._settled.is_set()

    async def wait_until_settled(self) -> None:
        """Returns when the engine is ready, or cannot be started any more."""
        await self._settled.wait()

    def enter(self, phase: Phase, **changes: Any) -> None:
        """Go to a phase: one log line with the reason and the seconds of the phase left."""
        before, now = self.snapshot, monotonic()
        seconds = now - before.since
        spent = MappingProxyType({**before.phase_seconds, before.phase: seconds})
        changes = {**_OF_A_PHASE, **changes}
        if phase not in TRANSITIONS[before.phase]:
            _log.error("undeclared transition: %s -> %s", before.phase, phase)
        if phase is Phase.READY and before.phase is Phase.WARMING:
            changes["expected_seconds"] = MappingProxyType(
                {each: spent[each] for each in START_PHASES if each in spent}
            )
        if before.phase in (Phase.RESTARTING, *ENDS):  # another start begins
            changes["last_phase_seconds"] = before.phase_seconds
            spent = MappingProxyType({before.phase: seconds})
        self._replace(changes, phase, now, spent)
        after = self.snapshot
        level = _LEVELS.get(phase, logging.INFO)
        why = f": {after.reason}" if after.reason else ""
        remedy = f" {after.remedy}" if after.remedy else ""
        text = f"{before.phase} -> {phase} after {seconds:.1f} s{why}{remedy}"
        fields = {"phase": phase, "phase_before": before.phase, "seconds": round(seconds, 2)}
        if after.cause:
            fields["cause"] = after.cause
        if self.model is not None:
            fields["model"] = self.model
            text = f"{self.model}: {text}"
        _log.log(level, text, extra={"fields": fields})

    def update(self, **changes: Any) -> None:
        """Change what is known of the current phase."""
        before = self.snapshot
        self._replace(changes, before.phase, before.since, before.phase_seconds)

    def refusal(self) -> EngineUnavailable | None:
        """None where the engine takes requests; else why not, and when to ask again."""
        now = self.snapshot
        if now.ready:
            return None
        match now.phase:
            case Phase.FAILED:
                text = f"The engine cannot start: {now.reason}"
            case Phase.RESTARTING | Phase.DEGRADED:
                text = f"The engine is {now.phase}: {now.reason}"
            case Phase.DRAINING:
                text = "This server is shutting down."
            case Phase.STOPPED:
                text = "The model is not loaded."
            case Phase.ASLEEP:
                text = "The model is asleep."
            case _:
                percent = f" ({now.progress:.0%})" if now.progress is not None else ""
                text = f"The engine is starting, phase {now.phase}{percent}."
        kind = EngineFailed if now.phase is Phase.FAILED else EngineUnavailable
        return kind(f"{text} See GET /health.", retry_after_seconds=self.retry_after())

    def retry_after(self) -> int | None:
        """In how many seconds a request may be sent again that the engine cannot take now; None
        where waiting is of no use.

        Where a start is known to be that short, it is over by then.
        """
        now = self.snapshot
        if now.phase is Phase.FAILED:
            return None
        left, whole = now.seconds_left, now.expected_start_seconds
        if left is None and now.phase in _BEFORE_A_START:
            left = whole
        margin = max(left or 0.0, whole) * _MARGIN + _MARGIN_SECONDS
        wait = left + margin if left else _RETRY_AFTER.get(now.phase, _DEFAULT_RETRY_AFTER)
        return min(math.ceil(max(wait, margin)), MAX_HEEDED_SECONDS)

    def _replace(
        self, changes: dict[str, Any], phase: Phase, since: float, spent: Mapping[Phase, float]
    ) -> None:
        before = self.snapshot
        after = replace(before, phase=phase, since=since, phase_seconds=spent, **changes)
        self.snapshot = after
        if after.ready or phase is Phase.FAILED:
            self._settled.set()
        else:
            self._settled.clear()
        for listener in self._listeners:
            listener(before, after)
